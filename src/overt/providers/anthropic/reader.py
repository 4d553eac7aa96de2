"""What Anthropic sends back, as events: its stream of named events, or one whole message."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from overt.chat import Done, Event, Finish, Text, Thought, ToolCall, Usage
from overt.errors import ProviderFailed
from overt.providers.anthropic.failure import failed
from overt.providers.base import ServerEvent
from overt.providers.dialect import broken, count, ended_early

ORIGIN: Final = "anthropic"
_MAX_BLOCKS = 10_000

# ---- the wire ------------------------------------------------------------------------------


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: Any = None


class _AnthropicTokenDetails(msgspec.Struct):
    thinking_tokens: Any = None


class _AnthropicUsage(msgspec.Struct):
    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _AnthropicTokenDetails | None = None


class _ContentBlock(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class _AnthropicDelta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _StartedMessage(msgspec.Struct):
    usage: _AnthropicUsage | None = None


class _StreamError(msgspec.Struct):
    type: str = ""
    message: str = ""


class _AnthropicEvent(msgspec.Struct):
    """Any event. A whole message, sent where a stream was asked for, fits as well."""

    type: str = ""
    index: Annotated[int, msgspec.Meta(ge=0, le=_MAX_BLOCKS)] = 0
    delta: _AnthropicDelta | None = None
    content_block: _ContentBlock | None = None
    message: _StartedMessage | None = None
    usage: _AnthropicUsage | None = None
    error: _StreamError | None = None
    content: list[_ContentBlock] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Typed(msgspec.Struct):
    type: str = ""


class _Kinds(msgspec.Struct):
    """As much of an event as says whether this program knows its kind."""

    type: str = ""
    index: Annotated[int, msgspec.Meta(ge=0, le=_MAX_BLOCKS)] = 0
    delta: _Typed | None = None
    content_block: _Typed | None = None


_decode = msgspec.json.Decoder(_AnthropicEvent).decode
_kinds = msgspec.json.Decoder(_Kinds).decode
_EVENTS = frozenset(
    (
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "error",
        "message",
    )
)
_DELTAS = frozenset(("text_delta", "thinking_delta", "signature_delta", "input_json_delta"))
_BLOCKS = frozenset(("text", "thinking", "redacted_thinking", "tool_use"))
_FINISHES: dict[str | None, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",  # a tool on Anthropic's machines takes long; none is asked for here
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}

# ---- reading -------------------------------------------------------------------------------


@dataclass(slots=True)
class _OpenBlock:
    """A block on its way. `call` is the number of its tool call; -1 for none."""

    kind: str
    call: int = -1
    signature: str = ""
    wrote: bool = False
    given: bytes = b""  # the input that came with the start, where servers send it whole


@dataclass(slots=True)
class AnthropicReader:
    """Reads one answer. Time and memory do not grow with its length, but with its blocks."""

    done: bool = False
    _begun: bool = False
    _ended: bool = False  # a reason to stop was told
    _blocks: dict[int, _OpenBlock] = field(default_factory=dict)
    _starts: int = 0
    _calls: int = 0
    _usage: _AnthropicUsage = field(default_factory=_AnthropicUsage)
    _finish: Finish = "stop"
    _stop: str | None = None

    def feed(self, server_event: ServerEvent) -> Iterable[Event]:
        """The events that one server-sent event makes: none for most kinds.

        Raises:
            OvertError: the provider says that it failed, or what is not in its protocol.
        """
        event = None if self.done else self._read(server_event.data)
        if event is None:
            return ()
        if event.type == "content_block_delta" and event.delta is not None:
            return self._piece(event.index, event.delta)
        match event.type:
            case "content_block_start":
                return list(self._start(event.index, event.content_block))
            case "content_block_stop":
                return self._close(event.index)
            case "message_start":
                self._begun = True
                if event.message is not None:
                    self._count(event.message.usage)
            case "message_delta":
                self._count(event.usage)
                if event.delta is not None:
                    self._end_as(event.delta.stop_reason, event.delta.stop_sequence)
            case "message_stop":
                return self._finished()
            case "message" if event.content is not None:
                return list(self._whole(event))
            case "error":
                problem = event.error or _StreamError()
                raise failed(problem.type, problem.message, billed=self._begun)
            case _:
                pass
        return ()

    def end(self) -> Iterable[Event]:
        """Usage and `Done`.

        Raises:
            ProviderFailed: the stream ended before the answer did.
        """
        if not (self._begun and (self.done or self._ended)):
            raise ended_early(ORIGIN, billed=self._begun)
        yield from self._finished()
        yield self._total()
        yield Done(self._finish, self._stop)

    # -- events --

    def _read(self, data: bytes) -> _AnthropicEvent | None:
        """None for what is no event of this protocol: newer ones are to be passed over."""
        try:
            return _decode(data)
        except msgspec.ValidationError as error:
            if self._passes(data):
                return None
            raise self._unreadable(str(error)) from None
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            if data.strip() == b"[DONE]":  # some gateways end every stream as OpenAI does
                return None
            raise self._unreadable(str(error)) from None

    def _passes(self, data: bytes) -> bool:
        """Whether what does not fit is of a kind that this program does not know."""
        try:
            kinds = _kinds(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False
        if kinds.type == "content_block_delta":
            return kinds.delta is not None and kinds.delta.type not in _DELTAS
        if kinds.type == "content_block_start" and kinds.content_block is not None:
            if kinds.content_block.type in _BLOCKS:
                return False
            self._blocks[kinds.index] = _OpenBlock(kinds.content_block.type)
            return True
        return kinds.type not in _EVENTS

    def _unreadable(self, why: str) -> ProviderFailed:
        return broken(ORIGIN, why, billed=self._begun)

    def _start(self, index: int, block: _ContentBlock | None) -> Iterator[Event]:
        if block is None:
            raise self._unreadable("a block without its kind")
        opened = self._blocks[index] = _OpenBlock(block.type)
        self._starts += 1  # an index may come twice
        if self._starts > _MAX_BLOCKS:
            raise self._unreadable(f"more than {_MAX_BLOCKS} blocks")
        match block.type:
            case "text":
                if block.text:
                    yield Text(block.text)
            case "thinking":
                if block.thinking:
                    yield Thought(block.thinking, origin=ORIGIN)
                opened.signature = block.signature or ""
            case "redacted_thinking":
                if block.data:
                    yield Thought("", block.data, sealed=True, origin=ORIGIN)
            case "tool_use":
                opened.call, self._calls = self._calls, self._calls + 1
                opened.given = bytes(block.input)
                yield ToolCall(opened.call, block.id or "", block.name or "", "")
            case _:
                pass

    def _piece(self, index: int, delta: _AnthropicDelta) -> Iterable[Event]:
        opened = self._blocks.get(index)
        if opened is None:
            raise self._unreadable(f"a piece of block {index}, which was not begun")
        match delta.type, opened.kind:
            case "text_delta", "text":
                return (Text(delta.text),) if delta.text else ()
            case "thinking_delta", "thinking":
                return (Thought(delta.thinking, origin=ORIGIN),) if delta.thinking else ()
            case "signature_delta", "thinking":
                opened.signature = delta.signature
            case "input_json_delta", "tool_use":
                if delta.partial_json:
                    opened.wrote = True
                    return (ToolCall(opened.call, "", "", delta.partial_json),)
            case _:
                pass
        return ()

    def _close(self, index: int) -> Iterable[Event]:
        opened = self._blocks.get(index)
        if opened is None:  # a stop without a start says nothing
            return ()
        if opened.kind == "thinking" and opened.signature:
            signature, opened.signature = opened.signature, ""
            return (Thought("", signature, origin=ORIGIN),)
        if opened.kind == "tool_use" and not opened.wrote:
            opened.wrote = True
            return (ToolCall(opened.call, "", "", _text(opened.given) or "{}"),)
        return ()

    def _whole(self, message: _AnthropicEvent) -> Iterator[Event]:
        """A message that was not streamed."""
        self._begun = True
        for index, block in enumerate(message.content or ()):
            yield from self._start(index, block)
            yield from self._close(index)
        self._count(message.usage)
        self._end_as(message.stop_reason, message.stop_sequence)
        self.done = True

    def _finished(self) -> list[Event]:
        """Signatures of thoughts whose blocks were never ended; calls stay as they came."""
        self.done = True
        if not self._ended and self._calls:
            self._finish = "tool_calls"
        open_thoughts = [at for at, block in self._blocks.items() if block.kind == "thinking"]
        return [event for index in open_thoughts for event in self._close(index)]

    def _end_as(self, reason: str | None, stop: str | None) -> None:
        if reason is None:
            return
        self._ended = True
        self._finish = _FINISHES.get(reason, "tool_calls" if self._calls else "stop")
        # llama-server names the sequence and calls the reason end_turn.
        self._stop = (stop or None) if self._finish == "stop" else None

    def _count(self, usage: _AnthropicUsage | None) -> None:
        """Every number is the whole so far; those that are not told stay."""
        for name in _AnthropicUsage.__struct_fields__ if usage is not None else ():
            if (value := getattr(usage, name)) is not None:
                setattr(self._usage, name, value)

    def _total(self) -> Usage:
        usage = self._usage
        read = count(usage.cache_read_input_tokens)
        written = count(usage.cache_creation_input_tokens)
        hour = count((usage.cache_creation or _CacheCreation()).ephemeral_1h_input_tokens)
        out = count(usage.output_tokens)
        thought = count((usage.output_tokens_details or _AnthropicTokenDetails()).thinking_tokens)
        return Usage(
            tokens_in=count(usage.input_tokens) + read + written,
            tokens_out=out,
            tokens_cached=read,
            tokens_written=written,
            tokens_written_hour=min(hour, written),
            tokens_thought=min(thought, out),
        )


def _text(data: bytes) -> str:
    """The input that came with the start of a call; "" for none, which is sent as ``{}``."""
    text = data.decode("utf-8", "replace").strip()
    return "" if text in ("{}", "null") else text
