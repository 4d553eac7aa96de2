"""A chat as OpenAI's clients send it, made into a chat.Request."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from overt.chat import (
    Message,
    Part,
    Request,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.protocols import media
from overt.protocols.base import BadBody
from overt.protocols.openai.wire import (
    ANY_OBJECT,
    Count,
    Effort,
    OpenAIWire,
    SamplingBody,
    biases,
    choose,
    reasoning,
    sampling,
    schema,
    stops,
    tool,
)

# ---- what a message is made of -------------------------------------------------------------


class TextContent(OpenAIWire, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: Any = None


class RefusalPart(OpenAIWire, tag_field="type", tag="refusal"):
    refusal: str


class ImageUrl(OpenAIWire):
    url: str
    detail: str | None = None


class ImageContent(OpenAIWire, tag_field="type", tag="image_url"):
    image_url: ImageUrl | str
    prompt_cache_breakpoint: Any = None


GEMINI, GEMINI_KEY = "gemini", "google"
"""The engine that signs calls, and where its signature stands in ``extra_content`` of a call."""


class CalledFunction(OpenAIWire, forbid_unknown_fields=False):
    name: str
    arguments: str | None = None
    parsed_arguments: Any = None  # of the SDK's own parse helpers


class ToolCallBody(OpenAIWire, forbid_unknown_fields=False):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None  # of a stream's pieces, put together by the client
    extra_content: Any = None

    def part(self) -> ToolCallPart:
        google = (
            self.extra_content.get(GEMINI_KEY) if isinstance(self.extra_content, dict) else None
        )
        signature = google.get("thought_signature") if isinstance(google, dict) else None
        is_signed = isinstance(signature, str) and signature != ""
        return ToolCallPart(
            self.id,
            self.function.name,
            self.function.arguments or "{}",
            signature if is_signed else None,
            GEMINI if is_signed else None,
        )


class SystemMessage(OpenAIWire, tag_field="role", tag="system"):
    content: str | list[TextContent]
    name: str | None = None


class DeveloperMessage(SystemMessage, tag_field="role", tag="developer"):
    pass


class UserMessage(OpenAIWire, tag_field="role", tag="user"):
    content: str | list[TextContent | ImageContent]
    name: str | None = None


class AssistantMessage(OpenAIWire, tag_field="role", tag="assistant", forbid_unknown_fields=False):
    """`reasoning_content` and `reasoning` are what local servers call the model's thoughts.

    Clients send back what they were given, which may be fields of another server's own: what is
    not known of an answer is left out.
    """

    content: str | list[TextContent | RefusalPart] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: Any = None
    audio: Any = None
    parsed: Any = None


class ToolMessage(OpenAIWire, tag_field="role", tag="tool"):
    content: str | list[TextContent]
    tool_call_id: str
    name: str | None = None


class FunctionMessage(OpenAIWire, tag_field="role", tag="function"):
    name: str
    content: str | None = None


MessageBody = (
    SystemMessage
    | DeveloperMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)

# ---- what the answer may be ----------------------------------------------------------------


class TextFormat(OpenAIWire, tag_field="type", tag="text"):
    pass


class ObjectFormat(OpenAIWire, tag_field="type", tag="json_object"):
    schema: dict[str, Any] | None = None  # llama.cpp's


class SchemaOf(OpenAIWire):
    name: str
    schema: dict[str, Any] | bool | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(OpenAIWire, tag_field="type", tag="json_schema"):
    json_schema: SchemaOf


class FunctionSpec(OpenAIWire):
    """`strict` changes nothing: where a call can be held to its schema, it always is."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(OpenAIWire, tag_field="type", tag="function"):
    function: FunctionSpec


class FunctionName(OpenAIWire):
    name: str


class NamedChoice(OpenAIWire, tag_field="type", tag="function"):
    function: FunctionName


class AllowedFunction(OpenAIWire, tag_field="type", tag="function"):
    function: FunctionName


class Allowed(OpenAIWire):
    mode: Literal["auto", "required"]
    tools: list[AllowedFunction]


class AllowedChoice(OpenAIWire, tag_field="type", tag="allowed_tools"):
    allowed_tools: Allowed


class ChatStreamOptions(OpenAIWire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatCompletionBody(SamplingBody, kw_only=True):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[MessageBody], Meta(min_length=1, max_length=20_000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: ChatStreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=1024)] | None = None
    tool_choice: str | NamedChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: str | FunctionName | None = None
    reasoning_effort: Effort | None = None
    # taken, and without effect here
    audio: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    # refused where they ask for something
    modalities: list[str] | None = None
    moderation: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None

    @property
    def legacy(self) -> bool:
        """Whether ``functions`` was used, which ``tools`` replaced in 2023."""
        return self.functions is not None and self.tools is None


