"""YAML from strangers: what comes out is plain, and what is hostile ends in a sentence."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import FormatError
from overt.formats import yamltext

LISTED = [
    line.split("\t")[0]
    for line in (Path(__file__).parents[1] / "data_sources.tsv").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5, true, ~, 'no']\n", {"a": 1, "b": ["x", 2.5, True, None, "no"]}),
        ("released: 2025-12\nday: 2025-12-31\n", {"released": "2025-12", "day": "2025-12-31"}),
        ("1: a\n", {"1": "a"}),
        ("x: 1_000\ny: -3\nz: 1e3\nw: .5\n", {"x": 1000, "y": -3, "z": 1000.0, "w": 0.5}),
        ("version: 1:30:00\n", {"version": "1:30:00"}),
        ("octal: 0777\n", {"octal": "0777"}),
        ("n: 99999999999999999999\n", {"n": "99999999999999999999"}),
        ("big: 1.0e+9999\n", {"big": "1.0e+9999"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a: !!str 1\n", {"a": "1"}),
        ("<<: {a: 1}\n", {"<<": {"a": 1}}),
        ('{"json": [1, {"too": null}]}', {"json": [1, {"too": None}]}),
        ("a: 1\n---\nb: 2\n", {"a": 1}),
        ("\ufeffa: 1\n", {"a": 1}),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert yamltext.load(text, "t.yaml") == value


DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    [
        "[" * DEEP,
        "{" * DEEP,
        "[" * DEEP + "]" * DEEP,
        "[{a: " * DEEP,
        "{? " * DEEP,
        "- " * DEEP,
        "? " * DEEP,
        "[" * (4 << 20),
        "- " * (2 << 20),
        "\n".join(f"{' ' * depth}a:" for depth in range(2000)),
        "[" + "[]," * 300_000 + "]",
        "\n".join(f"k{n}: 1" for n in range(150_000)),
        "a: " + "x" * (4 << 20),
        '"' + "x" * (4 << 20 - 8),
    ],
    ids=lambda text: f"{text[:6]!r}x{len(text)}",
)
def test_bombs_end_in_a_sentence_within_a_second(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FormatError):
        yamltext.load(text, "bomb.yaml")
    assert time.perf_counter() - start < 1


def test_a_depth_bomb_does_not_crash_the_process() -> None:
    """In a process of its own: a stack that overflows in C would take pytest with it."""
    code = """
from overt.errors import FormatError
from overt.formats import yamltext
for one in ("[", "{", "{[", "- ", "? ", "!!seq ["):
    try:
        yamltext.load(one * 500000, "x")
    except FormatError:
        continue
    raise SystemExit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_depth_that_is_read() -> None:
    deep = yamltext.MAX_DEPTH
    assert yamltext.load("[" * deep + "]" * deep, "t") is not None
    with pytest.raises(FormatError, match=f"more than {deep} levels"):
        yamltext.load("[" * (deep + 1) + "]" * (deep + 1), "t")


def test_an_alias_bomb_is_refused_at_its_first_alias() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(FormatError, match="line 2 of t has an alias"):
        yamltext.load("\n".join(lines), "t")


def test_a_loop_is_refused() -> None:
    with pytest.raises(FormatError, match="alias"):
        yamltext.load("a: &a [*a]\n", "t")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "a: !!python/name:os.system",
        "a: !<tag:evil> 1",
        "a: !ruby/object:Gem {}",
        "a: !!binary aGk=",
        "a: !!set {b}",
    ],
)
def test_tags_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="line 1 of t has the tag"):
        yamltext.load(text, "t")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3 of t has the key 'a' twice"),
        ("1: x\n'1': y\n", "line 2 of t has the key '1' twice"),
        ("[a]: b\n", "line 1 of t has a list or a mapping for a key"),
        ("a: [1\n", "t is not YAML"),
        ("a: \0\n", "t is not YAML"),
        ("a: \ud800\n", "t is not YAML"),
        ("a: 1\n b: 2\n", "line 2 of t is not YAML"),
        ("\tx\n", "line 1 of t is not YAML"),
        ("x" * ((4 << 20) + 1), "the most that is read is 4194304"),
    ],
)
def test_broken_texts_name_the_place(text: str, says: str) -> None:
    with pytest.raises(FormatError) as caught:
        yamltext.load(text, "t")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(
        st.characters(exclude_categories=["C"], exclude_characters="\x85\u2028\u2029"), max_size=30
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.from_regex(r"k[a-z]{1,8}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert yamltext.load(yamltext.dump({"value": value}), "t") == {"value": value}


def test_dump_is_the_same_for_the_same_value() -> None:
    value = {"b": [1, "ä", None], "a": {"c": "x: y"}}
    assert yamltext.dump(value) == yamltext.dump(dict(value))
    assert list(yamltext.load(yamltext.dump(value), "t")) == ["b", "a"]


SEED = (
    "framework:\n  name: 'Model Openness Framework'\nrelease:\n  name: X\n  components:\n"
    "    - name: Datasets\n      license: &a MIT\n  list: [a, {b: 1.5e3}, *a]\n  text: |\n    é\n"
)


@settings(max_examples=repeats(100, 300))
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SEED)),
            st.integers(0, 6),
            st.text(alphabet="[]{}:,-?!&*|>'\"%@`#\n\t \\~é\ud800\0a1\ufeff", max_size=8),
        ),
        max_size=8,
    )
)
@example([(0, 0, "[" * 8)])
def test_mutated_texts_end_in_a_value_or_a_sentence(edits: list[tuple[int, int, str]]) -> None:
    text = SEED
    for at, cut, new in edits:
        text = text[:at] + new + text[at + cut :]
    try:
        value = yamltext.load(text, "t")
    except FormatError as error:
        value = error.message
    assert value is None or isinstance(value, dict | list | str | int | float | bool)


def test_the_slow_parser_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml."""
    import yaml

    texts = [SEED.replace(", *a", ""), "a: [1, b, {c: ~}]\n", "- 1\n- '2'\n"]
    fast = [yamltext.load(text, "t") for text in texts]
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert [yamltext.load(text, "t") for text in texts] == fast
    with pytest.raises(FormatError):
        yamltext.load("[" * DEEP, "t")


@pytest.mark.parametrize("folder", ["mot_test_data", "osai", "os_ai_map"])
def test_real_records(shared_data: Callable[[str], Path], folder: str) -> None:
    """Every record of three indexes is read, with all its texts as PyYAML reads them."""
    import yaml

    for name in LISTED:
        if not name.startswith(f"openness/{folder}/"):
            continue
        text = shared_data(name).read_text(encoding="utf-8")
        assert _texts(yamltext.load(text, name)) == _texts(yaml.load(text, Loader=yaml.CBaseLoader))


def _texts(value: Any) -> list[str]:
    """All texts in a value that hold a letter and are no word for a value."""
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *_texts(one))]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    known = ("true", "false", "yes", "no", "on", "off", "null")
    wanted = isinstance(value, str) and re.search("[a-z]", value) and value.lower() not in known
    return [value] if wanted else []
