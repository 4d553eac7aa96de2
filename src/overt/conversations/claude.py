"""Claude's export: the zip from the settings of claude.ai, or its ``conversations.json``.

Messages carry ``content`` blocks (text, thinking, tool_use, tool_result) and an older flat
``text``. What was attached comes as its extracted text; files themselves are not in the export. A
project's instructions and documents are in ``projects.json``, not tied to its conversations: they
are counted as lost. Anthropic documents no format: this is how exports of 2024 to 2026 are
described in public.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec

from overt.chat import Message, Part, TextPart, ThoughtPart, ToolCallPart, ToolResultPart
from overt.conversations.base import (
    ChatExport,
    Conversation,
    Lost,
    arguments_of,
    mapping,
    object_of,
    several,
    text,
    title_of,
    when,
)

NAME = "claude"
ABOUT = "Claude's export (zip or conversations.json)"
_ROLES = {"human": "user", "user": "user", "assistant": "assistant"}


def looks(member: str, value: Any) -> bool:
    """Whether the first conversations have chat messages, or all are projects."""
    rows = [value] if isinstance(value, dict) else several(value)
    talks = (isinstance(mapping(row).get("chat_messages"), list) for row in rows[:100])
    return bool(rows) and (all(talks) or all(map(_is_project, rows[:100])))


def read(value: Any, archive: ChatExport, lost: Lost) -> Iterator[Conversation]:
    """The conversations, in the order of the file."""
    for row in map(mapping, [value] if isinstance(value, dict) else several(value)):
        if _is_project(row):
            _leave(row, lost)
            continue
        messages = [
            message
            for entry in map(mapping, several(row.get("chat_messages")))
            for message in _messages(entry, lost)
        ]
        yield Conversation(
            title_of(row.get("name"), messages),
            tuple(messages),
            text(row.get("uuid")),
            text(row.get("model")),
            when(row.get("created_at")),
        )


def _is_project(row: Any) -> bool:
    return isinstance(row, dict) and "prompt_template" in row and "chat_messages" not in row


def _leave(project: Mapping[str, Any], lost: Lost) -> None:
    """Count what a project holds besides conversations."""
    name = " ".join(text(project.get("name")).split())[:80] or "no name"
    lost[f"instructions of the project {name}"] += bool(text(project.get("prompt_template")))
    lost[f"documents of the project {name}"] += len(several(project.get("docs")))


def _messages(entry: Mapping[str, Any], lost: Lost) -> Iterator[Message]:
    """One of Claude's messages; results of tools inside it become messages of their own."""
    role = _ROLES.get(text(entry.get("sender")))
    if role is None:
        lost[f"message of {text(entry.get('sender')) or 'nobody'}"[:60]] += 1
        return
    parts: list[Part] = []
    for attachment in map(mapping, several(entry.get("attachments"))):
        name, extracted = (
            text(attachment.get("file_name")),
            text(attachment.get("extracted_content")),
        )
        if extracted:
            parts.append(TextPart(f"[{name or 'attachment'}]\n{extracted}\n"))
        else:
            lost["attachment without text"] += 1
    lost["file that is not in the export"] += len(several(entry.get("files")))
    for block in map(mapping, several(entry.get("content"))):
        kind = text(block.get("type"))
        if kind == "tool_result":
            if parts:
                yield Message(role, tuple(parts))  # type: ignore[arg-type]
                parts = []
            id = text(block.get("tool_use_id"))
            failed = block.get("is_error") is True
            yield Message("tool", (ToolResultPart(id, _result(block, lost), failed),))
        elif part := _part(kind, block):
            parts.append(part)
        else:
            lost[f"block of the kind {kind or 'nothing'}"[:60]] += 1
    if not several(entry.get("content")) and text(entry.get("text")):
        parts.append(TextPart(text(entry["text"])))
    if parts:
        yield Message(role, tuple(parts))  # type: ignore[arg-type]


def _part(kind: str, block: Mapping[str, Any]) -> Part | None:
    if kind == "text":
        return TextPart(text(block.get("text")))
    if kind == "thinking":
        return ThoughtPart(text(block.get("thinking")))
    if kind == "tool_use":
        arguments = arguments_of(block.get("input", {}))
        return ToolCallPart(text(block.get("id")), text(block.get("name")), arguments)
    return None


def _result(block: Mapping[str, Any], lost: Lost) -> str:
    content = block.get("content")
    if isinstance(content, str):
        return content
    pieces = []
    for entry in map(mapping, several(content)):
        if entry.get("type") == "text":
            pieces.append(text(entry.get("text")))
        else:
            lost[f"result of the kind {text(entry.get('type')) or 'nothing'}"[:60]] += 1
    return "\n".join(pieces)


# ---- writing -------------------------------------------------------------------------------


def write(conversations: Sequence[Conversation], lost: Lost) -> bytes:
    """A ``conversations.json``."""
    rows = [_row(conversation, number, lost) for number, conversation in enumerate(conversations)]
    return msgspec.json.encode(rows) + b"\n"


def _row(conversation: Conversation, number: int, lost: Lost) -> dict[str, Any]:
    def named(what: str) -> str:  # the same ids each time: a second export is the same file
        return str(uuid5(NAMESPACE_URL, f"overt:{number}:{conversation.id}:{what}"))

    messages = []
    for index, message in enumerate(conversation.messages):
        lost["system prompt, which Claude's format has no place for"] += message.role == "system"
        if message.role == "system":
            continue
        messages.append(
            {
                "uuid": named(str(index)),
                "text": message.text,
                "content": [block for part in message.parts for block in _blocks(part, lost)],
                "sender": "assistant" if message.role in ("assistant", "tool") else "human",
                "created_at": conversation.created or None,
                "attachments": [],
                "files": [],
            }
        )
    return {
        "uuid": conversation.id or named("all"),
        "name": conversation.title,
        "created_at": conversation.created or None,
        "chat_messages": messages,
    }


def _blocks(part: Part, lost: Lost) -> Iterator[dict[str, Any]]:
    match part:
        case TextPart(text):
            yield {"type": "text", "text": text}
        case ThoughtPart(text):
            yield {"type": "thinking", "thinking": text}
        case ToolCallPart(id, name, arguments):
            yield {"type": "tool_use", "id": id, "name": name, "input": object_of(arguments)}
        case ToolResultPart(id, content, error):
            blocks = [{"type": "text", "text": content}]
            yield {"type": "tool_result", "tool_use_id": id, "content": blocks, "is_error": error}
        case _:
            lost["image"] += 1
