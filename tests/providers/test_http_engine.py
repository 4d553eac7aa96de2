"""The dialect of any OpenAI-compatible server: what servers in the wild send, and two real ones.

The real ones are llama.cpp's own server with a small model (through xllamacpp, in a process of its
own) and `overt serve`.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from conftest import repeats
from overt.chat import (
    Answer,
    Done,
    EmbedRequest,
    Event,
    Message,
    Request,
    Routed,
    Sampling,
    Text,
    Thought,
    ThoughtPart,
    Tool,
    ToolCall,
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
    Unsupported,
)
from overt.providers import registry
from overt.providers.base import Destination, Dialect, Provider, ServerEvent
from overt.providers.http.client import HttpClient
from overt.providers.openai.compatible import CompatibleServer
from overt.providers.openai.dialect import OpenAI
from overt.ref import parse
from overt.settings import Settings
from serving import Served

HELLO = Request("m", (Message.of("user", "Hello"),))
dialect = CompatibleServer()


def sent(request: Request) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    post, told = dialect.post(request, "some/model")
    return post.path, json.loads(post.body), told


# ---- what is sent --------------------------------------------------------------------------


def test_sampling_under_the_names_that_servers_share() -> None:
    drawn = Sampling(0.5, 40, 0.9, 0.1, 0.8, 1.1, 64, 0.2, 0.3, 7)
    _, body, told = sent(replace(HELLO, sampling=drawn, max_tokens=9, stop=tuple("abcdef")))
    assert told == ()
    assert body == {
        "model": "some/model", "messages": [{"role": "user", "content": "Hello"}],
        "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.5, "top_p": 0.9, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        "seed": 7, "top_k": 40, "min_p": 0.1, "typical_p": 0.8, "repeat_penalty": 1.1,
        "repetition_penalty": 1.1, "repeat_last_n": 64, "max_tokens": 9,
        "stop": ["a", "b", "c", "d", "e", "f"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"thinking": True}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"effort": "low"}, {"reasoning_effort": "low"}),
        (
            {"effort": "none"},
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}},
        ),
        ({}, {}),
    ],
)
def test_thinking(change: dict[str, Any], fields: dict[str, Any]) -> None:
    body = sent(replace(HELLO, **change))[1]
    names = {"chat_template_kwargs", "reasoning_effort"}
    assert {name: value for name, value in body.items() if name in names} == fields


def test_a_grammar_goes_along_and_says_so() -> None:
    _, body, told = sent(replace(HELLO, grammar='root ::= "x"'))
    assert body["grammar"] == 'root ::= "x"'
    assert len(told) == 1


def test_prompts_and_schemas() -> None:
    path, body, told = sent(Request("m", prompt=(1, 2), json_schema={"type": "object"}))
    assert (path, body["prompt"]) == ("/completions", [1, 2])
    assert body["json_schema"] == {"type": "object"}
    assert len(told) == 1


def test_thoughts_go_back_within_a_chain_of_calls_alone() -> None:
    def turn(thought: str, origin: str = "http") -> tuple[Message, Message]:
        parts = (ThoughtPart(thought, origin=origin), ToolCallPart("c", "look", "{}"))
        return Message("assistant", parts), Message("tool", (ToolResultPart("c", "cat"),))

    messages = (
        *HELLO.messages, *turn("old"), Message("assistant", (ThoughtPart("x", origin="http"),)),
        *HELLO.messages, *turn("new"), *turn("not ours", "anthropic"),
    )  # fmt: skip
    body = sent(replace(HELLO, messages=messages))[1]
    assert [m.get("reasoning_content") for m in body["messages"] if m["role"] == "assistant"] == [
        None, None, "new", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"deterministic": True},
        {"messages": ()},
        {"grammar": "x", "json_schema": {}},
        {"suffix": "x"},
        {"tool_choice": "gone"},
    ],
    ids=str,
)
def test_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        dialect.post(replace(HELLO, **change), "m")


# ---- what comes back -----------------------------------------------------------------------


def told(*chunks: Any, request: Request = HELLO) -> list[Event]:
    reader = dialect.reader(request)
    events: list[Event] = []
    for one in chunks:
        data = one if isinstance(one, bytes) else json.dumps(one).encode()
        events += reader.feed(ServerEvent("", data))
    return [*events, *reader.end()]


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call(**fields: Any) -> dict[str, Any]:
    return delta(tool_calls=[fields])


STOP = delta("stop")
DONE = b"[DONE]"


def test_thoughts_under_each_name() -> None:
    for name in ("reasoning_content", "reasoning"):
        assert told(delta(**{name: "Hm."}), delta(content="x"), STOP)[0] == Thought(
            "Hm.", origin="http"
        )
    both = told(delta(reasoning_content="Hm.", reasoning="Hm.", reasoning_details=[{}]), STOP)
    assert both == [Thought("Hm.", origin="http"), Done("stop")]
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "x"},
    ]
    assert told(delta(content=parts), STOP)[:2] == [Thought("Hm.", origin="http"), Text("x")]


@pytest.mark.parametrize(
    "chunks",
    [
        [delta(content="x"), STOP, DONE],
        [delta(content="x"), STOP],  # no [DONE]
        [delta(content="x"), DONE],  # no reason
        [delta(role="assistant", content=None, tool_calls=None), delta("stop", content="x")],
        [{"choices": [{"delta": {"content": "x"}}]}, {"choices": None}, {"choices": []}, STOP, b""],
        [{"choices": [{"delta": None, "message": {"content": "x"}, "finish_reason": "stop"}]}],
        [{"choices": [{"message": {"content": "x"}, "finish_reason": "eos"}]}],  # not streamed
        [delta(content="x"), {"choices": [{"delta": None, "message": {"content": "x"}}]}, STOP],
        [{"choices": [{"index": 1, "delta": {"content": "no"}}]}, delta(content="x"), STOP],
        [{"choices": [{"text": "x", "finish_reason": None}]}, STOP],
        [delta(content="x"), delta("whatever is new")],
    ],
)  # fmt: skip
def test_shapes_of_an_answer(chunks: list[Any]) -> None:
    assert told(*chunks) == [Text("x"), Done("stop")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "refusal"),
        ("STOP", "stop"),
    ],
)
def test_reasons(reason: str, finish: str) -> None:
    assert told(delta(content="x"), delta(reason))[-1] == Done(finish)  # type: ignore[arg-type]


def test_the_stop_that_vllm_tells() -> None:
    ended = {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    assert told(ended, request=replace(HELLO, stop=("END",)))[-1] == Done("stop", "END")
    assert told(ended)[-1] == Done("stop")


def test_usage_is_told_once() -> None:
    first, last = ({"prompt_tokens": 5, "completion_tokens": n} for n in (1, 2))
    assert told(delta(content="x") | {"usage": first}, STOP | {"usage": last}, DONE) == [
        Text("x"),
        Usage(5, 2),
        Done("stop"),
    ]
    odd = {"prompt_tokens": None, "completion_tokens": -4, "prompt_tokens_details": None}
    assert told(STOP | {"usage": odd})[0] == Usage(0, 0)
    timings = {"prompt_ms": 1500, "predicted_ms": 500.0}
    used = {"prompt_tokens": 3, "completion_tokens": 1}
    assert told(STOP | {"usage": used, "timings": timings})[0] == Usage(
        3, 1, prompt_seconds=1.5, decode_seconds=0.5
    )


WHOLE = [ToolCall(0, "a", "look", "{}"), ToolCall(1, "b", "see", '{"q":1}')]


@pytest.mark.parametrize(
    "chunks",
    [
        [call(index=0, id="a", function={"name": "look", "arguments": "{}"}),
         call(index=1, id="b", function={"name": "see", "arguments": '{"q":1}'})],
        [delta(tool_calls=[{"id": "a", "function": {"name": "look", "arguments": "{}"}},
                           {"id": "b", "function": {"name": "see", "arguments": '{"q":1}'}}])],
        [call(index=0, id="a", function={"name": "look", "arguments": {}}),
         call(index=0, id="b", function={"name": "see", "arguments": {"q": 1}})],
    ],
)  # fmt: skip
def test_calls_that_come_whole(chunks: list[Any]) -> None:
    assert told(*chunks, STOP)[:-1] == WHOLE
    assert told(*chunks, STOP)[-1] == Done("tool_calls")


@pytest.mark.parametrize(
    "chunks",
    [
        [call(id="a", function={"name": "look"}), call(function={"arguments": '{"q":'}),
         call(function={"arguments": "1}"}),
         call(id="b", function={"name": "see", "arguments": "{}"})],
        [call(index=0, id="a", function={"name": "look", "arguments": None}),
         call(index=0, id="a", function={"arguments": '{"q":1}'}),
         call(index=1, id="b", function={"name": "see", "arguments": "{}"})],
        [call(index=5, id="a", function={"name": "look", "arguments": '{"q":'}),
         call(index=5, function={"name": None, "arguments": "1}"}),
         call(index=9, id="b", function={"name": "see", "arguments": "{}"})],
        [call(index=0, id="a", function={"arguments": '{"q"'}),
         call(index=0, function={"name": "look", "arguments": ":1}"}),
         call(index=1, id="b", function={"name": "see", "arguments": "{}"})],
    ],
)  # fmt: skip
def test_calls_in_pieces(chunks: list[Any]) -> None:
    answer = Answer()
    for event in told(*chunks, STOP):
        answer.add(event)
    assert answer.tool_calls == [
        ToolCallPart("a", "look", '{"q":1}'),
        ToolCallPart("b", "see", "{}"),
    ]


def test_calls_without_ids_get_some() -> None:
    answer = Answer()
    for event in told(
        call(function={"name": "look", "arguments": {}}),
        call(function={"name": "look", "arguments": {}}),
        STOP,
    ):
        answer.add(event)
    first, second = answer.tool_calls
    assert first.id != second.id
    assert first.id.startswith("call_")


def test_one_call_where_one_was_asked_for() -> None:
    asked = replace(HELLO, tools=(Tool("look"),), parallel_tools=False)
    calls = [
        call(index=n, id=str(n), function={"name": "look", "arguments": "{}"}) for n in range(3)
    ]
    assert told(*calls, STOP, request=asked) == [
        ToolCall(0, "0", "look", "{}"),
        Done("tool_calls"),
    ]


def test_logprobs_of_completions() -> None:
    given = {
        "tokens": ["a", "b"], "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"c": -2.0, "b": -0.5}], "text_offset": [0, 1],
    }  # fmt: skip
    choice = {"index": 0, "text": "ab", "logprobs": given, "finish_reason": "stop"}
    tokens = told({"choices": [choice]})[1].tokens  # type: ignore[union-attr]
    assert [(t.token, t.logprob, t.top) for t in tokens] == [
        ("a", None, ()),
        ("b", -0.5, (("b", -0.5), ("c", -2.0))),
    ]


@pytest.mark.parametrize(
    ("chunk", "kind"),
    [
        ({"error": {"message": "Oh.", "code": 429}}, Busy),
        ({"error": {"message": "Oh.", "type": "BadRequestError", "code": 400}}, BadRequest),
        ({"error": "Oh."}, ProviderFailed),
        ({"object": "error", "message": "No model x.", "code": 404}, ModelNotFound),
        ({"error": {"message": "Oh.", "code": 502}} | STOP, ProviderFailed),
        ({"error": {"message": "context size", "n_prompt_tokens": 9, "n_ctx": 4}}, ContextExceeded),
        (delta("error"), ProviderFailed),
        (delta("abort"), ProviderFailed),
        (b"nonsense", ProviderFailed),
        (b"\xff\xfe", ProviderFailed),
        (b"[" * 99_999, ProviderFailed),
        ({"choices": [{"delta": {"content": 5}}]}, ProviderFailed),
        (call(index=0, id="a", function={"arguments": "x" * (1 << 21)}), ProviderFailed),
        (delta(tool_calls=[{"id": f"{n}", "function": {"name": "x"}} for n in range(129)]),
         ProviderFailed),
    ],
)  # fmt: skip
def test_failures_within(chunk: Any, kind: type[OvertError]) -> None:
    with pytest.raises(kind):
        told(delta(content="x"), chunk, STOP)


def test_answers_that_never_came() -> None:
    for chunks in ([], [DONE], [delta(content="x")], [call(id="a", function={}), STOP]):
        with pytest.raises(ProviderFailed):
            told(*chunks)


_LINES = [
    delta(content="x", reasoning="y", refusal=None),
    call(index=0, id="a", function={"name": "look", "arguments": "{"}),
    call(id="b", function={"name": "see", "arguments": {"q": 1}}),
    {"choices": [{"text": "z", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]},
    {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": -1, "bytes": [97]}]}}]},
    STOP | {"usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}},
]


_ODD = [b"", b"null", b"-1", b"1e999", b"{}", b"[]", b'"', b"\xff", b"9" * 30]


@hypothesis.settings(max_examples=repeats(60, 150))
@hypothesis.given(st.data())
def test_mutated_streams_end_in_events_or_one_error(data: st.DataObject) -> None:
    lines = [bytearray(json.dumps(one).encode()) for one in _LINES]
    for _ in range(data.draw(st.integers(1, 4))):
        line = lines[data.draw(st.integers(0, len(lines) - 1))]
        at = data.draw(st.integers(0, len(line) - 1))
        line[at : at + data.draw(st.integers(0, 6))] = data.draw(st.sampled_from(_ODD))
    order = data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=8) | st.just([*range(6)]))
    for spoken in (dialect, OpenAI()):
        reader, answer = spoken.reader(replace(HELLO, stop=("x",))), Answer()
        try:
            for place in order:
                for event in reader.feed(ServerEvent("", bytes(lines[place]))):
                    answer.add(event)
            for event in reader.end():
                answer.add(event)
        except OvertError:
            continue
        assert answer.finish is not None  # fmt: skip


# ---- real servers --------------------------------------------------------------------------


@pytest.fixture
async def wire() -> AsyncIterator[HttpClient]:
    upstream = HttpClient(Settings(retries=0), check=lambda _: None)
    yield upstream
    await upstream.close()


def engine(
    wire: HttpClient, base: str, model: str, secret: str = "", spoken: Dialect = dialect
) -> Provider:
    # llama.cpp's server drops connections that it promised to keep: see remote.destination.
    headers = {**spoken.headers(secret), "Connection": "close"}
    to = Destination(base, headers, secret, "here", "overt login here")
    return Provider(spoken, model, to, wire)


async def asked(peer: Provider, request: Request) -> Answer:
    answer = Answer()
    async with aclosing(peer.stream(request)) as events:
        async for event in events:
            answer.add(event)
    return answer


_LLAMA = """
import sys, xllamacpp
from overt.runtime.llamacpp.host import _common
common = _common(xllamacpp, {"weights": sys.argv[1], "context": 512, "parallel": 1, "batch": 128,
    "threads": 2, "prompt_threads": 2, "checkpoints": 0, "embedding": sys.argv[2] == "embed"})
