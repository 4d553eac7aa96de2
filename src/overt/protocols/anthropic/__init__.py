"""Anthropic's API: messages, counting, batches and models, for clients written for Claude.

What is asked becomes a chat.Request in request.py, and events become an answer in
answer.py. Headers of betas are taken as they come: a beta's own fields are refused or
taken like any other.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from overt.errors import OvertError
from overt.protocols.anthropic import answer, batches, wire
from overt.protocols.anthropic import request as asked
from overt.protocols.base import (
    BadBody,
    HttpCall,
    HttpReply,
    HttpRoute,
    ModelCard,
    Protocol,
    Stream,
)
from overt.protocols.failure import advice

# ---- messages ------------------------------------------------------------------------------


async def messages(call: HttpCall) -> HttpReply | Stream:
    """``POST /v1/messages``."""
    version = _version(call)
    body = call.read(wire.CreateMessage)
    request = asked.request(body, version)
    turn = answer.AnswerTurn(
        body.model,
        body.max_tokens,
        thinking=not isinstance(body.thinking, wire.Disabled),
        omitted=getattr(body.thinking, "display", None) == "omitted",
        request_id=call.id,
    )
    events = call.services.stream(call.caller, request)
    if body.stream:
        return Stream(answer.pieces(turn, events))
    return HttpReply(await answer.document(turn, events))


class AnthropicTokenCount(msgspec.Struct):
    input_tokens: int


async def count(call: HttpCall) -> HttpReply:
    """``POST /v1/messages/count_tokens``."""
    version = _version(call)
    request = asked.prompt(call.read(wire.AnthropicCountBody), version)
    return HttpReply(AnthropicTokenCount(await call.services.count(call.caller, request)))


def _version(call: HttpCall) -> str:
    version = call.headers.get("anthropic-version", asked.OLD)
    if version not in (asked.OLD, asked.NEW):
        raise BadBody(
            f"anthropic-version: {version[:40]!r} is not a valid version; "
            f"send {asked.NEW} or {asked.OLD}",
        )
    return version


# ---- models --------------------------------------------------------------------------------


class Support(msgspec.Struct):
    supported: bool


NO, YES = Support(False), Support(True)


class ModelInfo(msgspec.Struct):
    id: str
    display_name: str
    created_at: str
    capabilities: dict[str, Any]
    max_input_tokens: int | None
    max_tokens: int | None
    lifecycle: str = "active"
    deprecated_at: None = None
    retires_at: None = None
    line: None = None
    type: str = "model"


class AnthropicModelList(msgspec.Struct):
    data: Sequence[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


async def models(call: HttpCall) -> HttpReply:
    """``GET /v1/models``: those that answer, newest first."""
    _version(call)
    limit = batches.limit(call)
    cards = [card for card in await call.services.models(call.caller) if card.kind in _ANSWER]
    ids = [card.id for card in cards]
    after, before = call.query.get("after_id"), call.query.get("before_id")
    wanted = call.query.get("lifecycle", call.query.get("lifecycle[]", "active"))
    start, end = 0, len(cards) if "active" in wanted else 0
    if after:
        start = _place(ids, after, "after_id") + 1
    elif before:
        end = min(end, _place(ids, before, "before_id"))
        start = max(0, end - limit)
    page = [_info(card) for card in cards[start : min(end, start + limit)]]
    more = start > 0 if before and not after else start + len(page) < end
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return HttpReply(AnthropicModelList(page, more, first, last))


async def model(call: HttpCall) -> HttpReply:
    """``GET /v1/models/{id}``."""
    _version(call)
    return HttpReply(_info(await call.services.model(call.caller, call.params["id"])))


_ANSWER = ("llm", "vlm")


def _place(ids: Sequence[str], id: str, field: str) -> int:
    if id not in ids:
        raise BadBody(f"{id[:100]!r} is no model here", field)
    return ids.index(id)


def _info(card: ModelCard) -> ModelInfo:
    created = datetime.fromtimestamp(card.modified, UTC)
    return ModelInfo(
        card.id,
        card.id,
        created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        _capabilities(card),
        card.context,
        card.context,
    )


def _capabilities(card: ModelCard) -> dict[str, Any]:
    thinks = Support("thinking" in card.capabilities)
    return {
        "batch": YES,
        "citations": NO,
        "code_execution": NO,
        "context_management": {"supported": False},
        "effort": {
            "supported": thinks.supported,
            **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), thinks),
        },
        "image_input": Support("vision" in card.capabilities),
        "pdf_input": NO,
        "server_tools": {"supported": False, "code_execution": NO, "web_search": NO},
        "structured_outputs": YES,
        "thinking": {
            "supported": thinks.supported,
            "types": {
                "adaptive": thinks,
                "between_tools": NO,
                "disabled": thinks,
                "enabled": thinks,
            },
        },
    }


# ---- errors --------------------------------------------------------------------------------


def refuse(error: OvertError, id: str) -> HttpReply:
    """The answer to a request that failed."""
    return HttpReply(answer.error_body(error, id), error.status, advice(error))


PROTOCOL = Protocol(
    "anthropic",
    (
        HttpRoute("POST", "/v1/messages", messages, "Answer a conversation", wire.CreateMessage),
        HttpRoute(
            "POST", "/v1/messages/count_tokens", count, "Count tokens", wire.AnthropicCountBody
        ),
        *batches.ROUTES,
        HttpRoute("GET", "/v1/models", models, "List models"),
        HttpRoute("GET", "/v1/models/{id:path}", model, "Describe a model"),
    ),
    refuse,
    id_header="request-id",
)
