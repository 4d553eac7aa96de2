"""Votes on answers whose models were hidden, and the strengths they add up to.

A vote is a line of ``votes.jsonl`` in the home, to which lines are only ever added. Strengths are
those of the model of Bradley and Terry (1952): A is preferred to B with probability a / (a + b).
They are found by the MM algorithm (Hunter 2004, *MM algorithms for generalized Bradley-Terry
models*, Annals of Statistics 32(1), equation 3). A tie counts half for each side, and "both bad" is
a tie. Every model is also given one tie, shared out over the models of its group, so that one that
was never beaten stays finite.

Strengths are shown on Elo's scale, 1000 for the mean of the models that votes connect. The 95 %
intervals are of a Bayesian bootstrap (Rubin 1981): in each draw every vote has a random weight, and
the tie that was given has one for each side. Drawing votes with replacement instead would draw five
wins of five as five wins of five every time: an interval without a width.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, cast, get_args

from overt.errors import Failure, FormatError
from overt.evaluation.suites.intervals import interval

Outcome = Literal["first", "second", "tie", "both_bad"]

_MAX_BYTES: Final = 64 << 20
_MAX_LINE: Final = 8192
_MAX_REF: Final = 1024
_MAX_MODELS: Final = 64
_DRAWS: Final = 1000  # fewer where there are many models
_FEW: Final = 50
_EFFORT: Final = 5_000_000
_ROUNDS: Final = 10_000
_TOLERANCE: Final = 1e-9  # of the logarithm of a strength
_CLOSE_DRAW: Final = 1e-4
_STEPS: Final = 50
_MAX_STEP: Final = 2.0  # of one of Newton's steps, in which a factor of e**2 lies
_MIN_SHARE: Final = 1e-6  # of a random share, so that no logarithm is of 0
_ELO: Final = 400.0
_MIDDLE: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on two answers.

    Attributes:
        time: when (ISO 8601, UTC).
        prompt: ``sha256:…`` of what was asked.
        shown: the two refs, in the order their answers were shown.
        outcome: which of the two was better.
    """

    time: str
    prompt: str
    shown: tuple[str, str]
    outcome: Outcome

    def as_json(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "prompt": self.prompt,
            "models": sorted(self.shown),
            "shown": list(self.shown),
            "outcome": self.outcome,
        }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# -- the file --------------------------------------------------------------------------------------


def path_of(home: Path) -> Path:
    return home / "votes.jsonl"


