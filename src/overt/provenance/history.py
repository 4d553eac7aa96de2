"""Where a model came from: each step that made it, back to the bytes that somebody else published.

Only this disk is read. What a recipe names and is not here is drawn as its digest. A model that was
brought in with the recipes of its ancestors, and without the ancestors, has those recipes in a row
where only one of its inputs can have been made by them; else they are told without a place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from overt.errors import NotFound, OvertError
from overt.models import pull
from overt.models.recipe import Input, Recipe
from overt.models.store import Manifest, Store
from overt.provenance import inputs, receipts
from overt.security.signing import SigningKeys
from overt.settings import Settings

_MODELS = (*inputs.MODELS, "base", "adapter")
"""Roles of inputs that may be models; an adapter may be a file."""
_MAX_NODES = 1000  # nodes; hostile recipes could name each other in numbers
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class HistoryNode:
    """A model or a file in the line of another.

    Attributes:
        role: what its descendant used it for; "" at the top.
        name: what a person calls it, or "".
        digest: of the manifest or file; "" where only a recipe is known.
        kind: ``model``, ``file`` or ``unknown`` (neither is here); ``step`` where it is known that
            this was done on the way, and not what came of it.
        here: whether its files are on this disk.
        recipe: how it was made; None for what came from elsewhere.
        date: when it was made or named here, or published (ISO 8601), or "".
        licence: as its manifest says.
        signature: the state of its receipt's.
        origin: facts about where it came from.
        inputs: what it was made of.
    """

    role: str
    name: str
    digest: str
    kind: str
    here: bool
    recipe: Recipe | None = None
    date: str = ""
    licence: str | None = None
    signature: receipts.State = "none"
    origin: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple["HistoryNode", ...] = ()

    def as_json(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "role": self.role or None,
            "name": self.name or None,
            "digest": self.digest or None,
            "kind": self.kind,
            "here": self.here,
            "step": recipe.step if recipe else None,
            "version": recipe.version if recipe else None,
            "parameters": dict(recipe.parameters) if recipe else None,
            "environment": dict(recipe.environment) if recipe else None,
            "recipe": recipe.digest if recipe else None,
            "date": self.date or None,
            "licence": self.licence,
            "signature": self.signature,
            "origin": dict(self.origin),
            "inputs": [child.as_json() for child in self.inputs],
        }


def history(ref: str, settings: Settings) -> HistoryNode:
    """The line of the model `ref`.

    Raises:
        ModelNotFound, IntegrityError: it is not here, or damaged.
        NotFound: it is a plain file, about which nothing is recorded.
    """
    manifest = pull.find(ref, settings).manifest
    if manifest is None:
        raise NotFound(f"{ref} is a plain file, which has no history", "name a model of the store")
    store = Store(settings.home)
    dates = {entry.manifest.digest: entry.time for entry in store.names()}
    return _Walk(store, SigningKeys(settings.home), dates).model("", ref, manifest)


def recipe(ref: str, settings: Settings) -> Recipe:
    """The newest recipe of the model `ref`.

    Raises:
        ModelNotFound, IntegrityError: it is not here, or damaged.
        NotFound: it was not made by a recipe.
    """
    recipe_ = history(ref, settings).recipe
    if recipe_ is None:
        raise NotFound(f"{ref} was not made by a recipe", f"`overt history {ref}` shows its origin")
    return recipe_


def receipt(ref: str, settings: Settings) -> bytes:
    """The receipt of the model `ref`, as it is kept.

    Raises:
        ModelNotFound, IntegrityError: the model is not here, or damaged.
        NotFound: there is no receipt of it here.
    """
    digest = history(ref, settings).digest
    data = receipts.of(digest, settings.home)
    if data is None:
        raise NotFound(f"there is no receipt of {ref} here", "only what is made here has one")
    return data


class _Walk:
    def __init__(self, store: Store, keys: SigningKeys, dates: Mapping[str, str]) -> None:
        self._store = store
        self._keys = keys
        self._dates = dates
        self._count = 0
        self._depth = 0

    def model(self, role: str, name: str, manifest: Manifest) -> HistoryNode:
        self._count += 1
        store, digest = self._store, manifest.digest
        recipes = inputs.recipes(manifest, store)
        recipe = recipes[0] if recipes else None
        date, signature = self._signed(manifest, recipe)
        below: tuple[HistoryNode, ...] = ()
        if recipe is not None:
            below = self._inputs(recipe, recipes[1:])
        return HistoryNode(
            role,
            name,
            digest,
            "model",
            store.whole(manifest),
            recipe,
            date or self._dates.get(digest, "") if recipe else manifest.created,
            manifest.licence,
            signature,
            {} if recipe else _origin(manifest),
            below,
        )

    def _inputs(self, newest: Recipe, older: list[Recipe]) -> tuple[HistoryNode, ...]:
        """`older` are the recipes of all its inputs, and of theirs."""
        nodes: list[HistoryNode] = []
        if self._depth >= _MAX_DEPTH:
            return ()
        self._depth += 1
        bases = {
            entry.digest: inputs.manifest(entry.digest, self._store) for entry in newest.inputs
        }
        of_those = {
            recipe.digest
            for base in bases.values()
            if base
            for recipe in inputs.recipes(base, self._store)
        }
        older = [older_recipe for older_recipe in older if older_recipe.digest not in of_those]
        gone = {
            entry.digest
            for entry in newest.inputs
            if self._may_be_model(entry, bases[entry.digest])
        }
        if len(older) == 1:  # it did not make what it read
            gone -= {entry.digest for entry in older[0].inputs}
        known = len(gone) == 1  # of several nobody can say which was made by them
        for entry in newest.inputs:
            if self._count >= _MAX_NODES:
                break
            base = bases[entry.digest]
            if base is not None:
                nodes.append(self.model(entry.role, entry.ref or base.ref, base))
            else:
                mine = known and entry.digest in gone
                nodes.append(self._other(entry, older if mine else []))
        if not known:
            nodes += [
                self._step(older_recipe)
                for older_recipe in older[: max(0, _MAX_NODES - self._count)]
            ]
        self._depth -= 1
        return tuple(nodes)

    def _may_be_model(self, entry: Input, base: Manifest | None) -> bool:
        """Whether an input can be a model whose manifest is not here."""
        return base is None and entry.role in _MODELS and not self._is_here(entry)

    def _is_here(self, entry: Input) -> bool:
        is_kept = inputs.data_path(entry.digest, self._store.home).is_file()
        return is_kept or self._store.blob(entry.digest) is not None

    def _step(self, older: Recipe) -> HistoryNode:
        self._count += 1
        return HistoryNode("earlier step", "", "", "step", False, older)

    def _other(self, entry: Input, older: list[Recipe]) -> HistoryNode:
        """A plain file, or a model whose manifest is not here."""
        self._count += 1
        here = self._is_here(entry)
        if not older or self._count >= _MAX_NODES:
            kind = "unknown" if entry.role in _MODELS and not here else "file"
            return HistoryNode(entry.role, entry.ref, entry.digest, kind, here)
        return HistoryNode(
            entry.role,
            entry.ref,
            entry.digest,
            "model",
            here,
            older[0],
            inputs=self._inputs(older[0], older[1:]),
        )

    def _signed(self, manifest: Manifest, recipe: Recipe | None) -> tuple[str, receipts.State]:
        data = receipts.of(manifest.digest, self._store.home)
        if data is None or recipe is None:
            return "", "none"
        try:
            receipt = receipts.check(data, manifest, recipe, self._keys)
            return receipt.ran.finished, receipts.state(data, self._keys)
        except OvertError:
            return "", "broken"


def _origin(manifest: Manifest) -> dict[str, str]:
    return {"ref": manifest.ref, **manifest.origin}
