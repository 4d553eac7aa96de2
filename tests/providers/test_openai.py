"""What is sent to OpenAI and why, what its chat answers, and its errors.

What Responses answer is in test_openai_responses_engine.py.

That OpenAI's own document allows what is sent is judged in tests/clients/test_openai_upstream.py.
"""

import base64
import json
import re
import struct
from dataclasses import replace
from functools import cache
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from overt.chat import (
    Answer,
    Done,
    EmbedRequest,
    Event,
    Logprobs,
    Message,
    Request,
    Sampling,
    Text,
    ThoughtPart,
    Tool,
    ToolCall,
    ToolCallPart,
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
    TooLarge,
    TooMany,
    Unsupported,
)
from overt.providers.base import ServerEvent
from overt.providers.openai.dialect import OpenAI
from overt.providers.openai.strict import strict
from overt.providers.supported_parameters import accepts

HELLO = Request("m", (Message.of("user", "Hello"),))
CLOSED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
dialect = OpenAI()


def sent(request: Request, model: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    post, told = dialect.post(request, model)
    return post.path, json.loads(post.body), told


# ---- which interface -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({}, "/responses"),
        ({"tools": (Tool("look"),)}, "/responses"),
        ({"logprobs": 20}, "/responses"),
        ({"json_schema": CLOSED}, "/responses"),
        ({"max_tokens": 16}, "/responses"),
        ({"sampling": Sampling(temperature=0, top_p=1, presence_penalty=0)}, "/responses"),
        ({"max_tokens": 15}, "/chat/completions"),
        ({"stop": ("x",)}, "/chat/completions"),
        ({"sampling": Sampling(seed=0)}, "/chat/completions"),
        ({"sampling": Sampling(frequency_penalty=0.1)}, "/chat/completions"),
        ({"logit_bias": ((1, 2.0),)}, "/chat/completions"),
    ],
    ids=str,
)
def test_responses_unless_chat_alone_can(change: dict[str, Any], path: str) -> None:
    found, body, told = sent(replace(HELLO, **change), "gpt-4o")
    assert found == path
    assert body["stream"] is True
    assert body.get("store", False) is False
    assert (body.get("stream_options") == {"include_usage": True}) is (path != "/responses")
    assert told == ()


def test_reasoning_models_keep_to_responses() -> None:
    asked = replace(
        HELLO,
        stop=("END",),
        logprobs=1,
        logit_bias=((1, 2.0),),
        sampling=Sampling(temperature=0, top_p=0.5, presence_penalty=1, frequency_penalty=1),
        max_tokens=100,
    )
    path, body, told = sent(asked, "gpt-5-mini")
    assert path == "/responses"
    assert body == {
        "model": "gpt-5-mini",
        "input": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 100,
    }
    assert sorted(told) == [
        "frequency_penalty was left out: gpt-5-mini refuses it",
        "gpt-5-mini takes no stop sequences: its answer is cut here instead",
        "logit_bias was left out: gpt-5-mini refuses it",
        "logprobs was left out: gpt-5-mini refuses it",
        "presence_penalty was left out: gpt-5-mini refuses it",
        "temperature was left out: gpt-5-mini refuses it",
        "top_p was left out: gpt-5-mini refuses it",
    ]


def test_a_model_of_no_family_is_sent_everything() -> None:
    asked = replace(HELLO, sampling=Sampling(temperature=0.1), effort="low", logprobs=2)
    path, body, told = sent(asked, "model-of-tomorrow")
    assert (path, told) == ("/responses", ())
    assert (body["temperature"], body["reasoning"]) == (0.1, {"effort": "low"})
    assert "reasoning.encrypted_content" not in body["include"]


