"""A route: read from a person's text, its rules, its ladder, and what each answer carries."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.chat import (
    Answer,
    Done,
    Event,
    Failed,
    ImagePart,
    Logprobs,
    Message,
    Progress,
    Request,
    Routed,
    Text,
    TextPart,
    Thought,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)
from overt.errors import (
    BadRequest,
    ContextExceeded,
    EngineFailed,
    Offline,
    OvertError,
    Refused,
    Stopped,
)
from overt.gateway import routing
from overt.gateway.routing import Route, RouteContext, checks
from overt.gateway.routing.arithmetic import wrong_sum

SMALL, LARGE, CLOSED = "smollm2", "qwen3:4b", "openai:gpt-6-luna"
REQUEST = Request("writer", (Message.of("user", "How old is Ann?"),))
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}


class Models:
    """Plays the events written down for each ref, and notes what was asked and closed."""

    def __init__(self, **_: object) -> None:
        self.plays: dict[str, list[Event | Exception]] = {}
        self.asked: list[tuple[str, Request]] = []
        self.closed: list[str] = []

    def play(self, ref: str, *events: Event | Exception) -> "Models":
        self.plays[ref] = [*events]
        return self

    def say(self, ref: str, text: str, finish: Any = "stop", tokens: int = 10) -> "Models":
        return self.play(ref, Text(text), Usage(5, tokens), Done(finish))

    async def ask(self, ref: str, request: Request) -> AsyncGenerator[Event, None]:
        self.asked.append((ref, request))
        try:
            for event in self.plays[ref]:
                await asyncio.sleep(0)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed.append(ref)


async def events_of(
    route: Route | dict[str, Any] | str,
    models: Models,
    request: Request = REQUEST,
    facts: RouteContext | None = None,
) -> list[Event]:
    if isinstance(route, str):
        route = routing.read(route)[0]
    if isinstance(route, dict):
        route = routing.read_mapping(route)
    found = []
    stream = routing.answer(route, request, models.ask, facts or RouteContext())
    async with aclosing(stream) as events:
        async for event in events:
            found.append(event)
    assert models.closed == [ref for ref, _ in models.asked], "each is closed before the next"
    return found


def ladder(*models: Any, **escalate: Any) -> dict[str, Any]:
    return {"models": list(models), "escalate": escalate}


def answer_of(events: list[Event]) -> Answer:
    answer = Answer()
    for event in events:
        answer.add(event)
    return answer


# ---- reading ---------------------------------------------------------------------------------

YAML = """
rules:
  - when: {egress: none, images: true}
    use: gemma3
  - when: {caller: interns}
    refuse: interns ask smollm2 by its own name
models:
  - model: smollm2
    threshold: {signal: mean_logprob, at_least: -0.4}
  - openai:gpt-6-luna
