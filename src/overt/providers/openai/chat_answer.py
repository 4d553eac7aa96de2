"""Chunks of ``/chat/completions`` and ``/completions`` as `Event`s.

OpenAI's own stream is the strict case of what many servers send, so one reader serves both. It
takes what is seen in the wild: reasoning as `reasoning_content` or `reasoning`, tool calls whole or
in pieces, with and without `index`, null where nothing is, usage in every chunk, in the last or in
none, no ``[DONE]``, and an error object in the middle. What cannot be understood is one
`ProviderFailed`.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
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
from overt.errors import OvertError, ProviderFailed
from overt.providers.base import ServerEvent
from overt.providers.dialect import broken, count, ended_early
from overt.providers.openai.failure import Fault, error_of, fault_of

_MAX_CALLS = 128
_MAX_HELD = 1 << 20  # characters of arguments that wait for the name of their call


class _OpenAIFunction(msgspec.Struct):
    name: str | None = None
    arguments: Any = None  # text, or by some servers an object


class _OpenAIToolCall(msgspec.Struct):
    index: int | None = None
    id: str | int | None = None
    function: _OpenAIFunction | None = None


class _OpenAIDelta(msgspec.Struct):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_OpenAIToolCall] | None = None
    function_call: _OpenAIFunction | None = None


class Top(msgspec.Struct):
    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None


class Token(msgspec.Struct):
    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[Top] | None = None
    id: Any = None


class _OpenAILogprobs(msgspec.Struct):
    content: list[Token] | None = None
    refusal: list[Token] | None = None
    tokens: list[str] | None = None  # of /completions
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _OpenAIChoice(msgspec.Struct):
    index: int | None = 0
    delta: _OpenAIDelta | None = None
    message: _OpenAIDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the stop that was found
    logprobs: _OpenAILogprobs | None = None


class _OpenAITokenDetails(msgspec.Struct):
    cached_tokens: Any = 0
    cache_write_tokens: Any = 0
    reasoning_tokens: Any = 0


class _OpenAIUsage(msgspec.Struct):
    prompt_tokens: Any = 0
    completion_tokens: Any = 0
    prompt_tokens_details: _OpenAITokenDetails | None = None
    completion_tokens_details: _OpenAITokenDetails | None = None


class _OpenAITimings(msgspec.Struct):
    """llama-server's, in milliseconds."""

    prompt_ms: float | None = 0
    predicted_ms: float | None = 0


class _OpenAIChunk(msgspec.Struct):
    choices: list[_OpenAIChoice] | None = None
    usage: _OpenAIUsage | None = None
    timings: _OpenAITimings | None = None
    error: Any = None
    object: Any = None
    message: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(_OpenAIChunk).decode

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refusal",
    "refusal": "refusal",
    "safety": "refusal",
}
_BROKEN = frozenset({"error", "abort", "aborted", "insufficient_system_resource"})


