"""``./model.gguf`` and folders: files that stay where they are.

Nothing is copied. A file's digest is computed once and kept by (path, size, modification time in
nanoseconds, inode), so that a changed file is hashed again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from overt.errors import FormatError, ModelNotFound, UnsafeFile
from overt.files import atomic
from overt.models.sources.base import FetchProgress, Report, Role, sha256_of
from overt.models.sources.file_selection import choose, is_pickled, refused, role_of
from overt.ref import part_of

_FILES = 10_000
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file of a model on this disk; `path` is relative to what was named."""

    role: Role
    path: str
    file: Path


Scan = Callable[[Path], Sequence[str]]
"""Names the functions that a pickle would run."""


def read(path: Path, scan: Scan = lambda _: ()) -> tuple[LocalFile, ...]:
    """The model files at `path`, weights first; judged by names and first bytes.

    `scan` is asked about a pickle, so that its refusal can say what it would run.

    Raises:
        ModelNotFound: nothing there, or no weights in the folder.
        UnsafeFile: a pickled checkpoint.
        FormatError: not what its name says, or a folder with too many files.
    """
    path = path.expanduser().absolute()
    try:
        if path.is_dir():
            files = _folder(path, scan)
        elif path.exists():
            files = _file(path, scan)
        else:
            raise ModelNotFound(f"{path} does not exist", _siblings(path))
        for local in files:
            if local.role in ("weights", "projector"):
                check_magic(local.file, local.path)
    except PermissionError:
        raise ModelNotFound(f"{path} cannot be read", "check its permissions") from None
    return files


def check_magic(file: Path, name: str) -> None:
    """Prove by its first bytes that `file` is the format that `name` says.

    Raises:
        FormatError: it is not.
    """
    with file.open("rb") as opened:
        first = opened.read(9)
    size = file.stat().st_size
    if name.lower().endswith(".safetensors"):
        length = int.from_bytes(first[:8], "little")
        if size < 10 or first[8:9] != b"{" or length + 8 > size:
            raise FormatError(
                f"{name} is no safetensors file: its header would be {length} of {size} bytes",
                "get the file again",
            )
    elif first[:4] != b"GGUF":
        raise FormatError(
            f"{name} begins with {first[:4]!r} where a GGUF file begins with b'GGUF'",
            "get the file again, or name a .gguf or .safetensors file",
        )


def digest(file: Path, cache: Path, report: Report | None = None) -> str:
    """64 hex of `file`, from `cache` (a folder) if it has not changed since it was hashed."""
    file = file.absolute()
    facts = file.stat()
    key = [str(file), facts.st_size, facts.st_mtime_ns, facts.st_ino]
    note = cache / f"{hashlib.sha256(os.fsencode(file)).hexdigest()}.json"
    try:
        seen = json.loads(note.read_bytes())
        if seen["file"] == key and isinstance(seen["sha256"], str) and len(seen["sha256"]) == 64:
            return str(seen["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    hexes = sha256_of(
        file,
        lambda n: (
            report(FetchProgress(f"hashing {file.name}", n, facts.st_size)) if report else None
        ),
    )
    with suppress(OSError):  # where nothing can be kept the file is hashed again
        cache.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"file": key, "sha256": hexes})
        atomic.write(note, text.encode("utf-8", "surrogatepass"), lasting=False)
    return hexes


def _file(path: Path, scan: Scan) -> tuple[LocalFile, ...]:
    """The file named, or all files of the split model it belongs to."""
    if is_pickled(path.name):
        raise refused(str(path.parent), path.name, scan(path))
    part = part_of(path.name)
    names = [part.sibling(n) for n in range(1, part.total + 1)] if part else [path.name]
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        raise FormatError(
            f"{path.name} is one of {len(names)} files of a split GGUF, and {len(missing)} of them "
            f"are not in {path.parent}",
            f"put {missing[0]} beside it",
        )
    return tuple(LocalFile("weights", name, path.with_name(name)) for name in names)


def _folder(path: Path, scan: Scan) -> tuple[LocalFile, ...]:
    paths: list[str] = []
    for folder, inner, names in os.walk(path):
        here = Path(folder).relative_to(path)
        inner[:] = [name for name in inner if not name.startswith(".")]
        if len(here.parts) >= _DEPTH:
            inner.clear()
        paths += [(here / name).as_posix() for name in names if role_of(name) or is_pickled(name)]
        if len(paths) > _FILES:
            raise FormatError(f"{path} holds more than {_FILES} files", "name one model's folder")
    try:
        chosen = choose(sorted(paths), None, str(path))
    except UnsafeFile:
        first = min(name for name in paths if is_pickled(name))
        raise refused(str(path), first, scan(path / first)) from None
    return tuple(LocalFile(role, name, path / name) for role, name in chosen.files)


def _siblings(path: Path) -> str:
    from difflib import get_close_matches

    try:
        names = [p.name for p in path.parent.iterdir()][:_FILES]
    except OSError:
        return f"there is no folder {path.parent} either"
    if near := get_close_matches(path.name, names, n=2, cutoff=0.6):
        return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    return "check the path"
