"""The body of ``/responses``: a conversation as items, kept nowhere (``store: false``).

Because nothing is kept at OpenAI, its reasoning comes back encrypted and goes along with the next
turn: each `ThoughtPart` of ours holds one reasoning item, word for word, in its signature. An item
without encrypted content is left out, because OpenAI then looks for it among what was stored and
answers 404 (vercel/ai#7543, read 2026-11-25). So is one that nothing follows: OpenAI wants the
item that the reasoning led to.

Source of every field: OpenAI's OpenAPI document 2.3.0, which the tests hold the bodies against.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

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
from overt.providers.openai.chat import SCHEMA_NAME, call_id, parameters
from overt.providers.openai.strict import strict

MIN_OUTPUT_TOKENS = 16
"""`max_output_tokens` below this is refused."""
ORIGIN = "openai"
_ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_MAX_ITEM = 4 << 20  # characters of one reasoning item


def needs_chat(request: Request) -> bool:
    """Whether only ``/chat/completions`` has the fields for this."""
    drawn = request.sampling
    return bool(
        request.stop
        or request.logit_bias
        or drawn.seed is not None
        or drawn.presence_penalty
        or drawn.frequency_penalty
        or (request.max_tokens is not None and request.max_tokens < MIN_OUTPUT_TOKENS)
    )


def body(request: Request, model: str, *, effort: str | None, reasons: bool) -> dict[str, Any]:
    """The body of ``/responses``, streamed.

    Args:
        request: checked, with messages, without what the model refuses.
        model: by OpenAI's name.
        effort: how much to reason, None for the model's own default.
        reasons: whether the model is known to; encrypted reasoning is an error for the others.
    """
    fields = {
        **conversation(request, model, effort=effort),
        "stream": True,
        "store": False,
        **_sampling(request.sampling),
    }
    include = [_ENCRYPTED] if reasons else []
    if request.logprobs is not None:
        include.append(_LOGPROBS)
        fields["top_logprobs"] = request.logprobs
    if include:
        fields["include"] = include
    if request.max_tokens is not None:
        fields["max_output_tokens"] = request.max_tokens
    return fields


def conversation(request: Request, model: str, *, effort: str | None) -> dict[str, Any]:
    """What ``/responses`` and ``/responses/input_tokens`` have in common."""
    fields: dict[str, Any] = {"model": model, "input": items(request.messages)}
    reasoning: dict[str, Any] = {}
    if effort is not None:
        reasoning["effort"] = effort
    if request.thinking:
        # Only who asks to see thoughts gets a summary: OpenAI gives it to verified organisations.
        reasoning["summary"] = "auto"
    if reasoning:
        fields["reasoning"] = reasoning
    if request.json_schema is not None:
        fields["text"] = {
            "format": {
                "type": "json_schema",
                "name": SCHEMA_NAME,
                "schema": dict(request.json_schema),
                "strict": strict(request.json_schema),
            }
        }
    return fields | _tools(request)


def _sampling(sampling: Sampling) -> dict[str, float]:
    fields = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return {name: value for name, value in fields.items() if value is not None}


# ---- items ---------------------------------------------------------------------------------


def items(messages: Sequence[Message]) -> list[Any]:
    """The conversation, in order; some are `msgspec.Raw`, as OpenAI sent them."""
    all_items: list[Any] = []
    for message in messages:
        if message.role == "assistant":
            all_items += _assistant(message.parts)
        else:
            all_items += _others(message)
    return all_items


def _others(message: Message) -> list[Any]:
    result: list[Any] = [
        {
            "type": "function_call_output",
            "call_id": call_id(part.id),
            "output": part.content,
        }
        for part in message.parts
        if isinstance(part, ToolResultPart)
    ]
    rest = [part for part in message.parts if isinstance(part, TextPart | ImagePart)]
    if rest or not result:
        role = "system" if message.role == "system" else "user"
        result.append({"role": role, "content": _content(rest)})
    return result


def _content(parts: Sequence[TextPart | ImagePart]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return [
        {"type": "input_text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "input_image", "image_url": part.url, "detail": "auto"}
        for part in parts
    ]


def _assistant(parts: Sequence[Part]) -> list[Any]:
    result: list[Any] = []
    waiting: list[Any] = []  # reasoning goes before what it led to, or not at all
    for part in parts:
        item: Any = None
        if isinstance(part, ThoughtPart):
            if raw := _reasoning(part):
                waiting.append(raw)
        elif isinstance(part, TextPart) and part.text:
            item = {"role": "assistant", "content": part.text}
        elif isinstance(part, ToolCallPart):
            item = {
                "type": "function_call",
                "call_id": call_id(part.id),
                "name": part.name,
                "arguments": part.arguments,
            }
        if item is not None:
            result += [*waiting, item]
            waiting = []
    return result


def _reasoning(part: ThoughtPart) -> msgspec.Raw | None:
    """The item that OpenAI sent; None for another's thought, and for what is no such item.

    A signature comes back through clients, so it may be anything.
    """
    if part.origin != ORIGIN or not part.signature or len(part.signature) > _MAX_ITEM:
        return None
    try:
        raw = part.signature.encode()
        item = _item(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if item.type != "reasoning" or not item.encrypted_content:
        return None
    return msgspec.Raw(raw)


class _ReasoningItem(msgspec.Struct):
    type: str = ""
    encrypted_content: str | None = None


_item = msgspec.json.Decoder(_ReasoningItem).decode


# ---- tools ---------------------------------------------------------------------------------


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in request.tools]}
    if request.tool_choice in ("none", "required"):
        fields["tool_choice"] = request.tool_choice
    elif request.tool_choice != "auto":
        fields["tool_choice"] = {"type": "function", "name": request.tool_choice}
    if not request.parallel_tools:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    schema = parameters(tool)
    # `strict` has to be said here: left out, it is taken as true, and most schemas are refused.
    fields = {"type": "function", "name": tool.name, "parameters": schema, "strict": strict(schema)}
    return fields | ({"description": tool.description} if tool.description else {})
