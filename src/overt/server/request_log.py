"""What is noted of each request while it is answered: for metrics, spans and the log.

A `RequestRecord` is one request, a `GenerationRecord` one call of a model within it; the two find
each other by a context variable, so that nothing between them has to know. While a request runs
only plain numbers of its own are touched (about half a microsecond an event); they are added to the
server's when it is over. Nothing here holds a prompt, an answer or a key: only the key's id.
"""

import time
from bisect import bisect_left
from contextvars import ContextVar
from typing import Protocol

from overt.chat import Done, Event, Failed, Routed, Text, Thought, ToolCall, Usage

GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""Upper ends, in seconds, of the buckets of the time between two pieces of an answer."""

_PIECES = frozenset((Text, Thought, ToolCall))
_clock = time.perf_counter


class GenerationRecord:
    """One call of a model. Times are seconds of a monotonic clock, `began` Unix nanoseconds.

    Attributes:
        operation: ``chat``, ``text_completion``, ``embeddings``, ``rerank`` or ``score``.
        model: as it was asked for.
        answered: the model that answered, where that has another name.
        first: seconds to the first piece of the answer; None without one.
        gaps: how many times between two pieces fell into each bucket of `GAPS`, and beyond.
        gap_seconds: all of those added up.
        error: the code of what went wrong, else "".
    """

    __slots__ = (
        "_begun",
        "_last",
        "_seen",
        "answered",
        "began",
        "error",
        "finish",
        "first",
        "gap_seconds",
        "gaps",
        "model",
        "operation",
        "over",
        "pieces",
        "seconds",
        "tokens_cached",
        "tokens_in",
        "tokens_out",
    )

    def __init__(self, operation: str, model: str, seen: "RequestRecord | None" = None) -> None:
        self.operation = operation
        self.model = model
        self.answered = model
        self.began = time.time_ns()
        self.first: float | None = None
        self.gaps = [0] * (len(GAPS) + 1)
        self.gap_seconds = 0.0
        self.pieces = self.tokens_in = self.tokens_out = self.tokens_cached = 0
        self.finish = self.error = ""
        self.seconds = 0.0
        self.over = False
        self._seen = seen
        self._last = 0.0
        self._begun = _clock()

    def event(self, event: Event) -> None:
        """Called for every event of an answer, so it does next to nothing."""
        kind = type(event)
        if kind in _PIECES:
            now = _clock()
            last = self._last
            if last:
                gap = now - last
                self.gaps[bisect_left(GAPS, gap)] += 1
                self.gap_seconds += gap
            else:
                self.first = now - self._begun
            self._last = now
            self.pieces += 1
        elif isinstance(event, Usage):
            self.count(event.tokens_in, event.tokens_out, event.tokens_cached)
        elif isinstance(event, Routed):
            self.answered = event.model
            if self._seen is not None:
                self._seen.routed = event
        elif isinstance(event, Done):
            self.finish = event.finish
        elif isinstance(event, Failed):
            self.error = event.code

    def count(self, tokens_in: int, tokens_out: int = 0, cached: int = 0) -> None:
        self.tokens_in, self.tokens_out, self.tokens_cached = tokens_in, tokens_out, cached

    def answers(self, model: str) -> None:
        """Which model it is that answers."""
        self.answered = model

    def end(self, error: str = "") -> None:
        """It is over; `error` is the code of what went wrong. Only the first call counts."""
        if self.over:
            return
        self.over = True
        self.seconds = _clock() - self._begun
        self.error = self.error or error
        if self._seen is not None:
            self._seen.worked(self)


class Sink(Protocol):
    """Somebody who wants to know of what is over. It must not raise."""

    def request(self, seen: "RequestRecord") -> None: ...

    def generation(self, work: GenerationRecord, seen: "RequestRecord") -> None: ...


class RequestRecord:
    """One request, from its head to its end.

    Attributes:
        route: the path of the route as its protocol has it, "" where none fits.
        path: the path as it was sent, without the query.
        key: id of the caller's key.
        first: seconds from the head of the request to the first piece of its answer.
        routed: who answers, where that is not plainly the model that was named.
    """

    __slots__ = (
        "_begun",
        "_watch",
        "error",
        "first",
        "id",
        "key",
        "method",
        "model",
        "path",
        "protocol",
        "route",
        "routed",
        "seconds",
        "sent",
        "status",
        "time",
        "tokens_cached",
        "tokens_in",
        "tokens_out",
        "traceparent",
        "whole",
    )

    def __init__(self, watch: "Watch", id: str) -> None:
        self.id = id
        self.protocol = self.method = self.route = self.path = self.key = ""
        self.traceparent: str | None = None
        self.model = self.error = ""
        self.tokens_in = self.tokens_out = self.tokens_cached = 0
        self.first: float | None = None
        self.routed: Routed | None = None
        self.status = self.sent = 0
        self.whole = False
        self.seconds = 0.0
        self.time = time.time()
        self._watch = watch
        self._begun = _clock()

    def worked(self, work: GenerationRecord) -> None:
        """A model's call within this request is over."""
        self.model = work.answered
        self.tokens_in += work.tokens_in
        self.tokens_out += work.tokens_out
        self.tokens_cached += work.tokens_cached
        if work.first is not None:
            first = work._begun + work.first - self._begun
            self.first = first if self.first is None else min(first, self.first)
        for sink in self._watch.sinks:
            sink.generation(work, self)

    def end(self, status: int, *, sent: int = 0, error: str = "", whole: bool = True) -> None:
        """It is over: 499 where the client left. `sent` counts bytes of the body."""
        self.seconds = _clock() - self._begun
        self.status, self.sent, self.error, self.whole = status, sent, error, whole
        if _CURRENT.get() is self:
            _CURRENT.set(None)
        self._watch.under_way -= 1
        for sink in self._watch.sinks:
            sink.request(self)


class Watch:
    """What is noted of a server; without sinks nothing is. `under_way` counts requests now."""

    def __init__(self, *sinks: Sink) -> None:
        self.sinks = sinks
        self.under_way = 0

    def begin(
        self,
        id: str,
        *,
        protocol: str = "",
        method: str = "",
        route: str = "",
        path: str = "",
        key: str = "",
        traceparent: str | None = None,
    ) -> RequestRecord:
        """A request whose head is here; `end` must follow, in the same task."""
        seen = RequestRecord(self, id)
        seen.protocol, seen.method, seen.route, seen.path = protocol, method, route, path
        seen.key, seen.traceparent = key, traceparent
        self.under_way += 1
        _CURRENT.set(seen)
        return seen


def generation(operation: str, model: str) -> GenerationRecord:
    """A call of a model that begins now, as part of the request that this task answers."""
    return GenerationRecord(operation, model, _CURRENT.get())


_CURRENT: ContextVar[RequestRecord | None] = ContextVar("seen", default=None)
