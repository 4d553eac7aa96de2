"""Which program this is: what another one found or answered is looked at again."""

import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

EXTRAS = ("cryptography", "gguf", "model_signing", "numpy", "tokenizers")
"""Packages that some checks need and not every installation has."""


def extras() -> tuple[str, ...]:
    """Those that are here: with another of them a check that could not look may look."""
    from importlib.util import find_spec

    return tuple(name for name in EXTRAS if find_spec(name) is not None)


def stamp(folders: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of what lies in these folders."""
    stamps = []
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name != "__pycache__":
                    stat = entry.stat()
                    # The time of change too: nobody sets it, and builds set the other one.
                    times = stat.st_mtime_ns, stat.st_ctime_ns
                    stamps.append((entry.path, stat.st_size, times))
    return sha256(repr(sorted(stamps)).encode("utf-8", "surrogateescape")).hexdigest()


def folders(root: Path) -> Iterable[Path]:
    """`root` and all folders below it that hold parts of the program."""
    for folder, inner, _ in os.walk(root):
        inner[:] = [name for name in inner if name != "__pycache__"]
        yield Path(folder)
