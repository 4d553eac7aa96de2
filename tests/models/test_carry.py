"""Archives: out and in again, signed, in parts, cut off, killed, and hostile."""

import builtins
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import OvertCli
from overt.errors import (
    FormatError,
    IntegrityError,
    NeedsAccess,
    NotFound,
    OvertError,
    UnsafeFile,
    UsageError,
)
from overt.models.archive import Signer, bring, export
from overt.models.archive import format as archive
from overt.models.archive.format import ArchiveIndex
from overt.models.archive.writer import dossier
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import sha256_of
from overt.models.store import File, Manifest, Store
from overt.ref import parse
from overt.security.signing import Member, SigningKeys, fingerprint_of, sign
from overt.settings import Settings, load
from servers import gguf

WEIGHTS = gguf(1, 3 << 20)


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose key signs, made once."""
    home = tmp_path_factory.mktemp("sender")
    SigningKeys(home).own()
    return home


@pytest.fixture
def sender(tmp_path: Path, key: Path) -> Settings:
    """A home with one model of five files, two of them the same bytes."""
    home = tmp_path / "sender"
    shutil.copytree(key / "keys", home / "keys")
    settings = load({"OVERT_HOME": str(home)})
    put(
        Store(home),
        {
            ("weights", "a folder/weights.gguf"): WEIGHTS,
            ("projector", "p.gguf"): gguf(2),
            ("licence", "LICENSE"): b"the licence",
            ("licence", "again/LICENSE"): b"the licence",
            ("card", "very/" * 25 + "README.md"): b"",
        },
    )
    return settings


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def put(store: Store, files: dict[tuple[str, str], bytes], name: str = "m:1") -> Manifest:
    """Store a model."""
    listed, paths = [], {}
    folder = store.home / "partial/made"
    folder.mkdir(parents=True, exist_ok=True)
    for number, ((role, path), body) in enumerate(files.items()):
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        listed.append(File(role, path, digest, len(body)))  # type: ignore[arg-type]
        paths[digest] = folder / str(number)
        paths[digest].write_bytes(body)
    manifest = Manifest(tuple(listed), "hf:o/r@" + "a" * 40, {"source": "hf"}, "MIT")
    store.commit(manifest, paths, [parse(name)])
    return manifest


def yes(_: Signer, __: ArchiveIndex) -> bool:
    return True


def no(_: Signer, __: ArchiveIndex) -> bool:
    return False


def _blobs(home: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (home / "blobs").rglob("*") if p.is_file()}


def _nothing_came(settings: Settings) -> bool:
    return not _blobs(settings.home) and not Store(settings.home).names()


# ---- out and in ----------------------------------------------------------------------------


def test_what_goes_out_comes_in(sender: Settings, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "m.overt"
    steps = []
    out = export("m:1", file, sender, progress=steps.append)
    assert out.paths == (file,)
    assert out.size == file.stat().st_size
    assert {step.what for step in steps} >= {"writing a folder/weights.gguf"}
    came = bring(file, settings, yes, progress=steps.append)
    assert came.manifest == out.manifest == Store(sender.home).get(parse("m:1"))
    assert [str(name) for name in came.names] == ["m:1"]
    assert came.signer.fingerprint == out.fingerprint
    assert _blobs(settings.home) == _blobs(sender.home)
    assert Store(settings.home).verify() == []
    assert Store(settings.home).get(parse("m:1")) == out.manifest
    assert list((settings.home / "partial").iterdir()) == []
    assert stat.S_IMODE(Store(settings.home).path(out.manifest.weights).stat().st_mode) == 0o444
    again = bring(file, settings, no)  # the signer is known now, and the bytes are here
    assert again.resumed == sum(m.size for m in _head(file).members) - _small(file)
    assert Store(settings.home).verify() == []


def _head(file: Path) -> ArchiveIndex:
    with tarfile.open(file) as opened:
        member = opened.extractfile(archive.ARCHIVE)
        assert member
        return ArchiveIndex.decode(member.read())


def _small(file: Path) -> int:
    """Bytes of the members that are no files of the model."""
    return sum(m.size for m in _head(file).members if not m.name.startswith(archive.MODEL))


def test_the_same_model_is_the_same_archive(sender: Settings, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        export("m:1", tmp_path / name, sender)
        with tarfile.open(tmp_path / name) as opened:
            contents.append(
                [
                    (info.name, info.size, info.mode, info.mtime, info.uid, info.gid, info.uname)
                    for info in opened
                ]
            )
            assert all(info.isreg() for info in opened.getmembers())
    assert contents[0] == contents[1]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    names = [row[0] for row in contents[0]]
    assert names[:4] == [archive.ARCHIVE, archive.SIGNER, archive.SIGNATURE, archive.MANIFEST]
    assert "model/a folder/weights.gguf" in names
    assert sum("by-digest" in name for name in names) == 1  # the path that no header holds
    assert len(names) == len(set(names))
    assert {row[2:] for row in contents[0]} == {(0o644, 0, 0, 0, "")}


def test_any_tar_unpacks_it_and_model_signing_alone_verifies_it(
    sender: Settings, tmp_path: Path
) -> None:
    export("m:1", tmp_path / "m.overt", sender)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "m.overt", "-C", folder], check=True)
    assert (folder / "model/a folder/weights.gguf").read_bytes() == WEIGHTS
    code = """
