"""How a worker process is started and spoken to: one inherited socket pair, or pipes on Windows.

The pipes are read by threads because asyncio cannot wait for them on Windows. That half has been
run on Linux only (tests ask for it there); on Windows it is written, not tried.
"""

import asyncio
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol, cast

Received = Callable[[bytes], None]
Closed = Callable[[], None]


class WorkerLink(Protocol):
    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class _LinkTransport(asyncio.Protocol):
    """One asyncio transport that hands on what it reads, and can be waited for when it is full."""

    def __init__(self, received: Received, closed: Closed) -> None:
        self._received, self._closed = received, closed
        self._transport: asyncio.BaseTransport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self._closed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            # Not asked by isinstance: uvloop's transports are of no class of asyncio.
            cast("asyncio.WriteTransport", self._transport).write(data)

    async def drain(self) -> None:
        await self._writable.wait()

    def close(self) -> None:
        if self._transport:
            self._transport.close()


class _Pipes:
    """A pipe to read and, where `out` is given, one to write, each with a thread of its own."""

    def __init__(
        self, source: IO[bytes], out: IO[bytes] | None, received: Received, closed: Closed
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._queue: queue.SimpleQueue[bytes | asyncio.Future[None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(source, received, closed), daemon=True).start()
        if out:
            threading.Thread(target=self._write, args=(out,), daemon=True).start()

    def _read(self, source: IO[bytes], received: Received, closed: Closed) -> None:
        with source:
            while data := os.read(source.fileno(), 1 << 16):
                self._tell(received, data)
        self._tell(closed)

    def _write(self, out: IO[bytes]) -> None:
        broken = False
        while (item := self._queue.get()) is not None:
            if isinstance(item, asyncio.Future):
                self._tell(_settle, item)
            elif not broken:
                try:
                    out.write(item)
                    out.flush()
                except OSError:  # the worker has gone; the reading side says so
                    broken = True
        with suppress(OSError):
            out.close()

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody listens any more
            self._loop.call_soon_threadsafe(what, *arguments)

    def write(self, data: bytes) -> None:
        self._queue.put(data)

    async def drain(self) -> None:
        if self._over:
            return
        written = self._loop.create_future()
        self._queue.put(written)
        await written

    def close(self) -> None:
        self._over = True
        self._queue.put(None)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True, slots=True)
class FrameListener:
    """What is called, in the event loop, as a worker speaks, prints, and falls silent."""

    received: Received
    closed: Closed
    printed: Received
    silent: Closed


async def start(
    environ: Mapping[str, str], folder: str, hears: FrameListener, *, pipes: bool = os.name == "nt"
) -> tuple["subprocess.Popen[bytes]", WorkerLink, WorkerLink]:
    """Start a worker. Returns the process, the link for frames, and that of its standard error.

    Raises:
        OSError: the process could not be started.
    """
    # -I keeps the current folder, PYTHONPATH and the user's own site-packages out.
    command = [sys.executable, "-I", "-B", "-m", "overt.runtime.worker.host_main"]
    if pipes:
        process = subprocess.Popen(
            [*command, "0", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=folder,
            start_new_session=os.name == "posix",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        link: WorkerLink = _Pipes(process.stdout, process.stdin, hears.received, hears.closed)
        return process, link, _Pipes(process.stderr, None, hears.printed, hears.silent)
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environ,
                cwd=folder,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    loop = asyncio.get_running_loop()
    stream, errors = (
        _LinkTransport(hears.received, hears.closed),
        _LinkTransport(hears.printed, hears.silent),
    )
    assert process.stderr
    try:
        await loop.create_unix_connection(lambda: stream, sock=ours)
        await loop.connect_read_pipe(lambda: errors, process.stderr)
    except BaseException:  # most likely cancelled: nobody else knows of the process yet
        process.kill()
        process.wait()
        ours.close()
        process.stderr.close()
        stream.close()
        errors.close()
        raise
    return process, stream, errors


async def exit_code(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process to end, and reap it. Returns its status as subprocess does."""
    loop = asyncio.get_running_loop()
    try:
        watched = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or an old kernel
        return await loop.run_in_executor(None, process.wait)
    over = loop.create_future()
    loop.add_reader(watched, _settle, over)
    try:
        await over
    finally:
        loop.remove_reader(watched)
        os.close(watched)
    return process.wait()