def test_temperature_where_the_model_does_not_reason() -> None:
    asked = replace(HELLO, sampling=Sampling(temperature=0.5))
    for request, model, kept in (
        (asked, "gpt-5.2", True),  # whose own effort is none
        (replace(asked, effort="high"), "gpt-5.2", False),
        (asked, "gpt-5.4", False),  # whose own effort is not known
        (replace(asked, effort="none"), "gpt-5.4", True),
        (replace(asked, thinking=False), "gpt-5.4", True),
        (replace(asked, thinking=False), "gpt-5", False),
    ):
        body, told = sent(request, model)[1:]
        assert ("temperature" in body) is kept
        assert any("temperature" in one for one in told) is not kept


def test_sampling_that_openai_does_not_have() -> None:
    odd = Sampling(top_k=40, min_p=0.1, typical_p=0.9, repeat_penalty=1.1, repeat_last_n=64, seed=1)
    _, body, told = sent(replace(HELLO, sampling=odd), "gpt-4o")
    assert not body.keys() & {"top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"}
    assert body["seed"] == 1
    assert len(told) == 5


def test_bias_is_rounded_and_said() -> None:
    asked = replace(HELLO, logit_bias=((1, 1.4), (2, -1000.0)))
    _, body, told = sent(asked, "gpt-4o")
    assert body["logit_bias"] == {"1": 1, "2": -100}
    assert told == ("logit_bias was rounded: whole numbers of -100 to 100 are what it takes",)
    assert sent(replace(HELLO, logit_bias=((2, -1000.0),)), "gpt-4o")[2] == ()


def test_more_stops_than_openai_takes() -> None:
    asked = replace(HELLO, stop=tuple("abcdef"))
    _, body, said = sent(asked, "gpt-4o")
    assert body["stop"] == ["a", "b", "c", "d"]
    assert said == ("openai takes 4 stop sequences: for the others its answer is cut here",)
    assert told(chunk({"content": "xyf"}), chunk({}, "stop"), DONE, request=asked) == [
        Text("xy"),
        Done("stop", "f"),
    ]
    path, _, said = sent(asked, "gpt-5")
    assert (path, len(said)) == ("/responses", 1)


# ---- thinking ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "effort", "told"),
    [
        ("gpt-5", "minimal", ("gpt-5 always reasons: effort minimal is its least",)),
        ("o3", "low", ("o3 always reasons: effort low is its least",)),
        ("gpt-5.1", "none", ()),
        ("gpt-4o", None, ()),
        ("gpt-9", None, ("thinking was left as it is: how little gpt-9 takes is not known",)),
    ],
)
def test_not_thinking(model: str, effort: str | None, told: tuple[str, ...]) -> None:
    _, body, found = sent(replace(HELLO, thinking=False), model)
    assert (body.get("reasoning", {}).get("effort"), found) == (effort, told)


def test_effort_and_summary() -> None:
    asked = replace(HELLO, effort="high", thinking=True)
    assert sent(asked, "gpt-5")[1]["reasoning"] == {"effort": "high", "summary": "auto"}
    body, told = sent(asked, "gpt-4o")[1:]
    assert "effort" not in body.get("reasoning", {})
    assert told == ("the effort was left out: gpt-4o does not reason",)
    chat = sent(replace(asked, max_tokens=5), "gpt-5")
    assert (chat[0], chat[1]["reasoning_effort"]) == ("/chat/completions", "high")


def test_chat_takes_no_reasoning_of_earlier_turns() -> None:
    item = '{"type":"reasoning","id":"r","summary":[],"encrypted_content":"x"}'
    turn = Message("assistant", (ThoughtPart("Hm.", item, origin="openai"),))
    asked = replace(HELLO, messages=(*HELLO.messages, turn, *HELLO.messages), max_tokens=3)
    path, body, told = sent(asked, "gpt-5")
    assert (path, len(told)) == ("/chat/completions", 1)
    assert "Hm." not in json.dumps(body)


# ---- refused -------------------------------------------------------------------------------


