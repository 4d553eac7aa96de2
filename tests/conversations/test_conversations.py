"""Conversations of other programs: what is read, what is written, and what is told to be lost."""

import base64
import json
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import (
    ImagePart,
    Message,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.conversations import base
from overt.conversations.base import FORMATS, Conversation, Lost
from overt.errors import FormatError, NotFound, OvertError

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def _node(id: str, parent: str | None, children: list[str], message: Any = None) -> dict[str, Any]:
    return {"id": id, "message": message, "parent": parent, "children": children}


def _said(role: str, *parts: Any, kind: str = "text", **more: Any) -> dict[str, Any]:
    return {
        "author": {"role": role, "name": more.pop("name", None)},
        "content": {"content_type": kind, "parts": list(parts), **more.pop("content", {})},
        "metadata": {"model_slug": "gpt-9"} if role == "assistant" else {},
        "recipient": more.pop("recipient", "all"),
    }


CHATGPT = [
    {
        "title": "Ducks & eggs",
        "create_time": 1_700_000_000.5,
        "current_node": "e",
        "conversation_id": "c-1",
        "mapping": {
            "root": _node("root", None, ["s"]),
            "s": _node("s", "root", ["a"], _said(
                "system", kind="user_editable_context",
                content={"user_profile": "I am a farmer.", "user_instructions": "Be brief."},
            )),
            "a": _node("a", "s", ["b", "other"], _said(
                "user",
                {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_abc123"},
                {"content_type": "image_asset_pointer", "asset_pointer": "file-service://gone42x"},
                "How many eggs?", kind="multimodal_text",
            )),
            "other": _node("other", "a", [], _said("assistant", "Forty.")),
            "b": _node("b", "a", ["t"], _said(
                "assistant", kind="thoughts",
                content={"thoughts": [{"summary": "count", "content": "I count them."}]},
            )),
            "t": _node("t", "b", ["r"], _said("assistant", "1+1", recipient="python")),
            "r": _node("r", "t", ["e"], _said("tool", "2", name="python")),
            "e": _node("e", "r", [], _said("assistant", "Sixteen.")),
        },
    }
]  # fmt: skip

CLAUDE = [
    {
        "uuid": "u-1", "name": "", "created_at": "2026-01-02T03:04:05+02:00",
        "chat_messages": [
            {"sender": "human", "text": "old", "content": [{"type": "text", "text": "What is it?"}],
             "attachments": [{"file_name": "a.txt", "extracted_content": "the file"}],
             "files": [{"file_name": "b.png"}]},
            {"sender": "assistant", "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"q": 1}},
                {"type": "tool_result", "tool_use_id": "t1", "is_error": True,
                 "content": [{"type": "text", "text": "nothing"}, {"type": "image"}]},
                {"type": "text", "text": "I do not know."}, {"type": "flag"}]},
            {"sender": "human", "text": "Only flat text."},
            {"sender": "robot", "text": "?"},
        ],
    }
]  # fmt: skip


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_chatgpts_zip_is_read_along_the_branch_that_was_shown(tmp_path: Path) -> None:
    export = _zip(
        tmp_path / "export.zip",
        {
            "user.json": b'{"id": 1}',
            "conversations.json": json.dumps(CHATGPT).encode(),
            "file_abc123-sanitized.png": PNG,
        },
    )
    lost: Lost = Counter()
    format, (one,) = base.read(export, lost)
    assert format == "chatgpt"
    assert (one.title, one.id, one.model) == ("Ducks & eggs", "c-1", "gpt-9")
    assert one.created == "2023-11-14T22:13:20Z"
    assert one.messages == (
        Message.of("system", "I am a farmer.\n\nBe brief."),
        Message("user", (ImagePart(PNG, "image/png"), TextPart("How many eggs?"))),
        Message("assistant", (ThoughtPart("I count them."),)),
        Message("assistant", (ToolCallPart("python", "python", "1+1"),)),
        Message("tool", (ToolResultPart("python", "2"),)),
        Message.of("assistant", "Sixteen."),
    )
    assert +lost == {"message of another branch": 1, "image that is not in the file": 1}


def test_claudes_export_is_read_block_by_block(tmp_path: Path) -> None:
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps(CLAUDE))
    lost: Lost = Counter()
    format, (one,) = base.read(file, lost)
    assert format == "claude"
    assert (one.title, one.created) == ("[a.txt] the file What is it?", "2026-01-02T01:04:05Z")
    assert one.messages == (
        Message("user", (TextPart("[a.txt]\nthe file\n"), TextPart("What is it?"))),
        Message("assistant", (ThoughtPart("hm"), ToolCallPart("t1", "look", '{"q": 1}'))),
        Message("tool", (ToolResultPart("t1", "nothing", True),)),
        Message.of("assistant", "I do not know."),
        Message.of("user", "Only flat text."),
    )
    assert +lost == {
        "file that is not in the export": 1,
        "result of the kind image": 1,
        "block of the kind flag": 1,
        "message of robot": 1,
    }


