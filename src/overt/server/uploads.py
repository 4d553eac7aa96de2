"""Files that clients send before they make a model of them, in ``<home>/incoming``.

::

    <home>/incoming/<64 hex>           a whole file, hashed; taken by the model that is made of it
    <home>/incoming/new-…              on its way
    <home>/incoming/make-…/            the files of a model that is being made

What nobody made a model of within a day is deleted when the next file comes.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from secrets import token_hex

import anyio.to_thread

from overt.errors import BadRequest, Failure, NotFound, OutOfDisk
from overt.models.store import Store
from overt.protocols import disk
from overt.ref import safe_member

PLACE = ".files"
"""Where in a staged folder the files are; no ref of a model is written like that."""
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})", re.IGNORECASE)
_BLOCK = 1 << 20  # bytes written at once
_STALE = 86400.0  # seconds


class WrongDigest(BadRequest):
    """The bytes that came are not those that the digest names."""

    @property
    def code(self) -> str:
        return "integrity_error"


class Incoming:
    """The files that came in, for one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.home / "incoming"
        self._taken: set[str] = set()  # files that a model is being made of
        self._given = threading.Condition()

    def find(self, digest: str) -> Path | None:
        """A whole file by its digest, sent earlier or in the store. Raises BadRequest."""
        hexes = hex_of(digest)
        path = self._folder / hexes
        return path if path.is_file() else self._store.blob(f"sha256:{hexes}")

    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Take a file in; it is there once all of it has come and has that digest.

        Raises:
            BadRequest: no digest, or other bytes than it names.
            OutOfDisk, Failure: it does not fit, or the disk refuses.
        """
        hexes = hex_of(digest)
        hasher, size, looked = hashlib.sha256(), 0, -disk.LOOK
        new = self._folder / f"new-{token_hex(8)}"
        block = bytearray()
        try:
            file = await anyio.to_thread.run_sync(self._open, new)
            with file:
                async for chunk in chunks:
                    block += chunk
                    if len(block) >= _BLOCK:
                        if size - looked >= disk.LOOK:
                            disk.room(self._folder)
                            looked = size
                        await anyio.to_thread.run_sync(_write, file, block, hasher)
                        size += len(block)
                        block = bytearray()
                await anyio.to_thread.run_sync(_write, file, block, hasher)
                await anyio.to_thread.run_sync(_sync, file)
            if hasher.hexdigest() != hexes:
                raise WrongDigest(
                    f"digest mismatch, expected sha256:{hexes}, got sha256:{hasher.hexdigest()}",
                    "send the file again",
                )
            new.replace(self._folder / hexes)
        except OSError as error:
            raise _as_error(error, self._store.home) from None
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)

    @contextmanager
    def staged(self, wanted: Mapping[str, str]) -> Iterator[Path]:
        """A folder that holds the files `wanted` (path to digest), to make a model of them.

        What came in is moved there, what the store has is linked. Files that are left in it
        afterwards go back.

        Raises:
            NotFound: one of them has not been sent. BadRef, BadRequest: a path or digest.
        """
        files = {safe_member(path): hex_of(digest) for path, digest in wanted.items()}
        folder = self._folder / f"make-{token_hex(8)}"
        moved: dict[Path, Path] = {}
        with self._alone(set(files.values())):
            try:
                for path, hexes in files.items():
                    self._stage(hexes, folder / PLACE / path, moved)
                yield folder
            except OSError as error:
                raise _as_error(error, self._store.home) from None
            finally:
                for target, source in moved.items():
                    with suppress(OSError):
                        target.replace(source)  # gone where the store has taken it
                shutil.rmtree(folder, ignore_errors=True)

    def _stage(self, hexes: str, target: Path, moved: dict[Path, Path]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._folder / hexes
        blob = self._store.blob(f"sha256:{hexes}")
        if blob is not None:
            _link(blob.resolve(), target)
        elif source.is_file():
            source.replace(target)
            moved[target] = source
        else:
            raise NotFound(f"the file sha256:{hexes} has not been sent", "send it first")

    @contextmanager
    def _alone(self, files: set[str]) -> Iterator[None]:
        """Wait until no other model is being made of one of `files`."""
        with self._given:
            self._given.wait_for(lambda: not files & self._taken)
            self._taken |= files
        try:
            yield
        finally:
            with self._given:
                self._taken -= files
                self._given.notify_all()

    def _open(self, new: Path) -> "_RawFile":
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        return _RawFile(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def _sweep(self) -> None:
        old = time.time() - _STALE
        for path in self._folder.iterdir():
            with suppress(OSError):
                if path.stat().st_mtime < old:
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()


class _RawFile:
    """A handle that closes itself; files of Python would buffer once more."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __enter__(self) -> "_RawFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)


def _write(file: _RawFile, block: bytearray, hasher: "hashlib._Hash") -> None:
    view = memoryview(block)
    hasher.update(view)
    while view:
        view = view[os.write(file.handle, view) :]


def _sync(file: _RawFile) -> None:
    os.fsync(file.handle)


def _link(blob: Path, target: Path) -> None:
    try:
        os.link(blob, target)
    except OSError:
        target.symlink_to(blob)


def hex_of(digest: str) -> str:
    """The 64 hex digits of ``sha256:…`` or ``sha256-…``.

    Raises:
        BadRequest: not such a digest.
    """
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise BadRequest(f"{digest[:80]!r} is not a digest", "write sha256: and 64 hex digits")
    return match[1].lower()


def _as_error(error: OSError, home: Path) -> OutOfDisk | Failure:
    if error.errno in (ENOSPC, EDQUOT):
        return OutOfDisk(f"the disk of {home.name} is full", "free some space")
    return Failure(f"the file cannot be kept: {error.strerror or error}")
