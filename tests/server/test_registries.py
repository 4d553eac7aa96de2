"""Which hosts clients may name: public ones, and those that the server was started with."""

import _socket
import socket
from typing import Any

import pytest

from overt.errors import BadSetting, Refused
from overt.ref import parse
from overt.server.registries import ANYWHERE, Registries, registries

PRIVATE = [
    "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "10.1.2.3", "172.16.0.1",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd12::1]", "[ff02::1]", "[::ffff:10.0.0.1]",
    "[::ffff:127.0.0.1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[64:ff9b::169.254.169.254]",
    "[2001:0:1:2:3:4:5:6]", "[2001:db8::1]",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "[2606:4700:4700::1111]", "[64:ff9b::1.1.1.1]"]


def refs(host: str) -> list[str]:
    return [f"{kind}:{host}{port}/team/x:v1" for kind in ("oci", "ollama") for port in ("", ":443")]


def numbers_alone(name: str, port: None, **how: Any) -> Any:
    """The system's own reading of addresses, in all their spellings, without a question to DNS."""
    return _socket.getaddrinfo(name, port, type=how["type"], flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize("host", [*PRIVATE, *PUBLIC])
def test_addresses(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", numbers_alone)
    for ref in refs(host):
        ANYWHERE.check(parse(ref))
        registries(True, [host]).check(parse(ref))
        if host in PUBLIC:
            Registries(False).check(parse(ref))
            continue
        with pytest.raises(Refused, match="no public host"):
            Registries(False).check(parse(ref))


@pytest.mark.parametrize(
    ("found", "public"),
    [
        (["1.1.1.1"], True),
        (["1.1.1.1", "2606:4700::1"], True),
        (["1.1.1.1", "10.0.0.1"], False),
        (["1.1.1.1", "::1"], False),
        (["fe80::1%eth0"], False),
        ([], False),
        (OSError(), False),
        (UnicodeError(), False),
    ],
)
def test_a_name_is_what_all_its_addresses_are(
    found: Any, public: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(name: str, *_: Any, **__: Any) -> list[Any]:
        assert name == "models.example"
        if isinstance(found, Exception):
            raise found
        return [(0, 0, 0, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for ref in refs("models.example"):
        if public:
            Registries(False).check(parse(ref))
        else:
            with pytest.raises(Refused) as caught:
                Registries(False).check(parse(ref))
            assert "--registry models.example" in str(caught.value)


def test_a_port_that_is_named_is_that_port_alone() -> None:
    rule = registries(True, ["Models.Example:5000", "[::1]:5001"])
    for ref in ("oci:models.EXAMPLE:5000/a/b", "oci:[::1]:5001/a/b"):
        rule.check(parse(ref))
    with pytest.raises(Refused):
        rule.check(parse("oci:[::1]:5002/a/b"))


@pytest.mark.parametrize("ref", ["smollm2", "hf:a/b", "pypi:x", "ollama:x", "ollama:a/b:c"])
def test_what_names_no_host_goes_where_the_server_was_told(ref: str) -> None:
    Registries(False).check(parse(ref))


def test_only_a_server_with_keys_asks() -> None:
    registries(False, []).check(parse("oci:127.0.0.1:5000/a/b"))


@pytest.mark.parametrize("host", ["", "https://x", "x/y", "a b", "x:y", "[::1"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(BadSetting, match="is not a registry's host"):
        registries(True, [host])
