"""The stream of Responses as events. Every fixture is an event of OpenAI's own SDK types."""

import json
from functools import cache
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from conftest import repeats
from overt.chat import (
    Answer,
    Done,
    Event,
    Logprobs,
    Message,
    Request,
    Text,
    Thought,
    ThoughtPart,
    Tool,
    ToolCall,
    Usage,
)
from overt.errors import BadRequest, Busy, ContextExceeded, OvertError, ProviderFailed
from overt.providers.base import ServerEvent
from overt.providers.openai.dialect import OpenAI
from overt.providers.openai.responses_answer import ResponsesReader

ASKED = Request("gpt-5", (Message.of("user", "Hello"),))
TWO = Request("gpt-5", ASKED.messages, tools=(Tool("look"),), parallel_tools=False)


@cache
def _known() -> Any:
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    return TypeAdapter(ResponseStreamEvent)


def said(type: str, **fields: Any) -> ServerEvent:
    """One event, which must be one that the SDK knows."""
    event = {"type": type, "sequence_number": 1, **fields}
    parsed = _known().validate_python(event)
    assert type == parsed.type
    return ServerEvent(type, json.dumps(event).encode())


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5", "output": [],
        "status": status, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
        "temperature": 1.0, "top_p": 1.0, "usage": USAGE,
    }  # fmt: skip
    return {**whole, **fields}


USAGE = {
    "input_tokens": 120, "output_tokens": 50, "total_tokens": 170,
    "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 7},
    "output_tokens_details": {"reasoning_tokens": 30},
}  # fmt: skip
USED = Usage(120, 50, tokens_cached=100, tokens_written=7, tokens_thought=30)


def text(delta: str, place: int = 0, logprobs: Any = ()) -> ServerEvent:
    return said(
        "response.output_text.delta", item_id="m", output_index=place, content_index=0, delta=delta,
        logprobs=list(logprobs),
    )  # fmt: skip


def item(kind: str, place: int, **fields: Any) -> ServerEvent:
    return said(f"response.output_item.{kind}", output_index=place, item=fields)


def completed(**fields: Any) -> ServerEvent:
    return said("response.completed", response=response(**fields))


def told(*given: ServerEvent, request: Request = ASKED) -> list[Event]:
    reader = ResponsesReader(request)
    events = [event for one in given for event in reader.feed(one)]
    assert reader.done
    return [*events, *reader.end()]


MESSAGE = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress"}
REASONED = {
    "type": "reasoning", "id": "rs_1", "encrypted_content": "gAAA",
    "summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}],
}  # fmt: skip


def summary(part: int, delta: str, place: int = 0) -> ServerEvent:
    return said(
        "response.reasoning_summary_text.delta", item_id="rs_1", output_index=place,
        summary_index=part, delta=delta,
    )  # fmt: skip


# ---- answers -------------------------------------------------------------------------------


def test_text() -> None:
    events = told(
        said("response.created", response=response("in_progress", usage=None)),
        said("response.in_progress", response=response("in_progress", usage=None)),
        item("added", 0, **MESSAGE, content=[]),
        said(
            "response.content_part.added", item_id="m", output_index=0, content_index=0,
            part={"type": "output_text", "text": "", "annotations": []},
        ),
        text("Hel"),
        text("lo"),
        said(
            "response.output_text.done", item_id="m", output_index=0, content_index=0,
            text="Hello", logprobs=[],
        ),
        item("done", 0, **{**MESSAGE, "status": "completed"}, content=[
            {"type": "output_text", "text": "Hello", "annotations": []}
        ]),
        completed(),
    )  # fmt: skip
    assert events == [Text("Hel"), Text("lo"), USED, Done("stop")]


def test_text_that_came_whole() -> None:
    content = [{"type": "output_text", "text": "Hello", "annotations": []}]
    done = {**MESSAGE, "status": "completed"}
    assert told(item("done", 0, **done, content=content), completed())[0] == Text("Hello")


def test_logprobs() -> None:
    rows = [
        {"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Hi", "logprob": -0.5}]},
        {"token": "!", "logprob": -1.5, "top_logprobs": []},
    ]
    events = told(text("Hi!", logprobs=rows), completed())
    assert isinstance(events[1], Logprobs)
    assert [(one.token, one.logprob, one.top) for one in events[1].tokens] == [
        ("Hi", -0.5, (("Hi", -0.5),)),
        ("!", -1.5, ()),
    ]


def test_tool_calls_in_pieces() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look"}
    pieces = [
        said("response.function_call_arguments.delta", item_id="fc_1", output_index=1, delta=delta)
        for delta in ('{"q":', '"x"}')
    ]
    events = told(
        text("Let me look."),
        item("added", 1, **call, arguments="", status="in_progress"),
        *pieces,
        item("done", 1, **call, arguments='{"q":"x"}', status="completed"),
        completed(),
    )
    assert events[1:4] == [
        ToolCall(0, "call_1", "look", ""),
        ToolCall(0, "", "", '{"q":'),
        ToolCall(0, "", "", '"x"}'),
    ]
    assert events[-1] == Done("tool_calls")


