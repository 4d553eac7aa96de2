"""The OpenAI family of endpoints on ``/v1``: the wire that most programs speak."""

import msgspec

from overt.errors import Unsupported
from overt.protocols import (
    openai_batches,
    openai_chat,
    openai_completions,
    openai_conversations,
    openai_embeddings,
    openai_files,
    openai_responses,
    openai_tokens,
)
from overt.protocols.base import Call, Card, Protocol, Reply, Route
from overt.protocols.openai_completions import CompletionsBody
from overt.protocols.openai_embeddings import EmbeddingsBody, RerankBody
from overt.protocols.openai_messages import ChatBody
from overt.protocols.openai_wire import refuse

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
_CHAT = Route("POST", "/v1/chat/completions", openai_chat.create, "Answer a chat", ChatBody)
_COMPLETIONS = "/v1/completions"

ROUTES: tuple[Route, ...] = (
    _CHAT,
    *(
        Route("POST", path, openai_completions.create, "Continue a text", CompletionsBody)
        for path in (_COMPLETIONS, f"/of/{{model:path}}{_COMPLETIONS}")
    ),
    Route("POST", "/v1/embeddings", openai_embeddings.embed, "Make vectors", EmbeddingsBody),
    *(
        Route("POST", path, openai_embeddings.rerank, "Rank documents", RerankBody)
        for path in _RERANK
    ),
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
                openai_tokens.tokenize,
                "Tokens of a text",
                openai_tokens.TokenizeBody,
            ),
            Route(
                "POST",
                f"{of}/detokenize",
                openai_tokens.detokenize,
                "Text of tokens",
                openai_tokens.DetokenizeBody,
            ),
            Route("GET", f"{of}/tokenizer_info", openai_tokens.info, "Special tokens"),
        )
    ),
    *openai_responses.ROUTES,
    *openai_files.ROUTES,
    *openai_batches.ROUTES,
    *openai_conversations.ROUTES,
)

PROTOCOL = Protocol("openai", ROUTES, refuse)