def add(home: Path, vote: Vote) -> None:
    """Write a vote down. Raises Failure: the home cannot be written."""
    path = path_of(home)
    line = json.dumps(vote.as_json(), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            os.lseek(handle, max(0, size - 1), os.SEEK_SET)
            if size and os.read(handle, 1) != b"\n":
                line = b"\n" + line  # what a kill left half written stays a line of its own
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise Failure(
            f"{path} cannot be written: {error.strerror}", "check the folder, or set OVERT_HOME"
        ) from None


def read(home: Path) -> tuple[list[Vote], list[str]]:
    """Every vote, and a sentence for each line that is none; the file is left as it is.

    Raises:
        Failure: it cannot be read.
        FormatError: it is larger than any person's votes.
    """
    path = path_of(home)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", "check the file") from None
    if len(data) > _MAX_BYTES:
        raise FormatError(f"{path} is larger than {_MAX_BYTES} bytes", "move it away")
    votes: list[Vote] = []
    damaged: list[str] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            votes.append(_vote(line))
        except (ValueError, RecursionError) as error:
            damaged.append(f"line {number} of {path.name} is no vote and is passed over: {error}")
    return votes, damaged


def _vote(line: bytes) -> Vote:
    """Raises ValueError: what is wrong with it, in a few words."""
    if len(line) > _MAX_LINE:
        raise ValueError(f"it has {len(line)} bytes")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    shown, outcome = content.get("shown"), content.get("outcome")
    if not (isinstance(shown, list) and len(shown) == 2 and all(map(_is_ref, shown))):
        raise ValueError("it does not name two models")
    if shown[0] == shown[1]:
        raise ValueError("it names one model twice")
    if not isinstance(outcome, str) or outcome not in get_args(Outcome):
        raise ValueError("it does not say which was better")
    texts = [content.get("time"), content.get("prompt")]
    when, prompt = (value if isinstance(value, str) else "" for value in texts)
    return Vote(when, prompt, (shown[0], shown[1]), cast("Outcome", outcome))


def _is_ref(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_REF


# -- strengths -------------------------------------------------------------------------------------

Points = Mapping[tuple[str, str], float]
"""How often the first of a pair was preferred to the second; ties count half."""


@dataclass(frozen=True, slots=True)
class ModelStanding:
    """One model's place.

    Attributes:
        elo, low, high: on Elo's scale; `low` to `high` is the 95 % interval.
        strength: Bradley and Terry's, with a geometric mean of 1 in its group.
        votes, wins, losses, ties: it took part in; ties include "both bad".
        group: models that votes connect, numbered from 1, the largest group first. Places in
            different groups say nothing about each other.
    """

    model: str
    elo: float
    low: float
    high: float
    strength: float
    votes: int
    wins: int
    losses: int
    ties: int
    group: int


@dataclass(frozen=True, slots=True)
class VoteTable:
    """What all votes add up to, the strongest model first.

    Attributes:
        points: see `Points`.
    """

    standings: tuple[ModelStanding, ...]
    points: Points
    votes: int

    @property
    def groups(self) -> int:
        return max((standing.group for standing in self.standings), default=0)

    def as_json(self) -> dict[str, Any]:
        names = [standing.model for standing in self.standings]
        return {
            "votes": self.votes,
            "groups": self.groups,
            "models": [
                {
                    "model": standing.model,
                    "elo": round(standing.elo, 1),
                    "interval": [round(standing.low, 1), round(standing.high, 1)],
                    "strength": round(standing.strength, 6),
                    "votes": standing.votes,
                    "wins": standing.wins,
                    "losses": standing.losses,
                    "ties": standing.ties,
                    "group": standing.group,
                }
                for standing in self.standings
            ],
            "matrix": {
                a: {b: self.points.get((a, b), 0.0) for b in names if b != a} for a in names
            },
        }


def table(votes: Sequence[Vote], *, draws: int = _DRAWS, seed: int = 0) -> VoteTable:
    """The models' places. The same votes give the same table, whatever their order.

    Args:
        draws: for the intervals, at most.

    Raises:
        FormatError: more than 64 models.
    """
    outcomes = Counter(_outcome(vote) for vote in votes)
    groups = _groups({model for pair, _ in outcomes for model in pair}, outcomes)
    if len(groups) > _MAX_MODELS:
        raise FormatError(
            f"there are votes on {len(groups)} models, and {_MAX_MODELS} is the most",
            "move votes.jsonl of the home away to begin anew",
        )
    points = _points({key: float(count) for key, count in outcomes.items()})
    prior = _prior_points(points, groups)
    estimates = strengths(_with(points, prior), groups)
    spread = _bootstrap(outcomes, prior, groups, estimates, draws, Random(seed))  # noqa: S311 - no secret
    estimates = _centred(estimates, groups)
    places = []
    for model, group in groups.items():
        wins, losses, ties = _record(model, outcomes)
        low, high = spread[model]
        places.append(
            ModelStanding(
                model,
                elo(estimates[model]),
                low,
                high,
                estimates[model],
                wins + losses + ties,
                wins,
                losses,
                ties,
                group,
            )
        )
    places.sort(key=lambda standing: (standing.group, -standing.strength, standing.model))
    return VoteTable(tuple(places), points, len(votes))


def elo(strength: float) -> float:
    return _MIDDLE + _ELO * math.log10(strength)


def strengths(points: Points, models: Iterable[str]) -> dict[str, float]:
    """Bradley and Terry's strengths by Hunter's MM; each model must have points.

    At the end the points of each model are the sum of n * own / (own + other) over those it met.
    """
    met: dict[str, dict[str, float]] = {model: {} for model in models}
    won = dict.fromkeys(met, 0.0)
    for (first, other), count in points.items():
        won[first] += count
        met[first][other] = met[first].get(other, 0.0) + count
        met[other][first] = met[other].get(first, 0.0) + count
    now = dict.fromkeys(met, 1.0)
    for _ in range(_ROUNDS):
        moved = 0.0
        for model, others in met.items():  # each sees the newest of the others: sooner there
            own = now[model]
            now[model] = won[model] / sum(n / (own + now[other]) for other, n in others.items())
            moved = max(moved, abs(math.log(now[model] / own)))
        if moved < _TOLERANCE:
            break
    return now


_Key = tuple[tuple[str, str], float]  # a pair in order of name, and points of the first


def _outcome(vote: Vote) -> _Key:
    score = {"first": 1.0, "second": 0.0}.get(vote.outcome, 0.5)
    first, other = vote.shown
    return ((first, other), score) if first < other else ((other, first), 1.0 - score)


def _points(outcomes: Mapping[_Key, float]) -> dict[tuple[str, str], float]:
    totals: dict[tuple[str, str], float] = {}
    for ((first, other), score), count in outcomes.items():
        totals[first, other] = totals.get((first, other), 0.0) + score * count
        totals[other, first] = totals.get((other, first), 0.0) + (1.0 - score) * count
    return totals


def _prior_points(points: Points, groups: Mapping[str, int]) -> dict[tuple[str, str], float]:
    """What each side of a pair that met is given: one tie a model, shared over its group."""
    size = Counter(groups.values())
    return {pair: 0.5 / (size[groups[pair[0]]] - 1) for pair in points}


def _with(points: Points, prior: Points) -> dict[tuple[str, str], float]:
    return {pair: count + prior[pair] for pair, count in points.items()}


def _record(model: str, outcomes: Mapping[_Key, int]) -> tuple[int, int, int]:
    """Wins, losses and ties of one model."""
    wins = losses = ties = 0
    for (pair, score), count in outcomes.items():
        if model in pair:
            own = score if pair[0] == model else 1.0 - score
            wins += count * (own == 1.0)
            losses += count * (own == 0.0)
            ties += count * (own == 0.5)
    return wins, losses, ties


def _bootstrap(
    outcomes: Mapping[_Key, int],
    prior: Points,
    groups: Mapping[str, int],
    start: Mapping[str, float],
    draws: int,
    random: Random,
) -> dict[str, tuple[float, float]]:
    """The 2.5th and 97.5th percentile of each model's Elo over votes with random weights."""
    seen: dict[str, list[float]] = {model: [] for model in groups}
    for _ in range(max(_FEW, min(draws, _EFFORT // len(groups) ** 3)) if groups else 0):
        # The weights of n votes, each exponential, add up to one Gamma(n).
        points = _points({key: random.gammavariate(n, 1.0) for key, n in sorted(outcomes.items())})
        share = {
            pair: max(random.gammavariate(n, 1.0), _MIN_SHARE) for pair, n in sorted(prior.items())
        }
        resampled = _centred(_newton(_with(points, share), groups, start), groups)
        for model in groups:
            seen[model].append(elo(resampled[model]))
    return {model: interval(sorted(drawn)) for model, drawn in seen.items()}


def _newton(
    points: Points, groups: Mapping[str, int], start: Mapping[str, float]
) -> dict[str, float]:
    """As `strengths`, by Newton's steps: the MM algorithm needs thousands of rounds where votes are
    few, and a thousand draws are solved.

    Time grows with the cube of the number of models.
    """
    names = list(groups)
    at = {model: place for place, model in enumerate(names)}
    first = {group: at[model] for model, group in reversed(list(groups.items()))}
    pairs = [
        (at[first], at[other], count, points[other, first])
        for (first, other), count in points.items()
        if first < other
    ]
    now = [math.log(start[model]) for model in names]
    for _ in range(_STEPS):
        slope = [0.0] * len(names)
        curve = [[0.0] * len(names) for _ in names]
        for left, other, won, lost in pairs:
            share = 1.0 / (1.0 + math.exp(now[other] - now[left]))
            gain = won - (won + lost) * share
            bend = (won + lost) * share * (1.0 - share)
            slope[left] += gain
            slope[other] -= gain
            curve[left][left] += bend
            curve[other][other] += bend
            curve[left][other] = curve[other][left] = -bend
        for place in first.values():  # only differences count: one of each group stays
            curve[place][place] += 1.0 + curve[place][place]
        step = _solved(curve, slope)
        now = [
            own + max(-_MAX_STEP, min(_MAX_STEP, delta))
            for own, delta in zip(now, step, strict=True)
        ]
        if max(map(abs, step)) < _CLOSE_DRAW:
            return {model: math.exp(now[at[model]]) for model in names}
    return strengths(points, groups)


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of matrix x = right, for a symmetric positive definite matrix (by Cholesky's factors)."""
    size = len(right)
    low = [[0.0] * size for _ in range(size)]
    half = [0.0] * size
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(low[i][k] * low[j][k] for k in range(j))
            low[i][j] = math.sqrt(max(rest, _MIN_SHARE**2)) if i == j else rest / low[j][j]
        half[i] = (right[i] - sum(low[i][k] * half[k] for k in range(i))) / low[i][i]
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(low[k][i] * solution[k] for k in range(i + 1, size))
        solution[i] = (half[i] - known) / low[i][i]
    return solution


def _centred(strengths_: Mapping[str, float], groups: Mapping[str, int]) -> dict[str, float]:
    """Strengths whose geometric mean is 1 in each group: votes only say how models differ."""
    logs: dict[int, list[float]] = {}
    for model, strength in strengths_.items():
        logs.setdefault(groups[model], []).append(math.log(strength))
    middle = {group: math.exp(sum(own) / len(own)) for group, own in logs.items()}
    return {model: strength / middle[groups[model]] for model, strength in strengths_.items()}


def _groups(models: Iterable[str], outcomes: Iterable[_Key]) -> dict[str, int]:
    """The number of the group each model is in: those that a chain of votes connects."""
    parent = {model: model for model in sorted(models)}

    def root(model: str) -> str:
        while parent[model] != model:
            parent[model] = parent[parent[model]]
            model = parent[model]
        return model

    for (first, other), _ in outcomes:
        parent[root(first)] = root(other)
    size = Counter(root(model) for model in parent)
    order = {
        model: number
        for number, (model, _) in enumerate(
            sorted(size.items(), key=lambda item: (-item[1], item[0])), 1
        )
    }
    return {model: order[root(model)] for model in parent}
