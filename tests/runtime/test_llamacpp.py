"""Translation between our values and llama.cpp's JSON, without a model.

The same engine with a real model behind it is in test_llamacpp_model.py.
"""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import (
    Answer,
    Done,
    Failed,
    ImagePart,
    Logprobs,
    Message,
    Progress,
    Request,
    Sampling,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.engine import Capabilities
from overt.errors import (
    BadRequest,
    ContextExceeded,
    EngineFailed,
    OutOfMemory,
    OvertError,
    Unsupported,
)
from overt.runtime.llamacpp.engine import LlamaCpp

CAN = Capabilities(context=100, images=True)


class Script:
    """A worker that answers with given chunks, and keeps what it was asked."""

    def __init__(self, *chunks: object) -> None:
        self.chunks = chunks
        self.kind = ""
        self.body: dict = {}
        self.closed = False

    async def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]:
        self.kind, self.body = kind, json.loads(body)
        try:
            for chunk in self.chunks:
                yield chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()
        finally:
            self.closed = True

    async def ask(self, path: str, body: bytes) -> bytes:
        raise AssertionError("nothing was to be asked")

    async def stop(self) -> None: ...


DONE = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def run(script: Script, request: Request, can: Capabilities = CAN) -> list:
    async def collect() -> list:
        return [event async for event in LlamaCpp(script, can).stream(request)]

    return asyncio.run(collect())


def body(request: Request) -> dict:
    script = Script(DONE)
    run(script, request)
    return script.body


def says(text: str, **fields) -> Request:
    return Request("m", (Message.of("user", text),), **fields)


def test_a_plain_question():
    assert body(says("hi")) == {
        "stream": True,
        "return_progress": True,
        "cache_prompt": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_every_knob_arrives_under_llama_cpps_name():
    sampling = Sampling(0.5, 40, 0.9, 0.1, 0.8, 1.1, 64, 0.2, 0.3, 7)
    bias = ((5, 1.5), (6, -100.0))
    sent = body(
        says(
            "hi", sampling=sampling, max_tokens=9, stop=("a", "b"), logprobs=3, logit_bias=bias,
            thinking=True, effort="low",
        )
    )  # fmt: skip
    assert {
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repeat_penalty": 1.1,
        "repeat_last_n": 64,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": 7,
        "n_predict": 9,
        "stop": ["a", "b"],
        "verbose": True,
        "response_fields": ["stopping_word"],
        "n_probs": 3,
        "logit_bias": [[5, 1.5], [6, False]],
        "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"},
    }.items() <= sent.items()


def test_a_raw_prompt_goes_to_completion_untemplated():
    script = Script(DONE)
    run(script, Request("m", prompt="Once", logprobs=0, json_schema={"type": "string"}))
    assert script.kind == "completion"
    assert script.body["prompt"] == "Once"
    assert script.body["n_probs"] == 1
    assert script.body["json_schema"] == {"type": "string"}
    assert "messages" not in script.body


def test_a_prompt_of_token_ids_goes_as_it_is():
    script = Script(DONE)
    run(script, Request("m", prompt=(3, 1, 2)))
    assert (script.kind, script.body["prompt"]) == ("completion", [3, 1, 2])


def test_no_effort_is_no_thinking_and_no_stop_is_no_stop():
    sent = body(says("hi", effort="none", stop=("",)))
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert "stop" not in sent


def test_penalties_over_the_whole_context():
    assert body(says("hi", sampling=Sampling(repeat_last_n=-1)))["repeat_last_n"] == 100


def test_a_conversation_with_tools_thoughts_and_images():
    messages = (
        Message("user", (TextPart("see"), ImagePart(b"\x00\x01", "image/png"))),
        Message("assistant", (ThoughtPart("hm"), ToolCallPart("c1", "look", '{"a":1}'))),
        Message("tool", (ToolResultPart("c1", "nothing"),)),
    )
    assert body(Request("m", messages))["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAE="}},
            ],
        },
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"a":1}'},
                }
            ],
            "content": "",
        },
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]


def test_a_model_without_a_chat_template_continues_the_words():
    script = Script(DONE)
    messages = (Message.of("system", "A story."), Message.of("user", "Once upon"))
    run(script, Request("m", messages), Capabilities(context=100, chat=False))
    assert script.kind == "completion"
    assert script.body["prompt"] == "A story.\n\nOnce upon"
    with pytest.raises(BadRequest, match="no chat template"):
        run(script, says("x", tools=(Tool("look"),)), Capabilities(context=100, chat=False))


