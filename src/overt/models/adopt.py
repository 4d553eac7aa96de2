"""Use the models of other programs where they lie: no second copy, nothing of theirs changed.

Each file is hashed once (the digest is kept until the file changes), compared with the digest the
other program states, checked like a downloaded one, and linked into the store: a hard link where
the disk allows it, else a reference. What cannot be used is named with the reason, and the rest
goes on.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from overt.errors import IntegrityError, ModelNotFound, OvertError, UsageError
from overt.models.sources.base import CHUNK, FetchProgress, Report
from overt.models.sources.local_caches import (
    PROGRAMS,
    ForeignFile,
    ForeignModel,
    ForeignPlace,
    any_folder,
    places,
)
from overt.models.store import File, FileLink, Manifest, Store
from overt.ref import Ref, safe_member
from overt.settings import Settings

__all__ = ["AdoptReport", "Adopted", "SkippedModel", "adopt"]

How = Literal["hard link", "reference", "here already"]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A model of another program that the store can now use.

    Attributes:
        program: for people.
        shown: what that program calls it.
        name: what it is called here.
        digest: of its manifest; "" in a dry run, which hashes nothing.
        size: bytes of all its files.
        how: how its weights got in.
    """

    program: str
    shown: str
    name: Ref
    digest: str
    size: int
    how: How


@dataclass(frozen=True, slots=True)
class SkippedModel:
    """What was not adopted; `reason` goes on from `shown` as a sentence."""

    program: str
    shown: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdoptReport:
    """The folders that were looked into, and what came of it."""

    places: tuple[ForeignPlace, ...]
    adopted: tuple[Adopted, ...]
    skipped: tuple[SkippedModel, ...]


def adopt(
    what: str | None,
    settings: Settings,
    progress: Callable[[FetchProgress], None] | None = None,
    dry_run: bool = False,
    environ: "dict[str, str] | None" = None,
) -> AdoptReport:
    """Take the models of a program (a key of `PROGRAMS`), of a folder, or of all programs (None).

    With `dry_run` nothing is hashed and nothing written: the answer is what would be done.

    Raises:
        UsageError: `what` is neither a program nor a folder.
        ModelNotFound: that program keeps no models on this machine.
        Busy, OutOfDisk, Failure: the store cannot be written.
    """
    all_places = _places(what, dict(os.environ) if environ is None else environ)
    job = _AdoptJob(settings, progress or (lambda _: None), dry_run)
    for place in all_places:
        for item in place.look():
            if isinstance(item, ForeignModel):
                job.take(place, item)
            else:
                job.skipped.append(SkippedModel(place.program, item.shown, item.reason))
    return AdoptReport(tuple(all_places), tuple(job.adopted), tuple(job.skipped))


def _places(what: str | None, environ: dict[str, str]) -> list[ForeignPlace]:
    if what is None:
        return [place for key in PROGRAMS for place in places(key, environ)]
    if what in PROGRAMS:
        if matching := places(what, environ):
            return matching
        raise ModelNotFound(
            f"{PROGRAMS[what][0]} keeps no models on this machine",
            "name the folder that holds them: overt adopt FOLDER",
        )
    path = Path(what).expanduser().absolute()
    if path.is_dir():
        return [any_folder(path)]
    raise UsageError(
        f"{what} is neither a folder nor a program whose models Overt knows",
        f"write {', '.join(PROGRAMS)} or the path of a folder",
    )


