"""Where a model came from: each step that made it, back to the bytes that somebody else published.

Only this disk is read. What a recipe names and is not here is drawn as its digest; a model that was
brought in with the recipes of its ancestors, and without the ancestors, has those recipes in a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from overt import pull
from overt.carry.signing import Keys
from overt.errors import NotFound, OvertError
from overt.lab import attest, inputs
from overt.recipe import Input, Recipe
from overt.settings import Settings
from overt.store import Manifest, Store

_MOST = 1000  # nodes; hostile recipes could name each other in numbers
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Node:
    """A model or a file in the line of another.

    Attributes:
        role: what its descendant used it for; "" at the top.
        name: what a person calls it, or "".
        digest: of the manifest or file; "" where only a recipe is known.
        kind: ``model``, ``file`` or ``unknown`` (neither is here).
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
    signature: attest.State = "none"
    origin: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple["Node", ...] = ()

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
            "inputs": [one.as_json() for one in self.inputs],
        }


def history(ref: str, settings: Settings) -> Node:
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
    return _Walk(store, Keys(settings.home), dates).model("", ref, manifest)


def recipe(ref: str, settings: Settings) -> Recipe:
    """The newest recipe of the model `ref`.

    Raises:
        ModelNotFound, IntegrityError: it is not here, or damaged.
        NotFound: it was not made by a recipe.
    """
    told = history(ref, settings).recipe
    if told is None:
        raise NotFound(f"{ref} was not made by a recipe", f"`overt history {ref}` shows its origin")
    return told


def receipt(ref: str, settings: Settings) -> bytes:
    """The receipt of the model `ref`, as it is kept.

    Raises:
        ModelNotFound, IntegrityError: the model is not here, or damaged.
        NotFound: there is no receipt of it here.
    """
    digest = history(ref, settings).digest
    data = attest.of(digest, settings.home)
    if data is None:
        raise NotFound(f"there is no receipt of {ref} here", "only what is made here has one")
    return data


class _Walk:
    def __init__(self, store: Store, keys: Keys, dates: Mapping[str, str]) -> None:
        self._store = store
        self._keys = keys
        self._dates = dates
        self._count = 0
        self._depth = 0

    def model(self, role: str, name: str, manifest: Manifest) -> Node:
        self._count += 1
        store, digest = self._store, manifest.digest
        recipes = inputs.recipes(manifest, store)
        told = recipes[0] if recipes else None
        date, signature = self._signed(manifest, told)
        below: tuple[Node, ...] = ()
        if told is not None:
            below = self._inputs(told, recipes[1:])
        return Node(
            role, name, digest, "model", store.whole(manifest), told,
            date or self._dates.get(digest, "") if told else manifest.created,
            manifest.licence, signature, {} if told else _origin(manifest), below,
        )  # fmt: skip

    def _inputs(self, told: Recipe, older: list[Recipe]) -> tuple[Node, ...]:
        found: list[Node] = []
        if self._depth >= _DEEPEST:
            return ()
        self._depth += 1
        for one in told.inputs:
            if self._count >= _MOST:
                break
            base = inputs.manifest(one.digest, self._store)
            if base is not None:
                found.append(self.model(one.role, one.ref or base.ref, base))
            else:
                is_base = one.role in inputs.MODELS
                found.append(self._other(one, older if is_base else []))
                older = [] if is_base else older
        self._depth -= 1
        return tuple(found)

    def _other(self, one: Input, older: list[Recipe]) -> Node:
        """A plain file, or a model whose manifest is not here."""
        self._count += 1
        kept = inputs.data_path(one.digest, self._store.home).is_file()
        here = kept or self._store.blob(one.digest) is not None
        if not older or self._count >= _MOST:
            kind = "unknown" if one.role in inputs.MODELS and not here else "file"
            return Node(one.role, one.ref, one.digest, kind, here)
        return Node(
            one.role, one.ref, one.digest, "model", here, older[0],
            inputs=self._inputs(older[0], older[1:]),
        )  # fmt: skip

    def _signed(self, manifest: Manifest, told: Recipe | None) -> tuple[str, attest.State]:
        data = attest.of(manifest.digest, self._store.home)
        if data is None or told is None:
            return "", "none"
        try:
            found = attest.check(data, manifest, told, self._keys)
            return found.ran.finished, attest.state(data, self._keys)
        except OvertError:
            return "", "broken"


def _origin(manifest: Manifest) -> dict[str, str]:
    return {"ref": manifest.ref, **manifest.origin}
