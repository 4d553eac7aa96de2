"""Pages of the server's own, beside the protocols: documentation, metrics, and whether it lives."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from overt.protocols.base import Protocol
from overt.server.metrics import Metrics

Page = Callable[[Mapping[str, str]], tuple[bytes, dict[str, str]]]

FREE = frozenset(("/healthz", "/readyz", "/lmstudio-greeting"))
"""Addresses without a key, of constant content: what starts a server has none, and LM Studio's
clients ask whether they are right here before they send theirs."""


def pages(protocols: Sequence[Protocol], version: str, metrics: Metrics) -> dict[str, Page]:
    """Every page by its address.

    A server accepts connections only once its models are loaded (`--preload`) and closes its door
    before it ends, so that whoever gets through to `/readyz` finds it ready.
    """

    @cache
    def documents() -> tuple[bytes, bytes]:
        from overt.server import openapi

        made = openapi.document(protocols, version)
        return json.dumps(made).encode(), openapi.page(made)

    def schema(headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        return documents()[0], {"content-type": "application/json"}

    def docs(headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        from overt.server.openapi import PAGE_HEADERS

        return documents()[1], dict(PAGE_HEADERS)

    return {
        "/openapi.json": schema,
        "/docs": docs,
        "/metrics": metrics.page,
        "/healthz": _well,
        "/readyz": _well,
    }


def _well(headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    return b'{"status":"ok"}', {"content-type": "application/json", "cache-control": "no-store"}