def test_deterministic_reuses_no_prefix():
    assert body(says("hi", deterministic=True))["cache_prompt"] is False


def test_a_required_tool_is_forced_by_schema_and_read_back():
    tool = Tool("look", parameters={"type": "object", "properties": {"q": {"type": "string"}}})
    script = Script(
        {"choices": [{"delta": {"content": '{"name": "look", "arg'}}]},
        {"choices": [{"delta": {"content": 'uments": {"q": "x"}}'}}]},
        DONE,
    )
    answer = Answer()
    for event in run(script, says("hi", tools=(tool,), tool_choice="look")):
        answer.add(event)
    assert "tools" not in script.body
    schema = script.body["response_format"]["json_schema"]["schema"]
    assert schema["anyOf"][0]["properties"]["name"] == {"const": "look"}
    assert (answer.text, answer.finish) == ("", "tool_calls")
    [call] = answer.tool_calls
    assert (call.name, call.arguments) == ("look", '{"q": "x"}')
    assert call.id.startswith("call_")


FORCED = '{"name": "l\\u00f6ok", "arguments" : {"a": "}\\"]", "b": [{}, {"c": "\\\\"}]}}'


@given(st.lists(st.integers(0, len(FORCED)), max_size=8))
def test_a_forced_call_is_the_same_however_its_text_is_cut(cuts):
    ends = [0, *sorted(cuts), len(FORCED)]
    pieces = [FORCED[a:b] for a, b in itertools.pairwise(ends)]
    script = Script(*({"choices": [{"delta": {"content": piece}}]} for piece in pieces), DONE)
    answer = Answer()
    for event in run(script, says("hi", tools=(Tool("löok"),), tool_choice="required")):
        answer.add(event)
    [call] = answer.tool_calls
    assert call.name == "löok"
    assert json.loads(call.arguments) == json.loads(FORCED)["arguments"]
    assert (answer.text, answer.finish) == ("", "tool_calls")


def test_a_forced_call_that_is_cut_short_says_so():
    cut = {"choices": [{"delta": {"content": '{"name": "look", "arguments": {"q": "'}}]}
    ended = {"choices": [{"delta": {}, "finish_reason": "length"}]}
    answer = Answer()
    for event in run(Script(cut, ended), says("hi", tools=(Tool("look"),), tool_choice="look")):
        answer.add(event)
    assert (answer.finish, answer.tool_calls[0].arguments) == ("length", '{"q": "')


def test_one_call_at_most_where_one_was_asked_for():
    calls = [{"index": n, "id": f"c{n}", "function": {"name": "look"}} for n in range(2)]
    script = Script({"choices": [{"delta": {"tool_calls": calls}}]}, DONE)
    events = run(script, says("hi", tools=(Tool("look"),), parallel_tools=False))
    assert script.body["parallel_tool_calls"] is False
    assert [event.id for event in events if isinstance(event, ToolCall)] == ["c0"]


def test_which_stop_sequence_ended_the_answer():
    def ended(word: str) -> Done:
        last = DONE | {"__verbose": {"stopping_word": word}}
        *_, done = run(Script(last), says("x", stop=("a", "b")))
        return done

    assert ended("b") == Done("stop", "b")
    assert ended("") == Done("stop")
    assert ended("<|im_end|>") == Done("stop")  # a stop of the template, not of whoever asked


def test_logprobs_carry_ids_bytes_and_no_more_alternatives_than_asked():
    top = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]
    token = {"id": 7, "token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": top}
    half = token | {"token": "\ufffd", "bytes": [0xE2, 0x82]}
    chunk = {"choices": [{"text": "a", "logprobs": {"content": [token, half]}}]}
    for asked, listed in ((0, ()), (1, (("a", -1.0),)), (2, (("a", -1.0), ("b", -2.0)))):
        events = run(Script(chunk, DONE), Request("m", prompt="x", logprobs=asked))
        [told] = [event for event in events if isinstance(event, Logprobs)]
        assert told.tokens == (
            TokenLogprob("a", -1.0, listed, 7, None),
            TokenLogprob("\ufffd", -1.0, listed, 7, b"\xe2\x82"),
        )


