"""Which workers run, as other programs see and stop them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_supervise import ask, worker

from overt.errors import NotFound
from overt.runtime.worker import registry, supervisor

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


async def test_running_and_stop(home: Path):
    run = home / "run"
    async with worker(home, digest="sha256:ab") as one:
        [seen] = supervisor.running(run)
        assert (seen.pid, seen.label, seen.digest) == (one.pid, "test", "sha256:ab")
        assert seen.parent == os.getpid()
        assert abs(seen.started - time.time()) < 60
        assert seen.memory > 1 << 20
        assert seen.isolation == one.isolation
        await asyncio.to_thread(supervisor.stop, run, one.pid)
        assert supervisor.running(run) == []
        with pytest.raises(NotFound, match="no worker runs as process"):
            supervisor.stop(run, one.pid)
        assert await ask(one, "echo", b"anew") == [b"anew"]


async def test_a_number_used_again_is_neither_shown_nor_killed(home: Path):
    run = home / "run"
    async with worker(home) as one:
        other = subprocess.Popen(["sleep", "60"])
        kept = json.loads((run / f"{one.pid}.json").read_text())
        (run / f"{other.pid}.json").write_text(json.dumps(kept | {"pid": other.pid}))
        with pytest.raises(NotFound):
            supervisor.stop(run, other.pid)
        assert [seen.pid for seen in supervisor.running(run)] == [one.pid]
        assert other.poll() is None
        other.kill()
        other.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "[" * 100_000, '{"pid": "x"}'])
async def test_a_broken_record_is_dropped(home: Path, text: str):
    run = home / "run"
    run.mkdir()
    (run / "1.json").write_text(text)
    assert supervisor.running(run) == []
    assert list(run.iterdir()) == []


async def test_what_a_killed_parent_left_is_swept_and_what_a_living_one_uses_is_kept(home: Path):
    run = home / "run"
    async with worker(home) as one:
        left = run / f"{2**22 + 1}-00ff00ff.tmp"  # beyond the largest process number
        left.mkdir()
        (left / "file").write_text("x")
        registry.sweep(run)
        assert not left.exists()
        assert sorted(path.suffix for path in run.iterdir()) == [".json", ".tmp"]
        assert await ask(one, "echo", b"x") == [b"x"]


async def test_a_worker_that_ignores_being_asked_is_made_to_end(home: Path):
    async with worker(home) as one:
        await ask(one, "deaf")
        begun = time.monotonic()
        await asyncio.to_thread(supervisor.stop, home / "run", one.pid, 0.3)
        assert 0.2 < time.monotonic() - begun < 2
        assert not one.alive or await ask(one, "echo", b"anew") == [b"anew"]