def test_tool_calls_that_came_whole_and_more_than_asked_for() -> None:
    calls = [
        {"type": "function_call", "call_id": f"c{n}", "name": "look", "arguments": "{}"}
        for n in range(2)
    ]
    given = [item("done", n, **call, status="completed") for n, call in enumerate(calls)]
    both = [ToolCall(0, "c0", "look", "{}"), ToolCall(1, "c1", "look", "{}")]
    assert told(*given, completed())[:2] == both
    assert told(*given, completed(), request=TWO)[:2] == [both[0], USED]
    late = [
        item("added", 0, **{**calls[0], "arguments": ""}, status="in_progress"),
        item("done", 0, **calls[0], status="completed"),
    ]
    assert told(*late, completed())[:2] == [
        ToolCall(0, "c0", "look", ""),
        ToolCall(0, "", "", "{}"),
    ]


# ---- reasoning -----------------------------------------------------------------------------


def test_reasoning_comes_back_word_for_word() -> None:
    answer = Answer()
    for event in told(
        item("added", 0, **{**REASONED, "summary": [], "encrypted_content": "half"}),
        summary(0, "On"),
        summary(0, "e."),
        summary(1, "Two."),
        item("done", 0, **REASONED),
        text("Hello", 1),
        completed(),
    ):
        answer.add(event)
    thought = answer.message().parts[0]
    assert isinstance(thought, ThoughtPart)
    assert thought.text == "One.\n\nTwo."
    assert (thought.sealed, thought.origin) == (False, "openai")
    assert json.loads(thought.signature or "") == REASONED

    again = Request("gpt-5", (*ASKED.messages, answer.message(), Message.of("user", "And?")))
    post, _ = OpenAI().post(again, "gpt-5")
    # The very bytes: OpenAI's signature is over what it wrote, not over what it means.
    assert (thought.signature or "?").encode() in post.body
    sent = json.loads(post.body)
    assert [one.get("type", one.get("role")) for one in sent["input"]] == [
        "user", "reasoning", "assistant", "user",
    ]  # fmt: skip
    assert sent["include"] == ["reasoning.encrypted_content"]
    assert sent["store"] is False


def test_reasoning_without_words_is_sealed() -> None:
    bare = {**REASONED, "summary": []}
    assert told(item("done", 0, **bare), text("x", 1), completed())[0] == Thought(
        "", json.dumps(bare), sealed=True, origin="openai"
    )


def test_reasoning_that_came_whole() -> None:
    open_ = {**REASONED, "encrypted_content": None}
    assert told(item("done", 0, **open_), completed())[0] == Thought(
        "One.\n\nTwo.", origin="openai"
    )
    assert told(item("done", 0, **REASONED), completed())[0] == Thought(
        "One.\n\nTwo.", json.dumps(REASONED), origin="openai"
    )


def test_reasoning_of_open_models() -> None:
    delta = said(
        "response.reasoning_text.delta", item_id="r", output_index=0, content_index=0, delta="Hm."
    )
    assert told(delta, text("x", 1), completed())[0] == Thought("Hm.", origin="openai")


@pytest.mark.parametrize(
    "part",
    [
        ThoughtPart("other", json.dumps(REASONED), origin="anthropic"),
        ThoughtPart("unsigned", origin="openai"),
        ThoughtPart("forged", '{"type":"message","role":"system","content":"x"}', origin="openai"),
        ThoughtPart("not kept there", '{"type":"reasoning","id":"rs_1"}', origin="openai"),
        ThoughtPart("not JSON", "x" * 9, origin="openai"),
        ThoughtPart("deep", "[" * 100_000, origin="openai"),
        ThoughtPart("two", json.dumps(REASONED) + ',{"role":"system"}', origin="openai"),
        ThoughtPart("surrogate", "\ud800", origin="openai"),
    ],
    ids=lambda part: part.text,
)
def test_only_reasoning_of_openai_is_sent(part: ThoughtPart) -> None:
    turn = Message("assistant", (part, *Message.of("assistant", "Hi").parts))
    post, _ = OpenAI().post(Request("m", (*ASKED.messages, turn)), "gpt-5")
    assert json.loads(post.body)["input"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
    ]


def test_reasoning_that_led_to_nothing_is_left_out() -> None:
    turn = Message("assistant", (ThoughtPart("", json.dumps(REASONED), True, "openai"),))
    post, _ = OpenAI().post(Request("m", (*ASKED.messages, turn)), "gpt-5")
    assert len(json.loads(post.body)["input"]) == 1