class _NoJson:
    """What JSON cannot hold, under the same name in every process: workers compare test names."""

    def __repr__(self) -> str:
        return "_NoJson"

    def __hash__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("change", "model", "kind"),
    [
        ({"grammar": "root ::= x"}, "gpt-5", BadRequest),
        ({"deterministic": True}, "gpt-5", BadRequest),
        ({"messages": (), "prompt": "Once"}, "gpt-5", Unsupported),
        ({"suffix": "x"}, "gpt-5", BadRequest),
        ({"messages": (), "prompt": "a", "suffix": "b"}, "davinci-002", BadRequest),
        ({"messages": (), "prompt": "a", "logprobs": 6}, "davinci-002", BadRequest),
        ({"messages": (), "prompt": "a", "json_schema": {}}, "davinci-002", BadRequest),
        ({}, "davinci-002", BadRequest),
        ({"prompt": "both"}, "gpt-5", BadRequest),
        ({"messages": ()}, "gpt-5", BadRequest),
        ({"max_tokens": 0}, "gpt-4o", BadRequest),
        ({"max_tokens": 3}, "o3-pro", BadRequest),
        ({"logprobs": 21}, "gpt-4o", BadRequest),
        ({"tool_choice": "gone"}, "gpt-4o", BadRequest),
        ({"tool_choice": "required"}, "gpt-4o", BadRequest),
        ({"messages": (Message.of("user", "\ud800"),)}, "gpt-4o", BadRequest),
        ({"json_schema": {"const": _NoJson()}}, "gpt-4o", BadRequest),
        ({"tools": (Tool("t", parameters={"const": {1, 2, _NoJson()}}),)}, "gpt-4o", BadRequest),
    ],
    ids=str,
)
def test_refused(change: dict[str, Any], model: str, kind: type[OvertError]) -> None:
    with pytest.raises(kind) as refused:
        dialect.post(replace(HELLO, **change), model)
    assert not refused.value.message.endswith(".")


def test_completions() -> None:
    asked = Request("m", prompt="Once", suffix="end", max_tokens=5, logprobs=2, stop=("x",))
    path, body, _ = sent(asked, "gpt-3.5-turbo-instruct")
    assert path == "/completions"
    assert body == {
        "model": "gpt-3.5-turbo-instruct", "prompt": "Once", "suffix": "end", "max_tokens": 5,
        "logprobs": 2, "stop": ["x"], "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_call_ids_of_others_are_made_to_fit() -> None:
    long = Message("assistant", (ToolCallPart("x" * 65, "look", "{}"),))
    item = sent(replace(HELLO, messages=(*HELLO.messages, long)), "gpt-4o")[1]["input"][1]
    assert len(item["call_id"]) <= 64
    again = sent(replace(HELLO, messages=(*HELLO.messages, long)), "gpt-4o")[1]["input"][1]
    assert item == again


# ---- schemas -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "qualifies"),
    [
        (CLOSED, True),
        ({**CLOSED, "properties": {"n": {"anyOf": [CLOSED, {"type": "null"}]}}}, True),
        ({**CLOSED, "properties": {"n": {"$ref": "#/$defs/a"}}, "$defs": {"a": CLOSED}}, True),
        ({**CLOSED, "properties": {"n": {"type": "array", "items": CLOSED}}}, True),
        ({"type": "object"}, False),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "additionalProperties": True}, False),
        ({"type": "array", "items": CLOSED}, False),
        ({**CLOSED, "anyOf": [CLOSED]}, False),
        ({**CLOSED, "properties": {"n": {"type": "object"}}}, False),
        ({**CLOSED, "properties": {"n": {"type": "string", "minLength": 2}}}, False),
        ({**CLOSED, "properties": {"n": {"type": "string", "format": "uri"}}}, False),
        ({**CLOSED, "properties": {"n": {"$ref": "http://x/y"}}}, False),
        ({**CLOSED, "properties": {"n": {"enum": list(range(1001))}}}, False),
        ({**CLOSED, "properties": 5}, False),
        ({**CLOSED, "required": [[]]}, False),
    ],
)
def test_strict_where_the_schema_qualifies(schema: dict[str, Any], qualifies: bool) -> None:
    assert strict(schema) is qualifies
    _, body, told = sent(replace(HELLO, json_schema=schema), "gpt-4o")
    assert body["text"]["format"]["strict"] is qualifies
    assert len(told) == (not qualifies)


