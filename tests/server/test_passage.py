"""Requests handed on as they are: every byte there, every byte back, and whose key goes along."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream_peer import Peer, peer

from overt.gateway import routing
from overt.server.passthrough.body import renamed

pytestmark = pytest.mark.anyio

KEY = "sk-owner-0123456789abcdef"
CLAUDE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"claude-x","content":[],"stop_reason":null,"usage":{"input_tokens"'
    b':12,"output_tokens":1}}}\n\n'
    b'event: brand_new\ndata: {"type":"brand_new","x":[1,  2]}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":'
    b'"text_delta","text":"Hi \xf0\x9f\xa6\x86"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":3}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


@pytest.fixture
async def there(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    async with peer() as state:
        for name, base in {"OPENAI": "/v1", "ANTHROPIC": "", "GOOGLE_GEMINI": ""}.items():
            monkeypatch.setenv(f"{name}_BASE_URL", state.url + base)
        for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        state.headers = {"content-type": "text/event-stream", "request-id": "req_theirs"}
        yield state


async def test_a_client_of_claudes_loses_no_byte(api: Any, there: Peer) -> None:
    there.pieces = [CLAUDE[at : at + 97] for at in range(0, len(CLAUDE), 97)]
    body = (
        b'{ "new_field" : {"model":"inner"},\t"mod\\u0065l":"anthropic:claude-x",\n'
        b' "messages":[{"role":"user","content":"d\\u00fcck \xc3\xbc","model":"no"}],'
        b'"temperature": 0.70, "max_tokens":9,"stream":true }'
    )
    answer = await api.post(
        "/v1/messages",
        content=body,
        headers={
            "content-type": "application/json",
            "anthropic-version": "2026-10-21",
            "anthropic-beta": "newer-than-us-2027-01-01",
            "authorization": "Bearer sk-of-the-caller",
            "x-api-key": "sk-of-the-caller",
            "cookie": "a=b",
        },
    )
    assert answer.status_code == 200
    assert answer.content == CLAUDE
    assert answer.headers["request-id"] == "req_theirs"
    assert answer.headers["x-overt-model"] == "anthropic:claude-x"
    (got,) = there.got
    assert got.path == "/v1/messages"
    assert got.body == body.replace(b'"anthropic:claude-x"', b'"claude-x"')
    assert got.headers["anthropic-beta"] == "newer-than-us-2027-01-01"
    assert got.headers["anthropic-version"] == "2026-10-21"
    assert got.headers["x-api-key"] == KEY
    assert "sk-of-the-caller" not in str(got)
    assert "cookie" not in got.headers
    told = (await api.get("/metrics")).text
    assert 'model="anthropic:claude-x"' in told


async def test_a_refusal_is_handed_back_and_the_owners_key_is_not(api: Any, there: Peer) -> None:
    there.status, there.headers = "400 Bad Request", {"content-type": "application/json"}
    there.pieces = [b'{"error":{"message":"no: ' + KEY.encode() + b'","type":"x","odd":1}}']
    asked = {"model": "openai:gpt-x", "messages": [], "brand_new": True}
    answer = await api.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "no: [key]", "type": "x", "odd": 1}}
    assert json.loads(there.got[0].body) == {**asked, "model": "gpt-x"}
    there.status = "401 Unauthorized"
    answer = await api.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 403
    assert KEY not in answer.text
    assert "overt login openai" in answer.text


async def test_geminis_model_stands_in_the_address(api: Any, there: Peer) -> None:
    there.headers = {"content-type": "application/json"}
    there.pieces = [b'{"totalTokens": 7, "new": 1}']
    body = b'{"contents": [ ]}'
    answer = await api.post(
        "/v1beta/models/gemini:gemini-x:countTokens",
        content=body,
        headers={"x-goog-api-key": "caller", "content-type": "application/json"},
    )
    assert answer.json() == {"totalTokens": 7, "new": 1}
    (got,) = there.got
    assert (got.path, got.body) == ("/v1beta/models/gemini-x:countTokens", body)
    assert got.headers["x-goog-api-key"] == KEY


async def test_an_alias_is_handed_on_and_says_why(api: Any, there: Peer, home: Path) -> None:
    there.pieces = [CLAUDE]
    routing.aliases(home).set("writer", "anthropic:claude-x")
    body = {"model": "writer", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9,
            "stream": True}  # fmt: skip
    answer = await api.post("/v1/messages", json=body)
    assert answer.content == CLAUDE
    assert answer.headers["x-overt-model"] == "anthropic:claude-x"
    assert answer.headers["x-overt-why"] == "writer is an alias of it"
    body["model"] = "anthropic:claude-x"
    assert "x-overt-why" not in (await api.post("/v1/messages", json=body)).headers


async def test_another_protocol_is_translated(api: Any, there: Peer) -> None:
    there.pieces = [CLAUDE]
    answer = await api.post(
        "/v1/chat/completions",
        json={"model": "anthropic:claude-x", "messages": [{"role": "user", "content": "Hi"}]},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "Hi 🦆"
    assert answer.json()["usage"]["prompt_tokens"] == 12
    assert there.got[0].path == "/v1/messages"
    assert answer.headers["x-overt-provider-request"] == "req_theirs"


async def test_a_client_names_no_server(api: Any, there: Peer) -> None:
    asked = {"model": f"{there.url}/v1#m", "messages": [{"role": "user", "content": "Hi"}]}
    answer = await api.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 400
    assert "overt alias set" in answer.text
    assert not there.got


async def test_offline_keeps_every_word_here(
    home: Any, there: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is this machine; any other address is not asked, and the answer says so."""
    import httpx2

    from overt.server import guard
    from overt.server.api_keys import ApiKeys
    from overt.server.assembly import build
    from overt.settings import load

    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://api.example.test")
    settings = load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})
    app = build(settings, gate=guard.gate("127.0.0.1", ApiKeys(home)))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/v1/messages", "/v1/chat/completions"):
            asked = {"model": "anthropic:claude-x", "max_tokens": 5,
                     "messages": [{"role": "user", "content": "Hi"}]}  # fmt: skip
            answer = await client.post(path, json=asked)
            assert answer.status_code == 503
            assert "api.example.test" in answer.text
    await app.close()
    assert not there.got


NAMES = st.sampled_from(["model", "a", "mod\\el", 'm"', "é", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.text(max_size=8),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_only_the_outermost_name_changes(
    rest: dict[str, Any], model: str, indent: int | None, escaped: bool
) -> None:
    value = {**rest, "model": "x"}
    body = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()
    assert json.loads(renamed(body, model)) == {**value, "model": model}
    assert renamed(renamed(body, model), "x") == body


async def test_a_conversation_that_began_on_another_model_is_translated(
    api: Any, there: Peer
) -> None:
    there.pieces = [CLAUDE]
    thought = {"type": "thinking", "thinking": "hm", "signature": "overt:gemini:abc"}
    asked = {
        "model": "anthropic:claude-x", "max_tokens": 9, "stream": True,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "Yes?"}]},
            {"role": "user", "content": "Go on."},
        ],
    }  # fmt: skip
    answer = await api.post("/v1/messages", json=asked)
    assert answer.status_code == 200, answer.text
    assert b"overt:gemini" not in there.got[0].body
    assert [m["role"] for m in json.loads(there.got[0].body)["messages"]] == [
        "user", "assistant", "user",
    ]  # fmt: skip
