"""Gemini's API: what becomes of a body, and of events, judged by the official types."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import anyio
import pytest
from google.genai import errors as official_errors
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_rig import ANSWER, Answered, Services, ask, errors, mutated

from conftest import repeats
from overt.chat import (
    Done,
    EmbedRequest,
    Event,
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
from overt.errors import Busy, OvertError, WorkerDied
from overt.protocols.gemini import PROTOCOL
from overt.protocols.gemini.schema import to_json
from overt.protocols.gemini.wire import GenerateBody, Schema, read

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
IMAGE = {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
WEATHER = {
    "name": "weather",
    "description": "Tell the weather",
    "parameters": {"type": "OBJECT", "properties": {"city_name": {"type": "STRING"}}},
}
FULL: dict[str, Any] = {
    "contents": [
        {"role": "user", "parts": [{"text": "What is"}, {"text": "this?"}, {"inlineData": IMAGE}]},
        {"role": "model", "parts": [
            {"text": "Hm.", "thought": True, "thoughtSignature": "YWI="},
            {"text": "I look."},
            {"functionCall": {"name": "weather", "args": {"city_name": "Ulm"}},
             "thoughtSignature": "eHk="},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": "weather", "response": {"output": "rain"},
                                  "parts": [{"inlineData": IMAGE}]}},
            {"text": "And now?"},
        ]},
    ],
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "tools": [{"functionDeclarations": [WEATHER]}],
    "toolConfig": {"functionCallingConfig": {
        "mode": "ANY", "allowedFunctionNames": ["weather"]}},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "generationConfig": {
        "temperature": 0.5, "topP": 0.9, "topK": 40.0, "maxOutputTokens": 50,
        "stopSequences": ["END"], "seed": 7, "presencePenalty": 0.1, "frequencyPenalty": 0.2,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"my_key": {"type": "STRING"}}},
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 100},
        "responseLogprobs": True, "logprobs": 2,
    },
}  # fmt: skip


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    found = Services(tmp_path, lambda request: ANSWER)
    yield found
    await found.close()


async def post(
    services: Services, body: Any, verb: str = "generateContent", **more: Any
) -> Answered:
    return await ask(services, PROTOCOL, "POST", f"/v1beta/models/m:{verb}", body, **more)


SSE = "streamGenerateContent?alt=sse"

# ---- requests ------------------------------------------------------------------------------

EXPECTED = Request(
    model="m",
    messages=(
        Message.of("system", "Be brief."),
        Message("user", (TextPart("What is\nthis?"), ImagePart(PNG, "image/png"))),
        Message(
            "assistant",
            (
                ThoughtPart("Hm.", "YWI=", origin="gemini"),
                TextPart("I look."),
                ToolCallPart("call_1", "weather", '{"city_name":"Ulm"}', "eHk=", "gemini"),
            ),
        ),
        Message("tool", (ToolResultPart("call_1", "rain"),)),
        Message("user", (ImagePart(PNG, "image/png"), TextPart("And now?"))),
    ),
    sampling=Sampling(
        temperature=0.5, top_p=0.9, top_k=40, seed=7, presence_penalty=0.1, frequency_penalty=0.2
    ),
    max_tokens=50,
    stop=("END",),
    tools=(
        Tool(
            "weather",
            "Tell the weather",
            {"type": "object", "properties": {"city_name": {"type": "string"}}},
        ),
    ),
    tool_choice="required",
    json_schema={"type": "object", "properties": {"my_key": {"type": "string"}}},
    thinking=True,
    logprobs=2,
)


def snake(value: Any, *, own: bool = False) -> Any:
    """`value` spelled the other way; what is the user's own stays."""
    if isinstance(value, list):
        return [snake(one, own=own) for one in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, inner in value.items():
        name = key if own else "".join(f"_{c.lower()}" if c.isupper() else c for c in key)
        out[name] = snake(inner, own=key in ("args", "response", "properties"))
    return out


async def test_a_full_request_loses_nothing(services: Services) -> None:
    assert (await post(services, FULL)).status == 200
    assert services.asked == [EXPECTED]


async def test_either_spelling_is_one_request(services: Services) -> None:
    spelled = snake(FULL)
    assert "system_instruction" in spelled
    assert (await post(services, spelled)).status == 200
    assert services.asked == [EXPECTED]


async def test_a_single_object_stands_for_a_list(services: Services) -> None:
    body = {
        "contents": {"parts": {"text": "Hello"}},
        "system_instruction": "Be brief.",
        "tools": {"function_declarations": WEATHER},
    }
    assert (await post(services, body)).status == 200
    asked = services.asked[0]
    assert asked.messages == (Message.of("system", "Be brief."), Message.of("user", "Hello"))
    assert [tool.name for tool in asked.tools] == ["weather"]


async def test_the_users_own_names_are_not_touched(services: Services) -> None:
    own = {"camelCase": 1, "snake_case": {"innerKey": [{"any_of": 1}]}}
    body = {
        "contents": [
            *HELLO["contents"],
            {"role": "model", "parts": [{"function_call": {"name": "f", "args": own}}]},
            {"role": "function", "parts": [{"function_response": {"name": "f", "response": own}}]},
        ],
        "tools": [
            {"function_declarations": [{"name": "f", "parameters_json_schema": {"x_y": own}}]}
        ],
        "generation_config": {
            "response_mime_type": "application/json", "response_json_schema": {"min_items": 1},
        },
    }  # fmt: skip
    await post(services, body)
    asked = services.asked[0]
    assert json.loads(asked.messages[1].parts[0].arguments) == own
    assert json.loads(asked.messages[2].parts[0].content) == own
    assert asked.tools[0].parameters == {"x_y": own}
    assert asked.json_schema == {"min_items": 1}


async def test_text_may_be_sent_as_a_file(services: Services) -> None:
    blob = {"mimeType": "text/plain", "data": base64.b64encode("Grüße?>".encode()).decode()}
    await post(services, part(inlineData=blob))
    assert services.asked[0].messages == (Message.of("user", "Grüße?>"),)


async def test_results_find_their_calls(services: Services) -> None:
    calls = [
        {"functionCall": {"name": "a", "args": {}}},
        {"functionCall": {"name": "b", "args": {}, "id": "own"}},
        {"functionCall": {"name": "a", "args": {}}},
    ]
    results = [
        {"functionResponse": {"name": "b", "id": "own", "response": {"error": "no"}}},
        {"functionResponse": {"name": "a", "response": {"result": "one"}}},
        {"functionResponse": {"name": "a", "response": {"n": 2}}},
        {"functionResponse": {"name": "c", "response": {}}},
    ]
    body = {
        "contents": [
            *HELLO["contents"], {"role": "model", "parts": calls},
            {"role": "user", "parts": results},
        ]
    }  # fmt: skip
    await post(services, body)
    ids = [part.id for part in services.asked[0].messages[1].parts]
    assert ids == ["call_1", "own", "call_3"]
    assert [message.parts[0] for message in services.asked[0].messages[2:]] == [
        ToolResultPart("own", '{"error":"no"}', error=True),
        ToolResultPart("call_1", "one"),
        ToolResultPart("call_3", '{"n":2}'),
        ToolResultPart("call_c", "{}"),
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (None, None)),
        ({"thinkingBudget": 0}, (False, None)),
        ({"thinkingBudget": -1}, (None, None)),
        ({"thinkingBudget": 99}, (True, None)),
        ({"thinkingLevel": "HIGH"}, (None, "high")),
        ({"thinking_level": "minimal"}, (False, "low")),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, (None, None)),
    ],
)
async def test_thinking(services: Services, config: Any, expected: Any) -> None:
    await post(services, {**HELLO, "generationConfig": {"thinkingConfig": config}})
    assert (services.asked[0].thinking, services.asked[0].effort) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("AUTO", "auto"), ("auto", "auto"), ("VALIDATED", "auto"), ("ANY", "required"),
     ("NONE", "none"), (None, "auto"), ("MODE_UNSPECIFIED", "auto")],
)  # fmt: skip
async def test_modes(services: Services, mode: str | None, expected: str) -> None:
    config = {"functionCallingConfig": {"mode": mode}}
    body = {**HELLO, "tools": [{"functionDeclarations": [WEATHER]}], "toolConfig": config}
    await post(services, body)
    assert services.asked[0].tool_choice == expected


