"""Responses that are kept: what comes before a new one, and where each is found again.

A turn is a record: the Response as it was answered, the items it was asked with, and the id of the
turn before it. What a model reads is the chain of turns, or the items of a conversation.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from overt.errors import NotFound
from overt.protocols.base import BadBody, Caller, ServicesInterface, encode
from overt.protocols.openai.responses_items import Item
from overt.protocols.openai.responses_stream import Response

KIND = "response"
LIFE = 30 * 86400  # seconds a response is kept, as OpenAI has it
_ITEM = re.compile(r"[a-z]+_([0-9a-f]{24})[01][0-9a-f]{4}")
_MAX_TURNS = 10_000
_ALL = 1_000_000


class StoredResponse(msgspec.Struct, kw_only=True):
    response: msgspec.Raw
    items: list[Item]
    previous: str | None = None
    conversation: str | None = None
    streamed: bool = False

    def shown(self) -> Response:
        """The Response; its output is plain JSON."""
        return msgspec.json.decode(self.response, type=Response)

    def whole(self) -> list[Item]:
        """What was asked and answered."""
        return [*self.items, *self.shown().output]


async def keep(services: ServicesInterface, caller: Caller, turn: StoredResponse, id: str) -> None:
    """Store it for `LIFE` from now."""
    await services.records.put(KIND, id, caller, encode(turn), expires=time.time() + LIFE)


async def find(services: ServicesInterface, caller: Caller, id: str) -> StoredResponse:
    """One of the caller's.

    Raises:
        NotFound: there is none, or no longer.
    """
    body = await services.records.get(KIND, id, caller)
    if body is None:
        raise NotFound(f"Response with id '{id[:80]}' not found")
    return msgspec.json.decode(body, type=StoredResponse)


async def past(
    services: ServicesInterface, caller: Caller, previous: str | None, conversation: str | None
) -> list[Item]:
    """The items before a new turn's own, oldest first.

    Raises:
        NotFound: the conversation is not there.
        BadBody: a turn is not there, or not over.
    """
    if conversation is not None:
        return await conversation_items(services, caller, conversation)
    turns: list[StoredResponse] = []
    while previous is not None and len(turns) < _MAX_TURNS:
        turn = await _before(services, caller, previous)
        turns.append(turn)
        previous = turn.previous
    if turns and turns[-1].conversation is not None:  # the chain left a conversation
        return await conversation_items(services, caller, turns[-1].conversation)
    return [item for turn in reversed(turns) for item in turn.whole()]


async def _before(services: ServicesInterface, caller: Caller, id: str) -> StoredResponse:
    try:
        turn = await find(services, caller, id)
    except NotFound:
        raise BadBody(
            f"Previous response with id '{id[:80]}' not found", "previous_response_id"
        ) from None
    status = turn.shown().status
    if status not in ("completed", "incomplete"):
        raise BadBody(f"the previous response is {status}", "previous_response_id")
    return turn


async def resolved(
    services: ServicesInterface, caller: Caller, items: Sequence[Item], before: Sequence[Item]
) -> list[Item]:
    """`items` with what their references stand for.

    Raises:
        NotFound: an item that is not there.
    """
    made = []
    for item in items:
        if item["type"] == "item_reference":
            known = next((item_ for item_ in before if item_["id"] == item["id"]), None)
            item = known or await _item(services, caller, item["id"])
        made.append(item)
    return made


async def _item(services: ServicesInterface, caller: Caller, id: str) -> Item:
    """An item of any kept response: its id holds the response's."""
    if match := _ITEM.fullmatch(id):
        body = await services.records.get(KIND, f"resp_{match[1]}", caller)
        items = msgspec.json.decode(body, type=StoredResponse).whole() if body else []
        for item in items:
            if item["id"] == id:
                return item
    raise NotFound(f"Item with id '{id[:80]}' not found")


# ---- conversations ---------------------------------------------------------------------------

CONVERSATION = "conversation"


async def conversation_items(
    services: ServicesInterface, caller: Caller, conversation: str
) -> list[Item]:
    """The items of a conversation, oldest first.

    Raises:
        NotFound: there is no such conversation.
    """
    if await services.records.get(CONVERSATION, conversation, caller) is None:
        raise NotFound(f"Conversation with id '{conversation[:80]}' not found")
    bodies = await services.records.list(conversation, caller, limit=_ALL, newest_first=False)
    return [msgspec.json.decode(body) for body in bodies]


async def add_items(
    services: ServicesInterface, caller: Caller, conversation: str, items: Sequence[Any]
) -> None:
    """Add items to the end of a conversation; its id is the kind of their records."""
    for item in items:
        id = item["id"] if isinstance(item, dict) else item.id
        await services.records.put(conversation, id, caller, encode(item))
