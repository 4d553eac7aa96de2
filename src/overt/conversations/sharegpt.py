"""ShareGPT: a list (or lines) of ``{"conversations": [{"from", "value"}, …]}``, used for training.

Speakers are ``system``, ``human``, ``gpt``, ``function_call`` and ``observation`` (as LLaMA-Factory
writes tools); ``user``, ``assistant``, ``chatgpt``, ``bing`` and ``tool`` are read as well. A field
``system`` beside the conversation is its system prompt.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from overt.chat import Message, TextPart, ThoughtPart, ToolCallPart, ToolResultPart
from overt.conversations.base import (
    ChatExport,
    Conversation,
    Lost,
    arguments_of,
    mapping,
    several,
    text,
    title_of,
)

NAME = "sharegpt"
ABOUT = "ShareGPT, JSON or JSON lines (training sets)"
ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


def looks(member: str, value: Any) -> bool:
    """Whether every row has conversations of speakers."""
    rows = [value] if isinstance(value, dict) else several(value)
    return bool(rows) and all(isinstance(_turns(row), list) for row in rows[:100])


def read(value: Any, archive: ChatExport, lost: Lost) -> Iterator[Conversation]:
    """The conversations of the rows."""
    for row in map(mapping, [value] if isinstance(value, dict) else several(value)):
        for name in sorted(row.keys() - {"conversations", "conversation", "system", "id", "title"}):
            lost[f"field {name}"[:60]] += 1
        messages = [Message.of("system", system)] if (system := text(row.get("system"))) else []
        calls = 0
        for turn in map(mapping, several(_turns(row))):
            speaker, system = text(turn.get("from")).lower(), text(turn.get("value"))
            if speaker == "function_call":
                calls += 1
                messages.append(Message("assistant", (_call(system, calls),)))
            elif ROLES.get(speaker) == "tool":
                messages.append(Message("tool", (ToolResultPart(f"call_{calls}", system),)))
            elif speaker in ROLES:
                messages.append(Message.of(ROLES[speaker], system))  # type: ignore[arg-type]
            else:
                lost[f"turn of {speaker or 'nobody'}"[:60]] += 1
        yield Conversation(
            title_of(row.get("title"), messages), tuple(messages), text(row.get("id"))
        )


def write(conversations: Sequence[Conversation], lost: Lost) -> bytes:
    """One JSON list."""
    rows = [
        {
            "id": conversation.id or f"{number}",
            "conversations": [
                turn
                for message in conversation.messages
                for turn in _turns_of_message(message, lost)
            ],
        }
        for number, conversation in enumerate(conversations)
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n"


def _turns(row: Any) -> Any:
    row = mapping(row)
    return row.get("conversations", row.get("conversation"))


def _call(source: str, number: int) -> ToolCallPart:
    """A call as LLaMA-Factory writes it: JSON with a name and arguments."""
    try:
        call = mapping(msgspec.json.decode(source))
    except (msgspec.DecodeError, RecursionError):
        call = {}
    if "name" not in call:
        return ToolCallPart(f"call_{number}", "", source)
    arguments = arguments_of(call.get("arguments", {}))
    return ToolCallPart(f"call_{number}", text(call["name"]), arguments)


def _turns_of_message(message: Message, lost: Lost) -> Iterator[dict[str, str]]:
    text = message.text
    if text and message.role in _SPEAKERS:
        yield {"from": _SPEAKERS[message.role], "value": text}
    for part in message.parts:
        match part:
            case ToolCallPart(_, name, arguments):
                try:
                    value: Any = msgspec.json.decode(arguments or "{}")
                except (msgspec.DecodeError, RecursionError):
                    value = arguments
                call = msgspec.json.encode({"name": name, "arguments": value}).decode()
                yield {"from": "function_call", "value": call}
            case ToolResultPart(_, content):
                yield {"from": "observation", "value": content}
            case TextPart():
                pass
            case ThoughtPart():
                lost["thought"] += 1
            case _:
                lost["image"] += 1
