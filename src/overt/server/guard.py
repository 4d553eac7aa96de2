"""Who may ask: the one place where Host, Origin and keys are checked, before any routing.

The Host check stops DNS rebinding: a page of some other site whose name was pointed at this machine
still sends that name. A browser cannot be made to send an address as Host for a page it took from a
name, so addresses are allowed. The Origin check stops pages of other sites that ask by this
machine's own name: a browser says where a page came from, and other programs say nothing.

Nothing behind the guard looks at credentials again. The mirror (`Guard`) takes one token from one
place, the Authorization header (``Bearer``, or ``Basic`` with the token as its password, which is
what registry clients send). The API (`AuthGate`) takes keys from wherever clients of its protocols
put them: that header, ``x-api-key``, ``x-goog-api-key`` and ``?key=``. All spellings lead to the
same caller, and a request with two different secrets is refused: what one reader takes, another may
not.
"""

import base64
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from overt.errors import BadSetting, NoKey, Refused, WrongHost
from overt.protocols.base import NOBODY, Caller
from overt.server.api_keys import ApiKeys, is_overt_key

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

MIN_TOKEN_LENGTH = 16  # characters; a shorter one can be guessed over a network

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]{0,40}://[^\s/?#@,;\"'<>\\]{1,253}")
_WANTED = re.compile(rb"[A-Za-z0-9-]{1,60}(?: *, *[A-Za-z0-9-]{1,60}){0,60}")
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_EXPOSED = b"x-request-id, request-id, retry-after"
_VARY = (b"vary", b"origin")
_MAX_HOSTS = 256  # spellings of Host that are remembered


@dataclass(frozen=True, slots=True)
class Rules:
    """Which requests pass.

    Attributes:
        loopback: the server listens on this machine's own addresses alone.
        names: host names it answers to, besides ``localhost`` and addresses.
        token: what a request to the mirror must carry, or None where it needs nothing.
        origins: pages of these origins may ask too; ``*`` is any.
        require_key: a request to the API must carry a key.
    """

    loopback: bool
    names: frozenset[str]
    token: str | None = None
    origins: frozenset[str] = frozenset()
    require_key: bool = False

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
        secrets_given = [_secret(value) for value in authorization]
        if len(secrets_given) != 1 or secrets_given[0] is None:
            return False
        wanted = sha256(self.token.encode()).digest()
        return hmac.compare_digest(sha256(secrets_given[0]).digest(), wanted)

    def trusts(self, origin: str) -> bool:
        """Whether --origin names the origin of a page. ``null`` names none and is never trusted."""
        return origin in self.origins or ("*" in self.origins and origin != "null")


def rules(address: str, names: Iterable[str], token: str | None) -> Rules:
    """The rules of a mirror that listens on `address` (an IP address).

    Raises:
        BadSetting: beyond loopback without a token, a token that is too short, an odd name.
    """
    loopback, ours = _is_loopback(address), _checked_names(names)
    if token is None and not loopback:
        import secrets

        raise BadSetting(
            f"{address} can be reached by other machines and no token is set",
            f"add --token {secrets.token_urlsafe(24)}, or leave out --host",
        )
    if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or " " in token):
        raise BadSetting(
            f"the token has {len(token)} characters",
            f"use {MIN_TOKEN_LENGTH} or more ASCII characters without blanks",
        )
    return Rules(loopback, ours, token)


def gate(
    address: str,
    keys: ApiKeys,
    *,
    names: Iterable[str] = (),
    origins: Iterable[str] = (),
    require_key: bool = False,
) -> "AuthGate":
    """The gate of an API that listens on `address` (an IP address).

    Beyond loopback every request needs a key; on loopback only with `require_key`.

    Raises:
        BadSetting: a key is needed and none works, an odd name or origin.
    """
    loopback, ours = _is_loopback(address), _checked_names(names)
    needed = require_key or not loopback
    if needed and not keys.usable():
        why = "every request is to carry a key"
        if not loopback:
            why = f"{address} can be reached by other machines"
        raise BadSetting(f"{why} and there is no key that works", "make one with `overt keys add`")
    origins_allowed = set()
    for origin in origins:
        origins_allowed.add(_checked_origin(origin))
        if origin == "*" and not needed:
            raise BadSetting(
                "--origin '*' would let every web page use the models without a key",
                "name the origin, or add --require-key",
            )
    return AuthGate(Rules(loopback, ours, None, frozenset(origins_allowed), needed), keys)


