"""A client that calls `writer` notices nothing when the name moves between providers.

Five official clients ask the real server for `writer`, which stands for a model of each company in
turn, for a server with OpenAI's API, a model of this machine and a route. Behind the companies is
aimock with a judge in front of it (companies.py) that refuses what the real ones refuse, such as a
signature of somebody else.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anthropic
import google.genai.errors
import ollama
import openai
import pytest
from aimock import aimock
from companies import SIGNED_CALL, SKIP, Companies, companies
from conversing import NAMES, TALKS, Ask, Said, Talk
from test_npm_clients import modules  # noqa: F401 -- a fixture

import serving
from overt import routes
from overt.aliases import Aliases

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")

TEXT = "Grüße von drüben, 17 €, in more than one piece."
THOUGHT = "Let me think about that: it is a greeting."
CALLED, RESULT, AFTER = {"city": "Oslo"}, "rain all day", "It rains in Oslo."
SIGNED = "c2lnbmVkIGJ5IGFudGhyb3BpYw=="
TOKENS = (11, 7)


def _fixture(response: dict[str, Any], to: str = "", **match: Any) -> dict[str, Any]:
    used = {
        "input_tokens": TOKENS[0], "output_tokens": TOKENS[1], "total_tokens": sum(TOKENS),
        "promptTokenCount": TOKENS[0], "candidatesTokenCount": TOKENS[1],
        "totalTokenCount": sum(TOKENS),
    }  # fmt: skip
    return {
        "match": {**({"userMessage": to} if to else {}), **match},
        "response": {**response, "usage": used},
    }


REASONS = {"reasoning": THOUGHT, "reasoningSignature": SIGNED}
FIXTURES = [
    _fixture({"content": AFTER}, "rain", hasToolResult=True),
    _fixture({"toolCalls": [{"name": "weather", "arguments": CALLED}], **REASONS}, "rain"),
    _fixture({"content": TEXT, **REASONS}, "ponder"),
    _fixture({"content": '{"city": "Oslo"}'}, "form"),
    _fixture({"content": TEXT}),
]
COMPANIES = {
    "openai": "openai:gpt-5",
    "anthropic": "anthropic:claude-opus-4-5",
    "gemini": "gemini:gemini-3.8-flash",
}


@dataclass
class World:
    """The server, what stands behind it, and the name that moves."""

    there: Companies
    served: serving.Served
    aliases: Aliases[Any]

    def targets(self, local: str = "echo:plain") -> dict[str, Any]:
        """What the name may stand for; the first model of the route fails."""
        return {
            **COMPANIES,
            "http": f"{self.there.url}/http/v1#deepseek-r1",
            "route": {"models": [f"{self.there.url}/http/v1#broken", COMPANIES["anthropic"]]},
            "local": local,
        }

    def move(self, target: Any) -> None:
        self.aliases.set("writer", target)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[ExitStack, list[World]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def world(modules: Path, started: tuple[ExitStack, list[World]]) -> World:  # noqa: F811
    """One for all tests here, once npm's packages are installed."""
    stack, made = started
    if not made:
        mock = stack.enter_context(aimock(modules, FIXTURES))
        there = stack.enter_context(companies(mock.url))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alias-")))
        environ = {**there.environ(), "OVERT_RETRIES": "1"}
        served = stack.enter_context(serving.serving(home, env=environ))
        made.append(World(there, served, routes.aliases(home)))
    made[0].there.forget()
    return made[0]