common.hostnames, common.port, common.api_keys = ["127.0.0.1"], 0, ["sk-llama-secret"]
server = xllamacpp.Server(common)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def _llama(weights: Path, purpose: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _LLAMA, weights, purpose],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip() + "/v1"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(scope="module")
def llama(smollm2_gguf: Path) -> Iterator[str]:
    """llama.cpp's own server with a real model; the base URL."""
    yield from _llama(smollm2_gguf, "answer")


@pytest.mark.model
@pytest.mark.anyio
async def test_llama_server(wire: HttpClient, llama: str) -> None:
    peer = engine(wire, llama, "smollm2", "sk-llama-secret")
    greedy = Sampling(temperature=0, seed=1, top_k=40, min_p=0.0, repeat_penalty=1.0)
    plain = replace(HELLO, sampling=greedy, max_tokens=6, logprobs=2)
    answer = await asked(peer, plain)
    assert answer.text
    assert answer.finish == "length"
    assert answer.usage.tokens_out == 6
    assert answer.usage.tokens_in > 6
    assert answer.usage.decode_seconds > 0
    assert answer.routed == Routed("http:smollm2", bytes_out=answer.routed.bytes_out)  # type: ignore[union-attr]
    assert "".join(one.token for one in answer.logprobs).startswith(answer.text[:4])
    assert all(one.logprob <= 0 and len(one.top) == 2 for one in answer.logprobs)  # type: ignore[operator]

    word = answer.text.split()[-1]
    cut = await asked(peer, replace(plain, stop=(word,), logprobs=None))
    assert (cut.finish, word in cut.text) == ("stop", False)
    assert answer.text.startswith(cut.text)

    schema = {"type": "object", "properties": {"a": {"enum": [7]}}, "required": ["a"]}
    bound = await asked(peer, replace(HELLO, sampling=greedy, max_tokens=24, json_schema=schema))
    assert json.loads(bound.text) == {"a": 7}

    bare = await asked(peer, Request("m", prompt="One, two,", sampling=greedy, max_tokens=3))
    assert (bool(bare.text), bare.usage.tokens_out) == (True, 3)
    ruled = await asked(peer, replace(HELLO, grammar='root ::= "yes"', max_tokens=8))
    assert ruled.text == "yes"
    assert await peer.count(HELLO) > 3


