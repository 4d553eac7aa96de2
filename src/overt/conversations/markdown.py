"""Markdown to read and to keep: written only, since no program reads a conversation from it."""

from collections.abc import Iterator, Sequence
from typing import Any

from overt.chat import ImagePart, Message, TextPart, ThoughtPart, ToolCallPart, ToolResultPart
from overt.conversations.base import ChatExport, Conversation, Lost

NAME = "markdown"
ABOUT = "Markdown, to read (written only)"
_WHO = {"system": "System", "user": "You", "assistant": "Answer", "tool": "Tool"}


def looks(member: str, value: Any) -> bool:
    """Never: nothing is read from it."""
    return False


def read(value: Any, archive: ChatExport, lost: Lost) -> Iterator[Conversation]:
    """Nothing."""
    return iter(())


def write(conversations: Sequence[Conversation], lost: Lost) -> bytes:
    """One document, a heading a conversation."""
    return "\n".join(
        _conversation_text(conversation, lost) for conversation in conversations
    ).encode()


def _conversation_text(conversation: Conversation, lost: Lost) -> str:
    about = ", ".join(filter(None, (conversation.model, conversation.created)))
    lines = [f"# {conversation.title}", ""]
    lines += [about, ""] if about else []
    for message in conversation.messages:
        lines += [f"**{_WHO[message.role]}**", "", "\n\n".join(_message_lines(message, lost)), ""]
    return "\n".join(lines)


def _message_lines(message: Message, lost: Lost) -> Iterator[str]:
    for part in message.parts:
        match part:
            case TextPart(text):
                yield text
            case ToolCallPart(_, name, arguments):
                yield f"```json\n{name}({arguments})\n```"
            case ToolResultPart(_, content):
                yield f"```\n{content}\n```"
            case ThoughtPart(text):
                yield "\n".join(f"> {line}" for line in text.splitlines())
            case ImagePart():
                lost["image"] += 1
                yield "(an image)"
