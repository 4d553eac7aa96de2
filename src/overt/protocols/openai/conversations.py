"""OpenAI's conversations (``/v1/conversations``): lists of items that responses read and add to."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.errors import NotFound
from overt.protocols.base import HttpCall, HttpReply, HttpRoute, encode, new_id
from overt.protocols.openai import responses_stored as kept
from overt.protocols.openai import stored
from overt.protocols.openai.responses_items import Item, items_of

_ONE = "/v1/conversations/{id}"
_ITEMS = _ONE + "/items"
_ITEM = _ITEMS + "/{item}"

_Items = Annotated[list[dict[str, Any]], Meta(max_length=20)]


class CreateConversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/conversations``."""

    items: _Items | None = None
    metadata: stored.Metadata | None = None


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/conversations/{id}``."""

    metadata: stored.Metadata | None


class Add(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/conversations/{id}/items``."""

    items: _Items


class ConversationObject(msgspec.Struct, frozen=True):
    id: str
    created_at: int
    metadata: dict[str, str]
    object: str = "conversation"


class DeletedConversation(msgspec.Struct, frozen=True):
    id: str
    object: str = "conversation.deleted"
    deleted: bool = True


async def create(call: HttpCall) -> HttpReply:
    """``POST /v1/conversations``."""
    body = call.read(CreateConversation, empty=b"{}")
    items = await _resolved_items(call, body.items or [])
    made = ConversationObject(new_id("conv_"), int(time.time()), body.metadata or {})
    await _save(call, made)
    await kept.add_items(call.services, call.caller, made.id, items)
    return HttpReply(made)


async def retrieve(call: HttpCall) -> HttpReply:
    """``GET /v1/conversations/{id}``."""
    return HttpReply(await _find_conversation(call))


async def update(call: HttpCall) -> HttpReply:
    """``POST /v1/conversations/{id}``."""
    conversation = await _find_conversation(call)
    changed = msgspec.structs.replace(conversation, metadata=call.read(Update).metadata or {})
    await _save(call, changed)
    return HttpReply(changed)


async def delete(call: HttpCall) -> HttpReply:
    """``DELETE /v1/conversations/{id}``, with its items."""
    conversation = await _find_conversation(call)
    for item in await kept.conversation_items(call.services, call.caller, conversation.id):
        await call.services.records.delete(conversation.id, item["id"], call.caller)
    await call.services.records.delete(kept.CONVERSATION, conversation.id, call.caller)
    return HttpReply(DeletedConversation(conversation.id))


async def add(call: HttpCall) -> HttpReply:
    """``POST /v1/conversations/{id}/items``."""
    conversation = await _find_conversation(call)
    items = await _resolved_items(call, call.read(Add).items)
    await kept.add_items(call.services, call.caller, conversation.id, items)
    return stored.page(items, [item["id"] for item in items], len(items))


async def list_(call: HttpCall) -> HttpReply:
    """``GET /v1/conversations/{id}/items``, newest first."""
    conversation = await _find_conversation(call)
    limit = stored.integer(call, "limit", 20, least=1, most=100)
    bodies = await call.services.records.list(
        conversation.id,
        call.caller,
        limit=limit + 1,
        after=call.query.get("after"),
        newest_first=stored.newest_first(call),
    )
    items = [msgspec.json.decode(body) for body in bodies]
    return stored.page(items, [item["id"] for item in items], limit)


async def item(call: HttpCall) -> HttpReply:
    """``GET /v1/conversations/{id}/items/{item}``."""
    conversation = await _find_conversation(call)
    body = await call.services.records.get(conversation.id, call.params["item"], call.caller)
    if body is None:
        raise NotFound(f"Item with id '{call.params['item'][:80]}' not found")
    return HttpReply(body)


async def remove(call: HttpCall) -> HttpReply:
    """``DELETE /v1/conversations/{id}/items/{item}``."""
    conversation = await _find_conversation(call)
    if not await call.services.records.delete(conversation.id, call.params["item"], call.caller):
        raise NotFound(f"Item with id '{call.params['item'][:80]}' not found")
    return HttpReply(conversation)


async def _resolved_items(call: HttpCall, items: Sequence[dict[str, Any]]) -> list[Item]:
    made = items_of(items, new_id(""))
    return await kept.resolved(call.services, call.caller, made, [])


async def _find_conversation(call: HttpCall) -> ConversationObject:
    id = call.params["id"]
    body = await call.services.records.get(kept.CONVERSATION, id, call.caller)
    if body is None:
        raise NotFound(f"Conversation with id '{id[:80]}' not found")
    return msgspec.json.decode(body, type=ConversationObject)


async def _save(call: HttpCall, conversation: ConversationObject) -> None:
    body = encode(conversation)
    await call.services.records.put(kept.CONVERSATION, conversation.id, call.caller, body)


ROUTES: tuple[HttpRoute, ...] = (
    HttpRoute("POST", "/v1/conversations", create, "Begin a conversation", CreateConversation),
    HttpRoute("GET", _ONE, retrieve, "What is known of a conversation"),
    HttpRoute("POST", _ONE, update, "Change what is attached to a conversation", Update),
    HttpRoute("DELETE", _ONE, delete, "Forget a conversation"),
    HttpRoute("POST", _ITEMS, add, "Add items to a conversation", Add),
    HttpRoute("GET", _ITEMS, list_, "The items of a conversation"),
    HttpRoute("GET", _ITEM, item, "One item of a conversation"),
    HttpRoute("DELETE", _ITEM, remove, "Take an item out of a conversation"),
)
