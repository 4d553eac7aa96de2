"""OpenAI's chat: every field to its place in a Request, every event to its place in an answer."""

import base64
import json
from typing import Any

import openai_rig as rig
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from overt.chat import (
    Done,
    Failed,
    ImagePart,
    Logprobs,
    Message,
    Progress,
    Sampling,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    TokenLogprob,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.errors import Busy

CHAT = "/v1/chat/completions"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
}
OTHER = {"type": "function", "function": {"name": "go"}}

pytestmark = pytest.mark.anyio


async def request_of(**fields: Any) -> Any:
    services = rig.Services()
    answered = await rig.ask(services, CHAT, rig.user("hi", **fields))
    assert answered.status == 200, answered.body
    return services.asked[0]


# ---- the request ---------------------------------------------------------------------------

FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"max_tokens": None, "logprobs": None, "tool_choice": "auto", "json_schema": None}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
    (
        {"temperature": 0, "top_p": 0.5, "presence_penalty": -2, "frequency_penalty": 2, "seed": 7},
        {
            "sampling": Sampling(
                temperature=0, top_p=0.5, presence_penalty=-2, frequency_penalty=2, seed=7
            )
        },
    ),
    ({"seed": -9007199254740991}, {"sampling": Sampling(seed=-9007199254740991 % (2**32 - 1))}),
    (
        {"top_k": 4, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.1, "repeat_last_n": 9},
        {
            "sampling": Sampling(
                top_k=4, min_p=0.1, typical_p=0.9, repeat_penalty=1.1, repeat_last_n=9
            )
        },
    ),
    ({"top_k": -1, "repetition_penalty": 1.2}, {"sampling": Sampling(top_k=0, repeat_penalty=1.2)}),
    ({"stop": "a"}, {"stop": ("a",)}),
    ({"stop": list("abcdef")}, {"stop": tuple("abcdef")}),
    ({"logit_bias": {"5": -100, "7": 1.5}}, {"logit_bias": ((5, -100.0), (7, 1.5))}),
    ({"logprobs": True}, {"logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 20}, {"logprobs": 20}),
    ({"logprobs": False, "top_logprobs": 0}, {"logprobs": None}),
    ({"response_format": {"type": "text"}}, {"json_schema": None}),
    ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "array"}, "strict": True},
            }
        },
        {"json_schema": {"type": "array"}},
    ),
    ({"grammar": "root ::= [a]"}, {"grammar": "root ::= [a]"}),
    ({"reasoning_effort": "high"}, {"thinking": None, "effort": "high"}),
    ({"reasoning_effort": "none"}, {"thinking": False, "effort": None}),
    ({"reasoning_effort": "minimal"}, {"thinking": False, "effort": "low"}),
    ({"chat_template_kwargs": {"enable_thinking": True}}, {"thinking": True}),
    ({"deterministic": True}, {"deterministic": True}),
    ({"parallel_tool_calls": False}, {"parallel_tools": False}),
    ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": "required"}),
    ({"tools": [TOOL], "tool_choice": "none"}, {"tool_choice": "none"}),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"tool_choice": "look"},
    ),
]


@pytest.mark.parametrize(("fields", "wanted"), FIELDS, ids=lambda value: ",".join(value))
async def test_a_field_arrives(fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    request = await request_of(**fields)
    assert {name: getattr(request, name) for name in wanted} == wanted


async def test_fields_that_change_nothing_here_are_taken() -> None:
    request = await request_of(
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_options={"mode": "implicit"},
        prompt_cache_retention="24h",
        prediction={"type": "content", "content": "x"},
        modalities=["text"],
        audio={"format": "wav", "voice": "alloy"},
        verbosity="low",
        cache_prompt=True,
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": True},
    )
    assert request == await request_of()


async def test_allowed_tools_narrow_what_may_be_called() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "go"}}]}
    request = await request_of(
        tools=[TOOL, OTHER], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}
    )
    assert [tool.name for tool in request.tools] == ["go"]
    assert request.tool_choice == "required"


