"""Telling a pickle from data, by content, so that it can be refused.

Loading a pickle runs whatever program it holds. PyTorch checkpoints (zip, tar and the older bare
stream), joblib files and numpy arrays of objects are all pickles inside. Nothing here unpickles
anything: opcodes are only named, as `pickletools.genops` does, within the first 64 KiB.

Sources: PEP 3154 and `pickletools` (opcodes), torch/serialization.py (zip with ``data.pkl``, tar
with a member ``pickle``), numpy/lib/format.py (``descr`` of object arrays), APPNOTE.TXT 4.3 (the
directory of a zip).
"""

import bz2
import io
import lzma
import pickletools
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

PICKLED_SUFFIXES = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".dill",
    ".th",
    ".pt2",
)
"""Names by which pickled checkpoints go. A name alone proves nothing: see `looks_pickled`."""

_PICKLED_MEMBERS = (".pkl", ".pickle", ".joblib", ".ckpt", ".pt", ".pth")
_PREFIX = 64 << 10
_MAX_DIRECTORY = 16 << 20
_MAX_TAR_MEMBERS = 4096
_PROTOCOLS = b"\x02\x03\x04\x05"
_IMPORT = re.compile(r"[\w.]+ [\w.<>]+")
# Opcodes that build or call an object; without one, an unheaded stream is taken for plain text.
_BUILDERS = {
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "PERSID",
    "BINPERSID", "EXT1", "EXT2", "EXT4", "SETITEM", "SETITEMS", "APPEND", "APPENDS",
}  # fmt: skip


def looks_pickled(path: Path) -> bool:
    """True where the content of `path` is a pickle, or an archive that `torch.load` would unpickle.

    At most 16 MiB are read (the directory of a zip), usually 64 KiB. A zip or tar whose member
    list cannot be read counts as pickled: weights in an archive are nothing else.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_PREFIX)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _zip_holds_pickle(file)
        if _is_tar_header(head[:512]):
            return _tar_holds_pickle(file)
        whole = not file.read(1)
    return _is_pickled(head, whole) or _is_pickled(_inflated(head), False)


def _is_pickled(head: bytes, whole: bool) -> bool:
    """`whole` says that `head` is all there is, so that a stream must also come to its end."""
    if head.startswith(b"\x93NUMPY"):
        return _is_object_array(head)
    headed = len(head) > 2 and head[0] == 0x80 and head[1] in _PROTOCOLS
    names: list[str] = []
    stopped = False
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(head)):
            if opcode.name in ("GLOBAL", "INST") and not _IMPORT.fullmatch(str(argument)):
                break  # prose that begins with c or i: no module has such a name
            names.append(opcode.name)
            stopped = opcode.name == "STOP"
    except Exception:  # noqa: BLE001 - genops raises whatever an argument decoder raises
        stopped = False
    if headed:
        return stopped or len(names) > 3 or (len(names) > 1 and not whole)
    return bool(_BUILDERS & set(names)) and (stopped or (not whole and len(names) >= 64))


def _is_object_array(head: bytes) -> bool:
    start = 12 if head[6:7] > b"\x01" else 10
    described = head[start : start + 4096].split(b"\n", 1)[0]
    return b"O'" in described or b'O"' in described


def _inflated(head: bytes) -> bytes:
    """The first 64 KiB behind gzip, zlib, bzip2 or xz, as joblib writes them; else empty."""
    try:
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(head, _PREFIX)
        if head[:1] == b"\x78" and head[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
            return zlib.decompressobj().decompress(head, _PREFIX)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, _PREFIX)
        if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor(memlimit=128 << 20).decompress(head, _PREFIX)
    except (zlib.error, OSError, ValueError, EOFError, lzma.LZMAError):
        pass
    return b""


def unpacked(head: bytes) -> bytes:
    """The beginning of what is compressed, as joblib compresses; else `head` as it is."""
    return _inflated(head) or head


def _is_pickled_name(name: str) -> bool:
    lower = name.lower()
    return lower == "pickle" or lower.endswith(_PICKLED_MEMBERS)


# ---- archives ------------------------------------------------------------------------------


def _zip_holds_pickle(file: BinaryIO) -> bool:
    directory = _zip_directory(file)
    if directory is None:
        return True
    position = 0
    while position + 46 <= len(directory):
        if directory[position : position + 4] != b"PK\x01\x02":
            return True
        name, extra, comment = struct.unpack_from("<HHH", directory, position + 28)
        text = directory[position + 46 : position + 46 + name].decode("utf-8", "replace")
        if _is_pickled_name(text):
            return True
        position += 46 + name + extra + comment
    return position != len(directory)


def _zip_directory(file: BinaryIO) -> bytes | None:
    """The central directory, or None where it is missing, out of bounds or above 16 MiB."""
    size = file.seek(0, io.SEEK_END)
    tail_start = max(0, size - (1 << 16) - 22)
    file.seek(tail_start)
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(tail):
        return None
    length, offset = struct.unpack_from("<II", tail, end + 12)
    if 0xFFFFFFFF in (length, offset):
        wide = _zip64_end(file, tail, end)
        if wide is None:
            return None
        length, offset = wide
    if length > _MAX_DIRECTORY or offset + length > size:
        return None
    file.seek(offset)
    return file.read(length)


def _zip64_end(file: BinaryIO, tail: bytes, end: int) -> tuple[int, int] | None:
    if end < 20 or tail[end - 20 : end - 16] != b"PK\x06\x07":
        return None
    (position,) = struct.unpack_from("<Q", tail, end - 12)
    if position >= 1 << 62:
        return None
    file.seek(position)
    record = file.read(56)
    if len(record) < 56 or not record.startswith(b"PK\x06\x06"):
        return None
    length, offset = struct.unpack_from("<QQ", record, 40)
    return length, offset


def _is_tar_header(block: bytes) -> bool:
    """The checksum decides: the tars `torch.save` once wrote need not carry the ustar mark."""
    if len(block) < 512 or not block[0]:
        return False
    stated = _octal(block[148:156])
    return stated is not None and stated == sum(block[:148]) + 256 + sum(block[156:])


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \x00")
    if not digits or digits.strip(b"01234567"):
        return None
    return int(digits, 8)


def _tar_holds_pickle(file: BinaryIO) -> bool:
    position = 0
    for _ in range(_MAX_TAR_MEMBERS):
        file.seek(position)
        block = file.read(512)
        if not block.strip(b"\x00"):
            return False
        size = _octal(block[124:136]) if _is_tar_header(block) else None
        if size is None:
            return True
        name = block[:100].split(b"\x00", 1)[0].decode("utf-8", "replace")
        if _is_pickled_name(name.rsplit("/", 1)[-1]):
            return True
        position += 512 + -(-size // 512) * 512
    return True
