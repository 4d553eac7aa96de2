"""Whether the documents, and the code beside training, of a release are there and are what they are
called: a card, a report, a paper, a data card, results, a safety policy, code to run, evaluate and
prepare data.

Presence is the bar of most of them. An empty file, a pointer to a large file that was not fetched,
or a PDF that is none is not presence.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from overt.openness.evidence import Finding
from overt.openness.subject import places
from overt.openness.subject.subject import Subject, SubjectFile
from overt.openness.verdicts.components import Strength

VERSION = 2
TTL = 0

_WORDS: Final = {
    "model_card": 5,
    "report": 5,
    "paper": 5,
    "data_card": 5,
    "evaluation_results": 1,
    "safety_policy": 5,
}
"""Documents, and the words of prose under which one says nothing yet."""
_CODE: Final = ("inference_code", "evaluation_code", "preprocessing_code")
_OTHER: Final = ("libraries", "evaluation_data", "sample_outputs")
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_MAX_FILES_READ: Final = 200
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


def check(subject: Subject) -> Iterator[Finding]:
    """Look for each document and each kind of code in its place."""
    if not subject.files:
        return
    places_found = places.components(subject)
    for component in (*_WORDS, *_CODE, *_OTHER):
        files = places_found.get(component, ())
        if component == "model_card":
            files = _card(subject, files)
        if files:
            yield _present(subject, component, files)
        elif places.searched(subject):
            yield _absent(subject, component)
    yield from _weights(subject)


def _weights(subject: Subject) -> Iterator[Finding]:
    """Weights that are said to be at a place where nothing is."""
    claim = subject.record.claim("weights")
    where = places.inside(claim.where) if claim else None
    if not where or where == "." or not places.searched(subject):
        return
    if not any(f.name == where or f.name.startswith(f"{where}/") for f in subject.files):
        yield Finding(
            "weights",
            "fail",
            Strength.EXISTS,
            expected=f"{where} as claimed",
            observed=f"none of the {len(subject.files)} files here is {where}",
        )


def _card(subject: Subject, files: tuple[SubjectFile, ...]) -> tuple[SubjectFile, ...]:
    """The card the subject was read by first; a README of a folder of code is no card."""
    name = subject.card.name if subject.card else ""
    return tuple(f for f in files if f.name == name) or files[:1]


def _absent(subject: Subject, component: str) -> Finding:
    claim = subject.record.claim(component)
    where = places.inside(claim.where) if claim else None
    return Finding(
        component,
        "fail",
        Strength.EXISTS,
        observed=f"none of the {len(subject.files)} files here is one",
        expected=f"{where} as claimed" if where else "",
        absent=True,
    )


def _present(subject: Subject, component: str, files: tuple[SubjectFile, ...]) -> Finding:
    """The first file that is what it is called makes the pass; otherwise the faults are told."""
    faults: list[str] = []
    unsettled: list[str] = []
    for file in files[:_MAX_FILES_READ]:
        fault = _fault(subject, file)
        if fault:
            faults.append(f"{file.name} {fault}")
            continue
        doubt = _doubt(subject, component, file)
        if doubt:
            unsettled.append(f"{file.name} {doubt}")
            continue
        return _passing(subject, component, files, file)
    if unsettled:
        return Finding(
            component,
            "inconclusive",
            Strength.EXISTS,
            reason="; ".join(unsettled[:3]),
            paths=tuple(f.name for f in files[:8]),
        )
    return Finding(
        component,
        "fail",
        Strength.EXISTS,
        observed="; ".join(faults[:3]),
        expected=f"a file that holds the {component.replace('_', ' ')}",
        absent=all(fault.endswith("is empty") for fault in faults),
        paths=tuple(f.name for f in files[:8]),
    )


def _passing(
    subject: Subject, component: str, files: tuple[SubjectFile, ...], file: SubjectFile
) -> Finding:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    pinned = component in _CODE and bool(subject.digest(file.name))
    return Finding(
        component,
        "pass",
        Strength.PINNED if pinned else Strength.EXISTS,
        observed=f"{file.name}, {file.size} bytes{more}",
        paths=(file.name, *(f.name for f in files[:16] if f is not file)),
    )


def _fault(subject: Subject, file: SubjectFile) -> str:
    """Why a file is not what its name says, or ""."""
    if file.size == 0:
        return "is empty"
    head = (subject.bytes(file.name, file.size) or b"") if file.size < 4096 else _head(file)
    if head.startswith(_LFS):
        return "is a pointer to a large file that was not fetched"
    if head and not head.strip(b"\0 \t\r\n"):
        return f"holds nothing but blanks in its first {len(head)} bytes"
    if file.suffix == ".pdf" and head and b"%PDF-" not in head[:1024]:
        return f"is no PDF: it begins with {head[:8]!r}"
    return ""


def _head(file: SubjectFile) -> bytes:
    if file.path is None:
        return b""
    try:
        with file.path.open("rb") as opened:
            return opened.read(4096)
    except OSError:
        return b""


def _doubt(subject: Subject, component: str, file: SubjectFile) -> str:
    """Why a file settles nothing though it is what its name says, or ""."""
    if component not in _WORDS or file.path is None or file.sparse:
        return ""
    if file.suffix not in ("", ".md", ".txt", ".rst", ".json", ".yaml", ".yml", ".csv", ".tsv"):
        return ""
    if component == "model_card" and file.name in subject.damaged:
        return subject.damaged[file.name]
    text = subject.text(file.name)
    if text is None:
        return ""
    if component == "evaluation_results":
        return _no_results(file, text)
    card = subject.card
    fields = len(card.fields) if card and card.name == file.name else 0
    prose = card.body if card and card.name == file.name else text
    words = len(prose.split())
    if words + 4 * fields < _WORDS[component]:
        return f"has {words} words"
    return ""


def _no_results(file: SubjectFile, text: str) -> str:
    if file.suffix == ".json":
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return "is not JSON"
    return "" if _NUMBER.search(text) else "holds no number"
