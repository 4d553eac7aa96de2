"""The Open Source AI Definition 1.0 of the Open Source Initiative, as far as a program can judge.

It asks for the code that made the model and runs it, under approved licences; for the parameters,
under terms that leave all four freedoms; and for information on the data that lets a skilled person
build an equivalent system. Whether information is enough is a judgement: then the verdict is
``unknown`` and the reason ends in the question. It fails only where something is clearly not there.
"""

from typing import Final, Literal

from overt.openness.verdicts.components import BY_NAME, Availability
from overt.openness.verdicts.rule_input import Basis, RuleInput

Outcome = Literal["pass", "fail", "unknown"]
Line = tuple[Outcome, str]
CODE: Final = ("training_code", "preprocessing_code", "inference_code")
_WHOLE: Final = (Availability.FULL, Availability.RECONSTRUCTIBLE)


def verdict(case: RuleInput, basis: Basis) -> tuple[Outcome, tuple[str, ...]]:
    """Pass, fail or unknown, with a sentence for every condition that is not met."""
    lines = [line for _, line in conditions(case, basis)]
    outcome: Outcome = "pass"
    for worst in ("unknown", "fail"):
        if any(result == worst for result, _ in lines):
            outcome = worst
    return outcome, tuple(dict.fromkeys(text for result, text in lines if result != "pass"))


def conditions(case: RuleInput, basis: Basis) -> tuple[tuple[str, Line], ...]:
    """Each condition with the component it is about."""
    lines: list[tuple[str, Line]] = [
        ("weights", _weights(case)),
        ("licence", weights_licence(case)),
        *((name, _code(case, name)) for name in CODE),
        ("training_data", _data(case)),
    ]
    if basis == "declared":
        return tuple(lines)
    return tuple((name, _proved(case, name, line)) for name, line in lines)


def _proved(case: RuleInput, name: str, line: Line) -> Line:
    """A condition that is met by a claim alone is open until somebody looked."""
    part = "weights" if name == "licence" else name
    if line[0] != "pass" or case.state(part) == "verified":
        return line
    return "unknown", f"{BY_NAME[part].title.lower()}: claimed, and not verified"


def _weights(case: RuleInput) -> Line:
    availability = case.counts("weights", "declared")
    if availability == Availability.FULL:
        return "pass", ""
    if availability == Availability.GATED:
        return "unknown", "weights: gated; does the gate ask for more than the licence does?"
    if not case.known("weights"):
        return "unknown", "weights: not known; can everybody download them?"
    return "fail", case.because("weights")


def weights_licence(case: RuleInput) -> Line:
    """Whether the licence of the weights leaves the freedoms to use, study, change and share."""
    if case.altered:
        return "unknown", (
            "licence of the weights: the text that lies with them is altered; "
            "does it still leave every use free?"
        )
    licence = case.licence_of("weights")
    if not licence:
        return "unknown", "licence of the weights: not known; under which terms are they?"
    return licence_line(licence, "the weights")


def licence_line(licence: str, whose: str, *, code: bool = False) -> Line:
    """Whether a licence is open by the definition, by its class."""
    from overt.openness.licence import names

    text = f"licence of {whose}: {licence[:80]}"
    facts = [names.facts(id_) for id_ in names.expression(licence)]
    open_ = names.open_expression(licence)
    if open_ and not (code and any(fact and fact.kind == "data_open" for fact in facts)):
        return "pass", ""
    if open_:
        return "unknown", f"{text} was made for data; does it grant what code needs?"
    kinds = {fact.kind for fact in facts if fact} - {"osd_open", "data_open", "unknown"}
    if open_ is False and kinds:
        return "fail", f"{text} ({', '.join(sorted(kinds)).replace('_', ' ')})"
    if open_ is False:
        return "fail", f"{text} is on no list of open licences"
    return "unknown", f"{text} is not known here; does it leave every use free?"


def _code(case: RuleInput, name: str) -> Line:
    title = BY_NAME[name].title.lower()
    if not case.known(name):
        return "unknown", f"{title}: not known; is it published?"
    if case.counts(name, "declared") not in _WHOLE:
        return "fail", case.because(name)
    licence = case.licence_of(name)
    if not licence:
        return "unknown", f"licence of the {title}: not known; under which terms is it?"
    if case.spoiled(licence):
        return "unknown", f"licence of the {title}: the text that lies with the model is altered"
    return licence_line(licence, f"the {title}", code=True)


def _data(case: RuleInput) -> Line:
    """All of it, or a way to build it, is more than the definition asks; a list of sources is less
    certain, and a mention is too little."""
    availability = case.counts("training_data", "declared")
    if availability in (*_WHOLE, Availability.GATED):
        return "pass", ""
    if not case.known("training_data"):
        return "unknown", "training data: not known; what is it, and where does it come from?"
    if availability in (Availability.INDEXED, Availability.PARTIAL):
        return "unknown", (
            f"{case.because('training_data')}; are its origin, scope, selection and processing "
            "described well enough to build an equivalent, and is it said where to get it?"
        )
    return "fail", case.because("training_data")
