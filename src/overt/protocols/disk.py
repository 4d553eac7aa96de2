"""Whether a file that a client sends may still grow: the disk of the store is not to be filled."""

import shutil
from pathlib import Path

from overt.errors import OutOfDisk

SPARE = 256 << 20
"""Bytes that stay free."""
LOOK = 64 << 20
"""Bytes that may come between two looks."""


def room(folder: Path) -> None:
    """Raises OutOfDisk where less than `SPARE` is free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < SPARE:
        raise OutOfDisk(
            f"{free >> 20} MiB are free on the disk of the store, and {SPARE >> 20} stay free",
            "free some space",
        )
