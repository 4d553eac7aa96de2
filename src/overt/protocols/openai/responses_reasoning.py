"""Signed thoughts as reasoning items of OpenAI's responses, and back.

OpenAI's own items are given back as they were: the signature of such a thought is the whole item as
JSON. What another provider signed stands in ``encrypted_content``, with its text, because clients
send that field back and may leave out the others. So does an item of OpenAI's whose id came too
late: a stream had begun to tell of it under another.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from overt.chat import Thought, ThoughtPart, ToolCall
from overt.protocols import signed
from overt.protocols.base import encode, object_of

OPENAI = "openai"
"""The engine whose items stand as they are."""
_ID = re.compile(r"rs_[A-Za-z0-9_-]{1,100}")


class _SealedReasoning(msgspec.Struct, omit_defaults=True):
    signature: str
    text: str = ""
    sealed: bool = False
    call: bool = False  # of the call that follows


def as_item(event: Thought | ToolCall) -> dict[str, Any] | None:
    """The item that OpenAI made, None for what is another's."""
    if event.origin != OPENAI or isinstance(event, ToolCall):
        return None
    item = object_of(event.signature or "")
    if item is None or item.get("type") != "reasoning" or not isinstance(item.get("id"), str):
        return None
    return item if _ID.fullmatch(item["id"]) else None


def seal(event: Thought | ToolCall, text: str) -> str:
    """``encrypted_content`` of a thought that `event` ends; `text` is all of it.

    A call has no place for its signature: that stands in an item of its own before the call.
    """
    call = isinstance(event, ToolCall)
    sealed = _SealedReasoning(
        event.signature or "", text, isinstance(event, Thought) and event.sealed, call
    )
    return f"overt:{event.origin or 'unknown'}:{encode(sealed).decode()}"


def part(item: Mapping[str, Any], text: str) -> ThoughtPart:
    """What a reasoning item means whose readable text is `text`."""
    secret = item.get("encrypted_content")
    if not isinstance(secret, str) or not secret:
        return ThoughtPart(text)
    inner, origin = signed.split(secret, OPENAI)
    if inner == secret:  # nothing of ours is written around it
        return ThoughtPart(text, encode(item).decode(), sealed=not text, origin=OPENAI)
    opened = _unseal(inner)
    return (
        ThoughtPart(opened.text, opened.signature, opened.sealed, origin)
        if opened
        else ThoughtPart(text)
    )


def of_call(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """The signature of the call that comes next, and its origin; None where `item` is a thought."""
    secret = item.get("encrypted_content")
    if not isinstance(secret, str) or '"call":true' not in secret:
        return None
    inner, origin = signed.split(secret, OPENAI)
    opened = _unseal(inner) if inner != secret else None
    return (opened.signature, origin) if opened and opened.call else None


def _unseal(text: str) -> _SealedReasoning | None:
    try:
        return msgspec.json.decode(text, type=_SealedReasoning)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
