"""``POST /api/chat``: a conversation in, the next message out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.chat import (
    Answer,
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
from overt.protocols.base import BadBody, HttpCall, HttpReply, Stream, encode
from overt.protocols.ollama import answer, wire
from overt.protocols.ollama.wire import GenerationBody, OllamaModel, RequestClock
from overt.protocols.turns import PendingCalls


class FunctionCallBody(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | None = None


class OllamaToolCall(msgspec.Struct):
    function: FunctionCallBody
    id: str | None = None


class ChatMessage(msgspec.Struct):
    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ToolFunction(msgspec.Struct):
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(msgspec.Struct):
    function: ToolFunction
    type: str | None = None


class OllamaChatBody(GenerationBody):
    messages: Annotated[list[ChatMessage], Meta(max_length=20_000)] | None = None
    tools: list[ChatTool] | None = None


async def chat(call: HttpCall) -> HttpReply | Stream:
    """``POST /api/chat``; without messages it loads the model, or lets it go."""
    clock = RequestClock()
    body = wire.body(call, OllamaChatBody)
    chosen = wire.options(body.options)
    hold = wire.hold(body.keep_alive, chosen)
    model = await wire.find(call, body.model)
    form = answer.ResponseForm(body.model, _body)
    if not body.messages:
        done = await wire.loaded(call, model, hold)
        return HttpReply(form.whole("", "", [], **done))
    request = _request(body, model, chosen)
    if body.only_render:
        return HttpReply(await _rendered(call, body, request))
    events = call.services.stream(call.caller, request, hold)
    return await answer.answered(body, request, events, form, clock, _nothing)


async def _nothing(_: Answer) -> dict[str, Any]:
    return {}


def _body(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _request(body: OllamaChatBody, model: OllamaModel, chosen: wire.OllamaOptions) -> Request:
    """What is asked of the engine.

    Raises:
        BadBody: a message or field that makes no sense.
    """
    return replace(
        wire.request(body, model, chosen),
        messages=_MessageReader().messages(body.messages or []),
        tools=tuple(_tool(tool, n) for n, tool in enumerate(body.tools or ())),
    )


def _tool(tool: ChatTool, number: int) -> Tool:
    function = tool.function
    if not function.name:
        raise BadBody("a tool has no name", f"tools[{number}].function.name")
    parameters: Mapping[str, Any] = function.parameters or {}
    return Tool(function.name, function.description or "", parameters)


class _MessageReader:
    """Reads messages in order: a tool's result is for the call that still waits for one.

    Ollama's clients may leave ids out and name the tool alone, or nothing at all.
    """

    def __init__(self) -> None:
        self._waiting = PendingCalls()
        self._count = 0

    def messages(self, bodies: list[ChatMessage]) -> tuple[Message, ...]:
        return tuple(self._message(body, f"messages[{n}]") for n, body in enumerate(bodies))

    def _message(self, message: ChatMessage, path: str) -> Message:
        text = message.content or ""
        if message.role == "tool":
            return Message("tool", (ToolResultPart(self._answered(message), text),))
        if message.role not in ("system", "user", "assistant"):
            raise BadBody(
                f"invalid role: {message.role[:40]!r}; must be one of 'system', 'user', "
                "'assistant', "
                "or 'tool'",
                f"{path}.role",
            )
        parts: list[Part] = []
        if message.thinking:
            parts.append(ThoughtPart(message.thinking))
        parts += [
            media.from_base64(image, f"{path}.images[{n}]")
            for n, image in enumerate(message.images or ())
        ]
        if text or not (parts or message.tool_calls):
            parts.append(TextPart(text))
        parts += [self._call(call) for call in message.tool_calls or ()]
        return Message(message.role, tuple(parts))  # type: ignore[arg-type]  # one of the three

    def _call(self, call: OllamaToolCall) -> ToolCallPart:
        id = call.id or f"call_{self._count}"
        self._count += 1
        self._waiting.add(id, call.function.name)
        return ToolCallPart(id, call.function.name, encode(call.function.arguments or {}).decode())

    def _answered(self, message: ChatMessage) -> str:
        """The id of the call that a result belongs to."""
        if message.tool_call_id:
            self._waiting.take(id=message.tool_call_id)
            return message.tool_call_id
        name = message.tool_name or None
        return self._waiting.take(name=name) or name or f"call_{self._count}"


async def _rendered(call: HttpCall, body: OllamaChatBody, request: Request) -> dict[str, Any]:
    info: dict[str, Any] = {"rendered_template": await call.services.render(call.caller, request)}
    if images := sum(len(message.images or ()) for message in body.messages or ()):
        info["image_count"] = images
    return {
        "model": body.model,
        "created_at": wire.now(),
        **_body("", "", []),
        "done": False,
        "_debug_info": info,
    }
