"""The models themselves: list, show, pull, push, create, copy, delete, and files for new ones."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from hashlib import sha256
from typing import Any

import msgspec

from overt.errors import BadRequest, NotFound, OvertError, Refused, Unsupported
from overt.protocols.base import NDJSON, BadBody, HttpCall, HttpReply, ModelCard, Stream
from overt.protocols.ollama import names, wire
from overt.protocols.ollama.wire import ModelDetailsInterface, ProgressInterface

# ---- what is here --------------------------------------------------------------------------


async def tags(call: HttpCall) -> HttpReply:
    """``GET /api/tags``."""
    cards = await call.services.models(call.caller)
    return HttpReply({"models": [_listed(card) for card in cards]})


async def ps(call: HttpCall) -> HttpReply:
    """``GET /api/ps``."""
    models = [
        {
            **_name_fields(loaded.card),
            "size": loaded.memory,
            "digest": _hex(loaded.card.digest),
            "details": _details(loaded.card),
            "expires_at": wire.moment(loaded.expires),
            "size_vram": 0,
            "context_length": loaded.context,
        }
        for loaded in call.services.loaded()
    ]
    return HttpReply({"models": models})


def _listed(card: ModelCard) -> dict[str, Any]:
    return {
        **_name_fields(card),
        "modified_at": wire.moment(card.modified),
        "size": card.size,
        "digest": _hex(card.digest),
        "details": _details(card),
        "capabilities": card.capabilities,
    }


def _name_fields(card: ModelCard) -> dict[str, str]:
    shown = names.shown(card.id)
    return {"name": shown, "model": shown}


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _details(card: ModelCard) -> dict[str, Any]:
    value: dict[str, Any] = {
        "parent_model": "",
        "format": card.format,
        "family": card.architecture,
        "families": card.families or None,
        "parameter_size": _human(card.parameters),
        "quantization_level": card.quantization,
    }
    if card.context:
        value["context_length"] = card.context
    if card.embedding:
        value["embedding_length"] = card.embedding
    return value


def _human(count: int | None) -> str:
    """As format.HumanNumber there: ``134.52M``, ``1.2B``, ``7B``."""
    if not count:
        return ""
    for size, unit, places in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else places}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


# ---- show ----------------------------------------------------------------------------------


class Show(msgspec.Struct):
    model: str = ""
    name: str = ""
    verbose: bool | None = None
    system: str | None = None
    template: str | None = None


async def show(call: HttpCall) -> HttpReply:
    """``POST /api/show``."""
    body = wire.body(call, Show)
    if not (name := body.model or body.name):
        raise BadBody("model is required", "model")
    model = await wire.find(call, name)
    if model.card is None:
        raise names.not_found(name)  # it is elsewhere, or built in: there is no file to show
    details = await wire.library(call).show(model.ref, verbose=bool(body.verbose))
    return HttpReply(_show_body(details, body))


def _show_body(details: ModelDetailsInterface, body: Show) -> dict[str, Any]:
    card = details.card
    details_body: dict[str, Any] = {
        "modelfile": details.modelfile,
        "parameters": "\n".join(_lines(details.parameters)),
        "template": body.template or details.template,
        "system": body.system or details.system,
        "license": details.licence,
        "details": _details(card),
        "model_info": details.metadata,
        "capabilities": card.capabilities,
        "modified_at": wire.moment(card.modified),
        **details.said,
    }
    if details.messages:
        details_body["messages"] = [
            {"role": role, "content": text} for role, text in details.messages
        ]
    if details.projector:
        details_body["projector_info"] = details.projector
    if details.tensors:
        details_body["tensors"] = [
            {"name": name, "type": kind, "shape": shape} for name, kind, shape in details.tensors
        ]
    return {name: value for name, value in details_body.items() if value not in ("", None)}


def _lines(parameters: Mapping[str, Any]) -> list[str]:
    """``stop   "<|im_end|>"``, one line a value."""
    return [
        f"{name:<30} {msgspec.json.encode(item).decode()}"
        for name, value in parameters.items()
        for item in (value if isinstance(value, list) else [value])
    ]


# ---- long work -----------------------------------------------------------------------------


class Pull(msgspec.Struct):
    model: str = ""
    name: str = ""
    insecure: bool | None = None  # changes nothing: https always, except to this machine itself
    stream: bool | None = None


async def pull(call: HttpCall) -> HttpReply | Stream:
    """``POST /api/pull``."""
    body = wire.body(call, Pull)
    refs = names.candidates(_required(body.model or body.name))
    steps = wire.library(call).pull(*refs)
    return await _progress(steps, "pulling", "pulling manifest", body.stream)


async def push(call: HttpCall) -> HttpReply | Stream:
    """``POST /api/push``: to an OCI registry."""
    body = wire.body(call, Pull)
    name = _required(body.model or body.name)
    target = names.target(name)
    model = await wire.find(call, name)
    steps = wire.library(call).push(model.ref, target)
    return await _progress(steps, "pushing", "retrieving manifest", body.stream)


class CreateModelBody(msgspec.Struct):
    model: str = ""
    name: str = ""
    stream: bool | None = None
    base: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    draft_files: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[dict[str, Any]] | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    quantize: str | None = None
    draft_quantize: str | None = None
    remote_host: str | None = None


async def create(call: HttpCall) -> HttpReply | Stream:
    """``POST /api/create``."""
    body = wire.body(call, CreateModelBody)
    name = names.place(_required(body.model or body.name))
    if body.quantize or body.draft_quantize:
        raise Unsupported(
            "this server does not quantize", "send the model in the quantization you want"
        )
    if body.remote_host:
        raise Unsupported("this server keeps no models of other servers", "leave out remote_host")
    steps = wire.library(call).create(
        name,
        base=await _base(call, body.base) if body.base else "",
        files=body.files,
        adapters=body.adapters,
        drafts=body.draft_files,
        commands=_commands(body),
    )
    return await _progress(steps, "reading", "gathering model components", body.stream)


async def _base(call: HttpCall, name: str) -> str:
    """The ref to build on: what is here of that name, else what a pull of it would bring."""
    refs = names.candidates(name)
    try:
        return (await wire.library(call).card(*refs)).id
    except NotFound:
        return refs[0]


def _commands(body: CreateModelBody) -> list[tuple[str, str, str]]:
    """The commands of a Modelfile: word, key, value."""
    commands: list[tuple[str, str, str]] = []
    for word in ("template", "system", "renderer", "parser", "requires"):
        if (value := getattr(body, word)) is not None:
            commands.append((word, "", value))
    for name, value in (body.parameters or {}).items():
        for item in value if isinstance(value, list) else [value]:
            commands.append(("parameter", name, _parameter(name, item)))
    for number, message in enumerate(body.messages or ()):
        role, text = message.get("role"), message.get("content", "")
        if role not in ("system", "user", "assistant") or not isinstance(text, str):
            raise BadBody("a message needs a role and a text", f"messages[{number}]")
        commands.append(("message", str(role), text))
    licences = [body.license] if isinstance(body.license, str) else body.license or []
    return [*commands, *(("license", "", text) for text in licences)]


def _parameter(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise BadBody(f"the parameter {name[:40]} is no text or number", f"parameters.{name[:40]}")


def _required(name: str) -> str:
    if not name:
        raise BadBody("model is required", "model")
    return name


async def _progress(
    steps: AsyncGenerator[ProgressInterface, None], verb: str, first: str, stream: bool | None
) -> HttpReply | Stream:
    if stream is False:
        notices = []
        async with aclosing(steps):
            async for step in steps:
                if _is_word(step):
                    notices.append(step.what)
        # Ollama says "success" and nothing else; clients leave out what they do not know.
        return HttpReply({"status": "success", **({"notices": notices} if notices else {})})
    return Stream(_lined(steps, verb, first), NDJSON)


async def _lined(
    steps: AsyncGenerator[ProgressInterface, None], verb: str, first: str
) -> AsyncGenerator[bytes, None]:
    """Progress line by line. What goes wrong before the first word about it is raised."""
    begun = False
    async with aclosing(steps):
        try:
            async for step in steps:
                if not begun:
                    yield wire.line({"status": first})
                begun = True
                yield wire.line(_step(step, verb))
        except OvertError as error:
            if not begun:
                raise
            yield wire.failure(error)
            return
    if not begun:  # it was all there
        yield wire.line({"status": first})
    yield wire.line({"status": "success"})


def _is_word(step: ProgressInterface) -> bool:
    """Whether a step is something to know, and no part on its way."""
    return step.total is None and not step.done


def _step(step: ProgressInterface, verb: str) -> dict[str, Any]:
    """One word about a job. A part has a digest: clients keep a bar for each.

    Where the origin states none, the digest of the part's name stands in.
    """
    if _is_word(step):
        return {"status": step.what}
    digest = step.digest or "sha256:" + sha256(step.what.encode()).hexdigest()
    return {
        "status": f"{verb} {digest[7:19] if step.digest else step.what}",
        "digest": digest,
        "total": step.total if step.total is not None else step.done,
        "completed": step.done,
    }


# ---- small work ----------------------------------------------------------------------------


class Copy(msgspec.Struct):
    source: str = ""
    destination: str = ""


async def copy(call: HttpCall) -> HttpReply:
    """``POST /api/copy``."""
    body = wire.body(call, Copy)
    place = names.place(body.destination)
    model = await wire.find(call, body.source)
    if model.card is None:
        raise Unsupported(f"{body.source[:200]} is no model of the store", "copy another")
    await wire.library(call).copy(model.ref, place)
    return HttpReply(b"")


class Delete(msgspec.Struct):
    model: str = ""
    name: str = ""


async def delete(call: HttpCall) -> HttpReply:
    """``DELETE /api/delete``; weights that have no other name leave memory too."""
    body = wire.body(call, Delete)
    model = await wire.find(call, _required(body.model or body.name))
    if model.card is None:
        raise Unsupported(f"{model.ref} is no model of the store", "delete another")
    cards = await call.services.models(call.caller)
    if not any(c.digest == model.card.digest and c.id != model.ref for c in cards):
        await call.services.unload(call.caller, model.ref)
    await wire.library(call).delete(model.ref)
    return HttpReply(b"")


async def has_blob(call: HttpCall) -> HttpReply:
    """``HEAD /api/blobs/{digest}``."""
    if await wire.library(call).has_blob(call.params["digest"]):
        return HttpReply(b"")
    raise NotFound("no such file here", "send it with POST")


async def put_blob(call: HttpCall) -> HttpReply:
    """``POST /api/blobs/{digest}``."""
    digest = call.params["digest"]
    library = wire.library(call)
    if call.chunks is None:
        raise BadRequest("a file is sent as the body of a request", "POST it")
    if await library.has_blob(digest):
        return HttpReply(b"")
    await library.put_blob(digest, call.chunks)
    return HttpReply(b"", 201)


# ---- what only Ollama's own servers have ------------------------------------------------------


def no_cloud(what: str) -> Callable[[HttpCall], Any]:
    """A handler that says, as Ollama without its cloud does, that there is none."""

    async def handler(call: HttpCall) -> HttpReply:
        raise Refused(f"ollama cloud is disabled: {what}")

    return handler