import sys, pathlib, model_signing
folder = pathlib.Path(sys.argv[1])
config = model_signing.verifying.Config()
config.use_elliptic_key_verifier(public_key=folder / "overt/signer.pem")
config.verify(folder, folder / "overt/signature.json")
"""

    def verified() -> bool:
        return (
            subprocess.run([sys.executable, "-c", code, folder], capture_output=True).returncode
            == 0
        )

    assert verified()
    (folder / "model/p.gguf").write_bytes(gguf(3))
    assert not verified()


def test_a_real_model_goes_to_an_empty_machine(
    model_home: Path, home: Path, tmp_path: Path, overt_cli: OvertCli, key: Path
) -> None:
    """Exported from the real store (through links: its own folder stays as it is), and run."""
    lent = tmp_path / "lent"
    for part in ("manifests", "names", "blobs"):
        shutil.copytree(model_home / part, lent / part, copy_function=os.link)
    shutil.copytree(key / "keys", lent / "keys")
    file = tmp_path / "smollm2.overt"
    out = json.loads(
        overt_cli("export", "smollm2", file, "--json", env={"OVERT_HOME": str(lent)}).stdout
    )
    assert out["size"] == file.stat().st_size
    ran = overt_cli("import", file)
    assert ran.code == 5
    assert out["signer"] in ran.stderr
    ran = overt_cli("import", file, "--trust", out["signer"], "--json")
    assert ran.code == 0, ran.stderr
    assert json.loads(ran.stdout)["digest"] == out["digest"]
    assert overt_cli("verify").code == 0
    answer = overt_cli("run", "smollm2", "Say hi.", "--max-tokens", "4", "--offline")
    assert answer.code == 0, answer.stderr
    shown = overt_cli("show", "smollm2", "--licence")
    assert "Apache" in shown.stdout


def test_a_made_model_brings_the_manifests_it_was_made_from(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    store = Store(sender.home)
    base = store.get(parse("m:1"))
    recipes = [
        Recipe(
            "create", "1", (Input("from", base.digest, "m:1"), Input("adapter", f"sha256:{0:064}"))
        ),
        Recipe("create", "1", (Input("from", f"sha256:{1:064}"),)),
    ]
    files = {("weights", "weights.gguf"): WEIGHTS}
    files |= {("recipe", f"recipe-{n}.json"): one.encode() for n, one in enumerate(recipes)}
    made = put(store, files, "made")
    store.remove(parse("m:1"))  # its manifest stays, for what was made from it
    assert store.manifest(base.digest) == base
    assert store.verify() == []
    export("made", tmp_path / "x", sender)
    assert bring(tmp_path / "x", settings, yes).manifest == made
    there = Store(settings.home)
    assert there.manifest(base.digest) == base
    assert there.verify() == []
    put(there, {("weights", "w.gguf"): gguf(8)}, "other")
    there.remove(parse("other"))
    assert there.manifest(base.digest) == base
    there.remove(parse("made"))
    assert not list((settings.home / "manifests").iterdir())
    with pytest.raises(UnsafeFile, match="no recipe of its model names"):
        bring(
            _forge(
                sender,
                tmp_path / "y",
                beside={f"overt/chain/{base.digest[7:]}.json": base.encode()},
            ),
            settings,
            yes,
        )


def test_a_dossier_comes_along(sender: Settings, settings: Settings, tmp_path: Path) -> None:
    manifest = Store(sender.home).get(parse("m:1"))
    for home in (sender.home, settings.home):
        assert not dossier(home, manifest).exists()
    dossier(sender.home, manifest).parent.mkdir()
    dossier(sender.home, manifest).write_text("{}")
    export("m:1", tmp_path / "x", sender)
    bring(tmp_path / "x", settings, yes)
    assert dossier(settings.home, manifest).read_text() == "{}"


# ---- parts ---------------------------------------------------------------------------------


def test_parts_are_the_same_bytes_and_each_below_its_size(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    out = export("m:1", tmp_path / "m.overt", sender, split=1 << 20)
    assert [path.name for path in out.paths] == [f"m.overt.00{n}" for n in (1, 2, 3, 4)]
    assert all(path.stat().st_size < 1 << 20 for path in out.paths)
    assert sum(path.stat().st_size for path in out.paths) == out.size
    assert not list(tmp_path.glob("*.part"))
    came = bring(tmp_path / "m.overt", settings, yes)
    assert came.manifest == out.manifest
    assert Store(settings.home).verify() == []
    whole = tmp_path / "whole"
    whole.write_bytes(b"".join(path.read_bytes() for path in out.paths))
    assert bring(whole, settings, no).manifest == out.manifest


def test_a_part_that_is_missing_is_named_and_what_came_is_kept(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    out = export("m:1", tmp_path / "m.overt", sender, split=1 << 20)
    away = tmp_path / "away"
    away.mkdir()
    third = shutil.move(out.paths[2], away)
    with pytest.raises(NotFound, match=r"goes on in m\.overt\.003, which is not in .*is kept"):
        bring(out.paths[0], settings, yes)
    assert _nothing_came(settings)
    shutil.move(third, tmp_path)
    came = bring(out.paths[0], settings, yes)
    assert came.resumed > 1 << 20
    assert Store(settings.home).verify() == []
    with pytest.raises(NotFound, match=r"not the first part; name m\.overt\.001"):
        bring(out.paths[1], settings, yes)


def test_parts_for_a_stick_with_fat32_fit_and_silly_sizes_are_refused(
    sender: Settings, tmp_path: Path
) -> None:
    from overt.models.archive.writer import _names

    names, part = _names(tmp_path / "x", 10 << 30, 4 << 30)
    assert len(names) == 3
    assert part < 4 << 30
    with pytest.raises(UsageError, match="too small"):
        export("m:1", tmp_path / "x", sender, split=1000)
    with pytest.raises(UsageError, match="more than 999"):
        _names(tmp_path / "x", 10 << 40, 1 << 20)


# ---- who signed it -------------------------------------------------------------------------


def test_an_unknown_signer_must_be_accepted_once(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    out = export("m:1", tmp_path / "m.overt", sender)
    seen: list[str] = []

    def look(signer: Signer, found: ArchiveIndex) -> bool:
        seen.append(signer.fingerprint)
        assert found.manifest == out.manifest.digest
        return False

    with pytest.raises(NeedsAccess, match=f"sha256:{out.fingerprint}; compare"):
        bring(tmp_path / "m.overt", settings, look)
    assert seen == [out.fingerprint]
    assert _nothing_came(settings)
    assert not (settings.home / "partial").exists()
    assert bring(tmp_path / "m.overt", settings, yes).signer.known == ""
    assert bring(tmp_path / "m.overt", settings, no).signer.known == "accepted"
    assert bring(tmp_path / "m.overt", sender, no).signer.known == "own"
    pem = (settings.home / f"keys/accepted/{out.fingerprint}.pem").read_bytes()
    assert hashlib.sha256(pem).hexdigest() == out.fingerprint


def test_the_key_is_for_its_owner_alone_and_made_once(tmp_path: Path) -> None:
    first = SigningKeys(tmp_path).own().read_bytes()
    assert stat.S_IMODE((tmp_path / "keys/signing.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert SigningKeys(tmp_path).own().read_bytes() == first
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["signing.pem"]
    (tmp_path / "keys/signing.pem").write_text("nonsense")
    with pytest.raises(IntegrityError, match="is no private key"):
        SigningKeys(tmp_path).public()


def test_a_person_is_asked_and_only_yes_is_yes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from overt.cli import import_
    from overt.cli.output import Output

    monkeypatch.setattr(import_, "is_terminal", lambda _: True)
    signer = Signer(b"", "ab" * 32, "")
    found = ArchiveIndex(
        "sha256:" + "0" * 64, (parse("m:1"),), (Member("model/x", 5 << 20, "0" * 64),)
    )
    for answer, accepted in (("y\n", True), ("Yes\n", True), ("\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        asked = import_._accept(Output(), None, False, asks=True)
        assert asked(signer, found) is accepted
    assert f"sha256:{'ab' * 32}" in capsys.readouterr().err
    for out, asks in ((Output("json"), True), (Output(), False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        assert import_._accept(out, None, False, asks=asks)(signer, found) is False


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sha256:" + "ab" * 32, "ab" * 32),
        ("AB:" * 16, "ab" * 16),
        (" ab" * 32, "ab" * 32),
        ("ab" * 15, ""),
        ("ab" * 33, ""),
        ("xy" * 32, ""),
        ("", ""),
    ],
)
def test_a_fingerprint_as_people_write_it(text: str, found: str) -> None:
    assert fingerprint_of(text) == found


def test_without_the_package_a_sentence_says_what_to_install(
    sender: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("model_signing"):
            raise ImportError("No module named 'model_signing'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotFound, match="-m pip install 'model-signing<2' pyopenssl"):
        export("m:1", tmp_path / "m.overt", sender)
    with pytest.raises(NotFound, match="-m pip install 'model-signing<2' pyopenssl"):
        bring(tmp_path / "m.overt", sender, yes)


# ---- exporting what cannot be --------------------------------------------------------------


def test_a_damaged_file_is_not_exported(sender: Settings, tmp_path: Path) -> None:
    store = Store(sender.home)
    blob = store.path(store.get(parse("m:1")).weights)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"?")
    for split in (0, 1 << 20):
        with pytest.raises(IntegrityError, match=r"weights\.gguf is damaged"):
            export("m:1", tmp_path / "m.overt", sender, split=split)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_file_that_is_there_stays_there(sender: Settings, tmp_path: Path) -> None:
    file = tmp_path / "m.overt"
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists; choose another name, or add --force"):
        export("m:1", file, sender)
    assert file.read_text() == "mine"
    export("m:1", file, sender, force=True)
    assert file.stat().st_size > len(WEIGHTS)
    with pytest.raises(UsageError, match="overt adopt"):
        export(str(file), tmp_path / "x", sender)
    with pytest.raises(NotFound):
        export("nosuch", tmp_path / "x", sender)
    with pytest.raises(OvertError, match="cannot be written"):
        export("m:1", tmp_path / "no/such/folder", sender)


# ---- names ---------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_not_taken_away(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    export("m:1", tmp_path / "m.overt", sender)
    mine = put(Store(settings.home), {("weights", "w.gguf"): gguf(9)})
    with pytest.raises(UsageError, match=r"m:1 is another model here .*--as NAME"):
        bring(tmp_path / "m.overt", settings, yes)
    assert Store(settings.home).get(parse("m:1")) == mine
    came = bring(tmp_path / "m.overt", settings, yes, name="theirs")
    assert Store(settings.home).get(parse("theirs")) == came.manifest
    with pytest.raises(UsageError, match="cannot be the name"):
        bring(tmp_path / "m.overt", settings, yes, name="./path")
    bring(tmp_path / "m.overt", settings, yes, replace=True)
    assert Store(settings.home).get(parse("m:1")) == came.manifest
    with pytest.raises(UsageError, match="smollm2 is the catalogue's name for another model"):
        bring(tmp_path / "m.overt", settings, yes, name="smollm2", replace=True)


# ---- cut off and killed --------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_cut_file_is_said_and_the_rest_of_it_goes_on(
    sender: Settings, settings: Settings, tmp_path: Path, share: float
) -> None:
    whole = tmp_path / "m.overt"
    export("m:1", whole, sender)
    cut = tmp_path / "cut.overt"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(FormatError, match=r"ends at byte \d+"):
        bring(cut, settings, yes)
    assert _nothing_came(settings)
    if share == 0.9:  # an abandoned import is dropped by the name it would have had
        assert Store(settings.home).remove(parse("m:1")).bytes_freed > 1 << 20
        assert list((settings.home / "partial").iterdir()) == []
    came = bring(whole, settings, yes)
    assert (came.resumed > 0) == (share in (0.3, 0.9999))
    assert _blobs(settings.home) == _blobs(sender.home)


def test_a_bad_copy_is_found_and_a_good_one_replaces_only_what_was_bad(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    whole = tmp_path / "m.overt"
    export("m:1", whole, sender)
    body = bytearray(whole.read_bytes())
    body[len(body) // 2] ^= 1
    (tmp_path / "bad.overt").write_bytes(body)
    with pytest.raises(IntegrityError, match="differs from its digest"):
        bring(tmp_path / "bad.overt", settings, yes)
    assert _nothing_came(settings)
    # A part that an earlier, bad copy left is found out at its end, and read again from the start.
    folder = next(path for path in (settings.home / "partial").iterdir() if path.is_dir())
    weights = hashlib.sha256(WEIGHTS).hexdigest()
    (folder / f"{weights}.part").write_bytes(b"?" * (1 << 20))
    came = bring(whole, settings, yes)
    assert came.manifest == Store(sender.home).get(parse("m:1"))
    assert Store(settings.home).verify() == []


def test_kill_at_any_moment_and_go_on(sender: Settings, settings: Settings, tmp_path: Path) -> None:
    """Processes are killed while they import, again and again, until one is through."""
    file = tmp_path / "m.overt"
    put(Store(sender.home), {("weights", "w.gguf"): gguf(4, 24 << 20)}, "big")
    export("big", file, sender)
    slow = """
