"""Verbs that ask several models one after the other, each over an exchange of its own."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from overt.cli.output import Output
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.gateway.exchange import Exchange

T = TypeVar("T")


def run_each(
    models: Iterable[str],
    settings: Settings,
    out: Output,
    ask: "Callable[[str, Exchange], Awaitable[T]]",
) -> list[T]:
    """What `ask` makes of each of `models`, in their order."""
    import asyncio

    from overt.gateway.exchange import Exchange

    async def asked() -> list[T]:
        answers = []
        for model in models:
            exchange = Exchange(settings, out.note)
            try:
                answers.append(await ask(model, exchange))
            finally:
                out.clear()
                with suppress(asyncio.CancelledError):
                    await exchange.close()
        return answers

    return asyncio.run(asked())
