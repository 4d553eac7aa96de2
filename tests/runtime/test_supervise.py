"""Workers as their users see them: started, asked, cancelled, killed, and started again."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import repeats
from overt.errors import BadRequest, EngineFailed, WorkerDied
from overt.runtime.worker import supervisor
from overt.runtime.worker.frames import LIMIT, pack
from overt.runtime.worker.supervisor import HostRefused, Worker, WorkerSpec

HERE = Path(__file__).parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
pytestmark = [pytest.mark.anyio]


def spec(host: str = "Host", **changes: Any) -> WorkerSpec:
    given = {"host": f"hosts:{host}", "parameters": {}, "label": "test", "python_path": (HERE,)}
    return WorkerSpec(**(given | changes))


@asynccontextmanager
async def worker(home: Path, **changes: Any) -> AsyncIterator[Worker]:
    started = await Worker.start(spec(**changes), home / "run", timeout=20)
    try:
        yield started
    finally:
        await started.stop()


async def ask(
    one: Worker, kind: str, body: bytes = b"", into: list[bytes] | None = None, pause: float = 0
) -> list[bytes]:
    """All chunks of one call, also those that came before an error; `pause` after each."""
    got = [] if into is None else into
    async with aclosing(one.call(kind, body)) as chunks:
        async for chunk in chunks:
            got.append(chunk)
            await asyncio.sleep(pause)
    return got


async def until(true: Callable[[], object], seconds: float = 5) -> None:
    over = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < over, "it never came to be"
        await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- asking --------------------------------------------------------------------------------


async def test_a_worker_loads_answers_and_leaves_nothing(home: Path):
    async with worker(home, parameters={"x": [1, "two"]}) as one:
        assert one.info == {"given": {"x": [1, "two"]}}
        assert await ask(one, "count", b"3") == [b"0", b"1", b"2"]
        assert one.alive
        assert one.peak_memory() > 1 << 20
        pid = one.pid
    assert not one.alive
    assert not exists(pid)
    assert list((home / "run").iterdir()) == []
    with pytest.raises(WorkerDied, match="was stopped"):
        await ask(one, "echo")


async def test_calls_run_at_once_and_keep_apart(home: Path):
    async with worker(home) as one:
        begun = time.monotonic()
        answers = await asyncio.gather(*(ask(one, "slow", b"20") for _ in range(8)))
        assert time.monotonic() - begun < 8 * 0.2
        assert answers == [[str(n).encode() for n in range(20)]] * 8


async def test_a_refusal_and_an_exception_are_told_apart(home: Path):
    async with worker(home) as one:
        with pytest.raises(HostRefused) as refused:
            await ask(one, "refuse", b'{"why": 1}')
        assert refused.value.body == b'{"why": 1}'
        with pytest.raises(EngineFailed, match="test: ValueError: no such thing"):
            await ask(one, "raise", b"no such thing")
        assert await ask(one, "echo", b"still here") == [b"still here"]


async def test_a_slow_reader_holds_the_worker_back_and_nobody_else(home: Path):
    async with worker(home) as one, aclosing(one.call("big", b"100")) as chunks:
        size = len(await anext(chunks))
        await asyncio.sleep(0.5)
        held = one._process.held  # type: ignore[union-attr]
        assert 1 << 19 < held < 1 << 21  # of 6.4 MB: the window is full, and no more than that
        assert await ask(one, "echo", b"other") == [b"other"]
        rest = [chunk async for chunk in chunks]
        assert size + sum(len(chunk) for chunk in rest[:-1]) == 100 * 65536
        assert float(rest[-1]) > 0.4


async def test_a_request_longer_than_a_frame_is_refused_with_both_numbers(home: Path):
    async with worker(home) as one:
        with pytest.raises(BadRequest, match="64 MiB and a worker takes 64 MiB"):
            await ask(one, "echo", bytes(LIMIT))
        assert await ask(one, "echo", bytes(1 << 24)) == [bytes(1 << 24)]


async def test_it_works_over_pipes_as_on_windows(home: Path, monkeypatch: pytest.MonkeyPatch):
    from overt.runtime.worker import transport

    start = transport.start

    async def over_pipes(*given: Any) -> Any:
        return await start(*given, pipes=True)

    monkeypatch.setattr(transport, "start", over_pipes)
    async with worker(home) as one:
        assert await ask(one, "count", b"2000") == [str(n).encode() for n in range(2000)]
        with pytest.raises(WorkerDied, match="SIGABRT"):
            await ask(one, "abort")
        assert await ask(one, "echo", b"again") == [b"again"]


# ---- loading -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (
            {"load": "raise", "print": "f: error loading model: no 'x' in '/a/b.gguf' 0xdeadbeef"},
            EngineFailed,
            "test did not load: error loading model: no 'x' in 'b.gguf'",
        ),
        (
            {"load": "raise"},
            EngineFailed,
            "test did not load: RuntimeError: Failed to init server, please check the input params",
        ),
        ({"load": "exit"}, WorkerDied, "the worker of test ended with status 3"),
        (
            {"load": "abort", "print": "/src/vocab.cpp:7: GGML_ASSERT(a == b) failed"},
            WorkerDied,
            "the worker of test was killed by SIGABRT: vocab.cpp:7: GGML_ASSERT(a == b) failed",
        ),
        ({"load": "lie"}, EngineFailed, "the worker's report about itself cannot be read"),
    ],
)  # fmt: skip
async def test_a_failed_load_says_why_in_one_sentence(
    home: Path, parameters: dict[str, str], error: type[EngineFailed], message: str
):
    with pytest.raises(error) as failed:
        await Worker.start(spec(parameters=parameters), home / "run", timeout=20)
    assert failed.value.message == message
    assert list((home / "run").iterdir()) == []


async def test_a_load_that_takes_too_long_is_ended(home: Path):
    begun = time.monotonic()
    with pytest.raises(EngineFailed, match=r"did not load within 0\.5 s"):
        await Worker.start(spec(parameters={"load": "sleep"}), home / "run", timeout=0.5)
    assert time.monotonic() - begun < 2
    assert list((home / "run").iterdir()) == []


async def test_a_host_that_does_not_exist_is_named(home: Path):
    with pytest.raises(EngineFailed, match="No module named 'nowhere'"):
        await Worker.start(WorkerSpec("nowhere:Host", {}), home)


async def test_a_start_that_is_given_up_leaves_no_process(home: Path):
    begun = asyncio.create_task(Worker.start(spec(parameters={"load": "sleep"}), home / "run"))
    await until(lambda: list((home / "run").glob("*.tmp")))
    await asyncio.sleep(0.2)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    assert children() == []
    assert list((home / "run").iterdir()) == []


async def test_giving_up_at_any_moment_leaves_no_process(home: Path):
    for milliseconds in range(0, 40, 2):
        begun = asyncio.create_task(Worker.start(spec(), home / "run"))
        await asyncio.sleep(milliseconds / 1000)
        begun.cancel()
        with suppress(asyncio.CancelledError):
            await (await begun).stop()
        assert children() == []
    assert list((home / "run").iterdir()) == []


def children() -> list[int]:
    """Workers this process has started and not reaped; the tests' server is no worker."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = [int(pid) for pid in path.read_text().split()] if path.exists() else []
    return [pid for pid in pids if b"serve" not in _command(pid)]


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


