"""The API put together: every protocol, the services behind them, and the pages of the server."""

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Any

from overt.exchange import Exchange
from overt.protocols.base import Protocol
from overt.records import Records
from overt.server.api import Api
from overt.server.library import Library
from overt.server.routing import Table
from overt.server.services import Services
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


def build(settings: Settings, notice: Callable[[str], None] | None = None, **gate: Any) -> Api:
    """The application; `gate` goes to `Api`."""
    services = Services(
        Exchange(settings, notice),
        Library(settings),
        Records(settings.home / "records.db"),
        settings.home / "files",
        metadata.version("overt"),
    )
    return Api(Table(protocols()), services, ended=services.close, **gate)