class ChatReader:
    """One answer. `who` is told of in errors; `origin` is whose the thoughts are."""

    def __init__(self, request: Request, who: str, origin: str) -> None:
        self.done = False
        self._who, self._origin = who, origin
        self._stops = request.stop
        self._most = _MAX_CALLS if request.parallel_tools else 1
        self._calls = _CallOrder(who)
        self._finish: Finish | None = None
        self._stop: str | None = None
        self._usage: _OpenAIUsage | None = None
        self._timings: _OpenAITimings | None = None
        self._refused = self._begun = False

    def feed(self, server_event: ServerEvent) -> Iterable[Event]:
        """See `EventReader`."""
        data = server_event.data
        if data[:1] != b"{":
            if data.strip() == b"[DONE]":
                self.done = True
                return ()
            if not data.strip():
                return ()
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise broken(self._who, error) from None
        if chunk.error is not None or chunk.object == "error" or server_event.name == "error":
            raise self._failure(chunk)
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.timings is not None:
            self._timings = chunk.timings
        if not chunk.choices:
            return ()
        events: list[Event] = []
        for choice in chunk.choices:
            if not choice.index:  # one answer was asked for
                self._choice(choice, events)
        if events:
            self._begun = True
        return events

    def end(self) -> Iterable[Event]:
        """See `EventReader`."""
        if self._finish is None and not (self.done and self._begun):
            raise ended_early(self._who)
        self._calls.check(self._most)
        if self._usage is not None:
            yield _used(self._usage, self._timings or _OpenAITimings())
        yield Done(self._ended(), self._stop)

    def _ended(self) -> Finish:
        if self._refused:
            return "refusal"
        # A named or required call ends in "stop" at OpenAI, and some servers never say another.
        if self._calls.count and self._finish in (None, "stop"):
            return "tool_calls"
        return self._finish or "stop"

    def _choice(self, choice: _OpenAIChoice, events: list[Event]) -> None:
        delta = choice.delta
        if delta is None:
            # A whole message stands in for the pieces only where no piece came before.
            delta = choice.message if not self._begun else None
        if delta is not None:
            self._delta(delta, events)
        if choice.text:
            events.append(Text(choice.text))
        if choice.logprobs is not None and (tokens := _logprobs(choice.logprobs)):
            events.append(Logprobs(tokens))
        if reason := choice.finish_reason:
            if reason.lower() in _BROKEN:
                raise ProviderFailed(
                    f"{self._who} broke off its answer ({reason[:40]})", "try again", billed=True
                )
            self._finish = _FINISH.get(reason.lower(), "stop")
            if isinstance(choice.stop_reason, str) and choice.stop_reason in self._stops:
                self._stop = choice.stop_reason

    def _delta(self, delta: _OpenAIDelta, events: list[Event]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought and isinstance(thought, str):
            events.append(Thought(thought, origin=self._origin))
        if delta.content:
            if isinstance(delta.content, str):
                events.append(Text(delta.content))
            else:
                events += _parts(delta.content, self._origin)
        if delta.refusal:
            self._refused = True
            events.append(Text(delta.refusal))
        if delta.tool_calls:
            for call in delta.tool_calls:
                events += self._calls.add(call, self._most)
        elif delta.function_call is not None:
            events += self._calls.add(_OpenAIToolCall(0, None, delta.function_call), self._most)

    def _failure(self, chunk: _OpenAIChunk) -> OvertError:
        fault = fault_of(chunk.error) if chunk.error else Fault()
        if not chunk.error:
            fault = Fault(chunk.message, code=chunk.code)
        return error_of(self._who, fault)


class _CallOrder:
    """Puts the pieces of tool calls in order, by index where there is one, else by id and name."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._given: dict[int, int] = {}  # the server's index -> ours
        self._ids: list[str] = []
        self._held: list[list[str] | None] = []  # arguments that came before the name
        self._size = 0

    @property
    def count(self) -> int:
        return len(self._ids)

    def add(self, call: _OpenAIToolCall, most: int) -> Iterator[ToolCall]:
        function = call.function or _OpenAIFunction()
        id, name = str(call.id or ""), function.name or ""
        index = self._place(call.index, id, name)
        if index >= most:  # fewer were asked for
            return
        arguments = _arguments(function.arguments)
        held = self._held[index]
        if held is None:
            if arguments:
                yield ToolCall(index, "", "", arguments)
            return
        held.append(arguments)
        self._size += len(arguments)
        if self._size > _MAX_HELD:
            raise broken(self._who, f"{self._size} characters of a tool call without its name")
        if name:
            self._held[index] = None
            self._ids[index] = self._ids[index] or "call_" + secrets.token_hex(12)
            yield ToolCall(index, self._ids[index], name, "".join(held))

    def check(self, most: int) -> None:
        """Raises ProviderFailed: a call never got its name."""
        if any(held is not None for held in self._held[:most]):
            raise broken(self._who, "a tool call without a name")

    def _place(self, index: int | None, id: str, name: str) -> int:
        """Which of our calls a piece belongs to."""
        at = self._given.get(index) if index is not None else len(self._ids) - 1
        if at is None or at < 0:
            at = self._new(id)
        elif id and not self._ids[at]:
            self._ids[at] = id
        elif index is None and (self._ids[at] != id if id else name and self._named(at)):
            at = self._new(id)
        elif id and name and self._ids[at] != id and self._named(at):
            # Some servers number parallel calls all 0, each with an id and a name of its own.
            at = self._new(id)
        if index is not None:
            self._given[index] = at
        return at

    def _named(self, at: int) -> bool:
        return self._held[at] is None

    def _new(self, id: str) -> int:
        if len(self._ids) >= _MAX_CALLS:
            raise broken(self._who, f"more than {_MAX_CALLS} tool calls")
        self._ids.append(id)
        self._held.append([])
        return len(self._ids) - 1


def _used(usage: _OpenAIUsage, timings: _OpenAITimings) -> Usage:
    read, written = usage.prompt_tokens_details, usage.completion_tokens_details
    tokens_in, tokens_out = count(usage.prompt_tokens), count(usage.completion_tokens)
    return Usage(
        tokens_in,
        tokens_out,
        tokens_cached=min(count(read.cached_tokens), tokens_in) if read else 0,
        prompt_seconds=max(timings.prompt_ms or 0, 0) / 1000,
        decode_seconds=max(timings.predicted_ms or 0, 0) / 1000,
        tokens_written=min(count(read.cache_write_tokens), tokens_in) if read else 0,
        tokens_thought=min(count(written.reasoning_tokens), tokens_out) if written else 0,
    )


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _parts(parts: list[Any], origin: str) -> Iterator[Event]:
    """Content as a list, which Mistral's models answer with: text, and thinking with text in it."""
    for part in parts:
        if not isinstance(part, Mapping):
            continue
        if isinstance(text := part.get("text"), str) and text:
            yield Text(text)
        inside = part.get("thinking")
        for item in inside if isinstance(inside, list) else (inside,):
            text = item.get("text") if isinstance(item, Mapping) else item
            if isinstance(text, str) and text:
                yield Thought(text, origin=origin)


def _logprobs(logprobs: _OpenAILogprobs) -> tuple[TokenLogprob, ...]:
    if logprobs.content or logprobs.refusal:
        return tuple(
            token_of(token) for token in (logprobs.content or []) + (logprobs.refusal or [])
        )
    tokens = logprobs.tokens or []
    rows = zip_longest(tokens, logprobs.token_logprobs or [], logprobs.top_logprobs or [])
    return tuple(
        TokenLogprob(token, logprob, tuple(sorted((top or {}).items(), key=lambda x: -x[1])[:20]))
        for token, logprob, top in rows
        if token is not None
    )


def token_of(token: Token) -> TokenLogprob:
    """One token of a chat's log-probabilities."""
    top = tuple(
        (alternative.token, alternative.logprob)
        for alternative in (token.top_logprobs or [])[:20]
        if alternative.logprob is not None
    )
    id = token.id if isinstance(token.id, int) and not isinstance(token.id, bool) else None
    raw = _raw(token)
    return TokenLogprob(token.token, token.logprob, top, id, raw)


def _raw(token: Token) -> bytes | None:
    """Its bytes, where they are told and are not those of its text."""
    if not token.bytes or len(token.bytes) > 4096:
        return None
    try:
        raw = bytes(token.bytes)
    except ValueError:
        return None
    return None if raw == token.token.encode("utf-8", "replace") else raw
