"""The one way out: what it sends, what it tries again and what never, and how it gives up."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest
from chaos_peer import Got, Peer, Wire, manner, peer
from hypothesis import given
from hypothesis import strategies as some

from overt.errors import (
    BadRequest,
    BadSetting,
    Busy,
    NeedsAccess,
    NoEgress,
    Offline,
    OvertError,
    ProviderFailed,
    TimedOut,
)
from overt.providers.base import (
    Destination,
    PassedResponse,
    PostRequest,
    ResponseBegun,
    ServerEvent,
)
from overt.providers.http.client import HttpClient, retry_after
from overt.providers.http.errors import HttpTimeouts, map_transport_error
from overt.providers.http.redact import clean
from overt.providers.http.response_stream import WaitTimer
from overt.settings import Settings

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
POST = PostRequest("/messages", b'{"model": "m"}', {"x-beta": "one", "Host": "elsewhere"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def failure(status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
    said = body.decode("utf-8", "replace")[:500]
    if status in (429, 529):
        return Busy(f"answered {status}: {said}")
    if status == 401:
        return NeedsAccess(f"answered {status}: {said}", f"look at {said}")
    return ProviderFailed(f"answered {status}: {said}")


class Rig:
    """An `HttpClient` whose waits take no time, and what it did."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[str] = []
        self.told: list[str] = []
        self.slept: list[float] = []
        self.now = 0.0
        chosen = replace(Settings(), **{"first_timeout": "5s", "between_timeout": "5s"} | settings)
        self.upstream = HttpClient(
            chosen, check=self.asked.append, notice=self.told.append, sleep=self._sleep,
            clock=lambda: self.now, rng=lambda: 0.5,
        )  # fmt: skip

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def said(
        self, to: Destination, post: PostRequest = POST
    ) -> list[ResponseBegun | ServerEvent]:
        async with asyncio.timeout(10), aclosing(self.upstream.stream(to, post, failure)) as all_:
            return [one async for one in all_]


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[Rig]:
    one = Rig(**settings)
    try:
        yield one
    finally:
        await one.upstream.close()


def to(base: str | Peer, **more: Any) -> Destination:
    where = base if isinstance(base, str) else base.base
    given: dict[str, Any] = {
        "base": where, "headers": {"x-api-key": KEY}, "secret": KEY, "label": "acme",
        "add_key": "overt login acme",
    }  # fmt: skip
    return Destination(**given | more)


def in_turn(*manners: str) -> Callable[[Got], str]:
    """Each request the next manner, and the last one for the rest."""
    left = list(manners)
    return lambda got: left.pop(0) if len(left) > 1 else left[0]


# ---- what goes out, and what comes back ----------------------------------------------------


async def test_an_answer_is_begun_then_said_and_the_bytes_are_counted_as_sent() -> None:
    async with peer() as there, rig() as one:
        begun, *rest = await one.said(to(there))
        assert begun == ResponseBegun("req_1", len(there.got[0].raw))
        assert rest == [ServerEvent("", b"hello"), ServerEvent("", b"[DONE]")]
        assert one.asked == [f"{there.base}/messages"]


async def test_what_is_sent_is_this_and_nothing_else() -> None:
    async with peer() as there, rig() as one:
        await one.said(to(there))
        lines = there.got[0].head.decode().split("\r\n")
        assert lines[0] == "POST /messages HTTP/1.1"
        sent = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        assert sent == {
            "host": there.base.removeprefix("http://"), "content-type": "application/json",
            "user-agent": "overt", "x-beta": "one", "x-api-key": KEY,
            "x-overt-hops": "1", "accept-encoding": "identity",
            "content-length": str(len(POST.body)),
        }  # fmt: skip
        assert there.got[0].body == POST.body


@manner("cookie")
async def _cookie(wire: Wire) -> None:
    await wire.head(set_cookie="track=1", content_length=str(len(wire.answer)))
    await wire.send(wire.answer)


async def test_cookies_are_not_kept_and_connections_are() -> None:
    async with peer("cookie") as there, rig() as one:
        await one.said(to(there))
        await one.said(to(there))
        assert b"cookie" not in there.got[1].head.lower()
        assert there.connections == 1