# ---- the API -------------------------------------------------------------------------------


class AuthGate:
    """Says of each request and WebSocket handshake who asks, in about 5 µs.

    Where no key is needed one may be sent all the same. Clients send words such as ``ollama`` where
    their own servers want some key, so those pass as nobody's; what begins like a key of ours must
    be one that works.
    """

    def __init__(self, rules: Rules, keys: ApiKeys) -> None:
        self._rules = rules
        self._keys = keys
        self._hosts: dict[str, bool] = {}

    @property
    def needs_key(self) -> bool:
        return self._rules.require_key

    @property
    def loopback(self) -> bool:
        return self._rules.loopback

    def admit(self, scope: "Scope") -> Caller:
        """Who asks.

        A WebSocket's key may come in its first message, so without one in its headers it passes as
        nobody: its protocol calls `identify`.

        Raises:
            WrongHost: it was asked by a name that is not its own.
            Refused: it comes from a page of another origin.
            NoKey: the key is missing, wrong or over, or there are two.
        """
        secrets_given = self._come(scope)
        query: bytes = scope["query_string"]
        if b"key" in query or b"%" in query:
            secrets_given.update(_keys_in(query))
        if not secrets_given and scope["type"] == "websocket":
            return NOBODY
        return self._caller(secrets_given)

    def identify(self, secret: str | None) -> Caller:
        """Who has `secret`, for protocols that carry it in a message.

        Raises:
            NoKey: as for `admit`.
        """
        return self._caller({secret} if secret else set())

    def cors(self, scope: "Scope") -> list[tuple[bytes, bytes]]:
        """Headers for every answer, errors too: they let a page of an allowed origin read it."""
        if not self._rules.origins:
            return []
        origin = _value(scope["headers"], b"origin")
        if origin is None or not self._rules.trusts(origin.decode("latin-1")):
            return [_VARY]
        return [
            _VARY,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, scope: "Scope") -> list[tuple[bytes, bytes]] | None:
        """All headers of the empty answer to a preflight of CORS; None for any other request.

        A preflight carries no key and needs none.

        Raises:
            WrongHost, Refused: as for `admit`.
        """
        headers = scope["headers"]
        if (
            not self._rules.origins
            or scope["method"] != "OPTIONS"
            or _value(headers, b"access-control-request-method") is None
        ):
            return None
        self._come(scope)
        response_headers = [*self.cors(scope), (b"access-control-allow-methods", _METHODS)]
        wanted = _value(headers, b"access-control-request-headers") or b""
        if _WANTED.fullmatch(wanted):
            response_headers.append((b"access-control-allow-headers", wanted))
        response_headers.append((b"access-control-max-age", b"600"))
        if _value(headers, b"access-control-request-private-network") == b"true":
            response_headers.append((b"access-control-allow-private-network", b"true"))
        return response_headers

    def _come(self, scope: "Scope") -> set[str]:
        """Check where a request was sent and where it is from; returns the keys in its headers."""
        host, origin, secrets_given = _read(scope["headers"])
        if host is None or not self._answers_to(host):
            raise _wrong_host(host)
        if origin is not None and not self._from_here(scope, origin, host):
            raise Refused(
                f"pages of {origin[:80]!r} may not use this server", "start it with --origin"
            )
        return secrets_given

    def _caller(self, secrets_given: set[str]) -> Caller:
        if not secrets_given:
            if self._rules.require_key:
                raise NoKey("a key is needed", "make one with `overt keys add` on the server")
            return NOBODY
        ours = [secret for secret in secrets_given if is_overt_key(secret)]
        if not ours and not self._rules.require_key:
            return NOBODY
        if len(secrets_given) > 1:
            raise NoKey(
                f"the request carries {len(secrets_given)} different keys", "send one of them"
            )
        caller = self._keys.find(next(iter(secrets_given)))
        if caller is None:
            raise NoKey(
                "the key is not one of this server, or it is over",
                "see `overt keys list` on the server",
            )
        return caller

    def _answers_to(self, host: str) -> bool:
        known = self._hosts.get(host)
        if known is None:
            known = self._rules.answers_to(host)
            if len(self._hosts) < _MAX_HOSTS:
                self._hosts[host] = known
        return known

    def _from_here(self, scope: "Scope", origin: str, host: str) -> bool:
        """Whether a page is the server's own, or of an origin that --origin names.

        A proxy may speak https to the page and http to us, so then either is the same origin.
        """
        secure = scope.get("scheme") in ("https", "wss")
        for scheme in ("https://",) if secure else ("http://", "https://"):
            if origin.lower() == scheme + host.lower():
                return True
        return self._rules.trusts(origin)


