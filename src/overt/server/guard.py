"""Who may ask: the one place where the Host header and the token are checked, before any routing.

The Host check stops DNS rebinding: a page of some other site whose name was pointed at this machine
still sends that name. A browser cannot be made to send an address as Host for a page it took from a
name, so addresses are allowed. Nothing behind the guard looks at credentials again, and there is
one place for them: the Authorization header (``Bearer``, or ``Basic`` with the token as its
password, which is what registry clients send). Nothing else of a request is read as a token.
"""

import base64
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from overt.errors import BadSetting

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

LEAST_TOKEN = 16  # characters; a shorter one can be guessed over a network

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")


@dataclass(frozen=True, slots=True)
class Rules:
    """Which requests pass.

    Attributes:
        loopback: the server listens on this machine's own addresses alone.
        names: host names it answers to, besides ``localhost`` and addresses.
        token: what a request must carry, or None where it needs nothing.
    """

    loopback: bool
    names: frozenset[str]
    token: str | None

    def answers_to(self, host: str) -> bool:
        """Whether a Host header (``name``, ``name:port``, ``[::1]:port``) names this server."""
        name = _without_port(host)
        if name is None:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            name = name.lower().removesuffix(".")
            return name == "localhost" or name in self.names
        return address.is_loopback if self.loopback else True

    def knows(self, authorization: Iterable[str]) -> bool:
        """Whether the Authorization headers of a request carry the token."""
        if self.token is None:
            return True
        given = [_secret(value) for value in authorization]
        if len(given) != 1 or given[0] is None:
            return False
        wanted = sha256(self.token.encode()).digest()
        return hmac.compare_digest(sha256(given[0]).digest(), wanted)


def rules(address: str, names: Iterable[str], token: str | None) -> Rules:
    """The rules of a server that listens on `address` (an IP address).

    Raises:
        BadSetting: beyond loopback without a token, a token that is too short, an odd name.
    """
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    for name in names:
        if not _NAME.fullmatch(name):
            raise BadSetting(f"{name!r} is not a host name", "write it without scheme and port")
    if token is None and not loopback:
        import secrets

        raise BadSetting(
            f"{address} can be reached by other machines and no token is set",
            f"add --token {secrets.token_urlsafe(24)}, or leave out --host",
        )
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or " " in token):
        raise BadSetting(
            f"the token has {len(token)} characters",
            f"use {LEAST_TOKEN} or more ASCII characters without blanks",
        )
    return Rules(loopback, frozenset(name.lower().removesuffix(".") for name in names), token)


class Guard:
    """The ASGI application around all doors.

    Args:
        app: what is guarded.
        rules: who passes.
        refuse: makes the answer for (path, status, message) that the protocol of that path has.
    """

    def __init__(
        self, app: "ASGIApp", rules: Rules, refuse: "Callable[[str, int, str], Response]"
    ) -> None:
        self._app = app
        self._rules = rules
        self._refuse = refuse

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        answer: Callable[[Scope, Receive, Send], Awaitable[None]] = refusal or self._app
        await answer(scope, receive, send)

    def _refusal(self, scope: "Scope") -> "Response | None":
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        path: str = scope["path"]
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or not self._rules.answers_to(hosts[0]):
            message = (
                f"this server does not answer to the name {hosts[0][:80]!r}; start it with --name"
                if len(hosts) == 1
                else "a request names exactly one Host"
            )
            return self._refuse(path, 421, message)
        given = _values(headers, b"authorization")
        if not self._rules.knows(given):
            message = "the token is not the one of this server" if given else "a token is needed"
            return self._refuse(path, 401, message)
        return None


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


def _without_port(host: str) -> str | None:
    """The name or address in a Host header; None where it is neither."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?", host)
    found = found or re.fullmatch(rf"({_NAME.pattern})(?::\d{{1,5}})?", host)
    return found[1] if found else None


def _secret(authorization: str) -> bytes | None:
    """The token in an Authorization header: the bearer's, or the password of Basic (RFC 7617)."""
    kind, _, rest = authorization.strip().partition(" ")
    value = rest.strip()
    if kind.lower() == "bearer":
        return value.encode("latin-1")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return None
    return None
