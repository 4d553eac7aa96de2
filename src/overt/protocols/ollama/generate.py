"""``POST /api/generate``: a prompt in, text out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from overt.chat import Answer, ImagePart, Message, Part, Request, TextPart
from overt.errors import OvertError
from overt.protocols import media
from overt.protocols.base import BadBody, HttpCall, HttpReply, ModelHold, Stream
from overt.protocols.ollama import answer, wire
from overt.protocols.ollama.wire import GenerationBody, OllamaModel, RequestClock


class Generate(GenerationBody):
    """A request. `context` is what an earlier answer ended with."""

    prompt: str | None = None
    suffix: str | None = None
    images: list[str] | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None


async def generate(call: HttpCall) -> HttpReply | Stream:
    """``POST /api/generate``; without a prompt it loads the model, or lets it go."""
    clock = RequestClock()
    body = wire.body(call, Generate)
    chosen = wire.options(body.options)
    hold = wire.hold(body.keep_alive, chosen)
    model = await wire.find(call, body.model)
    if not body.prompt and not body.images and not body.suffix:
        done = await wire.loaded(call, model, hold)
        return HttpReply({"model": body.model, "created_at": wire.now(), "response": "", **done})
    request = await _request(call, body, model, chosen)
    if body.only_render:
        return HttpReply(await _rendered(call, body, request))
    return await _answered(call, body, request, hold, clock)


async def _answered(
    call: HttpCall, body: Generate, request: Request, hold: ModelHold, clock: RequestClock
) -> HttpReply | Stream:
    form = answer.ResponseForm(body.model, _body)

    async def finish(whole: Answer) -> dict[str, Any]:
        return {} if body.raw else await _context(call, request, whole.text)

    events = call.services.stream(call.caller, request, hold)
    return await answer.answered(body, request, events, form, clock, finish)


def _body(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {"response": text}
    if thought:
        fields["thinking"] = thought
    if calls:
        fields["tool_calls"] = calls
    return fields


async def _request(
    call: HttpCall, body: Generate, model: OllamaModel, chosen: wire.OllamaOptions
) -> Request:
    """What is asked of the engine.

    Raises:
        BadBody: parts of it exclude each other.
        FormatError: a template that is refused.
    """
    request = wire.request(body, model, chosen)
    images = tuple(
        media.from_base64(text, f"images[{n}]") for n, text in enumerate(body.images or ())
    )
    prompt = body.prompt or ""
    if body.raw:
        if body.template or body.system or body.context:
            raise BadBody("raw mode does not support template, system, or context", "raw")
        _no_images(images, "raw mode")
        return replace(request, prompt=prompt, suffix=body.suffix)
    if body.suffix:
        if body.template or body.context:
            raise BadBody("a suffix goes neither with a template nor with a context", "suffix")
        _no_images(images, "a suffix")
        return replace(request, prompt=prompt, suffix=body.suffix)
    if body.template:
        _no_images(images, "a template of your own")
        text = await wire.library(call).fill(body.template, _plain(body))
        request = replace(request, prompt=text)
    else:
        request = replace(request, messages=_messages(body, prompt, images))
    if body.context:
        _no_images(images, "a context")
        return await _continued(call, request, body.context)
    return request


def _messages(body: Generate, prompt: str, images: tuple[ImagePart, ...]) -> tuple[Message, ...]:
    parts: tuple[Part, ...] = (*images, *((TextPart(prompt),) if prompt else ()))
    system = (Message.of("system", body.system),) if body.system else ()
    return (*system, Message("user", parts))


def _plain(body: Generate) -> list[dict[str, object]]:
    system: list[dict[str, object]] = (
        [{"role": "system", "content": body.system}] if body.system else []
    )
    return [*system, {"role": "user", "content": body.prompt or ""}]


def _no_images(images: Sequence[ImagePart], what: str) -> None:
    if images:
        raise BadBody(f"{what} and images exclude each other: leave one of them out", "images")


# ---- context -------------------------------------------------------------------------------


async def _continued(call: HttpCall, request: Request, context: Sequence[int]) -> Request:
    """`request` after the tokens of an earlier conversation.

    Raises:
        Unsupported: the engine shows no tokens.
    """
    text = await _text(call, request)
    tokens = await call.services.tokenize(call.caller, request.model, text)
    return replace(request, messages=(), prompt=(*context, *tokens))


async def _context(call: HttpCall, request: Request, text: str) -> dict[str, Any]:
    """The tokens of prompt and answer, to go on from; none where the engine shows no tokens."""
    tokenize = call.services.tokenize
    with suppress(OvertError):
        if isinstance(request.prompt, tuple):
            more = await tokenize(call.caller, request.model, text)
            return {"context": [*request.prompt, *more]}
        before = await _text(call, request)
        return {"context": list(await tokenize(call.caller, request.model, before + text))}
    return {}


async def _text(call: HttpCall, request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return await call.services.render(call.caller, request)


async def _rendered(call: HttpCall, body: Generate, request: Request) -> dict[str, Any]:
    if isinstance(request.prompt, tuple):
        text = await call.services.detokenize(call.caller, request.model, request.prompt)
    else:
        text = await _text(call, request)
    info: dict[str, Any] = {"rendered_template": text}
    if body.images:
        info["image_count"] = len(body.images)
    return {
        "model": body.model,
        "created_at": wire.now(),
        "response": "",
        "done": False,
        "_debug_info": info,
    }
