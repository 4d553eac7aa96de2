"""The JSON chunks of llama.cpp's own server as `Event`s, and its errors as ours.

A worker is not trusted: whatever bytes come, the outcome is events or an OvertError.
"""

import re
import secrets
from collections.abc import Iterator

import msgspec

from overt.chat import (
    Done,
    Event,
    Finish,
    Logprobs,
    Progress,
    Request,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from overt.errors import (
    BadRequest,
    ContextExceeded,
    EngineFailed,
    OutOfMemory,
    OvertError,
    Unsupported,
)
from overt.runtime.llamacpp.request import forced


class _Progress(msgspec.Struct):
    total: int = 0
    processed: int = 0


class _LlamaFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _LlamaToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _LlamaFunction | None = None


class _LlamaDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_LlamaToolCall] | None = None


class _LlamaToken(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list["_LlamaToken"] = []
    id: int | None = None
    bytes: list[int] = []


class _TokenLogprobs(msgspec.Struct):
    content: list[_LlamaToken] | None = None


class _LlamaChoice(msgspec.Struct):
    delta: _LlamaDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _TokenLogprobs | None = None


class _LlamaTokenDetails(msgspec.Struct):
    cached_tokens: int = 0


class _LlamaUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _LlamaTokenDetails | None = None


class _LlamaTimings(msgspec.Struct):
    prompt_ms: float = 0
    predicted_ms: float = 0


class _Verbose(msgspec.Struct):
    stopping_word: str = ""


class LlamaRefusal(msgspec.Struct):
    """What llama.cpp's server says instead of an answer."""

    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _LlamaChunk(msgspec.Struct):
    choices: list[_LlamaChoice] = []
    usage: _LlamaUsage | None = None
    timings: _LlamaTimings | None = None
    prompt_progress: _Progress | None = None
    error: LlamaRefusal | None = None
    verbose: _Verbose | None = msgspec.field(default=None, name="__verbose")


_decode = msgspec.json.Decoder(_LlamaChunk).decode
_MAX_CALLS = 128  # a worker is not trusted, and whoever collects calls indexes a list
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class AnswerReader:
    """Turns the chunks of one answer into events; `longest` is what the model holds at most."""

    def __init__(self, request: Request, longest: int) -> None:
        self._longest = longest
        self._schema = request.json_schema is not None or bool(request.tools)
        self._forced = ForcedCall() if forced(request) else None
        self._calls = _MAX_CALLS if request.parallel_tools else 1
        self._top = request.logprobs or 0
        self._stops = request.stop
        self._stop: str | None = None
        self._finish: Finish | None = None

    def events(self, chunk: bytes) -> list[Event]:
        """The events of one chunk.

        Raises:
            BadRequest, ContextExceeded, EngineFailed: the chunk is an error.
        """
        try:
            read = _decode(chunk)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineFailed(f"llama.cpp broke its own protocol: {error}") from None
        if read.error is not None:
            raise as_error(read.error, self._longest, schema=self._schema)
        if read.prompt_progress is not None:
            return [Progress(read.prompt_progress.processed, read.prompt_progress.total)]
        events: list[Event] = []
        for choice in read.choices:
            events += self._choice(choice)
        if read.usage is not None:
            events.append(_usage(read.usage, read.timings or _LlamaTimings()))
        if read.verbose is not None and (word := read.verbose.stopping_word):
            # A template has stops of its own, which are no business of whoever asked.
            self._stop = word if word in self._stops else None
        return events

    def last(self) -> list[Event]:
        """The events after the last chunk.

        Raises:
            EngineFailed: llama.cpp did not say why the answer ended.
        """
        if self._finish is None:
            raise EngineFailed("llama.cpp ended the answer without a reason", "try again")
        if self._forced and self._forced.complete:
            return [Done("tool_calls")]
        return [Done(self._finish, self._stop)]

    def _choice(self, choice: _LlamaChoice) -> list[Event]:
        events: list[Event] = []
        delta = choice.delta or _LlamaDelta(content=choice.text)
        if delta.reasoning_content:
            events.append(Thought(delta.reasoning_content))
        if delta.content:
            if self._forced:
                events += self._forced.feed(delta.content)
            else:
                events.append(Text(delta.content))
        if delta.tool_calls:
            events += self._tool_calls(delta.tool_calls)
        if choice.logprobs and choice.logprobs.content:
            tokens = tuple(_token(token, self._top) for token in choice.logprobs.content)
            events.append(Logprobs(tokens))
        if choice.finish_reason:
            self._finish = _FINISH.get(choice.finish_reason, "stop")
        return events

    def _tool_calls(self, calls: list[_LlamaToolCall]) -> Iterator[ToolCall]:
        for call in calls:
            if not 0 <= call.index < _MAX_CALLS:
                raise EngineFailed(f"llama.cpp numbered a tool call {call.index}")
            if call.index >= self._calls:  # one was asked for, and the model wrote more
                continue
            function = call.function or _LlamaFunction()
            arguments = function.arguments or ""
            yield ToolCall(call.index, call.id or "", function.name or "", arguments)


class ForcedCall:
    """An answer bound by a schema to ``{"name": …, "arguments": …}``, as a streamed tool call.

    The arguments go through as the model writes them; only the braces around the two are cut off.
    """

    _OPENING = re.compile(
        r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)', re.DOTALL
    )

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._depth = 0
        self._quoted = self._escaped = False
        self.complete = False

    def feed(self, text: str) -> list[ToolCall]:
        """The pieces of the call that `text` adds."""
        if self._begun:
            return self._arguments(text)
        self._held += text
        opening = self._OPENING.match(self._held)
        if not opening:
            return []
        try:
            name = msgspec.json.decode(opening[1], type=str)
        except msgspec.DecodeError:
            raise EngineFailed("llama.cpp wrote a tool call whose name cannot be read") from None
        self._begun = True
        rest, self._held = self._held[opening.end() :], ""
        return [ToolCall(0, f"call_{secrets.token_hex(12)}", name, ""), *self._arguments(rest)]

    def _arguments(self, text: str) -> list[ToolCall]:
        """`text` up to where the arguments end: at the bracket that closes their first one."""
        if self.complete:
            return []
        end = len(text)
        for at, letter in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif letter == "\\":
                self._escaped = self._quoted
            elif letter == '"':
                self._quoted = not self._quoted
            elif self._quoted:
                continue
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.complete = True
                    end = at + 1 if self._depth == 0 else at
                    break
        piece = text[:end]
        return [ToolCall(0, "", "", piece)] if piece else []


