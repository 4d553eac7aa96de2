"""A release or a file as a subject, without claims but those a test makes."""

from pathlib import Path
from typing import Any

from overt.openness import checks
from overt.openness.evidence import Finding
from overt.openness.subject.record import Parent, Record
from overt.openness.subject.subject import Subject, SubjectFile


def subject(
    path: Path, *, base: Subject | None = None, relation: Any = None, name: str = "", **facts: Any
) -> Subject:
    if path.is_dir():
        files = tuple(
            SubjectFile(one.relative_to(path).as_posix(), one.stat().st_size, one)
            for one in sorted(path.rglob("*"))
            if one.is_file()
        )
    else:
        files = (SubjectFile(name or path.name, path.stat().st_size, path),)
    parents = (Parent("the/base", relation),) if relation else ()
    record = Record("tiny", parents=parents, facts=facts)
    return Subject(str(path), files, record, place=path.is_dir(), base=base)


def findings(check: str, one: Subject) -> list[Finding]:
    return list(checks.load(check).check(one))


def only(check: str, one: Subject) -> Finding:
    found = findings(check, one)
    assert len(found) == 1, found
    return found[0]


def results(check: str, one: Subject) -> set[str]:
    return {found.result for found in findings(check, one)}
