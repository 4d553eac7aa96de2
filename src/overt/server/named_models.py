"""The owner's own names as models that clients see: aliases of what is here, of others, routes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from overt import ref as refs
from overt.errors import NotFound, OvertError
from overt.gateway import routing
from overt.gateway.aliases import Alias
from overt.gateway.routing import Route
from overt.protocols.base import ModelCard
from overt.providers.supported_parameters import accepts

_ECHO = ("completion", "tools", "vision", "thinking")  # whatever it is asked for, it repeats


class NamedModels:
    """The aliases of one home. `card` gives the card of a model of the store."""

    def __init__(self, home: Path, card: Callable[[str], ModelCard]) -> None:
        self._aliases = routing.aliases(home)
        self._card = card

    def cards(self) -> list[ModelCard]:
        """One for each alias; those that lead nowhere are left out."""
        return [
            self._made(alias, ref)
            for alias in self._aliases.all()
            if (ref := self.ref(alias.name)) is not None
        ]

    def ref(self, name: str) -> str | None:
        """The ref that answers for an alias first; None where `name` is none, or is a mistake."""
        try:
            target = self._aliases.find(name)
        except OvertError:
            return None
        return target.first if isinstance(target, Route) else target

    def card(self, name: str) -> ModelCard | None:
        """The card of an alias; None where `name` is none."""
        ref = self.ref(name)
        if ref is None:
            return None
        try:
            return self._made(self._aliases.get(name), ref)
        except NotFound:  # it was removed this very moment
            return None

    def _made(self, alias: Alias, ref: str) -> ModelCard:
        at = _seconds(alias.time)
        parsed = refs.parse(ref)
        if not parsed.remote:
            try:
                return replace(self._card(ref), id=alias.name, modified=at)
            except OvertError:
                can = _ECHO if parsed.scheme == "echo" else ()
                return ModelCard(alias.name, _digest(ref), 0, at, capabilities=can)
        engine = "http" if parsed.scheme == "http" else parsed.scheme
        taken = accepts(engine, parsed.file or parsed.name)
        has = {"tools": taken.tools, "vision": taken.images, "thinking": taken.thinking}
        return ModelCard(
            alias.name,
            _digest(ref),
            0,
            at,
            kind="vlm" if taken.images else "llm",
            format="",
            context=taken.context or None,
            capabilities=("completion", *(word for word, it in has.items() if it)),
            publisher=engine,
        )


def _seconds(time: str) -> float:
    """Unix seconds; 0 for what somebody wrote into the file by hand and is no time."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _digest(ref: str) -> str:
    """Stands for content that is not here: another one where the alias leads elsewhere."""
    return f"sha256:{sha256(ref.encode()).hexdigest()}"