def test_openais_lines_and_sharegpt_are_told_apart(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        '{"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": '
        '[{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "https://x/y"'
        '}}]}], "weight": 1}\n\n{"messages": [{"role": "assistant", "content": null, "tool_calls": '
        '[{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", '
        '"tool_call_id": "1", "content": "ok"}]}\n'
    )
    lost: Lost = Counter()
    format, (first, second) = base.read(lines, lost)
    assert format == "openai"
    assert first.messages == (Message.of("system", "Be kind."), Message.of("user", "Hi"))
    assert second.messages == (
        Message("assistant", (ToolCallPart("1", "f", "{}"),)),
        Message("tool", (ToolResultPart("1", "ok"),)),
    )
    assert +lost == {"field weight": 1, "image that is not in the file": 1}
    shared = tmp_path / "b.json"
    shared.write_text(
        '[{"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": '
        '"function_call", "value": "{\\"name\\": \\"f\\", \\"arguments\\": {\\"a\\": 1}}"}, '
        '{"from": "observation", "value": "2"}, {"from": "gpt", "value": "Two."}]}]'
    )
    format, (one,) = base.read(shared, Counter())
    assert format == "sharegpt"
    assert one.messages == (
        Message.of("system", "Be brief."),
        Message.of("user", "Hi"),
        Message("assistant", (ToolCallPart("call_1", "f", '{"a": 1}'),)),
        Message("tool", (ToolResultPart("call_1", "2"),)),
        Message.of("assistant", "Two."),
    )


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


@pytest.mark.parametrize("format", FORMATS[:-1])
@given(turns=TURNS, system=TEXT, title=TEXT)
def test_what_was_said_survives_every_format(
    tmp_path_factory: pytest.TempPathFactory,
    format: str,
    turns: list[tuple[str, str]],
    system: str,
    title: str,
) -> None:
    said = [Message.of("system", system)]
    for asked, answered in turns:
        said += [
            Message.of("user", asked),
            Message("assistant", (ToolCallPart("call_1", "f", '{"a":1}'),)),
            Message("tool", (ToolResultPart("call_1", answered),)),
            Message.of("assistant", answered),
        ]
    lost: Lost = Counter()
    data = base.write([Conversation(title, tuple(said), id="c", created="")], format, lost)
    assert data == base.write([Conversation(title, tuple(said), id="c")], format, Counter())
    file = tmp_path_factory.mktemp("written") / "out.json"
    file.write_bytes(data)
    found, (one,) = base.read(file, Counter())
    assert found == format
    expected = said[1:] if format == "claude" else said
    assert [m.text for m in one.messages if m.role in ("user", "system")] == [
        m.text for m in expected if m.role in ("user", "system")
    ]
    answers = [m.text for m in one.messages if m.role == "assistant" and m.text]
    assert answers == [answered for _, answered in turns]
    results = [p.content for m in one.messages for p in m.parts if isinstance(p, ToolResultPart)]
    assert results == [answered for _, answered in turns]
    assert (+lost).keys() == (
        {"system prompt, which Claude's format has no place for"} if format == "claude" else set()
    )


def test_markdown_is_for_people() -> None:
    lost: Lost = Counter()
    one = Conversation(
        "T", (Message.of("user", "Hi"), Message("assistant", (ThoughtPart("a\nb"), TextPart("x"))))
    )
    told = base.write([one], "markdown", lost).decode()
    assert told == "# T\n\n**You**\n\nHi\n\n**Answer**\n\n> a\n> b\n\nx\n"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from([
            "mapping", "chat_messages", "conversations", "messages", "content", "parts", "role",
            "message", "author", "parent", "children", "current_node", "content_type", "from",
            "value", "sender", "type", "text", "tool_calls", "function", "title", "create_time",
        ]) | st.text(max_size=4), inner, max_size=5,
    ),
    max_leaves=30,
)  # fmt: skip


@pytest.mark.parametrize("format", FORMATS[:-1])
@given(value=JUNK)
def test_whatever_comes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, format: str, value: Any
) -> None:
    file = tmp_path_factory.mktemp("junk") / "in.json"
    file.write_text(json.dumps(value, allow_nan=False, default=str) if _finite(value) else "[]")
    with suppress(OvertError):  # anything else fails
        base.read(file, Counter(), format)


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def test_bombs_and_torn_files_are_refused(tmp_path: Path) -> None:
    bomb = _zip(tmp_path / "bomb.zip", {"conversations.json": b"[" + b" " * (40 << 20) + b"]"})
    with pytest.raises(FormatError, match="unpacks to more than"):
        base.read(bomb, Counter())
    torn = tmp_path / "torn.zip"
    torn.write_bytes(bomb.read_bytes()[: bomb.stat().st_size // 2])
    with pytest.raises(FormatError, match="damaged zip"):
        base.read(torn, Counter())
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(FormatError, match="is not JSON"):
        base.read(deep, Counter())
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"messages": []}\n{"messages": [}\n')
    with pytest.raises(FormatError, match=r"line 2 of lines\.jsonl"):
        base.read(lines, Counter())
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    with pytest.raises(FormatError, match="no conversations in a format"):
        base.read(other, Counter())
    with pytest.raises(NotFound):
        base.read(tmp_path / "missing.zip", Counter())


def test_a_circle_of_nodes_ends(tmp_path: Path) -> None:
    file = tmp_path / "circle.json"
    nodes = {
        "a": _node("a", "b", ["b"], _said("user", "x")),
        "b": _node("b", "a", ["a"], _said("assistant", "y")),
    }
    file.write_text(json.dumps([{"title": 3, "mapping": nodes, "current_node": "b"}]))
    _, (one,) = base.read(file, Counter())
    assert [message.text for message in one.messages] == ["x", "y"]
