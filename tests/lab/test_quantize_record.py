"""Finished tables that are added to, what commands leave undone, and the time that is left."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.cli import quantize
from overt.lab.quantize import record
from overt.lab.quantize.eta import PaceEstimate
from overt.lab.quantize.pending import Pending
from overt.provenance import jobs

SPEEDS = {"prompt_tps": 100.0, "decode_tps": 10.0, "load_memory": 5}


def row(type: str, runs: int = 0, **more: Any) -> dict[str, Any]:
    speeds = {"runs": runs, **SPEEDS} if runs else {}
    return {"type": type, "bytes": 10, "kld_mean": 0.1} | speeds | more


def table(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"source": "a", "types": list(rows), "failed": {}, "models": [],
            "base": row("source", bytes=9)} | more  # fmt: skip


def test_a_small_table_does_not_take_the_place_of_a_large_one() -> None:
    old = table(row("q8_0", 3), row("q4_0", 3), failed={"iq1_s": "no matrix", "q2_k": "full"})
    new = table(row("q2_k"), row("q8_0"), failed={"tq1_0": "no"})
    found = record.merged(old, new)
    assert [one["type"] for one in found["types"]] == ["q2_k", "q8_0", "q4_0"]
    assert found["types"][1]["decode_tps"] == 10.0  # the new command did not run the clock
    assert found["failed"] == {"iq1_s": "no matrix", "tq1_0": "no"}
    assert found["notes"] == ["q2_k, q8_0, q4_0 are larger than a itself (0 MiB)"]


@pytest.mark.parametrize(("runs", "tps"), [(1, 10.0), (3, 20.0), (5, 20.0)])
def test_speeds_are_those_of_more_runs_or_the_newer(runs: int, tps: float) -> None:
    old, new = table(row("q8_0", 3)), table(row("q8_0", runs, decode_tps=20.0))
    (found,) = record.merged(old, new)["types"]
    assert found["decode_tps"] == tps
    assert found["runs"] == max(runs, 3)


def test_what_was_chosen_stored_and_scored_is_kept() -> None:
    def stored(*names: str) -> dict[str, Any]:
        models = [{"model": name, "digest": f"sha256:{name}"} for name in names]
        return {"models": models} | (models[0] if len(models) == 1 else {})

    old = table(row("q8_0"), chosen="q8_0", **stored("a", "b"), task=[{"model": "a", "suite": "s"}])
    new = table(row("q8_0"), **stored("b"), task=[{"model": "b", "suite": "s"}])
    found = record.merged(old, new)
    assert [one["model"] for one in found["models"]] == ["a", "b"]
    assert [one["model"] for one in found["task"]] == ["a", "b"]
    assert found["chosen"] == "q8_0"
    assert "digest" not in found


_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "types", "failed", "models", "base", "task"]), inner
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["types", "failed", "models", "base", "task", "x"]), _JSON))
def test_an_older_table_of_any_form_loses_no_new_row(old: dict[str, Any]) -> None:
    new = table(row("q8_0"), row("q4_0"))
    found = record.merged(old, new)
    assert found["types"][:2] == new["types"]
    json.dumps(found)


# ---- what is left undone ---------------------------------------------------------------------


def pending(folder: Path, command: str) -> Pending:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    noted = {"name": "x", "command": command, "starts": 1}
    (folder / "job.json").write_text(json.dumps(noted))
    return Pending(folder, noted)


def test_a_job_is_done_when_every_command_has_ended(tmp_path: Path) -> None:
    pending(tmp_path, "overt all").asked(["q8_0", "q4_0"])  # and killed
    small = pending(tmp_path, "overt small")
    small.asked(["q8_0", "q5_0"])
    assert not small.ended()
    assert jobs.noted_in(tmp_path) == {"name": "x", "command": "overt all", "starts": 1}
    again = pending(tmp_path, "overt all")
    again.asked(["q8_0", "q4_0"])
    assert again.ended()


def test_a_refused_command_leaves_only_what_it_has_begun(tmp_path: Path) -> None:
    one = pending(tmp_path, "overt a")
    assert one.idle()
    one.asked(["q8_0", "nvfp4"])
    assert one.idle()
    one.refused(lambda what: what == "q8_0")
    (tmp_path / "work" / "base.f16").write_bytes(b"x")
    assert not one.idle()
    other = pending(tmp_path, "overt b")
    other.asked(["q8_0"])
    assert other.ended()


def test_a_list_that_was_cut_short_is_none(tmp_path: Path) -> None:
    one = pending(tmp_path, "overt a")
    (tmp_path / "work" / "pending.json").write_bytes(b'{"q8_0": {"comm')
    one.asked(["q4_0"])
    (tmp_path / "work" / "pending.json").write_bytes(b'{"q8_0": 3}')
    assert one.ended()


# ---- how long it takes -----------------------------------------------------------------------


def test_the_time_left_is_that_of_what_was_seen() -> None:
    pace = PaceEstimate(types=4, runs=10, tokens=704)
    assert pace.left is None
    pace.type_done(None)  # made before
    assert pace.left is None
    pace.type_done(60.0)
    assert pace.left == pytest.approx(2 * 60 + 10 * 30)  # a run takes as long as 352 tokens
    pace.type_done(30.0)
    pace.type_done(None)
    pace.run_done(2.0)
    assert pace.left == pytest.approx(9 * 2.0)
    for _ in range(9):
        pace.run_done(2.0)
    assert pace.left == 0


def test_types_that_were_all_made_before_are_waited_for_by_their_runs() -> None:
    pace = PaceEstimate(types=1, runs=2, tokens=100)
    pace.type_done(None)
    assert pace.left is None
    pace.run_done(3.0)
    assert pace.left == 3.0


def test_who_waits_is_told_in_words() -> None:
    event = {"what": "q6_k", "done": 3, "total": 34, "of": "types", "left": 725.0}
    assert quantize._waiting(event) == "q6_k: 3 of 34 types, about 12 min 5 s left"
    for nothing in (None, 0.0):
        assert quantize._waiting(event | {"left": nothing}) == "q6_k: 3 of 34 types"