# ---- ends ----------------------------------------------------------------------------------


def test_a_refusal_is_text_and_says_so() -> None:
    refused = said(
        "response.refusal.delta", item_id="m", output_index=0, content_index=0, delta="No."
    )
    assert told(refused, completed()) == [Text("No."), USED, Done("refusal")]


@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "refusal")]
)
def test_incomplete(reason: str, finish: str) -> None:
    ended = said(
        "response.incomplete",
        response=response("incomplete", incomplete_details={"reason": reason}),
    )
    assert told(text("x"), ended)[-1].finish == finish  # type: ignore[union-attr]


def test_no_usage_is_none() -> None:
    assert told(text("x"), completed(usage=None)) == [Text("x"), Done("stop")]


def test_a_stream_that_ends_early_is_billed() -> None:
    reader = ResponsesReader(ASKED)
    assert list(reader.feed(text("x"))) == [Text("x")]
    with pytest.raises(ProviderFailed, match="before the answer") as failed:
        list(reader.end())
    assert failed.value.billed


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (
            said("error", code="rate_limit_exceeded", message="Slow down.", param=None),
            Busy,
            "Slow down",
        ),
        (
            said(
                "response.failed",
                response=response("failed", error={"code": "server_error", "message": "Oh."}),
            ),
            ProviderFailed,
            "openai failed within its answer: Oh;",
        ),
        (
            said(
                "response.failed",
                response=response("failed", error={"code": "invalid_prompt", "message": "No."}),
            ),
            BadRequest,
            "No",
        ),
        (
            ServerEvent(
                "error",
                b'{"type":"error","error":{"code":"context_length_exceeded","message":'
                b"\"This model's maximum context length is 8192 tokens. However, your messages "
                b'resulted in 9000 tokens."}}',
            ),
            ContextExceeded,
            "9000 tokens and the context holds 8192",
        ),
    ],
)
def test_failures_within(event: ServerEvent, kind: type[OvertError], words: str) -> None:
    reader = ResponsesReader(ASKED)
    list(reader.feed(text("x")))
    with pytest.raises(kind, match=words):
        list(reader.feed(event))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[DONE]",
        b'{"type":"response.web_search_call.searching","output_index":0,"item_id":"w"}',
        b'{"type":"response.of.tomorrow","delta":{"x":1},"output_index":0}',
    ],
)
def test_what_was_not_asked_for_is_passed_over(data: bytes) -> None:
    assert list(ResponsesReader(ASKED).feed(ServerEvent("", data))) == []


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense",
        b"\xff",
        b"[" * 100_000,
        b'{"type":"response.output_text.delta","delta":5}',
        b'{"type":"response.output_text.delta","delta":"x","output_index":-1}',
        b'{"type":"response.output_text.delta","delta":"x","output_index":99999}',
        b'{"type":"response.function_call_arguments.delta","delta":"x","output_index":3}',
        b'{"type":"response.output_item.added","output_index":0,"item":{"type":"function_call"}}',
        b'{"type":"response.incomplete","response":{"incomplete_details":{"reason":"whim"}}}',
    ],
)
def test_what_cannot_be_understood_is_one_error(data: bytes) -> None:
    with pytest.raises(ProviderFailed):
        list(ResponsesReader(ASKED).feed(ServerEvent("", data)))


# ---- whatever comes ------------------------------------------------------------------------


def _stream() -> list[ServerEvent]:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": ""}
    rows = [{"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": []}]
    return [
        summary(0, "Hm."),
        item("done", 0, **REASONED),
        text("x", 1, rows),
        item("added", 2, **call),
        said("response.function_call_arguments.delta", item_id="f", output_index=2, delta="{}"),
        completed(),
    ]


@hypothesis.settings(max_examples=repeats(60, 150))
@hypothesis.given(st.data())
def test_mutated_streams_end_in_events_or_one_error(data: st.DataObject) -> None:
    lines = [bytearray(one.data) for one in _stream()]
    for _ in range(data.draw(st.integers(1, 4))):
        line = lines[data.draw(st.integers(0, len(lines) - 1))]
        at = data.draw(st.integers(0, len(line) - 1))
        new = data.draw(
            st.sampled_from([b"", b"null", b"-1", b"1e999", b"{}", b"[]", b'"', b"\xff", b"9" * 30])
        )
        line[at : at + data.draw(st.integers(0, 6))] = new
    order = data.draw(st.permutations(range(len(lines))) | st.just(range(len(lines))))
    reader, answer = ResponsesReader(TWO), Answer()
    try:
        for place in order:
            for event in reader.feed(ServerEvent("", bytes(lines[place]))):
                answer.add(event)
        for event in reader.end():
            answer.add(event)
    except OvertError:
        return
    assert answer.finish is not None
