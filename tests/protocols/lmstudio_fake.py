"""A server for LM Studio's protocols without models: `echo:` answers, whatever is asked of it.

`Fake` is a `Services` whose models are cards; `app` puts it behind the real application, and `Line`
is a socket's client in the same event loop.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from open_gate import OpenGate
from overt.chat import EmbedRequest, Event, Request
from overt.errors import BadRef, ModelNotFound, NoKey
from overt.protocols.base import AS_EVER, NOBODY, Caller, LoadedModelInfo, ModelCard, ModelHold
from overt.protocols.lmstudio import PROTOCOL
from overt.ref import parse
from overt.runtime.echo import Echo
from overt.server.api import Api
from overt.server.routing import RoutingTable

KEY = "sk-lm-abcd1234:0123456789abcdefghij"
OWNER = Caller("abcd1234", "somebody")

CARDS = (
    ModelCard(
        "smollm2", "sha256:11", 98_362_432, 1.0, architecture="llama", families=("llama",),
        parameters=134_515_008, quantization="Q4_1", context=8192, publisher="HuggingFaceTB",
        capabilities=("completion", "tools"),
    ),
    ModelCard(
        "text-embedding-nomic-embed-text-v1.5", "sha256:22", 80_000_000, 2.0, kind="embedding",
        architecture="nomic-bert", quantization="F16", context=2048, embedding=768,
        publisher="nomic-ai", capabilities=("embedding",),
    ),
    ModelCard(
        "hf:ZiangWu/MobileVLM_V2-1.7B-GGUF", "sha256:33", 1 << 30, 3.0, kind="vlm",
        architecture="llama", parameters=1_364_000_000, quantization="Q4_K_M", context=2048,
        publisher="ZiangWu", capabilities=("completion", "vision", "thinking"),
    ),
    ModelCard("sorter", "sha256:44", 1000, 4.0, kind="rerank"),
)  # fmt: skip


class Records:
    """In memory; nobody sees what belongs to another key."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[str, bytes]] = {}

    async def put(
        self, kind: str, id: str, owner: Caller, body: bytes, *, expires: float | None = None
    ) -> None:
        assert expires is None or expires > time.time()
        self.kept[kind, id] = (owner.key, body)

    async def get(self, kind: str, id: str, owner: Caller) -> bytes | None:
        key, body = self.kept.get((kind, id), (None, None))
        return body if key == owner.key else None


@dataclass
class Step:
    what: str
    done: int
    total: int | None


class Library:
    """Pulls are three steps of one file."""

    def __init__(self) -> None:
        self.pulled: list[str] = []
        self.gate: asyncio.Event | None = None
        self.stopped = 0

    async def pull(self, ref: str) -> AsyncGenerator[Step, None]:
        if ref.startswith("hf:nobody/"):
            raise ModelNotFound(f"there is no {ref}", "look again")
        try:
            for done in (0, 50, 100):
                yield Step("weights.gguf", done, 100)
                if self.gate is not None:
                    await self.gate.wait()
            self.pulled.append(ref)
        except (GeneratorExit, asyncio.CancelledError):
            self.stopped += 1
            raise


