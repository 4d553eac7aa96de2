"""Anthropic's dialect, judged by the types and the client of the official `anthropic` package."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import jsonschema
import msgspec
import pydantic
import pytest
import referencing
from anthropic.lib._parse._transform import transform_schema
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.json_schema import GenerateJsonSchema

from conftest import repeats
from overt.chat import (
    EmbedRequest,
    ImagePart,
    Message,
    Request,
    Sampling,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.errors import (
    BadRequest,
    Unsupported,
)
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.anthropic.schema import limited
from overt.providers.supported_parameters import accepts

CLAUDE = Anthropic()
HELLO = (Message.of("user", "Hello"),)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
STREAMS = (
    "basic", "compaction", "context_management", "fallback_credit", "fallback",
    "incomplete_partial_json", "input_transformations_delta", "input_transformations_empty_delta",
    "input_transformations_start_only", "message_delta_fields", "message_delta_omitted_usage",
    "refusal", "server_tool_use", "tool_use_invalid_json", "tool_use", "unknown_events",
)  # fmt: skip
MODELS = (
    "claude-fable-5-2", "claude-opus-5-5", "claude-sonnet-5-5", "claude-opus-4-7",
    "claude-sonnet-4-6", "claude-opus-4-5", "claude-haiku-4-5-20251001", "claude-opus-4-1",
    "claude-3-haiku-20240307", "claude-zeta-9", "smollm2",
)  # fmt: skip


def body(request: Request, model: str = "claude-opus-5") -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(CLAUDE.post(request, model)[0].body)
    return found


def left_out(request: Request, model: str = "claude-opus-5") -> str:
    return " | ".join(CLAUDE.post(request, model)[1])


# ---- the official types as a judge ---------------------------------------------------------


class _Lenient(GenerateJsonSchema):
    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Any:
        return {"not": {}}  # a Python file object is nothing that JSON could hold


@cache
def judge(of: Any) -> Any:
    schema = pydantic.TypeAdapter(of).json_schema(schema_generator=_Lenient)
    for one in (schema, *schema["$defs"].values()):
        if "properties" in one:
            one.setdefault("additionalProperties", False)
    return jsonschema.Draft202012Validator(schema, registry=referencing.Registry())


def is_valid(sent: Mapping[str, Any], model: str) -> None:
    """By the official types, and by what the API's documents say beside them."""
    judge(MessageCreateParamsStreaming).validate(sent)
    roles = [turn["role"] for turn in sent["messages"]]
    assert roles
    assert all(one != other for one, other in pairwise(roles)), roles
    for at, turn in enumerate(sent["messages"]):
        kinds = [block["type"] for block in turn["content"]]
        assert kinds
        if turn["role"] == "user":
            assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result")
        if turn["role"] == "system":
            assert roles[at - 1] == "user"
        for block in turn["content"]:
            assert block["type"] != "text" or block["text"].strip()
            for name in ("id", "tool_use_id"):
                assert re.fullmatch(r"[a-zA-Z0-9_-]+", block.get(name, "x"))
    thinking = sent.get("thinking", {})
    if thinking.get("type") == "enabled":
        assert 1024 <= thinking["budget_tokens"] < sent["max_tokens"]
        assert "top_k" not in sent
        assert sent.get("temperature", 1) == 1
    assert "system" not in sent or sent["system"].strip()
    family = accepts("anthropic", model)
    assert not family.refuses & sent.keys()
    assert not family.most_out or sent["max_tokens"] <= family.most_out


# The types of 2026-10-21 have no sampling; those of 2023-06-01 had.
_SAMPLED = {"temperature": (0, 1), "top_p": (0, 1), "top_k": (1, 10**9)}


def unsampled(sent: dict[str, Any]) -> dict[str, Any]:
    for name, (least, most) in _SAMPLED.items():
        assert least <= sent.get(name, least) <= most
    return {name: value for name, value in sent.items() if name not in _SAMPLED}


