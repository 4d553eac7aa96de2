"""Decoding beside a busy neighbour: one process that spins, pinned to core 0.

llama.cpp's threads meet at a barrier after every operation. With as many threads as cores, one of
them shares its core with the neighbour, and the others spin until it arrives: the more threads, the
slower. Overt counts the cores that are free before it starts a worker.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import cores_busy
from sides import LlamaServer, Overt, Setup, Side
from table import caveat, shown, spread

LIMIT = 60.0  # seconds after which an answer is cut off and its tokens so far are counted
SPIN = "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass"


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps core 0 busy."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def contestants(ref: str, file: Path, home: Path, binary: Path) -> dict[str, Callable[[], Side]]:
    """What is compared: Overt's own choice, and fixed thread counts with and without spinning."""

    def setup(threads: int, **environ: str) -> Setup:
        return Setup(ref, file, home, 1024, 1, threads, environ)

    return {
        "Overt, threads chosen": lambda: Overt(setup(0), "wheel"),
        "Overt, 2 threads": lambda: Overt(setup(2), "wheel"),
        "llama-server, 2 threads": lambda: LlamaServer(setup(2), binary),
        "llama-server, 2 threads, OMP_WAIT_POLICY=passive": lambda: LlamaServer(
            setup(2, OMP_WAIT_POLICY="passive"), binary
        ),
        "llama-server, 1 thread": lambda: LlamaServer(setup(1), binary),
    }


def busy_section(
    files: dict[str, Path], home: Path, binary: Path, rounds: int, tokens: int
) -> tuple[str, dict[str, Any]]:
    """All rounds for all models; returns Markdown and the readings (tokens a second)."""
    lines: list[str] = []
    data: dict[str, Any] = {}
    for ref, file in files.items():
        sides = contestants(ref, file, home, binary)
        readings: dict[str, dict[str, list[float]]] = {
            state: {name: [] for name in sides} for state in ("idle", "busy")
        }
        threads: dict[str, list[Any]] = {"idle": [], "busy": []}
        before: list[float] = []
        for number in range(rounds):
            before.append(cores_busy())
            for name, start in sides.items():
                readings["idle"][name].append(_rate(start, tokens, threads["idle"]))
                with neighbour():
                    readings["busy"][name].append(_rate(start, tokens, threads["busy"]))
            print(f"{ref}, round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
        lines += [
            "",
            f"### {ref}, decode tok/s, {rounds} rounds",
            "",
            caveat(rounds, False, max(before)),
            "",
            "| | neighbour idle | neighbour spins on core 0 |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {name} | {shown(spread(readings['idle'][name]))} "
            f"| {shown(spread(readings['busy'][name]))} |"
            for name in sides
        ]
        chosen = "; ".join(
            f"{state}: {', '.join(sorted({threads_shown(one) for one in each}))}"
            for state, each in threads.items()
        )
        lines += ["", f"Overt chose, neighbour {chosen}."]
        data[ref] = {"decode": readings, "threads_chosen": threads, "busy_before": before}
    return "\n".join(lines).strip(), data


def threads_shown(threads: Any) -> str:
    """``1 thread for decoding, 2 for the prompt``, from what Overt's facts say."""
    if not isinstance(threads, dict):
        return str(threads)
    return f"{threads.get('decode')} for decoding and {threads.get('prompt')} for the prompt"


def _rate(start: Callable[[], Side], tokens: int, threads: list[Any]) -> float:
    with start() as side:
        if isinstance(side, Overt) and side.chose_threads:
            threads.append(side.facts["threads"])
        side.ask(["Hello."], 2, LIMIT)
        return side.ask(["Write a very long story about a harbour."], tokens, LIMIT)[0].decode_rate
