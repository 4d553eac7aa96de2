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
from overt.lab.finetune import data, formats, prepare
from overt.lab.finetune.example import Example, PreferenceExample
from overt.lab.finetune.render import Rendered
from overt.lab.finetune.row import Dialogue, PreferencePair, Prose

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
        {"instruction": "I", "context": "N", "response": "O"},
        {"instruction": "I", "output": "O", "history": [["Q", "A"]], "system": "S"},
    ],
    "completion": [
        {"prompt": "P", "completion": "C"},
        {"question": "P", "answer": "C"},
        {"prompt": [ASK], "completion": [SAY]},
        {"system_prompt": "S", "question": "Q", "response": "A"},
        {"input": "P", "output": "C"},
    ],
    "text": [{"text": "T"}],
    "preference": [
        {"prompt": "P", "chosen": "C", "rejected": "R"},
        {"prompt": [ASK], "chosen": [SAY], "rejected": [{**SAY, "content": "B"}]},
        {"chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "B"}]},
        {"instruction": "I", "input": "N", "chosen": "C", "rejected": "R"},
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "C"},
            "rejected": {"from": "gpt", "value": "R"},
        },
        {
            "input": {"messages": [ASK]},
            "preferred_output": [SAY],
            "non_preferred_output": [{**SAY, "content": "B"}],
        },
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
    assert not found.unread
    kind = {"answers": Dialogue, "text": Prose, "preference": PreferencePair}[found.kind]
    assert all(isinstance(one.item, kind) for one in found.lines)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_example_of_a_format_is_of_it(name: str, tmp_path: Path) -> None:
    row = json.loads(formats.find(name).EXAMPLE.replace('"rejected": "…"', '"rejected": "x"'))
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
    for content in ("\n".join(map(json.dumps, rows)), "\r\n" + json.dumps(rows[0]) + " \r\n"):
        whole.write_bytes(content.encode())  # lines of JSON under the name of a list
        found = [one.item for one in data.read(whole).lines]
        assert found == items[0][: len(found)]
        assert found
    whole.write_text(json.dumps(rows[0], indent=1), "utf-8")
    with pytest.raises(FormatError, match="holds a JSON object and a list of objects is expected"):
        data.read(whole)
    text = tmp_path / "d.txt"
    text.write_bytes(b"One.\r\n\r\nTwo.\r\n\rThree.")
    assert data.read(text).lines[0].item == Prose("One.\n\nTwo.\n\rThree.")
    text.write_text("All of it.\n\nThis too.", "utf-8")
    assert data.read(text).lines[0].item == Prose("All of it.\n\nThis too.")
    copied = tmp_path / "c0ffee"
    copied.write_bytes(packed.read_bytes())
    assert len(data.read(copied, name="data.jsonl.gz").lines) == 2


