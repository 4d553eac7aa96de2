"""Who passes the gate of the API: every header, every spelling, Host, Origin and preflights."""

import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import BadSetting, NoKey, OvertError, Refused, WrongHost
from overt.protocols.base import NOBODY
from overt.server import api_keys
from overt.server.api_keys import ApiKeys, NewKey
from overt.server.guard import AuthGate, gate


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "_LOOK_EVERY", 0.0)


@pytest.fixture
def key(home: Path) -> NewKey:
    return ApiKeys(home).add("laptop")


def asked(
    *pairs: tuple[str, str],
    host: str | None = "localhost:11435",
    query: str = "",
    method: str = "POST",
    kind: str = "http",
    scheme: str = "http",
) -> dict[str, Any]:
    headers = [(b"host", host.encode("latin-1"))] if host is not None else []
    headers += [(name.encode(), value.encode("latin-1")) for name, value in pairs]
    scope = {"type": kind, "headers": headers, "query_string": query.encode(), "scheme": scheme}
    return {**scope, "method": method} if kind == "http" else scope


def closed(home: Path, **more: Any) -> AuthGate:
    return gate("127.0.0.1", ApiKeys(home), require_key=True, **more)


def spellings(secret: str) -> list[dict[str, Any]]:
    basic = b64encode(f"anybody:{secret}".encode()).decode()
    return [
        asked(("authorization", f"Bearer {secret}")),
        asked(("authorization", f"bearer   {secret} ")),
        asked(("Authorization", f"Basic {basic}")),
        asked(("x-api-key", secret)),
        asked(("X-Goog-Api-Key", secret)),
        asked(query=f"alt=sse&key={secret}"),
        asked(query=f"k%65y={secret.replace(':', '%3A')}"),
        asked(("x-api-key", secret), ("authorization", f"Bearer {secret}")),
        asked(("authorization", f"Bearer {secret}"), kind="websocket"),
        asked(query=f"key={secret}", kind="websocket"),
    ]


# ---- keys ----------------------------------------------------------------------------------


def test_every_spelling_of_a_key_is_one_caller_and_ends_with_it(home: Path, key: NewKey) -> None:
    closed_one, open_one = closed(home), gate("127.0.0.1", ApiKeys(home))
    for secret in (key.text, key.lm_studio):
        for scope in spellings(secret):
            for one in (closed_one, open_one):
                caller = one.admit(scope)
                assert (caller.key, caller.name) == (key.key.id, "laptop"), scope
        assert closed_one.identify(secret).key == key.key.id
    ApiKeys(home).revoke(key.key.id)
    for secret in (key.text, key.lm_studio):
        for scope in spellings(secret):
            for one in (closed_one, open_one):
                with pytest.raises(NoKey, match="not one of this server, or it is over"):
                    one.admit(scope)
        with pytest.raises(NoKey):
            open_one.identify(secret)


def test_where_a_key_is_needed_nothing_else_will_do(home: Path, key: NewKey) -> None:
    one = closed(home)
    assert one.needs_key
    wrong = [
        asked(), asked(("authorization", "")), asked(("authorization", "Bearer ")),
        asked(("authorization", key.text)), asked(("authorization", f"Digest {key.text}")),
        asked(("authorization", "Basic !")), asked(("x-api-key", "")), asked(query="key="),
        asked(("authorization", f"Basic {b64encode(key.text.encode()).decode()}")),
        asked(("cookie", f"key={key.text}")), asked(query=f"KEY={key.text}"),
        asked(query=f"token={key.text}"), asked(("x-api-key", "ollama")),
        asked(method="OPTIONS"), asked(("access-control-request-method", "POST")),
        asked(("x-api-key", key.text), ("x-goog-api-key", key.lm_studio)),
        asked(("x-api-key", key.text), ("authorization", "Bearer ollama")),
        asked(("x-api-key", key.text), ("x-api-key", "other")),
        asked(("x-api-key", key.text), query="key=a&key=b"),
        asked(("x-api-key", "wrong"), kind="websocket"),
    ]  # fmt: skip
    for scope in wrong:
        with pytest.raises(NoKey):
            one.admit(scope)
    for secret in (None, "", "ollama", key.text + "x"):
        with pytest.raises(NoKey):
            one.identify(secret)
    assert one.admit(asked(kind="websocket")) == NOBODY, "its protocol asks `identify`"