@pytest.mark.model
@pytest.mark.anyio
async def test_llama_server_again_and_again(wire: HttpClient, llama: str) -> None:
    """It closes the connection behind each stream, which a connection kept open would race with."""
    for url, closes in (("http://10.0.0.5/v1", True), ("https://openrouter.ai/api/v1", False)):
        to = registry.destination(parse(f"{url}#m"), dialect, url, "")
        assert ("connection" in to.headers) is closes
    peer = engine(wire, llama, "smollm2", "sk-llama-secret")
    for _ in range(12):
        assert (await asked(peer, replace(HELLO, max_tokens=1))).usage.tokens_out == 1


@pytest.mark.model
@pytest.mark.anyio
async def test_llama_server_refuses(wire: HttpClient, llama: str) -> None:
    peer = engine(wire, llama, "smollm2", "sk-llama-secret")
    with pytest.raises(ContextExceeded, match="holds 512"):
        await asked(peer, Request("m", (Message.of("user", "word " * 900),)))
    with pytest.raises(NeedsAccess) as refused:
        await asked(engine(wire, llama, "smollm2", "sk-wrong"), HELLO)
    assert "sk-wrong" not in str(refused.value)
    with pytest.raises(Unsupported):
        await peer.embed(EmbedRequest("m", ("a",)))


