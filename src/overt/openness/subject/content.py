"""What a file is by its bytes, and what of it would run if somebody loaded it.

Reads beginnings and directories, at most a few MiB a file; nothing is loaded, unpacked or run.

Sources: the documentation of the ELF, PE and Mach-O formats and of zip and tar (magic numbers),
onnx.proto (`external_data`), Keras' `Lambda` layer (marshalled code in the model's configuration),
TensorFlow's op list (operations on files), `overt.formats.pickle` and `scan`.
"""

import io
import os
import pickletools
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overt.formats import pickle, scan, subprocess_reader

_HEAD: Final = 64 << 10
MAX_BYTES_SEARCHED: Final = 64 << 20
"""Bytes of a large file that are searched."""
_SECONDS: Final = 2
_USUAL: Final = 0.8
"""Seconds of no usual scan; processor time, so that a busy machine does not change an answer."""
_COST_OF_LONG: Final = 12
_PROGRAMS: Final = (
    (b"\x7fELF", "program or library for Linux"),
    (b"MZ", "program for Windows"),
    (b"\xcf\xfa\xed\xfe", "program for macOS"),
    (b"\xce\xfa\xed\xfe", "program for macOS"),
    (b"\xca\xfe\xba\xbe\x00\x00\x00", "program for macOS or Java"),
    (b"\0asm", "WebAssembly program"),
)
_ARCHIVES: Final = (
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh91AY&SY", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_PACKED: Final = (".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar", ".zip", ".tar", ".lzma")
_ONE_FILE: Final = (".gz", ".xz", ".bz2", ".zst")
_DATA: Final = (
    ".safetensors", ".gguf", ".json", ".jsonl", ".txt", ".md", ".model", ".yaml", ".yml", ".csv",
    ".tsv", ".jinja", ".msgpack", ".parquet", ".arrow", ".npy", ".npz", ".png", ".jpg", ".svg",
    ".pdf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".toml", ".cff", ".ini", ".cfg", ".pb",
)  # fmt: skip
_SCRIPTS: Final = (".sh", ".bash", ".bat", ".cmd", ".ps1", ".command", ".desktop")
_CODE: Final = (".py", ".sh", ".bash", ".pl", ".rb", ".js", ".r", ".slurm", ".sbatch", "")
# Modules of well known training programs, whose settings and states lie pickled beside weights.
_TRAINERS: Final = (
    "transformers.", "accelerate.", "deepspeed.", "peft.", "trl.", "torch.", "numpy.", "megatron.",
    "argparse.Namespace", "pathlib.", "omegaconf.", "datasets.", "tokenizers.", "_codecs.encode",
    "collections.", "lightning.", "pytorch_lightning.", "fairseq.", "typing.", "enum.",
)  # fmt: skip
_LOCATION: Final = re.compile(rb"\x0a\x08location\x12(.)(?s:(.{1,127}))", re.DOTALL)
_PICKLED: Final = (
    *pickle.PICKLED_SUFFIXES,
    ".npy",
    ".npz",
    ".nemo",
    ".tar",
    ".ot",
    ".ptl",
    ".jit",
    ".distcp",
    ".torchscript",
    ".mar",
)
"""Names under which a pickle is no surprise."""
_HOLDERS: Final = (
    b"PK",
    b"\x80",
    b"\x93NUMPY",
    b"\x1f\x8b",
    b"\x78",
    b"BZh",
    b"\xfd7zXZ",
    b"\x5d\0\0",
)
"""How a pickle with a head of its own begins, and what holds one."""
_FILE_OPS: Final = re.compile(b"ReadFile|WriteFile|EagerPyFunc|PyFunc")
_BOMB: Final = 200
"""Times its size that an archive may unpack to before it is told."""


@dataclass(frozen=True, slots=True)
class ContentReport:
    """What one file is.

    Attributes:
        faults: what must not be, as the rest of a sentence that begins with its name.
        doubts: what settles nothing.
        read: its bytes could be read.
        scans: what it cost to name what a pickle would call, a usual scan being 1.
    """

    name: str
    faults: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    read: bool = True
    scans: int = 0


def inspect(
    name: str, path: Path, *, scan: bool = True, code: bool = False, most: int = MAX_BYTES_SEARCHED
) -> ContentReport:
    """Look into one file. Nothing raises.

    Args:
        scan: pickles may be scanned, at about half a second each.
        most: bytes of a large file that are searched.
        code: it lies where a release has its programs, so that a script is expected.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ContentReport(name, faults=("is no plain file",))
        with path.open("rb") as file:
            head = file.read(_HEAD)
        return _inspect(name, path, head, scan, code, most)
    except OSError as error:
        return ContentReport(
            name, doubts=(f"cannot be read: {error.strerror or error}",), read=False
        )


def _inspect(
    name: str, path: Path, head: bytes, scan: bool, code: bool, most: int
) -> ContentReport:
    suffix = Path(name).suffix.lower()
    if head.startswith(b"GGUF") or (suffix == ".safetensors" and _is_safetensors(path, head)):
        return ContentReport(name)
    if program := _program(head, suffix, code):
        return ContentReport(name, *program)
    if head[257:262] == b"ustar" and (look := _tar(name, path)).faults:
        return look
    if pickle.looks_pickled(path):
        return _pickled(name, path, head, suffix, scan)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(name, path, suffix)
    return _rest(name, path, head, suffix, most)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether it begins like one: no pickle, program or archive begins with such a length."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length + 8 <= path.stat().st_size


def _program(
    head: bytes, suffix: str, code: bool
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Faults and doubts of a program or script; None where it is neither."""
    for magic, what in _PROGRAMS:
        if head.startswith(magic) and (magic != b"MZ" or _is_windows(head)):
            text = f"is a {what}"
            return ((), (text,)) if code and suffix not in _DATA else ((text,), ())
    script = head.startswith(b"#!") and re.match(rb"#! ?/[\w/.-]{2,80}", head)
    if script and suffix in _DATA:
        return ((f"is a script for {script[0][2:].decode('ascii').strip()}",), ())
    if (suffix in _SCRIPTS or (script and suffix not in _CODE)) and not code:
        return (), ("is a script outside of the release's code",)
    return None


def _is_windows(head: bytes) -> bool:
    """``MZ`` alone also begins texts."""
    if len(head) < 64:
        return False
    at = int.from_bytes(head[60:64], "little")
    return head[at : at + 4] == b"PE\0\0"


# -- pickles -------------------------------------------------------------------------------------


def _pickled(name: str, path: Path, head: bytes, suffix: str, may_scan: bool) -> ContentReport:
    hidden = suffix not in _PICKLED and not name.endswith(".metadata")
    imports, ended = ([], False) if head.startswith(b"PK") else _imports(pickle.unpacked(head))
    ended = ended or len(head) < _HEAD
    bare = not head.startswith(_HOLDERS) and head[257:262] != b"ustar"
    if bare and ended and not imports:
        return ContentReport(name)  # a text such as "a. First": without an import nothing can run
    scanned, cost = _levels(path) if may_scan else ({}, 0)
    levels = {**dict.fromkeys(imports, "unknown"), **scanned}
    dangerous = [name for name, level in levels.items() if level == "dangerous"]
    foreign = [
        name
        for name, level in levels.items()
        if level in ("suspicious", "unknown") and not name.startswith(_TRAINERS)
    ]
    called = ", ".join((dangerous + foreign)[:3])
    if dangerous or foreign:
        return ContentReport(
            name, (f"is a pickle that would call {called} when loaded",), scans=cost
        )
    if hidden:
        return ContentReport(
            name, ("is a pickle under another name: loading it runs a program",), scans=cost
        )
    text = "is a pickle: loading it runs a program"
    if not levels:
        return ContentReport(name, doubts=(f"{text}, which could not be scanned",), scans=cost)
    text = f"{text}; it names nothing beyond what weights and their training need"
    return ContentReport(name, doubts=(text,), scans=cost)


def _levels(path: Path) -> tuple[dict[str, str], int]:
    """What a pickle names, with what `picklescan` holds of each, and what it cost to know; nothing
    where it cannot be told."""
    before = _spent()
    try:
        rows = subprocess_reader.run(scan.__name__, str(path.absolute()), _SECONDS)
    except subprocess_reader.Exceeded:
        rows = []
    levels = {
        f"{row[1]}.{row[2]}": str(row[0]) for row in rows if isinstance(row, list) and len(row) == 3
    }
    return levels, _COST_OF_LONG if _spent() - before > _USUAL else 1


def _spent() -> float:
    """Seconds of processor time of the processes that were started and have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


def _imports(head: bytes) -> tuple[list[str], bool]:
    """Functions named up to where a pickle breaks off, since one that is damaged behind them runs
    too, and whether it came to its end."""
    imports: list[str] = []
    texts: list[str] = []
    ended = False
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(head)):
            if opcode.name in ("GLOBAL", "INST"):
                imports.append(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                imports.append(f"{texts[-2]}.{texts[-1]}")
            elif isinstance(argument, str):
                texts = [*texts[-1:], argument]
            ended = opcode.name == "STOP"
    except Exception:  # noqa: BLE001, S110 - genops raises whatever an argument decoder raises
        pass
    names = [name for name in dict.fromkeys(imports) if re.fullmatch(r"[\w.<>]{3,120}", name)]
    return names[:64], ended


# -- archives and the rest -----------------------------------------------------------------------


def _zip(name: str, path: Path, suffix: str) -> ContentReport:
    """A zip whose directory `pickle.looks_pickled` has read and bounded."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()[:20_000]
            faults = list(_members(members, path.stat().st_size))
            if suffix == ".keras" or any(member.filename == "config.json" for member in members):
                faults += _keras(archive)
            faults += _objects(archive, members)
    except (zipfile.BadZipFile, ValueError, OSError, RuntimeError, EOFError, zlib.error) as error:
        return ContentReport(
            name, doubts=(f"is a zip archive that cannot be read: {str(error)[:80]}",)
        )
    if faults:
        return ContentReport(name, tuple(faults[:4]))
    if suffix in (".keras", ".npz", ".docx", ".whl", ".xlsx", ".odt", ".epub"):
        return ContentReport(name)
    if suffix not in _PACKED:
        return ContentReport(
            name, (f"is a zip archive of {len(members)} files under another name",)
        )
    return ContentReport(name, doubts=(f"is a zip archive of {len(members)} files",))


def _members(members: list[zipfile.ZipInfo], size: int) -> Iterator[str]:
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or member.filename.startswith("/"):
            yield f"is an archive that writes {member.filename[:80]!r}, outside its folder"
            break
    total = sum(member.file_size for member in members)
    if total > _BOMB * max(size, 1) and total > 256 << 20:
        yield f"is an archive of {size} bytes that unpacks to {total}"
    for member in members:
        if member.filename.lower().endswith((".exe", ".dll", ".so", ".sh", ".bat", ".ps1", ".scr")):
            yield f"is an archive that holds the program {member.filename[:80]!r}"
            break


def _keras(archive: zipfile.ZipFile) -> list[str]:
    try:
        with archive.open("config.json") as opened:
            text = opened.read(8 << 20)
    except KeyError:
        return []
    return [_LAMBDA_FOUND] if _LAMBDA.search(text) else []


def _objects(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[str]:
    """Arrays of numpy whose elements are Python objects, which are a pickle behind the header."""
    arrays = [member for member in members if member.filename.endswith(".npy")]
    for member in arrays[:_MAX_ARRAYS]:
        with archive.open(member) as opened:
            head = opened.read(_ARRAY_HEAD)
        if head.startswith(b"\x93NUMPY") and _OBJECT.search(head.partition(b"\n")[0]):
            yield f"holds {member.filename[:80]!r}, an array of Python objects: a pickle"
            return


_MAX_ARRAYS: Final = 2000
_ARRAY_HEAD: Final = 4096
_OBJECT: Final = re.compile(rb"['\"]\|?O\d{0,2}['\"]")
_LAMBDA: Final = re.compile(rb'"class_name"\s*:\s*"Lambda"')
_LAMBDA_FOUND: Final = "is a Keras model with a Lambda layer: code that runs when it is loaded"


def _rest(name: str, path: Path, head: bytes, suffix: str, most: int) -> ContentReport:
    for magic, what in _ARCHIVES:
        if head.startswith(magic):
            if suffix not in _PACKED:
                return ContentReport(name, (f"is a {what} archive under another name",))
            doubts = () if suffix in _ONE_FILE else (f"is a {what} archive",)
            return ContentReport(name, doubts=doubts)
    if head[257:262] == b"ustar":
        return _tar(name, path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return ContentReport(name, (_LAMBDA_FOUND,) if _holds(path, _LAMBDA, most) else ())
    if suffix == ".onnx":
        return ContentReport(name, tuple(_external(path, most)))
    if suffix == ".pb" and (operation := _holds(path, _FILE_OPS, most)):
        return ContentReport(name, (f"is a graph with the operation {operation.decode('ascii')}",))
    return ContentReport(name)


def _tar(name: str, path: Path) -> ContentReport:
    """Members of a tar archive that is no checkpoint of torch's old form: pickles and ways out."""
    look = ContentReport(name, doubts=("is a tar archive",))
    try:
        with tarfile.open(path, "r:") as archive:
            for _ in range(_MAX_MEMBERS):
                member = archive.next()
                if member is None:
                    break
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    return ContentReport(
                        name,
                        (f"is an archive that writes {member.name[:80]!r}, outside its folder",),
                    )
                opened = archive.extractfile(member) if member.isreg() else None
                called = _imports(pickle.unpacked(opened.read(_HEAD)))[0] if opened else []
                called = [c for c in called if not c.startswith(_TRAINERS)]
                if called and member.name.lower().endswith(_PICKLED):
                    return ContentReport(
                        name,
                        (
                            f"holds the pickle {member.name[:80]!r} that would call "
                            f"{', '.join(called[:3])} when loaded",
                        ),
                    )
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return look
    return look


_MAX_MEMBERS: Final = 256


def _holds(path: Path, rule: re.Pattern[bytes], most: int) -> bytes:
    for block in _blocks(path, most):
        if match := rule.search(block):
            return match[0]
    return b""


def _external(path: Path, most: int) -> Iterator[str]:
    """Places outside the folder from which an ONNX model would read its weights."""
    for block in _blocks(path, most):
        for match in _LOCATION.finditer(block):
            place = match[2][: match[1][0]].decode("utf-8", "replace")
            if place.startswith(("/", "~")) or ".." in place.replace("\\", "/").split("/"):
                yield f"reads its weights from {place[:80]!r}, outside its folder"
                return


def _blocks(path: Path, most: int) -> Iterator[bytes]:
    """A file's bytes in overlapping blocks: the beginning, and of a large one the end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for start in _starts(size, most):
            file.seek(start)
            yield file.read((4 << 20) + 4096)


def _starts(size: int, searched: int) -> list[int]:
    step = 4 << 20
    starts = list(range(0, max(size, 1), step))
    most = max(2, searched // step)
    return starts if len(starts) <= most else starts[: most // 2] + starts[-most // 2 :]
