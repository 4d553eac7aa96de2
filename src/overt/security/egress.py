"""Where the text of requests may go: the one point that every request to a provider passes.

The setting `egress` is ``any``, ``none``, or hosts with commas between them::

    api.openai.com            that host, on any port
    api.example.com:8443      that host, on that port
    *.example.com             whatever ends so; not example.com itself
    10.0.0.5, [fd00::5]:8000  an address
    10.0.0.0/8                a network, for hosts that are written as addresses

Names are compared as they are written and never looked up, so a name is not let through because it
leads to an allowed network. What goes to this machine itself (127.0.0.0/8, ::1, localhost) does not
leave it and always may.
"""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from overt.errors import BadRef, BadSetting, NoEgress, Offline
from overt.security.urls import Address, host_of, read
from overt.settings import Settings

MAX_HOSTS = 1000  # hosts in the setting

_Network = IPv4Network | IPv6Network


def check(url: str, settings: Settings) -> None:
    """Pass where a request's text may go to `url`.

    Raises:
        Offline: the network is switched off.
        NoEgress: the setting does not let it go there, or the URL can be read in two ways.
        BadSetting: `settings.egress` is not a list of hosts.
    """
    policy = _policy(settings.egress)
    try:
        to = read(url)
    except BadRef as error:
        raise NoEgress(f"nothing was sent: {error.message}", error.hint) from None
    if to.loopback:
        return
    if settings.offline:
        raise Offline(
            f"nothing was sent to {to.shown}: the network is switched off",
            "leave --offline (OVERT_OFFLINE) out, or use a model of this machine",
        )
    if not policy.allows(to):
        raise NoEgress(
            f"nothing was sent to {to.shown}: the setting egress is {_shown(settings.egress)}",
            f"to let text go there, {_how_to_allow(settings.egress, to)}",
        )


def allowed(url: str, settings: Settings) -> bool:
    """Whether `check` passes. Raises BadSetting as it does."""
    try:
        check(url, settings)
    except (NoEgress, Offline):
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Policy:
    """`ports` 0 is any port."""

    everything: bool = False
    names: frozenset[tuple[str, int]] = frozenset()
    endings: tuple[tuple[str, int], ...] = ()
    networks: tuple[tuple[_Network, int], ...] = ()

    def allows(self, to: Address) -> bool:
        if self.everything:
            return True
        ip = to.ip
        if ip is not None:
            return any(_inside(ip, net) and port in (0, to.port) for net, port in self.networks)
        if not self.names.isdisjoint(((to.host, 0), (to.host, to.port))):
            return True
        return any(to.host.endswith(end) and port in (0, to.port) for end, port in self.endings)


def _inside(ip: IPv4Address | IPv6Address, network: _Network) -> bool:
    return ip.version == network.version and ip in network


@lru_cache(maxsize=32)
def _policy(text: str) -> _Policy:
    word = text.strip().lower()
    if word in ("any", "none"):
        return _Policy(everything=word == "any")
    entries = [entry.strip() for entry in word.split(",")]
    if len(entries) > MAX_HOSTS:
        raise BadSetting(f"egress names {len(entries)} hosts", f"{MAX_HOSTS} is the most")
    names: set[tuple[str, int]] = set()
    endings: list[tuple[str, int]] = []
    networks: list[tuple[_Network, int]] = []
    for entry in entries:
        host, port = _split(entry)
        if host.startswith("*."):
            endings.append((f".{_name(host[2:], entry)}", port))
        elif (network := _network(host, entry)) is not None:
            networks.append((network, port))
        else:
            names.add((_name(host, entry), port))
    return _Policy(False, frozenset(names), tuple(endings), tuple(networks))


def _split(entry: str) -> tuple[str, int]:
    """Host and port; a bare IPv6 address or network has no port."""
    host, colon, port = entry.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or entry.endswith("]"):
        return entry, 0
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _bad(entry)
    return host, int(port)


def _network(host: str, entry: str) -> _Network | None:
    """The network, or the address as a network of one; None for a name."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address, slash, _ = bare.partition("/")
    try:
        ip = ip_address(address)
    except ValueError:
        if slash or ":" in bare:
            raise _bad(entry) from None
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        if slash:
            raise _bad(entry)
        bare = str(ip.ipv4_mapped)  # as addresses in URLs are read
    try:
        return ip_network(bare)
    except ValueError:
        meant = _rule_host(bare)
        raise BadSetting(
            f"egress: {_shown(entry)} is not a network", f"write {meant}" if meant else None
        ) from None


def _rule_host(bare: str) -> str:
    try:
        return str(ip_network(bare, strict=False))
    except ValueError:
        return ""


def _name(host: str, entry: str) -> str:
    try:
        name = host_of(host)
    except BadRef:
        raise _bad(entry) from None
    if name in ("any", "none") or _is_ip(name):
        raise _bad(entry)
    return name


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _bad(entry: str) -> BadSetting:
    return BadSetting(
        f"egress: {_shown(entry)} is not a host" if entry else "egress has an empty place in it",
        "write any, none, or hosts: api.openai.com,*.example.com,10.0.0.0/8,10.0.0.5:8000",
    )


def _how_to_allow(setting: str, to: Address) -> str:
    others = "" if setting.strip().lower() == "none" else f"{setting.strip()},"
    if len(others) > 200:
        return f"add {to.shown} to it"
    return f"set OVERT_EGRESS={others}{to.shown}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
