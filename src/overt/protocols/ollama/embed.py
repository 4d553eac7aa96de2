"""``POST /api/embed`` and its older form ``/api/embeddings``: texts in, vectors out."""

from typing import Any

import msgspec

from overt.chat import EmbedRequest
from overt.protocols.base import BadBody, Call, Reply
from overt.protocols.ollama import wire
from overt.protocols.ollama.wire import Clock, KeepAlive

_MOST = 2048  # texts at once, as OpenAI has it


class Embed(msgspec.Struct):
    model: str = ""
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class Embeddings(msgspec.Struct):
    model: str = ""
    prompt: str | None = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


async def embed(call: Call) -> Reply:
    """``POST /api/embed``."""
    clock = Clock()
    asked = wire.body(call, Embed)
    given = [asked.input] if isinstance(asked.input, str) else asked.input or []
    if len(given) > _MOST:
        raise BadBody(f"input holds {len(given)} texts; {_MOST} is the most at once", "input")
    hold = wire.hold(asked.keep_alive, wire.options(asked.options))
    found = await wire.find(call, asked.model)
    if not given or given == [""]:
        await call.services.load(call.caller, found.ref, hold)
        return Reply({"model": asked.model, "embeddings": []})
    request = EmbedRequest(
        found.ref,
        tuple(given),
        dimensions=asked.dimensions or None,
        truncate=asked.truncate is not False,
    )
    made = await call.services.embed(call.caller, request, hold)
    return Reply(
        {
            "model": asked.model,
            "embeddings": made.vectors,
            "total_duration": clock.elapsed(),
            "load_duration": 0,
            "prompt_eval_count": made.tokens,
        }
    )


async def embeddings(call: Call) -> Reply:
    """``POST /api/embeddings``: one text, cut where it is too long."""
    asked = wire.body(call, Embeddings)
    hold = wire.hold(asked.keep_alive, wire.options(asked.options))
    found = await wire.find(call, asked.model)
    if not asked.prompt:
        await call.services.load(call.caller, found.ref, hold)
        return Reply({"embedding": []})
    request = EmbedRequest(found.ref, (asked.prompt,), truncate=True)
    made = await call.services.embed(call.caller, request, hold)
    return Reply({"embedding": made.vectors[0]})
