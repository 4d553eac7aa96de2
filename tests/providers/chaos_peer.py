"""A peer on loopback that speaks HTTP/1.1 by hand, and misbehaves on purpose.

It keeps each request it got, byte for byte, and whether it had begun to answer or had dropped it
so that nobody can know: after that, the same request must never come again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MANNERS: dict[str, "Manner"] = {}
"""By name: how a request is treated."""
REFUSALS = ("429", "429 after", "500", "503", "529")
"""Manners that say no, after which the same request may come again."""


@dataclass
class Got:
    """One request: `raw` is head and body as they came. `settled` forbids another try."""

    raw: bytes
    manner: str = ""
    settled: bool = True

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()


@dataclass
class Wire:
    """The connection, for a manner."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: bytes
    """The stream of server-sent events that a peer in order would answer."""

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def stream(self) -> None:
        """The head of an answer in events."""
        await self.head(content_type="text/event-stream", transfer_encoding="chunked",
                        x_request_id="req_1")  # fmt: skip

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def refuse(self, status: str, **headers: str) -> None:
        body = b'{"error": {"message": "no", "type": "test"}}'
        await self.head(status, content_type="application/json",
                        content_length=str(len(body)), **headers)  # fmt: skip
        await self.send(body)

    def drop(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Until the other side has left."""
        while await self.reader.read(1 << 16):
            pass


Manner = Callable[[Wire], Awaitable[None]]


@dataclass
class Peer:
    """`base` is its address; `answer` as in `Wire`; `plan(got)` names the manner for a request."""

    base: str = ""
    answer: bytes = b""
    plan: Callable[[Got], str] = lambda got: "fine"
    got: list[Got] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the other side of a connection that a manner watched has left."""
    connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError):
            self.left.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        got = Got(head + await reader.readexactly(length))
        self.got.append(got)
        got.manner = self.plan(got)
        got.settled = got.manner not in REFUSALS
        await MANNERS[got.manner](Wire(reader, writer, self.answer))
        if reader.at_eof():
            self.left.set()
        return not (writer.is_closing() or reader.at_eof())

    def twice(self) -> list[bytes]:
        """Requests that came again after they had been answered, or dropped without a word."""
        settled: set[bytes] = set()
        found = []
        for got in self.got:
            if got.body in settled:
                found.append(got.body)
            if got.settled:
                settled.add(got.body)
        return found


@asynccontextmanager
async def peer(
    plan: Callable[[Got], str] | str = "fine", answer: bytes = b"data: hello\n\ndata: [DONE]\n\n"
) -> AsyncIterator[Peer]:
    """A peer that treats every request as `plan` says: a manner, or what names one."""
    one = Peer(answer=answer, plan=plan if callable(plan) else lambda got: plan)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    one.base = f"http://{host}:{port}"
    try:
        yield one
    finally:
        server.close()
        for task in list(one._tasks):
            task.cancel()
        await asyncio.gather(*one._tasks, return_exceptions=True)
        await server.wait_closed()


# ---- manners -------------------------------------------------------------------------------


def manner(name: str) -> Callable[[Manner], Manner]:
    def add(function: Manner) -> Manner:
        MANNERS[name] = function
        return function

    return add


@manner("fine")
async def _fine(wire: Wire) -> None:
    await wire.stream()
    half = len(wire.answer) // 2  # wherever that cuts
    await wire.chunk(wire.answer[:half])
    await wire.chunk(wire.answer[half:])
    await wire.send(b"0\r\n\r\n")


@manner("no answer")
async def _no_answer(wire: Wire) -> None:
    wire.writer.close()


@manner("reset")
async def _reset(wire: Wire) -> None:
    wire.drop()