@manner("in one piece")
async def _in_one_piece(wire: Wire) -> None:
    await wire.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(wire.answer), wire.answer)
    )


async def test_a_reader_that_stops_at_the_last_word_keeps_the_connection_too() -> None:
    async with peer("in one piece") as there, rig() as one:
        for _ in range(2):
            async with aclosing(one.upstream.stream(to(there), POST, failure)) as answer:
                async for said in answer:
                    if said == ServerEvent("", b"[DONE]"):
                        break
        assert len(there.got) == 2
        assert there.connections == 1


@manner("json")
async def _json(wire: Wire) -> None:
    body = b' {"answer": 1}'
    await wire.head(content_type="application/json; charset=utf-8", content_length=str(len(body)))
    await wire.send(body)


@manner("json as stream")
async def _json_as_stream(wire: Wire) -> None:
    await wire.stream()
    await wire.chunk(b'{"answer":')
    await wire.chunk(b" 1}")
    await wire.send(b"0\r\n\r\n")


@pytest.mark.parametrize("how", ["json", "json as stream"])
async def test_a_server_that_does_not_stream_says_one_thing(how: str) -> None:
    async with peer(how) as there, rig() as one:
        _, said = await one.said(to(there))
        assert isinstance(said, ServerEvent)
        assert json.loads(said.data) == {"answer": 1}
        assert json.loads(await one.upstream.ask(to(there), POST, failure)) == {"answer": 1}


async def test_an_odd_content_type_is_read_as_events() -> None:
    async with peer("other type") as there, rig() as one:
        assert (await one.said(to(there)))[1:] == [
            ServerEvent("", b"hello"),
            ServerEvent("", b"[DONE]"),
        ]


async def test_many_at_once() -> None:
    async with peer() as there, rig() as one:
        answers = await asyncio.gather(*(one.said(to(there)) for _ in range(50)))
        assert all(len(answer) == 3 for answer in answers)
        assert len(there.got) == 50


