"""Events as an answer of Gemini's API: whole, as server-sent events, or as a list in JSON.

Google streams whole answers that each hold a little more, without names and without a last word.
The call of a function is told whole, so its pieces wait until it is complete.
"""

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from overt.chat import (
    Done,
    Event,
    Failed,
    Logprobs,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from overt.errors import Busy, EngineFailed, OvertError
from overt.protocols import signed
from overt.protocols.base import BadBody, encode, new_id, object_of
from overt.protocols.failure import error_of
from overt.protocols.gemini.request import GEMINI

# ---- the wire ------------------------------------------------------------------------------


class OmitEmpty(msgspec.Struct, rename="camel", omit_defaults=True):
    """Base of what is answered: a field that says nothing is left out, as Google does."""


class FunctionCallPart(OmitEmpty):
    name: str
    args: Any
    id: str | None = None


class PartBody(OmitEmpty):
    text: str | None = None
    thought: bool = False
    function_call: FunctionCallPart | None = None
    thought_signature: str | None = None


class ContentBody(msgspec.Struct):
    parts: Sequence[PartBody]
    role: str = "model"


class GeminiToken(msgspec.Struct, rename="camel", omit_defaults=True):
    token: str
    log_probability: float
    token_id: int | None = None


class TopBody(msgspec.Struct):
    candidates: Sequence[GeminiToken]


class LogprobsResult(OmitEmpty):
    chosen_candidates: Sequence[GeminiToken]
    top_candidates: Sequence[TopBody] | None = None


class CandidateBody(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    content: ContentBody
    finish_reason: str | None = None
    index: int | None = None
    avg_logprobs: float | None = None
    logprobs_result: LogprobsResult | None = None


class Modality(msgspec.Struct, rename="camel"):
    token_count: int
    modality: str = "TEXT"


class GeminiUsage(OmitEmpty):
    """`prompt_tokens_details` is left out where pictures are among them: nobody counts those."""

    prompt_token_count: int = -1
    candidates_token_count: int = -1
    total_token_count: int = -1
    thoughts_token_count: int = 0
    cached_content_token_count: int = 0
    prompt_tokens_details: Sequence[Modality] | None = None
    candidates_tokens_details: Sequence[Modality] | None = None


class AnswerBody(OmitEmpty):
    candidates: Sequence[CandidateBody]
    usage_metadata: GeminiUsage | None = None
    model_version: str | None = None
    response_id: str | None = None


Status = Literal[
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "CANCELLED",
    "INTERNAL",
    "UNIMPLEMENTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
]

_STATUS: dict[int, Status] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
    421: "PERMISSION_DENIED",
    422: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    507: "RESOURCE_EXHAUSTED",
}
"""Names of google.rpc.Code by HTTP status."""


class GeminiProblem(msgspec.Struct):
    code: int
    message: str
    status: Status
    details: Sequence[dict[str, Any]] = ()


class GeminiErrorBody(msgspec.Struct):
    error: GeminiProblem


_RPC = "type.googleapis.com/google.rpc."


def error_body(error: OvertError) -> GeminiErrorBody:
    """`error` in Google's words; its details are those of google.rpc."""
    message = str(error)
    details: list[dict[str, Any]] = [
        {"@type": _RPC + "ErrorInfo", "reason": error.code.upper(), "domain": "overt"}
    ]
    if isinstance(error, BadBody):
        where = f" at '{error.path}'" if error.path else ""
        if error.unknown is not None:
            message = (
                f'Invalid JSON payload received. Unknown name "{error.unknown}"{where}: '
                "Cannot find field."
            )
        violation = {"field": error.path, "description": message}
        details = [{"@type": _RPC + "BadRequest", "fieldViolations": [violation]}]
    if isinstance(error, Busy) and error.retry_after is not None:
        delay = f"{error.retry_after:.3f}".rstrip("0").rstrip(".") + "s"
        details.append({"@type": _RPC + "RetryInfo", "retryDelay": delay})
    status = _STATUS.get(error.status, "INTERNAL")
    return GeminiErrorBody(GeminiProblem(error.status, message, status, details))


# ---- what all forms have in common ---------------------------------------------------------

_FINISH = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "refusal": "SAFETY",
    "cancelled": "OTHER",
}


