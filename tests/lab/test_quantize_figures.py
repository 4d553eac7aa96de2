"""Intervals, the choice of a type, and plots, without a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import DoesNotFit, EngineFailed, Failure, FormatError, WorkerDied
from overt.lab.quantize import frontier, plot, statistics
from overt.lab.quantize.types import TYPES, QuantType

_NUMBERS = st.lists(st.floats(0, 50), min_size=40, max_size=400)


def test_student_is_that_of_the_tables() -> None:
    assert statistics.student(1) == 12.706
    assert statistics.student(40) == pytest.approx(2.021, abs=1e-3)
    assert statistics.student(120) == pytest.approx(1.980, abs=1e-3)


@given(_NUMBERS, st.integers(1, 12))
def test_an_interval_holds_its_mean(values: list[float], windows: int) -> None:
    found = statistics.interval(values, windows)
    assert found.low <= found.mean + 1e-9
    assert found.mean <= found.high + 1e-9
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    ordered = sorted(values)
    assert statistics.percentile(values, 100) == ordered[-1]
    assert statistics.percentile(values, 50) == ordered[(len(values) + 1) // 2 - 1]


def test_intervals_of_blocks_cover_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        values = np.repeat(draw.normal(1.0, 1.0, 16), 8) + draw.normal(0, 1, 128)
        found = statistics.interval(values.tolist(), 16)  # each window has a level of its own
        hits += found.low <= 1.0 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_share_that_is_all_has_an_interval_all_the_same() -> None:
    found = statistics.share([1.0] * 200, 10)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert 0.97 < found.low < 0.99


def test_divergence_of_the_same_model_is_none() -> None:
    nll = [1.0, 2.0, 3.0, 4.0] * 10
    found = statistics.divergence([0.0] * 40, [1.0] * 40, nll, nll, 2)
    assert found["kld_mean_interval"] == [0.0, 0.0]
    assert found["perplexity_ratio_interval"] == [1.0, 1.0]
    assert found["perplexity"] == pytest.approx(np.exp(2.5))


def test_speeds_are_medians_with_their_spread() -> None:
    found = statistics.speeds([{"prompt": 3, "decode": 1}, {"prompt": 1, "decode": 2},
                            {"prompt": 2, "decode": 9}])  # fmt: skip
    assert found["prompt_tps"] == 2
    assert found["decode_tps_spread"] == [1, 9]


# ---- choosing ------------------------------------------------------------------------------------

_KLD = {"q8_0": 0.001, "q6_k": 0.004, "q5_k_m": 0.012, "q5_0": 0.02, "q4_k_m": 0.04,
        "iq4_nl": 0.06, "q4_0": 0.09, "q3_k_m": 0.2, "q2_k": 0.6}  # fmt: skip
_TPS = {"q8_0": 50.0, "q6_k": 55.0, "q5_k_m": 60.0, "q5_0": 62.0, "q4_k_m": 70.0, "q4_0": 90.0}


class _Machine:
    """What `search` asks for, from a table; it counts what was asked."""

    def __init__(self, **faster: float) -> None:
        self.judged: list[str] = []
        self.raced: list[str] = []
        self.speeds = _TPS | faster
        self.kld: dict[str, float] = _KLD
        self.needs: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}

    def judge(self, type: QuantType) -> dict[str, Any]:
        self.judged.append(type.name)
        if type.name in self.errors:
            raise self.errors[type.name]
        kld = self.kld[type.name]
        size = 1000 - 10 * list(_KLD).index(type.name)
        return {"type": type.name, "kld_mean": kld, "kld_mean_interval": [kld * 0.9, kld * 1.1],
                "bytes": size, "memory_need": self.needs.get(type.name, 10)}  # fmt: skip

    def race(self, wanted: Sequence[QuantType]) -> Mapping[str, Mapping[str, Any]]:
        self.raced = [type.name for type in wanted]
        return {
            name: {"decode_tps": self.speeds[name],
                   "decode_tps_spread": [self.speeds[name] - 1, self.speeds[name] + 1]}
            for name in self.raced
        }  # fmt: skip

    def search(self, limit: float, too_big: Sequence[str] = ()) -> frontier.FrontierChoice:
        def fits(type: QuantType) -> str:
            return "not tried: too big" if type.name in too_big else ""

        return frontier.search(
            fits, self.judge, self.race, limit, importance=False, memory=100 << 20
        )


def test_auto_takes_the_fastest_under_the_limit_and_says_why() -> None:
    machine = _Machine()
    found = machine.search(0.05)
    assert found.type.name == "q4_k_m"
    assert len(machine.judged) == len(set(machine.judged)) < len(frontier.LADDER)
    assert machine.raced == ["q8_0", "q5_k_m", "q5_0", "q4_k_m"]
    assert list(found.reasons) == list(frontier.LADDER)
    assert found.reasons["q4_k_m"].endswith("70.0 tokens a second, the fastest")
    assert found.reasons["q6_k"].startswith("not tried: more bytes than q4_k_m")
    assert "fewer bits" in found.reasons["q2_k"]


def test_auto_takes_a_larger_type_that_is_faster_here() -> None:
    assert _Machine(q8_0=100.0).search(0.05).type.name == "q8_0"


def test_of_types_that_are_as_fast_the_smallest_is_taken() -> None:
    assert _Machine(q5_0=70.5).search(0.05).type.name == "q4_k_m"


def test_auto_leaves_out_what_does_not_fit() -> None:
    machine = _Machine()
    found = machine.search(0.05, too_big=("q8_0", "q6_k"))
    assert found.reasons["q8_0"] == "not tried: too big"
    assert "q8_0" not in machine.judged
    with pytest.raises(DoesNotFit, match="no type fits the memory"):
        machine.search(0.05, too_big=frontier.LADDER)


def test_auto_never_takes_what_turns_out_too_large_for_the_memory() -> None:
    """Whatever was foreseen: what counts is the need of the file that was made."""
    machine = _Machine(iq4_nl=80.0)
    large = dict.fromkeys(("q8_0", "q5_0", "q4_k_m"), 101 << 20)
    machine.needs = large
    found = machine.search(0.05)
    assert found.type.name == "q5_k_m"
    assert not set(machine.raced) & set(large)
    assert found.reasons["q4_k_m"] == "it needs 101 MiB of memory and may take 100"
    assert len(machine.judged) == len(set(machine.judged))
    machine.needs = dict.fromkeys(frontier.LADDER, 101 << 20)
    with pytest.raises(DoesNotFit, match="no type fits the memory"):
        machine.search(0.05)
    machine.needs = dict.fromkeys(frontier.LADDER[:5], 101 << 20)
    with pytest.raises(Failure, match=r"the best is iq4_nl with up to 0\.0660"):
        machine.search(0.05)


def test_a_type_that_cannot_be_made_does_not_end_the_choice() -> None:
    machine = _Machine(iq4_nl=80.0)
    machine.errors = {
        "q4_k_m": EngineFailed("the model computes no numbers"), "q3_k_m": FormatError("no matrix"),
        "q5_0": EngineFailed("refused"),
    }  # fmt: skip
    found = machine.search(0.1)
    assert found.type.name == "q4_0"
    found = machine.search(0.05)
    assert found.type.name == "q5_k_m"
    assert found.reasons["q4_k_m"] == (
        "it cannot be made or computed: the model computes no numbers"
    )
    assert found.reasons["q2_k"] == "not tried: fewer bits than iq4_nl and q4_0, over the limit"
    machine.errors = dict.fromkeys(frontier.LADDER[4:], EngineFailed("no"))
    assert machine.search(0.05).type.name == "q5_0"
    machine.errors = dict.fromkeys(frontier.LADDER, EngineFailed("no numbers"))
    with pytest.raises(Failure, match="no type could be measured: q4_k_m: no numbers"):
        machine.search(0.05)
    machine.errors = {"q4_k_m": WorkerDied("it was killed")}
    with pytest.raises(WorkerDied):
        machine.search(0.05)


def test_auto_says_when_nothing_is_good_enough() -> None:
    with pytest.raises(Failure, match=r"the best is q8_0 with up to 0\.0011"):
        _Machine().search(0.0001)


# ---- plots ---------------------------------------------------------------------------------------

_SIZES = {"q8_0": 140, "q5_0": 110, "q5_k_m": 112, "q2_k": 80}
_ROWS = [_Machine().judge(TYPES[name]) | {"bytes": size << 20} for name, size in _SIZES.items()]


def test_the_frontier_is_what_no_other_type_beats() -> None:
    assert frontier.on_frontier(_ROWS) == {"q2_k", "q5_0", "q5_k_m", "q8_0"}
    beaten = [*_ROWS, _ROWS[1] | {"type": "worse", "kld_mean": 0.5}]
    assert "worse" not in frontier.on_frontier(beaten)


def test_a_terminal_gets_every_type_drawn_once() -> None:
    drawn = frontier.plot(_ROWS)
    assert all(len(line) <= 84 for line in drawn.splitlines())
    for name in ("q8_0", "q2_k"):
        assert drawn.count(f" {name}") + drawn.count(f"{name} ") >= 1
    assert drawn.count("●") == 4
    assert frontier.plot(_ROWS[:1]) == ""


def test_the_png_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot.png(tmp_path / name, _ROWS, "a model", 0.05)
    raw = (tmp_path / "a.png").read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert len(raw) < 60_000
    assert raw == (tmp_path / "b.png").read_bytes()
    with pytest.raises(Failure, match="cannot be written"):
        plot.png(tmp_path / "no" / "c.png", _ROWS, "a model", None)


def test_auto_looks_beyond_a_type_that_is_worse_than_its_place() -> None:
    machine = _Machine(q5_0=62.0)
    machine.kld = {**_KLD, "q5_k_m": 0.07, "q4_k_m": 0.045, "q5_0": 0.06}
    found = machine.search(0.05)
    assert found.type.name == "q4_k_m"
    machine.kld = {**_KLD, "q5_k_m": 0.07, "q4_k_m": 0.08, "q5_0": 0.06}
    found = machine.search(0.05)
    assert found.type.name == "q6_k"
    assert found.reasons["q2_k"] == "not tried: fewer bits than q5_k_m and q5_0, over the limit"
