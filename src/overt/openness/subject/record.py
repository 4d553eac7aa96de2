"""What is claimed about a model, by whom and when: before anything is checked.

The catalogue, the records of other indexes, a model card and a file's own header all become a
`Record`. A claim is never evidence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from overt.openness.verdicts.components import BY_NAME, Availability

Relation = Literal["finetune", "quantized", "merge", "adapter", "distilled", "dataset", "base"]
"""What a parent is to the model. `base` where nobody says more; `dataset` was trained on."""
SubjectKind = Literal["model", "adapter", "dataset", "api", "record"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One component as somebody describes it.

    Attributes:
        component: a name of components.py.
        availability: as claimed.
        licence: an SPDX expression, a ``LicenseRef-…``, or the words used; None for none.
        source: an address, a file name, or who says so.
        date: when that was read or written (ISO 8601), or "".
        where: the address or relative path of the component itself, or "".
        note: one sentence, or "".
    """

    component: str
    availability: Availability
    licence: str | None = None
    source: str = ""
    date: str = ""
    where: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.component not in BY_NAME:
            raise ValueError(f"there is no component {self.component!r}")


@dataclass(frozen=True, slots=True)
class Parent:
    """What a model was made from.

    Attributes:
        name: as it is named: a ref, a hub's ``owner/repository``, or words.
        relation: see `Relation`.
        licence: where the one who names it also says its licence.
        source: who says so.
    """

    name: str
    relation: Relation = "base"
    licence: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Record:
    """Everything claimed about one subject.

    Attributes:
        name: for people.
        kind: model, adapter, dataset, api (behind somebody's server) or record (another index's).
        claims: at most one a component, the strongest source first when merged.
        licence: of the weights (or of the service), as claimed.
        licence_link: where its text is said to be.
        parents: bases, adapters, data sets, teachers.
        facts: other things that are claimed, by key: ``parameters`` (int), ``architecture``,
            ``quantization``, ``context_length``, ``modality`` (text or multimodal), ``producer``,
            ``released`` (ISO 8601), ``training_flop`` (float), ``systemic_risk`` (bool),
            ``vocabulary_size``, ``dtype``, ``revision``; what is not known is left out.
        source: where the record as a whole comes from.
        date: of the record (ISO 8601), or "".
        said: verdicts the source itself gives, by name (``class``, ``score`` …), for comparison.
    """

    name: str
    kind: SubjectKind = "model"
    claims: tuple[Claim, ...] = ()
    licence: str | None = None
    licence_link: str = ""
    parents: tuple[Parent, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    date: str = ""
    said: Mapping[str, str] = field(default_factory=dict)

    def claim(self, component: str) -> Claim | None:
        return next((claim for claim in self.claims if claim.component == component), None)

    def over(self, weaker: "Record") -> "Record":
        """This record, with what only `weaker` says added to it."""
        named = {claim.component for claim in self.claims}
        parents = {parent.name.lower() for parent in self.parents}
        return replace(
            self,
            claims=self.claims + tuple(c for c in weaker.claims if c.component not in named),
            licence=self.licence or weaker.licence,
            licence_link=self.licence_link or weaker.licence_link,
            parents=self.parents
            + tuple(p for p in weaker.parents if p.name.lower() not in parents),
            facts={**weaker.facts, **self.facts},
            source=self.source or weaker.source,
            date=self.date or weaker.date,
            said={**weaker.said, **self.said},
        )
