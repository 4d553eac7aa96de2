"""Write a model of the store as one file, or as parts of one."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from overt.errors import Failure, IntegrityError, OutOfDisk, UsageError
from overt.models.archive import format as archive
from overt.models.archive.format import ArchiveIndex
from overt.models.archive.receipts import going_along
from overt.models.sources.base import CHUNK, FetchProgress, Report
from overt.models.store import Manifest, Store
from overt.models.store.lineage import ancestors
from overt.models.store.manifest import hex_of
from overt.ref import Ref, parse
from overt.security.signing import SIGNATURE, SIGNER, Member, SigningKeys, need, sign
from overt.settings import Settings

_PARTS = 999
_MIN_PART_BYTES = 1 << 20  # bytes of a part


@dataclass(frozen=True, slots=True)
class ExportedArchive:
    """What was written: `paths` is empty for a pipe; `size` counts all of them."""

    manifest: Manifest
    paths: tuple[Path, ...]
    size: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _MemberSource:
    """A member and where its bytes are: a file, or `data` itself."""

    member: Member
    data: bytes | Path
    shown: str


def export(
    ref: str,
    target: Path | None,
    settings: Settings,
    *,
    split: int = 0,
    force: bool = False,
    progress: Callable[[FetchProgress], None] | None = None,
) -> ExportedArchive:
    """Write the model `ref` to `target` (None: to stdout), signed; `split` is the most of a part.

    Every file is hashed as it is read. Nothing of a failed export stays under the target's name.

    Raises:
        ModelNotFound, BadRef: no such model in the store.
        UsageError: a plain file or folder; a target that exists, without `force`; parts too small.
        NotFound: `model-signing` is not installed.
        IntegrityError: a file of the store is damaged.
        OutOfDisk, Failure: the target cannot be written.
    """
    store = Store(settings.home)
    manifest, names = _model(store, ref, settings)
    need()
    keys = SigningKeys(settings.home)
    line = ancestors(store, manifest)
    pieces = _pieces(store, manifest, line)
    signed = going_along([manifest, *line], store.home)
    head = ArchiveIndex(
        manifest.digest, names, tuple(piece.member for piece in pieces), signed
    ).encode()
    about = archive.member_of(archive.ARCHIVE, head)
    title = str(names[0]) if names else manifest.digest
    signature = sign([about, *(piece.member for piece in pieces)], title, keys)
    whole = [
        *(
            _MemberSource(archive.member_of(name, data), data, name)
            for name, data in (
                (archive.ARCHIVE, head),
                (SIGNER, keys.public()),
                (SIGNATURE, signature),
            )
        ),
        *pieces,
    ]
    size = archive.extent([piece.member.size for piece in whole])
    report = progress or (lambda _: None)
    with _sink(target, size, split, force) as sink:
        for piece in whole:
            _write(sink, piece, report)
        sink.write(bytes(2 * archive.BLOCK))
    return ExportedArchive(manifest, sink.paths, size, sha256(keys.public()).hexdigest())


def _model(store: Store, ref: str, settings: Settings) -> tuple[Manifest, tuple[Ref, ...]]:
    from overt.models.pull import find

    wanted = parse(ref)
    if wanted.scheme == "path":
        raise UsageError(
            f"{ref} is a file where it lies and not in the store",
            "take its folder into the store first: overt adopt FOLDER",
        )
    manifest = find(ref, settings).manifest
    assert manifest  # only a path has none
    names = [entry.ref for entry in store.names() if entry.manifest.digest == manifest.digest]
    if wanted in names or (wanted.scheme != "sha256" and not names):
        names = [wanted]
    return manifest, tuple(names[:8])


def _pieces(store: Store, manifest: Manifest, line: Sequence[Manifest]) -> list[_MemberSource]:
    """The manifest, what it was made from, its dossier if there is one, and its files."""
    small: list[tuple[str, bytes]] = [(archive.MANIFEST, manifest.encode())]
    for made_from in line:
        small.append((f"{archive.CHAIN}{hex_of(made_from.digest)}.json", made_from.encode()))
    with suppress(FileNotFoundError):
        small.append((archive.DOSSIER, dossier(store.home, manifest).read_bytes()))
    pieces = [_MemberSource(archive.member_of(name, data), data, name) for name, data in small]
    paths = {hex_of(file.digest): file for file in reversed(manifest.files)}
    names = archive.member_names({hexes: file.path for hexes, file in paths.items()})
    for file in manifest.files:
        hexes = hex_of(file.digest)
        if hexes in names:
            member = Member(names.pop(hexes), file.size, hexes)
            pieces.append(_MemberSource(member, store.path(file), file.path))
    return pieces


def dossier(home: Path, manifest: Manifest) -> Path:
    """Where the evidence about a model's openness is kept, if there is any."""
    return home / "dossiers" / f"{hex_of(manifest.digest)}.json"


