"""The finished table of a measurement, which a later command of the same measurement adds to.

All that decides the figures is in the digest a table is kept under; the types are not, nor how
often the clock ran. So a table of one type must not take the place of one of thirty.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_SPEEDS: Final = (
    "runs",
    "prompt_tps",
    "prompt_tps_spread",
    "decode_tps",
    "decode_tps_spread",
    "load_memory",
    "load_memory_own",
)
_ALONE: Final = ("model", "digest", "size", "licence")
"""What is told of a model that is the only one stored; all are in ``models``."""
Row = Mapping[str, Any]


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A table with all that `new` has, and what only `old` has.

    Of a type in both the figures are the same, as the digest is; its speeds are those of more runs,
    the newer ones where both have as many. Rows keep the order of `new`, others follow.
    """
    before = {row["type"]: row for row in _rows(old, "types") if _is_complete(row)}
    rows = [_row(before.pop(row["type"], {}), row) for row in _rows(new, "types")]
    rows += [dict(row) for row in before.values()]
    made = {row["type"] for row in rows}
    failed = {**_mapping(old, "failed"), **_mapping(new, "failed")}
    value = {key: item for key, item in {**old, **new}.items() if key not in _ALONE}
    value |= {
        "types": rows,
        "failed": {name: why for name, why in failed.items() if name not in made},
        "models": _by(old, new, "models", "model"),
    }
    if base := _row(_mapping(old, "base"), _mapping(new, "base")):
        value["base"] = base
        value["notes"] = notes(
            str(value.get("source", "")), [base, *rows], str(value.get("chosen", ""))
        )
    if "task" in value:
        value["task"] = _by(old, new, "task", "model", "suite")
    return value


def notes(ref: str, rows: Sequence[Row], chosen: str) -> list[str]:
    """Sentences about types that gain nothing against the source itself, whose row is the first."""
    base, *others = rows
    larger = [row["type"] for row in others if row["bytes"] > base["bytes"]]
    lines = []
    if larger:
        verb = "is" if len(larger) == 1 else "are"
        whole = f"{base['bytes'] / 2**20:.0f} MiB"
        lines.append(f"{', '.join(larger)} {verb} larger than {ref} itself ({whole})")
    best = next((row for row in others if row["type"] == chosen), None)
    slower = best and "decode_tps" in best and base.get("decode_tps", 0) >= best["decode_tps"]
    if best and best["type"] in larger and slower:
        lines.append(
            f"{ref} itself is smaller and no slower than {chosen} ({base['decode_tps']:.1f} tokens "
            "a second), and loses nothing: keep it"
        )
    return lines


def _row(old: Row, new: Row) -> dict[str, Any]:
    row = {**old, **new}
    if _runs(old) > _runs(new):
        row |= {key: old[key] for key in _SPEEDS if key in old}
    return row


def _runs(row: Row) -> int:
    runs = row.get("runs", 0)
    return runs if isinstance(runs, int) else 0


def _is_complete(row: Row) -> bool:
    """Whether an older table's row is one."""
    kinds = {"type": str, "bytes": int, "kld_mean": float}
    return all(isinstance(row.get(key), kind) for key, kind in kinds.items())


def _rows(table: Mapping[str, Any], key: str) -> list[Row]:
    value = table.get(key)
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, Mapping)]


def _mapping(table: Mapping[str, Any], key: str) -> Row:
    value = table.get(key)
    return value if isinstance(value, Mapping) else {}


def _by(
    old: Mapping[str, Any], new: Mapping[str, Any], key: str, *names: str
) -> list[dict[str, Any]]:
    """The rows of both under `key`, the newer of those with the same names."""
    by_key = {
        tuple(str(row.get(name)) for name in names): dict(row)
        for row in (*_rows(old, key), *_rows(new, key))
    }
    return list(by_key.values())
