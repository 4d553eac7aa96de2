"""A threshold on a signal, such that what passes it is wrong rarely enough, with that stated.

Given answers of one model with a signal each (larger is surer) and whether each was good, `learn`
finds the lowest threshold for which it can be shown that of the answers at or above it at most a
share `most_wrong` is wrong, with probability `confidence` over the rows that were drawn: Learn then
Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052) with the exact binomial
p-value and fixed-sequence testing. Which thresholds are tried, and in which order, is decided on a
part of the rows that the tests do not see (their "split fixed sequence testing"), so the guarantee
is exact for any distribution of rows.

`learn_marginal` is conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster 2022,
arXiv:2208.02814): the share of *all* requests that are accepted and wrong is at most `most_wrong`
on average over the rows. It uses every row and promises less.

Both hold for later requests that are like the rows: drawn alike and independently.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from overt.errors import BadRequest

__all__ = ["LearntThreshold", "Row", "at_most", "learn", "learn_marginal", "upper_bound"]

_ORDERING_SHARE = 0.3  # of the rows: they choose the thresholds that the others test
_MAX_THRESHOLDS = 200
_MIN_ROWS = 10

Row = tuple[float, bool]
"""A signal, and whether the answer that had it was good."""


@dataclass(frozen=True, slots=True)
class LearntThreshold:
    """A threshold and what is known of it.

    Attributes:
        at_least: signals from here on are accepted.
        most_wrong, confidence: what was asked for; `confidence` is None for the marginal rate.
        rows: rows given. tested: those of them that the figures below are of.
        accepted: of `tested`, those at or above the threshold. wrong: of `accepted`, those wrong.
        bound: upper bound of the share wrong: Clopper-Pearson, one-sided, at `confidence`; of the
            marginal rate, that of conformal risk control.
    """

    method: str
    at_least: float
    most_wrong: float
    confidence: float | None
    rows: int
    tested: int
    accepted: int
    wrong: int
    bound: float

    @property
    def statement(self) -> str:
        """What may be said of it, in one sentence."""
        share = f"{self.wrong} of {self.accepted} accepted answers were wrong"
        of = f"in {self.tested} rows ({self.accepted / self.tested:.0%} accepted)"
        if self.confidence is None:
            return (
                f"at most {self.most_wrong:.3g} of all answers are accepted and wrong, on average "
                f"over the rows: {share} {of}"
            )
        return (
            f"at most {self.most_wrong:.3g} of the accepted answers are wrong, with confidence "
            f"{self.confidence:.3g}: {share} {of}, upper bound {self.bound:.3g}"
        )

    def as_json(self) -> dict[str, Any]:
        """What a route keeps of it as `learnt`."""
        return {**asdict(self), "statement": self.statement}


def learn(
    rows: Sequence[Row], *, most_wrong: float, confidence: float = 0.9, seed: int = 0
) -> LearntThreshold:
    """The lowest threshold found for which P(wrong | accepted) <= `most_wrong` is shown.

    Raises:
        BadRequest: a share out of range, a signal that is no number, too few rows, or no
            threshold that can be shown to hold.
    """
    _check(rows, most_wrong)
    if not 0 < confidence < 1:
        raise BadRequest(f"confidence is {confidence:g}", "it lies between 0 and 1, such as 0.9")
    delta = 1 - confidence
    least = math.ceil(math.log(delta) / math.log(1 - most_wrong))
    mixed = sorted(rows)
    random.Random(seed).shuffle(mixed)  # noqa: S311 - a split, not a secret
    cut = int(len(mixed) * _ORDERING_SHARE)
    ordering, testing = mixed[:cut], mixed[cut:]
    if len(testing) < least:
        raise BadRequest(
            f"{len(rows)} rows are too few to show that at most {most_wrong:g} are wrong",
            f"give {math.ceil(least / (1 - _ORDERING_SHARE))} or more, all of them good at best",
        )
    best: LearntThreshold | None = None
    count = _tally(testing)
    for threshold in _sequence(ordering, len(testing), most_wrong):
        accepted, wrong = count(threshold)
        if accepted == 0 or at_most(wrong, accepted, most_wrong) > delta:
            break
        bound = upper_bound(wrong, accepted, delta)
        best = LearntThreshold(
            "learn-then-test",
            threshold,
            most_wrong,
            confidence,
            len(rows),
            len(testing),
            accepted,
            wrong,
            bound,
        )
    if best is None:
        bad = sum(not good for _, good in rows)
        raise BadRequest(
            f"no threshold can be shown to let at most {most_wrong:g} through that are wrong "
            f"({bad} of {len(rows)} rows are)",
            "give more rows, allow more wrong ones, or choose another signal",
        )
    return best


def learn_marginal(rows: Sequence[Row], *, most_wrong: float) -> LearntThreshold:
    """The lowest threshold with P(accepted and wrong) <= `most_wrong`, on average over the rows.

    Raises BadRequest as `learn`.
    """
    _check(rows, most_wrong)
    count, best = len(rows), None
    ordered = sorted(rows, reverse=True)
    wrong = 0
    for at, (signal, good) in enumerate(ordered):
        wrong += not good
        last = at + 1 == count or ordered[at + 1][0] < signal
        # The loss only grows as the threshold falls: the first that is too much ends it.
        if (wrong + 1) / (count + 1) > most_wrong:
            break
        if last:
            best = LearntThreshold(
                "conformal-risk-control",
                signal,
                most_wrong,
                None,
                count,
                count,
                at + 1,
                wrong,
                (wrong + 1) / (count + 1),
            )
    if best is None:
        raise BadRequest(
            f"{count} rows do not allow any threshold at {most_wrong:g}", "give more rows"
        )
    return best


# ---- the binomial distribution ---------------------------------------------------------------


def at_most(wrong: int, count: int, share: float) -> float:
    """P(X <= wrong) of X ~ Binomial(count, share): the p-value of "more than `share` are wrong"."""
    if wrong >= count or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    # The sum of wrong + 1 terms, each from the one after it, from the largest down.
    log_top = (
        math.lgamma(count + 1)
        - math.lgamma(wrong + 1)
        - math.lgamma(count - wrong + 1)
        + wrong * math.log(share)
        + (count - wrong) * math.log1p(-share)
    )
    odds, mode = (1 - share) / share, (count + 1) * share
    if wrong < mode:
        total = term = 1.0
        for k in range(wrong, 0, -1):
            term *= k / (count - k + 1) * odds
            total += term
            if term < total * 1e-17:
                break
        return min(1.0, total * math.exp(log_top))
    total = term = 0.0
    term = math.exp(log_top)
    for k in range(wrong + 1, count + 1):
        term *= (count - k + 1) / k / odds
        total += term
        if term < 1e-18:
            break
    return max(0.0, 1.0 - total)


def upper_bound(wrong: int, count: int, delta: float) -> float:
    """The share p with P(X <= wrong) = delta (Clopper and Pearson 1934, one-sided)."""
    if wrong >= count:
        return 1.0
    low, high = wrong / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if at_most(wrong, count, middle) > delta:
            low = middle
        else:
            high = middle
    return high


# ---- which thresholds, in which order --------------------------------------------------------


def _sequence(ordering: Sequence[Row], testing: int, most_wrong: float) -> list[float]:
    """Thresholds from the one that looks surest to be shown, downwards.

    Looks at the rows for ordering alone; what `testing` rows would show is guessed from them.
    """
    signals = sorted({signal for signal, _ in ordering}, reverse=True)
    if len(signals) > _MAX_THRESHOLDS:
        step = len(signals) / _MAX_THRESHOLDS
        signals = [signals[int(at * step)] for at in range(_MAX_THRESHOLDS)]
    scale = testing / max(len(ordering), 1)
    count, guesses = _tally(ordering), []
    for signal in signals:
        accepted, wrong = count(signal)
        # One more wrong: few rows without any wrong one do not make a threshold sure.
        expected = (wrong + 1) / (accepted + 1) * accepted * scale
        guesses.append(at_most(round(expected), round(accepted * scale), most_wrong))
    start = min(range(len(signals)), key=guesses.__getitem__)
    return signals[start:]


def _tally(rows: Sequence[Row]) -> Callable[[float], tuple[int, int]]:
    """What says of a threshold how many rows it accepts, and how many of those are wrong."""
    ordered = sorted(rows, reverse=True)
    falling = [-signal for signal, _ in ordered]
    wrong = [0, *accumulate(not good for _, good in ordered)]

    def count(threshold: float) -> tuple[int, int]:
        accepted = bisect_right(falling, -threshold)
        return accepted, wrong[accepted]

    return count


def _check(rows: Sequence[Row], most_wrong: float) -> None:
    if not 0 < most_wrong < 1:
        raise BadRequest(f"most wrong is {most_wrong:g}", "it lies between 0 and 1, such as 0.1")
    if len(rows) < _MIN_ROWS:
        raise BadRequest(f"there are {len(rows)} rows", f"give {_MIN_ROWS} or more")
    if not all(math.isfinite(signal) for signal, _ in rows):
        raise BadRequest("a signal is not a finite number", "leave such rows out")
