"""The transfer bench: its own arithmetic, and one small run of every side."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import transfer  # noqa: E402


def test_a_ratio_above_one_is_faster_than_the_peer() -> None:
    times = {transfer.PEER: [2.0, 4.0, 2.0], "overt pull hf:": [1.0, 2.0, 4.0]}
    text = transfer.report(times, {transfer.PEER: 28_000_000, "overt pull hf:": 47_000_000}, 10**9)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    assert rows[2] == [transfer.PEER, "500 (250-500)", "-", "28", "3"]
    assert rows[3] == ["overt pull hf:", "500 (250-1000)", "2.00 (0.50-2.00)", "47", "3"]


def test_the_memory_of_a_process_is_measured() -> None:
    ran = transfer.measured([sys.executable, "-c", "x = b'x' * (300 << 20)"])
    assert ran.peak > 300 << 20
    assert ran.seconds > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/curl").exists(), reason="needs curl")
def test_every_side_moves_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "transfer.py"), "--rounds", "1", "--size", "8m"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in table[1:]] == [
        *transfer.SIDES, "overt export", "overt import",
    ]  # fmt: skip
    for row in table[1:]:
        assert 0 < int(row.split(" | ")[3]) < 200, "MB at most"
    assert "a trial of 1 rounds: not to be quoted" in done.stdout
