"""Logging in to a registry: what a 401 asks for, and whether it may have it.

A registry names in ``WWW-Authenticate`` the address that gives out tokens (its realm; distribution
project, "Token Authentication Specification"). A hostile one names an address of its own choice, so
that a client which believes it hands over a login, or asks any server on the client's network
(CVE-2025-51471). Hence the realm is asked only where it is

- on the registry's own host,
- on a host that the registry's verified certificate names too, or
- one of the few pairs in `_PAIRS`, which are public knowledge;

and over https, except where registry and realm are both on loopback. Anything else is refused
without a request. The scope asked for is the one that is needed, never the one that is suggested.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from overt.errors import NeedsAccess, Refused, SourceFailed
from overt.models.sources import credentials
from overt.models.sources.download import Network
from overt.models.sources.registry_request import RegistryReply, send

_PAIRS = {
    "registry-1.docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
}
_HEADER = 8 << 10  # characters of a challenge that are looked at
_TOKEN = re.compile(r"[!-~]{1,65536}")  # visible ASCII: it becomes part of a header
_SCHEME = re.compile(r"(?:\A|,)\s*(Bearer|Basic)\s+", re.IGNORECASE)
_REALM = re.compile(
    r"https?://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?(?:/[!-~]*)?",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*"([^"]{0,2048})"')


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants: ``basic``, or ``bearer`` with a token from `realm`."""

    scheme: str
    realm: str = ""
    service: str = ""


def challenge_of(header: str) -> Challenge | None:
    """Read a WWW-Authenticate header (RFC 9110, section 11.6.1); Bearer before Basic."""
    header = header[:_HEADER]
    starts = list(_SCHEME.finditer(header))
    challenges: dict[str, Challenge] = {}
    for place, start in enumerate(starts):
        end = starts[place + 1].start() if place + 1 < len(starts) else len(header)
        parameters = dict(_PARAMETER.findall(header[start.end() : end]))
        scheme = start[1].lower()
        challenges.setdefault(
            scheme, Challenge(scheme, parameters.get("realm", ""), parameters.get("service", ""))
        )
    return challenges.get("bearer") or challenges.get("basic")


def authorization(
    network: Network, base: str, repository: str, actions: str, reply: RegistryReply
) -> str:
    """The Authorization header that answers a 401.

    Args:
        base: the registry's address, ``https://host``.
        actions: ``pull``, or ``pull,push``.
        reply: the 401, from that very registry.

    Raises:
        NeedsAccess: a login is needed and none is stored, or the stored one is refused.
        Refused: the registry names a realm that is none of its business.
        SourceFailed: no answer that can be used.
    """
    host = urlsplit(base).netloc
    challenge = challenge_of(reply.headers.get("www-authenticate", ""))
    if challenge is None:
        raise NeedsAccess(f"{host} answered 401 and names no way to log in", None)
    access = credentials.find(host, repository, network.environ)
    if challenge.scheme == "basic":
        if access.login is None or not access.login.user:
            raise _without(host, repository, access)
        return access.login.basic
    realm = _proved(challenge.realm, base, reply.certified)
    scope = f"repository:{repository}:{actions}"
    answer = _exchange(network, realm, challenge.service, scope, access.login)
    if answer.status in (400, 401, 403):
        if access.login is None:
            raise _without(host, repository, access)
        raise NeedsAccess(
            f"{host} refuses the login that {access.place} has for it",
            f"type `docker login {host}` again",
        )
    if answer.status != 200:
        raise SourceFailed(f"{_shown(realm)} answered {answer.status} where a token is given out")
    return f"Bearer {_token(answer.body, realm)}"


def refused(base: str, repository: str, actions: str) -> NeedsAccess:
    """The error for a login that was accepted and does not suffice."""
    host = urlsplit(base).netloc
    what = "push to" if "push" in actions else "read"
    return NeedsAccess(
        f"{host} does not let you {what} {repository}",
        f"check the name, or type `docker login {host}` as somebody who may",
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return False


def _proved(realm: str, base: str, certified: tuple[str, ...]) -> str:
    """The realm, if the registry may send a person there."""
    registry = urlsplit(base)
    host = (registry.hostname or "").lower()
    # A strict form, so that no two parsers can see two different hosts in it.
    if named := _REALM.fullmatch(realm):
        wanted = named["host"].strip("[]").lower()
        local = is_loopback(host) and is_loopback(wanted)
        safe = realm.lower().startswith("https:") or local
        own = wanted == host or wanted in _PAIRS.get(host, ())
        if safe and (own or _covered(wanted, certified)):
            return realm
    raise Refused(
        f"{registry.netloc} sends logins to {_shown(realm)!r}, which is neither its own host nor "
        "in its certificate",
        "no request and no password was sent there; ask whoever runs the registry",
    )


def _covered(host: str, certified: tuple[str, ...]) -> bool:
    """Whether a certificate's names hold `host`; a star stands for one label (RFC 9525)."""
    parent = host.partition(".")[2]
    names = {name.lower().rstrip(".") for name in certified}
    return host in names or ("." in parent and f"*.{parent}" in names)


def _exchange(
    network: Network, realm: str, service: str, scope: str, login: credentials.RegistryLogin | None
) -> RegistryReply:
    """Ask the realm for a token; redirects are not followed."""
    if login and login.token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": login.token,
            "service": service,
            "scope": scope,
            "client_id": "overt",
        }
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return send(network, "POST", realm, kind, urlencode(form).encode())
    parts = urlsplit(realm)
    query = [*parse_qsl(parts.query), ("service", service), ("scope", scope)]
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
    return send(network, "GET", url, {"Authorization": login.basic} if login else {})


def _token(body: bytes, realm: str) -> str:
    try:
        reply: Mapping[str, object] = json.loads(body)
        token = reply.get("token") or reply.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise SourceFailed(f"{_shown(realm)} gives out no token that can be used")
    return token


def _without(host: str, repository: str, access: credentials.CredentialLookup) -> NeedsAccess:
    why = f" ({access.trouble})" if access.trouble else ""
    return NeedsAccess(
        f"{host} wants a login for {repository} and none is stored{why}",
        f"type `docker login {host}` or `podman login {host}`",
    )


def _shown(url: str) -> str:
    return url.partition("?")[0][:120]
