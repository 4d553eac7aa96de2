"""The exchange: what refs mean, which models are in memory, and requests through real workers."""

import asyncio
import math
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import bert_writer
import serving
from overt import ref as refs
from overt import settings
from overt.chat import (
    Answer,
    EmbedRequest,
    Event,
    Failed,
    Message,
    Request,
    RerankRequest,
    Routed,
    Sampling,
    ScoreRequest,
    Text,
)
from overt.errors import BadRequest, Busy, ModelNotFound, NeedsAccess, OutOfMemory
from overt.gateway import routing
from overt.gateway.exchange import Exchange
from overt.models.store import Store
from overt.runtime.echo import Echo
from overt.runtime.loader import Loader, ModelPlace, PlaceCache
from overt.settings import Settings

pytestmark = pytest.mark.anyio
GREEDY = Sampling(temperature=0, seed=1)
MIB = 1 << 20


@asynccontextmanager
async def exchange(folder: Path, *, shared: bool = True, **flags: Any) -> AsyncIterator[Exchange]:
    opened = Exchange(settings.load({"OVERT_HOME": str(folder)}, flags), shared=shared)
    try:
        yield opened
    finally:
        await opened.close()


async def ask(one: Exchange, model: str, text: str = "Name a colour.", **rest: Any) -> Answer:
    tokens = rest.pop("max_tokens", 8)
    answer = Answer()
    request = Request(model, (Message.of("user", text),), sampling=GREEDY, max_tokens=tokens)
    async for event in one.stream(request, **rest):
        answer.add(event)
    return answer


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


# ---- without a worker ----------------------------------------------------------------------


async def test_an_error_before_the_answer_is_raised_and_one_within_it_is_an_event(home: Path):
    async with exchange(home) as one:
        with pytest.raises(ModelNotFound):
            await ask(one, "nothing-of-that-name")
        with pytest.raises(NeedsAccess, match="nothing was sent"):
            await ask(one, "openai:gpt-5")
        answer = await ask(one, "echo:fail", "one two three four five")
        assert answer.text == "one two three "
        assert answer.failed is not None
        assert answer.failed.code == "engine_failed"


async def test_echo_takes_no_memory_and_no_seat(home: Path):
    async with exchange(home, memory=1) as one:
        held = await one.load("echo:x", keep_alive=0)
        assert (held.ref, held.memory, held.expires) == ("echo:x", 0, math.inf)
        assert one.loaded() == []
        assert await one.unload("echo:x") is False
        assert await one.tokenize("echo:x", "1 2") == await one.tokenize("echo:y", "1 2")
        answers = await asyncio.gather(*(ask(one, f"echo:{n}", "hello") for n in range(300)))
        assert {answer.text for answer in answers} == {"hello"}


