"""The echo engine: every count can be checked by hand."""

import asyncio
import json
import math
from operator import mul

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import (
    Answer,
    EmbedRequest,
    Event,
    Message,
    Request,
    RerankRequest,
    ScoreRequest,
    Tool,
)
from overt.engine import Engine
from overt.errors import BadRequest, ContextExceeded, EngineFailed
from overt.runtime.echo import Echo

ECHO: Engine = Echo("x")


async def _events(engine: Engine, request: Request) -> list[Event]:
    return [event async for event in engine.stream(request)]


def answer(mode: str, request: Request) -> Answer:
    answer = Answer()
    for event in asyncio.run(_events(Echo(mode), request)):
        answer.add(event)
    return answer


def says(text: str, **fields) -> Request:
    return Request("echo:x", (Message.of("user", text),), **fields)


def ask(mode: str, text: str, **fields) -> Answer:
    return answer(mode, says(text, **fields))


def test_repeats_the_last_message_and_counts_words():
    answer = ask("x", "one two  three")
    assert answer.text == "one two  three"
    assert (answer.usage.tokens_in, answer.usage.tokens_out, answer.finish) == (3, 3, "stop")


@pytest.mark.parametrize(
    ("fields", "text", "finish", "stop"),
    [
        ({"max_tokens": 2}, "a b ", "length", None),
        ({"max_tokens": 4}, "a b c d", "stop", None),
        ({"stop": ("c",)}, "a b ", "stop", "c"),
        ({"stop": ("zzz", "c", "b")}, "a ", "stop", "b"),
        ({"stop": ("d",), "max_tokens": 2}, "a b ", "length", None),
    ],
)
def test_limits(fields, text, finish, stop):
    answer = ask("x", "a b c d", **fields)
    assert (answer.text, answer.finish, answer.stop) == (text, finish, stop)


def test_modes():
    assert ask("think", "hi").thought == "The message has 2 characters."
    assert ask("think", "hi", thinking=False).thought == ""
    call = ask("tool", "hi", tools=(Tool("look"),)).tool_calls[0]
    assert (call.name, call.arguments) == ("look", '{"text": "hi"}')
    with pytest.raises(EngineFailed, match="after three words"):
        ask("fail", "a b c d")


@pytest.mark.parametrize(
    ("mode", "choice", "called"),
    [
        ("x", "auto", []),
        ("x", "required", ["look"]),
        ("x", "ask", ["ask"]),
        ("tool", "auto", ["look"]),
        ("tool", "none", []),
    ],
)
def test_a_tool_that_must_be_called_is(mode, choice, called):
    answer = ask(mode, "hi", tools=(Tool("look"), Tool("ask")), tool_choice=choice)
    assert [call.name for call in answer.tool_calls] == called
    assert answer.finish == ("tool_calls" if called else "stop")


def test_a_tool_that_was_not_given_is_refused():
    with pytest.raises(BadRequest, match="none of the tools"):
        ask("x", "hi", tools=(Tool("look"),), tool_choice="fly")


def test_logprobs_are_one_per_word():
    tokens = ask("x", "a b", logprobs=1).logprobs
    assert [t.token for t in tokens] == ["a ", "b"]
    assert tokens[0].top == (("a ", 0.0),)
    assert ask("x", "a b", logprobs=0).logprobs[0].top == ()


def test_a_million_words_is_the_context():
    with pytest.raises(ContextExceeded) as caught:
        ask("x", "w " * 1_000_001)
    assert (caught.value.tokens, caught.value.context) == (1_000_001, 1_000_000)


# ---- schemas -------------------------------------------------------------------------------

LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 4},
        {"type": "string", "enum": ["red", "blue"]},
        {"type": "integer", "minimum": 3},
        {"type": "integer", "exclusiveMinimum": 3},
        {"type": "number", "maximum": -2},
        {"type": ["boolean", "null"]},
        {"type": "null"},
        {"const": {"a": [1]}},
        {"$ref": "#/$defs/point"},
        {"type": "object"},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields),
                "additionalProperties": False,
            }
        ),
        inner.map(lambda one: {"type": "array", "items": one, "minItems": 2}),
        inner.map(lambda one: {"anyOf": [one, {"type": "null"}]}),
    ),
)
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@given(SCHEMAS)
def test_a_schema_is_answered_with_what_fits_it(schema):
    whole = schema | {"$defs": {"point": POINT}}
    jsonschema_rs.validate(whole, json.loads(ask("x", "hi", json_schema=whole).text))


