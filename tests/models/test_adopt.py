"""Adopting: no second copy, nothing of the other program's changed, and every change told."""

import errno
import json
import os
import pickle
import stat
from pathlib import Path

import pytest

from conftest import OvertCli
from elsewhere_writer import COMMIT, hub_cache, ollama
from overt.errors import IntegrityError, ModelNotFound, UsageError
from overt.models.adopt import AdoptReport, adopt
from overt.models.pull import find
from overt.models.sources.base import sha256_of
from overt.models.store import File, Manifest, Store
from overt.ref import parse
from overt.settings import Settings, load
from servers import gguf

SIZE = len(gguf(1)) + len(b"MIT") + len(b'{"stop": ["x"]}') + len(b"{}")
TINY = "registry.ollama.ai/library/tiny/1b"


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Ollama's folder with one model."""
    layers = [("model", gguf(1)), ("license", b"MIT"), ("params", b'{"stop": ["x"]}')]
    ollama(tmp_path / "models", TINY, layers)
    return tmp_path / "models"


def _state(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything of the other program that we must not touch."""
    return {
        str(path): (facts.st_mode, facts.st_mtime_ns, facts.st_ino, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (facts := path.stat())
    }


def _adopt(settings: Settings, models: Path, **given: bool) -> AdoptReport:
    return adopt("ollama", settings, environ={"OLLAMA_MODELS": str(models)}, **given)


def _forbid_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("overt.models.store.links.os.link", refuse)


@pytest.mark.parametrize("how", ["hard link", "reference"])
def test_a_model_is_used_in_place_and_nothing_is_changed(
    settings: Settings, models: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "reference":
        _forbid_hard_links(monkeypatch)
    before = _state(models)
    looked = _adopt(settings, models)
    (one,) = looked.adopted
    assert (one.program, one.shown, str(one.name), one.how) == (
        "Ollama", "tiny:1b", "ollama:tiny:1b", how,
    )  # fmt: skip
    assert looked.skipped == ()
    model = find("ollama:tiny:1b", settings)
    assert model.weights.read_bytes() == gguf(1)
    assert model.digest == one.digest
    store = Store(settings.home)
    blob = store.blob(model.manifest.weights.digest)  # type: ignore[union-attr]
    assert blob
    theirs = models / "blobs" / model.manifest.weights.digest.replace(":", "-")  # type: ignore[union-attr]
    assert blob.samefile(theirs)
    assert blob.is_symlink() == (how == "reference")
    assert store.verify() == []
    assert _state(models) == before
    # Again: nothing new, nothing hashed, nothing changed.
    assert [a.how for a in _adopt(settings, models).adopted] == ["here already"]
    gone = store.remove(parse("ollama:tiny:1b"))
    assert (gone.bytes_freed, gone.blobs) == (0, 4)
    assert gone.bytes_left == SIZE
    assert _state(models) == before
    assert list((settings.home / "links").iterdir()) == []
    assert [p for p in (settings.home / "blobs").rglob("*") if not p.is_dir()] == []


def test_a_reference_crosses_file_systems_for_real(settings: Settings, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    import tempfile

    with tempfile.TemporaryDirectory(dir=other) as folder:
        (Path(folder) / "m.gguf").write_bytes(gguf(3))
        (one,) = adopt(folder, settings).adopted
        assert (one.how, str(one.name)) == ("reference", "m")
        assert find("m", settings).weights == Path(folder) / "m.gguf"
    with pytest.raises(IntegrityError, match=r"is missing at .*m\.gguf, where it was adopted"):
        find("m", settings)
    (problem,) = Store(settings.home).verify()
    assert (problem.code, problem.refs) == ("missing_blob", ("m",))
    assert Store(settings.home).remove(parse("m")).blobs == 1
    assert Store(settings.home).verify() == []


def test_a_dry_run_hashes_and_writes_nothing(settings: Settings, models: Path) -> None:
    looked = _adopt(settings, models, dry_run=True)
    (one,) = looked.adopted
    assert (str(one.name), one.digest, one.how) == ("ollama:tiny:1b", "", "hard link")
    assert one.size == SIZE
    assert list(settings.home.iterdir()) == []


# ---- the other program changes its files ---------------------------------------------------


def _theirs(settings: Settings, models: Path) -> Path:
    (one,) = _adopt(settings, models).adopted
    weights = Store(settings.home).get(one.name).weights
    return models / "blobs" / weights.digest.replace(":", "-")


@pytest.mark.parametrize("how", ["hard link", "reference"])
@pytest.mark.parametrize("change", ["in place", "longer", "touched", "replaced", "deleted"])
def test_what_its_owner_changes_is_told_by_load_and_verify(
    settings: Settings, models: Path, monkeypatch: pytest.MonkeyPatch, how: str, change: str
) -> None:
    if how == "reference":
        _forbid_hard_links(monkeypatch)
    theirs = _theirs(settings, models)
    body = theirs.read_bytes()
    if change == "in place":
        with theirs.open("r+b") as file:
            file.seek(100)
            file.write(b"changed")
    elif change == "longer":
        with theirs.open("ab") as file:
            file.write(b"more")
    elif change == "touched":
        os.utime(theirs, (1, 1))
    elif change == "replaced":
        theirs.unlink()
        theirs.write_bytes(body[:-1] + b"!")
    else:
        theirs.unlink()
    store = Store(settings.home)
    if how == "hard link" and change in ("replaced", "deleted"):
        # Our link keeps the bytes that were adopted.
        assert find("ollama:tiny:1b", settings).weights.read_bytes() == body
        assert store.verify() == []
        return
    what = "is missing at" if change == "deleted" else "has been written at"
    with pytest.raises(IntegrityError, match=f"{what} .*type `overt adopt ollama`"):
        find("ollama:tiny:1b", settings)
    (problem,) = store.verify()
    assert problem.code == ("missing_blob" if change == "deleted" else "changed_link")
    assert problem.refs == ("ollama:tiny:1b",)
    assert "overt adopt ollama" in problem.hint
    assert str(theirs) in problem.message
    looked = _adopt(settings, models)  # what the hint says
    if change == "touched":
        assert [one.how for one in looked.adopted] == [how]
        assert find("ollama:tiny:1b", settings).weights.read_bytes() == body
        assert store.verify() == []
    else:
        assert looked.adopted == ()
        (skipped,) = looked.skipped
        word = "not among its files" if change == "deleted" else "is damaged"
        assert word in skipped.reason


def test_a_pull_of_the_same_bytes_changes_no_mode_and_heals_a_touched_link(
    settings: Settings, models: Path
) -> None:
    """What a pull does with a blob that is there: a link on its desk, hashed, moved in again."""
    theirs = _theirs(settings, models)
    os.utime(theirs, (1, 1))
    before = _state(models)
    store = Store(settings.home)
    manifest = store.get(parse("ollama:tiny:1b"))
    desk = settings.home / "partial/desk"
    desk.mkdir(parents=True)
    blob = store.blob(manifest.weights.digest)
    assert blob
    os.link(blob, desk / "m")
    store.commit(manifest, {manifest.weights.digest: desk / "m"}, [parse("again")])
    assert _state(models) == before
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o644
    assert store.verify() == []
    assert not (desk / "m").exists()


@pytest.mark.parametrize("how", ["hard link", "reference"])
def test_a_pull_whose_blob_goes_meanwhile_takes_nothing_of_theirs(
    settings: Settings, models: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "reference":
        _forbid_hard_links(monkeypatch)
    theirs = _theirs(settings, models)
    before = _state(models)
    store = Store(settings.home)
    manifest = store.get(parse("ollama:tiny:1b"))
    one = Manifest((manifest.weights,), "pypi:one==1")
    desk = settings.home / "partial/desk"
    desk.mkdir(parents=True)
    blob = store.blob(one.weights.digest)
    assert blob
    monkeypatch.undo()
    os.link(blob, desk / "m", follow_symlinks=False)
    store.remove(parse("ollama:tiny:1b"))
    store.commit(one, {one.weights.digest: desk / "m"}, [parse("one")])
    assert _state(models) == before
    assert not store.path(one.weights).samefile(theirs)
    assert store.verify() == []


def test_a_copy_of_our_own_takes_the_place_of_a_link(settings: Settings, models: Path) -> None:
    theirs = _theirs(settings, models)
    before = _state(models)
    store = Store(settings.home)
    manifest = store.get(parse("ollama:tiny:1b"))
    own = settings.home / "partial/own"
    own.write_bytes(gguf(1))
    store.commit(manifest, {manifest.weights.digest: own}, [parse("again")])
    blob = store.path(manifest.weights)
    assert not blob.samefile(theirs)
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert store.link(manifest.weights.digest) is None
    theirs.write_bytes(b"gone")
    assert find("again", settings).weights.read_bytes() == gguf(1)
    assert _state(models).keys() == before.keys()


def test_a_link_nobody_noted_is_refused(settings: Settings, models: Path, tmp_path: Path) -> None:
    _theirs(settings, models)
    store = Store(settings.home)
    weights = store.get(parse("ollama:tiny:1b")).weights
    blob = store.blob(weights.digest)
    assert blob
    blob.unlink()
    blob.symlink_to(tmp_path / "models/blobs" / weights.digest.replace(":", "-"))
    (note,) = [p for p in (settings.home / "links").iterdir() if p.name[:64] == blob.name]
    for damage in (b"{", b"[]", b'{"path": 1, "size": 1, "mtime_ns": 1, "owner": "x"}', None):
        note.write_bytes(damage) if damage else note.unlink()
        with pytest.raises(IntegrityError, match="a link that Overt did not make"):
            find("ollama:tiny:1b", settings)
        assert [problem.code for problem in store.verify()] == ["stray"]


# ---- several programs, names ---------------------------------------------------------------


def test_what_is_refused_is_named_and_the_rest_goes_on(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"no model" * 100)
    (tmp_path / "b.gguf").write_bytes(gguf(2))
    (tmp_path / "c.gguf").write_bytes(pickle.dumps({"a": os.getcwd}))
    (tmp_path / "d.pt").write_bytes(b"x")
    looked = adopt(str(tmp_path), settings)
    assert [str(one.name) for one in looked.adopted] == ["b"]
    reasons = {one.shown: one.reason for one in looked.skipped}
    assert "begins with b'no m'" in reasons["a.gguf"]
    assert "pickle" in reasons["c.gguf"]
    assert "pickle" in reasons["d.pt"]
    assert Store(settings.home).verify() == []


def test_a_file_whose_name_no_manifest_can_hold_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    for number, name in enumerate((b"a\xff.gguf", b"b\n.gguf", b"c\\.gguf")):
        (tmp_path / os.fsdecode(name)).write_bytes(gguf(number))
    looked = adopt(str(tmp_path), settings)
    assert looked.adopted == ()
    assert len(looked.skipped) == 3
    assert Store(settings.home).names() == []


def test_a_cached_file_that_is_not_what_its_etag_states_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    snapshot = hub_cache(tmp_path, "org/t", {"m.gguf": gguf(1), "README.md": b"card"})
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    (snapshot / "README.md").resolve().write_bytes(b"Card")
    (skipped,) = adopt("huggingface", settings, environ=environ).skipped
    assert "README.md is damaged" in skipped.reason
    (snapshot / "README.md").resolve().write_bytes(b"card")
    (one,) = adopt("huggingface", settings, environ=environ).adopted
    assert str(one.name) == "hf:org/t#m.gguf"
    assert find(f"hf:org/t@{COMMIT}#m.gguf", settings).digest == one.digest


def test_a_name_that_is_taken_is_not_taken_away(settings: Settings, tmp_path: Path) -> None:
    for folder, number in (("x", 1), ("y", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.gguf").write_bytes(gguf(number))
    (tmp_path / "smollm2.gguf").write_bytes(gguf(3))  # the catalogue's name for another model
    for _ in range(2):
        names = {one.shown: one.name for one in adopt(str(tmp_path), settings).adopted}
        assert str(names["x/m.gguf"]) == "m"
        for file, number in (("y/m.gguf", 2), ("smollm2.gguf", 3)):
            assert names[file].tag
            assert find(str(names[file]), settings).weights.read_bytes() == gguf(number)
    with pytest.raises(ModelNotFound):
        find("smollm2", settings)


def test_what_was_pulled_under_the_same_name_stays(settings: Settings, models: Path) -> None:
    store = Store(settings.home)
    for seed, reason in ((1, ""), (2, "is another model here, which was pulled")):
        body = gguf(seed)
        own = settings.home / "own"
        own.write_bytes(body)
        file = File("weights", "model.gguf", f"sha256:{sha256_of(own)}", len(body))
        pulled = Manifest((file,), "ollama:tiny:1b", {"source": "ollama", "registry": "r"})
        store.commit(pulled, {file.digest: own}, [parse("ollama:tiny:1b")])
        looked = _adopt(settings, models)
        assert [one.how for one in looked.adopted] == ([] if reason else ["here already"])
        assert [reason in one.reason for one in looked.skipped] == ([True] if reason else [])
        assert store.get(parse("ollama:tiny:1b")) == pulled
    store.remove(parse("ollama:tiny:1b"))
    assert [one.how for one in _adopt(settings, models).adopted] == ["hard link"]
    # What was adopted follows its program to a new version.
    ollama(models, TINY, [("model", gguf(5))])
    (one,) = _adopt(settings, models).adopted
    assert find("ollama:tiny:1b", settings).weights.read_bytes() == gguf(5)
    assert find("ollama:tiny:1b", settings).digest == one.digest


def test_all_programs_at_once_and_unknown_ones(
    settings: Settings, tmp_path: Path, models: Path
) -> None:
    hub_cache(tmp_path / "hub", "org/t", {"m.gguf": gguf(9)})
    environ = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path), "OLLAMA_MODELS": str(models)}
    looked = adopt(None, settings, environ=environ)
    assert {one.program for one in looked.adopted} == {"Ollama", "the Hugging Face cache"}
    with pytest.raises(ModelNotFound, match="LM Studio keeps no models on this machine"):
        adopt("lmstudio", settings, environ=environ)
    with pytest.raises(UsageError, match="neither a folder nor a program"):
        adopt("olama", settings, environ=environ)


# ---- the command line ----------------------------------------------------------------------


def test_the_verb(overt_cli: OvertCli, models: Path, home: Path) -> None:
    environ = {"OLLAMA_MODELS": str(models)}
    ran = overt_cli("adopt", env=environ)
    assert ran.code == 0
    assert "nothing was changed; to adopt: overt adopt ollama" in ran.stdout
    assert not (home / "blobs").exists()
    ran = overt_cli("adopt", "ollama", "--json", env=environ)
    found = json.loads(ran.stdout)
    assert found["adopted"][0]["model"] == "ollama:tiny:1b"
    assert found["places"] == [{"program": "ollama", "path": str(models)}]
    assert found["skipped"] == []
    gone = overt_cli("rm", "ollama:tiny:1b", "--yes", env=environ)
    assert "belongs to another program and stays there" in gone.stderr
    assert overt_cli("adopt", "gpt4all").code == 3
    assert overt_cli("adopt", "nonsense").code == 2


def test_a_real_model_of_ollama_answers_from_where_it_lies(
    overt_cli: OvertCli, smollm2_gguf: Path, tmp_path: Path
) -> None:
    """With Ollama's own template and parameters over it."""
    models = tmp_path / "models"
    template = b"{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    template += b"{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    template += b"<|im_start|>assistant\n{{ .Response }}"
    layers = [("model", b""), ("template", template), ("params", b'{"temperature": 0}')]
    manifest = ollama(models, "registry.ollama.ai/library/smollm2/135m", layers)
    hexes = smollm2_gguf.name
    (models / "blobs" / f"sha256-{hexes}").hardlink_to(smollm2_gguf)
    content = json.loads(manifest.read_text())
    content["layers"][0] |= {
        "digest": f"sha256:{hexes}",
        "size": smollm2_gguf.stat().st_size,
    }
    manifest.write_text(json.dumps(content))
    environ = {"OLLAMA_MODELS": str(models)}
    ran = overt_cli("adopt", "ollama", "--json", env=environ)
    (one,) = json.loads(ran.stdout)["adopted"]
    assert (one["model"], one["how"]) == ("ollama:smollm2:135m", "hard link")
    answer = overt_cli("run", "ollama:smollm2:135m", "What is the capital of France?", "-q")
    assert answer.code == 0, answer.stderr
    assert "Paris" in answer.stdout
