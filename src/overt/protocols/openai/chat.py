"""OpenAI's chat (``POST /v1/chat/completions``): a request in, an answer or its chunks out.

A model's reasoning is told as ``reasoning_content`` and ``reasoning``, the two names that local
servers gave it; OpenAI itself does not show it.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from overt.chat import (
    Answer,
    Done,
    Event,
    Failed,
    Logprobs,
    Routed,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    ToolCallPart,
    Usage,
)
from overt.protocols import multiple_choices
from overt.protocols.base import HttpCall, HttpReply, Stream, encode, new_id
from overt.protocols.failure import error_of
from overt.protocols.openai.messages import GEMINI, GEMINI_KEY, ChatCompletionBody, request
from overt.protocols.openai.wire import (
    OpenAIUsage,
    fingerprint,
    finish,
    hold,
    pieces,
    sampling,
    usage_body,
)

# ---- the answer's form ---------------------------------------------------------------------


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class OpenAIToken(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct):
    content: list[OpenAIToken]
    refusal: None = None


class FunctionBody(msgspec.Struct):
    name: str
    arguments: str


class ToolCallOut(msgspec.Struct):
    id: str
    function: FunctionBody
    type: str = "function"
    extra_content: dict[str, Any] | UnsetType = UNSET


def _extra(call: ToolCall | ToolCallPart) -> dict[str, Any] | UnsetType:
    """A signature of Gemini's, where Google's own server of this protocol has it."""
    if call.origin != GEMINI or not call.signature:
        return UNSET
    return {GEMINI_KEY: {"thought_signature": call.signature}}


class MessageOut(msgspec.Struct):
    role: str
    content: str | None
    refusal: None = None
    annotations: list[str] = []
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallOut] | UnsetType = UNSET
    function_call: FunctionBody | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    index: int
    message: MessageOut
    logprobs: ChoiceLogprobs | None
    finish_reason: str


class Completion(msgspec.Struct):
    """A whole answer, as the types of `openai.types.chat.ChatCompletion` want it."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: OpenAIUsage
    system_fingerprint: str
    object: str = "chat.completion"
    service_tier: str = "default"


async def create(call: HttpCall) -> HttpReply | Stream:
    """Answer ``POST /v1/chat/completions``."""
    body = call.read(ChatCompletionBody)
    request_ = request(body)
    held = hold(body.keep_alive)
    streams = [
        call.services.stream(call.caller, replace(request_, sampling=sampling(body, i)), held)
        for i in range(body.n or 1)
    ]
    if body.stream:
        return Stream(_chunks(body, call.services.version, streams))
    return HttpReply(await _completion(body, call.services.version, streams))


# ---- in one piece --------------------------------------------------------------------------


async def _completion(
    body: ChatCompletionBody, version: str, streams: Sequence[AsyncGenerator[Event, None]]
) -> Completion:
    answers = [Answer() for _ in streams]
    thoughts = 0
    async with aclosing(multiple_choices.merge(streams)) as events:
        async for index, event in events:
            if isinstance(event, Failed):
                raise error_of(event)
            thoughts += isinstance(event, Thought) and event.text != ""
            answers[index].add(event)
    return Completion(
        id=new_id("chatcmpl-"),
        created=int(time.time()),
        model=body.model,
        choices=[_choice(body, i, answer) for i, answer in enumerate(answers)],
        usage=usage_body([answer.usage for answer in answers], thoughts),
        system_fingerprint=fingerprint(version),
    )


def _choice(body: ChatCompletionBody, index: int, answer: Answer) -> ChatChoice:
    calls = [
        ToolCallOut(
            call.id or new_id("call_"),
            FunctionBody(call.name, call.arguments),
            extra_content=_extra(call),
        )
        for call in answer.tool_calls
    ]
    message = MessageOut("assistant", answer.text if answer.text or not calls else None)
    if answer.thought:
        message.reasoning_content = message.reasoning = answer.thought
    reason = finish(answer.finish)
    if calls and body.legacy:
        message.function_call, reason = calls[0].function, "function_call"
    elif calls:
        message.tool_calls, reason = calls, "tool_calls" if reason == "stop" else reason
    logprobs = _logprobs(answer.logprobs, body.top_logprobs or 0) if body.logprobs else None
    return ChatChoice(index, message, logprobs, reason)


_LOWEST = -9999.0  # OpenAI's own word for "not among the likely ones"; JSON has no infinity


def _logprobs(tokens: Iterable[TokenLogprob], top: int) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        [
            OpenAIToken(
                token.token,
                _finite(token.logprob),
                list(token.utf8),
                [TopLogprob(t, _finite(p), list(t.encode())) for t, p in token.top[:top]],
            )
            for token in tokens
        ]
    )


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and logprob > _LOWEST else _LOWEST


# ---- in chunks -----------------------------------------------------------------------------


