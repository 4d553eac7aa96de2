"""What a server between client and engine costs: `overt serve`, and npm's Portkey gateway.

    python bench/gateway.py                 all tables, about ten minutes
    python bench/gateway.py --quick         a trial of the bench itself: not to be quoted
    python bench/gateway.py --soak 60       also 256 clients at once on the echo engine for 60 s

Three sides answer the same requests of the same client, in turns: the bare engine (llama.cpp's own
HTTP server, bare.py), `overt serve` with the same engine and parameters in its sandbox, and
`@portkey-ai/gateway` in front of the bare engine. What a side adds is its time less that of the
bare engine in the same round. README.md in this folder says what each row means.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

import machine
from native import CACHE
from overt import settings
from overt.models import pull
from sides import Overt, Setup, free_port, stop

HERE = Path(__file__).resolve().parent
# With the hono packages of its own time: with today's, each of its answers is an error 500.
PORTKEY = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    "overrides": {"@hono/node-server": "1.13.8", "hono": "4.9.7"},
}
CONTEXT, PARALLEL = 1024, 8
BARE, OVERT, PORTKEY_SIDE = "bare engine", "overt serve", "portkey in front of it"
WORKER = "overt's worker alone"


@dataclass(frozen=True)
class Side:
    """Where to ask. `pid` is of the process whose CPU time counts as the gateway's."""

    name: str
    port: int
    pid: int
    model: str
    headers: dict[str, str] = field(default_factory=dict)

    def cpu(self) -> float:
        """Seconds of CPU that the process has used, without its children."""
        tasks = Path(f"/proc/{self.pid}/task")
        # The scheduler's own clock: that of /proc/PID/stat counts in hundredths of a second.
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        )


@dataclass(frozen=True)
class Took:
    """One answer: seconds to the first text and to the end, events with text, tokens."""

    first: float
    total: float
    events: int
    tokens: int