@dataclass(slots=True)
class Candidate:
    """One of the answers while it comes."""

    usage: Usage = Usage(0, 0)
    thoughts: int = 0  # events of reasoning: one a token in local engines
    calls: dict[int, list[str]] = field(default_factory=dict)  # id, name, then pieces
    signatures: dict[int, str] = field(default_factory=dict)  # of calls, as the wire has them
    sum: float = 0.0  # of the log-probabilities
    tokens: int = 0  # that have one
    ended: bool = False

    def call(self, piece: ToolCall) -> None:
        if piece.index in self.calls:
            self.calls[piece.index].append(piece.arguments)
        else:
            self.calls[piece.index] = [piece.id, piece.name, piece.arguments]
        if piece.signature is not None:
            self.signatures[piece.index] = _signature(piece)

    def called(self) -> list[PartBody]:
        """The calls, complete."""
        return [
            PartBody(
                function_call=FunctionCallPart(name, _arguments("".join(pieces)), id or None),
                thought_signature=self.signatures.get(index),
            )
            for index, (id, name, *pieces) in self.calls.items()
        ]

    def counted(self, logprobs: Sequence[TokenLogprob]) -> None:
        self.sum += sum(token.logprob or 0.0 for token in logprobs)
        self.tokens += len(logprobs)

    @property
    def average(self) -> float | None:
        return self.sum / self.tokens if self.tokens else None


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How answers are told.

    Args:
        model: as the client named it.
        thoughts: whether those are told.
        top: how many alternatives of each token are; None leaves log-probabilities out.
        pictures: whether there are any in the prompt.
    """

    model: str
    thoughts: bool = False
    top: int | None = None
    pictures: bool = False
    id: str = field(default_factory=lambda: new_id(""))


def _signature(signs: Thought | ToolCall) -> str:
    """Its signature as Google's clients read one: base64, another provider's named within."""
    text = signed.with_origin(signs.signature or "", signs.origin, GEMINI)
    if signs.origin in (None, GEMINI):
        return text
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


def _thought(event: Thought, telling: "AnswerOptions") -> PartBody | None:
    """A piece of a thought; one that is all signature is told to everybody, as Google does."""
    if event.sealed and not event.text:
        return PartBody("", thought_signature=_signature(event)) if event.signature else None
    if not telling.thoughts or not (event.text or event.signature):
        return None
    signature = _signature(event) if event.signature is not None else None
    return PartBody(event.text, thought=True, thought_signature=signature)


def _arguments(text: str) -> Any:
    """The arguments of a call, which Google has as an object and models may get wrong."""
    value = object_of(text)
    return {"arguments": text} if value is None else value


def _usage(candidates: Sequence[Candidate], telling: AnswerOptions) -> GeminiUsage:
    """Usage of all candidates: the prompt is read once, whatever their number.

    Thoughts are told apart from what the candidates say: as many as the engine counted, or as
    there were events of them.
    """
    first = candidates[0].usage
    out = sum(candidate.usage.tokens_out for candidate in candidates)
    thoughts = min(
        out, sum(candidate.usage.tokens_thought or candidate.thoughts for candidate in candidates)
    )
    return GeminiUsage(
        first.tokens_in,
        out - thoughts,
        first.tokens_in + out,
        thoughts,
        first.tokens_cached,
        None if telling.pictures else (Modality(first.tokens_in),),
        (Modality(out - thoughts),),
    )


def _logprobs(tokens: Sequence[TokenLogprob], top: int) -> LogprobsResult:
    chosen = [GeminiToken(token.token, token.logprob or 0.0, token.id) for token in tokens]
    if not top:
        return LogprobsResult(chosen)
    tops = [TopBody([GeminiToken(*other) for other in token.top[:top]]) for token in tokens]
    return LogprobsResult(chosen, tops)


# ---- whole ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Whole(Candidate):
    parts: list[PartBody] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    thinks: bool = False  # whether `texts` are thoughts
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None

    def say(self, text: str, *, thought: bool) -> None:
        if thought != self.thinks:
            self.flush()
            self.thinks = thought
        self.texts.append(text)

    def think(self, event: Thought, telling: AnswerOptions) -> None:
        self.thoughts += bool(event.text)
        part = _thought(event, telling)
        if part is None:
            return
        if part.thought and part.thought_signature is None:
            self.say(event.text, thought=True)
            return
        if part.thought:  # it signs the pieces before it too
            self.say(event.text, thought=True)
            part.text, self.texts = "".join(self.texts), []
        self.flush()
        self.parts.append(part)

    def flush(self) -> None:
        if self.texts:
            self.parts.append(PartBody("".join(self.texts), self.thinks))
            self.texts = []

    def body(self, index: int, telling: AnswerOptions) -> CandidateBody:
        self.flush()
        with_logprobs = telling.top is not None
        return CandidateBody(
            content=ContentBody([*self.parts, *self.called()]),
            finish_reason=self.finish,
            index=index,
            avg_logprobs=self.average if with_logprobs else None,
            logprobs_result=_logprobs(self.logprobs, telling.top or 0) if with_logprobs else None,
        )


async def document(
    telling: AnswerOptions, events: AsyncGenerator[tuple[int, Event], None], count: int
) -> AnswerBody:
    """The answer that `events` of `count` candidates make.

    Raises:
        OvertError: the engine failed.
    """
    candidates = [_Whole() for _ in range(count)]
    async with aclosing(events):
        async for index, event in events:
            candidate = candidates[index]
            match event:
                case Text(text):
                    candidate.say(text, thought=False)
                case Thought():
                    candidate.think(event, telling)
                case ToolCall():
                    candidate.call(event)
                case Logprobs(tokens):
                    candidate.counted(tokens)
                    candidate.logprobs.extend(tokens)
                case Usage():
                    candidate.usage = event
                case Done(finish):
                    candidate.finish = _FINISH[finish]
                case Failed():
                    raise error_of(event)
                case _:
                    pass
    if any(candidate.finish is None for candidate in candidates):
        raise EngineFailed("the engine ended the answer without a reason", "try again")
    bodies = [candidate.body(index, telling) for index, candidate in enumerate(candidates)]
    return AnswerBody(bodies, _usage(candidates, telling), telling.model, telling.id)


# ---- in pieces -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands around the answers of a stream."""

    first: bytes
    next: bytes
    after: bytes
    last: bytes
    media_type: str


