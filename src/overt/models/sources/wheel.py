"""Files out of a wheel, which is a zip archive nobody vouches for but its digest.

Nothing is unpacked by name: a member's bytes go where the caller says, at most as many as the
archive declares, and an archive whose numbers do not make sense is refused before memory is spent
on it (zip bombs, directories of millions of entries, encrypted or oddly packed members).
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesHeaderParser
from errno import EINVAL
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from overt.errors import BadRef, FormatError, UnsafeFile
from overt.models.sources.base import CHUNK
from overt.ref import safe_member

_DIRECTORY_BYTES = 16 << 20
_MEMBERS = 20_000
_RATIO = 100  # a member that unpacks to more than this times its packed size is a bomb …
_SMALL = 16 << 20  # … unless it is small
_TEXT = 1 << 20


class WheelArchive:
    """An open wheel. Use as a context manager.

    Raises:
        FormatError: no proper zip archive.
        UnsafeFile: a member's path leaves the archive, or it unpacks to absurdly many bytes.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self.members: dict[str, zipfile.ZipInfo] = {}
        with self._mapped():
            if _directory_size(path) > _DIRECTORY_BYTES:
                raise FormatError(f"the directory of {name} is larger than 16 MiB")
            self._zip = zipfile.ZipFile(path)
        try:
            self._list()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "WheelArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def text(self, member: str) -> str:
        """A small member as text. Raises FormatError past 1 MiB."""
        if self.members[member].file_size > _TEXT:
            raise FormatError(f"{member} in {self.name} is larger than 1 MiB")
        blocks: list[bytes] = []
        self.copy(member, blocks.append)
        return b"".join(blocks).decode("utf-8", "replace")

    def copy(self, member: str, write: Callable[[bytes], object]) -> int:
        """Hand a member's bytes to `write`, block by block; returns how many.

        Raises:
            FormatError: the bytes do not unpack, or are not those the directory declares.
        """
        info = self.members[member]
        done = 0
        with self._mapped(), self._zip.open(info) as file:
            while block := file.read(CHUNK):
                done += len(block)
                if done > info.file_size:
                    raise FormatError(f"{member} in {self.name} unpacks to more than it declares")
                write(block)
        if done != info.file_size:
            raise FormatError(
                f"{member} in {self.name} is {done} bytes where {info.file_size} are declared"
            )
        return done

    def metadata(self) -> "WheelMetadata":
        """The headers of ``*.dist-info/METADATA``."""
        paths = [m for m in self.members if re.fullmatch(r"[^/]+\.dist-info/METADATA", m)]
        if len(paths) != 1:
            raise FormatError(f"{self.name} has {len(paths)} METADATA files where a wheel has one")
        return WheelMetadata(paths[0], self.text(paths[0]), self.members[paths[0]].date_time)

    def _list(self) -> None:
        infos = self._zip.infolist()
        if len(infos) > _MEMBERS:
            raise FormatError(f"{self.name} has {len(infos)} members, more than {_MEMBERS}")
        for info in infos:
            if info.is_dir():
                continue
            try:
                path = safe_member(info.filename)
            except BadRef as error:
                raise UnsafeFile(
                    f"{self.name} is refused: {error.message}", "do not use this package"
                ) from None
            if path in self.members:
                raise FormatError(f"{self.name} has {path} twice")
            if info.flag_bits & 0x1 or info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise FormatError(f"{path} in {self.name} is encrypted or packed in an unusual way")
            if info.file_size > max(_SMALL, _RATIO * info.compress_size):
                raise UnsafeFile(
                    f"{path} in {self.name} unpacks from {info.compress_size} to "
                    f"{info.file_size} bytes",
                    "do not use this package",
                )
            self.members[path] = info

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """What `zipfile` raises for bad archives, as one of ours."""
        try:
            yield
        except OSError as error:
            if error.errno != EINVAL:  # a seek to where no file goes
                raise
            raise FormatError(f"{self.name} is no proper wheel: {error}") from None
        except (
            zipfile.BadZipFile,
            zlib.error,
            struct.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            OverflowError,
            KeyError,
        ) as error:
            raise FormatError(
                f"{self.name} is no proper wheel: {error}", "try again, or choose another package"
            ) from None


class WheelMetadata:
    """What a wheel says about itself, as text; never trusted.

    Attributes:
        path: of the METADATA member.
        licence: License-Expression or a short License, else None.
        date: of the METADATA member (``YYYY-MM-DD``), "" where the archive carries none.
    """

    def __init__(self, path: str, text: str, date: tuple[int, ...]) -> None:
        headers = BytesHeaderParser().parsebytes(text.encode("utf-8", "replace"))
        licence = str(headers.get("License-Expression") or headers.get("License") or "").strip()
        self.path = path
        self.licence = licence if licence and len(licence) <= 64 and "\n" not in licence else None
        self.date = "" if date[0] <= 1980 else "{:04}-{:02}-{:02}".format(*date[:3])
        self._requires = [str(line) for line in headers.get_all("Requires-Dist") or []]

    def pinned(self, prefix: str) -> list[tuple[str, str]]:
        """Requirements ``name==version`` (exact, no marker) whose name begins with `prefix`."""
        pins: list[tuple[str, str]] = []
        for line in self._requires:
            try:
                wanted = Requirement(line)
            except InvalidRequirement:
                continue
            name = canonicalize_name(wanted.name)
            clauses = list(wanted.specifier)
            exact = len(clauses) == 1 and clauses[0].operator == "=="
            if exact and not wanted.marker and not wanted.extras and name.startswith(prefix):
                version = clauses[0].version
                if "*" not in version:
                    pins.append((name, version))
        return pins


def _directory_size(path: Path) -> int:
    """Bytes of the archive's central directory by its end record (APPNOTE.TXT, 4.3.14 to 4.3.16).

    `zipfile` reads that many into memory at once, so they are bounded here first.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 22 - 20))
        tail = file.read()
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or len(tail) < place + 22:
            raise zipfile.BadZipFile("it has no end record")
        directory = int(struct.unpack_from("<L", tail, place + 12)[0])
        if directory == 0xFFFFFFFF:
            if place < 20 or tail[place - 20 : place - 16] != b"PK\x06\x07":
                raise zipfile.BadZipFile("its zip64 locator is missing")
            file.seek(struct.unpack_from("<Q", tail, place - 12)[0])
            record = file.read(56)
            if len(record) < 56 or record[:4] != b"PK\x06\x06":
                raise zipfile.BadZipFile("its zip64 end record is missing")
            directory = int(struct.unpack_from("<Q", record, 40)[0])
    return directory