def ask(side: Side, prompt: str, max_tokens: int, *, model: str = "") -> Took:
    """One streamed chat completion over a new connection."""
    body = {
        "model": model or side.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "seed": 1,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Content-Type": "application/json", **side.headers}
    connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=120)
    first, events, tokens = 0.0, 0, 0
    try:
        connection.connect()
        begin = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{side.name}: {response.status} {response.read(500)!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            if b'"content":"' in line and b'"content":""' not in line:
                first = first or time.perf_counter() - begin
                events += 1
            elif b'"usage":{' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    finally:
        connection.close()
    return Took(first, time.perf_counter() - begin, events, tokens)


# ---- the sides -----------------------------------------------------------------------------


@contextmanager
def started(command: list[str], environ: dict[str, str], port: int, path: str) -> Iterator[int]:
    """A server process; yields its number once `path` answers."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environ,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", path)
                if connection.getresponse().status < 500:
                    break
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        else:
            raise RuntimeError(f"{command[:3]} did not start")
        yield process.pid
    finally:
        stop(process)


@contextmanager
def bare(chosen: settings.Settings, ref: str, threads: int) -> Iterator[Side]:
    weights = pull.find(ref, chosen).weights
    port = free_port()
    parameters = {
        "weights": str(weights),
        "context": CONTEXT,
        "parallel": PARALLEL,
        "batch": 128,
        "threads": threads,
        "prompt_threads": threads,
        "checkpoints": 0,
    }
    command = [sys.executable, str(HERE / "bare.py"), str(port), json.dumps(parameters)]
    with started(command, {}, port, "/health") as pid:
        yield Side(BARE, port, pid, ref)


@contextmanager
def overt(
    chosen: settings.Settings, ref: str, threads: int, parallel: int = PARALLEL
) -> Iterator[Side]:
    port = free_port()
    environ = {
        "OVERT_HOME": str(chosen.home),
        "OVERT_CONTEXT": str(CONTEXT),
        "OVERT_PARALLEL": str(parallel),
        "OVERT_THREADS": str(threads),
        "OVERT_ENGINE": "wheel",
    }
    command = [sys.executable, "-m", "overt", "serve", "--quiet", "--port", str(port)]
    with started(command, environ, port, "/healthz") as pid:
        yield Side(OVERT, port, pid, ref)


def portkey_headers(provider: str, base: str) -> dict[str, str]:
    """What tells Portkey to speak `provider`'s protocol, below the URL `base`."""
    return {
        "x-portkey-provider": provider,
        "x-portkey-custom-host": base,
        "Authorization": "Bearer none",
    }


@contextmanager
def portkey_server() -> Iterator[tuple[int, int]]:
    """Port and process of the gateway; what it stands in front of is told by each request."""
    folder = CACHE / "portkey"
    script = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not script.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps(PORTKEY))
        subprocess.run(
            ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    port = free_port()
    command = ["node", str(script), f"--port={port}", "--headless"]
    environ = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    with started(command, environ, port, "/") as pid:
        yield port, pid


@contextmanager
def portkey(behind: Side) -> Iterator[Side]:
    headers = portkey_headers("openai", f"http://127.0.0.1:{behind.port}/v1")
    with portkey_server() as (port, pid):
        yield Side(PORTKEY_SIDE, port, pid, behind.model, headers)


# ---- what is measured ----------------------------------------------------------------------


def first_token(sides: list[Side], worker: Overt, rounds: int) -> dict[str, list[float]]:
    """Milliseconds to the first text, all sides in each round; the prompt is in their caches."""
    prompt = "Name one colour."
    asks: dict[str, Callable[[], float]] = {
        side.name: (lambda side=side: ask(side, prompt, 2).first) for side in sides
    }
    asks[WORKER] = lambda: worker.ask([prompt], 2)[0].first or 0.0
    for one in asks.values():
        for _ in range(3):
            one()
    found: dict[str, list[float]] = {name: [] for name in asks}
    names = list(asks)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(asks[name]() * 1000)
    return found


def leaving(side: Side, times: int) -> list[float]:
    """Milliseconds from closing the connection of a long answer to the first text of the next.

    `side` has one slot, so the next answer begins only when the slot is free.
    """
    waits = []
    connection = opened(side, "Count to one million.")
    for number in range(times):
        connection.close()
        left = time.perf_counter()
        connection = opened(side, f"Count to {number}.")
        waits.append((time.perf_counter() - left) * 1000)
    connection.close()
    return waits


def opened(side: Side, prompt: str) -> http.client.HTTPConnection:
    """A connection on which the first text of a long answer has come."""
    connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=120)
    body = {
        "model": side.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 900,
        "stream": True,
    }
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    for line in connection.getresponse():
        if b'"content":"' in line and b'"content":""' not in line:
            return connection
    raise RuntimeError(f"{side.name} gave no text")


def together(side: Side, streams: int, tokens: int, seed: int) -> float:
    """Tokens a second of `streams` answers at once, from the common start to the last end."""
    prompts = [f"Write a very long story about harbour {seed}-{n}." for n in range(streams)]
    with ThreadPoolExecutor(streams) as pool:
        begin = time.perf_counter()
        took = list(pool.map(lambda prompt: ask(side, prompt, tokens), prompts))
        return sum(one.tokens for one in took) / (time.perf_counter() - begin)


def cpu_an_event(side: Side, rounds: int, *, echo: bool) -> list[float]:
    """Microseconds of the gateway's CPU time for an event, the request's own cost included."""
    found = []
    words = " ".join(f"word{n}" for n in range(2000))
    for number in range(rounds):
        before, events = side.cpu(), 0
        if echo:
            for _ in range(10):
                events += ask(side, words, 4000, model="echo:bench").events
        else:
            with ThreadPoolExecutor(PARALLEL) as pool:
                prompts = [f"Tell a long story about ship {number}-{n}." for n in range(PARALLEL)]
                events = sum(t.events for t in pool.map(lambda p: ask(side, p, 256), prompts))
        found.append((side.cpu() - before) / events * 1e6)
    return found


