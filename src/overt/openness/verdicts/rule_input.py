"""What the rules count: each component as far as it is there, once as declared, once as verified.

Declared counts what is claimed and what was found; verified counts only what was found at the
component's bar. What evidence contradicts counts as absent in both, and so does what nobody says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from overt.openness.evidence import ComponentResult
from overt.openness.subject.record import Record
from overt.openness.verdicts.components import BY_NAME, Availability

Basis = Literal["declared", "verified"]


@dataclass(frozen=True)
class RuleInput:
    """One model as the rules see it.

    Attributes:
        licence: the canonical id of the licence of the weights; None where nobody knows it.
        altered: the text that lies with the model is that licence with its terms changed.
    """

    finished: Sequence[ComponentResult]
    record: Record
    licence: str | None
    altered: bool

    @cached_property
    def parts(self) -> Mapping[str, ComponentResult]:
        return {component.component.name: component for component in self.finished}

    def state(self, name: str) -> str:
        part = self.parts.get(name)
        return part.there if part else "declared"

    def known(self, name: str) -> bool:
        """Somebody says, or something shows, whether the component is there."""
        part = self.parts.get(name)
        if part is None:
            return False
        return (
            part.there in ("missing", "contradicted") or part.availability != Availability.UNKNOWN
        )

    def counts(self, name: str, basis: Basis) -> Availability:
        """How far the component is there: never UNKNOWN, which counts as ABSENT."""
        part = self.parts.get(name)
        if part is None or part.there in ("missing", "contradicted"):
            return Availability.ABSENT
        if basis == "verified" and part.there != "verified":
            return Availability.ABSENT
        if part.availability == Availability.UNKNOWN:
            return Availability.ABSENT
        return part.availability

    def licence_of(self, name: str) -> str | None:
        """The licence of a component as it was concluded or claimed, in the words used."""
        if name == "weights" and self.licence:
            return self.licence
        part = self.parts.get(name)
        return part.licence if part else None

    def spoiled(self, licence: str | None) -> bool:
        """The text behind this licence was altered, so that its name says nothing."""
        if not self.altered or licence is None:
            return False
        from overt.openness.licence import names

        return self.licence is None or names.canonical(licence) == self.licence

    def because(self, name: str) -> str:
        """Why a component counts as it does, in a few words: "training code: not known"."""
        title = BY_NAME[name].title.lower()
        part = self.parts.get(name)
        if part is None or not self.known(name):
            return f"{title}: not known"
        if part.there == "contradicted":
            return f"{title}: contradicted by what was found"
        word = part.availability.word
        return f"{title}: {word}" if part.there == "missing" else f"{title}: {word}, {part.there}"
