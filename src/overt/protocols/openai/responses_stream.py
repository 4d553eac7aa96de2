"""A response as it grows: events in, OpenAI's events and the Response object out.

Whole and streamed answers come from the same `ResponseStream`, so they cannot differ.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from overt.chat import (
    Done,
    Event,
    Failed,
    Finish,
    Logprobs,
    Progress,
    Routed,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from overt.protocols.base import encode, new_id
from overt.protocols.openai import responses_reasoning as sealed
from overt.protocols.openai import wire

# ---- what is shown ---------------------------------------------------------------------------


class InputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningDetails(msgspec.Struct):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: ReasoningDetails
    total_tokens: int


class Error(msgspec.Struct):
    code: str
    message: str


class Incomplete(msgspec.Struct):
    reason: str


class Response(msgspec.Struct, kw_only=True):
    """What was asked, and what came of it. `created_at` and `completed_at` are Unix seconds."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: str = "in_progress"
    background: bool = False
    error: Error | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: list[Any] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    conversation: Any = None
    prompt_cache_key: str | None = None
    reasoning: Any = None
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float | None = None
    text: Any = None
    tool_choice: Any = "auto"
    tools: list[Any] = []
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}


class OutputText(msgspec.Struct, tag="output_text"):
    text: str = ""
    annotations: list[Any] = []
    logprobs: Sequence["Logprob"] = []


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str = ""


class MessageItem(msgspec.Struct, tag="message"):
    id: str
    status: str = "in_progress"
    role: str = "assistant"
    content: list[OutputText] = []


class ReasoningItem(msgspec.Struct, tag="reasoning"):
    id: str
    status: str = "in_progress"
    summary: list[Any] = []
    content: list[ReasoningText] = []
    encrypted_content: str | UnsetType = UNSET


class CallItem(msgspec.Struct, tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: str = "in_progress"


class CustomItem(msgspec.Struct, tag="custom_tool_call"):
    id: str
    call_id: str
    name: str
    input: str = ""
    status: str = "in_progress"


class LogprobItem(msgspec.Struct):
    token: str
    logprob: float
    bytes: Sequence[int]


class Logprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: Sequence[int]
    top_logprobs: Sequence[LogprobItem]


_NEVER = -9999.0  # OpenAI's word for a probability of 0; JSON has no infinity


def _logprob(token: TokenLogprob) -> Logprob:
    return Logprob(
        token.token,
        max(token.logprob or 0.0, _NEVER),
        list(token.utf8),
        [LogprobItem(text, max(value, _NEVER), list(text.encode())) for text, value in token.top],
    )


# ---- how it grows ----------------------------------------------------------------------------

_TERMINAL = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.incomplete",  # there is no event of its own
}


