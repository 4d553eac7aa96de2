"""What several protocols do with a conversation, in time that grows with its length alone.

A client may send tens of thousands of messages: whatever looks back at all that came before for
each of them, or copies it, holds up everybody for minutes.
"""

from collections import deque
from collections.abc import Iterable
from itertools import groupby
from typing import cast

from overt.chat import Part, TextPart


def joined(parts: Iterable[Part], between: str = "\n") -> tuple[Part, ...]:
    """`parts` with texts in a row as one: engines put parts together without anything between."""
    out: list[Part] = []
    for kind, several in groupby(parts, type):
        if kind is TextPart:
            out.append(TextPart(between.join(cast(TextPart, part).text for part in several)))
        else:
            out += several
    return tuple(out)


class PendingCalls:
    """The calls of tools that have no result yet, in the order they were made."""

    def __init__(self) -> None:
        self._ids: list[str] = []  # of all calls there were
        self._over: set[int] = set()  # their places
        self._all: deque[int] = deque()
        self._by_id: dict[str, deque[int]] = {}
        self._by_name: dict[str, deque[int]] = {}

    def add(self, id: str, name: str = "") -> None:
        """A call was made."""
        place = len(self._ids)
        self._ids.append(id)
        self._all.append(place)
        self._by_id.setdefault(id, deque()).append(place)
        self._by_name.setdefault(name, deque()).append(place)

    def take(self, *, id: str | None = None, name: str | None = None) -> str | None:
        """The id of the first call that still waits, has that id or that name, and waits no more.

        Without either any call does. None where there is none.
        """
        queue: deque[int] | None = self._all
        if id is not None:
            queue = self._by_id.get(id)
        elif name is not None:
            queue = self._by_name.get(name)
        while queue:
            place = queue.popleft()
            if place not in self._over:
                self._over.add(place)
                return self._ids[place]
        return None
