"""The runner of batches: every item has one outcome, whatever happens to the server meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import Unsupported
from overt.protocols import batching
from overt.protocols.base import Caller
from overt.protocols.batching import (
    BatchItem,
    BatchJob,
    BatchOutcome,
    BatchRunner,
    Outcomes,
    compact,
)
from overt.server.records import RecordStore

pytestmark = pytest.mark.anyio

ANNE = Caller("anne", "Anne")
Dispatch = Callable[[Caller, str, str, bytes], Awaitable[tuple[int, bytes]]]


class FakeServices:
    """A server that can be killed: `kill` cancels what runs, as the end of the process would."""

    def __init__(self, home: Path, dispatch: Dispatch) -> None:
        self.records = RecordStore(home / "records.db")
        self.files = home / "files"
        self.dispatch = dispatch
        self._tasks: list[asyncio.Task[None]] = []

    def elsewhere(self, model: str) -> bool:
        return model.startswith("openai:")

    def background(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def settle(self) -> None:
        await asyncio.gather(*self._tasks)

    async def kill(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.records.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_PAUSE", 0.001)
    monkeypatch.setattr(batching, "_MAX_PAUSE_SECONDS", 0.001)


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[[Dispatch], Any]]:
    opened: list[FakeServices] = []

    def make(dispatch: Dispatch) -> FakeServices:
        opened.append(FakeServices(tmp_path, dispatch))
        return opened[-1]

    yield make
    for services in opened:
        await services.kill()


class Finished:
    """A `finish` that remembers what it was told."""

    def __init__(self) -> None:
        self.jobs: list[BatchJob] = []
        self.outcomes: list[BatchOutcome] = []

    async def __call__(
        self, services: Any, caller: Caller, job: BatchJob, outcomes: Outcomes
    ) -> None:
        assert caller == ANNE
        self.jobs.append(job)
        self.outcomes = list(outcomes)
        assert list(outcomes) == self.outcomes  # as often as one likes

    @property
    def came_to(self) -> dict[str, int]:
        assert len({one.custom_id for one in self.outcomes}) == len(self.outcomes)
        return {one.custom_id: one.status for one in self.outcomes}


def _items(count: int) -> list[BatchItem]:
    return [BatchItem(f"c{n}", "POST", "/x", msgspec.Raw(b'{"n": %d}' % n)) for n in range(count)]


async def _submit(
    runner: BatchRunner, services: Any, items: Iterable[BatchItem], life: float = 100
) -> BatchJob:
    return await runner.submit(services, ANNE, "job_1", items, deadline=time.time() + life)


async def test_every_item_is_asked_once_and_told(serve: Any, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    async def dispatch(caller: Caller, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        asked.append((caller, method, path, body))
        n = msgspec.json.decode(body)["n"]
        return (200, b'{ "twice":\n %d }' % (n * 2)) if n != 3 else (400, b"no\xff")

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    job = await _submit(runner, services, _items(10))
    assert (job.total, job.state) == (10, "queued")
    assert asked == []  # not before `start`
    runner.start(services, job)
    await services.settle()
    assert sorted(asked) == [(ANNE, "POST", "/x", b'{"n":%d}' % n) for n in range(10)]
    assert finished.came_to == {f"c{n}": 400 if n == 3 else 200 for n in range(10)}
    bodies = {one.custom_id: bytes(one.body) for one in finished.outcomes}
    assert (bodies["c2"], bodies["c3"]) == (
        b'{"twice":4}',
        '"no\N{REPLACEMENT CHARACTER}"'.encode(),
    )
    (last,) = finished.jobs
    assert (last.state, last.completed, last.failed, last.cancelled) == ("finishing", 9, 1, None)
    assert await runner.get(services, "job_1") is None
    assert list((tmp_path / "files/jobs").iterdir()) == []


async def test_no_more_than_a_few_at_once(serve: Any) -> None:
    running, most = 0, 0

    async def dispatch(*_: Any) -> tuple[int, bytes]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return 200, b"{}"

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    for id in ("a", "b", "c"):
        job = await runner.submit(services, ANNE, id, _items(10), deadline=time.time() + 9)
        runner.start(services, job)
    await services.settle()
    assert len(finished.jobs) == 3
    assert most == batching.AT_ONCE


async def test_a_full_server_is_asked_again(serve: Any) -> None:
    tries: dict[bytes, int] = {}

    async def dispatch(_: Any, __: Any, ___: Any, body: bytes) -> tuple[int, bytes]:
        tries[body] = tries.get(body, 0) + 1
        return (200, b"{}") if tries[body] > 50 else (429, b"{}")

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(2)))
    await services.settle()
    assert finished.came_to == {"c0": 200, "c1": 200}


async def test_what_stays_broken_fails_in_the_end(serve: Any) -> None:
    async def dispatch(*_: Any) -> tuple[int, bytes]:
        return 503, b'{"error":"dead"}'

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(1)))
    await services.settle()
    assert finished.came_to == {"c0": 503}


async def test_an_item_that_breaks_the_server_does_not_take_the_others(serve: Any) -> None:
    async def dispatch(_: Any, __: Any, ___: Any, body: bytes) -> tuple[int, bytes]:
        n = msgspec.json.decode(body)["n"]
        if n == 0:
            raise ZeroDivisionError
        if n == 1:
            raise Unsupported("no")
        return 200, b"{}"

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(4)))
    await services.settle()
    assert finished.came_to == {"c0": 500, "c1": 501, "c2": 200, "c3": 200}


async def test_cancelling_awaits_what_runs_and_asks_no_more(serve: Any) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def dispatch(*_: Any) -> tuple[int, bytes]:
        begun.set()
        await go_on.wait()
        return 200, b"{}"

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(20)))
    await begun.wait()
    job = await runner.cancel(services, "job_1")
    assert job is not None
    assert job.cancelled is not None
    assert await runner.get(services, "job_1") == job
    assert (await runner.cancel(services, "job_1")) == job  # once is enough
    go_on.set()
    await services.settle()
    assert finished.jobs[0].cancelled == job.cancelled
    reasons = [one.reason for one in finished.outcomes if not one.status]
    assert reasons == ["cancelled"] * (20 - finished.jobs[0].completed)
    assert 1 <= finished.jobs[0].completed <= batching.AT_ONCE
    assert len(finished.came_to) == 20
    assert await runner.cancel(services, "job_1") is None


async def test_what_waits_past_the_deadline_is_given_up(serve: Any) -> None:
    async def dispatch(*_: Any) -> tuple[int, bytes]:
        raise AssertionError("nothing is to be asked")

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(3), life=-1))
    await services.settle()
    assert [one.reason for one in finished.outcomes] == ["expired"] * 3


@pytest.mark.parametrize("torn", [b"", b'{"custom_id":"c1', b"\x00\x00"])
async def test_a_killed_server_goes_on_where_it_was(
    serve: Any, tmp_path: Path, torn: bytes
) -> None:
    asked: list[int] = []
    third = asyncio.Event()

    async def dispatch(_: Any, __: Any, ___: Any, body: bytes) -> tuple[int, bytes]:
        n = msgspec.json.decode(body)["n"]
        if len(asked) == 5:
            third.set()
            await asyncio.sleep(100)
        asked.append(n)
        return 200 if n % 2 else 400, b"{}"

    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(20)))
    await third.wait()
    await services.kill()
    assert finished.jobs == []
    with (tmp_path / "files/jobs/r.job_1.outcomes").open("ab") as file:
        file.write(torn)
    told = len(asked)

    async def again(_: Any, __: Any, ___: Any, body: bytes) -> tuple[int, bytes]:
        n = msgspec.json.decode(body)["n"]
        asked.append(n)
        return 200 if n % 2 else 400, b"{}"

    services = serve(again)
    await runner.resume(services)
    await services.settle()
    assert finished.came_to == {f"c{n}": 200 if n % 2 else 400 for n in range(20)}
    assert (finished.jobs[0].completed, finished.jobs[0].failed) == (10, 10)
    assert told >= 5
    assert sorted(asked) == list(range(20))  # what had an outcome is not asked again


async def test_a_finish_that_is_cut_short_is_called_again(serve: Any) -> None:
    calls = 0

    async def finish(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError

    async def dispatch(*_: Any) -> tuple[int, bytes]:
        return 200, b"{}"

    runner, services = BatchRunner("r", finish), serve(dispatch)
    runner.start(services, await _submit(runner, services, _items(2)))
    with pytest.raises(asyncio.CancelledError):
        await services.settle()
    job = await runner.get(services, "job_1")
    assert job is not None
    assert job.state == "finishing"
    await services.kill()
    services = serve(dispatch)
    await runner.resume(services)
    await services.settle()
    assert calls == 2
    assert await runner.get(services, "job_1") is None


async def test_files_of_jobs_that_never_were_are_swept(serve: Any, tmp_path: Path) -> None:
    async def dispatch(*_: Any) -> tuple[int, bytes]:
        return 200, b"{}"

    folder = tmp_path / "files/jobs"
    folder.mkdir(parents=True)
    for name in ("r.dead.items", "r.dead.outcomes", "r.half.part", "other.alive.items"):
        (folder / name).write_bytes(b"")
    services = serve(dispatch)
    await BatchRunner("r", Finished()).resume(services)
    assert [path.name for path in folder.iterdir()] == ["other.alive.items"]


@pytest.mark.parametrize("id", ["../x", "a/b", "", "a.b"])
async def test_an_id_is_not_a_path(serve: Any, id: str) -> None:
    async def dispatch(*_: Any) -> tuple[int, bytes]:
        return 200, b"{}"

    with pytest.raises(ValueError, match="no id"):
        await BatchRunner("r", Finished()).submit(serve(dispatch), ANNE, id, [], deadline=0)


@given(data=st.binary(max_size=30) | st.sampled_from([b'{"a": [1,\n2]}', b"1\n2", b"NaN", b""]))
def test_any_body_is_one_line_of_json(data: bytes) -> None:
    made = bytes(compact(data))
    assert b"\n" not in made
    try:
        read = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        read = data.decode("utf-8", "replace")
    assert msgspec.json.decode(made) == read


async def test_what_a_provider_may_have_billed_is_not_asked_twice(serve: Any) -> None:
    asked: list[bytes] = []
    never = asyncio.Event()

    async def hangs(_: Any, __: Any, ___: Any, body: bytes) -> tuple[int, bytes]:
        asked.append(body)
        await never.wait()
        return 200, b"{}"

    async def answers(_: Any, __: Any, ___: Any, body: bytes) -> tuple[int, bytes]:
        asked.append(body)
        return 200, b"{}"

    items = [
        BatchItem("paid", "POST", "/x", msgspec.Raw(b'{"model":"openai:m"}')),
        BatchItem("free", "POST", "/x", msgspec.Raw(b'{"model":"smollm2"}')),
    ]
    finished = Finished()
    runner, services = BatchRunner("r", finished), serve(hangs)
    runner.start(services, await _submit(runner, services, items))
    while len(asked) < 2:
        await asyncio.sleep(0.001)
    await services.kill()
    again = serve(answers)
    await runner.resume(again)
    await again.settle()
    assert [b"openai" in body for body in asked] == [True, False, False]
    assert finished.came_to == {"free": 200, "paid": 502}
    (job,) = finished.jobs
    assert (job.completed, job.failed) == (1, 1)
    bodies = {one.custom_id: bytes(one.body) for one in finished.outcomes}
    assert b"may be billed" in bodies["paid"]
