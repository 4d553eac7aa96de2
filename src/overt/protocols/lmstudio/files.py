"""Files that clients upload for a conversation: kept in memory, for an hour, within a bound.

LM Studio keeps them for as long as a client is connected. Here they are forgotten an hour after
they came, or when newer ones need the room.
"""

import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass

from overt.chat import ImagePart
from overt.errors import BadRequest, NotFound
from overt.protocols.base import BadBody, Caller, ServicesInterface, new_id
from overt.protocols.media import from_base64, from_bytes

ROOM = 256 << 20  # bytes of all files
_SECONDS = 3600.0
_TEXT_KINDS = {
    "txt": "text/plain",
    "md": "text/plain",
    "csv": "text/other",
    "json": "text/other",
    "pdf": "application/pdf",
    "docx": "application/word",
    "doc": "application/word",
}


@dataclass(frozen=True, slots=True)
class UploadedFile:
    owner: str
    data: bytes
    kind: str
    came: float


class Files:
    """Those of one server."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._files: OrderedDict[str, UploadedFile] = OrderedDict()
        self._size = 0

    def add(self, caller: Caller, name: str, data: bytes) -> tuple[str, str]:
        """Keep a file; returns its identifier and LM Studio's word for its kind.

        Raises:
            BadRequest: larger than all room there is.
        """
        if len(data) > self._room:
            raise BadRequest(
                f"the file has {len(data)} bytes, and {self._room >> 20} MiB is the most"
            )
        now = time.monotonic()
        self._forget(now, len(data))
        kind = _kind(name, data)
        identifier = new_id("file-")
        self._files[identifier] = UploadedFile(caller.key, data, kind, now)
        self._size += len(data)
        return identifier, kind

    def image(self, caller: Caller, identifier: str) -> ImagePart:
        """A file as an image.

        Raises:
            NotFound: no such file of this caller.
            BadBody: it is no image.
        """
        if identifier.startswith("base64:"):  # an image inside its own name, as SDKs may send it
            return from_base64(identifier.partition(":")[2])
        file = self._files.get(identifier)
        if file is None or file.owner != caller.key or file.came < time.monotonic() - _SECONDS:
            raise NotFound(f"there is no file {identifier[:80]!r}", "upload it again")
        return from_bytes(file.data)

    def _forget(self, now: float, needed: int) -> None:
        """Drop what is old, then the oldest until `needed` bytes have room."""
        while self._files:
            oldest = next(iter(self._files.values()))
            if oldest.came >= now - _SECONDS and self._size + needed <= self._room:
                return
            self._files.popitem(last=False)
            self._size -= len(oldest.data)


def _kind(name: str, data: bytes) -> str:
    try:
        from_bytes(data)
    except BadBody:
        pass
    else:
        return "image"
    known = _TEXT_KINDS.get(name.rpartition(".")[2].lower())
    if known:
        return known
    try:
        data[:4096].decode("utf-8")
    except UnicodeDecodeError:
        return "unknown"
    return "text/other"


_all: "weakref.WeakKeyDictionary[object, Files]" = weakref.WeakKeyDictionary()


def of(services: ServicesInterface) -> Files:
    """The files of a server."""
    return _all.setdefault(services.records, Files())
