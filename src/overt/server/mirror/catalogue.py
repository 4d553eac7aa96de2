"""What a mirror offers: the models of the store, under ids of a hub and names of a registry.

===================================  ===============================  ===========================
in the store                         hub id, revision                 registry name, tag
===================================  ===============================  ===========================
``hf:org/repo@…``                    org/repo, the commit (and @…)    org/repo, the same
``smollm2``, ``smollm2:q4``          local/smollm2, main or q4        smollm2, latest or q4
``ollama:llama3.2:1b``                                                library/llama3.2, 1b
``oci:host/team/model:v1``                                            team/model, v1
===================================  ===============================  ===========================

A hub's revision is a commit: that of the origin, or for a model of another origin the first 40 hex
digits of its manifest's digest. ``main`` and ``latest`` are the newest revision that is here where
no name says which it is: a mirror cannot know more.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from overt.errors import BadRef
from overt.models.store import File, Manifest, Store, StoreEntry
from overt.ref import Ref, parse

HUB, REGISTRY = "hub", "registry"
_LOCAL = "local"
_NEWEST = {HUB: "main", REGISTRY: "latest"}


@dataclass(slots=True)
class Revision:
    """Everything the store has of one revision; the same path is the same file in all manifests."""

    commit: str
    manifests: list[Manifest] = field(default_factory=list)
    time: str = ""
    names: set[str] = field(default_factory=set)

    @property
    def files(self) -> dict[str, File]:
        files: dict[str, File] = {}
        for manifest in self.manifests:
            for file in manifest.files:
                files.setdefault(file.path, file)
        return dict(sorted(files.items()))

    @property
    def licence(self) -> str | None:
        return next((manifest.licence for manifest in self.manifests if manifest.licence), None)

    @property
    def created(self) -> str:
        return next((manifest.created for manifest in self.manifests if manifest.created), "")


@dataclass(slots=True)
class Repository:
    """One id with its revisions, newest first."""

    id: str
    revisions: list[Revision] = field(default_factory=list)

    def revision(self, name: str, newest: str) -> Revision | None:
        """By commit or name; `newest` is what means the newest where no revision is called so."""
        for revision in self.revisions:
            if name == revision.commit or name in revision.names:
                return revision
        return self.revisions[0] if name == newest and self.revisions else None


class MirrorCatalogue:
    """The store as a mirror sees it, read again when a name changes. Safe for several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._doors: Mapping[str, Mapping[str, Repository]] = {HUB: {}, REGISTRY: {}}

    def all(self, door: str) -> Mapping[str, Repository]:
        """Every repository by id, as `door` (HUB or REGISTRY) calls it."""
        with self._lock:
            stamp = self._stamp()
            if stamp is None or stamp != self._seen:
                self._doors = _sorted(self.store.names())
                self._seen = stamp
            return self._doors[door]

    def repository(self, door: str, id: str) -> Repository | None:
        """By id; a registry's names have no capitals, so there they are not told apart."""
        everything = self.all(door)
        if door == HUB or id in everything:
            return everything.get(id)
        return next(
            (repository for key, repository in everything.items() if key.lower() == id.lower()),
            None,
        )

    def revision(self, door: str, id: str, name: str) -> Revision | None:
        repository = self.repository(door, id)
        return repository.revision(name, _NEWEST[door]) if repository else None

    def _stamp(self) -> tuple[int, ...] | None:
        """Changes when a name or manifest does; None while a change could still hide in it."""
        times = []
        for folder in ("names", "manifests"):
            try:
                times.append((self.store.home / folder).stat().st_mtime_ns)
            except OSError:
                times.append(0)
        # A folder's time can be as coarse as a second: two changes in one look like none.
        return tuple(times) if max(times) < time.time_ns() - 2_000_000_000 else None


def _sorted(entries: list[StoreEntry]) -> dict[str, dict[str, Repository]]:
    doors: dict[str, dict[str, Repository]] = {HUB: {}, REGISTRY: {}}
    for entry in sorted(entries, key=lambda entry: entry.time, reverse=True):
        for door, id, commit, name in _places(entry.ref, entry.manifest):
            repository = doors[door].setdefault(id, Repository(id))
            _place(repository, commit, name, entry)
    return {door: dict(sorted(repositories.items())) for door, repositories in doors.items()}


def _place(repository: Repository, commit: str, name: str | None, entry: StoreEntry) -> None:
    revision = next(
        (candidate for candidate in repository.revisions if candidate.commit == commit), None
    )
    if revision is None:
        revision = Revision(commit, time=entry.time)
        repository.revisions.append(revision)
    if all(manifest.digest != entry.manifest.digest for manifest in revision.manifests):
        revision.manifests.append(entry.manifest)
    taken = any(name in candidate.names for candidate in repository.revisions)
    if name and not taken:  # of two that were called so, the newer is
        revision.names.add(name)


def _places(ref: Ref, manifest: Manifest) -> Iterator[tuple[str, str, str, str | None]]:
    """Where a name of the store is found: (door, id, commit, name of the revision)."""
    own = manifest.digest.removeprefix("sha256:")[:40]
    if not any(file.role == "weights" for file in manifest.files):
        return
    if ref.scheme == "name":
        yield HUB, f"{_LOCAL}/{ref.name}", own, ref.tag or "main"
        yield REGISTRY, ref.name, own, ref.tag or "latest"
    if ref.scheme == "oci":
        yield REGISTRY, ref.name, own, ref.tag or "latest"
    if ref.scheme == "ollama":
        name = ref.name if "/" in ref.name else f"library/{ref.name}"
        yield REGISTRY, name, own, ref.tag or "latest"
    if origin := _hub_origin(ref, manifest):
        id, commit = origin
        tag = ref.tag if ref.scheme == "hf" else None
        yield HUB, id, commit, tag or ("main" if ref.scheme == "hf" else None)
        yield REGISTRY, id, commit, tag or ("latest" if ref.scheme == "hf" else None)


def _hub_origin(ref: Ref, manifest: Manifest) -> tuple[str, str] | None:
    """Repository and commit where it is what a hub had: pulled, or adopted under that name."""
    if manifest.origin.get("source") != "hf" and ref.scheme != "hf":
        return None
    try:
        came = parse(manifest.ref)
    except BadRef:
        return None
    return (came.name, came.tag) if came.scheme == "hf" and came.tag else None
