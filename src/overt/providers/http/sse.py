"""Server-sent events out of bytes, by the WHATWG's rules (HTML, section 9.2.6), and bounded.

Lines end with CR, LF or CRLF, wherever the network cuts; a byte order mark is skipped, comments and
unknown fields are too, several `data` lines are one event. `id` and `retry` belong to reconnecting,
which nobody does here. Data stays bytes: whether it is UTF-8 is for whoever reads it to judge.
"""

from overt.errors import ProviderFailed
from overt.providers.base import ServerEvent

MAX_EVENT_BYTES = 16 << 20
"""Bytes that one line, and the data of one event, may have."""

_MARK = b"\xef\xbb\xbf"


class EventSplitter:
    """Feed it what comes, in any pieces; it gives the events that are whole by then.

    Time and memory grow with the bytes fed, whatever their cuts.
    """

    def __init__(self, longest: int = MAX_EVENT_BYTES) -> None:
        self._longest = longest
        self._begin: bytes | None = b""  # what came while it could still be a byte order mark
        self._after_return = False  # the last byte was CR: a LF that follows belongs to it
        self._pieces: list[bytes] = []  # of the line that has not ended
        self._length = 0
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes, in order.

        Raises:
            ProviderFailed: a line or an event is longer than allowed.
        """
        if self._begin is not None:
            chunk = self._begin + chunk
            if len(chunk) < len(_MARK) and _MARK.startswith(chunk):
                self._begin = chunk
                return []
            self._begin = None
            chunk = chunk.removeprefix(_MARK)
        if self._after_return and chunk:
            self._after_return = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_return = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = chunk.split(b"\n")
        self._add(first)
        if not rest:
            return []
        events: list[ServerEvent] = []
        self._line(b"".join(self._pieces), events)
        last = rest.pop()
        for line in rest:
            self._line(line, events)
        self._pieces, self._length = [], 0
        self._add(last)
        return events

    def end(self) -> list[ServerEvent]:
        """The event that only lacks its empty line: the stream ended in order and forgot it.

        The standard drops it. Of a provider it is the last word, and one that was cut is found to
        be so by whoever reads it: half of a JSON object is none.
        """
        events: list[ServerEvent] = []
        if self._begin:
            self._add(self._begin)
        self._line(b"".join(self._pieces), events)
        self._line(b"", events)
        self._pieces, self._length = [], 0
        return events

    def _add(self, piece: bytes) -> None:
        if piece:
            self._length += len(piece)
            self._bound(self._length, "line")
            self._pieces.append(piece)

    def _line(self, line: bytes, events: list[ServerEvent]) -> None:
        if not line:
            if self._data:
                events.append(ServerEvent(self._name, b"\n".join(self._data)))
                self._data, self._size = [], 0
            self._name = ""
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            self._size += len(value) + 1
            self._bound(self._size, "event")
            self._data.append(value)
        elif field == b"event":
            self._name = value.removeprefix(b" ").decode("utf-8", "replace")

    def _bound(self, size: int, what: str) -> None:
        if size > self._longest + (what == "event"):
            raise ProviderFailed(
                f"the stream has {'a line' if what == 'line' else 'an event'} of more than "
                f"{self._longest} bytes",
                "try again",
                billed=True,
            )