@pytest.mark.model
@pytest.mark.anyio
async def test_llama_server_embeds(wire: HttpClient, model_home: Path) -> None:
    from overt.models.pull import find
    from overt.settings import load

    weights = find("minilm", load({"OVERT_HOME": str(model_home)})).weights
    for base in _llama(weights, "embed"):
        peer = engine(wire, base, "minilm", "sk-llama-secret")
        found = await peer.embed(EmbedRequest("m", ("a cat", "a kitten", "tax law")))
        cat, kitten, law = found.vectors
        assert found.tokens > 6
        assert sum(x * x for x in cat) == pytest.approx(1)
        assert sum(map(float.__mul__, cat, kitten)) > sum(map(float.__mul__, cat, law))


@pytest.mark.model
@pytest.mark.anyio
async def test_overt_as_a_peer(wire: HttpClient, server: Served) -> None:
    def peer(model: str) -> Provider:
        return engine(wire, server.url + "/v1", model)

    plain = await asked(peer("echo:x"), HELLO)
    assert (plain.text, plain.finish) == ("Hello", "stop")
    assert plain.usage == Usage(plain.usage.tokens_in, 1, plain.usage.tokens_cached)
    drawn = Sampling(0.5, 40, 0.9, 0.1, 0.8, 1.1, 64, 0.2, 0.3, 7)
    full = replace(HELLO, sampling=drawn, max_tokens=9, stop=("x",), logprobs=1, effort="low")
    assert (await asked(peer("echo:x"), full)).logprobs[0].logprob == 0

    called = await asked(peer("echo:tool"), replace(HELLO, tools=LOOK))
    assert called.finish == "tool_calls"
    assert [(one.name, json.loads(one.arguments)) for one in called.tool_calls] == [
        ("look", {"text": "Hello"})
    ]
    result = Message("tool", (ToolResultPart(called.tool_calls[0].id, "a cat"),))
    turns = (*HELLO.messages, called.message(), result, Message.of("user", "So?"))
    assert (await asked(peer("echo:x"), replace(HELLO, messages=turns))).text == "So?"

    thinking = await asked(peer("echo:think"), HELLO)
    assert thinking.thought
    assert [part.origin for part in thinking.message().parts if isinstance(part, ThoughtPart)] == [
        "http"
    ]
    bound = replace(HELLO, json_schema={"type": "object", "required": ["a"],
                                        "properties": {"a": {"type": "integer"}}})  # fmt: skip
    assert isinstance(json.loads((await asked(peer("echo:x"), bound)).text)["a"], int)
    bare = await asked(peer("echo:x"), Request("m", prompt="one two", max_tokens=1))
    assert (bare.text.strip(), bare.finish) == ("one", "length")
    assert await peer("echo:x").count(HELLO) >= 1
    found = await peer("echo:x").embed(EmbedRequest("m", ("a", "b")))
    assert len(found.vectors) == 2


