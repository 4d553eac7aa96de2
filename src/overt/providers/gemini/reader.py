"""What comes back from Gemini as events, and its errors as those of errors.py.

A stream is a row of whole answers that each hold a little more, without names and without a last
word: the reason for its end and the usage come with one of the last, then the connection ends.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
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
from overt.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    ModelNotFound,
    NeedsAccess,
    OvertError,
    ProviderFailed,
    TimedOut,
    TooLarge,
    TooMany,
)
from overt.providers.base import ServerEvent
from overt.providers.dialect import broken, count, ended_early, sentence, wait
from overt.providers.gemini.body import ENGINE

# ---- the wire: what is read of it ------------------------------------------------------------


class _Wire(msgspec.Struct, rename="camel"):
    """Base of what Gemini sends. What is not named here is left unread."""


class _GeminiFunctionCall(_Wire):
    name: str = ""
    args: msgspec.Raw = msgspec.Raw()
    id: str | None = None


class _GeminiPart(_Wire):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _GeminiFunctionCall | None = None


class _GeminiContent(_Wire):
    parts: list[_GeminiPart] | None = None


class _GeminiToken(_Wire):
    token: str | None = None
    log_probability: float | None = None
    token_id: int | None = None


class _Top(_Wire):
    candidates: list[_GeminiToken] | None = None


class _GeminiLogprobs(_Wire):
    chosen_candidates: list[_GeminiToken] | None = None
    top_candidates: list[_Top] | None = None


class _Candidate(_Wire):
    content: _GeminiContent | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: _GeminiLogprobs | None = None


class _Feedback(_Wire):
    block_reason: str | None = None


class _GeminiUsage(_Wire):
    prompt_token_count: Any = None
    cached_content_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None


class _GeminiAnswer(_Wire):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _GeminiUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_GeminiAnswer).decode
_decode_list = msgspec.json.Decoder(list[_GeminiAnswer]).decode

# ---- reading -------------------------------------------------------------------------------

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "FUNCTION_CALL": "stop",  # no word of Google's: aimock says it
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",  # the most of one request; what follows would be another's
    "SAFETY": "refusal",
    "RECITATION": "refusal",
    "LANGUAGE": "refusal",
    "BLOCKLIST": "refusal",
    "PROHIBITED_CONTENT": "refusal",
    "SPII": "refusal",
    "IMAGE_SAFETY": "refusal",
    "IMAGE_PROHIBITED_CONTENT": "refusal",
    "IMAGE_RECITATION": "refusal",
    "MODEL_ARMOR": "refusal",
    "ESCALATION": "refusal",
    "PUP_LIMITED_DISABLED": "refusal",
    "OTHER": "refusal",  # "may be due to its language, or other harmful content"
}
"""Every other reason is a failure: a call of a function that could not be read, say."""

_NOT_YET = (None, "", "FINISH_REASON_UNSPECIFIED")
_MAX_CALLS = 1024


class GeminiReader:
    """One answer on its way."""

    def __init__(self, request: Request) -> None:
        self.done = False
        self._top = request.logprobs
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._calls = 0

    def feed(self, server_event: ServerEvent) -> Iterable[Event]:
        """The events of one answer of the row, or of all, where they came as a list.

        Raises:
            ProviderFailed: it is none, or ended for a reason that is no answer.
            OvertError: Gemini says that it failed.
        """
        try:
            answer = _decode(server_event.data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return self._unread(server_event.data, error)
        return self._answer(answer, server_event.data)

    def _answer(self, answer: _GeminiAnswer, data: bytes) -> list[Event]:
        if bytes(answer.error) not in (b"", b"null"):
            raise _problem(0, {}, data)
        if answer.usage_metadata is not None:
            self._usage = _usage(answer.usage_metadata)
        events: list[Event] = []
        if answer.candidates:
            candidate = answer.candidates[0]  # more than one is never asked for
            if candidate.content is not None:
                for part in candidate.content.parts or ():
                    self._part(part, events)
            if self._top is not None and candidate.logprobs_result is not None:
                _insert(_logprobs(candidate.logprobs_result, self._top), events)
            if candidate.finish_reason not in _NOT_YET:
                self._ends(candidate)
        elif answer.prompt_feedback is not None and answer.prompt_feedback.block_reason:
            self._finish = "refusal"
        self.done = self._finish is not None and self._usage is not None
        return events

    def end(self) -> Iterator[Event]:
        """Usage, and why the answer ended.

        Raises:
            ProviderFailed: the stream ended before the answer did.
        """
        if self._finish is None:
            raise ended_early(ENGINE)
        if self._usage is not None:
            yield self._usage
        called = self._calls and self._finish == "stop"
        yield Done("tool_calls" if called else self._finish)

    def _unread(self, data: bytes, error: Exception) -> Iterable[Event]:
        if not data.strip():
            return ()
        if data.strip() == b"[DONE]":  # of servers that only resemble Google's
            self.done = self._finish is not None
            return ()
        if data.lstrip()[:1] == b"[":  # of a server that was not asked for, or has no, events
            with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
                answers = _decode_list(data)
                return [event for answer in answers for event in self._answer(answer, data)]
        raise broken(ENGINE, error) from None

    def _part(self, part: _GeminiPart, events: list[Event]) -> None:
        text, signature = part.text, part.thought_signature or None
        if part.function_call is not None:
            events.append(self._call(part.function_call, signature))
        elif part.thought:
            if text or signature:
                events.append(Thought(text or "", signature, origin=ENGINE))
        else:
            if text:
                events.append(Text(text))
            if signature:  # beside the answer: a thought that is all signature
                events.append(Thought("", signature, sealed=True, origin=ENGINE))

    def _call(self, call: _GeminiFunctionCall, signature: str | None) -> ToolCall:
        index = self._calls
        if index >= _MAX_CALLS or not call.name:
            what = f"more than {_MAX_CALLS} tool calls" if call.name else "a call of no function"
            raise ProviderFailed(f"gemini sent {what}", "ask again", billed=True)
        self._calls = index + 1
        id = call.id or f"call_{secrets.token_hex(12)}"
        origin = ENGINE if signature else None
        return ToolCall(index, id, call.name, _arguments(call.args), signature, origin)

    def _ends(self, candidate: _Candidate) -> None:
        reason = candidate.finish_reason or ""
        self._finish = _FINISH.get(reason)
        if self._finish is None:
            detail_text = (
                f": {sentence(candidate.finish_message)}" if candidate.finish_message else ""
            )
            raise ProviderFailed(
                f"gemini ended the answer with {sentence(reason)}{detail_text}",
                "ask again",
                billed=True,
            )


def _arguments(args: msgspec.Raw) -> str:
    """The arguments of a call as the JSON that came."""
    try:
        value = msgspec.json.decode(args) if bytes(args) else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        value = ()
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise ProviderFailed("gemini sent arguments that are no object", "ask again", billed=True)
    return bytes(args).decode()


def _insert(logprobs: Logprobs, events: list[Event]) -> None:
    """Behind the text they are of, where whoever tells them looks for them."""
    after = (at + 1 for at in reversed(range(len(events))) if isinstance(events[at], Text))
    events.insert(next(after, len(events)), logprobs)


def _logprobs(result: _GeminiLogprobs, top: int) -> Logprobs:
    tops = result.top_candidates or ()
    tokens = []
    for at, chosen in enumerate(result.chosen_candidates or ()):
        others = (tops[at].candidates or ())[:top] if at < len(tops) else ()
        alternatives = tuple((other.token or "", _logprob(other)) for other in others)
        tokens.append(
            TokenLogprob(chosen.token or "", _logprob(chosen), alternatives, chosen.token_id)
        )
    return Logprobs(tuple(tokens))


def _logprob(token: _GeminiToken) -> float:
    """0 is left out on the wire, as all zeros are; above it is nothing."""
    return min(token.log_probability or 0.0, 0.0)


def _usage(usage_body: _GeminiUsage) -> Usage:
    """`tokens_out` is what Google tells apart: candidates and thoughts."""
    tokens_in, thought = (
        count(usage_body.prompt_token_count),
        count(usage_body.thoughts_token_count),
    )
    return Usage(
        tokens_in,
        count(usage_body.candidates_token_count) + thought,
        min(count(usage_body.cached_content_token_count), tokens_in),
        tokens_thought=thought,
    )


# ---- errors --------------------------------------------------------------------------------


class _Detail(_Wire):
    reason: str | None = None
    retry_delay: str | None = None


class _GeminiError(_Wire):
    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[_Detail] | None = None


_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_KEY_REASONS = ("API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED")
_TOO_MANY_TOKENS = re.compile(
    r"input token count \(?(\d{1,12})\)? exceeds the maximum number of tokens allowed \(?(\d{1,12})"
)
_LOGIN = "overt login gemini, or set GEMINI_API_KEY"


def failure(status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
    """The error of an answer that is not 200. Never raises."""
    return _problem(status, headers, body)


def _problem(status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
    """`status` 0 is that of the body, in the middle of a stream."""
    error = _error_of_body(body)
    begun = status == 0
    if begun:
        status = _STATUSES.get(error.status or "", error.code or 500)
    text = sentence(error.message) if error.message else f"it answered {status} and said nothing"
    reasons = {detail.reason for detail in error.details or ()}
    message = f"gemini: {text}"
    if status in (401, 403) or reasons.intersection(_KEY_REASONS):
        return NeedsAccess(message, _LOGIN)
    if status == 404:
        return ModelNotFound(
            message, "see which models there are: ai.google.dev/gemini-api/docs/models"
        )
    if status in (429, 503, 529):
        kind = TooMany if status == 429 else Busy
        return kind(message, "ask again later", _delay(error, headers))
    if status in (408, 504):
        return TimedOut(message, "ask again", billed=True)
    if status == 413:
        return TooLarge(message, "send less")
    if 400 <= status < 499:
        if match := _TOO_MANY_TOKENS.search(error.message or ""):
            return ContextExceeded(int(match[1]), int(match[2]), "shorten the conversation")
        return BadRequest(message)
    # Google bills nothing of what it answers with 400 or 500.
    return ProviderFailed(message, "ask again", billed=begun)


def _error_of_body(body: bytes) -> _GeminiError:
    """The error in `body`: an object, or a list of one where no event stream was asked for."""
    document: Any = None
    try:
        document = msgspec.json.decode(body)
        if isinstance(document, list) and document:
            document = document[0]
        document = document.get("error") if isinstance(document, dict) else None
        if isinstance(document, str):
            return _GeminiError(message=document)
        return msgspec.convert(document, _GeminiError)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError):
        message = document.get("message") if isinstance(document, dict) else None
        return _GeminiError(message=message if isinstance(message, str) else None)


def _delay(error: _GeminiError, headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: what RetryInfo says, else the header."""
    for detail in error.details or ():
        if detail.retry_delay and (match := _SECONDS.fullmatch(detail.retry_delay)):
            return float(match[1])
    return wait(headers)


_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s?")
