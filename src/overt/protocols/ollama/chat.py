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
from overt.protocols.base import BadBody, Call, Reply, Stream, encode
from overt.protocols.ollama import answer, wire
from overt.protocols.ollama.wire import Asked, Clock, Found
from overt.protocols.turns import Waiting


class Function(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | None = None


class ToolCall(msgspec.Struct):
    function: Function
    id: str | None = None


class ChatMessage(msgspec.Struct):
    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ToolFunction(msgspec.Struct):
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(msgspec.Struct):
    function: ToolFunction
    type: str | None = None


class Chat(Asked):
    messages: Annotated[list[ChatMessage], Meta(max_length=20_000)] | None = None
    tools: list[ChatTool] | None = None


async def chat(call: Call) -> Reply | Stream:
    """``POST /api/chat``; without messages it loads the model, or lets it go."""
    clock = Clock()
    asked = wire.body(call, Chat)
    chosen = wire.options(asked.options)
    hold = wire.hold(asked.keep_alive, chosen)
    found = await wire.find(call, asked.model)
    form = answer.Form(asked.model, _body)
    if not asked.messages:
        done = await wire.loaded(call, found, hold)
        return Reply(form.whole("", "", [], **done))
    request = _request(asked, found, chosen)
    if asked.only_render:
        return Reply(await _rendered(call, asked, request))
    events = call.services.stream(call.caller, request, hold)
    return await answer.answered(asked, request, events, form, clock, _nothing)


async def _nothing(_: Answer) -> dict[str, Any]:
    return {}


def _body(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _request(asked: Chat, found: Found, chosen: wire.Options) -> Request:
    """What is asked of the engine.

    Raises:
        BadBody: a message or field that makes no sense.
    """
    return replace(
        wire.request(asked, found, chosen),
        messages=_Reader().messages(asked.messages or []),
        tools=tuple(_tool(one, n) for n, one in enumerate(asked.tools or ())),
    )


def _tool(tool: ChatTool, number: int) -> Tool:
    function = tool.function
    if not function.name:
        raise BadBody("a tool has no name", f"tools[{number}].function.name")
    parameters: Mapping[str, Any] = function.parameters or {}
    return Tool(function.name, function.description or "", parameters)


class _Reader:
    """Reads messages in order: a tool's result is for the call that still waits for one.

    Ollama's clients may leave ids out and name the tool alone, or nothing at all.
    """

    def __init__(self) -> None:
        self._waiting = Waiting()
        self._count = 0

    def messages(self, given: list[ChatMessage]) -> tuple[Message, ...]:
        return tuple(self._message(one, f"messages[{n}]") for n, one in enumerate(given))

    def _message(self, one: ChatMessage, path: str) -> Message:
        text = one.content or ""
        if one.role == "tool":
            return Message("tool", (ToolResultPart(self._answered(one), text),))
        if one.role not in ("system", "user", "assistant"):
            raise BadBody(
                f"invalid role: {one.role[:40]!r}; must be one of 'system', 'user', 'assistant', "
                "or 'tool'",
                f"{path}.role",
            )
        parts: list[Part] = []
        if one.thinking:
            parts.append(ThoughtPart(one.thinking))
        parts += [
            media.from_base64(image, f"{path}.images[{n}]")
            for n, image in enumerate(one.images or ())
        ]
        if text or not (parts or one.tool_calls):
            parts.append(TextPart(text))
        parts += [self._call(call) for call in one.tool_calls or ()]
        return Message(one.role, tuple(parts))  # type: ignore[arg-type]  # one of the three

    def _call(self, call: ToolCall) -> ToolCallPart:
        id = call.id or f"call_{self._count}"
        self._count += 1
        self._waiting.add(id, call.function.name)
        return ToolCallPart(id, call.function.name, encode(call.function.arguments or {}).decode())

    def _answered(self, one: ChatMessage) -> str:
        """The id of the call that a result belongs to."""
        if one.tool_call_id:
            self._waiting.take(id=one.tool_call_id)
            return one.tool_call_id
        name = one.tool_name or None
        return self._waiting.take(name=name) or name or f"call_{self._count}"


async def _rendered(call: Call, asked: Chat, request: Request) -> dict[str, Any]:
    info: dict[str, Any] = {"rendered_template": await call.services.render(call.caller, request)}
    if images := sum(len(one.images or ()) for one in asked.messages or ()):
        info["image_count"] = images
    return {
        "model": asked.model,
        "created_at": wire.now(),
        **_body("", "", []),
        "done": False,
        "_debug_info": info,
    }
