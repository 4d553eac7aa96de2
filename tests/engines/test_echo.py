"""The echo engine: every count can be checked by hand."""

import asyncio

import pytest

from overt.chat import Answer, Event, Message, Request, Tool
from overt.engines.echo import Echo
from overt.errors import ContextExceeded, EngineFailed


async def _events(engine: Echo, request: Request) -> list[Event]:
    return [event async for event in engine.stream(request)]


def ask(mode: str, text: str, **fields) -> Answer:
    request = Request(f"echo:{mode}", (Message.of("user", text),), **fields)
    answer = Answer()
    for event in asyncio.run(_events(Echo(mode), request)):
        answer.add(event)
    return answer


def test_repeats_the_last_message_and_counts_words():
    answer = ask("x", "one two  three")
    assert answer.text == "one two  three"
    assert (answer.usage.tokens_in, answer.usage.tokens_out, answer.finish) == (3, 3, "stop")


@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [
        ({"max_tokens": 2}, "a b ", "length"),
        ({"max_tokens": 4}, "a b c d", "stop"),
        ({"stop": ("c",)}, "a b ", "stop"),
        ({"stop": ("zzz", "b")}, "a ", "stop"),
    ],
)
def test_limits(fields, text, finish):
    answer = ask("x", "a b c d", **fields)
    assert (answer.text, answer.finish) == (text, finish)


def test_modes():
    assert ask("think", "hi").thought == "The message has 2 characters."
    call = ask("tool", "hi", tools=(Tool("look"),)).tool_calls[0]
    assert (call.name, call.arguments) == ("look", '{"text": "hi"}')
    with pytest.raises(EngineFailed, match="after three words"):
        ask("fail", "a b c d")


def test_logprobs_are_one_per_word():
    assert [t.token for t in ask("x", "a b", logprobs=1).logprobs] == ["a ", "b"]


def test_a_million_words_is_the_context():
    with pytest.raises(ContextExceeded) as caught:
        ask("x", "w " * 1_000_001)
    assert (caught.value.tokens, caught.value.context) == (1_000_001, 1_000_000)
