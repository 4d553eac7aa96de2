"""Whether a use is allowed: the clauses of a chain of licences against the facts of the use.

Pure: no clock, no disk but the clauses that come with the program, no network.

The answer is exact over everything that is not known: ``deny`` and ``needs_permission`` hold for
all values the missing facts may have, ``unknown`` means that some of them would change it, and
`missing` names those facts and no others. So another fact can only settle what was open, never turn
a deny into something milder. Three things are otherwise, on purpose:

- Where no field of use is named, what a use policy forbids is a duty and not a question.
- A clause that is not `asked` about counts where the facts say that it applies, else it is a note.
- A fact that only opens an exception is presumed (`facts.PRESUMED`): while nothing is said the
  stricter answer is given, and where it rests on that, `missing` names the fact. Only a person who
  says that it is otherwise makes the answer milder.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, cast

from overt.openness.permissions import phrases, terms, uses
from overt.openness.permissions.conditions import (
    Condition,
    Outlook,
    mentions,
    outlook,
    replace,
    residual,
)
from overt.openness.permissions.facts import PRESUMED, Value, known_values
from overt.openness.permissions.terms import Ban, Clause, Duty, Terms

Verdict = Literal["allow", "allow_with_obligations", "needs_permission", "deny", "unknown"]
_LEVEL = {"note": 0, "needs_permission": 1, "deny": 2}
REVIEW = "review of the altered text"
_DATA = "dataset"
_TEACHER = "teacher"
_ITSELF = ("", "self", "itself", "model", "subject")
# A copy of a data set is data; weights trained on it are no copy of it.
_OF_DATA: dict[str, tuple[str, ...]] = {
    "weights": (),
    "derivative": (),
    "product": (),
    "hosted_api": (),
}
# Weights that were made from the weights of a base are a derivative of it.
_OF_BASE: dict[str, tuple[str, ...]] = {"derivative": ("derivative", "weights")}


class LicenceLink(NamedTuple):
    """One part of a chain: the model itself, or what it was made from.

    Attributes:
        name: what people call it.
        relation: ``self``, ``base``, ``adapter``, ``merge``, ``teacher``, ``dataset`` …
        licence: its canonical id; None where nobody knows.
        known: False where the licence is only guessed, so that its clauses may not be all.
        altered: its text differs from the licence it looks like.
        riders: the sentences that were added or changed, from the user's own file.
        facts: about this part itself (`modality` …); they outweigh the facts that were asked,
            but not that the model itself is multimodal.
    """

    name: str
    relation: str
    licence: str | None
    known: bool = True
    altered: bool = False
    riders: tuple[str, ...] = ()
    facts: Mapping[str, object] = MappingProxyType({})


class AppliedClause(NamedTuple):
    """A clause that applies, or may.

    Attributes:
        when: what is still open, as "if …"; empty where it applies.
        links: the parts of the chain it comes from.
    """

    licence: str
    section: str
    effect: str
    rule: str
    when: str
    date: str
    source: str
    links: tuple[str, ...]

    @property
    def said(self) -> str:
        return self.rule

    def as_json(self) -> dict[str, Any]:
        return _json(self)


class Obligation(NamedTuple):
    """What must be done; `when` is what is still open about it, as "if …"."""

    licence: str
    section: str
    text: str
    when: str
    date: str
    source: str
    links: tuple[str, ...]

    @property
    def said(self) -> str:
        return self.text

    def as_json(self) -> dict[str, Any]:
        return _json(self)


_Item = TypeVar("_Item", bound=AppliedClause | Obligation)


class LinkAnswer(NamedTuple):
    """What one part of the chain alone comes to."""

    name: str
    relation: str
    licence: str | None
    verdict: Verdict
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return _json(self)


class Decision(NamedTuple):
    """The answer for a whole chain.

    Attributes:
        missing: facts by name, ``licence of NAME``, ``terms of LICENCE``, `REVIEW`; last the facts
            that were presumed and could make the answer milder.
        unread: data sets whose licence, or whose licence's clauses, nobody knows.
        reasons: sentences, the deciding ones first.
    """

    verdict: Verdict
    missing: tuple[str, ...]
    obligations: tuple[Obligation, ...]
    clauses: tuple[AppliedClause, ...]
    unread: tuple[str, ...]
    reasons: tuple[str, ...]
    per_link: tuple[LinkAnswer, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "missing": list(self.missing),
            "obligations": [obligation.as_json() for obligation in self.obligations],
            "clauses": [clause.as_json() for clause in self.clauses],
            "unread": list(self.unread),
            "reasons": list(self.reasons),
            "per_link": [link.as_json() for link in self.per_link],
        }


class _LinkReading(NamedTuple):
    """One link with its clauses brought to what is open about them."""

    link: LicenceLink
    terms: Terms | None
    rules: list[tuple[int, bool | Condition]]
    clauses: list[AppliedClause]
    obligations: list[Obligation]
    unsure: tuple[str, ...]
    unread: bool


def decide(chain: Sequence[LicenceLink], facts: Mapping[str, object]) -> Decision:
    """The answer for a chain. Raises BadRequest: a fact whose value is out of its kind."""
    facts_ = known_values(facts)
    own = {link.licence for link in chain if link.relation not in (_DATA, _TEACHER)}
    read = [_read(link, facts_, own) for link in chain]
    rules = [rule for reading in read for rule in reading.rules]
    unsure = _once(name for reading in read for name in reading.unsure)
    if not chain:
        unsure = ("licence of the model",)
    clauses = _merged(item for reading in read for item in reading.clauses)
    obligations = _merged(item for reading in read for item in reading.obligations)
    verdict, missing = _answer(rules, unsure, bool(obligations))
    return Decision(
        verdict=verdict,
        missing=missing,
        obligations=obligations,
        clauses=clauses,
        unread=_once(reading.link.name for reading in read if reading.unread),
        reasons=_reasons(verdict, missing, clauses, read),
        per_link=tuple(_link_answer(reading) for reading in read),
    )


def _answer(
    rules: Iterable[tuple[int, bool | Condition]], unsure: tuple[str, ...], duties: bool
) -> tuple[Verdict, tuple[str, ...]]:
    rules = list(rules)
    seen = _outlook((level, _presumed(holds)) for level, holds in rules)
    if seen.least == 2:
        return "deny", _milder(rules, 2)
    missing = seen.matter + unsure
    if seen.least == 1:
        return "needs_permission", missing + _milder(rules, 1)
    if seen.most or unsure:
        return "unknown", missing
    return ("allow_with_obligations" if duties else "allow"), ()


def _outlook(rules: Iterable[tuple[int, bool | Condition]]) -> Outlook:
    rules = list(rules)
    floor = max((level for level, holds in rules if holds is True), default=0)
    return outlook(
        [(level, condition) for level, condition in rules if not isinstance(condition, bool)], floor
    )


def _presumed(left: bool | Condition) -> bool | Condition:
    """What is open about a condition once the facts that nobody spoke of are presumed."""
    return left if isinstance(left, bool) else residual(left, PRESUMED)


def _milder(rules: list[tuple[int, bool | Condition]], level: int) -> tuple[str, ...]:
    """The facts that were presumed and without which the answer could be below its level."""
    seen = _outlook(rules)
    return tuple(fact_ for fact_ in seen.matter if fact_ in PRESUMED) if seen.least < level else ()


def _link_answer(reading: _LinkReading) -> LinkAnswer:
    verdict, missing = _answer(reading.rules, reading.unsure, bool(reading.obligations))
    return LinkAnswer(
        reading.link.name, reading.link.relation, reading.link.licence, verdict, missing
    )


def _read(
    link: LicenceLink, given_facts: Mapping[str, Value], own: Collection[str | None]
) -> _LinkReading:
    terms_ = terms.load(link.licence) if link.licence else None
    unread = link.relation == _DATA and (terms_ is None or not link.known)
    read = _LinkReading(link, terms_, [], [], [], _unsure(link, terms_), unread)
    if link.altered:
        read.clauses.extend(
            AppliedClause(link.licence or "", "rider", "unknown", rider, "", "", "", (link.name,))
            for rider in link.riders
        )
    if terms_ is None:
        return read
    facts = {**given_facts, **known_values(link.facts)}
    if link.relation in ("model", "self") and given_facts.get("modality") == "multimodal":
        # A name may stand for a release of several models: who asks knows which one it is.
        facts["modality"] = "multimodal"
    if link.relation in (_TEACHER, _DATA):
        # The model at hand was trained on these outputs or this data: no question about it. It is
        # no *other* model where it is itself a derivative under the same licence.
        facts["trains_other_model"] = "none" if link.licence in own else "outputs"
    named = facts.get("fields_of_use", ())
    facts["fields_of_use"] = named if isinstance(named, tuple) else ()
    for clause in terms_.clauses:
        _clause(read, clause, facts)
    for duty in terms_.obligations:
        _duty(read, duty, facts)
    if link.relation != _TEACHER or terms_.reaches_outputs:
        _bans(read, terms_.bans, facts["fields_of_use"])
    return read


def _unsure(link: LicenceLink, terms_: Terms | None) -> tuple[str, ...]:
    unsure: list[str] = []
    if link.relation == _DATA:
        pass  # named in `unread` instead: most data sets say nothing, and that is no answer
    elif not link.licence or not link.known:
        unsure.append(f"licence of {link.name}")
    elif terms_ is None:
        unsure.append(f"terms of {link.licence}")
    return (*unsure, REVIEW) if link.altered else tuple(unsure)


def _remaining(
    read: _LinkReading, condition: Condition, facts: Mapping[str, Value], *, outputs: bool = False
) -> bool | Condition:
    """What is open about a condition, for what this link is to the model.

    Of a teacher only what binds its outputs matters.
    """
    relation = read.link.relation
    training = mentions(condition, "trains_other_model")
    if relation == _TEACHER:
        reached = outputs or (read.terms is not None and read.terms.reaches_outputs)
        if not reached and not training:
            return False
    if relation == _DATA and not training:
        condition = replace(condition, "distributes", _OF_DATA)
    elif relation not in (_DATA, *_ITSELF):
        condition = replace(condition, "distributes", _OF_BASE)
    return residual(condition, facts)


def _clause(read: _LinkReading, clause: Clause, facts: Mapping[str, Value]) -> None:
    left = _remaining(read, clause.when, facts, outputs=clause.outputs)
    effect = clause.effect if clause.asked or left is True else "note"
    if effect != "note" and left is not False:
        read.rules.append((_LEVEL[effect], left))
    left = _presumed(left)
    if left is False:
        return
    when = "" if left is True else phrases.when(left)
    where = (clause.date, clause.source, (read.link.name,))
    read.clauses.append(
        AppliedClause(clause.licence, clause.section, effect, clause.rule, when, *where)
    )


def _duty(read: _LinkReading, duty: Duty, facts: Mapping[str, Value]) -> None:
    left = _presumed(_remaining(read, duty.when, facts))
    if left is False:
        return
    when = "" if left is True else phrases.when(left)
    where = (duty.date, duty.source, (read.link.name,))
    read.obligations.append(Obligation(duty.licence, duty.section, duty.text, when, *where))


def _bans(read: _LinkReading, bans: Sequence[Ban], named: Value) -> None:
    """Fields that were named are denied or limited; all that are forbidden are a duty."""
    words = named if isinstance(named, tuple) else ()
    links = (read.link.name,)
    for ban in bans:
        if ban.category not in words:
            continue
        what, rest = uses.label(ban.category), (ban.date, ban.source, links)
        if ban.only:
            text = f"{what[:1].upper()}{what[1:]}: only {ban.only}"
            read.obligations.append(Obligation(ban.licence, ban.section, text, "", *rest))
        else:
            read.rules.append((2, True))
            rule = f"Not to be used for {what}"
            read.clauses.append(AppliedClause(ban.licence, ban.section, "deny", rule, "", *rest))
    for licence in _once(ban.licence for ban in bans if not ban.only):
        of_it = [ban for ban in bans if ban.licence == licence and not ban.only]
        text = "Do not use it, or let others use it, for " + ", ".join(
            _once(uses.label(ban.category) for ban in of_it)
        )
        sections = ", ".join(_once(ban.section for ban in of_it))
        first = of_it[0]
        read.obligations.append(
            Obligation(licence, sections, text, "", first.date, first.source, links)
        )


def _reasons(
    verdict: Verdict,
    missing: tuple[str, ...],
    clauses: tuple[AppliedClause, ...],
    read: Sequence[_LinkReading],
) -> tuple[str, ...]:
    reasons: list[str] = []
    for effect in ("deny", "needs_permission"):
        settled = [clause for clause in clauses if clause.effect == effect and not clause.when]
        reasons += [_reason(clause) for clause in settled]
        if settled and verdict == "deny":
            break
    presumed = [fact_ for fact_ in missing if fact_ in PRESUMED]
    if len(missing) > len(presumed):
        open_ = [
            clause
            for clause in clauses
            if clause.effect in ("deny", "needs_permission") and clause.when
        ]
        reasons += [_reason(clause) for clause in open_]
    reasons += [phrases.presumed(fact_, PRESUMED[fact_]) for fact_ in presumed]
    for part in read:
        reasons += _about(part)
    return _once(reasons) or ("no clause of the chain forbids this use",)


def _reason(clause: AppliedClause) -> str:
    condition = f", {clause.when}" if clause.when else ""
    place = f"{clause.licence}, section {clause.section}"
    return f"{', '.join(clause.links)}: {clause.rule}{condition} ({place})"


def _about(part: _LinkReading) -> list[str]:
    """What a person should know about how far the answer for a link can be trusted."""
    link, terms_ = part.link, part.terms
    notes: list[str] = []
    if link.altered:
        notes.append(f"{link.name}: the text differs from {link.licence or 'every known licence'}")
    if f"licence of {link.name}" in part.unsure:
        notes.append(f"{link.name}: nobody knows its licence")
    elif f"terms of {link.licence}" in part.unsure:
        notes.append(f"{link.name}: the clauses of {link.licence} are not in the table")
    if terms_ is not None and not terms_.read:
        notes.append(f"{link.name}: the clauses of {terms_.id} are reported; its text was not read")
    return notes


def _merged(items: Iterable[_Item]) -> tuple[_Item, ...]:
    """The same clause of two links is one clause that names both."""
    merged: dict[tuple[str, str, str, str], _Item] = {}
    for item in items:
        key = (item.licence, item.section, item.said, item.when)
        before = merged.get(key)
        links = item.links if before is None else _once((*before.links, *item.links))
        merged[key] = cast("_Item", item._replace(links=links))
    return tuple(merged.values())


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _json(item: Any) -> dict[str, Any]:
    content: dict[str, Any] = item._asdict()
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in content.items()
    }