words = st.text(max_size=12)
ids = st.sampled_from(("toolu_1", "call:2", "", "é", "call_3"))
objects = st.sampled_from(("{}", "", '{"city": "Oslo"}', "[1]", '{"cut": ', '"x"', "{1}"))
parts_of: dict[str, Any] = {
    "system": st.builds(TextPart, words),
    "user": st.builds(TextPart, words)
    | st.builds(ImagePart, st.just(PNG), st.sampled_from(("image/png", "image/webp")))
    | st.builds(ToolResultPart, ids, words, st.booleans()),
    "assistant": st.builds(TextPart, words)
    | st.builds(ToolCallPart, ids, st.just("weather"), objects)
    | st.builds(
        ThoughtPart, words, st.none() | st.just("c2ln"), st.booleans(),
        st.sampled_from((None, "anthropic", "openai")),
    ),
    "tool": st.builds(ToolResultPart, ids, words, st.booleans()),
}  # fmt: skip
messages = st.sampled_from(tuple(parts_of)).flatmap(
    lambda role: st.builds(Message, st.just(role), st.lists(parts_of[role], max_size=3).map(tuple))
)
samplings = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_k=st.none() | st.integers(-1, 100),
    top_p=st.none() | st.floats(0, 1),
    min_p=st.none() | st.just(0.05),
    presence_penalty=st.none() | st.just(0.5),
    seed=st.none() | st.just(7),
)
WEATHER = Tool("weather", "of a city", {"properties": {"city": {"type": "string"}}})
requests = st.builds(
    Request,
    model=st.just("m"),
    messages=st.lists(messages, min_size=1, max_size=6).map(tuple),
    sampling=samplings,
    max_tokens=st.none() | st.integers(1, 300_000),
    stop=st.lists(st.text("ab\n", min_size=1), max_size=2).map(tuple),
    tools=st.sampled_from(((), (WEATHER,), (WEATHER, Tool("other")))),
    tool_choice=st.sampled_from(("auto", "none", "required", "weather")),
    parallel_tools=st.booleans(),
    json_schema=st.none() | st.just({"type": "object", "properties": {"a": {"minimum": 1}}}),
    thinking=st.none() | st.booleans(),
    effort=st.none() | st.sampled_from(("minimal", "low", "xhigh", "odd")),
    deterministic=st.booleans(),
)


@settings(
    max_examples=repeats(120, 400), suppress_health_check=[HealthCheck.too_slow], deadline=None
)
@given(requests, st.sampled_from(MODELS))
def test_every_body_fits_the_official_types(request_: Request, model: str) -> None:
    try:
        sent = body(request_, model)
    except (BadRequest, Unsupported):
        return
    is_valid(unsampled(sent), model)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(requests, st.sampled_from(MODELS))
def test_every_body_that_counts_fits_the_official_types(request_: Request, model: str) -> None:
    try:
        post = CLAUDE.counting(request_, model)
    except (BadRequest, Unsupported):
        return
    assert post.path == "/v1/messages/count_tokens"
    judge(MessageCountTokensParams).validate(msgspec.json.decode(post.body))


