"""The Model Openness Framework's classes and progress, as its own tool computes them.

Read in lfai/model_openness_tool at 8b5d30e, ``ModelEvaluator.php``: a component counts for a class
where it is listed under an open licence; a class is reached at 100 % of what it and the classes
below it need; a research paper replaces the technical report; progress of a class is 0 while a
class below it is not reached. ``compat`` also takes over the tool's list of open licences with its
three gaps, and its exact spelling; without it the gaps are closed and names of licences are read as
`licence.names` reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from overt.openness.verdicts.components import BY_NAME, COMPONENTS, Availability
from overt.openness.verdicts.rule_input import Basis, RuleInput

Class = Literal["I", "II", "III", "none"]
CLASSES: Final[tuple[Class, ...]] = ("III", "II", "I")
"""In the order in which they are reached."""

_CODE = "code"
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("0BSD", "AFL-1.1", "AFL-1.2", "AFL-2.0", "AFL-2.1", "AFL-3.0", "Apache-1.0", "Apache-1.1",
         "ECL-1.0", "ECL-2.0", "ISC", "MIT", "MIT-0", "MulanPSL-1.0", "MulanPSL-2.0", "NCSA",
         "UPL-1.0"),
        (_CODE,),
    ),
    "C-UDA-1.0": ("data",),
    **dict.fromkeys(("CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "FreeBSD-DOC"), ("document",)),
    "Apache-2.0": (_CODE, "document"),
    "CC-PDDC": ("data", "document"),
    "CC0-1.0": ("data", "document"),
    "OpenMDW-1.0": (_CODE, "data", "document"),
}  # fmt: skip
"""What kind of component a licence was made for, by the tool's list. It only ever warns."""
_FOR_DATA: Final = ("CC-BY-", "CC0-", "CDLA-", "ODC-", "ODbL-", "OGL-", "GFDL-", "PDDL-")
"""Beginnings of the ids of its second list, of open licences for data."""
_KINDS: Final[Mapping[str, str]] = {component.name: component.kind for component in COMPONENTS}


@dataclass(frozen=True, slots=True)
class ComponentItem:
    """A component that is listed, with the licence that holds for it ("" and None: none)."""

    component: str
    licence: str | None = None


@dataclass(frozen=True)
class MofResult:
    """What the framework says.

    Attributes:
        class_: the class that is reached.
        missing: per class, what it needs and what is not listed.
        invalid: per class, what is listed under a licence that is not open.
        unlicensed: per class, what is listed without a licence.
        progress: per class, per cent as the tool prints it: 0 while a class below is not reached.
        share: per class, per cent of what it needs, whatever is below it.
        valid, not_open, inappropriate: of all listed components, how many have an open licence,
            have one that is not open, have an open one that was made for other kinds of component.
    """

    class_: Class
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    invalid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlicensed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    progress: Mapping[str, float] = field(default_factory=dict)
    share: Mapping[str, float] = field(default_factory=dict)
    valid: int = 0
    not_open: int = 0
    inappropriate: int = 0


@cache
def required(of: str) -> tuple[str, ...]:
    """Names of what a class needs, the classes below it included, in the order of components.py."""
    wanted = CLASSES[: CLASSES.index(of) + 1]
    return tuple(component.name for component in COMPONENTS if component.classes in wanted)


def is_open(licence: str, *, compat: bool = False) -> bool:
    """Whether the framework takes a licence for open; an expression is taken apart."""
    from overt.openness.licence import names

    return names.is_open(licence, compat=True) if compat else names.open_expression(licence) is True


def classify(items: Sequence[ComponentItem], *, compat: bool = False) -> MofResult:
    """The class and the progress of a list of components.

    Args:
        compat: with the tool's own list of open licences, and no spelling but its own.
    """
    listed = {item.component: item.licence for item in items if item.component in _KINDS}
    state = {name: _state(licence, compat) for name, licence in listed.items()}
    missing: dict[str, tuple[str, ...]] = {}
    invalid: dict[str, tuple[str, ...]] = {}
    unlicensed: dict[str, tuple[str, ...]] = {}
    share: dict[str, float] = {}
    for of in CLASSES:
        needed = _needed(of, state)
        missing[of] = tuple(name for name in needed if name not in state)
        invalid[of] = tuple(name for name in needed if state.get(name) == "invalid")
        unlicensed[of] = tuple(name for name in needed if state.get(name) == "unlicensed")
        share[of] = 100 * sum(state.get(name) == "included" for name in needed) / len(needed)
    reached: Class = "none"
    progress = dict.fromkeys(CLASSES, 0.0)
    for of in CLASSES:
        progress[of] = share[of]
        if share[of] < 100:
            break
        reached = of
    return MofResult(
        class_=reached,
        missing=missing,
        invalid=invalid,
        unlicensed=unlicensed,
        progress={str(of): value for of, value in progress.items()},
        share=share,
        valid=sum(value == "included" for value in state.values()),
        not_open=sum(value == "invalid" for value in state.values()),
        inappropriate=sum(
            value == "included" and not _appropriate(name, listed[name])
            for name, value in state.items()
        ),
    )


def items(case: RuleInput, basis: Basis) -> tuple[ComponentItem, ...]:
    """What of a model is there for the framework: what can be had, at least in part or by request.

    A licence whose text was altered opens nothing.
    """
    items_ = []
    for component in COMPONENTS:
        if component.mof is None or case.counts(component.name, basis) < least(component.name):
            continue
        licence = case.licence_of(component.name)
        items_.append(ComponentItem(component.name, ALTERED if case.spoiled(licence) else licence))
    return tuple(items_)


ALTERED: Final = "altered"
"""Stands for a licence whose text is not the one its name promises: listed, and not open."""


def least(name: str) -> Availability:
    """From which availability on a component is there: part of the data is not the data."""
    if name == "weights":
        return Availability.GATED
    return Availability.PARTIAL if _KINDS[name] == "document" else Availability.RECONSTRUCTIBLE


def verdict(case: RuleInput, basis: Basis) -> tuple[str, tuple[str, ...]]:
    """The class of a model, and what the next one lacks."""
    result = classify(items(case, basis))
    following = next((of for of in CLASSES if result.share[of] < 100), None)
    if following is None:
        return result.class_, ()
    words: Sequence[tuple[str, Mapping[str, tuple[str, ...]]]] = (
        ("is missing", result.missing),
        ("has no licence", result.unlicensed),
        ("is under a licence that is not open", result.invalid),
    )
    return result.class_, tuple(
        f"class {following}: {BY_NAME[name].title.lower()} {what}"
        for what, by in words
        for name in by[following]
    )


def _needed(of: str, state: Mapping[str, str]) -> tuple[str, ...]:
    """What a class needs of this model: the paper stands in for a report that does not count."""
    names = required(of)
    if state.get("report") == "included" or "paper" not in state:
        return names
    without = tuple(name for name in names if name != "report")
    if "paper" not in without:
        return (*without, "paper")
    # Class I needs the paper itself: one that does not count excuses no report.
    return without if state["paper"] == "included" else names


def _state(licence: str | None, compat: bool) -> str:
    if not licence or licence == "unlicensed":
        return "unlicensed"
    return "included" if is_open(licence, compat=compat) else "invalid"


def _appropriate(name: str, licence: str | None) -> bool:
    licence = licence or ""
    kind = _KINDS[name]
    return kind in _TYPES.get(licence, ()) or (kind == "data" and licence.startswith(_FOR_DATA))
