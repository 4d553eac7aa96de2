"""The licence texts that lie with a model against the licences that are named for it.

Names come from the card, the GGUF header and the record; texts from the files. A text with other
words than the licence it follows is altered, and what was added is quoted. A free licence over
weights whose base is under a restricted one drops terms that still bind.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from overt.openness.evidence import Finding
from overt.openness.subject import places
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import BY_NAME, Strength

if TYPE_CHECKING:
    from overt.openness.licence.match import Match

VERSION = 3
TTL = 0

_MAX_TEXTS: Final = 16
_RESTRICTED: Final = (
    "use_restricted",
    "scale_limited",
    "non_commercial",
    "research_only",
    "proprietary",
)
_KEEPS_TERMS: Final = ("finetune", "quantized", "merge", "adapter", "base")
_LONG: Final = 150
"""Words from which a text is a licence of its own, and no pointer to one."""


@dataclass(frozen=True)
class SourceLicence:
    """A licence as one source names it."""

    source: str
    words: str
    ids: tuple[str, ...]
    path: str = ""


def check(subject: Subject) -> Iterator[Finding]:
    """Compare every text with every name, and the names with each other."""
    for finding in _findings(subject):
        yield replace(finding, axis="licence")


def _findings(subject: Subject) -> Iterator[Finding]:
    if not subject.files:
        return
    named = tuple(_source_licences(subject))
    yield from _names_differ(named)
    texts = _matches(subject)
    for component, own in _by_component(subject, texts).items():
        claims = named if component == "weights" else tuple(_claimed(subject, component))
        yield from _texts(subject, component, own, claims)
    yield from _link(subject, texts)
    yield from _terms_of_base(subject, named)


# -- names ---------------------------------------------------------------------------------------


def _source_licences(subject: Subject) -> Iterator[SourceLicence]:
    """What is named for the weights, by each source once."""
    card, header, record = subject.card, subject.model, subject.record
    if card is not None:
        words = [w for w in card.words("license") if w.lower() != "other"]
        yield from _source_licence(
            card.name, " AND ".join(words) or card.words("license_name")[:1], card.name
        )
    if header is not None:
        name = next(name for name, other in subject.gguf.items() if other is header)
        licence = header.licence if (header.licence or "other") != "other" else header.licence_name
        yield from _source_licence(f"the header of {name}", licence or "", name)
    config = subject.config
    if config is not None and isinstance(config.get("license"), str):
        yield from _source_licence("config.json", config["license"], "config.json")
    claim = record.claim("weights")
    for by, words_ in (
        (record.source, record.licence),
        ("its claim", claim.licence if claim else None),
    ):
        yield from _source_licence(by or "its record", words_ or "", "")


def _claimed(subject: Subject, component: str) -> Iterator[SourceLicence]:
    claim = subject.record.claim(component)
    if claim is not None and claim.licence:
        yield from _source_licence(claim.source or "its record", claim.licence, "")


def _source_licence(
    source: str, words: str | tuple[str, ...], path: str
) -> Iterator[SourceLicence]:
    from overt.openness.subject import named_licences as naming

    text = words if isinstance(words, str) else " ".join(words)
    if text.strip() and (ids := naming.ids_of(text)):
        yield SourceLicence(source, text, ids, path)


def _names_differ(named: tuple[SourceLicence, ...]) -> Iterator[Finding]:
    """A card and a header that name two licences: one of them is wrong."""
    written = [name for name in named if name.path]
    for first, second in itertools.pairwise(written):
        if not any(_agree(first, id_) for id_ in second.ids) and not any(
            _agree(second, id_) for id_ in first.ids
        ):
            yield Finding(
                "weights",
                "fail",
                Strength.CONSISTENT,
                observed=f"{second.source} names {' and '.join(second.ids)}",
                expected=f"{' and '.join(first.ids)}, as {first.source} says",
                paths=(first.path, second.path),
            )
            return


def _agree(named: SourceLicence, other: str) -> bool:
    from overt.openness.subject import named_licences as naming

    return any(
        _same(known, other) or naming.agree(named.words, known, other) for known in named.ids
    )


def _same(first: str, second: str) -> bool:
    """Whether two ids have one text: GPL-3.0-only and GPL-3.0-or-later do."""
    return _base_id(first) == _base_id(second)


def _base_id(id_: str) -> str:
    return id_.lower().removesuffix("-or-later").removesuffix("-only").removesuffix("+")


# -- texts ---------------------------------------------------------------------------------------


def _matches(subject: Subject) -> "Mapping[str, Match]":
    names = sorted(subject.licence_texts, key=lambda name: (name.count("/"), name))
    return {name: subject.licence_match(name) for name in names[:_MAX_TEXTS]}


def _by_component(
    subject: Subject, texts: "Mapping[str, Match]"
) -> "Mapping[str, dict[str, Match]]":
    """Licence files by what they are the licence of: those at the top are of the weights."""
    by_component: dict[str, dict[str, Match]] = {}
    for name, match in texts.items():
        component = _component(subject, name)
        if component is not None:
            by_component.setdefault(component, {})[name] = match
    return by_component


def _component(subject: Subject, name: str) -> str | None:
    folder, _, stem = name.lower().rpartition("/")
    if not folder:
        words = stem.replace(".", "-").replace("_", "-").split("-")
        if "code" in words:
            return "training_code" if places.of(subject, "training_code") else "inference_code"
        return "training_data" if {"data", "dataset", "datasets"} & set(words) else "weights"
    for claim in subject.record.claims:
        if places.inside(claim.where) in (folder, name) and claim.component in BY_NAME:
            return claim.component
    return places.component_of(f"{folder}/part.txt") or places.component_of(f"{folder}/main.py")


def _strength(component: str) -> Strength:
    """A licence text says nothing about whether the component is there: less than its bar."""
    return Strength(min(Strength.PINNED, BY_NAME[component].bar - 1))


def _texts(
    subject: Subject, component: str, texts: "Mapping[str, Match]", named: tuple[SourceLicence, ...]
) -> Iterator[Finding]:
    from overt.openness.subject import named_licences as naming

    mains = {n: m for n, m in texts.items() if m.altered or not naming.is_policy(m.id)}
    settled = False
    for name, match in mains.items():
        finding = _text(subject, component, name, match, named)
        if finding is not None:
            # Of two licences that lie side by side, one that is named by nobody is the other's.
            if finding.result == "fail" and not match.altered and _other_fits(mains, name, named):
                continue
            settled = settled or finding.result == "pass"
            yield finding
    if texts and not mains and not settled:
        yield Finding(
            component,
            "inconclusive",
            _strength(component),
            paths=tuple(texts),
            reason=f"{next(iter(texts))} is a list of forbidden uses; no licence lies beside it",
        )


def _other_fits(texts: "Mapping[str, Match]", name: str, named: tuple[SourceLicence, ...]) -> bool:
    return any(
        other != name and match.id and not match.altered and _agree(name_, match.id)
        for other, match in texts.items()
        for name_ in named
    )


def _text(
    subject: Subject, component: str, name: str, match: "Match", named: tuple[SourceLicence, ...]
) -> Finding | None:
    strength = _strength(component)
    expected = "; ".join(
        f"{' and '.join(name_.ids)}, as {name_.source} says" for name_ in named[:2]
    )
    if match.altered:
        return Finding(
            component,
            "fail",
            strength,
            observed=f"{name} is {match.id} altered: {_altered(match)}",
            expected=f"the text of {match.id} as its author wrote it",
            paths=(name,),
        )
    if match.kind == "notice_only":
        return Finding(
            component,
            "inconclusive",
            strength,
            paths=(name,),
            reason=f"{name} is a notice that names {match.id or 'a licence'}, not its text",
        )
    if match.id is None:
        return _unknown(subject, component, name, match, named, expected)
    known = (match.id, *match.others)
    if named and not any(_agree(name_, id_) for name_ in named for id_ in known):
        return Finding(
            component,
            "fail",
            strength,
            observed=f"{name} is the text of {match.id}",
            expected=expected,
            paths=(name,),
        )
    if match.missing_version:
        return Finding(
            component,
            "inconclusive",
            strength,
            paths=(name,),
            reason=f"{name} is the text of {match.id} without the version it is of",
        )
    return Finding(
        component,
        "pass",
        strength,
        licence=match.id,
        paths=(name,),
        observed=f"{name} is the text of {match.id} ({match.kind})",
        expected=expected,
    )


def _altered(match: "Match") -> str:
    if match.riders:
        more = f" and {len(match.riders) - 1} more places" if len(match.riders) > 1 else ""
        return f"it adds “{match.riders[0][:240]}”{more}"
    if match.changes:
        change = match.changes[0]
        was = f" where the text has {change.expected!r}" if change.expected.strip("… ") else ""
        return f"{change.found[:60]!r}{was} in “{change.sentence[:200]}”"
    return "words are missing"


def _unknown(
    subject: Subject,
    component: str,
    name: str,
    match: "Match",
    named: tuple[SourceLicence, ...],
    expected: str,
) -> Finding:
    """No text that is known. Where a widely known one is claimed, then it is not that."""
    from overt.openness.licence import names

    text = subject.licence_texts.get(name, "")
    words = len(text.split())
    claimed = [id_ for each in named for id_ in each.ids]
    widely = [id_ for id_ in claimed if (f := names.facts(id_)) and f.kind == "osd_open"]
    if widely and words >= _LONG and match.coverage < 0.5:
        return Finding(
            component,
            "fail",
            _strength(component),
            expected=expected,
            paths=(name,),
            observed=f"{name} has {words} words, of which {match.coverage:.0%} follow a licence "
            f"that is known; it is not the text of {widely[0]}",
        )
    own = _OWN_TERMS.search(text)
    if widely and (not words or (own and words < _LONG and not _names_a_licence(text))):
        quote = f"and says “{own[0]}”; it" if own else "and"
        return Finding(
            component,
            "fail",
            _strength(component),
            expected=expected,
            paths=(name,),
            observed=f"{name} has {words} words {quote} is not the text of {widely[0]}",
        )
    return Finding(
        component,
        "inconclusive",
        _strength(component),
        paths=(name,),
        reason=f"{name} ({words} words) is no licence text that is known here",
    )


_OWN_TERMS: Final = re.compile(
    r"\ball rights reserved\b|\bnon-?commercial\b|\b(?:research|academic|evaluation|personal)"
    r"(?: \w+){0,3} only\b|\bonly for (?:\w+ ){0,2}(?:research|academic|personal)\b"
    r"|\b(?:no|without) (?:\w+ ){0,4}permission\b"
    r"|\b(?:may|must|can) ?not be (?:used|copied|sold)\b",
    re.IGNORECASE,
)
"""Terms that no widely known free licence has."""


def _names_a_licence(text: str) -> bool:
    return bool(re.search(r"\b(?:MIT|Apache|BSD|GPL|CC[- ]BY|Creative Commons|MPL)\b", text))


# -- what it points at ---------------------------------------------------------------------------


def _link(subject: Subject, texts: "Mapping[str, Match]") -> Iterator[Finding]:
    """A card that says its licence is in a file which is not there."""
    card = subject.card
    link = subject.record.licence_link or (card.fields.get("license_link") if card else "")
    path = places.inside(link) if isinstance(link, str) else None
    if not path:
        if not texts and places.searched(subject) and subject.record.licence:
            yield Finding(
                "weights",
                "inconclusive",
                Strength.PINNED,
                reason="no licence text lies with it, only the name "
                f"{subject.record.licence[:60]!r}",
            )
        return
    if subject.file(path) is None and places.searched(subject) and card is not None:
        yield Finding(
            "model_card",
            "fail",
            Strength.CONSISTENT,
            paths=(card.name,),
            observed=f"{path}, where its licence should be, is not among the {len(subject.files)} "
            "files",
            expected=f"{path}, as license_link says",
        )


def _terms_of_base(subject: Subject, named: tuple[SourceLicence, ...]) -> Iterator[Finding]:
    """A free licence over weights that were made from restricted ones."""
    from overt.openness.licence import names

    free = [name_ for name_ in named if all(names.is_open(id_) for id_ in name_.ids)]
    if not free or len(free) < len(named):
        return
    for parent, licences, source in _parents(subject):
        for licence in licences:
            facts = names.facts(licence)
            if facts and facts.kind in _RESTRICTED and not names.is_open(licence):
                yield Finding(
                    "weights",
                    "fail",
                    Strength.CONSISTENT,
                    observed=f"{free[0].source} names {' and '.join(free[0].ids)}, which drops the "
                    f"terms of {parent}",
                    expected=f"the terms of {licence} passed on, the licence of {parent}"
                    f"{f' by {source}' if source else ''}",
                    paths=tuple(dict.fromkeys(n.path for n in free if n.path)),
                )
                return


def _parents(subject: Subject) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(what, licence ids, who says so) of each model it keeps weights of."""
    from overt.openness.subject import families
    from overt.openness.subject import named_licences as naming

    for parent in subject.record.parents:
        if parent.relation not in _KEEPS_TERMS:
            continue
        known = families.find(parent.name)
        licence = (known.licence if known else None) or parent.licence
        if licence:
            source = known.source if known else parent.source
            yield f"its base {parent.name}", naming.ids_of(licence), source
    if subject.base is not None:
        names_found = list(_source_licences(subject.base))
        if names_found:
            yield f"its base {subject.base.ref}", names_found[0].ids, names_found[0].source
    # A copy under the very name of a known model is that model, whoever sends it.
    header = subject.model
    for name in dict.fromkeys((header.name if header else None, subject.record.name)):
        own = families.find(name) if name else None
        if own is not None and own.licence:
            yield f"{own.name}, which it says it is", naming.ids_of(own.licence), own.source
