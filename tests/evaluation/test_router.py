"""The router and its curve: the curve by hand, learning on outcomes that are made to be learnt."""

import csv
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import BadRequest
from overt.evaluation.router import (
    Router,
    RouterOutcome,
    apgr_samples,
    curve,
    features,
    fit,
    out_of_fold,
    with_threshold,
)


def _row(weak: bool, strong: bool) -> RouterOutcome:
    return RouterOutcome("", "", weak, strong)


FOUR = [_row(False, True), _row(True, True), _row(False, False), _row(True, False)]


def test_the_curve_by_hand() -> None:
    found = curve(FOUR, [0, 1, 2, 3], [1, 2, 3, 4], base=10)
    assert found.points == (
        (0, 0.5, 10), (0.25, 0.75, 11), (0.5, 0.75, 13), (0.75, 0.75, 16), (1, 0.5, 20),
    )  # fmt: skip
    assert found.area == pytest.approx(0.25 * (0.625 + 0.75 + 0.75 + 0.625))
    assert math.isnan(found.apgr)  # both are right as often: there is no gap
    assert found.share_for(0.5) == 0
    assert found.share_for(0.625) == pytest.approx(0.125)
    assert found.share_for(0.8) is None


def test_rows_of_equal_score_go_together() -> None:
    rows = [_row(False, True)] * 3 + [_row(True, True)] * 5
    for order in (rows, rows[::-1]):
        found = curve(order, [0.5] * 8)
        assert len(found.points) == 2
        assert found.apgr == pytest.approx(0.5)


def test_oracle_and_its_opposite() -> None:
    dice = random.Random(1)
    rows = [_row(dice.random() < 0.5, dice.random() < 0.8) for _ in range(500)]
    gain = [float(row.strong - row.weak) for row in rows]
    best = curve(rows, [-one for one in gain])
    assert best.apgr > 0.95
    assert best.apgr + curve(rows, gain).apgr == pytest.approx(1)
    assert max(point[1] for point in best.points) == pytest.approx(
        sum(row.weak or row.strong for row in rows) / 500
    )


def test_samples_are_paired_and_around_the_curve() -> None:
    dice = random.Random(2)
    rows = [_row(dice.random() < 0.4, dice.random() < 0.8) for _ in range(400)]
    coin = [dice.random() for _ in rows]
    drawn = apgr_samples(rows, {"coin": coin, "same": coin}, draws=200)
    assert drawn["coin"] == drawn["same"]
    assert drawn == apgr_samples(rows, {"coin": coin, "same": coin}, draws=200)
    mean = sum(drawn["coin"]) / 200
    assert mean == pytest.approx(curve(rows, coin).apgr, abs=0.03)


def _made(count: int, seed: int) -> list[RouterOutcome]:
    """Weak answers are right where their sum is; the prompt says nothing about it."""
    dice = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = dice.randrange(2, 99), dice.randrange(2, 99)
        right = dice.random() < 0.6
        claimed = a * b if right else a * b + dice.randrange(40, 400)
        answer = f"Each of {a} has {b}, so {a} * {b} = {claimed}.\n#### {claimed}"
        rows.append(
            RouterOutcome(f"There are {a} with {b} each.", answer, right, dice.random() < 0.9)
        )
    return rows


def test_what_can_be_learnt_from_answers_is_and_from_prompts_is_not() -> None:
    rows = _made(300, 3)
    seen = curve(rows, out_of_fold(rows, "both")).apgr
    blind = curve(rows, out_of_fold(rows, "prompt")).apgr
    assert seen > 0.85
    assert 0.3 < blind < 0.7
    router = fit(rows)
    new = _made(100, 4)
    right = sum((router.score(one.prompt, one.answer) > 0.5) == one.weak for one in new)
    assert right > 95


def test_a_router_is_kept_as_json() -> None:
    router = fit(_made(60, 8))
    assert Router.of(json.loads(json.dumps(router.as_json()))) == router


def test_a_threshold_of_a_router_is_of_rows_it_was_not_learnt_from() -> None:
    router, learnt = with_threshold(_made(300, 9), most_wrong=0.1)
    assert learnt.rows == 150
    new = [row for row in _made(500, 10) if router.score(row.prompt, row.answer) >= learnt.at_least]
    assert len(new) > 200
    assert sum(not row.weak for row in new) / len(new) < 0.1


def test_the_strong_model_is_never_looked_at() -> None:
    rows = _made(60, 5)
    turned = [RouterOutcome(row.prompt, row.answer, row.weak, not row.strong) for row in rows]
    assert fit(rows) == fit(turned)
    assert out_of_fold(rows) == out_of_fold(turned)


def test_no_row_scores_itself() -> None:
    rows = _made(60, 6)
    turned = [RouterOutcome(rows[0].prompt, rows[0].answer, not rows[0].weak, True), *rows[1:]]
    assert out_of_fold(rows)[0] == out_of_fold(turned)[0]
    assert out_of_fold(rows) != out_of_fold(turned)


@pytest.mark.parametrize("rows", [[], _made(19, 1), [_row(True, True)] * 30])
def test_too_little_to_learn_from(rows: list[RouterOutcome]) -> None:
    with pytest.raises(BadRequest, match="teach no router"):
        fit(rows)


def test_a_curve_needs_a_score_for_each() -> None:
    with pytest.raises(BadRequest, match="4 rows have 1 scores"):
        curve(FOUR, [1])


@given(st.text(max_size=200), st.text(alphabet="0123456789,.$#=*+-/ \nx<>%", max_size=300))
@settings(max_examples=repeats(60, 150))
def test_features_of_any_text_are_finite_and_the_same_ones(prompt: str, answer: str) -> None:
    usual = features("a 1", "1 + 1 = 2")
    for found in (features(prompt, answer), features(answer, prompt)):
        assert found.keys() == usual.keys()
        assert all(math.isfinite(value) for value in found.values())
    assert features(prompt, answer, "prompt").keys() < usual.keys()
    assert features(prompt, answer, "prompt") == features(prompt, "", "prompt")


def test_a_number_too_long_is_no_number() -> None:
    assert math.isfinite(features("9" * 5000, "#### " + "9" * 5000)["answer_size"])


def test_on_routellms_outcomes(shared_data: Callable[[str], Path]) -> None:
    """What docs/router-curve.md says, roughly; the figures of the data are those of RouteLLM."""
    outcomes = shared_data("eval/routellm_gsm8k/gsm8k_responses.csv")
    contaminated = shared_data("eval/routellm_gsm8k/contaminated_prompts.jsonl")
    lines = contaminated.read_text("utf-8").splitlines()
    left_out = {json.loads(line)["eval_prompt"] for line in lines}
    with outcomes.open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))[1:]
    every = [RouterOutcome(p, a, w == "True", s == "True") for p, w, s, a, _ in table]
    assert len(every) == 1319
    assert round(sum(row.weak for row in every) / 1319, 3) == 0.638
    assert round(sum(row.strong for row in every) / 1319, 3) == 0.857
    rows = [row for row in every if row.prompt not in left_out]
    assert len(rows) == 1307
    oracle = curve(rows, [float(row.weak - row.strong) for row in rows])
    assert max(point[1] for point in oracle.points) == pytest.approx(0.930, abs=0.001)
    learnt = curve(rows, out_of_fold(rows, "both"))
    assert 0.76 < learnt.apgr < 0.83
    assert 0.54 < curve(rows, out_of_fold(rows, "prompt")).apgr < 0.64
