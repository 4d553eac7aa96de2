"""Which registries clients may have this server talk to: the one place where that is decided.

A ref can name a host (``oci:host/…``, ``ollama:host/…``). Whoever may send such a ref could have
the server knock at doors that only it can reach: of its own machine, and of its own network. Hubs
and package indexes are named by the person who runs the server and by nobody else.
"""

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from overt.errors import BadSetting, Refused
from overt.ref import Ref

_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_TRANSLATED = ip_network("64:ff9b::/96")  # NAT64 (RFC 6052): an IPv4 address at its end


@dataclass(frozen=True, slots=True)
class Registries:
    """Where refs may lead.

    Attributes:
        anywhere: whoever asks is the person at this machine, who may go where they like.
        named: hosts, with or without a port, that are allowed whatever their address; lower case,
            an address without a port without brackets.
    """

    anywhere: bool = True
    named: frozenset[str] = frozenset()

    def check(self, ref: Ref) -> None:
        """Asks the resolver, so it belongs in a thread.

        Raises:
            Refused: the ref names a host that is not on the public network as far as this machine
                knows. Whether such a host is there is not told.
        """
        if self.anywhere or ref.host is None:
            return
        host = ref.host.lower()
        name = _name(host)
        if host in self.named or name in self.named or _is_public(name):
            return
        raise Refused(
            f"{host} is no public host, and clients do not send this server into its own network",
            f"on the server, type `overt pull {ref}`, or start it with --registry {host}",
        )


ANYWHERE = Registries()


def registries(needs_key: bool, hosts: Iterable[str]) -> Registries:
    """The rule for a server.

    Raises:
        BadSetting: one of `hosts` is not a host.
    """
    named = [*hosts]
    for host in named:
        if not _HOST.fullmatch(host):
            raise BadSetting(
                f"{host!r} is not a registry's host", "write it like host or host:port"
            )
    plain = (host.strip("[]") if host.endswith("]") else host for host in named)
    return Registries(not needs_key, frozenset(host.lower() for host in plain))


def _name(host: str) -> str:
    """The host without its port and without the brackets of an address."""
    bare = host if host.endswith("]") else re.sub(r":[0-9]{1,5}\Z", "", host)
    return bare.strip("[]")


def _is_public(name: str) -> bool:
    """Whether all addresses of a host are public ones, and there are any."""
    try:
        infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = {str(entry[4][0]).partition("%")[0] for entry in infos}
    return bool(addresses) and all(_global(ip_address(address)) for address in addresses)


def _global(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inside = IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return _global(inside)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast
