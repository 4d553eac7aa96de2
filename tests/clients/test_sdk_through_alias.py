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
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
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
from overt.gateway import routing
from overt.gateway.aliases import Aliases

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
        environ = {**there.environ(), "OVERT_RETRIES": "0"}
        served = stack.enter_context(serving.serving(home, env=environ))
        made.append(World(there, served, routing.aliases(home)))
    made[0].there.forget()
    return made[0]


def _claims(name: str) -> Any:
    return pytest.param(
        name, marks=pytest.mark.client(NAMES[name], "alias: swap between providers")
    )


@pytest.fixture(params=map(_claims, TALKS))
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


def _circuit(names: Sequence[str]) -> list[str]:
    """A walk that takes every way from one name to another once, and ends where it began."""
    ways = {name: [other for other in names if other != name] for name in names}
    walk, stack = [], [names[0]]
    while stack:
        if ways[stack[-1]]:
            stack.append(ways[stack[-1]].pop())
        else:
            walk.append(stack.pop())
    return walk[::-1]


def test_one_conversation_goes_from_each_to_each(world: World, talks: Any, client: str) -> None:
    """It thinks and calls at one; the result goes to the next, which goes on and thinks."""
    targets = world.targets()
    walk = _circuit(list(targets))
    assert len(walk) == 6 * 5 + 1
    for step, (here, there) in enumerate(pairwise(walk)):
        way = f"{here} to {there}, step {step}"
        stream = bool(step % 2)
        if step % 5 == 0:  # the clients are slow with long ones
            talk = talks(client)
        world.move("echo:tool" if here == "local" else targets[here])
        talk.user("Will it rain?")
        called = talk.ask(Ask(stream, tools=True, think=True))
        world.move("echo:think" if there == "local" else targets[there])
        for id, tool, _ in called.calls:
            talk.result(id, tool, RESULT)
        assert len(called.calls) == 1, way
        after = talk.ask(Ask(stream, tools=there != "local", think=True))
        assert after.text == AFTER or there == "local", way  # an echo of nothing that is text
        talk.user("ponder that")
        assert talk.ask(Ask(stream, tools=there != "local", think=True)).thought, way
        assert not world.there.refused(), way


