"""The OpenAI family of endpoints on ``/v1``: the wire that most programs speak."""

import msgspec

from overt.errors import Unsupported
from overt.protocols.base import Call, Card, Protocol, Reply, Route
from overt.protocols.openai import (
    batches,
    chat,
    completions,
    conversations,
    embeddings,
    files,
    responses,
    tokens,
)
from overt.protocols.openai.completions import CompletionsBody
from overt.protocols.openai.embeddings import EmbeddingsBody, RerankBody
from overt.protocols.openai.messages import ChatBody
from overt.protocols.openai.wire import refuse

# ---- models --------------------------------------------------------------------------------


class Model(msgspec.Struct):
    id: str
    created: int
    owned_by: str
    object: str = "model"


class ModelList(msgspec.Struct):
    data: list[Model]
    object: str = "list"


class Deleted(msgspec.Struct):
    id: str
    deleted: bool = True
    object: str = "model"


def _model(card: Card) -> Model:
    return Model(card.id, int(card.modified), card.publisher or "library")


async def models(call: Call) -> Reply:
    """``GET /v1/models``: what is in the store."""
    return Reply(ModelList([_model(card) for card in await call.services.models(call.caller)]))


async def model(call: Call) -> Reply:
    """``GET /v1/models/{id}``."""
    return Reply(_model(await call.services.model(call.caller, call.params["id"])))


async def delete(call: Call) -> Reply:
    """``DELETE /v1/models/{id}``: drops the name, and the files no other name needs."""
    id = call.params["id"]
    await call.services.unload(call.caller, id)
    await call.services.library.delete(id)
    return Reply(Deleted(id))


# ---- what no model here does ---------------------------------------------------------------


async def moderations(call: Call) -> Reply:
    """``POST /v1/moderations``: needs a guard model.

    Raises:
        Unsupported: always, until one can be installed.
    """
    raise Unsupported("no guard model is installed, so nothing is moderated here")


# ---- the table -----------------------------------------------------------------------------

_RERANK = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank")
_CHAT = Route("POST", "/v1/chat/completions", chat.create, "Answer a chat", ChatBody)
_COMPLETIONS = "/v1/completions"

ROUTES: tuple[Route, ...] = (
    _CHAT,
    *(
        Route("POST", path, completions.create, "Continue a text", CompletionsBody)
        for path in (_COMPLETIONS, f"/of/{{model:path}}{_COMPLETIONS}")
    ),
    Route("POST", "/v1/embeddings", embeddings.embed, "Make vectors", EmbeddingsBody),
    *(Route("POST", path, embeddings.rerank, "Rank documents", RerankBody) for path in _RERANK),
    Route("GET", "/v1/models", models, "List models"),
    Route("GET", "/v1/models/{id:path}", model, "One model"),
    Route("DELETE", "/v1/models/{id:path}", delete, "Delete a model"),
    Route("POST", "/v1/moderations", moderations, "Judge a text (needs a guard model)"),
    *(
        route
        for of in ("", "/of/{model:path}")
        for route in (
            Route(
                "POST",
                f"{of}/tokenize",
                tokens.tokenize,
                "Tokens of a text",
                tokens.TokenizeBody,
            ),
            Route(
                "POST",
                f"{of}/detokenize",
                tokens.detokenize,
                "Text of tokens",
                tokens.DetokenizeBody,
            ),
            Route("GET", f"{of}/tokenizer_info", tokens.info, "Special tokens"),
        )
    ),
    *responses.ROUTES,
    *files.ROUTES,
    *batches.ROUTES,
    *conversations.ROUTES,
)

PROTOCOL = Protocol("openai", ROUTES, refuse)
