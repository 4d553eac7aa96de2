"""What no name reaches, and its deletion."""

import re
from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.models.recipe import Recipe
from overt.models.store.lineage import made_from
from overt.models.store.links import own_bytes
from overt.models.store.manifest import Pointer, hex_of

_HEX = re.compile(r"[0-9a-f]{64}")

if TYPE_CHECKING:
    from pathlib import Path

    from overt.models.store import Removed, Store


def collect(store: "Store") -> "Removed":
    """Delete manifests and blobs that no name reaches. Call only with the store lock held.

    The manifests that a recipe names stay as long as what was made from them, without their files:
    they say where it came from. Where a name or manifest cannot be read nobody knows what it needs,
    so nothing is deleted that it might.
    """
    from overt.models.store import Removed

    live: set[str] = set()
    needed: set[str] = set()
    try:
        for path in _listed(store.home / "names"):
            digest = Pointer.decode(path.read_bytes()).manifest
            manifest = store.manifest(digest)
            live |= {hex_of(parent) for parent in (digest, *made_from(manifest, store.path))}
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
    freed += _private(store, live)
    return Removed((), len(manifests), len(blobs), freed, left)


def _private(store: "Store", live: set[str]) -> int:
    """Delete the receipts of models that are gone, and data that only their recipes read.

    Unfinished work needs its data too. Returns the bytes freed.
    """
    needed = set(live)
    for path in _listed(store.home / "jobs"):
        try:
            recipe = Recipe.decode((path / "recipe.json").read_bytes())
        except FileNotFoundError:  # a replay's
            continue
        except (OvertError, OSError):
            return 0
        needed |= {hex_of(entry.digest) for entry in recipe.inputs}
    gone = [p for p in _listed(store.home / "data") if _HEX.fullmatch(p.name)]
    gone += [p for p in _listed(store.home / "receipts") if _HEX.fullmatch(p.stem)]
    freed = 0
    for path in gone:
        if path.stem not in needed:
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed


def _listed(folder: "Path") -> "list[Path]":
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
