"""Bodies no client should send: each is answered, or refused with a status below 500."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ollama_desk import HANDLERS, Desk

from overt.chat import Done, Text, Usage
from overt.errors import OvertError
from overt.protocols.base import HttpReply
from overt.protocols.ollama import PROTOCOL

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["plain", "echo:think", "json", "5m", "tool", "user", "high", "aGk="]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", ""])},
        optional={
            "content": st.text(max_size=8) | VALUES,
            "thinking": st.text(max_size=4),
            "images": st.lists(st.text(max_size=8), max_size=2),
            "tool_calls": st.lists(
                st.fixed_dictionaries(
                    {"function": st.fixed_dictionaries({"name": st.text(max_size=4)})},
                    optional={"id": VALUES},
                ),
                max_size=3,
            ),
            "tool_name": st.text(max_size=4),
            "tool_call_id": st.text(max_size=4),
        },
    ),
    max_size=5,
)
FIELDS = {
    "model": st.sampled_from(["plain", "thinker", "vectors", "echo:a", "echo:think"]) | VALUES,
    "name": VALUES,
    "prompt": st.text(max_size=12) | VALUES,
    "messages": MESSAGES | VALUES,
    "input": VALUES,
    "suffix": VALUES,
    "images": VALUES,
    "format": VALUES,
    "system": VALUES,
    "template": VALUES,
    "raw": VALUES,
    "context": st.lists(st.integers(0, 100), max_size=3) | VALUES,
    "options": st.dictionaries(
        st.sampled_from(["temperature", "seed", "stop", "num_ctx", "num_predict", "top_k"]), VALUES
    )
    | VALUES,
    "keep_alive": VALUES,
    "stream": st.booleans() | VALUES,
    "think": VALUES,
    "tools": VALUES,
    "logprobs": VALUES,
    "top_logprobs": VALUES,
    "dimensions": VALUES,
    "truncate": VALUES,
    "from": VALUES,
    "files": VALUES,
    "license": VALUES,
    "parameters": VALUES,
    "source": VALUES,
    "destination": VALUES,
    "quantize": VALUES,
    "_debug_render_only": VALUES,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS)
ASKED = [path for method, path in HANDLERS if method == "POST" and "{" not in path]


def tried(path: str, body: bytes) -> None:
    """Ask, read the answer to its end, and check that every line of it is JSON."""

    async def ask() -> None:
        desk = Desk((Text("a"), Usage(1, 1), Done("stop")))
        desk.library = Refusing()  # type: ignore[assignment]
        try:
            answer = await desk.raw(path, body)
            if isinstance(answer, HttpReply):
                if answer.body():
                    json.loads(answer.body())
                return
            async for chunk in answer.chunks:
                for line in chunk.splitlines():
                    json.loads(line)
        except OvertError as error:
            reply = PROTOCOL.refuse(error, "req_1")
            assert reply.status < 500 or reply.status == 501
            assert set(json.loads(reply.body())) == {"error"}

    asyncio.run(ask())


class Refusing(type(Desk().library)):  # type: ignore[misc]
    """Long work that has one step."""

    async def pull(self, *refs: str, **more: Any) -> Any:
        assert all(isinstance(ref, str) for ref in refs)
        return
        yield

    push = create = pull

    async def show(self, ref: str, *, verbose: bool = False) -> Any:
        raise OvertError418("a teapot")

    async def copy(self, source: str, destination: str) -> None:
        assert destination

    async def delete(self, ref: str) -> None:
        assert ref


class OvertError418(OvertError):
    status = 418


@pytest.mark.parametrize("path", ASKED)
@given(body=BODIES)
def test_any_body_of_known_fields(path: str, body: dict[str, Any]) -> None:
    tried(path, json.dumps(body).encode())


@given(path=st.sampled_from(ASKED), body=st.binary(max_size=60))
@example("/api/chat", b"[" * 5000)
@example("/api/chat", b'{"model":"\\ud800"}')
@example("/api/generate", b'{"model":"plain","prompt":"\\udfff"}')
@example("/api/chat", b"null")
def test_any_bytes(path: str, body: bytes) -> None:
    tried(path, body)


@given(path=st.sampled_from(ASKED), body=VALUES)
def test_any_json(path: str, body: Any) -> None:
    tried(path, json.dumps(body).encode())
