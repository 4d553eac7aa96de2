"""Where text may go: what a policy lets through, and that no spelling of a URL gets past it."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overt.errors import BadRef, BadSetting, NoEgress, Offline
from overt.security import egress
from overt.security.urls import read
from overt.settings import Settings


def policy(text: str, offline: bool = False) -> Settings:
    return replace(Settings(), egress=text, offline=offline)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1", "http://127.8.9.10/", "http://[::1]:1/v1", "http://localhost",
        "HTTP://LOCALHOST:9/", "http://[::ffff:127.0.0.1]/", "http://[0:0:0:0:0:0:0:1]/",
    ],
)  # fmt: skip
def test_this_machine_is_never_elsewhere(url: str) -> None:
    egress.check(url, policy("none", offline=True))
    assert egress.allowed(url, policy("10.0.0.5"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@evil.example/", "http://localhost:x@evil.example/", "http://a@localhost/",
        "http://evil.example#@127.0.0.1", "http://127.0.0.1\\@evil.example/",
        "http://localhost.evil.example/", "http://localhost./", "http://a.localhost/",
        "http://127.0.0.1.evil.example/", "http://0.0.0.0/", "http://[::]/", "http://0/",
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/",
        "http://127.1/", "http://127.0.0.1./x@y", "http://127.000.0.1/", "http://[::127.0.0.1]/",
        "http://[::ffff:8.8.8.8]/", "http://[64:ff9b::7f00:1]/", "http://[fe80::1%25lo]/",
        "http://１２７.0.0.1/", "http://ⓛocalhost/", "http://localhost\u3002evil.example/",
        "http://127.0.0.1 /", " http://127.0.0.1/", "http://127.0.0.1\n.evil.example/",
        "http://127.0.0.1\t/", "http:/127.0.0.1/", "http:127.0.0.1", "//127.0.0.1/", "127.0.0.1",
        "ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http:///", "", "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/", "http://127.0.0.1:８０/", "http://%31%32%37.0.0.1/",
        "http://[::1", "http://::1/", "http://[::1]x/", "http://-a-.example/", "http://a..b/",
        "http://127.0.0.1?@evil.example/",
    ],
)  # fmt: skip
def test_no_spelling_passes_for_this_machine(url: str) -> None:
    with pytest.raises(NoEgress, match="nothing was sent"):
        egress.check(url, policy("none"))
    with pytest.raises((NoEgress, Offline)):
        egress.check(url, policy("any", offline=True))


@pytest.mark.parametrize(
    ("setting", "inside", "outside"),
    [
        (
            "api.openai.com",
            ["https://api.openai.com/v1", "http://API.OpenAI.com.:8/x?y#z"],
            ["https://openai.com", "https://xapi.openai.com", "https://api.openai.com.evil.example"],
        ),
        ("API.Example.com.:8443", ["https://api.example.com:8443/"], ["https://api.example.com/"]),
        ("x.example:443", ["https://x.example", "http://x.example:443"], ["http://x.example"]),
        (
            "*.example.com",
            ["https://a.example.com", "https://a.b.example.com."],
            ["https://example.com", "https://aexample.com", "https://a.example.com.evil.example"],
        ),
        ("*.example.com:8", ["http://a.example.com:8"], ["http://a.example.com:80"]),
        ("10.0.0.5", ["http://10.0.0.5:1", "http://[::ffff:10.0.0.5]"], ["http://10.0.0.50"]),
        ("[fd00::5]:8000, 10.1.0.0/16", ["http://[FD00:0::5]:8000", "http://10.1.2.3"],
         ["http://[fd00::5]", "http://10.2.0.1", "http://10.1.2.3.evil.example"]),
        ("fd00::/8", ["http://[fd12::1]"], ["http://[fe80::1]", "http://10.0.0.1"]),
        ("10.0.0.0/8:80,::ffff:9.9.9.9", ["http://10.9.9.9", "http://9.9.9.9"],
         ["https://10.9.9.9"]),
        ("0.0.0.0/0", ["http://8.8.8.8"], ["http://dns.example", "http://[2001:db8::1]"]),
        (" ANY ", ["https://whatever.example"], ["https://a@whatever.example"]),
        ("none", ["http://localhost"], ["https://api.openai.com"]),
    ],
)  # fmt: skip
def test_what_a_policy_lets_through(setting: str, inside: list[str], outside: list[str]) -> None:
    for url in inside:
        egress.check(url, policy(setting))
    for url in outside:
        assert not egress.allowed(url, policy(setting)), url


@pytest.mark.parametrize(
    "setting",
    [
        "", " ", "a.example,,b.example", "a.example,", "*", "*.", "*.*.example", "a.*.example",
        "https://a.example", "a.example/v1", "user@a.example", "a.example:0", "a.example:99999",
        "a.example:x", "a.example:", "any,a.example", "none,a.example", "10.0.0.1/8", "10.0.0.0/33",
        "::1/200", "0x7f.1", "010.0.0.1", "2130706433", "*.10.0.0.1", "[::1", "[::1]x", "a b",
        "é.example", "::ffff:10.0.0.0/104", "a.example:８", "x" * 300, "a.example," * 1000 + "b",
    ],
)  # fmt: skip
def test_a_setting_that_is_no_list_of_hosts(setting: str) -> None:
    for url in ("https://a.example", "http://127.0.0.1"):  # a mistake shows at the first use
        with pytest.raises(BadSetting, match="egress"):
            egress.check(url, policy(setting))
        with pytest.raises(BadSetting):
            egress.allowed(url, policy(setting))


def test_the_errors_say_what_to_do() -> None:
    with pytest.raises(Offline, match=r"nothing was sent to api\.openai\.com: .*--offline"):
        egress.check("https://api.openai.com/v1", policy("any", offline=True))
    with pytest.raises(NoEgress, match=r"OVERT_EGRESS=10\.0\.0\.5,h\.example:8$") as caught:
        egress.check("http://h.example:8/v1", policy("10.0.0.5"))
    assert egress.allowed("http://h.example:8", policy("10.0.0.5,h.example:8"))
    assert (caught.value.exit_code, caught.value.status) == (5, 403)
    with pytest.raises(NoEgress, match=r"OVERT_EGRESS=\[fd00::5\]:8000$"):
        egress.check("http://[fd00::5]:8000/v1", policy("none"))
    with pytest.raises(BadSetting, match=r"write 10\.0\.0\.0/8$"):
        egress.check("http://x", policy("10.0.0.1/8"))


def test_no_error_tells_a_password() -> None:
    for url in (
        "https://me:hunter2@h.example/v1", "https://hunter2@h.example", "http://h.example:hunter2@x",
        "https://h.example/v1 ?key=hunter2", "https://h.example\\?key=hunter2",
        "https://h.example%40?hunter2",
    ):  # fmt: skip
        with pytest.raises(NoEgress) as caught:
            egress.check(url, policy("none"))
        assert "hunter2" not in str(caught.value), url


pieces = st.sampled_from(
    ["http://", "https://", "127.0.0.1", "localhost", "evil.example", "@", ":", "/", "\\", "?", "#",
     "[", "]", "::1", "::ffff:", "0x7f", "1", ".", "%2e", "。", "\t", " ", "8000", "-", "*"]
)  # fmt: skip


@given(st.one_of(st.lists(pieces, max_size=8).map("".join), st.text(max_size=60)))
@example("http://127.0.0.1/@evil.example")
def test_what_passes_with_none_leads_here_by_every_reading(text: str) -> None:
    try:
        egress.check(text, policy("none"))
    except NoEgress:
        return
    import urllib.parse

    import httpx2

    for host in (urllib.parse.urlsplit(text).hostname, httpx2.URL(text).host):
        assert host is not None
        if host != "localhost":
            ip = read(f"http://[{host}]" if ":" in host else f"http://{host}").ip
            assert ip is not None
            assert ip.is_loopback, text


@given(st.one_of(st.lists(pieces, max_size=8).map("".join), st.text(max_size=60)))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    try:
        found = read(text)
    except BadRef:
        return
    import httpx2

    url = httpx2.URL(text)
    assert url.host.removesuffix(".") == found.host or found.ip is not None
    assert (url.port or {"http": 80, "https": 443}[url.scheme]) == found.port
    again = read(found.origin + found.path)
    # A dot behind localhost leaves it to a resolver: not surely here, though it is the same host.
    assert replace(again, loopback=found.loopback) == found
    assert again.loopback == found.loopback or "localhost." in text.lower()


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_networks_hold_what_their_bits_say(number: int, bits: int) -> None:
    address = IPv4Address(number)
    mask = (2**32 - 1) << (32 - bits) & (2**32 - 1)
    network = f"{IPv4Address(number & mask)}/{bits}"
    other = IPv4Address(number ^ (1 << (32 - bits)) if bits else number)
    assert egress.allowed(f"http://{address}", policy(network))
    if bits and not other.is_loopback:
        assert not egress.allowed(f"http://{other}", policy(network))


@given(st.text(max_size=40))
@example("10.0.0.1/8")
def test_any_setting_is_a_policy_or_one_error(text: str) -> None:
    try:
        found = egress.allowed("https://api.openai.com", policy(text))
    except BadSetting:
        return
    assert found == (text.strip().lower() == "any")