def test_where_none_is_needed_made_up_keys_pass_and_wrong_ones_do_not(
    home: Path, key: NewKey
) -> None:
    one = gate("127.0.0.1", ApiKeys(home))
    assert not one.needs_key
    for secret in ("ollama", "sk-none", "sk-proj-123", "none", "lm-studio", "sk-ant-x", "sk-o"):
        for scope in spellings(secret):
            assert one.admit(scope) == NOBODY, scope
        assert one.identify(secret) == NOBODY
    assert one.admit(asked()) == one.identify(None) == NOBODY
    assert one.admit(asked(("x-api-key", "a"), ("authorization", "Bearer b"))) == NOBODY
    for secret in ("sk-ov-wrong", key.text[:-1] + "!", "sk-lm-" + "x" * 8 + ":" + "y" * 20):
        for scope in spellings(secret):
            with pytest.raises(NoKey):
                one.admit(scope)
    with pytest.raises(NoKey, match="carries 2 different keys"):
        one.admit(asked(("x-api-key", "a"), ("authorization", f"Bearer {key.text}")))


def test_no_error_repeats_a_secret(home: Path, key: NewKey) -> None:
    one = closed(home)
    for scope in (
        *spellings("sk-ov-12345678-hunter2"),
        asked(("x-api-key", "hunter2"), ("x-goog-api-key", "hunter2hunter2")),
    ):
        with pytest.raises(NoKey) as caught:
            one.admit(scope)
        assert "hunter2" not in str(caught.value)


def test_it_does_not_start_beyond_this_machine_without_a_key(home: Path) -> None:
    for address in ("0.0.0.0", "192.0.2.1", "::", "fe80::1%eth0"):
        with pytest.raises(BadSetting, match=r"reached by other machines.*`overt keys add`"):
            gate(address, ApiKeys(home))
    with pytest.raises(BadSetting, match=r"to carry a key.*`overt keys add`"):
        gate("127.0.0.1", ApiKeys(home), require_key=True)
    over = ApiKeys(home).add(seconds=60)
    ApiKeys(home).revoke(over.key.id)
    with pytest.raises(BadSetting):
        gate("0.0.0.0", ApiKeys(home))
    ApiKeys(home).add()
    assert gate("0.0.0.0", ApiKeys(home)).needs_key
    assert not gate("::1", ApiKeys(home)).needs_key


# ---- Host ----------------------------------------------------------------------------------


def test_it_answers_to_its_own_names_alone(home: Path) -> None:
    one = gate("127.0.0.1", ApiKeys(home), names=["AI.team"])
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:11435", "127.9.9.9", "[::1]:5", "ai.team."):
        for _ in range(2):  # the second is remembered
            one.admit(asked(host=host))
            one.admit(asked(host=host, kind="websocket"))
    for host in (
        "", "rebound.example", "127.0.0.1.rebound.example", "localhost.rebound.example",
        "192.0.2.7", "localhost:1@x", "localhost:1/x", "[::1", "local host", "loc\xe4lhost",
        "0.0.0.0", None,
    ):  # fmt: skip
        for _ in range(2):
            for scope in (asked(host=host), asked(host=host, kind="websocket")):
                with pytest.raises(WrongHost):
                    one.admit(scope)
    with pytest.raises(WrongHost):
        one.admit(asked(("host", "localhost")))
    for name in ("http://x", "a b", "", "x:1"):
        with pytest.raises(BadSetting):
            gate("127.0.0.1", ApiKeys(home), names=[name])


def test_hosts_that_are_remembered_are_bounded(home: Path) -> None:
    one = gate("127.0.0.1", ApiKeys(home))
    for number in range(1000):
        with pytest.raises(WrongHost):
            one.admit(asked(host=f"h{number}.example"))
    assert len(one._hosts) <= 256
    one.admit(asked())


# ---- Origin --------------------------------------------------------------------------------

FOREIGN = (
    "https://evil.example", "null", "http://localhost", "http://localhost:3000", "file://",
    "http://localhost:11435.evil.example", "http://localhost:11435@evil.example", "",
    "http://localhost:11435, https://evil.example", "localhost:11435", "ftp://localhost:11435",
    "http://127.0.0.1:11435", "https://chat.example:444", "http://chat.example",
)  # fmt: skip


def test_pages_of_other_origins_are_refused_with_or_without_a_key(home: Path, key: NewKey) -> None:
    bearer = ("authorization", f"Bearer {key.text}")
    for one in (
        gate("127.0.0.1", ApiKeys(home)),
        gate("127.0.0.1", ApiKeys(home), origins=["https://chat.example"]),
        closed(home),
    ):
        for origin in FOREIGN:
            for kind in ("http", "websocket"):
                with pytest.raises(Refused, match="may not use this server") as caught:
                    one.admit(asked(("origin", origin), bearer, kind=kind))
                assert caught.value.status == 403
            assert b"access-control-allow-origin" not in dict(one.cors(asked(("origin", origin))))
        for origin in (
            "http://localhost:11435",
            "HTTP://localhost:11435",
            "https://localhost:11435",
        ):
            one.admit(asked(("origin", origin), bearer))
    with pytest.raises(Refused):  # over TLS a page that came without it is another origin
        gate("127.0.0.1", ApiKeys(home)).admit(
            asked(("origin", "http://localhost:11435"), scheme="https")
        )


