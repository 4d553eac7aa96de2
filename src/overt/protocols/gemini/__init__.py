"""Gemini's API (``/v1``, ``/v1beta``, ``/v1alpha``): contents, counting, embeddings and models.

What is to be done is written behind the model's name, which may itself have slashes and colons:
``models/hf:org/repo:generateContent``. The last colon before a known verb ends the name.
"""

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from overt.chat import EmbedRequest, Event, ImagePart
from overt.errors import NotFound, OvertError
from overt.protocols.base import (
    BadBody,
    HttpCall,
    HttpReply,
    HttpRoute,
    ModelCard,
    Protocol,
    Stream,
)
from overt.protocols.failure import headers
from overt.protocols.gemini import answer, wire
from overt.protocols.gemini import request as asked
from overt.protocols.multiple_choices import merge

# ---- contents ------------------------------------------------------------------------------


async def act(call: HttpCall) -> HttpReply | Stream:
    """``POST /v1/models/{model}:{verb}``."""
    model, _, verb = call.params["id"].rpartition(":")
    if verb not in _VERBS or not model:
        raise NotFound(
            f"there is no method {verb[:60]!r} of models", f"choose one of {', '.join(_VERBS)}"
        )
    return await _VERBS[verb](call, _name(model))


async def generate(call: HttpCall, model: str) -> HttpReply:
    """``:generateContent``."""
    body = wire.read(call.body, wire.GenerateBody)
    telling, events, count = _prepare(call, model, body)
    return HttpReply(await answer.document(telling, events, count))


async def stream(call: HttpCall, model: str) -> Stream:
    """``:streamGenerateContent``: server-sent events with ``alt=sse``, else one list."""
    body = wire.read(call.body, wire.GenerateBody)
    telling, events, count = _prepare(call, model, body)
    framing = answer.SSE if call.query.get("alt") == "sse" else answer.LIST
    return Stream(answer.pieces(telling, events, count, framing), framing.media_type)


Asked = tuple[answer.AnswerOptions, AsyncGenerator[tuple[int, Event], None], int]


def _prepare(call: HttpCall, model: str, body: wire.GenerateBody) -> Asked:
    """How the answers are told, their events, and how many there are."""
    _same(model, body.model, "model")
    config = body.generation_config or wire.GenerationConfig()
    count = config.candidate_count or 1
    requests = [asked.request(model, body, candidate) for candidate in range(count)]
    thinking = config.thinking_config
    telling = answer.AnswerOptions(
        model,
        thoughts=bool(thinking and thinking.include_thoughts),
        top=requests[0].logprobs,
        pictures=any(
            isinstance(part, ImagePart)
            for message in requests[0].messages
            for part in message.parts
        ),
    )
    streams = [call.services.stream(call.caller, request) for request in requests]
    return telling, merge(streams), count


class GeminiTokenCount(msgspec.Struct, rename="camel"):
    total_tokens: int


async def count(call: HttpCall, model: str) -> HttpReply:
    """``:countTokens``."""
    body = wire.read(call.body, wire.GeminiCountBody)
    _same(model, body.model, "model")
    if body.generate_content_request is not None and body.contents:
        raise BadBody("contents and generateContentRequest cannot be set both", "contents")
    whole = body.generate_content_request or wire.GenerateBody(contents=body.contents or [])
    _same(model, whole.model, "generateContentRequest.model")
    request = asked.request(model, whole)
    return HttpReply(GeminiTokenCount(await call.services.count(call.caller, request)))


# ---- embeddings ----------------------------------------------------------------------------


class GeminiEmbedding(msgspec.Struct):
    values: Sequence[float]


class Embedded(msgspec.Struct):
    embedding: GeminiEmbedding


class AllEmbedded(msgspec.Struct):
    embeddings: Sequence[GeminiEmbedding]


async def embed(call: HttpCall, model: str) -> HttpReply:
    """``:embedContent``."""
    body = wire.read(call.body, wire.EmbedBody)
    _same(model, body.model, "model")
    vectors = await _embedded(call, model, [asked.text(body.content, "content")], body)
    return HttpReply(Embedded(vectors[0]))


