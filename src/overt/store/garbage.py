"""What no name reaches, and its deletion."""

from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.store.lineage import made_from
from overt.store.links import own_bytes
from overt.store.manifest import Pointer, hex_of

if TYPE_CHECKING:
    from pathlib import Path

    from overt.store import Removed, Store


def collect(store: "Store") -> "Removed":
    """Delete manifests and blobs that no name reaches. Call only with the store lock held.

    The manifests that a recipe names stay as long as what was made from them, without their files:
    they say where it came from. Where a name or manifest cannot be read nobody knows what it needs,
    so nothing is deleted that it might.
    """
    from overt.store import Removed

    live: set[str] = set()
    needed: set[str] = set()
    try:
        for path in _listed(store.home / "names"):
            digest = Pointer.decode(path.read_bytes()).manifest
            manifest = store.manifest(digest)
            live |= {hex_of(one) for one in (digest, *made_from(manifest, store.path))}
            needed |= {hex_of(file.digest) for file in manifest.files}
    except OvertError:
        return Removed((), 0, 0, 0)
    manifests = [
        path
        for path in _listed(store.home / "manifests")
        if path.name.removesuffix(".json") not in live
    ]
    root = store.home / "blobs" / "sha256"
    blobs = [p for shard in _listed(root) for p in _listed(shard) if p.name not in needed]
    freed = left = 0
    for path in manifests:
        path.unlink(missing_ok=True)
    for path in blobs:
        freed += own_bytes(path)
        if link := store.link(f"sha256:{path.name}"):
            left += link.size
        path.unlink(missing_ok=True)
    store.links.sweep(root)
    return Removed((), len(manifests), len(blobs), freed, left)


def _listed(folder: "Path") -> "list[Path]":
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
