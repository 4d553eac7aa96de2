"""Threads and waiting: what a second thread brings, alone and beside a busy neighbour.

    python bench/threads.py MODEL.gguf [--rounds 3] [--tokens 96]

Runs llama.cpp (the xllamacpp wheel, as the worker uses it) with one and with two threads, under
each way of waiting at a barrier, in alternation, first alone and then with one process spinning on
core 0. Prints medians and the range. overt.runtime.cpu takes its two constants from here.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

CASES = {
    "1 thread": (1, 1, {}),
    "1 thread, prompt 2, sleeping": (1, 2, {"OMP_WAIT_POLICY": "passive"}),
    "2 threads, sleeping": (2, 2, {"OMP_WAIT_POLICY": "passive"}),
    "2 threads, spinning 1000": (2, 2, {"GOMP_SPINCOUNT": "1000"}),
    "2 threads, OpenMP's default": (2, 2, {}),
}
LIMIT = 15.0


def measure(model: str, decode: int, prompt: int, tokens: int) -> None:
    """One run in this process; prints prompt and decode tokens a second as JSON."""
    import xllamacpp

    common = xllamacpp.CommonParams()
    common.model.path = model
    common.n_ctx, common.n_batch, common.n_ubatch = 2048, 128, 128
    common.warmup = common.fit_params = False
    common.offline, common.verbosity, common.cache_ram_mib = True, -1, 0
    common.cpuparams.n_threads, common.cpuparams_batch.n_threads = decode, prompt
    common.hostnames = [f"@overt-bench-{os.getpid()}.sock"]
    server = xllamacpp.Server(common)
    chunks: list[bytes] = []
    end = time.monotonic() + LIMIT

    def keep(chunk: bytes) -> bool:
        chunks.append(chunk)
        return time.monotonic() > end

    request = {
        "prompt": "The history of the world " * 100,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_progress": True,
    }
    server.handle_completions(json.dumps(request).encode(), keep)
    timings = json.loads(chunks[-1]).get("timings", {})
    speeds = [timings.get("prompt_per_second", 0.0), timings.get("predicted_per_second", 0.0)]
    print(json.dumps(speeds))


def spin() -> None:
    os.sched_setaffinity(0, {0})
    while True:
        pass


def run(model: str, case: str, tokens: int) -> list[float]:
    decode, prompt, environment = CASES[case]
    command = [sys.executable, __file__, model, "--one", f"{decode},{prompt},{tokens}"]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.model, *map(int, given.one.split(",")))
        return
    print(f"{given.model}, {given.tokens} tokens, {given.rounds} rounds, tokens a second")
    print("0 means: not finished in 15 s\n")
    for title, busy in (("alone", False), ("beside a busy core", True)):
        neighbour = multiprocessing.Process(target=spin, daemon=True)
        if busy:
            neighbour.start()
        found: dict[str, list[list[float]]] = {case: [] for case in CASES}
        for _ in range(given.rounds):
            for case in CASES:
                found[case].append(run(given.model, case, given.tokens))
        print(f"| {title} (load {os.getloadavg()[0]:.1f}) | prompt | decode |")
        print("|---|---|---|")
        for case, speeds in found.items():
            cells = []
            for which in (0, 1):
                values = sorted(pair[which] for pair in speeds)
                low, high = values[0], values[-1]
                cells.append(f"{statistics.median(values):.0f} ({low:.0f} to {high:.0f})")
            print(f"| {case} | {cells[0]} | {cells[1]} |")
        print()
        if busy:
            neighbour.kill()


if __name__ == "__main__":
    main()
