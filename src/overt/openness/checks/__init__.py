"""The checks on artefacts: one file each, found by being in this folder.

A check is a module with::

    VERSION: int           # raised whenever the same bytes could now be judged otherwise
    TTL: int               # days until it should be looked at again; 0: never, it looks at bytes
    def check(subject: Subject) -> Iterable[Finding]: ...

Its id is the module's name. It looks at what is there and yields what it found; it yields nothing
where it does not apply (a tokenizer check on a model without one), and a ``not_run`` with the
reason where it would apply and could not look. It never fetches, never runs code of the model and
never raises for what a file holds: an OvertError that escapes becomes ``not_run``. A fail needs
numbers.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Protocol

from overt.errors import OvertError
from overt.openness.evidence import Evidence, Finding, short
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength


class Check(Protocol):
    """What a module of this folder must have."""

    VERSION: int
    TTL: int

    def check(self, subject: Subject) -> Iterable[Finding]: ...


def names() -> tuple[str, ...]:
    """The ids of all checks, in order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Check:
    module: Check = importlib.import_module(f"{__name__}.{name}")
    return module


def version(name: str) -> int:
    """The version of a check, read without importing it: most dossiers are of what was seen."""
    return _versions()[name]


@cache
def _versions() -> dict[str, int]:
    versions = {}
    for module in pkgutil.iter_modules(__path__):
        text = Path(__path__[0], f"{module.name}.py").read_text("utf-8")
        line = re.search(r"^VERSION(?:: ?\w+)? = ([0-9]{1,6})$", text, re.MULTILINE)
        versions[module.name] = int(line[1]) if line else load(module.name).VERSION
    return versions


def run(name: str, subject: Subject, today: date) -> tuple[Evidence, ...]:
    """One check on one subject, as evidence of today."""
    module = load(name)
    try:
        findings = list(module.check(subject))
    except OvertError as error:
        findings = [
            Finding(
                "weights", "not_run", Strength.ASSERTED, reason=f"could not look: {error.message}"
            )
        ]
    return tuple(
        Evidence(
            check=name,
            version=module.VERSION,
            component=finding.component,
            result=finding.result,
            strength=finding.strength,
            observed=short(finding.observed),
            expected=short(finding.expected),
            reason=short(finding.reason),
            absent=finding.absent,
            licence=finding.licence,
            inputs=tuple(
                (path, subject.digest(path))
                for path in dict.fromkeys(finding.paths)
                if subject.file(path)
            ),
            at=today.isoformat(),
            ttl=module.TTL,
            axis=finding.axis,
        )
        for finding in findings
    )