SSE = Framing(b"data: ", b"data: ", b"\n\n", b"", "text/event-stream; charset=utf-8")
LIST = Framing(b"[", b",\n", b"\n", b"]\n", "application/json")


async def pieces(
    telling: AnswerOptions,
    events: AsyncGenerator[tuple[int, Event], None],
    count: int,
    framing: Framing,
) -> AsyncGenerator[bytes, None]:
    """The bytes that `events` of `count` candidates make; raises only before the first."""
    writer = _GeminiStreamWriter(telling, count, framing)
    write, (head, tail) = writer.write, writer.plain()
    async with aclosing(events):
        async for index, event in events:
            if head and writer.begun and type(event) is Text:  # nearly all events
                yield head + encode(event.text) + tail
            elif piece := write(index, event):
                yield piece
    yield writer.end()


class _GeminiStreamWriter:
    """Turns one event after the other into bytes."""

    def __init__(self, telling: AnswerOptions, count: int, framing: Framing) -> None:
        self._telling = telling
        self._framing = framing
        self._candidates = [Candidate() for _ in range(count)]
        self._held: list[list[str]] = [[] for _ in range(count)]  # waits for its log-probabilities
        self._failed = False
        self.begun = False

    def plain(self) -> tuple[bytes, bytes]:
        """What stands around a text that is not the first; empty where every event differs."""
        if len(self._candidates) > 1 or self._telling.top is not None:
            return b"", b""
        whole = encode(self._answer(0, [PartBody("")]))
        head, _, tail = whole.partition(b'"text":""')
        return self._framing.next + head + b'"text":', tail + self._framing.after

    def write(self, index: int, event: Event) -> bytes:
        candidate = self._candidates[index]
        match event:
            case Text(text) if self._telling.top is not None:
                self._held[index].append(text)
            case Text(text):
                return self._framed(self._answer(index, [PartBody(text)]))
            case Thought():
                candidate.thoughts += bool(event.text)
                if part := _thought(event, self._telling):
                    return self._framed(self._answer(index, [part]))
            case ToolCall():
                candidate.call(event)
            case Logprobs(tokens):
                return self._framed(self._weighed(index, tokens))
            case Usage():
                candidate.usage = event
            case Done():
                return self._framed(self._last(index, event))
            case Failed():
                return self._broken(error_of(event))
            case _:
                pass
        return b""

    def end(self) -> bytes:
        """The last bytes of the stream."""
        missing = b""
        if not self._failed and not all(candidate.ended for candidate in self._candidates):
            missing = self._broken(
                EngineFailed("the engine ended the answer without a reason", "try again")
            )
        return missing + self._framing.last

    def _answer(self, index: int, parts: Sequence[PartBody]) -> AnswerBody:
        candidate = CandidateBody(content=ContentBody(parts), index=index)
        return AnswerBody([candidate], None, self._telling.model, self._telling.id)

    def _weighed(self, index: int, tokens: Sequence[TokenLogprob]) -> AnswerBody:
        """The text that waited, with how likely its tokens were."""
        self._candidates[index].counted(tokens)
        answer = self._answer(index, [PartBody(self._release(index))])
        answer.candidates[0].logprobs_result = _logprobs(tokens, self._telling.top or 0)
        return answer

    def _last(self, index: int, done: Done) -> AnswerBody:
        candidate = self._candidates[index]
        candidate.ended = True
        held = self._release(index)
        parts = ([PartBody(held)] if held else []) + candidate.called()
        answer = self._answer(index, parts or [PartBody("")])
        answer.candidates[0].finish_reason = _FINISH[done.finish]
        answer.candidates[0].avg_logprobs = candidate.average
        if all(other.ended for other in self._candidates):
            answer.usage_metadata = _usage(self._candidates, self._telling)
        return answer

    def _release(self, index: int) -> str:
        held, self._held[index] = self._held[index], []
        return "".join(held)

    def _broken(self, error: OvertError) -> bytes:
        if not self.begun:
            raise error
        self._failed = True
        return self._framed(error_body(error))

    def _framed(self, body: msgspec.Struct) -> bytes:
        before = self._framing.next if self.begun else self._framing.first
        self.begun = True
        return before + encode(body) + self._framing.after
