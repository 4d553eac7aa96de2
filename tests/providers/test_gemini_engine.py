"""Gemini's dialect, judged by Google's own protobufs, by its SDK's types, and by mutation."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from google.ai import generativelanguage_v1beta as pb
from google.genai import types
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.chat import (
    Answer,
    Done,
    EmbedRequest,
    Event,
    ImagePart,
    Logprobs,
    Message,
    Part,
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
from overt.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    ModelNotFound,
    NeedsAccess,
    OvertError,
    ProviderFailed,
    TimedOut,
    Unsupported,
)
from overt.providers.base import Dialect, ServerEvent
from overt.providers.gemini.body import _FROM_ELSEWHERE
from overt.providers.gemini.dialect import Gemini
from overt.providers.gemini.reader import _FINISH

GEMINI: Dialect = Gemini()
SIGNATURE = base64.b64encode(b"what was thought").decode()
WEATHER = Tool(
    "weather", "Tells it", {"type": "object", "properties": {"city": {"type": "string"}}}
)
NEW, OLD, NONE, UNKNOWN = "gemini-3.8-flash", "gemini-2.5-flash", "gemini-2.0-flash", "something"


def body(request: Request, model: str = NEW) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GEMINI.post(request, model)[0].body)
    return found


def notes(request: Request, model: str = NEW) -> tuple[str, ...]:
    return GEMINI.post(request, model)[1]


def asked(*messages: Message, **fields: Any) -> Request:
    return Request("m", messages or (Message.of("user", "Hello"),), **fields)


def strict(sent: dict[str, Any]) -> None:
    """Google's protobufs take `sent`; what is younger than them is judged by its SDK's types.

    That is `thinkingLevel` alone: `google-ai-generativelanguage` 0.12 does not have it.
    """
    thinking = sent.get("generationConfig", {}).get("thinkingConfig", {})
    if level := thinking.pop("thinkingLevel", None):
        assert level in types.ThinkingLevel.__members__
        types.ThinkingConfig.model_validate({"thinkingLevel": level})
        assert "thinkingBudget" not in thinking  # both at once are refused
    json_format.ParseDict(sent, pb.GenerateContentRequest.pb()())


# ---- any request ---------------------------------------------------------------------------

_text = st.text(st.characters(codec="utf-8"), max_size=12)
_id = st.text("abc_1", min_size=1, max_size=6)
_origin = st.sampled_from([None, "gemini", "anthropic", "openai"])
_signature = st.one_of(
    st.none(), _text, st.binary(max_size=9).map(lambda b: base64.b64encode(b).decode())
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_arguments = st.one_of(_text, _json.map(json.dumps), st.just('{"a":' * 60 + "1" + "}" * 60))
_schema = st.sampled_from([
    {}, {"type": "object"}, {"type": "object", "properties": {"a": {"type": "integer"}}},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "$defs": {"b": {"const": 1}}},
])  # fmt: skip
_tools = st.lists(
    st.builds(Tool, _id, _text, _schema), max_size=3, unique_by=lambda tool: tool.name
).map(tuple)
_user = st.lists(
    st.builds(TextPart, _text)
    | st.builds(ImagePart, st.binary(max_size=8), st.sampled_from(["image/png", "image/jpeg"])),
    max_size=3,
)
_model = st.lists(
    st.builds(TextPart, _text)
    | st.builds(ThoughtPart, _text, _signature, st.booleans(), _origin)
    | st.builds(ToolCallPart, _id, _id, _arguments, _signature, _origin),
    max_size=4,
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A conversation whose results belong to calls, and any settings within their ranges."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message.of("system", draw(_text)))
    for _ in range(draw(st.integers(0, 3))):
        messages.append(Message("user", tuple(draw(_user))))
        parts: Sequence[Part] = draw(_model)
        messages.append(Message("assistant", tuple(parts)))
        for part in parts:
            if isinstance(part, ToolCallPart):
                result = ToolResultPart(part.id, draw(_arguments), draw(st.booleans()))
                messages.append(Message("tool", (result,)))
        if draw(st.booleans()):
            messages.append(Message.of("system", draw(_text)))
    messages.append(Message.of("user", draw(_text) or "Hello"))
    tools = draw(_tools)

    def maybe(kind: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | kind)

    return Request(
        "m",
        tuple(messages),
        sampling=Sampling(
            maybe(st.floats(0, 2)), maybe(st.integers(0, 100)), maybe(st.floats(0, 1)),
            maybe(st.floats(0, 1)), maybe(st.floats(0, 1)), maybe(st.floats(0.1, 2)),
            maybe(st.integers(0, 9)), maybe(st.floats(-2, 2)), maybe(st.floats(-2, 2)),
            maybe(st.integers()),
        ),
        max_tokens=maybe(st.integers(1, 2**31 - 1)),
        stop=tuple(draw(st.lists(_id, max_size=5))),
        logit_bias=draw(st.sampled_from([(), ((1, -100.0),)])),
        tools=tools,
        tool_choice=draw(st.sampled_from(["auto", "none", *[tool.name for tool in tools]])),
        parallel_tools=draw(st.booleans()),
        json_schema=maybe(_schema),
        logprobs=maybe(st.integers(0, 20)),
        thinking=maybe(st.booleans()),
        effort=maybe(st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "?"])),
        deterministic=draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=repeats(50, 120), deadline=None)
@given(requests(), st.sampled_from([NEW, OLD, NONE, UNKNOWN, "gemini-4-argon", "gemini-2.5-pro"]))
def test_googles_protobufs_take_every_body(request: Request, model: str) -> None:
    sent = body(request, model)
    strict(sent)
    assert sent["contents"]
    assert all(one["parts"] for one in sent["contents"])
    whole = json.loads(GEMINI.counting(request, model).body)
    inner = whole["generateContentRequest"]
    inner.get("generationConfig", {}).get("thinkingConfig", {}).pop("thinkingLevel", None)
    json_format.ParseDict(whole, pb.CountTokensRequest.pb()())


def test_the_oracle_can_say_no() -> None:
    for wrong in ({"contents": [{"parts": [{"txt": "a"}]}]}, {"contents": [{"parts": "a"}]}):
        with pytest.raises(json_format.ParseError):
            strict(wrong)


def test_texts_to_embed() -> None:
    post = GEMINI.embed(EmbedRequest("m", ("a", "b"), dimensions=3), "gemini-embedding-2")
    assert post.path == "/v1beta/models/gemini-embedding-2:batchEmbedContents"
    sent = json_format.ParseDict(json.loads(post.body), pb.BatchEmbedContentsRequest.pb()())
    assert [one.content.parts[0].text for one in sent.requests] == ["a", "b"]
    assert {one.output_dimensionality for one in sent.requests} == {3}


# ---- what is sent --------------------------------------------------------------------------


def test_the_address_and_the_key() -> None:
    post, _ = GEMINI.post(asked(), "models/a/../b?c")
    assert post.path == "/v1beta/models/a%2F..%2Fb%3Fc:streamGenerateContent?alt=sse"
    assert GEMINI.headers("k") == {"x-goog-api-key": "k"}
    assert GEMINI.headers("") == {}
    assert GEMINI.post(asked(), "tunedModels/x")[0].path.startswith("/v1beta/tunedModels/x:")


def test_a_conversation() -> None:
    sent = body(
        asked(
            Message.of("system", "Be brief."),
            Message("user", (TextPart("What is it?"), ImagePart(b"png", "image/png"))),
            Message("assistant", (TextPart("A cat."),)),
            Message.of("system", "Now be long."),
            Message.of("user", "And?"),
        )
    )
    assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert sent["contents"] == [
        {
            "role": "user",
            "parts": [
                {"text": "What is it?"},
                {"inlineData": {"mimeType": "image/png", "data": "cG5n"}},
            ],
        },
        {"role": "model", "parts": [{"text": "A cat."}]},
        {"role": "user", "parts": [{"text": "Now be long."}]},
        {"role": "user", "parts": [{"text": "And?"}]},
    ]


def test_calls_at_once_and_their_results() -> None:
    sent = body(
        asked(
            Message.of("user", "Weather?"),
            Message(
                "assistant",
                (
                    ToolCallPart("1", "weather", '{"city":"Rome"}', SIGNATURE, "gemini"),
                    ToolCallPart("2", "weather", "broken"),
                ),
            ),
            Message("tool", (ToolResultPart("1", '{"sky":"blue"}'),)),
            Message("tool", (ToolResultPart("2", "it rains", error=True),)),
            tools=(WEATHER,),
        )
    )
    calls, results = sent["contents"][1]["parts"], sent["contents"][2]["parts"]
    assert calls == [
        {
            "functionCall": {"id": "1", "name": "weather", "args": {"city": "Rome"}},
            "thoughtSignature": SIGNATURE,
        },
        {"functionCall": {"id": "2", "name": "weather", "args": {"arguments": "broken"}}},
    ]
    assert [one["functionResponse"]["response"] for one in results] == [
        {"sky": "blue"}, {"error": "it rains"},
    ]  # fmt: skip
    declared = sent["tools"][0]["functionDeclarations"][0]
    assert declared["parametersJsonSchema"] == WEATHER.parameters


def test_signatures_go_back_to_gemini_alone() -> None:
    parts = (
        ThoughtPart("mine", SIGNATURE, origin="gemini"),
        ThoughtPart("theirs", SIGNATURE, origin="anthropic"),
        ThoughtPart("nobody's"),
        TextPart("Hi"),
        ThoughtPart("", SIGNATURE, sealed=True, origin="gemini"),
        ThoughtPart("", "no base64!", sealed=True, origin="gemini"),
        ToolCallPart("1", "weather", "{}", SIGNATURE, "anthropic"),
    )
    history = asked(Message("assistant", parts), Message.of("user", "And?"))
    assert body(history, OLD)["contents"][0]["parts"] == [
        {"text": "mine", "thought": True, "thoughtSignature": SIGNATURE},
        {"text": "Hi"},
        {"text": "", "thoughtSignature": SIGNATURE},
        {"functionCall": {"id": "1", "name": "weather", "args": {}}},
    ]
    # Gemini 3 refuses a call without one, so Google has a word for those of other models.
    call = body(history, NEW)["contents"][0]["parts"][-1]
    assert call["thoughtSignature"] == _FROM_ELSEWHERE


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("weather", {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_which_tool(choice: str, config: dict[str, Any] | None) -> None:
    sent = body(asked(tools=(WEATHER,), tool_choice=choice))
    assert sent.get("toolConfig") == (config and {"functionCallingConfig": config})


def test_the_settings_of_an_answer() -> None:
    sampling = Sampling(0.5, 40, 0.9, presence_penalty=1.0, frequency_penalty=-1.0, seed=2**32 - 1)
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    request = asked(
        sampling=sampling, max_tokens=10**6, stop=("x",), logprobs=3, json_schema=schema
    )
    config = body(request)["generationConfig"]
    del config["thinkingConfig"]
    assert config == {
        "temperature": 0.5, "topK": 40, "topP": 0.9, "presencePenalty": 1.0,
        "frequencyPenalty": -1.0, "seed": -1, "maxOutputTokens": 65536, "stopSequences": ["x"],
        "responseLogprobs": True, "logprobs": 3, "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }  # fmt: skip
    assert notes(request) == ("gemini-3.8-flash writes 65536 tokens at most",)


def test_what_a_family_refuses_is_left_out_and_said() -> None:
    request = asked(sampling=Sampling(temperature=0.5, top_k=3, seed=1, min_p=0.1))
    config = body(request, "gemini-4-argon")["generationConfig"]
    assert config.keys() == {"seed", "thinkingConfig"}
    assert notes(request, "gemini-4-argon") == (
        "gemini-4-argon takes no temperature; it was left out",
        "gemini-4-argon takes no top_k; it was left out",
        "gemini has no min_p; it was left out",
    )


@pytest.mark.parametrize(
    ("model", "thinking", "effort", "config", "said"),
    [
        (NEW, None, None, {"includeThoughts": True}, ""),
        (NEW, None, "low", {"includeThoughts": True, "thinkingLevel": "LOW"}, ""),
        (NEW, None, "minimal", {"includeThoughts": True, "thinkingLevel": "LOW"}, "no level"),
        (NEW, True, "max", {"includeThoughts": True, "thinkingLevel": "HIGH"}, "no level"),
        (NEW, False, None, {"thinkingLevel": "LOW"}, "cannot be told not to think"),
        ("gemini-3-pro-preview", None, "medium",
         {"includeThoughts": True, "thinkingLevel": "HIGH"}, "no level"),
        (OLD, None, None, {"includeThoughts": True}, ""),
        (OLD, True, None, {"includeThoughts": True, "thinkingBudget": -1}, ""),
        (OLD, None, "medium", {"includeThoughts": True, "thinkingBudget": 8192}, ""),
        (OLD, False, None, {"thinkingBudget": 0}, ""),
        ("gemini-2.5-pro", False, None, {"thinkingBudget": 128}, "cannot leave"),
        (NONE, True, "high", None, "does not think"),
        (NONE, False, None, None, ""),
        (UNKNOWN, None, None, None, ""),
        (UNKNOWN, None, "xhigh", {"includeThoughts": True, "thinkingLevel": "XHIGH"}, ""),
    ],
)  # fmt: skip
def test_thinking(
    model: str, thinking: bool | None, effort: str | None, config: Any, said: str
) -> None:
    request = asked(thinking=thinking, effort=effort)
    assert body(request, model).get("generationConfig", {}).get("thinkingConfig") == config
    told = " ".join(notes(request, model))
    assert said in told
    assert bool(said) == bool(told)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Request("m", prompt="Once"), Unsupported),
        (asked(grammar="root ::= 'a'"), Unsupported),
        (asked(stop=("a",) * 6), BadRequest),
        (asked(sampling=Sampling(temperature=2.5)), BadRequest),
        (asked(sampling=Sampling(temperature=float("nan"))), BadRequest),
        (asked(Message.of("user", "")), BadRequest),
        (asked(Message.of("system", "Be brief.")), BadRequest),
        (asked(Message("tool", (ToolResultPart("7", "a"),))), BadRequest),
        (asked(Message.of("user", "\ud800")), BadRequest),
    ],
)
def test_what_cannot_be_sent(request_: Request, kind: type[OvertError]) -> None:
    with pytest.raises(kind) as caught:
        GEMINI.post(request_, NEW)
    assert type(caught.value) is kind


def test_what_a_family_cannot_do() -> None:
    with pytest.raises(Unsupported, match="takes no tools"):
        GEMINI.post(asked(tools=(WEATHER,)), "gemma-3-27b-it")
    with pytest.raises(Unsupported, match="token ids"):
        GEMINI.embed(EmbedRequest("m", ((1, 2),)), "x")
    with pytest.raises(BadRequest, match="101 texts"):
        GEMINI.embed(EmbedRequest("m", ("a",) * 101), "x")
    assert GEMINI.capabilities(NEW).context == 1048576
    assert not GEMINI.capabilities(NONE).thinking


def test_contexts_are_those_of_genai_prices() -> None:
    """It rounds some to a million."""
    from genai_prices.data import providers

    (google,) = (one for one in providers if one.id == "google")
    known = {
        model.id: model.context_window
        for model in google.models
        if model.id.startswith("gemini-") and model.context_window
    }
    ours = {id: GEMINI.capabilities(id).context for id in known}
    same = [id for id, context in ours.items() if context and abs(context / known[id] - 1) < 0.05]
    assert len(same) >= 12
    others = {id for id, context in ours.items() if context} - set(same)
    assert all(id.endswith("-tts") for id in others), others  # they answer in sound


# ---- what comes back -----------------------------------------------------------------------


def read(*answers: Any, request: Request | None = None) -> list[Event]:
    """The events of answers that Google's protobufs or its SDK's types wrote."""
    reader = GEMINI.reader(request or asked())
    events: list[Event] = []
    for answer in answers:
        if isinstance(answer, types.GenerateContentResponse):
            data = answer.model_dump_json(by_alias=True, exclude_none=True)
        elif isinstance(answer, dict):
            data = json.dumps(answer)
        else:
            data = json_format.MessageToJson(pb.GenerateContentResponse.pb(answer))
        events += reader.feed(ServerEvent("", data.encode()))
    return [*events, *reader.end()]


def chunk(*parts: Any, **fields: Any) -> pb.GenerateContentResponse:
    usage = fields.pop("usage", None)
    candidate = pb.Candidate(content=pb.Content(role="model", parts=list(parts)), **fields)
    return pb.GenerateContentResponse(candidates=[candidate], usage_metadata=usage)


def test_a_stream_of_protobufs() -> None:
    usage = {
        "prompt_token_count": 30, "cached_content_token_count": 10, "candidates_token_count": 4,
        "thoughts_token_count": 6, "total_token_count": 40,
    }  # fmt: skip
    events = read(
        chunk(pb.Part(text="Hm", thought=True), usage={"prompt_token_count": 30}),
        chunk(pb.Part(text="m.", thought=True, thought_signature=b"what was thought")),
        chunk(pb.Part(text="Hel")),
        chunk(pb.Part(text="lo"), pb.Part(text="", thought_signature=b"what was thought")),
        chunk(finish_reason="STOP", usage=usage),
    )
    assert events == [
        Thought("Hm", origin="gemini"),
        Thought("m.", SIGNATURE, origin="gemini"),
        Text("Hel"),
        Text("lo"),
        Thought("", SIGNATURE, sealed=True, origin="gemini"),
        Usage(30, 10, 10, tokens_thought=6),
        Done("stop"),
    ]
    # What was read is sent back as it came.
    answer = Answer()
    for event in events:
        answer.add(event)
    history = asked(Message.of("user", "Hello"), answer.message(), Message.of("user", "And?"))
    assert body(history)["contents"][1]["parts"] == [
        {"text": "Hmm.", "thought": True, "thoughtSignature": SIGNATURE},
        {"text": "Hello"},
        {"text": "", "thoughtSignature": SIGNATURE},
    ]


def test_a_stream_of_the_sdks_types() -> None:
    call = types.FunctionCall(name="weather", args={"city": "Rome"}, id="c1")
    part = types.Part(function_call=call, thought_signature=b"what was thought")
    second = types.Part(function_call=types.FunctionCall(name="weather"))
    content = types.Content(role="model", parts=[part, second])
    candidate = types.Candidate(content=content, finish_reason=types.FinishReason.STOP)
    usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=3)
    first, other, *rest = read(
        types.GenerateContentResponse(candidates=[candidate], usage_metadata=usage)
    )
    assert isinstance(first, ToolCall)
    assert isinstance(other, ToolCall)
    assert (first.id, first.name, json.loads(first.arguments)) == ("c1", "weather", call.args)
    assert (first.signature, first.origin) == (SIGNATURE, "gemini")
    assert (other.index, other.arguments, other.signature) == (1, "{}", None)
    assert other.id.startswith("call_")
    assert rest == [Usage(3, 0), Done("tool_calls")]


def test_log_probabilities() -> None:
    chosen = [
        pb.LogprobsResult.Candidate(token=t, log_probability=p) for t, p in (("a", -0.5), ("b", 0))
    ]
    top = pb.LogprobsResult.TopCandidates(candidates=chosen)
    result = pb.LogprobsResult(chosen_candidates=chosen, top_candidates=[top])
    answer = chunk(pb.Part(text="ab"), logprobs_result=result, finish_reason="MAX_TOKENS")
    told = Logprobs((TokenLogprob("a", -0.5, (("a", -0.5),)), TokenLogprob("b", 0.0)))
    assert read(answer, request=asked(logprobs=1)) == [Text("ab"), told, Done("length")]
    assert read(answer) == [Text("ab"), Done("length")]
    signed = pb.Part(text="ab", thought_signature=b"what was thought")
    sealed = Thought("", SIGNATURE, sealed=True, origin="gemini")
    answer = chunk(signed, logprobs_result=result, finish_reason="STOP")
    assert read(answer, request=asked(logprobs=1)) == [Text("ab"), told, sealed, Done("stop")]


def how_it_ends(reason: str) -> str:
    reader = GEMINI.reader(asked())
    said = ServerEvent("", json.dumps({"candidates": [{"finishReason": reason}]}).encode())
    if reason in _FINISH:
        assert list(reader.feed(said)) == []
        (done,) = reader.end()
        assert isinstance(done, Done)
        return done.finish
    with pytest.raises(ProviderFailed, match=reason) as caught:
        reader.feed(said)
    assert caught.value.billed
    return "failed"


def test_every_reason_to_end_is_known() -> None:
    """Of the protobufs and the SDK: an answer, a refusal, or a failure that says so."""
    reasons = {*pb.Candidate.FinishReason.__members__, *types.FinishReason.__members__}
    ends: dict[str, set[str]] = {}
    for reason in reasons - {"FINISH_REASON_UNSPECIFIED"}:
        ends.setdefault(how_it_ends(reason), set()).add(reason)
    assert ends["stop"] == {"STOP"}
    assert ends["length"] == {"MAX_TOKENS", "CONTINUATION"}
    assert ends["failed"] == {
        "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "NO_IMAGE", "IMAGE_OTHER",
    }  # fmt: skip
    assert {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"} <= ends["refusal"]


def test_a_list_in_place_of_events() -> None:
    reader = GEMINI.reader(asked())
    one = {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}
    rest = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 1}}
    assert (
        list(reader.feed(ServerEvent("", json.dumps([one, one, rest]).encode()))) == [Text("a")] * 2
    )
    assert reader.done
    with pytest.raises(Busy):
        GEMINI.reader(asked()).feed(ServerEvent("", ERROR))


def test_a_prompt_that_is_blocked() -> None:
    feedback = pb.GenerateContentResponse.PromptFeedback(block_reason="SAFETY")
    usage = pb.GenerateContentResponse.UsageMetadata(prompt_token_count=9)
    answer = pb.GenerateContentResponse(prompt_feedback=feedback, usage_metadata=usage)
    assert read(answer) == [Usage(9, 0), Done("refusal")]


def test_it_is_over_with_its_reason_and_its_usage() -> None:
    reader = GEMINI.reader(asked())
    list(reader.feed(ServerEvent("", b'{"candidates":[{"finishReason":"STOP"}]}')))
    assert not reader.done
    list(reader.feed(ServerEvent("", b'{"usageMetadata":{"promptTokenCount":1}}')))
    assert reader.done


def test_a_stream_that_breaks_off() -> None:
    with pytest.raises(ProviderFailed, match="before the answer") as caught:
        read(chunk(pb.Part(text="Hel")))
    assert caught.value.billed


def test_an_error_in_the_middle() -> None:
    error = {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}
    with pytest.raises(Busy, match=r"^gemini: The model is overloaded; "):
        read(chunk(pb.Part(text="Hel")), {"error": error})
    with pytest.raises(ProviderFailed) as caught:
        read({"error": {"status": "INTERNAL"}})
    assert caught.value.billed


WHOLE = json.dumps(
    {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "a", "thought": True, "thoughtSignature": SIGNATURE},
                        {"functionCall": {"name": "f", "args": {"b": [1]}, "id": "c"}},
                    ],
                },
                "finishReason": "STOP",
                "logprobsResult": {
                    "chosenCandidates": [{"token": "a", "logProbability": -1, "tokenId": 3}],
                    "topCandidates": [{"candidates": [{"token": "a"}]}],
                },
            }
        ],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
        "promptFeedback": {},
    }
).encode()
ERROR = json.dumps(
    [
        {
            "error": {
                "code": 429,
                "message": "Quota exceeded.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "34.07s"}],
            }
        }
    ]
).encode()
_other = st.sampled_from([b"null", b"[]", b"{}", b"-1e400", b'"\xff"', b"9" * 400, b"true", b'"a"'])


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a value replaced, a piece cut out, or bytes changed."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + 30)))
    if draw(st.booleans()):  # a value
        found: Any = json.loads(whole)
        at = found
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or draw(st.integers(0, 2)) == 0:
                at[key] = "\x00here"
                break
            at = at[key]
        return json.dumps(found).encode().replace(b'"\\u0000here"', draw(_other))
    return whole[:start] + draw(st.binary(max_size=4)) + whole[end:]


@settings(max_examples=repeats(100, 300), deadline=None)
@given(mutated(WHOLE))
def test_a_broken_answer_is_events_or_one_clear_error(data: bytes) -> None:
    reader = GEMINI.reader(asked(logprobs=1))
    answer = Answer()
    failed = None
    try:
        for event in [*reader.feed(ServerEvent("", data)), *reader.end()]:
            answer.add(event)
    except OvertError as error:
        failed = error
    if failed is not None:
        assert failed.message
        assert "\n" not in str(failed)
        return
    assert answer.finish
    assert all(isinstance(json.loads(call.arguments), dict) for call in answer.tool_calls)


@settings(max_examples=repeats(80, 200), deadline=None)
@given(mutated(ERROR), st.integers(300, 599))
def test_a_broken_error_is_one_clear_error(data: bytes, status: int) -> None:
    error = GEMINI.failure(status, {}, data)
    assert error.message.startswith(("gemini: ", "the prompt is "))
    assert "\n" not in str(error)


# ---- errors, vectors, counts ----------------------------------------------------------------


def told(status: int, message: str = "Oh.", **fields: Any) -> OvertError:
    whole = {"error": {"code": status, "message": message, **fields}}
    return GEMINI.failure(status, {}, json.dumps(whole).encode())


def test_errors() -> None:
    info = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    for error in (told(401), told(403), told(400, details=info)):
        assert type(error) is NeedsAccess
        assert "overt login gemini" in (error.hint or "")
    assert type(told(404)) is ModelNotFound
    assert type(told(400)) is BadRequest
    assert type(told(504)) is TimedOut
    assert str(told(400, "One\ntwo...")) == "gemini: One two"
    failed = told(500)
    assert isinstance(failed, ProviderFailed)
    assert not failed.billed  # Google: what ends with 400 or 500 is not charged
    long = told(
        400,
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    )
    assert isinstance(long, ContextExceeded)
    assert (long.tokens, long.context) == (1200000, 1048576)


def test_when_to_ask_again() -> None:
    busy = GEMINI.failure(429, {"Retry-After": "9"}, ERROR)
    assert isinstance(busy, Busy)
    assert busy.retry_after == 34.07
    other = GEMINI.failure(503, {"Retry-After": "9"}, b"<html>")
    assert isinstance(other, Busy)
    assert (other.retry_after, other.message) == (9, "gemini: it answered 503 and said nothing")


def test_vectors_have_length_one() -> None:
    request = EmbedRequest("m", ("a", "b"))
    answer = pb.BatchEmbedContentsResponse(
        embeddings=[pb.ContentEmbedding(values=[3, 4]), pb.ContentEmbedding(values=[0, -2])]
    )
    sent = json_format.MessageToJson(pb.BatchEmbedContentsResponse.pb(answer)).encode()
    assert GEMINI.embedded(sent, request).vectors == ((0.6, 0.8), (0.0, -1.0))
    bad = (
        b"{}", b"[", b'{"embeddings":[]}', b'{"embeddings":[{"values":[1]},{"values":[1,2]}]}',
        b'{"embeddings":[{"values":[0]},{"values":[0]}]}',
        b'{"embeddings":[{"values":[1.7e308,1.7e308]},{"values":[1,1]}]}',
    )  # fmt: skip
    for body in bad:
        with pytest.raises(ProviderFailed):
            GEMINI.embedded(body, request)


def test_counts() -> None:
    counted = pb.CountTokensResponse.pb(pb.CountTokensResponse(total_tokens=7))
    assert GEMINI.counted(json_format.MessageToJson(counted).encode()) == 7
    for body in (b"{}", b'{"totalTokens":"x"}', b"\xff"):
        with pytest.raises(ProviderFailed):
            GEMINI.counted(body)
