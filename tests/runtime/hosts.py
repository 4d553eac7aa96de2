"""Hosts that tests load into real workers; each does one thing a native engine might do."""

# ruff: noqa: PTH108, PTH109, PTH115, PTH123, PTH208, PTH211  (a worker does what C would do, by system call)

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from overt.runtime.worker.frames import HostError, pack

Emit = Callable[[bytes], bool]


class Host:
    """Does what `kind` says; a method ``kind_NAME`` for each."""

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if say := parameters.get("print"):
            print(say, file=sys.stderr, flush=True)
            os.write(1, b"what native code prints on standard output\n")
        match parameters.get("load"):
            case "raise":
                raise RuntimeError("Failed to init server, please check the input params.")
            case "abort":
                os.abort()
            case "exit":
                os._exit(3)
            case "sleep":
                time.sleep(60)
            case "lie":
                os.write(int(sys.argv[2]), pack(0, "ready", b"[" * 100_000))
                time.sleep(60)
        return {"given": parameters}

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        getattr(self, f"kind_{kind}")(body, emit)

    def kind_echo(self, body: bytes, emit: Emit) -> None:
        emit(body)

    def kind_count(self, body: bytes, emit: Emit) -> None:
        for number in range(int(body)):
            if emit(str(number).encode()):
                return

    def kind_slow(self, body: bytes, emit: Emit) -> None:
        """Counts every 10 ms and listens to cancellation."""
        for number in range(int(body)):
            if emit(str(number).encode()):
                return
            time.sleep(0.01)

    def kind_stubborn(self, body: bytes, emit: Emit) -> None:
        """One chunk, and then native code that never looks up."""
        emit(b"begun")
        time.sleep(60)

    def kind_abort(self, body: bytes, emit: Emit) -> None:
        emit(b"some text")
        line = b"/build/src/llama-vocab.cpp:2665: GGML_ASSERT(a == b) failed\n"
        os.write(2, line)
        os.abort()

    def kind_segfault(self, body: bytes, emit: Emit) -> None:
        ctypes.string_at(8)

    def kind_exit(self, body: bytes, emit: Emit) -> None:
        os._exit(int(body))

    def kind_refuse(self, body: bytes, emit: Emit) -> None:
        raise HostError(body)

    def kind_raise(self, body: bytes, emit: Emit) -> None:
        raise ValueError(body.decode())

    def kind_big(self, body: bytes, emit: Emit) -> None:
        """As many chunks of 64 KiB as `body` says; the last chunk is how long it took, in s."""
        begun = time.monotonic()
        for _ in range(int(body)):
            if emit(bytes(65536)):
                return
        emit(str(time.monotonic() - begun).encode())

    def kind_raw(self, body: bytes, emit: Emit) -> None:
        """What compromised code would do: write to the parent past every rule."""
        os.write(int(sys.argv[2]), body)
        time.sleep(60)

    def kind_flood(self, body: bytes, emit: Emit) -> None:
        """Chunks for call 1 without regard for the window."""
        while True:
            os.write(int(sys.argv[2]), pack(1, "chunk", bytes(65536)))

    def kind_shut(self, body: bytes, emit: Emit) -> None:
        """Shut the socket both ways, and stay."""
        os._exit = lambda _: time.sleep(60)  # type: ignore[assignment,return-value]
        ctypes.CDLL(None).shutdown(int(sys.argv[2]), 2)
        time.sleep(60)

    def kind_eat(self, body: bytes, emit: Emit) -> None:
        """Take memory until the limit, as C++ would report it."""
        try:
            held = [bytearray(8 << 20) for _ in range(int(body))]
            emit(str(len(held)).encode())
        except MemoryError:
            os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
            os.abort()

    def kind_facts(self, body: bytes, emit: Emit) -> None:
        """Environment, descriptors and limits, one line each."""
        for name, value in os.environ.items():
            emit(f"env {name}={value}".encode())
        for number in os.listdir("/proc/self/fd"):
            try:
                emit(f"fd {number} {os.readlink(f'/proc/self/fd/{number}')}".encode())
            except OSError:
                continue
        emit(f"cwd {os.getcwd()}".encode())
        emit(f"path {sys.path}".encode())

    def kind_files(self, body: bytes, emit: Emit) -> None:
        """Read each path named, one a line; write into the private folder."""
        for path in body.decode().splitlines():
            try:
                with open(path, "rb") as file:
                    emit(b"read " + file.read(5))
            except OSError as error:
                emit(type(error).__name__.encode())
        with open("mine", "w") as file:
            file.write("x")
        emit(str(os.listdir(".")).encode())

    def kind_deaf(self, body: bytes, emit: Emit) -> None:
        """Ignore SIGTERM from now on (by C, as signal.signal is for the main thread)."""
        ctypes.CDLL(None).signal(15, ctypes.c_void_p(1))

    def kind_threads(self, body: bytes, emit: Emit) -> None:
        threads = [threading.Thread(target=emit, args=(b"from a thread",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def plain(name: str) -> str:
    """What asking for a socket of this family comes to."""
    import socket

    try:
        socket.socket(getattr(socket, name)).close()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "opened"


class Sockets(Host):
    """Reports which sockets native code could open while loading, and afterwards."""

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: plain(name) for name in ("AF_INET", "AF_UNIX")}

    def kind_sockets(self, body: bytes, emit: Emit) -> None:
        emit(plain(body.decode()).encode())


class KeepsSockets(Sockets):
    sockets = True


class Listens(Sockets):
    """Answers HTTP on `engine.sock`, well or badly, as the path says."""

    listens = True

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        import socket

        listener = socket.socket(socket.AF_UNIX)
        listener.bind("engine.sock")
        listener.listen()
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        return {}

    def _serve(self, listener: Any) -> None:
        while True:
            end, _ = listener.accept()
            threading.Thread(target=self._answer, args=(end,), daemon=True).start()

    def _answer(self, end: Any) -> None:
        with end, end.makefile("rb") as asked:
            _, path, _ = asked.readline().split()
            length = 0
            while (line := asked.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = asked.read(length)
            match path:
                case b"/echo":
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
                    end.sendall(head + body)
                case b"/raw":
                    end.sendall(body)
                case b"/silent":
                    time.sleep(60)
                case b"/die":
                    os._exit(3)

    def kind_point(self, body: bytes, emit: Emit) -> None:
        """Have the name of the listener lead elsewhere."""
        os.unlink("engine.sock")
        os.symlink(body, "engine.sock")

    def kind_file(self, body: bytes, emit: Emit) -> None:
        os.unlink("engine.sock")
        with open("engine.sock", "wb"):
            pass