_SEALS: dict[str, tuple[str, ...]] = {  # whose signatures a client's protocol has a place for
    "chat": ("gemini",),
    "responses": ("openai", "anthropic", "gemini"),
    "anthropic": ("openai", "anthropic", "gemini"),
    "gemini": ("openai", "anthropic", "gemini"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", _SEALS)
def test_each_gets_its_own_signature_back(
    world: World, talks: Any, client: str, stream: bool
) -> None:
    for name in _SEALS[client]:
        own = world.there.signed[name]
        own.clear()
        talk = talks(client)
        world.move(COMPANIES[name])
        talk.user("Will it rain?")
        (call,) = talk.ask(Ask(stream, tools=True, think=True)).calls
        assert own, name
        marks = {SIGNED_CALL} if name == "gemini" else set(own)
        other = next(one for one in COMPANIES if one != name)
        world.move(COMPANIES[other])
        talk.result(call[0], call[1], RESULT)
        talk.ask(Ask(stream, tools=True, think=True))
        sent = world.there.got[-1]
        assert sent.company == other
        assert not any(mark in sent.raw for mark in marks), (name, other)
        world.move(COMPANIES[name])
        talk.user("ponder that")
        talk.ask(Ask(stream, tools=True, think=True))
        sent = world.there.got[-1]
        assert sent.company == name
        assert all(mark in sent.raw for mark in marks), (name, sent.raw)
        assert SKIP not in sent.raw
    assert not world.there.refused()


def _failed(talk: Talk, how: Ask) -> Any:
    try:
        talk.ask(how)
    except Exception as error:  # noqa: BLE001 -- whose it is, is the question
        return error
    raise AssertionError("it answered")


_ERRORS: dict[str, dict[str, type[Exception]]] = {
    "chat": {
        "429": openai.RateLimitError, "500": openai.InternalServerError,
        "401": openai.PermissionDeniedError, "long": openai.BadRequestError,
    },
    "anthropic": {
        "429": anthropic.RateLimitError, "500": anthropic.InternalServerError,
        "401": anthropic.PermissionDeniedError, "long": anthropic.BadRequestError,
    },
    "gemini": {
        "429": google.genai.errors.ClientError, "500": google.genai.errors.ServerError,
        "401": google.genai.errors.ClientError, "long": google.genai.errors.ClientError,
    },
    "ollama": dict.fromkeys(("429", "500", "401", "long"), ollama.ResponseError),
}  # fmt: skip
_ERRORS["responses"] = _ERRORS["chat"]
_STATUS = {"429": (429,), "500": (500, 502), "401": (403,), "long": (400,)}


@pytest.mark.parametrize("word", _STATUS)
def test_an_error_is_the_clients_own(world: World, talks: Any, client: str, word: str) -> None:
    """401 is about the owner's key, so the client, whose own is well, is told 403."""
    official = client in ("chat", "responses", "anthropic")
    for name, target in world.targets().items():
        if name == "local":
            continue
        world.move(target)
        world.there.forget()
        talk = talks(client, **({"max_retries": 0} if official else {}))
        talk.user(f"fail {word}")
        error = _failed(talk, Ask(stream=True))
        assert type(error) is _ERRORS[client][word], (name, error)
        status = error.code if client == "gemini" else error.status_code
        assert status in _STATUS[word], (name, error)
        assert len(world.there.got) == (2 if name == "route" else 1)
        if official and word == "429":
            assert error.response.headers["retry-after"] == "1", name
        if word == "long" and client in ("chat", "responses"):
            assert error.code == "context_length_exceeded", (name, error)
        if word == "500":  # the breaker counts failures in a row
            talk = talks(client)
            talk.user(TEXT)
            talk.ask()
        assert "sk-" not in str(error)


def test_a_stream_that_is_left_is_left_everywhere(world: World, talks: Any, client: str) -> None:
    for name, target in world.targets().items():
        if name in ("local", "route"):  # a route holds its answer back
            continue
        world.move(target)
        world.there.forget()
        talk = talks(client)
        talk.user("hang")
        talk.leave()
        (got,) = world.there.got
        assert got.hung_up.wait(10), name


def test_what_one_takes_and_another_refuses(world: World, talks: Any) -> None:
    """max_tokens and temperature, which gpt-5 refuses of whoever asks it by its own name."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 900,
                             "temperature": 0.3}  # fmt: skip
    chat = talks("chat")
    for name, target in world.targets().items():
        world.move(target)
        answer = chat.client.chat.completions.create(model="writer", **asked)
        assert answer.choices[0].message.content == TEXT, name
    assert not world.there.refused()
    world.move(COMPANIES["openai"])
    with pytest.raises(openai.BadRequestError, match="'max_tokens'"):
        chat.client.chat.completions.create(model=COMPANIES["openai"], **asked)


def test_nobody_asks_nine_times(modules: Path, tmp_path: Path) -> None:  # noqa: F811
    """The client's own two retries, and the server's two, each as they are by default."""
    with ExitStack() as stack:
        mock = stack.enter_context(aimock(modules, FIXTURES))
        there = stack.enter_context(companies(mock.url))
        served = stack.enter_context(serving.serving(tmp_path, env=there.environ()))
        world = World(there, served, routing.aliases(tmp_path))
        for target, word in (("openai", "500"), ("anthropic", "500"), ("anthropic", "429")):
            world.move(COMPANIES[target])
            there.forget()
            there.retry_after = "0.1"
            talk = stack.enter_context(closing(TALKS["chat"](served.url)))
            talk.user(f"fail {word}")
            assert isinstance(_failed(talk, Ask()), _ERRORS["chat"][word])
            assert len(there.got) == 3, (target, word)


def test_a_response_goes_on_at_another_by_its_id(world: World, talks: Any) -> None:
    """What was answered is kept here: previous_response_id holds wherever the name leads."""
    client = talks("responses").client
    targets, before, texts = world.targets(), None, []
    for turn, name in enumerate(["openai", "anthropic", "openai", "gemini", "local", "openai"]):
        world.move(targets[name])
        answer = client.responses.create(
            model="writer", input=f"ponder turn {turn}.", reasoning={"effort": "high"},
            previous_response_id=before,
        )  # fmt: skip
        texts.append(answer.output_text)
        before = answer.id
    assert texts == [*[TEXT] * 4, "ponder turn 4.", TEXT]
    sent = world.there.got[-1]
    assert all(f"ponder turn {turn}." in sent.raw for turn in range(6))
    assert sent.raw.count("encrypted_content") >= 2  # of its own two turns, and of nobody else's
    assert not world.there.refused()
