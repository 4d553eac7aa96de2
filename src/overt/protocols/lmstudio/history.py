"""A conversation as LM Studio's SDKs send it, as messages.

Images are named by what `files.uploadFileBase64` returned. Other files are not read here: SDKs put
their text into messages themselves.
"""

import json
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.errors import BadRequest, Unsupported
from overt.protocols.lmstudio.kv import Manual
from overt.protocols.turns import PendingCalls

_MAX_MESSAGES = 20_000  # messages


class TextContentPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class FileContentPart(msgspec.Struct, tag_field="type", tag="file", rename="camel"):
    identifier: str
    name: str = ""
    file_type: str = "unknown"
    size_bytes: int = 0


class ToolCallRequest(msgspec.Struct):
    name: str
    id: str | None = None
    arguments: dict[str, Any] | None = None


class ToolCallContentPart(msgspec.Struct, tag_field="type", tag="toolCallRequest", rename="camel"):
    tool_call_request: ToolCallRequest


class ToolResultContentPart(msgspec.Struct, tag_field="type", tag="toolCallResult", rename="camel"):
    content: str
    tool_call_id: str | None = None


class HistoryMessage(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: list[TextContentPart | FileContentPart | ToolCallContentPart | ToolResultContentPart]


class History(msgspec.Struct):
    messages: list[HistoryMessage]


Fetch = Callable[[str], ImagePart]
"""The image of an identifier; raises NotFound."""


def messages(history: History, fetch: Fetch | None) -> tuple[Message, ...]:
    """The conversation; without `fetch` files are left out.

    Raises:
        BadRequest: nothing was said, or a tool call's result without its call.
        Unsupported: a file that is no image.
    """
    if len(history.messages) > _MAX_MESSAGES:
        raise BadRequest(f"{len(history.messages)} messages are more than {_MAX_MESSAGES}")
    waiting = PendingCalls()
    turns = []
    for number, message in enumerate(history.messages):
        parts = [
            part
            for at, part_ in enumerate(message.content)
            if (part := _part(part_, f"call_{number}_{at}", waiting, fetch)) is not None
        ]
        if parts:
            turns.append(Message(message.role, tuple(parts)))
    if not turns:
        raise BadRequest("the conversation is empty", "add a message of the user")
    return tuple(turns)


def _part(
    part: TextContentPart | FileContentPart | ToolCallContentPart | ToolResultContentPart,
    id: str,
    waiting: PendingCalls,
    fetch: Fetch | None,
) -> Part | None:
    match part:
        case TextContentPart():
            return TextPart(part.text)
        case FileContentPart():
            return _file(part, fetch)
        case ToolCallContentPart():
            call = part.tool_call_request
            id = call.id or id
            waiting.add(id)
            return ToolCallPart(id, call.name, json.dumps(call.arguments or {}))
        case ToolResultContentPart():
            if part.tool_call_id is None:
                if (first := waiting.take()) is None:
                    raise BadRequest("a tool call has a result, and was not asked for")
                return ToolResultPart(first, part.content)
            waiting.take(id=part.tool_call_id)
            return ToolResultPart(part.tool_call_id, part.content)


def _file(part: FileContentPart, fetch: Fetch | None) -> Part | None:
    if fetch is None:
        return None
    if part.file_type != "image":
        raise Unsupported(
            f"{part.name[:100]!r} is a file of the kind {part.file_type[:40]}, and only images can "
            "be read here",
            "put its text into the message",
        )
    return fetch(part.identifier)


def joined(turns: tuple[Message, ...]) -> str:
    """The text of all messages, as a prompt to be continued."""
    return "".join(turn.text for turn in turns)


def framed(turns: tuple[Message, ...], manual: Manual) -> str:
    """A prompt by a template of fixed words, ready for the assistant's turn."""
    frames = {
        "system": (manual.before_system, manual.after_system),
        "user": (manual.before_user, manual.after_user),
        "tool": (manual.before_user, manual.after_user),
        "assistant": (manual.before_assistant, manual.after_assistant),
    }
    parts = [frames[turn.role][0] + turn.text + frames[turn.role][1] for turn in turns]
    return "".join(parts) + manual.before_assistant
