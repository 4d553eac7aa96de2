"""The fewest changes that reach the next grade of each verdict.

A change is one thing that the makers publish, license or repair, or, for a verified grade, one look
that somebody takes. Where two sets of changes reach the same grade (a technical report or a paper),
the smaller one is given.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Final

from overt.openness.verdicts import exemption, mof, osaid
from overt.openness.verdicts.components import BY_NAME, Availability, Strength
from overt.openness.verdicts.rule_input import Basis, RuleInput

if TYPE_CHECKING:
    from overt.openness.verdicts.rules import Next

_HOW: Final[Mapping[str, str]] = {
    "weights": "checking the tensors of the files against their configuration",
    "checkpoints": "checking that their shapes and steps form a chain",
    "architecture": "computing its parameters and comparing them with the files",
    "training_code": "pinning its revision and finding this model's configuration in it",
    "preprocessing_code": "pinning its revision",
    "training_data": "checking a manifest of digests and sampling a shard",
    "metadata": "comparing it with the files",
    "tokenizer": "comparing it with the embedding",
    "signature": "checking it against a known key",
}


def plan(case: RuleInput, grades: Mapping[str, Mapping[Basis, str]]) -> "tuple[Next, ...]":
    """The next grade of every scheme on every basis that is not yet at its best."""
    from overt.openness.verdicts.rules import Next

    ways: Mapping[str, Callable[[RuleInput, Basis, str], tuple[str, tuple[str, ...]]]] = {
        "step": _step,
        "mof": _mof,
        "osaid": _osaid,
        "eu_53_2": _exemption,
    }
    plans = []
    for scheme, way in ways.items():
        for basis in grades[scheme]:
            to, steps = way(case, basis, grades[scheme][basis])
            if steps:
                plans.append(Next(scheme, basis, to, tuple(dict.fromkeys(steps))))
    return tuple(plans)


def _step(case: RuleInput, basis: Basis, now: str) -> tuple[str, tuple[str, ...]]:
    from overt.openness.verdicts import rules

    full = (Availability.FULL,)
    reachable = (*full, Availability.GATED)
    built = (*full, Availability.RECONSTRUCTIBLE)
    if now == "fully_open":
        return "", ()
    if now == "open_weights":
        wanted = (("weights", reachable), ("training_code", full), ("training_data", built))
        return "fully_open", tuple(
            change
            for name, enough in wanted
            if (change := _reach(case, basis, name, enough)) is not None
        )
    declared = case.counts("weights", "declared")
    if now == "partially_open" or (basis == "verified" and declared >= Availability.GATED):
        # A verified grade may pass by the one below it: one look at the weights is enough.
        change = _reach(case, basis, "weights", reachable)
        return "open_weights", (change,) if change else ()
    claimed = [
        name for name, least in rules.PARTS.items() if case.counts(name, "declared") >= least
    ]
    if claimed:
        return "partially_open", (_verify(claimed[0]),)
    also = f", and verify it by {_how('report')}" if basis == "verified" else ""
    return "partially_open", (
        f"publish a technical report on how the model is built and was trained{also}",
    )


def _reach(
    case: RuleInput, basis: Basis, name: str, enough: tuple[Availability, ...]
) -> str | None:
    """What brings one component to one of these availabilities; None where it is there."""
    if case.counts(name, basis) in enough:
        return None
    part = BY_NAME[name].title.lower()
    if case.state(name) == "contradicted":
        return f"repair the {part}: what was found contradicts what is claimed"
    if case.counts(name, "declared") in enough:
        return _verify(name)
    verb = "publish" if case.counts(name, "declared") != Availability.GATED else "open the gate of"
    also = f", and verify it by {_how(name)}" if basis == "verified" else ""
    what = "the data, or scripts and sources that rebuild it" if name == "training_data" else ""
    return f"{verb} the {part}{f' ({what})' if what else ''}{also}"


def _verify(name: str) -> str:
    return f"verify the {BY_NAME[name].title.lower()} by {_how(name)}"


def _how(name: str) -> str:
    bar = BY_NAME[name].bar
    return _HOW.get(name, "opening it" if bar == Strength.EXISTS else f"{bar.word} evidence")


def _mof(case: RuleInput, basis: Basis, now: str) -> tuple[str, tuple[str, ...]]:
    """The smallest set of components whose listing under an open licence reaches the next class."""
    of = next(
        (
            class_
            for class_ in mof.CLASSES
            if now == "none" or mof.CLASSES.index(now) < mof.CLASSES.index(class_)
        ),
        None,
    )
    if of is None:
        return "", ()
    items = {item.component: item.licence for item in mof.items(case, basis)}
    bad = [name for name in (*mof.required(of), "paper", "report") if not _good(name, items)]
    names = list(dict.fromkeys(bad))
    # All but one of the report and the paper are needed; trying the sets by size stops early.
    certain = [name for name in names if name not in ("paper", "report")]
    optional = [name for name in ("report", "paper") if name in names]
    for size in range(len(optional) + 1):
        reached = [
            chosen
            for chosen in combinations(optional, size)
            if _reaches(items, (*certain, *chosen), of)
        ]
        if reached:
            best = min(reached, key=lambda chosen: sum(name not in items for name in chosen))
            order = [name for name in BY_NAME if name in (*certain, *best)]
            return of, tuple(_listed(case, basis, name, items) for name in order)
    return "", ()


def _good(name: str, items: Mapping[str, str | None]) -> bool:
    licence = items.get(name)
    return bool(licence) and mof.is_open(str(licence))


def _reaches(items: Mapping[str, str | None], changed: tuple[str, ...], of: str) -> bool:
    after = {**items, **dict.fromkeys(changed, "Apache-2.0")}
    result = mof.classify([mof.ComponentItem(name, licence) for name, licence in after.items()])
    return result.share[of] == 100


def _listed(case: RuleInput, basis: Basis, name: str, items: Mapping[str, str | None]) -> str:
    part = BY_NAME[name].title.lower()
    if case.state(name) == "contradicted":
        return f"repair the {part}: what was found contradicts what is claimed"
    if name not in items:
        declared = case.counts(name, "declared") >= mof.least(name)
        if basis == "verified" and declared:
            open_ = _good(name, {name: case.licence_of(name)})
            also = "" if open_ else f", and put the {part} under an open licence"
            return _verify(name) + also
        return f"add the {part} under an open licence"
    licence = items[name]
    if licence == mof.ALTERED:
        return f"put the {part} under the unaltered text of an open licence"
    if not licence:
        return f"say under which open licence the {part} is"
    return f"put the {part} under an open licence instead of {licence[:60]}"


def _osaid(case: RuleInput, basis: Basis, now: str) -> tuple[str, tuple[str, ...]]:
    if now == "pass":
        return "", ()
    lines = [(name, line) for name, line in osaid.conditions(case, basis) if line[0] != "pass"]
    return "pass", tuple(_condition(case, name, line) for name, line in lines)


def _exemption(case: RuleInput, basis: Basis, now: str) -> tuple[str, tuple[str, ...]]:
    """Nothing reaches it for a model with systemic risk, or for a data set."""
    if now == "likely" or case.record.kind == "dataset":
        return "", ()
    lines = [
        (name, line) for name, line in exemption.conditions(case, basis) if line[0] != "likely"
    ]
    if any(name == "risk" for name, _ in lines):
        return "", ()
    return "likely", tuple(_condition(case, name, line) for name, line in lines)


def _condition(case: RuleInput, name: str, line: tuple[str, str]) -> str:
    """One open condition as something to do."""
    result, text = line
    if name == "licence":
        if "altered" in text:
            return "let a person review the altered licence text, or restore it"
        if result == "unknown" and "verified" not in text:
            return "say under which licence the weights are"
        if result == "unknown":
            return _verify("weights")
        return "put the weights under an open licence"
    if name in ("architecture", "usage"):
        about = "the architecture" if name == "architecture" else "the use of the model"
        verb = "verify" if "not verified" in text else "publish"
        return f"{verb} a document on {about}, such as a model card"
    part = BY_NAME[name].title.lower()
    if text.endswith("not verified"):
        return _verify(name)
    if text.endswith("?"):
        return f"answer for the {part}: {text.split('; ')[-1]}"
    if text.startswith("licence"):
        return f"put the {part} under an approved licence"
    if case.state(name) == "contradicted":
        return f"repair the {part}: what was found contradicts what is claimed"
    return f"publish the {part} under an open licence"
