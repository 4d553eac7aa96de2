"""An answer of a provider on its way: bounded, watched by the clock, and closed as it is left."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import anyio
import httpx2

from overt.errors import ProviderFailed
from overt.providers.base import Destination, ServerEvent
from overt.providers.http.circuit_breaker import AdmittedRequest, Breaker
from overt.providers.http.errors import HttpTimeouts, map_transport_error
from overt.providers.http.redact import clean
from overt.providers.http.sse import MAX_EVENT_BYTES, EventSplitter

MAX_BODY_BYTES = 64 << 20
"""Bytes of an answer that is not a stream."""
MAX_STREAM_BYTES = 256 << 20
"""Bytes of a stream."""

_IDS = ("x-request-id", "request-id", "x-goog-request-id", "x-ms-request-id", "x-amzn-requestid")
# They tell of an answer that is about to begin; a model may then think, silently, for minutes.
_ANNOUNCED = frozenset(
    {
        "ping",
        "message_start",
        "content_block_start",
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
    }
)
OWN = frozenset(
    {  # headers of one connection, which nobody hands on (RFC 9110, section 7.6.1)
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "host",
    }
)


@dataclass(slots=True)
class SentTime:
    """When the first byte of a request was written, by the loop's clock; None before."""

    at: float | None = None


@dataclass(frozen=True, slots=True)
class BreakerTurn:
    """One turn at a breaker."""

    breaker: Breaker
    turn: AdmittedRequest
    clock: Callable[[], float]

    def good(self) -> None:
        self.breaker.good(self.turn)

    def heard(self) -> None:
        """The answer has begun. A probe is done by that: others need not wait for its end."""
        if self.turn.probe:
            self.good()

    def bad(self) -> None:
        self.breaker.bad(self.turn, self.clock())

    def neither(self) -> None:
        self.breaker.neither(self.turn)


class WaitTimer:
    """What `asyncio.timeout` is to one wait, for the many short waits of a stream.

    One timer for all of them, which looks when it rings whether the wait of that moment is over
    its time: making and dropping a timer for each read costs as much as reading an event.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None  # who waits now
        self._cancelling = 0
        self._until = math.inf
        self._rang = False

    def until(self, when: float) -> "WaitTimer":
        """A context for one wait, which ends in TimeoutError at `when` by the loop's clock."""
        self._until = when
        if self._timer is not None and when < self._timer.when():
            self.close()
        if self._timer is None and when < math.inf:
            self._timer = self._loop.call_at(when, self._ring)
        return self

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        self._cancelling = task.cancelling() if task else 0
        self._rang = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task, self._task = self._task, None
        # As asyncio.timeout does it: who was cancelled from outside as well stays cancelled.
        if not (self._rang and task and task.uncancel() <= self._cancelling):
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits; the next wait sets it again
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._ring)
            return
        self._rang = True
        self._task.cancel()