@pytest.fixture(params=TALKS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def talks(world: World) -> Iterator[Any]:
    """Makes conversations of a client, and closes them."""
    with ExitStack() as stack:

        def make(client: str, **options: Any) -> Talk:
            talk = TALKS[client](world.served.url, options=options)
            stack.callback(talk.close)
            return talk

        yield make


def told(said: Said) -> Said:
    """What does not depend on who counts and on the id of a call."""
    return replace(said, tokens=(0, 0), calls=[("", name, given) for _, name, given in said.calls])


@pytest.mark.parametrize("stream", [False, True])
def test_text(world: World, talks: Any, client: str, stream: bool) -> None:
    for name, target in world.targets().items():
        world.move(target)
        talk = talks(client)
        talk.user(TEXT)
        said = talk.ask(Ask(stream))
        assert told(said) == Said(TEXT, "", [], "stop", (0, 0)), name
        assert said.tokens == TOKENS or name in ("local", "route"), name
        assert min(said.tokens) > 0, (name, said.tokens)
    assert not world.there.refused()


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_and_its_result(world: World, talks: Any, client: str, stream: bool) -> None:
    for name, target in world.targets("echo:tool").items():
        if name == "local":
            continue
        world.move(target)
        talk = talks(client)
        talk.user("Will it rain?")
        said = talk.ask(Ask(stream, tools=True))
        assert told(replace(said, thought="")) == Said(
            "", "", [("", "weather", CALLED)], "calls", (0, 0)
        ), name
        ((id, tool, _),) = said.calls
        assert id or client in ("gemini", "ollama"), name
        talk.result(id, tool, RESULT)
        assert talk.ask(Ask(stream, tools=True)).text == AFTER, name
        if id:
            assert id in world.there.got[-1].raw
        assert RESULT in world.there.got[-1].raw
    assert not world.there.refused()


def test_a_form(world: World, talks: Any, client: str) -> None:
    for name, target in world.targets().items():
        world.move(target)
        talk = talks(client)
        talk.user("a form")
        said = json.loads(talk.ask(Ask(schema=True)).text)
        assert said == CALLED or name == "local", name
        assert list(said) == ["city"], name
    assert not world.there.refused()


def test_a_picture(world: World, talks: Any, client: str) -> None:
    for name, target in world.targets().items():
        world.move(target)
        talk = talks(client)
        talk.user("What is that?", image=True)
        said = talk.ask().text
        assert said == TEXT or name == "local", name
        if name != "local":
            assert "iVBORw0KGgo" in world.there.got[-1].raw, name
    assert not world.there.refused()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", [*COMPANIES, "http", "local", "route"])
def test_reasoning_goes_from_one_to_another_and_back(
    world: World, talks: Any, client: str, first: str, stream: bool
) -> None:
    """A thought, a call and its result of one company, then every other goes on, then it again."""
    targets = world.targets("echo:think")
    world.move(targets[first])
    talk = talks(client)
    talk.user("ponder")
    how = Ask(stream, tools=first != "local", think=True)
    said = talk.ask(how)
    assert said.thought, first
    for name, target in [*targets.items(), (first, targets[first])]:
        world.move(target)
        talk.user("ponder again")
        assert talk.ask(how).text, name
        assert not world.there.refused(), name


def test_zz_scratch(world: World, talks: Any) -> None:
    import time
    out = open("/tmp/lab/matrix/errors.txt", "w")
    for client in TALKS:
        for name, target in world.targets().items():
            if name == "local":
                continue
            for word in ("429", "500", "401", "long"):
                world.move(target)
                world.there.forget()
                world.there.retry_after = "1"
                talk = talks(client, **({"max_retries": 0} if client in ("chat","responses","anthropic") else {}))
                talk.user(f"please do fail {word} now")
                begun = time.time()
                try:
                    talk.ask(Ask(stream=True))
                    got = "answered"
                except Exception as e:
                    r = getattr(e, "response", None)
                    h = getattr(r, "headers", {}) or {}
                    got = f"{type(e).__name__} {getattr(e, 'status_code', getattr(e, 'code', None))} ra={h.get('retry-after')} sr={h.get('x-should-retry')} {str(e)[:150]}"
                out.write(f"{client:9} {name:9} {word:5} n={len(world.there.got)} {time.time()-begun:.1f}s {got}\n")
                out.flush()
                if word == "500":
                    talk = talks(client); talk.user("hello"); 
                    try: talk.ask()
                    except Exception as e: out.write(f"   then {e}\n")
    out.close()
