"""The stream of ``/responses`` as `Event`s.

Of its 59 kinds of events those that carry text, refusals, reasoning, function calls and the end are
read; others (built-in tools, audio, images) were not asked for and pass unread. What only a `done`
event says, because a server sends no pieces, is told as well, and nothing is told twice.

A refusal is told as text, so that a person sees it, and ends in ``Done("refusal")``.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from overt.chat import (
    Done,
    Event,
    Finish,
    Logprobs,
    Request,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from overt.errors import ProviderFailed
from overt.providers.base import ServerEvent
from overt.providers.dialect import broken, count, ended_early
from overt.providers.openai.chat_answer import Token, token_of
from overt.providers.openai.failure import Fault, error_of, fault_of
from overt.providers.openai.responses import ORIGIN

_MAX_ITEMS = 1024
_MAX_CALLS = 128
_ABSENT = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    """What the events that matter have; the heavy fields stay unread until they are wanted."""

    type: str = ""
    delta: Any = None
    output_index: int = 0
    summary_index: int = 0
    logprobs: msgspec.Raw = _ABSENT
    arguments: Any = None
    item: msgspec.Raw = _ABSENT
    response: msgspec.Raw = _ABSENT
    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


class _ResponsePart(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _OutputItem(msgspec.Struct):
    type: str = ""
    call_id: str | None = None
    id: str | None = None
    name: str | None = None
    arguments: str | None = None
    summary: list[_ResponsePart] | None = None
    content: list[_ResponsePart] | None = None
    encrypted_content: str | None = None


class _In(msgspec.Struct):
    cached_tokens: Any = 0
    cache_write_tokens: Any = 0


class _ResponseTokenDetails(msgspec.Struct):
    reasoning_tokens: Any = 0


class _ResponseUsage(msgspec.Struct):
    input_tokens: Any = 0
    output_tokens: Any = 0
    input_tokens_details: _In | None = None
    output_tokens_details: _ResponseTokenDetails | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _ResponseObject(msgspec.Struct):
    status: str | None = None
    usage: _ResponseUsage | None = None
    incomplete_details: _Incomplete | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event).decode
_item = msgspec.json.Decoder(_OutputItem | None).decode
_response = msgspec.json.Decoder(_ResponseObject | None).decode
_tokens = msgspec.json.Decoder(list[Token] | None).decode

_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


class ResponsesReader:
    """One answer."""

    def __init__(self, request: Request, who: str = "openai") -> None:
        self.done = False
        self._who = who
        self._most = _MAX_CALLS if request.parallel_tools else 1
        self._calls: dict[int, int] = {}  # output_index -> which of our calls
        self._pieces: set[int] = set()  # output indexes of which pieces were told
        self._part = -1  # of the summary that is being told
        self._end: list[Event] | None = None
        self._refused = False

    def feed(self, server_event: ServerEvent) -> Iterable[Event]:
        """See `EventReader`."""
        if server_event.data[:1] != b"{" and server_event.data.strip() in (b"", b"[DONE]"):
            return ()
        try:
            event = _event(server_event.data)
            return self._events(event, server_event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise broken(self._who, error) from None

    def end(self) -> Iterable[Event]:
        """See `EventReader`."""
        if self._end is None:
            raise ended_early(self._who)
        return self._end

    def _events(self, event: _Event, server_event: ServerEvent) -> list[Event]:
        kind = event.type or server_event.name
        if kind == "response.output_text.delta":
            return self._text(event)
        if kind == "response.function_call_arguments.delta":
            return self._arguments(event, _text_of(event.delta))
        if kind in _THOUGHTS:
            return self._thought(event)
        if kind == "response.refusal.delta":
            self._refused = True
            self._pieces.add(self._place(event))
            return [Text(_text_of(event.delta))]
        if kind == "response.output_item.added":
            return list(self._added(event))
        if kind == "response.output_item.done":
            return list(self._closed(event))
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            self._finish(event, kind)
        elif kind == "error" or event.error is not None:
            error_fault = fault_of(event.error) if event.error else None
            fault = error_fault or Fault(event.message, param=event.param, code=event.code)
            raise error_of(self._who, fault)
        return []

    # ---- pieces ----------------------------------------------------------------------------

    def _text(self, event: _Event) -> list[Event]:
        self._pieces.add(self._place(event))
        events: list[Event] = []
        if text := _text_of(event.delta):
            events.append(Text(text))
        # Without log-probabilities it is an empty list, in every event.
        if len(event.logprobs) > len("[]"):
            tokens: list[TokenLogprob] = [
                token_of(token) for token in _tokens(event.logprobs) or ()
            ]
            if tokens:
                events.append(Logprobs(tuple(tokens)))
        return events

    def _thought(self, event: _Event) -> list[Event]:
        text = _text_of(event.delta)
        place = self._place(event)
        fresh = place not in self._pieces
        self._pieces.add(place)
        if event.summary_index != self._part:
            # Parts of one summary are paragraphs.
            text = text if fresh else "\n\n" + text
            self._part = event.summary_index
        return [Thought(text, origin=ORIGIN)] if text else []

    def _arguments(self, event: _Event, text: str) -> list[Event]:
        place = self._place(event)
        if place not in self._calls:
            raise broken(self._who, "arguments of a call that it did not begin")
        self._pieces.add(place)
        index = self._calls[place]
        return [ToolCall(index, "", "", text)] if text and index < self._most else []

    # ---- items -----------------------------------------------------------------------------

    def _added(self, event: _Event) -> Iterator[Event]:
        item = self._read(event)
        if item.type == "function_call":
            yield from self._begin(self._place(event), item)

    def _closed(self, event: _Event) -> Iterator[Event]:
        item, place = self._read(event), self._place(event)
        if item.type == "function_call":
            begun = place in self._calls
            if not begun:
                yield from self._begin(place, item)
            elif place not in self._pieces and item.arguments:
                yield from self._arguments(event, item.arguments)
        elif item.type == "reasoning":
            yield from self._reasoned(item, event, fresh=place not in self._pieces)
        elif item.type == "message" and place not in self._pieces:
            for piece in item.content or ():
                self._refused = self._refused or bool(piece.refusal)
                if text := piece.text or piece.refusal:
                    yield Text(text)
        self._pieces.add(place)

    def _begin(self, place: int, item: _OutputItem) -> Iterator[Event]:
        id = item.call_id or item.id
        if not id or not item.name:
            raise broken(self._who, "a tool call without a name")
        if place in self._calls:
            raise broken(self._who, "one tool call that begins twice")
        index = self._calls[place] = len(self._calls)
        if item.arguments:
            self._pieces.add(place)
        if index < self._most:
            yield ToolCall(index, id, item.name, item.arguments or "")

    def _reasoned(self, item: _OutputItem, event: _Event, *, fresh: bool) -> Iterator[Event]:
        """The end of a reasoning item, which goes back whole with the next turn."""
        pieces = [*(item.summary or ()), *(item.content or ())]
        text = "\n\n".join(piece.text for piece in pieces if piece.text) if fresh else ""
        self._part = -1
        if item.encrypted_content:
            whole = bytes(event.item).decode()
            yield Thought(text, whole, sealed=fresh and not text, origin=ORIGIN)
        elif text:
            yield Thought(text, origin=ORIGIN)

    def _read(self, event: _Event) -> _OutputItem:
        return _item(event.item) or _OutputItem()

    def _place(self, event: _Event) -> int:
        if not 0 <= event.output_index < _MAX_ITEMS:
            raise broken(self._who, f"a part of the answer with the number {event.output_index}")
        if len(self._calls) > _MAX_CALLS:
            raise broken(self._who, f"more than {_MAX_CALLS} tool calls")
        return event.output_index

    # ---- the end ---------------------------------------------------------------------------

    def _finish(self, event: _Event, kind: str) -> None:
        response = _response(event.response) or _ResponseObject()
        if kind == "response.failed":
            fault = fault_of(response.error) if response.error else Fault()
            raise error_of(self._who, fault)
        finish: Finish = "tool_calls" if self._calls else "stop"
        if kind == "response.incomplete":
            finish = self._incomplete(response.incomplete_details)
        if self._refused:
            finish = "refusal"
        self._end = (
            [Done(finish)] if response.usage is None else [_used(response.usage), Done(finish)]
        )
        self.done = True

    def _incomplete(self, details: _Incomplete | None) -> Finish:
        reason = (details.reason if details else None) or "no reason given"
        if reason == "max_output_tokens":
            return "length"
        if reason == "content_filter":
            return "refusal"
        raise ProviderFailed(
            f"{self._who} broke off its answer ({reason[:60]})", "try again", billed=True
        )


def _text_of(delta: Any) -> str:
    if isinstance(delta, str):
        return delta
    raise msgspec.DecodeError(f"a delta is text, not {type(delta).__name__}")


def _used(usage: _ResponseUsage) -> Usage:
    tokens_in, tokens_out = count(usage.input_tokens), count(usage.output_tokens)
    read, written = (
        usage.input_tokens_details or _In(),
        usage.output_tokens_details or _ResponseTokenDetails(),
    )
    return Usage(
        tokens_in,
        tokens_out,
        tokens_cached=min(count(read.cached_tokens), tokens_in),
        tokens_written=min(count(read.cache_write_tokens), tokens_in),
        tokens_thought=min(count(written.reasoning_tokens), tokens_out),
    )
