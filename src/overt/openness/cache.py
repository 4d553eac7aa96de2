"""The dossier that was made last of a file, shown again while nothing that decides it is another.

What decides it is written down with it, as one digest: the ref as typed, the state of the file, the
day, the settings, the names in the store (a base may be among them) and every file of the program
(with the checks, the rules and the data). The evidence it came from must be what it was then too.
Only a single file is looked after: for anything else, and with a base, the dossier is made anew
from the evidence that is kept. `overt dossier --fresh` does not look here.
"""

import json
import os
import stat
from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

from overt.openness import program
from overt.ref import parse, part_of
from overt.settings import Settings

_PARTS = {"subject", "step", "components", "licence", "next", "contradicted", "files"}
_PROGRAM = Path(__file__).parents[1]


def moment(ref: str, settings: Settings, day: date) -> str | None:
    """What decides the dossier of a file now, in one digest; None where none is kept."""
    parsed = parse(ref)
    path = Path(parsed.name).expanduser().absolute()
    if parsed.scheme != "path" or path.suffix.lower() in (".yaml", ".yml") or part_of(path.name):
        return None
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        decides = [
            ref,
            str(path),
            _state(path),
            day.isoformat(),
            repr(settings),
            program.extras(),
            [_listed(settings.home / name) for name in ("names", "manifests")],
            program.stamp(program.folders(_PROGRAM)),
        ]
    except (OSError, ValueError):
        return None
    return sha256(json.dumps(decides).encode()).hexdigest()


def find(last: Path, moment: str) -> Mapping[str, Any] | None:
    """The dossier in the file `last`, where it was made in this moment."""
    try:
        note = json.loads(_beside(last).read_bytes())
        if note["moment"] != moment or note["state"] != _state(last.with_name(note["log"])):
            return None
        data = last.read_bytes()
        if note["dossier"] != sha256(data).hexdigest():
            return None
        document: Mapping[str, Any] = json.loads(data)
        if not isinstance(document, dict) or not document.keys() >= _PARTS:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return document


def note(last: Path, moment: str, log: Path) -> None:
    """Write down that the dossier in `last` was made in this moment, from the evidence in `log`."""
    from overt.files import atomic

    try:
        content = {
            "moment": moment,
            "log": log.name,
            "state": _state(log),
            "dossier": sha256(last.read_bytes()).hexdigest(),
        }
        atomic.write(_beside(last), json.dumps(content).encode(), lasting=False)
    except OSError:
        return


def _beside(last: Path) -> Path:
    return last.with_name(last.name.removesuffix(".last.json") + ".kept.json")


def _state(path: Path) -> list[int]:
    """What changes with the content of a file, and with the file."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _listed(folder: Path) -> list[tuple[str, int, int, int]]:
    try:
        with os.scandir(folder) as entries:
            states = [(entry.name, entry.stat()) for entry in entries]
    except FileNotFoundError:
        return []
    return sorted((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in states)
