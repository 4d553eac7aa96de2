"""What commands have asked of one measurement and not got yet.

The digest of a measurement does not know its types: commands for one type and for all of them share
a job. ``pending.json`` in its ``work`` says, for each thing asked for, how it was typed, so that a
small command that ends does not delete what a large one, killed before, goes on from.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from overt.files.atomic import write
from overt.provenance import jobs

_FILE = "pending.json"
_TYPED = ("command", "folder", "variables")


class Pending:
    """The list of one job, whose lock is held.

    Args:
        folder: of the job.
        noted: what `jobs.begin` noted of the command that runs now.
    """

    def __init__(self, folder: Path, noted: Mapping[str, Any]) -> None:
        self._folder, self._file = folder, folder / "work" / _FILE
        self._typed = {key: noted[key] for key in _TYPED if key in noted}
        self._own: set[str] = set()

    def asked(self, what: Iterable[str]) -> None:
        """Note what this command is to do, until it has."""
        self._own |= set(what)
        self._write(self._read() | dict.fromkeys(sorted(self._own), self._typed))

    def ended(self) -> bool:
        """Take out what this command was to do; whether nothing of others is left undone."""
        return not self._without(self._own)

    def refused(self, done: Callable[[str], bool]) -> None:
        """Take out what this command was to do and cannot: all of which nothing is `done`."""
        self._without({what for what in self._own if not done(what)})

    def _without(self, what: Set[str]) -> Mapping[str, Any]:
        """What is left, told as the job of the command that began it."""
        left = {other: typed for other, typed in self._read().items() if other not in what}
        if not self._file.parent.is_dir():  # the job is gone already
            return left
        self._write(left)
        if left:
            noted = jobs.noted_in(self._folder)
            noted = {key: value for key, value in noted.items() if key not in _TYPED}
            noted |= next(iter(left.values()))
            write(self._folder / "job.json", json.dumps(noted, sort_keys=True).encode())
        return left

    def idle(self) -> bool:
        """Whether no command has left anything to go on from."""
        left = (path for path in self._file.parent.rglob("*") if path.is_file())
        return all(path.name in (_FILE, "events.jsonl") for path in left)

    def _write(self, value: Mapping[str, Any]) -> None:
        write(self._file, json.dumps(value, sort_keys=True).encode())

    def _read(self) -> dict[str, dict[str, Any]]:
        pending = read(self._file) or {}
        return {what: typed for what, typed in pending.items() if isinstance(typed, dict)}


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object that was kept; None where there is nothing whole."""
    with suppress(OSError, ValueError, RecursionError):
        document = json.loads(path.read_bytes())
        if isinstance(document, dict):
            return document
    return None
