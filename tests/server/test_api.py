"""The API's own half: routing, bodies, errors and the client that leaves, without any protocol."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import msgspec
import pytest

from open_gate import OpenGate
from overt.errors import TooMany
from overt.protocols.base import HttpCall, HttpReply, HttpRoute, Protocol, Stream
from overt.server import api
from overt.server.api import Api
from overt.server.routing import RoutingTable

pytestmark = pytest.mark.anyio


class Nothing:
    """Services that no handler here asks for anything."""

    def dispatch_with(self, dispatch: Any) -> None:
        self.dispatch = dispatch


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    word: str


async def say(call: HttpCall) -> HttpReply:
    return HttpReply({"said": call.read(Asked).word, "by": "one"})


async def other(call: HttpCall) -> HttpReply:
    return HttpReply({"by": "two"})


async def named(call: HttpCall) -> HttpReply:
    return HttpReply({"name": call.params["name"], "q": call.query.get("q")})


async def broken(call: HttpCall) -> HttpReply:
    raise RuntimeError("a secret of the server")


async def counted(call: HttpCall) -> Stream:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one "
        yield b"two"

    return Stream(chunks())


async def late(call: HttpCall) -> Stream:
    async def chunks() -> AsyncGenerator[bytes, None]:
        raise TooMany("too many", retry_after=2)
        yield b""

    return Stream(chunks())


async def uploaded(call: HttpCall) -> HttpReply:
    assert call.chunks is not None
    return HttpReply({"length": sum([len(chunk) async for chunk in call.chunks])})


def _refuse(name: str) -> Any:
    return lambda error, id: HttpReply({name: error.message, "id": id}, error.status)


def _protocols() -> tuple[Protocol, ...]:
    one = (
        HttpRoute("POST", "/v1/say", say, "", Asked, limit=100),
        HttpRoute("GET", "/v1/models", say, ""),
        HttpRoute("GET", "/v1/broken", broken, ""),
        HttpRoute("GET", "/v1/counted", counted, ""),
        HttpRoute("GET", "/v1/late", late, ""),
        HttpRoute("POST", "/v1/files", uploaded, "", upload=True, limit=1000),
        HttpRoute("GET", "/v1/models/{name:path}", named, ""),
    )
    two = (HttpRoute("GET", "/v1/models", other, ""),)
    return (
        Protocol("openai", one, _refuse("openai")),
        Protocol("anthropic", two, _refuse("anthropic"), "request-id"),
        Protocol("ollama", (HttpRoute("GET", "/api/tags", other, ""),), _refuse("ollama")),
        Protocol("gemini", two, _refuse("gemini")),
    )


@pytest.fixture
def client() -> httpx2.AsyncClient:
    app = Api(RoutingTable(_protocols()), Nothing(), OpenGate())
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1")


def test_an_api_without_a_gate_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="gate"):
        Api(RoutingTable(_protocols()), Nothing())  # type: ignore[call-arg]


async def test_a_body_is_read_and_answered(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/say", json={"word": "hi"})
    assert answer.json() == {"said": "hi", "by": "one"}
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("headers", "by"),
    [
        ({"anthropic-version": "2023-06-01"}, "two"),
        ({"x-goog-api-key": "k"}, "two"),
    ],
)
async def test_headers_settle_whose_address_it_is(
    client: httpx2.AsyncClient, headers: dict[str, str], by: str
) -> None:
    answer = await client.get("/v1/models", headers=headers)
    assert answer.json() == {"by": by}


async def test_a_name_may_hold_what_an_address_holds(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/models/hf:org/repo%40main%23a.gguf?q=%20x")
    assert answer.json() == {"name": "hf:org/repo@main#a.gguf", "q": " x"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "form", "status"),
    [
        ("GET", "/nowhere", {}, "openai", 404),
        ("GET", "/api/nowhere", {}, "ollama", 404),
        ("GET", "/v1beta/nowhere", {}, "gemini", 404),
        ("GET", "/nowhere", {"anthropic-version": "x"}, "anthropic", 404),
        ("POST", "/v1/messages/nowhere", {}, "anthropic", 404),
        ("GET", "/v1/say", {}, "openai", 405),
    ],
)
async def test_an_address_nobody_has_is_refused_in_the_form_its_client_reads(
    client: httpx2.AsyncClient,
    method: str,
    path: str,
    headers: dict[str, str],
    form: str,
    status: int,
) -> None:
    answer = await client.request(method, path, headers=headers)
    assert answer.status_code == status
    assert form in answer.json()


async def test_a_body_beyond_its_limit_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/say", json={"word": "x" * 200})
    assert answer.status_code == 413
    assert "2" in answer.json()["openai"]


async def test_a_body_that_stops_coming_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_BODY_IDLE_TIMEOUT", 0.05)
    app, sent = Api(RoutingTable(_protocols()), Nothing(), OpenGate()), list[Any]()
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await messages.put({"type": "http.request", "body": b"{", "more_body": True})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/say", "raw_path": b"/v1/say",
        "headers": [], "query_string": b"",
    }  # fmt: skip
    await asyncio.wait_for(app(scope, messages.get, send), 10)
    assert sent[0]["status"] == 400


async def test_an_upload_is_read_in_pieces_and_bounded(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/v1/files", content=b"x" * 900)).json() == {"length": 900}
    assert (await client.post("/v1/files", content=b"x" * 1001)).status_code == 413


async def test_what_breaks_shows_no_trace_of_itself(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["id"] == answer.headers["x-request-id"], "by which the log is searched"


async def test_pieces_arrive_in_order(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/counted")
    assert answer.text == "one two"
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_an_error_before_the_first_piece_still_has_a_status(
    client: httpx2.AsyncClient,
) -> None:
    assert (await client.get("/v1/late")).status_code == 429


async def test_a_client_that_leaves_ends_the_stream_at_once() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(call: HttpCall) -> Stream:
        async def chunks() -> AsyncGenerator[bytes, None]:
            try:
                yield b"first"
                began.set()
                await asyncio.Event().wait()
            finally:
                ended.set()

        return Stream(chunks())

    protocol = Protocol("openai", (HttpRoute("GET", "/v1/x", endless, ""),), _refuse("openai"))
    app = Api(RoutingTable([protocol]), Nothing(), OpenGate())
    sent: list[Any] = []
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await messages.put({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/x", "raw_path": b"/v1/x", "headers": [],
        "query_string": b"",
    }  # fmt: skip
    task = asyncio.ensure_future(app(scope, messages.get, send))
    await began.wait()
    await messages.put({"type": "http.disconnect"})
    await task
    assert ended.is_set()
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]


async def test_a_batch_is_answered_without_a_socket(client: httpx2.AsyncClient) -> None:
    services = Nothing()
    Api(RoutingTable(_protocols()), services, OpenGate())
    from overt.protocols.base import NOBODY

    status, body = await services.dispatch(NOBODY, "POST", "/v1/say", b'{"word": "hi"}')
    assert (status, msgspec.json.decode(body)["said"]) == (200, "hi")
    status, _ = await services.dispatch(NOBODY, "POST", "/v1/say", b'{"word": 1}')
    assert status == 400
    status, _ = await services.dispatch(NOBODY, "POST", "/v1/nowhere", b"")
    assert status == 404
