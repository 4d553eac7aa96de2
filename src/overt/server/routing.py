"""Which protocol owns an address, and which where several do.

`GET /v1/models` belongs to OpenAI, Anthropic and Gemini alike, so the headers decide: a client of
Gemini sends ``x-goog-api-key``, one of Anthropic ``anthropic-version``, and everyone else is taken
for a client of OpenAI. The same rule gives an error its form where nobody owns the address.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.routing import compile_path

from overt.protocols.base import HttpRoute, Protocol


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    protocol: Protocol
    route: HttpRoute
    params: Mapping[str, str]


@dataclass(slots=True)
class _Address:
    """What lies at one path: for each method, the protocols that have it."""

    methods: dict[str, list[tuple[Protocol, HttpRoute]]] = field(default_factory=dict)

    def add(self, protocol: Protocol, route: HttpRoute) -> None:
        self.methods.setdefault(route.method, []).append((protocol, route))


class RoutingTable:
    """All routes of `protocols`. The first protocol is the one of addresses nobody owns."""

    def __init__(self, protocols: Iterable[Protocol]) -> None:
        self.protocols = tuple(protocols)
        self._named = {protocol.name: protocol for protocol in self.protocols}
        self._plain: dict[str, _Address] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], _Address]] = {}
        for protocol in self.protocols:
            for route in protocol.routes:
                if "{" not in route.path:
                    self._plain.setdefault(route.path, _Address()).add(protocol, route)
                    continue
                pattern = compile_path(route.path)[0]
                entry = self._patterns.setdefault(pattern.pattern, (pattern, _Address()))
                entry[1].add(protocol, route)

    def find(self, method: str, path: str, headers: Mapping[str, str]) -> MatchedRoute | None:
        """The route for a request; `path` still has its percent escapes."""
        address = self._plain.get(path)
        if address is not None and method in address.methods:
            protocol, route = self._choose(address.methods[method], headers)
            return MatchedRoute(protocol, route, {})
        best: tuple[re.Match[str], _Address] | None = None
        for pattern, there in self._patterns.values():
            match = pattern.match(path)
            # Of several that fit, the one that leaves the least to its parameters.
            if (
                match
                and method in there.methods
                and (best is None or _wild(match) < _wild(best[0]))
            ):
                best = (match, there)
        if best is None:
            return None
        protocol, route = self._choose(best[1].methods[method], headers)
        return MatchedRoute(
            protocol, route, {k: unquote(v) for k, v in best[0].groupdict().items()}
        )

    def methods(self, path: str) -> list[str]:
        """The methods that some protocol has at `path`."""
        methods = set(self._plain[path].methods) if path in self._plain else set()
        for pattern, there in self._patterns.values():
            if pattern.match(path):
                methods |= set(there.methods)
        return sorted(methods - {"WEBSOCKET"})

    def owner(self, path: str, headers: Mapping[str, str]) -> Protocol:
        """The protocol in whose words an error at `path` is told."""
        for beginning, name in _BEGINNINGS:
            if path.startswith(beginning) and name in self._named:
                return self._named[name]
        if path.startswith("/v1/messages") and "anthropic" in self._named:
            return self._named["anthropic"]
        return self._named.get(_spoken(headers), self.protocols[0])

    def _choose(
        self, several: list[tuple[Protocol, HttpRoute]], headers: Mapping[str, str]
    ) -> tuple[Protocol, HttpRoute]:
        if len(several) == 1:
            return several[0]
        spoken = _spoken(headers)
        return next((pair for pair in several if pair[0].name == spoken), several[0])


_BEGINNINGS = (
    ("/api/v0", "lmstudio"),
    ("/api/v1", "lmstudio"),
    ("/api/", "ollama"),
    ("/v1beta/", "gemini"),
)


def _spoken(headers: Mapping[str, str]) -> str:
    if "x-goog-api-key" in headers or "x-goog-api-client" in headers:
        return "gemini"
    if "anthropic-version" in headers:
        return "anthropic"
    return "openai"


def _wild(match: re.Match[str]) -> int:
    return sum(len(value) for value in match.groupdict().values())
