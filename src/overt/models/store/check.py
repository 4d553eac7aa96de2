"""Hash the store again and list what is wrong. Nothing is changed, and no damage raises."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.models.sources.base import sha256_of
from overt.models.store.manifest import File, Manifest, Pointer, file_name, hex_of
from overt.ref import Ref

if TYPE_CHECKING:
    from overt.models.store import FileLink, Store, StoreProblem

Progress = Callable[[str, int, int], None]


def check(store: "Store", ref: Ref | None, progress: Progress | None) -> "list[StoreProblem]":
    """As `Store.verify`."""
    job = _Check(store, progress)
    if ref is not None:
        manifest = store.get(ref)
        job.files(manifest, (str(ref),))
        return job.problems
    job.names()
    job.manifests()
    job.blobs()
    return job.problems


class _Check:
    def __init__(self, store: "Store", progress: Progress | None) -> None:
        self.store = store
        self.progress = progress
        self.problems: list[StoreProblem] = []
        self.needed: dict[str, list[str]] = {}  # manifest's hex -> names
        self.read: set[str] = set()  # blobs already hashed, hex

    def add(
        self,
        code: str,
        path: Path,
        message: str,
        refs: tuple[str, ...] = (),
        link: "FileLink | None" = None,
    ) -> None:
        from overt.models.store import StoreProblem

        where = path.relative_to(self.store.home).as_posix()
        if link:
            hint = f"type `overt adopt {link.owner}` to look at it again"
        elif refs:
            hint = f"type `overt rm {' '.join(refs)}`, then `overt pull {refs[0]}`"
        else:
            hint = f"delete {path}"
        self.problems.append(StoreProblem(code, message, hint, where, refs))

    def names(self) -> None:
        for path in _walk(self.store.home / "names"):
            try:
                pointer = Pointer.decode(path.read_bytes())
            except (OvertError, OSError):
                self.add("damaged_name", path, f"the name {path.name} cannot be read")
                continue
            if path.name != file_name_of(pointer.ref):
                self.add("stray", path, f"{path.name} holds the name of {pointer.ref}")
                continue
            self.needed.setdefault(hex_of(pointer.manifest), []).append(pointer.ref)
        for hexes, refs in self.needed.items():
            path = self.store.home / "manifests" / f"{hexes}.json"
            if not path.is_file() and self._still(refs):
                message = f"{refs[0]} points to a manifest that is missing"
                self.add("missing_manifest", path, message, tuple(refs))

    def manifests(self) -> None:
        for path in _walk(self.store.home / "manifests"):
            hexes = path.name.removesuffix(".json")
            refs = tuple(self.needed.get(hexes, ()))
            try:
                manifest = self.store.manifest(f"sha256:{hexes}")
            except OvertError as error:
                if path.exists():
                    self.add("damaged_manifest", path, error.message, refs)
                continue
            self.files(manifest, refs)

    def blobs(self) -> None:
        """What no manifest lists is garbage, but even garbage must be what its name says."""
        root = self.store.home / "blobs"
        for path in _walk(root):
            digest = f"sha256:{path.name}"
            try:
                proper = path == root / "sha256" / path.name[:2] / hex_of(digest)
            except OvertError:
                proper = False
            if not proper:
                self.add("stray", path, f"{path.name} is no file of the store")
            elif path.name not in self.read:
                self.file(File("other", path.name, digest, _size(path)), ())

    def files(self, manifest: Manifest, refs: tuple[str, ...]) -> None:
        for file in manifest.files:
            if hex_of(file.digest) not in self.read:
                self.file(file, refs)

    def file(self, file: File, refs: tuple[str, ...]) -> None:
        hexes = hex_of(file.digest)
        self.read.add(hexes)
        path = self.store.home / "blobs" / "sha256" / hexes[:2] / hexes
        link = self.store.link(file.digest)
        place = f"{file.path} at {link.path}" if link else file.path
        report = self.progress
        if path.is_symlink() and not link:
            self.add("stray", path, f"{file.path} is a link that Overt did not make", refs)
            return
        try:
            size = path.stat().st_size
            hexes_found = sha256_of(path, lambda n: report(file.path, n, size) if report else None)
        except FileNotFoundError:
            if refs and self._still(refs):
                message = f"{place}, of {refs[0]}, is missing"
                self.add("missing_blob", path, message, refs, link)
            return
        except OSError as error:
            message = f"{place} cannot be read: {error.strerror or error}"
            self.add("damaged_blob", path, message, refs, link)
            return
        code = "changed_link" if link else "damaged_blob"
        if size != file.size:
            message = f"{place} is {size} bytes where {file.size} were stored"
            self.add(code, path, message, refs, link)
        elif hexes_found != hexes:
            message = f"{place} has the digest sha256:{hexes_found[:12]}, not {file.digest[:19]}"
            self.add(code, path, message, refs, link)
        elif link and self.store.touched(file.digest):
            message = f"{place} was written since it was adopted, with the same content"
            self.add(code, path, message, refs, link)

    def _still(self, refs: "tuple[str, ...] | list[str]") -> bool:
        """Whether one of the names is still there: another process may have removed it just now."""
        return any((self.store.home / "names" / file_name_of(ref)).exists() for ref in refs)


def file_name_of(text: str) -> str:
    from overt.ref import parse

    return file_name(parse(text))


def _walk(root: Path) -> list[Path]:
    return sorted(Path(folder) / name for folder, _, names in os.walk(root) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