escalate: {length: true, refusal_words: [No Way], check: {command: [/bin/true, -x], timeout: 1m}}
price_cap: 0.02
"""
TOML = """
price_cap = 0.02
[[rules]]
when = {egress = "none", images = true}
use = "gemma3"
[[rules]]
when = {caller = ["interns"]}
refuse = "interns ask smollm2 by its own name"
[[models]]
model = "smollm2"
threshold = {signal = "mean_logprob", at_least = -0.4}
[[models]]
model = "openai:gpt-6-luna"
[escalate]
length = true
refusal_words = ["No Way"]
check = {command = ["/bin/true", "-x"], timeout = "1m"}
"""


def test_the_same_route_in_three_languages() -> None:
    from_yaml, mapping = routing.read(YAML)
    assert routing.read(TOML)[0] == from_yaml
    assert routing.read(json.dumps(mapping))[0] == from_yaml
    assert routing.read_mapping(mapping) == from_yaml
    assert from_yaml.escalate.refusal_words == ("no way",)
    assert from_yaml.escalate.check is not None
    assert from_yaml.escalate.check.timeout == 60
    assert from_yaml.rules[1].when.caller == ("interns",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the route names no model; add"),
        ("just words", "the route is 'just words'; a route begins with"),
        ("- smollm2", "the route is a list; a route begins with"),
        ("{}", "the route names no model; add"),
        ("model: [a]", "the route has the unknown key 'model'; known keys: version, rules"),
        ("rules: [{when: {}, refuse: go away}]", "the route names no model; add"),
        ("models: a", "models of the route is 'a'; it should be a list of at most 16"),
        ("models: [3]", "models[0] of the route is 3; it should be a mapping"),
        ("models: ['a b']", "models[0] of the route: 'a b' is not a model name; type `overt list"),
        ("models: [./a.gguf]", "models[0] of the route is './a.gguf'; it should be a whole path"),
        ("models: [a, {}]", "models[1] of the route is a mapping; it should be a ref, or"),
        ("models: [{model: a, threshold: {signal: x, at_least: 1}}]",
         "models[0].threshold.signal of the route is 'x'; it should be mean_logprob or router"),
        ("models: [{model: a, threshold: {signal: mean_logprob}}]",
         "models[0].threshold.at_least of the route is not there; it should be a number"),
        ("models: [{model: a, threshold: {signal: mean_logprob, at_least: true}}]",
         "models[0].threshold.at_least of the route is True; it should be a number"),
        ("rules: [{when: {}}]", "rules[0] of the route is a mapping; it should be either `use:"),
        ("rules: [{when: {}, use: a, refuse: b}]", "rules[0] of the route is a mapping; it"),
        ("rules: [{when: {image: true}, use: a}]",
         "rules[0].when of the route has the unknown key 'image'; known keys: egress, images"),
        ("rules: [{when: {images: 1}, use: a}]",
         "rules[0].when.images of the route is 1; it should be true or false"),
        ("rules: [{when: {egress: maybe}, use: a}]",
         "rules[0].when.egress of the route is 'maybe'; it should be none, some or any"),
        ("rules: [{when: {context_over: -1}, use: a}]",
         "rules[0].when.context_over of the route is -1; it should be a number from 0"),
        ("rules: [{when: {caller: []}, use: a}]",
         "rules[0].when.caller of the route is a list; it should be a list of 1 to 100 texts"),
        ("models: [a]\nescalate: {check: {command: check.py}}",
         "escalate.check.command of the route is 'check.py'; it should be a program by its whole"),
        ("models: [a]\nescalate: {check: {command: [/a], timeout: forever}}",
         "escalate.check.timeout of the route is 'forever'; it should be a time from"),
        ("models: [a]\nprice_cap: -1", "price_cap of the route is -1; it should be a number from"),
        ("models: [a]\nversion: 2", "version of the route is 2; it should be 1, the only version"),
        ("models: [a, &x b, *x]", "line 1 of the route has an alias, which is not read; write"),
        ('price_cap = 0x' + "f" * 99 + '\nmodels = ["a"]', "price_cap of the route is a very"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        routing.read(text)
    assert str(caught.value).startswith(message)


def test_a_learnt_threshold_is_plain_json() -> None:
    with pytest.raises(BadRequest, match=r"models\[0\]\.threshold\.learnt .* what JSON can hold"):
        routing.read(
            '[[models]]\nmodel = "a"\nthreshold = {signal = "mean_logprob", at_least = 1, '
            "learnt = {day = 2026-11-25}}"
        )


PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["smollm2", "openai:gpt-5", "/bin/true", "none", "mean_logprob", "10s"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["rules", "models", "escalate", "when", "use", "refuse", "model", "threshold",
             "signal", "at_least", "learnt", "check", "command", "timeout", "caller", "egress",
             "price_cap", "context_over", "refusal_words", "schema", "version", "x"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["rules", "models", "escalate", "price_cap"]), PIECES))
@settings(max_examples=repeats(100, 300))
def test_any_mapping_is_a_route_or_one_clear_error(mapping: dict[str, Any]) -> None:
    try:
        route = routing.read_mapping(mapping)
    except BadRequest as error:
        assert len(error.message) < 400  # noqa: PT017 - most mappings are refused
        return
    assert route.rules or route.models


@given(st.integers(0, len(YAML)), st.integers(0, 30), st.text(max_size=12), st.booleans())
@settings(max_examples=repeats(80, 200))
def test_mutated_text_is_a_route_or_one_clear_error(
    at: int, cut: int, piece: str, toml: bool
) -> None:
    text = TOML if toml else YAML
    with suppress(BadRequest):
        routing.read(text[:at] + piece + text[at + cut :])


# ---- rules -----------------------------------------------------------------------------------

IMAGE = Message("user", (TextPart("what is it"), ImagePart(b"\x89PNG", "image/png")))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("when", "request_", "facts", "fits"),
    [
        ({}, REQUEST, RouteContext(), True),
        ({"egress": "none"}, REQUEST, RouteContext("none"), True),
        ({"egress": "none"}, REQUEST, RouteContext("some"), False),
        ({"images": True}, replace(REQUEST, messages=(IMAGE,)), RouteContext(), True),
        ({"images": True}, REQUEST, RouteContext(), False),
        ({"images": False}, replace(REQUEST, messages=(IMAGE,)), RouteContext(), False),
        ({"tools": True}, replace(REQUEST, tools=(Tool("f"),)), RouteContext(), True),
        (
            {"tools": True, "schema": True},
            replace(REQUEST, tools=(Tool("f"),)),
            RouteContext(),
            False,
        ),
        ({"schema": True}, replace(REQUEST, json_schema=SCHEMA), RouteContext(), True),
        ({"thinking": True}, replace(REQUEST, thinking=True), RouteContext(), True),
        ({"thinking": False}, REQUEST, RouteContext(), True),
        ({"context_over": 100}, Request("w", prompt="x" * 360), RouteContext(), True),
        ({"context_over": 100}, Request("w", prompt="x" * 350), RouteContext(), False),
        ({"context_over": 100}, Request("w", prompt=tuple(range(101))), RouteContext(), True),
        ({"context_over": 100}, REQUEST, RouteContext(count=lambda _: 101), True),
        ({"caller": ["ab12"]}, REQUEST, RouteContext(caller="ab12", caller_name="ann"), True),
        ({"caller": ["bob", "ann"]}, REQUEST, RouteContext(caller="ab12", caller_name="ann"), True),
        ({"caller": ["bob"]}, REQUEST, RouteContext(caller="ab12", caller_name="ann"), False),
        ({"caller": [""]}, REQUEST, RouteContext(), False),
        ({"usd_over": 0.1}, REQUEST, RouteContext(price=lambda *_: 0.2), True),
        ({"usd_over": 0.1}, REQUEST, RouteContext(price=lambda *_: 0.1), False),
        (
            {"usd_over": 0.1},
            REQUEST,
            RouteContext(),
            True,
        ),  # nobody knows what the closed one costs
    ],
)
async def test_a_rule_decides_where_all_of_it_holds(
    when: dict[str, Any], request_: Request, facts: RouteContext, fits: bool
) -> None:
    models = Models().say(SMALL, "chosen").say(CLOSED, "ladder")
    route = {"rules": [{"when": when, "use": SMALL}], "models": [CLOSED]}
    events = await events_of(route, models, request_, facts)
    assert answer_of(events).text == ("chosen" if fits else "ladder")
    routed = events[0]
    assert isinstance(routed, Routed)
    assert routed.why.startswith("rule 1: ") is fits


@pytest.mark.anyio
async def test_the_first_rule_that_fits_and_its_words() -> None:
    route = {
        "rules": [
            {"when": {"images": True}, "use": "a"},
            {"when": {"egress": "none", "images": False, "context_over": 1}, "use": SMALL},
            {"when": {}, "refuse": "ask somebody else"},
        ]
    }
    models = Models().say(SMALL, "hi")
    events = await events_of(route, models, facts=RouteContext("none"))
    assert events[0] == Routed(SMALL, "rule 2: egress none, no images, context over 1 tokens")
    with pytest.raises(Refused, match="ask somebody else"):
        await events_of(route, models, facts=RouteContext("any"))


@pytest.mark.anyio
async def test_no_rule_and_no_ladder_is_refused() -> None:
    with pytest.raises(Refused, match="no rule of the route fits"):
        await events_of({"rules": [{"when": {"images": True}, "use": "a"}]}, Models())


@pytest.mark.anyio
async def test_what_a_rule_chose_streams_in_order_and_unjudged() -> None:
    played = [Progress(1, 2), Thought("hm", "sig", False, "x"), Text(""), Usage(1, 2), Done("stop")]
    models = Models().play(SMALL, *played)
    events = await events_of({"rules": [{"when": {}, "use": SMALL}], "models": [CLOSED]}, models)
    assert events == [Routed(SMALL, "rule 1: always"), *played]


# ---- the ladder ------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_good_first_answer_is_all() -> None:
    models = Models().play(
        SMALL, Progress(1, 1), Thought("hm"), Text("fi"), Text("ne"), Usage(5, 2), Done("stop")
    )
    events = await events_of(ladder(SMALL, CLOSED), models)
    assert events == [
        Routed(SMALL, "asked first, and nothing against it"),
        Thought("hm"), Text("fi"), Text("ne"), Usage(5, 2), Done("stop"),
    ]  # fmt: skip
    assert [ref for ref, _ in models.asked] == [SMALL]
    assert models.asked[0][1] == replace(REQUEST, model=SMALL)


@pytest.mark.anyio
async def test_escalation_says_why_what_it_used_and_what_left() -> None:
    models = Models().say(SMALL, '{"age": "old"}', tokens=7).play(
        CLOSED,
        Routed(CLOSED, "", "req_1", 321), Text('{"age": 4}'), Usage(9, 3, tokens_cached=1),
        Done("stop"),
    )  # fmt: skip
    events = await events_of(ladder(SMALL, CLOSED), models, replace(REQUEST, json_schema=SCHEMA))
    assert events == [
        Routed(CLOSED, f"smollm2: schema not met at $.age; asked {CLOSED}", "req_1", 321, (SMALL,)),
        Text('{"age": 4}'),
        Usage(9, 3, tokens_cached=1, before=((SMALL, Usage(5, 7)),)),
        Done("stop"),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "empty answer"),
        (" \n", "stop", "empty answer"),
        ("", "refusal", "refused to answer"),
        ("no", "refusal", "refused to answer"),
        ("{", "stop", "not JSON at character 1"),
        ('{"age": NaN}', "stop", "not JSON"),
        ('{"age":', "length", "cut off before its JSON ended"),
        ('{"age": 1, "b": 2}', "stop", "schema not met at $"),
        ("[" * 100_000, "stop", "not JSON"),
    ],
)
async def test_verifiable_failures(text: str, finish: Any, reason: str) -> None:
    models = Models().say(SMALL, text, finish).say(CLOSED, "{}")
    request = replace(REQUEST, json_schema=SCHEMA)
    events = await events_of(ladder(SMALL, CLOSED), models, request)
    routed = events[0]
    assert isinstance(routed, Routed)
    assert routed.model == CLOSED
    assert re.match(rf"smollm2: ({re.escape(reason)}|JSON that is too deep)(;| )", routed.why), (
        routed.why
    )


TOOL = Tool("add", "", {"type": "object", "properties": {"a": {"type": "number"}}})


def calls(name: str, arguments: str) -> list[Event]:
    return [ToolCall(0, "c", name, arguments), Usage(1, 1), Done("tool_calls")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("played", "reason"),
    [
        (calls("add", '{"a": 1}'), None),
        (calls("add", ""), None),
        (calls("sub", "{}"), "called 'sub', which is no tool it was given"),
        (calls("add", '{"a": '), "arguments of add are not a JSON object"),
        (calls("add", "[]"), "arguments of add are not a JSON object"),
        (calls("add", '{"a": "1"}'), "arguments of add not met at $.a"),
        ([Text("no"), Done("stop")], "did not call a tool, as it had to"),
        ([ToolCall(3, "c", "add", ""), Done("stop")], "failed: the engine sent tool call 3 before"),
    ],
)
async def test_tool_calls_are_checked(played: list[Event], reason: str | None) -> None:
    models = Models().play(SMALL, *played).say(CLOSED, "x")
    request = replace(REQUEST, tools=(TOOL,), tool_choice="required")
    routed = (await events_of(ladder(SMALL, CLOSED), models, request))[0]
    assert isinstance(routed, Routed)
    assert routed.why.startswith(f"smollm2: {reason}" if reason else "asked first")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("escalate", "text", "finish", "reason"),
    [
        ({}, "cut o", "length", None),
        ({"length": True}, "cut o", "length", "cut off after 10 tokens"),
        ({}, "I cannot assist with that", "stop", None),
        ({"refusal_words": True}, "I cannot assist with that", "stop", "begins like a refusal"),
        ({"refusal_words": ["nope"]}, "**Nope.", "stop", "begins like a refusal"),
        ({"refusal": False}, "no", "refusal", None),
        ({"empty": False}, "", "stop", None),
        ({"arithmetic": True}, "So 3 * 4 = 13.", "stop", "wrong arithmetic: 3 * 4 = 13"),
        ({"arithmetic": True}, "So 3 * 4 = 12.", "stop", None),
        ({"schema": False}, "{", "stop", None),
    ],
)
async def test_what_is_asked_for_is_checked(
    escalate: dict[str, Any], text: str, finish: Any, reason: str | None
) -> None:
    models = Models().say(SMALL, text, finish).say(CLOSED, "x")
    request = replace(REQUEST, json_schema=SCHEMA) if "schema" in escalate else REQUEST
    routed = (await events_of(ladder(SMALL, CLOSED, **escalate), models, request))[0]
    assert isinstance(routed, Routed)
    assert routed.why.startswith(f"smollm2: {reason}" if reason else "asked first"), routed.why


@pytest.mark.anyio
@pytest.mark.parametrize(
    "played",
    [
        [ContextExceeded(9, 8)],
        [Text("half"), EngineFailed("boom")],
        [Text("half"), Failed("engine_failed", "boom")],
        [Text("half")],
        [Text("half"), Done("cancelled")],
    ],
)
async def test_an_engine_that_fails_is_passed_over(played: list[Any]) -> None:
    models = Models().play(SMALL, *played).say(CLOSED, "x")
    events = await events_of(ladder(SMALL, CLOSED), models)
    assert answer_of(events).text == "x"
    assert isinstance(events[0], Routed)
    assert events[0].tried == (SMALL,)
    if not isinstance(played[-1], Done | Text):
        with pytest.raises(OvertError, match=r"boom|context holds"):
            await events_of(ladder(SMALL, CLOSED, error=False), models)


@pytest.mark.anyio
async def test_what_a_person_stopped_stays_stopped() -> None:
    models = Models().play(SMALL, Stopped("stopped")).say(CLOSED, "x")
    with pytest.raises(Stopped):
        await events_of(ladder(SMALL, CLOSED), models)


@pytest.mark.anyio
async def test_a_schema_that_nothing_can_be_judged_by_is_refused_before_anybody_is_asked() -> None:
    for schema in ({"type": 3}, {"$ref": "http://127.0.0.1:1/x.json"}, {"$ref": "other.json#/a"}):
        models = Models()
        with pytest.raises(BadRequest, match="cannot check answers by this JSON Schema"):
            await events_of(ladder(SMALL, CLOSED), models, replace(REQUEST, json_schema=schema))
        assert models.asked == []


def logprobs(*values: float) -> Logprobs:
    return Logprobs(tuple(TokenLogprob("t", value) for value in values))


THRESHOLD = {"signal": "mean_logprob", "at_least": -0.5}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([logprobs(-0.1, -0.9)],
         "asked first, and nothing against it (mean log-probability -0.500, at least -0.5)"),
        ([logprobs(-0.1), logprobs(-1.1)],
         f"smollm2: mean log-probability -0.600 is below -0.5; asked {CLOSED}"),
        ([], f"smollm2: tells no log-probabilities to judge it by; asked {CLOSED}"),
        ([logprobs(float("nan"))],
         f"smollm2: tells no log-probabilities to judge it by; asked {CLOSED}"),
    ],
)  # fmt: skip
async def test_a_threshold_asks_for_log_probabilities_and_keeps_them(
    told: list[Event], why: str
) -> None:
    models = Models().play(SMALL, Text("a"), *told, Done("stop")).say(CLOSED, "x")
    events = await events_of(ladder({"model": SMALL, "threshold": THRESHOLD}, CLOSED), models)
    assert isinstance(events[0], Routed)
    assert events[0].why == why
    assert models.asked[0][1].logprobs == 0
    assert models.asked[-1][1].logprobs == (0 if len(models.asked) == 1 else None)
    assert not any(isinstance(event, Logprobs) for event in events)


ROUTER = {"sees": "answer", "bias": 2.0, "terms": {"answer_wrong_sums": [0.0, 1.0, -9.0]}}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3 * 4 = 12", "asked first, and nothing against it (the router's surety 0.881, at least"),
        ("3 * 4 = 13", f"smollm2: the router's surety 0.014 is below 0.5; asked {CLOSED}"),
    ],
)
async def test_a_router_judges_an_answer_without_log_probabilities(text: str, why: str) -> None:
    models = Models().say(SMALL, text).say(CLOSED, "x")
    threshold = {"signal": "router", "at_least": 0.5, "router": ROUTER}
    events = await events_of(ladder({"model": SMALL, "threshold": threshold}, CLOSED), models)
    assert isinstance(events[0], Routed)
    assert events[0].why.startswith(why)
    assert models.asked[0][1].logprobs is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sees": "all"}, "sees (prompt, answer or both), bias and terms"),
        ({"bias": "0"}, "finite numbers"),
        ({"terms": {}}, "terms named as the features"),
        ({"terms": {"prompt_length": [0, 1, 1]}}, "terms named as the features"),
        ({"terms": {"answer_final": [0, 1]}}, "a mean, a scale and a weight"),
        ({"terms": {"answer_final": [0, 0, 1]}}, "scales above 0"),
        ({"terms": {"answer_final": [0, 1, float("inf")]}}, "finite numbers"),
    ],
)
def test_a_router_that_cannot_be_read(change: dict[str, Any], message: str) -> None:
    threshold = {"signal": "router", "at_least": 0.5, "router": {**ROUTER, **change}}
    with pytest.raises(BadRequest) as caught:
        routing.read_mapping(ladder({"model": SMALL, "threshold": threshold}, CLOSED))
    assert caught.value.message.startswith("models[0].threshold.router of the route is a mapping")
    assert message in str(caught.value)


@pytest.mark.anyio
async def test_log_probabilities_that_were_asked_for_are_delivered() -> None:
    models = Models().play(SMALL, Text("a"), logprobs(-0.1), Done("stop"))
    events = await events_of(
        ladder({"model": SMALL, "threshold": THRESHOLD}, CLOSED),
        models,
        replace(REQUEST, logprobs=3),
    )
    assert models.asked[0][1].logprobs == 3
    assert logprobs(-0.1) in events


# ---- the end of the ladder -------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_last_model_streams_and_is_not_judged() -> None:
    models = Models().say(SMALL, "").say(LARGE, "").play(CLOSED, Text(""), Done("stop"))
    events = await events_of(ladder(SMALL, LARGE, CLOSED), models)
    assert events == [
        Routed(CLOSED, f"{SMALL}: empty answer; {LARGE}: empty answer; asked {CLOSED}",
               tried=(SMALL, LARGE)),
        Text(""),
        Usage(0, 0, before=((SMALL, Usage(5, 10)), (LARGE, Usage(5, 10)))),
        Done("stop"),
    ]  # fmt: skip


@pytest.mark.anyio
async def test_where_the_last_fails_a_soft_failure_stands() -> None:
    models = (
        Models()
        .play(SMALL, Routed(SMALL, bytes_out=7), Text("so-so"), Usage(1, 2), Done("length"))
        .say(LARGE, "")
        .play(CLOSED, Routed(CLOSED, "", "r", 5), Offline("no network"))
    )
    events = await events_of(ladder(SMALL, LARGE, CLOSED, length=True), models)
    assert events == [
        Routed(
            SMALL,
            f"{SMALL}: cut off after 2 tokens; {LARGE}: empty answer; "
            f"{CLOSED}: failed: no network; the answer of {SMALL} stands",
            "",
            7,
            (LARGE,),
        ),
        Text("so-so"),
        Usage(1, 2, before=((LARGE, Usage(5, 10)),)),
        Done("length"),
    ]


@pytest.mark.anyio
async def test_where_all_fail_the_last_error_tells_of_the_others_and_what_they_used() -> None:
    lost: list[Any] = []
    models = Models().say(SMALL, "{}x").play(CLOSED, Offline("no network", "go online"))
    with pytest.raises(Offline) as caught:
        await events_of(
            ladder(SMALL, CLOSED),
            models,
            replace(REQUEST, json_schema=SCHEMA),
            RouteContext(lost=lost.append),
        )
    assert str(caught.value) == (
        "no network (before it, smollm2: not JSON at character 2); go online"
    )
    assert lost == [((SMALL, Usage(5, 10)),)]


@pytest.mark.anyio
async def test_an_error_within_the_last_answer_comes_after_what_was_used_before() -> None:
    models = Models().say(SMALL, "").play(CLOSED, Text("ha"), EngineFailed("boom"))
    seen: list[Event] = []
    stream = routing.answer(
        routing.read_mapping(ladder(SMALL, CLOSED)), REQUEST, models.ask, RouteContext()
    )

    async def listen() -> None:
        async for event in stream:
            seen.append(event)

    with pytest.raises(EngineFailed, match="boom"):
        await listen()
    assert seen[1:] == [Text("ha"), Usage(0, 0, before=((SMALL, Usage(5, 10)),))]


@pytest.mark.anyio
async def test_a_route_within_a_route_adds_up() -> None:
    inner = Routed(LARGE, "asked first", "r", 30, ("tiny",))
    models = (
        Models()
        .say(SMALL, "")
        .play("other", inner, Text("x"), Usage(3, 4, before=(("tiny", Usage(1, 1)),)), Done("stop"))
    )
    events = await events_of(ladder(SMALL, "other"), models)
    assert events[0] == Routed(
        LARGE, f"{SMALL}: empty answer; asked other; asked first", "r", 30, (SMALL, "tiny")
    )
    assert events[2] == Usage(3, 4, before=((SMALL, Usage(5, 10)), ("tiny", Usage(1, 1))))


# ---- money -----------------------------------------------------------------------------------


def prices(**usd: float | None) -> Callable[[str, Usage], float | None]:
    return lambda ref, usage: usd.get(ref.partition(":")[0], 0.0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("price", "text", "why"),
    [
        (prices(openai=0.01), "", "smollm2: empty answer; asked"),
        (
            prices(openai=0.03),
            "soft",
            "passed over, may come to $0.03 of $0.02; the answer of smol",
        ),
        (prices(openai=None), "soft", "passed over, its price is not known; the answer of smollm2"),
        # what was spent before counts
        (prices(openai=0.015, smollm2=0.01), "soft", "passed over, may come to $0.025 of $0.02"),
    ],
)
async def test_the_price_cap(price: Any, text: str, why: str) -> None:
    models = Models().say(SMALL, text, "length").say(CLOSED, "x")
    route = {**ladder(SMALL, CLOSED, length=True), "price_cap": 0.02}
    routed = (await events_of(route, models, facts=RouteContext(price=price)))[0]
    assert isinstance(routed, Routed)
    assert why in routed.why
    assert len(models.asked) == (2 if "asked" in why else 1)


@pytest.mark.anyio
async def test_nothing_good_within_the_cap_is_refused_with_numbers() -> None:
    models = Models().say(SMALL, "")
    route = {**ladder(SMALL, CLOSED), "price_cap": 0.02}
    with pytest.raises(Refused) as caught:
        await events_of(route, models, facts=RouteContext(price=prices(openai=0.5)))
    assert str(caught.value) == (
        "no good answer within $0.02: smollm2: empty answer; openai:gpt-6-luna: passed over, may "
        "come to $0.5 of $0.02; raise `price_cap` in the route, or name a model itself"
    )
    with pytest.raises(Refused, match="its price is not known"):
        await events_of({"models": [CLOSED], "price_cap": 1}, Models())


# ---- leaving ---------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["held", "straight"])
async def test_whoever_leaves_stops_what_is_running(first: str) -> None:
    closed = asyncio.Event()
    begun = asyncio.Event()

    async def ask(ref: str, request: Request) -> AsyncGenerator[Event, None]:
        try:
            yield Text("a")
            begun.set()
            await asyncio.sleep(3600)
        finally:
            closed.set()

    models = [SMALL, CLOSED] if first == "held" else [SMALL]
    stream = routing.answer(routing.read_mapping(ladder(*models)), REQUEST, ask, RouteContext())

    async def listen() -> None:
        async with aclosing(stream) as events:
            async for _ in events:
                pass

    task = asyncio.create_task(listen())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


@pytest.mark.anyio
async def test_closing_between_two_events_closes_the_model() -> None:
    models = Models().play(SMALL, Text("a"), Text("b"), Done("stop"))
    stream = routing.answer(
        routing.read_mapping(ladder(SMALL)), REQUEST, models.ask, RouteContext()
    )
    assert isinstance(await anext(stream), Routed)
    await stream.aclose()
    assert models.closed == [SMALL]


@pytest.mark.anyio
async def test_an_endless_answer_is_held_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overt.gateway.routing.cascade.MAX_HELD_CHARACTERS", 1 << 20)
    models = Models().play(SMALL, *[Text("x" * 400_000)] * 9, Done("stop")).say(CLOSED, "x")
    events = await events_of(ladder(SMALL, CLOSED), models)
    assert isinstance(events[0], Routed)
    assert "an answer of more than" in events[0].why


# ---- the owner's own check -------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="the script is a POSIX one")


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "check.py"
    path.write_text(f"#!{sys.executable} -SE\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def why_of(check: dict[str, Any], text: str = "42", monkey: Any = None) -> str:
    models = Models().say(SMALL, text).say(CLOSED, "x")
    routed = (await events_of(ladder(SMALL, CLOSED, check=check), models))[0]
    assert isinstance(routed, Routed)
    return routed.why


@posix
@pytest.mark.anyio
async def test_the_check_reads_the_answer_and_its_status_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    command = script(
        tmp_path,
        "import os, sys\n"
        "assert 'OPENAI_API_KEY' not in os.environ\n"
        "assert os.environ['OVERT_PROMPT'] == 'How old is Ann?', os.environ\n"
        "assert os.environ['OVERT_MODEL'] == 'smollm2'\n"
        "assert sys.argv[1:] == ['$HOME; x']\n"
        "text = sys.stdin.read()\n"
        "if text != '42': print('not 42\\x1b[31m\\nmore'); sys.exit(3)",
    )
    check = {"command": [command, "$HOME; x"]}
    assert await why_of(check) == "asked first, and nothing against it"
    assert (await why_of(check, "41")).startswith("smollm2: the check says: not 42")


@posix
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys; sys.exit(1)", "the check ended with status 1"),
        ("import os; os.kill(os.getpid(), 9)", "the check ended with status -9"),
        # neither reads its input nor stops writing
        ("import sys\nwhile True: sys.stdout.write('y' * 65536)", "the check took longer than 0.4"),
        ("import os, time\nos.fork() or time.sleep(60)\nos._exit(0)", "the check took longer than"),
    ],
)
async def test_a_check_that_misbehaves_finds_nothing_good(
    tmp_path: Path, text: str, why: str
) -> None:
    check = {"command": [script(tmp_path, text)], "timeout": "0.4" if "longer" in why else "60s"}
    assert (await why_of(check, "x" * 300_000)).startswith(f"smollm2: {why}")


@posix
@pytest.mark.anyio
async def test_a_check_that_is_not_there_or_not_the_owners_is_not_run(tmp_path: Path) -> None:
    assert "the check could not run: No such file" in await why_of({"command": ["/nowhere/x"]})
    command = script(tmp_path, "")
    Path(command).chmod(0o777)
    assert f"smollm2: others may write to {command}" in await why_of({"command": [command]})


# ---- checks by themselves --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("16 - 3 = 13 eggs", None),
        ("16 - 3 = 14 eggs", "16 - 3 = 14"),
        ("9 * $2 = $<<9*2=18>>18.", None),
        ("9 * $2 = $<<9*2=19>>19.", "9*2=19"),
        ("$80,000 + $50,000 = $130,000", None),
        ("$80,000 + $50,000 = $130,00", None),  # cut off: no number at all
        ("10 / 3 = 3.33", None),
        ("10 / 3 = 3", None),  # within half of its last digit
        ("10 / 3 = 4", "10 / 3 = 4"),
        ("2 x 3 = 6, 2 × 3 = 7", "2 × 3 = 7"),
        ("2 * (3 + 4) = 14", None),
        ("2 * (3 + 4) = 15", "2 * (3 + 4) = 15"),
        ("(that is, 3 + 4 = 7)", None),
        ("(3 + 4 = 8)", "3 + 4 = 8"),
        ("-3 + 5 = 2", None),
        ("-3 + 5 = 8", None),  # a dash
        ("-3 + 5 = 9", "-3 + 5 = 9"),
        ("a list:\n- 3 + 5 = 8\n* 3 * 5 = 16", "3 * 5 = 16"),
        ("2 + 3 = 1 + 4", None),
        ("3 + 4 = 7 = 8", None),
        ("007 + 1 = 8", None),
        ("x/3 + 1 = 5", None),
        ("150% * 2 = 9", None),
        ("3 1/2 = 3.5", None),
        ("2^3 * 2 = 16", None),
        ("a 3 + 4 = 8x", None),
        ("16 eggs - 3 eggs = 12 eggs", None),
        ("1 / 0 = 5", None),
        ("2 ** 3 = 9", None),
        ("1 - 1 == 1, 1 - 1 <= 1", None),
        ("x = 3, 3 = 4, =", None),
        ("3 + 4\n= 8", None),
    ],
)
def test_sums_are_done_again(text: str, wrong: str | None) -> None:
    assert wrong_sum(text) == wrong


@pytest.mark.parametrize(
    "piece", ["1 + ", "1+1=2 ", "(", "1,111", "$1 ", "9", "-1-", "1.1", "(1)", "=", "1 x ", "=1-"]
)
def test_a_long_text_of_any_kind_takes_no_longer_than_it_is(piece: str) -> None:
    for text in (piece * 20_000, piece * 20_000 + "=", (piece * 30 + "=") * 500):
        wrong_sum(text)  # with a pattern that looks back this took minutes


@given(st.text(alphabet="0123456789+-*/x=()$%., <>", max_size=300))
@settings(max_examples=repeats(80, 200))
def test_sums_of_any_text_end(text: str) -> None:
    wrong_sum(text)


@pytest.mark.parametrize(
    ("pattern", "text", "met"),
    [
        ("^[a-z]+$", "abc", True),
        ("^[a-z]+$", "ABC", False),
        (r"^\d{4}-\d{2}$", "2026-11", True),
        (r"^\d{4}-\d{2}$", "x", False),
        ("^(a|b)$", "c", False),
        # would take for ever, so they are not run
        ("^(a+)+$", "a" * 40 + "!", True),
        ("^(a|aa)+$", "a" * 60 + "!", True),
        ("^((a)*)*$", "a" * 60 + "!", True),
        ("(x+x+)+y", "x" * 60, True),
        ("a*" * 8 + "b", "a" * 500, True),
        ("a?" * 40 + "a" * 40, "a" * 39, True),
        ("(?:a{1,30}){1,30}b", "a" * 60, True),
    ],
)
def test_patterns_are_judged_where_that_ends(pattern: str, text: str, met: bool) -> None:
    for schema, value in (
        ({"type": "string", "pattern": pattern}, text),
        ({"patternProperties": {pattern: False}}, {text: 1}),
        (
            {"patternProperties": {pattern: {}}, "additionalProperties": False},
            {text: 1},
        ),
    ):
        request = replace(REQUEST, json_schema=schema)
        answer = answer_of([Text(json.dumps(value)), Done("stop")])
        found = checks.failure(request, answer, Route().escalate)
        if "pattern" in schema or "additionalProperties" in schema:
            assert (found is None) is met
        else:
            assert (found is None) is (not met or len(text) > 20)


def test_a_schema_that_goes_round_is_checked() -> None:
    schema = {"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}, "type": "object"}}}
    schema["$ref"] = "#/$defs/n"  # type: ignore[assignment]
    answer = answer_of([Text('{"n": {"n": 3}}'), Done("stop")])
    found = checks.failure(replace(REQUEST, json_schema=schema), answer, Route().escalate)
    assert found is not None
    assert found.reason == "schema not met at $.n.n"
    loop = {"$ref": "#"}
    assert checks.failure(replace(REQUEST, json_schema=loop), answer, Route().escalate) is not None


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/$defs/no"}, {"$ref": "#/x", "x": 3}, {"$ref": "#/x", "x": {"pattern": 3}}],
)
def test_a_schema_that_leads_nowhere_is_told(schema: dict[str, Any]) -> None:
    answer = answer_of([Text('"a"'), Done("stop")])
    found = checks.failure(replace(REQUEST, json_schema=schema), answer, Route().escalate)
    assert found is not None
    assert found.reason == "its schema cannot be carried out"


@given(PIECES, st.text(max_size=40))
@settings(max_examples=repeats(60, 150))
def test_any_schema_and_any_answer_end_in_a_verdict(schema: Any, text: str) -> None:
    request = replace(REQUEST, json_schema={"properties": {"a": schema}, "not": {"type": "null"}})
    answer = answer_of([Text(json.dumps({"a": text})), Done("stop")])
    with suppress(BadRequest):
        checks.check_schema(request)
    checks.failure(request, answer, Route().escalate)


# ---- through the exchange ---------------------------------------------------------------------


async def _through(home: Path, model: str, text: str = "one two three four") -> list[Event]:
    from overt.gateway.exchange import Exchange
    from overt.settings import Settings

    exchange = Exchange(Settings(home=home))
    try:
        request = Request(model, (Message.of("user", text),))
        return [event async for event in exchange.stream(request)]
    finally:
        await exchange.close()


@pytest.mark.anyio
async def test_an_alias_of_a_route_answers_through_the_exchange(home: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("sound", "echo:sound")
    aliases.set("writer", ladder("echo:fail", "sound"))
    aliases.set("editor", "writer")
    events = await _through(home, "editor:latest")
    routed = events[0]
    assert isinstance(routed, Routed)
    assert (routed.model, routed.tried) == ("echo:sound", ("echo:fail",))
    assert routed.why.startswith(
        "echo:fail: failed: echo:fail fails after three words, as its name says; asked sound"
    )
    assert answer_of(events).text == "one two three four"
    aliases.set("writer", {"models": [{"model": "echo:a", "threshold": THRESHOLD}, "echo:b"]})
    events = await _through(home, "editor")
    assert isinstance(events[0], Routed)
    assert events[0].why.endswith("(mean log-probability 0.000, at least -0.5)")
    assert not any(isinstance(event, Logprobs) for event in events)


@pytest.mark.anyio
async def test_swapping_an_alias_under_50_streams_loses_none(home: Path) -> None:
    from overt.gateway.exchange import Exchange
    from overt.settings import Settings

    aliases = routing.aliases(home)
    aliases.set("writer", "echo:a")
    exchange = Exchange(Settings(home=home))
    text = "word " * 40
    request = Request("writer", (Message.of("user", text),))
    targets: list[Any] = ["echo:b", ladder("echo:fail", "echo:c"), "echo:a"]

    async def client() -> str:
        events = []
        async for event in exchange.stream(request):
            events.append(event)
            await asyncio.sleep(0)
        answer = answer_of(events)
        assert answer.finish == "stop"
        return answer.text

    async def swap() -> None:
        for number in range(12):
            aliases.set("writer", targets[number % 3])
            await asyncio.sleep(0)

    try:
        *answers, _ = await asyncio.gather(*(client() for _ in range(50)), swap())
    finally:
        await exchange.close()
    assert answers == [text] * 50