class _AdoptJob:
    def __init__(self, settings: Settings, report: Report, dry_run: bool) -> None:
        self.settings = settings
        self.report = report
        self.dry_run = dry_run
        self.store = Store(settings.home)
        self.adopted: list[Adopted] = []
        self.skipped: list[SkippedModel] = []

    def take(self, place: ForeignPlace, model: ForeignModel) -> None:
        """Adopt one model, or say why not."""
        try:
            self.adopted.append(
                self._dry(place, model) if self.dry_run else self._one(place, model)
            )
        except OvertError as error:
            self.skipped.append(SkippedModel(place.program, model.shown, error.message))
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}"
            self.skipped.append(SkippedModel(place.program, model.shown, reason))
        except UnicodeEncodeError:
            reason = "its path holds bytes that are no text"
            self.skipped.append(SkippedModel(place.program, model.shown, reason))

    def _one(self, place: ForeignPlace, model: ForeignModel) -> Adopted:
        files: list[File] = []
        links: dict[str, FileLink] = {}
        for part in model.parts:
            safe_member(part.path)
            link = FileLink.of(part.file.resolve(strict=True), place.key)
            if part.role in ("weights", "projector", "adapter", "draft"):
                _check(part, model.shown)
            hexes = self._digest(part, model.shown)
            links[f"sha256:{hexes}"] = link
            files.append(File(part.role, part.path, f"sha256:{hexes}", link.size))
        manifest = _proper(Manifest(tuple(files), str(model.ref), model.origin, model.licence))
        name = self._name(model, manifest)
        if existing := self._kept(name, manifest):
            return Adopted(
                place.program, model.shown, name, existing.digest, existing.size, "here already"
            )
        here = self._here(manifest.weights)
        self.store.commit(manifest, {}, [name], links)
        blob = self.store.blob(manifest.weights.digest)
        how: How = "reference" if blob and blob.is_symlink() else "hard link"
        how = "here already" if here else how
        return Adopted(place.program, model.shown, name, manifest.digest, manifest.size, how)

    def _here(self, file: File) -> bool:
        try:
            return bool(self.store.path(file))
        except IntegrityError:
            return False

    def _dry(self, place: ForeignPlace, model: ForeignModel) -> Adopted:
        from overt.models.sources.folder import check_magic

        size = 0
        for part in model.parts:
            size += part.file.stat().st_size
            if part.role in ("weights", "projector"):
                check_magic(part.file, part.path)
        disk = next(p for p in (self.settings.home, *self.settings.home.parents) if p.exists())
        weights = next(part for part in model.parts if part.role == "weights").file
        same = weights.stat().st_dev == disk.stat().st_dev
        name = model.name or model.ref
        return Adopted(
            place.program, model.shown, name, "", size, "hard link" if same else "reference"
        )

    def _digest(self, part: ForeignFile, shown: str) -> str:
        """64 hex of the file, which must be what its program states.

        Raises:
            IntegrityError: it is another file. OSError: it cannot be read.
        """
        from overt.models.sources.folder import digest

        file = part.file.resolve(strict=True)
        actual = digest(file, self.settings.home / "digests", self.report)
        if part.sha256 not in (None, actual):
            raise IntegrityError(
                f"its {part.path} is damaged: it has the digest {actual[:12]} where "
                f"{(part.sha256 or '')[:12]} is stated"
            )
        if part.git_sha1 and part.git_sha1 != _git_sha1(file):
            raise IntegrityError(f"its {part.path} is damaged: its git id is not the one stated")
        return actual

    def _name(self, model: ForeignModel, manifest: Manifest) -> Ref:
        """What to call it: a name that another model already has, or that the catalogue has, gets
        the beginning of this model's digest as its tag, so that nothing is called two things.
        """
        if model.name:
            return model.name
        if model.ref.scheme != "name" or self._free(model.ref, manifest):
            return model.ref
        return Ref("name", model.ref.name, tag=manifest.weights.digest[7:15])

    def _kept(self, name: Ref, manifest: Manifest) -> Manifest | None:
        """A model that was pulled under this name and has the same weights: it stays as it is.

        Raises:
            UsageError: what was pulled under this name is another model.
        """
        try:
            there = self.store.get(name)
        except OvertError:
            return None
        same = there.weights.digest == manifest.weights.digest
        if there.digest == manifest.digest or self.store.link(there.weights.digest):
            return None
        if not same:
            raise UsageError(
                f"{name} is another model here, which was pulled ({there.digest[:19]}): "
                f"`overt rm {name}` first"
            )
        return there if self.store.whole(there) else None

    def _free(self, name: Ref, manifest: Manifest) -> bool:
        from overt.models.sources.catalogue import lookup

        if lookup(name):
            return False
        try:
            there = self.store.get(name)
        except OvertError:
            return True
        return (there.ref, there.origin) == (manifest.ref, manifest.origin)


def _proper(manifest: Manifest) -> Manifest:
    """The manifest, proved to be one that can be read again. Raises IntegrityError."""
    return Manifest.decode(manifest.encode())


def _check(part: ForeignFile, shown: str) -> None:
    """Raises UnsafeFile or FormatError where the file is no GGUF and no safetensors."""
    from overt.formats.pickle import looks_pickled
    from overt.models.sources.file_selection import refused
    from overt.models.sources.folder import check_magic

    if looks_pickled(part.file):
        raise refused(shown, part.path)
    check_magic(part.file, part.path)


def _git_sha1(file: Path) -> str:
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as opened:
        while block := opened.read(CHUNK):
            yield block
