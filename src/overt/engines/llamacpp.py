"""llama.cpp as an engine: `Request` to its server's JSON, its JSON chunks to `Event`s.

Nothing native is loaded here. The worker process that is (llamacpp_host.py) is passed in by the
exchange as a `Caller`, so that engines and workers do not know each other.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from overt.chat import (
    Done,
    Event,
    Finish,
    ImagePart,
    Logprobs,
    Message,
    Progress,
    Request,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    TokenLogprob,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.engines.base import Capabilities
from overt.errors import BadRequest, ContextExceeded, EngineFailed

HOST = "overt.engines.llamacpp_host:Host"


class Caller(Protocol):
    """What the engine needs of a worker."""

    def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]: ...

    async def stop(self) -> None: ...


class LlamaCpp:
    """One model loaded in one worker."""

    name = "llamacpp"

    def __init__(self, worker: Caller, capabilities: Capabilities) -> None:
        self._worker = worker
        self._capabilities = capabilities
        self._turns = _Turns()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer `request`.

        Raises:
            BadRequest: something llama.cpp or this model cannot do.
            ContextExceeded: the prompt does not fit, with both numbers.
            EngineFailed: llama.cpp gave up; WorkerDied where its process ended.
        """
        if request.prompt is None and not self._capabilities.chat:
            request = _continued(request)
        kind = "chat" if request.prompt is None else "completion"
        body = json.dumps(_body(request, self._capabilities)).encode()
        answer = _Answer(_forced(request), self._capabilities.longest)
        async with (
            self._turns.take(alone=request.deterministic),
            aclosing(self._worker.call(kind, body)) as chunks,
        ):
            async for chunk in chunks:
                for event in answer.events(chunk):
                    yield event
        for event in answer.last():
            yield event

    async def close(self) -> None:
        await self._worker.stop()


class _Turns:
    """Lets many requests through at once, or one that asked to be alone."""

    def __init__(self) -> None:
        self._active = 0
        self._alone = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def take(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._alone:  # later requests queue behind one that waits to be alone
            if alone:
                await self._idle.wait()
                yield
                return
            self._active += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()


# ---- the request ---------------------------------------------------------------------------

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_k": (0, 1_000_000),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "seed": (0, 2**32 - 2),
}


def _body(request: Request, can: Capabilities) -> dict[str, Any]:
    """The JSON body of llama.cpp's /v1/chat/completions or /completion."""
    _check(request, can)
    body: dict[str, Any] = {
        "stream": True,
        # A chunk per batch of the prompt: llama.cpp looks for cancellation only between chunks.
        "return_progress": True,
        "cache_prompt": not request.deterministic,
        **_sampling(request),
    }
    if request.max_tokens is not None:
        body["n_predict"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.grammar is not None:
        body["grammar"] = request.grammar
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)
        body["post_sampling_probs"] = False
    if request.prompt is not None:
        body["prompt"] = request.prompt
        if request.json_schema is not None:
            body["json_schema"] = request.json_schema
        return body
    body["messages"] = [_message(message) for message in request.messages]
    body["stream_options"] = {"include_usage": True}
    if request.logprobs is not None:
        del body["n_probs"]
        body |= {"logprobs": True, "top_logprobs": max(1, request.logprobs)}
    if request.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": request.thinking}
    return body | _constraint(request)


def _continued(request: Request) -> Request:
    """A conversation for a model without a chat template: its words, one message a paragraph.

    llama.cpp would wrap them in ChatML, which such a model was never shown.
    """
    if request.tools or any(isinstance(p, ImagePart) for m in request.messages for p in m.parts):
        raise BadRequest("this model has no chat template, so it takes neither tools nor images")
    words = "\n\n".join(message.text for message in request.messages)
    return replace(request, messages=(), prompt=words)


def _sampling(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    values = {name: getattr(sampling, name) for name in _LIMITS}
    return {name: value for name, value in values.items() if value is not None}


def _constraint(request: Request) -> dict[str, Any]:
    """Tools and schema. A required tool is enforced by a schema: llama.cpp itself ignores it."""
    schema = request.json_schema
    if forced := _forced(request):
        schema = {"anyOf": [_call_schema(tool.name, tool.parameters) for tool in forced]}
    fields: dict[str, Any] = {}
    if request.tools and not forced and request.tool_choice != "none":
        fields["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters) or {"type": "object", "properties": {}},
                },
            }
            for tool in request.tools
        ]
    if schema is not None:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": dict(schema)},
        }
    return fields


def _forced(request: Request) -> tuple[Any, ...]:
    """The tools of which one must be called; empty where the model may choose."""
    if request.tool_choice in ("auto", "none") or not request.tools:
        return ()
    if request.tool_choice == "required":
        return request.tools
    return tuple(tool for tool in request.tools if tool.name == request.tool_choice)


