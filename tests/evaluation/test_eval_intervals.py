"""Intervals and tests against values known from elsewhere, and by what they promise."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.evaluation.suites import intervals


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [  # Newcombe 1998, table I, method 3 (score without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_printed(right: int, count: int, low: float, high: float) -> None:
    assert intervals.wilson(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(given: tuple[int, int]) -> None:
    right, count = given
    low, high = intervals.wilson(right, count)
    assert 0 <= low <= right / count <= high <= 1
    assert intervals.wilson(count - right, count) == pytest.approx((1 - high, 1 - low))


def test_the_bootstrap_is_the_same_for_a_seed_and_near_the_normal() -> None:
    draw = Random(3)
    values = [draw.random() for _ in range(400)]
    low, high = intervals.bootstrap(values, 7)
    assert (low, high) == intervals.bootstrap(values, 7)
    assert (low, high) != intervals.bootstrap(values, 8)
    middle = intervals.mean(values)
    spread = (sum((v - middle) ** 2 for v in values) / 399) ** 0.5 / 20
    assert low == pytest.approx(middle - intervals.Z * spread, abs=0.004)
    assert high == pytest.approx(middle + intervals.Z * spread, abs=0.004)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    draw = Random(5)
    held = 0
    for trial in range(60):
        values = [draw.random() ** 2 for _ in range(40)]
        low, high = intervals.bootstrap(values, trial)
        held += low <= 1 / 3 <= high
    assert held >= 51  # 57 expected; below 51 once in some hundred seeds


def test_mcnemar_is_the_exact_one() -> None:
    first = [True] * 10 + [False] * 2 + [True] * 30
    second = [False] * 10 + [True] * 2 + [True] * 30
    assert intervals.mcnemar(first, second) == (10, 2, pytest.approx(2 * (1 + 12 + 66) / 4096))
    assert intervals.mcnemar(second, first).p == pytest.approx(0.0385742)
    assert intervals.mcnemar([True], [True]) == (0, 0, 1.0)
    many = intervals.mcnemar([True] * 3000 + [False] * 2800, [False] * 3000 + [True] * 2800)
    assert 0.008 < many.p < 0.01


def test_scores_between_are_bootstrapped() -> None:
    assert intervals.of_scores([1.0, 0.0])[1] == intervals.WILSON
    assert intervals.of_scores([1.0, 0.5])[1] == intervals.BOOTSTRAP
    assert intervals.paired([1, 1, 0], [1, 0, 0])[1] == f"paired {intervals.BOOTSTRAP}"


def test_what_is_all_alike_is_not_certain() -> None:
    """None of n differs: 1 - 0.05^(1/n) of all may, by the bound of Clopper and Pearson."""
    share = 1 - 0.05 ** (1 / 6)
    assert (1 - share) ** 6 == pytest.approx(0.05)
    (low, high), method = intervals.of_scores([0.5] * 6)
    assert (low, high) == (pytest.approx(0.5 - share / 2), pytest.approx(0.5 + share / 2))
    assert method == intervals.ALIKE
    (low, high), method = intervals.paired([0.0] * 6, [1.0] * 6)
    assert (low, high) == (-1.0, pytest.approx(-1 + 2 * share))
    assert method == f"paired {intervals.ALIKE}"
    (low, high), _ = intervals.paired([0.3, 0.7, 0.2], [0.2, 0.6, 0.1])  # but for rounding
    assert low == pytest.approx(0.1 - (1 - 0.05 ** (1 / 3)) * 1.1)
    assert intervals.of_scores([1 / 3])[0][1] > 0.9
    assert intervals.of_scores([1 / 3] * 3000)[0] == (
        pytest.approx(1 / 3, abs=1e-3), pytest.approx(1 / 3, abs=1e-3),
    )  # fmt: skip
