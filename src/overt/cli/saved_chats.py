"""Saved chats: JSON files under ``OVERT_HOME/chats``, written whole or not at all.

A chat holds the model's ref and digest, the system prompt, the parameters and every message with
all its parts (images as base64), so that loading it restores exactly what was said.
"""

import os
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    Role,
    Sampling,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.cli.options import RANGES
from overt.errors import BadRequest, Failure, FormatError, NotFound, OutOfDisk
from overt.files import atomic

VERSION: Literal[1] = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_BYTES = 256 << 20
_SYNCS = hasattr(os, "sync")  # not on Windows


class _PartRecord(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    pass


class _TextRecord(_PartRecord, tag="text"):
    text: str


class _ImageRecord(_PartRecord, tag="image"):
    data: bytes
    media_type: str


class _Thought(_PartRecord, tag="thought"):
    text: str
    signature: str | None = None
    sealed: bool = False
    origin: str | None = None


class _ToolCall(_PartRecord, tag="tool_call"):
    id: str
    name: str
    arguments: str
    signature: str | None = None
    origin: str | None = None


class _ToolResult(_PartRecord, tag="tool_result"):
    id: str
    content: str
    error: bool = False


class _MessageRecord(msgspec.Struct, forbid_unknown_fields=True):
    role: Role
    parts: list[_TextRecord | _ImageRecord | _Thought | _ToolCall | _ToolResult]


class _ChatFile(msgspec.Struct, forbid_unknown_fields=True):
    overt_chat: Literal[1]
    model: str
    digest: str
    saved: str
    system: str | None
    sampling: dict[str, float | int | None]
    max_tokens: int | None
    stop: list[str]
    thinking: bool | None
    messages: list[_MessageRecord]


_WIRE: dict[type[Part], type[_PartRecord]] = {
    TextPart: _TextRecord,
    ImagePart: _ImageRecord,
    ThoughtPart: _Thought,
    ToolCallPart: _ToolCall,
    ToolResultPart: _ToolResult,
}
_PLAIN = {wire: plain for plain, wire in _WIRE.items()}


@dataclass(frozen=True, slots=True)
class SavedChat:
    """What is saved of a conversation."""

    model: str
    digest: str
    messages: tuple[Message, ...]
    system: str | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool | None = None


def save(home: Path, name: str, chat: SavedChat, *, lasting: bool = True) -> Path:
    """Write `chat` as `name`; an older one of that name is replaced at once or not at all.

    Without `lasting` it may be lost in a power cut until `settle` has been called.

    Raises:
        BadRequest: not a name. OutOfDisk, Failure: the file could not be written.
    """
    path = _path(home, name)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write(path, encode(chat), lasting=lasting or not _SYNCS)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise OutOfDisk(
                f"the disk of {path.parent} is full", "free some, then /save again"
            ) from None
        raise Failure(f"{path} cannot be written: {error.strerror}", "check OVERT_HOME") from None
    return path


def settle(home: Path) -> None:
    """Make what was saved last through a power cut: once for all is far faster than each."""
    if _SYNCS:
        os.sync()
    atomic.sync_folder(home / "chats")


def load(home: Path, name: str) -> SavedChat:
    """Read the chat saved as `name`.

    Raises:
        BadRequest: not a name. NotFound: no such chat. FormatError: not a saved chat.
    """
    path = _path(home, name)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        there = names(home)
        hint = f"saved: {', '.join(there[:20])}" if there else "nothing is saved yet: /save NAME"
        raise NotFound(f"there is no saved chat {name!r}", hint) from None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", "check who owns it") from None
    if len(data) > _MAX_BYTES:
        raise FormatError(f"{path} is larger than {_MAX_BYTES} bytes", "delete it")
    return decode(data, str(path))


def names(home: Path) -> list[str]:
    """The names of all saved chats."""
    return sorted(
        path.stem for path in (home / "chats").glob("*.json") if _NAME.fullmatch(path.stem)
    )


def encode(chat: SavedChat) -> bytes:
    """A chat as JSON."""
    file = _ChatFile(
        overt_chat=VERSION,
        model=chat.model,
        digest=chat.digest,
        saved=datetime.now(UTC).isoformat(timespec="seconds"),
        system=chat.system,
        sampling={
            name: value for name, value in asdict(chat.sampling).items() if value is not None
        },
        max_tokens=chat.max_tokens,
        stop=list(chat.stop),
        thinking=chat.thinking,
        messages=[
            _MessageRecord(message.role, [_to_wire(part) for part in message.parts])  # type: ignore[misc]
            for message in chat.messages
        ],
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def decode(data: bytes, what: str = "the chat") -> SavedChat:
    """Read what `encode` wrote.

    Raises:
        FormatError: it is not a saved chat, or a number in it is out of range.
    """
    try:
        file = msgspec.json.decode(data, type=_ChatFile)
        sampling = Sampling(**file.sampling)  # type: ignore[arg-type]
    except (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{what} is not a saved chat: {str(error)[:150]}", "delete it") from None
    for name, value in (*file.sampling.items(), ("max_tokens", file.max_tokens)):
        if value is None:
            continue
        kind, low, high, _ = RANGES[name]
        if not low <= value <= high or (kind is int and not isinstance(value, int)):
            raise FormatError(
                f"{what} sets {name} to {value}", f"it goes from {low:.10g} to {high:.10g}"
            )
    return SavedChat(
        model=file.model,
        digest=file.digest,
        messages=tuple(
            Message(message.role, tuple(map(_from_wire, message.parts)))
            for message in file.messages
        ),
        system=file.system,
        sampling=sampling,
        max_tokens=file.max_tokens,
        stop=tuple(file.stop),
        thinking=file.thinking,
    )


def _path(home: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name[:80]!r} is not a name for a chat", "use letters, digits, '.', '_' and '-'"
        )
    return home / "chats" / f"{name}.json"


def _to_wire(part: Part) -> _PartRecord:
    return _WIRE[type(part)](*(getattr(part, field.name) for field in fields(part)))


def _from_wire(part: _PartRecord) -> Part:
    plain: type[Part] = _PLAIN[type(part)]
    return plain(*msgspec.structs.astuple(part))
