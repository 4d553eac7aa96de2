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
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import httpx2

import machine
from overt.chat import Message, Request, Text, TextPart
from overt.engines.anthropic import Anthropic
from overt.engines.gemini import Gemini
from overt.engines.http import Http
from overt.engines.openai import OpenAI
from overt.engines.provider import Destination, Dialect, Provider
from overt.engines.upstream import Upstream
from overt.settings import Settings

DIALECTS: dict[str, tuple[Callable[[], Dialect], str]] = {
    "openai": (OpenAI, "gpt-5"),
    "anthropic": (Anthropic, "claude-opus-4-1"),
    "gemini": (Gemini, "gemini-2.5-flash"),
    "http": (Http, "any"),
}
PAUSE = 0.0005  # seconds between events when paced
WORD = " benchmark"


# ---- the server ----------------------------------------------------------------------------


def named(kind: str, **more: Any) -> bytes:
    body = json.dumps({"type": kind, **more}, separators=(",", ":"))
    return f"event: {kind}\ndata: {body}\n\n".encode()


def plain(value: Any) -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


def openai() -> tuple[list[bytes], bytes, list[bytes]]:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    response = {"id": "resp_1", "object": "response", "model": "gpt-5", "output": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress",
            "content": []}  # fmt: skip
    part = {"type": "output_text", "text": "", "annotations": []}
    return (
        [named("response.created", response={**response, "status": "in_progress"}),
         named("response.output_item.added", output_index=0, item=item),
         named("response.content_part.added", **at, part=part)],
        named("response.output_text.delta", **at, delta=WORD, logprobs=[], obfuscation="x7Tq"),
        [named("response.completed", response={**response, "status": "completed", "usage": usage})],
    )  # fmt: skip


def anthropic() -> tuple[list[bytes], bytes, list[bytes]]:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [],
               "stop_reason": None, "stop_sequence": None,
               "usage": {"input_tokens": 3, "output_tokens": 1}}  # fmt: skip
    return (
        [named("message_start", message=message),
         named("content_block_start", index=0, content_block={"type": "text", "text": ""})],
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": WORD}),
        [named("content_block_stop", index=0),
         named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None},
               usage={"output_tokens": 5}),
         named("message_stop")],
    )  # fmt: skip


def gemini() -> tuple[list[bytes], bytes, list[bytes]]:
    def piece(**more: Any) -> bytes:
        content = {"role": "model", "parts": [{"text": WORD}]}
        return plain({"candidates": [{"content": content, "index": 0, **more}],
                      "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5},
                      "modelVersion": "gemini", "responseId": "r"})  # fmt: skip

    return [], piece(), [piece(finishReason="STOP")]


def http() -> tuple[list[bytes], bytes, list[bytes]]:
    def piece(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return plain({"id": "c", "object": "chat.completion.chunk", "created": 1,
                      "model": "any", "choices": [choice]})  # fmt: skip

    return (
        [piece({"role": "assistant", "content": ""})],
        piece({"content": WORD}),
        [piece({}, "stop"), b"data: [DONE]\n\n"],
    )


async def serve(events: int) -> None:
    """Answers ``/DIALECT/paced…`` and ``/DIALECT/once…``; prints its port."""
    made = {"openai": openai(), "anthropic": anthropic(), "gemini": gemini(), "http": http()}

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().lower().split("\r\n")
            length = next(int(x[15:]) for x in lines if x.startswith("content-length:"))
            await reader.readexactly(length)
            _, dialect, pace, *_ = lines[0].split(" ")[1].split("/")
            begin, middle, end = made[dialect]
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for data in (*begin, *[middle] * events, *end):
                writer.write(chunk(data))
                if pace == "paced":
                    await asyncio.sleep(PAUSE)
                await writer.drain()
            writer.write(b"0\r\n\r\n")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await one(reader, writer)
        except (OSError, EOFError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def started(events: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(events)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout
        process.stdout.close()


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
    first, word = 0.0, WORD.encode()
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
    base = f"http://127.0.0.1:{port}/{name}/{pace}"
    to = Destination(base, dialect.headers("sk-bench-0123456789"), "sk-bench-0123456789", name, "")
    request = Request(model, (Message("user", (TextPart("Go on."),)),), max_tokens=2 * events)
    out = Upstream(Settings())
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
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
        return
    events, count = (100, 5) if given.quick else (500, 40)
    print(machine.sentence(machine.about()))
    print(f"other processes kept {machine.cores_busy():.2f} cores busy before\n")
    print(f"{count} rounds of {events} events a row; median (quartiles)\n")
    print("| dialect | pace | first text, ms | added, ms | CPU, µs an event | added, µs |")
    print("|---|---|---|---|---|---|")
    with started(events) as port:
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