def test_the_judge_refuses_what_is_wrong() -> None:
    good = body(Request("m", HELLO, tools=(WEATHER,)))
    is_valid(good, "claude-opus-5")
    for wrong in (
        {**good, "seed": 7},
        {**good, "max_tokens": "many"},
        {**good, "messages": [{"role": "tool", "content": "x"}]},
        {**good, "messages": [{"role": "user", "content": [{"type": "text", "txt": "x"}]}]},
        {**good, "tools": [{"name": "weather", "parameters": {}}]},
        {**good, "tool_choice": {"type": "required"}},
        {**good, "output_config": {"effort": "minimal"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            is_valid(wrong, "claude-opus-5")


# ---- what is sent --------------------------------------------------------------------------


def test_a_conversation_with_all_there_is() -> None:
    said = (
        Message.of("system", "Be brief."),
        Message("user", (TextPart("What is it?"), ImagePart(PNG, "image/png"))),
        Message(
            "assistant",
            (
                ThoughtPart("Hm.", "c2ln", origin="anthropic"),
                ThoughtPart("", "c2VhbA==", sealed=True, origin="anthropic"),
                ThoughtPart("of another", "eA==", origin="openai"),
                ThoughtPart("of a local model"),
                TextPart("   "),
                ToolCallPart("toolu_1", "weather", '{"city": "Oslo"}'),
            ),
        ),
        Message("tool", (ToolResultPart("toolu_1", "rain", error=True),)),
        Message.of("user", "So?"),
    )
    sent = body(Request("m", said, tools=(WEATHER,), parallel_tools=False, max_tokens=9))
    assert sent["system"] == "Be brief."
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    first, second, third = (turn["content"] for turn in sent["messages"])
    assert first[1]["source"]["media_type"] == "image/png"
    assert second == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VhbA=="},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
    ]
    assert third == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain", "is_error": True},
        {"type": "text", "text": "So?"},
    ]
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert (sent["max_tokens"], sent["stream"]) == (9, True)


def test_the_arguments_of_a_call_go_back_byte_for_byte() -> None:
    written = '{"b":1.50,  "a":"\\u00e9", "b":2}'
    said = (*HELLO, Message("assistant", (ToolCallPart("t", "f", written),)),
            Message("tool", (ToolResultPart("t", "x"),)))  # fmt: skip
    assert written.encode() in CLAUDE.post(Request("m", said), "claude-opus-5")[0].body


def test_an_id_that_anthropic_would_refuse_is_replaced_in_call_and_result_alike() -> None:
    said = (*HELLO, Message("assistant", (ToolCallPart("call:ä", "f", "{}"),)),
            Message("tool", (ToolResultPart("call:ä", "x"),)))  # fmt: skip
    turns = body(Request("m", said))["messages"]
    assert turns[1]["content"][0]["id"] == turns[2]["content"][0]["tool_use_id"]


@pytest.mark.parametrize(
    ("model", "version", "sampled"),
    [
        ("claude-opus-5-5", "2026-10-21", False),
        ("claude-opus-4-7", "2026-10-21", False),
        ("claude-zeta-9", "2026-10-21", False),
        ("claude-sonnet-4-6", "2023-06-01", True),
        ("claude-haiku-4-5", "2023-06-01", True),
        ("smollm2", "2023-06-01", True),
    ],
)
def test_the_version_that_is_sent_and_sampling(model: str, version: str, sampled: bool) -> None:
    post, notes = CLAUDE.post(Request("m", HELLO, sampling=Sampling(temperature=0.5)), model)
    assert post.headers["anthropic-version"] == version
    assert ("temperature" in msgspec.json.decode(post.body)) is sampled
    assert bool(notes) is not sampled


def test_what_is_off_anyway_is_left_out_without_a_word() -> None:
    off = Sampling(top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, presence_penalty=0.0)
    for model in ("claude-opus-5", "claude-sonnet-4-6"):
        post, notes = CLAUDE.post(Request("m", HELLO, sampling=off), model)
        assert notes == ()
        assert not msgspec.json.decode(post.body).keys() & {"top_p", "top_k"}


def test_sampling_of_older_models() -> None:
    both = Request("m", HELLO, sampling=Sampling(temperature=1.5, top_p=0.5, seed=1, min_p=0.1))
    sent = body(both, "claude-sonnet-4-6")
    assert (sent["temperature"], sent.get("top_p")) == (1, None)
    assert "seed" in left_out(both, "claude-sonnet-4-6")
    assert "min_p" in left_out(both, "claude-sonnet-4-6")
    thought = Request("m", HELLO, thinking=True, sampling=Sampling(temperature=0.5, top_k=3))
    assert not body(thought, "claude-haiku-4-5").keys() & {"temperature", "top_k"}


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("claude-opus-5", True, {"type": "adaptive", "display": "summarized"}),
        ("claude-opus-5", False, {"type": "disabled"}),
        ("claude-opus-5", None, None),
        ("claude-fable-5", False, None),  # always thinks
        ("claude-haiku-4-5", True, {"type": "enabled", "budget_tokens": 8192}),
        ("claude-haiku-4-5", False, {"type": "disabled"}),
        ("claude-3-haiku-20240307", True, None),
        ("claude-3-haiku-20240307", False, None),
    ],
)
def test_thinking_by_family(model: str, asked: bool | None, sent: Any) -> None:
    assert body(Request("m", HELLO, thinking=asked), model).get("thinking") == sent


