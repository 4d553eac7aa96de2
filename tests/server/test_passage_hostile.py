"""What a provider may not do to whoever asked through this server, and the other way round."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from upstream_peer import Peer, peer

from overt.errors import BadRequest
from overt.providers.http.sse import EventSplitter
from overt.server.passthrough import body as passage_body
from overt.server.passthrough.body import renamed

pytestmark = pytest.mark.anyio

KEY = "sk-owner-0123456789abcdef"
ASKED = {"model": "openai:gpt-x", "messages": []}


@pytest.fixture
async def there(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    async with peer() as state:
        for name, base in {"OPENAI": "/v1", "ANTHROPIC": "", "GOOGLE_GEMINI": ""}.items():
            monkeypatch.setenv(f"{name}_BASE_URL", state.url + base)
        for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        state.headers, state.pieces = {"content-type": "application/json"}, [b"{}"]
        yield state


async def test_headers_that_rule_browsers_and_proxies_stay_behind(api: Any, there: Peer) -> None:
    there.headers |= {
        "access-control-allow-origin": "*", "set-cookie": "a=b", "x-accel-redirect": "/secret",
        "x-sendfile": "/etc/passwd", "clear-site-data": '"*"', "alt-svc": 'h2="evil:443"',
        "strict-transport-security": "max-age=9", "content-security-policy": "none",
        "location": "http://evil.example/", "refresh": "0;http://evil.example/", "server": "evil",
        "date": "never", "x-overt-model": "gpt-9", "openai-organization": "the-owners-firm",
        "x-ratelimit-remaining-requests": "7", "retry-after": "3", "openai-version": "2020-10-01",
        "x-request-id": "req_theirs",
    }  # fmt: skip
    answer = await api.post("/v1/chat/completions", json=ASKED)
    assert answer.status_code == 200
    assert dict(answer.headers) == {
        "content-type": "application/json", "content-length": "2", "x-request-id": "req_theirs",
        "x-ratelimit-remaining-requests": "7", "retry-after": "3", "openai-version": "2020-10-01",
        "x-overt-model": "openai:gpt-x", "x-overt-provider-request": "req_theirs",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_answer_that_repeats_the_key_is_handed_on_without_it(
    api: Any, there: Peer, kind: str
) -> None:
    there.headers = {"content-type": kind, "x-request-id": f"<{KEY}>", "openai-echo": KEY}
    there.pieces = [b'{"you": "', KEY.encode() + b" is", b' it"}']
    if kind != "application/json":
        there.pieces = [b"data: ", *there.pieces, b"\n\ndata: [DONE]\n\n"]
    answer = await api.post("/v1/chat/completions", json=ASKED)
    assert b'{"you": "[key] is it"}' in answer.content
    assert KEY not in answer.text
    assert KEY not in str(answer.headers)


@pytest.mark.parametrize(
    ("path", "model", "event"),
    [("/v1/chat/completions", "openai:gpt-x", b""), ("/v1/messages", "anthropic:c", b"error")],
)
async def test_a_stream_that_breaks_off_ends_in_one_clear_error(
    api: Any, monkeypatch: pytest.MonkeyPatch, path: str, model: str, event: bytes
) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        writer.write(head + b"transfer-encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(breaks, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for name, base in (("OPENAI", "/v1"), ("ANTHROPIC", "")):
            monkeypatch.setenv(f"{name}_BASE_URL", f"http://127.0.0.1:{port}{base}")
        answer = await api.post(path, json={**ASKED, "model": model})
    assert answer.status_code == 200
    first, last = EventSplitter().feed(answer.content)
    assert (first.data, last.name.encode()) == (b"{}", event)
    assert "may bill" in json.loads(last.data)["error"]["message"]


@pytest.mark.parametrize("status", ["201 Made", "204 None", "206 Part", "304 Same", "999 Odd"])
async def test_a_status_that_is_no_answer_becomes_one_error(
    api: Any, there: Peer, status: str
) -> None:
    there.status = status
    there.pieces = [] if status[:3] in ("204", "304") else [b"{}"]
    answer = await api.post("/v1/chat/completions", json=ASKED)
    assert answer.status_code == 502
    assert status[:3] in answer.text


async def test_a_page_is_never_shown_as_one_of_ours(api: Any, there: Peer) -> None:
    there.headers, there.pieces = {"content-type": "text/html"}, [b"<script>alert(1)</script>"]
    for status, expected in (("200 OK", 502), ("403 No", 403), ("500 Oops", 502)):
        there.status = status
        answer = await api.post("/v1/chat/completions", json=ASKED)
        assert answer.status_code == expected
        assert answer.headers["content-type"] == "application/json"
        assert "<script>" not in answer.text


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_what_is_compressed_unasked_is_not_handed_on(
    api: Any, there: Peer, kind: str
) -> None:
    there.headers = {"content-type": kind, "content-encoding": "gzip"}
    there.pieces = [b"\x1f\x8b\x08\x00"]
    for status, expected in (("200 OK", 502), ("400 No", 400)):
        there.status = status
        answer = await api.post("/v1/chat/completions", json=ASKED)
        assert answer.status_code == expected
        assert "error" in answer.json()
        assert "content-encoding" not in answer.headers


async def test_an_error_too_long_to_be_cleaned_is_told_in_our_words(api: Any, there: Peer) -> None:
    there.status, there.pieces = "400 No", [json.dumps({"error": {"x": "y" * 70_000}}).encode()]
    answer = await api.post("/v1/chat/completions", json=ASKED)
    assert answer.status_code == 400
    assert len(answer.content) < 9000
    assert "error" in answer.json()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("models%2Fgemini-x", "models/gemini-x"),
        ("tunedModels%2Fmine", "tunedModels/mine"),
        ("a%2F..%2F..%2Ffiles", "models/a%2F..%2F..%2Ffiles"),
        ("a:deleteIt", "models/a%3AdeleteIt"),
    ],
)
async def test_a_models_name_is_one_piece_of_geminis_path(
    api: Any, there: Peer, name: str, path: str
) -> None:
    answer = await api.post(f"/v1beta/models/gemini:{name}:generateContent?key=a&x=y", json={})
    assert answer.status_code == 200, answer.text
    assert there.got[0].path == f"/v1beta/{path}:generateContent?x=y"


async def test_an_alias_inside_a_body_for_gemini_is_translated(
    api: Any, home: Any, there: Peer
) -> None:
    from overt.gateway import routing

    routing.aliases(home).set("vec", "gemini:gemini-embedding-001")
    there.pieces = [b'{"embeddings": [{"values": [3.0, 4.0]}]}']
    asked = {"requests": [{"model": "models/vec", "content": {"parts": [{"text": "x"}]}}]}
    answer = await api.post("/v1beta/models/vec:batchEmbedContents", json=asked)
    assert answer.status_code == 200, answer.text
    assert json.loads(there.got[0].body)["requests"][0]["model"] == "models/gemini-embedding-001"


async def test_a_callers_odd_header_is_left_behind(api: Any, there: Peer) -> None:
    headers = {"user-agent": "caf\xe9".encode("latin-1"), "openai-beta": b"assistants=v2"}
    answer = await api.post("/v1/chat/completions", json=ASKED, headers=headers)
    assert answer.status_code == 200, answer.text
    assert there.got[0].headers["openai-beta"] == "assistants=v2"
    assert there.got[0].headers["user-agent"] == "overt"


@pytest.mark.parametrize(
    "spelled", ['"model"', '"mod\\u0065l"', '"\\u006D\\u006F\\u0064el"', '"Model"', '"\\u004dODEL"']
)
async def test_of_two_models_neither_reaches_the_provider_as_it_was(
    api: Any, there: Peer, spelled: str
) -> None:
    body = f'{{{spelled}: "gpt-other", "messages": [], "model": "openai:gpt-x"}}'
    answer = await api.post("/v1/chat/completions", content=body)
    assert answer.status_code == 200, answer.text
    assert b"gpt-other" not in there.got[0].body
    assert there.got[0].body.count(b'"gpt-x"') == 2


def test_keys_that_are_no_text_are_not_the_models() -> None:
    body = b'{"\xff":1,"\\n\xff":1,"x":{"model":"y"},"model":"a"}'
    assert renamed(body, "b") == body.replace(b'"a"', b'"b"')


def test_a_body_of_brackets_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage_body, "_MAX_TOKENS", 100)
    body = b'{"model":"a","x":[' + b"[]," * 100 + b'1],"model":"c"}'
    with pytest.raises(BadRequest, match="100 strings and brackets"):
        renamed(body, "b")


def test_objects_are_looked_through_only_where_the_name_stands_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body of 20 MiB of brackets would take seconds that way."""

    def never(body: bytes) -> Any:
        raise AssertionError

    monkeypatch.setattr(passage_body, "_slow", never)
    many = b"[]," * 1000
    assert renamed(b'{"x":[' + many + b'1],"model" : "a"}', "b").endswith(b'"model" : "b"}')
