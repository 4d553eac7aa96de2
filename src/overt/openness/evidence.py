"""What a check found, and what claims and findings together make of a component.

Evidence is only ever added (`evidence_log.py`). Its id is the digest of what it says, without its
date, so the same look at the same bytes gives the same id on every machine.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from typing import Any, Literal

from overt.openness.subject.record import Claim
from overt.openness.verdicts.components import Availability, Component, Strength

Result = Literal["pass", "fail", "inconclusive", "not_run"]
State = Literal["verified", "declared", "missing", "contradicted"]
Axis = Literal["availability", "licence"]
_MAX_CHARACTERS = 400  # characters of `observed`, `expected` and `reason`


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says about one component. The runner makes `Evidence` of it.

    Attributes:
        component: a name of components.py.
        result: ``fail`` only where the artefact contradicts a claim, or is not what it must be;
            ``inconclusive`` where the look settles nothing; ``not_run`` where there was no look.
        strength: what a pass is worth, or what the check that failed would have been worth.
        observed: what is there, with the numbers; one line.
        expected: what the claim or the rest of the artefact asks for.
        reason: why it was not run or settles nothing.
        absent: this is the result of a search of the place where the component must be, and it is
            not there (with result ``fail``): the component is missing, not contradicted.
        licence: the licence a check concluded for the component, where it did.
        paths: the files that were looked at, by their name in the subject.
        axis: what the finding is about: whether the component is there and is what it is said to
            be, or its licence. A licence never decides whether something can be had.
    """

    component: str
    result: Result
    strength: Strength
    observed: str = ""
    expected: str = ""
    reason: str = ""
    absent: bool = False
    licence: str | None = None
    paths: tuple[str, ...] = ()
    axis: Axis = "availability"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A finding with its check, the digests of what was looked at, and its date.

    Attributes:
        check, version: which check, and which version of what it means.
        inputs: (name, ``sha256:…``) of each file looked at, in order.
        at: the day (ISO 8601, UTC).
        ttl: days after which it should be looked at again; 0 for never: the bytes are pinned.
    """

    check: str
    version: int
    component: str
    result: Result
    strength: Strength
    observed: str = ""
    expected: str = ""
    reason: str = ""
    absent: bool = False
    licence: str | None = None
    inputs: tuple[tuple[str, str], ...] = ()
    at: str = ""
    ttl: int = 0
    axis: Axis = "availability"

    @property
    def id(self) -> str:
        content = {key: value for key, value in self.as_json().items() if key not in ("id", "at")}
        return "sha256:" + sha256(_canonical(content)).hexdigest()

    def as_json(self, *, with_id: bool = False) -> dict[str, Any]:
        value: dict[str, Any] = {"id": self.id} if with_id else {}
        return value | {
            "check": self.check,
            "version": self.version,
            "component": self.component,
            "result": self.result,
            "strength": self.strength.word,
            "observed": self.observed,
            "expected": self.expected,
            "reason": self.reason,
            "absent": self.absent,
            "licence": self.licence,
            "axis": self.axis,
            "inputs": [{"name": name, "digest": digest} for name, digest in self.inputs],
            "at": self.at,
            "ttl_days": self.ttl,
        }

    def expired(self, today: date) -> bool:
        if not self.ttl or not self.at:
            return False
        return date.fromisoformat(self.at) + timedelta(days=self.ttl) < today


@dataclass(frozen=True)
class ComponentResult:
    """One component with everything known about it.

    Attributes:
        availability: as the rules count it: claimed, or found where nothing is claimed.
        licence: concluded by a check, else claimed.
        but_licence: the state by everything but findings about its licence, where that differs.
    """

    component: Component
    state: State
    availability: Availability
    licence: str | None
    claim: Claim | None = None
    evidence: tuple[Evidence, ...] = field(default_factory=tuple)
    but_licence: State | None = None

    @property
    def there(self) -> State:
        """The state that decides the step, which a licence never moves."""
        return self.but_licence or self.state


def short(text: str, most: int = _MAX_CHARACTERS) -> str:
    """One line of at most `most` characters, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def state_of(component: Component, claim: Claim | None, evidence: Iterable[Evidence]) -> State:
    """The state of a component: what was found outweighs what is said.

    Any fail contradicts it, unless the fail is a search that found nothing and nothing claims the
    component to be there: then it is missing. A pass at the component's bar verifies it, an open
    question (not run, inconclusive, expired) never moves it.
    """
    pieces = tuple(evidence)
    claimed = claim is not None and claim.availability > Availability.UNKNOWN
    fails = [piece for piece in pieces if piece.result == "fail"]
    if any(not piece.absent for piece in fails):
        return "contradicted"
    if fails:
        # Searched for and not there: a claim that it is elsewhere stays a claim, one that it is
        # here is contradicted.
        if not claimed:
            return "missing"
        return "declared" if claim and _elsewhere(claim) else "contradicted"
    if any(piece.result == "pass" and piece.strength >= component.bar for piece in pieces):
        return "verified"
    if claim is not None and claim.availability == Availability.ABSENT:
        return "missing"
    return "declared"


def _elsewhere(claim: Claim) -> bool:
    return not claim.where or "://" in claim.where


def finish(
    component: Component, claim: Claim | None, evidence: Iterable[Evidence], today: date
) -> ComponentResult:
    """Claims and evidence of one component brought together; expired evidence settles nothing."""
    pieces = tuple(evidence)
    current = [piece for piece in pieces if not piece.expired(today)]
    there = state_of(component, claim, [piece for piece in current if piece.axis == "availability"])
    licence_fails = any(
        piece.axis == "licence" and piece.result == "fail" and not piece.absent for piece in current
    )
    state: State = "contradicted" if licence_fails else there
    availability = claim.availability if claim else Availability.UNKNOWN
    if state == "missing":
        availability = Availability.ABSENT
    elif there == "verified" and availability <= Availability.UNKNOWN:
        availability = Availability.FULL
    concluded = next((piece.licence for piece in pieces if piece.licence), None)
    licence = concluded or (claim.licence if claim else None)
    return ComponentResult(component, state, availability, licence, claim, pieces, there)


def read(content: Mapping[str, Any]) -> Evidence:
    """Evidence from its JSON. Raises ValueError, KeyError or TypeError: not evidence."""
    result = content["result"]
    if result not in ("pass", "fail", "inconclusive", "not_run"):
        raise ValueError(f"a result is {result!r}")
    axis = content["axis"]
    if axis not in ("availability", "licence"):
        raise ValueError(f"an axis is {axis!r}")
    at = str(content["at"])
    if at:
        date.fromisoformat(at)
    licence = content["licence"]
    return Evidence(
        check=str(content["check"]),
        version=int(content["version"]),
        component=str(content["component"]),
        result=result,
        strength=Strength[str(content["strength"]).upper()],
        observed=str(content["observed"]),
        expected=str(content["expected"]),
        reason=str(content["reason"]),
        absent=bool(content["absent"]),
        licence=None if licence is None else str(licence),
        inputs=tuple((str(entry["name"]), str(entry["digest"])) for entry in content["inputs"]),
        at=at,
        ttl=int(content["ttl_days"]),
        axis=axis,
    )


def _canonical(content: object) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")  # a file's name may be no UTF-8
