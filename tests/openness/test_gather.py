"""From what a person types to files: folders, links, parts, and what is claimed."""

from pathlib import Path

import pytest

import tiny_models as tiny
from overt.errors import FormatError, ModelNotFound, UsageError
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import Role, sha256_of
from overt.models.store import File, Manifest, Store
from overt.openness.subject import families, gather
from overt.ref import parse
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
    monkeypatch.setattr(gather, "_MAX_FILES", 3)
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


# ---- what Overt made -----------------------------------------------------------------------


def made(
    settings: Settings, place: Path, name: str, licence: str, step: str = "",
    of: tuple[Manifest, ...] = (), *, adapter: bool = False, **about: str | int,
) -> Manifest:  # fmt: skip
    """A model of the store, whose recipe has the models `of`; `about`: of its header."""
    keys = {f"general.{key.replace('__', '.')}": value for key, value in about.items()}
    place.mkdir(exist_ok=True)
    kept: dict[str, Path] = {}

    def file(role: Role, path: Path) -> File:
        digest = f"sha256:{sha256_of(path)}"
        kept[digest] = path
        return File(role, path.name, digest, path.stat().st_size)

    files = [file("weights", tiny.gguf(place / f"{name}.gguf", metadata=keys))]
    if adapter:
        beside = {"general.type": "adapter"}
        files.append(file("adapter", tiny.gguf(place / f"{name}-lora.gguf", metadata=beside)))
    if step:
        inputs = tuple(Input("from", one.digest, one.ref) for one in of)
        told = place / "recipe.json"
        told.write_bytes(Recipe(step, "1", inputs, {}, {}).encode())
        files.append(file("recipe", told))
    manifest = Manifest(tuple(files), name, licence=licence)
    Store(settings.home).commit(manifest, kept, [parse(name)])
    return manifest


def parents(settings: Settings, name: str) -> list[tuple[str, str, str | None]]:
    found = gather.subject(name, settings).record.parents
    return sorted((one.name, one.relation, one.licence) for one in found)


def test_each_parent_of_a_merge_has_its_own_licence(tmp_path: Path, settings: Settings) -> None:
    """The model has that of all; where a parent is not here, what the merge wrote of it counts."""
    poet = made(settings, tmp_path / "a", "poet", "apache-2.0")
    elsewhere = File("weights", "clerk.gguf", f"sha256:{'c' * 64}", 1)
    clerk = Manifest((elsewhere,), "clerk", licence="llama3")
    made(
        settings, tmp_path / "c", "both", "apache-2.0 AND llama3", "merge", (poet, clerk),
        license="apache-2.0 AND llama3", base_model__count=2, base_model__0__name="Poet",
        base_model__0__license="apache-2.0", base_model__1__name="Clerk",
        base_model__1__license="llama3",
    )  # fmt: skip
    each = [("clerk", "merge", "llama3"), ("poet", "merge", "apache-2.0")]
    assert parents(settings, "both") == each
    # made before headers had them
    made(settings, tmp_path / "d", "older", "apache-2.0 AND llama3", "merge", (poet, clerk))
    assert parents(settings, "older") == [("clerk", "merge", None), each[1]]


def test_the_base_of_a_fine_tune_outlives_the_next_step(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = made(settings, tmp_path / "a", "base", "mit")
    about = {"license": "mit", "base_model__count": 1, "base_model__0__name": "acme/base",
             "base_model__0__license": "mit"}  # fmt: skip
    tuned = made(settings, tmp_path / "b", "tuned", "mit", "finetune", (base,), **about)
    assert parents(settings, "tuned") == [("base", "finetune", "mit")]
    asked: list[str] = []
    monkeypatch.setattr(families, "find", asked.append)
    made(settings, tmp_path / "c", "small", "mit", "quantize", (tuned,), **about)
    line = [("acme/base", "base", "mit"), ("tuned", "quantized", "mit")]
    assert parents(settings, "small") == line
    assert "tuned" in asked
    assert "acme/base" not in asked, "what is said of its training is not all that there was"
    # an adapter beside the weights of a fine-tune that was merged: the header is that one's
    made(settings, tmp_path / "d", "more", "mit", "finetune", (tuned,), adapter=True, **about)
    assert parents(settings, "more") == [line[0], ("tuned", "finetune", "mit")]