# ---- policy --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error"), [({"offline": True}, Offline), ({"egress": "none"}, NoEgress)]
)
async def test_policy_is_asked_first_and_nothing_is_sent(
    settings: dict[str, Any], error: type[OvertError], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = HttpClient(replace(Settings(), **settings))
    monkeypatch.setattr(one, "_client", None)  # whoever went on would fail by it
    with pytest.raises(error):
        await one.ask(to("https://api.acme.example"), POST, failure)


async def test_policy_is_asked_before_each_try() -> None:
    def check(url: str) -> None:
        asked.append(url)
        if len(asked) == 2:
            raise NoEgress("nothing was sent")

    asked: list[str] = []
    async with peer("503") as there:
        one = HttpClient(Settings(), check=check, sleep=lambda _: asyncio.sleep(0))
        with pytest.raises(NoEgress):
            await one.ask(to(there), POST, failure)
        assert len(there.got) == 1
        await one.close()


async def test_what_stays_on_this_machine_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer() as there, peer() as proxy, rig() as one:
        monkeypatch.setenv("HTTP_PROXY", proxy.base)
        await one.said(to(there))
        assert (len(there.got), len(proxy.got)) == (1, 0)
        await one.said(to("http://acme.example"))
        assert [got.path for got in proxy.got] == ["http://acme.example/messages"]


@pytest.mark.parametrize("path", ["@elsewhere.example/", "x", ".elsewhere.example/"])
async def test_a_path_cannot_change_the_host(path: str) -> None:
    async with rig() as one:
        with pytest.raises(BadRequest, match="begins with a slash"):
            await one.said(to("https://api.acme.example"), PostRequest(path, b""))
        assert one.asked == []


async def test_a_redirect_is_an_error_that_names_where_it_points() -> None:
    async with peer("redirect") as there, rig() as one:
        with pytest.raises(ProviderFailed, match=r"redirects to elsewhere\.example") as error:
            await one.said(to(there))
        assert not error.value.billed
        with pytest.raises(ProviderFailed, match=r"redirects to elsewhere\.example"):
            _ = [piece async for piece in one.upstream.forward(to(there), POST)]
        assert len(there.got) == 2


# ---- keys ----------------------------------------------------------------------------------


@manner("repeats the key")
async def _repeats(wire: Wire) -> None:
    body = f"wrong key {KEY}, or {KEY[3:14]}… maybe, or {KEY[-8:]}".encode()
    await wire.head("401 Unauthorized", content_length=str(len(body)))
    await wire.send(body)


async def test_a_key_that_is_repeated_is_taken_out_of_the_error() -> None:
    async with peer("repeats the key") as there, rig() as one:
        with pytest.raises(NeedsAccess) as error:
            await one.said(to(there))
        said = f"{error.value} {error.value!r} {error.value.as_json()}"
        assert "wrong key [key], or [key]… maybe, or [key]" in error.value.message
        assert not any(KEY[at : at + 8] in said for at in range(len(KEY) - 7))


@pytest.mark.parametrize("key", ["sk-\n-newline-in-it", "sk-ключ-not-ascii", "sk-\x00-zero"])
async def test_a_key_that_no_header_can_hold_is_an_error_that_does_not_show_it(key: str) -> None:
    async with peer() as there, rig() as one:
        with pytest.raises(BadSetting, match="x-api-key") as error:
            await one.said(to(there, headers={"x-api-key": key}, secret=key))
        assert key not in str(error.value)
        assert error.value.hint == "overt login acme"
        assert there.got == []


@given(some.text("abc", max_size=60), some.text("abc", min_size=8, max_size=20))
def test_no_long_piece_of_a_key_is_left(text: str, secret: str) -> None:
    pieces = {secret[at : at + 8] for at in range(len(secret) - 7)}
    left = clean(f"{text}{secret}{text}", secret)
    assert not any(piece in left for piece in pieces)
    assert clean("nothing of it: xyzxyzxyz", secret) == "nothing of it: xyzxyzxyz"


def test_short_keys() -> None:
    assert clean("the key none", "none") == "the key [key]"
    assert clean("x is not a key", "x") == "x is not a key"
    assert clean("abc", "") == "abc"


# ---- trying again --------------------------------------------------------------------------


async def test_what_cannot_be_billed_is_tried_again_and_told() -> None:
    async with peer(in_turn("503", "429", "fine")) as there, rig() as one:
        begun, *rest = await one.said(to(there))
        assert len(rest) == 2
        assert begun == ResponseBegun(
            "req_1", sum(len(got.raw) for got in there.got)
        )  # all that left
        assert one.slept == [0.25, 0.5]  # half of 0.5 s, then of 1 s
        assert one.told == [
            "acme answered 503; asking again in 0.2 s (1 of 2)",
            "acme answered 429; asking again in 0.5 s (2 of 2)",
        ]
        assert len({got.raw for got in there.got}) == 1


@pytest.mark.parametrize("status", ["429", "500", "503", "529"])
async def test_after_the_retries_the_dialect_says_what_it_means(status: str) -> None:
    async with peer(status) as there, rig(retries=2) as one:
        with pytest.raises(OvertError, match=f"answered {status}"):
            await one.said(to(there))
        assert len(there.got) == 3


@pytest.mark.parametrize(
    "how",
    ["502", "504", "redirect", "no answer", "reset", "not http", "broken off", "cut chunk",
     "bad chunk", "no last chunk", "empty", "compressed", "web page", "huge line"],
)  # fmt: skip
async def test_what_may_be_billed_is_sent_once(how: str) -> None:
    async with peer(how) as there, rig(retries=5) as one:
        with pytest.raises(ProviderFailed) as error:
            await one.said(to(there))
        assert len(there.got) == 1
        assert one.slept == []
        assert error.value.billed == (how not in ("502", "504", "redirect"))
        assert "\n" not in str(error.value)


@manner("409")
async def _409(wire: Wire) -> None:
    await wire.refuse("409 Conflict")


@manner("409 retry")
async def _409_retry(wire: Wire) -> None:
    await wire.refuse("409 Conflict", x_should_retry="true")


@manner("429 final")
async def _429_final(wire: Wire) -> None:
    await wire.refuse("429 Too Many Requests", x_should_retry="false")


@pytest.mark.parametrize(("how", "times"), [("409", 1), ("409 retry", 3), ("429 final", 1)])
async def test_the_provider_may_say_whether(how: str, times: int) -> None:
    async with peer(how) as there, rig() as one:
        with pytest.raises(OvertError):
            await one.said(to(there))
        assert len(there.got) == times


@manner("429 for long")
async def _429_for_long(wire: Wire) -> None:
    await wire.refuse("429 Too Many Requests", retry_after="3600")


@manner("503 for long")
async def _503_for_long(wire: Wire) -> None:
    await wire.refuse("503 Service Unavailable", retry_after_ms="90000")


@manner("429 for five")
async def _429_for_five(wire: Wire) -> None:
    await wire.refuse("429 Too Many Requests", retry_after="5")


@pytest.mark.parametrize(("how", "wait"), [("429 for long", 3600), ("503 for long", 90)])
async def test_a_long_wait_is_not_waited_for(how: str, wait: float) -> None:
    async with peer(how) as there, rig() as one:
        with pytest.raises(Busy) as error:
            await one.said(to(there))
        assert error.value.retry_after == wait
        assert (one.slept, len(there.got)) == ([], 1)


async def test_a_short_wait_is_waited_for_and_told_at_the_end() -> None:
    async with peer("429 for five") as there, rig(retries=1) as one:
        with pytest.raises(Busy) as error:
            await one.said(to(there))
        assert (one.slept, error.value.retry_after) == ([5], 5)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7), ({"retry-after": "0.5"}, 0.5), ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25), ({}, None),
        ({"retry-after": formatdate(1030, usegmt=True)}, 30),
        ({"retry-after": formatdate(900, usegmt=True)}, 0),
        ({"retry-after": "nan"}, None), ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None), ({"retry-after-ms": "x", "retry-after": "2"}, 2),
    ],
)  # fmt: skip
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, 1000) == seconds