def soak(side: Side, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` at once on the echo engine; resident memory by the second."""
    end = time.monotonic() + seconds
    failures: list[str] = []
    answered = [0] * clients
    text = " ".join(f"word{n}" for n in range(40))

    def client(number: int) -> None:
        while time.monotonic() < end:
            try:
                if ask(side, text, 100, model="echo:bench").events < 40:
                    failures.append("a short answer")
            except Exception as error:  # noqa: BLE001 (each is counted, whatever it was)
                failures.append(repr(error))
            answered[number] += 1

    threads = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    process, memory = psutil.Process(side.pid), []
    while time.monotonic() < end:
        memory.append(process.memory_info().rss / 1e6)
        time.sleep(1)
    for thread in threads:
        thread.join(60)
    third = len(memory) // 3
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": sum(answered),
        "errors": len(failures),
        "first errors": failures[:3],
        "memory after a third, MB": round(median(memory[third : third + 5]), 1),
        "memory at the end, MB": round(median(memory[-5:]), 1),
    }


# ---- the table -----------------------------------------------------------------------------


def shown(values: list[float], digits: int = 2) -> str:
    low, _, high = quantiles(values, n=4) if len(values) > 2 else (min(values), 0, max(values))
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--home", type=Path, help="where the model is (OVERT_HOME)")
    parser.add_argument("--rounds", type=int, default=100, help="of the first token")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--soak", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-portkey", action="store_true")
    given = parser.parse_args()
    chosen = settings.load(flags={"home": str(given.home)} if given.home else {})
    rounds, repeats = (10, 1) if given.quick else (given.rounds, 5)
    result: dict[str, Any] = {"busy before": machine.cores_busy()}
    with (
        bare(chosen, given.model, given.threads) as engine,
        overt(chosen, given.model, given.threads) as ours,
        Overt(_setup(chosen, given.model, given.threads), "wheel") as worker,
    ):
        sides = [engine, ours]
        if given.no_portkey:
            measured(result, sides, worker, rounds, repeats)
        else:
            with portkey(engine) as theirs:
                measured(result, [*sides, theirs], worker, rounds, repeats)
        result["echo"] = cpu_an_event(ours, repeats, echo=True)
        if given.soak:
            result["soak"] = soak(ours, 256, given.soak)
    with overt(chosen, given.model, given.threads, parallel=1) as ours:
        result["leaving"] = leaving(ours, 10 if given.quick else 100)
    report(result)
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "gateway.json").write_text(json.dumps(result, indent=1), "utf-8")


def _setup(chosen: settings.Settings, ref: str, threads: int) -> Setup:
    return Setup(ref, pull.find(ref, chosen).weights, chosen.home, CONTEXT, PARALLEL, threads)


def measured(
    result: dict[str, Any], sides: list[Side], worker: Overt, rounds: int, repeats: int
) -> None:
    result["first"] = first_token(sides, worker, rounds)
    result["together"] = {side.name: [] for side in sides}
    result["cpu"] = {side.name: [] for side in sides[1:]}
    for number in range(repeats):
        for side in sides if number % 2 == 0 else sides[::-1]:
            result["together"][side.name].append(together(side, PARALLEL, 96, number))
        for side in sides[1:]:
            result["cpu"][side.name] += cpu_an_event(side, 1, echo=False)


def report(result: dict[str, Any]) -> None:
    first, speed = dict(result["first"]), result["together"]
    over = [a - b for a, b in zip(first[OVERT], first[WORKER], strict=True)]
    print(f"other processes kept {result['busy before']:.2f} cores busy before\n")
    print(
        "| side | first token, ms | added, ms | 8 streams, tok/s | to the bare engine "
        "| CPU, µs an event |"
    )
    print("|---|---|---|---|---|---|")
    print(f"| {WORKER} | {shown(first.pop(WORKER))} | - | - | - | - |")
    for name in first:
        added = [a - b for a, b in zip(first[name], first[BARE], strict=True)]
        ratio = [a / b for a, b in zip(speed[name], speed[BARE], strict=True)]
        own = name == BARE
        print(
            f"| {name} | {shown(first[name])} | {'-' if own else shown(added)} | "
            f"{shown(speed[name], 1)} | {'-' if own else shown(ratio)} | "
            f"{'-' if own else shown(result['cpu'][name], 1)} |"
        )
    print(f"\necho engine through overt serve: {shown(result['echo'], 1)} µs of CPU an event")
    print(f"overt serve adds to its own worker: {shown(over)} ms to the first token")
    waits = result["leaving"]
    print(
        f"after a client leaves, the next has its first text in {shown(waits, 0)} ms, "
        f"at most {max(waits):.0f} ({len(waits)} in a row)"
    )
    if "soak" in result:
        print(f"soak: {json.dumps(result['soak'])}")


if __name__ == "__main__":
    main()