LINES = (Message.of("user", "one two three"),)
LOOK = (Tool("look", "", {"type": "object", "properties": {"text": {"type": "string"}}}),)
LONG = (Message.of("user", "x y " * 9000),)


@pytest.mark.model
@pytest.mark.anyio
async def test_errors_of_overt_as_a_peer(wire: HttpClient, server: Served) -> None:
    base = server.url + "/v1"
    with pytest.raises(ModelNotFound, match="nowhere"):
        await asked(engine(wire, base, "nowhere"), HELLO)
    with pytest.raises(ProviderFailed) as failed:
        await asked(engine(wire, base, "echo:fail"), Request("m", (Message.of("user", "a b c d"),)))
    assert "echo" in str(failed.value)
    with pytest.raises(ContextExceeded, match="holds 8192"):
        await asked(engine(wire, base, "smollm2"), replace(HELLO, messages=LONG))
    with pytest.raises(OvertError, match="should end in /v1"):
        await asked(engine(wire, server.url + "/nothing/here", "echo:x"), HELLO)


# ---- the same servers in OpenAI's own dialect ----------------------------------------------


@pytest.mark.model
@pytest.mark.anyio
async def test_responses_of_llama_server(wire: HttpClient, llama: str) -> None:
    peer = engine(wire, llama, "smollm2", "sk-llama-secret", OpenAI())
    drawn = replace(HELLO, sampling=Sampling(temperature=0), max_tokens=16)  # OpenAI's least
    answer = await asked(peer, drawn)
    assert (bool(answer.text), answer.usage.tokens_out) == (True, 16)
    assert await peer.count(HELLO) > 3
    # It reads an assistant's turn in one of the two forms that OpenAI's document has, not in ours.
    again = replace(drawn, messages=(*HELLO.messages, answer.message(), *HELLO.messages))
    with pytest.raises(BadRequest, match="Cannot determine type"):
        await asked(peer, again)


