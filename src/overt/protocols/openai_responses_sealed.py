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

from overt.chat import Thought, ThoughtPart
from overt.protocols import signed
from overt.protocols.base import encode, object_of

OPENAI = "openai"
"""The engine whose items stand as they are."""
_ID = re.compile(r"rs_[A-Za-z0-9_-]{1,100}")


class _Kept(msgspec.Struct, omit_defaults=True):
    signature: str
    text: str = ""
    sealed: bool = False


def own(event: Thought) -> dict[str, Any] | None:
    """The item that OpenAI made, None for what is another's."""
    if event.origin != OPENAI:
        return None
    item = object_of(event.signature or "")
    if item is None or item.get("type") != "reasoning" or not isinstance(item.get("id"), str):
        return None
    return item if _ID.fullmatch(item["id"]) else None


def written(event: Thought, text: str) -> str:
    """``encrypted_content`` of a thought that `event` ends; `text` is all of it."""
    kept = _Kept(event.signature or "", text, event.sealed)
    return f"overt:{event.origin or 'unknown'}:{encode(kept).decode()}"


def part(item: Mapping[str, Any], text: str) -> ThoughtPart:
    """What a reasoning item means whose readable text is `text`."""
    secret = item.get("encrypted_content")
    if not isinstance(secret, str) or not secret:
        return ThoughtPart(text)
    inner, origin = signed.split(secret, OPENAI)
    if inner == secret:  # nothing of ours is written around it
        return ThoughtPart(text, encode(item).decode(), sealed=not text, origin=OPENAI)
    try:
        kept = msgspec.json.decode(inner, type=_Kept)
    except (msgspec.DecodeError, RecursionError):
        return ThoughtPart(text)
    return ThoughtPart(kept.text, kept.signature, kept.sealed, origin)