def test_tools_offered_are_sent_and_none_withholds_them():
    tool = Tool("look")
    assert body(says("hi", tools=(tool,)))["tools"][0]["function"]["name"] == "look"
    assert "tools" not in body(says("hi", tools=(tool,), tool_choice="none"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("m"), "messages or a prompt"),
        (Request("m", (Message.of("user", "x"),), prompt="y"), "messages or a prompt"),
        (says("x", sampling=Sampling(temperature=-1)), "temperature is -1"),
        (says("x", sampling=Sampling(top_p=1.5)), "top_p is 1.5"),
        (says("x", sampling=Sampling(seed=-3)), "seed is -3"),
        (says("x", max_tokens=0), "max tokens is 0"),
        (says("x", logprobs=21), "logprobs is 21"),
        (says("x", json_schema={}, grammar="root"), "both given"),
        (says("x", tool_choice="fly"), "none of the tools"),
        (says("x", suffix="y"), "without a prompt"),
        (says("x", logit_bias=((-1, 1.0),)), "logit bias 1.0 for token -1"),
        (says("x", logit_bias=((1, float("nan")),)), "logit bias nan"),
        (says("x", sampling=Sampling(typical_p=1.5)), "typical_p is 1.5"),
        (says("x", sampling=Sampling(repeat_last_n=-2)), "repeat_last_n is -2"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_worker_sees_it(request_, words):
    script = Script(DONE)
    with pytest.raises(BadRequest, match=words):
        run(script, request_)
    assert script.body == {}


def test_an_image_needs_a_projector():
    image = Request("m", (Message("user", (ImagePart(b"x", "image/png"),)),))
    with pytest.raises(BadRequest, match="cannot see images"):
        run(Script(DONE), image, Capabilities(context=1))


def test_chunks_become_events():
    script = Script(
        {
            "choices": [{"delta": {"content": None}}],
            "prompt_progress": {"total": 9, "processed": 4},
        },
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"content": "a"}}], "unknown": [1]},
        DONE,
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 2},
            },
            "timings": {"prompt_ms": 500, "predicted_ms": 250},
        },
    )
    *events, done = run(script, says("x"))
    assert events == [Progress(4, 9), Thought("hm"), Text("a"), Usage(9, 1, 2, 0.5, 0.25)]
    assert done.finish == "stop"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            {"type": "exceed_context_size_error", "n_prompt_tokens": 500, "n_ctx": 100},
            ContextExceeded,
            "the prompt is 500 tokens and the context holds 100",
        ),
        ({"message": "failed to parse grammar"}, BadRequest, "not valid GBNF"),
        (
            {
                "message": "X. JSON schema error at #: unrecognized type objekt",
                "type": "ValueError",
            },
            BadRequest,
            "unrecognized type objekt",
        ),
        ({"message": "no", "type": "invalid_request_error"}, BadRequest, "refused the request: no"),
        ({"message": "no", "type": "not_supported_error"}, Unsupported, "cannot do that: no"),
        ({"message": "boom", "type": "RuntimeError"}, EngineFailed, "llama.cpp failed: boom"),
    ],
)
def test_errors_of_llama_cpp_become_ours(error, kind, words):
    with pytest.raises(kind, match=words):
        run(Script({"error": error}), says("x"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Failed to initialize samplers: failed to parse grammar", "llama.cpp makes no grammar"),
        (
            "Unable to generate parser for this template. Automatic parser generation failed: "
            "At least one of min_value or max_value must be set",
            "At least one of min_value",
        ),
        (
            "Unable to generate parser for this template. Automatic parser generation failed: "
            "JSON schema conversion failed:\nInvalid pattern ^((((a$",
            "used: Invalid pattern",
        ),
    ],
)
@pytest.mark.parametrize("given", ["schema", "tools"])
def test_an_error_over_a_schema_speaks_of_the_schema(message, words, given):
    fields = {"schema": {"json_schema": {}}, "tools": {"tools": (Tool("look"),)}}[given]
    with pytest.raises(BadRequest) as refused:
        run(Script({"error": {"message": message, "type": "ValueError"}}), says("x", **fields))
    assert "the JSON schema cannot be used" in refused.value.message
    assert words in refused.value.message
    assert "GBNF" not in str(refused.value)


