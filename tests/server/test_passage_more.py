"""Requests handed on but for what is refused, and streams that end in a word their client knows."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream_peer import Peer, peer

from overt.gateway import routing
from overt.providers.http.sse import EventSplitter
from overt.server.passthrough import body as passage_body
from overt.server.passthrough import stream
from overt.server.passthrough.body import RefusedMembers, edited

pytestmark = pytest.mark.anyio

KEY = "sk-owner-0123456789abcdef"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini:gemini-x:streamGenerateContent?alt=sse"
MODELS = {CHAT: "openai:gpt-x", RESPONSES: "openai:gpt-x", MESSAGES: "anthropic:claude-3-x"}
BEGIN = {
    CHAT: b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}],  "error":null}\n\n',
    RESPONSES: b'event: response.output_text.delta\r\n'
               b'data: {"type":"response.output_text.delta","delta":"Hi"}\r\n\r\n',
    MESSAGES: b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
              b'{"input_tokens":12,"output_tokens":1}}}\n\n',
    GEMINI: b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}\r\n\r\n',
}  # fmt: skip
END = {
    CHAT: b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":'
          b'{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n',
    RESPONSES: b'event: response.completed\ndata: {"type":"response.completed","response":'
               b'{"usage":{"input_tokens":7,"output_tokens":3}}}\n\n',
    MESSAGES: b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":'
              b'"end_turn"},"usage":{"output_tokens":3}}\n\n'
              b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    GEMINI: b'data: {"candidates":[{"finishReason":"STOP"}],"usageMetadata":'
            b'{"promptTokenCount":7,"candidatesTokenCount":3}}\r\n\r\n',
}  # fmt: skip


@pytest.fixture
async def there(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    async with peer() as state:
        lead_to(state.url, monkeypatch)
        state.headers, state.pieces = {"content-type": "application/json"}, [b"{}"]
        yield state


def lead_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, base in {"OPENAI": "/v1", "ANTHROPIC": "", "GOOGLE_GEMINI": ""}.items():
        monkeypatch.setenv(f"{name}_BASE_URL", url + base)
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)


def asked(path: str) -> dict[str, Any]:
    if path == GEMINI:
        return {"contents": []}
    return {"model": MODELS[path], "messages": [], "stream": True}


# ---- what is refused -----------------------------------------------------------------------


async def test_only_what_a_family_refuses_is_cut_out(api: Any, there: Peer, home: Path) -> None:
    routing.aliases(home).set("writer", "anthropic:claude-opus-5-5")
    body = (
        b'{ "temperature": 0.5,\n "model" : "writer" , "newf":1, "top_p" : null,"temper\\u0061ture"'
        b':[{"model":"x"}], "messages":[ ],"tools":[{"type":"web_search_20270101"}],\t"top_k":4 }'
    )
    answer = await api.post(MESSAGES, content=body, headers={"anthropic-beta": "newer-2027"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-overt-left-out"] == "temperature, top_k"
    (got,) = there.got
    assert got.headers["anthropic-beta"] == "newer-2027"
    assert got.body == (
        b'{ "model" : "claude-opus-5-5" , "newf":1, "top_p" : null, "messages":[ ],'
        b'"tools":[{"type":"web_search_20270101"}] }'
    )
    named = body.replace(b"writer", b"anthropic:claude-opus-5-5")
    answer = await api.post(MESSAGES, content=named)
    assert "x-overt-left-out" not in answer.headers
    assert there.got[1].body == body.replace(b"writer", b"claude-opus-5-5")


@pytest.mark.parametrize(
    ("model", "given", "expected", "told"),
    [
        ("gpt-5", '"temperature":1, "newf":2', ' "newf":2', "temperature"),
        ("gpt-5", '"max_tokens" : 9,"newf":2', '"max_completion_tokens" : 9,"newf":2', None),
        ("gpt-5", '"max_tokens":9,"max_completion_tokens":8', '"max_completion_tokens":8',
         "max_tokens"),
        ("gpt-5", '"logprobs":true,"top_logprobs":2,"n":2', '"n":2', "logprobs, top_logprobs"),
        ("gpt-5.2", '"temperature":1,"reasoning_effort":"none"',
         '"temperature":1,"reasoning_effort":"none"', None),
        ("gpt-5.2", '"temperature":1,"reasoning_effort":"low"', '"reasoning_effort":"low"',
         "temperature"),
        ("gpt-4o", '"temperature":1,"max_tokens":9', '"temperature":1,"max_tokens":9', None),
    ],
)  # fmt: skip
async def test_openais_parameters(
    api: Any, there: Peer, home: Path, model: str, given: str, expected: str, told: str | None
) -> None:
    routing.aliases(home).set("writer", f"openai:{model}")
    answer = await api.post(CHAT, content=f'{{"model":"writer","messages":[],{given}}}')
    assert answer.headers.get("x-overt-left-out") == told
    assert there.got[0].body.decode() == f'{{"model":"{model}","messages":[],{expected}}}'


async def test_an_answer_may_be_as_long_as_the_family_writes(
    api: Any, there: Peer, home: Path
) -> None:
    routing.aliases(home).set("writer", "anthropic:claude-opus-5-5")
    body = '{"model":"writer","max_tokens":%d,"messages":[],"newf":1}'
    answer = await api.post(MESSAGES, content=body % 900_000)
    assert answer.headers["x-overt-left-out"] == "max_tokens above 128000"
    assert there.got[0].body.decode() == (body % 128_000).replace("writer", "claude-opus-5-5")


NAMES = st.sampled_from(["model", "a", "b", "cut", "old", "new", "Model", 'm"', "é", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("\\\"{}[],: ab", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=6),
    st.sampled_from([(",", ":"), (" ,\n ", "\t: ")]),
    st.booleans(),
)
def test_members_are_cut_renamed_and_bounded(
    rest: list[tuple[str, Any]], marks: tuple[str, str], plain: bool
) -> None:
    comma, colon = marks
    pairs = [("model", "x"), *rest]
    texts = [f"{json.dumps(k, ensure_ascii=plain)}{colon}{json.dumps(v)}" for k, v in pairs]
    body = f" {{ {comma.join(reversed(texts))} }}\n".encode()
    quick, slow = passage_body._quick(body), passage_body._slow(body)
    assert quick is None or quick == slow
    assert quick is not None or len({k for k, _ in pairs}) < len(pairs)
    both = {"old", "new"} <= {k for k, _ in pairs}
    spare = RefusedMembers(frozenset(["cut"]), {"old": "new"}, {"a": 5})
    found, left = edited(body, "y", spare)
    expected: list[tuple[str, Any]] = []
    for name, value in reversed(pairs):
        if value is not None and (name == "cut" or (name == "old" and both)):
            assert name in left
        elif name.lower() == "model":
            expected.append((name, "y"))
        elif name == "old" and value is not None:
            expected.append(("new", value))
        elif name == "a" and isinstance(value, int) and not isinstance(value, bool) and value > 5:
            expected.append((name, 5))
        else:
            expected.append((name, value))
    assert json.loads(found, object_pairs_hook=lambda p: p) == json.loads(
        "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in expected) + "}",
        object_pairs_hook=lambda p: p,
    )


# ---- the query -----------------------------------------------------------------------------


async def test_a_query_goes_on_without_what_proves_who_asks(api: Any, there: Peer) -> None:
    body = {"model": "anthropic:claude-x", "messages": []}
    proofs = "key=k&api_key=k&access_token=k&$userProject=p&alt=media"
    answer = await api.post(f"{MESSAGES}?beta=true&{proofs}&b=%C3%BC%0d%0aX", json=body)
    assert answer.status_code == 200, answer.text
    assert there.got[0].path == f"{MESSAGES}?beta=true&b=%C3%BC%0D%0AX"
    answer = await api.post(f"{MESSAGES}?b={'x' * 5000}", json=body)
    assert answer.status_code == 400
    assert len(there.got) == 1


# ---- answers that are none -----------------------------------------------------------------


@pytest.mark.parametrize("path", [*MODELS, GEMINI])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{malformed json"),
        ("text/event-stream", b"{malformed json"),
        ("text/event-stream", b'data: {malformed json\n\ndata: {"x":1}\n\n'),
        ("text/event-stream", b""),
        ("application/json", b'{"id":"whole"}'),
    ],
)
async def test_an_answer_that_no_library_reads_is_one_error(
    api: Any, there: Peer, path: str, kind: str, body: bytes
) -> None:
    there.headers, there.pieces = {"content-type": kind}, [body] if body else []
    answer = await api.post(path, json=asked(path))
    assert answer.status_code == 502, answer.text
    assert answer.json()["error"]["message"]
    if path != GEMINI:
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [b"{malformed json", b"", b"7", b'"x"', b"{} {}"])
async def test_a_whole_answer_is_json(api: Any, there: Peer, body: bytes) -> None:
    there.pieces = [body] if body else []
    answer = await api.post(CHAT, json={**asked(CHAT), "stream": False})
    assert answer.status_code == 502
    assert answer.headers["x-should-retry"] == "false"


# ---- streams that break off ----------------------------------------------------------------


@pytest.mark.parametrize("path", BEGIN)
@pytest.mark.parametrize("rest", [b"", b"data: {broken\n\ndata: {}\n\n", b'data: {"half":'])
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_that_breaks_off_ends_in_an_event_of_its_protocol(
    api: Any, there: Peer, path: str, rest: bytes, size: int
) -> None:
    there.headers = {"content-type": "text/event-stream"}
    whole = BEGIN[path] * 2 + rest
    there.pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    answer = await api.post(path, json=asked(path))
    assert answer.status_code == 200
    assert answer.content.startswith(BEGIN[path] * 2)
    (said,) = EventSplitter().feed(answer.content[2 * len(BEGIN[path]) :])
    assert said.name == ("error" if path in (RESPONSES, MESSAGES) else "")
    told = json.loads(said.data)
    assert told["error"]["message"]
    assert path == GEMINI or told.get("type", "error") == "error"


@pytest.mark.parametrize("path", BEGIN)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_whole_stream_is_handed_on_and_counted(
    api: Any, there: Peer, path: str, size: int
) -> None:
    there.headers = {"content-type": "text/event-stream"}
    whole = b": hello\r\n\r\n" + BEGIN[path] + END[path]
    there.pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    answer = await api.post(path, json=asked(path))
    assert answer.content == whole
    assert await counted(api) == (12 if path == MESSAGES else 7, 3)


async def test_what_is_newer_than_its_reader_breaks_no_stream(api: Any, there: Peer) -> None:
    there.headers = {"content-type": "text/event-stream"}
    odd = b'data: {"candidates":[{"finishReason":"BRAND_NEW"}]}\n\n'
    there.pieces = [BEGIN[GEMINI], odd, b'data: {"candidates":7}\n\n']
    answer = await api.post(GEMINI, json=asked(GEMINI))
    assert answer.content == b"".join(there.pieces)


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (CHAT, b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'),
        (MESSAGES, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
                   b'"message":"x"}}\n\n'),
        (RESPONSES, b'event: response.failed\ndata: {"type":"response.failed","response":{"error":'
                    b'{"code":"server_error","message":"x"}}}\n\n'),
        (GEMINI, b'data: {"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}\n\n'),
    ],
)  # fmt: skip
async def test_a_providers_own_error_is_the_only_one(
    api: Any, there: Peer, path: str, event: bytes
) -> None:
    there.headers = {"content-type": "text/event-stream"}
    there.pieces = [BEGIN[path], event]
    answer = await api.post(path, json=asked(path))
    assert answer.content == BEGIN[path] + event


@pytest.mark.parametrize("path", BEGIN)
@pytest.mark.parametrize("lost", [False, True])
async def test_a_finished_stream_ends_although_its_connection_does_not(
    api: Any, monkeypatch: pytest.MonkeyPatch, path: str, lost: bool
) -> None:
    monkeypatch.setattr(stream, "_GRACE", 0.05)
    told = BEGIN[path] + END[path]

    async def stays(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        writer.write(head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(told), told))
        await writer.drain()
        if not lost:
            await reader.read()  # until the other side closes it
        writer.close()

    async with await asyncio.start_server(stays, "127.0.0.1", 0) as server:
        lead_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", monkeypatch)
        async with asyncio.timeout(20):
            answer = await api.post(path, json=asked(path))
    assert answer.content == told


# ---- figures -------------------------------------------------------------------------------


async def counted(api: Any) -> tuple[int, int]:
    lines = (await api.get("/metrics")).text.splitlines()
    found = {
        line.partition("{")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("overt_tokens_")
    }
    return int(found["overt_tokens_in_total"]), int(found["overt_tokens_out_total"])


@pytest.mark.parametrize("status", ["completed", "incomplete"])
async def test_a_whole_response_is_counted(api: Any, there: Peer, status: str) -> None:
    usage = {"input_tokens": 11, "output_tokens": 5}
    whole = {"object": "response", "status": status, "error": None, "output": [], "usage": usage,
             "incomplete_details": {"reason": "max_output_tokens"}}  # fmt: skip
    there.pieces = [json.dumps(whole).encode()]
    answer = await api.post(RESPONSES, json={"model": "openai:gpt-x", "input": "Hi"})
    assert answer.content == there.pieces[0]
    assert await counted(api) == (11, 5)
