"""What OpenAI's endpoints that keep something have in common: metadata and lists."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.protocols.base import BadBody, HttpCall, HttpReply

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
"""What clients attach to an object, and get back as it was."""


class ListPage(msgspec.Struct, frozen=True):
    """Part of a list. `first_id` and `last_id` are where to go on from."""

    data: Sequence[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


def page(rows: Sequence[Any], ids: Sequence[str], limit: int) -> HttpReply:
    """The first `limit` of what was `found`, which is one more where there are more."""
    ends = (ids[0], ids[min(limit, len(ids)) - 1]) if rows else (None, None)
    return HttpReply(ListPage(rows[:limit], ends[0], ends[1], len(rows) > limit))


def integer(call: HttpCall, name: str, default: int, *, least: int, most: int) -> int:
    """A whole number of the query string.

    Raises:
        BadBody: not one, or out of range.
    """
    text = call.query.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not least <= number <= most:
        raise BadBody(f"{name} is {text[:20]!r} and must be {least} to {most}", name)
    return number


def newest_first(call: HttpCall) -> bool:
    """`order` of the query string, ``desc`` without one.

    Raises:
        BadBody: neither asc nor desc.
    """
    order = call.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadBody(f"order is {order[:20]!r} and must be asc or desc", "order")
    return order == "desc"