def _call_schema(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "arguments": dict(parameters) or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _message(message: Message) -> dict[str, Any]:
    """A message in the shape of OpenAI's chat API, which llama.cpp's templates expect."""
    out: dict[str, Any] = {"role": message.role}
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case TextPart(text):
                content.append({"type": "text", "text": text})
            case ImagePart(data, media_type):
                url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
                content.append({"type": "image_url", "image_url": {"url": url}})
            case ThoughtPart(text):
                out["reasoning_content"] = out.get("reasoning_content", "") + text
            case ToolCallPart(id, name, arguments):
                function = {"name": name, "arguments": arguments}
                calls.append({"id": id, "type": "function", "function": function})
            case ToolResultPart(id, text):
                out["tool_call_id"] = id
                content.append({"type": "text", "text": text})
    if calls:
        out["tool_calls"] = calls
    if any(part["type"] != "text" for part in content):
        out["content"] = content
    else:
        out["content"] = "".join(part["text"] for part in content)
    return out


def _check(request: Request, can: Capabilities) -> None:
    if (request.prompt is None) == (not request.messages):
        raise BadRequest("a request has either messages or a prompt", "give exactly one of the two")
    for name, (low, high) in _LIMITS.items():
        value = getattr(request.sampling, name)
        if value is not None and not low <= value <= high:
            raise BadRequest(f"{name} is {value}", f"it goes from {low:g} to {high:g}")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise BadRequest(f"max tokens is {request.max_tokens}", "ask for at least 1")
    if request.logprobs is not None and not 0 <= request.logprobs <= 20:
        raise BadRequest(f"logprobs is {request.logprobs}", "it goes from 0 to 20")
    if request.json_schema is not None and request.grammar is not None:
        raise BadRequest("a JSON schema and a grammar were both given", "give one of the two")
    if request.tool_choice not in ("auto", "none", "required") and not _forced(request):
        raise BadRequest(
            f"tool choice {request.tool_choice!r} is none of the tools given",
            f"choose auto, none, required or one of: {', '.join(t.name for t in request.tools)}",
        )
    has_image = any(isinstance(p, ImagePart) for m in request.messages for p in m.parts)
    if has_image and not can.images:
        raise BadRequest(
            "this model cannot see images: it has no projector file",
            "choose a model with one, or put its mmproj file beside the weights",
        )


# ---- the answer ----------------------------------------------------------------------------


class _Progress(msgspec.Struct):
    total: int = 0
    processed: int = 0


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list["_Token"] = []


class _TokenLogprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _TokenLogprobs | None = None


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct):
    prompt_ms: float = 0
    predicted_ms: float = 0


class _Error(msgspec.Struct):
    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    prompt_progress: _Progress | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_MOST_CALLS = 128  # a worker is not trusted, and whoever collects calls indexes a list
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class _Answer:
    """Turns the chunks of one answer into events."""

    def __init__(self, forced_tool: tuple[Any, ...], longest: int) -> None:
        self._forced = bool(forced_tool)
        self._longest = longest
        self._held: list[str] = []  # the text of a forced tool call, whole before it is one
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
            raise _as_error(read.error, self._longest)
        if read.prompt_progress is not None:
            return [Progress(read.prompt_progress.processed, read.prompt_progress.total)]
        events: list[Event] = []
        for choice in read.choices:
            events += self._choice(choice)
        if read.usage is not None:
            events.append(_usage(read.usage, read.timings or _Timings()))
        return events

    def last(self) -> list[Event]:
        """The events after the last chunk."""
        if self._finish is None:
            raise EngineFailed("llama.cpp ended the answer without a reason", "try again")
        if not self._forced:
            return [Done(self._finish)]
        call = _forced_call("".join(self._held))
        return [call, Done("tool_calls")] if call else [Done(self._finish)]

    def _choice(self, choice: _Choice) -> list[Event]:
        events: list[Event] = []
        delta = choice.delta or _Delta(content=choice.text)
        if delta.reasoning_content:
            events.append(Thought(delta.reasoning_content))
        if delta.content:
            if self._forced:
                self._held.append(delta.content)
            else:
                events.append(Text(delta.content))
        for call in delta.tool_calls or ():
            if not 0 <= call.index < _MOST_CALLS:
                raise EngineFailed(f"llama.cpp numbered a tool call {call.index}")
            function = call.function or _Function()
            arguments = function.arguments or ""
            events.append(ToolCall(call.index, call.id or "", function.name or "", arguments))
        if choice.logprobs and choice.logprobs.content:
            events.append(Logprobs(tuple(_token(token) for token in choice.logprobs.content)))
        if choice.finish_reason:
            self._finish = _FINISH.get(choice.finish_reason, "stop")
        return events


def _token(token: _Token) -> TokenLogprob:
    return TokenLogprob(
        token.token, token.logprob, tuple((t.token, t.logprob) for t in token.top_logprobs)
    )


def _usage(usage: _Usage, timings: _Timings) -> Usage:
    details = usage.prompt_tokens_details or _Details()
    return Usage(
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
        tokens_cached=details.cached_tokens,
        prompt_seconds=timings.prompt_ms / 1000,
        decode_seconds=timings.predicted_ms / 1000,
    )


def _forced_call(text: str) -> ToolCall | None:
    """The call a schema-bound answer holds; None where the answer was cut short."""
    try:
        call = json.loads(text)
        return ToolCall(0, "call_0", call["name"], json.dumps(call["arguments"]))
    except (ValueError, KeyError, TypeError):
        return None


def _as_error(error: _Error, longest: int = 0) -> Exception:
    """llama.cpp's error in our tree; `longest` is what the model holds at most."""
    message = " ".join(error.message.split())[:400] or "no reason given"
    if error.type == "exceed_context_size_error":
        too_long = longest and error.n_prompt_tokens >= longest
        hint = f"shorten it: this model holds {longest} tokens at most" if too_long else None
        return ContextExceeded(error.n_prompt_tokens, error.n_ctx, hint)
    if "grammar" in message:
        return BadRequest("the grammar is not valid GBNF", "see docs/cli.md for the notation")
    if "JSON schema error" in message:
        reason = message.partition("JSON schema error")[2].lstrip(" :")
        return BadRequest(f"the JSON schema cannot be used: {reason}", "correct the schema")
    if error.type in ("invalid_request_error", "ValueError"):
        return BadRequest(f"llama.cpp refused the request: {message}")
    return EngineFailed(f"llama.cpp failed: {message}", "run again with --debug for its log")
