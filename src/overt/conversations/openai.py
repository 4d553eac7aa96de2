"""OpenAI's chat messages as JSON lines, one conversation a line: what fine-tuning takes.

A line is ``{"messages": [{"role", "content", "tool_calls", "tool_call_id"}, …]}``; other fields of
a line (``tools``, ``metadata``) are counted as lost.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.conversations.base import (
    ChatExport,
    Conversation,
    Lost,
    arguments_of,
    mapping,
    object_of,
    parts_of,
    several,
    text,
    title_of,
)

NAME = "openai"
ABOUT = "OpenAI's chat messages, JSON lines (fine-tuning, logs)"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")  # of functions; "dalle.text2im" is refused
_ROLES = {"developer": "system", "function": "tool"}


def looks(member: str, value: Any) -> bool:
    """Whether every line has messages."""
    rows = [value] if isinstance(value, dict) else several(value)
    return bool(rows) and all("messages" in mapping(row) for row in rows[:100])


def read(value: Any, archive: ChatExport, lost: Lost) -> Iterator[Conversation]:
    """The conversations of the lines."""
    rows = [value] if isinstance(value, dict) else several(value)
    for row in map(mapping, rows):
        for name in sorted(row.keys() - {"messages", "title", "id", "model"}):
            lost[f"field {name}"[:60]] += 1
        messages = tuple(
            _message(mapping(message), lost) for message in several(row.get("messages"))
        )
        sound_messages = tuple(message for message in messages if message is not None)
        yield Conversation(
            title_of(row.get("title"), sound_messages),
            sound_messages,
            text(row.get("id")),
            text(row.get("model")),
        )


def write(conversations: Sequence[Conversation], lost: Lost) -> bytes:
    """One line a conversation."""
    return b"".join(_line(conversation, lost) for conversation in conversations)


def _message(row: Any, lost: Lost) -> Message | None:
    role = text(row.get("role"))
    role = _ROLES.get(role, role)
    if role == "tool":
        content = "".join(p.text for p in parts_of(row.get("content"), lost) if type(p) is TextPart)
        id = text(row.get("tool_call_id")) or text(row.get("name"))
        return Message("tool", (ToolResultPart(id, content),))
    if role not in ("system", "user", "assistant"):
        lost[f"message of the role {role or 'nobody'}"[:60]] += 1
        return None
    parts: list[Part] = []
    if thought := text(row.get("reasoning_content")) or text(row.get("reasoning")):
        parts.append(ThoughtPart(thought))
    parts += parts_of(row.get("content"), lost)
    for call in map(mapping, several(row.get("tool_calls"))):
        function = mapping(call.get("function"))
        arguments = arguments_of(function.get("arguments", ""))
        parts.append(ToolCallPart(text(call.get("id")), text(function.get("name")), arguments))
    return Message(role, tuple(parts)) if parts else None  # type: ignore[arg-type]


def _line(conversation: Conversation, lost: Lost) -> bytes:
    rows = [row for message in conversation.messages for row in _rows(message, lost)]
    return msgspec.json.encode({"messages": rows}) + b"\n"


def _rows(message: Message, lost: Lost) -> Iterator[dict[str, Any]]:
    """A message as one of OpenAI's, or as several: each result of a tool is its own."""
    content: list[dict[str, Any]] = []
    calls = []
    for part in message.parts:
        match part:
            case TextPart(text):
                content.append({"type": "text", "text": text})
            case ImagePart():
                content.append({"type": "image_url", "image_url": {"url": part.url}})
            case ToolCallPart(id, name, arguments):
                encoded = msgspec.json.encode(object_of(arguments)).decode()
                named = _NOT_IN_NAMES.sub("_", name)[:64]
                function = {"name": named, "arguments": encoded}
                calls.append({"id": id, "type": "function", "function": function})
            case ToolResultPart(id, result):
                yield {"role": "tool", "tool_call_id": id, "content": result}
            case ThoughtPart():
                lost["thought"] += 1
    if not content and not calls:
        return
    plain = all(part["type"] == "text" for part in content)
    whole: Any = "".join(part["text"] for part in content) if plain else content
    row: dict[str, Any] = {"role": message.role, "content": whole if content else None}
    yield {**row, "tool_calls": calls} if calls else row
