"""From components to verdicts: pure functions, the same answer for the same input.

Four verdicts, each twice (`rule_input.py`): the step, the class of the Model Openness Framework
(`mof.py`), the Open Source AI Definition (`osaid.py`) and the exemption of Article 53(2) of the
European AI Act (`exemption.py`). `next_steps.py` says what reaches the next grade of each.

The licence never moves the step. Where a definition needs a person's judgement, the verdict is
``unknown`` and the reasons hold the question to be answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from overt.openness.evidence import ComponentResult
from overt.openness.subject.record import Record
from overt.openness.verdicts.components import Availability, Step
from overt.openness.verdicts.rule_input import Basis, RuleInput

RULES_VERSION: Final = 1
"""Raised whenever the same components could be given another verdict."""


@dataclass(frozen=True, slots=True)
class VerdictPair:
    """A verdict by what is claimed and found, and by what was verified alone."""

    declared: str
    verified: str


@dataclass(frozen=True, slots=True)
class Next:
    """The fewest changes that reach the next grade.

    Attributes:
        scheme: step, mof, osaid or eu_53_2.
        basis: declared or verified.
        to: the grade that is reached.
        steps: what to do, each one sentence; all of them are needed.
    """

    scheme: str
    basis: Basis
    to: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Verdicts:
    """Everything the rules say about one model.

    Attributes:
        licence_kind: the class of the licence of the weights, which stands beside the step.
        contradicted: names of all components that evidence contradicts.
        reasons: by scheme (``step``, ``mof`` …) and, for the verified verdict, ``step_verified`` ….
        next: at most one a scheme and basis.
    """

    step: VerdictPair
    mof: VerdictPair
    osaid: VerdictPair
    eu_53_2: VerdictPair
    licence_kind: str
    contradicted: tuple[str, ...]
    reasons: Mapping[str, tuple[str, ...]]
    next: tuple[Next, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "step": asdict(self.step),
            "mof": asdict(self.mof),
            "osaid": asdict(self.osaid),
            "eu_53_2": asdict(self.eu_53_2),
            "licence_kind": self.licence_kind,
            "contradicted": list(self.contradicted),
            "reasons": {key: list(value) for key, value in self.reasons.items()},
            "next": [asdict(step) | {"steps": list(step.steps)} for step in self.next],
        }


def judge(
    finished: Sequence[ComponentResult], record: Record, *, licence: str | None, altered: bool
) -> Verdicts:
    """All verdicts on one model.

    Args:
        licence: the canonical id of the licence of the weights: concluded, else declared.
        altered: a text lies with the model that changes the terms of that licence.
    """
    from overt.openness.verdicts import exemption, mof, next_steps, osaid

    case = RuleInput(tuple(finished), record, licence, altered)
    reasons: dict[str, tuple[str, ...]] = {}
    by_scheme: dict[str, dict[Basis, str]] = {}
    bases: tuple[Basis, ...] = ("declared", "verified")
    for scheme, rule in (
        ("step", step),
        ("mof", mof.verdict),
        ("osaid", osaid.verdict),
        ("eu_53_2", exemption.verdict),
    ):
        for basis in bases:
            value, why = rule(case, basis)
            by_scheme.setdefault(scheme, {})[basis] = value
            reasons[scheme if basis == "declared" else f"{scheme}_verified"] = why
    pairs = {
        scheme: VerdictPair(by["declared"], by["verified"]) for scheme, by in by_scheme.items()
    }
    return Verdicts(
        **pairs,
        licence_kind=licence_kind(case),
        contradicted=tuple(
            component.component.name for component in finished if component.state == "contradicted"
        ),
        reasons=reasons,
        next=next_steps.plan(case, by_scheme),
    )


def licence_kind(case: RuleInput) -> str:
    """The class of the licence of the weights; an altered text has none until a person reads it.

    Of an expression: the class that all its licences share, or that of the one that leaves it open.
    """
    from overt.openness.licence import names

    licence = case.licence_of("weights")
    if not licence or case.altered:
        return "unknown"
    kinds = {facts.kind for id_ in names.expression(licence) if (facts := names.facts(id_))}
    if names.open_expression(licence):
        return "osd_open" if "osd_open" in kinds else "data_open"
    kinds -= {"osd_open", "data_open"}
    return kinds.pop() if len(kinds) == 1 else "unknown"


def step(case: RuleInput, basis: Basis) -> tuple[Step, tuple[str, ...]]:
    """Fully open, open weights, partially open or fully closed, and why.

    Weights behind a gate that lets everybody in who agrees are there, for this step as for that
    below it; data behind one is not open.
    """
    weights = case.counts("weights", basis)
    code = case.counts("training_code", basis)
    data = case.counts("training_data", basis)
    why = tuple(case.because(name) for name in ("weights", "training_code", "training_data"))
    if (
        weights in (Availability.FULL, Availability.GATED)
        and code == Availability.FULL
        and data in (Availability.FULL, Availability.RECONSTRUCTIBLE)
    ):
        return "fully_open", why
    if weights in (Availability.FULL, Availability.GATED):
        return "open_weights", why
    public = [name for name, least in PARTS.items() if case.counts(name, basis) >= least]
    if public:
        return "partially_open", (
            *why,
            *(case.because(name) for name in public if name not in CORE),
        )
    return "fully_closed", why


CORE: Final = ("weights", "training_code", "training_data")
PARTS: Final[Mapping[str, Availability]] = {
    "weights": Availability.PARTIAL,
    "report": Availability.FULL,
    "paper": Availability.FULL,
    "architecture": Availability.PARTIAL,
    "training_code": Availability.PARTIAL,
    "preprocessing_code": Availability.PARTIAL,
    "inference_code": Availability.PARTIAL,
    "training_data": Availability.PARTIAL,
    "checkpoints": Availability.PARTIAL,
}
"""What makes a model without weights partially open, and from which availability on.

Parts of the model itself and of its making. Evaluation code, an SDK or a card of a closed service
disclose nothing of it; a report counts where it is whole, not where it withholds how it was made.
"""
