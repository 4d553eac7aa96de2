"""Thresholds with a stated error rate: the arithmetic by hand, the guarantee by simulation."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.errors import BadRequest
from overt.evaluation.conformal import Row, at_most, learn, learn_marginal, upper_bound


def _exactly(wrong: int, count: int, share: Fraction) -> Fraction:
    return sum(
        (math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(wrong + 1)),
        Fraction(0),
    )


@pytest.mark.parametrize("count", [1, 2, 7, 40, 300])
def test_the_binomial_tail_is_that_of_exact_fractions(count: int) -> None:
    for share in (Fraction(1, 100), Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)):
        for wrong in range(0, count + 1, max(1, count // 13)):
            exact = float(_exactly(wrong, count, share))
            assert at_most(wrong, count, float(share)) == pytest.approx(exact, rel=1e-9, abs=1e-14)


def test_the_tail_of_many_is_quick_and_right() -> None:
    # By the normal approximation, the continuity correction in it.
    assert at_most(10_000, 100_000, 0.1) == pytest.approx(0.5 + 0.5 / math.sqrt(2e4), abs=0.003)
    assert at_most(0, 1_000_000, 1e-6) == pytest.approx(math.exp(-1), rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "count", "delta", "bound"),
    [
        (0, 10, 0.05, 1 - 0.05**0.1),  # closed form where none is wrong
        (0, 22, 0.1, 1 - 0.1 ** (1 / 22)),
        (9, 10, 0.05, 0.95**0.1),  # and where all but one are
        (10, 10, 0.05, 1.0),
    ],
)
def test_clopper_pearson(wrong: int, count: int, delta: float, bound: float) -> None:
    assert upper_bound(wrong, count, delta) == pytest.approx(bound, abs=1e-9)


def test_the_bound_is_where_the_exact_tail_is_delta() -> None:
    bound = Fraction(upper_bound(5, 50, 0.05))
    assert float(_exactly(5, 50, bound)) == pytest.approx(0.05, abs=1e-9)


def _draw(dice: random.Random, count: int) -> list[Row]:
    """Signals in 0..1; an answer is good with probability 0.5 + signal / 2."""
    signals = [dice.random() for _ in range(count)]
    return [(signal, dice.random() < 0.5 + signal / 2) for signal in signals]


def _true_risk(threshold: float) -> float:
    """P(wrong | signal >= threshold) of `_draw`."""
    return 0.5 * (1 - (1 + max(threshold, 0.0)) / 2)


def test_the_guarantee_holds_in_simulation() -> None:
    dice, broken, found, accepted = random.Random(5), 0, 0, 0.0
    for _ in range(200):
        try:
            learnt = learn(_draw(dice, 400), most_wrong=0.15, confidence=0.9)
        except BadRequest:
            continue  # then nothing is accepted, and nothing of that is wrong
        found += 1
        accepted += 1 - learnt.at_least
        broken += _true_risk(learnt.at_least) > 0.15
        assert learnt.bound <= 0.15
    # 20 of 200 are allowed; chance may make it 20 + 3 * 4.2.
    assert broken <= 33
    # And it is worth something: 0.6 is the share that could be accepted if all were known.
    assert found > 120
    assert 0.2 < accepted / found < 0.6


def test_looking_at_the_test_rows_first_would_break_it() -> None:
    """The simulation can fail: the best threshold by the eye alone breaks the promise often."""
    dice, broken = random.Random(5), 0
    for _ in range(200):
        rows = sorted(_draw(dice, 400), reverse=True)
        wrong, best = 0, 1.0
        for at, (signal, good) in enumerate(rows, 1):
            wrong += not good
            best = signal if wrong / at <= 0.15 else best
        broken += _true_risk(best) > 0.15
    assert broken > 60


def test_the_marginal_rate_holds_in_simulation() -> None:
    dice, total = random.Random(7), 0.0
    for _ in range(300):
        learnt = learn_marginal(_draw(dice, 100), most_wrong=0.1)
        total += (1 - learnt.at_least) * _true_risk(learnt.at_least)
    assert 0.08 < total / 300 <= 0.102  # the mean of 300 is known to about 0.001


def test_what_it_says_of_itself() -> None:
    rows = [(float(at), at >= 50) for at in range(200)]
    learnt = learn(rows, most_wrong=0.1, confidence=0.95)
    accepted = [good for signal, good in rows if signal >= learnt.at_least]
    assert sum(accepted) / len(accepted) > 0.9
    assert learnt.statement == (
        "at most 0.1 of the accepted answers are wrong, with confidence 0.95: "
        f"{learnt.wrong} of {learnt.accepted} accepted answers were wrong in {learnt.tested} rows "
        f"({learnt.accepted / learnt.tested:.0%} accepted), upper bound {learnt.bound:.3g}"
    )
    assert learnt.rows == 200
    assert learnt.tested == 140
    assert learnt.as_json()["statement"] == learnt.statement
    assert learn(rows[::-1], most_wrong=0.1, confidence=0.95) == learnt  # order says nothing
    marginal = learn_marginal(rows, most_wrong=0.1)
    assert marginal.wrong == 19  # (19 + 1) / 201 <= 0.1
    assert marginal.at_least == 31
    assert "accepted and wrong, on average" in marginal.statement


@pytest.mark.parametrize(
    ("rows", "most_wrong", "confidence", "message"),
    [
        ([(1.0, True)] * 9, 0.1, 0.9, "there are 9 rows"),
        ([(1.0, True)] * 20, 0.1, 0.9, "20 rows are too few .* give 32 or more"),
        ([(1.0, False)] * 99, 0.1, 0.9, r"no threshold can be shown .*99 of 99 rows are"),
        ([(1.0, True)] * 99, 0.0, 0.9, "most wrong is 0"),
        ([(1.0, True)] * 99, 0.1, 1.0, "confidence is 1"),
        ([(math.nan, True)] * 99, 0.1, 0.9, "not a finite number"),
    ],
)
def test_what_cannot_be_learnt(
    rows: list[Row], most_wrong: float, confidence: float, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        learn(rows, most_wrong=most_wrong, confidence=confidence)


def test_32_good_rows_are_enough() -> None:
    learnt = learn([(1.0, True)] * 32, most_wrong=0.1, confidence=0.9)
    assert (learnt.at_least, learnt.accepted, learnt.wrong) == (1.0, 23, 0)


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=10, max_size=60),
    st.floats(0.01, 0.9),
)
@settings(max_examples=100)
def test_what_is_learnt_keeps_its_own_promise_on_its_rows(rows: list[Row], most: float) -> None:
    for method in (learn, learn_marginal):
        try:
            learnt = method(rows, most_wrong=most)
        except BadRequest:
            continue
        assert learnt.bound <= most + 1e-9
        assert 0 <= learnt.wrong <= learnt.accepted <= learnt.tested <= learnt.rows == len(rows)
