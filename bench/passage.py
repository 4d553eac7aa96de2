"""What `overt serve` adds between a client and a provider, beside npm's Portkey gateway.

    python bench/passage.py                 about four minutes
    python bench/passage.py --quick         a trial of the bench itself: not to be quoted
    python bench/passage.py --no-portkey    where there is no npm

A provider on this machine (peer.py) gives every side the same answers. One client asks it directly,
through a process that only passes bytes on (relay.py), through `overt serve` and through Portkey,
in turns, each over a connection that is kept. There are three cases: the client speaks the
provider's protocol (Anthropic's, or OpenAI's chat completions), and the answer is handed on; or a
client of OpenAI's asks a model of Anthropic's, and it is translated. What a side adds is its time
less that of the direct request in the same round. README.md in this folder says what each column
means.
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import gateway
import machine
import peer
from gateway import Side, shown, started
from native import CACHE
from sides import free_port

DIRECT, RELAY, OVERT, PORTKEY = "direct", "bare relay", "overt serve", "portkey"
KEY = "sk-bench-0123456789"
PAUSE = 0.002  # seconds between the pieces of a paced answer
CROWD_PAUSE = 0.004  # … of each of `TOGETHER` at once
TOGETHER = 16
SHORT = 20  # pieces of a short answer
MEMORY = 2000  # requests between the two looks at a gateway's memory
WORD = peer.WORD.encode()
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One pair of protocols: the client's path, and where peer.py speaks the provider's."""

    title: str
    path: str
    model: str  # as `overt serve` is asked for it
    provider: str  # Portkey's name of the protocol behind it
    base: str  # of that protocol at peer.py, for Portkey
    direct: str  # the path at peer.py where the client asks it directly


CASES = (
    Case(
        "Anthropic, handed on",
        "/v1/messages",
        "anthropic:claude-opus-4-1",
        "anthropic",
        "/anthropic/v1",
        "/anthropic/v1/messages",
    ),
    Case(
        "OpenAI chat, handed on",
        "/v1/chat/completions",
        "openai:gpt-4o",
        "openai",
        "/http/v1",
        "/http/v1/chat/completions",
    ),
    Case(
        "OpenAI chat to Anthropic, translated",
        "/v1/chat/completions",
        "anthropic:claude-opus-4-1",
        "anthropic",
        "/anthropic/v1",
        "/http/v1/chat/completions",
    ),
)


# ---- the client ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """One answer: milliseconds to the first text and to the end."""

    first: float
    total: float