async def test_a_tool_named_like_a_mode_can_still_be_named() -> None:
    tools = [TOOL, {"type": "function", "function": {"name": "none"}}]
    choice = {"type": "function", "function": {"name": "none"}}
    request = await request_of(tools=tools, tool_choice=choice)
    assert ([tool.name for tool in request.tools], request.tool_choice) == (["none"], "required")


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [(0, 0), ("5m", 300), ("1h30m", 5400), ("-1", float("inf")), (-1, float("inf")), ("90", 90),
     ("500ms", 0.5)],
)  # fmt: skip
async def test_keep_alive(keep_alive: float | str, seconds: float) -> None:
    services = rig.Services()
    await rig.ask(services, CHAT, rig.user("hi", keep_alive=keep_alive))
    assert services.held[0].keep_alive == seconds


async def test_messages_of_every_role() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    services = rig.Services()
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "be kind"}], "name": "s"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "reasoning_content": "hm",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "a cat"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "function_call": {"name": "old", "arguments": ""}},
        {"role": "function", "name": "old", "content": "7"},
        {"role": "user", "content": "go on"},
    ]
    answered = await rig.ask(services, CHAT, {"model": "echo:", "messages": messages})
    assert answered.status == 200, answered.body
    image = ImagePart(base64.b64decode(PNG), "image/png")
    assert services.asked[0].messages == (
        Message.of("system", "be brief"),
        Message.of("system", "be kind"),
        Message("user", (TextPart("what is this?"), image, image)),
        Message("assistant", (ThoughtPart("hm"), ToolCallPart("c1", "look", '{"a":1}'))),
        Message("tool", (ToolResultPart("c1", "a cat"),)),
        Message.of("assistant", "no"),
        Message("assistant", (ToolCallPart("old", "old", "{}"),)),
        Message("tool", (ToolResultPart("old", "7"),)),
        Message.of("user", "go on"),
    )


async def test_an_answer_can_be_sent_back_as_it_came() -> None:
    answered = await rig.ask(rig.Services(), CHAT, rig.user("hi", model="echo:think"))
    back = [{"role": "user", "content": "hi"}, answered.body["choices"][0]["message"]]
    again = await rig.ask(rig.Services(), CHAT, {"model": "echo:", "messages": back})
    assert again.status == 200, again.body


BAD: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "nobody", "content": ""}]}, "messages[0].role", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": "", "x": 1}]},
        "messages[0].x",
        "unknown_parameter",
    ),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"top_p": -0.1}, "top_p", "invalid_value"),
    ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": 2**31}, "max_completion_tokens", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 129}, "n", "invalid_value"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logit_bias": {"foo": 0}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"7": 101}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {str(n): 1 for n in range(300_001)}}, "logit_bias", "invalid_value"),
    ({"stop": ["a", ""]}, "stop", "invalid_value"),
    ({"keep_alive": "soon"}, "keep_alive", "invalid_value"),
    ({"modalities": ["text", "audio"]}, "modalities", "invalid_value"),
    ({"web_search_options": {}}, "web_search_options", "invalid_value"),
    ({"moderation": {"model": "m"}}, "moderation", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "look", "tools": [TOOL]}, "tool_choice", "invalid_value"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
        "tool_choice",
        "invalid_value",
    ),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    ({"tools": [TOOL] * 1025}, "tools", "invalid_value"),
    (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
        "invalid_value",
    ),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    ({"response_format": {"type": "json_object"}, "grammar": "x"}, "grammar", "invalid_value"),
    ({"model": ""}, "model", "invalid_value"),
    ({"messages": [{"role": "user", "content": "a"}] * 20_001}, "messages", "invalid_value"),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "http://10.0.0.1/cat.png"}}
                    ],
                }
            ]
        },
        "messages[0].content[0].image_url",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_is_named(
    fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    services = rig.Services()
    answered = await rig.ask(services, CHAT, {**rig.user("hi"), **fields})
    error = answered.body["error"]
    assert answered.status == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]
    assert services.asked == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b'{"a":' * 5000])
async def test_a_body_that_is_no_object(body: bytes) -> None:
    answered = await rig.ask(rig.Services(), CHAT, body)
    assert (answered.status, answered.body["error"]["type"]) == (400, "invalid_request_error")


# ---- the answer ----------------------------------------------------------------------------

A, B = TokenLogprob("A", -0.25, (("A", -0.25), ("B", -1.5))), TokenLogprob("B", float("-inf"))
PART = TokenLogprob("�", -1.0, (), None, b"\xe2\x82")
CALLS = (
    ToolCall(0, "", "look", ""),
    ToolCall(0, "", "", '{"a":'),
    ToolCall(0, "", "", "1}"),
    ToolCall(1, "c9", "go", "{}"),
)


