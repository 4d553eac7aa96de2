"""Events as an answer of Anthropic's Messages API: whole, or as its named server-sent events.

An answer is a list of blocks: thinking, text, tool_use. Neighbouring events of one kind make one
block. In a stream each block is started, filled by deltas and stopped before the next one begins.
A provider's signature ends the block of the thought it signs; that of a call stands in a sealed
block before the call, where Anthropic's wire has no other place for it.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from overt.chat import (
    Done,
    Event,
    Failed,
    Progress,
    Routed,
    Text,
    Thought,
    ToolCall,
    Usage,
)
from overt.errors import EngineFailed, OvertError
from overt.protocols.anthropic.request import SIGNATURE, LostThread, sealed, sealed_call
from overt.protocols.base import BadBody, encode, new_id, object_of
from overt.protocols.failure import error_of

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "model_context_window_exceeded",
    "refusal",
]

# ---- the wire ------------------------------------------------------------------------------


class TextBody(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class ThinkingBody(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class RedactedBody(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    data: str


class ToolUseBody(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Any


BlockBody = TextBody | ThinkingBody | RedactedBody | ToolUseBody


class ThinkingDetails(msgspec.Struct):
    thinking_tokens: int


class AnthropicUsage(msgspec.Struct):
    """`input_tokens` leaves out those that were read from a cache or written to one."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: ThinkingDetails | None = None


class MessageReply(msgspec.Struct):
    id: str
    model: str
    content: Sequence[BlockBody]
    usage: AnthropicUsage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    type: str = "message"
    role: str = "assistant"


class _Ending(msgspec.Struct):
    stop_reason: StopReason | None
    stop_sequence: str | None


class _MessageDelta(msgspec.Struct, tag_field="type", tag="message_delta"):
    delta: _Ending
    usage: AnthropicUsage


class _MessageStart(msgspec.Struct, tag_field="type", tag="message_start"):
    message: MessageReply