def test_a_named_origin_gets_what_its_browser_asks_for(home: Path, key: NewKey) -> None:
    one = closed(home, origins=["https://Chat.example:443/", "app://obsidian.md"])
    page = ("origin", "https://chat.example")
    one.admit(asked(page, ("x-api-key", key.text)))
    told = [
        (b"vary", b"origin"),
        (b"access-control-allow-origin", b"https://chat.example"),
        (b"access-control-expose-headers", b"x-request-id, request-id, retry-after"),
    ]
    assert one.cors(asked(page)) == told
    assert (b"access-control-allow-origin", b"app://obsidian.md") in one.cors(
        asked(("origin", "app://obsidian.md"))
    )
    assert one.cors(asked()) == one.cors(asked(("origin", "null"))) == told[:1]
    asks = ("access-control-request-method", "POST")
    before = asked(
        page,
        asks,
        ("access-control-request-headers", "authorization,content-type, x-stainless-os"),
        ("access-control-request-private-network", "true"),
        method="OPTIONS",
    )
    assert one.preflight(before) == [
        *told,
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", b"authorization,content-type, x-stainless-os"),
        (b"access-control-max-age", b"600"),
        (b"access-control-allow-private-network", b"true"),
    ]
    odd = asked(
        page, asks, ("access-control-request-headers", "a\r\nset-cookie: x"), method="OPTIONS"
    )
    assert b"access-control-allow-headers" not in dict(one.preflight(odd) or [])
    with pytest.raises(Refused):
        one.preflight(asked(("origin", "https://evil.example"), asks, method="OPTIONS"))
    with pytest.raises(WrongHost):
        one.preflight(asked(page, asks, method="OPTIONS", host="evil.example"))
    for other in (asked(page, method="OPTIONS"), asked(page, asks), asked(asks)):
        assert one.preflight(other) is None
    off = gate("127.0.0.1", ApiKeys(home))
    assert (off.cors(before), off.preflight(before)) == ([], None), "off unless named"


def test_any_origin_only_where_a_key_is_needed(home: Path, key: NewKey) -> None:
    with pytest.raises(BadSetting, match="without a key"):
        gate("127.0.0.1", ApiKeys(home), origins=["*"])
    one = closed(home, origins=["*"])
    page = ("origin", "https://any.example")
    assert one.admit(asked(page, ("x-api-key", key.text))).name == "laptop"
    with pytest.raises(NoKey):
        one.admit(asked(page))
    assert dict(one.cors(asked(page)))[b"access-control-allow-origin"] == b"https://any.example"
    with pytest.raises(Refused):
        one.admit(asked(("origin", "null"), ("x-api-key", key.text)))
    for origin in ("chat.example", "https://", "https://a b", "https://a/b", "https://u@h", "null"):
        with pytest.raises(BadSetting):
            closed(home, origins=[origin])


# ---- whatever is sent ----------------------------------------------------------------------

HEADERS = ("host", "origin", "authorization", "x-api-key", "x-goog-api-key", "cookie")
VALUES = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=30),
    st.sampled_from(["localhost", "Bearer x", "Basic eA==", "Basic eDp5", "sk-ov-12345678-x"]),
)


@given(
    headers=st.lists(st.tuples(st.sampled_from(HEADERS), VALUES), max_size=6),
    query=st.binary(max_size=30) | st.sampled_from([b"key=x", b"key=%ff&key", b"%", b"key=%zz"]),
    kind=st.sampled_from(["http", "websocket"]),
)
def test_whatever_is_sent_nobody_gets_in_without_a_key(
    tmp_path_factory: pytest.TempPathFactory,
    headers: list[tuple[str, str]],
    query: bytes,
    kind: str,
) -> None:
    home = tmp_path_factory.getbasetemp() / "gate"
    if not home.exists():
        ApiKeys(home).add()
    scope = {**asked(*headers, host=None, kind=kind), "query_string": query}
    kinds: set[int] = set()
    for one in (closed(home, origins=["https://x.example"]), gate("127.0.0.1", ApiKeys(home))):
        try:
            caller = one.admit(scope)
        except OvertError as error:
            kinds.add(error.status)
        else:
            assert caller == NOBODY
            assert kind == "websocket" or not one.needs_key
            assert [value for name, value in headers if name == "host"] != []
        one.cors(scope)
    assert kinds <= {401, 403, 421}


def test_the_gate_is_cheap(home: Path, key: NewKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is 20 µs; the test allows 60 for a busy machine."""
    monkeypatch.setattr(api_keys, "_LOOK_EVERY", 1.0)
    one = closed(home)
    more = [(f"x-stainless-{i}", "some value") for i in range(12)]
    scope = asked(("authorization", f"Bearer {key.text}"), *more)
    one.admit(scope)
    begun = time.thread_time()
    for _ in range(2000):
        one.admit(scope)
    assert (time.thread_time() - begun) / 2000 < 60e-6
