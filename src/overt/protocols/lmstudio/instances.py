"""What LM Studio calls an instance: a name for a model that is in memory.

LM Studio loads a model once for each instance. Here the weights are in memory once and answer
several requests at a time, so a second instance is a second name for them: it is listed, used and
unloaded like LM Studio's, and costs nothing. A model that another protocol loaded is an instance
too, under its own id. What is not in memory is no instance, whatever was registered.

Models are found by every spelling that LM Studio has for them: key, ``publisher/name``, the path of
a file below that, with and without ``text-embedding-``, in any case.
"""

import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from overt.errors import BadRequest, ModelNotFound, NotFound, UsageError
from overt.protocols.base import (
    AS_EVER,
    FOR_EVER,
    Caller,
    LoadedModelInfo,
    ModelCard,
    ModelHold,
    ServicesInterface,
)
from overt.protocols.lmstudio.model_info import PREFIX, Domain, domain, path

SAMPLE = 5  # names told in an error


class NoModel(ModelNotFound):
    """No model, or no loaded one, of the name asked for.

    Attributes:
        query: what was asked, as the client sent it.
        loaded: the identifiers of all that are loaded.
    """

    def __init__(self, what: str, query: dict[str, object], loaded: Sequence[str]) -> None:
        names = ", ".join(loaded[:SAMPLE])
        super().__init__(
            what, f"loaded are {names}" if names else "`overt list` shows what there is"
        )
        self.query = query
        self.loaded = tuple(loaded)

    @property
    def code(self) -> str:
        return "model_not_found"


class InstanceGone(NotFound):
    """The instance a client holds was unloaded."""

    @property
    def code(self) -> str:
        return "not_found"


@dataclass(slots=True, eq=False)
class Instance:
    """`hold` is how whoever loaded it wants it kept; every request through it says so again."""

    id: str
    card: ModelCard
    hold: ModelHold = AS_EVER
    reference: str = field(default_factory=lambda: secrets.token_hex(12))
    ready: bool = True


class Instances:
    """Those of one server."""

    def __init__(self) -> None:
        self._named: dict[str, Instance] = {}

    # ---- what there is ---------------------------------------------------------------------

    def loaded(self, services: ServicesInterface) -> list[tuple[Instance, LoadedModelInfo]]:
        """Every instance with what is in memory for it."""
        there = {loaded_.card.digest or loaded_.card.id: loaded_ for loaded_ in services.loaded()}
        for name, instance in list(self._named.items()):
            if instance.ready and _which(instance.card) not in there:
                del self._named[name]
        known = {_which(instance.card) for instance in self._named.values() if instance.ready}
        for which, loaded_ in there.items():
            if which not in known and loaded_.card.id not in self._named:
                self._named[loaded_.card.id] = Instance(loaded_.card.id, loaded_.card)
        return [
            (instance, there[_which(instance.card)])
            for instance in self._named.values()
            if instance.ready and _which(instance.card) in there
        ]

    def names(self, services: ServicesInterface) -> list[str]:
        return [instance.id for instance, _ in self.loaded(services)]

    def get(
        self, services: ServicesInterface, identifier: str
    ) -> tuple[Instance, LoadedModelInfo] | None:
        """The loaded instance of that identifier, exactly."""
        pairs = self.loaded(services)
        return next((pair for pair in pairs if pair[0].id == identifier), None)

    def of_model(
        self, services: ServicesInterface, name: str
    ) -> tuple[Instance, LoadedModelInfo] | None:
        """A loaded instance that `name` means, by any spelling of identifier or model."""
        exact = self.get(services, name)
        if exact:
            return exact
        wanted = _folded(name)
        return next((p for p in self.loaded(services) if wanted in _spellings(p[0].card)), None)

    def by_reference(
        self, services: ServicesInterface, reference: str
    ) -> tuple[Instance, LoadedModelInfo]:
        """Raises Gone."""
        for pair in self.loaded(services):
            if pair[0].reference == reference:
                return pair
        raise InstanceGone("this model was unloaded", "load it again")

    # ---- what comes and goes ---------------------------------------------------------------

    async def load(
        self,
        services: ServicesInterface,
        caller: Caller,
        card: ModelCard,
        identifier: str | None = None,
        hold: ModelHold = FOR_EVER,
    ) -> tuple[Instance, LoadedModelInfo]:
        """A new instance of a model.

        Raises:
            BadRequest: one of that identifier is there already.
            Whatever loading raises.
        """
        instance = Instance(self._free(services, card, identifier), card, hold, ready=False)
        self._named[instance.id] = instance
        try:
            loaded = await services.load(caller, card.id, hold)
        except BaseException:
            if self._named.get(instance.id) is instance:
                del self._named[instance.id]
            raise
        instance.ready = True
        return instance, loaded

    async def unload(self, services: ServicesInterface, caller: Caller, identifier: str) -> None:
        """Forget an instance; the model goes with the last one of it.

        Raises:
            NoModel: there is none.
        """
        pair = self.get(services, identifier)
        if pair is None:
            raise self.missing(services, identifier)
        instance = pair[0]
        self._named.pop(instance.id, None)
        which = _which(instance.card)
        if not any(_which(instance.card) == which for instance in self._named.values()):
            await services.unload(caller, instance.card.id)

    def missing(self, services: ServicesInterface, identifier: str) -> NoModel:
        return NoModel(
            f"no model is loaded as {identifier[:200]!r}",
            {"identifier": identifier},
            self.names(services),
        )

    def _free(self, services: ServicesInterface, card: ModelCard, identifier: str | None) -> str:
        self.loaded(services)  # forgets the ones that went
        if identifier:
            if identifier in self._named:
                raise BadRequest(f"an instance with the identifier {identifier!r} already exists")
            return identifier
        if card.id not in self._named:
            return card.id
        number = 2
        while f"{card.id}:{number}" in self._named:
            number += 1
        return f"{card.id}:{number}"


