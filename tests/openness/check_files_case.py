"""A folder of files as a subject, and what one check finds in it."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from overt.openness import checks
from overt.openness.evidence import Evidence
from overt.openness.subject import claims
from overt.openness.subject.record import Claim, Parent, Record
from overt.openness.subject.subject import Subject, SubjectFile
from overt.openness.verdicts.components import Availability

DAY = date(2026, 11, 25)


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def subject(folder: Path, *extra: Claim, place: bool = True, parents: tuple[Parent, ...] = (),
            remote: bool = False) -> Subject:  # fmt: skip
    files = tuple(
        SubjectFile(path.relative_to(folder).as_posix(), path.stat().st_size, path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    found = Subject(str(folder), files, Record("tiny"), place=place, remote=remote)
    own = Record("tiny", claims=extra, parents=parents)
    found.record = own.over(claims.of(found))
    return found


def claim(component: str, where: str = "", licence: str | None = None) -> Claim:
    return Claim(component, Availability.FULL, licence, source="test", where=where)


def found(name: str, one: Subject, component: str | None = None) -> list[Evidence]:
    """What a check finds, made to JSON once, as a dossier does."""
    evidence = checks.run(name, one, DAY)
    json.dumps([piece.as_json() for piece in evidence])
    return [e for e in evidence if component in (None, e.component)]


def results(name: str, one: Subject, component: str | None = None) -> list[str]:
    return [e.result for e in found(name, one, component)]


def only(name: str, one: Subject, component: str | None = None) -> Evidence:
    pieces = found(name, one, component)
    assert len(pieces) == 1, pieces
    return pieces[0]


def card(body: str, **fields: Any) -> str:
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())
    return f"---\n{lines}---\n{body}"
