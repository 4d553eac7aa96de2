"""A router learnt from outcomes: how sure a weak model's answer is, and what choosing by it brings.

`fit` learns P(the weak model's answer is good) by logistic regression, from the prompt alone or
from the answer as well; the text of a strong model is never looked at. `curve` says what it brings:
the quality reached for each share of calls that goes to the strong model, with the area under it
and APGR, the average share of the gap between weak and strong that is won back (Ong et al. 2024,
arXiv:2406.18665, RouteLLM), 0.5 for a coin.

What it sees is in gateway/routing/confidence.py, so that a route can use what is learnt here.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overt.errors import BadRequest
from overt.evaluation.conformal import LearntThreshold, learn, learn_marginal
from overt.gateway.routing.confidence import Router, Sees, features

__all__ = [
    "Curve",
    "Router",
    "RouterOutcome",
    "apgr_samples",
    "curve",
    "features",
    "fit",
    "out_of_fold",
    "with_threshold",
]


@dataclass(frozen=True, slots=True)
class RouterOutcome:
    """One request that both models answered. `answer` is the weak model's."""

    prompt: str
    answer: str
    weak: bool
    strong: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality against the share of calls that go to the strong model.

    Attributes:
        points: (share, quality, cost) from none to all; cost in the unit of the costs given.
        area: under it, from 0 to 1.
        apgr: (area - weak) / (strong - weak).
    """

    points: tuple[tuple[float, float, float], ...]
    area: float
    apgr: float

    def share_for(self, quality: float) -> float | None:
        """The least share of strong calls that reaches `quality`, between points in a line."""
        before = self.points[0]
        if before[1] >= quality:
            return 0.0
        for point in self.points[1:]:
            if point[1] >= quality:
                part = (quality - before[1]) / (point[1] - before[1])
                return before[0] + part * (point[0] - before[0])
            before = point
        return None


# ---- learning --------------------------------------------------------------------------------


def fit(rows: Sequence[RouterOutcome], sees: Sees = "both", *, ridge: float = 3.0) -> Router:
    """Learn from outcomes whether the weak answer was good; `strong` is not looked at.

    Newton's method on the log-likelihood with an L2 penalty of `ridge` on standardized weights.
    Needs numpy (extra `lab`).

    Raises:
        BadRequest: fewer than 20 rows, or all of them good, or none.
    """
    import numpy as np

    good = sum(row.weak for row in rows)
    if len(rows) < 20 or good in (0, len(rows)):
        raise BadRequest(
            f"{len(rows)} rows of which {good} are good teach no router",
            "give 20 or more, good ones and others",
        )
    samples = [features(row.prompt, row.answer, sees) for row in rows]
    names = tuple(samples[0])
    x = np.array([[sample[name] for name in names] for sample in samples])
    means, scales = x.mean(0), x.std(0)
    scales[scales < 1e-9] = 1.0
    x = np.hstack([(x - means) / scales, np.ones((len(rows), 1))])
    y = np.array([row.weak for row in rows], float)
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-9  # of the bias
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (y - p) - penalty * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return Router(
        sees,
        names,
        tuple(map(float, means)),
        tuple(map(float, scales)),
        tuple(map(float, weights[:-1])),
        float(weights[-1]),
    )


def out_of_fold(
    rows: Sequence[RouterOutcome], sees: Sees = "both", *, folds: int = 5, seed: int = 0
) -> list[float]:
    """A score for each row by a router that was learnt without it."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a split, not a secret
    scores = [0.0] * len(rows)
    for fold in range(folds):
        held = set(order[fold::folds])
        router = fit([rows[at] for at in order if at not in held], sees)
        for at in held:
            scores[at] = router.score(rows[at].prompt, rows[at].answer)
    return scores


def with_threshold(
    rows: Sequence[RouterOutcome],
    *,
    most_wrong: float,
    confidence: float | None = 0.9,
    seed: int = 0,
) -> tuple[Router, LearntThreshold]:
    """A router from half of the rows, and its threshold from the other (evaluation/conformal.py).

    `confidence` None is for the marginal rate.

    Raises:
        BadRequest: too few rows, or no threshold that holds.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a split, not a secret
    half = len(rows) // 2
    router = fit([rows[at] for at in order[:half]])
    others = [rows[at] for at in order[half:]]
    scored = [(router.score(row.prompt, row.answer), row.weak) for row in others]
    if confidence is None:
        return router, learn_marginal(scored, most_wrong=most_wrong)
    return router, learn(scored, most_wrong=most_wrong, confidence=confidence, seed=seed)


# ---- what it brings --------------------------------------------------------------------------


def curve(
    rows: Sequence[RouterOutcome],
    scores: Sequence[float],
    costs: Sequence[float] | None = None,
    *,
    base: float = 0.0,
) -> Curve:
    """The curve of sending the least sure first to the strong model.

    Rows of equal score go together, so that their order in the file says nothing.

    Args:
        costs: of asking the strong model for each row; without it 1.
        base: cost of all rows before any goes to the strong model.

    Raises:
        BadRequest: no rows, or another number of scores or costs.
    """
    costs = [1.0] * len(rows) if costs is None else costs
    if not rows or not len(rows) == len(scores) == len(costs):
        raise BadRequest(f"{len(rows)} rows have {len(scores)} scores and {len(costs)} costs")
    count = len(rows)
    good: float = sum(row.weak for row in rows)
    weak, strong = good / count, sum(row.strong for row in rows) / count
    order = sorted(range(count), key=scores.__getitem__)
    points, spent = [(0.0, weak, base)], base
    area = 0.0
    for place, at in enumerate(order, 1):
        good += rows[at].strong - rows[at].weak
        spent += costs[at]
        if place < count and scores[order[place]] == scores[at]:
            continue
        point = (place / count, good / count, spent)
        area += (point[0] - points[-1][0]) * (point[1] + points[-1][1]) / 2
        points.append(point)
    gap = strong - weak
    return Curve(tuple(points), area, (area - weak) / gap if gap else math.nan)


def apgr_samples(
    rows: Sequence[RouterOutcome],
    scores: Mapping[str, Sequence[float]],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """APGR of each router on the same `draws` samples of the rows with replacement.

    Paired, so that the difference of two routers has an interval of its own. Needs numpy.
    """
    import numpy as np

    gain = np.array([row.strong - row.weak for row in rows], float)
    count = len(rows)
    dice = np.random.default_rng(seed)
    orders: dict[str, Any] = {
        name: np.argsort(values, kind="stable") for name, values in scores.items()
    }
    areas: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(draws):
        times = np.bincount(dice.integers(0, count, count), minlength=count)
        gap = float((times * gain).sum())
        for name, order in orders.items():
            drawn = np.repeat(gain[order], times[order])
            won = np.concatenate([[0.0], np.cumsum(drawn)])
            areas[name].append(float((won[:-1] + won[1:]).sum() / 2 / count / gap))
    return areas
