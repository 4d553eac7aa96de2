"""Some requests on their way at once, and an end that loses none that is paid for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

Each = TypeVar("Each")


async def at_once(
    each: Iterable[Each],
    do: Callable[[Each], Awaitable[None]],
    count: int,
    ended: Callable[[], None] = lambda: None,
) -> None:
    """Do all of `each`, `count` at once; begun in their order.

    Where one raises, no other is begun, `ended` is called, those that are on their way are waited
    for, and that first error is raised. Where this is cancelled, they are cancelled too.
    """
    waiting, errors = iter(each), list[BaseException]()
    tasks = [asyncio.create_task(_work(waiting, do, errors, ended)) for _ in range(count)]
    try:
        # Not a TaskGroup: it would cancel what is paid for, and wrap the error.
        await asyncio.wait(tasks)
        if errors:
            raise errors[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(
    waiting: Iterator[Each],
    do: Callable[[Each], Awaitable[None]],
    errors: list[BaseException],
    ended: Callable[[], None],
) -> None:
    for item in waiting:
        if errors:
            break
        try:
            await do(item)
        except BaseException as error:
            errors.append(error)  # before the others ask for their next item
            ended()
            raise
