"""Ollama's handlers without a server: services that answer with the events a test gives them."""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from overt.chat import Embeddings, EmbedRequest, Event, Request
from overt.errors import ModelNotFound, OvertError, Unsupported
from overt.protocols.base import (
    AS_EVER,
    NOBODY,
    Caller,
    HttpCall,
    HttpReply,
    LoadedModelInfo,
    ModelCard,
    ModelHold,
    Stream,
)
from overt.protocols.ollama import PROTOCOL
from overt.runtime.echo import Echo

HANDLERS = {(route.method, route.path): route.handler for route in PROTOCOL.routes}

THINKER = ModelCard(
    "thinker", "sha256:" + "a" * 64, 1000, 1_700_000_000.5, architecture="llama",
    families=("llama",), parameters=134_515_008, quantization="Q4_1", context=8192, embedding=576,
    capabilities=("completion", "tools", "thinking", "vision"),
)  # fmt: skip
PLAIN = ModelCard("plain", "sha256:" + "b" * 64, 1, 1.0, capabilities=("completion",))
VECTORS = ModelCard(
    "vectors", "sha256:" + "c" * 64, 1, 2.0, "embedding", capabilities=("embedding",)
)


@dataclass
class Shelf:
    """A library with three models and nothing behind it."""

    cards: dict[str, ModelCard] = field(
        default_factory=lambda: {card.id: card for card in (THINKER, PLAIN, VECTORS)}
    )

    async def card(self, *refs: str) -> ModelCard:
        for ref in refs:
            if ref in self.cards:
                return self.cards[ref]
        raise ModelNotFound(f"{refs[0]} is not in the store")

    async def fill(self, template: str, messages: Sequence[Any]) -> str:
        return template + json.dumps(messages)


class Desk:
    """Services: `events` (or an error) come from every stream, `echo:` models repeat."""

    version = "9.9"
    records: Any = None

    def __init__(self, events: Sequence[Event] | OvertError = ()) -> None:
        self.library = Shelf()
        self.events = events
        self.asked: list[Request] = []
        self.embedded: list[EmbedRequest] = []
        self.held: list[ModelHold] = []
        self.closed = 0
        self.unloaded: list[str] = []
        self.tokens = True

    async def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        self.held.append(hold)
        if isinstance(self.events, OvertError):
            raise self.events
        try:
            if request.model.startswith("echo:"):
                async for event in Echo(request.model[5:]).stream(request):
                    yield event
            for event in self.events:
                yield event
        finally:
            self.closed += 1

    async def embed(
        self, caller: Caller, request: EmbedRequest, hold: ModelHold = AS_EVER
    ) -> Embeddings:
        self.embedded.append(request)
        self.held.append(hold)
        return Embeddings(tuple((1.0, 0.0) for _ in request.inputs), 7)

    async def render(self, caller: Caller, request: Request) -> str:
        return "".join(f"<{message.role}>{message.text}" for message in request.messages)

    async def tokenize(
        self, caller: Caller, model: str, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        if not self.tokens:
            raise Unsupported("this engine does not show its tokens")
        return tuple(map(ord, text))

    async def detokenize(self, caller: Caller, model: str, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    async def models(self, caller: Caller) -> Sequence[ModelCard]:
        return list(self.library.cards.values())

    def loaded(self) -> Sequence[LoadedModelInfo]:
        return [LoadedModelInfo(THINKER, 5000, 2048, 1, float("inf"), 0, 1.0)]

    async def load(self, caller: Caller, ref: str, hold: ModelHold = AS_EVER) -> LoadedModelInfo:
        self.held.append(hold)
        return LoadedModelInfo(self.library.cards.get(ref, PLAIN), 1, 1, 1, 1.0, 0, 1.0)

    async def unload(self, caller: Caller, ref: str) -> bool:
        self.unloaded.append(ref)
        return True

    # ---- asking ----------------------------------------------------------------------------

    async def raw(
        self, path: str, body: bytes | dict[str, Any] = b"", method: str = "POST", **params: str
    ) -> HttpReply | Stream:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        call = HttpCall(
            self,  # type: ignore[arg-type]
            NOBODY, "req_1", method, path, params, {}, {}, data,
        )  # fmt: skip
        answer: HttpReply | Stream = await HANDLERS[method, path](call)
        return answer

    async def ask(self, path: str, body: dict[str, Any] | bytes = b"", method: str = "POST") -> Any:
        """The body of a whole answer."""
        answer = await self.raw(path, body, method)
        assert isinstance(answer, HttpReply)
        assert answer.status == 200
        return json.loads(answer.body())

    async def lines(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines of a streamed one."""
        answer = await self.raw(path, body)
        assert isinstance(answer, Stream)
        assert answer.media_type == "application/x-ndjson"
        text = b"".join([chunk async for chunk in answer.chunks])
        assert text.endswith(b"\n")
        return [json.loads(line) for line in text.splitlines()]
