"""What asking a provider through Overt costs, beside plain httpx2 that reads the same stream.

    python bench/providers.py              all dialects, about two minutes
    python bench/providers.py --quick      a trial of the bench itself: not to be quoted

A server in a process of its own streams the same answer to both sides in turns, over loopback and a
connection that is kept. *paced* sends one event at a time, as a model does: each is read by itself.
*at once* sends them as fast as the socket takes them, so that reading costs next to nothing and
what is left is our own work. Plain httpx2 throws the bytes away; Overt makes `Event`s of them.
CPU is this process's, an event; what is added is the difference within a round.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from statistics import median, quantiles

import httpx2

import machine
import peer
from overt.chat import Message, Request, Text, TextPart
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.base import Destination, Dialect, Provider
from overt.providers.gemini.dialect import Gemini
from overt.providers.http.client import HttpClient
from overt.providers.openai.compatible import CompatibleServer
from overt.providers.openai.dialect import OpenAI
from overt.settings import Settings

DIALECTS: dict[str, tuple[Callable[[], Dialect], str]] = {
    "openai": (OpenAI, "gpt-5"),
    "anthropic": (Anthropic, "claude-opus-4-1"),
    "gemini": (Gemini, "gemini-2.5-flash"),
    "http": (CompatibleServer, "any"),
}
PAUSE = 0.001  # seconds between events when paced


# ---- the two sides -------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """One answer: milliseconds to the first text, microseconds of CPU an event."""

    first: float
    cpu: float


async def ours(provider: Provider, request: Request, events: int) -> Took:
    first, count = 0.0, 0
    begin, cpu = time.perf_counter(), time.process_time()
    async with aclosing(provider.stream(request)) as answer:
        async for event in answer:
            if isinstance(event, Text):
                first = first or time.perf_counter() - begin
                count += 1
    took = Took(first * 1e3, (time.process_time() - cpu) / events * 1e6)
    assert count >= events, f"{count} of {events} texts"
    return took


async def theirs(client: httpx2.AsyncClient, provider: Provider, request: Request, n: int) -> Took:
    """The same POST, its bytes read and thrown away. The first that holds the word counts."""
    first, word = 0.0, peer.WORD.encode()
    begin, cpu = time.perf_counter(), time.process_time()
    post, _ = provider.dialect.post(request, provider.model)
    headers = {"Content-Type": "application/json", **provider.to.headers, **post.headers}
    url = provider.to.base + post.path
    async with client.stream("POST", url, content=post.body, headers=headers) as answer:
        async for chunk in answer.aiter_raw():
            if not first and word in chunk:
                first = time.perf_counter() - begin
    return Took(first * 1e3, (time.process_time() - cpu) / n * 1e6)


async def rounds(port: int, name: str, pace: str, events: int, count: int) -> dict[str, list[Took]]:
    make, model = DIALECTS[name]
    dialect = make()
    base = f"http://127.0.0.1:{port}/{name}"
    to = Destination(base, dialect.headers("sk-bench-0123456789"), "sk-bench-0123456789", name, "")
    wish = TextPart(peer.wanted(events, PAUSE if pace == "paced" else 0))
    request = Request(model, (Message("user", (wish,)),), max_tokens=2 * events)
    out = HttpClient(Settings())
    provider = Provider(dialect, model, to, out)
    found: dict[str, list[Took]] = {"overt": [], "httpx2": []}
    async with httpx2.AsyncClient(timeout=None, trust_env=False) as client:
        for number in range(-1, count):  # the first round warms up and is not kept
            for side in ("overt", "httpx2") if number % 2 else ("httpx2", "overt"):
                if side == "overt":
                    took = await ours(provider, request, events)
                else:
                    took = await theirs(client, provider, request, events)
                if number >= 0:
                    found[side].append(took)
    await out.close()
    return found


# ---- the table -----------------------------------------------------------------------------


def shown(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a trial of the bench itself")
    given = parser.parse_args()
    events, count = (100, 5) if given.quick else (500, 40)
    print(machine.sentence(machine.about()))
    print(f"other processes kept {machine.cores_busy():.2f} cores busy before\n")
    print(f"{count} rounds of {events} events a row; median (quartiles)\n")
    print("| dialect | pace | first text, ms | added, ms | CPU, µs an event | added, µs |")
    print("|---|---|---|---|---|---|")
    with peer.started() as port:
        for name in DIALECTS:
            for pace in ("paced", "once"):
                found = asyncio.run(rounds(port, name, pace, events, count))
                pairs = list(zip(found["overt"], found["httpx2"], strict=True))
                print(
                    f"| {name} | {'at once' if pace == 'once' else pace} "
                    f"| {shown([a.first for a, _ in pairs])} "
                    f"| {shown([a.first - b.first for a, b in pairs])} "
                    f"| {shown([a.cpu for a, _ in pairs])} "
                    f"| {shown([a.cpu - b.cpu for a, b in pairs])} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