def test_want_of_memory_is_no_failure_without_a_reason():
    error = {"message": "std::bad_alloc", "type": "ValueError"}
    with pytest.raises(OutOfMemory, match="more memory than the worker may have"):
        run(Script({"error": error}), says("x"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (says("x" * (256 * 101)), "at least 101 tokens and the context holds 100"),
        (says("é" * (128 * 101)), "at least 101 tokens"),
        (Request("m", (Message.of("user", "a"),) * 101), "at least 101 tokens"),
        (Request("m", prompt="x" * (256 * 101)), "at least 101 tokens"),
    ],
)
@pytest.mark.parametrize("longest", [0, 100])
def test_what_cannot_fit_is_refused_before_the_worker_sees_it(request_, words, longest):
    script = Script(DONE)
    with pytest.raises(ContextExceeded, match=words) as refused:
        run(script, request_, replace(CAN, context=100, longest=longest))
    assert not script.kind
    hint = "this model holds 100 tokens at most" if longest else "--context 1024"
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "request_",
    [
        says("x" * (256 * 101 - 1)),
        says("x" + " " * 10**6),  # templates cut blanks off
        Request("m", (Message.of("assistant", "x" * 10**6), Message.of("user", "a"))),
        Request("m", (Message.of("user", "a"),) * 100),
        Request("m", prompt=(1,) * 101),  # llama.cpp says so at once
    ],
)
def test_what_could_fit_is_left_to_the_worker(request_):
    script = Script(DONE)
    run(script, request_, replace(CAN, context=100))
    assert script.kind


@pytest.mark.parametrize("index", [-1, 2**40])
def test_a_tool_call_number_out_of_range_is_refused(index):
    call = {"choices": [{"delta": {"tool_calls": [{"index": index}]}}]}
    with pytest.raises(EngineFailed, match="numbered a tool call"):
        run(Script(call, DONE), says("x"))


@pytest.mark.parametrize(
    ("longest", "hint"), [(0, "--context 1024"), (300, "this model holds 300 tokens at most")]
)
def test_no_context_is_advised_that_the_model_cannot_have(longest, hint):
    error = {"type": "exceed_context_size_error", "n_prompt_tokens": 500, "n_ctx": 100}
    with pytest.raises(ContextExceeded, match=hint):
        run(Script({"error": error}), says("x"), Capabilities(context=100, longest=longest))


def test_an_answer_without_an_end_is_a_failure():
    with pytest.raises(EngineFailed, match="without a reason"):
        run(Script({"choices": [{"delta": {"content": "a"}}]}), says("x"))


def test_closing_the_stream_closes_the_call():
    script = Script({"choices": [{"delta": {"content": "a"}}]}, DONE)

    async def first() -> None:
        events = LlamaCpp(script, CAN).stream(says("x"))
        assert await anext(events) == Text("a")
        await events.aclose()

    asyncio.run(first())
    assert script.closed


@given(st.integers(0, 2**32), st.binary(max_size=40))
def test_no_chunk_of_a_hostile_worker_escapes_the_error_tree(seed, noise):
    good = json.dumps(
        {
            "choices": [
                {
                    "delta": {"content": "a", "tool_calls": [{"index": 0, "id": "x"}]},
                    "logprobs": {"content": [{"token": "a", "logprob": -1.0, "bytes": [97]}]},
                }
            ],
            "usage": {"prompt_tokens": 3},
        }
    ).encode()
    pick = random.Random(seed)
    at = pick.randrange(len(good))
    mutated = good[:at] + noise + good[at + pick.randrange(20) :]
    try:
        events = run(Script(mutated, DONE), says("x"))
    except OvertError:
        return
    answer = Answer()
    for event in events:
        assert not isinstance(event, Failed)
        answer.add(event)


def test_one_that_asks_to_be_alone_waits_and_makes_others_wait():
    order: list[str] = []

    class Slow(Script):
        async def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]:
            name = json.loads(body)["messages"][0]["content"]
            order.append(f"{name}>")
            await asyncio.sleep(0.02)
            yield json.dumps(DONE).encode()
            order.append(f"<{name}")

    async def three() -> None:
        engine = LlamaCpp(Slow(), CAN)

        async def one(name: str, alone: bool) -> None:
            async for _ in engine.stream(says(name, deterministic=alone)):
                pass

        await asyncio.gather(one("a", False), one("b", True), one("c", False))

    asyncio.run(three())
    assert order == ["a>", "<a", "b>", "<b", "c>", "<c"]
