"""How long `overt dossier FILE` takes, from the start of the process to its end.

    python bench/dossier.py MODEL.gguf [--rounds 9]

Three rows, in turns, so that load falls on all of them alike: cold (a home that knows nothing of
the file: it is hashed, every check runs), again (the same home and file once more) and evidence
alone (the home has the evidence, and the dossier is made anew from it, as after a change of the
program or on another day). The file is in the page cache. The bars are 2 s cold and 0.2 s again.
All must print the same bytes.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from machine import about, cores_busy, sentence

ROWS = ("cold", "again", "evidence alone")


class Reading(NamedTuple):
    wall: float
    cpu: float
    printed: bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    taken: dict[str, list[Reading]] = {row: [] for row in ROWS}
    busy: list[float] = []
    for number in range(given.rounds + 1):
        before = cores_busy()
        with tempfile.TemporaryDirectory() as home:
            readings = [once(given.file, home), once(given.file, home)]
            for note in Path(home, "dossiers").glob("*.kept.json"):
                note.unlink()
            readings.append(once(given.file, home))
        if number:  # the first round fills the page cache and writes .pyc files
            busy.append(before)
            for row, reading in zip(ROWS, readings, strict=True):
                taken[row].append(reading)
    if len({reading.printed for row in taken.values() for reading in row}) != 1:
        sys.exit("not every run printed the same bytes")
    report(given.file, taken, busy)


def once(file: Path, home: str) -> Reading:
    command = [sys.executable, "-m", "overt", "dossier", str(file), "--json", "--home", home]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OVERT_")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    used, begun = _cpu(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environ)
    return Reading(time.perf_counter() - begun, _cpu() - used, done.stdout)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(file: Path, taken: dict[str, list[Reading]], busy: list[float]) -> None:
    print(sentence(about()))
    print(
        f"{file.name}, {file.stat().st_size / 1e6:.0f} MB, {len(busy)} rounds; other processes "
        f"kept {statistics.median(busy):.2f} cores busy (at most {max(busy):.2f})"
    )
    print(f"{'':<16}{'wall s':>24}{'CPU s':>24}")
    for row, readings in taken.items():
        walls, cpus = [one.wall for one in readings], [one.cpu for one in readings]
        print(f"{row:<16}{_spread(walls):>24}{_spread(cpus):>24}")


def _spread(times: list[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:.3f} [{low:.3f}-{high:.3f}]"


if __name__ == "__main__":
    main()