@pytest.mark.model
@pytest.mark.anyio
async def test_responses_of_overt(wire: HttpClient, server: Served) -> None:
    def peer(model: str) -> Provider:
        return engine(wire, server.url + "/v1", model, spoken=OpenAI())

    plain = await asked(peer("echo:x"), replace(HELLO, max_tokens=20, logprobs=1))
    assert (plain.text, plain.finish) == ("Hello", "stop")
    assert plain.usage.tokens_out == 1
    assert plain.logprobs[0].token == "Hello"
    cut = await asked(peer("echo:x"), Request("m", LINES, stop=("two",)))
    assert (cut.text.strip(), cut.finish) == ("one", "stop")

    called = await asked(peer("echo:tool"), replace(HELLO, tools=LOOK))
    assert (called.finish, called.tool_calls[0].name) == ("tool_calls", "look")
    result = Message("tool", (ToolResultPart(called.tool_calls[0].id, "a cat"),))
    turns = (*HELLO.messages, called.message(), result, Message.of("user", "So?"))
    assert (await asked(peer("echo:x"), replace(HELLO, messages=turns))).text == "So?"

    thinking = await asked(peer("echo:think"), replace(HELLO, thinking=True, effort="low"))
    assert thinking.thought
    turns = (*HELLO.messages, thinking.message(), *HELLO.messages)
    assert (await asked(peer("echo:x"), replace(HELLO, messages=turns))).text == "Hello"
    bound = await asked(peer("echo:x"), replace(HELLO, json_schema={"type": "object"}))
    assert json.loads(bound.text) == {}
    short = await asked(peer("echo:x"), Request("m", LINES, max_tokens=16))
    assert short.finish == "stop"
    assert await peer("echo:x").count(HELLO) >= 1
    assert len((await peer("echo:x").embed(EmbedRequest("m", ("a", "b")))).vectors) == 2
    with pytest.raises(ModelNotFound, match="nowhere"):
        await asked(peer("nowhere"), HELLO)
    with pytest.raises(ProviderFailed, match="echo"):
        await asked(peer("echo:fail"), Request("m", (Message.of("user", "a b c d"),)))