# ---- dying ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("abort", b"", "was killed by SIGABRT"),
        ("segfault", b"", "was killed by SIGSEGV"),
        ("exit", b"7", "ended with status 7"),
    ],
)
async def test_a_death_keeps_what_was_delivered_and_the_next_call_starts_anew(
    home: Path, kind: str, body: bytes, said: str
):
    async with worker(home) as one:
        before, got = one.pid, []
        with pytest.raises(WorkerDied) as died:
            await ask(one, kind, body, into=got)
        assert died.value.message == f"the worker of test {said}"
        assert died.value.hint == "ask again and it starts anew"
        assert got == ([b"some text"] if kind == "abort" else [])
        assert not one.alive
        assert await ask(one, "echo", b"again") == [b"again"]
        assert one.restarts == 1
        assert one.pid != before
        assert not exists(before)


async def test_kill_9_fails_every_running_call_with_its_text_kept(home: Path):
    async with worker(home) as one:
        got: list[list[bytes]] = [[], [], []]

        async def read(into: list[bytes]) -> None:
            async for chunk in one.call("slow", b"1000"):
                into.append(chunk)

        reading = [asyncio.create_task(read(into)) for into in got]
        await until(lambda: all(len(into) > 5 for into in got))
        os.kill(one.pid, signal.SIGKILL)
        ends = await asyncio.gather(*reading, return_exceptions=True)
        assert [str(end) for end in ends] == [
            "the worker of test was killed by SIGKILL; ask again and it starts anew"
        ] * 3
        for into in got:
            assert into == [str(n).encode() for n in range(len(into))]


