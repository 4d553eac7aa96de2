"""Receipts of audits: every item's outcome, sealed, so that figures can be made again and compared.

``<home>/audits/<id>.json`` is one line of canonical JSON with its own sha256, as the receipts of
`overt eval` are. It is read as a stranger's file: its form is checked before anything is used.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from overt.errors import FormatError, NotFound
from overt.evaluation.audit import figures
from overt.evaluation.audit.probe import AuditProbe, Contrast, Measure
from overt.evaluation.audit.probes import PROBES, find
from overt.evaluation.suites.receipt import place, unchanged

FORM: Final = "overt-audit-1"
_MAX_BYTES: Final = 256 << 20
_MAX_ITEMS: Final = 200_000
_PLAN: Final = {"seed": (0, 2**32 - 2), "limit": (0, _MAX_ITEMS), "max_tokens": (1, 4096)}
"""What a receipt may say that a plan was, from and to."""


def folder(home: Path) -> Path:
    return home / "audits"


def is_receipt(where: str, home: Path) -> bool:
    """Whether `where` names a receipt, by file or by id, and not a model."""
    path = place(where, folder(home))
    return path.suffix == ".json" and path.is_file()


def read(where: str, home: Path) -> dict[str, Any]:
    """The receipt in a file, or of an id, checked.

    Raises:
        NotFound: no such file.
        FormatError: not a receipt of an audit, or of probes that this Overt does not know.
        IntegrityError: it was changed since it was written.
    """
    path = place(where, folder(home))
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"there is no receipt {where!r}", f"those of audits are in {folder(home)}"
        ) from None
    except OSError as error:
        raise _none(path, error.strerror or "it cannot be read") from None
    if len(data) > _MAX_BYTES:
        raise _none(path, f"it is larger than {_MAX_BYTES >> 20} MiB")
    return parsed(data, path)


def parsed(data: bytes, path: Path) -> dict[str, Any]:
    """The receipt that `data` holds; raises as `read`."""
    try:
        receipt = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _none(path, str(error)[:120]) from None
    if wrong := _problem_of(receipt):
        raise _none(path, wrong)
    unchanged(receipt, path, "run the audit again: its answers are kept")
    _check_figures(receipt, path)
    for name, probe in receipt["probes"].items():
        receipt["probes"][name] = probe | _recomputed(name, probe, receipt["seed"])
    return dict(receipt)


def _recomputed(name: str, record: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What follows from the items and the probe: it is not taken from the file."""
    probe, items = find(name), record["items"]
    counted = sum(item["outcome"] is not None for item in items)
    return {
        "title": probe.title,
        "limits": list(probe.limits),
        "cite": list(probe.cite),
        "n": counted,
        "failed": len(items) - counted,
        "figures": figures.of_probe(probe, items, seed),
    }


def parameters_of(receipt: Mapping[str, Any]) -> dict[str, int]:
    """Seed, limit and max_tokens of the plan that a receipt was made by, where it has them."""
    sources = [receipt, *(probe["parameters"] for probe in receipt["probes"].values())]
    parameters = {}
    for name, (least, most) in _PLAN.items():
        for each in sources:
            value = each.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
                parameters[name] = value
                break
    return parameters