class _BlockStart(msgspec.Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: BlockBody


class AnthropicProblem(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    details: dict[str, Any] | None = None


class AnthropicErrorBody(msgspec.Struct, tag_field="type", tag="error"):
    error: AnthropicProblem
    request_id: str | None = None


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    421: "permission_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


def error_body(error: OvertError, id: str) -> AnthropicErrorBody:
    """`error` in Anthropic's words; `id` is the request's."""
    if error.code == "busy":
        kind = "overloaded_error"
    elif error.status in _TYPES:
        kind = _TYPES[error.status]
    elif error.status < 500 or error.status == 501:
        kind = "invalid_request_error"
    else:
        kind = "api_error"
    message = _message(error) if isinstance(error, BadBody) else str(error)
    details = error.details if isinstance(error, LostThread) else None
    return AnthropicErrorBody(AnthropicProblem(kind, message, details), id or None)


def _message(error: BadBody) -> str:
    """What is wrong with a body, as pydantic says it, which is what answers there."""
    path = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", error.path)
    if error.unknown is not None:
        return f"{_under(path, error.unknown)}: Extra inputs are not permitted"
    what = error.message.removesuffix(f" at {error.path}")
    if what.startswith("Object missing required field `"):
        return f"{_under(path, what.split('`')[1])}: Field required"
    return f"{path}: {what}" if path else what


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# ---- what both forms have in common --------------------------------------------------------


@dataclass(slots=True)
class AnswerTurn:
    """One answer while it comes.

    Args:
        model: as the client named it.
        max_tokens: as the client asked; 0 reads the prompt and answers nothing.
        thinking: whether thoughts are told at all.
        omitted: tell that there were thoughts, but not what they were.
        request_id: for the error of a broken stream.
    """

    model: str
    max_tokens: int
    thinking: bool = True
    omitted: bool = False
    request_id: str = ""
    usage: Usage = Usage(0, 0)
    thoughts: int = 0  # events of reasoning of local engines, where one is a token
    called: bool = False

    def mutes(self, event: Event) -> bool:
        """Whether `event` is not for the client."""
        if self.max_tokens == 0:
            return isinstance(event, Text | Thought | ToolCall)
        return not self.thinking and type(event) is Thought

    def told(self) -> AnthropicUsage:
        usage = self.usage
        out = 0 if self.max_tokens == 0 else usage.tokens_out
        thought = min(usage.tokens_thought or self.thoughts, out)
        thinking = ThinkingDetails(thought) if thought or self.thoughts else None
        read, written = usage.tokens_cached, usage.tokens_written
        return AnthropicUsage(
            max(0, usage.tokens_in - read - written), written, read, out, thinking
        )

    def ending(self, done: Done) -> _Ending:
        if self.max_tokens == 0:
            return _Ending("max_tokens", None)
        if done.finish == "refusal":
            return _Ending("refusal", None)
        if done.stop is not None:
            return _Ending("stop_sequence", done.stop)
        if done.finish == "length":
            # Cut before the client's own limit: then it was the context that ended.
            full = 0 < self.usage.tokens_out < self.max_tokens
            return _Ending("model_context_window_exceeded" if full else "max_tokens", None)
        return _Ending("tool_use" if self.called else "end_turn", None)


# ---- whole ---------------------------------------------------------------------------------


async def document(turn: AnswerTurn, events: AsyncGenerator[Event, None]) -> MessageReply:
    """The message that `events` make.

    Raises:
        OvertError: the engine failed.
    """
    blocks: list[_WrittenBlock] = []
    end: _Ending | None = None
    async with aclosing(events):
        async for event in events:
            if turn.mutes(event):
                continue
            match event:
                case Text(text):
                    _last(blocks, "text").pieces.append(text)
                case Thought():
                    turn.thoughts += event.origin is None
                    _thought(blocks, event, omitted=turn.omitted)
                case ToolCall():
                    turn.called = True
                    _call(blocks, event, turn).pieces.append(event.arguments)
                case Usage():
                    turn.usage = event
                case Done():
                    end = turn.ending(event)
                case Failed():
                    raise error_of(event)
                case _:
                    pass
    if end is None:
        raise EngineFailed("the engine ended the answer without a reason", "try again")
    content = [block.body() for block in blocks]
    return MessageReply(
        new_id("msg_"), turn.model, content, turn.told(), end.stop_reason, end.stop_sequence
    )


@dataclass(slots=True)
class _WrittenBlock:
    kind: str
    pieces: list[str]
    index: int = -1  # of the tool call
    id: str = ""
    name: str = ""
    signature: str | None = None  # as the wire has it

    def body(self) -> BlockBody:
        text = "".join(self.pieces)
        if self.kind == "text":
            return TextBody(text)
        if self.kind == "thinking":
            return ThinkingBody(text, self.signature or SIGNATURE)
        if self.kind == "redacted":
            return RedactedBody(text)
        return ToolUseBody(self.id, self.name, _input(text))


def _last(blocks: list[_WrittenBlock], kind: str) -> _WrittenBlock:
    if not blocks or blocks[-1].kind != kind or blocks[-1].signature:
        blocks.append(_WrittenBlock(kind, []))
    return blocks[-1]


def _thought(blocks: list[_WrittenBlock], piece: Thought, *, omitted: bool) -> None:
    if piece.sealed:
        blocks.append(_WrittenBlock("redacted", [sealed(piece)]))
        return
    block = _last(blocks, "thinking")
    block.pieces.append("" if omitted else piece.text)
    if piece.signature:
        block.signature = sealed(piece)


def _call(blocks: list[_WrittenBlock], piece: ToolCall, turn: AnswerTurn) -> _WrittenBlock:
    for block in blocks:
        if block.index == piece.index:
            return block
    if piece.signature and turn.thinking:
        blocks.append(_WrittenBlock("redacted", [sealed_call(piece)]))
    blocks.append(
        _WrittenBlock("tool_use", [], piece.index, piece.id or new_id("toolu_"), piece.name)
    )
    return blocks[-1]


def _input(text: str) -> Any:
    """The arguments of a call, which Anthropic has as an object and models may get wrong."""
    value = object_of(text)
    return {"arguments": text} if value is None else value


# ---- in pieces -----------------------------------------------------------------------------

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_TAIL = b"}}\n\n"


async def pieces(
    turn: AnswerTurn, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[bytes, None]:
    """The server-sent events that `events` make; raises only before the first."""
    writer = _AnthropicStreamWriter(turn)
    write = writer.write
    async with aclosing(events):
        async for event in events:
            if piece := write(event):
                yield piece
    if not writer.ended:
        failed = Failed("engine_failed", "the engine ended the answer without a reason")
        yield writer.write(failed)


class _AnthropicStreamWriter:
    """Turns one event after the other into bytes."""

    def __init__(self, turn: AnswerTurn) -> None:
        self._turn = turn
        self._open: type[Event] | None = None  # kind of the block that is open
        self._index = -1  # its number
        self._head = b""  # what comes before the text of its next delta
        self._begun = False
        self._prompt: int | None = None  # tokens of it, once they are known
        self._calls: dict[int, int] = {}  # tool call to block
        self.ended = False

    def write(self, event: Event) -> bytes:
        kind = type(event)
        if kind is Routed:  # says nothing of the answer: what fails next still has a status
            return b""
        if kind is self._open and kind is Text:  # nearly all events
            return self._head + encode(event.text) + _TAIL  # type: ignore[union-attr]
        if kind is Progress:
            return self._progress(event)  # type: ignore[arg-type]
        if not self._begun and kind is Failed:
            raise error_of(event)  # type: ignore[arg-type]
        piece = b"" if self._begun else self._start()
        if self._turn.mutes(event):
            return piece
        return piece + self._told(event)

    def _told(self, event: Event) -> bytes:
        match event:
            case Text(text):
                return self._block(Text, TextBody("")) + self._delta(text)
            case Thought():
                return self._thought(event)
            case ToolCall():
                return self._call(event)
            case Usage():
                self._turn.usage = event
            case Done():
                return self._close() + self._done(event)
            case Failed():
                return self._failed(event)
            case _:
                pass
        return b""

    def _thought(self, piece: Thought) -> bytes:
        self._turn.thoughts += piece.origin is None
        if piece.sealed:
            return self._sealed(sealed(piece))
        written = b""
        if self._open is not Thought:
            written = self._block(Thought, ThinkingBody("", ""))
        if not self._turn.omitted:
            written += self._delta(piece.text)
        return written + self._close(sealed(piece)) if piece.signature else written

    def _sealed(self, data: str) -> bytes:
        """A block that comes whole with its start."""
        closed = self._close()
        self._index += 1
        start = _event(b"content_block_start", _BlockStart(self._index, RedactedBody(data)))
        return closed + start + _stopped(self._index)

    def _progress(self, progress: Progress) -> bytes:
        """A long prompt is being read: the client is told that this server lives.

        The first is waited out: what goes wrong right after it still has a status.
        """
        first, self._prompt = self._prompt is None, progress.total
        if first:
            return b""
        return PING if self._begun else self._start()

    def _start(self) -> bytes:
        self._begun = True
        usage = AnthropicUsage(self._prompt or 0)
        message = MessageReply(new_id("msg_"), self._turn.model, (), usage)
        return _event(b"message_start", _MessageStart(message)) + PING

    def _block(self, kind: type[Event], body: BlockBody) -> bytes:
        closed = self._close()
        self._index += 1
        self._open = kind
        self._head = _head(self._index, kind)
        return closed + _event(b"content_block_start", _BlockStart(self._index, body))

    def _delta(self, text: str) -> bytes:
        return self._head + encode(text) + _TAIL if text else b""

    def _close(self, signature: str = SIGNATURE) -> bytes:
        if self._open is None:
            return b""
        signed = b""
        if self._open is Thought:
            start = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":'
            signed = b'%b%d,"delta":{"type":"signature_delta","signature":%b}}\n\n' % (
                start,
                self._index,
                encode(signature),
            )
        self._open = None
        return signed + _stopped(self._index)

    def _call(self, piece: ToolCall) -> bytes:
        self._turn.called = True
        at = self._calls.get(piece.index)
        if at is None:
            before = b""
            if piece.signature and self._turn.thinking:
                before = self._sealed(sealed_call(piece))
            body = ToolUseBody(piece.id or new_id("toolu_"), piece.name, {})
            started = before + self._block(ToolCall, body)
            self._calls[piece.index] = self._index
            return started + self._delta(piece.arguments)
        if not piece.arguments:
            return b""
        return _head(at, ToolCall) + encode(piece.arguments) + _TAIL

    def _done(self, done: Done) -> bytes:
        self.ended = True
        delta = _MessageDelta(self._turn.ending(done), self._turn.told())
        return _event(b"message_delta", delta) + _STOP

    def _failed(self, failed: Failed) -> bytes:
        self.ended = True
        return _event(b"error", error_body(error_of(failed), self._turn.request_id))


_DELTAS: dict[type[Event], tuple[bytes, bytes]] = {
    Text: (b"text_delta", b"text"),
    Thought: (b"thinking_delta", b"thinking"),
    ToolCall: (b"input_json_delta", b"partial_json"),
}


def _head(index: int, kind: type[Event]) -> bytes:
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
        b'"delta":{"type":"%b","%b":' % (index, *_DELTAS[kind])
    )


def _stopped(index: int) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index


def _event(name: bytes, body: msgspec.Struct) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, encode(body))