def request(body: ChatCompletionBody) -> Request:
    """What `body` asks of a model, for the first of its ``n`` answers.

    Raises:
        BadBody: something no local model can do, or that contradicts itself.
    """
    _refuse_unsupported(body)
    tools, choice = _tools(body)
    thinking, effort = reasoning(body.reasoning_effort, body.chat_template_kwargs)
    return Request(
        model=body.model,
        messages=messages(body.messages),
        sampling=sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=stops(body.stop),
        logit_bias=biases(body.logit_bias),
        tools=tools,
        tool_choice=choice,
        parallel_tools=body.parallel_tool_calls is not False and not body.legacy,
        json_schema=_schema(body.response_format),
        grammar=body.grammar,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        thinking=thinking,
        effort=effort,
        deterministic=bool(body.deterministic),
    )


def _refuse_unsupported(body: ChatCompletionBody) -> None:
    if body.modalities and body.modalities != ["text"]:
        raise BadBody('answers here are text; leave modalities out or send ["text"]', "modalities")
    if body.moderation is not None:
        raise BadBody("no model is moderated here; leave moderation out", "moderation")
    if body.web_search_options is not None:
        raise BadBody(
            "models here search no web; leave web_search_options out", "web_search_options"
        )
    if body.top_logprobs and not body.logprobs:
        raise BadBody("top_logprobs is told only with logprobs true", "top_logprobs")
    if body.grammar is not None and not isinstance(body.response_format, TextFormat | None):
        raise BadBody("grammar and response_format both shape the answer; give one", "grammar")
    if body.stream_options is not None and not body.stream:
        raise BadBody("stream_options is for stream true", "stream_options")


def _schema(format: TextFormat | ObjectFormat | SchemaFormat | None) -> Any:
    if isinstance(format, ObjectFormat):
        return format.schema or ANY_OBJECT
    if isinstance(format, SchemaFormat):
        return schema(format.json_schema.schema, "response_format.json_schema.schema")
    return None


# ---- tools ---------------------------------------------------------------------------------


def _tools(body: ChatCompletionBody) -> tuple[tuple[Tool, ...], str]:
    if body.legacy:
        tools = _functions(body.functions or [], "functions[{}].name")
        call = body.function_call
        if isinstance(call, FunctionName):
            return choose(tools, call.name, named=True, path="function_call")
        return choose(tools, call, path="function_call")
    tools = _functions([t.function for t in body.tools or []], "tools[{}].function.name")
    choice = body.tool_choice
    if isinstance(choice, NamedChoice):
        return choose(tools, choice.function.name, named=True)
    if isinstance(choice, AllowedChoice):
        allowed = choice.allowed_tools
        return choose(tools, allowed.mode, allowed=[t.function.name for t in allowed.tools])
    return choose(tools, choice)


def _functions(functions: Sequence[FunctionSpec], path: str) -> list[Tool]:
    return [
        tool(f.name, f.description, f.parameters, path.format(i)) for i, f in enumerate(functions)
    ]


# ---- messages ------------------------------------------------------------------------------


def messages(bodies: Sequence[MessageBody]) -> tuple[Message, ...]:
    """The conversation. A ``function`` message answers the last call of that name.

    Raises:
        BadBody: an image that is none.
    """
    result: list[Message] = []
    for i, body in enumerate(bodies):
        match body:
            case SystemMessage():  # and DeveloperMessage
                result.append(Message("system", _text(body.content)))
            case UserMessage():
                result.append(Message("user", _content(body.content, f"messages[{i}].content")))
            case AssistantMessage():
                result.append(Message("assistant", _assistant(body)))
            case ToolMessage():
                text = "".join(part.text for part in _text(body.content))
                result.append(Message("tool", (ToolResultPart(body.tool_call_id, text),)))
            case FunctionMessage():
                # The old form has no ids; the name serves, as it does in `_assistant`.
                result.append(Message("tool", (ToolResultPart(body.name, body.content or ""),)))
    return tuple(result)


def _text(content: str | list[TextContent]) -> tuple[TextPart, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(TextPart(part.text) for part in content)


def _content(content: str | list[TextContent | ImageContent], path: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    parts: list[Part] = []
    for i, part in enumerate(content):
        if isinstance(part, TextContent):
            parts.append(TextPart(part.text))
            continue
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        parts.append(media.from_url(url, f"{path}[{i}].image_url"))
    return tuple(parts)


def _assistant(body: AssistantMessage) -> tuple[Part, ...]:
    thought = body.reasoning_content or body.reasoning
    parts: list[Part] = [ThoughtPart(thought)] if thought else []
    if isinstance(body.content, str):
        parts.append(TextPart(body.content))
    else:
        parts += [
            TextPart(part.text if isinstance(part, TextContent) else part.refusal)
            for part in body.content or ()
        ]
    if body.refusal and not body.content:
        parts.append(TextPart(body.refusal))
    parts += [call.part() for call in body.tool_calls or ()]
    if (call := body.function_call) is not None:
        parts.append(ToolCallPart(call.name, call.name, call.arguments or "{}"))
    return tuple(parts) or (TextPart(""),)
