"""Two dossiers side by side: what changed, and whether that is a step back.

Works on the JSON of dossiers, so that one that was kept in a file can be compared with today's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from overt.openness.verdicts.components import STEPS

Way = Literal["better", "worse", "other"]
_STATES = ("contradicted", "missing", "declared", "verified")
_ORDERS: Mapping[str, tuple[str, ...]] = {
    "step": STEPS,
    "mof": ("none", "III", "II", "I"),
    "osaid": ("fail", "unknown", "pass"),
    "eu_53_2": ("no", "unknown", "likely"),
}


@dataclass(frozen=True, slots=True)
class DossierChange:
    """One line of a comparison.

    Attributes:
        what: such as ``step.verified`` or ``components.weights.state``.
        before, after: as they are written in the dossiers.
        way: whether the second is better or worse than the first, where that can be said.
        why: of a component, what the newest failed or open check says.
    """

    what: str
    before: str
    after: str
    way: Way
    why: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[DossierChange, ...]:
    """Every difference that a person would want to know; file lists and dates are not.

    Raises:
        KeyError, TypeError: one of them is not a dossier.
    """
    return (
        tuple(_verdicts(before, after))
        + tuple(_licence(before, after))
        + tuple(_components(before, after))
    )


def regressions(changes: tuple[DossierChange, ...]) -> tuple[DossierChange, ...]:
    """The changes for the worse that somebody's artefact caused.

    A check that could not be run again (offline, an extra that is not installed) leaves a component
    declared; that alone is no step back.
    """
    return tuple(
        change
        for change in changes
        if change.way == "worse"
        and not (change.what.endswith(".state") and change.after in ("declared", "not known"))
        and not (change.what.endswith(".verified") and not _caused(changes))
    )


def _caused(changes: tuple[DossierChange, ...]) -> bool:
    """Whether some component was really found wanting, and not only left unchecked."""
    return any(
        change.way == "worse"
        and change.what.endswith(".state")
        and change.after not in ("declared", "not known")
        for change in changes
    )


def _verdicts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[DossierChange]:
    for name, order in _ORDERS.items():
        for which in ("declared", "verified"):
            first, two = str(before[name][which]), str(after[name][which])
            if first != two:
                yield DossierChange(f"{name}.{which}", first, two, _way(first, two, order))


def _licence(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[DossierChange]:
    old, two = before["licence"], after["licence"]
    for key in ("declared", "concluded", "kind"):
        if old[key] != two[key]:
            yield DossierChange(f"licence.{key}", _text(old[key]), _text(two[key]), "other")
    altered = [bool(licence["match"] and licence["match"]["altered"]) for licence in (old, two)]
    if altered[0] != altered[1]:
        why = "; ".join(two["match"]["riders"]) if altered[1] else ""
        yield DossierChange(
            "licence.altered",
            _text(altered[0]),
            _text(altered[1]),
            "worse" if altered[1] else "better",
            why,
        )


def _components(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[DossierChange]:
    first = {component["name"]: component for component in before["components"]}
    for two in after["components"]:
        old = first.get(two["name"])
        if old is None:
            continue
        what = f"components.{two['name']}"
        first_state, second_state = _state(old), _state(two)
        if first_state != second_state:
            way = _way(first_state, second_state, _STATES)
            yield DossierChange(f"{what}.state", first_state, second_state, way, _why(two))
        for key in ("availability", "licence"):
            if old[key] != two[key]:
                yield DossierChange(f"{what}.{key}", _text(old[key]), _text(two[key]), "other")


def _state(component: Mapping[str, Any]) -> str:
    """Its state, or "not known": from there to missing is neither better nor worse."""
    unknown = component["state"] == "declared" and component["availability"] == "unknown"
    return "not known" if unknown else str(component["state"])


def _why(component: Mapping[str, Any]) -> str:
    for result in ("fail", "not_run", "inconclusive"):
        for piece in component["evidence"]:
            if piece["result"] == result:
                text = piece["observed"] or piece["reason"]
                return f"{piece['check']}: {text}"
    return ""


def _way(before: str, after: str, order: tuple[str, ...]) -> Way:
    if before not in order or after not in order:
        return "other"
    return "better" if order.index(after) > order.index(before) else "worse"


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