import sys, time, pathlib
from overt.models.archive import bring, reader
from overt.settings import load
read = reader._ArchiveStream.read
def slowly(self, count):
    if count > 100_000:
        print("reading", flush=True)
        time.sleep(0.02)
    return read(self, count)
reader._ArchiveStream.read = slowly
print(bring(pathlib.Path(sys.argv[1]), load(), lambda *_: True).resumed)
"""
    chance = random.Random(7)
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", slow, file], stdout=subprocess.PIPE)
        assert process.stdout
        said = process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            if kills < 6:
                process.wait(chance.uniform(0, 0.3))
        if process.poll() is None and kills < 6:
            process.send_signal(signal.SIGKILL)
            kills += 1
            process.wait()
            process.stdout.close()
            # Nothing at all came, or, killed while it moved the files in, nothing that is wrong.
            store = Store(settings.home)
            assert store.verify() == []
            assert all(store.whole(entry.manifest) for entry in store.names())
            continue
        resumed = int((said + process.stdout.read()).split()[-1])
        process.stdout.close()
        assert process.wait() == 0
        break
    assert kills
    assert resumed > 0
    assert Store(settings.home).verify() == []
    assert Store(settings.home).get(parse("big")).weights.size == len(gguf(4, 24 << 20))


# ---- hostile archives ----------------------------------------------------------------------


Body = list[tuple[tarfile.TarInfo, bytes]]


def _forge(
    sender: Settings,
    path: Path,
    *,
    head: Callable[[dict[str, Any]], None] = lambda _: None,
    body: Callable[[Body], Body] = lambda members: members,
    files: dict[tuple[str, str], bytes] | None = None,
    beside: dict[str, bytes] | None = None,
    end: bytes = bytes(1024),
) -> Path:
    """An archive whose signature is valid for whatever its head says; `body` is what follows."""
    manifest = put(
        Store(sender.home), files or {("weights", "w.gguf"): gguf(1), ("card", "c"): b"c"}, "forged"
    )
    store = Store(sender.home)
    members = [archive.member_of(archive.MANIFEST, manifest.encode())]
    data = [manifest.encode()]
    for file in manifest.files:
        members.append(Member(f"model/{file.path}", file.size, file.digest[7:]))
        data.append(store.path(file).read_bytes())
    for name, extra in (beside or {}).items():
        members.append(archive.member_of(name, extra))
        data.append(extra)
    honest = ArchiveIndex(manifest.digest, (parse("forged"),), tuple(members))
    content = json.loads(honest.encode())
    head(content)
    encoded = json.dumps(content).encode()
    signed = [archive.member_of(archive.ARCHIVE, encoded)]
    for one in content["members"]:
        with suppress(TypeError, ValueError, KeyError):
            bytes.fromhex(one["sha256"])
            signed.append(Member(str(one["name"]), int(one["size"]), one["sha256"]))
    keys = SigningKeys(sender.home)
    signature = sign(signed, "forged", keys)
    rest: Body = []
    for member, bytes_ in zip(members, data, strict=True):
        info = tarfile.TarInfo(member.name)
        info.size = member.size
        rest.append((info, bytes_))
    with path.open("wb") as file:
        for name, bytes_ in (
            (archive.ARCHIVE, encoded),
            (archive.SIGNER, keys.public()),
            (archive.SIGNATURE, signature),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(bytes_)
            _add(file, info, bytes_)
        for info, bytes_ in body(rest):
            _add(file, info, bytes_)
        file.write(end)
    return path


def _add(file: io.BufferedWriter, info: tarfile.TarInfo, data: bytes) -> None:
    file.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))


def _kind(kind: bytes, link: str = "") -> Callable[[Body], Body]:
    def change(members: Body) -> Body:
        info = members[1][0]
        info.type, info.linkname = kind, link
        return members

    return change


def _renamed(name: str) -> Callable[[Body], Body]:
    def change(members: Body) -> Body:
        members[1][0].name = name
        return members

    return change


def test_an_honest_forgery_is_accepted(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    """So that what the others are refused for is what they change."""
    assert bring(_forge(sender, tmp_path / "x"), settings, yes).names == (parse("forged"),)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_renamed("../../../evil"), id="a name that climbs"),
        pytest.param(_renamed("/tmp/evil"), id="an absolute name"),
        pytest.param(_renamed("model/other.gguf"), id="a name that was not stated"),
        pytest.param(_kind(tarfile.SYMTYPE, "/etc/passwd"), id="a symbolic link"),
        pytest.param(_kind(tarfile.LNKTYPE, "overt/signer.pem"), id="a hard link"),
        pytest.param(_kind(tarfile.CHRTYPE), id="a device"),
        pytest.param(_kind(tarfile.FIFOTYPE), id="a pipe"),
        pytest.param(_kind(tarfile.DIRTYPE), id="a folder"),
        pytest.param(_kind(tarfile.XHDTYPE), id="an extended header"),
        pytest.param(_kind(tarfile.GNUTYPE_LONGNAME), id="a long name"),
        pytest.param(_kind(tarfile.GNUTYPE_SPARSE), id="a sparse file"),
        pytest.param(lambda members: [members[0], members[0], *members[1:]], id="a file twice"),
        pytest.param(lambda members: [members[0], members[2], members[1]], id="another order"),
        pytest.param(lambda members: [*members, members[1]], id="a file too many"),
        pytest.param(lambda members: members[:-1], id="a file too few"),
        pytest.param(lambda members: members[1:], id="no manifest"),
    ],
)
def test_what_no_archive_may_hold_is_refused(
    sender: Settings, settings: Settings, tmp_path: Path, body: Callable[[Body], Body]
) -> None:
    file = _forge(sender, tmp_path / "x", body=body)
    with pytest.raises((UnsafeFile, FormatError)):
        bring(file, settings, yes)
    assert _nothing_came(settings)
    assert not (tmp_path / "evil").exists()


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """``members.1.name``: change one thing of the head."""

    def change(content: dict[str, Any]) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        here: Any = content
        for step in way:
            here = here[step]
        here[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("members.1.name", "model/../../evil", UnsafeFile),
        ("members.1.name", "/etc/passwd", UnsafeFile),
        ("members.1.name", "overt/evil.json", UnsafeFile),
        ("members.1.name", "elsewhere/x", UnsafeFile),
        ("members.1.name", "model/c", UnsafeFile),  # twice
        ("members.1.name", "model/" + "x" * 100, UnsafeFile),
        ("members.1.name", 5, FormatError),
        ("members.1.size", -1, UnsafeFile),
        ("members.1.size", 1 << 60, UnsafeFile),
        ("members.1.size", True, FormatError),
        ("members.0.size", 1 << 30, UnsafeFile),  # a manifest of a gigabyte
        ("members.1.sha256", "../../evil", UnsafeFile),
        ("members.1.sha256", "0" * 64, UnsafeFile),  # not the manifest's
        ("members", [], FormatError),
        ("members", {}, FormatError),
        ("members", [{}] * 20_001, FormatError),
        ("manifest", "sha256:" + "0" * 64, UnsafeFile),
        ("manifest", "sha256:../../evil", UnsafeFile),
        ("names", ["./here"], UnsafeFile),
        ("names", ["http://example.org/x"], UnsafeFile),
        ("names", ["openai:gpt-5"], UnsafeFile),
        ("names", [5], FormatError),
        ("names", ["x"] * 33, FormatError),
        ("format", "overt-archive-2", FormatError),
    ],
)
def test_a_head_that_lies_is_refused_however_well_it_is_signed(
    sender: Settings,
    settings: Settings,
    tmp_path: Path,
    path: str,
    value: object,
    error: type[OvertError],
) -> None:
    file = _forge(sender, tmp_path / "x", head=_set(path, value))
    with pytest.raises(error):
        bring(file, settings, yes)
    assert _nothing_came(settings)


def test_a_member_larger_than_stated_and_bytes_behind_the_end_are_refused(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    def longer(members: Body) -> Body:
        info, data = members[1]
        info.size += 512
        return [members[0], (info, data + bytes(512)), *members[2:]]

    with pytest.raises(UnsafeFile, match="would be"):
        bring(_forge(sender, tmp_path / "x", body=longer), settings, yes)
    for end in (bytes(1023) + b"x", bytes(1024) + b"x", bytes(2048)):
        with pytest.raises(FormatError, match="holds more"):
            bring(_forge(sender, tmp_path / "y", end=end), settings, yes)
    assert _nothing_came(settings)


def test_a_pickle_is_refused_however_well_it_is_signed(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    for path, data in (("w.gguf", pickle.dumps({"a": os.getcwd})), ("w.gguf", b"nonsense")):
        file = _forge(sender, tmp_path / "x", files={("weights", path): data})
        with pytest.raises((UnsafeFile, FormatError)):
            bring(file, settings, yes)
    assert _nothing_came(settings)


def test_a_signature_by_another_key_or_over_other_files_is_refused(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    export("m:1", tmp_path / "m.overt", sender)
    with tarfile.open(tmp_path / "m.overt") as opened:
        parts = [(info, opened.extractfile(info).read()) for info in opened]  # type: ignore[union-attr]

    def rebuilt(changed: dict[str, bytes]) -> Path:
        with (tmp_path / "x").open("wb") as file:
            for info, data in parts:
                new = changed.get(info.name, data)
                info.size = len(new)
                _add(file, info, new)
            file.write(bytes(1024))
        return tmp_path / "x"

    other = SigningKeys(tmp_path / "other").public()
    old = json.loads(parts[2][1])
    del old["verificationMaterial"]["publicKey"]["hint"]
    for changed in (
        {archive.SIGNER: other},
        {archive.SIGNER: b"no key"},
        {archive.SIGNATURE: b"{}"},
        {archive.SIGNATURE: json.dumps(old).encode()},
        {archive.ARCHIVE: parts[0][1].replace(b'"m:1"', b'"m:2"')},
        {archive.ARCHIVE: parts[0][1] + b" "},
    ):
        with pytest.raises(IntegrityError, match="signature of the archive is not valid"):
            bring(rebuilt(changed), settings, yes)
    assert _nothing_came(settings)
    assert not (settings.home / "keys/accepted").exists()
    assert bring(rebuilt({}), settings, yes)


def test_damaged_archives_end_in_a_sentence_and_bring_nothing(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    good = _forge(sender, tmp_path / "x").read_bytes()
    chance = random.Random(11)
    came = 0
    for _ in range(600):
        body = bytearray(good)
        for _ in range(chance.choice((1, 1, 3))):
            body[chance.randrange(len(body))] = chance.randrange(256)
        (tmp_path / "y").write_bytes(body)
        with suppress(OvertError):  # anything else fails the test
            bring(tmp_path / "y", settings, yes)
            came += 1
            assert Store(settings.home).verify() == []  # only a byte that means nothing
    assert came < 200


def test_random_bytes_are_no_archive(settings: Settings, tmp_path: Path) -> None:
    for data in (b"", b"x", bytes(512), bytes(10240), random.Random(1).randbytes(5000)):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(FormatError):
            bring(tmp_path / "x", settings, yes)
    with pytest.raises(NotFound, match="there is no file"):
        bring(tmp_path / "none", settings, yes)


def test_a_huge_small_file_is_not_read(settings: Settings, tmp_path: Path) -> None:
    info = tarfile.TarInfo(archive.ARCHIVE)
    info.size = 100 << 30
    (tmp_path / "x").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(UnsafeFile, match=r"would be 107374182400 bytes, where 8388608"):
        bring(tmp_path / "x", settings, yes)


# ---- the command line, and its memory ------------------------------------------------------


def test_from_one_process_to_another_through_a_pipe(
    sender: Settings, overt_cli: OvertCli, home: Path
) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "overt", "export", "m:1", "-"],
        capture_output=True,
        env={**os.environ, "OVERT_HOME": str(sender.home)},
    )
    assert out.returncode == 0, out.stderr
    ran = overt_cli("import", "-", stdin=out.stdout)
    assert ran.code == 5
    ran = overt_cli("import", "-", "--yes", stdin=out.stdout)
    assert ran.code == 0, ran.stderr
    assert "accepting the signer sha256:" in ran.stderr
    assert _blobs(home) == _blobs(sender.home)


def test_the_verbs_say_what_is_wrong(
    sender: Settings, overt_cli: OvertCli, tmp_path: Path, home: Path
) -> None:
    at = {"OVERT_HOME": str(sender.home)}
    file = tmp_path / "m.overt"
    out = overt_cli("export", "m:1", file, "--split", "1m", env=at)
    assert out.code == 0, out.stderr
    assert out.stdout.startswith(f"{file}.001 to 004\nm:1: ")
    assert overt_cli("export", "m:1", "-", "--split", "1m", env=at).code == 2
    assert overt_cli("import", file, "--trust", "abc").code == 2
    ran = overt_cli("import", file, "--trust", "0" * 64)
    assert (ran.code, ran.stdout) == (5, "")
    assert "not by the key of --trust" in ran.stderr
    fingerprint = out.stdout.strip().rpartition(":")[2]
    ran = overt_cli("import", file, "--trust", fingerprint[:40], "--quiet")
    assert ran.code == 0, ran.stderr
    assert ran.stdout.strip() == Store(home).get(parse("m:1")).digest


@pytest.mark.slow
def test_memory_stays_small_whatever_the_size(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    """A file of 1 GiB goes out and in; each process holds less than 200 MB at any time."""
    big = sender.home / "partial/big"
    with big.open("wb") as file:
        file.write(gguf(5))
        file.truncate(1 << 30)
    digest = sha256_of(big)
    weights = File("weights", "big.gguf", f"sha256:{digest}", 1 << 30)
    manifest = Manifest((weights,), "pypi:big==1")
    Store(sender.home).commit(manifest, {weights.digest: big}, [parse("big")])
    code = """
import sys
from overt.cli.app import run
assert run(sys.argv[1:]) == 0
# Not ru_maxrss: it begins at the peak of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

    def peak(home: Path, *arguments: str) -> int:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--quiet"],
            capture_output=True,
            env={**os.environ, "OVERT_HOME": str(home)},
            check=True,
        )
        found = int(done.stdout.split()[-1]) * 1024
        print(arguments[0], f"{found / 1e6:.0f} MB", f"{time.monotonic() - begun:.1f} s")
        return found

    file = str(tmp_path / "big.overt")
    assert peak(sender.home, "export", "big", file) < 200e6
    assert peak(settings.home, "import", file, "--yes") < 200e6
    assert Store(settings.home).get(parse("big")) == manifest


def test_two_imports_at_once_are_one(
    sender: Settings, home: Path, tmp_path: Path, overt_cli: OvertCli
) -> None:
    export("m:1", tmp_path / "m.overt", sender)
    command = [sys.executable, "-m", "overt", "import", tmp_path / "m.overt", "--yes", "-q"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert Store(home).verify() == []
