"""A provider's server that keeps every byte it is sent and answers with what it was told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Got:
    """One request, as it came over the wire."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


@dataclass
class Peer:
    """What to answer: `pieces` follow the head one by one, as chunks of their own."""

    port: int = 0
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    got: list[Got] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    state = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head.rstrip().split("\r\n")
            headers = {k.lower(): v for k, _, v in (one.partition(": ") for one in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            state.got.append(Got(line, headers, body))
            told = "".join(f"{name}: {value}\r\n" for name, value in state.headers.items())
            writer.write(
                f"HTTP/1.1 {state.status}\r\n{told}connection: close\r\n"
                "transfer-encoding: chunked\r\n\r\n".encode()
            )
            for piece in state.pieces:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        await server.wait_closed()
