"""One worker process, from its start to its death; supervisor.py replaces it when it dies."""

import asyncio
import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import BadRequest, Busy, EngineFailed, NoIsolation, WorkerDied
from overt.runtime.sandbox import walls
from overt.runtime.sandbox.walls import Isolation
from overt.runtime.sandbox.witness import confirmed
from overt.runtime.worker import crash_reason
from overt.runtime.worker import http as asks
from overt.runtime.worker import transport as links
from overt.runtime.worker.frames import (
    LIMIT,
    OVERHEAD,
    WINDOW,
    BadFrame,
    FrameSplitter,
    WorkerFrame,
    pack,
)

if TYPE_CHECKING:
    import subprocess

_CALLS = 128
_QUESTIONS = 16
"""Most connections to a worker's own listener at once; more wait."""
_HELD = 256 << 20
"""Most bytes of answers that wait in this process for one worker's calls."""
_TOLD = 1 << 20
"""Longest report about itself that is taken from a worker, in bytes."""


class HostRefused(Exception):
    """The host refused one call.

    Attributes:
        body: what the host's `HostError` carried.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__(body[:200].decode("utf-8", "replace"))
        self.body = body


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What to run, and what it may have.

    Attributes:
        host: ``module:Class`` of a `host_main.Host`, imported inside the worker.
        parameters: given to `WorkerHost.load`; anything JSON can hold.
        readable: files and folders it may read, beyond Python and the system's libraries.
        memory: bytes of writable private memory (Linux RLIMIT_DATA; the mapped model file does not
            count); 0 for no limit.
        isolation: ``best`` takes every layer this machine has, ``full`` refuses to run unless all
            are in force, ``off`` takes none.
        label: what people call it; the model's ref.
        digest: of the model, for `ps`.
        python_path: folders put first on ``sys.path``.
        environ: added to an environment that is otherwise built from nothing.
        layers: the sandbox layers to try; tests leave some out.
    """

    host: str
    parameters: Mapping[str, Any]
    readable: tuple[Path, ...] = ()
    memory: int = 0
    isolation: str = "best"
    label: str = ""
    digest: str = ""
    python_path: tuple[Path, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = walls.LAYERS


class PendingCall:
    """One call under way: chunks wait here until they are taken."""

    def __init__(self, process: "Process", id: int) -> None:
        self._process = process
        self.id = id
        self.abandoned = False
        self.ended = False
        self._error: Exception | None = None
        self._chunks: deque[bytes] = deque()
        self.held = 0  # bytes waiting, as the window counts them
        self._taken = 0  # bytes taken since the worker was last told
        self._changed = asyncio.Event()

    def put(self, chunk: bytes) -> None:
        """A chunk has come.

        Raises:
            BadFrame: the worker sent more than its window allows.
        """
        if self.abandoned:
            return
        if self.held + self._taken >= WINDOW:
            raise BadFrame("more was sent than had been asked for")
        if len(chunk) > WINDOW and self._process.held + len(chunk) > _HELD:
            raise BadFrame(f"more than {_mebibytes(_HELD)} MiB of answers wait to be taken")
        self.held += len(chunk) + OVERHEAD
        self._chunks.append(chunk)
        self._changed.set()

    def end(self, error: Exception | None) -> None:
        self.ended, self._error = True, error
        self._changed.set()

    async def next(self) -> bytes | None:
        """The next chunk, None at the end.

        Raises:
            HostRefused, EngineFailed, WorkerDied: how it ended, once all chunks are taken.
        """
        while not self._chunks:
            if self.ended:
                if self._error:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        chunk = self._chunks.popleft()
        size = len(chunk) + OVERHEAD
        self.held -= size
        self._taken += size
        if self._taken >= WINDOW // 2 and not self.ended:
            self._process.send(self.id, "more", min(self._taken, LIMIT).to_bytes(4, "big"))
            self._taken = 0
        return chunk


class Process:
    """One process. `start` returns it loaded; `death` is done once it has ended."""

    def __init__(self, spec: WorkerSpec, run: Path) -> None:
        loop = asyncio.get_running_loop()
        self.spec = spec
        self.pid = 0
        self.info: dict[str, Any] = {}
        self.isolation = Isolation((), ())
        self.death: asyncio.Future[WorkerDied] = loop.create_future()
        self.calls: dict[int, PendingCall] = {}
        self._questions = asyncio.Semaphore(_QUESTIONS)
        self.folder = run / f"{os.getpid()}-{os.urandom(4).hex()}.tmp"
        self._popen: subprocess.Popen[bytes] | None = None
        self._link: links.WorkerLink | None = None
        self._errors: links.WorkerLink | None = None
        self._splitter = FrameSplitter()
        self._ring = crash_reason.LogRing()
        self._told: asyncio.Queue[WorkerFrame] = asyncio.Queue(3)
        self._closed, self._silent = asyncio.Event(), asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._last_id = 0
        self._loaded = False
        self._verdict = ""  # why the parent itself ended it
        self._oom_kills = _oom_kills()

    @classmethod
    async def start(cls, spec: WorkerSpec, run: Path, timeout: float) -> "Process":
        """Start a process and load its host.

        Raises:
            EngineFailed: the host did not load, or not in `timeout` seconds.
            WorkerDied: the process ended before it had loaded.
            NoIsolation: ``full`` was asked for and something is missing.
        """
        process = cls(spec, run)
        try:
            async with asyncio.timeout(timeout):
                await process._begin()
        except TimeoutError:
            await process.end("took too long")
            raise EngineFailed(
                f"{spec.label} did not load within {timeout:g} s",
                "try again when the machine is less busy, or choose a smaller model",
            ) from None
        except BaseException:
            await process.end("could not start")
            raise
        return process

    @property
    def alive(self) -> bool:
        """Whether it runs; asks the system, which may know of its death before the event loop."""
        if self.death.done() or self._verdict or not self._popen:
            return False
        return self._popen.poll() is None

    @property
    def held(self) -> int:
        return sum(call.held for call in self.calls.values())

    @property
    def log(self) -> str:
        """The end of what native code printed."""
        return self._ring.text

    def begin(self, kind: str, body: bytes) -> PendingCall:
        """Send a call.

        Raises:
            WorkerDied: the process has ended.
            Busy: too many calls are under way.
            BadRequest: `body` is longer than a frame may be.
        """
        if self.death.done():
            raise _copy_of_error(self.death.result())
        if len(self.calls) >= _CALLS:
            raise Busy(f"{len(self.calls)} requests are under way in one worker", "try again later")
        if len(body) > LIMIT - OVERHEAD:
            raise BadRequest(
                f"the request is {_mebibytes(len(body))} MiB and a worker takes "
                f"{_mebibytes(LIMIT)} MiB",
                "send less, or smaller images",
            )
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        call = self.calls[self._last_id] = PendingCall(self, self._last_id)
        self.send(call.id, f"call/{kind}", body)
        return call

    def send(self, id: int, kind: str, body: bytes = b"") -> None:
        if self._link:
            self._link.write(pack(id, kind, body))

    async def ask(self, path: str, body: bytes) -> bytes:
        """What the host's own listener answers; see ask.py.

        Raises:
            WorkerDied: the process ended.
            BadRequest, Unsupported, EngineFailed: as `ask.ask` says.
        """
        async with self._questions:
            if self.death.done():
                raise _copy_of_error(self.death.result())
            try:
                return await asks.ask(self.folder, self.pid, path, body)
            except EngineFailed:
                # A death shows first as a connection that breaks off.
                await asyncio.wait([self.death], timeout=0.2)
                if self.death.done():
                    raise _copy_of_error(self.death.result()) from None
                raise

    async def drain(self) -> None:
        if self._link:
            await self._link.drain()

    def kill(self, verdict: str) -> None:
        """End the process now; `verdict` is why, in the words of the error its calls get."""
        if self._popen and self._popen.returncode is None:
            self._verdict = self._verdict or verdict
            self._popen.kill()

    async def end(self, verdict: str, patience: float = 0.0) -> None:
        """End the process and wait until nothing of it is left."""
        self._verdict = self._verdict or verdict
        if self._link:
            self._link.close()  # a healthy worker leaves when its parent does
        if self._watch and patience:
            await asyncio.wait([self._watch], timeout=patience)
        self.kill(verdict)
        if self._watch:
            await asyncio.shield(self._watch)
        else:
            self._clean()

    # ---- starting --------------------------------------------------------------------------

    async def _begin(self) -> None:
        hears = links.FrameListener(
            self._received, self._closed.set, self._ring.write, self._silent.set
        )
        try:
            self.folder.mkdir(mode=0o700, parents=True)
            self._popen, self._link, self._errors = await links.start(
                _environ(self.spec, self.folder), str(self.folder), hears
            )
        except OSError as error:
            raise EngineFailed(f"the worker could not be started: {error.strerror}") from error
        self.pid = self._popen.pid
        self._watch = asyncio.get_running_loop().create_task(self._until_it_ends(self._popen))
        spec = self.spec
        self._send_json(
            "enter",
            {
                "isolation": spec.isolation,
                "layers": spec.layers,
                "memory": spec.memory,
                "parent": os.getpid(),
                "python_path": [str(path.absolute()) for path in spec.python_path],
                "readable": [str(path.absolute()) for path in (*spec.readable, _package())],
                "writable": str(self.folder),
            },
        )
        entered = _parsed(await self._report("entered"))
        self.isolation = confirmed(self.pid, entered)
        if spec.isolation == "full" and self.isolation.missing:
            raise NoIsolation(
                f"full isolation cannot be had here: {'; '.join(self.isolation.missing)}",
                "allow what there is with --isolation best",
            )
        self._send_json("load", {"host": spec.host, "parameters": dict(spec.parameters)})
        self.info = _parsed(await self._report("ready"))
        self._loaded = True

    def _send_json(self, kind: str, value: object) -> None:
        self.send(0, kind, json.dumps(value).encode())

    async def _report(self, kind: str) -> WorkerFrame:
        """The worker's next report about itself, or the reason there is none."""
        report = asyncio.ensure_future(self._told.get())
        either: tuple[asyncio.Future[Any], ...] = (report, self.death)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not report.done():
                raise _copy_of_error(self.death.result())
        finally:
            report.cancel()
        frame = report.result()
        if frame.kind == "failed":
            raise await self._refusal(frame)
        if frame.kind != kind:
            raise EngineFailed(f"the worker of {self.spec.label} spoke out of turn")
        return frame

    async def _refusal(self, frame: WorkerFrame) -> EngineFailed:
        # Wait for the process to end, so that all it printed has arrived.
        await asyncio.wait([self.death], timeout=1)
        text = crash_reason.clean(frame.body.decode("utf-8", "replace"))
        why = crash_reason.telling(self.log) or text
        if crash_reason.short_of_memory(f"{self.log}\n{text}") and self.spec.memory:
            return EngineFailed(
                f"{self.spec.label} did not load within {_mebibytes(self.spec.memory)} MiB: {why}",
                "give it a smaller context (--context N) or more memory (--memory SIZE)",
            )
        return EngineFailed(f"{self.spec.label} did not load: {why}")

    # ---- while it runs ---------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        if self._verdict:
            return
        try:
            for frame in self._splitter.feed(data):
                self._take(frame)
        except BadFrame as error:
            self.kill(f"sent what it should not ({error})")

    def _take(self, frame: WorkerFrame) -> None:
        if frame.id == 0:
            if len(frame.body) > _TOLD or self._told.full():
                raise BadFrame("an endless report about itself")
            self._told.put_nowait(frame)
            return
        call = self.calls.get(frame.id)
        if call is None:
            raise BadFrame("an answer to nothing")
        if frame.kind == "chunk":
            call.put(frame.body)
            return
        ending: Exception | None
        if frame.kind == "end":
            ending = None
        elif frame.kind == "refused":
            ending = HostRefused(frame.body)
        elif frame.kind == "error":
            ending = EngineFailed(
                f"{self.spec.label}: "
                f"{crash_reason.clean(frame.body[:4096].decode('utf-8', 'replace'))}"
            )
        else:
            raise BadFrame("a frame of no known kind")
        del self.calls[frame.id]
        call.end(ending)

    # ---- the end ---------------------------------------------------------------------------

    async def _until_it_ends(self, popen: "subprocess.Popen[bytes]") -> None:
        ended = asyncio.ensure_future(links.exit_code(popen))
        closed = asyncio.ensure_future(self._closed.wait())
        dry = asyncio.ensure_future(self._dry())
        try:
            await asyncio.wait([ended, closed], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # it shut its socket: nothing more can come of it
                await asyncio.wait([ended], timeout=1)
                self.kill("stopped speaking")
            returncode = await ended
            # Nobody else holds the other ends, so both run dry at once.
            await asyncio.wait([dry], timeout=1)
        except asyncio.CancelledError:  # the event loop is being closed under us
            self.kill("was left alone")
            popen.wait()
            raise
        finally:
            for task in (ended, closed, dry):
                task.cancel()
            for channel in (self._link, self._errors):
                if channel:
                    channel.close()
            self._clean()
        self.death.set_result(self._obituary(returncode))
        for call in self.calls.values():
            call.end(_copy_of_error(self.death.result()))
        self.calls.clear()

    async def _dry(self) -> None:
        await self._closed.wait()
        await self._silent.wait()

    def _clean(self) -> None:
        import shutil

        shutil.rmtree(self.folder, ignore_errors=True)

    def _obituary(self, returncode: int) -> WorkerDied:
        label, memory = self.spec.label, self.spec.memory
        who = f"the worker of {label}" if label else "the worker"
        again = "ask again and it starts anew"
        if self._verdict:
            return WorkerDied(f"{who} was ended: it {self._verdict}", again)
        how = crash_reason.how(returncode)
        # Once loaded its log speaks of requests, and all of them are told of one death.
        why = "" if self._loaded else crash_reason.telling(self.log)
        if memory and crash_reason.short_of_memory(self.log):
            return WorkerDied(
                f"{who} reached its limit of {_mebibytes(memory)} MiB and {how}",
                "give it a smaller context (--context N) or more memory (--memory SIZE)",
            )
        if returncode == -9 and _oom_kills() > self._oom_kills:
            return WorkerDied(
                f"{who} was killed by the system, which ran out of memory",
                "give it a smaller context (--context N) or close other programs",
            )
        return WorkerDied(f"{who} {how}{': ' if why else ''}{why}", again)


def _copy_of_error(died: WorkerDied) -> WorkerDied:
    """A copy: an exception raised in several tasks would collect all their tracebacks."""
    return WorkerDied(died.message, died.hint)


def _parsed(frame: WorkerFrame) -> dict[str, Any]:
    try:
        value = json.loads(frame.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EngineFailed("the worker's report about itself cannot be read")
    return value


def _environ(spec: WorkerSpec, folder: Path) -> dict[str, str]:
    """An environment of nothing but what is needed, so that no token leaks in."""
    # The last two are how Python itself finds its libraries on some systems.
    inherited = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in inherited if name in os.environ},
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "GGML_NO_BACKTRACE": "1",  # else an abort starts a debugger on itself
        "OMP_WAIT_POLICY": "passive",  # spinning threads collapse when the machine is busy
        **spec.environ,
    }


def _package() -> Path:
    return Path(__file__).parents[2]


def _mebibytes(size: int) -> int:
    return size >> 20


def _oom_kills() -> int:
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    counts = [line.split()[1] for line in text.splitlines() if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else 0
