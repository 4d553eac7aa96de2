"""OpenAI's endpoints that keep something, in this process, over `echo:`; whoever asks has a key."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from open_gate import OpenGate
from overt.gateway.exchange import Exchange
from overt.protocols.base import Caller
from overt.protocols.openai import PROTOCOL
from overt.server.api import Api
from overt.server.records import RecordStore
from overt.server.routing import RoutingTable
from overt.server.services import Services
from overt.settings import load


@dataclass
class World:
    """One server's life. `client` asks as ``anne`` unless the header ``x-key`` says otherwise."""

    client: httpx2.AsyncClient
    services: Services
    records: RecordStore

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON answered, which must be a success."""
        answer = await self.client.request(method, path, json=body, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """The status and the error answered."""
        answer = await self.client.request(method, path, json=body)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["error"]

    async def events(self, method: str, path: str, body: Any = None) -> list[dict[str, Any]]:
        """The events of a stream, each checked to be named as what it is."""
        answer = await self.client.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return read(answer.content)


def read(stream: bytes) -> list[dict[str, Any]]:
    found = []
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


class _ByHeader(OpenGate):
    def admit(self, scope: Mapping[str, Any]) -> Caller:
        return Caller(dict(scope["headers"]).get(b"x-key", b"anne").decode())


@asynccontextmanager
async def world(home: Path) -> AsyncIterator[World]:
    """A server over `home`; another one afterwards finds what it kept."""
    settings = load({"OVERT_HOME": str(home)})
    records = RecordStore(home / "records.db")
    services = Services(Exchange(settings), None, records, home / "files", "0")
    app = Api(RoutingTable((PROTOCOL,)), services, _ByHeader())
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        try:
            yield World(client, services, records)
        finally:
            await services.close()
            await records.close()
