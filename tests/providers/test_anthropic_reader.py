"""What Anthropic sends back, read beside the official client, cut, mutated and failing."""

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from overt.chat import (
    Answer,
    Message,
    Request,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    ModelNotFound,
    NeedsAccess,
    OvertError,
    ProviderFailed,
    TimedOut,
    TooLarge,
    TooMany,
)
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.base import ServerEvent
from overt.providers.http.sse import EventSplitter

CLAUDE = Anthropic()
HELLO = (Message.of("user", "Hello"),)
STREAMS = (
    "basic", "compaction", "context_management", "fallback_credit", "fallback",
    "incomplete_partial_json", "input_transformations_delta", "input_transformations_empty_delta",
    "input_transformations_start_only", "message_delta_fields", "message_delta_omitted_usage",
    "refusal", "server_tool_use", "tool_use_invalid_json", "tool_use", "unknown_events",
)  # fmt: skip


# ---- what comes back, judged by the official client ----------------------------------------


def read(data: bytes, size: int = 0) -> Answer:
    """`data` as an answer, fed in chunks of `size` bytes."""
    answer, reader, splitter = Answer(), CLAUDE.reader(Request("m")), EventSplitter()
    chunks = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
    for said in (said for chunk in (*chunks, None) for said in
                 (splitter.end() if chunk is None else splitter.feed(chunk))):  # fmt: skip
        for event in reader.feed(said):
            answer.add(event)
        if reader.done:
            break
    for event in reader.end():
        answer.add(event)
    return answer