class ResponseStream:
    """One response. `add` each event in order; `take` what is to be sent.

    Args:
        response: as asked; `output`, `status` and `usage` are filled in.
        customs: names of tools whose calls are told as ``custom_tool_call``.
        logprobs: log-probabilities come with the events, and are told.
        quiet: nobody listens; no events are made.
    """

    def __init__(
        self,
        response: Response,
        *,
        customs: frozenset[str] = frozenset(),
        logprobs: bool = False,
        quiet: bool = False,
    ) -> None:
        self.response = response
        self.failed: Failed | None = None
        self.over = False
        self._name = response.id.removeprefix("resp_")
        self._customs = customs
        self._logprobs = logprobs
        self._quiet = quiet
        self._out: list[bytes] = []
        self._sequence = 0
        self._items: list[Any] = []
        self._open: MessageItem | ReasoningItem | CallItem | CustomItem | None = None
        self._pieces: list[str] = []  # of the open item's text
        self._tokens: list[Logprob] = []  # of the open message
        self._text: str | None = None  # told once its log-probabilities are known
        self._fresh: list[Logprob] = []
        self._prefix = b""
        self._calls = -1  # the index of the newest
        self._thoughts = 0
        self._signed: Thought | ToolCall | None = None  # what ends the open reasoning
        self._usage = Usage(0, 0)
        self._add = {
            Text: self._on_text,
            Thought: self._on_thought,
            ToolCall: self._on_call,
            Logprobs: self._on_logprobs,
            Usage: self._on_usage,
            Done: self._on_done,
            Failed: self._on_failed,
            Progress: self._on_nothing,
            Routed: self._on_nothing,
        }

    def take(self) -> list[bytes]:
        """The events made since the last time, one each."""
        out, self._out = self._out, []
        return out

    def begin(self) -> None:
        """Tell of the response as it is asked."""
        self._life("response.created")
        if self.response.status == "queued":
            self._life("response.queued")

    def start(self) -> None:
        """Tell that the engine is at it."""
        self.response.status = "in_progress"
        self._life("response.in_progress")

    def add(self, event: Event) -> None:
        """Take in what the engine said; after `Done` or `Failed` the response is `over`."""
        if not self.over:
            self._add[type(event)](event)  # type: ignore[operator]

    def cancel(self) -> None:
        """End it here, as whoever asked for it wished."""
        self._end("cancelled", "incomplete")

    def end(self) -> None:
        """Tell that it is over. Whoever keeps responses does so before."""
        self._life(_TERMINAL[self.response.status])

    # ---- events of the engine ----------------------------------------------------------------

    def _on_text(self, event: Text) -> None:
        if type(self._open) is not MessageItem:
            self._open_message()
        self._pieces.append(event.text)
        if self._logprobs:
            if self._text is not None:
                self._flush()
            self._text = event.text
        elif not self._quiet:
            number = self._sequence
            self._sequence = number + 1
            self._out.append(b'%b%d,"delta":%b}\n\n' % (self._prefix, number, encode(event.text)))

    def _on_thought(self, event: Thought) -> None:
        if type(self._open) is not ReasoningItem or event.sealed:
            self._open_reasoning(event)
        if event.text:
            self._pieces.append(event.text)
            self._thoughts += 1
            if not self._quiet:
                number = self._sequence
                self._sequence = number + 1
                delta = (self._prefix, number, encode(event.text))
                self._out.append(b'%b%d,"delta":%b}\n\n' % delta)
        if event.signature is not None:
            self._signed = event
            self._close("completed")

    def _on_call(self, event: ToolCall) -> None:
        if event.index != self._calls or not isinstance(self._open, CallItem | CustomItem):
            if event.index != self._calls + 1:
                self._on_failed(Failed("engine_failed", "the engine mixed up its tool calls"))
                return
            self._calls = event.index
            self._open_call(event)
        self._pieces.append(event.arguments)
        if event.arguments and type(self._open) is CallItem and not self._quiet:
            number = self._sequence
            self._sequence = number + 1
            self._out.append(
                b'%b%d,"delta":%b}\n\n' % (self._prefix, number, encode(event.arguments))
            )

    def _on_logprobs(self, event: Logprobs) -> None:
        if not self._logprobs or type(self._open) is not MessageItem:
            return
        if self._text is not None and self._fresh:
            self._flush()
        self._fresh += [_logprob(token) for token in event.tokens]

    def _on_usage(self, event: Usage) -> None:
        self._usage = event

    def _on_nothing(self, event: Progress | Routed) -> None:
        """Nothing that OpenAI tells."""

    def _on_done(self, event: Done) -> None:
        if not self._items and self._open is None:
            self._open_message()  # an empty answer is an answer
        finish: Finish = event.finish
        if finish == "cancelled":
            self.cancel()
        elif finish == "length":
            self.response.incomplete_details = Incomplete("max_output_tokens")
            self._end("incomplete", "incomplete")
        elif finish == "refusal":
            self.response.incomplete_details = Incomplete("content_filter")
            self._end("incomplete", "incomplete")
        else:
            self._end("completed", "completed")

    def _on_failed(self, event: Failed) -> None:
        self.failed = event
        problem = wire.failed_problem(event)
        known = ("rate_limit_exceeded", "invalid_prompt")
        code = problem.code if problem.code in known else "server_error"
        self.response.error = Error(code or "server_error", problem.message)
        self._end("failed", "incomplete")

    # ---- items -------------------------------------------------------------------------------

    def _open_message(self) -> None:
        self._close("completed")
        self._open = MessageItem(self._id("msg_"))
        self._item("response.output_item.added", self._open)
        self._begin(OutputText(), "output_text", b'"logprobs":[],')

    def _open_reasoning(self, event: Thought | ToolCall) -> None:
        self._close("completed")
        own = sealed.as_item(event)  # known at once where there is no more of it than this
        self._open = ReasoningItem(own["id"] if own else self._id("rs_"))
        self._item("response.output_item.added", self._open)
        self._begin(ReasoningText(), "reasoning_text")

    def _open_call(self, event: ToolCall) -> None:
        self._close("completed")
        if event.signature is not None:
            self._open_reasoning(event)
            self._signed = event
            self._close("completed")
        id = event.id or new_id("call_")
        if event.name in self._customs:
            self._open = CustomItem(self._id("ctc_"), id, event.name)
        else:
            self._open = CallItem(self._id("fc_"), id, event.name)
        self._item("response.output_item.added", self._open)
        self._prefix = self._delta("function_call_arguments", self._open.id)

    def _begin(self, part: OutputText | ReasoningText, what: str, more: bytes = b"") -> None:
        assert self._open is not None
        self._part("response.content_part.added", part)
        self._prefix = self._delta(what, self._open.id, b'"content_index":0,' + more)

    def _delta(self, what: str, id: str, more: bytes = b"") -> bytes:
        """A delta's event up to its number: all that stays the same while an item is open."""
        kind = f"response.{what}.delta".encode()
        return (
            b'event: %b\ndata: {"type":"%b","item_id":"%b","output_index":%d,%b'
            b'"sequence_number":' % (kind, kind, id.encode(), len(self._items), more)
        )

    def _flush(self) -> None:
        """Tell a piece of text with its log-probabilities."""
        fresh, self._fresh = self._fresh, []
        text, self._text = self._text or "", None
        self._tokens += fresh
        assert self._open is not None
        if text or fresh:
            self._within("response.output_text.delta", delta=text, logprobs=fresh)

    def _close(self, status: str) -> None:
        """End the open item, if there is one, and tell its whole."""
        item = self._open
        if item is None:
            return
        whole = "".join(self._pieces)
        if isinstance(item, MessageItem):
            if self._text is not None or self._fresh:
                self._flush()
            text = OutputText(whole, [], self._tokens)
            self._within("response.output_text.done", text=whole, logprobs=self._tokens)
            self._part("response.content_part.done", text)
            item.content = [text]
        elif isinstance(item, ReasoningItem):
            thought = ReasoningText(whole)
            self._within("response.reasoning_text.done", text=whole)
            self._part("response.content_part.done", thought)
            item.content = [thought]
        elif isinstance(item, CallItem):
            item.arguments = whole
            self._send(
                "response.function_call_arguments.done",
                item_id=item.id,
                output_index=len(self._items),
                name=item.name,
                arguments=whole,
            )
        else:
            self._close_custom(item, whole)
        item.status = status
        whole_item: Any = item
        if isinstance(item, ReasoningItem) and self._signed is not None:
            whole_item = self._sealed(item, self._signed, whole)
        self._item("response.output_item.done", whole_item)
        self._items.append(whole_item)
        self._open, self._pieces, self._tokens, self._signed = None, [], [], None

    def _sealed(self, item: ReasoningItem, signed: Thought | ToolCall, text: str) -> Any:
        """The reasoning with what its provider wants back.

        OpenAI's own item is given as it was, unless its id has been told otherwise: official
        clients end a stream in which an item changes its id.
        """
        own = sealed.as_item(signed)
        if own and (self._quiet or own["id"] == item.id):
            return own
        item.encrypted_content = sealed.seal(signed, text)
        return item

    def _close_custom(self, item: CustomItem, arguments: str) -> None:
        try:
            value = msgspec.json.decode(arguments)
            item.input = str(value["input"])
        except (msgspec.DecodeError, TypeError, KeyError):  # cut short, or not as it was told
            item.input = arguments
        where = {"item_id": item.id, "output_index": len(self._items)}
        self._send("response.custom_tool_call_input.delta", **where, delta=item.input)
        self._send("response.custom_tool_call_input.done", **where, input=item.input)

    def _end(self, status: str, last: str) -> None:
        self._close(last)
        response, usage = self.response, self._usage
        response.status = status
        response.output = self._items
        if status == "completed":
            response.completed_at = int(time.time())
        response.usage = ResponseUsage(
            usage.tokens_in,
            InputDetails(usage.tokens_cached, usage.tokens_written),
            usage.tokens_out,
            # Local engines make an event of each token, and do not count those of reasoning.
            ReasoningDetails(min(usage.tokens_thought or self._thoughts, usage.tokens_out)),
            usage.tokens_in + usage.tokens_out,
        )
        self.over = True

    def _id(self, prefix: str) -> str:
        return f"{prefix}{self._name}0{len(self._items):04x}"

    # ---- sending -----------------------------------------------------------------------------

    def _life(self, kind: str) -> None:
        self._send(kind, response=self.response)

    def _item(self, kind: str, item: Any) -> None:
        self._send(kind, output_index=len(self._items), item=item)

    def _part(self, kind: str, part: OutputText | ReasoningText) -> None:
        self._within(kind, part=part)

    def _within(self, kind: str, **fields: Any) -> None:
        assert self._open is not None
        self._send(
            kind,
            item_id=self._open.id,
            output_index=len(self._items),
            content_index=0,
            **fields,
        )

    def _send(self, kind: str, **fields: Any) -> None:
        if self._quiet:
            return
        body = encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), body))
