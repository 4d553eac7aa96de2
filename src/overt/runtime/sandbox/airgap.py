"""Proof on this very machine that a worker cannot get out: `overt airgap --prove`.

The parent puts out bait (listeners, a file, a secret in its own memory), starts a worker exactly as
for a model, has it try every way out (probe.py), and looks itself at what the kernel shows of that
process and at whether any listener heard anything.
"""

import asyncio
import ctypes
import os
import secrets
import socket
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from overt.errors import EngineFailed
from overt.runtime.sandbox import walls
from overt.runtime.sandbox.probe import Bait
from overt.runtime.sandbox.walls import Isolation
from overt.runtime.worker.supervisor import Worker, WorkerSpec

OUTSIDE = "1.1.1.1"  # a public resolver: where nothing is denied, it gets one empty connection
_SHOWN = ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm")


class ConnectionAttempt(TypedDict):
    """One way out: whether the kernel denied it, and in which words."""

    what: str
    denied: bool
    how: str


@dataclass(frozen=True, slots=True)
class AirgapProof:
    """What came of it.

    Attributes:
        ok: every attempt was denied, and the parent heard nothing.
        attempts: each way out that was tried.
        isolation: the walls around that worker.
        evidence: what the parent saw for itself, one sentence each.
    """

    ok: bool
    attempts: tuple[ConnectionAttempt, ...]
    isolation: Isolation
    evidence: tuple[str, ...]


@dataclass(slots=True)
class _Listeners:
    """Counts what reaches the parent's listeners."""

    heard: list[str] = field(default_factory=list)

    def server(self, name: str) -> Any:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heard.append(name)
            writer.close()

        return connected

    def datagrams(self, name: str) -> type[asyncio.DatagramProtocol]:
        heard = self.heard

        class Heard(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                heard.append(name)

        return Heard


async def prove(
    isolation: str, layers: tuple[str, ...] = walls.LAYERS, outside: str = OUTSIDE
) -> AirgapProof:
    """Start a worker with `isolation` (as in Settings) and have it try to get out.

    `layers` are the walls to put up and `outside` is the address to try beyond this machine; tests
    leave some walls out, and then try an address that is not.

    Raises:
        NoIsolation: ``full`` was asked for and this machine lacks a layer.
        EngineFailed, WorkerDied: the worker did not get as far as trying.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overt-")))
        ears = _Listeners()
        secret = ctypes.create_string_buffer(b"a secret in the parent's memory")
        bait = (await _bait(stack, ears, folder, secret))._replace(outside=outside)
        spec = WorkerSpec(
            host="overt.runtime.sandbox.probe:AirgapProbe",
            parameters=bait._asdict(),
            isolation=isolation,
            label="the airgap probe",
            environ={"RES_OPTIONS": "timeout:1 attempts:1"},
            layers=layers,
        )
        worker = await Worker.start(spec, folder / "run", timeout=30)
        stack.push_async_callback(worker.stop)
        attempts = tuple([_attempt(chunk) async for chunk in worker.call("probe", b"")])
        evidence = [_kernel(worker.pid), _network(worker.pid)]
        await asyncio.sleep(0.05)  # for what is on its way to arrive
        heard = ", ".join(sorted(set(ears.heard))) or "nothing"
        evidence.append(f"the parent's own listeners heard {heard}")
        ok = bool(attempts) and all(attempt["denied"] for attempt in attempts) and not ears.heard
        return AirgapProof(ok, attempts, worker.isolation, tuple(line for line in evidence if line))


async def _bait(
    stack: AsyncExitStack, ears: _Listeners, folder: Path, secret: "ctypes.Array[ctypes.c_char]"
) -> Bait:
    loop = asyncio.get_running_loop()

    async def tcp(host: str) -> int:
        with suppress(OSError):
            server = await asyncio.start_server(ears.server(f"TCP {host}"), host, 0)
            stack.push_async_callback(_close, server)
            return int(server.sockets[0].getsockname()[1])
        return 0

    udp, _ = await loop.create_datagram_endpoint(
        ears.datagrams("UDP 127.0.0.1"), local_addr=("127.0.0.1", 0)
    )
    stack.callback(udp.close)
    name = stream = datagram = ""
    if hasattr(socket, "AF_UNIX"):
        name, stream, datagram = f"overt-{secrets.token_hex(8)}", "stream.sock", "datagram.sock"
        for where in (f"\0{name}", str(folder / stream)):
            unix = await asyncio.start_unix_server(ears.server("UNIX socket"), where)
            stack.push_async_callback(_close, unix)
        end, _ = await loop.create_datagram_endpoint(
            ears.datagrams("UNIX message"), str(folder / datagram), family=socket.AF_UNIX
        )
        stack.callback(end.close)
    hidden = folder / "secret"
    hidden.write_text("a file of yours")
    address = _outward()
    return Bait(
        parent=os.getpid(),
        tcp=await tcp("127.0.0.1"),
        tcp6=await tcp("::1"),
        udp=udp.get_extra_info("sockname")[1],
        address=address,
        tcp_outward=await tcp(address) if address else 0,
        abstract=name,
        stream=str(folder / stream),
        datagram=str(folder / datagram),
        secret=str(hidden),
        elsewhere=str(folder / "written"),
        memory=ctypes.addressof(secret),
        size=len(secret),
    )


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


def _outward() -> str:
    """This machine's address towards the outside; "" where it has none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        try:
            end.connect(("192.0.2.1", 9))  # an address of RFC 5737; connecting UDP sends no packet
            return str(end.getsockname()[0])
        except OSError:
            return ""


def _attempt(chunk: bytes) -> ConnectionAttempt:
    import json

    try:
        result = json.loads(chunk)
        return ConnectionAttempt(
            what=str(result["what"]), denied=result["denied"] is True, how=str(result["how"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EngineFailed("the airgap probe sent what cannot be read") from None


def _kernel(pid: int) -> str:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        shown = [" ".join(line.split()) for line in lines if line.split(":")[0] in _SHOWN]
        return f"/proc/{pid}/status shows {', '.join(shown)}"
    return ""


def _network(pid: int) -> str:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        names = ", ".join(line.split(":")[0].strip() for line in lines)
        return f"/proc/{pid}/net/dev shows only {names}" if names else ""
    return ""
