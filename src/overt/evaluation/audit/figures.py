"""Means, differences and contrasts of outcomes, each with n and an interval of 95 %.

Every measure is one number an item. Means of 0 and 1 have Wilson's interval, means of -1 and 1 the
same mapped onto that range, others a percentile bootstrap of the items; where all items are alike,
the bound of `evaluation/suites/intervals.py`. Differences of two independent shares have Newcombe's
interval (1998, method 10), other contrasts a bootstrap of both groups. Two models on the same items
have a paired bootstrap, and McNemar's exact test where all values are 0 or 1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from random import Random
from typing import Any, Final

from overt.evaluation.audit.probe import AuditProbe, Contrast, Measure, Outcome
from overt.evaluation.suites import intervals
from overt.evaluation.suites.intervals import Interval

NEWCOMBE: Final = "Newcombe's method 10, of two Wilson intervals, 95 %"
TWO: Final = f"bootstrap of both groups, percentile, {intervals.DRAWS} draws, 95 %"
MIN_ANSWERS: Final = 30
_SAME: Final = 1e-12

Entry = Mapping[str, Any]
"""An item of a receipt: id, groups, outcome (None where it failed)."""


def of_probe(probe: AuditProbe, entries: Sequence[Entry], seed: int) -> list[dict[str, Any]]:
    """The figures of all measures: of everything, then of each group."""
    figures = []
    for measure in probe.measures:
        groups = [""] + (_groups(entries) if measure.split else [])
        for group in groups:
            values = list(valued(entries, measure.value, group).values())
            if values or not group:
                figures.append(_figure(measure, group, values, seed))
    figures += [figure for each in probe.contrasts if (figure := _contrast(each, entries, seed))]
    return figures


def valued(
    entries: Iterable[Entry], value: Callable[[Outcome], float | None], group: str = ""
) -> dict[str, float]:
    """The number of each item that has one, by id."""
    numbers = {}
    for entry in entries:
        if entry["outcome"] is None or (group and group not in entry["groups"]):
            continue
        number = value(entry["outcome"])
        if number is not None:
            numbers[str(entry["id"])] = float(number)
    return numbers


def mean_interval(
    values: Sequence[float], least: float, most: float, seed: int
) -> tuple[Interval, str]:
    """Where the mean lies of which `values`, each from `least` to `most`, were seen; its method."""
    if not values:
        return (least, most), "no items"
    kinds = set(values)
    if kinds <= {0.0, 1.0} and (least, most) == (0.0, 1.0):
        return intervals.wilson(round(sum(values)), len(values)), intervals.WILSON
    if kinds <= {-1.0, 1.0}:
        low, high = intervals.wilson(sum(value > 0 for value in values), len(values))
        return (2 * low - 1, 2 * high - 1), f"{intervals.WILSON}, of the share, times 2 minus 1"
    if max(values) - min(values) < _SAME:
        return intervals.constant(values[0], len(values), least, most), intervals.ALIKE
    return intervals.bootstrap(values, seed), intervals.BOOTSTRAP


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """Where the difference of two independent shares lies; each is (seen, of how many)."""
    a, b = first[0] / first[1], second[0] / second[1]
    (low_a, high_a), (low_b, high_b) = intervals.wilson(*first), intervals.wilson(*second)
    under = sqrt((a - low_a) ** 2 + (high_b - b) ** 2)
    over = sqrt((high_a - a) ** 2 + (b - low_b) ** 2)
    return (max(-1.0, a - b - under), min(1.0, a - b + over))


def middle(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """Where the middle between two independent shares lies, from their own intervals likewise."""
    a, b = first[0] / first[1], second[0] / second[1]
    (low_a, high_a), (low_b, high_b) = intervals.wilson(*first), intervals.wilson(*second)
    under = sqrt((a - low_a) ** 2 + (b - low_b) ** 2) / 2
    over = sqrt((high_a - a) ** 2 + (high_b - b) ** 2) / 2
    return (max(0.0, (a + b) / 2 - under), min(1.0, (a + b) / 2 + over))


def auc(first: Sequence[float], second: Sequence[float]) -> float:
    """The share of pairs in which the first is larger; a tie is a half (Mann and Whitney 1947)."""
    ranked = sorted([(value, 1) for value in first] + [(value, 0) for value in second])
    total, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        middle = (at + 1 + end) / 2  # of the ranks, which count from 1
        total += middle * sum(own for _, own in ranked[at:end])
        at = end
    count = len(first)
    return (total - count * (count + 1) / 2) / (count * len(second))


def pairs(
    probe: AuditProbe, after: Sequence[Entry], before: Sequence[Entry], seed: int
) -> list[dict[str, Any]]:
    """Each measure after minus before, over the items that have a number in both."""
    rows = []
    for measure in probe.measures:
        groups = [""] + (_groups(after) if measure.split else [])
        for group in groups:
            new, other = (valued(side, measure.value, group) for side in (after, before))
            ids = [id for id in new if id in other]
            if ids:
                sides = [new[id] for id in ids], [other[id] for id in ids]
                rows.append(_pair(measure, group, *sides, len(new) + len(other), seed))
    return rows


def _pair(
    measure: Measure, group: str, after: list[float], before: list[float], seen: int, seed: int
) -> dict[str, Any]:
    width = measure.most - measure.least
    changes = [a - b for a, b in zip(after, before, strict=True)]
    if max(changes) - min(changes) < _SAME:
        low, high = intervals.constant(changes[0], len(changes), -width, width)
        method = f"paired {intervals.ALIKE}"
    else:
        low, high = intervals.bootstrap(changes, seed)
        method = f"paired {intervals.BOOTSTRAP}"
    plain = {*after, *before} <= {0.0, 1.0}
    test = intervals.mcnemar([x == 1 for x in after], [x == 1 for x in before])
    return {
        "measure": measure.name,
        "group": group,
        "n": len(changes),
        "only_one_has": seen - 2 * len(changes),
        "after": intervals.mean(after),
        "before": intervals.mean(before),
        "difference": intervals.mean(changes),
        "interval": [low, high],
        "method": method,
        "after_only": test.first_only if plain else None,
        "before_only": test.second_only if plain else None,
        "mcnemar_p": test.p if plain else None,
    }


def _figure(measure: Measure, group: str, values: list[float], seed: int) -> dict[str, Any]:
    (low, high), method = mean_interval(values, measure.least, measure.most, seed)
    return {
        "measure": measure.name,
        "group": group,
        "n": len(values),
        "value": intervals.mean(values) if values else None,
        "interval": [low, high],
        "method": method,
        "range": [measure.least, measure.most],
        "neutral": measure.neutral,
        "means": measure.means,
    }


def _contrast(contrast: Contrast, entries: Sequence[Entry], seed: int) -> dict[str, Any] | None:
    first = list(valued(entries, contrast.value, contrast.first).values())
    second = list(valued(entries, contrast.value, contrast.second).values())
    if not first or not second:
        return None
    statistic = _STATISTICS[contrast.kind]
    value = statistic(first, second)
    least = -1.0 if contrast.kind == "difference" else 0.0
    if contrast.kind != "auc" and {*first, *second} <= {0.0, 1.0}:
        sides = [(round(sum(values)), len(values)) for values in (first, second)]
        (low, high), method = (
            (newcombe if contrast.kind == "difference" else middle)(*sides),
            NEWCOMBE,
        )
    else:
        low, high = _bootstrap(statistic, first, second, seed)
        method = TWO
        if high - low < _SAME:
            low, high = intervals.constant(value, min(len(first), len(second)), least, 1.0)
            method = intervals.ALIKE
    return {
        "measure": contrast.name,
        "group": "",
        "n": len(first) + len(second),
        "ns": [len(first), len(second)],
        "value": value,
        "interval": [low, high],
        "method": method,
        "range": [least, 1.0],
        "neutral": contrast.reference,
        "means": contrast.means,
        "contrast": [contrast.first, contrast.second],
    }


def _bootstrap(
    statistic: Callable[[Sequence[float], Sequence[float]], float],
    first: list[float],
    second: list[float],
    seed: int,
) -> Interval:
    draw = Random(seed)  # noqa: S311 - statistics, not secrets
    draws = sorted(
        statistic(draw.choices(first, k=len(first)), draw.choices(second, k=len(second)))
        for _ in range(intervals.DRAWS)
    )
    return intervals.interval(draws)


_STATISTICS: Final[Mapping[str, Callable[[Sequence[float], Sequence[float]], float]]] = {
    "difference": lambda a, b: intervals.mean(a) - intervals.mean(b),
    "middle": lambda a, b: (intervals.mean(a) + intervals.mean(b)) / 2,
    "auc": auc,
}


def _groups(entries: Sequence[Entry]) -> list[str]:
    return sorted({group for entry in entries for group in entry["groups"]})
