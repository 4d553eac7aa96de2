"""Votes are kept line by line, and add up to strengths that say how sure they are."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import Failure, FormatError
from overt.evaluation import votes
from overt.evaluation.votes import Vote


def _votes(*told: str) -> list[Vote]:
    """``"a>b"``, ``"a=b"`` (a tie), ``"a<b"``, ``"a!b"`` (both bad)."""
    outcome = {">": "first", "<": "second", "=": "tie", "!": "both_bad"}
    return [Vote("", "", (one[0], one[2]), outcome[one[1]]) for one in told]  # type: ignore[arg-type]


def _standing(table: votes.VoteTable, model: str) -> votes.ModelStanding:
    return next(one for one in table.standings if one.model == model)


# ---- the file ------------------------------------------------------------------------------


def test_votes_come_back_as_they_were_given(tmp_path: Path) -> None:
    given = [
        Vote("2026-11-25T12:00:00Z", "sha256:00", ("smollm2", "openai:gpt-5"), "first"),
        Vote("2026-11-25T12:00:01Z", "sha256:01", ("./mödel.gguf", "smollm2"), "both_bad"),
    ]
    for one in given:
        votes.add(tmp_path / "new", one)
    assert votes.read(tmp_path / "new") == (given, [])
    assert votes.path_of(tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_home_without_votes_has_none(tmp_path: Path) -> None:
    assert votes.read(tmp_path) == ([], [])


def test_a_line_that_a_kill_left_half_written_costs_no_other_vote(tmp_path: Path) -> None:
    one, two = Vote("t", "p", ("a", "b"), "first"), Vote("t", "p", ("b", "a"), "tie")
    votes.add(tmp_path, one)
    with votes.path_of(tmp_path).open("ab") as file:
        file.write(b'{"time": "2026')
    votes.add(tmp_path, two)
    found, damaged = votes.read(tmp_path)
    assert found == [one, two]
    assert damaged == ["line 2 of votes.jsonl is no vote and is passed over: it is not JSON"]
    assert b'{"time": "2026\n' in votes.path_of(tmp_path).read_bytes(), "it is still there"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[1]", "it is no object"),
        (b"\xff", "it is not JSON"),
        (b"[" * 4000, "it is not JSON"),
        (b"[" * 9000, "it has 9000 bytes"),
        (b'{"shown": ["a"], "outcome": "tie"}', "it does not name two models"),
        (b'{"shown": ["a", 1], "outcome": "tie"}', "it does not name two models"),
        (b'{"shown": ["a", "a"], "outcome": "tie"}', "it names one model twice"),
        (b'{"shown": ["a", "b"], "outcome": ["tie"]}', "it does not say which was better"),
        (b'{"shown": ["a", "b"], "outcome": "a"}', "it does not say which was better"),
    ],
)
def test_a_damaged_line_is_named(line: bytes, why: str, tmp_path: Path) -> None:
    votes.path_of(tmp_path).write_bytes(line + b"\n")
    assert votes.read(tmp_path) == (
        [],
        [f"line 1 of votes.jsonl is no vote and is passed over: {why}"],
    )


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["shown", "outcome", "time", "prompt"]), inner)
        ),
        max_leaves=8,
    ).map(lambda content: json.dumps(content).encode())
)
def test_anything_may_stand_in_the_file(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        votes.path_of(Path(folder)).write_bytes(data)
        found, damaged = votes.read(Path(folder))
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert len(found) + len(damaged) == len(lines)


def test_a_file_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    votes.path_of(tmp_path).mkdir()
    with pytest.raises(Failure, match="cannot be read"):
        votes.read(tmp_path)
    with pytest.raises(Failure, match="cannot be written"):
        votes.add(tmp_path, Vote("", "", ("a", "b"), "tie"))


# ---- strengths -----------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.sampled_from([(a, b) for a in "abcd" for b in "abcd" if a != b]),
        st.floats(0.1, 50),
        min_size=1,
    )
)
def test_strengths_solve_the_equations_of_bradley_and_terry(
    half: dict[tuple[str, str], float],
) -> None:
    """The score of the likelihood is zero: each model won what its strength promises."""
    points = {**{(b, a): 0.3 for a, b in half}, **half}
    found = votes.strengths(points, sorted({model for pair in points for model in pair}))
    for model, own in found.items():
        won = sum(count for (one, _), count in points.items() if one == model)
        promised = sum(
            (count + points[other, one]) * own / (own + found[other])
            for (one, other), count in points.items()
            if one == model
        )
        assert math.isclose(won, promised, rel_tol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_quick_way_and_the_plain_one_agree(seed: int) -> None:
    chance = random.Random(seed)
    names = "abcdef"[: 2 + seed]
    points = {(a, b): chance.gammavariate(0.5, 1) + 0.01 for a in names for b in names if a != b}
    groups = dict.fromkeys(names, 1)
    plain = votes._centred(votes.strengths(points, names), groups)
    quick = votes._centred(votes._newton(points, groups, dict.fromkeys(names, 1.0)), groups)
    for model in names:
        assert abs(votes.elo(plain[model]) - votes.elo(quick[model])) < 0.1


def test_two_models_are_as_far_apart_as_their_votes() -> None:
    """By hand: 15 of 20 and a tie given, so 15.5 to 5.5, which are 180 points of Elo."""
    table = votes.table(_votes(*["a>b"] * 15, *["b>a"] * 5))
    apart = _standing(table, "a").elo - _standing(table, "b").elo
    assert math.isclose(apart, 400 * math.log10(15.5 / 5.5), abs_tol=1e-3)
    assert math.isclose(_standing(table, "a").elo + _standing(table, "b").elo, 2000)


def test_ties_and_both_bad_count_half() -> None:
    ties = votes.table(_votes("a=b", "a!b", "a=b"))
    assert [round(one.elo, 6) for one in ties.standings] == [1000.0, 1000.0]
    assert ties.points == {("a", "b"): 1.5, ("b", "a"): 1.5}
    assert _standing(ties, "a").ties == 3
    mixed = votes.table(_votes("a>b", "a=b"))
    assert _standing(mixed, "a").elo > 1000 > _standing(mixed, "b").elo


def test_the_order_of_votes_and_of_what_was_shown_changes_nothing() -> None:
    told = _votes(*["a>b"] * 4, "b>c", "c=a", "b>a", "c>a")
    turned = [
        Vote("", "", (v.shown[1], v.shown[0]), {"first": "second", "second": "first"}.get(v.outcome, v.outcome))  # type: ignore[arg-type]  # noqa: E501
        for v in reversed(told)
    ]  # fmt: skip
    assert votes.table(told, draws=50) == votes.table(turned, draws=50)


def test_who_was_never_beaten_stays_finite_and_has_a_wide_interval() -> None:
    table = votes.table(_votes(*["a>b"] * 5))
    best = _standing(table, "a")
    assert math.isfinite(best.elo)
    assert best.low < best.elo < best.high
    assert best.high - best.low > 200, "five votes are not many"
    many = _standing(votes.table(_votes(*["a>b"] * 75, *["b>a"] * 25)), "a")
    assert many.high - many.low < 100


@pytest.mark.parametrize("count", [10, 30])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(count: int) -> None:
    """150 made-up elections of two models where the better one is preferred in 70 %."""
    chance = random.Random(7)
    truth = 1000 + 200 * math.log10(0.7 / 0.3)
    held = 0
    for _ in range(150):
        told = ["a>b" if chance.random() < 0.7 else "b>a" for _ in range(count)]
        found = _standing(votes.table(_votes(*told), draws=100), "a")
        held += found.low <= truth <= found.high
    assert 0.85 <= held / 150 <= 1.0


def test_models_that_no_votes_connect_are_told_apart() -> None:
    table = votes.table(_votes("a>b", "b>c", "x>y"))
    assert table.groups == 2
    assert {one.model: one.group for one in table.standings} == {
        "a": 1, "b": 1, "c": 1, "x": 2, "y": 2,
    }  # fmt: skip
    assert math.isclose(_standing(table, "x").elo + _standing(table, "y").elo, 2000)


def test_the_table_as_json() -> None:
    value = votes.table(_votes("a>b", "a=b")).as_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["matrix"] == {"a": {"b": 1.5}, "b": {"a": 0.5}}
    assert [(one["model"], one["wins"], one["ties"]) for one in value["models"]] == [
        ("a", 1, 1), ("b", 0, 1),
    ]  # fmt: skip
    assert votes.table([]).as_json() == {"votes": 0, "groups": 0, "models": [], "matrix": {}}


def test_more_models_than_anybody_has_are_refused() -> None:
    told = [Vote("", "", ("a", f"m{number}"), "tie") for number in range(64)]
    with pytest.raises(FormatError, match="65 models"):
        votes.table(told)
