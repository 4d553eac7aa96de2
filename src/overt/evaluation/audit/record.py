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
from overt.evaluation.audit.probe import Contrast, Measure, Probe
from overt.evaluation.audit.probes import PROBES, find
from overt.evaluation.suites.receipt import place, unchanged

FORM: Final = "overt-audit-1"
_MOST_BYTES: Final = 256 << 20
_MOST_ITEMS: Final = 200_000
_PLAN: Final = {"seed": (0, 2**32 - 2), "limit": (0, _MOST_ITEMS), "max_tokens": (1, 4096)}
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
            data = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"there is no receipt {where!r}", f"those of audits are in {folder(home)}"
        ) from None
    except OSError as error:
        raise _none(path, error.strerror or "it cannot be read") from None
    if len(data) > _MOST_BYTES:
        raise _none(path, f"it is larger than {_MOST_BYTES >> 20} MiB")
    return parsed(data, path)


def parsed(data: bytes, path: Path) -> dict[str, Any]:
    """The receipt that `data` holds; raises as `read`."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _none(path, str(error)[:120]) from None
    if wrong := _wrong(found):
        raise _none(path, wrong)
    unchanged(found, path, "run the audit again: its answers are kept")
    _check_figures(found, path)
    for name, one in found["probes"].items():
        found["probes"][name] = one | _made_again(name, one, found["seed"])
    return dict(found)


def _made_again(name: str, one: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What follows from the items and the probe: it is not taken from the file."""
    probe, items = find(name), one["items"]
    counted = sum(item["outcome"] is not None for item in items)
    return {
        "title": probe.title, "limits": list(probe.limits), "cite": list(probe.cite),
        "n": counted, "failed": len(items) - counted,
        "figures": figures.of_probe(probe, items, seed),
    }  # fmt: skip


def asked_with(one: Mapping[str, Any]) -> dict[str, int]:
    """Seed, limit and max_tokens of the plan that a receipt was made by, where it has them."""
    told = [one, *(probe["parameters"] for probe in one["probes"].values())]
    found = {}
    for name, (least, most) in _PLAN.items():
        for each in told:
            value = each.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
                found[name] = value
                break
    return found


def compare(after: Mapping[str, Any], before: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Two receipts, item by item: after minus before, of every probe that is in both.

    Keys: after, before (refs), same_model, probes: by name either ``{"pairs": […]}`` as
    `figures.pairs` gives them, or ``{"why": …}`` where the two cannot be compared.

    Raises:
        FormatError: no probe is in both.
    """
    found: dict[str, Any] = {}
    for name, one in after["probes"].items():
        other = before["probes"].get(name)
        if other is None:
            continue
        if why := unlike(find(name), one, other) or _otherwise(one, other):
            found[name] = {"why": why}
            continue
        pairs = figures.pairs(find(name), one["items"], other["items"], seed)
        found[name] = {"pairs": pairs} if pairs else {"why": "no item is in both"}
    if not found:
        raise FormatError(
            "the two audits have no probe in common", "run the same probes on both models"
        )
    return {
        "after": after["model"]["ref"], "before": before["model"]["ref"],
        "same_model": after["model"]["digest"] == before["model"]["digest"] != "",
        "probes": found,
    }  # fmt: skip


def unlike(probe: Probe, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why two results of a probe cannot be compared, by what is known before asking; "" for none.

    Each has ``version``, ``data`` and ``parameters``.
    """
    if one["version"] != other["version"]:
        return f"measured by version {one['version']} and version {other['version']} of the probe"
    sides = ({str(file["sha256"]) for file in each["data"]} for each in (one, other))
    first, second = sides
    if first != second:
        return "the data files differ"
    for name in probe.uses:
        values = [each["parameters"].get(name) for each in (one, other)]
        if values[0] != values[1]:
            return f"{name} is {values[0]} in one and {values[1]} in the other"
    return ""


def _otherwise(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether the one was asked by likelihood and the other by chat, as words."""
    if one["by"] != other["by"]:
        return f"one was asked by {one['by']}, the other by {other['by']}"
    return ""


def _wrong(found: Any) -> str:
    """What is wrong with the form of a receipt; "" for nothing."""
    if not isinstance(found, dict) or found.get("form") != FORM:
        return f"it has no form {FORM!r}"
    if not isinstance(found.get("sha256"), str):
        return "it has no sha256"
    model = found.get("model")
    if not isinstance(model, dict) or not all(
        isinstance(model.get(key), str) for key in ("ref", "digest", "engine", "build")
    ):
        return "model is an object with ref, digest, engine and build"
    if not isinstance(found.get("environment"), dict) or not isinstance(found.get("made"), str):
        return "environment is an object and made a text"
    if not isinstance(found.get("id"), str) or not isinstance(found.get("seed"), int):
        return "id is a text and seed a number"
    skipped = found.get("skipped")
    if not isinstance(skipped, list) or not all(
        isinstance(one, dict) and isinstance(one.get("probe"), str) for one in skipped
    ):
        return "skipped is a list of probes"
    probes = found.get("probes")
    if not isinstance(probes, dict):
        return "probes is an object"
    for name, one in probes.items():
        if name not in PROBES:
            return f"this Overt has no probe {str(name)[:60]!r}"
        if wrong := _wrong_probe(one):
            return f"probe {name}: {wrong}"
    return ""


def _wrong_probe(one: Any) -> str:
    if not isinstance(one, dict):
        return "it is not an object"
    texts = ("version", "by", "method")
    if not all(isinstance(one.get(key), str) for key in texts):
        return f"{', '.join(texts)} are texts"
    if not isinstance(one.get("parameters"), dict):
        return "parameters is an object"
    data = one.get("data")
    if not isinstance(data, list) or not all(
        isinstance(file, dict) and isinstance(file.get("sha256"), str) for file in data
    ):
        return "data is a list of files with sha256"
    if not isinstance(one.get("notes"), list):
        return "notes is a list"
    items = one.get("items")
    if not isinstance(items, list) or len(items) > _MOST_ITEMS:
        return f"items is a list of at most {_MOST_ITEMS}"
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


def _check_figures(found: Mapping[str, Any], path: Path) -> None:
    """Every measure must take every outcome: nothing later has to expect less.

    Raises:
        FormatError: an outcome is not one of its probe.
    """
    for name, one in found["probes"].items():
        probe = find(name)
        for item in one["items"]:
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