async def test_a_death_that_nobody_has_noticed_yet_costs_the_next_call_nothing(home: Path):
    async with worker(home) as one:
        os.kill(one.pid, signal.SIGKILL)
        while exists(one.pid):
            time.sleep(0.01)  # blocks, so that the event loop sees nothing
        assert await ask(one, "echo", b"anew") == [b"anew"]


async def test_a_worker_that_keeps_dying_is_given_up_and_says_so(home: Path):
    async with worker(home) as one:
        for _ in range(supervisor.RESTARTS + 1):
            with pytest.raises(WorkerDied, match="status 7"):
                await ask(one, "exit", b"7")
        with pytest.raises(WorkerDied) as given_up:
            await ask(one, "echo")
        assert given_up.value.message == (
            "the worker of test was started again 3 times in 60 s and is given up: "
            "the worker of test ended with status 7"
        )
        assert one.restarts == supervisor.RESTARTS


@linux
async def test_the_memory_limit_is_recognised(home: Path):
    async with worker(home, memory=200 << 20) as one:
        assert await ask(one, "eat", b"4") == [b"4"]
        with pytest.raises(
            WorkerDied, match="reached its limit of 200 MiB and was killed by SIGABRT"
        ):
            await ask(one, "eat", b"64")


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("raw", b"\xff" * 64, "a frame of 4294967295 bytes is longer than 67108864"),
        ("raw", (12).to_bytes(4, "little") + bytes(12), "not an array"),
        ("raw", pack(99, "chunk", b"x"), "an answer to nothing"),
        ("raw", pack(1, "gift", b"x"), "a frame of no known kind"),
        ("raw", pack(0, "ready", b"{}") * 9, "an endless report about itself"),
        ("flood", b"", "more was sent than had been asked for"),
    ],
)
async def test_a_worker_that_breaks_the_rules_is_ended(
    home: Path, kind: str, body: bytes, said: str
):
    async with worker(home) as one:
        with pytest.raises(WorkerDied) as ended:
            await ask(one, kind, body, pause=0.05)
        assert said in ended.value.message
        assert "sent what it should not" in ended.value.message
        assert await ask(one, "echo", b"anew") == [b"anew"]


async def test_a_worker_that_shuts_its_socket_is_ended(home: Path):
    async with worker(home) as one:
        with pytest.raises(WorkerDied, match="stopped speaking"):
            await ask(one, "shut")


@pytest.mark.slow
async def test_no_bytes_from_a_worker_hurt_the_parent(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor, "RESTARTS", 1000)
    pick = random.Random(5)
    async with worker(home) as one:
        for _ in range(repeats(20, 60)):
            kinds = ("chunk", "end", "ready", "refused")
            frames = [pack(pick.randrange(3), pick.choice(kinds), pick.randbytes(9)) for _ in kinds]
            data = bytearray(b"".join(frames))
            for _ in range(pick.randrange(4)):
                data[pick.randrange(len(data))] = pick.randrange(256)
            try:
                async with asyncio.timeout(0.2):
                    await ask(one, "raw", bytes(data))
            except (WorkerDied, EngineFailed, HostRefused, TimeoutError):
                pass
            os.kill(one.pid, signal.SIGKILL) if one.alive else None
            await until(lambda: not one.alive)
        assert await ask(one, "echo", b"unhurt") == [b"unhurt"]


# ---- cancelling ----------------------------------------------------------------------------


async def test_closing_the_iterator_cancels_within_a_moment(home: Path):
    async with worker(home) as one:
        async with aclosing(one.call("slow", b"100000")) as chunks:
            assert await anext(chunks) == b"0"
        await until(lambda: not one._process.calls, 0.5)  # type: ignore[union-attr]
        assert one.restarts == 0


async def test_a_cancelled_task_cancels_its_call(home: Path):
    async with worker(home) as one:
        task = asyncio.create_task(ask(one, "slow", b"100000"))
        await until(lambda: one._process.calls)  # type: ignore[union-attr]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not one._process.calls, 0.5)  # type: ignore[union-attr]


