"""Answers handed on as they come: read along, and ended with an error where they break off.

A client's library takes a stream that stops for one that is over, and chokes on half an event. So
what goes on is whole events, byte for byte, and where a provider breaks off, or says what is no
JSON, an event in the words of the protocol says so.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from overt.chat import Request
from overt.errors import OvertError
from overt.providers.base import EventReader, PassedResponse, ServerEvent
from overt.providers.dialect import broken, ended_early
from overt.providers.http.redact import INSTEAD, PIECE
from overt.providers.http.sse import EventSplitter
from overt.server.request_log import GenerationRecord

if TYPE_CHECKING:
    from overt.protocols.base import HttpCall
    from overt.providers.base import Provider
    from overt.server.routing import MatchedRoute

Last = Callable[[OvertError], bytes]
"""The event that ends a stream with an error, in the words of the protocol; b"" for none."""

_GRACE = 2.0  # seconds: what may still follow an answer that is over, where no word ends a stream
_ERROR = rb'"error"\s*:\s*[{"\[]|"type"\s*:\s*"error"|'
_CHAT = re.compile(_ERROR + rb'^\s*\[DONE\]|"finish_reason"\s*:\s*"')
_MESSAGES = re.compile(_ERROR + rb'"message_stop"')
_RESPONSES = re.compile(_ERROR + rb'"response\.(?:completed|incomplete|failed)"')
_GEMINI = re.compile(_ERROR + rb'"(?:finishReason|blockReason)"\s*:\s*"')
_ENDS = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _CHAT,
    "/v1/messages": _MESSAGES,
    "/v1/responses": _RESPONSES,
}
"""By address: what an event holds that ends a stream. In text, quotes have a backslash before."""
_BLANKS = (b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\r")
_MAX_BLANK_BYTES = 4
_STATUSES = {"incomplete": b"response.incomplete", "failed": b"response.failed"}


class _Status(msgspec.Struct):
    status: Any = None


class ResponseTap:
    """Reads an answer along with the client.

    What a dialect's reader cannot read is no matter, as long as it is JSON: it may be newer than
    this program.
    """

    def __init__(
        self, engine: "Provider", work: GenerationRecord, path: str, *, whole: bool
    ) -> None:
        """`whole`: all fields were asked for, so that the end of the answer will be told."""
        self._reader: EventReader | None = engine.dialect.reader(Request(engine.ref))
        self._splitter = EventSplitter()
        self._work, self._who, self._path = work, engine.to.label, path
        ends = _GEMINI if engine.name == "gemini" else _ENDS.get(path)
        self._ends = ends if whole else None
        self._lenient = engine.name != "anthropic"  # a reason to stop is the end, too
        self._worded = engine.name != "gemini"  # its streams have a last word
        self.over = False
        """The answer is: nothing that matters follows."""

    @property
    def closed(self) -> bool:
        """Nothing at all follows."""
        return self._worded and self._reader is not None and self._reader.done

    def piece(self, data: bytes) -> None:
        """What came. Raises ProviderFailed: it is no JSON."""
        for event in self._splitter.feed(data):
            self._said(event)

    def last(self, held: bytes) -> None:
        """The stream ended, with `held` of an event that has not.

        Raises:
            ProviderFailed: the answer has not, either.
        """
        if held:
            for event in self._splitter.end():
                self._said(event)
        self._end()
        if not self.over and self._ends is not None:
            raise ended_early(self._who)

    def whole(self, data: bytes) -> None:
        """An answer in one piece."""
        if self._path == "/v1/responses":
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                status = msgspec.json.decode(data, type=_Status).status
                kind = _STATUSES.get(str(status), b"response.completed")
                data = b'{"type":"%b","response":%b}' % (kind, data)
        reader = self._reader
        if reader is None:
            return
        with suppress(OvertError):
            for event in reader.feed(ServerEvent("", data)):
                self._work.event(event)
            self._end()

    def finish(self) -> None:
        """The stream is closed here: what is left for the figures."""
        self._end()

    def _said(self, server_event: ServerEvent) -> None:
        reader = self._reader
        if reader is not None:
            try:
                for event in reader.feed(server_event):
                    self._work.event(event)
            except OvertError:
                self._reader = None
            else:
                self.over = self.over or reader.done
                return
        data = server_event.data.strip()
        if data and data != b"[DONE]":
            try:
                msgspec.json.decode(data, type=msgspec.Raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise broken(self._who, error) from None
        if server_event.name == "error" or (self._ends is not None and self._ends.search(data)):
            self.over = True

    def _end(self) -> None:
        reader, self._reader = self._reader, None
        if reader is None:
            return
        with suppress(OvertError):
            for event in reader.end():
                self._work.event(event)
            self.over = self.over or self._lenient


async def pieces(
    answer: AsyncGenerator[PassedResponse | bytes, None],
    engine: "Provider",
    work: GenerationRecord,
    tap: ResponseTap | None,
    last: Last,
) -> AsyncGenerator[bytes, None]:
    """The body as it comes, by whole events where it has any (`tap`).

    Raises:
        OvertError: it broke off before anything was told, or where `last` has no word for it.
    """
    code, sent = "cancelled", False
    secret = engine.to.secret
    async with aclosing(answer), aclosing(_read_document(answer, tap) if tap else answer) as chunks:
        try:
            async for piece in chunks:
                assert isinstance(piece, bytes)
                sent = sent or bool(piece)
                yield without(piece, secret)
            code = ""
        except OvertError as error:
            code = error.code
            if not sent or not (ending := last(error)):
                raise
            yield ending
        finally:
            if tap is not None:
                tap.finish()
            work.end(code)


async def _read_document(
    answer: AsyncGenerator[PassedResponse | bytes, None], tap: ResponseTap
) -> AsyncGenerator[bytes, None]:
    """Events, whole ones and no others, each batch as soon as it is there.

    Raises:
        OvertError: something was wrong before the answer was over.
    """
    held: list[bytes] = []  # of an event that is not whole
    while True:
        piece = await (_more(answer) if tap.over else anext(answer, None))
        if piece is None:
            break
        assert isinstance(piece, bytes)
        try:
            tap.piece(piece)
        except OvertError:
            if good := _complete_events(b"".join((*held, piece))):
                yield good
            raise
        if not held and piece.endswith(b"\n\n"):
            yield piece
        elif at := _boundary(held[-1] if held else b"", piece):
            yield b"".join((*held, piece[:at]))
            held = [piece[at:]] if at < len(piece) else []
        elif held and len(held[-1]) < _MAX_BLANK_BYTES:
            held[-1] += piece
        else:
            held.append(piece)
        if tap.closed:
            break
    rest = b"".join(held)
    tap.last(rest)
    if rest:
        yield rest


async def _more(
    answer: AsyncGenerator[PassedResponse | bytes, None],
) -> PassedResponse | bytes | None:
    """What follows an answer that is over: soon, or nothing does."""
    with suppress(OvertError, TimeoutError):
        async with asyncio.timeout(_GRACE):
            return await anext(answer, None)
    return None


def _boundary(before: bytes, piece: bytes) -> int:
    """Where in `piece` the last event ends that is whole, 0 where none does."""
    tail = before[1 - _MAX_BLANK_BYTES :]
    text = tail + piece
    at = max(text.rfind(blank) + len(blank) if blank in text else 0 for blank in _BLANKS)
    return max(0, at - len(tail))


def _complete_events(data: bytes) -> bytes:
    """The events at the beginning of `data` that are JSON."""
    at = 0
    for match in re.finditer(rb"\r\n\r\n|\n\r?\n|\r\r", data):
        for event in EventSplitter().feed(data[at : match.end()]):
            if (payload := event.data.strip()) and payload != b"[DONE]":
                try:
                    msgspec.json.decode(payload, type=msgspec.Raw)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    return data[:at]
        at = match.end()
    return data[:at]


def last_word(call: "HttpCall", matched: "MatchedRoute") -> Last:
    """What ends a stream of this protocol with an error."""

    def said(error: OvertError) -> bytes:
        body = matched.protocol.refuse(error, call.id).body()
        if matched.route.path == "/v1/messages":
            return b"event: error\ndata: " + body + b"\n\n"
        if matched.route.path == "/v1/responses":
            inner = msgspec.json.decode(body).get("error") or {}
            # The official client raises for `error`; the other fields are what the reference has.
            event = {
                "type": "error",
                "sequence_number": 0,
                "code": inner.get("code"),
                "message": error.message,
                "param": None,
                "error": inner,
            }
            return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
        if matched.route.path in _ENDS or matched.protocol.name == "gemini":
            return b"data: " + body + b"\n\n"
        return b""

    return said


def without(data: bytes, secret: str) -> bytes:
    """`data`, as it is unless it repeats the whole of the owner's key."""
    key = secret.encode()
    return data.replace(key, INSTEAD.encode()) if len(key) >= PIECE and key in data else data
