"""The OpenAI family of endpoints on ``/v1``: the wire that most programs speak."""

import msgspec

from overt.errors import Unsupported
from overt.protocols.base import HttpCall, HttpReply, HttpRoute, ModelCard, Protocol
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
from overt.protocols.openai.messages import ChatCompletionBody
from overt.protocols.openai.wire import refuse

# ---- models --------------------------------------------------------------------------------


class ModelObject(msgspec.Struct):
    id: str
    created: int
    owned_by: str
    object: str = "model"


class OpenAIModelList(msgspec.Struct):
    data: list[ModelObject]
    object: str = "list"


class DeletedModel(msgspec.Struct):
    id: str
    deleted: bool = True
    object: str = "model"


def _model(card: ModelCard) -> ModelObject:
    return ModelObject(card.id, int(card.modified), card.publisher or "library")


async def models(call: HttpCall) -> HttpReply:
    """``GET /v1/models``: what is in the store."""
    return HttpReply(
        OpenAIModelList([_model(card) for card in await call.services.models(call.caller)])
    )


async def model(call: HttpCall) -> HttpReply:
    """``GET /v1/models/{id}``."""
    return HttpReply(_model(await call.services.model(call.caller, call.params["id"])))


async def delete(call: HttpCall) -> HttpReply:
    """``DELETE /v1/models/{id}``: drops the name, and the files no other name needs."""
    id = call.params["id"]
    await call.services.unload(call.caller, id)
    await call.services.library.delete(id)
    return HttpReply(DeletedModel(id))


# ---- what no model here does ---------------------------------------------------------------


async def moderations(call: HttpCall) -> HttpReply:
    """``POST /v1/moderations``: needs a guard model.

    Raises:
        Unsupported: always, until one can be installed.
    """
    raise Unsupported("no guard model is installed, so nothing is moderated here")


# ---- the table -----------------------------------------------------------------------------

_RERANK = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank")
_CHAT = HttpRoute("POST", "/v1/chat/completions", chat.create, "Answer a chat", ChatCompletionBody)
_COMPLETIONS = "/v1/completions"

ROUTES: tuple[HttpRoute, ...] = (
    _CHAT,
    *(
        HttpRoute("POST", path, completions.create, "Continue a text", CompletionsBody)
        for path in (_COMPLETIONS, f"/of/{{model:path}}{_COMPLETIONS}")
    ),
    HttpRoute("POST", "/v1/embeddings", embeddings.embed, "Make vectors", EmbeddingsBody),
    *(HttpRoute("POST", path, embeddings.rerank, "Rank documents", RerankBody) for path in _RERANK),
    HttpRoute("GET", "/v1/models", models, "List models"),
    HttpRoute("GET", "/v1/models/{id:path}", model, "One model"),
    HttpRoute("DELETE", "/v1/models/{id:path}", delete, "Delete a model"),
    HttpRoute("POST", "/v1/moderations", moderations, "Judge a text (needs a guard model)"),
    *(
        route
        for of in ("", "/of/{model:path}")
        for route in (
            HttpRoute(
                "POST",
                f"{of}/tokenize",
                tokens.tokenize,
                "Tokens of a text",
                tokens.TokenizeBody,
            ),
            HttpRoute(
                "POST",
                f"{of}/detokenize",
                tokens.detokenize,
                "Text of tokens",
                tokens.DetokenizeBody,
            ),
            HttpRoute("GET", f"{of}/tokenizer_info", tokens.info, "Special tokens"),
        )
    ),
    *responses.ROUTES,
    *files.ROUTES,
    *batches.ROUTES,
    *conversations.ROUTES,
)

PROTOCOL = Protocol("openai", ROUTES, refuse)
