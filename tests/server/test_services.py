"""What `Services` adds to the exchange: bounds, turns, and models that nobody can read."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gguf_writer import write_llama
from overt.chat import EmbedRequest, Message, Request, RerankRequest, ScoreRequest, Text, Tool
from overt.errors import BadRequest, Unsupported
from overt.formats import modelfile
from overt.gateway.exchange import Exchange
from overt.models.modelfile_build import create
from overt.protocols.base import NOBODY
from overt.server.library import ModelLibrary
from overt.server.records import RecordStore
from overt.server.services import Services
from overt.settings import Settings, load

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    records, library = RecordStore(settings.home / "records.db"), ModelLibrary(settings)
    made = Services(Exchange(settings), library, records, settings.home / "files", "0")
    yield made
    await made.close()
    await library.close()
    await records.close()


async def test_an_engine_that_never_waits_leaves_the_others_their_turn(services: Services) -> None:
    turns, over = 0, False

    async def other() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    request = Request("echo:x", (Message.of("user", "word " * 2000),))
    words = [event async for event in services.stream(NOBODY, request) if isinstance(event, Text)]
    over = True
    await task
    assert len(words) == 2000
    assert turns > 20


async def test_more_messages_than_an_engine_can_hold_are_refused(services: Services) -> None:
    request = Request("echo:x", (Message.of("user", "a"),) * 25_001)
    with pytest.raises(BadRequest, match="50002 messages"):
        await anext(services.stream(NOBODY, request))
    with pytest.raises(BadRequest):
        await services.count(NOBODY, request)
    with pytest.raises(BadRequest):
        await services.render(NOBODY, request)


async def test_more_tools_than_an_engine_can_hold_are_refused(services: Services) -> None:
    tools = tuple(Tool(f"tool{n}", "", {}) for n in range(1025))
    with pytest.raises(BadRequest, match="1025 tools"):
        await anext(services.stream(NOBODY, Request("echo:x", tools=tools)))


async def test_latest_stands_for_a_name_without_a_tag(
    services: Services, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of /api/tags names models like that, and every protocol takes its names."""
    write_llama(tmp_path / "m.gguf")
    create("mine", modelfile.read(f"FROM {tmp_path / 'm.gguf'}\n".encode()), tmp_path, settings)
    assert (await services.model(NOBODY, "mine:latest")).id == "mine"
    asked: list[str] = []

    def noted(request: Any, *_: Any, **__: Any) -> Any:
        asked.append(request if isinstance(request, str) else request.model)
        raise Unsupported("enough")

    for name in ("stream", "embed", "rerank", "score", "count", "render", "load", "unload",
                 "tokenize", "detokenize"):  # fmt: skip
        monkeypatch.setattr(services._exchange, name, noted)
    for given, meant in (("mine:latest", "mine"), ("mine", "mine"), ("no:latest", "no:latest"),
                         ("echo:latest", "echo:latest")):  # fmt: skip
        asked.clear()
        for work in (
            anext(services.stream(NOBODY, Request(given))),
            services.embed(NOBODY, EmbedRequest(given, ("a",))),
            services.rerank(NOBODY, RerankRequest(given, "a", ("b",))),
            services.score(NOBODY, ScoreRequest(given, "a", "b")),
            services.count(NOBODY, Request(given)),
            services.render(NOBODY, Request(given)),
            services.load(NOBODY, given),
            services.unload(NOBODY, given),
            services.tokenize(NOBODY, given, "a"),
            services.detokenize(NOBODY, given, (1,)),
        ):
            with pytest.raises(Unsupported):
                await work
        assert asked == [meant] * 10


async def test_a_model_that_cannot_be_read_was_not_loaded(
    services: Services, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama(tmp_path / "m.gguf")
    text = f"FROM {tmp_path / 'm.gguf'}\nPARAMETER stop one\nPARAMETER stop two\n"
    create("mine", modelfile.read(text.encode()), tmp_path, settings)
    monkeypatch.setattr("overt.models.defaults._MAX_STOPS", 1)  # as if another program had made it
    assert await services.unload(NOBODY, "mine") is False
    await services.library.delete("mine")
    assert await services.models(NOBODY) == []
