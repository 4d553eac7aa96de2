"""Means, percentiles and intervals of what is measured a token at a time.

Tokens of one window are not independent of each other, so an interval is of the means of blocks:
Student's t (1908) over them, at 95 %. A window is a block, or, with fewer than `FEW_WINDOWS` of
them, a fifth of a window; a neighbour is then less far than it should be, and the interval may be
somewhat too narrow, which `Interval.blocks` lets a reader judge. For a share (top-1) Wilson's
interval is taken too and the wider end of both is what is told, as blocks that all agree would else
give an interval without width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, exp, sqrt
from typing import Any, Final

from overt.evaluation.suites.intervals import Z, wilson

FEW_WINDOWS: Final = 8
_FIFTHS: Final = 5
# Student's t at 97.5 % for 1 to 30 degrees of freedom.
_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval, over that many blocks."""

    mean: float
    low: float
    high: float
    blocks: int


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t; beyond 30 by two terms of its expansion."""
    if freedom <= len(_T):
        return _T[max(freedom, 1) - 1]
    first, second = (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    return Z + first / freedom + second / freedom**2


def blocks(values: Sequence[float], windows: int) -> list[float]:
    """The mean of each block; `values` are those of `windows` windows of one length, in order."""
    count = windows if windows >= FEW_WINDOWS else windows * _FIFTHS
    count = max(1, min(count, len(values)))
    edges = [len(values) * at // count for at in range(count + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]


def interval(values: Sequence[float], windows: int) -> Interval:
    """The mean of `values` and where the true one lies."""
    mean = sum(values) / len(values)
    means = blocks(values, windows)
    count = len(means)
    if count < 2:
        return Interval(mean, float("-inf"), float("inf"), count)
    middle = sum(means) / count
    spread = sqrt(sum((mean_ - middle) ** 2 for mean_ in means) / (count - 1))
    half = student(count - 1) * spread / sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def share(agree: Sequence[float], windows: int) -> Interval:
    """The share of ones, with the wider end of both intervals."""
    bounds = interval(agree, windows)
    low, high = wilson(round(sum(agree)), len(agree))
    return Interval(
        bounds.mean, max(0.0, min(low, bounds.low)), min(1.0, max(high, bounds.high)), bounds.blocks
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered), ceil(percent / 100 * len(ordered))) - 1)]


def divergence(
    kld: Sequence[float],
    same: Sequence[float],
    nll: Sequence[float],
    base: Sequence[float],
    windows: int,
) -> dict[str, Any]:
    """The figures of a model against its source, from what each token gave.

    Args:
        kld: KL(source || model) of each position, in nats.
        same: 1 where both hold the same token for the likeliest.
        nll: minus the log-probability of the token that came, by the model.
        base: the same by the source.
        windows: of the text.
    """
    mean = interval(kld, windows)
    agreed = share(same, windows)
    plain = interval(nll, windows)
    rise = interval([a - b for a, b in zip(nll, base, strict=True)], windows)
    return {
        "tokens": len(kld),
        "blocks": mean.blocks,
        "kld_mean": mean.mean,
        "kld_mean_interval": [max(0.0, mean.low), mean.high],
        "kld_p50": percentile(kld, 50),
        "kld_p90": percentile(kld, 90),
        "kld_p99": percentile(kld, 99),
        "kld_max": max(kld),
        "top1": agreed.mean,
        "top1_interval": [agreed.low, agreed.high],
        "perplexity": _exp(plain.mean),
        "perplexity_interval": [_exp(plain.low), _exp(plain.high)],
        "perplexity_ratio": _exp(rise.mean),
        "perplexity_ratio_interval": [_exp(rise.low), _exp(rise.high)],
    }


def _exp(value: float) -> float:
    return exp(min(value, 700.0))


def speeds(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The median of several runs, and the slowest and fastest of them."""
    summary: dict[str, Any] = {"runs": len(runs)}
    for kind in ("prompt", "decode"):
        seen = sorted(run[kind] for run in runs)
        half = len(seen) // 2
        median = seen[half] if len(seen) % 2 else (seen[half - 1] + seen[half]) / 2
        summary[f"{kind}_tps"] = median
        summary[f"{kind}_tps_spread"] = [seen[0], seen[-1]]
    return summary
