"""Blobs that are a file of another program: used in place, watched, never changed.

::

    <home>/blobs/sha256/ab/abcd…       a hard link to the other program's file, or a symbolic link
    <home>/links/<64 hex>.json         {"path", "size", "mtime_ns", "owner"}: what it was like then

A hard link costs nothing and outlives its owner's. Where the disk allows none (another file system,
a file of somebody else) the blob is a symbolic link, a reference. Either way the bytes can change
under our hands, so the note keeps the size and the time of the last change, and the store refuses
a file that no longer has them. The note is written before the link and dropped before a blob is
replaced by a copy of our own: a kill in between leaves a note too many, never one too few.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from overt.errors import IntegrityError
from overt.models.store.manifest import File, hex_of

_NOTE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class FileLink:
    """A file of another program, as it was when its digest was taken.

    Attributes:
        path: where it lies, absolute, links resolved.
        size: bytes.
        mtime_ns: when its content last changed.
        owner: what to give `overt adopt` to look at it again.
    """

    path: str
    size: int
    mtime_ns: int
    owner: str

    @classmethod
    def of(cls, path: Path, owner: str) -> "FileLink":
        """The file as it is now. Raises OSError."""
        facts = path.stat()
        return cls(str(path.resolve()), facts.st_size, facts.st_mtime_ns, owner)


class Links:
    """The notes of one store, and the only place that makes a link."""

    def __init__(self, home: Path) -> None:
        self._notes = home / "links"
        self._partial = home / "partial"

    def of(self, digest: str) -> FileLink | None:
        """What was noted about that blob, or None where it is a file of our own."""
        try:
            with self._note(digest).open("rb") as file:
                note = json.loads(file.read(_NOTE_BYTES))
            path, owner = note["path"], note["owner"]
            size, mtime_ns = note["size"], note["mtime_ns"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        texts = isinstance(path, str) and isinstance(owner, str)
        numbers = isinstance(size, int) and isinstance(mtime_ns, int)
        return FileLink(path, size, mtime_ns, owner) if texts and numbers else None

    def path(self, file: File, blob: Path) -> Path:
        """Where the bytes of `file` are, as `Store.path`."""
        link = self.of(file.digest)
        again = "type `overt verify`, then `overt pull` the model again"
        if link:
            again = f"type `overt adopt {link.owner}` to look at it again"
        try:
            size = blob.stat().st_size
            changed = link is not None and self.changed(blob, link)
        except OSError:
            where = f"at {link.path}, where it was adopted" if link else "from the store"
            raise IntegrityError(
                f"{file.path} ({file.digest[:19]}) is missing {where}", again
            ) from None
        if changed and link:
            raise IntegrityError(
                f"{file.path} has been written at {link.path} since it was adopted", again
            )
        if size != file.size:
            raise IntegrityError(
                f"{file.path} ({file.digest[:19]}) is {size} bytes where {file.size} were stored",
                again,
            )
        if blob.is_symlink():
            if link is None:
                raise IntegrityError(f"{file.path} is a link that Overt did not make", again)
            return Path(link.path)
        return blob

    def changed(self, blob: Path, link: FileLink) -> bool:
        """Whether the file has been written since its digest was taken. Raises OSError."""
        facts = blob.stat()
        return (facts.st_size, facts.st_mtime_ns) != (link.size, link.mtime_ns)

    def make(self, digest: str, blob: Path, link: FileLink) -> None:
        """Let `blob` be the file of `link`. Call only with the store lock held.

        Raises:
            IntegrityError: the file is not what it was when it was hashed.
        """
        self._write(digest, link)
        self._partial.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        new = self._partial / f"new-{os.getpid()}-link"
        new.unlink(missing_ok=True)
        try:
            os.link(link.path, new)
        except OSError:  # another file system, not our file, no hard links here
            new.symlink_to(link.path)
        try:
            if self.changed(new, link):
                raise IntegrityError(
                    f"{link.path} was written while it was being adopted", "try again"
                )
            new.replace(blob)
        finally:
            new.unlink(missing_ok=True)  # rename(2) does nothing between two links of one file

    def renew(self, digest: str, blob: Path) -> None:
        """Note the blob as it is now, since its content was just hashed and is what it was."""
        if link := self.of(digest):
            facts = blob.stat()
            self._write(digest, replace(link, size=facts.st_size, mtime_ns=facts.st_mtime_ns))

    def drop(self, digest: str) -> None:
        """Forget the note; the blob is about to become a file of our own, or to go."""
        self._note(digest).unlink(missing_ok=True)

    def sweep(self, blobs: Path) -> None:
        """Drop the notes of blobs that are gone. Call only with the store lock held."""
        with suppress(FileNotFoundError):
            for note in sorted(self._notes.iterdir()):
                blob = blobs / note.name[:2] / note.name.removesuffix(".json")
                if not os.path.lexists(blob):
                    note.unlink(missing_ok=True)

    def _note(self, digest: str) -> Path:
        return self._notes / f"{hex_of(digest)}.json"

    def _write(self, digest: str, link: FileLink) -> None:
        self._notes.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir(parents=True, exist_ok=True)
        new = self._partial / f"new-{os.getpid()}-note"
        with new.open("wb") as file:
            file.write(json.dumps(asdict(link), sort_keys=True).encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._note(digest))


def own_bytes(blob: Path) -> int:
    """Bytes that deleting `blob` frees: none where it is a reference or has another name."""
    facts = blob.lstat()
    return 0 if blob.is_symlink() or facts.st_nlink > 1 else facts.st_size
