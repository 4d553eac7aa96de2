"""One subject through all checks to a dossier; what was found and still holds is not redone."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from overt.openness import checks, program
from overt.openness.dossier import Dossier, LicenceFinding
from overt.openness.evidence import ComponentResult, Evidence, finish
from overt.openness.evidence_log import CheckRun, EvidenceLog, key_of
from overt.openness.licence import names
from overt.openness.subject.record import Record
from overt.openness.subject.subject import Subject
from overt.openness.verdicts import rules
from overt.openness.verdicts.components import COMPONENTS

if TYPE_CHECKING:
    from overt.openness.licence.match import Match


def assemble(
    subject: Subject,
    home: Path,
    day: date,
    *,
    fresh: bool = False,
    report: Callable[[str], None] | None = None,
) -> Dossier:
    """The dossier of `subject` as of `day`.

    Args:
        home: where evidence is kept and looked up.
        fresh: look at everything again, whatever was found before.
        report: told the name of each check before it runs.
    """
    evidence = _evidence(subject, home, day, fresh=fresh, report=report)
    components = tuple(
        _with_canonical_licence(
            finish(
                component,
                subject.record.claim(component.name),
                [piece for piece in evidence if piece.component == component.name],
                day,
            )
        )
        for component in COMPONENTS
    )
    licence = licence_of(subject)
    verdicts = rules.judge(components, subject.record, licence=licence.id, altered=licence.altered)
    days = [piece.at for piece in evidence if piece.at]
    return Dossier(
        ref=subject.ref,
        record=subject.record,
        digest=subject.digest_all if subject.files else "",
        files=tuple((file.name, file.size, subject.digest(file.name)) for file in subject.files),
        components=components,
        verdicts=verdicts,
        licence=licence,
        base=subject.base.ref if subject.base else "",
        made_on=max(days, default=subject.record.date),
        rules_version=rules.RULES_VERSION,
    )


def _evidence(
    subject: Subject,
    home: Path,
    day: date,
    *,
    fresh: bool,
    report: Callable[[str], None] | None,
) -> list[Evidence]:
    """Of every check in order; runs only those whose evidence is not there or has expired."""
    if not subject.files:
        return []
    log = EvidenceLog(home, subject.digest_all)
    runs = {} if fresh else log.runs()
    base = subject.base.digest_all if subject.base else ""
    # What is claimed, and what the checks can look with.
    claimed = " ".join((record_digest(subject.record), *program.extras()))
    collected: list[Evidence] = []
    new: list[CheckRun] = []
    for name in checks.names():
        key = key_of(name, checks.version(name), subject.digest_all, base, claimed)
        run = runs.get(key)
        if run is None or any(piece.expired(day) for piece in run.evidence):
            if report:
                report(name)
            run = CheckRun(key, name, day.isoformat(), checks.run(name, subject, day))
            new.append(run)
        collected += run.evidence
    if new:
        log.add(new)
    return collected


def _with_canonical_licence(result: ComponentResult) -> ComponentResult:
    """With its licence by the one name that the project has for it, where it has one."""
    return replace(
        result, licence=(result.licence and names.canonical(result.licence)) or result.licence
    )


def record_digest(record: Record) -> str:
    """``sha256:…`` of what is claimed: with other claims a check may find otherwise."""
    content = json.dumps(asdict(record), sort_keys=True, default=str)
    return "sha256:" + sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def licence_of(subject: Subject) -> LicenceFinding:
    """The licence of the weights: what is claimed, and what the texts that lie with them are."""
    record = subject.record
    claim = record.claim("weights")
    licence_text = record.licence or (claim.licence if claim else None) or ""
    declared = names.canonical(licence_text) if licence_text else None
    best = best_text(subject, declared)
    concluded = best[1].id if best and best[1].kind != "unknown" else None
    facts = names.facts(concluded or declared or "")
    return LicenceFinding(
        declared=declared,
        declared_text=licence_text,
        concluded=concluded,
        kind=facts.kind if facts else "unknown",
        match=best[1] if best else None,
        file=best[0] if best else "",
    )


def best_text(subject: Subject, declared: str | None) -> "tuple[str, Match] | None":
    """The licence file that counts for the weights: the one that is what is declared, else the one
    nearest to the top that is any known licence, else any."""
    texts = subject.licence_texts
    if not texts:
        return None
    ordered = sorted(texts, key=lambda name: (name.count("/"), name))
    matched = [(name, subject.licence_match(name)) for name in ordered[:8]]
    return _first(
        [pair for pair in matched if declared and pair[1].id == declared],
        [pair for pair in matched if pair[1].kind in ("exact", "near", "altered")],
        matched,
    )


def _first(*lists: "Sequence[tuple[str, Match]]") -> "tuple[str, Match] | None":
    return next((items[0] for items in lists if items), None)
