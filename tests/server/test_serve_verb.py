"""`overt serve` as a process: who gets in, how it ends, and what it says of itself."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from conftest import OvertCli
from overt.server.api_keys import ApiKeys, NewKey
from registries import certificate
from serving import Served, copy_home, serving

SLOW = {
    "model": "echo:slow",  # 20 words a second
    "stream": True,
    "messages": [{"role": "user", "content": "word " * 100}],
}


def ask(served: Served, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(served.url + path, headers=headers, trust_env=False)


def chat(served: Served, text: str, model: str = "echo:x", **more: Any) -> httpx2.Response:
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": text}]}
    return httpx2.post(
        f"{served.url}/v1/chat/completions", json=body, trust_env=False, timeout=30, **more
    )


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def read_all(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


# ---- who gets in ---------------------------------------------------------------------------


@pytest.fixture
def key(home: Path) -> NewKey:
    return ApiKeys(home).add("laptop")


def spellings(secret: str) -> list[tuple[dict[str, str], str]]:
    """(headers, query) of every way that clients send a key."""
    basic = b64encode(f"me:{secret}".encode()).decode()
    return [
        ({"authorization": f"Bearer {secret}"}, ""),
        ({"authorization": f"Basic {basic}"}, ""),
        ({"x-api-key": secret}, ""),
        ({"x-api-key": secret, "anthropic-version": "2023-06-01"}, ""),
        ({"x-goog-api-key": secret}, ""),
        ({}, f"?key={secret}"),
    ]


ADDRESSES = (
    "/v1/models", "/v1/models/echo:x", "/api/tags", "/api/version", "/api/v0/models", "/docs",
    "/openapi.json", "/metrics", "/", "/nothing/here", "/v1beta/models",
)  # fmt: skip


def test_every_address_is_behind_every_spelling_of_a_key(home: Path, key: NewKey) -> None:
    with serving(home, "--require-key") as served:
        for path in ADDRESSES:
            assert ask(served, path).status_code == 401, path
            for secret in ("ollama", "sk-ov-12345678-12345678901234567890"):
                for headers, query in spellings(secret):
                    assert ask(served, path + query, **headers).status_code == 401, (path, headers)
        for headers, query in [*spellings(key.text), *spellings(key.lm_studio)]:
            assert ask(served, f"/v1/models{query}", **headers).status_code == 200, headers
        two = ask(served, "/v1/models", **{"authorization": f"Bearer {key.text}", "x-api-key": "a"})
        assert two.status_code == 401
        assert chat(served, "a b").status_code == 401
        assert chat(served, "a b", headers={"x-api-key": key.text}).status_code == 200
        for path in ("/healthz", "/readyz", "/lmstudio-greeting"):
            assert ask(served, path).status_code == 200, "who asks these has no key yet"
        written = served.log.read_text()
    assert key.text[-20:] not in written
    assert key.key.id in written


def test_a_revoked_key_ends_within_two_seconds_and_a_new_one_begins(
    home: Path, key: NewKey
) -> None:
    with serving(home, "--require-key") as served:
        headers = {"authorization": f"Bearer {key.text}"}
        assert ask(served, "/v1/models", **headers).status_code == 200
        ApiKeys(home).revoke(key.key.id)
        eventually(lambda: ask(served, "/v1/models", **headers).status_code == 401, 2)
        new = {"x-api-key": ApiKeys(home).add().text}
        eventually(lambda: ask(served, "/v1/models", **new).status_code == 200, 2)


def test_on_this_machine_made_up_keys_do_and_wrong_ones_of_ours_do_not(home: Path) -> None:
    with serving(home) as served:
        for headers, query in [({}, ""), *spellings("ollama"), *spellings("sk-proj-x")]:
            assert ask(served, f"/v1/models{query}", **headers).status_code == 200, headers
        for headers, query in spellings("sk-ov-12345678-12345678901234567890"):
            assert ask(served, f"/v1/models{query}", **headers).status_code == 401, headers


def test_pages_and_names_of_others_are_refused(home: Path) -> None:
    with serving(home, "--name", "ai.team", "--origin", "https://chat.example") as served:
        port = served.port
        for host, status in (
            (f"127.0.0.1:{port}", 200), (f"localhost:{port}", 200), ("ai.team", 200),
            (f"rebound.example:{port}", 421), ("localhost.rebound.example", 421),
            ("192.0.2.1", 421),
        ):  # fmt: skip
            assert ask(served, "/v1/models", host=host).status_code == status, host
        for origin, status in (
            (served.url, 200), ("https://chat.example", 200), ("https://evil.example", 403),
            ("null", 403), (f"http://localhost:{port}", 403),
        ):  # fmt: skip
            answer = ask(served, "/v1/models", origin=origin)
            assert answer.status_code == status, origin
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (origin if origin == "https://chat.example" else None)
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "a-b"}
        before = httpx2.options(
            f"{served.url}/v1/chat/completions",
            headers={"origin": "https://chat.example", **asks},
            trust_env=False,
        )
        assert (before.status_code, before.content) == (204, b"")
        assert before.headers["access-control-allow-headers"] == "a-b"
        foreign = httpx2.options(
            f"{served.url}/v1/chat/completions",
            headers={"origin": "https://evil.example", **asks},
            trust_env=False,
        )
        assert foreign.status_code == 403
        error = ask(served, "/v1/nothing", origin="https://chat.example")
        assert error.status_code == 404
        assert error.headers["access-control-allow-origin"] == "https://chat.example"


def test_websockets_are_behind_the_same_checks(home: Path, key: NewKey) -> None:
    with serving(home) as served:
        url = f"ws://{served.address}/llm"
        wrong: list[dict[str, Any]] = [
            {"origin": "https://evil.example"},
            {"additional_headers": {"x-api-key": "sk-ov-wrong"}},
        ]
        for options in wrong:
            with pytest.raises(InvalidStatus) as caught:
                connect(url, proxy=None, **options)
            assert caught.value.response.status_code == 403
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as peer:
            peer.sendall(
                b"GET /llm HTTP/1.1\r\nHost: rebound.example\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert peer.recv(100).startswith(b"HTTP/1.1 403")
        for options in ({}, {"origin": served.url}):
            with connect(url, proxy=None, **options):
                pass


def test_beyond_this_machine_it_needs_a_key_and_says_how_to_make_one(
    home: Path, overt_cli: OvertCli
) -> None:
    for host in ("0.0.0.0", "::"):
        ran = overt_cli("serve", "--host", host, "--port", "0")
        assert ran.code == 2
        assert ran.stderr.startswith(f"overt: {host} can be reached by other machines")
        assert "`overt keys add`" in ran.stderr
    new = ApiKeys(home).add()
    with serving(home, "--host", "0.0.0.0") as served:
        url = f"http://127.0.0.1:{served.port}/v1/models"
        assert httpx2.get(url, trust_env=False).status_code == 401
        assert httpx2.get(url, headers={"x-api-key": new.text}, trust_env=False).status_code == 200
        assert "unencrypted" in served.log.read_text()


def test_what_makes_no_sense_is_told_before_anything_starts(
    home: Path, overt_cli: OvertCli
) -> None:
    for arguments, said in (
        (("--certificate", "x.pem"), "TLS needs a certificate and its key"),
        (("--token", "x" * 20), "--token is for --mirror; make a key instead"),
        (("--origin", "chat.example"), "'chat.example' is not an origin"),
        (("--origin", "*"), "would let every web page use the models"),
        (("--name", "http://x"), "is not a host name"),
        (("--require-key",), "there is no key that works; make one with `overt keys add`"),
        (("--host", "no..name"), "is no address of this machine"),
        (("--registry", "https://x"), "'https://x' is not a registry's host"),
        (("--mirror", "--registry", "x"), "--registry means nothing to a mirror"),
        (("--log", "xml"), "'xml' is not one of"),
        (("--preload", "no-such-model"), "overt: no-such-model is not in the store"),
    ):
        ran = overt_cli("serve", *arguments, timeout=30)
        assert ran.code in (1, 2, 3), arguments
        assert said in ran.stderr, arguments
        assert ran.stdout == ""


def test_tls(home: Path, tmp_path: Path) -> None:
    import ssl

    made = certificate(tmp_path / "tls", "DNS:localhost,IP:127.0.0.1")
    pair = ("--certificate", str(made.certificate), "--key", str(made.key))
    with serving(home, *pair) as served:
        assert served.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(made.certificate))
        with httpx2.Client(verify=trust, trust_env=False) as client:
            assert client.get(f"{served.url}/healthz").status_code == 200
            own = {"origin": served.url}
            assert client.get(f"{served.url}/v1/models", headers=own).status_code == 200
            plain = {"origin": served.url.replace("https", "http")}
            assert client.get(f"{served.url}/v1/models", headers=plain).status_code == 403


# ---- how it ends ---------------------------------------------------------------------------


def test_sigterm_lets_a_running_answer_end_and_takes_no_new_one(home: Path) -> None:
    with serving(home) as served:
        with httpx2.stream(
            "POST", f"{served.url}/v1/chat/completions", json=SLOW, trust_env=False, timeout=30
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)

            def refused() -> bool:
                try:
                    ask(served, "/healthz")
                except httpx2.TransportError:
                    return True
                return False

            eventually(refused)
            assert served.process.poll() is None
            rest = list(lines)
        assert rest.count("data: [DONE]") == 1, "the answer came whole"
        assert sum("word" in line for line in rest) >= 98
        assert served.process.wait(timeout=10) == 0
        assert "stopped" in served.log.read_text()


def test_a_second_signal_ends_it_at_once(home: Path) -> None:
    with (
        serving(home) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=10) as peer,
    ):
        body = json.dumps({**SLOW, "messages": [{"role": "user", "content": "word " * 900}]})
        peer.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert peer.recv(12) == b"HTTP/1.1 200"
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            served.process.wait(timeout=0.5)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=15) == 0, "half a minute would be the first signal's"


def test_an_idle_connection_and_an_open_socket_do_not_hold_it_up(home: Path) -> None:
    with (
        serving(home) as served,
        httpx2.Client(trust_env=False) as client,
        connect(f"ws://{served.address}/llm", proxy=None),
    ):
        assert client.get(f"{served.url}/healthz").status_code == 200
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=25) == 0
        assert time.monotonic() - begun < 20, "running answers would have half a minute"


@pytest.mark.slow
def test_an_answer_that_takes_for_ever_is_cut_after_half_a_minute(home: Path) -> None:
    long = {**SLOW, "messages": [{"role": "user", "content": "word " * 2000}]}
    with (
        serving(home) as served,
        httpx2.stream(
            "POST", f"{served.url}/v1/chat/completions", json=long, trust_env=False, timeout=60
        ) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert served.process.wait(timeout=45) == 0
        assert 25 < time.monotonic() - begun < 40
        with pytest.raises(httpx2.RemoteProtocolError):
            list(lines)


# ---- what it says of itself ----------------------------------------------------------------


def test_metrics_and_log_of_real_requests(home: Path) -> None:
    with serving(home, "--log", "json") as served:
        assert chat(served, "one two three").status_code == 200
        with httpx2.stream(
            "POST", f"{served.url}/v1/chat/completions", json=SLOW, trust_env=False, timeout=30
        ) as answer:
            lines = answer.iter_lines()  # kept: the connection is closed with it
            next(lines)
            # An answer may be read before its request counts as over.
            eventually(lambda: served.metric("overt_requests_in_flight") == 1)
        counted = {"protocol": "openai", "route": "/v1/chat/completions", "method": "POST"}
        eventually(lambda: served.metric("overt_requests_total", status="499") == 1)
        assert served.metric("overt_requests_total", status="200", **counted) == 1
        assert served.metric("overt_tokens_out_total", model="echo:x") == 3
        assert served.metric("overt_time_to_first_token_seconds_count", model="echo:x") == 1
        eventually(lambda: served.metric("overt_requests_in_flight") == 0)
        assert ask(served, "/v1/models?key=hunter2&x=private").status_code == 200
        written = served.log.read_text().splitlines()
    rows = [json.loads(line) for line in written if line.startswith("{")]
    first = next(row for row in rows if row["path"] == "/v1/chat/completions")
    assert {name: first[name] for name in ("status", "model", "tokens_in", "tokens_out")} == {
        "status": 200, "model": "echo:x", "tokens_in": 3, "tokens_out": 3,
    }  # fmt: skip
    assert first["id"].startswith("req_")
    assert [row["status"] for row in rows if row["path"] == "/v1/chat/completions"] == [200, 499]
    text = "\n".join(written)
    for private in ("one two", "hunter2", "private", "word"):
        assert private not in text


@pytest.mark.parametrize(("kind", "said"), [("text", "POST /v1/chat/completions 200"), ("off", "")])
def test_the_log_is_text_or_nothing_where_that_is_asked_for(
    home: Path, kind: str, said: str
) -> None:
    with serving(home, "--log", kind) as served:
        assert chat(served, "one").status_code == 200
    requests = [line for line in served.log.read_text().splitlines() if "POST" in line]
    assert len(requests) == bool(said)
    assert all(line.startswith(said) for line in requests)


def test_its_pages_are_pages(home: Path) -> None:
    with serving(home) as served:
        docs = ask(served, "/docs")
        assert docs.headers["content-security-policy"].startswith("default-src 'none'")
        assert "/v1/chat/completions" in docs.text
        made = ask(served, "/openapi.json").json()
        assert made["openapi"] == "3.1.0"
        assert "/api/chat" in made["paths"]
        head = httpx2.head(f"{served.url}/docs", trust_env=False)
        assert (head.status_code, head.content) == (200, b"")


def test_spans_leave_by_the_standard_variables(home: Path) -> None:
    from test_telemetry import attributes, collecting

    with collecting() as collector:
        with serving(home, env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as served:
            assert chat(served, "one two").status_code == 200
        (span,) = collector.spans()
    found = attributes(span)
    assert (found["gen_ai.request.model"], found["gen_ai.usage.output_tokens"]) == ("echo:x", 2)
    assert found["server.port"] == served.port


def test_the_person_is_told_where_it_is_and_ctrl_c_ends_it(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "overt", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("serving at http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "stopped\n")


@pytest.mark.model
def test_a_preloaded_model_is_there_when_the_door_opens(model_home: Path, tmp_path: Path) -> None:
    home = copy_home(model_home, model_home.parent / f"{tmp_path.name}-preload")
    try:
        with serving(home, "--preload", "smollm2", "--context", "512") as served:
            assert served.metric("overt_models_loaded") == 1
            memory = served.metric("overt_model_memory_bytes", purpose="answer")
            assert memory is not None
            assert memory > 50 << 20
            assert chat(served, "Hello", "smollm2").status_code == 200
            assert served.metric("overt_model_loads_total") == 1
    finally:
        shutil.rmtree(home)
