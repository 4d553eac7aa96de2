"""The content-addressed folder of blobs and manifests.

::

    <home>/blobs/sha256/ab/abcd…       a file, named by its own SHA-256, read-only
    <home>/manifests/<64 hex>.json     canonical JSON, named by its own SHA-256
    <home>/names/<ref>.json            {"ref", "manifest", "time"}: what a person calls it
    <home>/partial/<key>/              what one pull has so far; private to the holder of its lock
    <home>/partial/new-…               a small file before its rename; only under the store lock
    <home>/links/<64 hex>.json         a blob that is another program's file (links.py)
    <home>/locks/                      store.lock, and one lock for each pull

Rules that make a kill at any moment harmless: bytes are complete, hashed and fsynced in
``partial/`` before they are renamed into ``blobs/``; blobs come before the manifest that lists
them, the manifest before the name that points to it; every rename is followed by an fsync of its
folder. So whatever a name reaches is whole, and what no name reaches is garbage that `Store.remove`
may delete, under the same lock that `Store.commit` holds. Readers take no lock.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC
from hashlib import sha256
from pathlib import Path

from overt.errors import Busy, Failure, IntegrityError, ModelNotFound, OutOfDisk, OvertError
from overt.files.atomic import sync_folder
from overt.models.sources.base import Role
from overt.models.store.garbage import collect
from overt.models.store.links import FileLink, Links
from overt.models.store.manifest import File, Manifest, Pointer, file_name, hex_of, ref_text
from overt.ref import Ref, parse

__all__ = ["File", "FileLink", "Manifest", "Removed", "Role", "Store", "StoreEntry", "StoreProblem"]

_MANIFEST_BYTES = 8 << 20
_LOCK_SECONDS = 60.0
_STALE_SECONDS = 14 * 86400  # an abandoned partial pull is garbage after this long


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A name in the store: what it is called, what it is, and when it was named (ISO 8601, UTC)."""

    ref: Ref
    manifest: Manifest
    time: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What `Store.remove` deleted; files that another name still needs stay.

    `bytes_left` belong to another program: only our link to them went.
    """

    names: tuple[str, ...]
    manifests: int
    blobs: int
    bytes_freed: int
    bytes_left: int = 0


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """One thing wrong in the store, and what to type.

    Attributes:
        code: damaged_blob, missing_blob, changed_link, damaged_manifest, missing_manifest,
            damaged_name or stray.
        message: one sentence.
        hint: what to do next.
        path: the file, relative to the store.
        refs: the names that need it.
    """

    code: str
    message: str
    hint: str
    path: str
    refs: tuple[str, ...] = ()


class Store:
    """One person's models. Cheap to make: it touches the disk only when asked something."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._blobs = home / "blobs" / "sha256"
        self._manifests = home / "manifests"
        self._names = home / "names"
        self._partial = home / "partial"
        self._locks = home / "locks"
        self.links = Links(home)

    # ---- reading ---------------------------------------------------------------------------

    def get(self, ref: Ref) -> Manifest:
        """The manifest that `ref` names, by a name of the store, a pinned ref or a digest.

        A digest may be cut to its first 12 hex digits or more where that is unambiguous.

        Raises:
            ModelNotFound: nothing of that name; the hint has the nearest names.
            IntegrityError: the name or its manifest is damaged.
        """
        if digest := _digest_prefix(ref):
            return self._by_digest(ref, digest)
        pointer = self._names / file_name(ref)
        try:
            pointer_ = Pointer.decode(pointer.read_bytes())
        except FileNotFoundError:
            pointer_ = None
        if pointer_ and pointer_.ref == str(ref):
            return self.manifest(pointer_.manifest)
        if ref.scheme in ("hf", "pypi", "ollama", "oci") and (pinned := self.pinned(str(ref))):
            return pinned
        raise ModelNotFound(f"{ref} is not in the store", self._nearest(ref))

    def manifest(self, digest: str) -> Manifest:
        """The manifest of that full digest.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        hexes = hex_of(digest)
        path = self._manifests / f"{hexes}.json"
        try:
            with path.open("rb") as file:
                data = file.read(_MANIFEST_BYTES + 1)
        except FileNotFoundError:
            raise IntegrityError(
                f"the manifest {digest[:19]} is missing", "type `overt verify`"
            ) from None
        if sha256(data).hexdigest() != hexes:
            raise IntegrityError(f"the manifest {digest[:19]} is damaged", "type `overt verify`")
        return Manifest.decode(data)

    def pinned(self, ref: str) -> Manifest | None:
        """A whole manifest that came from exactly this pinned ref, if one is here."""
        for path in _listed(self._manifests):
            with suppress(OvertError):
                manifest = self.manifest("sha256:" + path.name.removesuffix(".json"))
                if manifest.ref == ref and self.whole(manifest):
                    return manifest
        return None

    def path(self, file: File) -> Path:
        """Where the bytes of `file` are; for a reference, in the folder of their owner.

        Raises:
            IntegrityError: they are missing, of another size than the manifest says, or have been
                written by their owner since they were adopted.
        """
        return self.links.path(file, self._blob(file.digest))

    def whole(self, manifest: Manifest) -> bool:
        """Whether every file is there and has its size; contents are `verify`'s business."""
        try:
            for file in manifest.files:
                self.path(file)
        except IntegrityError:
            return False
        return True

    def names(self) -> list[StoreEntry]:
        """Every readable name, sorted; damaged ones are `verify`'s business."""
        entries = []
        for path in _listed(self._names):
            with suppress(OvertError, OSError):
                pointer = Pointer.decode(path.read_bytes())
                entries.append(
                    StoreEntry(parse(pointer.ref), self.manifest(pointer.manifest), pointer.time)
                )
        return sorted(entries, key=lambda entry: str(entry.ref))

    # ---- writing ---------------------------------------------------------------------------

    @contextmanager
    def pulling(self, ref: Ref, waiting: Callable[[], None] | None = None) -> Iterator[Path]:
        """Hold the one lock for pulling `ref` (pinned) and get its folder under ``partial/``.

        An OSError inside comes out as OutOfDisk or Failure.

        Waits without end for another process that pulls the same; `waiting` is called once first.
        What is in the folder survives a crash and is never collected while the lock is held.
        """
        key = sha256(str(ref).encode()).hexdigest()[:32]
        with _writable(self.home), self._locked(f"pull-{key}", None, waiting):
            folder = self._partial / key
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            yield folder

    def blob(self, digest: str) -> Path | None:
        """A stored file by digest, if it is here; its content is not checked."""
        path = self._blob(digest)
        return path if path.is_file() else None

    def link(self, digest: str) -> FileLink | None:
        """Whose file a blob is, where it is not the store's own."""
        return self.links.of(digest)

    def touched(self, digest: str) -> bool:
        """Whether its owner has written a linked blob since. Raises OSError."""
        link = self.links.of(digest)
        return link is not None and self.links.changed(self._blob(digest), link)

    def commit(
        self,
        manifest: Manifest,
        files: Mapping[str, Path],
        names: Sequence[Ref],
        links: Mapping[str, FileLink] | None = None,
    ) -> Manifest:
        """Move finished files in, write the manifest, and point `names` at it.

        Args:
            manifest: lists every file; digests must be of the very bytes in `files`.
            files: digest to a complete, hashed file on the store's own disk; it is moved.
            names: each is pointed at this manifest, away from what it named before.
            links: digest to a hashed file of another program, which is linked and stays there;
                what the store has already is kept.

        Raises:
            IntegrityError: a listed file is neither given nor in the store, or its owner has
                written it since it was hashed.
            Busy: another process has held the store for a minute.
            OutOfDisk, Failure: the store's disk is full, or cannot be written.
        """
        with _writable(self.home), self._locked("store", _LOCK_SECONDS):
            self._sweep()
            for file in manifest.files:
                if source := files.get(file.digest):
                    self._take(source, file)
                elif (link := (links or {}).get(file.digest)) and not self._here(file):
                    self.links.make(file.digest, self._blob(file.digest), link)
                    sync_folder(self._blob(file.digest).parent)
                self.path(file)
            self._write(self._manifests / f"{hex_of(manifest.digest)}.json", manifest.encode())
            for ref in names:
                self._point(ref, manifest.digest)
        return manifest

    def note(self, manifest: Manifest) -> None:
        """Write a manifest that a recipe names, without its files; it stays as long as that."""
        with _writable(self.home), self._locked("store", _LOCK_SECONDS):
            self._write(self._manifests / f"{hex_of(manifest.digest)}.json", manifest.encode())

    def name(self, ref: Ref, manifest: Manifest) -> None:
        """Point one more name at a manifest that is here."""
        self.commit(manifest, {}, [ref])

    def remove(self, ref: Ref) -> Removed:
        """Drop a name (of a digest: all its names), then delete what no name needs.

        Deletes also what an abandoned pull of `ref` left behind. What a running pull holds is
        never touched. A worker that has the file open keeps it until it ends (POSIX).

        Raises:
            ModelNotFound: nothing of that name.
            Busy: another process has held the store for a minute.
        """
        with _writable(self.home), self._locked("store", _LOCK_SECONDS):
            self._sweep()
            gone = self._names_of(ref)
            abandoned = self._abandoned(ref)
            if not gone and not abandoned:
                raise ModelNotFound(f"{ref} is not in the store", self._nearest(ref))
            for path in gone:
                path.unlink(missing_ok=True)
            sync_folder(self._names)
            removed = collect(self)
        names = tuple(sorted(ref_text(path) for path in gone))
        return replace(removed, names=names, bytes_freed=removed.bytes_freed + abandoned)

    # ---- checking --------------------------------------------------------------------------

    def verify(
        self, ref: Ref | None = None, progress: Callable[[str, int, int], None] | None = None
    ) -> list[StoreProblem]:
        """Hash everything again (or only what `ref` needs) and list what is wrong.

        `progress` is told the path being read, its bytes so far and its size. A damaged store
        gives problems, never an exception; an unknown `ref` raises ModelNotFound.
        """
        from overt.models.store.check import check

        return check(self, ref, progress)

    # ---- inside ----------------------------------------------------------------------------

    def _blob(self, digest: str) -> Path:
        hexes = hex_of(digest)
        return self._blobs / hexes[:2] / hexes

    def _by_digest(self, ref: Ref, prefix: str) -> Manifest:
        matches = [p for p in _listed(self._manifests) if p.name.startswith(prefix)]
        if len(matches) == 1:
            return self.manifest("sha256:" + matches[0].name.removesuffix(".json"))
        if matches:
            raise ModelNotFound(
                f"{ref} is the beginning of {len(matches)} digests", "write more of its digits"
            )
        raise ModelNotFound(f"{ref} is not in the store", "type `overt list` for what is there")

    def _nearest(self, ref: Ref) -> str:
        from difflib import get_close_matches

        names = [str(entry.ref) for entry in self.names()]
        if near := get_close_matches(str(ref), names, n=3, cutoff=0.5):
            return f"did you mean {' or '.join(near)}?"
        return "type `overt list` for what is there"

    def _here(self, file: File) -> bool:
        try:
            return bool(self.path(file))
        except IntegrityError:
            return False

    def _take(self, source: Path, file: File) -> None:
        """Rename one finished file to its blob, replacing a damaged one of the same name."""
        target = self._blob(file.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(self._blobs)
        try:
            same = target.samefile(source)
        except FileNotFoundError:
            same = False
            if not source.exists():
                return  # moved in by an earlier call for the same digest; `path` tells
        if same:  # rename(2) does nothing between two links of one file, which may be another's
            source.unlink()
            self.links.renew(file.digest, target)
        else:
            if source.is_symlink() or source.stat().st_nlink > 1:
                source = self._copy(source)  # its blob went meanwhile: what is left is another's
            source.chmod(0o444)
            self.links.drop(file.digest)
            source.replace(target)
        sync_folder(target.parent)

    def _copy(self, source: Path) -> Path:
        new = source.with_name(f"{source.name}.copy")
        shutil.copyfile(source, new)
        source.unlink()
        with new.open("rb") as file:
            os.fsync(file.fileno())
        return new

    def _point(self, ref: Ref, digest: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pointer = Pointer(str(ref), digest, now)
        self._write(self._names / file_name(ref), pointer.encode())

    def _write(self, target: Path, data: bytes) -> None:
        """A small file, whole or not at all. Call only with the store lock held."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir(parents=True, exist_ok=True)
        new = self._partial / f"new-{os.getpid()}-{target.name[:64]}"
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
        sync_folder(target.parent)

    def _sweep(self) -> None:
        """Delete small files whose writer died; whoever holds the lock is the only writer."""
        for path in self._partial.glob("new-*"):
            path.unlink(missing_ok=True)

    def _names_of(self, ref: Ref) -> list[Path]:
        if not _digest_prefix(ref):
            path = self._names / file_name(ref)
            return [path] if path.is_file() else []
        try:
            wanted = self.get(ref).digest
        except OvertError:
            return []
        return [p for p in _listed(self._names) if _target_of(p) == wanted]

    def _abandoned(self, ref: Ref) -> int:
        """Delete what dead pulls left: those of `ref`, and old ones. Returns the bytes."""
        freed = 0
        for folder in _listed(self._partial):
            if not folder.is_dir():
                continue
            with suppress(OSError, ValueError, Busy):
                refs = _refs_of(folder)
                if str(ref) not in refs and time.time() - folder.stat().st_mtime < _STALE_SECONDS:
                    continue
                with self._locked(f"pull-{folder.name}", 0):
                    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                    shutil.rmtree(folder)
                freed += size
        return freed

    @contextmanager
    def _locked(
        self, name: str, seconds: float | None, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        from filelock import FileLock, Timeout

        self._locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                waiting()
            try:
                lock.acquire(timeout=-1 if seconds is None else seconds, poll_interval=0.05)
            except Timeout:
                raise Busy(
                    f"another process has held {name} for {seconds:.0f} s",
                    "wait for it, or see `overt ps`",
                ) from None
        try:
            yield
        finally:
            lock.release()


@contextmanager
def _writable(home: Path) -> Iterator[None]:
    """What the disk refuses, as a sentence with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise OutOfDisk(
                f"the disk of {home} is full", "free some space, or set OVERT_HOME to another disk"
            ) from None
        raise Failure(
            f"{error.filename or home} cannot be written: {error.strerror or error}",
            "set OVERT_HOME to a folder of yours",
        ) from None


def _digest_prefix(ref: Ref) -> str | None:
    """The hex digits where `ref` is a digest, or the bare beginning of one."""
    if ref.scheme == "sha256":
        return ref.name.removeprefix("sha256:")
    bare = ref.scheme == "name" and ref.tag is None
    return ref.name if bare and re.fullmatch(r"[0-9a-f]{12,64}", ref.name) else None


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _target_of(path: Path) -> str | None:
    try:
        return Pointer.decode(path.read_bytes()).manifest
    except (OvertError, OSError):
        return None


def _refs_of(folder: Path) -> list[str]:
    refs = json.loads((folder / "refs.json").read_bytes())
    return [str(ref) for ref in refs] if isinstance(refs, list) else []
