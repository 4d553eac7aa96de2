"""The folder of one pull, where whole, checked files wait until the store takes them.

A file is ``name.part`` until all its bytes are there and have the digest that was stated; then it
is fsynced and renamed to ``name``. Whatever a killed pull left is hashed again from its first byte.
"""

import hashlib
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from overt.errors import IntegrityError, OutOfDisk
from overt.models.sources.base import CHUNK, FetchProgress, Report
from overt.models.sources.download import Download, Network, shown, size_of

_PATIENCE = 2.0  # seconds for other threads to end
_SPARE = 64 << 20  # bytes left free on the disk whatever happens


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file on the desk: `sha256` is 64 hex of the bytes there now."""

    file: Path
    sha256: str
    size: int


class Staging:
    """The folder of one pull: what `fetch` brings stays there, whole and hashed, until it is moved.

    Args:
        folder: private to this pull (its lock is held).
        network: brings bytes.
        report: told about progress.
        have: a file of that SHA-256 already in the store, if there is one.
    """

    def __init__(
        self,
        folder: Path,
        network: Network,
        report: Report,
        have: Callable[[str], Path | None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.network = network
        self._report = report
        self._reporting = threading.Lock()
        self._have = have

    def report(self, step: FetchProgress) -> None:
        """Tell about progress; from one thread at a time."""
        with self._reporting:
            self._report(step)

    def fetch_all(self, downloads: Sequence[Download]) -> list[Fetched]:
        """Bring several files, as many at once as the network allows; in the order given.

        The first failure stops the others, which keep what they have for the next try.

        Raises:
            As `fetch`.
        """
        if len(downloads) < 2 or self.network.at_once < 2:
            return [self.fetch(download) for download in downloads]
        fetched: dict[int, Fetched] = {}
        waiting = deque(enumerate(downloads))
        ended: Queue[BaseException | None] = Queue()

        def work() -> None:
            try:
                while job := _next(waiting):
                    fetched[job[0]] = self.fetch(job[1])
                ended.put(None)
            except BaseException as error:  # noqa: BLE001 -- raised again by who waits
                ended.put(error)

        # Not a pool of concurrent.futures: its threads are waited for, even one that hears nothing
        # from its server, and Ctrl-C must end a pull at once.
        count = min(self.network.at_once, len(downloads))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                if error := ended.get():
                    raise error
        except BaseException:
            self.network.stop()
            waiting.clear()
            deadline = time.monotonic() + _PATIENCE
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise
        return [fetched[number] for number in range(len(downloads))]

    def fetch(self, download: Download) -> Fetched:
        """Bring one file, resuming what an earlier try left.

        Raises:
            IntegrityError: another digest or size than the origin states, twice.
            OutOfDisk, Offline, NotFound, NeedsAccess, SourceFailed: as they say.
        """
        target = self.folder / download.name
        if path_ := self._present(download, target):
            return path_
        part = target.with_name(target.name + ".part")
        for again in (True, False):
            if download.size is not None:
                self.room(download.size - size_of(part))
            seen = _Hashes(download)
            if download.size is None or size_of(part) != download.size:
                self.network.append(download, part, self._growing(download), seen)
            path_ = self._checked(download, part, seen, last=not again)
            if path_:
                sync(part)
                part.replace(target)
                part.with_name(part.name + ".json").unlink(missing_ok=True)
                return Fetched(target, path_.sha256, path_.size)
            part.unlink()
        raise AssertionError("unreachable")

    def _growing(self, download: Download) -> Callable[[int, int | None], None]:
        """Reports progress; where only the answer says how long the file is, checks its room."""
        known = download.size
        digest = f"sha256:{download.sha256}" if download.sha256 else ""

        def grow(done: int, total: int | None) -> None:
            nonlocal known
            if known is None and total is not None:
                known = total
                self.room(total - done)
            self.report(FetchProgress(download.label or download.name, done, total, digest))

        return grow

    def new(self, name: str) -> Path:
        """A fresh place for a file that is made here; what was there before is deleted."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        return path

    def room(self, needed: int) -> None:
        """Raises OutOfDisk where `needed` bytes would not fit on the store's disk."""
        free = shutil.disk_usage(self.folder).free
        if needed + _SPARE > free:
            raise OutOfDisk(
                f"{_human(needed)} are needed and {_human(free)} are free on the disk of the store",
                "free some space, or set OVERT_HOME to a folder on a larger disk",
            )

    def _present(self, download: Download, target: Path) -> Fetched | None:
        """The file from an earlier try, or from the store; hashed again, deleted if wrong."""
        if not target.exists() and download.sha256 and (blob := self._have(download.sha256)):
            try:
                os.link(blob, target)  # ours now, whatever is collected meanwhile
            except OSError:
                return None
        if not target.exists():
            return None
        try:
            return self._checked(download, target, _Hashes(download), last=True)
        except IntegrityError:
            target.unlink()
            return None

    def _checked(
        self, download: Download, path: Path, seen: "_Hashes", last: bool
    ) -> Fetched | None:
        """Compare a whole file with what is stated, hashing it unless all of it was seen coming.

        None asks for one fresh start, since a resumed part may be stale.
        """
        size = size_of(path)
        if seen.count != size:
            seen.begin(0, size)
            with path.open("rb", buffering=0) as file:
                while block := file.read(CHUNK):
                    seen.update(block)
                    what = f"checking {download.label or download.name}"
                    self.report(FetchProgress(what, seen.count, size))
        facts = (
            ("size", str(size), None if download.size is None else str(download.size)),
            ("sha256", seen.sha256.hexdigest(), download.sha256),
            ("git object id", seen.git.hexdigest(), download.git_sha1),
        )
        wrong = [fact for fact in facts if fact[2] not in (None, fact[1])]
        if not wrong:
            return Fetched(path, seen.sha256.hexdigest(), size)
        if not last:
            return None
        kind, actual, stated = wrong[0]
        raise IntegrityError(
            f"{download.label or download.name} from {shown(download.url)} has the {kind} "
            f"{actual[:12]} where {(stated or '')[:12]} is stated",
            "try again later; if it stays so, do not use this source",
        )


def _next(waiting: "deque[tuple[int, Download]]") -> tuple[int, Download] | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


class _Hashes:
    """The digests of a file from its first byte on; `count` is -1 while they miss a beginning."""

    def __init__(self, download: Download) -> None:
        self._git = download.git_sha1 is not None
        self._size = download.size
        self.count = -1

    def begin(self, start: int, size: int | None = None) -> None:
        """The next bytes are those from `start` on, of a file of `size` bytes if that is known."""
        if start == self.count:
            return
        size = self._size if size is None else size
        missing = start > 0 or (self._git and size is None)
        self.count = -1 if missing else 0
        self.sha256 = hashlib.sha256()
        self.git = hashlib.sha1(b"blob %d\0" % (size or 0), usedforsecurity=False)

    def update(self, block: bytes) -> None:
        if self.count >= 0:
            self.count += len(block)
            self.sha256.update(block)
            if self._git:
                self.git.update(block)


def sync(path: Path) -> None:
    """Make the bytes of a file last through a power cut."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _human(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
