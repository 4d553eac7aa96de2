"""One protocol without a server: its routes, over services that play what a test writes down."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from overt.chat import Done, Embeddings, EmbedRequest, Event, Failed, Progress, Request, Text, Usage
from overt.errors import ContextExceeded, ModelNotFound, OvertError, Unsupported
from overt.protocols.base import (
    AS_EVER,
    NOBODY,
    Caller,
    HttpCall,
    HttpReply,
    ModelCard,
    ModelHold,
    Protocol,
)
from overt.runtime.echo import Echo
from overt.server.records import RecordStore
from overt.server.routing import RoutingTable

CARDS = (
    ModelCard("hf:org/repo", "sha256:" + "2" * 64, 9, 1_750_000_000, kind="vlm", context=4096,
         capabilities=("completion", "vision", "thinking")),
    ModelCard("smollm2", "sha256:" + "0" * 64, 98, 1_700_000_000.5, context=8192,
         capabilities=("completion", "tools")),
    ModelCard("minilm", "sha256:" + "1" * 64, 20, 1_600_000_000, kind="embedding", context=512),
)  # fmt: skip

ANSWER: tuple[Event, ...] = (
    Progress(7, 7), Text("Hello"), Text(" you"), Usage(7, 2, 3), Done("stop"),
)  # fmt: skip


@dataclass
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes
    media_type: str = ""
    pieces: Sequence[bytes] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def sse(self) -> list[tuple[str, Any]]:
        """Server-sent events: (name, data)."""
        found = []
        for block in self.body.decode().split("\n\n"):
            if block:
                fields = dict(line.split(": ", 1) for line in block.split("\n"))
                found.append((fields.get("event", ""), json.loads(fields["data"])))
        return found


@dataclass
class Services:
    """`base.Services`: what `script` says for a request, the echo engine without one."""

    home: Path
    script: Callable[[Request], Sequence[Event | OvertError]] | None = None
    asked: list[Any] = field(default_factory=list)
    held: list[ModelHold] = field(default_factory=list)
    dispatched: list[tuple[str, str, Any]] = field(default_factory=list)
    open: int = 0
    version: str = "1.2.3"
    cards: Sequence[ModelCard] = CARDS
    number: float = 0.5  # what the first vector is made of
    table: RoutingTable | None = None
    work: list[Awaitable[None]] = field(default_factory=list)

    @property
    def files(self) -> Path:
        return self.home / "files"

    @cached_property
    def records(self) -> RecordStore:
        return RecordStore(self.home / "records.db")

    async def close(self) -> None:
        if "records" in self.__dict__:
            await self.records.close()

    async def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        self.held.append(hold)
        self.open += 1
        begun = False
        try:
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    begun = True
                    yield event
        except OvertError as error:
            if not begun:
                raise
            yield Failed(error.code, error.message, error.hint)
        finally:
            self.open -= 1

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        if self.script is not None:
            for event in self.script(request):
                if isinstance(event, OvertError):
                    raise event
                yield event
            return
        scheme, _, mode = request.model.partition(":")
        if scheme != "echo":
            raise ModelNotFound(f"there is no model {request.model}", "overt list")
        async with aclosing(Echo(mode).stream(request)) as events:
            async for event in events:
                yield event

    async def embed(
        self, caller: Caller, request: EmbedRequest, hold: ModelHold = AS_EVER
    ) -> Embeddings:
        self.asked.append(request)
        length = request.dimensions or 3
        vectors = tuple((self.number * (i + 1),) * length for i in range(len(request.inputs)))
        return Embeddings(vectors, sum(len(text) for text in request.inputs))

    async def count(self, caller: Caller, request: Request) -> int:
        self.asked.append(request)
        if request.model == "echo:uncounted":
            raise Unsupported("echo does not count tokens ahead")
        return sum(len(message.text.split()) for message in request.messages)

    async def models(self, caller: Caller) -> Sequence[ModelCard]:
        return self.cards

    async def model(self, caller: Caller, ref: str) -> ModelCard:
        for card in self.cards:
            if card.id == ref:
                return card
        raise ModelNotFound(f"there is no model {ref}", "overt list")

    def elsewhere(self, model: str) -> bool:
        return False

    async def dispatch(
        self, caller: Caller, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        self.dispatched.append((method, path, json.loads(body)))
        assert self.table is not None
        answered = await ask(self, self.table.protocols[0], method, path, body, caller=caller)
        return answered.status, answered.body

    def background(self, work: Awaitable[None]) -> None:
        self.work.append(work)

    async def run(self) -> None:
        """Do what was left for the background."""
        while self.work:
            await self.work.pop(0)


async def ask(
    services: Services,
    protocol: Protocol,
    method: str,
    address: str,
    body: Any = b"",
    *,
    headers: Mapping[str, str] | None = None,
    caller: Caller = NOBODY,
    leave_after: int | None = None,
) -> Answered:
    """What `protocol` answers; anything but a Reply, a Stream or an OvertError is a defect.

    `leave_after` has the client leave after so many pieces.
    """
    services.table = table = RoutingTable([protocol])
    path, _, query = address.partition("?")
    found = table.find(method, path, headers or {})
    assert found is not None, f"no route for {method} {path}"
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    queried = dict(pair.split("=", 1) for pair in query.split("&")) if query else {}
    call = HttpCall(
        services, caller, "req_1", method, path, found.params, queried, headers or {}, raw
    )  # fmt: skip
    try:
        result = await found.route.handler(call)
        if isinstance(result, HttpReply):
            return Answered(result.status, result.headers, result.body(), result.media_type)
        pieces = []
        async with aclosing(result.chunks) as chunks:
            async for piece in chunks:
                pieces.append(piece)
                if len(pieces) == leave_after:
                    break
    except OvertError as error:
        reply = protocol.refuse(error, call.id)
        return Answered(reply.status, reply.headers, reply.body(), reply.media_type)
    return Answered(200, result.headers, b"".join(pieces), result.media_type, pieces)


def mutated(bodies: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Bodies a little, or quite, unlike those a client sends."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    anything = st.recursive(
        scalars | st.sampled_from(list(_words(bodies))),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(list(_words(bodies))), inner, max_size=4)
        ),
        max_leaves=12,
    )

    @st.composite
    def changed(draw: st.DrawFn) -> Any:
        body = json.loads(json.dumps(draw(st.sampled_from(list(bodies)))))
        for _ in range(draw(st.integers(1, 3))):
            places = list(_places(body))
            holder, key = draw(st.sampled_from(places))
            act = draw(st.sampled_from(("replace", "drop", "add")))
            if act == "replace":
                holder[key] = draw(anything)
            elif act == "drop":
                del holder[key]
            elif isinstance(holder, dict):
                holder[draw(st.sampled_from(list(_words(bodies))) | st.text(max_size=5))] = draw(
                    anything
                )
            if not body:
                break
        return body

    return changed() | anything


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _words(bodies: Sequence[Any]) -> dict[str, None]:
    """Every name and word in `bodies`, in order."""
    found: dict[str, None] = {}
    for body in bodies:
        for holder, key in _places(body):
            if isinstance(key, str):
                found[key] = None
            if isinstance(holder[key], str):
                found[holder[key]] = None
    return found


def errors() -> Iterator[OvertError]:
    """One of every class of errors.py."""
    waiting: list[type[OvertError]] = [OvertError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__ == OvertError.__module__:
            yield ContextExceeded(9000, 8192) if kind is ContextExceeded else kind("went wrong")
        waiting += kind.__subclasses__()
