"""Gemini's dialect over the network: against Overt's own Gemini endpoint, and against aimock's."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from test_npm_clients import modules  # noqa: F401 (a fixture)

from overt.chat import (
    Answer,
    EmbedRequest,
    Event,
    Message,
    Request,
    Sampling,
    Text,
    Tool,
    ToolResultPart,
)
from overt.errors import Busy, ModelNotFound, OvertError
from overt.providers.base import Destination, Provider
from overt.providers.gemini.dialect import Gemini
from overt.providers.http.client import HttpClient
from overt.settings import Settings
from serving import Served

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


SAY = Tool("say", "Say it", {"type": "object", "properties": {"text": {"type": "string"}}})


def provider(url: str, model: str, wire: HttpClient) -> Provider:
    dialect = Gemini()
    to = Destination(url, dialect.headers("key"), "key", "gemini", "overt login gemini")
    return Provider(dialect, model, to, wire)


async def heard(
    url: str, model: str, request: Request, *, retries: int = 0
) -> tuple[Answer, list[Event]]:
    wire = HttpClient(Settings(retries=retries))
    answer, events = Answer(), []
    try:
        async with aclosing(provider(url, model, wire).stream(request)) as stream:
            async for event in stream:
                answer.add(event)
                events.append(event)
    finally:
        await wire.close()
    return answer, events


def asked(text: str, **fields: Any) -> Request:
    return Request("m", (Message.of("user", text),), **fields)


# ---- Overt's own endpoint ------------------------------------------------------------------


@pytest.mark.model
async def test_words_come_back_as_they_were_streamed(server: Served) -> None:
    answer, events = await heard(server.url, "echo:x", asked("one two three"))
    assert [event.text for event in events if isinstance(event, Text)] == ["one ", "two ", "three"]
    assert (answer.usage.tokens_in, answer.usage.tokens_out, answer.finish) == (3, 3, "stop")
    assert answer.routed
    assert answer.routed.request_id
    assert answer.routed.bytes_out > 0


@pytest.mark.model
async def test_thoughts_schemas_and_limits(server: Served) -> None:
    answer, _ = await heard(server.url, "echo:think", asked("hello", thinking=True))
    assert answer.thought == "The message has 5 characters."
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer, _ = await heard(server.url, "echo:x", asked("hello", json_schema=schema))
    assert isinstance(json.loads(answer.text)["n"], int)
    request = asked("a b c d", max_tokens=2, logprobs=2)
    answer, _ = await heard(server.url, "echo:x", request)
    assert (answer.text, answer.finish, len(answer.logprobs)) == ("a b ", "length", 2)


@pytest.mark.model
async def test_a_tool_and_its_result(server: Served) -> None:
    first = asked("hello", tools=(SAY,), tool_choice="say")
    answer, _ = await heard(server.url, "echo:x", first)
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("say", {"text": "hello"})
    assert answer.finish == "tool_calls"
    result = Message("tool", (ToolResultPart(call.id, "said"),))
    again = (*first.messages, answer.message(), result, Message.of("user", "And now?"))
    answer, _ = await heard(server.url, "echo:x", Request("m", again, tools=(SAY,)))
    assert (answer.text, answer.finish) == ("And now?", "stop")


@pytest.mark.model
async def test_a_real_model(server: Served) -> None:
    """The same words as through the server's own protocol of choice, greedily."""
    request = asked("Name three colours.", sampling=Sampling(temperature=0.0), max_tokens=8)
    answer, _ = await heard(server.url, "smollm2", request)
    again, _ = await heard(server.url, "smollm2", request)
    assert answer.text == again.text != ""
    assert answer.usage.tokens_out == 8
    wire = HttpClient(Settings())
    try:
        assert await provider(server.url, "smollm2", wire).count(request) == answer.usage.tokens_in
        vectors = await provider(server.url, "echo:x", wire).embed(
            EmbedRequest("m", ("a b", "a b"))
        )
        assert vectors.vectors[0] == vectors.vectors[1]
        with pytest.raises(ModelNotFound):
            await provider(server.url, "nothing-here", wire).count(request)
    finally:
        await wire.close()


@pytest.mark.model
async def test_an_error_in_the_middle(server: Served) -> None:
    with pytest.raises(OvertError, match="fails after three words"):
        await heard(server.url, "echo:fail", asked("one two three four five"))


# ---- aimock's ------------------------------------------------------------------------------

FIXTURES: dict[str, Any] = {
    "fixtures": [
        {
            "match": {"userMessage": "hello"},
            "response": {"content": "Hi there, this comes in pieces.", "reasoning": "Hm."},
        },
        {
            "match": {"userMessage": "weather"},
            "response": {
                "toolCalls": [
                    {"name": "say", "arguments": '{"text":"Rome"}'},
                    {"name": "say", "arguments": '{"text":"Ulm"}'},
                ]
            },
        },
        {
            "match": {"userMessage": "busy"},
            "response": {"error": {"message": "Rate limited", "type": "x"}, "status": 429},
        },
    ]
}


class Mock:
    """aimock, started by whoever asks first."""

    process: subprocess.Popen[bytes] | None = None
    url = ""

    def start(self, modules: Path, folder: Path) -> None:  # noqa: F811
        fixtures = folder / "fixtures.json"
        fixtures.write_text(json.dumps(FIXTURES))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        script = modules / "node_modules/@copilotkit/aimock/dist/cli.js"
        self.process = subprocess.Popen(
            ["node", script, "-p", str(port), "-f", fixtures],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert self.process.poll() is None, "aimock did not start"
            time.sleep(0.05)
        raise AssertionError("aimock does not answer")


@pytest.fixture(scope="module")
def starting() -> Iterator[Mock]:
    mock = Mock()
    yield mock
    if mock.process is not None:
        mock.process.terminate()
        mock.process.wait(10)


@pytest.fixture
def mock(starting: Mock, modules: Path, tmp_path: Path) -> Mock:  # noqa: F811
    if starting.process is None:
        starting.start(modules, tmp_path)
    return starting


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
async def test_aimock(mock: Mock) -> None:
    answer, events = await heard(mock.url, "gemini-3.8-flash", asked("hello"))
    assert (answer.thought, answer.text) == ("Hm.", "Hi there, this comes in pieces.")
    assert sum(isinstance(event, Text) for event in events) == 2
    assert answer.finish == "stop"

    answer, _ = await heard(mock.url, "gemini-3.8-flash", asked("weather", tools=(SAY,)))
    assert [json.loads(call.arguments) for call in answer.tool_calls] == [
        {"text": "Rome"}, {"text": "Ulm"},
    ]  # fmt: skip
    assert len({call.id for call in answer.tool_calls}) == 2
    assert answer.finish == "tool_calls"

    with pytest.raises(Busy, match="Rate limited") as caught:
        await heard(mock.url, "gemini-3.8-flash", asked("busy"))
    assert caught.value.retry_after == 1
    with pytest.raises(ModelNotFound, match="No fixture matched"):
        await heard(mock.url, "gemini-3.8-flash", asked("nothing of the kind"))
