"""Where evidence is kept: one file a subject and base, to which lines are only ever added.

A line is one run of one check: its key (check, version, what was looked at), its day and what it
found. The newest line of a key counts; older ones stay, so that what was once believed can be read.
A line that cannot be read (a kill, a full disk) is passed over.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path

from overt.openness import evidence
from overt.openness.evidence import Evidence

_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class CheckRun:
    """One run of one check."""

    key: str
    check: str
    at: str
    evidence: tuple[Evidence, ...]


def key_of(check: str, version: int, subject: str, base: str, claims: str) -> str:
    """What decides the outcome of a check, in one digest."""
    text = json.dumps([check, version, subject, base, claims])
    return "sha256:" + sha256(text.encode()).hexdigest()


class EvidenceLog:
    """The evidence about one subject: `path` is created with the first line."""

    def __init__(self, home: Path, subject: str) -> None:
        name = sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
        self.path = home / "dossiers" / f"{name}.jsonl"

    def runs(self) -> Mapping[str, CheckRun]:
        """The newest run of each key."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES)
        except OSError:
            return {}
        runs = {}
        for line in data.split(b"\n"):
            try:
                content = json.loads(line)
                run = CheckRun(
                    str(content["key"]),
                    str(content["check"]),
                    date.fromisoformat(content["at"]).isoformat(),
                    tuple(evidence.read(piece) for piece in content["evidence"]),
                )
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            runs[run.key] = run
        return runs

    def add(self, runs: "list[CheckRun]") -> None:
        """Append; one write a call, so that two programs at once do not mix their lines.

        A home that cannot be written keeps no evidence, which costs time and nothing else.
        """
        lines = b"".join(
            json.dumps(
                {
                    "key": run.key,
                    "check": run.check,
                    "at": run.at,
                    "evidence": [piece.as_json() for piece in run.evidence],
                },
                separators=(",", ":"),
                ensure_ascii=False,
            ).encode("utf-8", "replace")
            + b"\n"
            for run in runs
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                # A last line that was cut short must not swallow the first of these.
                os.write(file, b"\n" + lines if os.fstat(file).st_size else lines)
            finally:
                os.close(file)
        except OSError:
            return
