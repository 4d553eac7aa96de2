"""``POST /api/embed`` and its older form ``/api/embeddings``: texts in, vectors out."""

from typing import Any

import msgspec

from overt.chat import EmbedRequest
from overt.protocols.base import BadBody, HttpCall, HttpReply
from overt.protocols.ollama import wire
from overt.protocols.ollama.wire import KeepAlive, RequestClock

_MAX_TEXTS = 2048  # texts at once, as OpenAI has it


class OllamaEmbedBody(msgspec.Struct):
    model: str = ""
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class LegacyEmbedBody(msgspec.Struct):
    model: str = ""
    prompt: str | None = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


async def embed(call: HttpCall) -> HttpReply:
    """``POST /api/embed``."""
    clock = RequestClock()
    body = wire.body(call, OllamaEmbedBody)
    texts = [body.input] if isinstance(body.input, str) else body.input or []
    if len(texts) > _MAX_TEXTS:
        raise BadBody(f"input holds {len(texts)} texts; {_MAX_TEXTS} is the most at once", "input")
    hold = wire.hold(body.keep_alive, wire.options(body.options))
    model = await wire.find(call, body.model)
    if not texts or texts == [""]:
        await call.services.load(call.caller, model.ref, hold)
        return HttpReply({"model": body.model, "embeddings": []})
    request = EmbedRequest(
        model.ref,
        tuple(texts),
        dimensions=body.dimensions or None,
        truncate=body.truncate is not False,
    )
    made = await call.services.embed(call.caller, request, hold)
    return HttpReply(
        {
            "model": body.model,
            "embeddings": made.vectors,
            "total_duration": clock.elapsed(),
            "load_duration": 0,
            "prompt_eval_count": made.tokens,
        }
    )


async def embeddings(call: HttpCall) -> HttpReply:
    """``POST /api/embeddings``: one text, cut where it is too long."""
    body = wire.body(call, LegacyEmbedBody)
    hold = wire.hold(body.keep_alive, wire.options(body.options))
    model = await wire.find(call, body.model)
    if not body.prompt:
        await call.services.load(call.caller, model.ref, hold)
        return HttpReply({"embedding": []})
    request = EmbedRequest(model.ref, (body.prompt,), truncate=True)
    made = await call.services.embed(call.caller, request, hold)
    return HttpReply({"embedding": made.vectors[0]})
