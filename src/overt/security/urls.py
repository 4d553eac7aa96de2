"""The address of a server, read in one strict way.

Who judges where text or a key may go must read a URL as the one who connects reads it. So only
spellings that every reader takes alike are read at all: no user or password, no blanks, no
backslashes, no letters beyond ASCII, no IPv4 address but four plain decimal numbers.
"""

import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from overt.errors import BadRef

PORTS: Final = {"http": 80, "https": 443}
MAX_CHARACTERS = 2048  # characters of a URL

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,254})"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[!-~]*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and what is asked of it.

    Attributes:
        scheme: ``http`` or ``https``.
        host: in lower case, without a dot at its end; IPv6 without brackets, written shortest.
        port: as written, else the scheme's own.
        path: with its query, as written; "" or beginning with a slash. Without the fragment.
        loopback: surely this machine: 127.0.0.0/8, ::1, or just ``localhost``.
    """

    scheme: str
    host: str
    port: int
    path: str
    loopback: bool

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The host as an address, where it is one; IPv4 in IPv6 (``::ffff:…``) as IPv4."""
        return _ip(self.host)

    @property
    def shown(self) -> str:
        """``host``, with the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.shown}"


@lru_cache(maxsize=256)
def read(url: str) -> Address:
    """Read an http or https URL.

    Raises:
        BadRef: it cannot be read, or others might read it differently. Says nothing of what may be
            a password.
    """
    if "@" in url.partition("://")[2].partition("/")[0].partition("?")[0]:
        raise BadRef(
            "the address holds a user name or password",
            "write it without, and keep the key with `overt login`",
        )
    match = _URL.fullmatch(url.partition("#")[0]) if len(url) <= MAX_CHARACTERS else None
    if not match or "\\" in url:
        raise BadRef(f"{_shown(url)} is not an address", "write it like http://host:port/v1")
    scheme, port = match["scheme"].lower(), int(match["port"] or 0)
    if match["port"] and not 0 < port < 65536:
        raise BadRef(f"{match['port']} is not a port", "ports are 1 to 65535")
    typed = match["host"].lower()
    host = host_of(typed)
    ip = _ip(host)
    here = ip.is_loopback if ip else typed == "localhost"  # a resolver may ask others for the rest
    return Address(scheme, host, port or PORTS[scheme], match["path"] or "", here)


def host_of(text: str) -> str:
    """A host's name or address, spelled in one way.

    Raises:
        BadRef: neither.
    """
    host = text.lower()
    if host.startswith("[") or ":" in host:
        try:
            ip = ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise BadRef(f"{_shown(text)} is not an address", "IPv6 is written [::1]") from None
        mapped = getattr(ip, "ipv4_mapped", None)
        return str(mapped or ip)
    name = host.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _plain_ipv4(host)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadRef(f"{_shown(text)} is not a host's name", "write a name in ASCII (xn--…)")
    return name


def _plain_ipv4(host: str) -> str:
    """Readers differ on 0177.0.0.1, 0x7f.1 and 2130706433, so that only plain ones pass."""
    try:
        return str(IPv4Address(host))
    except ValueError:
        pass
    try:
        meant = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        raise BadRef(f"{_shown(host)} is not an address", "write it like 10.0.0.5") from None
    raise BadRef(f"{_shown(host)} is an unusual spelling of an address", f"write {meant}")


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _shown(text: str) -> str:
    """`text` for an error: cut short, and without what may be a secret in a query."""
    text = text.partition("?")[0]
    if "@" in text or "%40" in text:
        return "this"
    return repr(text if len(text) <= 80 else text[:77] + "...")
