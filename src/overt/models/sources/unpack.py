"""The one file inside a layer that is an archive: tar (POSIX ustar, pax and GNU), gzip or not.

The archive comes from a registry, so nothing in it is believed: no name in it becomes a path, only
plain files and folders may be there, it holds exactly one file, and what unpacks to far more than
came (a gzip bomb) is refused before it is written.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from overt.errors import FormatError
from overt.models.sources.base import CHUNK

_BLOCK = 512
_HEADERS = 1000  # folders and extended headers before the file
_EXTENDED = 64 << 10  # bytes of one extended header
_GROWS = 20  # gzip makes weights hardly smaller, and texts by this at most


class _ByteStream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def unpack(
    archive: Path, target: Path, packed: bool, most: int, room: Callable[[int], None]
) -> tuple[str, int]:
    """Write the file inside `archive` to `target`; returns its SHA-256 (64 hex) and its size.

    Args:
        packed: whether the tar is compressed with gzip.
        most: bytes the file may have.
        room: asked with the file's size before it is written; raises where it does not fit.

    Raises:
        FormatError: no such archive, or one with anything but folders and one file.
        OutOfDisk: from `room`.
    """
    length = archive.stat().st_size
    most = min(most, _GROWS * length + (1 << 20)) if packed else min(most, length)
    try:
        with archive.open("rb") as raw:
            if not packed:
                return _only(raw, target, most, room)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _only(unpacked, target, most, room)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _bad("it is damaged") from None


def _only(
    stream: _ByteStream, target: Path, most: int, room: Callable[[int], None]
) -> tuple[str, int]:
    only: tuple[str, int] | None = None
    size: int | None = None  # of the next file, by an extended header
    for _ in range(_HEADERS):
        header = stream.read(_BLOCK)
        if header in (b"", b"\0" * _BLOCK):
            if only is None:
                raise _bad("it holds no file")
            return only
        kind, length = _read_header(header)
        if kind in (b"x", b"g", b"L", b"K"):  # names, which nobody needs, and perhaps a size
            header_data = _take(stream, length)
            size = _size_of(header_data) if kind == b"x" else size
        elif kind == b"5":
            _take(stream, length)
        elif kind in (b"0", b"\0"):
            if only:
                raise _bad("it holds more than one file")
            length = length if size is None else size
            if length > most:
                raise _bad(f"it unpacks to {length} bytes, where {most} are allowed")
            room(length)
            only, size = (_write(stream, target, length), length), None
        else:
            raise _bad(f"it holds an entry of type {kind!r}")
    raise _bad(f"it holds more than {_HEADERS} entries")


def _read_header(header: bytes) -> tuple[bytes, int]:
    """Type and size of an entry, from a header whose checksum is right."""
    if len(header) < _BLOCK or header[257:262] != b"ustar":
        raise _bad("it is no tar file")
    checksum = _number(header[148:156])
    if checksum != sum(header) - sum(header[148:156]) + 8 * 32:
        raise _bad("it is damaged")
    return header[156:157], _number(header[124:136])


def _number(text: bytes) -> int:
    """An octal number, or the binary one GNU writes where that is too short."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    if digits.strip(b"01234567") or len(digits) > 11:
        raise _bad("it is damaged")
    return int(digits or b"0", 8)


def _take(stream: _ByteStream, length: int) -> bytes:
    if length > _EXTENDED:
        raise _bad(f"one of its headers has {length} bytes")
    padded = -(-length // _BLOCK) * _BLOCK
    data = stream.read(padded)
    if len(data) < padded:
        raise _bad("it is cut off")
    return data[:length]


def _size_of(record: bytes) -> int | None:
    """The size in a pax extended header: ``<length> size=<bytes>\\n``."""
    for line in record.split(b"\n"):
        _, _, pair = line.partition(b" ")
        key, _, value = pair.partition(b"=")
        if key == b"size" and value.isdigit() and len(value) < 20:
            return int(value)
    return None


def _write(stream: _ByteStream, target: Path, length: int) -> str:
    digest = hashlib.sha256()
    left = length
    with target.open("wb") as file:
        while left:
            block = stream.read(min(CHUNK, left))
            if not block:
                raise _bad("it is cut off")
            digest.update(block)
            file.write(block)
            left -= len(block)
    stream.read(-length % _BLOCK)
    return digest.hexdigest()


def _bad(what: str) -> FormatError:
    return FormatError(f"an archive of the model is refused: {what}", "do not use this model")
