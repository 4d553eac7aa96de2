"""Several streams of events read as one, for requests that ask for several answers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from overt.chat import Event

_AHEAD = 64  # events held of a client that reads slowly; then the engines wait
_AT_ONCE = 4  # of one request: more would only fill the queue that all requests wait in


async def merge(
    streams: Sequence[AsyncGenerator[Event, None]], at_once: int = _AT_ONCE
) -> AsyncGenerator[tuple[int, Event], None]:
    """Each event with the index of its stream, as they come; in order within a stream.

    `at_once` streams are read at a time. Closes every stream before it ends, however it ends. What
    one stream raises ends them all.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue(_AHEAD)
    turn = asyncio.Semaphore(at_once)
    tasks = [asyncio.create_task(_feed(queue, turn, i, stream)) for i, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            index, step = await queue.get()
            if step is None:
                open_streams -= 1
            elif isinstance(step, Exception):
                raise step
            else:
                yield index, step
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in streams:  # one whose task was cancelled before it began
            await stream.aclose()


async def _feed(
    queue: "asyncio.Queue[tuple[int, Event | Exception | None]]",
    turn: asyncio.Semaphore,
    index: int,
    stream: AsyncGenerator[Event, None],
) -> None:
    end: Exception | None = None
    async with turn, aclosing(stream) as events:
        try:
            async for event in events:
                await queue.put((index, event))
        except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
            end = error
    await queue.put((index, end))