@pytest.mark.parametrize(
    ("given", "schema", "grammar"),
    [
        ({"responseMimeType": "text/plain"}, None, None),
        ({"responseMimeType": "application/json"}, {"type": ["object", "array"]}, None),
        (
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "array"}},
            {"type": "array"},
            None,
        ),
        (
            {"responseMimeType": "text/x.enum",
             "responseSchema": {"type": "STRING", "enum": ["a", 'b"']}},
            None,
            'root ::= "a" | "b\\""',
        ),
    ],
)  # fmt: skip
async def test_forms_of_an_answer(
    services: Services, given: Any, schema: Any, grammar: str | None
) -> None:
    await post(services, {**HELLO, "generationConfig": given})
    assert (services.asked[0].json_schema, services.asked[0].grammar) == (schema, grammar)


def test_schemas() -> None:
    given = {
        "type": "OBJECT",
        "propertyOrdering": ["z", "a"],
        "required": ["z"],
        "properties": {
            "a": {"type": "ARRAY", "items": {"type": "INTEGER", "format": "int32"},
                  "minItems": "1", "max_items": 3},
            "z": {"type": "STRING", "nullable": True, "format": "date-time"},
            "e": {"type": "STRING", "format": "enum", "enum": ["x"], "nullable": True},
            "u": {"any_of": [{"type": "NULL"}, {"$ref": "#/$defs/D"}]},
            "m": {"type": "OBJECT", "additionalProperties": {"type": "NUMBER", "maximum": 2}},
            "c": {"type": "TYPE_UNSPECIFIED", "additional_properties": False},
        },
        "defs": {"D": {"type": "BOOLEAN"}},
    }  # fmt: skip
    schema = to_json(read(json.dumps(given).encode(), Schema), "s")
    assert schema == {
        "type": "object",
        "required": ["z"],
        "properties": {
            "z": {"type": ["string", "null"], "format": "date-time"},
            "a": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
            "e": {"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]},
            "u": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/D"}]},
            "m": {"type": "object", "additionalProperties": {"type": "number", "maximum": 2}},
            "c": {"additionalProperties": False},
        },
        "$defs": {"D": {"type": "boolean"}},
    }
    assert list(schema["properties"])[:2] == ["z", "a"]


def config(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": fields}


def part(**fields: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [fields]}]}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"foo": 1}, "", 'Unknown name "foo": Cannot find field.'),
        (config(foo=1), "generationConfig", "Unknown name \"foo\" at 'generationConfig'"),
        ({"contents": []}, "contents", "contents is not specified"),
        (part(fileData={"fileUri": "x"}), "contents[0].parts[0].fileData", "kept at Google"),
        (part(executableCode={}), "contents[0].parts[0].executableCode", "run at Google"),
        (
            part(inlineData={"mimeType": "audio/wav", "data": ""}),
            "contents[0].parts[0].inlineData.mimeType",
            "Unsupported MIME type",
        ),
        (
            part(inlineData={"mimeType": "image/png", "data": "AAAA"}),
            "contents[0].parts[0].inlineData.data",
            "not PNG",
        ),
        ({"contents": [{"role": "robot", "parts": []}]}, "contents[0]", "valid role"),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch", "runs at Google only"),
        ({"tools": [{"code_execution": {}}]}, "tools[0].codeExecution", "runs at Google only"),
        ({"tools": [{"functionDeclarations": [WEATHER, WEATHER]}]}, "tools", "Duplicate"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "ODD"}}]}]},
            "tools[0].functionDeclarations[0].parameters.type",
            "Invalid value 'odd'",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "ODD"}}},
            "toolConfig.functionCallingConfig.mode",
            "Invalid value 'ODD'",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
            "toolConfig.functionCallingConfig.mode",
            "needs functions",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["x"]}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
            "none of the functions",
        ),
        ({"cachedContent": "x"}, "cachedContent", "only Google keeps"),
        (config(responseModalities=["AUDIO"]), "generationConfig.responseModalities", "text only"),
        (config(speechConfig={}), "generationConfig.speechConfig", "text only"),
        (config(logprobs=3), "generationConfig.logprobs", "only allowed if response_logprobs"),
        (config(candidateCount=0), "generationConfig.candidateCount", "Expected `int` >= 1"),
        (
            config(responseMimeType="text/html"),
            "generationConfig.responseMimeType",
            "is not allowed",
        ),
        (
            config(responseSchema={"type": "STRING"}),
            "generationConfig.responseMimeType",
            "a schema needs",
        ),
        (
            part(inlineData={"mimeType": "text/plain", "data": "/w=="}),
            "contents[0].parts[0].inlineData.data",
            "no text in base64",
        ),
        (
            part(functionResponse={"name": "f", "parts": [{"fileData": {}}]}),
            "contents[0].parts[0].functionResponse.parts[0].fileData",
            "kept at Google",
        ),
        (
            {"tools": [{"functionDeclarations": [{**WEATHER, "parametersJsonSchema": {}}]}]},
            "tools[0].functionDeclarations[0]",
            "cannot be set both",
        ),
        (
            config(responseSchema={}, responseJsonSchema={}),
            "generationConfig",
            "cannot be set both",
        ),
        (
            config(responseMimeType="application/json", responseJsonSchema=[1]),
            "generationConfig.responseJsonSchema",
            "is an object",
        ),
        (
            config(responseMimeType="text/x.enum"),
            "generationConfig.responseSchema",
            "needs a schema with an enum",
        ),
        (
            config(responseMimeType="application/json", responseSchema={"minItems": "x"}),
            "generationConfig.responseSchema.minItems",
            "Invalid value 'x'",
        ),
        (
            config(thinkingConfig={"thinkingLevel": "ODD"}),
            "generationConfig.thinkingConfig.thinkingLevel",
            "Invalid value 'ODD'",
        ),
        (config(topP=2), "generationConfig.topP", "Expected `float` <= 1"),
        ({"model": "models/other"}, "model", "in the address"),
    ],
)
async def test_refused(services: Services, change: Any, field: str, words: str) -> None:
    answered = await post(services, {**HELLO, **change})
    assert answered.status == 400
    error = answered.json["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert words in error["message"]
    assert error["details"][0]["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert error["details"][0]["fieldViolations"][0]["field"] == field
    assert not services.asked


async def test_bodies_that_are_no_json(services: Services) -> None:
    for body in (b"{", b"[1]", b"\xff", b'"x"', b"[" * 5000):
        assert (await post(services, body)).status == 400
    deep = (
        json.dumps(HELLO).encode()[:-1]
        + b',"generationConfig":{"responseSchema":'
        + b'{"items":' * 400
    )
    assert (await post(services, deep + b"{}" + b"}" * 402)).status == 400


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
@pytest.mark.parametrize("model", ["smollm2", "hf:org/repo", "ollama:x:tag", "hf:a/b@r%23f.gguf"])
async def test_models_with_colons_and_slashes(services: Services, version: str, model: str) -> None:
    path = f"/{version}/models/{model}:generateContent"
    assert (await ask(services, PROTOCOL, "POST", path, HELLO)).status == 200
    assert services.asked[0].model == model.replace("%23", "#")


@pytest.mark.parametrize("path", ["m:fly", "m", ":generateContent", "hf:org/repo"])
async def test_methods_that_are_none(services: Services, path: str) -> None:
    answered = await ask(services, PROTOCOL, "POST", f"/v1beta/models/{path}", HELLO)
    assert (answered.status, answered.json["error"]["status"]) == (404, "NOT_FOUND")


# ---- answers -------------------------------------------------------------------------------


def official(value: Any) -> types.GenerateContentResponse:
    """`value` as the official type, which refuses fields that it does not have."""
    return types.GenerateContentResponse.model_validate_json(json.dumps(value), strict=False)


async def answers(
    services: Services, body: Any, events: Sequence[Event | OvertError]
) -> types.GenerateContentResponse:
    """The whole answer, and that both kinds of stream add up to it."""
    services.script = lambda request: events
    answered = await post(services, body)
    assert answered.status == 200, answered.body
    whole = official(answered.json)
    streamed = [data for _, data in (await post(services, body, SSE)).sse]
    listed = (await post(services, body, "streamGenerateContent")).json
    for pieces in (streamed, listed):
        found = [official(piece) for piece in pieces]
        assert len({one.response_id for one in found}) == 1
        last = found[-1]
        assert last.usage_metadata == whole.usage_metadata
        assert [one for one in found if one.usage_metadata] == [last]
        for index, candidate in enumerate(whole.candidates or ()):
            mine = [c for one in found for c in one.candidates or () if (c.index or 0) == index]
            assert mine[-1].finish_reason == candidate.finish_reason
            assert mine[-1].avg_logprobs == candidate.avg_logprobs
            parts = [part for one in mine for part in one.content.parts or ()]  # type: ignore[union-attr]
            assert _folded(parts) == _folded(candidate.content.parts or ())  # type: ignore[union-attr]
            chosen = [
                token
                for one in mine
                if one.logprobs_result
                for token in one.logprobs_result.chosen_candidates or ()
            ]
            if candidate.logprobs_result:
                assert chosen == candidate.logprobs_result.chosen_candidates
    return whole


def _folded(parts: Sequence[types.Part]) -> list[Any]:
    """Neighbouring texts of one kind as one; calls go last, as they do in a stream."""
    out: list[Any] = []
    calls = []
    for one in parts:
        if one.function_call is not None:
            calls.append(one.function_call)
        elif one.text and out and out[-1][0] == bool(one.thought):
            out[-1] = (out[-1][0], out[-1][1] + one.text)
        elif one.text:
            out.append((bool(one.thought), one.text))
    return out + calls


async def test_a_plain_answer(services: Services) -> None:
    answered = (await post(services, HELLO)).json
    id = answered.pop("responseId")
    assert len(id) == 24
    assert answered == {
        "candidates": [
            {
                "content": {"parts": [{"text": "Hello you"}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 7,
            "candidatesTokenCount": 2,
            "totalTokenCount": 9,
            "cachedContentTokenCount": 3,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
        },
        "modelVersion": "m",
    }
    await answers(services, HELLO, ANSWER)


async def test_tokens_of_pictures_are_not_taken_for_text(services: Services) -> None:
    shown = {"contents": [{"parts": [{"text": "a"}, {"inlineData": IMAGE}]}]}
    usage = (await post(services, shown)).json["usageMetadata"]
    assert usage["promptTokenCount"] == 7
    assert "promptTokensDetails" not in usage


async def test_a_stream_comes_word_by_word(services: Services) -> None:
    streamed = await post(services, HELLO, SSE)
    assert streamed.media_type.startswith("text/event-stream")
    told = [data["candidates"][0] for _, data in streamed.sse]
    assert [one["content"]["parts"][0].get("text") for one in told] == ["Hello", " you", ""]
    assert [one.get("finishReason") for one in told] == [None, None, "STOP"]
    listed = await post(services, HELLO, "streamGenerateContent")
    assert listed.media_type == "application/json"
    assert len(listed.json) == 3


@pytest.mark.parametrize("include", [True, False])
async def test_thoughts(services: Services, include: bool) -> None:
    events = (Thought("Let "), Thought("me."), Text("a"), Usage(3, 5), Done("length"))
    body = {**HELLO, "generationConfig": {"thinking_config": {"include_thoughts": include}}}
    answer = await answers(services, body, events)
    told = [(bool(p.thought), p.text) for p in answer.candidates[0].content.parts]  # type: ignore[index,union-attr]
    assert told == ([(True, "Let me.")] if include else []) + [(False, "a")]
    usage = answer.usage_metadata
    assert usage is not None
    assert (usage.thoughts_token_count, usage.candidates_token_count) == (2, 3)
    assert usage.total_token_count == 8
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS  # type: ignore[index]


async def test_calls_are_told_whole(services: Services) -> None:
    events = (
        Text("I call."), ToolCall(0, "a", "weather", '{"city'), ToolCall(0, "", "", '":1}'),
        ToolCall(1, "", "weather", "odd"), Usage(3, 5), Done("tool_calls"),
    )  # fmt: skip
    answer = await answers(services, {**HELLO, "tools": FULL["tools"]}, events)
    assert answer.function_calls == [
        types.FunctionCall(id="a", name="weather", args={"city": 1}),
        types.FunctionCall(name="weather", args={"arguments": "odd"}),
    ]
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP  # type: ignore[index]


async def test_log_probabilities(services: Services) -> None:
    tokens = (
        TokenLogprob("He", -0.5, (("He", -0.5), ("Ha", -1.0)), 5),
        TokenLogprob("llo", -1.5, (("llo", -1.5), ("y", -2.0)), 6),
    )
    events = (
        Text("He"), Logprobs(tokens[:1]), Text("llo"), Logprobs(tokens[1:]), Usage(3, 2),
        Done("stop"),
    )  # fmt: skip
    body = {**HELLO, **config(responseLogprobs=True, logprobs=1)}
    answer = await answers(services, body, events)
    (candidate,) = answer.candidates or ()
    assert candidate.avg_logprobs == -1.0
    result = candidate.logprobs_result
    assert result is not None
    assert result.chosen_candidates == [
        types.LogprobsResultCandidate(token="He", log_probability=-0.5, token_id=5),
        types.LogprobsResultCandidate(token="llo", log_probability=-1.5, token_id=6),
    ]
    assert [len(top.candidates or ()) for top in result.top_candidates or ()] == [1, 1]
    plain = await answers(services, {**HELLO, **config(responseLogprobs=True)}, events)
    assert plain.candidates[0].logprobs_result.top_candidates is None  # type: ignore[index,union-attr]


async def test_several_candidates(services: Services) -> None:
    body = {**HELLO, **config(candidateCount=3, seed=4)}
    answer = await answers(services, body, ANSWER)
    assert [one.index for one in answer.candidates or ()] == [0, 1, 2]
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 6
    assert answer.usage_metadata.prompt_token_count == 7
    assert sorted(one.sampling.seed for one in services.asked[:3]) == [4, 5, 6]
    assert services.open == 0


TEXTS = st.one_of(
    st.text(max_size=6).map(Text), st.text(max_size=6).map(Thought), st.just(Progress(1, 2)),
    st.integers(0, 1).map(lambda i: ToolCall(i, "id", "f", "")),
)  # fmt: skip


@given(st.lists(TEXTS, max_size=12), st.sampled_from([Done("stop"), Done("length")]), st.booleans())
@settings(max_examples=repeats(60, 150))
def test_a_stream_adds_up_to_the_whole(pieces: list[Event], done: Done, include: bool) -> None:
    body = {**HELLO, "generationConfig": {"thinkingConfig": {"includeThoughts": include}}}
    services = Services(Path("unused"))
    anyio.run(answers, services, body, [*pieces, Usage(5, 4), done])


# ---- failing -------------------------------------------------------------------------------

CODES = {
    "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "CANCELLED", "INTERNAL", "UNIMPLEMENTED", "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
}  # fmt: skip


async def test_every_error_has_its_status(services: Services) -> None:
    for error in errors():
        services.script = lambda request, error=error: (error,)  # type: ignore[misc]
        for verb in ("generateContent", SSE, "streamGenerateContent"):
            answered = await post(services, HELLO, verb)
            assert answered.status == error.status
            told = answered.json["error"]
            assert told["code"] == error.status
            assert told["status"] in CODES
            assert told["message"] == str(error)
            known = official_errors.APIError(answered.status, answered.json)
            assert (known.status, known.message) == (told["status"], str(error))


async def test_when_to_try_again(services: Services) -> None:
    services.script = lambda request: (Busy("full", retry_after=1.25),)
    answered = await post(services, HELLO)
    assert answered.headers == {"retry-after": "2"}
    assert answered.json["error"]["status"] == "UNAVAILABLE"
    assert answered.json["error"]["details"][1] == {
        "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.25s",
    }  # fmt: skip


@pytest.mark.parametrize("last", [(WorkerDied("gone"),), ()])
async def test_a_stream_that_breaks_says_so(services: Services, last: Any) -> None:
    services.script = lambda request: (Text("a"), *last)
    assert (await post(services, HELLO)).status in (500, 503)
    _, told = (await post(services, HELLO, SSE)).sse[-1]
    listed = (await post(services, HELLO, "streamGenerateContent")).json
    assert told == listed[-1]
    assert told["error"]["status"] == ("UNAVAILABLE" if last else "INTERNAL")
    raw = (await post(services, HELLO, SSE)).body
    assert b'data: {"error":' in raw  # what the official client looks for


async def test_a_failed_event_may_come_first(services: Services) -> None:
    for code, status in (("out_of_memory", 507), ("busy", 503), ("unheard_of", 500)):
        services.script = lambda request, code=code: (  # type: ignore[misc]
            Progress(0, 3), Failed(code, "went wrong", "try less"),
        )  # fmt: skip
        for verb in ("generateContent", SSE, "streamGenerateContent"):
            answered = await post(services, HELLO, verb)
            assert answered.status == status
            assert answered.json["error"]["message"] == "went wrong; try less"


async def test_a_client_that_leaves_ends_the_streams(services: Services) -> None:
    body = {**HELLO, **config(candidateCount=3)}
    answered = await post(services, body, SSE, leave_after=1)
    assert len(answered.pieces) == 1
    assert services.open == 0


# ---- counting, embedding, models -----------------------------------------------------------


async def test_counting(services: Services) -> None:
    whole = {"model": "models/m", **HELLO, "systemInstruction": {"parts": [{"text": "Be brief"}]}}
    assert (await post(services, HELLO, "countTokens")).json == {"totalTokens": 1}
    body = {"generateContentRequest": whole}
    assert (await post(services, body, "countTokens")).json == {"totalTokens": 3}
    for bad in (
        {**HELLO, **body},
        {},
        {**HELLO, "systemInstruction": {}},
        {"generateContentRequest": {**whole, "model": "models/x"}},
    ):
        assert (await post(services, bad, "countTokens")).status == 400


async def test_embedding(services: Services) -> None:
    content = {"parts": [{"text": "a"}, {"text": "b"}]}
    body = {"content": content, "outputDimensionality": 2, "taskType": "RETRIEVAL_QUERY"}
    one = (await post(services, body, "embedContent")).json
    assert one == {"embedding": {"values": [0.5, 0.5]}}
    requests = [{"model": "models/m", "content": {"parts": {"text": t}}} for t in "xy"]
    several = (await post(services, {"requests": requests}, "batchEmbedContents")).json
    assert several == {"embeddings": [{"values": [0.5] * 3}, {"values": [1.0] * 3}]}
    assert services.asked == [
        EmbedRequest("m", ("a\nb",), 2, truncate=True),
        EmbedRequest("m", ("x", "y"), truncate=True),
    ]


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [{"content": {"parts": [{"inlineData": IMAGE}]}}],
        [{"content": {"parts": []}}],
        [{"model": "models/x", "content": {"parts": [{"text": "a"}]}}],
        [
            {"content": {"parts": [{"text": "a"}]}},
            {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 3},
        ],
    ],
)
async def test_embeddings_refused(services: Services, requests: Any) -> None:
    answered = await post(services, {"requests": requests}, "batchEmbedContents")
    assert answered.status == 400


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
async def test_models(services: Services, version: str) -> None:
    listed = (await ask(services, PROTOCOL, "GET", f"/{version}/models")).json
    names = [model["name"] for model in listed["models"]]
    assert names == ["models/hf:org/repo", "models/smollm2", "models/minilm"]
    assert "nextPageToken" not in listed
    one = (await ask(services, PROTOCOL, "GET", f"/{version}/models/hf:org/repo")).json
    assert one == listed["models"][0]
    assert (one["inputTokenLimit"], one["thinking"]) == (4096, True)
    assert "generateContent" in one["supportedGenerationMethods"]
    assert listed["models"][2]["supportedGenerationMethods"] == [
        "embedContent", "batchEmbedContents",
    ]  # fmt: skip
    missing = await ask(services, PROTOCOL, "GET", f"/{version}/models/nothing")
    assert (missing.status, missing.json["error"]["status"]) == (404, "NOT_FOUND")


async def test_pages_of_models(services: Services) -> None:
    names: list[str] = []
    token = ""
    for _ in range(3):
        page = await ask(services, PROTOCOL, "GET", f"/v1/models?pageSize=1&pageToken={token}")
        names += [model["name"] for model in page.json["models"]]
        token = page.json.get("nextPageToken", "")
    assert (len(set(names)), token) == (3, "")
    for query in ("pageSize=x", "pageToken=%FF", "pageToken=bm8"):
        assert (await ask(services, PROTOCOL, "GET", f"/v1/models?{query}")).status == 400


# ---- hostile bodies ------------------------------------------------------------------------


@given(mutated([FULL, snake(FULL)]), st.sampled_from(["generateContent", SSE]))
@settings(max_examples=repeats(120, 400))
def test_no_body_breaks_contents(body: Any, verb: str) -> None:
    answered = anyio.run(post, Services(Path("unused"), lambda request: ANSWER), body, verb)
    assert answered.status in (200, 400)


@given(
    mutated([{"requests": [{"model": "models/m", "content": HELLO["contents"][0]}]},
             {"content": HELLO["contents"][0]},
             {"generateContentRequest": FULL}]),
    st.sampled_from(["embedContent", "batchEmbedContents", "countTokens"]),
)  # fmt: skip
@settings(max_examples=repeats(80, 200))
def test_no_body_breaks_the_rest(body: Any, verb: str) -> None:
    assert anyio.run(post, Services(Path("unused")), body, verb).status in (200, 400)


@given(mutated([FULL["generationConfig"]["responseSchema"]]))
def test_no_schema_breaks_reading(schema: Any) -> None:
    body = {**HELLO, **config(responseMimeType="application/json", responseSchema=schema)}
    assert anyio.run(post, Services(Path("unused"), lambda _: ANSWER), body).status in (200, 400)


def functions(first: int, end: int) -> dict[str, Any]:
    return {"functionDeclarations": [{"name": f"f{n}"} for n in range(first, end)]}


def many(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": "a"}]}] * count


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**HELLO, "tools": [functions(0, 100_000)]}, "50000 at most"),
        ({**HELLO, "tools": [functions(0, 1025)]}, "length <= 1024"),
        ({**HELLO, "tools": [functions(0, 600), functions(600, 1200)]}, "1200 functions"),
        ({"contents": many(500_000)}, "50000 at most"),
        ({"contents": many(20_001)}, "length <= 20000"),
        ({"contents": [{"parts": [{"text": "a"}] * 20_001}]}, "length <= 20000"),
        ({"contents": [{"parts": [{"text": "a"}] * 400}] * 200}, "50000 at most"),
        ({**HELLO, "systemInstruction": {"parts": [{"text": "a"}] * 20_001}}, "length <= 20000"),
    ],
    ids=["items", "functions", "all functions", "contents", "more contents", "parts",
         "all parts", "instruction"],
)  # fmt: skip
async def test_more_than_anybody_means_is_refused_at_once(
    services: Services, body: Any, said: str
) -> None:
    begun = process_time()
    answered = await post(services, body)
    assert answered.status == 400
    assert said in answered.json["error"]["message"]
    assert process_time() - begun < 5
    assert services.asked == []