def test_a_schema_without_end_ends():
    looping = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert ask("x", "hi", json_schema=looping).text == "null"


# ---- words ---------------------------------------------------------------------------------


@given(st.text())
def test_words_become_ids_and_back(text):
    tokens = asyncio.run(ECHO.tokenize(text))
    assert asyncio.run(ECHO.detokenize(tokens)).rstrip(" ") == text.rstrip(" ")
    assert tokens == asyncio.run(Echo("y").tokenize(text))
    assert all(2**30 <= token < 2**31 for token in tokens)


def test_a_prompt_of_ids_is_the_words_they_stand_for():
    tokens = asyncio.run(ECHO.tokenize("to be or"))
    assert answer("x", Request("echo:x", prompt=tokens)).text == "to be or"
    assert answer("x", Request("echo:x", prompt=(1, 22))).text == "1 22"


def test_count_and_render():
    request = Request("echo:x", (Message.of("system", "Be  brief."), Message.of("user", "hi")))
    assert asyncio.run(ECHO.render(request)) == "<|system|>Be  brief.\n<|user|>hi\n"
    assert asyncio.run(ECHO.count(request)) == 3
    assert asyncio.run(ECHO.count(Request("echo:x", prompt="a b c"))) == 3
    with pytest.raises(BadRequest, match="not rendered"):
        asyncio.run(ECHO.render(Request("echo:x", prompt="a")))


def embed(*inputs, **fields):
    return asyncio.run(ECHO.embed(EmbedRequest("echo:x", inputs, **fields)))


def test_embeddings():
    found = embed("the cat sat", "the cat ran", "Wholly other matters", "", (1, 2))
    assert found.tokens == 3 + 3 + 3 + 0 + 2
    for vector in found.vectors:
        assert len(vector) == 8
        assert math.hypot(*vector) == pytest.approx(1)
    assert found.vectors[0] == embed("the cat sat").vectors[0]
    first, second, third, *_ = found.vectors
    near, far = (sum(map(mul, first, other)) for other in (second, third))
    assert near > far
    short = embed("the cat sat", dimensions=3).vectors[0]
    assert len(short) == 3
    assert math.hypot(*short) == pytest.approx(1)
    for wrong in (0, 9):
        with pytest.raises(BadRequest, match=f"dimensions is {wrong}"):
            embed("x", dimensions=wrong)


def test_a_text_too_long_to_embed_is_cut_or_refused():
    long = "w " * 1_000_001
    with pytest.raises(ContextExceeded):
        embed(long)
    assert embed(long, truncate=True).tokens == 1_000_000


def test_ranking_counts_the_words_of_the_query():
    documents = ("A cat, asleep.", "the dog", "Cat and dog")
    ranking = asyncio.run(ECHO.rerank(RerankRequest("echo:x", "cat dog", documents)))
    assert ranking.scores == (0.5, 0.5, 1.0)
    assert ranking.tokens == 3 * 2 + 3 + 2 + 3


def test_scores():
    first, *rest = asyncio.run(ECHO.score(ScoreRequest("echo:x", "a b c", top=1)))
    assert (first.token, first.logprob, first.top) == ("a ", None, ())
    assert [(one.token, one.logprob, one.top) for one in rest] == [
        ("b ", -1.0, (("b ", -1.0),)),
        ("c", -1.0, (("c", -1.0),)),
    ]
    tokens = asyncio.run(ECHO.tokenize("a b c"))
    assert tuple(one.id for one in (first, *rest)) == tokens
    again = asyncio.run(ECHO.score(ScoreRequest("echo:x", tokens)))
    assert [one.token for one in again] == ["a ", "b ", "c"]
    assert asyncio.run(ECHO.score(ScoreRequest("echo:x", ""))) == ()