class Fake:
    """`keys` makes a key necessary. `mode` is what the echo engine does (see runtime/echo.py)."""

    version = "1.2.3"

    def __init__(self, mode: str = "", *, keys: bool = False) -> None:
        self.records = Records()
        self.library = Library()
        self.engine = Echo(mode)
        self.keys = keys
        self.cards = list(CARDS)
        self.memory: dict[str, LoadedModelInfo] = {}
        self.asked: list[tuple[Caller, Request, ModelHold]] = []
        self.embedded: list[EmbedRequest] = []
        self.holds: list[ModelHold] = []
        self.streams = 0  # that are open now
        self.gate: asyncio.Event | None = None  # what loading waits for
        self.tasks: set[asyncio.Future[None]] = set()

    def of(self, observed: object) -> "Fake":
        return self

    def dispatch_with(self, dispatch: object) -> None:
        pass

    async def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        self.asked.append((caller, request, hold))
        self.streams += 1
        try:
            async for event in self.engine.stream(request):
                yield event
        finally:
            self.streams -= 1

    async def embed(self, caller: Caller, request: EmbedRequest, hold: ModelHold = AS_EVER) -> Any:
        self.embedded.append(request)
        return await self.engine.embed(request)

    async def render(self, caller: Caller, request: Request) -> str:
        return await self.engine.render(request)

    async def tokenize(
        self, caller: Caller, model: str, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        return {"[CLS]": (101,), "[SEP]": (102,)}.get(text) or await self.engine.tokenize(text)

    async def models(self, caller: Caller) -> Sequence[ModelCard]:
        return self.cards

    async def model(self, caller: Caller, ref: str) -> ModelCard:
        parsed = parse(ref)
        if parsed.scheme == "path":
            raise BadRef("a client may not name a file of the server")
        for card in self.cards:
            if card.id == ref:
                return card
        raise ModelNotFound(f"{ref} is not here")

    def loaded(self) -> Sequence[LoadedModelInfo]:
        return list(self.memory.values())

    async def load(self, caller: Caller, ref: str, hold: ModelHold = AS_EVER) -> LoadedModelInfo:
        self.holds.append(hold)
        if self.gate is not None:
            await self.gate.wait()
        card = await self.model(caller, ref)
        expires = time.time() + (300.0 if hold.keep_alive is None else hold.keep_alive)
        loaded = LoadedModelInfo(
            card, 1000, hold.context or card.context or 0, 4, expires, 0, time.time()
        )
        return self.memory.setdefault(card.digest, loaded)

    async def unload(self, caller: Caller, ref: str) -> bool:
        card = await self.model(caller, ref)
        return self.memory.pop(card.digest, None) is not None

    def busy(self, ref: str) -> None:
        """Somebody uses it now."""
        for digest, loaded in self.memory.items():
            if loaded.card.id == ref:
                self.memory[digest] = replace(loaded, busy=1)

    def identify(self, secret: str | None) -> Caller:
        if secret == KEY:
            return OWNER
        if self.keys or secret is not None:
            raise NoKey("a key is needed", "`overt keys add` makes one")
        return NOBODY

    def background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def app(fake: Fake) -> Api:
    return Api(RoutingTable((PROTOCOL,)), fake, OpenGate())


@asynccontextmanager
async def client(fake: Fake) -> Any:
    """An httpx2 client of the application."""
    import httpx2

    transport = httpx2.ASGITransport(app=app(fake))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


class Closed(Exception):
    """The server closed the socket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Line:
    """A client's end of a socket."""

    def __init__(self) -> None:
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._left = False

    async def receive(self) -> dict[str, Any]:
        return await self._to.get()

    async def deliver(self, message: dict[str, Any]) -> None:
        if self._left:
            raise OSError("the client is gone")
        await self._from.put(message)

    def say_raw(self, **message: Any) -> None:
        self._to.put_nowait({"type": "websocket.receive", **message})

    def say(self, value: Any) -> None:
        self.say_raw(text=json.dumps(value))

    def leave(self) -> None:
        self._left = True
        self._to.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def hear(self) -> Any:
        """The next frame; raises Closed."""
        while True:
            message = await asyncio.wait_for(self._from.get(), 20)
            if message["type"] == "websocket.close":
                raise Closed(message["code"], message.get("reason", ""))
            if message["type"] == "websocket.send":
                return json.loads(message["text"])

    def call(self, endpoint: str, parameter: Any = None, id: int = 1) -> None:
        frame = {"type": "rpcCall", "endpoint": endpoint, "callId": id}
        self.say(frame if parameter is None else {**frame, "parameter": parameter})

    async def ask(self, endpoint: str, parameter: Any = None, id: int = 1) -> Any:
        """A call's answer: the whole frame."""
        self.call(endpoint, parameter, id)
        return await self.hear()

    def open(self, endpoint: str, parameter: Any = None, id: int = 1) -> None:
        frame = {"type": "channelCreate", "endpoint": endpoint, "channelId": id}
        self.say({**frame, "creationParameter": parameter})

    def cancel(self, id: int = 1) -> None:
        self.say({"type": "channelSend", "channelId": id, "message": {"type": "cancel"}})

    async def packets(self) -> tuple[list[Any], Any]:
        """All packets of a channel, and the frame that ends it."""
        told = []
        while True:
            frame = await self.hear()
            if frame["type"] != "channelSend":
                return told, frame
            told.append(frame["message"])


HELLO = {"authVersion": 1, "clientIdentifier": "me", "clientPasskey": "secret word"}


@asynccontextmanager
async def line(fake: Fake, name: str, hello: Any = HELLO, headers: Any = ()) -> Any:
    """A greeted socket `/name`; when it is left, the server must have ended its side too."""
    opened = Line()
    scope = {
        "type": "websocket", "path": f"/{name}", "raw_path": f"/{name}".encode(),
        "headers": [(b"host", b"127.0.0.1"), *headers], "query_string": b"", "scheme": "ws",
        "subprotocols": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    opened.say_raw(type="websocket.connect")
    task = asyncio.ensure_future(app(fake)(scope, opened.receive, opened.deliver))
    try:
        if hello is not None:
            opened.say(hello)
            answer = await opened.hear()
            assert answer == {"success": True}, answer
        yield opened
    finally:
        opened.leave()
        await asyncio.wait_for(task, 20)


# ---- what clients say ----------------------------------------------------------------------

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501


TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}


def query(name: str) -> dict:
    return {"type": "query", "query": {"identifier": name}}


def stack(**fields: object) -> dict:
    """Settings; a double underscore stands for a dot."""
    said = [
        {"key": "llm.prediction." + k.replace("__", "."), "value": v} for k, v in fields.items()
    ]
    return {"layers": [{"layerName": "apiOverride", "config": {"fields": said}}]}


def predict(text: str, model: str = "smollm2", **fields: object) -> dict:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return {
        "modelSpecifier": query(model),
        "history": {"messages": messages},
        "predictionConfigStack": stack(**fields),
    }


def text_of(packets: list) -> str:
    return "".join(p["fragment"]["content"] for p in packets if p["type"] == "fragment")