def turns(row: dict[str, Any], folder: Path) -> list[str]:
    """The turns of a row in short: ``system:S``, of a pair those of the chosen answer."""
    item = data.read(written(folder, row)).lines[0].item
    found = item.chosen if isinstance(item, PreferencePair) else item
    assert isinstance(found, Dialogue)
    return [f"{one['role']}:{one['content']}" for one in found.turns]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "I", "context": "N", "response": "O"}, "user:I\n\nN assistant:O"),
        (
            {"instruction": "I", "output": "O", "history": [["Q", "A"]], "system": "S"},
            "system:S user:Q assistant:A user:I assistant:O",
        ),
        ({"instruction": "I", "system_prompt": "S", "output": "O"}, "system:S user:I assistant:O"),
        ({"prompt": "P", "response": "R", "system": "S"}, "system:S user:P assistant:R"),
        (
            {"system_prompt": "S", "question": "Q", "response": "A"},
            "system:S user:Q assistant:A",
        ),
        ({"query": "Q", "response": "A"}, "user:Q assistant:A"),
        ({"messages": [ASK, SAY], "system": "S"}, "system:S user:Q assistant:A"),
        (
            {"messages": [{"role": "system", "content": "S"}, ASK, SAY], "system": "S"},
            "system:S user:Q assistant:A",
        ),
        ({"messages": [{"role": "human", "content": "Q"}, SAY]}, "user:Q assistant:A"),
        ({"conversations": [ASK, SAY]}, "user:Q assistant:A"),
        ({"conversation": [{"role": "user", "value": "Q"}, SAY]}, "user:Q assistant:A"),
        (
            {"instruction": "I", "input": "N", "chosen": "C", "rejected": "R", "system": "S"},
            "system:S user:I\n\nN assistant:C",
        ),
        (
            {
                "conversations": [ASK, SAY, {"from": "human", "value": "Q2"}],
                "chosen": {"from": "gpt", "value": "C"},
                "rejected": {"from": "gpt", "value": "R"},
            },
            "user:Q assistant:A user:Q2 assistant:C",
        ),
        (
            {
                "prompt": "Q ",
                "chosen": [{"role": "system", "content": "S"}, ASK, SAY],
                "rejected": [{"role": "system", "content": "S"}, ASK, {**SAY, "content": "B"}],
                "messages": [ASK, SAY],
            },
            "system:S user:Q assistant:A",
        ),
        (
            {
                "prompt": [{"role": "system", "content": "S"}, ASK],
                "chosen": [ASK, SAY],
                "rejected": [ASK, {**SAY, "content": "B"}],
            },
            "system:S user:Q assistant:A",
        ),
        ({"input": "Q", "chosen": "C", "rejected": "R"}, "user:Q assistant:C"),
        (
            {"messages": [ASK], "chosen": "C", "rejected": "R"},
            "user:Q assistant:C",
        ),
    ],
)
def test_what_other_programs_write(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert " ".join(turns(row, tmp_path)) == said


def test_functions_are_tools(tmp_path: Path) -> None:
    row = {"messages": [ASK, SAY], "functions": [{"name": "add"}]}
    found = data.read(written(tmp_path, row)).lines[0].item
    assert isinstance(found, Dialogue)
    assert found.tools == ({"type": "function", "function": {"name": "add"}},)


def test_a_prompt_without_a_template_has_the_system_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "P", "completion": "C", "system": "S"},
        {"question": "P", "answer": "C"},
        {"prompt": "P", "chosen": "C", "rejected": "R", "system": "S"},
        {"instruction": "P", "output": "C", "history": [["Q", "A"]]},
        {"instruction": "P", "output": "C", "system": "S"},
    ]
    found = []
    for row in rows:
        item = data.read(written(tmp_path, row)).lines[0].item
        found.append(item.chosen if isinstance(item, PreferencePair) else item)
    plain = [one.plain for one in found if isinstance(one, Dialogue)]
    assert plain[:4] == [("S\n\nP", "C"), ("P\n", "C"), ("S\n\nP", "C"), None]
    assert plain[4] is not None
    assert plain[4][0].startswith("S\n\nBelow is an instruction")


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{**ASK, "name": "Ann"}, SAY], "id": 1, "prompt": "Q", "note": None},
        {"messages": [ASK, {**SAY, "refusal": None, "audio": {"id": 1}}], "id": 2, "list": []},
        {"messages": [{**ASK, "name": "Bob"}, SAY], "id": 0, "messages ": "x", "label": True},
        {"messages": [{**ASK, "train": True, "weight": 0}, {**SAY, "weight": None}]},
    ]
    assert data.read(written(tmp_path, *rows)).unread == {
        "the column 'id'": 3,
        "the column 'messages '": 1,
        "the column 'prompt'": 1,
        "the field 'audio' of turns": 1,
        "the field 'name' of turns": 2,
        "the field 'train' of turns": 1,
    }
    row = {"prompt": "P", "chosen": "C", "rejected": "R", "score": 0.5, "messages": [ASK, SAY]}
    assert data.read(written(tmp_path, row)).unread == {
        "the column 'messages'": 1, "the column 'score'": 1,
    }  # fmt: skip
    row = {"chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "B"}], "messages": [ASK, SAY]}
    assert data.read(written(tmp_path, row)).unread == {"the column 'messages'": 1}
    row = {"instruction": "I", "input": "N", "context": "M", "output": "O", "response": "R"}
    assert list(data.read(written(tmp_path, row)).unread) == [
        "the column 'context'", "the column 'response'",
    ]  # fmt: skip
    assert data.read(written(tmp_path, {"text": "T", "label": False})).unread == {
        "the column 'label'": 1
    }


def test_what_a_person_is_told_of_a_file(tmp_path: Path) -> None:
    rows = [{"text": "T", "id": 1}, {"text": "T", "id": 1}, {"text": "U"}]
    made = Rendered()
    for line in (1, 1, 3):
        made.tell("cut", line)
    made.left["long"] += 1
    assert prepare._notes(data.read(written(tmp_path, *rows)), made) == [
        "the column 'id' is not used; 2 of 3 rows have it",
        "1 rows are the same as an earlier one; they count twice",
        "1 of 3 rows are left out: long",
        "2 of 3 rows: cut",
    ]
    wide = {"text": "T", "\x1b[2J" + "x" * 100: 1} | {f"c{at:03}": at for at in range(25)}
    told = prepare._notes(data.read(written(tmp_path, wide)), Rendered())
    assert told[-1] == "6 more columns are not used"
    assert len(told) == 21
    assert told[0] == f"the column '\\x1b[2J{'x' * 56}' is not used; 1 of 1 rows have it"


def test_marks_on_turns_say_what_is_learnt(tmp_path: Path) -> None:
    told = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", "train": False}]
    rows: list[dict[str, Any]] = [
        {"messages": [ASK, {**SAY, "weight": 0}, ASK, {**SAY, "weight": 1.0}]},
        {"messages": [{**ASK, "train": False}, {**SAY, "train": True, "weight": 0}]},
    ]
    lines = data.read(written(tmp_path, *rows)).lines
    assert [one.item.learnt for one in lines if isinstance(one.item, Dialogue)] == [(3,), ()]
    found = data.read(written(tmp_path, {"conversations": told * 2}))
    assert [one.item.learnt for one in found.lines if isinstance(one.item, Dialogue)] == [()]
    assert not found.unread


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
    ({"messages": [ASK, {**SAY, "weight": 0.5}]}, "has a 'weight' in turn 2 that is neither"),
    ({"messages": [ASK, {**SAY, "train": [1]}]}, "has a 'train' in turn 2 that is neither"),
    ({"messages": [ASK, SAY], "system": 3}, "has a 'system' that is no text"),
    ({"messages": [{**ASK, "role": "system"}, ASK, SAY], "system": "S"}, "has a system turn, and"),
    ({"messages": [ASK, SAY], "functions": 3}, "has tools that are no list"),
    ({"messages": [ASK, SAY], "label": False}, "has an answer that is not wanted"),
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
        ({"chosen": [SAY], "rejected": []}, "has an empty 'rejected'"),
        (
            {
                "prompt": "other",
                "chosen": [ASK, SAY],
                "rejected": [ASK, {**SAY, "content": "B"}],
            },
            "has answers that begin with another prompt than its own",
        ),
        (
            {"chosen": [ASK, SAY, ASK, SAY], "rejected": [ASK, {**SAY, "content": "B"}, ASK, SAY]},
            "has answers that part before their last turn",
        ),
        (
            {"prompt": "Q", "chosen": [{**SAY, "weight": 0}], "rejected": "R"},
            "has an answer that is not to be learnt",
        ),
        ({"instruction": "I", "output": "O", "history": "x"}, "has a 'history' that is no list"),
        (
            {"instruction": "I", "output": "O", "history": [["Q"]]},
            "has an item 1 of 'history' that is no pair",
        ),
        ({"question": "Q", "response": "A", "system_prompt": 1}, "has a 'system_prompt' that is"),
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
    pairs = [PreferenceExample([1], [at], [3], at) for at in range(10)]
    assert len(data.split(pairs, 0.01, seed=0)[1]) == 1
    kept, twice = data.without_held_out(examples, held)
    assert (len(kept), twice) == (80, 20)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["messages", "conversations", "instruction", "input", "output", "prompt", "completion",
     "chosen", "rejected", "text", "tools", "system", "role", "content", "from", "value",
     "history", "context", "question", "response", "weight", "train", "functions", "label",
     "preferred_output", "non_preferred_output", "tool_calls", "reasoning_content"]
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


@settings(max_examples=repeats(60, 300))
@given(
    which=st.sampled_from([(name, at) for name, rows in GOOD.items() for at in range(len(rows))]),
    key=_KEYS, value=_ROWS, more=st.text(max_size=5),
)  # fmt: skip
def test_a_good_row_changed_is_read_or_refused(
    which: tuple[str, int], key: str, value: Any, more: str, tmp_path_factory: Any
) -> None:
    """And a column that no format knows is told, whatever stands in it."""
    row = {**GOOD[which[0]][which[1]], key: value, f"~{more}": "x"}
    path = tmp_path_factory.mktemp("changed") / "d.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    if "was read" in refused(path):
        assert data.read(path).unread[f"the column {f'~{more}'!r}"] == 1


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(GOOD)), at=st.integers(0, 400), with_=st.binary(max_size=4))
def test_any_bytes_are_read_or_refused(
    name: str, at: int, with_: bytes, tmp_path_factory: Any
) -> None:
    whole = "\n".join(json.dumps(row) for row in GOOD[name]).encode()
    path = tmp_path_factory.mktemp("bytes") / ("d.json" if at % 2 else "d.jsonl")
    path.write_bytes(whole[:at] + with_ + whole[at + 1 :])
    refused(path)
