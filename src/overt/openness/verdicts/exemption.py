"""The exemption of Article 53(2) of Regulation (EU) 2024/1689 for models under open licences.

Whoever releases a general-purpose model under a free and open-source licence that allows access,
use, modification and distribution, with its parameters, the information on its architecture and on
its use made public, need not draw up the documentation of Article 53(1)(a) and (b). A model with
systemic risk never has it. This is a reading of the text by a program: ``likely``, never a promise.
"""

from typing import Final, Literal

from overt.openness.verdicts.components import Availability
from overt.openness.verdicts.osaid import weights_licence
from overt.openness.verdicts.rule_input import Basis, RuleInput

Outcome = Literal["likely", "no", "unknown"]
Line = tuple[Outcome, str]
SYSTEMIC_FLOP: Final = 1e25
"""From this training compute on a model is presumed to have systemic risk (Article 51(2))."""
DUE: Final = (
    "stays due in any case: a policy on copyright (Article 53(1)(c))",
    "stays due in any case: a public summary of the training content (Article 53(1)(d))",
)
_ARCHITECTURE: Final = ("architecture", "report", "paper", "model_card")
_USAGE: Final = ("model_card", "report")


def verdict(case: RuleInput, basis: Basis) -> tuple[Outcome, tuple[str, ...]]:
    """Likely, no or unknown; the reasons say what stands against it and what stays due."""
    if case.record.kind == "dataset":
        return "no", ("a data set is no general-purpose model",)
    lines = [line for _, line in conditions(case, basis)]
    outcome: Outcome = "likely"
    for worst in ("unknown", "no"):
        if any(result == worst for result, _ in lines):
            outcome = worst
    why = tuple(text for _, text in lines if text)
    return outcome, (*why, *DUE)


def conditions(case: RuleInput, basis: Basis) -> tuple[tuple[str, Line], ...]:
    """Each condition with the component it is about."""
    if case.record.kind == "api":
        return (("weights", ("no", "it is offered behind an interface only")),)
    return (
        ("weights", _weights(case, basis)),
        ("licence", _licence(case, basis)),
        ("architecture", _public(case, basis, "information on the architecture", _ARCHITECTURE)),
        ("usage", _public(case, basis, "information on its use", _USAGE)),
        ("risk", _risk(case)),
    )


def _weights(case: RuleInput, basis: Basis) -> Line:
    availability = case.counts("weights", "declared")
    if availability == Availability.FULL:
        if basis == "verified" and case.state("weights") != "verified":
            return "unknown", "final weights: claimed, and not verified"
        return "likely", ""
    if availability == Availability.GATED:
        return "unknown", "weights: gated; is everybody let in who accepts the licence?"
    if not case.known("weights"):
        return "unknown", "weights: not known; are they public?"
    return "no", case.because("weights")


def _licence(case: RuleInput, basis: Basis) -> Line:
    result, text = weights_licence(case)
    if result == "pass":
        if basis == "verified" and case.state("weights") != "verified":
            return "unknown", "licence of the weights: claimed, and the weights are not verified"
        return "likely", ""
    return ("no" if result == "fail" else "unknown"), text


def _public(case: RuleInput, basis: Basis, what: str, names: tuple[str, ...]) -> Line:
    """One public document that says it is enough; what it must say in detail nobody can count."""
    there = [name for name in names if case.counts(name, "declared") >= Availability.PARTIAL]
    if any(case.counts(name, basis) >= Availability.PARTIAL for name in names):
        return "likely", ""
    if there:
        return "unknown", f"{what}: claimed, and not verified"
    if what.endswith("architecture") and case.record.facts.get("architecture"):
        return "likely", ""
    if all(case.known(name) for name in names):
        return "no", f"{what}: not public"
    return "unknown", f"{what}: not known; is it public?"


def _risk(case: RuleInput) -> Line:
    facts = case.record.facts
    flop = facts.get("training_flop")
    if facts.get("systemic_risk") is True:
        return "no", "the model is designated as one with systemic risk"
    if isinstance(flop, int | float) and flop >= SYSTEMIC_FLOP:
        return "no", f"trained with {flop:.1e} operations; from 1e25 on systemic risk is presumed"
    if isinstance(flop, int | float):
        return "likely", ""
    if facts.get("systemic_risk") is False:
        return "likely", ""
    return "likely", "training compute is not known; the exemption ends at 1e25 operations"
