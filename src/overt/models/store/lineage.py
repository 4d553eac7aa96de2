"""What a manifest was made from, as its recipes say."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.models.recipe import MAX_BYTES, Recipe

if TYPE_CHECKING:
    from overt.models.store import Store
    from overt.models.store.manifest import File, Manifest

_MAX_ANCESTORS = 1000


def made_from(manifest: "Manifest", where: "Callable[[File], Path]") -> tuple[str, ...]:
    """The digests (``sha256:…``) of everything its recipes read, models and plain files alike.

    `where` gives the place of a file, as `Store.path` does. A made model carries the recipes of
    what it was made from too, so this is the whole line. A recipe that is missing or damaged is
    passed over: `verify` tells.
    """
    digests: dict[str, None] = {}
    for file in manifest.files:
        if file.role != "recipe" or file.size > MAX_BYTES:
            continue
        try:
            recipe = Recipe.decode(where(file).read_bytes())
        except (OvertError, OSError):
            continue
        digests |= dict.fromkeys(entry.digest for entry in recipe.inputs)
    return tuple(digests)[:_MAX_ANCESTORS]


def ancestors(store: "Store", manifest: "Manifest") -> "list[Manifest]":
    """The manifests among `made_from` that are here."""
    manifests = []
    for digest in made_from(manifest, store.path):
        try:
            manifests.append(store.manifest(digest))
        except OvertError:  # a plain file, or a model that is gone
            continue
    return manifests
