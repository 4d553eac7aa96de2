"""From what a person types to files: folders, links, parts, and what is claimed."""

from pathlib import Path

import pytest

import tiny_models as tiny
from overt.errors import FormatError, ModelNotFound, UsageError
from overt.openness import gather
from overt.settings import Settings, load


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({}, {"home": str(tmp_path / "home"), "offline": True})


def test_a_link_that_leaves_the_folder_is_listed_and_not_read(
    tmp_path: Path, settings: Settings
) -> None:
    model = tiny.release(tmp_path / "model")
    (tmp_path / "secret.txt").write_text("secret")
    (model / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (model / "loop").symlink_to(model / "loop")
    (model / "again.md").symlink_to("README.md")
    found = gather.subject(str(model), settings)
    for name in ("notes.txt", "loop"):
        file = found.file(name)
        assert file is not None
        assert file.path is None
        assert found.text(name) is None
    assert found.text("again.md") == found.text("README.md")


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(
    tmp_path: Path, settings: Settings
) -> None:
    cache = tmp_path / "models--org--tiny"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in tiny.release(tmp_path / "model").iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    found = gather.subject(str(snapshot), settings)
    assert found.config is not None
    assert all(file.path for file in found.files)


def test_the_weights_that_are_claimed_are_the_ones_at_the_top(
    tmp_path: Path, settings: Settings
) -> None:
    model = tiny.release(tmp_path / "model")
    (model / "checkpoints").mkdir()
    tiny.write_safetensors(model / "checkpoints/a.safetensors", tiny.weights("llama", 1))
    claim = gather.subject(str(model), settings).record.claim("weights")
    assert claim is not None
    assert claim.where == "model.safetensors"


def test_a_card_names_bases_data_and_licence(tmp_path: Path, settings: Settings) -> None:
    card = {
        "license": "other",
        "license_name": "gemma",
        "base_model": ["org/base", 3],
        "base_model_relation": "finetune",
        "datasets": "org/data",
    }
    record = gather.subject(str(tiny.release(tmp_path / "model", card=card)), settings).record
    assert record.licence == "gemma"
    assert [(one.name, one.relation) for one in record.parents] == [
        ("org/base", "finetune"),
        ("org/data", "dataset"),
    ]
    data = record.claim("training_data")
    assert data is not None
    assert data.availability.word == "indexed"


def test_a_broken_card_costs_its_claims_and_nothing_else(
    tmp_path: Path, settings: Settings
) -> None:
    model = tiny.release(tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: [mit\n---\n# Tiny\n")
    found = gather.subject(str(model), settings)
    assert found.card is None
    assert "not YAML" in found.damaged["README.md"]
    assert found.config is not None


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("./nothing", ModelNotFound),
        ("echo:x", UsageError),
        ("a-name-nobody-knows", ModelNotFound),
        ("hf:nobody/nothing", ModelNotFound),
    ],
)
def test_what_is_not_there(ref: str, error: type[Exception], settings: Settings) -> None:
    with pytest.raises(error):
        gather.subject(ref, settings)


def test_an_empty_folder_and_one_of_too_many_files(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="holds no files"):
        gather.subject(str(tmp_path / "empty"), settings)
    monkeypatch.setattr(gather, "_MOST_FILES", 3)
    with pytest.raises(FormatError, match="more than 3 files"):
        gather.subject(str(tiny.release(tmp_path / "model")), settings)


def test_a_service_nobody_knows_is_closed_and_says_so(settings: Settings) -> None:
    found = gather.subject("http://127.0.0.1:1/v1#thing", settings)
    assert found.record.kind == "api"
    assert found.files == ()
    assert "cannot be seen" in found.record.source


@pytest.mark.parametrize("name", ["../base", "acme/base", "acme/Base", "./base"])
def test_a_base_beside_the_model_is_taken(tmp_path: Path, settings: Settings, name: str) -> None:
    inside = tmp_path / "model" if name.startswith("./") else tmp_path
    model = tiny.release(tmp_path / "model", card={"base_model": name})
    tiny.release(inside / "base")
    found = gather.subject(str(model), settings)
    assert found.base is not None
    assert found.base.ref == name
    assert found.base.file("model.safetensors")


@pytest.mark.parametrize("name", ["..", "../model", "../..", "acme/gone", "/", "a/" + "b" * 300])
def test_what_is_no_other_model_is_no_base(tmp_path: Path, settings: Settings, name: str) -> None:
    model = tiny.release(tmp_path / "model", card={"base_model": name})
    assert gather.subject(str(model), settings).base is None


def test_a_gguf_names_the_base_beside_it(tmp_path: Path, settings: Settings) -> None:
    keys = {"general.base_model.count": 1, "general.base_model.0.name": "Base"}
    model = tiny.gguf(tmp_path / "m.gguf", metadata=keys)
    tiny.gguf(tmp_path / "base.gguf", type="F16")
    base = gather.subject(str(model), settings).base
    assert base is not None
    assert base.model is not None


@pytest.mark.parametrize(
    ("name", "says"), [("photo.jpg", "no model file"), ("dossier.json", "overt dossier diff")]
)
def test_a_file_that_is_no_model_is_not_graded(
    tmp_path: Path, settings: Settings, name: str, says: str
) -> None:
    (tmp_path / name).write_bytes(b'{"step": 3, "components": []}')
    with pytest.raises(FormatError, match=says):
        gather.subject(str(tmp_path / name), settings)
    renamed = tiny.gguf(tmp_path / "tiny.gguf").rename(tmp_path / "renamed")
    assert gather.subject(str(renamed), settings).model is not None