def test_strict_of_a_deep_schema() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        deep = {**CLOSED, "properties": {"n": deep}}
    assert not strict(deep)


# ---- the chat's stream ---------------------------------------------------------------------


@cache
def _known() -> Any:
    from openai.types.chat import ChatCompletionChunk
    from pydantic import TypeAdapter

    return TypeAdapter(ChatCompletionChunk)


def chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> ServerEvent:
    """One chunk, which must be one that the SDK knows."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, **fields.pop("of", {})}
    whole = {
        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
        "choices": [choice] if delta is not None or finish else [], **fields,
    }  # fmt: skip
    assert _known().validate_python(whole).id == "c"
    return ServerEvent("", json.dumps(whole).encode())


DONE = ServerEvent("", b"[DONE]")
USED = chunk(
    usage={
        "prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
)  # fmt: skip
USAGE = Usage(20, 9, tokens_cached=16, tokens_thought=4)


def told(*given: ServerEvent, request: Request = HELLO) -> list[Event]:
    reader = dialect.reader(request)
    events = [event for one in given for event in reader.feed(one)]
    return [*events, *reader.end()]


def test_chat() -> None:
    logprobs = {
        "content": [
            {
                "token": "Hi", "logprob": -0.1, "bytes": [72, 105],
                "top_logprobs": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105]}],
            }
        ],
        "refusal": None,
    }  # fmt: skip
    events = told(
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Hi"}, of={"logprobs": logprobs}),
        chunk({}, "stop"),
        USED,
        DONE,
    )
    assert [type(one) for one in events] == [Text, Logprobs, Usage, Done]
    assert events[0] == Text("Hi")
    assert events[1].tokens[0].top == (("Hi", -0.1),)  # type: ignore[union-attr]
    assert events[2:] == [USAGE, Done("stop")]


def test_chat_tool_calls() -> None:
    def piece(**call: Any) -> ServerEvent:
        return chunk({"tool_calls": [call]})

    events = told(
        piece(index=0, id="a", type="function", function={"name": "look", "arguments": ""}),
        piece(index=0, function={"arguments": '{"q":1}'}),
        piece(index=1, id="b", type="function", function={"name": "see", "arguments": "{}"}),
        chunk({}, "stop"),  # what a named tool ends in
        DONE,
    )
    assert events == [
        ToolCall(0, "a", "look", ""),
        ToolCall(0, "", "", '{"q":1}'),
        ToolCall(1, "b", "see", "{}"),
        Done("tool_calls"),
    ]


def test_chat_refusals_and_filters() -> None:
    assert told(chunk({"refusal": "No."}), chunk({}, "stop"), DONE) == [
        Text("No."),
        Done("refusal"),
    ]
    assert told(chunk({"content": "x"}), chunk({}, "content_filter"), DONE)[-1] == Done("refusal")


def test_chat_that_ends_early() -> None:
    reader = dialect.reader(HELLO)
    list(reader.feed(chunk({"content": "x"})))
    with pytest.raises(ProviderFailed, match="before the answer") as failed:
        list(reader.end())
    assert failed.value.billed
    with pytest.raises(ProviderFailed, match="before the answer"):
        list(dialect.reader(HELLO).end())


# ---- stops that are carried out here -------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "text", "stop"),
    [
        (["one END two"], "one ", "END"),
        (["one E", "N", "D two"], "one ", "END"),
        (["one E", "N"], "one EN", None),
        (["E", "END"], "E", "END"),
        (["a\n", "bEND"], "a", "\n"),
        (["nothing"], "nothing", None),
        (["END"], "", "END"),
    ],
)
def test_stops_are_found_across_pieces(pieces: list[str], text: str, stop: str | None) -> None:
    answer = Answer()
    stream = [chunk({"content": piece}) for piece in pieces]
    late = chunk({"content": "END and more"} if stop else {"content": ""})
    for event in told(
        *stream, late, chunk({}, "length"), USED, DONE, request=replace(HELLO, stop=("END", "\n"))
    ):
        answer.add(event)
    assert (answer.text, answer.stop) == (text, stop)
    assert answer.finish == ("stop" if stop else "length")
    assert answer.usage == USAGE  # it was read to its end, so that its cost is known


@hypothesis.given(
    st.lists(st.text("abE", max_size=5)), st.lists(st.text("abE", min_size=1), min_size=1)
)
def test_stops_are_those_of_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    answer = Answer()
    stream = [chunk({"content": piece}) for piece in pieces]
    asked = replace(HELLO, stop=tuple(stops))
    for event in told(chunk({}), *stream, chunk({}, "stop"), DONE, request=asked):
        answer.add(event)
    whole = "".join(pieces)
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    # A stop that ends earlier may begin later: then what was told already stays told.
    if not ends:
        assert (answer.text, answer.stop) == (whole, None)
    else:
        assert answer.stop in stops
        assert whole.startswith(answer.text + (answer.stop or ""))


# ---- errors --------------------------------------------------------------------------------


def error(status: int, headers: dict[str, str] | None = None, **fields: Any) -> OvertError:
    body = json.dumps({"error": {"message": "Oh no.", "type": None, **fields}}).encode()
    return dialect.failure(status, headers or {}, body)


LONG = (
    "This model's maximum context length is 8192 tokens. However, you requested {} tokens ({} in "
    "the messages, 1000 in the completion). Please reduce the length of the messages or completion."
)


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (error(401, code="invalid_api_key"), NeedsAccess, "overt login openai"),
        (error(403), NeedsAccess, "Oh no"),
        (error(404, code="model_not_found"), ModelNotFound, "Oh no"),
        (dialect.failure(404, {}, b"<html>"), ProviderFailed, "should end in /v1"),
        (error(429, code="rate_limit_exceeded"), TooMany, "Oh no"),
        (error(429, code="insufficient_quota"), NeedsAccess, "no credit"),
        (error(503), Busy, "Oh no"),
        (error(400, param="x", code="unsupported_parameter"), BadRequest, r"\(400\): Oh no"),
        (error(413), TooLarge, "Oh no"),
        (error(500), ProviderFailed, "openai answered 500: Oh no; try again"),
        (dialect.failure(502, {}, b""), ProviderFailed, "openai answered 502; try again"),
        (error(400, message=LONG.format(10000, 9000)), ContextExceeded, "9000 .* 8192"),
        (error(400, message=LONG.format(9000, 8000)), BadRequest, "longer than"),
        (error(400, code="context_length_exceeded"), BadRequest, "longer than"),
        (
            error(400, message="Your input exceeds the context window of this model."),
            BadRequest,
            "longer than",
        ),
        (
            error(400, code="context_length_exceeded", n_prompt_tokens=700, n_ctx=512),
            ContextExceeded,
            "700 tokens and the context holds 512",
        ),
    ],
)
def test_errors(found: OvertError, kind: type[OvertError], words: str) -> None:
    assert type(found) is kind
    assert re.search(words, str(found))
    assert not found.message.endswith(".")


def test_busy_says_when() -> None:
    for headers, seconds in (
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "9" * 30}, 86400.0),
    ):
        found = error(429, headers)
        assert isinstance(found, Busy)
        assert found.retry_after == seconds


def test_no_key_in_an_error() -> None:
    message = "Incorrect API key provided: sk-proj-abcdefgh1234. Find it at https://x."
    for status in (400, 401, 403, 429, 500):
        assert "abcdefgh1234" not in repr(error(status, message=message).args)


@hypothesis.given(
    st.integers(0, 999),
    st.dictionaries(st.text(), st.text()),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["error", "message", "type", "code", "param", "n_ctx"]) | st.text(),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_failure_is_one_error(status: int, headers: dict[str, str], body: bytes) -> None:
    found = dialect.failure(status, headers, body)
    assert isinstance(found, OvertError)
    assert len(str(found)) < 1000


def test_deep_and_large_errors() -> None:
    for body in (b"[" * 200_000, b'{"error":' * 9000, b'"' + b"x" * (3 << 20) + b'"'):
        assert len(str(dialect.failure(400, {}, body))) < 1000


# ---- vectors and counts --------------------------------------------------------------------


def _vectors(*rows: Any) -> bytes:
    data = [
        {"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return json.dumps({"object": "list", "data": data[::-1], "model": "m", "usage": usage}).encode()


ASKED = EmbedRequest("m", ("a", "b"))


def test_embeddings() -> None:
    post = dialect.embed(replace(ASKED, dimensions=2), "text-embedding-3-small")
    assert post.path == "/embeddings"
    assert json.loads(post.body) == {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 2,
    }
    packed = base64.b64encode(struct.pack("<2f", 3, 4)).decode()
    found = dialect.embedded(_vectors([0, 2.0], packed), ASKED)
    assert found.vectors[0] == (0, 1)
    assert found.vectors[1] == pytest.approx((0.6, 0.8))
    assert found.tokens == 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"data":[]}',
        _vectors([1, 2]),
        _vectors([1], [1, 2]),
        _vectors([1], [1], [1]),
        _vectors([], []),
        _vectors([0, 0], [1, 1]),
        _vectors("AAA", "AAAA"),
        _vectors("é", "AAAA"),
        _vectors("AAA=", "AAA="),
        _vectors([1.7e308, 1.7e308], [1, 1]),
        b'{"data":[{"embedding":[1],"index":0},{"embedding":[1],"index":0}]}',
        b'{"data":[{"embedding":["x"],"index":0},{"embedding":[1],"index":1}]}',
        b"[" * 100_000,
    ],
)
def test_vectors_that_are_none(body: bytes) -> None:
    with pytest.raises(ProviderFailed):
        dialect.embedded(body, ASKED)


def test_vectors_of_another_length_than_asked() -> None:
    with pytest.raises(ProviderFailed, match="2 to 2 numbers, and 3"):
        dialect.embedded(_vectors([1, 2], [2, 1]), replace(ASKED, dimensions=3))


@pytest.mark.parametrize("inputs", [(), ("a", (1,)), ("a", ""), ("a",) * 2049])
def test_inputs_that_cannot_be_sent(inputs: Any) -> None:
    with pytest.raises(BadRequest):
        dialect.embed(EmbedRequest("m", inputs), "m")


def test_counting() -> None:
    post = dialect.counting(HELLO, "gpt-5")
    assert post.path == "/responses/input_tokens"
    assert json.loads(post.body) == {
        "model": "gpt-5",
        "input": [{"role": "user", "content": "Hello"}],
    }
    assert dialect.counted(b'{"object":"response.input_tokens","input_tokens":11}') == 11
    for body in (b"", b"{}", b'{"input_tokens":"x"}', b"[" * 100_000):
        with pytest.raises(ProviderFailed):
            dialect.counted(body)


# ---- what is known of models ---------------------------------------------------------------


def test_capabilities() -> None:
    can = dialect.capabilities("gpt-5-2025-08-07")
    assert (can.context, can.thinking, can.logprobs, can.images) == (400_000, True, False, True)
    assert not dialect.capabilities("gpt-4o-mini").thinking
    assert not dialect.capabilities("davinci-002").chat
    assert dialect.capabilities("of-tomorrow").context == 0


def test_contexts_of_well_known_models_are_those_of_the_price_list() -> None:
    from genai_prices.data import providers

    models = {
        model.id: model.context_window
        for provider in providers
        if provider.id == "openai"
        for model in provider.models
    }
    assert len(models) > 80
    for name in ("gpt-4o", "gpt-4.1-mini", "gpt-5", "gpt-5.2", "gpt-5.4", "gpt-6.1-sol", "o4-mini"):
        assert accepts("openai", name).context == models[name]


def test_a_key_is_sent_as_a_bearer() -> None:
    assert dialect.headers("k")["Authorization"] == "Bearer k"
    assert "Authorization" not in dialect.headers("")