def _write(sink: "_Sink", piece: _MemberSource, report: Report) -> None:
    member = piece.member
    sink.write(archive.header(member))
    if isinstance(piece.data, bytes):
        sink.write(piece.data)
    else:
        digest, done = sha256(), 0
        try:
            with piece.data.open("rb", buffering=0) as file:
                while block := file.read(min(CHUNK, member.size - done)):
                    digest.update(block)
                    sink.write(block)
                    done += len(block)
                    report(FetchProgress(f"writing {piece.shown}", done, member.size))
        except FileNotFoundError:
            raise IntegrityError(f"{piece.shown} is gone from the store", "overt verify") from None
        if digest.hexdigest() != member.sha256:
            raise IntegrityError(
                f"{piece.shown} is damaged: its digest is {digest.hexdigest()[:12]}, not "
                f"{member.sha256[:12]}",
                "type `overt verify`",
            )
    sink.write(bytes(archive.padding(member.size)))


class _Sink:
    """Where the bytes go: one file, several, or stdout. Files get their names when all is there."""

    def __init__(self, names: Sequence[Path], part: int, stream: BinaryIO | None = None) -> None:
        self.paths = tuple(names)
        self._part = part
        self._left = 0
        self._file = stream
        self._piped = stream is not None
        self._begun = 0

    def write(self, data: bytes) -> None:
        if self._piped and self._file:
            self._file.write(data)
            return
        view = memoryview(data)
        while view:
            if not self._left:
                self._next()
            assert self._file
            now = view[: self._left]
            self._file.write(now)
            self._left -= len(now)
            view = view[len(now) :]

    def finish(self) -> None:
        """Everything is written: make it last, and give the files their names."""
        if self._piped and self._file:
            self._file.flush()
            return
        self._close()
        for path in self.paths:
            _unfinished(path).replace(path)

    def abandon(self) -> None:
        if self._file and not self._piped:
            self._file.close()
        for path in self.paths:
            _unfinished(path).unlink(missing_ok=True)

    def _next(self) -> None:
        self._close()
        self._file = _unfinished(self.paths[self._begun]).open("wb")
        self._begun += 1
        self._left = self._part

    def _close(self) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


@contextmanager
def _sink(target: Path | None, size: int, split: int, force: bool) -> Iterator[_Sink]:
    if target is None:
        sink = _Sink((), 0, sys.stdout.buffer)
        yield sink
        sink.finish()
        return
    names, part = _names(target, size, split)
    if not force and (there := [name for name in names if name.exists()]):
        raise UsageError(f"{there[0]} exists", "choose another name, or add --force")
    sink = _Sink(names, part)
    try:
        _room(target, size)
        yield sink
        sink.finish()
    except OSError as error:
        raise _refused(target, error) from None
    finally:
        sink.abandon()


def _names(target: Path, size: int, split: int) -> tuple[list[Path], int]:
    """The files to write, and the bytes of each but the last.

    A part is a little less than asked: on a stick with FAT32 a file ends one byte below 4 GiB.
    """
    if not split:
        return [target], size
    if split < _MIN_PART_BYTES:
        raise UsageError(f"parts of {split} bytes are too small", "--split 1m is the least")
    part = (split - 1) // archive.BLOCK * archive.BLOCK
    count = -(-size // part)
    if count > _PARTS:
        raise UsageError(
            f"{count} parts of {split} bytes are more than {_PARTS}", "choose larger parts"
        )
    return [target.with_name(f"{target.name}.{n:03}") for n in range(1, count + 1)], part


def _room(target: Path, size: int) -> None:
    import shutil

    free = shutil.disk_usage(target.absolute().parent).free
    if size > free:
        raise OutOfDisk(
            f"the archive is {size / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free in "
            f"{target.absolute().parent}",
            "free some space, or choose another disk",
        )


def _refused(target: Path, error: OSError) -> Failure | OutOfDisk:
    if error.errno in (ENOSPC, EDQUOT):
        return OutOfDisk(f"the disk of {target} is full", "free some space, or use another disk")
    if error.errno == EFBIG:
        return Failure(f"{target} is too large a file for that disk", "add --split 4g")
    return Failure(
        f"{error.filename or target} cannot be written: {error.strerror or error}",
        "choose another place",
    )


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