@given(some.text(max_size=40))
def test_retry_after_holds_against_anything(text: str) -> None:
    found = retry_after({"retry-after": text, "retry-after-ms": text}, 1e9)
    assert found is None or 0 <= found < float("inf")


# ---- connections that cannot be made -------------------------------------------------------


async def _closed_port() -> str:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"


async def test_nobody_there_is_tried_again_and_costs_nothing() -> None:
    async with rig() as one:
        with pytest.raises(ProviderFailed, match="cannot be reached: connect") as error:
            await one.said(to(await _closed_port()))
        assert not error.value.billed
        assert len(one.slept) == 2
        assert one.told[0].startswith("acme cannot be reached; asking again in 0.")


async def test_nobody_answers_in_time_is_tried_again_and_costs_nothing() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        base = f"http://127.0.0.1:{full.getsockname()[1]}"
        for _ in range(4):  # as many as it takes, and then none is let in
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with rig(connect_timeout="30ms") as out:
            with pytest.raises(TimedOut, match=r"could not be reached within 0\.03 s;") as error:
                await out.said(to(base))
            assert not error.value.billed
            assert len(out.slept) == 2
            assert error.value.hint == "raise it: OVERT_CONNECT_TIMEOUT=0.06s"


async def test_a_dead_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = (await _closed_port()).removeprefix("http://")
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{dead}")
    async with rig() as one:
        with pytest.raises(ProviderFailed) as error:
            await one.said(to("https://acme.example"))
    said = str(error.value)
    assert said.startswith(f"acme cannot be reached through the proxy {dead}: connection refused;")
    assert "HTTPS_PROXY" in said
    assert "secret" not in said


async def test_a_limit_of_nothing_is_not_doubled() -> None:
    async with peer("hangs", b"") as there, rig(first_timeout="0s", connect_timeout="5s") as one:
        with pytest.raises(TimedOut) as error:
            await one.said(to(there))
        assert error.value.hint
        assert error.value.hint.endswith("TIMEOUT=1m")


async def _speaks_no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read(1)
    writer.close()


async def _says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 10):
        pass
    writer.close()


