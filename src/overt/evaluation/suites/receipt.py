"""Receipts: what was asked of which model, how it was graded, and every item's score.

``<home>/evaluations/<id>.json`` is one line of canonical JSON (sorted keys, no spaces); its
`sha256` is that of the same JSON without the key `sha256`. Two receipts of the same items are
compared item by item.
"""

import json
import platform
import re
import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from overt.errors import FormatError, IntegrityError, NotFound
from overt.evaluation.suites import intervals
from overt.files import atomic
from overt.openness.export.text import canonical

FORM: Final = "overt-evaluation-1"
_MAX_BYTES = 1 << 30


def contamination(digests: Mapping[str, str], public: bool) -> list[str]:
    """Notes on data that models may have been trained on.

    Args:
        digests: sha256 of each file, and its name.
        public: the suite says so itself.
    """
    known = sorted({known_sets()[digest] for digest in digests if digest in known_sets()})
    if known:
        return [
            f"{', '.join(known)} is public: a model may have been trained on its items, and its"
            " score here then says little about others"
        ]
    if public:
        return ["the suite says that its items are public: a model may have been trained on them"]
    return []


def known_sets() -> Mapping[str, str]:
    """sha256 of files of public data sets and what they are (suites/public.tsv)."""
    from importlib import resources

    text = (
        resources.files("overt.evaluation.suites").joinpath("builtin/public.tsv").read_text("utf-8")
    )
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: row[1] for row in rows}


def environment() -> dict[str, str]:
    """Where it was run: versions and the kind of machine, and nothing that names it."""
    return {
        "overt": version("overt"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "implementation": sys.implementation.name,
    }


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with its sha256."""
    bare = {key: item for key, item in value.items() if key != "sha256"}
    return bare | {"sha256": sha256(canonical(bare).encode()).hexdigest()}


def write(folder: Path, value: Mapping[str, Any]) -> Path:
    """Write a receipt under its `id`; whole or not at all. Returns the file.

    Raises:
        OutOfDisk, Failure: it cannot be written.
    """
    path = folder / f"{value['id']}.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write(path, (canonical(sealed(value)) + "\n").encode())
    except OSError as error:
        raise atomic.unwritable(path, error) from None
    return path


def name_of(time: str, suite: str, model: str, rest: str) -> str:
    """A receipt's id: when, what, whom, and eight hex that tell apart."""
    plain = [re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.")[:40] for part in (suite, model)]
    stamp = re.sub(r"[^0-9T]", "", time)
    return "-".join(
        [stamp, *(part for part in plain if part), sha256(rest.encode()).hexdigest()[:8]]
    )


def read(where: str, folder: Path) -> dict[str, Any]:
    """The receipt in a file, or of an id in `folder`, checked.

    Raises:
        NotFound: no such file.
        FormatError: not a receipt.
        IntegrityError: it was changed since it was written.
    """
    path = place(where, folder)
    try:
        with path.open("rb") as file:
            receipt = json.loads(file.read(_MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no receipt {where!r}", f"they are in {folder}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _no_receipt(path, str(error)[:120]) from None
    _check(receipt, path)
    unchanged(receipt, path, "run the suite again: its answers are kept")
    return dict(receipt)


def place(where: str, folder: Path) -> Path:
    """The file that is named: by its path, or by the id of a receipt in `folder`."""
    path = Path(where).expanduser()
    if not path.is_file() and "/" not in where:
        return folder / f"{where.removesuffix('.json')}.json"
    return path


def unchanged(receipt: Mapping[str, Any], path: Path, hint: str) -> None:
    """Prove the sha256 that a receipt states of itself, which is a text.

    Raises:
        IntegrityError: it was changed since it was written.
    """
    try:
        seal = sealed(receipt)["sha256"]
    except (ValueError, TypeError, RecursionError):
        seal = ""
    if seal != receipt["sha256"]:
        raise IntegrityError(
            f"{path} was changed after it was written: its sha256 is not {receipt['sha256'][:12]}…",
            hint,
        )


def _check(receipt: Any, path: Path) -> None:
    wrong = ""
    if not isinstance(receipt, dict) or receipt.get("form") != FORM:
        wrong = f"it has no form {FORM!r}"
    elif not isinstance(receipt.get("sha256"), str):
        wrong = "it has no sha256"
    elif not all(isinstance(receipt.get(key), dict) for key in ("suite", "model", "totals")):
        wrong = "suite, model and totals are objects"
    elif not isinstance(receipt.get("score"), int | float) or not isinstance(receipt.get("n"), int):
        wrong = "score and n are numbers"
    elif not _is_interval(receipt.get("interval")):
        wrong = "interval is two numbers"
    elif not isinstance(receipt.get("items"), list):
        wrong = "items is a list"
    else:
        for number, item in enumerate(receipt["items"], 1):
            if not (
                isinstance(item, dict)
                and isinstance(item.get("id"), str)
                and isinstance(item.get("score"), int | float | None)
            ):
                wrong = f"item {number} has no id and score"
                break
    if wrong:
        raise _no_receipt(path, wrong)


def _no_receipt(path: Path, why: str) -> FormatError:
    return FormatError(f"{path} is not a receipt: {why}", "give a file that `overt eval` wrote")


def _is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in value
        )
    )


def compare(first: Mapping[str, Any], second: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Two receipts, item by item; of items that both have scores for.

    Keys: first, second (refs), n, difference (first minus second), interval of it, method, and of
    items that are right or wrong: first_only, second_only and mcnemar_p (None where some items
    have scores between). `same_suite` is False where they were asked or graded differently.

    Raises:
        FormatError: no item is in both.
    """
    one_side = {item["id"]: item for item in first["items"] if item["score"] is not None}
    other = {item["id"]: item for item in second["items"] if item["score"] is not None}
    ids = [id for id in one_side if id in other]
    if not ids or _data(first) != _data(second):
        raise FormatError(
            "the two receipts are of different items", "compare runs of one suite and its data"
        )
    a, b = ([float(side[id]["score"]) for id in ids] for side in (one_side, other))
    (low, high), method = intervals.paired(a, b, seed)
    plain = all(value in (0.0, 1.0) for value in (*a, *b))
    result = intervals.mcnemar([x == 1 for x in a], [x == 1 for x in b])
    return {
        "first": first["model"].get("ref"),
        "second": second["model"].get("ref"),
        "n": len(ids),
        "difference": intervals.mean(a) - intervals.mean(b),
        "interval": [low, high],
        "method": method,
        "first_only": result.first_only if plain else None,
        "second_only": result.second_only if plain else None,
        "mcnemar_p": result.p if plain else None,
        "same_suite": first["suite"].get("digest") == second["suite"].get("digest"),
    }


def _data(receipt: Mapping[str, Any]) -> list[str]:
    files = receipt.get("data")
    files = files if isinstance(files, list) else []
    return sorted(str(file.get("sha256")) for file in files if isinstance(file, dict))