_all: "weakref.WeakKeyDictionary[object, Instances]" = weakref.WeakKeyDictionary()


def of(services: ServicesInterface) -> Instances:
    """The instances of a server. All requests share them."""
    return _all.setdefault(services.records, Instances())


async def find(services: ServicesInterface, caller: Caller, name: str) -> ModelCard:
    """The model that `name` means, loaded or not.

    Raises:
        NoModel: there is none.
    """
    try:
        return await services.model(caller, name)
    except (NotFound, UsageError):
        pass
    wanted = _folded(name)
    for card in await services.models(caller):
        if wanted in _spellings(card) or wanted.startswith(f"{path(card).lower()}/"):
            return card
    if name.startswith("echo:"):
        return ModelCard(id=name, digest="", size=0, modified=0.0)
    raise NoModel(
        f"there is no model {name[:200]!r}", {"identifier": name}, of(services).names(services)
    )


async def resolve(
    services: ServicesInterface, caller: Caller, name: str, wanted: Domain | None = None
) -> Instance:
    """What answers to `name`: a loaded instance, or a model that a request will load.

    Raises:
        NoModel: there is neither.
        BadRequest: it is not of the domain `wanted`.
    """
    pair = of(services).of_model(services, name)
    instance = pair[0] if pair else Instance(name, await find(services, caller, name))
    check_domain(instance.card, wanted)
    if not pair:
        instance.id = instance.card.id
    return instance


def check_domain(card: ModelCard, wanted: Domain | None) -> None:
    """Raises WrongDomain. The echo engine does everything."""
    actual = domain(card)
    if wanted is not None and actual != wanted and not card.id.startswith("echo:"):
        raise WrongDomain(path(card), actual or card.kind, wanted)


class WrongDomain(BadRequest):
    """An embedding model was asked to write, or the other way round."""

    def __init__(self, path: str, actual: str, expected: str) -> None:
        super().__init__(
            f"{path} is of the kind {actual}, and one of the kind {expected} is needed"
        )
        self.path, self.actual, self.expected = path, actual, expected

    @property
    def code(self) -> str:
        return "bad_request"


def _which(card: ModelCard) -> str:
    return card.digest or card.id


def _folded(name: str) -> str:
    return name.lower().removesuffix(":latest")


def _spellings(card: ModelCard) -> frozenset[str]:
    id, where = card.id.lower(), path(card).lower()
    bare = id.removeprefix(PREFIX)
    return frozenset((id, bare, PREFIX + bare, where, where.rpartition("/")[2]))