def test_a_budget_of_thinking_is_below_max_tokens() -> None:
    sent = body(Request("m", HELLO, thinking=True, max_tokens=1500), "claude-haiku-4-5")
    assert sent["thinking"]["budget_tokens"] == 1024
    with pytest.raises(BadRequest, match="1024 of max_tokens"):
        body(Request("m", HELLO, thinking=True, max_tokens=1024), "claude-haiku-4-5")


def test_a_budget_is_left_out_after_a_tool_call_of_another_provider() -> None:
    said = (*HELLO, Message("assistant", (ToolCallPart("t", "f", "{}"),)),
            Message("tool", (ToolResultPart("t", "x"),)))  # fmt: skip
    asked = Request("m", said, thinking=True)
    assert "thinking" not in body(asked, "claude-haiku-4-5")
    assert "tool call" in left_out(asked, "claude-haiku-4-5")
    assert "thinking" in body(asked, "claude-opus-5")


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("claude-opus-5", "xhigh", "xhigh"),
        ("claude-opus-5", "minimal", "low"),
        ("claude-opus-4-5", "max", "high"),
        ("claude-sonnet-4-6", "xhigh", "high"),
        ("claude-haiku-4-5", "low", None),
        ("claude-opus-5", "odd", None),
    ],
)
def test_effort_by_family(model: str, asked: str, sent: str | None) -> None:
    request = Request("m", HELLO, effort=asked)
    assert body(request, model).get("output_config", {}).get("effort") == sent
    assert bool(left_out(request, model)) is (asked != sent)


def test_effort_is_a_budget_where_there_is_nothing_else() -> None:
    request = Request("m", HELLO, effort="low", thinking=True)
    assert body(request, "claude-haiku-4-5")["thinking"]["budget_tokens"] == 2048
    assert left_out(request, "claude-haiku-4-5") == ""


def test_max_tokens_is_the_familys_where_nothing_was_asked() -> None:
    assert body(Request("m", HELLO))["max_tokens"] == 128_000
    assert body(Request("m", HELLO), "claude-zeta-9")["max_tokens"] == 8192
    much = Request("m", HELLO, max_tokens=100_000)
    assert body(much, "claude-haiku-4-5")["max_tokens"] == 64_000
    assert "64000" in left_out(much, "claude-haiku-4-5")


def test_a_later_system_message() -> None:
    said = (*HELLO, Message.of("system", "Now French."), Message.of("assistant", "Oui"), *HELLO)
    assert [turn["role"] for turn in body(Request("m", said))["messages"]] == [
        "user", "system", "assistant", "user",
    ]  # fmt: skip
    older = body(Request("m", said), "claude-opus-4-7")
    assert older["system"] == "Now French."
    assert "system message" in left_out(Request("m", said), "claude-opus-4-7")


def test_structured_output() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    asked = Request("m", HELLO, json_schema=schema)
    assert body(asked)["output_config"]["format"] == {
        "type": "json_schema", "schema": transform_schema(schema),
    }  # fmt: skip
    assert "minimum" in left_out(asked)
    assert body(asked, "smollm2")["output_config"]["format"]["schema"] == schema
    with pytest.raises(Unsupported, match="structured"):
        body(asked, "claude-opus-4-1")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1, "maximum": 10, "description": "A number"},
        {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 1},
        {"type": "array", "items": {"type": "string", "pattern": "a+"}, "minItems": 2},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"],
         "$defs": {"A": {"type": "object", "properties": {"x": {"type": "null"}}}}},
        {"oneOf": [{"type": "string", "maxLength": 3}, {"const": 4}]},
        {"enum": ["a", "b"]},
    ],
)  # fmt: skip
def test_a_schema_is_limited_as_the_official_client_does(schema: dict[str, Any]) -> None:
    assert limited(schema)[0] == transform_schema(schema)


