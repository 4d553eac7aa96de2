"""OpenAI's conversations (``/v1/conversations``): lists of items that responses read and add to."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.errors import NotFound
from overt.protocols.base import Call, Reply, Route, encode, new_id
from overt.protocols.openai import responses_stored as kept
from overt.protocols.openai import stored
from overt.protocols.openai.responses_items import Item, items_of

_ONE = "/v1/conversations/{id}"
_ITEMS = _ONE + "/items"
_ITEM = _ITEMS + "/{item}"

_Items = Annotated[list[dict[str, Any]], Meta(max_length=20)]


class Create(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/conversations``."""

    items: _Items | None = None
    metadata: stored.Metadata | None = None


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/conversations/{id}``."""

    metadata: stored.Metadata | None


class Add(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/conversations/{id}/items``."""

    items: _Items


class Conversation(msgspec.Struct, frozen=True):
    id: str
    created_at: int
    metadata: dict[str, str]
    object: str = "conversation"


class Deleted(msgspec.Struct, frozen=True):
    id: str
    object: str = "conversation.deleted"
    deleted: bool = True


async def create(call: Call) -> Reply:
    """``POST /v1/conversations``."""
    body = call.read(Create, empty=b"{}")
    items = await _given(call, body.items or [])
    made = Conversation(new_id("conv_"), int(time.time()), body.metadata or {})
    await _put(call, made)
    await kept.say(call.services, call.caller, made.id, items)
    return Reply(made)


async def retrieve(call: Call) -> Reply:
    """``GET /v1/conversations/{id}``."""
    return Reply(await _mine(call))


async def update(call: Call) -> Reply:
    """``POST /v1/conversations/{id}``."""
    conversation = await _mine(call)
    changed = msgspec.structs.replace(conversation, metadata=call.read(Update).metadata or {})
    await _put(call, changed)
    return Reply(changed)


async def delete(call: Call) -> Reply:
    """``DELETE /v1/conversations/{id}``, with its items."""
    conversation = await _mine(call)
    for item in await kept.said(call.services, call.caller, conversation.id):
        await call.services.records.delete(conversation.id, item["id"], call.caller)
    await call.services.records.delete(kept.CONVERSATION, conversation.id, call.caller)
    return Reply(Deleted(conversation.id))


async def add(call: Call) -> Reply:
    """``POST /v1/conversations/{id}/items``."""
    conversation = await _mine(call)
    items = await _given(call, call.read(Add).items)
    await kept.say(call.services, call.caller, conversation.id, items)
    return stored.page(items, [item["id"] for item in items], len(items))


async def list_(call: Call) -> Reply:
    """``GET /v1/conversations/{id}/items``, newest first."""
    conversation = await _mine(call)
    limit = stored.whole(call, "limit", 20, least=1, most=100)
    bodies = await call.services.records.list(
        conversation.id,
        call.caller,
        limit=limit + 1,
        after=call.query.get("after"),
        newest_first=stored.newest_first(call),
    )
    items = [msgspec.json.decode(body) for body in bodies]
    return stored.page(items, [item["id"] for item in items], limit)


async def item(call: Call) -> Reply:
    """``GET /v1/conversations/{id}/items/{item}``."""
    conversation = await _mine(call)
    body = await call.services.records.get(conversation.id, call.params["item"], call.caller)
    if body is None:
        raise NotFound(f"Item with id '{call.params['item'][:80]}' not found")
    return Reply(body)


async def remove(call: Call) -> Reply:
    """``DELETE /v1/conversations/{id}/items/{item}``."""
    conversation = await _mine(call)
    if not await call.services.records.delete(conversation.id, call.params["item"], call.caller):
        raise NotFound(f"Item with id '{call.params['item'][:80]}' not found")
    return Reply(conversation)


async def _given(call: Call, items: Sequence[dict[str, Any]]) -> list[Item]:
    made = items_of(items, new_id(""))
    return await kept.resolved(call.services, call.caller, made, [])


async def _mine(call: Call) -> Conversation:
    id = call.params["id"]
    body = await call.services.records.get(kept.CONVERSATION, id, call.caller)
    if body is None:
        raise NotFound(f"Conversation with id '{id[:80]}' not found")
    return msgspec.json.decode(body, type=Conversation)


async def _put(call: Call, conversation: Conversation) -> None:
    body = encode(conversation)
    await call.services.records.put(kept.CONVERSATION, conversation.id, call.caller, body)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/conversations", create, "Begin a conversation", Create),
    Route("GET", _ONE, retrieve, "What is known of a conversation"),
    Route("POST", _ONE, update, "Change what is attached to a conversation", Update),
    Route("DELETE", _ONE, delete, "Forget a conversation"),
    Route("POST", _ITEMS, add, "Add items to a conversation", Add),
    Route("GET", _ITEMS, list_, "The items of a conversation"),
    Route("GET", _ITEM, item, "One item of a conversation"),
    Route("DELETE", _ITEM, remove, "Take an item out of a conversation"),
)