def play(*events: Any) -> rig.Services:
    return rig.Services(script=lambda request: events)


async def whole(services: rig.Services, **fields: Any) -> Any:
    answered = await rig.ask(services, CHAT, rig.user("one two three", **fields))
    assert answered.status == 200, answered.body
    ChatCompletion.model_validate(answered.body, strict=False)
    return answered.body


async def streamed(services: rig.Services, **fields: Any) -> list[Any]:
    answered = await rig.ask(services, CHAT, rig.user("one two three", stream=True, **fields))
    assert answered.status == 200, answered.body
    for chunk in answered.chunks:
        if isinstance(chunk, dict) and "error" not in chunk:
            ChatCompletionChunk.model_validate(chunk)
    return answered.chunks


async def test_an_answer_in_one_piece() -> None:
    body = await whole(rig.Services())
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "echo:")
    assert (body["service_tier"], body["system_fingerprint"]) == ("default", "fp_overt_1_2_3")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "one two three",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


async def test_the_same_answer_in_chunks() -> None:
    chunks = await streamed(rig.Services(), stream_options={"include_usage": True})
    *chunks, usage, end = chunks
    assert end == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {usage["id"]}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk["usage"] is None for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert [delta.get("content") for delta in deltas[1:-1]] == ["one ", "two ", "three"]
    assert deltas[-1] == {}
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, None, "stop"]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 6


async def test_without_include_usage_there_is_none() -> None:
    chunks = await streamed(rig.Services())
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert all(len(chunk["choices"]) == 1 for chunk in chunks[:-1])


async def test_length_ends_an_answer() -> None:
    assert (await whole(rig.Services(), max_tokens=2))["choices"][0]["finish_reason"] == "length"
    chunks = await streamed(rig.Services(), max_tokens=2)
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


async def test_a_cancelled_answer_has_a_reason_the_clients_know() -> None:
    body = await whole(play(Text("a"), Done("cancelled")))
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_reasoning_stands_apart_and_is_counted() -> None:
    events = (Thought("h"), Thought("m"), Text("a"), Usage(5, 4, 3), Done("stop"))
    body = await whole(play(*events))
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], message["reasoning"]) == (
        "a", "hm", "hm",
    )  # fmt: skip
    usage = body["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
    chunks = await streamed(play(*events), stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-2]]
    assert [delta.get("reasoning_content", "") for delta in deltas] == ["", "h", "m", "", ""]
    assert chunks[-2]["usage"] == usage


async def test_tool_calls() -> None:
    body = await whole(play(*CALLS, Usage(1, 2), Done("tool_calls")), tools=[TOOL, OTHER])
    choice = body["choices"][0]
    first, second = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert first["id"].startswith("call_")
    assert first["function"] == {"name": "look", "arguments": '{"a":1}'}
    assert second == {
        "id": "c9", "type": "function", "function": {"name": "go", "arguments": "{}"},
    }  # fmt: skip


async def test_tool_calls_in_chunks_add_up() -> None:
    chunks = await streamed(play(*CALLS, Done("stop")), tools=[TOOL, OTHER])
    pieces = [c["choices"][0]["delta"].get("tool_calls") for c in chunks[:-1]]
    pieces = [piece[0] for piece in pieces if piece]
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 1]
    assert [("id" in piece, "type" in piece) for piece in pieces] == [
        (True, True), (False, False), (False, False), (True, True),
    ]  # fmt: skip
    arguments = "".join(p["function"]["arguments"] for p in pieces if p["index"] == 0)
    assert json.loads(arguments) == {"a": 1}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_functions_of_before_tools() -> None:
    fields = {"functions": [{"name": "look"}], "function_call": {"name": "look"}}
    services = play(ToolCall(0, "", "look", "{}"), Done("tool_calls"))
    choice = (await whole(services, **fields))["choices"][0]
    assert services.asked[0].tool_choice == "look"
    assert services.asked[0].parallel_tools is False
    assert choice["message"]["function_call"] == {"name": "look", "arguments": "{}"}
    assert choice["finish_reason"] == "function_call"
    chunks = await streamed(services, **fields)
    assert chunks[1]["choices"][0]["delta"] == {
        "function_call": {"name": "look", "arguments": "{}"}
    }
    assert chunks[-2]["choices"][0]["finish_reason"] == "function_call"