async def embed_all(call: HttpCall, model: str) -> HttpReply:
    """``:batchEmbedContents``."""
    bodies = wire.read(call.body, wire.BatchEmbedBody).requests
    texts = []
    for at, body in enumerate(bodies):
        _same(model, body.model, f"requests[{at}].model")
        if body.output_dimensionality != bodies[0].output_dimensionality:
            raise BadBody(
                "all requests of a batch have one outputDimensionality here",
                f"requests[{at}].outputDimensionality",
            )
        texts.append(asked.text(body.content, f"requests[{at}].content"))
    return HttpReply(AllEmbedded(await _embedded(call, model, texts, bodies[0])))


async def _embedded(
    call: HttpCall, model: str, texts: Sequence[str], body: wire.EmbedBody
) -> list[GeminiEmbedding]:
    # Google cuts a text that is too long, without a word.
    request = EmbedRequest(model, tuple(texts), body.output_dimensionality, truncate=True)
    embeddings = await call.services.embed(call.caller, request)
    return [GeminiEmbedding(vector) for vector in embeddings.vectors]


# ---- models --------------------------------------------------------------------------------


class GeminiModel(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    version: str
    display_name: str
    description: str
    supported_generation_methods: Sequence[str]
    input_token_limit: int | None = None
    output_token_limit: int | None = None
    thinking: bool = False


class Models(msgspec.Struct, rename="camel", omit_defaults=True):
    models: Sequence[GeminiModel]
    next_page_token: str | None = None


async def models(call: HttpCall) -> HttpReply:
    """``GET /v1/models``: what is in the store, newest first."""
    size = call.query.get("pageSize", call.query.get("page_size", "50"))
    if not (size.isascii() and size.isdigit() and len(size) < 9):
        raise BadBody(f"Invalid value {size[:40]!r}", "pageSize")
    most = min(int(size) or 50, 1000)
    cards = list(await call.services.models(call.caller))
    start = _start(call.query.get("pageToken", call.query.get("page_token", "")), cards)
    page = cards[start : start + most]
    more = base64.urlsafe_b64encode(page[-1].id.encode()) if start + most < len(cards) else b""
    return HttpReply(Models([_model(card) for card in page], more.decode() or None))


async def model(call: HttpCall) -> HttpReply:
    """``GET /v1/models/{model}``."""
    return HttpReply(_model(await call.services.model(call.caller, _name(call.params["id"]))))


def _start(token: str, cards: Sequence[ModelCard]) -> int:
    """Where the page begins that `token` stands for: after the model it names."""
    if not token:
        return 0
    try:
        last = base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError):
        last = ""
    ids = [card.id for card in cards]
    if last not in ids:
        raise BadBody("this page token is none of this server's", "pageToken")
    return ids.index(last) + 1


def _model(card: ModelCard) -> GeminiModel:
    embeds = card.kind == "embedding"
    methods = ("generateContent", "streamGenerateContent", "countTokens")
    return GeminiModel(
        f"models/{card.id}",
        card.digest.removeprefix("sha256:")[:12],
        card.id,
        " ".join(word for word in (card.architecture, card.quantization, card.format) if word),
        ("embedContent", "batchEmbedContents") if embeds else methods,
        card.context,
        None if embeds else card.context,
        "thinking" in card.capabilities,
    )


def _name(name: str) -> str:
    return name.removeprefix("models/")


def _same(model: str, named: str | None, path: str) -> None:
    if named and _name(named) != model:
        raise BadBody(f"the model is {named[:100]!r}, and {model[:100]!r} in the address", path)


# ---- errors --------------------------------------------------------------------------------


def refuse(error: OvertError, id: str) -> HttpReply:
    """The answer to a request that failed; `id` is told in a header by the server."""
    return HttpReply(answer.error_body(error), error.status, headers(error))


_VERBS: dict[str, Callable[[HttpCall, str], Awaitable[HttpReply | Stream]]] = {
    "generateContent": generate,
    "streamGenerateContent": stream,
    "countTokens": count,
    "embedContent": embed,
    "batchEmbedContents": embed_all,
}


def _routes(version: str) -> tuple[HttpRoute, ...]:
    at = f"/{version}/models"
    return (
        HttpRoute(
            "POST",
            at + "/{id:path}",
            act,
            f"Ask a model: behind its name, :{' :'.join(_VERBS)}",
            wire.GenerateBody,
        ),
        HttpRoute("GET", at, models, "List models"),
        HttpRoute("GET", at + "/{id:path}", model, "Describe a model"),
    )


PROTOCOL = Protocol("gemini", (*_routes("v1"), *_routes("v1beta"), *_routes("v1alpha")), refuse)
