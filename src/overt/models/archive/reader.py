"""Read an archive into the store: who signed it first, then every byte, then all at once.

Nothing enters the store before the signature, the signer, every digest and the kinds of the files
are proved. Until then the bytes are in the ``partial/`` folder of this manifest, where a later try
finds them: what a killed import left is hashed again, and reading goes on behind it.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from overt.errors import (
    FormatError,
    IntegrityError,
    NeedsAccess,
    NotFound,
    OutOfDisk,
    OvertError,
    UnsafeFile,
    UsageError,
)
from overt.models.archive import format as archive
from overt.models.archive.format import ArchiveIndex
from overt.models.archive.writer import dossier
from overt.models.sources.base import CHUNK, FetchProgress, Report, sha256_of
from overt.models.sources.staging import sync
from overt.models.store import Manifest, Store
from overt.models.store.lineage import made_from
from overt.models.store.manifest import hex_of
from overt.ref import Ref, parse
from overt.security.signing import SIGNATURE, SIGNER, Member, Signer, SigningKeys, need, verify
from overt.settings import Settings

_SPARE = 64 << 20  # bytes left free on the disk of the store
_PART = re.compile(r"(.+)\.(\d{3})")
Accept = Callable[[Signer, ArchiveIndex], bool]


@dataclass(frozen=True, slots=True)
class ImportedArchive:
    """A model that came in. `resumed` bytes were there from an earlier try or in the store.

    `receipts` came along, by the digest of their manifests: nothing in them is proved yet.
    """

    manifest: Manifest
    names: tuple[Ref, ...]
    signer: Signer
    resumed: int
    receipts: Mapping[str, bytes]


def bring(
    source: Path | None,
    settings: Settings,
    accept: Accept,
    *,
    name: str | None = None,
    replace: bool = False,
    progress: Callable[[FetchProgress], None] | None = None,
) -> ImportedArchive:
    """Import an archive: a file, the first of its parts, or stdin (None).

    Args:
        accept: asked about a signer who is not known yet; one that is accepted is remembered.
        name: what to call the model instead of the names the archive gives it.
        replace: let a name that is another model's here become this one's.

    Raises:
        NotFound: no such file, a part is missing, or `model-signing` is not installed.
        NeedsAccess: the signer was not accepted.
        UnsafeFile: it holds what no archive may hold, or a pickled checkpoint.
        FormatError, IntegrityError: no archive, cut off, or changed after it was signed.
        UsageError: a name is taken.
        OutOfDisk, Busy, Failure: the store cannot be written.
    """
    need()
    with _open(source) as stream:
        keys = SigningKeys(settings.home)
        archive, signer = _head(stream, keys)
        _check_signer(signer, archive, keys, accept)
        store = Store(settings.home)
        job = _ImportJob(store, stream, archive, progress or (lambda _: None))
        names = _names(store, archive, name, replace)
        with store.pulling(Ref("sha256", archive.manifest), job.waiting) as folder:
            manifest = job.run(folder, names)
        return ImportedArchive(manifest, names, signer, job.resumed, job.receipts())


def _head(stream: "_ArchiveStream", keys: SigningKeys) -> tuple[ArchiveIndex, Signer]:
    """The head, its signature proved to be by the key beside it."""
    head, pem, signature = (stream.small(name) for name in (archive.ARCHIVE, SIGNER, SIGNATURE))
    incoming = ArchiveIndex.decode(head)
    verify([archive.member_of(archive.ARCHIVE, head), *incoming.members], pem, signature)
    return incoming, keys.signer(pem)


def _check_signer(signer: Signer, archive: ArchiveIndex, keys: SigningKeys, accept: Accept) -> None:
    if signer.known:
        return
    if not accept(signer, archive):
        raise NeedsAccess(
            f"the archive is signed by a key you have not accepted: sha256:{signer.fingerprint}",
            "compare it with what its sender says, then add --trust and the fingerprint",
        )
    keys.accept(signer)


def _names(
    store: Store, incoming: ArchiveIndex, name: str | None, replace: bool
) -> tuple[Ref, ...]:
    """What to call it. Raises UsageError where that is another model already."""
    names = (parse(name),) if name else incoming.names
    if any(ref.scheme not in archive.NAMED for ref in names):
        raise UsageError(f"{name} cannot be the name of a stored model", "choose a plain word")
    if not names:
        raise UsageError("the archive gives its model no name", "add --as NAME")
    for ref in names:
        try:
            there = store.get(ref)
        except OvertError:
            continue
        if there.digest != incoming.manifest and not replace:
            raise UsageError(
                f"{ref} is another model here ({there.digest[:19]})",
                "add --as NAME, or --replace to let the name be the new one's",
            )
    return names


def _known_names(names: tuple[Ref, ...], manifest: Manifest) -> None:
    """Raises UsageError where the catalogue calls another model by one of these names."""
    from overt.models.sources.catalogue import lookup

    for ref in names:
        entry = lookup(ref)
        if entry and entry.sha256 and f"sha256:{entry.sha256}" != manifest.weights.digest:
            raise UsageError(f"{ref} is the catalogue's name for another model", "add --as NAME")


class _ImportJob:
    """One archive on its way in."""

    def __init__(
        self, store: Store, stream: "_ArchiveStream", archive: ArchiveIndex, report: Report
    ) -> None:
        self.store = store
        self.stream = stream
        self.found = archive
        self.report = report
        self.resumed = 0
        self.files: dict[str, Path] = {}  # digest -> where it is, whole
        self.beside: dict[str, Path] = {}  # name of another member -> where it is

    def waiting(self) -> None:
        self.report(FetchProgress("another process is importing the same model", 0, None))

    def run(self, folder: Path, names: tuple[Ref, ...]) -> Manifest:
        """Bring the files to `folder`, prove them, and commit them."""
        refs = [*(str(name) for name in names), self.found.manifest]
        (folder / "refs.json").write_text(json.dumps(refs), "utf-8")
        self._room(folder)
        manifest: Manifest | None = None
        for member in self.found.members:
            path = self._member(member, folder)
            if member.name == archive.MANIFEST:
                manifest = Manifest.decode(path.read_bytes())
                self.found.check(manifest)
                _known_names(names, manifest)
            elif member.name.startswith(archive.MODEL):
                self.files[f"sha256:{member.sha256}"] = path
            else:
                self.beside[member.name] = path
        self.stream.end()
        assert manifest  # the first member
        self._check(manifest)
        line = self._line(manifest)
        new = {digest: path for digest, path in self.files.items() if path.parent == folder}
        self.store.commit(manifest, new, names)
        for older in line:
            self.store.note(older)
        self._keep_dossier(manifest)
        _clear(folder)
        return manifest

    def _room(self, folder: Path) -> None:
        import shutil

        held = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        stored = sum(m.size for m in self.found.members if self.store.blob(f"sha256:{m.sha256}"))
        missing = self.found.size - held - stored
        free = shutil.disk_usage(folder).free
        if missing + _SPARE > free:
            raise OutOfDisk(
                f"{missing / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free on the "
                "disk of the store",
                "free some space, or set OVERT_HOME to a folder on a larger disk",
            )

    def _member(self, member: Member, folder: Path) -> Path:
        """Bring one file, behind what an earlier try left of it; returns where it is, whole."""
        archive_size = archive.expect(self.stream.read(archive.BLOCK), member.name, member.size)
        if archive_size != member.size:
            raise FormatError(f"{member.name} is {archive_size} bytes, {member.size} are stated")
        target = folder / member.sha256
        if there := self._present(member, target):
            self.stream.skip(member.size)
            self.resumed += member.size
        else:
            self._append(member, target)
        if any(self.stream.read(archive.padding(member.size))):
            raise FormatError(f"behind {member.name} the archive holds what no tar does")
        return there or target

    def _present(self, member: Member, target: Path) -> Path | None:
        """The file, hashed again, from an earlier try or from the store."""
        for path in (target, self.store.blob(f"sha256:{member.sha256}")):
            if path is None or not path.is_file() or path.stat().st_size != member.size:
                continue
            if path != target and self.store.touched(f"sha256:{member.sha256}"):
                continue
            shown = f"checking {member.name}"
            tell = lambda done, what=shown: self.report(FetchProgress(what, done, member.size))  # noqa: E731
            if sha256_of(path, tell) == member.sha256:
                return path
        return None

    def _append(self, member: Member, target: Path) -> None:
        part = target.with_name(f"{member.sha256}.part")
        begin = self.stream.at
        have = part.stat().st_size if part.is_file() else 0
        if have > member.size or not self._copy(member, part, have):
            part.unlink()
            if not self.stream.back(begin) or not self._copy(member, part, 0):
                part.unlink(missing_ok=True)
                raise IntegrityError(
                    f"{member.name} differs from its digest: the archive was damaged on its way",
                    "copy the archive again, then type the same command: what is good is kept",
                )
        sync(part)
        part.replace(target)

    def _copy(self, member: Member, part: Path, have: int) -> bool:
        """Write the rest of a file behind its first `have` bytes; whether all has its digest."""
        digest = sha256()
        with part.open("a+b", buffering=0) as file:
            file.seek(0)
            left = have
            while left:
                block = file.read(min(CHUNK, left))
                digest.update(block)
                left -= len(block)
            self.stream.skip(have)
            self.resumed += have
            done = have
            while done < member.size:
                block = self.stream.read(min(CHUNK, member.size - done))
                digest.update(block)
                file.write(block)
                done += len(block)
                self.report(FetchProgress(f"reading {member.name}", done, member.size))
        if digest.hexdigest() == member.sha256:
            return True
        self.resumed -= have
        return False

    def _check(self, manifest: Manifest) -> None:
        """What a pull checks too: weights are what their name says, and no pickle."""
        from overt.formats.pickle import looks_pickled
        from overt.models.sources.file_selection import refused
        from overt.models.sources.folder import check_magic

        for file in manifest.files:
            if file.role in ("weights", "projector", "adapter", "draft"):
                path = self.files[file.digest]
                if looks_pickled(path):
                    raise refused("the archive", file.path)
                check_magic(path, file.path)

    def _line(self, manifest: Manifest) -> list[Manifest]:
        """The manifests that came along because recipes name them; no others may."""
        names = made_from(manifest, lambda file: self.files[file.digest])
        wanted = {f"{archive.CHAIN}{hex_of(digest)}.json": digest for digest in names}
        line = []
        for name, path in self.beside.items():
            if not name.startswith(archive.CHAIN):
                continue
            older = Manifest.decode(path.read_bytes())
            if wanted.get(name) != older.digest:
                raise UnsafeFile(f"the archive is refused: no recipe of its model names {name}")
            line.append(older)
        own = {hex_of(manifest_.digest) for manifest_ in (manifest, *line)}
        if strange := sorted(self.found.receipts.keys() - own):
            raise UnsafeFile(
                f"the archive is refused: it has a receipt of {strange[0][:12]}, which is no model "
                "in it",
                "have it exported again: overt export REF",
            )
        return line

    def receipts(self) -> dict[str, bytes]:
        """By the digest of the manifest, as they are kept."""
        return {
            f"sha256:{hexes}": text.encode("utf-8", "surrogatepass")
            for hexes, text in self.found.receipts.items()
        }

    def _keep_dossier(self, manifest: Manifest) -> None:
        if path := self.beside.get(archive.DOSSIER):
            target = dossier(self.store.home, manifest)
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(f".{target.name}.{os.getpid()}")
            new.write_bytes(path.read_bytes())
            new.replace(target)


class _ArchiveStream:
    """The bytes of an archive in order, over all its parts; from a pipe they only go forward."""

    def __init__(self, parts: list[Path], pipe: BinaryIO | None) -> None:
        self._parts = parts
        self._pipe = pipe
        self._file: BinaryIO | None = None
        self._number = -1
        self._before = 0  # bytes of the parts before this one
        self.at = 0

    def __enter__(self) -> "_ArchiveStream":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises FormatError where the archive ends before."""
        data = self._some(count)
        while len(data) < count:
            more = self._some(count - len(data))
            if not more:
                raise self._cut()
            data += more
        return data

    def small(self, name: str) -> bytes:
        """A whole file of the head."""
        size = archive.expect(self.read(archive.BLOCK), name, archive.MAX_MEMBER_BYTES[name])
        data = self.read(size)
        if any(self.read(archive.padding(size))):
            raise FormatError(f"behind {name} the archive holds what no tar does")
        return data

    def skip(self, count: int) -> None:
        """Go forward, without reading where that can be."""
        if self._pipe:
            while count:
                count -= len(self.read(min(CHUNK, count)))
        else:
            self._go(self.at + count)

    def back(self, to: int) -> bool:
        """Go back to an earlier place; False where that cannot be."""
        if self._pipe:
            return False
        self._go(to)
        return True

    def end(self) -> None:
        """Prove that nothing comes but the end of the tar."""
        if any(self.read(2 * archive.BLOCK)) or self._some(1):
            raise FormatError(
                "behind its last file the archive holds more", "get the archive again"
            )

    def _some(self, count: int) -> bytes:
        if not count:
            return b""
        if self._pipe:
            data = self._pipe.read(count)
        else:
            data = self._file.read(count) if self._file else b""
            while not data and self._open_next():
                assert self._file
                data = self._file.read(count)
        self.at += len(data)
        return data

    def _open_next(self) -> bool:
        if self._number + 1 >= len(self._parts):
            return False
        if self._file:
            self._before += os.fstat(self._file.fileno()).st_size
            self._file.close()
        self._number += 1
        self._file = self._parts[self._number].open("rb")
        return True

    def _go(self, to: int) -> None:
        """Be at byte `to`, in whichever part it is."""
        before = 0
        for number, path in enumerate(self._parts):
            size = path.stat().st_size
            if to < before + size or number == len(self._parts) - 1:
                if to > before + size:
                    break
                if number != self._number:
                    if self._file:
                        self._file.close()
                    self._file = path.open("rb")
                    self._number, self._before = number, before
                assert self._file
                self._file.seek(to - before)
                self.at = to
                return
            before += size
        self.at = before
        raise self._cut()

    def _cut(self) -> OvertError:
        if len(self._parts) and (match := _PART.fullmatch(self._parts[-1].name)):
            after = self._parts[-1].with_name(f"{match[1]}.{int(match[2]) + 1:03}")
            return NotFound(
                f"the archive goes on in {after.name}, which is not in {after.absolute().parent}",
                "put it there and type the same command: what came is kept",
            )
        return FormatError(
            f"the archive ends at byte {self.at}, before all of it has come",
            "get the whole file and type the same command: what came is kept",
        )


def _open(source: Path | None) -> _ArchiveStream:
    """Raises NotFound where there is no such file."""
    if source is None:
        return _ArchiveStream([], sys.stdin.buffer)
    source = source.expanduser()
    first = source.with_name(f"{source.name}.001")
    if not source.exists() and first.is_file():
        source = first
    if not source.is_file():
        raise NotFound(f"there is no file {source}", "check the path of the archive")
    match = _PART.fullmatch(source.name)
    if not match:
        return _ArchiveStream([source], None)
    if int(match[2]) != 1:
        raise NotFound(f"{source.name} is not the first part", f"name {match[1]}.001")
    parts = [source]
    while (after := source.with_name(f"{match[1]}.{len(parts) + 1:03}")).is_file():
        parts.append(after)
    return _ArchiveStream(parts, None)


def _clear(folder: Path) -> None:
    from shutil import rmtree

    rmtree(folder, ignore_errors=True)
