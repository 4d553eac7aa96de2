"""``POST /api/generate``: a prompt in, text out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from overt.chat import Answer, ImagePart, Message, Part, Request, TextPart
from overt.errors import OvertError
from overt.protocols import media
from overt.protocols.base import BadBody, Call, Hold, Reply, Stream
from overt.protocols.ollama import answer, wire
from overt.protocols.ollama.wire import Asked, Clock, Found


class Generate(Asked):
    """A request. `context` is what an earlier answer ended with."""

    prompt: str | None = None
    suffix: str | None = None
    images: list[str] | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None


async def generate(call: Call) -> Reply | Stream:
    """``POST /api/generate``; without a prompt it loads the model, or lets it go."""
    clock = Clock()
    asked = wire.body(call, Generate)
    chosen = wire.options(asked.options)
    hold = wire.hold(asked.keep_alive, chosen)
    found = await wire.find(call, asked.model)
    if not asked.prompt and not asked.images and not asked.suffix:
        done = await wire.loaded(call, found, hold)
        return Reply({"model": asked.model, "created_at": wire.now(), "response": "", **done})
    request = await _request(call, asked, found, chosen)
    if asked.only_render:
        return Reply(await _rendered(call, asked, request))
    return await _answered(call, asked, request, hold, clock)


async def _answered(
    call: Call, asked: Generate, request: Request, hold: Hold, clock: Clock
) -> Reply | Stream:
    form = answer.Form(asked.model, _body)

    async def finish(whole: Answer) -> dict[str, Any]:
        return {} if asked.raw else await _context(call, request, whole.text)

    events = call.services.stream(call.caller, request, hold)
    return await answer.answered(asked, request, events, form, clock, finish)


def _body(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"response": text}
    if thought:
        found["thinking"] = thought
    if calls:
        found["tool_calls"] = calls
    return found


async def _request(call: Call, asked: Generate, found: Found, chosen: wire.Options) -> Request:
    """What is asked of the engine.

    Raises:
        BadBody: parts of it exclude each other.
        FormatError: a template that is refused.
    """
    request = wire.request(asked, found, chosen)
    images = tuple(
        media.from_base64(text, f"images[{n}]") for n, text in enumerate(asked.images or ())
    )
    prompt = asked.prompt or ""
    if asked.raw:
        if asked.template or asked.system or asked.context:
            raise BadBody("raw mode does not support template, system, or context", "raw")
        _no_images(images, "raw mode")
        return replace(request, prompt=prompt, suffix=asked.suffix)
    if asked.suffix:
        if asked.template or asked.context:
            raise BadBody("a suffix goes neither with a template nor with a context", "suffix")
        _no_images(images, "a suffix")
        return replace(request, prompt=prompt, suffix=asked.suffix)
    if asked.template:
        _no_images(images, "a template of your own")
        text = await wire.library(call).fill(asked.template, _plain(asked))
        request = replace(request, prompt=text)
    else:
        request = replace(request, messages=_messages(asked, prompt, images))
    if asked.context:
        _no_images(images, "a context")
        return await _continued(call, request, asked.context)
    return request


def _messages(asked: Generate, prompt: str, images: tuple[ImagePart, ...]) -> tuple[Message, ...]:
    parts: tuple[Part, ...] = (*images, *((TextPart(prompt),) if prompt else ()))
    system = (Message.of("system", asked.system),) if asked.system else ()
    return (*system, Message("user", parts))


def _plain(asked: Generate) -> list[dict[str, object]]:
    system: list[dict[str, object]] = (
        [{"role": "system", "content": asked.system}] if asked.system else []
    )
    return [*system, {"role": "user", "content": asked.prompt or ""}]


def _no_images(images: Sequence[ImagePart], what: str) -> None:
    if images:
        raise BadBody(f"{what} and images exclude each other: leave one of them out", "images")


# ---- context -------------------------------------------------------------------------------


async def _continued(call: Call, request: Request, context: Sequence[int]) -> Request:
    """`request` after the tokens of an earlier conversation.

    Raises:
        Unsupported: the engine shows no tokens.
    """
    text = await _text(call, request)
    tokens = await call.services.tokenize(call.caller, request.model, text)
    return replace(request, messages=(), prompt=(*context, *tokens))


async def _context(call: Call, request: Request, text: str) -> dict[str, Any]:
    """The tokens of prompt and answer, to go on from; none where the engine shows no tokens."""
    tokenize = call.services.tokenize
    with suppress(OvertError):
        if isinstance(request.prompt, tuple):
            more = await tokenize(call.caller, request.model, text)
            return {"context": [*request.prompt, *more]}
        before = await _text(call, request)
        return {"context": list(await tokenize(call.caller, request.model, before + text))}
    return {}


async def _text(call: Call, request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return await call.services.render(call.caller, request)


async def _rendered(call: Call, asked: Generate, request: Request) -> dict[str, Any]:
    if isinstance(request.prompt, tuple):
        text = await call.services.detokenize(call.caller, request.model, request.prompt)
    else:
        text = await _text(call, request)
    info: dict[str, Any] = {"rendered_template": text}
    if asked.images:
        info["image_count"] = len(asked.images)
    return {
        "model": asked.model,
        "created_at": wire.now(),
        "response": "",
        "done": False,
        "_debug_info": info,
    }