async def test_a_stream_that_is_closed_is_closed_in_the_engine(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    closed: list[str] = []

    class Watched(Echo):
        async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
            try:
                async with aclosing(super().stream(request)) as events:
                    async for event in events:
                        yield event
            finally:
                closed.append(request.model)

    monkeypatch.setattr("overt.runtime.echo.Echo", Watched)
    async with exchange(home) as one:
        events = one.stream(Request("echo:slow", (Message.of("user", "a b c d e f"),)))
        async for event in events:
            if isinstance(event, Text):
                break
        assert closed == []
        await events.aclose()
        assert closed == ["echo:slow"]


# ---- what a ref means ----------------------------------------------------------------------


@pytest.fixture
def copy(model_home: Path, tmp_path: Path) -> Path:
    """A store of its own with the real models, linked."""
    return serving.copy_home(model_home, tmp_path / "copied")


@pytest.mark.model
def test_a_ref_is_looked_up_again_when_the_store_changes(copy: Path):
    chosen, store = settings.load({"OVERT_HOME": str(copy)}), Store(copy)
    os.utime(copy / "names", (1, 1))
    os.utime(copy / "manifests", (1, 1))
    places = PlaceCache(chosen)
    assert places.known("smollm2") is None
    first = places.get("smollm2")
    assert places.known("smollm2") is first
    store.name(refs.parse("mine"), store.get(refs.parse("gemma3")))
    assert places.known("smollm2") is None
    mine = places.get("mine")
    assert mine.header.architecture == "gemma3"
    store.name(refs.parse("mine"), store.get(refs.parse("smollm2")))
    assert places.get("mine").model.digest == first.model.digest
    store.remove(refs.parse("mine"))
    assert places.known("mine") is None
    with pytest.raises(ModelNotFound):
        places.get("mine")


@pytest.mark.model
def test_what_changed_a_moment_ago_is_not_remembered(copy: Path):
    places = PlaceCache(settings.load({"OVERT_HOME": str(copy)}))
    os.utime(copy / "names")
    places.get("smollm2")
    assert places.known("smollm2") is None


def test_a_plain_file_is_looked_at_again_when_it_changes(home: Path, tmp_path: Path):
    path = tmp_path / "bert.gguf"
    bert_writer.write(path)
    places = PlaceCache(settings.load())
    first = places.get(str(path))
    assert places.known(str(path)) is first
    bert_writer.write(path, reranks=True)
    assert places.known(str(path)) is None
    assert places.get(str(path)).kind == "rerank"


@pytest.mark.parametrize(
    ("reranks", "kind", "refused"),
    [
        (False, "embedding", {"answer": "does not write", "rerank": "not made for ranking",
                              "score": "does not write"}),
        (True, "rerank", {"answer": "only ranks", "embed": "only ranks", "score": "only ranks"}),
    ],
)  # fmt: skip
async def test_a_model_is_asked_only_for_what_it_is_made_for(
    home: Path, tmp_path: Path, *, reranks: bool, kind: str, refused: dict[str, str]
):
    path = str(tmp_path / "bert.gguf")
    bert_writer.write(Path(path), reranks=reranks)
    async with exchange(home) as one:
        asked = {
            "answer": lambda: ask(one, path),
            "embed": lambda: one.embed(EmbedRequest(path, ("x",))),
            "rerank": lambda: one.rerank(RerankRequest(path, "x", ("y",))),
            "score": lambda: one.score(ScoreRequest(path, "x")),
        }
        for purpose, words in refused.items():
            with pytest.raises(BadRequest, match=words):
                await asked[purpose]()
        assert one.loaded() == []
        if reranks:
            assert len((await asked["rerank"]()).scores) == 1
        else:
            assert len((await asked["embed"]()).vectors[0]) > 1
        (held,) = one.loaded()
        assert held.purpose == {"embedding": "embed", "rerank": "rerank"}[kind]
        assert await one.tokenize(path, "the cat")
        assert len(one.loaded()) == 1


# ---- how it would be loaded ----------------------------------------------------------------


def loader(
    place: ModelPlace, *, shared: bool = True, purpose: Any = "answer", **given: Any
) -> Loader:
    return Loader(place, purpose, Settings(**given), shared, lambda _: None)


@pytest.fixture(scope="session")
def smollm2(model_home: Path) -> ModelPlace:
    return PlaceCache(settings.load({"OVERT_HOME": str(model_home)})).get("smollm2")


@pytest.mark.model
def test_slots_are_given_up_before_a_decent_context_is(smollm2: ModelPlace):
    def planned(budget: int, size: int = 0, **given: Any) -> tuple[int, int]:
        plan = loader(smollm2, **given)(budget, size)
        assert plan.memory <= budget
        return plan.seats, plan.size

    assert planned(8 << 30) == (4, 8192)
    plans = [planned(mib * MIB) for mib in (3000, 2000, 1200, 800, 600, 400, 300)]
    assert [seats for seats, _ in plans] == sorted((seats for seats, _ in plans), reverse=True)
    assert all(size >= 4096 for seats, size in plans if seats > 1)
    assert plans[-1] == (1, 4096)
    assert planned(220 * MIB)[1] < 4096
    assert planned(8 << 30, parallel=7) == (7, 8192)
    assert planned(8 << 30, shared=False) == (1, 8192)
    with pytest.raises(OutOfMemory, match="smollm2 needs"):
        planned(100 * MIB)


@pytest.mark.model
def test_a_context_that_is_left_open_leaves_room_for_another_model(smollm2: ModelPlace):
    alone, beside = loader(smollm2, shared=False), loader(smollm2)
    assert alone(600 * MIB, 0).memory > 300 * MIB
    assert beside(2000 * MIB, 0).memory <= 1000 * MIB
    assert beside(1000 * MIB, 0).memory <= 600 * MIB, "no half, and no more than has to be"


@pytest.mark.model
def test_a_context_that_is_asked_for_is_had_with_fewer_slots_and_never_beyond_the_model(
    smollm2: ModelPlace,
):
    plan = loader(smollm2, context=2048)(700 * MIB, 0)
    assert (plan.seats, plan.size) == (4, 2048)
    larger = loader(smollm2, context=2048)(700 * MIB, 8192)
    assert larger.size == 8192
    assert larger.seats < 4
    assert loader(smollm2)(8 << 30, 1_000_000).size == 8192
    assert loader(smollm2, context=1_000_000)(8 << 30, 0).size == 8192


@pytest.mark.model
def test_who_scores_has_one_seat_and_room_for_its_logits(smollm2: ModelPlace):
    answers = loader(smollm2, parallel=1, context=1024)(8 << 30, 0)
    scores = loader(smollm2, purpose="score", context=1024)(8 << 30, 0)
    assert scores.seats == 1
    assert scores.memory - answers.memory == 3 * 4 * 49152 * 128


# ---- real models ---------------------------------------------------------------------------


@pytest.mark.model
async def test_names_of_one_model_share_one_worker(model_home: Path):
    async with exchange(model_home, context=512, parallel=2) as one:
        digest = (await one.load("smollm2")).digest
        answers = await asyncio.gather(
            *(ask(one, name) for name in ("smollm2", "smollm2:135m-instruct-q4_1", digest))
        )
        assert len({answer.text for answer in answers}) == 1
        (held,) = one.loaded()
        assert (held.ref, held.purpose, held.context, held.parallel) == (
            "smollm2", "answer", 512, 2,
        )  # fmt: skip
        assert one.stats().loads == 1


@pytest.mark.model
async def test_two_models_answer_at_once_and_the_metrics_name_both(model_home: Path):
    async with exchange(model_home, context=512) as one:
        answers = await asyncio.gather(ask(one, "smollm2"), ask(one, "gemma3"))
        assert all(answer.finish for answer in answers)
        assert {held.ref for held in one.loaded()} == {"smollm2", "gemma3"}
        stats = one.stats()
        names = {("smollm2", "answer"), ("gemma3", "answer")}
        assert set(stats.memory) == set(stats.resident) == names
        for name in names:
            assert 50 * MIB < stats.resident[name] <= stats.memory[name] * 1.1
        assert (stats.loads, stats.evictions, stats.restarts) == (2, 0, 0)


@pytest.mark.model
async def test_a_small_budget_holds_one_of_them_and_the_idle_one_goes(model_home: Path):
    async with exchange(model_home, context=512, parallel=1, memory=400 * MIB) as one:
        for count, name in enumerate(("gemma3", "smollm2", "gemma3"), 1):
            assert (await ask(one, name)).finish
            assert [held.ref for held in one.loaded()] == [name]
            assert (one.stats().loads, one.stats().evictions) == (count, count - 1)
        busy = asyncio.create_task(ask(one, "gemma3", "Tell me a story.", max_tokens=60))
        await until(lambda: one.loaded()[0].busy)
        assert (await ask(one, "smollm2")).finish
        assert busy.done(), "the one that was busy was not cut off"
        assert busy.result().usage.tokens_out > 8
        with pytest.raises(OutOfMemory, match="gemma3 needs"):
            await ask(one, "gemma3", context=32768)
        assert [held.ref for held in one.loaded()] == ["smollm2"]


@pytest.mark.model
async def test_eight_streams_on_four_slots(model_home: Path):
    async with exchange(model_home, context=512) as one:
        alone = await ask(one, "smollm2", max_tokens=16)
        tasks = [
            asyncio.create_task(ask(one, "smollm2", max_tokens=16, key=f"k{n % 3}"))
            for n in range(8)
        ]
        await until(lambda: one.stats().busy[("smollm2", "answer")] == 4)
        assert one.stats().waiting == {("smollm2", "answer"): 4}
        for answer in await asyncio.gather(*tasks):
            assert answer.text == alone.text
        assert one.loaded()[0].busy == 0


@pytest.mark.model
async def test_a_larger_context_is_loaded_again_and_a_smaller_one_is_not(model_home: Path):
    async with exchange(model_home, context=512, parallel=1) as one:
        assert (await one.load("smollm2")).context == 512
        await ask(one, "smollm2", context=1024)
        assert one.loaded()[0].context == 1024
        await ask(one, "smollm2", context=256)
        await ask(one, "smollm2")
        assert one.stats().loads == 2
        assert (await one.load("smollm2", context=1 << 30)).context == 8192
        await ask(one, "smollm2", context=1 << 30)
        assert one.stats().loads == 3


@pytest.mark.model
async def test_keep_alive_and_unload(model_home: Path):
    async with exchange(model_home, context=512, parallel=1) as one:
        held = await one.load("smollm2", keep_alive=math.inf)
        assert held.expires == math.inf
        await ask(one, "smollm2", keep_alive=0)
        await until(lambda: not one.loaded())
        await one.load("smollm2")
        (held,) = one.loaded()
        assert 290 < held.expires - held.used < 310
        assert await one.unload("smollm2:135m-instruct-q4_1") is True
        assert one.loaded() == []
        assert await one.unload("smollm2") is False


@pytest.mark.model
async def test_words_of_a_model_take_no_seat(model_home: Path):
    async with exchange(model_home, context=512, parallel=1) as one:
        task = asyncio.create_task(ask(one, "smollm2", "Tell me a story.", max_tokens=100))
        await until(lambda: one.loaded() and one.loaded()[0].busy)
        ids = await one.tokenize("smollm2", "Hello there")
        assert await one.detokenize("smollm2", ids) == "Hello there"
        request = Request("smollm2", (Message.of("user", "Hello there"),))
        assert "Hello there" in await one.render(request)
        assert await one.count(request) > len(ids)
        assert not task.done(), "nothing of this waited for the seat"
        await task


@pytest.mark.model
async def test_a_model_that_writes_can_embed_beside(model_home: Path):
    async with exchange(model_home, context=512) as one:
        near = await one.embed(EmbedRequest("smollm2", ("a cat", "a cat")))
        assert near.vectors[0] == pytest.approx(near.vectors[1], abs=1e-3)
        assert (await ask(one, "smollm2")).finish
        assert {held.purpose for held in one.loaded()} == {"embed", "answer"}


@pytest.mark.model
async def test_a_killed_worker_fails_its_own_requests_and_answers_the_next(model_home: Path):
    async with exchange(model_home, context=512, parallel=2) as one:
        await asyncio.gather(one.load("smollm2"), one.load("gemma3"))
        mine = [
            asyncio.create_task(ask(one, "smollm2", "Tell me a story.", max_tokens=200))
            for _ in range(2)
        ]
        other = asyncio.create_task(ask(one, "gemma3", "Tell me a story.", max_tokens=40))
        await until(lambda: {held.busy for held in one.loaded()} == {1, 2})
        worker = next(held for held in one._residents() if held.it.facts.ref == "smollm2").it.worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        for result in await asyncio.gather(*mine, return_exceptions=True):
            failed = result.failed if isinstance(result, Answer) else result
            assert isinstance(failed, Failed) or failed.code == "worker_died"
            assert "the worker of smollm2" in failed.message
            assert "killed" in failed.message
        assert (await other).failed is None
        assert (await ask(one, "smollm2")).finish
        assert one.stats().restarts == 1
        await one.unload("smollm2")
        assert one.stats().restarts == 1


@pytest.mark.model
async def test_after_close_nobody_is_let_in(model_home: Path):
    async with exchange(model_home, context=512) as one:
        await one.close()
        with pytest.raises(Busy, match="ending"):
            await ask(one, "smollm2")


@pytest.mark.model
async def test_one_persons_model_stays_until_the_end(model_home: Path):
    async with exchange(model_home, shared=False, context=512) as one:
        engine = await one.open("smollm2")
        assert engine.capabilities.parallel == 1
        assert one.facts("smollm2").ref == "smollm2"
        assert one.loaded()[0].expires == math.inf
        assert (await ask(one, "smollm2")).finish


async def test_an_alias_and_a_route_say_who_answered_and_why(home: Path):
    names = routing.aliases(home)
    names.set("writer", "echo:x")
    names.set("again", "writer")
    names.set("ladder", {"models": ["echo:fail", "echo:y"]})
    async with exchange(home) as one:
        answer = await ask(one, "again", "hello")
        assert (answer.text, answer.routed) == (
            "hello",
            Routed("echo:x", "again is an alias of it"),
        )
        names.set("writer", "echo:z")
        assert (await ask(one, "again", "hello")).routed == Routed(
            "echo:z", "again is an alias of it"
        )
        routed = await ask(one, "ladder", "one two three four five")
        assert routed.text == "one two three four five"
        assert routed.routed is not None
        assert (routed.routed.model, routed.routed.tried) == ("echo:y", ("echo:fail",))
        assert "echo:fail" in routed.routed.why
        assert (await one.open("ladder")).name == "echo"
