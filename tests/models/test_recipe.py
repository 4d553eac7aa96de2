"""Recipes: canonical, and checked when they are read back."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import FormatError
from overt.models.recipe import Input, Recipe

D = "sha256:" + "ab" * 32
RECIPE = Recipe(
    "create", "1", (Input("from", D, "smollm2"),), {"b": [1, "é"], "a": None}, {"x": "1"}
)


def test_a_recipe_is_canonical_json() -> None:
    assert RECIPE.encode().decode() == (
        '{"environment":{"x":"1"},"inputs":[{"digest":"' + D + '","ref":"smollm2","role":"from"}],'
        '"parameters":{"a":null,"b":[1,"é"]},"step":"create","version":"1"}'
    )
    assert Recipe.decode(RECIPE.encode()) == RECIPE
    other = Recipe("create", "1", RECIPE.inputs, {"a": None, "b": [1, "é"]}, {"x": "1"})
    assert other.digest == RECIPE.digest


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), _json, max_size=4
    )
)
def test_what_is_written_reads_back(parameters: dict[str, object]) -> None:
    try:
        recipe = Recipe("train", "2", (), parameters)
        data = recipe.encode()
    except UnicodeEncodeError:
        return
    assert Recipe.decode(data) == recipe
    assert Recipe.decode(data).encode() == data


@pytest.mark.parametrize(
    "change",
    [
        {"step": "No Word"},
        {"step": 1},
        {"version": 1},
        {"inputs": {}},
        {"inputs": [{"role": "from", "digest": "sha256:zz"}]},
        {"inputs": [{"role": "../x", "digest": D}]},
        {"inputs": [1]},
        {"parameters": []},
        {"environment": {"a": 1}},
    ],
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    content = json.loads(RECIPE.encode()) | change
    with pytest.raises(FormatError, match="a recipe cannot be read"):
        Recipe.decode(json.dumps(content).encode())


def test_mutated_recipes_are_read_or_refused() -> None:
    data, pick, said = RECIPE.encode(), random.Random(3), []
    for _ in range(repeats(700, 2000)):
        changed = bytearray(data)
        for _ in range(pick.randint(1, 4)):
            changed[pick.randrange(len(changed))] = pick.randrange(256)
        try:
            Recipe.decode(bytes(changed))
        except FormatError as error:
            said.append(str(error))
    assert 100 < len(said) < repeats(700, 2000)
    assert max(map(len, said)) < 400
    with pytest.raises(FormatError):
        Recipe.decode(b"[" * 100_000)
