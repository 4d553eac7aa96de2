"""Files that were made to break a dossier: they end in one, or in a sentence, in bounded time."""

import hashlib
import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import pytest

import tiny_models as tiny
from overt.cli import spectrum
from overt.errors import FormatError, ModelNotFound
from overt.models.sources import folder
from overt.openness import assemble, cache, day, export
from overt.openness.checks import checkpoint_chain, template_escape, unsafe_files
from overt.openness.dossier import Dossier
from overt.openness.licence import match
from overt.openness.subject import content, gather, named_licences, places, tensors
from overt.openness.subject.subject import MAX_HEADERS
from overt.settings import Settings

_SECONDS = 10
"""Far more than any of these takes, and far less than the same took before."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", offline=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.release(tmp_path / "model")


def made(path: Path, settings: Settings) -> Dossier:
    """The dossier of `path`, written in every form."""
    began = time.monotonic()
    found = assemble.assemble(gather.subject(str(path), settings), settings.home, day.today())
    spectrum.page(found.as_json(), evidence=True)
    for kind in export.FORMATS:
        export.render(found, kind).encode("utf-8", "replace")
    assert time.monotonic() - began < _SECONDS
    return found


def header(tensors_: int) -> bytes:
    entries = {
        f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(tensors_)
    }
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * (4 * tensors_)


# -- what is read ----------------------------------------------------------------------------------

_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json",
         "model.safetensors.index.json", "results.json", "croissant.json", "data/manifest.json",
         "model.sig")  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 60_000, "[]", "5", '"x"', "", "NaN", "true", "null", "\0\x80"],
)
def test_hostile_every_json_file_may_hold_anything(model, settings, text):
    for name in _JSON:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(text)
    made(model, settings)


@pytest.mark.parametrize(
    "value", ["1e400", "-1", str(2**80), '"x"', "[]", "{}", "NaN", "true", "null", "0", "1e308"]
)
def test_hostile_every_number_of_the_configuration_may_be_anything(model, settings, value):
    config = json.loads((model / "config.json").read_text())
    fields = (
        f"{json.dumps(key)}: {json.dumps(told) if key == 'model_type' else value}"
        for key, told in config.items()
    )
    (model / "config.json").write_text("{" + ", ".join(fields) + "}")
    made(model, settings)


def test_hostile_names_of_files_may_be_no_text(model, settings):
    for name in (b"\xff\xfe.py", b"LICENSE\x1b[31m", b"a\nb.md", "\u202egnp.exe".encode(),
                 b"\xffmodel.safetensors", b"data_card\xff.md", b"x" * 250):  # fmt: skip
        Path(os.fsdecode(os.fsencode(model) + b"/" + name)).write_bytes(b"hello")
    found = made(model, settings)
    assert sum("\udcff" in name for name, _, _ in found.files) == 3


def test_hostile_devices_links_and_pipes_are_listed_and_not_read(model, settings):
    for name in ("LICENSE", "train.py", "adapter_config.json"):
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)
    (model / "self").symlink_to(".")
    (model / "loop").symlink_to("loop")
    (model / "COPYING").symlink_to("/etc/passwd")
    subject = gather.subject(str(model), settings)
    pathless = {file.name for file in subject.files if file.path is None}
    assert {"LICENSE", "train.py", "adapter_config.json", "loop", "COPYING"} <= pathless
    made(model, settings)


@pytest.mark.parametrize("name", ["x.yaml", "x.gguf"])
def test_hostile_a_pipe_is_no_model(tmp_path, settings, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FormatError, match="no plain file"):
        gather.subject(str(tmp_path / name), settings)


def test_hostile_a_folder_of_many_files_ends_before_all_are_looked_at(
    tmp_path, settings, monkeypatch
):
    monkeypatch.setattr(gather, "_MAX_FILES", 5)
    looked = []
    one = gather._subject_file
    monkeypatch.setattr(gather, "_subject_file", lambda *a: looked.append(a) or one(*a))
    for i in range(50):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(FormatError, match="more than 5 files"):
        gather.subject(str(tmp_path), settings)
    assert len(looked) == 6


def test_hostile_what_cannot_be_read_is_named(model, settings, monkeypatch):
    def refuse(file: Path, *_: object) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("overt.models.sources.base.sha256_of", refuse)
    with pytest.raises(FormatError, match=r"README.md cannot be read: Permission denied"):
        made(model, settings)


# -- headers and archives --------------------------------------------------------------------------


def test_hostile_headers_of_all_files_have_one_bound(model, settings):
    for i in range(4):
        (model / f"m{i}.safetensors").write_bytes(header(90_000))
    subject = gather.subject(str(model), settings)
    read = sum(found.data_offset for found in subject.safetensors.values())
    assert 0 < read <= MAX_HEADERS
    assert sum("bytes of header" in why for why in subject.damaged.values()) > 0


def test_hostile_checkpoints_stop_at_a_bound_of_headers(model, settings, monkeypatch):
    monkeypatch.setattr(checkpoint_chain, "MAX_HEADERS", 200_000)
    for i in range(8):
        (model / f"checkpoint-{i}").mkdir()
        (model / f"checkpoint-{i}" / "model.safetensors").write_bytes(header(1000))
    steps, _ = checkpoint_chain._steps(
        places.of(gather.subject(str(model), settings), "checkpoints")
    )
    left = 200_000
    for step in steps:
        left -= checkpoint_chain._read(step, left)
    assert 0 < sum(bool(step.tensors) for step in steps) < 8


def test_hostile_the_owner_of_a_moment_is_found_by_its_parts():
    shapes = {"layers.0.weight": (1,), "layers.0.weight_g": (2,), "embed": (3,)}
    owner = checkpoint_chain._owner
    assert owner("exp_avg.layers.0.weight", shapes) == "layers.0.weight"
    assert owner("layers.0.weight_exp_avg", shapes) == "layers.0.weight"
    assert owner("state.layers.0.weight_g.step", shapes) == "layers.0.weight_g"
    assert owner("unembed.step", shapes) is None
    assert owner(".".join("a" * 50_000), shapes) is None


def test_hostile_an_index_is_read_once(model, settings):
    index = {"weight_map": {f"t{i}": f"s{i}.safetensors" for i in range(100_000)}}
    (model / tensors.INDEX).write_text(json.dumps(index))
    made(model, settings)
    subject = gather.subject(str(model), settings)
    assert tensors.index_of(subject) is tensors.index_of(subject)
    assert tensors.of(subject) is tensors.of(subject)


def test_hostile_texts_of_a_header_are_cut(tmp_path, settings):
    long = "x" * 3_000_000
    path = tiny.gguf(
        tmp_path / "a.gguf",
        metadata={"general.license": long, "general.license.link": long, "general.name": long},
    )
    found = made(path, settings)
    assert len(json.dumps(found.as_json())) < 200_000


def test_hostile_slow_pickles_share_few_scans(model, settings, monkeypatch):
    asked = []
    spent = iter(range(0, 1000, 2))  # two seconds of processor time each
    monkeypatch.setattr(content.subprocess_reader, "run", lambda *a: asked.append(a) or [])
    monkeypatch.setattr(content, "_spent", lambda: next(spent))
    for i in range(30):
        (model / f"w{i}.bin").write_bytes(pickle.dumps({"i": list(range(50 + i))}))
    list(unsafe_files.check(gather.subject(str(model), settings)))
    assert len(asked) == 2


def test_hostile_an_archive_of_many_members(model, settings):
    with zipfile.ZipFile(model / "w.pt", "w") as archive:
        for i in range(30_000):
            archive.writestr(f"archive/data/{i}.pkl", b"")
    made(model, settings)


def test_hostile_large_files_are_searched_within_one_bound(model, settings, monkeypatch):
    bounds = []
    look = content.inspect
    monkeypatch.setattr(
        content, "inspect", lambda *a, **k: bounds.append((a[0], k["most"])) or look(*a, **k)
    )
    for i in range(5):
        with (model / f"m{i}.onnx").open("wb") as file:
            file.truncate(70 << 20)
    list(unsafe_files.check(gather.subject(str(model), settings)))
    most = [bound for name, bound in bounds if name.endswith(".onnx")]
    assert most == [64 << 20, 64 << 20, 64 << 20, 0, 0]


def test_hostile_templates_stop_after_two_that_take_too_long(model, settings, monkeypatch):
    tried = []

    def late(*asked: object) -> None:
        tried.append(asked)
        raise template_escape.subprocess_reader.Exceeded("it took more than 2 s")

    monkeypatch.setattr(template_escape.subprocess_reader, "run", late)
    for i in range(6):
        (model / f"{i}.jinja").write_text(f"{{{{ messages }}}} {i}")
    found = list(template_escape.check(gather.subject(str(model), settings)))
    assert len(tried) == 2
    assert any("the first 2 were tried" in one.reason for one in found)


# -- texts -----------------------------------------------------------------------------------------


def test_hostile_a_long_licence_file_of_many_licences(shared_data):
    names = ("llama-3.1-license-2024", "gemma-tou-2025-03-24", "CC-BY-NC-4.0")
    texts = [shared_data(f"licences/{name}.txt").read_text("utf-8") for name in names]
    began = time.monotonic()
    match.match("\n".join(texts * 20)[: 1 << 20])
    assert time.monotonic() - began < _SECONDS


def test_hostile_licence_files_have_one_bound(model, settings):
    for i in range(12):
        (model / f"LICENSE-{i:02}.txt").write_text("a " * 400_000)
    found = gather.subject(str(model), settings).licence_texts
    assert sum(map(len, found.values())) <= 4 << 20


@pytest.mark.parametrize("text", ["\n" * 100_000, " or" * 50_000, "a or\t" * 20_000, "(" * 100_000])
def test_hostile_words_for_a_licence_take_no_time(text):
    began = time.monotonic()
    named_licences.ids_of(text)
    assert time.monotonic() - began < 2


def test_hostile_a_path_without_end_is_no_component():
    began = time.monotonic()
    assert places.component_of("-results-" * 20_000) is None
    assert time.monotonic() - began < 2


def test_hostile_cards_take_no_time(model, settings):
    fields = "base_model:\n" + "".join(f"- a/m{i}\n" for i in range(10_000))
    (model / "README.md").write_text(f"---\nlicense: mit\n{fields}---\n" + "a|b: 1," * 400_000)
    assert len(made(model, settings).record.parents) <= 64


# -- a home that others edit -----------------------------------------------------------------------

_EDITED = (b"", b"[" * 100_000, b"{}", b"5", b"\xff\xfe", b'{"key": [], "evidence": 5}\n' * 5)


@pytest.mark.parametrize("edited", _EDITED)
def test_hostile_whatever_the_home_holds_the_dossier_is_the_same(model, settings, edited):
    first = made(model, settings).as_json()
    for path in settings.home.rglob("*"):
        if path.is_file():
            path.write_bytes(edited)
    assert made(model, settings).as_json() == first


def test_hostile_a_kept_dossier_of_another_form_is_not_shown(tmp_path, settings):
    path = tiny.gguf(tmp_path / "a.gguf")
    last = tmp_path / "x.last.json"
    log = tmp_path / "x.jsonl"
    log.touch()
    moment = cache.moment(str(path), settings, day.today())
    assert moment is not None
    for body in (b"[]", b"{}", b'{"components": [], "step": {}}', b"[" * 100_000):
        last.write_bytes(body)
        cache.note(last, moment, log)
        assert cache.find(last, moment) is None


def test_hostile_digests_of_small_files_do_not_fill_the_home(model, settings):
    for i in range(50):
        (model / f"{i}.py").write_text("x")
    made(model, settings)
    assert len(list((settings.home / "digests").glob("*"))) <= 1


def test_hostile_a_home_that_cannot_be_written(model, tmp_path):
    home = tmp_path / "file"
    home.write_text("not a folder")
    assert made(model, Settings(home=home, offline=True)).digest


def test_hostile_a_digest_that_cannot_be_kept_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"a")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.atomic, "write", full)
    assert folder.digest(path, tmp_path / "cache") == hashlib.sha256(b"a").hexdigest()
    assert list((tmp_path / "cache").iterdir()) == []


def test_hostile_the_bare_name_of_a_family_names_its_versions(settings):
    with pytest.raises(ModelNotFound, match="llama is a family of") as caught:
        gather.subject("llama", settings)
    assert "llama-3" in str(caught.value)
