"""From readings to a table: medians, spreads and ratios, with the number of readings beside them.

A reading is one number of one side in one round. Rounds alternate between the sides, so a ratio is
taken within a round, where both sides saw the same machine, and the median is taken over the
rounds' ratios.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Readings = Mapping[str, Sequence[float | None]]  # by side: one value a round, None where it failed

ENOUGH = 3  # rounds below which no figure is to be quoted


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured: `unit`, and whether `more` is better."""

    key: str
    title: str
    unit: str
    more: bool


MEASURES = (
    Measure("cold", "cold start to first token", "s", more=False),
    Measure("prompt", "prompt", "tok/s", more=True),
    Measure("decode", "decode, 1 stream", "tok/s", more=True),
    Measure("streams4", "4 streams together", "tok/s", more=True),
    Measure("streams8", "8 streams together", "tok/s", more=True),
    Measure("again", "repeated prefix to first token", "s", more=False),
    Measure("peak", "peak memory (VmHWM)", "MB", more=False),
    Measure("pss", "memory at the end (PSS)", "MB", more=False),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of `count` values."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """The spread of those values that are there; None where none is."""
    there = [value for value in values if value is not None]
    return Spread(median(there), min(there), max(there), len(there)) if there else None


def ratios(side: Sequence[float | None], peer: Sequence[float | None]) -> list[float]:
    """`side` / `peer`, round by round; rounds where either is missing or the peer is 0 left out."""
    return [a / b for a, b in zip(side, peer, strict=True) if a is not None and b]


def shown(value: Spread | None, unit: str = "", digits: int | None = None) -> str:
    """``12.3 tok/s (11.8-13.0)``; ``-`` where nothing was measured. `digits` after the point."""
    if value is None:
        return "-"
    if digits is None:
        digits = 3 if value.high < 1 else 2 if value.high < 10 else 1
    middle = f"{value.median:.{digits}f}{' ' + unit if unit else ''}"
    return f"{middle} ({value.low:.{digits}f}-{value.high:.{digits}f})"


def markdown(readings: Mapping[str, Readings], sides: Sequence[str], peer: str) -> str:
    """One row a measure, one column a side, then each side's ratio to `peer`.

    Args:
        readings: by measure, by side, by round.
        sides: the columns, in order; `peer` is one of them.
    """
    others = [side for side in sides if side != peer]
    head = ["measure", "better", *sides, *(f"{side} / {peer}" for side in others), "rounds"]
    lines = [_row(head), _row(["---"] * len(head))]
    for measure in MEASURES:
        values = readings.get(measure.key)
        if not values:
            continue
        cells = [measure.title, "more" if measure.more else "less"]
        cells += [shown(spread(values.get(side, ())), measure.unit) for side in sides]
        cells += [shown(spread(ratios(values[side], values[peer])), digits=2) for side in others]
        cells.append(str(max(len(values[side]) for side in sides)))
        lines.append(_row(cells))
    return "\n".join(lines)


def caveat(rounds: int, quick: bool, busiest: float) -> str:
    """What a reader must know before the first number."""
    remarks = []
    if quick or rounds < ENOUGH:
        remarks.append(f"a trial of {rounds} rounds: not to be quoted")
    if busiest > 0.1:
        remarks.append(f"other processes kept up to {busiest:.1f} cores busy before a round")
    return f"({'; '.join(remarks)})" if remarks else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
