"""A `Request` as the JSON that llama.cpp's own server reads, and what is refused beforehand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from overt.chat import (
    ImagePart,
    Message,
    Request,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.engine import Capabilities
from overt.errors import BadRequest, ContextExceeded
from overt.runtime.llamacpp.grammar import constraint

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_k": (0, 1_000_000),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "repeat_last_n": (-1, 1_000_000),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "seed": (0, 2**32 - 2),
}
_BANNED = -100
"""A bias so low that it stands for never."""
_MAX_TOKEN_BYTES = 256
"""Bytes. The longest of any vocabulary seen are 128 blanks, in those made for code."""


def body(
    request: Request, can: Capabilities, tokens: Sequence[int] | None = None
) -> dict[str, Any]:
    """The JSON body of llama.cpp's /v1/chat/completions, or of /v1/completions for a prompt.

    Args:
        request: what is asked.
        can: what the model can do.
        tokens: in place of `request.prompt`, where the engine has put it together itself.

    Raises:
        BadRequest: it makes no sense, or this model cannot do it.
    """
    check(request, can)
    fields: dict[str, Any] = {
        "stream": True,
        # A chunk per batch of the prompt: llama.cpp looks for cancellation only between chunks.
        "return_progress": True,
        "cache_prompt": not request.deterministic,
        **_sampling(request, can),
    }
    if request.max_tokens is not None:
        fields["n_predict"] = request.max_tokens
    if stops := [stop for stop in request.stop if stop]:
        # Which one ended the answer is told in the debugging part of the last chunk only.
        fields |= {"stop": stops, "verbose": True, "response_fields": ["stopping_word"]}
    if request.logit_bias:
        fields["logit_bias"] = [
            [token, False if bias <= _BANNED else bias] for token, bias in request.logit_bias
        ]
    if request.grammar is not None:
        fields["grammar"] = constraint.grammar(request.grammar)
    if request.logprobs is not None:
        # Its `logprobs` of the chat API is refused together with tools; this is the same.
        fields["n_probs"] = max(1, request.logprobs)
        fields["post_sampling_probs"] = False
    if request.prompt is not None:
        prompt = request.prompt if tokens is None else tokens
        fields["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
        if request.json_schema is not None:
            fields["json_schema"] = constraint.schema(request.json_schema)
        return fields
    fields["stream_options"] = {"include_usage": True}
    return fields | conversation(request) | _constraint(request)


def conversation(request: Request) -> dict[str, Any]:
    """What the chat template sees: messages, tools, and how much to think."""
    fields: dict[str, Any] = {"messages": [_message(message) for message in request.messages]}
    known: dict[str, Any] = {}
    if request.thinking is not None:
        known["enable_thinking"] = request.thinking
    if request.effort == "none":
        known["enable_thinking"] = False
    elif request.effort is not None:
        known["reasoning_effort"] = request.effort
    if known:
        fields["chat_template_kwargs"] = known
    if request.tools and not forced(request) and request.tool_choice != "none":
        pairs = zip(request.tools, constraint.parameters(request.tools), strict=True)
        fields["tools"] = [_tool(tool, parameters) for tool, parameters in pairs]
        if not request.parallel_tools:
            fields["parallel_tool_calls"] = False
    return fields


def continued(request: Request) -> Request:
    """A conversation for a model without a chat template: its words, one message a paragraph.

    llama.cpp would wrap them in ChatML, which such a model was never shown.
    """
    if request.tools or _has_image(request):
        raise BadRequest("this model has no chat template, so it takes neither tools nor images")
    words = "\n\n".join(message.text for message in request.messages)
    return replace(request, messages=(), prompt=words)


def forced(request: Request) -> tuple[Tool, ...]:
    """The tools of which one must be called; empty where the model may choose."""
    if request.tool_choice in ("auto", "none") or not request.tools:
        return ()
    if request.tool_choice == "required":
        return request.tools
    return tuple(tool for tool in request.tools if tool.name == request.tool_choice)


def check(request: Request, can: Capabilities) -> None:
    """Refuse what makes no sense before the worker sees it.

    Raises:
        BadRequest: says what, and what to do instead.
    """
    if (request.prompt is None) == (not request.messages):
        raise BadRequest("a request has either messages or a prompt", "give exactly one of the two")
    if request.suffix is not None and request.prompt is None:
        raise BadRequest("a suffix was given without a prompt", "give the prompt before the gap")
    _check_numbers(request)
    _check_length(request, can)
    if request.json_schema is not None and request.grammar is not None:
        raise BadRequest("a JSON schema and a grammar were both given", "give one of the two")
    if request.tool_choice not in ("auto", "none", "required") and not forced(request):
        raise BadRequest(
            f"tool choice {request.tool_choice!r} is none of the tools given",
            f"choose auto, none, required or one of: {', '.join(t.name for t in request.tools)}",
        )
    if _has_image(request) and not can.images:
        raise BadRequest(
            "this model cannot see images: it has no projector file",
            "choose a model with one, or put its mmproj file beside the weights",
        )


def _check_length(request: Request, can: Capabilities) -> None:
    """Refuse what cannot fit, however it is cut into tokens: reading it takes llama.cpp seconds.

    Counted is what every template keeps: what a person and the system say, less the blanks around
    it, and a token at least for each message, which says whose it is.
    """
    if request.prompt is None:
        messages = [message for message in request.messages if message.role in ("user", "system")]
        size = sum(len(message.text.strip().encode("utf-8", "replace")) for message in messages)
        least = max(size // _MAX_TOKEN_BYTES, len(request.messages))
    elif isinstance(request.prompt, str):
        least = len(request.prompt.encode("utf-8", "replace")) // _MAX_TOKEN_BYTES
    else:
        return  # llama.cpp has nothing to cut, and counts them at once
    if least > can.context:
        too_long = can.longest and least >= can.longest
        hint = f"shorten it: this model holds {can.longest} tokens at most" if too_long else None
        raise ContextExceeded(least, can.context, hint, least=True)


def _check_numbers(request: Request) -> None:
    for name, (low, high) in _LIMITS.items():
        value = getattr(request.sampling, name)
        if value is not None and not low <= value <= high:
            raise BadRequest(f"{name} is {value}", f"it goes from {low:g} to {high:g}")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise BadRequest(f"max tokens is {request.max_tokens}", "ask for at least 1")
    if request.logprobs is not None and not 0 <= request.logprobs <= 20:
        raise BadRequest(f"logprobs is {request.logprobs}", "it goes from 0 to 20")
    for token, bias in request.logit_bias:
        if not 0 <= token < 2**31 or bias != bias:
            raise BadRequest(
                f"logit bias {bias} for token {token} cannot be used",
                "give token ids from 0, and numbers from -100 to 100",
            )


def _sampling(request: Request, can: Capabilities) -> dict[str, Any]:
    sampling = request.sampling
    values = {name: getattr(sampling, name) for name in _LIMITS}
    if sampling.repeat_last_n == -1:  # the whole context, as people know it from Ollama
        values["repeat_last_n"] = can.context
    return {name: value for name, value in values.items() if value is not None}


def _constraint(request: Request) -> dict[str, Any]:
    """A schema for the answer. It enforces a required tool too: llama.cpp itself ignores that."""
    if tools := forced(request):
        pairs = zip(tools, constraint.parameters(tools), strict=True)
        schema = {"anyOf": [_call_schema(tool.name, parameters) for tool, parameters in pairs]}
    elif request.json_schema is not None:
        schema = constraint.schema(request.json_schema)
    else:
        return {}
    named = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _call_schema(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "arguments": parameters or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _tool(tool: Tool, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": parameters or {"type": "object", "properties": {}},
        },
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
            case ImagePart():
                content.append({"type": "image_url", "image_url": {"url": part.url}})
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


def _has_image(request: Request) -> bool:
    return any(isinstance(p, ImagePart) for m in request.messages for p in m.parts)