def official(data: bytes) -> anthropic.types.Message:
    """What the official client makes of `data`."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=data))
    with (
        httpx2.Client(transport=transport) as http,
        anthropic.Anthropic(api_key="x", http_client=http, max_retries=0) as client,
        client.messages.stream(
            model="claude-opus-5", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as stream,
    ):
        return stream.get_final_message()


FINISHES = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "tool_use": "tool_calls", "refusal": "refusal", "model_context_window_exceeded": "length",
}  # fmt: skip


def assert_same(ours: Answer, theirs: anthropic.types.Message) -> None:
    blocks = theirs.content
    assert ours.text == "".join(one.text for one in blocks if one.type == "text")
    assert ours.thought == "".join(one.thinking for one in blocks if one.type == "thinking")
    signed = [part for part in ours.message().parts if isinstance(part, ThoughtPart)]
    assert [(part.signature, part.sealed) for part in signed] == [
        (one.signature, False) if one.type == "thinking" else (one.data, True)
        for one in blocks
        if one.type in ("thinking", "redacted_thinking")
    ]
    uses = [one for one in blocks if one.type == "tool_use"]
    assert [(c.id, c.name) for c in ours.tool_calls] == [(one.id, one.name) for one in uses]
    if theirs.stop_reason == "tool_use":
        assert [json.loads(c.arguments) for c in ours.tool_calls] == [one.input for one in uses]
    assert theirs.stop_reason is not None
    assert ours.finish == FINISHES[theirs.stop_reason]
    assert ours.stop == theirs.stop_sequence
    usage = theirs.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    assert (ours.usage.tokens_in, ours.usage.tokens_out) == (
        usage.input_tokens + read + written, usage.output_tokens,
    )  # fmt: skip
    assert (ours.usage.tokens_cached, ours.usage.tokens_written) == (read, written)


@pytest.fixture(scope="module")
def fixtures(shared_data: Callable[[str], Path]) -> dict[str, bytes]:
    return {
        name: shared_data(f"protocol/anthropic_sse/{name}_response.txt").read_bytes()
        for name in STREAMS
    }


@pytest.mark.parametrize("name", STREAMS)
def test_recorded_streams(name: str, fixtures: dict[str, bytes]) -> None:
    data = fixtures[name]
    ours = read(data)
    if name == "tool_use_invalid_json":
        with pytest.raises(ValueError, match="Unable to parse tool parameter"):
            official(data)
        assert ours.tool_calls[0].arguments == '{"location": "Paris", "unit": celsius}'
    else:
        assert_same(ours, official(data))
    for size in (1, 2, 3, 7, 64):
        assert read(data, size) == ours


def test_every_cut_of_one_stream(fixtures: dict[str, bytes]) -> None:
    data = fixtures["tool_use"]
    whole = read(data)
    for at in range(1, len(data), 3):
        splitter, reader, answer = EventSplitter(), CLAUDE.reader(Request("m")), Answer()
        for chunk in (data[:at], data[at:]):
            for said in splitter.feed(chunk):
                for event in reader.feed(said):
                    answer.add(event)
        for event in reader.end():
            answer.add(event)
        assert answer == whole


def stream(*events: Mapping[str, Any]) -> bytes:
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


def block(index: int, kind: Mapping[str, Any], *deltas: Mapping[str, Any]) -> list[Any]:
    return [
        {"type": "content_block_start", "index": index, "content_block": kind},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "c",
        "stop_reason": None, "stop_sequence": None,
        "usage": {
            "input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
    },
}  # fmt: skip
STOP = {"type": "message_stop"}


def ending(reason: str | None, stop: str | None = None) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": stop},
        "usage": {"output_tokens": 50, "output_tokens_details": {"thinking_tokens": 40}},
    }


THOUGHTS = stream(
    START,
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Let me "},
        {"type": "thinking_delta", "thinking": "see."},
        {"type": "signature_delta", "signature": "c2lnbmF0dXJl"},
    ),
    *block(1, {"type": "redacted_thinking", "data": "c2VhbGVk"}),
    *block(
        2,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "signature_delta", "signature": "b21pdHRlZA=="},
    ),
    *block(3, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Yes."}),
    *block(4, {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}}),
    *block(5, {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {}},
           {"type": "input_json_delta", "partial_json": '{"a": '},
           {"type": "input_json_delta", "partial_json": "1}"}),
    ending("tool_use"),
    STOP,
)  # fmt: skip


def test_thoughts_signatures_and_calls_without_arguments() -> None:
    answer = read(THOUGHTS)
    assert_same(answer, official(THOUGHTS))
    assert answer.message().parts == (
        ThoughtPart("Let me see.", "c2lnbmF0dXJl", False, "anthropic"),
        ThoughtPart("", "c2VhbGVk", True, "anthropic"),
        ThoughtPart("", "b21pdHRlZA==", False, "anthropic"),
        TextPart("Yes."),
        ToolCallPart("toolu_1", "now", "{}"),
        ToolCallPart("toolu_2", "f", '{"a": 1}'),
    )
    assert answer.usage == Usage(
        140, 50, tokens_cached=100, tokens_written=30, tokens_written_hour=20, tokens_thought=40
    )


def test_an_answer_goes_back_verbatim_in_the_next_turn() -> None:
    answer = read(THOUGHTS)
    results = Message("tool", (ToolResultPart("toolu_1", "noon"), ToolResultPart("toolu_2", "1")))
    post, notes = CLAUDE.post(Request("m", (*HELLO, answer.message(), results)), "claude-opus-5")
    sent = json.loads(post.body)
    assert notes == ()
    assert sent["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmF0dXJl"},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
        {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="},
        {"type": "text", "text": "Yes."},
        {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}},
        {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {"a": 1}},
    ]


@pytest.mark.parametrize(("reason", "finish"), FINISHES.items())
def test_reasons_to_stop(reason: str, finish: str) -> None:
    data = stream(
        START,
        *block(0, {"type": "text", "text": "x"}),
        ending(reason, "END" if reason == "stop_sequence" else None),
        STOP,
    )
    answer = read(data)
    assert answer.finish == finish
    assert answer.stop == ("END" if reason == "stop_sequence" else None)
    assert_same(answer, official(data))


def test_a_message_that_was_not_streamed() -> None:
    message = {
        **START["message"],
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "eA=="},
            {"type": "text", "text": "Hi", "citations": None},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, "é"]}},
        ],
        "stop_reason": "tool_use",
    }
    reader, answer = CLAUDE.reader(Request("m")), Answer()
    for event in reader.feed(ServerEvent("", json.dumps(message).encode())):
        answer.add(event)
    assert reader.done
    for event in reader.end():
        answer.add(event)
    assert_same(answer, anthropic.types.Message.model_validate(message))


def test_input_that_comes_with_the_start_of_a_call() -> None:
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    assert read(stream(START, *block(0, use), STOP)).tool_calls[0].arguments == '{"a": 1}'


def test_unknown_deltas_blocks_and_fields_are_passed_over() -> None:
    odd = {"type": "odd_delta", "text": {"not": "a string"}}
    answer = read(
        stream(
            START,
            *block(0, {"type": "odd_block", "text": [1]}, odd, {"type": "text_delta", "text": "n"}),
            {"type": "odd_event", "index": 0, "delta": {"text": []}, "usage": "?"},
            *block(1, {"type": "text", "new": {}}, odd, {"type": "text_delta", "text": "yes"}),
            ending("end_turn"),
            STOP,
        )
    )  # fmt: skip
    assert answer.text == "yes"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        stream(START),
        stream(START, *block(0, {"type": "text", "text": "half"})),
        stream(STOP),
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"type": "message_start", "message": ' + b'{"a":' * 100_000 + b"\n\n",
        stream(START, {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta"}}),
        stream(START, {"type": "content_block_delta", "index": -1, "delta": {}}),
        stream(START, {"type": "content_block_start", "index": 2**70, "content_block": {}}),
        stream(START, *block(0, {"type": "text", "text": 7})),
        stream(START, *block(0, {"type": "tool_use", "id": "t", "name": "f"}) * 10_001),
        stream(START, {"type": "message_delta", "delta": {}, "usage": {"output_tokens": -1}}),
    ],
)
def test_a_stream_that_is_none_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ProviderFailed):
        read(data)


def test_an_answer_with_a_reason_to_stop_is_whole_without_its_last_event() -> None:
    data = stream(START, *block(0, {"type": "text", "text": "x"}), ending("end_turn"))
    assert read(data).finish == "stop"


def mutated(data: bytes, random: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(lines))
        match random.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, random.choice(lines))
            case 2:
                cut = random.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + random.randbytes(2) + lines[at][cut + 1 :]
            case 3:
                odd = random.choice((b"null", b"-1", b"[]", b"{}", b'"x"', b"1e999", b"true"))
                lines[at] = re.sub(rb":(\"[^\"]*\"|\d+|\{|\[)", b":" + odd, lines[at], count=1)
            case 4:
                odd = random.choice((b'"tool_use"', b'"thinking"', b'"error"', b'"message_stop"'))
                lines[at] = re.sub(rb'"type":"\w+"', b'"type":' + odd, lines[at], count=1)
            case _:
                lines[at] = lines[at].replace(b'"index":0', b'"index":1')
        lines = lines or [b""]
    return b"\n".join(lines)


def test_mutated_streams_end_in_an_answer_or_one_of_our_errors(
    fixtures: dict[str, bytes],
) -> None:
    seeds = random.Random(6)
    ends = {"answers": 0, "errors": 0}
    for data in (*fixtures.values(), THOUGHTS):
        for _ in range(250):
            try:
                answer = read(mutated(data, seeds))
            except OvertError:
                ends["errors"] += 1
            else:
                assert answer.finish is not None
                ends["answers"] += 1
    assert min(ends.values()) > 500  # both happen


# ---- failures ------------------------------------------------------------------------------

LONG = "prompt is too long: 210001 tokens > 200000 maximum"


@pytest.mark.parametrize(
    ("status", "kind", "message", "error"),
    [
        (529, "overloaded_error", "Overloaded", Busy),
        (429, "rate_limit_error", "slow down", TooMany),
        (500, "api_error", "Internal server error", ProviderFailed),
        (504, "timeout_error", "late", TimedOut),
        (400, "invalid_request_error", "max_tokens: 9 > 8", BadRequest),
        (400, "invalid_request_error", LONG, ContextExceeded),
        (
            400,
            "invalid_request_error",
            "request (210001 tokens) exceeds the available context size (200000 tokens), try",
            ContextExceeded,
        ),
        (401, "authentication_error", "invalid x-api-key", NeedsAccess),
        (402, "billing_error", "no credit", NeedsAccess),
        (403, "permission_error", "no", NeedsAccess),
        (404, "not_found_error", "model: claude-x", ModelNotFound),
        (413, "request_too_large", "too large", TooLarge),
        (418, "new_error", "?", ProviderFailed),
    ],
)
def test_failures(status: int, kind: str, message: str, error: type[OvertError]) -> None:
    told = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    found = CLAUDE.failure(status, {"Retry-After": "7"}, told)
    assert type(found) is error
    if error is ContextExceeded:
        assert "210001" in str(found)
        assert "200000" in str(found)
    else:
        assert message in str(found)
    if isinstance(found, Busy):
        assert found.retry_after == 7
    if kind == "new_error":
        return
    in_stream = {"type": "error", "error": {"type": kind, "message": message}}
    with pytest.raises(error) as caught:
        read(stream(START, in_stream))
    if isinstance(caught.value, ProviderFailed):
        assert caught.value.billed
    assert type(caught.value) is error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529, 302, 200])
@pytest.mark.parametrize(
    "told", [b"", b"<html>", b"null", b'{"error": 7}', b"\xff", b"[" * 9999, b'{"error": null}']
)
def test_a_failure_that_says_nothing_is_told_by_its_status(status: int, told: bytes) -> None:
    found = CLAUDE.failure(status, {"Retry-After": "soon"}, told)
    assert isinstance(found, OvertError)
    assert getattr(found, "retry_after", None) is None
    if status in (429, 503, 529):
        assert isinstance(found, Busy)


def test_what_a_provider_says_is_one_line_of_bounded_length() -> None:
    told = json.dumps({"error": {"type": "api_error", "message": "a\n\x1b[31m" * 999}}).encode()
    said = str(CLAUDE.failure(500, {}, told))
    assert len(said) < 600
    assert said.isprintable()


def test_counts() -> None:
    assert CLAUDE.counted(b'{"input_tokens": 14}') == 14
    for told in (b"", b"{}", b'{"input_tokens": "x"}', b'{"input_tokens": -1}', b"[" * 9999):
        with pytest.raises(ProviderFailed):
            CLAUDE.counted(told)


def _events(data: bytes) -> Iterable[ServerEvent]:
    splitter = EventSplitter()
    return [*splitter.feed(data), *splitter.end()]


def test_a_finished_reader_reads_no_more(fixtures: dict[str, bytes]) -> None:
    reader = CLAUDE.reader(Request("m"))
    for said in _events(fixtures["basic"]):
        list(reader.feed(said))
    assert reader.done
    assert list(reader.feed(ServerEvent("", b"anything"))) == []