async def test_logprobs() -> None:
    events = (Text("A"), Logprobs((A,)), Text("B"), Logprobs((B, PART)), Done("stop"))
    told = (await whole(play(*events), logprobs=True, top_logprobs=1))["choices"][0]["logprobs"]
    assert told["refusal"] is None
    assert told["content"] == [
        {
            "token": "A",
            "logprob": -0.25,
            "bytes": [65],
            "top_logprobs": [{"token": "A", "logprob": -0.25, "bytes": [65]}],
        },
        {"token": "B", "logprob": -9999.0, "bytes": [66], "top_logprobs": []},
        {"token": "�", "logprob": -1.0, "bytes": [0xE2, 0x82], "top_logprobs": []},
    ]
    chunks = await streamed(play(*events), logprobs=True, top_logprobs=1)
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert [choice["delta"].get("content") for choice in choices] == ["", "A", "B", None]
    pieces = [t for choice in choices if choice["logprobs"] for t in choice["logprobs"]["content"]]
    assert pieces == told["content"]


async def test_text_whose_logprobs_never_come_is_not_lost() -> None:
    events = (Text("A"), Text("B"), Logprobs((B,)), Text("C"), Done("stop"))
    chunks = await streamed(play(*events), logprobs=True)
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(deltas) == "ABC"


async def test_several_answers() -> None:
    def script(request: Any) -> list[Any]:
        return [Text(str(request.sampling.seed)), Usage(4, 1, 2), Done("stop")]

    body = await whole(rig.Services(script=script), n=3, seed=10)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["10", "11", "12"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (4, 3)
    chunks = await streamed(rig.Services(script=script), n=3, seed=10)
    text = {0: "", 1: "", 2: ""}
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        text[choice["index"]] += choice["delta"].get("content", "")
    assert text == {0: "10", 1: "11", 2: "12"}


# ---- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_an_error_before_the_answer_has_its_status(stream: bool, n: int) -> None:
    services = rig.Services()
    answered = await rig.ask(services, CHAT, rig.user("hi", model="gone", stream=stream, n=n))
    assert answered.status == 404
    assert answered.body["error"]["code"] == "model_not_found"
    assert services.open == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_as_the_first_event_has_its_status_too(stream: bool) -> None:
    services = play(Failed("too_many", "three at once", "wait"))
    answered = await rig.ask(services, CHAT, rig.user("hi", stream=stream))
    assert answered.status == 429
    assert answered.body["error"]["message"] == "three at once; wait"


async def test_a_failure_in_one_piece_has_its_status() -> None:
    answered = await rig.ask(rig.Services(), CHAT, rig.user("a b c d", model="echo:fail"))
    assert (answered.status, answered.body["error"]["type"]) == (500, "server_error")


async def test_a_failure_in_the_middle_ends_the_stream() -> None:
    chunks = await streamed(rig.Services(), model="echo:fail", messages=[
        {"role": "user", "content": "a b c d e"}])  # fmt: skip
    assert chunks[-1]["error"] == {
        "message": "echo:fail fails after three words, as its name says",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }
    assert len(chunks) == 5


async def test_an_answer_that_is_raised_in_the_middle_ends_the_stream() -> None:
    def script(request: Any) -> list[Any]:
        if request.sampling.seed == 2:
            return [Progress(1, 1), Busy("full", None, 3)]
        return [Text("a"), Done("stop")]

    services = rig.Services(script=script)
    chunks = await streamed(services, n=3, seed=1)
    assert chunks[-1]["error"]["code"] == "busy"
    assert services.open == 0


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_closes_its_streams(n: int) -> None:
    from overt.protocols.base import NOBODY, HttpCall, Stream
    from overt.protocols.openai.chat import create

    services = rig.Services()
    body = json.dumps(rig.user("a b c", model="echo:slow", stream=True, n=n)).encode()
    call = HttpCall(services, NOBODY, "r", "POST", CHAT, {}, {}, {}, body)  # type: ignore[arg-type]
    answer = await create(call)
    assert isinstance(answer, Stream)
    await anext(answer.chunks)
    assert services.open >= 1
    await answer.chunks.aclose()
    assert services.open == 0