@pytest.mark.parametrize(
    ("server", "error", "tries"),
    [(_speaks_no_tls, "TLS with acme failed", 1), (_says_nothing, "could not be reached", 3)],
)
async def test_https_to_a_server_without_it(server: Any, error: str, tries: int) -> None:
    async with await asyncio.start_server(server, "127.0.0.1", 0) as there:
        base = f"https://127.0.0.1:{there.sockets[0].getsockname()[1]}"
        async with rig(connect_timeout="50ms") as one:
            with pytest.raises(ProviderFailed, match=error) as caught:
                await one.said(to(base))
            assert not caught.value.billed
            assert len(one.slept) == tries - 1


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", cert, "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


async def test_tls_is_verified_and_not_tried_again(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    there = Peer(answer=b"data: hello\n\n")
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0, ssl=context)
    base = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with rig() as one:
        with pytest.raises(ProviderFailed, match="certificate of acme is not trusted") as error:
            await one.said(to(base))
        assert "SSL_CERT_FILE" in str(error.value)
        assert (one.slept, there.got) == ([], [])
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(cert))
    async with rig() as one:
        assert (await one.said(to(base)))[1:] == [ServerEvent("", b"hello")]
    server.close()
    await server.wait_closed()


# ---- time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "name"),
    [("hangs", "FIRST"), ("slow", "FIRST"), ("pings", "FIRST"), ("drips", "FIRST"),
     ("hangs within", "BETWEEN")],
)  # fmt: skip
async def test_silence_ends_in_the_setting_that_allows_more(how: str, name: str) -> None:
    answer = b"data: hello\n\n" * 4
    limits = {"first_timeout": "50ms" if name == "FIRST" else "5s", "between_timeout": "40ms"}
    async with peer(how, answer) as there, rig(**limits) as one:
        with pytest.raises(TimedOut, match="may bill") as error:
            await one.said(to(there))
        assert error.value.hint
        assert error.value.hint.startswith(f"raise it: OVERT_{name}_TIMEOUT=")
        assert error.value.billed
        await asyncio.wait_for(there.left.wait(), 5)
        assert len(there.got) == 1


@manner("announces, then thinks")
async def _thinks(wire: Wire) -> None:
    await wire.stream()
    for name in (b"response.created", b"response.in_progress", b"response.output_item.added"):
        await wire.chunk(b"event: %s\ndata: {}\n\n" % name)
    await asyncio.sleep(0.4)
    await wire.chunk(b"event: response.output_text.delta\ndata: {}\n\n")
    await wire.send(b"0\r\n\r\n")


async def test_a_model_may_think_after_it_was_announced() -> None:
    async with peer("announces, then thinks") as there, rig(between_timeout="250ms") as one:
        assert len(await one.said(to(there))) == 5


async def test_a_slow_reader_does_not_make_a_provider_late() -> None:
    limits = {"first_timeout": "150ms", "between_timeout": "150ms"}
    async with peer(answer=b"data: a\n\n" * 2) as there, rig(**limits) as one:
        said = []
        async with aclosing(one.upstream.stream(to(there), POST, failure)) as answer:
            async for event in answer:
                said.append(event)
                await asyncio.sleep(0.2)
        assert len(said) == 3


async def test_forever_is_no_limit() -> None:
    limits = dict.fromkeys(("first_timeout", "between_timeout", "connect_timeout"), "forever")
    async with peer("slow") as there, rig(**limits) as one:
        assert len(await one.said(to(there))) == 3


@pytest.mark.parametrize(
    ("at", "by"), [("before", "task"), ("within", "task"), ("within", "generator")]
)
async def test_leaving_closes_the_connection_at_once(at: str, by: str) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(one.upstream.stream(to(there), POST, failure)) as answer:
            async for said in answer:
                if isinstance(said, ServerEvent):
                    begun.set()
                    if by == "generator":
                        return

    how = "hangs" if at == "before" else "hangs within"
    async with peer(how, b"data: hello\n\n" * 4) as there, rig() as one:
        task = asyncio.create_task(read())
        while not (there.got and (at == "before" or begun.is_set())):
            await asyncio.sleep(0.001)
        if by == "task":
            task.cancel()
        await asyncio.wait_for(there.left.wait(), 1)
        await asyncio.gather(task, return_exceptions=True)