def compare(after: Mapping[str, Any], before: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Two receipts, item by item: after minus before, of every probe that is in both.

    Keys: after, before (refs), same_model, probes: by name either ``{"pairs": […]}`` as
    `figures.pairs` gives them, or ``{"why": …}`` where the two cannot be compared.

    Raises:
        FormatError: no probe is in both.
    """
    changes: dict[str, Any] = {}
    for name, probe in after["probes"].items():
        other = before["probes"].get(name)
        if other is None:
            continue
        if why := unlike(find(name), probe, other) or _otherwise(probe, other):
            changes[name] = {"why": why}
            continue
        pairs = figures.pairs(find(name), probe["items"], other["items"], seed)
        changes[name] = {"pairs": pairs} if pairs else {"why": "no item is in both"}
    if not changes:
        raise FormatError(
            "the two audits have no probe in common", "run the same probes on both models"
        )
    return {
        "after": after["model"]["ref"],
        "before": before["model"]["ref"],
        "same_model": after["model"]["digest"] == before["model"]["digest"] != "",
        "probes": changes,
    }


def unlike(probe: AuditProbe, new: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why two results of a probe cannot be compared, by what is known before asking; "" for none.

    Each has ``version``, ``data`` and ``parameters``.
    """
    if new["version"] != other["version"]:
        return f"measured by version {new['version']} and version {other['version']} of the probe"
    sides = ({str(file["sha256"]) for file in each["data"]} for each in (new, other))
    first, second = sides
    if first != second:
        return "the data files differ"
    for name in probe.uses:
        values = [each["parameters"].get(name) for each in (new, other)]
        if values[0] != values[1]:
            return f"{name} is {values[0]} in one and {values[1]} in the other"
    return ""


def _otherwise(new: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether the one was asked by likelihood and the other by chat, as words."""
    if new["by"] != other["by"]:
        return f"one was asked by {new['by']}, the other by {other['by']}"
    return ""


def _problem_of(receipt: Any) -> str:
    """What is wrong with the form of a receipt; "" for nothing."""
    if not isinstance(receipt, dict) or receipt.get("form") != FORM:
        return f"it has no form {FORM!r}"
    if not isinstance(receipt.get("sha256"), str):
        return "it has no sha256"
    model = receipt.get("model")
    if not isinstance(model, dict) or not all(
        isinstance(model.get(key), str) for key in ("ref", "digest", "engine", "build")
    ):
        return "model is an object with ref, digest, engine and build"
    if not isinstance(receipt.get("environment"), dict) or not isinstance(receipt.get("made"), str):
        return "environment is an object and made a text"
    if not isinstance(receipt.get("id"), str) or not isinstance(receipt.get("seed"), int):
        return "id is a text and seed a number"
    skipped = receipt.get("skipped")
    if not isinstance(skipped, list) or not all(
        isinstance(skip, dict) and isinstance(skip.get("probe"), str) for skip in skipped
    ):
        return "skipped is a list of probes"
    probes = receipt.get("probes")
    if not isinstance(probes, dict):
        return "probes is an object"
    for name, probe in probes.items():
        if name not in PROBES:
            return f"this Overt has no probe {str(name)[:60]!r}"
        if wrong := _wrong_probe(probe):
            return f"probe {name}: {wrong}"
    return ""


def _wrong_probe(probe: Any) -> str:
    if not isinstance(probe, dict):
        return "it is not an object"
    texts = ("version", "by", "method")
    if not all(isinstance(probe.get(key), str) for key in texts):
        return f"{', '.join(texts)} are texts"
    if not isinstance(probe.get("parameters"), dict):
        return "parameters is an object"
    data = probe.get("data")
    if not isinstance(data, list) or not all(
        isinstance(file, dict) and isinstance(file.get("sha256"), str) for file in data
    ):
        return "data is a list of files with sha256"
    if not isinstance(probe.get("notes"), list):
        return "notes is a list"
    items = probe.get("items")
    if not isinstance(items, list) or len(items) > _MAX_ITEMS:
        return f"items is a list of at most {_MAX_ITEMS}"
    seen = set()
    for number, item in enumerate(items, 1):
        if not (
            isinstance(item, dict)
            and isinstance(item.get("id"), str)
            and isinstance(item.get("groups"), list)
            and all(isinstance(group, str) for group in item["groups"])
            and isinstance(item.get("outcome"), dict | None)
        ):
            return f"item {number} has no id, groups and outcome"
        if item["id"] in seen:
            return f"item {number} has the id of another"
        seen.add(item["id"])
    return ""


def _check_figures(receipt: Mapping[str, Any], path: Path) -> None:
    """Every measure must take every outcome: nothing later has to expect less.

    Raises:
        FormatError: an outcome is not one of its probe.
    """
    for name, record in receipt["probes"].items():
        probe = find(name)
        for item in record["items"]:
            if item["outcome"] is None:
                continue
            measures: list[Measure | Contrast] = [*probe.measures, *probe.contrasts]
            for measure in measures:
                try:
                    value = measure.value(item["outcome"])
                    fine = value is None or math.isfinite(value)
                    least, most = (
                        getattr(measure, "least", -math.inf),
                        getattr(measure, "most", math.inf),
                    )
                    fine = fine and (value is None or least <= value <= most)
                except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
                    fine = False
                if not fine:
                    raise _none(path, f"item {item['id'][:60]!r} of {name} has no such outcome")


def _none(path: Path, why: str) -> FormatError:
    return FormatError(
        f"{path} is not a receipt of an audit: {why}", "give a file that `overt audit` wrote"
    )
