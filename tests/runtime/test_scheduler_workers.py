"""The scheduler over real worker processes: one is killed under load, and only it suffers."""

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from overt.errors import WorkerDied
from overt.runtime.scheduler import LoadPlan, Scheduler
from overt.runtime.worker.supervisor import Worker, WorkerSpec

pytestmark = pytest.mark.anyio
HERE = Path(__file__).parent


class Counting:
    """A resident in a process of its own."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def count(self, to: int, into: list[bytes]) -> None:
        async with aclosing(self.worker.call("slow", str(to).encode())) as chunks:
            async for chunk in chunks:
                into.append(chunk)

    async def close(self) -> None:
        await self.worker.stop()


async def test_a_killed_worker_takes_only_its_own_requests_along(home: Path):
    scheduler: Scheduler[Counting] = Scheduler(lambda: 100)

    def planner(name: str) -> Any:
        async def load() -> Counting:
            spec = WorkerSpec("hosts:Host", {}, label=name, python_path=(HERE,))
            return Counting(await Worker.start(spec, home / "run", timeout=30))

        return lambda budget, size: LoadPlan(10, 4, 1, load)

    got: dict[str, list[list[bytes]]] = {"a": [], "b": []}
    begun = asyncio.Event()

    async def one(name: str, to: int) -> None:
        with await scheduler.take(name, planner(name), caller=name) as it:
            into: list[bytes] = []
            got[name].append(into)
            if len(got["a"]) == len(got["b"]) == 4:
                begun.set()
            await it.count(to, into)

    tasks = [asyncio.create_task(one(name, 60)) for _ in range(6) for name in "ab"]
    async with asyncio.timeout(60):
        await begun.wait()
        killed = next(held for held in scheduler.loaded() if held.key == "a").it.worker
        while not all(got["a"]):
            await asyncio.sleep(0.005)
        assert scheduler.stats().busy == {"a": 4, "b": 4}
        assert scheduler.stats().waiting == {"a": 2, "b": 2}
        before = killed.pid
        os.kill(before, signal.SIGKILL)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    of_a, of_b = results[0::2], results[1::2]
    assert of_b == [None] * 6
    assert all(len(numbers) == 60 for numbers in got["b"])
    died = [error for error in of_a if error is not None]
    assert len(died) == 4, "those under way, and not the two that waited"
    for error in died:
        assert isinstance(error, WorkerDied)
        assert str(error) == (
            "the worker of a was killed by SIGKILL; ask again and it starts anew"
        ), str(error)
    assert all(numbers for numbers in got["a"]), "what was delivered stays delivered"
    assert [len(numbers) for numbers in got["a"][4:]] == [60, 60]
    assert killed.restarts == 1
    assert killed.pid != before
    await one("a", 5)
    assert len(got["a"][-1]) == 5
    await scheduler.close()
