"""REST `/api/v0`: OpenAI's bodies, with LM Studio's statistics beside them.

The bodies are read and answered by OpenAI's own modules, so that there is one reading of them. What
LM Studio adds is taken off before (``ttl``, ``max_tokens`` -1) and put on after (``stats``,
``model_info``, ``runtime``); the events pass through `WatchedServices` on their way, which takes
the times.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec

from overt.chat import (
    Done,
    Embeddings,
    EmbedRequest,
    Event,
    Request,
    Text,
    Thought,
    ToolCall,
    Usage,
)
from overt.protocols.base import (
    AS_EVER,
    BadBody,
    Caller,
    HttpCall,
    HttpReply,
    HttpRoute,
    ModelCard,
    ModelHold,
    ServicesInterface,
    Stream,
    decode,
    encode,
)
from overt.protocols.lmstudio import instances, model_info
from overt.protocols.lmstudio.instances import Instance
from overt.protocols.lmstudio.model_info import Domain
from overt.protocols.lmstudio.predict import stop_reason
from overt.protocols.openai import chat, completions, messages
from overt.protocols.openai import embeddings as openai_embeddings
from overt.protocols.openai.wire import DONE

Create = Callable[[HttpCall], Awaitable[HttpReply | Stream]]

# ---- models --------------------------------------------------------------------------------


async def list_models(call: HttpCall) -> HttpReply:
    """``GET /api/v0/models``."""
    cards = await call.services.models(call.caller)
    rows = [_row(call, card) for card in cards if model_info.domain(card)]
    return HttpReply({"object": "list", "data": rows})


async def show_model(call: HttpCall) -> HttpReply:
    """``GET /api/v0/models/{model}``."""
    card = await instances.find(call.services, call.caller, call.params["model"])
    return HttpReply(_row(call, card))


def _context(call: HttpCall, card: ModelCard) -> int | None:
    """Tokens that the loaded model holds; None where it is not loaded."""
    which = card.digest or card.id
    for loaded in call.services.loaded():
        if (loaded.card.digest or loaded.card.id) == which:
            return loaded.context
    return None


def _row(call: HttpCall, card: ModelCard) -> dict[str, object]:
    context = _context(call, card)
    row: dict[str, object] = {
        "id": card.id,
        "object": "model",
        "type": "embeddings" if card.kind == "embedding" else card.kind,
        "publisher": model_info.publisher(card),
        "arch": card.architecture,
        "compatibility_type": card.format,
        "quantization": card.quantization,
        "state": "not-loaded" if context is None else "loaded",
        "max_context_length": card.context or 0,
    }
    if context is not None:
        row["loaded_context_length"] = context
    return row


# ---- answers -------------------------------------------------------------------------------


class RestStats(msgspec.Struct):
    tokens_per_second: float
    time_to_first_token: float
    generation_time: float
    stop_reason: str


class RestExtras(msgspec.Struct):
    """What LM Studio takes beside OpenAI's fields."""

    model: str
    ttl: float | None = None


@dataclass(slots=True)
class WatchedServices:
    """`ServicesInterface` of one call, which note when its events came."""

    services: Any
    instance: Instance
    first: float = 0.0
    ended: float = 0.0
    written: int = 0
    seconds: float = 0.0
    done: Done | None = None
    most: int | None = None
    begun: float = field(default_factory=time.perf_counter)

    async def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        self.most = request.max_tokens
        hold = self.instance.hold if hold == AS_EVER else hold
        async with aclosing(self.services.stream(caller, request, hold)) as events:
            async for event in events:
                if not self.first and _says(event):
                    self.first = time.perf_counter()
                elif type(event) is Usage:
                    self.written += event.tokens_out
                    self.seconds += event.decode_seconds
                elif type(event) is Done:
                    self.done, self.ended = event, time.perf_counter()
                yield event

    async def embed(
        self, caller: Caller, request: EmbedRequest, hold: ModelHold = AS_EVER
    ) -> Embeddings:
        hold = self.instance.hold if hold == AS_EVER else hold
        embeddings: Embeddings = await self.services.embed(caller, request, hold)
        return embeddings

    def __getattr__(self, name: str) -> Any:
        """Whatever else OpenAI's handlers ask for is as it was."""
        return getattr(self.services, name)

    def stats(self) -> RestStats:
        first, ended = self.first or self.begun, self.ended or time.perf_counter()
        seconds = self.seconds or max(ended - first, 0.0)
        return RestStats(
            tokens_per_second=self.written / seconds if seconds else 0.0,
            time_to_first_token=first - self.begun,
            generation_time=seconds,
            stop_reason=stop_reason(self.done or Done("stop"), self.written, self.most),
        )


