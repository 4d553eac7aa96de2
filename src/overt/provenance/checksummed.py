"""Files of unfinished work that a step goes on from: only where they are as they were written.

A kill leaves a file whole or not at all; a power cut or a bad disk may leave one of the right
length with other bytes in it. Beside ``model.gguf`` lies ``model.gguf.sha256``, which tells.
"""

from contextlib import suppress
from pathlib import Path

from overt.files.atomic import write
from overt.models.sources.base import sha256_of


def place(path: Path) -> Path:
    """Where the seal of that file is."""
    return path.with_name(f"{path.name}.sha256")


def seal(path: Path) -> None:
    """Note what is in the finished file `path`. Raises OSError."""
    write(place(path), sha256_of(path).encode())


def intact(path: Path) -> bool:
    """Whether `path` is there as it was sealed; one that is not, is deleted. Raises OSError."""
    try:
        if place(path).read_text("ascii") == sha256_of(path):
            return True
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    for file_ in (path, place(path)):
        with suppress(FileNotFoundError):
            file_.unlink()
    return False