async def test_native_code_that_does_not_listen_is_killed_and_started_again(home: Path):
    async with worker(home) as one:
        before = one.pid
        async with aclosing(one.call("stubborn", b"")) as chunks:
            assert await anext(chunks) == b"begun"
        begun = time.monotonic()
        await until(lambda: not exists(before))
        assert 0.9 < time.monotonic() - begun < 2
        await until(lambda: one.restarts == 1)
        assert await ask(one, "echo", b"anew") == [b"anew"]


async def test_others_are_given_time_before_that(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    monkeypatch.setattr(supervisor, "GRACE_WITH_OTHERS", 1.5)
    async with worker(home) as one:
        before = one.pid
        other = asyncio.create_task(ask(one, "slow", b"40"))
        async with aclosing(one.call("stubborn", b"")) as chunks:
            await anext(chunks)
        assert len(await other) == 40  # it was let finish
        assert one.pid == before
        await until(lambda: one.restarts == 1, 2)  # and then there was no reason to wait

        other = asyncio.create_task(ask(one, "slow", b"100000"))
        async with aclosing(one.call("stubborn", b"")) as chunks:
            await anext(chunks)
        with pytest.raises(WorkerDied, match="did not stop when it was told to"):
            await other


async def test_cancelling_again_and_again_is_not_held_against_the_worker(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(supervisor, "GRACE", 0.05)
    async with worker(home) as one:
        for times in range(supervisor.RESTARTS + 2):
            async with aclosing(one.call("stubborn", b"")) as chunks:
                await anext(chunks)
            await until(lambda: one.restarts == times + 1)  # noqa: B023
        assert await ask(one, "echo", b"anew") == [b"anew"]


# ---- with its parent, and with others ------------------------------------------------------

PARENT = """
import asyncio, sys
from pathlib import Path
from overt.runtime.worker.supervisor import Worker, WorkerSpec

async def main():
    spec = WorkerSpec("hosts:Host", {}, label="test", python_path=(Path(sys.argv[1]),))
    worker = await Worker.start(spec, Path(sys.argv[2]))
    print(worker.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_a_worker_does_not_outlive_its_parent(home: Path, number: signal.Signals):
    command = [sys.executable, "-c", PARENT, str(HERE), str(home / "run")]
    parent = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout
    pid = int(await parent.stdout.readline())
    parent.send_signal(number)
    await parent.wait()
    await until(lambda: not exists(pid), 2)
    supervisor.registry.sweep(home / "run")
    assert list((home / "run").iterdir()) == []


@linux
async def test_ctrl_c_does_not_reach_the_worker(home: Path):
    async with worker(home) as one:
        assert os.getsid(one.pid) == one.pid
        os.kill(one.pid, signal.SIGINT)
        assert await ask(one, "echo", b"here") == [b"here"]
        assert one.restarts == 0


@linux
async def test_nothing_of_the_parent_leaks_in(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "a secret")
    with (home / "open").open("w") as kept:
        os.set_inheritable(kept.fileno(), True)
        async with worker(home, environ={"MINE": "1"}) as one:
            facts = [fact.decode() for fact in await ask(one, "facts")]
    names = {fact.split()[1].split("=")[0] for fact in facts if fact.startswith("env ")}
    assert names == {"LANG", "HOME", "TMPDIR", "GGML_NO_BACKTRACE", "OMP_WAIT_POLICY", "MINE",
                     *({"LD_LIBRARY_PATH"} & set(os.environ)), *({"LC_CTYPE"} & names)}  # fmt: skip
    open_files = sorted(fact.split()[2].split(":")[0] for fact in facts if fact.startswith("fd "))
    assert [f for f in open_files if not f.startswith("/proc/")] == [
        "/dev/null", "pipe", "pipe", "socket",
    ]  # fmt: skip


@linux
async def test_no_descriptor_and_no_process_is_left_behind(home: Path):
    async def once() -> None:
        async with worker(home) as one:
            await ask(one, "echo", b"x")
            with pytest.raises(WorkerDied):
                await ask(one, "exit", b"7")
            await ask(one, "echo", b"x")

    await once()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        await once()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert children() == []


@linux
async def test_starting_is_quick(home: Path):
    """Bar: an empty host is ready within 60 ms; of processor time, as others run here too."""
    took = []
    for _ in range(5):
        async with worker(home) as one:
            took.append(int(Path(f"/proc/{one.pid}/schedstat").read_text().split()[0]) / 1e9)
    assert 0.001 < min(took) < 0.06, took


@linux
def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(EngineFailed, match="the worker could not be started: "):
        asyncio.run(Worker.start(spec(), tmp_path / "run"))
