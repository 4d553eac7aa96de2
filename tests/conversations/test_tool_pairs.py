"""Calls of tools that came with an export: paired up, and told as text where none is declared."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import (
    ImagePart,
    Message,
    Request,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.conversations import base
from overt.conversations.base import Conversation
from overt.conversations.calls import MISSING, repair_tool_calls, spoken
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.gemini.dialect import Gemini
from overt.providers.openai.dialect import OpenAI

ARTIFACT = [
    {"uuid": "u", "name": "Ducks", "chat_messages": [
        {"sender": "human", "content": [{"type": "text", "text": "Draw a duck."}]},
        {"sender": "assistant", "content": [
            {"type": "text", "text": "Here."},
            {"type": "tool_use", "id": None, "name": "artifacts", "input": {"content": "<svg/>"}},
        ]},
    ]},
]  # fmt: skip


def _chatgpt(*said: tuple[str, str, str, str | None, str]) -> list[Any]:
    nodes: dict[str, Any] = {}
    for number, (role, kind, text, name, recipient) in enumerate(said):
        content = {"text": text} if kind != "text" else {"parts": [text]}
        nodes[str(number)] = {
            "parent": str(number - 1),
            "children": [str(number + 1)] if number + 1 < len(said) else [],
            "message": {
                "author": {"role": role, "name": name},
                "content": {"content_type": kind, **content},
                "recipient": recipient,
            },
        }
    return [{"title": "T", "mapping": nodes, "current_node": str(len(said) - 1)}]


CODE = _chatgpt(
    ("user", "text", "6 * 7?", None, "all"),
    ("assistant", "code", "6*7", None, "all"),  # nobody is named, as in old exports
    ("tool", "execution_output", "42", None, "all"),
    ("assistant", "code", "7*7", None, "python"),
    ("tool", "execution_output", "49", "python", "all"),
    ("assistant", "code", "8*8", None, "python"),
    ("tool", "execution_output", "64", "python", "all"),
    ("assistant", "code", "print()", None, "all"),  # code to read, and no call
    ("tool", "text", "stray", "browser", "all"),
)


def _read(tmp_path: Path, value: Any) -> Conversation:
    file = tmp_path / "in.json"
    file.write_text(json.dumps(value))
    return base.read(file, Counter())[1][0]


def test_a_call_without_a_result_gets_one(tmp_path: Path) -> None:
    one = _read(tmp_path, ARTIFACT)
    call = ToolCallPart("call_1", "artifacts", '{"content": "<svg/>"}')
    assert one.messages[1:] == (
        Message("assistant", (TextPart("Here."), call)),
        Message("tool", (ToolResultPart("call_1", MISSING),)),
    )


def test_chatgpts_code_is_a_call_and_the_next_of_its_tool_the_result(tmp_path: Path) -> None:
    one = _read(tmp_path, CODE[:1])
    calls = [part for m in one.messages for part in m.parts if isinstance(part, ToolCallPart)]
    results = [part for m in one.messages for part in m.parts if isinstance(part, ToolResultPart)]
    assert [(call.name, call.arguments) for call in calls] == [
        ("tool", "6*7"), ("python", "7*7"), ("python", "8*8"), ("browser", "print()"),
    ]  # fmt: skip
    assert [result.content for result in results] == ["42", "49", "64", "stray"]
    assert [call.id for call in calls] == [result.id for result in results]
    assert len({call.id for call in calls} - {""}) == 4
    line = json.loads(base.write([one], "openai", Counter()))
    ids = [row["tool_call_id"] for row in line["messages"] if row["role"] == "tool"]
    assert ids == [call.id for call in calls]


def test_what_belongs_to_nothing_becomes_text() -> None:
    assert repair_tool_calls(
        [
            Message("tool", (ToolResultPart("a", "early"),)),
            Message("user", (ToolCallPart("a", "f", "{}"),)),
            Message("assistant", (ToolCallPart("a", "f", "{}"),)),
            Message("tool", (ToolResultPart("b", "of another", True),)),
        ]
    ) == (
        Message.of("assistant", "(a tool returned: early)"),
        Message.of("user", "(f was called: {})"),
        Message("assistant", (ToolCallPart("a", "f", "{}"),)),
        Message("tool", (ToolResultPart("a", MISSING),)),
        Message.of("assistant", "(a tool failed: of another)"),
    )


IDS = st.sampled_from(["", "a", "b", "call_1", "call_2"])
PARTS = st.one_of(
    st.builds(TextPart, st.sampled_from(["", "x", "y"])),
    st.builds(ThoughtPart, st.just("t")),
    st.builds(ImagePart, st.just(b"i"), st.just("image/png")),
    st.builds(ToolCallPart, IDS, st.sampled_from(["", "f"]), st.sampled_from(["{}", "1+1"])),
    st.builds(ToolResultPart, IDS, st.sampled_from(["", "r"]), st.booleans()),
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGES = st.lists(st.builds(Message, ROLES, st.lists(PARTS, max_size=4).map(tuple)), max_size=6)


@given(MESSAGES)
def test_whatever_comes_is_sound(messages: list[Message]) -> None:
    found = repair_tool_calls(messages)
    seen: set[str] = set()
    waiting: list[str] = []
    for message in found:
        if message.role == "tool":
            (part,) = message.parts
            assert isinstance(part, ToolResultPart)
            assert part.id == waiting.pop(0), "results follow their calls, in order"
            continue
        assert not waiting, "a call has no result behind it"
        for part in message.parts:
            assert not isinstance(part, ToolResultPart)
            if isinstance(part, ToolCallPart):
                assert (message.role, bool(part.name)) == ("assistant", True)
                assert part.id
                assert part.id not in seen
                seen.add(part.id)
                waiting.append(part.id)
    assert not waiting
    assert repair_tool_calls(found) == found
    told = spoken(messages)
    assert not any(
        isinstance(part, ToolCallPart | ToolResultPart) for one in told for part in one.parts
    )
    roles = [one.role for one in told]
    assert "tool" not in roles
    assert ("assistant", "assistant") not in pairwise(roles)


def test_nothing_is_lost_where_no_tool_is_declared(tmp_path: Path) -> None:
    user, answer = spoken(_read(tmp_path, CODE).messages[:5])
    assert len(answer.parts) == 1, "some providers make a message of each text"
    assert user == Message.of("user", "6 * 7?")
    assert answer.text == (
        "(tool was called: 6*7)\n\n(tool returned: 42)\n\n"
        "(python was called: 7*7)\n\n(python returned: 49)"
    )


@pytest.mark.parametrize("value", [ARTIFACT, CODE])
@pytest.mark.parametrize("dialect", [OpenAI(), Anthropic(), Gemini()])
def test_every_provider_gets_text_and_no_call(tmp_path: Path, value: Any, dialect: Any) -> None:
    said = spoken(_read(tmp_path, value).messages)
    request = Request("m", (*said, Message.of("user", "Go on.")), max_tokens=9)
    body = dialect.post(request, "m")[0].body.decode()
    for word in ("tool_call", "tool_use", "tool_result", "functionCall", "functionResponse"):
        assert word not in body
    assert "was called: " in body


def test_a_missing_result_is_not_told_as_one(tmp_path: Path) -> None:
    answer = spoken(_read(tmp_path, ARTIFACT).messages)[1].text
    assert answer == 'Here.\n\n(artifacts was called: {"content": "<svg/>"})'


def test_texts_and_thoughts_between_calls_keep_their_order() -> None:
    call = ToolCallPart("a", "f", "{}")
    said = [
        Message("assistant", (ThoughtPart("t"), TextPart("Let me see."), call)),
        Message("tool", (ToolResultPart("a", "1"),)),
        Message("assistant", (ThoughtPart("u"), TextPart("One."))),
    ]
    assert spoken(said) == (
        Message(
            "assistant",
            (
                ThoughtPart("t"),
                TextPart("Let me see.\n\n(f was called: {})\n\n(f returned: 1)"),
                ThoughtPart("u"),
                TextPart("\n\nOne."),
            ),
        ),
    )
    plain = (Message.of("user", "a"), Message("assistant", (TextPart("b"), TextPart("c"))))
    assert spoken(plain) == plain


def test_a_projects_instructions_and_empty_conversations_are_counted(tmp_path: Path) -> None:
    project = {"name": "Garden", "prompt_template": "Be green.", "docs": [{"content": "b"}]}
    file = tmp_path / "projects.json"
    file.write_text(json.dumps([project, {"name": "Bare", "prompt_template": "", "docs": []}]))
    lost: Counter[str] = Counter()
    assert base.read(file, lost) == ("claude", [])
    assert +lost == {
        "instructions of the project Garden": 1,
        "documents of the project Garden": 1,
    }
    file.write_text(json.dumps([*CODE, {"title": "Empty", "mapping": {}}]))
    lost = Counter()
    assert len(base.read(file, lost)[1]) == 1
    assert lost[base.EMPTY] == 1