def _token(token: _LlamaToken, top: int) -> TokenLogprob:
    alternatives = tuple((t.token, t.logprob) for t in token.top_logprobs[:top])
    return TokenLogprob(token.token, token.logprob, alternatives, token.id, _raw(token))


def _raw(token: _LlamaToken) -> bytes | None:
    """The token's bytes, where its text is not all that they say."""
    try:
        raw = bytes(token.bytes)
    except ValueError:
        raise EngineFailed("llama.cpp gave a token bytes that are none") from None
    return raw if raw and raw != token.token.encode() else None


def _usage(usage: _LlamaUsage, timings: _LlamaTimings) -> Usage:
    details = usage.prompt_tokens_details or _LlamaTokenDetails()
    return Usage(
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
        tokens_cached=details.cached_tokens,
        prompt_seconds=timings.prompt_ms / 1000,
        decode_seconds=timings.predicted_ms / 1000,
    )


_SCHEMA = re.compile(r".*JSON schema (?:error|conversion failed)(.*)")
_OF_SCHEMA = re.compile(r".*(?:Automatic parser generation failed|grammar)(.*)")


def as_error(error: LlamaRefusal, longest: int = 0, *, schema: bool = False) -> OvertError:
    """llama.cpp's error in our tree.

    `longest` is what the model holds at most, `schema` whether the request came with one: then a
    grammar that is wrong was made of it.
    """
    message = " ".join(error.message.split())[:400] or "no reason given"
    if error.type == "exceed_context_size_error" and error.n_ctx:
        too_long = longest and error.n_prompt_tokens >= longest
        hint = f"shorten it: this model holds {longest} tokens at most" if too_long else None
        return ContextExceeded(error.n_prompt_tokens, error.n_ctx, hint)
    if "range_check" in message:  # what C++ says of an index that a vector does not have
        return BadRequest("a token id is beyond this model's vocabulary", "use its own tokens")
    if "invalid tokens" in message:
        return BadRequest("the prompt has token ids beyond this model's vocabulary")
    if "bad_alloc" in message:
        return OutOfMemory(
            "the request takes more memory than the worker may have",
            "send less, or give it more (--memory SIZE)",
        )
    if match := _SCHEMA.match(message) or (schema and _OF_SCHEMA.match(message)):
        reason = match[1].lstrip(" :") or "llama.cpp makes no grammar of it"
        return BadRequest(f"the JSON schema cannot be used: {reason}", "correct or simplify it")
    if "grammar" in message:
        return BadRequest("the grammar is not valid GBNF", "see docs/cli.md for the notation")
    if error.type == "not_supported_error":
        return Unsupported(f"this model cannot do that: {message}")
    if error.type in ("invalid_request_error", "ValueError"):
        return BadRequest(f"llama.cpp refused the request: {message}")
    return EngineFailed(f"llama.cpp failed: {message}", "run again with --debug for its log")