@manner("broken off")
async def _broken_off(wire: Wire) -> None:
    await wire.stream()
    await wire.chunk(wire.answer[: len(wire.answer) // 2])
    wire.drop()


@manner("cut chunk")
async def _cut_chunk(wire: Wire) -> None:
    await wire.stream()
    await wire.send(b"ffff\r\n" + wire.answer[: len(wire.answer) // 2])
    wire.writer.close()


@manner("no last chunk")
async def _no_last_chunk(wire: Wire) -> None:
    await wire.stream()
    await wire.chunk(wire.answer[: len(wire.answer) // 2])
    wire.writer.close()


@manner("bad chunk")
async def _bad_chunk(wire: Wire) -> None:
    await wire.stream()
    await wire.send(b"zz\r\n" + wire.answer + b"\r\n")
    await wire.gone()


@manner("malformed data")
async def _malformed_data(wire: Wire) -> None:
    await wire.stream()
    await wire.chunk(b'data: {"half": \n\ndata: ]}\n\n')
    await wire.send(b"0\r\n\r\n")


@manner("half a character")
async def _half_a_character(wire: Wire) -> None:
    await wire.stream()
    await wire.chunk(b'data: {"type": "x", "text": "\xe2\x82"}\n\n')
    await wire.send(b"0\r\n\r\n")


@manner("not http")
async def _not_http(wire: Wire) -> None:
    await wire.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    await wire.gone()


@manner("slow")
async def _slow(wire: Wire) -> None:
    await asyncio.sleep(0.3)  # longer than the limit in force
    await _fine(wire)


@manner("hangs")
async def _hangs(wire: Wire) -> None:
    await wire.gone()


@manner("hangs within")
async def _hangs_within(wire: Wire) -> None:
    await wire.stream()
    await wire.chunk(wire.answer[: len(wire.answer) // 2])
    await wire.gone()


@manner("pings")
async def _pings(wire: Wire) -> None:
    await wire.stream()
    while True:
        await wire.chunk(b': still here\n\nevent: ping\ndata: {"type": "ping"}\n\n')
        await asyncio.sleep(0.005)


@manner("drips")
async def _drips(wire: Wire) -> None:
    await wire.stream()
    while True:
        await wire.chunk(b"d")
        await asyncio.sleep(0.005)


@manner("web page")
async def _web_page(wire: Wire) -> None:
    page = b"<html><body>Sign in to the network</body></html>"
    await wire.head(content_type="text/html", content_length=str(len(page)))
    await wire.send(page)


@manner("other type")
async def _other_type(wire: Wire) -> None:
    await wire.head(content_type="text/plain", content_length=str(len(wire.answer)))
    await wire.send(wire.answer)


@manner("huge line")
async def _huge_line(wire: Wire) -> None:
    await wire.stream()
    piece = b"a" * (1 << 20)
    await wire.chunk(b"data: ")
    while True:
        await wire.chunk(piece)


@manner("empty")
async def _empty(wire: Wire) -> None:
    await wire.head(content_type="text/event-stream", content_length="0")


@manner("compressed")
async def _compressed(wire: Wire) -> None:
    await wire.head(content_type="text/event-stream", content_length="4", content_encoding="gzip")
    await wire.send(b"\x1f\x8b\x08\x00")


@manner("redirect")
async def _redirect(wire: Wire) -> None:
    await wire.head("307 Temporary Redirect", location="http://elsewhere.example/v1",
                    content_length="0")  # fmt: skip


@manner("429")
async def _429(wire: Wire) -> None:
    await wire.refuse("429 Too Many Requests")


@manner("429 after")
async def _429_after(wire: Wire) -> None:
    await wire.refuse("429 Too Many Requests", retry_after="0.01")


@manner("500")
async def _500(wire: Wire) -> None:
    await wire.refuse("500 Internal Server Error")


@manner("502")
async def _502(wire: Wire) -> None:
    await wire.refuse("502 Bad Gateway")


@manner("503")
async def _503(wire: Wire) -> None:
    await wire.refuse("503 Service Unavailable", retry_after="0")


@manner("504")
async def _504(wire: Wire) -> None:
    await wire.refuse("504 Gateway Timeout")


@manner("529")
async def _529(wire: Wire) -> None:
    await wire.refuse("529 Overloaded")


ALL = tuple(sorted(MANNERS))
"""The manners of this file. Tests may add others."""
