"""Figures against numbers worked by hand and against published examples."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.evaluation.audit import figures
from overt.evaluation.audit.probe import Contrast, Measure


class Probe:
    """The part of a probe that figures look at."""

    measures = (
        Measure("share", "", lambda o: o["x"], neutral=0.5),
        Measure("signed", "", lambda o: o.get("s"), -1.0, 1.0, 0.0, split=False),
    )
    contrasts = (
        Contrast("difference", "", lambda o: o["x"], "a", "b"),
        Contrast("middle", "", lambda o: o["x"], "a", "b", "middle", 0.5),
        Contrast("auc", "", lambda o: o["v"], "a", "b", "auc", 0.5),
    )


def entry(id: str, group: str, **outcome: float) -> dict[str, Any]:
    return {"id": id, "groups": [group], "outcome": outcome}


def of(entries: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    probe: Any = Probe()
    return {(one["measure"], one["group"]): one for one in figures.of_probe(probe, entries, 0)}


def test_newcombe_gives_his_published_example() -> None:
    """Newcombe 1998, Statistics in Medicine 17:873, table II: 56/70 minus 48/80, method 10."""
    assert figures.newcombe((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert figures.newcombe((5, 56), (0, 29)) == pytest.approx((-0.0381, 0.1926), abs=1e-4)


def test_auc_by_hand() -> None:
    assert figures.auc([3, 4], [1, 2]) == 1
    assert figures.auc([1, 2], [3, 4]) == 0
    assert figures.auc([1, 3], [2, 3]) == pytest.approx((0 + 0 + 1 + 0.5) / 4)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_auc_is_the_share_of_pairs(first: list[int], second: list[int]) -> None:
    won = sum((a > b) + (a == b) / 2 for a in first for b in second)
    assert figures.auc(first, second) == pytest.approx(won / len(first) / len(second))


def test_the_mean_of_plus_and_minus_one_has_wilsons_interval() -> None:
    interval, method = figures.mean_interval([1.0] * 5 + [-1.0] * 5, -1.0, 1.0, 0)
    assert interval == pytest.approx((2 * 0.23659 - 1, 2 * 0.76341 - 1), abs=1e-4)
    assert method.startswith("Wilson")


def test_figures_of_groups_and_contrasts() -> None:
    rows = [entry(f"a{i}", "a", x=1.0, v=i + 10) for i in range(6)]
    rows += [entry(f"b{i}", "b", x=float(i < 2), v=i, s=0.0) for i in range(8)]
    found = of([*rows, {"id": "failed", "groups": ["a"], "outcome": None}])
    assert found["share", ""]["value"] == pytest.approx(8 / 14)
    assert found["share", ""]["n"] == 14
    assert found["share", "b"]["value"] == 0.25
    assert ("signed", "b") not in found  # not split
    # Eight items of 0: with 95 % confidence at most 1 - 0.05^(1/8) of others are at either end.
    assert found["signed", ""]["interval"] == pytest.approx([-0.3123, 0.3123], abs=1e-4)
    assert found["difference", ""]["value"] == 0.75
    assert found["difference", ""]["ns"] == [6, 8]
    assert found["middle", ""]["value"] == 0.625
    low, high = found["middle", ""]["interval"]
    assert 0.4 < low < 0.625 < high < 0.9
    assert found["auc", ""]["value"] == 1
    assert found["auc", ""]["interval"][0] < 1  # never without width


def test_a_contrast_without_one_of_its_groups_is_left_out() -> None:
    assert ("auc", "") not in of([entry("1", "a", x=1.0, v=1.0)])


def test_two_models_are_compared_on_the_same_items() -> None:
    probe: Any = Probe()
    after = [entry(str(i), "a", x=float(i < 8), v=0) for i in range(10)]
    before = [entry(str(i), "a", x=float(i < 3), v=0) for i in range(2, 12)]
    found = figures.pairs(probe, after, before, 0)[0]
    assert (found["n"], found["only_one_has"]) == (8, 4)
    # Of 2 to 9: after is right in 2 to 7, before in 2 alone.
    assert found["difference"] == pytest.approx(6 / 8 - 1 / 8)
    assert (found["after_only"], found["before_only"]) == (5, 0)
    assert found["mcnemar_p"] == pytest.approx(2 / 32)


def test_equal_models_have_an_interval_with_a_width() -> None:
    probe: Any = Probe()
    rows = [entry(str(i), "a", x=1.0, v=0) for i in range(20)]
    found = figures.pairs(probe, rows, rows, 0)[0]
    assert found["difference"] == 0
    assert found["interval"] == pytest.approx([-0.1391, 0.1391], abs=1e-4)
