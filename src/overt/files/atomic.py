"""A small file that is written whole or not at all, by one process at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path

from overt.errors import Busy, Failure, OutOfDisk

_PATIENCE = 10  # seconds; who holds such a lock writes one small file


def write(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write `path` whole or not at all, readable by its owner alone.

    With `lasting` it is still there after a power cut.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    if lasting:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` last through a power cut (POSIX; elsewhere there is no call)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def file_lock(lock: Path, what: str) -> Iterator[None]:
    """Hold the lock of some small files, in a folder that is made where it is not there.

    Args:
        lock: a file for this alone.
        what: what the files hold, in the plural, for people.

    Raises:
        Busy: another process has it.
        OutOfDisk, Failure: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, mode=0o600)
        held.acquire(timeout=_PATIENCE, poll_interval=0.02)
    except Timeout:
        raise Busy(
            f"another process has been changing {what} for {_PATIENCE} s", "try again"
        ) from None
    except OSError as error:
        raise unwritable(lock, error) from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write what a person named with `--output`. Raises OutOfDisk, Failure: it cannot be."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, "name another --output") from None


def check_folder(folder: Path, option: str) -> None:
    """Look before long work whether files could be made in `folder`, or in the nearest above it
    that is there.

    Raises:
        OutOfDisk, Failure: none can; `option` is what the person named it with.
    """
    path = folder.expanduser().absolute()
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise unwritable(folder, error, f"name another {option}") from None


def check_file(file: Path, option: str) -> None:
    """The same of a file in a folder that is there; raises as `check_folder`."""
    path = file.expanduser().absolute()
    if not path.parent.is_dir():
        raise Failure(f"there is no folder {path.parent}", f"make it, or name another {option}")
    if path.is_dir():
        raise Failure(f"{file} is a folder", f"name a file: {option} FILE")
    if not path.exists():  # a pipe or a device is not in its way
        check_folder(path.parent, option)


def unwritable(path: Path, error: OSError, hint: str = "check OVERT_HOME") -> Failure | OutOfDisk:
    """What `error` means, which came of writing `path`."""
    if error.errno in (ENOSPC, EDQUOT):
        return OutOfDisk(f"the disk of {path.parent} is full", "free some space")
    return Failure(f"{path} cannot be written: {error.strerror}", hint)
