"""The report of garak, another program that attacks models: read, counted anew, with intervals.

garak (NVIDIA, Apache-2.0) writes JSON lines: an `attempt` for each prompt, an `eval` for each probe
and detector. Hits are answers that a detector flagged. Its file is a stranger's: everything is
bounded and checked, and no text of it is kept but the names of probes and detectors.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from overt.errors import FormatError
from overt.evaluation.audit import sets
from overt.evaluation.audit.figures import MIN_ANSWERS
from overt.evaluation.suites import intervals

_MAX_BYTES: Final = 256 << 20
_MAX_LINES: Final = 1_000_000
_MAX_RESULTS: Final = 10_000
_MAX_COUNT: Final = 1 << 40
_NAME: Final = re.compile(r"[A-Za-z0-9_.+:/ -]{1,200}")


def read(path: Path) -> dict[str, Any]:
    """The results in a report (``*.report.jsonl``).

    Keys: file, sha256, version (of garak), target, seed, results (probe, detector, hits, n,
    not_judged, prompts, rate, interval), notes.

    Raises:
        NotFound: no such file.
        FormatError: not a report of garak, with the line.
    """
    data = sets.bounded(path, _MAX_BYTES)
    return parsed(data, path.name)


def parsed(data: bytes, name: str) -> dict[str, Any]:
    """As `read`, of the file's bytes."""
    setup: Mapping[str, Any] = {}
    version = ""
    attempts: Counter[str] = Counter()
    results: dict[tuple[str, str], dict[str, Any]] = {}
    lines = data.split(b"\n")
    if len(lines) > _MAX_LINES:
        raise FormatError(f"{name} has more than {_MAX_LINES} lines", "give a smaller report")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _entry(line, f"line {number} of {name}")
        kind = entry.get("entry_type")
        if kind == "start_run setup":
            setup = entry
        elif kind == "init":
            version = _name(entry.get("garak_version")) or ""
        elif kind == "attempt" and entry.get("status") == 2:
            attempts[_name(entry.get("probe_classname")) or "?"] += 1
        elif kind == "eval":
            result = _result(entry, f"line {number} of {name}")
            results[result["probe"], result["detector"]] = result
            if len(results) > _MAX_RESULTS:
                raise FormatError(f"{name} has more than {_MAX_RESULTS} results", "split it")
    if not results:
        raise FormatError(
            f"{name} has no results of garak", "give the file that ends in .report.jsonl, whole"
        )
    for result in results.values():
        result["prompts"] = attempts.get(result["probe"], 0) or None
    ordered = [results[key] for key in sorted(results)]
    seed = setup.get("run.seed")
    return {
        "file": name,
        "sha256": sha256(data).hexdigest(),
        "version": version or "not stated",
        "target": _name(setup.get("plugins.target_name")) or "",
        "seed": seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        "results": ordered,
        "notes": _notes(ordered),
    }


def _entry(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where} is not JSON: {str(error)[:100]}", "give the report of garak, whole"
        ) from None
    if not isinstance(entry, dict):
        raise FormatError(f"{where} is no object", "each line of garak's report is one")
    return entry


def _result(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One line `eval`; older versions name the number of answers `total` and no `fails`."""
    probe, detector = _name(entry.get("probe")), _name(entry.get("detector"))
    count = _count(entry.get("total_evaluated", entry.get("total")))
    passed = _count(entry.get("passed"))
    hits = _count(entry["fails"]) if "fails" in entry else None
    if hits is None and count is not None and passed is not None:
        hits = count - passed
    if probe is None or detector is None or count is None or hits is None or not 0 <= hits <= count:
        raise FormatError(
            f"{where} is not a result: probe, detector and counts that fit are expected",
            "give the report as garak wrote it",
        )
    low, high = intervals.wilson(hits, count)
    return {
        "probe": probe,
        "detector": detector,
        "hits": hits,
        "n": count,
        "not_judged": _count(entry.get("nones", 0)) or 0,
        "rate": hits / count if count else 0.0,
        "interval": [low, high],
    }


def _notes(results: list[dict[str, Any]]) -> list[str]:
    few = sum(result["n"] < MIN_ANSWERS for result in results)
    notes = [
        "a hit is an answer that one of garak's detectors flagged; detectors err, and many look "
        "for words alone"
    ]
    if few:
        notes.insert(
            0,
            f"{few} of {len(results)} results have fewer than {MIN_ANSWERS} answers: too few to "
            "conclude "
            "anything from",
        )
    if lost := sum(result["not_judged"] for result in results):
        notes.append(f"{lost} answers were not judged by a detector and are left out")
    return notes


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _count(value: Any) -> int | None:
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT
    return value if fine else None
