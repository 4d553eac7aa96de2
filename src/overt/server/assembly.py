"""The API put together: every protocol, the services behind them, and the pages of the server."""

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

from overt.errors import OvertError
from overt.gateway.exchange import Exchange
from overt.openness.permissions.gate import RUNNING
from overt.protocols import anthropic, gemini, lmstudio, ollama, openai
from overt.protocols.anthropic import batches as anthropic_batches
from overt.protocols.base import FOR_EVER, NOBODY, Protocol
from overt.protocols.openai import batches as openai_batches
from overt.protocols.openai import files
from overt.server.api import Api
from overt.server.guard import AuthGate
from overt.server.library import ModelLibrary
from overt.server.metrics import Metrics
from overt.server.pages import FREE, pages
from overt.server.records import RecordStore
from overt.server.registries import registries
from overt.server.request_log import Sink, Watch
from overt.server.routing import RoutingTable
from overt.server.services import Services
from overt.settings import Settings

PROTOCOLS: tuple[Protocol, ...] = (
    openai.PROTOCOL,
    anthropic.PROTOCOL,
    gemini.PROTOCOL,
    ollama.PROTOCOL,
    lmstudio.PROTOCOL,
)
"""All that are spoken. The first is taken for what nobody owns."""


def build(
    settings: Settings,
    notice: Callable[[str], None] | None = None,
    *,
    gate: AuthGate,
    sinks: Sequence[Sink] = (),
    preload: Sequence[str] = (),
    hosts: Sequence[str] = (),
    providers: bool = True,
    use: Mapping[str, object] = RUNNING,
) -> Api:
    """The application behind `gate`, which there is no default for; `sinks` hear of every request.

    `preload` names models that are loaded before the first request is taken, `hosts` registries
    that clients may name although they are not public; `providers` lets them name the models of
    providers, which the owner pays for. `use` is what the licences of models are
    asked about.
    """
    version = metadata.version("overt")
    exchange = Exchange(settings, notice, shared=True, use=use)
    records = RecordStore(settings.home / "records.db")
    services = Services(
        exchange,
        ModelLibrary(settings, registries(gate.needs_key, hosts)),
        records,
        settings.home / "files",
        version,
        identify=gate.identify,
        providers=providers,
    )
    metrics = Metrics(exchange.stats)
    watch = Watch(metrics, *sinks)
    metrics.under_way = lambda: watch.under_way - 1  # without the one that asks for /metrics

    async def started() -> None:
        await files.sweep(services)
        for batches in (openai_batches, anthropic_batches):
            await batches.resume(services)
        for ref in preload:
            try:
                await services.load(NOBODY, ref, FOR_EVER)
            except OvertError as error:  # whoever asks for it is told again; the others are served
                if notice:
                    notice(f"{ref} is not loaded: {error}")

    async def ended() -> None:
        await services.library.close()
        await services.close()
        await records.close()

    return Api(
        RoutingTable(PROTOCOLS),
        services,
        gate,
        pages=pages(PROTOCOLS, version, metrics),
        free=FREE,
        watch=watch,
        started=started,
        ended=ended,
    )
