"""A provider in a process of its own: answers in each provider's words, at the pace asked for.

The body of a request says what it wants, in any of its texts: ``events=200 pause=4000`` is an
answer of 200 pieces, the first at once, then one every 4000 µs by the clock (0: as fast as the
socket takes them). So whoever stands between needs to know nothing, and every side gets the same
bytes. The first part of the path is the dialect: ``/anthropic/v1/messages``. A body that does not
ask for a stream is answered whole.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORD = " benchmark"
_WANTED = re.compile(rb"events=(\d+) pause=(\d+)")
_STREAMS = re.compile(rb'"stream"\s*:\s*true')


def wanted(events: int, pause: float) -> str:
    """The text that asks for `events` pieces, one every `pause` seconds."""
    return f"events={events} pause={pause * 1e6:.0f}"


def named(kind: str, **more: Any) -> bytes:
    body = json.dumps({"type": kind, **more}, separators=(",", ":"))
    return f"event: {kind}\ndata: {body}\n\n".encode()


def plain(value: Any) -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


def openai() -> tuple[list[bytes], bytes, list[bytes]]:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    response = {"id": "resp_1", "object": "response", "model": "gpt-5", "output": []}
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    part = {"type": "output_text", "text": "", "annotations": []}
    return (
        [
            named("response.created", response={**response, "status": "in_progress"}),
            named("response.output_item.added", output_index=0, item=item),
            named("response.content_part.added", **at, part=part),
        ],
        named("response.output_text.delta", **at, delta=WORD, logprobs=[], obfuscation="x7Tq"),
        [named("response.completed", response={**response, "status": "completed", "usage": usage})],
    )


def anthropic() -> tuple[list[bytes], bytes, list[bytes]]:
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
    return (
        [
            named("message_start", message=message),
            named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ],
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": WORD}),
        [
            named("content_block_stop", index=0),
            named(
                "message_delta",
                delta={"stop_reason": "end_turn", "stop_sequence": None},
                usage={"output_tokens": 5},
            ),
            named("message_stop"),
        ],
    )


def gemini() -> tuple[list[bytes], bytes, list[bytes]]:
    def piece(**more: Any) -> bytes:
        content = {"role": "model", "parts": [{"text": WORD}]}
        return plain(
            {
                "candidates": [{"content": content, "index": 0, **more}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5},
                "modelVersion": "gemini",
                "responseId": "r",
            }
        )

    return [], piece(), [piece(finishReason="STOP")]


def http() -> tuple[list[bytes], bytes, list[bytes]]:
    def piece(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return plain(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "any",
                "choices": [choice],
            }
        )

    return (
        [piece({"role": "assistant", "content": ""})],
        piece({"content": WORD}),
        [piece({}, "stop"), b"data: [DONE]\n\n"],
    )


STREAMS = {"openai": openai(), "anthropic": anthropic(), "gemini": gemini(), "http": http()}


def whole(dialect: str, events: int) -> bytes:
    """The same answer in one piece, of the two that are asked for such."""
    text, usage = WORD * events, {"input_tokens": 3, "output_tokens": events}
    if dialect == "anthropic":
        body: dict[str, Any] = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
    else:
        message = {"role": "assistant", "content": text}
        counts = {"prompt_tokens": 3, "completion_tokens": events, "total_tokens": events + 3}
        body = {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "any",
            "usage": counts,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
    return json.dumps(body).encode()


# ---- the server ----------------------------------------------------------------------------


async def _stream(writer: asyncio.StreamWriter, dialect: str, events: int, pause: float) -> None:
    begin, middle, end = (
        [b"%x\r\n%s\r\n" % (len(data), data) for data in part]
        for part in (STREAMS[dialect][0], [STREAMS[dialect][1]], STREAMS[dialect][2])
    )
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    writer.write(b"".join(begin))
    due = loop.time()
    for data in middle * events:
        writer.write(data)
        if pause:
            due += pause
            await asyncio.sleep(max(0.0, due - loop.time()))
        await writer.drain()
    writer.write(b"".join(end) + b"0\r\n\r\n")
    await writer.drain()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        lines = head.decode().lower().split("\r\n")
        length = next((int(x[15:]) for x in lines if x.startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        dialect = lines[0].split("/")[1]
        found = _WANTED.search(body)
        events, pause = (int(found[1]), int(found[2]) / 1e6) if found else (1, 0)
        if _STREAMS.search(body) or dialect == "gemini":
            await _stream(writer, dialect, events, pause)
            continue
        answer = whole(dialect, events)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(answer), answer)
        )
        await writer.drain()


async def _serve() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answers(reader, writer)
        except (OSError, EOFError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def started() -> Iterator[int]:
    """The port of such a provider, which ends with the context."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve())
