"""The Python face, on the echo engine (no model needed) and on SmolLM2."""

import asyncio
import threading

import pytest

import overt
from overt.errors import BadRequest, BadSetting, EngineFailed, ModelNotFound


@pytest.fixture
def echo(home):
    with overt.open("echo:x") as model:
        yield model


def test_ask(echo):
    answer = echo.ask("one two three", max_tokens=2)
    assert (answer.text, answer.finish, answer.usage.tokens_out) == ("one two ", "length", 2)


def test_stream(echo):
    assert list(echo.stream("a b c")) == ["a ", "b ", "c"]


def test_a_conversation_with_a_system_message(echo):
    messages = [overt.Message.of("user", "first"), overt.Message.of("user", "second")]
    answer = echo.ask(messages, system="be brief")
    assert (answer.text, answer.usage.tokens_in) == ("second", 4)


def test_async(echo):
    async def both() -> tuple[str, list[str]]:
        answer = await echo.ask_async("a b")
        return answer.text, [piece async for piece in echo.stream_async("c d")]

    assert asyncio.run(both()) == ("a b", ["c ", "d"])


def test_many_callers_at_once(echo):
    async def twenty() -> list[str]:
        answers = await asyncio.gather(*(echo.ask_async(f"n {n}") for n in range(20)))
        return [answer.text for answer in answers]

    assert asyncio.run(twenty()) == [f"n {n}" for n in range(20)]


def test_an_abandoned_stream_is_closed(home):
    with overt.open("echo:slow") as model:
        stream = model.stream("a b c d e f g h")
        assert next(stream) == "a "
        stream.close()
        assert model.ask("x").text == "x"


def test_a_failure_half_way_keeps_what_came_before(home):
    got = []
    with overt.open("echo:fail") as model, pytest.raises(EngineFailed, match="after three"):
        got.extend(model.stream("a b c d"))
    with overt.open("echo:fail") as model:
        stream = model.stream("a b c d")
        assert [next(stream) for _ in range(3)] == ["a ", "b ", "c "]
        with pytest.raises(EngineFailed):
            next(stream)


def test_wrong_names_are_said(home, echo):
    with pytest.raises(BadRequest, match="no option 'temprature'"):
        echo.ask("x", temprature=1)
    with pytest.raises(BadSetting, match="threads"):
        overt.open("echo:x", threads="many")
    with pytest.raises(ModelNotFound):
        overt.open("./nowhere.gguf")


def test_closing_ends_the_thread(home):
    before = threading.active_count()
    overt.open("echo:x").close()
    assert threading.active_count() == before


@pytest.mark.model
def test_smollm2_answers(model_home, monkeypatch):
    monkeypatch.setenv("OVERT_HOME", str(model_home))
    with overt.open("smollm2", context=512) as model:
        pieces = list(model.stream("Say hello.", temperature=0, max_tokens=8))
        answer = model.ask("Say hello.", temperature=0, max_tokens=8)
    assert len(pieces) > 2
    assert "".join(pieces) == answer.text
    assert answer.usage.tokens_out == 8
    assert answer.finish == "length"
