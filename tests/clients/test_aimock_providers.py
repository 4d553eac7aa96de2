"""Our engines against aimock: whole answers, tool calls, and its own idea of chaos."""

import asyncio
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aimock import Aimock, aimock, calls, says
from test_npm_clients import modules  # noqa: F401 -- a fixture

from overt.chat import Answer, Message, Request, TextPart, Tool
from overt.errors import OvertError
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.base import Destination, Provider
from overt.providers.gemini.dialect import Gemini
from overt.providers.http.client import HttpClient
from overt.providers.openai.dialect import OpenAI
from overt.settings import Settings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed"),
]

PROVIDERS = {
    "openai": (OpenAI, "gpt-5"),
    "anthropic": (Anthropic, "claude-opus-4-1"),
    "gemini": (Gemini, "gemini-2.5-flash"),
}
TEXT = "Grüße von aimock, 17 €, in more than one piece."
WEATHER = Tool("weather", "The weather.", {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
})  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[ExitStack, list[Aimock]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def there(modules: Path, started: tuple[ExitStack, list[Aimock]]) -> Aimock:  # noqa: F811
    """One for all tests here, once its package is installed."""
    stack, running = started
    if not running:
        fixtures = [calls("weather", "rain", city="Oslo"), says(TEXT)]
        running.append(stack.enter_context(aimock(modules, fixtures)))
    running[0].chaos()
    running[0].forget()
    return running[0]


async def ask(there: Aimock, provider: str, text: str, out: HttpClient) -> Answer | OvertError:
    make, model = PROVIDERS[provider]
    dialect = make()
    key = "sk-aimock-0123456789"
    to = Destination(there.base(provider), dialect.headers(key), key, provider, "overt login")
    asked = Request(model, (Message("user", (TextPart(text),)),), tools=(WEATHER,), max_tokens=200)
    answer = Answer()
    try:
        async with asyncio.timeout(30), aclosing(
            Provider(dialect, model, to, out).stream(asked)
        ) as events:  # fmt: skip
            async for event in events:
                answer.add(event)
    except OvertError as error:
        return error
    return answer


@asynccontextmanager
async def upstream() -> AsyncIterator[HttpClient]:
    out = HttpClient(Settings(), sleep=lambda seconds: asyncio.sleep(0))
    try:
        yield out
    finally:
        await out.close()


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_text(there: Aimock, provider: str) -> None:
    async with upstream() as out:
        text = await ask(there, provider, "hello", out)
    assert isinstance(text, Answer), text
    assert (text.text, text.finish) == (TEXT, "stop")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_tool_call(there: Aimock, provider: str) -> None:
    async with upstream() as out:
        call = await ask(there, provider, "Will it rain?", out)
    assert isinstance(call, Answer), call
    assert [one.name for one in call.tool_calls] == ["weather"]
    assert json.loads(call.tool_calls[0].arguments) == {"city": "Oslo"}
    assert call.finish == "tool_calls"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_hundred_requests_in_its_chaos(there: Aimock, provider: str) -> None:
    there.chaos(drop=0.2, malformed=0.15, disconnect=0.15, limit=0.2)
    outcomes: list[Answer | OvertError] = []
    for run in range(0, 100, 10):
        async with AsyncExitStack() as stack:
            outs = [await stack.enter_async_context(upstream()) for _ in range(10)]
            outcomes += await asyncio.gather(
                *(ask(there, provider, f"run {run + n}.", out) for n, out in enumerate(outs))
            )
    ends = Counter(type(one).__name__ for one in outcomes)
    assert len(outcomes) == 100
    assert ends["Answer"] >= 20, ends
    for one in outcomes:
        if isinstance(one, Answer):
            assert (one.text, one.finish) == (TEXT, "stop")
        else:
            assert "\n" not in str(one)
            assert not one.message.endswith(".")
    tries: dict[str, list[int]] = defaultdict(list)
    for entry in there.journal():
        tries[json.dumps(entry["body"])].append(entry["response"]["status"])
    assert len(tries) == 100
    assert max(map(len, tries.values())) == 3
    again = {status for statuses in tries.values() for status in statuses[:-1]}
    assert again == {429, 500}  # after anything else it may have been billed
