"""What all formats of conversations share: the value, the reader of a file, and the count of loss.

Files come from other companies' exports and from strangers: sizes are bounded, nothing in an
archive becomes a path, and a value of the wrong kind is counted or refused, never believed.
"""

import base64
import binascii
import json
import lzma
import re
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from overt.chat import ImagePart, Message, Part, TextPart
from overt.conversations.calls import repair_tool_calls
from overt.errors import BadRequest, FormatError, NotFound

Lost = Counter[str]
"""How often something had no place, by what it was: ``image that is not in the archive``."""

FORMATS = ("chatgpt", "claude", "openai", "sharegpt", "markdown")
"""Modules of this package, in the order in which a file is tried."""

EMPTY = "empty conversation"
"""What is lost of a conversation without messages."""

_MAX_BYTES = 1 << 30  # of JSON; the export of a heavy user has some 200 MB
_MAX_IMAGE = 64 << 20
_MAX_TOTAL_BYTES = 4 << 30  # of an archive, all that is read of it
_MAX_MEMBERS = 200_000
_GROWS = 200  # JSON shrinks 20-fold at most; an archive that claims more is a bomb
_MAX_MESSAGES = 1_000_000
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)
"""What `zipfile` raises for a member that is none, or packed in a way it does not know."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation; a system prompt is its first message.

    `model` is what the other program called the model, `created` is ISO 8601 in UTC; both may be
    empty.
    """

    title: str
    messages: tuple[Message, ...]
    id: str = ""
    model: str = ""
    created: str = ""


