"""The worker process: ``python -I -m overt.runtime.worker.host_main READ WRITE``.

READ and WRITE are the descriptors of frames from and to the parent (the same one where it is a
socket). First the sandbox; then the parent looks at what the kernel shows of it and says what to
load; only then is the host imported, and with it any native code. Afterwards this thread reads
frames and every call runs in a thread of its own. When the parent goes away, so does the process.

Start-up time is a bar, so nothing is imported here that an empty host does not need.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from overt.runtime.sandbox import walls
from overt.runtime.worker.frames import OVERHEAD, WINDOW, BadFrame, FrameSplitter, WorkerFrame, pack

_CALLS = 256
"""Calls under way at once; the parent is bounded too, so more is a fault."""


class WorkerHost(Protocol):
    """What a worker hosts: a class of no arguments, named ``module:Class``.

    Set ``listens = True`` on the class if `load` opens a UNIX socket `ask.SOCKET` in the current
    folder and answers HTTP there: then connections to it can be accepted after `load`. Set
    ``sockets = True`` to keep UNIX sockets usable altogether.
    """

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load the model; what is returned reaches the parent as `Worker.info`."""
        ...

    def handle(self, kind: str, body: bytes, emit: Callable[[bytes], bool]) -> None:
        """Answer one call, in a thread of its own, by giving `emit` each chunk.

        `emit` blocks while the reader is behind, and returns True once the call is cancelled; then
        return. An exception with a ``body`` of bytes (see wire.HostError) refuses the call.
        """
        ...


class _Channel:
    """Frames to and from the parent."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._splitter = FrameSplitter()
        self._waiting: list[WorkerFrame] = []
        self._lock = threading.Lock()

    def receive(self) -> WorkerFrame:
        """The next frame; ends the process when the parent has gone or makes no sense."""
        while not self._waiting:
            try:
                data = os.read(self._read, 1 << 16)
                self._waiting = self._splitter.feed(data)[::-1]
            except (OSError, BadFrame):
                data = b""
            if not data:
                os._exit(0)
        return self._waiting.pop()

    def send(self, id: int, kind: str, body: bytes = b"") -> None:
        data = memoryview(pack(id, kind, body))
        try:
            with self._lock:
                while data:
                    data = data[os.write(self._write, data) :]
        except OSError:
            os._exit(0)

    def send_json(self, kind: str, value: object) -> None:
        self.send(0, kind, json.dumps(value).encode())


class _RunningCall:
    """One call: what its thread and the reading thread share."""

    def __init__(self, channel: _Channel, id: int) -> None:
        self._channel, self._id = channel, id
        self._changed = threading.Condition()
        self._ahead = 0
        self._cancelled = False

    def emit(self, chunk: bytes) -> bool:
        with self._changed:
            while self._ahead >= WINDOW and not self._cancelled:
                self._changed.wait()
            if self._cancelled:
                return True
            self._ahead += len(chunk) + OVERHEAD
        self._channel.send(self._id, "chunk", chunk)
        return self._cancelled

    def more(self, taken: int) -> None:
        with self._changed:
            self._ahead -= taken
            self._changed.notify()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify()


def main() -> None:
    """Run one worker from first frame to last."""
    channel = _open(int(sys.argv[1]), int(sys.argv[2]))
    host = _prepare(channel)
    calls: dict[int, _RunningCall] = {}
    while True:
        frame = channel.receive()
        call = calls.get(frame.id)
        if frame.kind.startswith("call/") and call is None and len(calls) < _CALLS:
            call = calls[frame.id] = _RunningCall(channel, frame.id)
            run = (host, channel, calls, call, frame)
            threading.Thread(target=_run, args=run, daemon=True).start()
        elif frame.kind == "cancel" and call:
            call.cancel()
        elif frame.kind == "more" and call:
            call.more(int.from_bytes(frame.body, "big"))


def _open(read: int, write: int) -> _Channel:
    """Keep the channel to ourselves: what native code prints goes to standard error."""
    if read == 0:
        read, write = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    return _Channel(read, write)


def _prepare(channel: _Channel) -> WorkerHost:
    config: dict[str, Any] = json.loads(channel.receive().body)
    sys.path[:0] = config["python_path"]
    os.chdir(config["writable"])
    if config["isolation"] == "off":
        walls.die_with(config["parent"])
        isolation = walls.nothing()
    else:
        readable = (*config["python_path"], *config["readable"])
        needs = walls.SandboxNeeds(
            readable, config["writable"], config["parent"], tuple(config["layers"])
        )
        isolation = walls.enter(needs)
    walls.limit(config["memory"])
    channel.send_json("entered", isolation._asdict())
    request: dict[str, Any] = json.loads(channel.receive().body)
    if config["isolation"] != "off":
        walls.harden()
    try:
        host, info = _load(request["host"], request["parameters"])
        if walls.SECCOMP in isolation.layers and not getattr(host, "sockets", False):
            walls.seal(accepting=getattr(host, "listens", False))
    except BaseException as error:  # noqa: BLE001 (the parent is told, whatever it was)
        # llama.cpp logs from a thread of its own: without a pause the reason would be lost.
        time.sleep(0.1)
        channel.send(0, "failed", _text(error))
        os._exit(1)
    channel.send_json("ready", info)
    return host


def _load(name: str, parameters: dict[str, Any]) -> tuple[WorkerHost, dict[str, Any]]:
    module, _, attribute = name.partition(":")
    __import__(module)
    host: WorkerHost = getattr(sys.modules[module], attribute)()
    return host, host.load(parameters)


def _run(
    host: WorkerHost,
    channel: _Channel,
    calls: dict[int, _RunningCall],
    call: _RunningCall,
    frame: WorkerFrame,
) -> None:
    try:
        host.handle(frame.kind.removeprefix("call/"), frame.body, call.emit)
        kind, body = "end", b""
    except BaseException as error:  # noqa: BLE001 (a thread must always report)
        refusal = getattr(error, "body", None)
        if isinstance(refusal, bytes):
            kind, body = "refused", refusal
        else:
            kind, body = "error", _text(error)
    del calls[frame.id]
    channel.send(frame.id, kind, body)


def _text(error: BaseException) -> bytes:
    return f"{type(error).__name__}: {error}".encode(errors="replace")[:4096]


if __name__ == "__main__":
    main()
