"""Intervals and tests for scores, in plain Python.

Sources: Wilson 1927 (interval of a proportion); Efron 1979 (bootstrap, percentile); McNemar 1947,
in the exact form: a two-sided sign test of the discordant pairs. All intervals are of 95 %.

Drawing again from values that are all the same gives them back, and an interval without width,
which says more than n items can. `constant` is used there. Of n items none differed from the rest.
If a share s of all items did, that had a chance of (1 - s)^n, which is below 5 % for s > 1 -
0.05^(1/n): the upper bound of Clopper and Pearson 1934 for none of n. So with 95 % confidence no
more than that share differs, and as those may have any value of the range [a, b], the mean is from
(1 - s) v + s a to (1 - s) v + s b.
"""

from collections.abc import Sequence
from math import sqrt
from random import Random
from typing import Final, NamedTuple

Z: Final = 1.959963984540054
"""The 97.5 % point of the normal distribution."""
DRAWS: Final = 2000
"""Samples a bootstrap draws."""

WILSON: Final = "Wilson, 95 %"
BOOTSTRAP: Final = f"bootstrap of items, percentile, {DRAWS} draws, 95 %"
ALIKE: Final = "all items alike: at most 1 - 0.05^(1/n) of others differ, over the range, 95 %"

Interval = tuple[float, float]
_SAME: Final = 1e-12  # differences of equal scores differ by rounding


class McNemar(NamedTuple):
    """What McNemar's test says of two models.

    Attributes:
        first_only, second_only: items that only one of the two got right.
        p: chance of a split at least so uneven, were both equally good; 1 where they never differ.
    """

    first_only: int
    second_only: int
    p: float


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def wilson(right: int, count: int) -> Interval:
    """Where the true share lies, of which `right` of `count` were seen; (0, 1) for none."""
    if count <= 0:
        return (0.0, 1.0)
    share, square = right / count, Z * Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z * sqrt(share * (1 - share) / count + square / (4 * count * count))
    half /= 1 + square / count
    low = 0.0 if right == 0 else max(0.0, middle - half)
    return (low, 1.0 if right == count else min(1.0, middle + half))


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Where the true mean lies, by drawing from `values` again and again; the same for a seed."""
    if not values:
        return (0.0, 1.0)
    draw = Random(seed)  # noqa: S311 - statistics, not secrets
    count = len(values)
    means = sorted(sum(draw.choices(values, k=count)) / count for _ in range(DRAWS))
    return interval(means)


def of_scores(values: Sequence[float], seed: int = 0) -> tuple[Interval, str]:
    """The interval of a mean of scores from 0 to 1, and its method: Wilson where all are 0 or 1."""
    if all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), len(values)), WILSON
    return _bootstrap(values, 0.0, seed)


def paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[Interval, str]:
    """Where the mean of ``first - second`` lies, and the method.

    The two are scores from 0 to 1 of the same items.
    """
    bounds, method = _bootstrap([a - b for a, b in zip(first, second, strict=True)], -1.0, seed)
    return bounds, f"paired {method}"


def constant(value: float, count: int, least: float, most: float) -> Interval:
    """Where the mean lies, when all `count` items had `value` and any may be `least` to `most`."""
    if count <= 0:
        return (least, most)
    share = 1 - 0.05 ** (1 / count)
    return (value - share * (value - least), value + share * (most - value))


def _bootstrap(values: Sequence[float], least: float, seed: int) -> tuple[Interval, str]:
    if values and max(values) - min(values) < _SAME:
        value = values[0]
        return constant(value, len(values), min(least, value), max(1.0, value)), ALIKE
    return bootstrap(values, seed), BOOTSTRAP


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Whether two models differ in what they get right, of the same items in the same order."""
    first_only = sum(a and not b for a, b in zip(first, second, strict=True))
    other = sum(b and not a for a, b in zip(first, second, strict=True))
    count, least = first_only + other, min(first_only, other)
    tail = term = 1
    for i in range(1, least + 1):
        term = term * (count - i + 1) // i
        tail += term
    # Whole numbers until the last step: 2 ** count is beyond a float from 1024 pairs on.
    return McNemar(first_only, other, min(1.0, 2 * tail / (1 << count)) if count else 1.0)


def interval(ordered: Sequence[float]) -> Interval:
    """The middle 95 % of what was drawn, which is sorted and not empty."""
    return (_percentile(ordered, 0.025), _percentile(ordered, 0.975))


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Between two neighbours by their distance (numpy's ``linear``)."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
