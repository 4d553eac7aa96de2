"""What of a request in a provider's own protocol is translated, because it would be refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.server.passthrough.needs_translation import refused, spared

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GENERATE = "/v1beta/models/{id:path}"
OURS, OPENAIS = "rs_" + "0a" * 14 + "0", "rs_" + "0a" * 24
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}
THOUGHT = {"type": "thinking", "thinking": "", "signature": "c2ln"}
ON = {"type": "enabled", "budget_tokens": 1024}


def _said(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", **fields}]}


def _went_on(*blocks: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": list(blocks)}, RESULT], **fields}


def _called(**fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f"}, **fields}]}]}


@pytest.mark.parametrize(
    ("engine", "model", "path", "body", "expected"),
    [
        ("openai", "gpt-5", CHAT, _said(content="Hi"), False),
        ("openai", "gpt-5", CHAT, _said(content="Hi", reasoning_content="Hm"), True),
        ("openai", "gpt-5", CHAT, _said(content="Hi", reasoning="Hm"), True),
        ("openai", "gpt-5", CHAT, _said(tool_calls=[{"id": "c" * 40}]), False),
        ("openai", "gpt-5", CHAT, _said(tool_calls=[{"id": "c" * 41}]), True),
        ("http", "x", CHAT, _said(content="Hi", reasoning_content="Hm"), False),
        ("openai", "gpt-5", RESPONSES, {"input": "Hi"}, False),
        ("openai", "gpt-5", RESPONSES, {"input": [{"type": "reasoning", "id": OURS}]}, True),
        ("openai", "gpt-5", RESPONSES, {"input": [{"type": "reasoning", "id": OPENAIS}]}, False),
        ("openai", "gpt-5", RESPONSES,
         {"input": [{"type": "reasoning", "id": OURS, "encrypted_content": "gAAA"}]}, False),
        ("anthropic", "claude-opus-4-5", MESSAGES, _went_on(CALL), False),
        ("anthropic", "claude-opus-4-5", MESSAGES, _went_on(CALL, thinking=ON), True),
        ("anthropic", "claude-opus-4-5", MESSAGES, _went_on(THOUGHT, CALL, thinking=ON), False),
        ("anthropic", "claude-opus-4-5", MESSAGES, _went_on({**CALL, "id": "f.g:0"}), True),
        ("anthropic", "claude-opus-5-5", MESSAGES, {**_said(content="Hi"), "thinking": ON}, True),
        ("gemini", "gemini-3.8-flash", GENERATE, _called(), True),
        ("gemini", "gemini-3.8-flash", GENERATE, _called(thoughtSignature="c2ln"), False),
        ("gemini", "gemini-2.5-flash", GENERATE, _called(), False),
    ],
)  # fmt: skip
def test_what_another_model_left_behind(
    engine: str, model: str, path: str, body: Any, expected: bool
) -> None:
    body = {"store": False, **body} if path == RESPONSES else body
    for named in (False, True):
        assert refused(json.dumps(body).encode(), path, engine, model, named=named) is expected


@pytest.mark.parametrize(
    ("engine", "model", "path", "field"),
    [
        ("openai", "gpt-5", CHAT, {"max_tokens": 9}),
        ("openai", "gpt-5", CHAT, {"temperature": 0.3}),
        ("openai", "gpt-5", RESPONSES, {"temperature": 0.3}),
        ("anthropic", "claude-opus-5-5", MESSAGES, {"temperature": 0.3}),
        ("anthropic", "claude-opus-5-5", MESSAGES, {"max_tokens": 200_000}),
    ],
)
def test_a_field_counts_where_the_owners_name_led_there(
    engine: str, model: str, path: str, field: Any
) -> None:
    body = json.dumps({**_said(content="Hi"), **field}).encode()
    (name,) = field
    spare = spared(body, path, engine, model)
    assert name in {*spare.cut, *spare.names, *spare.most}
    other = spared(body, path, engine, "a-model-of-no-family")
    assert name not in {*other.cut, *other.names, *other.most}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, True),
        ({"tools": [{"type": "function", "name": "f"}]}, True),
        ({"store": False}, False),
        ({"tools": [{"type": "web_search"}]}, False),
        ({"previous_response_id": "resp_of_openai"}, False),  # ours are looked for before
        ({"service_tier": "flex"}, False),
        ({"reasoning": {"effort": "low"}}, True),
        ({"reasoning": {"summary": "auto"}}, False),
        ({"reasoning": [1]}, False),
        ({"newer_than_us": 1}, False),
    ],
)
def test_a_response_is_kept_here_where_the_name_may_move(more: Any, expected: bool) -> None:
    body = json.dumps({"model": "writer", "input": "Hi", **more}).encode()
    assert refused(body, RESPONSES, "openai", "gpt-5", named=True) is expected
    assert not refused(body, RESPONSES, "openai", "gpt-5", named=False)
    assert not refused(body, RESPONSES, "openai", "gpt-5", named=True, beta=True)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["messages", "content", "type", "id", "input", "contents", "parts",
                         "tool_calls", "thinking", "functionCall", "max_tokens", "tools"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(_json, st.sampled_from(["openai", "anthropic", "gemini", "http"]), st.booleans())
def test_whatever_it_is_nothing_is_raised(body: Any, engine: str, named: bool) -> None:
    data = json.dumps(body).encode()
    for path in (CHAT, RESPONSES, MESSAGES, GENERATE):
        for model in ("gpt-5", "claude-opus-5-5", "gemini-3.8-flash"):
            assert refused(data, path, engine, model, named=named) in (True, False)


def test_what_cannot_be_read_is_the_providers_to_refuse() -> None:
    for data in (b"", b"{", b'{"messages": 1}', b"\xff", b"[" * 100_000):
        assert not refused(data, MESSAGES, "anthropic", "claude-opus-5-5", named=True)
