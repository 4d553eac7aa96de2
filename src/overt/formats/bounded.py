"""Stepping through a file that nobody vouches for.

Each length is checked against what is left of the file, and against a fixed limit, before it is
acted on; each refusal is one sentence that names the file.
"""

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Final

from overt.errors import FormatError, ModelNotFound

DAMAGED: Final = "the file is damaged or not what its name says: get it again"
_STEP = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def open_file(path: Path) -> BinaryIO:
    """Open a plain file for reading; a pipe or device, which could block for ever, is refused.

    Raises:
        FormatError: not a plain file, or not readable.
        ModelNotFound: there is no such file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"{shown(str(path))} is not a plain file", "name the file itself")
        return path.open("rb")
    except FileNotFoundError:
        raise ModelNotFound(f"there is no file {shown(str(path))}", "check the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FormatError(f"{shown(str(path))} cannot be read: {reason}") from None


def shown(value: object) -> str:
    """Quoted and clipped, so that a hostile name can neither break the line nor fill the screen."""
    text = repr(value)
    return text if len(text) <= 80 else text[:76] + "..." + text[0]


class Cursor:
    """A position in a file. `data` is what has been read, at most `most` bytes; `size` is all."""

    def __init__(self, path: Path, file: BinaryIO, most: int) -> None:
        self.path = path
        self.most = most
        self.size = os.fstat(file.fileno()).st_size
        self.data = bytearray()
        self.position = 0
        self._file = file

    def skip(self, count: int) -> int:
        """Step over `count` bytes, which are then in `data`; where they begin."""
        start = self.position
        if start + count > len(self.data):
            self._fill(start + count)
        self.position = start + count
        return start

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return bytes(memoryview(self.data)[start : start + count])

    def u32(self) -> int:
        return int(_U32.unpack_from(self.data, self.skip(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.data, self.skip(8))[0])

    def string(self, limit: int, what: str) -> bytes:
        """Bytes behind a 64-bit length."""
        length = self.u64()
        self.limit(f"bytes in {what}", length, min(limit, self.size))
        return self.take(length)

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings: the one hot loop, 262 144 tokens in about 30 ms.

        `unpack_from` itself notices the end of `data`, so that a step costs no other check.
        """
        position, length_at, data = self.position, _U64.unpack_from, self.data
        steps = iter(range(count))
        while True:
            try:
                for _ in steps:
                    position += 8 + length_at(data, position)[0]
                break
            except (struct.error, OverflowError):
                pass
            self._fill(position + 8)
            position += 8 + length_at(data, position)[0]
        self.skip(position - self.position)

    def limit(self, what: str, count: int, most: int) -> None:
        """Raise FormatError where `count` is above `most`."""
        if count > most:
            raise self.bad(f"claims {count} {what}, where at most {most} are possible")

    def bad(self, what: str, hint: str = DAMAGED) -> FormatError:
        return FormatError(f"{shown(self.path.name)} {what}", hint)

    def _fill(self, end: int) -> None:
        """Read on until `data` reaches `end`."""
        if end > self.size:
            raise self.bad(f"is {self.size} bytes long and ends inside its header")
        if end > self.most:
            raise self.bad(f"has a header of more than {self.most} bytes")
        wanted = min(max(end, len(self.data) + max(_STEP, len(self.data))), self.size, self.most)
        self._file.seek(len(self.data))
        self.data += self._file.read(wanted - len(self.data))
        if end > len(self.data):
            raise self.bad("became shorter while it was read")
