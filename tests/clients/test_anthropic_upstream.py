"""The Anthropic engine against servers that speak its protocol, with real models behind them.

One is llama.cpp's own, as xllamacpp carries it, written by others; one is `overt serve`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overt.chat import (
    Answer,
    Event,
    ImagePart,
    Message,
    Request,
    Routed,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.errors import BadRequest, ContextExceeded, ModelNotFound, OvertError
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.base import Destination, Provider
from overt.providers.http.client import HttpClient
from overt.settings import load
from serving import Served

pytestmark = [pytest.mark.anyio, pytest.mark.model]

COLOURS = (Message.of("user", "Name three colours."),)
WEATHER = Tool(
    "get_weather",
    "Tells the weather of a city",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
GREEDY = Sampling(temperature=0.0)

_SERVER = """
import sys
import xllamacpp
common = xllamacpp.CommonParams()
common.model.path = sys.argv[1]
common.n_ctx, common.n_parallel, common.n_gpu_layers = 512, 1, 0
common.cpuparams.n_threads = common.cpuparams_batch.n_threads = 2
common.hostnames, common.port = ["127.0.0.1"], 0
common.warmup = common.fit_params = common.ui = False
common.offline, common.verbosity = True, 1
server = xllamacpp.Server(common)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def llama(smollm2_gguf: Path) -> Iterator[str]:
    """The URL of llama.cpp's own server, with SmolLM2 and a context of 512."""
    command = [sys.executable, "-c", _SERVER, str(smollm2_gguf)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        try:
            assert url.startswith("http://127.0.0.1:"), url
            yield url
        finally:
            process.stdin.close()
            process.wait(20)


def provider(url: str, model: str, notes: list[str] | None = None) -> tuple[Provider, HttpClient]:
    dialect = Anthropic()
    wire = HttpClient(load())
    to = Destination(url, dialect.headers("sk-ant-test-key"), "sk-ant-test-key", "test", "login")
    return Provider(dialect, model, to, wire, (notes if notes is not None else []).append), wire


async def ask(
    url: str, model: str, request: Request, notes: list[str] | None = None
) -> tuple[Answer, list[Event]]:
    engine, wire = provider(url, model, notes)
    answer, events = Answer(), []
    try:
        async for event in engine.stream(request):
            events.append(event)
            answer.add(event)
    finally:
        await wire.close()
    return answer, events


# ---- llama.cpp's own server ----------------------------------------------------------------


async def test_llama_answers_greedily_as_it_does_whole(llama: str) -> None:
    import httpx2

    notes: list[str] = []
    request = Request("m", COLOURS, max_tokens=12, sampling=GREEDY)
    answer, events = await ask(llama, "smollm2", request, notes)
    assert isinstance(events[0], Routed)
    assert events[0].bytes_out > 100
    assert len(events) > 10  # it is streamed
    body = {
        "model": "m", "max_tokens": 12, "temperature": 0,
        "messages": [{"role": "user", "content": COLOURS[0].text}],
    }  # fmt: skip
    whole = httpx2.post(f"{llama}/v1/messages", json=body, timeout=60).json()
    assert answer.text == whole["content"][0]["text"]
    assert answer.finish == "length"
    assert answer.usage.tokens_out == 12
    usage = whole["usage"]
    assert answer.usage.tokens_in == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert notes == []


async def test_llama_stops_where_it_is_told(llama: str) -> None:
    request = Request("m", COLOURS, max_tokens=40, sampling=GREEDY, stop=("colour",))
    answer, _ = await ask(llama, "smollm2", request)
    assert "colour" not in answer.text
    assert (answer.finish, answer.stop) == ("stop", "colour")


async def test_llama_takes_a_conversation_with_tools(llama: str) -> None:
    said = (
        Message.of("system", "Be brief."),
        Message.of("user", "What is the weather in Paris?"),
        Message("assistant", (ToolCallPart("toolu_1", "get_weather", '{"city": "Paris"}'),)),
        Message("tool", (ToolResultPart("toolu_1", "rain"),)),
    )
    request = Request("m", said, tools=(WEATHER,), max_tokens=8, sampling=GREEDY)
    answer, _ = await ask(llama, "smollm2", request)
    assert answer.text
    assert answer.usage.tokens_out


async def test_llama_counts(llama: str) -> None:
    engine, wire = provider(llama, "smollm2")
    counted = await engine.count(Request("m", COLOURS))
    await wire.close()
    answer, _ = await ask(llama, "smollm2", Request("m", COLOURS, max_tokens=1))
    assert counted == answer.usage.tokens_in


async def test_llamas_refusals_are_ours(llama: str) -> None:
    long = Request("m", (Message.of("user", "word " * 1000),), max_tokens=1)
    with pytest.raises(ContextExceeded) as caught:
        await ask(llama, "smollm2", long)
    assert caught.value.context == 512
    assert caught.value.tokens > 1000
    image = Message("user", (ImagePart(b"\x89PNG\r\n\x1a\n", "image/png"), TextPart("?")))
    with pytest.raises(OvertError, match="image"):
        await ask(llama, "smollm2", Request("m", (image,), max_tokens=1))


# ---- overt serve ---------------------------------------------------------------------------


async def test_served_answers_as_its_own_model(server: Served) -> None:
    answer, events = await ask(
        server.url, "smollm2", Request("m", COLOURS, max_tokens=12, sampling=GREEDY)
    )
    assert len(answer.text) > 10
    assert answer.finish == "length"
    assert answer.usage.tokens_out == 12
    assert isinstance(events[0], Routed)
    assert events[0].request_id.startswith("req_")


async def test_served_thoughts_go_there_and_back(server: Served) -> None:
    answer, _ = await ask(server.url, "echo:think", Request("m", COLOURS))
    assert answer.thought
    assert answer.text == COLOURS[0].text
    again = (*COLOURS, answer.message(), Message.of("user", "And more."))
    answer, _ = await ask(server.url, "echo:think", Request("m", again))
    assert answer.text == "And more."


async def test_served_tool_calls_go_there_and_back(server: Served) -> None:
    request = Request("m", COLOURS, tools=(WEATHER,))
    answer, _ = await ask(server.url, "echo:tool", request)
    call = answer.tool_calls[0]
    assert (call.name, answer.finish) == ("get_weather", "tool_calls")
    assert COLOURS[0].text in call.arguments
    rain = Message("tool", (ToolResultPart(call.id, "rain"),))
    said = (*COLOURS, answer.message(), rain, Message.of("user", "So?"))
    answer, _ = await ask(server.url, "echo:any", Request("m", said, tools=(WEATHER,)))
    assert answer.text == "So?"


async def test_served_schemas_are_held_to(server: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer"}},
        "required": ["age"],
        "additionalProperties": False,
    }
    notes: list[str] = []
    request = Request("m", COLOURS, json_schema=schema, max_tokens=40, sampling=GREEDY)
    answer, _ = await ask(server.url, "smollm2", request, notes)
    assert isinstance(json.loads(answer.text)["age"], int)
    assert "JSON schema" in notes[0]


async def test_served_counts(server: Served) -> None:
    engine, wire = provider(server.url, "echo:any")
    assert await engine.count(Request("m", COLOURS)) == 3
    await wire.close()


async def test_served_errors_are_ours(server: Served) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        await ask(server.url, "nowhere", Request("m", COLOURS))
    with pytest.raises(OvertError) as caught:
        await ask(server.url, "echo:fail", Request("m", COLOURS * 2))
    assert "sk-ant" not in str(caught.value)
    name = Tool("a name with spaces")
    with pytest.raises(BadRequest, match="anthropic refuses the request"):
        await ask(server.url, "echo:any", Request("m", COLOURS, tools=(name,)))
