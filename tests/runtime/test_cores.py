"""Counting free cores and choosing threads."""

import os
import subprocess
import sys
import time

import pytest

from overt.runtime import cpu


@pytest.mark.parametrize(
    ("weights", "layers", "free", "decode", "prompt"),
    [
        (98_000_000, 30, 2.0, 1, 2),  # SmolLM2: waking a second thread costs more than it brings
        (98_000_000, 30, 0.3, 1, 1),
        (4_700_000_000, 32, 2.0, 2, 2),  # 8B at four bits: a token takes half a second alone
        (4_700_000_000, 32, 1.1, 1, 1),
        (4_700_000_000, 32, 15.9, 16, 16),
        (98_000_000, 30, 16.0, 1, 16),
    ],
)
def test_plan(weights, layers, free, decode, prompt):
    assert cpu.plan(weights, layers, free) == cpu.Threads(decode, prompt)


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_busy_neighbour_is_counted_and_our_own_work_is_not():
    before = cpu.sample()
    _spin(0.4)
    alone = cpu.free(before)
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)  # it has to start first
        beside = cpu.free(cpu.sample(), window=0.4)
    finally:
        neighbour.kill()
        neighbour.wait()
    assert 0 <= beside <= alone + 0.5  # other processes of a shared machine move both
    assert beside < cpu.usable() - 0.5


def test_usable_respects_affinity():
    assert 1 <= cpu.usable() <= (os.cpu_count() or 1)