def _read(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str | None, set[str]]:
    """Host, Origin and the secrets of a request. Two Hosts are none."""
    hosts: list[bytes] = []
    origins: list[bytes] = []
    secrets_given: set[str] = set()
    for name, value in headers:
        name = name.lower()
        if name == b"host":
            hosts.append(value)
        elif name == b"authorization":
            if secret := _secret(value.decode("latin-1")):
                secrets_given.add(secret.decode("latin-1"))
        elif name in (b"x-api-key", b"x-goog-api-key"):
            if text := value.strip():
                secrets_given.add(text.decode("latin-1"))
        elif name == b"origin":
            origins.append(value)
    host = hosts[0].decode("latin-1") if len(hosts) == 1 else None
    origin = b", ".join(origins).decode("latin-1") if origins else None
    return host, origin, secrets_given


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The one value of a header; None also where it comes twice."""
    values = [value for name, value in headers if name.lower() == wanted]
    return values[0] if len(values) == 1 else None


def _keys_in(query: bytes) -> list[str]:
    return [value for name, value in parse_qsl(query.decode("latin-1")) if name == "key" and value]


def _wrong_host(host: str | None) -> WrongHost:
    if host is None:
        return WrongHost("a request names exactly one Host")
    return WrongHost(
        f"this server does not answer to the name {host[:80]!r}", "start it with --name"
    )


# ---- the mirror ----------------------------------------------------------------------------


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
            error = _wrong_host(hosts[0] if len(hosts) == 1 else None)
            return self._refuse(path, error.status, str(error))
        tokens = _values(headers, b"authorization")
        if not self._rules.knows(tokens):
            message = "the token is not the one of this server" if tokens else "a token is needed"
            return self._refuse(path, 401, message)
        return None


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _checked_names(names: Iterable[str]) -> frozenset[str]:
    allowed = [*names]
    for name in allowed:
        if not _NAME.fullmatch(name):
            raise BadSetting(f"{name!r} is not a host name", "write it without scheme and port")
    return frozenset(name.lower().removesuffix(".") for name in allowed)


def _checked_origin(origin: str) -> str:
    """An origin as browsers write it: lower case, without the port that its scheme implies."""
    if origin == "*":
        return origin
    written = origin.lower().removesuffix("/")
    if not _ORIGIN.fullmatch(written):
        raise BadSetting(f"{origin!r} is not an origin", "write it like https://chat.example.org")
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if written.startswith(scheme):
            written = written.removesuffix(port)
    return written


def _without_port(host: str) -> str | None:
    """The name or address in a Host header; None where it is neither."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?", host)
    match = match or re.fullmatch(rf"({_NAME.pattern})(?::\d{{1,5}})?", host)
    return match[1] if match else None


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
