"""The API put together: every protocol, the services behind them, and the pages of the server."""

import importlib
from collections.abc import Callable, Sequence
from importlib import metadata

from overt.errors import OvertError
from overt.exchange import Exchange
from overt.protocols import anthropic_batches, openai_batches, openai_files
from overt.protocols.base import FOR_EVER, NOBODY, Protocol
from overt.records import Records
from overt.server.api import Api
from overt.server.guard import Gate
from overt.server.library import Library
from overt.server.metrics import Metrics
from overt.server.pages import FREE, pages
from overt.server.routing import Table
from overt.server.services import Services
from overt.server.watch import Sink, Watch
from overt.settings import Settings

_PROTOCOLS = ("openai", "anthropic", "gemini", "ollama", "lmstudio")


def protocols() -> tuple[Protocol, ...]:
    """All that are spoken. The first is taken for what nobody owns."""
    found = []
    for name in _PROTOCOLS:
        try:
            module = importlib.import_module(f"overt.protocols.{name}")
            if hasattr(module, "PROTOCOL"):
                found.append(module.PROTOCOL)
        except ImportError as error:  # TODO(lead): strict once all are written
            if f"overt.protocols.{name}" not in str(error):
                raise
    return tuple(found)


def build(
    settings: Settings,
    notice: Callable[[str], None] | None = None,
    *,
    gate: Gate | None = None,
    sinks: Sequence[Sink] = (),
    preload: Sequence[str] = (),
) -> Api:
    """The application. `gate` None admits everybody; `sinks` hear of every request.

    `preload` names models that are loaded before the first request is taken.
    """
    version = metadata.version("overt")
    exchange = Exchange(settings, notice)
    records = Records(settings.home / "records.db")
    services = Services(
        exchange,
        Library(settings),
        records,
        settings.home / "files",
        version,
        identify=gate.identify if gate else None,
    )
    spoken = protocols()
    metrics = Metrics(exchange.stats)
    watch = Watch(metrics, *sinks)
    metrics.under_way = lambda: watch.under_way

    async def started() -> None:
        await openai_files.sweep(services)
        for batches in (openai_batches, anthropic_batches):
            await batches.resume(services)
        for ref in preload:
            try:
                await services.load(NOBODY, ref, FOR_EVER)
            except OvertError as error:  # whoever asks for it is told again; the others are served
                if notice:
                    notice(f"{ref} is not loaded: {error}")

    async def ended() -> None:
        await services.close()
        await records.close()

    return Api(
        Table(spoken),
        services,
        gate,
        pages=pages(spoken, version, metrics),
        free=FREE,
        watch=watch,
        started=started,
        ended=ended,
    )
