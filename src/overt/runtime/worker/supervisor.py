"""Workers: sandboxed processes that host an engine, started, watched and started again.

The parent's half; what runs inside is host_main.py. Belongs to one asyncio event loop.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from overt.errors import EngineFailed, WorkerDied
from overt.runtime.sandbox.walls import Isolation
from overt.runtime.worker import registry
from overt.runtime.worker.process import HostRefused, PendingCall, Process, WorkerSpec
from overt.runtime.worker.registry import Running, running, stop

__all__ = ["HostRefused", "Isolation", "Running", "Worker", "WorkerSpec", "running", "stop"]

GRACE = 1.0
"""Seconds native code has to end a cancelled call."""
GRACE_WITH_OTHERS = 10.0
"""The same, while other calls would be lost with the process."""
RESTARTS, PERIOD = 3, 60.0
"""A worker that would start more than `RESTARTS` times again in `PERIOD` seconds is given up."""


class Worker:
    """One engine in one sandboxed process.

    When the process dies, the calls under way fail (what they delivered stays delivered) and the
    next call starts it again; `pid`, `info` and `isolation` are then those of the new process.
    """

    def __init__(self, spec: WorkerSpec, run: Path, timeout: float) -> None:
        self._spec, self._run, self._timeout = spec, run, timeout
        self._process: Process | None = None
        self._starting: asyncio.Task[Process] | None = None
        self._stopped = False
        self._when: list[float] = []
        self.restarts = 0

    @classmethod
    async def start(cls, spec: WorkerSpec, run: Path, timeout: float = 120) -> "Worker":
        """Start a worker and load its host; `run` is the folder that `running` reads.

        Raises:
            EngineFailed: the host refused to load, with its reason, or took over `timeout` s.
            WorkerDied: the process ended before it had loaded; says how and why.
            NoIsolation: ``isolation="full"`` and this machine lacks a layer.
        """
        worker = cls(spec, run, timeout)
        worker._process = await worker._launch()
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def info(self) -> dict[str, Any]:
        """What `WorkerHost.load` returned."""
        return self._process.info if self._process else {}

    @property
    def isolation(self) -> Isolation:
        return self._process.isolation if self._process else Isolation((), ())

    @property
    def alive(self) -> bool:
        """Whether a process is up (after a death it is not, until the next call)."""
        return bool(self._process and self._process.alive)

    @property
    def folder(self) -> Path:
        """The private folder, all that the process may write in; it goes with the process."""
        return self._process.folder if self._process else self._run

    @property
    def log(self) -> str:
        """The last 64 KiB of what native code printed; not cleaned."""
        return self._process.log if self._process else ""

    def peak_memory(self) -> int:
        """Most resident memory this process has had, in bytes; 0 where that cannot be read."""
        return registry.peak_memory(self.pid) if self.alive else 0

    def memory(self) -> tuple[int, int]:
        """Resident bytes now, and those of them that are no file's; 0 where there is no process."""
        return registry.memory(self.pid) if self.alive else (0, 0)

    async def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """Ask the host; yields the chunks it emits. Closing the generator cancels the call.

        Raises:
            HostRefused: the host refused this call.
            EngineFailed: the host raised something else.
            WorkerDied: the process ended, or ends too often to be started again.
            Busy: too many calls at once.
        """
        process = await self._ready()
        call = process.begin(kind, body)
        try:
            await process.drain()
            while (chunk := await call.next()) is not None:
                yield chunk
        finally:
            if not call.ended:
                self._abandon(process, call)

    async def ask(self, path: str, body: bytes) -> bytes:
        """Ask the host's own HTTP listener: POST JSON to `path`; returns the body of the reply.

        Raises:
            Unsupported: the host does not listen, or not on this system.
            BadRequest: `body` is too long.
            EngineFailed: what came back was no HTTP, or nothing came in time.
            WorkerDied: the process ended, or ends too often to be started again.
        """
        return await (await self._ready()).ask(path, body)

    async def stop(self) -> None:
        """End the process and wait until it has gone. Calls under way fail."""
        self._stopped = True
        if self._starting:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._process:
            await self._process.end("was stopped", patience=1.0)
            registry.forget(self._run, self._process.pid)

    # ---- starting, and starting again ------------------------------------------------------

    async def _launch(self) -> Process:
        registry.sweep(self._run)
        process = await Process.start(self._spec, self._run, self._timeout)
        try:
            registry.record(self._run, process)
        except OSError as error:
            await process.end("could not be recorded")
            raise EngineFailed(
                f"{self._run} cannot be written: {error.strerror}", "make room there, or allow it"
            ) from error
        process.death.add_done_callback(lambda _: registry.forget(self._run, process.pid))
        return process

    async def _ready(self) -> Process:
        if self._stopped:
            raise WorkerDied(f"the worker of {self._spec.label} was stopped")
        if self._process and self._process.alive and not self._starting:
            return self._process
        # Shielded: whoever else waits for this start must not lose it when one caller gives up.
        return await asyncio.shield(self._restart())

    def _restart(self, *, died: bool = True) -> "asyncio.Task[Process]":
        if not self._starting:
            self._starting = asyncio.get_running_loop().create_task(self._again(died=died))
            self._starting.add_done_callback(self._started)
        return self._starting

    def _started(self, task: "asyncio.Task[Process]") -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # whoever calls next starts again and is told

    async def _again(self, *, died: bool) -> Process:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._when = [when for when in self._when if now - when < PERIOD]
        last = self._process
        if last:
            await asyncio.wait([last.death])
        if died and len(self._when) >= RESTARTS:
            why = f": {last.death.result().message}" if last else ""
            raise WorkerDied(
                f"the worker of {self._spec.label} was started again {RESTARTS} times "
                f"in {PERIOD:g} s and is given up{why}",
                "wait a minute, or try another model",
            )
        if died:
            self._when.append(now)
        self._process = await self._launch()
        self.restarts += 1
        return self._process

    # ---- cancelling ------------------------------------------------------------------------

    def _abandon(self, process: Process, call: PendingCall) -> None:
        """Tell the worker to end `call`, and see to it that it does. Never waits."""
        call.abandoned = True
        process.send(call.id, "cancel")
        loop = asyncio.get_running_loop()
        loop.call_later(GRACE, self._enforce, process, call, loop.time() + GRACE_WITH_OTHERS)

    def _enforce(self, process: Process, call: PendingCall, deadline: float) -> None:
        if call.ended or not process.alive:
            return
        loop = asyncio.get_running_loop()
        others = any(not other.abandoned for other in process.calls.values())
        if others and loop.time() < deadline:
            loop.call_later(0.25, self._enforce, process, call, deadline)
            return
        process.kill("did not stop when it was told to")
        if not self._stopped and process is self._process:
            self._restart(died=False)  # a person may cancel as often as they like