async def test_as_much_as_is_taken_takes_no_time(services: Services) -> None:
    text = "word " * 400
    names = [f"f{n}" for n in range(1024)]
    calls = [{"functionCall": {"name": "f1", "id": f"c{n}"}} for n in range(5000)]
    results = [{"functionResponse": {"name": "f2", "id": f"d{n}"}} for n in range(5000)]
    body = {
        "contents": [
            *([{"role": "user", "parts": [{"text": text}]}] * 9000),
            {"role": "model", "parts": calls},
            {"role": "user", "parts": results},
        ],
        "tools": [{"functionDeclarations": [{"name": name} for name in names]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": names}},
    }  # fmt: skip
    begun = process_time()
    assert (await post(services, body)).status == 200
    assert process_time() - begun < 3
    first = services.asked[0].messages[0]
    assert first == Message.of("user", "\n".join([text] * 9000))


async def test_a_batch_of_embeddings_has_an_end(services: Services) -> None:
    one = {"content": {"parts": [{"text": "a"}]}}
    for count, status in ((2048, 200), (2049, 400), (100_000, 400)):
        answered = await post(services, {"requests": [one] * count}, "batchEmbedContents")
        assert answered.status == status, count
    assert len(services.asked) == 1


def test_both_spellings_give_the_same_body() -> None:
    one = read(json.dumps(FULL).encode(), GenerateBody)
    assert one == read(json.dumps(snake(FULL)).encode(), GenerateBody)
