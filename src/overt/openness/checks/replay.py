"""The strongest evidence: a segment of the training made again and compared, bit for bit.

Here is the place for it; what it needs (a recipe of a segment: a checkpoint, the order of the data,
the settings, and the checkpoint that follows) comes with no release that is known yet.
"""

from collections.abc import Iterator

from overt.openness.evidence import Finding
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

VERSION = 1
TTL = 0


def check(subject: Subject) -> Iterator[Finding]:
    """Say that nothing was replayed, and why."""
    if subject.files:
        yield Finding(
            "weights",
            "not_run",
            Strength.REPLAYED,
            reason="no recipe of a training segment lies with it",
        )