async def test_patience_is_one_timer_for_many_waits_and_ends_the_one_that_is_too_long() -> None:
    loop = asyncio.get_running_loop()
    patience = WaitTimer(loop)
    for _ in range(3):
        with patience.until(loop.time() + 0.25):
            await asyncio.sleep(0.1)  # together longer than one wait may be
    with pytest.raises(TimeoutError), patience.until(loop.time() + 0.01):
        await asyncio.sleep(5)
    with pytest.raises(TimeoutError), patience.until(loop.time() - 1):
        await asyncio.sleep(5)
    with patience.until(float("inf")):
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0
    patience.close()


async def test_patience_leaves_other_cancellations_alone() -> None:
    async def wait(limit: float) -> None:
        loop = asyncio.get_running_loop()
        patience = WaitTimer(loop)
        try:
            with patience.until(loop.time() + limit):
                await asyncio.sleep(5)
        finally:
            patience.close()

    for limit in (60.0, 0.0):
        task = asyncio.create_task(wait(limit))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):  # which counts cancellations too
            await wait(0.01)


_EVERY = sorted(
    {
        one
        for one in vars(httpx2).values()
        if isinstance(one, type) and issubclass(one, httpx2.RequestError | httpx2.InvalidURL)
    }
    | {TimeoutError, OSError, ssl.SSLError, ValueError, RuntimeError, ImportError, KeyError},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", _EVERY)
@pytest.mark.parametrize(("sent", "heard"), [(False, False), (True, False), (True, True)])
def test_whatever_is_raised_is_one_sentence_of_ours(
    kind: type[Exception], sent: bool, heard: bool
) -> None:
    caught = kind(f"illegal header value b'Bearer {KEY}'")
    error = map_transport_error(
        caught, to("http://127.0.0.1"), HttpTimeouts(1, 2, 3), sent=sent, heard=heard
    )
    assert isinstance(error, ProviderFailed | BadSetting)
    assert "acme" in error.message
    assert KEY not in f"{error} {error!r}"
    assert "\n" not in str(error)
    assert isinstance(error, BadSetting) or error.billed == sent


# ---- the circuit breaker -------------------------------------------------------------------


async def test_five_failures_open_it_and_a_probe_closes_it() -> None:
    async with peer(in_turn(*["502"] * 6, "fine")) as there, rig() as one:
        for _ in range(5):
            with pytest.raises(ProviderFailed):
                await one.said(to(there))
        with pytest.raises(Busy, match="left alone for 10 s") as error:
            await one.said(to(there))
        assert error.value.retry_after == 10
        assert len(there.got) == 5
        one.now = 10
        with pytest.raises(ProviderFailed):
            await one.said(to(there))
        with pytest.raises(Busy, match="left alone for 20 s"):
            await one.said(to(there))
        one.now = 30
        assert len(await one.said(to(there))) == 3
        assert len(await one.said(to(there))) == 3


async def test_when_it_opens_between_retries_the_provider_has_the_last_word() -> None:
    async with peer("503") as there, rig(retries=9) as one:
        with pytest.raises(ProviderFailed, match="answered 503"):
            await one.said(to(there))
        assert len(there.got) == 5


@pytest.mark.parametrize("how", ["429 final", "repeats the key", "redirect"])
async def test_refusals_do_not_count(how: str) -> None:
    async with peer(how) as there, rig() as one:
        for _ in range(8):
            with pytest.raises(OvertError):
                await one.said(to(there))
        assert len(there.got) == 8


async def test_a_cancelled_probe_is_not_stuck() -> None:
    async with peer(in_turn(*["502"] * 5, "hangs", "fine")) as there, rig() as one:
        for _ in range(5):
            with pytest.raises(ProviderFailed):
                await one.said(to(there))
        one.now = 10
        task = asyncio.create_task(one.said(to(there)))
        while len(there.got) < 6:
            await asyncio.sleep(0.001)
        with pytest.raises(Busy, match="left alone for 1 s"):
            await one.said(to(there))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(await one.said(to(there))) == 3


async def test_a_probe_is_over_when_it_is_refused_or_begins_to_answer() -> None:
    manners = [*["502"] * 5, "429 final", "hangs within", "fine"]
    async with peer(in_turn(*manners), b"data: hello\n\n" * 4) as there, rig() as one:
        for _ in range(5):
            with pytest.raises(ProviderFailed):
                await one.said(to(there))
        one.now = 10
        with pytest.raises(Busy, match="answered 429"):
            await one.said(to(there))
        async with aclosing(one.upstream.stream(to(there), POST, failure)) as probe:
            assert isinstance(await anext(probe), ResponseBegun)
            with pytest.raises(Busy, match="left alone for 1 s"):
                await one.said(to(there))
            assert await anext(probe) == ServerEvent("", b"hello")
            assert len(await one.said(to(there))) == 5


# ---- handing on ----------------------------------------------------------------------------


@manner("odd")
async def _odd(wire: Wire) -> None:
    await wire.head(
        "418 Teapot", content_type="x/y", content_length="3", set_cookie="a=b", x_key=f"for {KEY}",
        connection="x-own", x_own="1", request_id="r7", x_rate="5",
    )  # fmt: skip
    await wire.send(b"\x00\xff\n")


async def test_an_answer_is_handed_on_as_it_is_without_what_is_ours() -> None:
    async with peer("odd") as there, rig() as one:
        head, *body = [piece async for piece in one.upstream.forward(to(there), POST)]
        assert head == PassedResponse(
            418, {"content-type": "x/y", "request-id": "r7", "x-rate": "5"}, "r7",
            len(there.got[0].raw),
        )  # fmt: skip
        assert body == [b"\x00\xff\n"]
        assert one.asked == [f"{there.base}/messages"]


async def test_a_stream_is_handed_on_byte_for_byte() -> None:
    answer = b': comment\r\nevent: new\ndata: {"x":  1}\n\n\xff'
    async with peer(answer=answer) as there, rig() as one:
        pieces = [piece async for piece in one.upstream.forward(to(there), POST)]
        assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == answer


@pytest.mark.parametrize("how", ["503", "429 after", "no answer", "broken off"])
async def test_handing_on_tries_nothing_again(how: str) -> None:
    async with peer(how) as there, rig() as one:
        answer = one.upstream.forward(to(there), POST)
        if how[0].isdigit():
            first, *_ = [piece async for piece in answer]
            assert isinstance(first, PassedResponse)
            assert str(first.status) == how[:3]
        else:
            with pytest.raises(ProviderFailed, match="may bill"):
                _ = [piece async for piece in answer]
        assert len(there.got) == 1


@pytest.mark.parametrize("how", ["hangs", "hangs within", "pings"])
async def test_handing_on_knows_the_same_limits(how: str) -> None:
    limits = {"first_timeout": "50ms", "between_timeout": "40ms"}
    async with peer(how, b"data: hello\n\n" * 4) as there, rig(**limits) as one:
        with pytest.raises(TimedOut):
            _ = [piece async for piece in one.upstream.forward(to(there), POST)]
        await asyncio.wait_for(there.left.wait(), 5)


@manner("dribbles")
async def _dribbles(wire: Wire) -> None:
    """JSON that never ends, a blank at a time."""
    await wire.head(content_type="application/json", connection="close")
    for _ in range(1000):
        await wire.send(b" ")
        await asyncio.sleep(0.005)


async def test_a_document_handed_on_has_its_time_as_a_whole() -> None:
    async with peer("dribbles") as there, rig(first_timeout="100ms") as one:
        with pytest.raises(TimedOut):
            _ = [piece async for piece in one.upstream.forward(to(there), POST)]
        await asyncio.wait_for(there.left.wait(), 5)


async def test_leaving_before_the_first_word_closes_too() -> None:
    for how in ("stream", "forward"):
        async with peer("hangs within") as there, rig() as one:
            if how == "stream":
                await anext(answer := one.upstream.stream(to(there), POST, failure))
            else:
                await anext(answer := one.upstream.forward(to(there), POST))
            await answer.aclose()
            await asyncio.wait_for(there.left.wait(), 1)


# ---- the rest ------------------------------------------------------------------------------


async def test_close_is_safe_twice_and_without_a_request() -> None:
    one = HttpClient(Settings())
    await one.close()
    await one.close()