class StreamedResponse:
    """An answer whose head has come. A context: leaving it closes the connection or keeps it."""

    def __init__(
        self,
        response: httpx2.Response,
        to: Destination,
        limits: HttpTimeouts,
        sent: SentTime,
        settle: BreakerTurn,
        before: int,
        size: int,
    ) -> None:
        """`size`: bytes of this request; `before`: of earlier tries of it, which left as well."""
        self.status, self.to = response.status_code, to
        self.size, self.bytes_out = size, before + size
        self.headers = dict(response.headers.items())  # names in lower case
        self.request_id = clean(
            next((self.headers[k] for k in _IDS if k in self.headers), ""), to.secret
        )[:200]
        self._kind = self.headers.get("content-type", "").lower()
        self._response, self._chunks = response, response.aiter_raw()
        self._limits, self._settle, self._loop = limits, settle, asyncio.get_running_loop()
        self._patience = WaitTimer(self._loop)
        self._spoke = False  # something real was said
        self._begun = False  # … that was not only an announcement
        self._ended = False
        self._size = 0
        # Only waiting counts: whoever reads slowly does not make a provider late.
        waited = 0.0 if sent.at is None else self._loop.time() - sent.at
        self._left = limits.first - waited  # seconds for the next thing that is said

    @property
    def is_stream(self) -> bool:
        return "event-stream" in self._kind

    @property
    def is_json(self) -> bool:
        return "json" in self._kind and not self.is_stream

    async def read(self) -> bytes:
        """The next bytes as they come, b"" at the end. Raises TimedOut, ProviderFailed."""
        begin, seconds = self._loop.time(), self._left
        between = self._begun and self._limits.between < seconds
        if between:
            seconds = self._limits.between
        try:
            with self._patience.until(begin + seconds):
                chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            return b""
        except Exception as caught:  # noqa: BLE001 -- whatever it is becomes an error of ours
            self._settle.bad()
            raise map_transport_error(
                caught, self.to, self._limits, sent=True, heard=True, between=between
            ) from None
        self._left -= self._loop.time() - begin
        self._size += len(chunk)
        if self._size > MAX_STREAM_BYTES:
            raise self.failed(f"answered with more than {MAX_STREAM_BYTES >> 20} MiB")
        return chunk

    def split(self, splitter: EventSplitter, chunk: bytes) -> list[ServerEvent]:
        """The events in `chunk`. Raises ProviderFailed: a line of no reasonable length."""
        try:
            return splitter.feed(chunk)
        except ProviderFailed:
            raise self.failed(f"sent an event of more than {MAX_EVENT_BYTES >> 20} MiB") from None

    def heard(self, events: Sequence[ServerEvent]) -> None:
        """These were said just now."""
        for event in events:
            if event.name not in _ANNOUNCED:
                self.moved()
            elif event.name != "ping":
                self._spoke = True
                if self._begun:
                    self._left = self._limits.first

    def moved(self) -> None:
        """What came is part of the answer itself."""
        if not self._begun:
            self._begun = self._spoke = True
            self._settle.heard()
        self._left = self._limits.first

    async def whole(self, begin: bytes = b"") -> bytes:
        """All of the body. Raises ProviderFailed, TimedOut."""
        self._must_be_plain()
        pieces, size = [begin], len(begin)
        while chunk := await self.read():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise self.failed(f"answered with more than {MAX_BODY_BYTES >> 20} MiB at once")
            pieces.append(chunk)
        self._spoke = size > 0
        self.must_have_spoken()
        return b"".join(pieces)

    async def some(self, most: int) -> bytes:
        """What can be had of the body of an error, `most` bytes, within ten seconds."""
        data = b""
        with suppress(TimeoutError, StopAsyncIteration, httpx2.HTTPError):
            async with asyncio.timeout(min(10.0, self._limits.first)):
                while len(data) < most:
                    data += await anext(self._chunks)
        return data[:most]

    def handed_on(self) -> dict[str, str]:
        """The headers that may be shown to whoever asked."""
        mine = {word.strip().lower() for word in self.headers.get("connection", "").split(",")}
        return {
            name: value
            for name, value in self.headers.items()
            if name not in OWN | mine
            and not name.startswith("set-cookie")
            and clean(value, self.to.secret) == value
        }

    def must_stream(self) -> None:
        """Raises ProviderFailed: it is a page or a file, not a stream."""
        self._must_be_plain()
        if "html" in self._kind:
            raise self.failed("answered with a web page where a stream of events was due")

    def _must_be_plain(self) -> None:
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise self.failed(f"answered compressed ({coding[:20]}), although it was asked not to")

    def must_have_spoken(self) -> None:
        """Raises ProviderFailed: it ended in order, without a word."""
        if not self._spoke:
            raise self.failed("answered with nothing")

    def failed(self, what: str) -> ProviderFailed:
        """The error that it did `what`, which counts against it."""
        self._settle.bad()
        hint = "it may be billed: look what is at its address before you ask again"
        return ProviderFailed(f"{self.to.label} {what}", hint, billed=True)

    async def __aenter__(self) -> "StreamedResponse":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.status == 200 and self._spoke:
            self._settle.good()
        else:
            self._settle.neither()
        self._patience.close()
        with anyio.CancelScope(shield=True):
            # Who reads to the last word leaves the end of the stream unread. With it the
            # connection can be used again, which saves the next request the time to make one.
            if kind is GeneratorExit and self._spoke and not self._ended:
                with suppress(TimeoutError, StopAsyncIteration, httpx2.HTTPError):
                    async with asyncio.timeout(0.02):
                        while True:
                            await anext(self._chunks)
            await self._chunks.aclose()
            await self._response.aclose()