class _ChatStreamWriter:
    """The chunks of one choice. What never changes is encoded once; see bench of the encoder."""

    def __init__(self, body: ChatCompletionBody, index: int, head: bytes, tail: bytes) -> None:
        self._legacy = body.legacy
        self._top = body.top_logprobs or 0
        self._logprobs = bool(body.logprobs)
        self._delta = head + b'"choices":[{"index":%d,"delta":' % index
        self._text = self._delta + b'{"content":'
        self._tail = tail
        self._plain = b'},"logprobs":null,"finish_reason":null}]' + tail
        self._held: bytes | None = None  # text whose log-probabilities come as the next event
        self._calls: set[int] = set()
        self.begun = False
        self.thoughts = 0
        self.usage = Usage(0, 0)

    def begin(self) -> bytes:
        """Who speaks: the first chunk of a choice."""
        self.begun = True
        return self._text + b'"","role":"assistant","refusal":null' + self._plain

    def write(self, event: Event) -> bytes:
        """The chunks of `event`, none for some."""
        kind = type(event)
        if kind is Text:
            text = encode(event.text)  # type: ignore[union-attr]
            if not self._logprobs:
                return self._text + text + self._plain
            before = self._release()
            self._held = text
            return before
        if isinstance(event, Logprobs):
            text, self._held = self._held or b'""', None
            logprobs = encode(_logprobs(event.tokens, self._top))
            return b"".join(
                (
                    self._text,
                    text,
                    b'},"logprobs":',
                    logprobs,
                    b',"finish_reason":null}]',
                    self._tail,
                )
            )
        if isinstance(event, Usage):
            self.usage = event
            return b""
        return self._release() + self._rare(event)

    def _rare(self, event: Event) -> bytes:
        if isinstance(event, Thought):
            if not event.text:  # a signature, for which there is no place here
                return b""
            self.thoughts += 1
            text = encode(event.text)
            pair = b'{"reasoning_content":' + text + b',"reasoning":' + text
            return self._delta + pair + self._plain
        if isinstance(event, ToolCall):
            return self._delta + self._call(event) + self._plain
        if isinstance(event, Done):
            reason = finish(event.finish)
            if self._calls and reason in ("stop", "tool_calls"):
                reason = "function_call" if self._legacy else "tool_calls"
            return b"".join(
                (
                    self._delta,
                    b'{},"logprobs":null,"finish_reason":',
                    encode(reason),
                    b"}]",
                    self._tail,
                )
            )
        return b""

    def _release(self) -> bytes:
        """Text that no log-probabilities came for."""
        if self._held is None:
            return b""
        text, self._held = self._held, None
        return self._text + text + self._plain

    def _call(self, piece: ToolCall) -> bytes:
        """The delta of a tool call, without its last brace."""
        first = piece.index not in self._calls
        self._calls.add(piece.index)
        arguments = encode(piece.arguments)
        function = b'{"arguments":' + arguments + b"}"
        if first:
            function = b'{"name":' + encode(piece.name) + b',"arguments":' + arguments + b"}"
        if self._legacy:
            return b'{"function_call":' + function if piece.index == 0 else b"{"
        id = b""
        if first:
            id = b'"id":' + encode(piece.id or new_id("call_")) + b',"type":"function",'
        more = _extra(piece)
        extra = b"" if more is UNSET else b',"extra_content":' + encode(more)
        return b"".join(
            (
                b'{"tool_calls":[{"index":%d,' % piece.index,
                id,
                b'"function":',
                function,
                extra,
                b"}]",
            )
        )


def _chunks(
    body: ChatCompletionBody, version: str, streams: Sequence[AsyncGenerator[Event, None]]
) -> AsyncGenerator[bytes, None]:
    counted = body.stream_options is not None and bool(body.stream_options.include_usage)
    head = _head(body.model, version)
    tail = b',"usage":null}\n\n' if counted else b"}\n\n"
    writers = [_ChatStreamWriter(body, i, head, tail) for i in range(len(streams))]

    def write(index: int, event: Event) -> bytes:
        writer = writers[index]
        if writer.begun:
            return writer.write(event)
        if isinstance(event, Routed):  # says nothing yet: what follows may still be an error
            return b""
        return writer.begin() + writer.write(event)

    def last() -> bytes:
        if not counted:
            return b""
        thoughts = sum(writer.thoughts for writer in writers)
        total = usage_body([writer.usage for writer in writers], thoughts)
        return head + b'"choices":[],"usage":' + encode(total) + b"}\n\n"

    return pieces(multiple_choices.merge(streams), write, last)


def _head(model: str, version: str) -> bytes:
    """What all chunks of one answer begin with."""
    return b"".join(
        (
            b'data: {"id":',
            encode(new_id("chatcmpl-")),
            b',"object":"chat.completion.chunk","created":%d,"model":' % int(time.time()),
            encode(model),
            b',"service_tier":"default","system_fingerprint":',
            encode(fingerprint(version)),
            b",",
        )
    )
