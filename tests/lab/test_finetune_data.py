"""Training data: every format is found and read, and every bad row has a sentence with its line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import FormatError, NotFound, OvertError
from overt.lab.finetune import data, formats
from overt.lab.finetune.example import Example, Pair
from overt.lab.finetune.item import Choice, Prose, Talk

ASK = {"role": "user", "content": "Q"}
SAY = {"role": "assistant", "content": "A"}
GOOD: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"messages": [ASK, SAY]},
        {"messages": [{"role": "system", "content": "S"}, ASK, SAY, ASK, SAY]},
        {"messages": [ASK, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]},
        {
            "tools": [{"type": "function", "function": {"name": "add"}}],
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}],
                },
                {"role": "tool", "content": "3", "tool_call_id": "1"},
                SAY,
            ],
        },
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {
            "system": "S",
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "A"},
            ],
        },
    ],
    "alpaca": [
        {"instruction": "I", "input": "", "output": "O"},
        {"instruction": "I", "input": "N", "output": "O"},
        {"instruction": "I", "output": "O"},
    ],
    "completion": [
        {"prompt": "P", "completion": "C"},
        {"question": "P", "answer": "C"},
        {"prompt": [ASK], "completion": [SAY]},
    ],
    "text": [{"text": "T"}],
    "preference": [
        {"prompt": "P", "chosen": "C", "rejected": "R"},
        {"prompt": [ASK], "chosen": [SAY], "rejected": [{**SAY, "content": "B"}]},
        {"chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "B"}]},
    ],
}


def written(folder: Path, *rows: object, name: str = "d.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_is_found_and_read(name: str, tmp_path: Path) -> None:
    found = data.read(written(tmp_path, *GOOD[name]))
    assert (found.format, len(found.lines), found.doubled) == (name, len(GOOD[name]), 0)
    assert [one.line for one in found.lines] == list(range(1, len(GOOD[name]) + 1))
    kind = {"answers": Talk, "text": Prose, "preference": Choice}[found.kind]
    assert all(isinstance(one.item, kind) for one in found.lines)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_example_of_a_format_is_of_it(name: str, tmp_path: Path) -> None:
    row = json.loads(formats.named(name).EXAMPLE.replace('"rejected": "…"', '"rejected": "x"'))
    assert data.read(written(tmp_path, row)).format == name


def test_other_kinds_of_file(tmp_path: Path) -> None:
    rows = [{"prompt": "P", "completion": "C"}, {"prompt": "p", "completion": "c"}]
    whole = tmp_path / "d.json"
    whole.write_text(json.dumps(rows), "utf-8")
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    table = tmp_path / "d.csv"
    table.write_text('prompt,completion\nP,C\n"p",c\n', "utf-8")
    items = [[one.item for one in data.read(path).lines] for path in (whole, packed, table)]
    assert items[0] == items[1] == items[2]
    text = tmp_path / "d.txt"
    text.write_text("All of it.\n\nThis too.", "utf-8")
    assert data.read(text).lines[0].item == Prose("All of it.\n\nThis too.")
    copied = tmp_path / "c0ffee"
    copied.write_bytes(packed.read_bytes())
    assert len(data.read(copied, name="data.jsonl.gz").lines) == 2


BAD = [
    ({"messages": [ASK]}, "ends with the user's turn"),
    ({"messages": []}, "has no turns"),
    ({"messages": "x"}, "has messages that are no list"),
    ({"messages": [ASK, {**SAY, "content": " "}]}, r"has an empty answer \(turn 2\)"),
    ({"messages": [{**ASK, "role": "boss"}, SAY]}, "has a turn of the role 'boss'"),
    ({"messages": [SAY]}, r"has the assistant's turn first \(turn 1\)"),
    ({"messages": [ASK, ASK, SAY]}, r"has the user's turn after the user's turn \(turn 2\)"),
    ({"messages": [ASK, SAY, {"role": "tool", "content": "x"}]}, "has a tool's result after"),
    ({"messages": [ASK, {"role": "system", "content": "x"}, SAY]}, "has its system turn at 2"),
    ({"messages": [{"content": "x"}]}, "has no 'role' in turn 1"),
    ({"messages": [ASK, {**SAY, "content": 3}]}, "has a content in turn 2 that is no text"),
    ({"messages": [{**ASK, "content": [{"type": "image_url"}]}, SAY]}, "has 'image_url' in turn 1"),
    ({"messages": [ASK, {**SAY, "content": "a\0"}]}, "has a NUL character in its 'content'"),
    ({"messages": [ASK, {**SAY, "content": "\ud800"}]}, "has half a character"),
    (
        {"messages": [ASK, {"role": "assistant", "tool_calls": [{}]}]},
        "has a call in turn 2 without a function's name",
    ),
    ({"prompt": "x"}, "has columns prompt"),
    ({"other": 1}, "has columns other"),
]


@pytest.mark.parametrize(("row", "sentence"), BAD)
def test_a_bad_row_has_its_line(row: object, sentence: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"messages": [ASK, SAY]}, {"messages": [ASK, SAY]}, row)
    if "columns" in sentence:
        sentence = "has (columns|prompts and completions)"
    with pytest.raises(FormatError, match=f"^line 3 of .*d.jsonl {sentence}") as caught:
        data.read(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "P"}, "has no 'completion'"),
        ({"prompt": "P", "completion": ""}, "has an empty 'completion'"),
        ({"prompt": "P", "completion": 3}, "has a 'completion' that is no text"),
        ({"prompt": [ASK], "completion": "C"}, "has a list for one of"),
        ({"instruction": "I"}, "has no 'output'"),
        ({"instruction": "I", "input": 3, "output": "O"}, "has an 'input' that is no text"),
        ({"conversations": [{"from": "dog", "value": "x"}]}, "has a turn 1 of 'dog'"),
        ({"conversations": [{"from": "human"}]}, "has no text 'value' in turn 1"),
        ({"text": ""}, "has an empty 'text'"),
        ({"prompt": "P", "chosen": "C"}, "has no 'rejected'"),
        ({"prompt": "P", "chosen": "C", "rejected": "C"}, "has the same text as"),
        ({"chosen": "C", "rejected": "R"}, "has no 'prompt'"),
        ({"other": "x"}, "has the columns other, which are of no format"),
    ],
)
def test_a_bad_first_row(row: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"^line 1 of .*d.jsonl {sentence}") as caught:
        data.read(written(tmp_path, row))
    assert caught.value.hint


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for content, sentence in (
        (
            b'{"text": "a"}\n{"text": \n',
            'line 2 of .* is not JSON: .* at character 10; write ."text',
        ),
        (b'{"text": "a"}\n[1]\n', "line 2 of .* is a JSON list and an object is expected"),
        (b'{"text": "a"}\n\n{"text": "\xff"}', r"line 3 of .* is not UTF-8 text"),
        (b'{"text": "a"}\n\0', "line 2 of .* has a NUL character"),
        (b"\n\n", "has no rows"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=sentence):
            data.read(path)
    with pytest.raises(NotFound):
        data.read(tmp_path / "none.jsonl")


def test_rows_that_come_twice_are_counted(tmp_path: Path) -> None:
    assert data.read(written(tmp_path, {"text": "a"}, {"text": "b"}, {"text": "a"})).doubled == 1


def test_no_row_is_held_out_and_learnt() -> None:
    examples = [Example([1, at % 20, 3], [False, True, True], at) for at in range(100)]
    train, held = data.split(examples, 0.2, seed=3)
    assert (len(train), len(held)) == (80, 4)
    assert not {tuple(one.ids) for one in train} & {tuple(one.ids) for one in held}
    assert data.split(examples, 0.2, seed=3) == (train, held)
    assert data.split(examples, 0.2, seed=4) != (train, held)
    assert data.split(examples, 0.0, seed=3)[1] == []
    pairs = [Pair([1], [at], [3], at) for at in range(10)]
    assert len(data.split(pairs, 0.01, seed=0)[1]) == 1
    kept, twice = data.apart(examples, held)
    assert (len(kept), twice) == (80, 20)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["messages", "conversations", "instruction", "input", "output", "prompt", "completion",
     "chosen", "rejected", "text", "tools", "system", "role", "content", "from", "value"]
)  # fmt: skip
_ROWS = st.recursive(
    _JSON | st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=14,
)


def refused(path: Path) -> str:
    """Why the file is not read, or that it was; anything but one of our errors is a fault."""
    try:
        return f"line {len(data.read(path).lines)} of it was read"
    except OvertError as error:
        return f"{error.message}; {error.hint}"


@settings(max_examples=repeats(60, 150))
@given(row=st.dictionaries(_KEYS, _ROWS, min_size=1, max_size=5))
def test_any_row_is_read_or_refused(row: dict[str, Any], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / "d.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    assert "line 1 of" in refused(path)


@settings(max_examples=100)
@given(at=st.integers(0, 400), with_=st.binary(max_size=4))
def test_any_bytes_are_read_or_refused(at: int, with_: bytes, tmp_path_factory: Any) -> None:
    whole = "\n".join(json.dumps(row) for row in GOOD["chat"]).encode()
    path = tmp_path_factory.mktemp("bytes") / "d.jsonl"
    path.write_bytes(whole[:at] + with_ + whole[at + 1 :])
    refused(path)