class ChatExport:
    """The files of an export: a zip, or one JSON file that stands for a zip of itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._names: list[str] = []
        self._ends: list[tuple[str, str]] = []  # the last parts of names, sorted, and the names
        self._images: dict[str, ImagePart | None] = {}
        self._left = _MAX_TOTAL_BYTES
        try:
            with path.open("rb") as file:
                packed = file.read(4) == b"PK\x03\x04"
            if packed:
                self._zip = zipfile.ZipFile(path)
                if len(self._zip.infolist()) > _MAX_MEMBERS:
                    raise FormatError(
                        f"{path.name} has more than {_MAX_MEMBERS} files",
                        "give what was sent to you",
                    )
                self._names = sorted({info.filename for info in self._zip.infolist()})
                self._ends = sorted((name.rpartition("/")[2], name) for name in self._names)
                self._left = min(_MAX_TOTAL_BYTES, _GROWS * path.stat().st_size + (1 << 20))
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}", "give the export you were sent") from None
        except OSError as error:
            raise BadRequest(f"{path} cannot be read: {error.strerror}", "check the file") from None
        except (zipfile.BadZipFile, ValueError) as error:
            raise FormatError(
                f"{path.name} is a damaged zip: {str(error)[:100]}", "get the export again"
            ) from None

    def __enter__(self) -> "ChatExport":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """The JSON and JSON-lines files by name.

        Raises:
            FormatError: larger than 1 GiB, or damaged.
        """
        if self._zip is None:
            if self.path.stat().st_size > _MAX_BYTES:
                raise FormatError(
                    f"{self.path.name} is larger than {_MAX_BYTES >> 20} MiB", "split it"
                )
            yield self.path.name, self.path.read_bytes()
            return
        for name in self._names:
            if name.endswith((".json", ".jsonl")):
                yield name, self._read(name, _MAX_BYTES)

    def image(self, mark: str) -> ImagePart | None:
        """The first file whose name begins with `mark`, where it is an image; else None.

        The same value however often it is asked for.
        """
        if self._zip is None or not re.fullmatch(r"[A-Za-z0-9_.-]{6,200}", mark):
            return None
        at = bisect_left(self._ends, (mark, ""))
        if at == len(self._ends) or not self._ends[at][0].startswith(mark):
            return None
        name = self._ends[at][1]
        if name not in self._images:
            self._images[name] = ImagePart.of(self._read(name, _MAX_IMAGE))
        return self._images[name]

    def _read(self, name: str, most: int) -> bytes:
        """One member. All of them together may not grow beyond what exports grow by."""
        assert self._zip is not None
        limit = min(most, self._left)
        try:
            with self._zip.open(name) as file:
                data = file.read(limit + 1)
        except _DAMAGED:
            raise FormatError(
                f"{name[:80]} in {self.path.name} is damaged", "get the export again"
            ) from None
        if len(data) > limit:
            raise FormatError(
                f"{name[:80]} in {self.path.name} unpacks to more than {limit} bytes",
                "that is more than a whole export grows to" if limit < most else None,
            )
        self._left -= len(data)
        return data


def image_at(url: str) -> ImagePart | None:
    """The image inside a ``data:`` URL; nothing is fetched."""
    head, comma, packed = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        return None
    try:
        return ImagePart.of(base64.b64decode(packed, validate=True))
    except (binascii.Error, ValueError):
        return None


# ---- reading and writing -------------------------------------------------------------------


def read(path: Path, lost: Lost, format: str = "") -> tuple[str, list[Conversation]]:
    """Every conversation of a file, and the name of its format.

    Calls of tools and their results are paired up (`calls.sound`).

    Args:
        lost: counts what could not be brought along.
        format: one of `FORMATS`, where it is known.

    Raises:
        NotFound, BadRequest: no such file. FormatError: none of the formats, or a damaged one.
    """
    conversations: list[Conversation] = []
    known, messages = "", 0
    with ChatExport(path) as archive:
        for name, data in archive.texts():
            value = _decoded(name, data)
            module = _module(name, value, format)
            if module is None:
                continue
            known = str(module.NAME)
            for conversation in module.read(value, archive, lost):
                messages += len(conversation.messages)
                if messages > _MAX_MESSAGES:
                    raise FormatError(
                        f"{path.name} has more than {_MAX_MESSAGES} messages", "split it"
                    )
                if conversation.messages:
                    conversations.append(
                        replace(conversation, messages=repair_tool_calls(conversation.messages))
                    )
                else:
                    lost[EMPTY] += 1
    if not known:
        raise FormatError(
            f"{path.name} holds no conversations in a format that is known here",
            f"known: {', '.join(FORMATS[:-1])}; give --from FORMAT where you know better",
        )
    return known, conversations


def write(conversations: Iterable[Conversation], format: str, lost: Lost) -> bytes:
    """Conversations as a file of `format`.

    Raises:
        BadRequest: no such format.
    """
    cleaned = tuple(
        replace(conversation, messages=repair_tool_calls(conversation.messages))
        for conversation in conversations
    )
    data: bytes = _format_module(format).write(cleaned, lost)
    return data


def _format_module(format: str) -> ModuleType:
    if format not in FORMATS:
        raise BadRequest(f"there is no format {format[:40]!r}", f"known: {', '.join(FORMATS)}")
    return import_module(f"overt.conversations.{format}")


def _module(name: str, value: Any, format: str) -> ModuleType | None:
    modules = [_format_module(format)] if format else [_format_module(name) for name in FORMATS]
    return next((module for module in modules if module.looks(name, value)), None)


def _decoded(name: str, data: bytes) -> Any:
    """A JSON value, or the list of a JSON-lines file's values.

    Raises:
        FormatError: neither, with the line.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        whole = str(error)
    values = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values.append(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if number == 1:
                raise FormatError(
                    f"{name[:80]} is not JSON: {whole[:150]}", "get the export again"
                ) from None
            raise FormatError(
                f"line {number} of {name[:80]} is not JSON: {error}", "correct the line"
            ) from None
    return values


# ---- small things all formats need ---------------------------------------------------------


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def several(value: Any) -> list[Any]:
    """`value` where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """`value` where it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def when(value: Any) -> str:
    """Unix seconds or an ISO time as ISO 8601 in UTC; "" for neither."""
    try:
        if isinstance(value, str):
            return _utc(datetime.fromisoformat(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _utc(datetime.fromtimestamp(value, UTC))
    except (ValueError, OverflowError, OSError):
        pass
    return ""


def seconds(created: str) -> float | None:
    """The Unix seconds of what `when` gave."""
    return datetime.fromisoformat(created).timestamp() if created else None


def title_of(title: Any, messages: Iterable[Message]) -> str:
    """A title: the one that was given, else the beginning of what the person said first."""
    words = " ".join(text(title).split())
    if not words:
        first = (message.text for message in messages if message.role == "user")
        words = " ".join(next(first, "").split()) or "conversation"
    return words[:80]


def parts_of(content: Any, lost: Lost) -> tuple[Part, ...]:
    """OpenAI's content: a text, or parts of text and images."""
    if isinstance(content, str):
        return (TextPart(content),) if content else ()
    parts: list[Part] = []
    for part in several(content):
        kind = text(mapping(part).get("type"))
        if kind in ("text", "input_text", "output_text"):
            parts.append(TextPart(text(part.get("text"))))
        elif kind in ("image_url", "input_image"):
            url = part.get("image_url")
            image = image_at(text(mapping(url).get("url") if isinstance(url, dict) else url))
            lost["image that is not in the file"] += image is None
            parts += [image] if image else []
        else:
            lost[f"part of the kind {kind or type(part).__name__}"[:60]] += 1
    return tuple(parts)


def arguments_of(value: Any) -> str:
    """A tool call's arguments as JSON text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def object_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object; what is none is kept as text under ``text``."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"text": arguments}


def _utc(time: datetime) -> str:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