def test_a_schema_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    with pytest.raises(BadRequest, match="64 deep"):
        body(Request("m", HELLO, json_schema=schema))


@pytest.mark.parametrize(
    ("request_", "model", "why"),
    [
        (Request("m", prompt="Once"), "claude-opus-5", "bare prompt"),
        (Request("m", HELLO, grammar="root ::= 'a'"), "claude-opus-5", "grammar"),
        (Request("m", HELLO, logprobs=0), "claude-opus-5", "log-probabilities"),
        (Request("m", HELLO, logit_bias=((1, -100.0),)), "claude-opus-5", "logit_bias"),
        (Request("m", HELLO, stop=("\n",)), "claude-opus-5", "white space"),
        (Request("m", HELLO, tool_choice="required"), "claude-opus-5", "no tools"),
        (Request("m", HELLO, tools=(WEATHER,), tool_choice="x"), "claude-opus-5", "'x'"),
        (Request("m", (Message.of("system", "x"),)), "claude-opus-5", "no message"),
        (Request("m", (Message.of("user", " "),)), "claude-opus-5", "no message"),
        (Request("m", (*HELLO, Message.of("assistant", "I"))), "claude-opus-5", "begun"),
        (Request("m", (Message("user", (ImagePart(b"", "image/bmp"),)),)), "claude-3-opus", "bmp"),
        (Request("m", HELLO, tools=(Tool("f", "", {"type": "array"}),)), "smollm2", "no object"),
        (Request("m", HELLO, tools=(Tool("f", "", {"x": object()}),)), "smollm2", "as JSON"),
        (Request("m", (Message.of("user", "\ud800"),)), "smollm2", "as JSON"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused(request_: Request, model: str, why: str) -> None:
    with pytest.raises((BadRequest, Unsupported), match=why):
        CLAUDE.post(request_, model)


def test_prefill_where_the_family_has_it() -> None:
    said = (*HELLO, Message.of("assistant", "I"))
    assert body(Request("m", said), "claude-haiku-4-5")["messages"][-1]["role"] == "assistant"


def test_no_embeddings() -> None:
    with pytest.raises(Unsupported):
        CLAUDE.embed(EmbedRequest("m", ("x",)), "claude-opus-5")


def test_the_key_is_in_the_headers_alone() -> None:
    assert CLAUDE.headers("sk-ant-1") == {"x-api-key": "sk-ant-1"}
    assert CLAUDE.headers("") == {}


# ---- what models take ----------------------------------------------------------------------


def test_every_model_of_the_official_package_has_a_family() -> None:
    from anthropic.types.model_param import ModelParam

    named = ModelParam.__args__[0].__args__  # type: ignore[attr-defined]
    assert "claude-opus-5" in named
    for model in named:
        assert accepts("anthropic", model).most_out, model


def test_contexts_are_those_of_genai_prices() -> None:
    from genai_prices.data import providers

    ours = next(one for one in providers if one.id == "anthropic")
    known = {model.id: model.context_window for model in ours.models if "claude-" in model.id}
    named = {id: size for id, size in known.items() if id not in ("claude-v1", "claude-2")}
    assert named
    assert {id: CLAUDE.capabilities(id).context for id in named} == named


def test_capabilities() -> None:
    can = CLAUDE.capabilities("claude-opus-5")
    assert (can.images, can.tools, can.thinking, can.constrained, can.local) == (
        True, True, True, True, False,
    )  # fmt: skip
    assert not CLAUDE.capabilities("claude-3-opus-20240229").thinking