def _says(event: Event) -> bool:
    """Whether it is a piece of the answer."""
    return isinstance(event, ToolCall) or (isinstance(event, Text | Thought) and event.text != "")


async def _taken_over(call: HttpCall, domain: Domain) -> tuple[HttpCall, WatchedServices]:
    """The call as OpenAI's modules take it."""
    request = call.read(RestExtras)
    body = decode(call.body, dict[str, Any])
    instance = await instances.resolve(call.services, call.caller, request.model, domain)
    body["model"] = instance.card.id
    if body.pop("ttl", None) is not None:
        if request.ttl is None or request.ttl < 0:
            raise BadBody(f"ttl is {request.ttl}; it is seconds, 0 or more", "ttl")
        body["keep_alive"] = request.ttl
    body.pop("draft_model", None)  # speculative decoding changes no answer
    if body.get("max_tokens") == -1:
        del body["max_tokens"]  # LM Studio's word for as many as fit
    watched = WatchedServices(call.services, instance)
    inner = replace(call, services=cast(ServicesInterface, watched), body=encode(body))
    return inner, watched


def _extras(call: HttpCall, watched: WatchedServices) -> dict[str, Any]:
    card = watched.instance.card
    return {
        "stats": watched.stats(),
        "model_info": {
            "arch": card.architecture,
            "quant": card.quantization,
            "format": card.format,
            "context_length": _context(call, card) or card.context or 0,
        },
        "runtime": {
            "name": "overt",
            "version": call.services.version,
            "supported_formats": ["gguf"],
        },
    }


def _answering(create: Create) -> Callable[[HttpCall], Awaitable[HttpReply | Stream]]:
    """A handler of OpenAI's as one of LM Studio's."""

    async def answer(call: HttpCall) -> HttpReply | Stream:
        inner, watched = await _taken_over(call, "llm")
        result = await create(inner)
        if isinstance(result, Stream):
            result.chunks = _with_stats(call, watched, result.chunks)
            return result
        result.content = {**msgspec.structs.asdict(result.content), **_extras(call, watched)}
        return result

    return answer


async def _with_stats(
    call: HttpCall, watched: WatchedServices, chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """OpenAI's chunks, and one more before the last, without choices, that holds the statistics."""
    head: dict[str, Any] | None = None
    async with aclosing(chunks):
        async for piece in chunks:
            if head is None:
                head = _head(piece)
            elif piece == DONE and watched.done is not None:
                yield b"data: " + encode({**head, **_extras(call, watched)}) + b"\n\n"
            yield piece


def _head(piece: bytes) -> dict[str, Any]:
    """What all chunks of an answer say alike, from the first of them."""
    line = piece.partition(b"\n\n")[0].removeprefix(b"data: ")
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        fields = {}
    same: dict[str, Any] = {
        name: fields[name] for name in ("id", "object", "created", "model") if name in fields
    }
    return {**same, "choices": []}


async def embeddings(call: HttpCall) -> HttpReply:
    """``POST /api/v0/embeddings``."""
    inner, _ = await _taken_over(call, "embedding")
    return await openai_embeddings.embed(inner)


ROUTES = (
    HttpRoute("GET", "/api/v0/models", list_models, "List all models"),
    HttpRoute("GET", "/api/v0/models/{model:path}", show_model, "One model"),
    HttpRoute(
        "POST",
        "/api/v0/chat/completions",
        _answering(chat.create),
        "OpenAI's chat, with statistics",
        messages.ChatCompletionBody,
    ),
    HttpRoute(
        "POST",
        "/api/v0/completions",
        _answering(completions.create),
        "OpenAI's completions, with statistics",
        completions.CompletionsBody,
    ),
    HttpRoute(
        "POST",
        "/api/v0/embeddings",
        embeddings,
        "OpenAI's embeddings",
        openai_embeddings.EmbeddingsBody,
    ),
)
