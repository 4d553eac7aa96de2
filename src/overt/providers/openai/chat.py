"""Bodies of ``/chat/completions`` and ``/completions``, for OpenAI and for servers that speak so.

The answer is read in chat_answer.py. Source of every field: OpenAI's OpenAPI document 2.3.0,
which the tests hold the bodies against.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from overt.chat import (
    ImagePart,
    Message,
    Part,
    Request,
    Sampling,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.errors import BadRequest
from overt.providers.openai.strict import strict

MODES = ("auto", "none", "required")
SCHEMA_NAME = "answer"
_MAX_ID_LENGTH = 64  # of a tool call; OpenAI refuses a longer one
_BIAS = 100


def check(request: Request, who: str) -> None:
    """Refuse what makes no sense, or what no such server carries out as asked.

    Raises:
        BadRequest: says what to leave out.
    """
    if (request.prompt is None) == (not request.messages):
        raise BadRequest("a request has either messages or a prompt", "give exactly one of the two")
    if request.json_schema is not None and request.grammar is not None:
        raise BadRequest("a JSON schema and a grammar were both given", "give one of the two")
    if request.suffix is not None and request.prompt is None:
        raise BadRequest("a suffix was given without a prompt", "give the prompt before the gap")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise BadRequest(f"max_tokens is {request.max_tokens}", "ask for 1 or more")
    if request.logprobs is not None and not 0 <= request.logprobs <= 20:
        raise BadRequest(f"logprobs is {request.logprobs}", "ask for 0 to 20 alternatives")
    if request.deterministic:
        raise BadRequest(
            f"{who} does not promise the same text twice",
            "leave out deterministic, or ask a model on this machine",
        )
    named = request.tool_choice not in MODES
    if named and all(tool.name != request.tool_choice for tool in request.tools):
        raise BadRequest(
            f"tool choice {request.tool_choice[:64]!r} is none of the tools given",
            "name one of them",
        )
    if request.tool_choice == "required" and not request.tools:
        raise BadRequest("tool choice is required, and no tools are given", "add tools")


# ---- a conversation ------------------------------------------------------------------------


def chat(
    request: Request,
    model: str,
    *,
    length: str,
    thoughts: str = "",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of ``/chat/completions``.

    Args:
        request: checked, with messages.
        model: by the name that the server has for it.
        length: the field for `Request.max_tokens`.
        thoughts: the origin whose reasoning goes back as `reasoning_content`; "" for none. It goes
            back within a chain of tool calls only: templates leave out what is older.
        extra: fields beside these.
    """
    since = _last_turn(request.messages)
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(request.messages):
        messages += _messages(message, thoughts if index > since else "")
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling(request.sampling),
        **(extra or {}),
    }
    if request.max_tokens is not None:
        body[length] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logit_bias:
        body["logit_bias"] = biases(request.logit_bias)
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.json_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": SCHEMA_NAME,
                "schema": dict(request.json_schema),
                "strict": strict(request.json_schema),
            },
        }
    return body | _tools(request)


def completion(
    request: Request, model: str, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The body of ``/completions``, for `request.prompt`."""
    prompt = request.prompt
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt or ()),
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling(request.sampling),
        **(extra or {}),
    }
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logit_bias:
        body["logit_bias"] = biases(request.logit_bias)
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    return body


def sampling(sampling: Sampling) -> dict[str, Any]:
    """What OpenAI has of it; a penalty of 0 is none."""
    fields = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "seed": sampling.seed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def biases(pairs: Sequence[tuple[int, float]]) -> dict[str, int]:
    """By token id as text. OpenAI takes whole numbers of -100 to 100; -100 bans already."""
    return {str(token): round(max(-_BIAS, min(_BIAS, bias))) for token, bias in pairs}


def rounded(pairs: Sequence[tuple[int, float]]) -> bool:
    """Whether `biases` says something else than was asked."""
    return any(bias > _BIAS or (bias > -_BIAS and bias != round(bias)) for _, bias in pairs)


# ---- messages ------------------------------------------------------------------------------


def call_id(id: str) -> str:
    """`given`, or what stands for it where OpenAI refuses its length. The same for the same."""
    if 0 < len(id) <= _MAX_ID_LENGTH:
        return id
    return "call_" + hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:32]


def _last_turn(messages: Sequence[Message]) -> int:
    """Where the last message of the person is; -1 for none."""
    return max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)


def _messages(message: Message, thoughts: str) -> list[dict[str, Any]]:
    """One of ours as some of theirs: each tool result is a message of its own."""
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    messages: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": call_id(part.id), "content": part.content}
        for part in results
    ]
    if message.role == "assistant":
        return [*messages, _assistant(message, thoughts)]
    rest = tuple(part for part in message.parts if isinstance(part, TextPart | ImagePart))
    if rest or not results:
        role = "system" if message.role == "system" else "user"
        messages.append({"role": role, "content": _content(rest)})
    return messages


def _assistant(message: Message, thoughts: str) -> dict[str, Any]:
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    text = message.text
    fields: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if calls:
        fields["tool_calls"] = [
            {
                "id": call_id(part.id),
                "type": "function",
                "function": {"name": part.name, "arguments": part.arguments},
            }
            for part in calls
        ]
    if thoughts and calls and (thought := _thought(message.parts, thoughts)):
        fields["reasoning_content"] = thought
    return fields


def _thought(parts: Sequence[Part], origin: str) -> str:
    return "".join(
        part.text for part in parts if isinstance(part, ThoughtPart) and part.origin == origin
    )


def _content(parts: Sequence[TextPart | ImagePart]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": part.url}}
        for part in parts
    ]


# ---- tools ---------------------------------------------------------------------------------


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in request.tools]}
    if request.tool_choice in ("none", "required"):
        body["tool_choice"] = request.tool_choice
    elif request.tool_choice != "auto":
        body["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    if not request.parallel_tools:
        body["parallel_tool_calls"] = False
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": parameters(tool)}
    if tool.description:
        function["description"] = tool.description
    if strict(function["parameters"]):
        function["strict"] = True
    return {"type": "function", "function": function}


def parameters(tool: Tool) -> dict[str, Any]:
    """A tool's schema; one that takes nothing is an object all the same."""
    return dict(tool.parameters) or {"type": "object", "properties": {}}
