"""How many cores are free right now, so that an engine takes no more threads than can run.

Two threads of llama.cpp on a box where one core is busy wait for each other at every layer, and
decoding collapses (docs/performance.md has the figures). A load average is a minute old, so the
kernel's own busy time is compared over the moments since this module was imported.
"""

import os
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuSample:
    """Seconds all cores together have been busy, those of this process, and when."""

    busy: float
    own: float
    at: float


def sample() -> CpuSample:
    import psutil

    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    # `user` already holds the guests' share; counting it twice would show a busy machine.
    busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return CpuSample(busy, time.process_time(), time.monotonic())


_START = sample()


def usable() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def free(since: CpuSample | None = None, window: float = 0.1) -> float:
    """Cores nobody else was using, averaged since `since` (the import by default).

    Waits until `window` seconds have been seen: the kernel counts in steps of a hundredth.
    """
    before = since or _START
    remaining = window - (time.monotonic() - before.at)
    if remaining > 0:
        time.sleep(remaining)
    now = sample()
    elapsed = max(now.at - before.at, 1e-3)
    others = max(0.0, (now.busy - before.busy) - (now.own - before.own)) / elapsed
    return max(0.0, usable() - others)


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads for decoding (one token at a time) and for reading a prompt (many at once)."""

    decode: int
    prompt: int


# Measured with bench/threads.py: one thread streams weights at about this rate, and every layer
# costs this much more as soon as a second thread must be woken at its barriers.
_BYTES_A_SECOND = 10e9
_SECONDS_A_LAYER = 0.45e-3


def plan(weights: int, layers: int, available: float) -> Threads:
    """Threads for a model of `weights` bytes and `layers` on `available` free cores.

    Waiting threads sleep (they never spin), which is safe beside any neighbour but makes each
    barrier dear: a second thread is taken for decoding only where it gains a quarter or more, which
    small models do not. A prompt is read in large pieces, so there every free core helps.
    """
    whole = max(1, int(available + 0.25))
    alone = weights / _BYTES_A_SECOND
    together = alone / whole + layers * _SECONDS_A_LAYER
    return Threads(decode=whole if together < 0.75 * alone else 1, prompt=whole)
