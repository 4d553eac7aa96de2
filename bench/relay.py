"""Passes bytes on between a client and a server, and looks at none of them.

    python bench/relay.py PORT BEHIND

The least that a process of Python can do in between, on the event loop that `overt serve` uses:
what it costs is the machine's price of waking up, reading and writing.
"""

import asyncio
import sys
from typing import Any

import uvloop


class Half(asyncio.Protocol):
    """One of the two connections; `other` is where its bytes go."""

    def __init__(self, behind: int = 0) -> None:
        self.behind = behind
        self.other: Half | None = None
        self.transport: Any = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.behind:
            self.task = asyncio.get_running_loop().create_task(self.joined())

    async def joined(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(Half, "127.0.0.1", self.behind)
        self.other.other = self
        for data in self.early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def main() -> None:
    port, behind = map(int, sys.argv[1:3])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Half(behind), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
