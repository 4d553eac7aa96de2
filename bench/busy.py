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

from sides import LlamaServer, Overt, Setup, Side
from table import shown, spread

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
            state: {name: [] for name in sides} for state in ("quiet", "busy")
        }
        threads: dict[str, list[Any]] = {"quiet": [], "busy": []}
        for number in range(rounds):
            for name, start in sides.items():
                readings["quiet"][name].append(_rate(start, tokens, threads["quiet"]))
                with neighbour():
                    readings["busy"][name].append(_rate(start, tokens, threads["busy"]))
            print(f"{ref}, round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
        lines += [
            "", f"### {ref}, decode tok/s, {rounds} rounds", "",
            "| | neighbour idle | neighbour spins on core 0 |", "| --- | --- | --- |",
        ]  # fmt: skip
        lines += [
            f"| {name} | {shown(spread(readings['quiet'][name]))} "
            f"| {shown(spread(readings['busy'][name]))} |"
            for name in sides
        ]
        chosen = "; ".join(f"{state}: {', '.join(map(str, t))}" for state, t in threads.items())
        lines += ["", f"Threads Overt chose, by round: {chosen}."]
        data[ref] = {"decode": readings, "threads_chosen": threads}
    return "\n".join(lines).strip(), {"busy": data}


def _rate(start: Callable[[], Side], tokens: int, threads: list[Any]) -> float:
    with start() as side:
        if isinstance(side, Overt) and side.chose_threads:
            threads.append(side.facts["threads"])
        side.ask(["Hello."], 2, LIMIT)
        return side.ask(["Write a very long story about a harbour."], tokens, LIMIT)[0].decode_rate