@dataclass
class Client:
    """One kept connection to a side. Requests are made ahead: their bytes are all that is sent."""

    side: Side
    path: str
    key: str
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)

    async def open(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.side.port)
        return self

    def request(self, events: int, pause: float, *, stream: bool) -> bytes:
        message = {"role": "user", "content": peer.wanted(events, pause)}
        body = {
            "model": self.side.model,
            "max_tokens": 4096,
            "messages": [message],
            "stream": stream,
        }
        sent = json.dumps(body).encode()
        headers = {
            "Host": f"127.0.0.1:{self.side.port}",
            "Content-Type": "application/json",
            "x-api-key": self.key,
            "anthropic-version": "2023-06-01",
            "Content-Length": str(len(sent)),
            **self.side.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + sent

    async def streamed(self, request: bytes, events: int) -> Took:
        """Ask, and count the pieces. Raises RuntimeError: it is not the answer that is due."""
        begin, first = time.perf_counter(), 0.0
        self.writer.write(request)
        pieces: list[bytes] = []
        while True:
            piece = await self.reader.read(1 << 18)
            pieces.append(piece)
            if not first and WORD in piece:
                first = time.perf_counter() - begin
            if piece.endswith(b"0\r\n\r\n") or not piece:
                break
        total = time.perf_counter() - begin
        head, _, rest = b"".join(pieces).partition(b"\r\n\r\n")
        found = unchunked(rest).count(WORD)
        if b" 200 " not in head[:20] or found != events:
            raise RuntimeError(
                f"{self.side.name}: {found} of {events} pieces: {head + rest[:400]!r}"
            )
        return Took(first * 1e3, total * 1e3)

    async def whole(self, request: bytes) -> None:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if found := re.search(rb"(?i)content-length: *(\d+)", head):
            body = await self.reader.readexactly(int(found[1]))
        else:
            body = await self.reader.readuntil(b"0\r\n\r\n")
        if b" 200 " not in head[:20] or body.count(WORD) != SHORT:
            raise RuntimeError(f"{self.side.name}: {head + body[:400]!r}")

    def close(self) -> None:
        self.writer.close()


def unchunked(data: bytes) -> bytes:
    """The body of an answer in chunks."""
    out, at = [], 0
    while match := _CHUNK.match(data, at):
        size = int(match[1], 16)
        out.append(data[match.end() : match.end() + size])
        at = match.end() + size + 2
    return b"".join(out)


# ---- the sides -----------------------------------------------------------------------------


@contextmanager
def sides(case: Case, provider: int, home: Path, *, portkey: bool) -> Iterator[list[Side]]:
    """Fresh gateways for a case, so that the memory of each is that of this case alone."""
    here = f"http://127.0.0.1:{provider}"
    bare = case.model.partition(":")[2]
    port = free_port()
    environ = {
        "OVERT_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": f"{here}/anthropic",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{here}/http/v1",
    }
    command = [sys.executable, "-m", "overt", "serve", "--quiet", "--port", str(port)]
    with ExitStack() as stack:
        found = [Side(DIRECT, provider, 0, bare)]
        relay = free_port()
        passing = [sys.executable, str(gateway.HERE / "relay.py"), str(relay), str(provider)]
        pid = stack.enter_context(started(passing, {}, relay, "/"))
        found.append(Side(RELAY, relay, pid, bare))
        pid = stack.enter_context(started(command, environ, port, "/healthz"))
        found.append(Side(OVERT, port, pid, case.model))
        if portkey:
            port, pid = stack.enter_context(gateway.portkey_server())
            headers = gateway.portkey_headers(case.provider, here + case.base)
            found.append(Side(PORTKEY, port, pid, bare, headers))
        yield found


def cpu(side: Side) -> float:
    """Seconds of CPU of a gateway's process and its children; 0 for the direct side."""
    if not side.pid:
        return 0.0
    children = psutil.Process(side.pid).children(recursive=True)
    return side.cpu() + sum(Side("", 0, child.pid, "").cpu() for child in children)


def resident(side: Side) -> float:
    """MB (10**6 bytes) of a gateway's process and its children."""
    process = psutil.Process(side.pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 1e6


# ---- what is measured ----------------------------------------------------------------------


@dataclass
class Rounds:
    first: int = 100
    paced: int = 15
    once: int = 20
    short: int = 5
    paced_events: int = 250
    once_events: int = 2000
    requests: int = MEMORY // 5


QUICK = Rounds(10, 3, 3, 2, 100, 1000, 200)


async def turns(
    clients: list[Client], count: int, events: int, pause: float
) -> dict[str, list[tuple[Took, float]]]:
    """`count` rounds of one streamed answer a side; with each, µs of the gateway's CPU an event."""
    found: dict[str, list[tuple[Took, float]]] = {one.side.name: [] for one in clients}
    requests = [one.request(events, pause, stream=True) for one in clients]
    asked = list(zip(clients, requests, strict=True))
    for number in range(-2, count):  # the first two warm up and are not kept
        at = number % len(asked)
        for client, request in asked[at:] + asked[:at]:
            before = cpu(client.side)
            took = await client.streamed(request, events)
            used = (cpu(client.side) - before) / events * 1e6
            if number >= 0:
                found[client.side.name].append((took, used))
    return found


async def together(clients: list[Client], requests: int) -> tuple[float, float]:
    """Short requests a second over all `clients` of one side, and µs of CPU for each."""
    left = requests
    request = clients[0].request(SHORT, 0, stream=False)

    async def one(client: Client) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await client.whole(request)

    before, begin = cpu(clients[0].side), time.perf_counter()
    await asyncio.gather(*map(one, clients))
    seconds = time.perf_counter() - begin
    return requests / seconds, (cpu(clients[0].side) - before) / requests * 1e6


def client(case: Case, side: Side) -> Client:
    path = case.direct if side.name in (DIRECT, RELAY) else case.path
    return Client(side, path, "none" if side.name == OVERT else KEY)


async def measured(case: Case, found: list[Side], rounds: Rounds) -> dict[str, Any]:
    """All readings of a case, by side and by what is measured."""
    result: dict[str, Any] = {side.name: {} for side in found}
    clients = [await client(case, side).open() for side in found]
    for what, count, events, pause in (
        ("first", rounds.first, 3, PAUSE),
        ("paced", rounds.paced, rounds.paced_events, PAUSE),
        ("once", rounds.once, rounds.once_events, 0.0),
    ):
        for name, took in (await turns(clients, count, events, pause)).items():
            result[name][f"{what} first, ms"] = [one.first for one, _ in took]
            result[name][f"{what} total, ms"] = [one.total for one, _ in took]
            result[name][f"{what} cpu, us an event"] = [used for _, used in took]
    for one in clients:
        one.close()
    await crowded(case, found, rounds, result)
    return result


async def streaming(clients: list[Client], events: int) -> float:
    """µs of CPU an event of one side, while all `clients` are sent a paced answer each."""
    request = clients[0].request(events, CROWD_PAUSE, stream=True)
    before = cpu(clients[0].side)
    await asyncio.gather(*(one.streamed(request, events) for one in clients))
    return (cpu(clients[0].side) - before) / events / len(clients) * 1e6


@asynccontextmanager
async def crowd(case: Case, side: Side) -> AsyncGenerator[list[Client], None]:
    """`TOGETHER` new connections: a server closes those that nobody uses for a few seconds."""
    clients = [await client(case, side).open() for _ in range(TOGETHER)]
    try:
        yield clients
    finally:
        for one in clients:
            one.close()


async def crowded(case: Case, found: list[Side], rounds: Rounds, result: dict[str, Any]) -> None:
    """Short requests and streams, `TOGETHER` at once; a gateway's memory before and after."""
    for side in found:  # warm: what a first crowd takes, it takes once
        async with crowd(case, side) as clients:
            await together(clients, rounds.requests)
    for side in found[1:]:
        result[side.name]["memory before, MB"] = resident(side)
    for number in range(rounds.short):
        at = number % len(found)
        for side in found[at:] + found[:at]:
            kept = result[side.name]
            async with crowd(case, side) as clients:
                rate, used = await together(clients, rounds.requests)
                kept.setdefault("requests a second", []).append(rate)
                kept.setdefault("cpu, us a request", []).append(used)
                used = await streaming(clients, rounds.paced_events)
                kept.setdefault("crowd cpu, us an event", []).append(used)
    for side in found[1:]:
        result[side.name]["memory after, MB"] = resident(side)


# ---- the table -----------------------------------------------------------------------------


def rows(case: Case, result: dict[str, Any]) -> list[str]:
    """A Markdown row for each side."""
    lines = []

    def cell(kept: dict[str, Any], key: str, digits: int) -> str:
        return shown(kept[key], digits)

    def added(name: str, key: str) -> str:
        pairs = zip(result[name][key], result[DIRECT][key], strict=True)
        return shown([a - b for a, b in pairs])

    for name, kept in result.items():
        rate = cell(kept, "requests a second", 0)
        if name == DIRECT:
            first, total = cell(kept, "first first, ms", 2), cell(kept, "paced total, ms", 1)
            lines.append(
                f"| {case.title} | {name} | ({first}) | ({total}) | - | - | - | {rate} | - | - |"
            )
            continue
        before, after = kept["memory before, MB"], kept["memory after, MB"]
        lines.append(
            f"| | {name} | {added(name, 'first first, ms')} | {added(name, 'paced total, ms')} "
            f"| {cell(kept, 'paced cpu, us an event', 1)} "
            f"| {cell(kept, 'crowd cpu, us an event', 1)} "
            f"| {cell(kept, 'once cpu, us an event', 1)} "
            f"| {rate} | {cell(kept, 'cpu, us a request', 0)} "
            f"| {before:.1f} to {after:.1f} |"
        )
    return lines


def report(results: list[tuple[Case, dict[str, Any]]], rounds: Rounds, busy: float) -> str:
    lines = [
        machine.sentence(machine.about()),
        f"other processes kept {busy:.2f} cores busy before",
        "",
        "| case | side | first text added, ms | total added, ms | CPU, µs an event, one stream "
        "| 16 streams | at full speed | requests/s | CPU, µs a request | resident, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, result in results:
        lines += rows(case, result)

    def middles(key: str) -> list[float]:
        return [median(result[OVERT][key]) for _, result in results]

    grown = [
        result[OVERT]["memory after, MB"] - result[OVERT]["memory before, MB"]
        for _, result in results
    ]
    many = rounds.short * rounds.requests
    marks = [
        _bar("first text added, below 1 ms", [_added(result) for _, result in results], 1.0, 2),
        _bar("CPU an event, one stream, below 30 µs", middles("paced cpu, us an event"), 30.0, 1),
        _bar("CPU an event, 16 streams, below 30 µs", middles("crowd cpu, us an event"), 30.0, 1),
        _bar("CPU an event, full speed, below 30 µs", middles("once cpu, us an event"), 30.0, 1),
        _bar(f"memory over {many} requests, grown by less than 1 MB", grown, 1.0, 1),
    ]
    return "\n".join([*lines, "", "Bars, for `overt serve` in the order of the cases:", "", *marks])


def _added(result: dict[str, Any]) -> float:
    """Milliseconds that `overt serve` adds to the first text."""
    key = "first first, ms"
    return median(a - b for a, b in zip(result[OVERT][key], result[DIRECT][key], strict=True))


def _bar(what: str, values: list[float], limit: float, digits: int) -> str:
    met = "met" if all(value < limit for value in values) else "missed"
    return f"- {what}: {', '.join(f'{value:.{digits}f}' for value in values)}: {met}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a trial of the bench itself")
    parser.add_argument("--no-portkey", action="store_true")
    given = parser.parse_args()
    rounds = QUICK if given.quick else Rounds()
    busy = machine.cores_busy()
    results: list[tuple[Case, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as home, peer.started() as provider:
        for case in CASES:
            with sides(case, provider, Path(home), portkey=not given.no_portkey) as found:
                results.append((case, asyncio.run(measured(case, found, rounds))))
    table = report(results, rounds, busy)
    print(table)
    CACHE.mkdir(parents=True, exist_ok=True)
    kept = {
        "machine": machine.about(),
        "busy before": busy,
        "quick": given.quick,
        "cases": {case.title: result for case, result in results},
    }
    (CACHE / "passage.json").write_text(json.dumps(kept, indent=1), "utf-8")
    (CACHE / "passage.md").write_text(table + "\n", "utf-8")


if __name__ == "__main__":
    main()
