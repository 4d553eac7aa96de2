"""What an alias and a route add to a request, without any engine behind them.

    python bench/routes_cost.py        about 5 s

A model that is played from memory answers with 1000 events (or one) straight and through a route;
what is told is the difference, the best of 5 rounds. `held` is an answer that is judged first.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from overt.chat import Done, Event, Message, Request, Text, Usage
from overt.gateway import routing

ONE = routing.read_mapping({"models": ["echo:a"]})
TWO = routing.read_mapping({"models": ["echo:a", "echo:b"]})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
PLAIN = Request("writer", (Message.of("user", "hi"),))
JSON = Request("writer", (Message.of("user", "hi"),), json_schema=SCHEMA)
Stream = Callable[[], AsyncGenerator[Event, None]]


def played(events: list[Event]) -> routing.Ask:
    async def ask(ref: str, request: Request) -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    return ask


async def seconds(stream: Stream, times: int) -> tuple[float, float]:
    """Wall and CPU seconds of one answer, the best of 5 rounds."""
    best = (1e9, 1e9)
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            async with aclosing(stream()) as events:
                async for _ in events:
                    pass
        best = min(
            best, ((time.perf_counter() - wall) / times, (time.process_time() - cpu) / times)
        )
    return best


async def added(events: list[Event], route: routing.Route, request: Request, times: int) -> str:
    ask, facts = played(events), routing.RouteContext()
    plain = await seconds(lambda: ask("echo:a", request), times)
    routed = await seconds(lambda: routing.answer(route, request, ask, facts), times)
    wall, cpu = ((b - a) * 1e6 for a, b in zip(plain, routed, strict=True))
    return f"{wall:8.1f} us wall {cpu:8.1f} us CPU"


def finding() -> None:
    with tempfile.TemporaryDirectory() as folder:
        aliases = routing.aliases(Path(folder))
        aliases.set("route", {"models": ["echo:a", "echo:b"]})
        aliases.set("writer", "route")
        for name in ("writer", "absent"):
            begun = time.perf_counter()
            for _ in range(100_000):
                aliases.find(name)
            print(f"find {name:<28}{(time.perf_counter() - begun) * 10:8.2f} us")


async def main() -> None:
    finding()
    short: list[Event] = [Text('{"a": 1}'), Usage(1, 1), Done("stop")]
    long: list[Event] = [*[Text("word ")] * 1000, Usage(1, 1000), Done("stop")]
    for name, events, route, request, times in (
        ("a request, straight", short, ONE, PLAIN, 2000),
        ("a request, held", short, TWO, PLAIN, 2000),
        ("a request, held, schema", short, TWO, JSON, 300),
        ("1000 events, straight", long, ONE, PLAIN, 50),
        ("1000 events, held", long, TWO, PLAIN, 50),
    ):
        print(f"{name:<33}{await added(events, route, request, times)}")


if __name__ == "__main__":
    asyncio.run(main())
