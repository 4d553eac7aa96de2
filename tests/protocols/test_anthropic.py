"""Anthropic's messages: what becomes of a body, and of events, judged by the official types."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anthropic
import anyio
import pydantic
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message as OfficialMessage
from anthropic.types import RawMessageStreamEvent
from anthropic.types.shared.error_type import ErrorType
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_rig import ANSWER, Answered, Services, ask, errors, mutated

from conftest import repeats
from overt.chat import (
    Done,
    Event,
    Failed,
    ImagePart,
    Message,
    Progress,
    Request,
    Routed,
    Sampling,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    Tool,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.errors import Busy, EngineFailed, OvertError, TooMany, WorkerDied
from overt.protocols.anthropic import PROTOCOL
from overt.protocols.anthropic.request import NEW, SIGNATURE, marked

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
IMAGE = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
HELLO = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
WEATHER = {
    "name": "weather",
    "description": "Tell the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
FULL = {
    "model": "m",
    "max_tokens": 5000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "What is"},
            {"type": "text", "text": "this?"},
            {"type": "image", "source": IMAGE},
            {"type": "document", "title": "T",
             "source": {"type": "text", "media_type": "text/plain", "data": "Fact."}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": [
                {"type": "text", "text": "none"}, {"type": "image", "source": IMAGE}]},
            {"type": "text", "text": "And now?"},
        ]},
    ],
    "tools": [WEATHER],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {"effort": "low",
                      "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["END"],
    "metadata": {"user_id": "u"}, "service_tier": "auto", "stream": False,
}  # fmt: skip


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    found = Services(tmp_path, lambda request: ANSWER)
    yield found
    await found.close()


async def post(services: Services, body: Any, **more: Any) -> Answered:
    return await ask(services, PROTOCOL, "POST", "/v1/messages", body, **more)


# ---- requests ------------------------------------------------------------------------------


async def test_a_full_request_loses_nothing(services: Services) -> None:
    assert (await post(services, FULL)).status == 200
    image = ImagePart(PNG, "image/png")
    assert services.asked == [
        Request(
            model="m",
            messages=(
                Message.of("system", "Be brief."),
                Message(
                    "user",
                    (
                        TextPart("What is\nthis?"),
                        image,
                        TextPart('<document title="T">\nFact.\n</document>'),
                    ),
                ),
                Message(
                    "assistant",
                    (
                        ThoughtPart("Hm.", "abc", origin="anthropic"),
                        ThoughtPart("", "xyz", sealed=True, origin="anthropic"),
                        TextPart("I look."),
                        ToolCallPart("toolu_1", "weather", '{"city": "Ulm"}'),
                    ),
                ),
                Message("tool", (ToolResultPart("toolu_1", "none", error=True),)),
                Message("user", (image, TextPart("And now?"))),
            ),
            sampling=Sampling(temperature=0.5, top_p=0.9, top_k=40),
            max_tokens=5000,
            stop=("END",),
            tools=(Tool("weather", "Tell the weather", WEATHER["input_schema"]),),  # type: ignore[arg-type]
            parallel_tools=False,
            json_schema={"type": "object"},
            thinking=True,
            effort="low",
        )
    ]


async def test_own_signatures_are_not_kept(services: Services) -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE}
    assert marked(json.dumps(thinking).encode())
    messages = [HELLO["messages"][0], {"role": "assistant", "content": [thinking]}]  # type: ignore[index]
    await post(services, {**HELLO, "messages": messages})
    assert services.asked[0].messages[1].parts == (ThoughtPart("Hm."),)


@pytest.mark.parametrize("data", ["overt:call:", "overt:call:overt:gemini:eA=="])
async def test_a_signature_of_a_call_that_is_not_there_is_nothing(
    services: Services, data: str
) -> None:
    said = [{"type": "redacted_thinking", "data": data}, {"type": "text", "text": "a"}]
    messages = [HELLO["messages"][0], {"role": "assistant", "content": said}]  # type: ignore[index]
    await post(services, {**HELLO, "messages": messages})
    assert services.asked[0].messages[1].parts == (TextPart("a"),)


async def test_neighbours_of_one_role_are_one_message(services: Services) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    said += [{"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"}]
    said += [{"role": "system", "content": [{"type": "text", "text": "e"}]}]  # type: ignore[dict-item]
    await post(services, {**HELLO, "messages": said})
    roles = [(message.role, message.text) for message in services.asked[0].messages]
    assert roles == [("user", "a\nb"), ("assistant", "cd"), ("system", "e")]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "weather"),
        (None, "auto"),
    ],
)
async def test_tool_choice(services: Services, choice: Any, expected: str) -> None:
    await post(services, {**HELLO, "tools": [WEATHER], "tool_choice": choice})
    assert services.asked[0].tool_choice == expected
    assert services.asked[0].parallel_tools


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "adaptive", "display": "summarized"}, None),
        ({"type": "between_tools"}, None),
        ({"type": "disabled"}, False),
        ({"type": "enabled", "budget_tokens": 1024}, True),
    ],
)
async def test_thinking(services: Services, thinking: Any, expected: bool | None) -> None:
    await post(services, {**HELLO, "max_tokens": 2000, "thinking": thinking})
    assert services.asked[0].thinking is expected


def said(*blocks: Any, role: str = "user") -> Any:
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"foo": 1}, "foo: Extra inputs are not permitted"),
        ({"max_tokens": None}, "max_tokens: Expected `int`"),
        ({"messages": []}, "messages: Expected `array` of length >= 1"),
        ({"model": ""}, "model: Expected `str` of length >= 1"),
        ({"temperature": 3}, "temperature: "),
        ({"container": "c"}, "container: container needs Anthropic's own machines"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers: "),
        ({"stop_sequences": [" "]}, "stop_sequences: each stop sequence must contain"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "max_tokens: max_tokens is 50"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.budget_tokens: "),
        ({"tool_choice": {"type": "any"}}, "tool_choice: tool_choice may only be specified"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice.name: Tool 'x' not found",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools: Tool names must be unique"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: Field required"),
        (
            {"tools": [{"name": "a b", "input_schema": {}}]},
            "tools.0.name: Expected `str` matching regex",
        ),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
            "tools.0.type: the tool web_search_20250305 is Anthropic's own",
        ),
        (
            said({"type": "text", "text": "a", "foo": 1}),
            "messages.0.content.0.foo: Extra inputs are not permitted",
        ),
        (said({"type": "nonsense"}), "messages.0.content.0.type: Invalid value 'nonsense'"),
        (
            said({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}),
            "messages.0.content.0: server_tool_use blocks are made and read by Anthropic's",
        ),
        (
            said({"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}),
            "messages.0.content.0.source: an image is sent as base64",
        ),
        (
            said({"type": "image", "source": {**IMAGE, "data": "AAAA"}}),
            "messages.0.content.0.source.data: the image is not PNG",
        ),
        (
            said({"type": "document", "source": {
                "type": "base64", "media_type": "application/pdf", "data": "AAAA"}}),
            "messages.0.content.0.source: a document is sent as plain text",
        ),
        (
            said({"type": "document", "citations": {"enabled": True}, "source": {
                "type": "text", "media_type": "text/plain", "data": "x"}}),
            "messages.0.content.0.citations: local models make no citations",
        ),
        (
            said({"type": "tool_use", "id": "a", "name": "b", "input": {}}),
            "messages.0.content.0: this block can only be in assistant messages",
        ),
        (
            said({"type": "tool_result", "tool_use_id": "a"}, role="assistant"),
            "messages.0.content.0: tool_result blocks can only be in user messages",
        ),
        (
            said({"type": "tool_use", "id": "a", "name": "b", "input": [1]}, role="assistant"),
            "messages.0.content.0.input: Input should be a valid dictionary",
        ),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: "),
        (
            said({"type": "image", "source": {"type": "file", "file_id": "x"}}),
            "messages.0.content.0.source: an image is sent as base64; this server keeps no files",
        ),
        (
            said({"type": "image", "source": IMAGE}, role="system"),
            "messages.0.content.0: a system message is made of text blocks only",
        ),
    ],
)  # fmt: skip
async def test_refused(services: Services, change: Any, message: str) -> None:
    answered = await post(services, {**HELLO, **change})
    assert answered.status == 400
    error = answered.json
    assert error["type"] == "error"
    assert error["request_id"] == "req_1"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith(message)
    assert not services.asked


async def test_what_is_told_as_text(services: Services) -> None:
    text = {"type": "text", "text": "Fact."}
    blocks = [
        {"type": "search_result", "title": "T", "source": "S", "content": [text]},
        {"type": "document", "source": {"type": "content", "content": "Plain."}},
        {"type": "document", "context": "C", "source": {
            "type": "content", "content": [text, {"type": "image", "source": IMAGE}]}},
        {"type": "image", "source": {
            "type": "url", "url": f"data:image/png;base64,{IMAGE['data']}"}},
    ]  # fmt: skip
    await post(services, {**HELLO, **said(*blocks)})
    image = ImagePart(PNG, "image/png")
    assert services.asked[0].messages[0].parts == (
        TextPart(
            '<search_result title="T" source="S">\nFact.\n</search_result>\n'
            '<document>\nPlain.\n</document>\n<document context="C">\nFact.'
        ),
        image,
        TextPart("</document>"),
        image,
    )


async def test_what_is_said_between_results_stays_there(services: Services) -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "a", "content": "one"},
        {"type": "text", "text": "and"},
        {"type": "tool_result", "tool_use_id": "b"},
    ]
    await post(services, {**HELLO, **said(*blocks)})
    assert services.asked[0].messages == (
        Message("tool", (ToolResultPart("a", "one"),)),
        Message.of("user", "and"),
        Message("tool", (ToolResultPart("b", ""),)),
    )


async def test_a_tool_named_like_a_mode(services: Services) -> None:
    tools = [WEATHER, {**WEATHER, "name": "none"}]
    choice = {"type": "tool", "name": "none"}
    await post(services, {**HELLO, "tools": tools, "tool_choice": choice})
    assert [tool.name for tool in services.asked[0].tools] == ["none"]
    assert services.asked[0].tool_choice == "required"


async def test_bodies_that_are_no_json(services: Services) -> None:
    for body in (b"", b"{", b"[1]", b"\xff", b'"x"', b"[" * 5000):
        assert (await post(services, body)).status == 400
    call = {"type": "tool_use", "id": "a", "name": "b", "input": {"x": "?"}}
    raw = json.dumps({**HELLO, **said(call, role="assistant")}).encode()
    assert (await post(services, raw)).status == 200
    assert (await post(services, raw.replace(b"?", b"\xff"))).status == 400
    deep = json.dumps({**HELLO, "tools": [WEATHER]}).encode()
    deep = deep.replace(b'{"type": "string"}', b'{"a":' * 900 + b"1" + b"}" * 900)
    assert (await post(services, deep)).status in (200, 400)


async def test_versions(services: Services) -> None:
    cited = said({"type": "text", "text": "a", "citations": [{"type": "char_location"}]})
    document = {"type": "document", "source": {
        "type": "text", "media_type": "text/plain", "data": "x"}}  # fmt: skip
    told = {"messages": [*HELLO["messages"], *said(document, role="assistant")["messages"]]}  # type: ignore[misc]
    new = {"anthropic-version": NEW}
    for change, status in ((cited, 400), (told, 400), ({"temperature": 1}, 200)):
        assert (await post(services, {**HELLO, **change})).status == 200
        answered = await post(services, {**HELLO, **change}, headers=new)
        assert answered.status == status
    refused = await post(services, HELLO, headers={"anthropic-version": "2024-01-01"})
    assert refused.status == 400
    assert "anthropic-version" in refused.json["error"]["message"]


async def test_betas_and_their_hints_are_taken(services: Services) -> None:
    hints = {
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_format": {"type": "json_schema", "schema": {"type": "array"}},
        "speed": "fast",
        "inference_geo": "eu",
        "diagnostics": {"previous_message_id": None},
    }
    headers = {"anthropic-beta": "context-management-2025-06-27"}
    assert (await post(services, {**HELLO, **hints}, headers=headers)).status == 200
    assert services.asked[0].json_schema == {"type": "array"}


async def test_threads_are_sent_whole(services: Services) -> None:
    assert (await post(services, {**HELLO, "thread": {"type": "create"}})).status == 200
    held = {"type": "continue", "previous_message_id": "msg_1"}
    answered = await post(services, {**HELLO, "thread": held})
    assert (answered.status, answered.json["error"]["type"]) == (404, "not_found_error")
    assert answered.json["error"]["details"] == {"error_code": "thread_not_found"}


async def test_counting(services: Services) -> None:
    body = {"model": "m", "system": "a b", "messages": [{"role": "user", "content": "c d e"}]}
    counted = await ask(services, PROTOCOL, "POST", "/v1/messages/count_tokens", body)
    assert counted.json == {"input_tokens": 5}
    refused = await ask(
        services, PROTOCOL, "POST", "/v1/messages/count_tokens", {**body, "max_tokens": 4}
    )
    assert refused.status == 400


# ---- answers -------------------------------------------------------------------------------

EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(RawMessageStreamEvent)


def official(value: Any, kind: Any) -> Any:
    """`value` as an official type, with nothing in it that the type does not have."""
    found = kind.validate_json(json.dumps(value), strict=True)
    _no_extra(found)
    return found


def _no_extra(value: Any) -> None:
    if isinstance(value, pydantic.BaseModel):
        assert not value.model_extra, f"{type(value).__name__} has no {value.model_extra}"
        for name in type(value).model_fields:
            _no_extra(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            _no_extra(one)


async def answers(services: Services, body: Any, events: Sequence[Event | OvertError]) -> Any:
    """The whole answer, checked, and the one put together from the stream."""
    services.script = lambda request: events
    answered = await post(services, body)
    assert answered.status == 200, answered.body
    whole = official(answered.json, pydantic.TypeAdapter(OfficialMessage))
    streamed = await post(services, {**body, "stream": True})
    snapshot = replayed(streamed.sse)
    for message in (whole, snapshot):
        message.id = ""
    whole_told, stream_told = whole.model_dump(mode="json"), snapshot.model_dump(mode="json")
    for told in (whole_told, stream_told):  # parsed by the official client, and kept
        for block in told["content"]:
            block.pop("parsed_output", None)
            block.pop("__json_buf", None)
    assert stream_told == whole_told
    return whole


def replayed(sse: Sequence[tuple[str, Any]]) -> Any:
    """What the official client makes of a stream, whose order is checked."""
    snapshot: Any = None
    arguments: dict[int, bytes] = {}
    begun: list[int] = []
    open_: int | None = None
    for name, data in sse:
        assert name == data["type"]
        if name == "ping":
            continue
        event = official(data, EVENT)
        if name == "content_block_start":
            assert open_ is None
            open_ = event.index
            begun.append(event.index)
        elif name == "content_block_delta":
            assert event.index in begun
        elif name == "content_block_stop":
            assert open_ == event.index
            open_ = None
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=arguments)
    assert begun == list(range(len(begun)))
    names = [name for name, _ in sse if name != "ping"]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    return snapshot


async def test_a_plain_answer(services: Services) -> None:
    message = await answers(services, HELLO, ANSWER)
    assert message.model_dump(exclude_none=True) == {
        "id": "",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello you"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 4,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "output_tokens": 2,
        },
    }


async def test_thoughts_text_and_calls_are_blocks_in_order(services: Services) -> None:
    events = (
        Thought("Let me "), Thought("see."), Text("I call"), Text("."),
        ToolCall(0, "call_a", "weather", ""), ToolCall(0, "", "", '{"city":'),
        ToolCall(0, "", "", '"Ulm"}'), ToolCall(1, "call_b", "weather", "{}"),
        Usage(9, 8), Done("tool_calls"),
    )  # fmt: skip
    message = await answers(services, {**HELLO, "tools": [WEATHER]}, events)
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": SIGNATURE},
        {"type": "text", "text": "I call."},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Ulm"}},
        {"type": "tool_use", "id": "call_b", "name": "weather", "input": {}},
    ]
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens_details.thinking_tokens == 2


async def test_what_providers_sign_comes_back_verbatim(services: Services) -> None:
    events = (
        Routed("openai:gpt", request_id="r"),
        Thought("Let me ", origin="anthropic"), Thought("see."),
        Thought("", "c2ln", origin="anthropic"),
        Thought("", "c2VhbA==", sealed=True, origin="anthropic"),
        Thought("again", "b3Bl", origin="openai"), Thought("", "Z2Vt", True, "gemini"),
        Text("I call"), ToolCall(0, "call_a", "weather", "{}", "Y2FsbA==", "gemini"),
        ToolCall(1, "call_b", "weather", "{}"),
        Usage(9, 8, tokens_cached=2, tokens_written=3, tokens_thought=4), Done("tool_calls"),
    )  # fmt: skip
    message = await answers(services, {**HELLO, "tools": [WEATHER]}, events)
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VhbA=="},
        {"type": "thinking", "thinking": "again", "signature": "overt:openai:b3Bl"},
        {"type": "redacted_thinking", "data": "overt:gemini:Z2Vt"},
        {"type": "text", "text": "I call"},
        {"type": "redacted_thinking", "data": "overt:call:overt:gemini:Y2FsbA=="},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {}},
        {"type": "tool_use", "id": "call_b", "name": "weather", "input": {}},
    ]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (4, 2)
    assert usage.cache_creation_input_tokens == 3
    assert usage.output_tokens_details.thinking_tokens == 4
    said = [block.model_dump(exclude_none=True) for block in message.content]
    for block, known in zip(
        said, (False, False, True, True, False, True, False, False), strict=True
    ):
        assert marked(json.dumps(block).encode()) is known
    messages = [HELLO["messages"][0], {"role": "assistant", "content": said}]  # type: ignore[index]
    await post(services, {**HELLO, "messages": messages})
    assert services.asked[-1].messages[1].parts == (
        ThoughtPart("Let me see.", "c2ln", False, "anthropic"),
        ThoughtPart("", "c2VhbA==", True, "anthropic"),
        ThoughtPart("again", "b3Bl", False, "openai"),
        ThoughtPart("", "Z2Vt", True, "gemini"),
        TextPart("I call"),
        ToolCallPart("call_a", "weather", "{}", "Y2FsbA==", "gemini"),
        ToolCallPart("call_b", "weather", "{}"),
    )


@pytest.mark.parametrize("display", ["omitted", None])
async def test_a_signature_is_told_without_its_thought(
    services: Services, display: str | None
) -> None:
    text = "Hm." if display is None else ""
    events = (Thought("Hm."), Thought("", "c2ln", origin="anthropic"), Usage(1, 3), Done("stop"))
    thinking = {"type": "adaptive", "display": display}
    message = await answers(services, {**HELLO, "thinking": thinking}, events)
    assert [block.model_dump() for block in message.content] == [
        {"type": "thinking", "thinking": text, "signature": "c2ln"}
    ]


async def test_no_thinking_is_told_where_it_was_disabled(services: Services) -> None:
    events = (
        Thought("Hm.", "c2ln", origin="anthropic"), Thought("", "eA==", True, "openai"),
        ToolCall(0, "call_a", "weather", "{}", "Y2FsbA==", "gemini"), Usage(1, 3),
        Done("tool_calls"),
    )  # fmt: skip
    body = {**HELLO, "tools": [WEATHER], "thinking": {"type": "disabled"}}
    assert [block.type for block in (await answers(services, body, events)).content] == ["tool_use"]


async def test_who_answers_does_not_begin_the_stream(services: Services) -> None:
    services.script = lambda request: (Routed("anthropic:claude-x"), Busy("full"))
    assert (await post(services, {**HELLO, "stream": True})).status == 503


async def test_a_call_without_an_id_gets_one(services: Services) -> None:
    services.script = lambda request: (
        ToolCall(0, "", "weather", "not json"), Usage(1, 1), Done("tool_calls"),
    )  # fmt: skip
    block = (await post(services, {**HELLO, "tools": [WEATHER]})).json["content"][0]
    assert block["id"].startswith("toolu_")
    assert block["input"] == {"arguments": "not json"}


@pytest.mark.parametrize(
    ("thinking", "blocks"),
    [
        ({"type": "disabled"}, [{"type": "text", "text": "b"}]),
        (
            {"type": "adaptive", "display": "omitted"},
            [
                {"type": "thinking", "thinking": "", "signature": SIGNATURE},
                {"type": "text", "text": "b"},
            ],
        ),
    ],
)
async def test_thoughts_that_are_not_told(services: Services, thinking: Any, blocks: Any) -> None:
    events = (Thought("a"), Thought("a"), Text("b"), Usage(1, 3), Done("stop"))
    message = await answers(services, {**HELLO, "thinking": thinking}, events)
    assert [block.model_dump(exclude_none=True) for block in message.content] == blocks


@pytest.mark.parametrize(
    ("done", "tokens", "reason", "stop"),
    [
        (Done("stop"), 3, "end_turn", None),
        (Done("stop", "END"), 3, "stop_sequence", "END"),
        (Done("length"), 50, "max_tokens", None),
        (Done("length"), 20, "model_context_window_exceeded", None),
        (Done("length"), 0, "max_tokens", None),
        (Done("cancelled"), 3, "end_turn", None),
        (Done("refusal"), 3, "refusal", None),
    ],
)
async def test_stop_reasons(
    services: Services, done: Done, tokens: int, reason: str, stop: str | None
) -> None:
    message = await answers(services, HELLO, (Text("a"), Usage(1, tokens), done))
    assert (message.stop_reason, message.stop_sequence) == (reason, stop)


async def test_no_tokens_only_read_the_prompt(services: Services) -> None:
    message = await answers(services, {**HELLO, "max_tokens": 0}, ANSWER)
    assert services.asked[0].max_tokens == 1
    assert message.content == []
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 0)


async def test_a_long_prompt_is_kept_alive_by_pings(services: Services) -> None:
    services.script = lambda request: (
        Progress(1, 9), Progress(5, 9), Progress(9, 9), Text("a"), Usage(9, 1), Done("stop"),
    )  # fmt: skip
    names = [name for name, _ in (await post(services, {**HELLO, "stream": True})).sse]
    assert names[:4] == ["message_start", "ping", "ping", "content_block_start"]


async def test_the_start_tells_the_prompts_tokens(services: Services) -> None:
    sse = (await post(services, {**HELLO, "stream": True})).sse
    assert sse[0][1]["message"]["usage"]["input_tokens"] == 7
    assert sse[-2][1]["usage"]["input_tokens"] == 4  # once it is known that 3 were reused


PIECES = st.one_of(
    st.text(max_size=6).map(Text),
    st.text(max_size=6).map(Thought),
    st.builds(Thought, st.text(max_size=6), st.just("c2ln"), st.booleans(), st.just("openai")),
    st.just(Routed("openai:m")),
    st.just(Progress(1, 2)),
    st.integers(0, 2).map(lambda index: ToolCall(index, "", "", "")),
)


@given(st.lists(PIECES, max_size=14), st.sampled_from([Done("stop"), Done("length")]))
@settings(max_examples=repeats(60, 150))
def test_a_stream_adds_up_to_the_whole(pieces: list[Event], done: Done) -> None:
    begun: dict[int, ToolCall] = {}
    events: list[Event] = []
    for piece in pieces:
        if isinstance(piece, ToolCall):
            index = min(piece.index, len(begun))
            first = index not in begun
            piece = ToolCall(index, f"call_{index}" if first else "", f"f{index}", "")
            begun.setdefault(index, piece)
        events.append(piece)
    events += [ToolCall(index, "", "", '{"a": 1}') for index in list(begun)[-1:]]
    anyio.run(answers, Services(Path("unused")), HELLO, [*events, Usage(5, 4), done])


# ---- failing -------------------------------------------------------------------------------


async def test_every_error_has_its_status_and_type(services: Services) -> None:
    kinds = set(ErrorType.__args__) | {"request_too_large"}  # type: ignore[attr-defined]
    for error in errors():
        services.script = lambda request, error=error: (error,)  # type: ignore[misc]
        for stream in (False, True):
            answered = await post(services, {**HELLO, "stream": stream})
            assert answered.status == error.status
            assert answered.json["error"]["type"] in kinds
            assert answered.json["error"]["message"] == str(error)


@pytest.mark.parametrize(
    ("error", "kind", "headers"),
    [
        (Busy("full", retry_after=1.2), "overloaded_error",
         {"retry-after": "2", "x-should-retry": "true"}),
        (TooMany("full", retry_after=0.1), "rate_limit_error",
         {"retry-after": "1", "x-should-retry": "true"}),
        (WorkerDied("gone"), "api_error", {"x-should-retry": "true"}),
        (EngineFailed("no"), "api_error", {"x-should-retry": "false"}),
    ],
)  # fmt: skip
async def test_what_may_be_tried_again(
    services: Services, error: OvertError, kind: str, headers: dict[str, str]
) -> None:
    services.script = lambda request: (error,)
    answered = await post(services, HELLO)
    assert answered.json["error"]["type"] == kind
    assert answered.headers == headers


async def test_a_stream_that_breaks_says_so(services: Services) -> None:
    services.script = lambda request: (Text("a"), WorkerDied("the worker ended"))
    whole = await post(services, HELLO)
    assert (whole.status, whole.json["error"]["type"]) == (503, "api_error")
    sse = (await post(services, {**HELLO, "stream": True})).sse
    assert sse[-1] == (
        "error",
        {
            "type": "error",
            "error": {"type": "api_error", "message": "the worker ended"},
            "request_id": "req_1",
        },
    )
    assert "message_stop" not in [name for name, _ in sse]


async def test_what_fails_while_the_prompt_is_read_has_its_status(services: Services) -> None:
    services.script = lambda request: (Progress(0, 9), WorkerDied("the worker ended"))
    assert (await post(services, {**HELLO, "stream": True})).status == 503


async def test_an_engine_that_just_stops_is_an_error(services: Services) -> None:
    services.script = lambda request: (Text("a"),)
    assert (await post(services, HELLO)).status == 500
    assert (await post(services, {**HELLO, "stream": True})).sse[-1][0] == "error"


async def test_a_client_that_leaves_ends_the_stream(services: Services) -> None:
    answered = await post(services, {**HELLO, "stream": True}, leave_after=2)
    assert len(answered.pieces) == 2
    assert services.open == 0


# ---- models --------------------------------------------------------------------------------


async def test_models(services: Services) -> None:
    kind = pydantic.TypeAdapter(anthropic.types.ModelInfo)
    listed = (await ask(services, PROTOCOL, "GET", "/v1/models")).json
    found = [kind.validate_json(json.dumps(model)) for model in listed["data"]]
    for model in found:
        _no_extra(model)
    assert [model.id for model in found] == ["hf:org/repo", "smollm2"]  # no embedding model
    assert (listed["first_id"], listed["last_id"]) == ("hf:org/repo", "smollm2")
    assert listed["has_more"] is False
    assert found[0].lifecycle == "active"
    assert found[0].max_input_tokens == 4096
    assert found[0].capabilities is not None
    assert found[0].capabilities.image_input.supported
    assert not found[1].capabilities.thinking.supported  # type: ignore[union-attr]
    one = await ask(services, PROTOCOL, "GET", "/v1/models/hf:org/repo")
    assert one.json == listed["data"][0]
    missing = await ask(services, PROTOCOL, "GET", "/v1/models/nothing")
    assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ("limit=1", ["hf:org/repo"], True),
        ("limit=1&after_id=hf:org/repo", ["smollm2"], False),
        ("limit=1&before_id=smollm2", ["hf:org/repo"], False),
        ("lifecycle=retired", [], False),
    ],
)
async def test_pages_of_models(services: Services, query: str, ids: list[str], more: bool) -> None:
    page = (await ask(services, PROTOCOL, "GET", f"/v1/models?{query}")).json
    assert ([model["id"] for model in page["data"]], page["has_more"]) == (ids, more)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999", "after_id=nothing"])
async def test_pages_that_are_none(services: Services, query: str) -> None:
    assert (await ask(services, PROTOCOL, "GET", f"/v1/models?{query}")).status == 400


# ---- hostile bodies ------------------------------------------------------------------------

COUNT = {name: FULL[name] for name in ("model", "messages", "tools", "thinking", "system")}


@given(mutated([FULL, {**HELLO, "stream": True}]))
@settings(max_examples=repeats(120, 400))
def test_no_body_breaks_messages(body: Any) -> None:
    services = Services(Path("unused"), lambda request: ANSWER)
    answered = anyio.run(post, services, body)
    assert answered.status in (200, 400)
    if answered.status == 400:
        assert answered.json["error"]["message"]


@given(mutated([COUNT]))
@settings(max_examples=100)
def test_no_body_breaks_counting(body: Any) -> None:
    services = Services(Path("unused"))
    answered = anyio.run(ask, services, PROTOCOL, "POST", "/v1/messages/count_tokens", body)
    assert answered.status in (200, 400)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_no_bytes_break_messages(junk: bytes, at: int) -> None:
    raw = json.dumps(FULL).encode()
    services = Services(Path("unused"), lambda request: ANSWER)
    at = min(at, len(raw))
    answered = anyio.run(post, services, raw[:at] + junk + raw[at + len(junk) :])
    assert answered.status in (200, 400)


async def test_a_failed_event_may_come_first(services: Services) -> None:
    services.script = lambda request: (Failed("out_of_memory", "too large", "free some"),)
    for stream in (False, True):
        answered = await post(services, {**HELLO, "stream": stream})
        assert answered.status == 507
        assert answered.json["error"]["message"] == "too large; free some"
