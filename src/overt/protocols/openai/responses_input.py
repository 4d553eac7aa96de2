"""What ``POST /v1/responses`` takes, and the chat.Request it means."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from overt.chat import Message, Request, Tool
from overt.errors import Unsupported
from overt.protocols.base import BadBody
from overt.protocols.openai import stored, wire
from overt.protocols.openai.responses_items import convert

LOGPROBS = "message.output_text.logprobs"

# ---- the body --------------------------------------------------------------------------------


class ReasoningBody(wire.OpenAIWire):
    """A summary is never made: the reasoning itself is told."""

    effort: wire.Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponseTextFormat(wire.OpenAIWire):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(wire.OpenAIWire):
    format: ResponseTextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ConversationRef(wire.OpenAIWire):
    id: str


class ResponseStreamOptions(wire.OpenAIWire):
    include_obfuscation: bool | None = None


class PromptedBody(wire.SamplingBody):
    """What `CreateResponse` and `CountInput` have in common."""

    input: str | Annotated[list[dict[str, Any]], Meta(max_length=20_000)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningBody | None = None
    text: TextOptions | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1024)] | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def conversation_id(self) -> str | None:
        conversation = self.conversation
        return conversation.id if isinstance(conversation, ConversationRef) else conversation


class CountInput(PromptedBody):
    """``POST /v1/responses/input_tokens``."""

    personality: str | None = None


class CreateResponse(PromptedBody):
    """``POST /v1/responses``. What means nothing to a model here, and harms nobody, is ignored."""

    background: bool | None = None
    include: (
        list[
            Literal[
                "code_interpreter_call.outputs",
                "computer_call_output.output.image_url",
                "file_search_call.results",
                "message.input_image.image_url",
                "message.output_text.logprobs",
                "reasoning.encrypted_content",
                "web_search_call.action.sources",
                "web_search_call.results",
            ]
        ]
        | None
    ) = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    metadata: stored.Metadata | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    stop: str | list[str] | None = None  # not OpenAI's
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    user: str | None = None
    # accepted and ignored
    access_programs: Any = None
    background_options: Any = None
    context_management: Any = None
    image: Any = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    # refused where they are given
    moderation: Any = None
    prompt: Any = None

    @property
    def logprobs(self) -> int | None:
        """How many alternatives are told, None where no log-probabilities are asked for."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None


def check(body: CreateResponse) -> None:
    """Refuse what this server does not do, and what contradicts itself.

    Raises:
        BadBody, Unsupported: with what to leave out.
    """
    if body.prompt is not None:
        raise BadBody("prompt templates are not kept here; send their text as input", "prompt")
    if body.moderation is not None:
        raise Unsupported("this server moderates no responses", "leave out moderation")
    if body.background and body.store is False:
        raise BadBody("a background response must be stored; leave out store", "store")
    if body.conversation is not None and body.previous_response_id is not None:
        raise BadBody(
            "conversation and previous_response_id exclude each other", "previous_response_id"
        )


# ---- the request -----------------------------------------------------------------------------


def request(body: CreateResponse, messages: tuple[Message, ...]) -> Request:
    """The whole of what is asked.

    Raises:
        BadBody: a tool, a choice or a format that is not understood.
    """
    return replace(
        prompt(body, messages),
        sampling=wire.sampling(body),
        max_tokens=body.max_output_tokens,
        stop=wire.stops(body.stop),
        grammar=body.grammar,
        logprobs=body.logprobs,
        deterministic=bool(body.deterministic),
    )


def prompt(body: PromptedBody, messages: tuple[Message, ...]) -> Request:
    """What of it becomes part of the prompt, or decides its form."""
    tools, choice = _tools(body)
    wanted = body.reasoning.effort if body.reasoning else None
    thinking, effort = wire.reasoning(wanted, body.chat_template_kwargs)
    return Request(
        model=body.model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tools=body.parallel_tool_calls is not False,
        json_schema=_schema(body.text),
        thinking=thinking,
        effort=effort,
    )


def customs(body: PromptedBody) -> frozenset[str]:
    """The names of custom tools."""
    return frozenset(
        str(tool.get("name")) for tool in body.tools or () if tool.get("type") == "custom"
    )


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Custom(msgspec.Struct):
    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


# A custom tool takes free text. A model here calls functions, so it is told of one with one text.
_FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class _ToolChoiceObject(msgspec.Struct):
    """`tool_choice` where it is more than a word."""

    type: str
    name: str = ""
    mode: Literal["auto", "required"] = "auto"
    tools: list[dict[str, Any]] = []


def _tools(body: PromptedBody) -> tuple[tuple[Tool, ...], str]:
    tools = [_tool(tool, f"tools[{n}]") for n, tool in enumerate(body.tools or ())]
    choice_body = body.tool_choice
    if choice_body is None or isinstance(choice_body, str):
        return wire.choose(tools, choice_body)
    choice = convert(choice_body, _ToolChoiceObject, "tool_choice")
    if choice.type == "allowed_tools":
        allowed = [str(tool.get("name")) for tool in choice.tools]
        return wire.choose(tools, choice.mode, allowed=allowed)
    if choice.type in ("function", "custom"):
        return wire.choose(tools, choice.name, named=True)
    message = f"tool_choice is of type {choice.type[:80]!r}, a tool that this server does not have"
    raise BadBody(message, "tool_choice.type")


def _tool(tool: Mapping[str, Any], path: str) -> Tool:
    kind = tool.get("type")
    if kind == "function":
        function = convert(tool, _ToolFunction, path)
        return wire.tool(function.name, function.description, function.parameters, f"{path}.name")
    if kind == "custom":
        custom = convert(tool, _Custom, path)
        if (custom.format or {}).get("type", "text") != "text":
            raise BadBody("custom tools take text here, not a grammar", f"{path}.format")
        return wire.tool(custom.name, custom.description, _FREE_TEXT, f"{path}.name")
    raise BadBody(
        f"this server has no tool of type {str(kind)[:80]!r}; give functions and run them yourself",
        f"{path}.type",
    )


def _schema(text: TextOptions | None) -> Mapping[str, Any] | None:
    wanted = text.format if text else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return wire.ANY_OBJECT
    if wanted.schema is None or not wanted.name:
        what = "schema" if wanted.name else "name"
        raise BadBody(f"text.format of type json_schema needs a {what}", f"text.format.{what}")
    return wire.schema(wanted.schema, "text.format.schema")
