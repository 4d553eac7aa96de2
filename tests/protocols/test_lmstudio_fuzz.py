"""Whatever a client says on a socket, the server answers or hangs up."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lmstudio_fake import PNG, TOOL, Closed, Fake, Line, line, predict, query, stack

from conftest import repeats
from overt.protocols.lmstudio import NAMESPACES

pytestmark = pytest.mark.anyio

# ---- anything at all -----------------------------------------------------------------------

_ENDPOINTS = sorted({name for one in NAMESPACES for name in (*one.calls, *one.channels)})
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=12), inside, max_size=4)
    ),
    max_leaves=12,
)
_frame = st.fixed_dictionaries(
    {"type": st.sampled_from(
        ("rpcCall", "channelCreate", "channelSend", "keepAlive", "signalSubscribe",
         "writableSignalSubscribe", "channelAck", "communicationWarning", "nothing")
    )},
    optional={
        "endpoint": st.sampled_from(_ENDPOINTS) | _json,
        "callId": st.integers(0, 3) | _json,
        "channelId": st.integers(0, 3) | _json,
        "subscribeId": st.integers(0, 3) | _json,
        "ackId": st.integers(0, 3) | _json,
        "parameter": _json,
        "creationParameter": _json,
        "message": _json,
    },
)  # fmt: skip


def _mutated(draw: st.DrawFn, value: object, depth: int = 0) -> object:
    """A valid value with one or the other part replaced."""
    if draw(st.integers(0, 9)) == 0:
        return draw(_json)
    if isinstance(value, dict):
        return {
            k: _mutated(draw, v, depth + 1) for k, v in value.items() if draw(st.integers(0, 15))
        }
    if isinstance(value, list):
        return [_mutated(draw, one, depth + 1) for one in value]
    return value


_VALID = (
    ("llm", "channelCreate", "predict", predict(
        "hi", temperature=0.5, topKSampling=40, structured={"type": "json", "jsonSchema": {}},
        tools={"type": "toolArray", "tools": [TOOL]}, stopStrings=["x"],
        maxPredictedTokens={"checked": True, "value": 5}, llama__logitBias=[[5, "-inf"]],
        promptTemplate={"type": "jinja", "jinjaPromptTemplate": {"template": "x"}},
    )),
    ("llm", "channelCreate", "getOrLoad", {
        "identifier": "smollm2", "loadTtlMs": 5, "loadConfigStack": stack(),
    }),
    ("llm", "rpcCall", "tokenize", {"specifier": query("smollm2"), "inputString": "x"}),
    ("llm", "rpcCall", "getModelInfo", {"specifier": query("smollm2"), "throwIfNotFound": False}),
    ("embedding", "rpcCall", "embedString", {
        "modelSpecifier": query("nomic-embed-text-v1.5"), "inputString": "x",
    }),
    ("files", "rpcCall", "uploadFileBase64", {"name": "x", "contentBase64": PNG}),
    ("repository", "rpcCall", "searchModels", {"opts": {"searchTerm": "x", "limit": 3}}),
)  # fmt: skip


@st.composite
def _almost(draw: st.DrawFn) -> tuple[str, dict]:
    name, type, endpoint, parameter = draw(st.sampled_from(_VALID))
    field = "parameter" if type == "rpcCall" else "creationParameter"
    frame = {"type": type, "endpoint": endpoint, "callId": 1, "channelId": 1}
    return name, {**frame, field: _mutated(draw, parameter)}


async def _survives(name: str, frames: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is said, the server answers or hangs up, and no handler breaks."""
    caplog.clear()
    async with line(Fake(), name) as opened:
        for one in frames:
            opened.say_raw(text=one)
        opened.say({"type": "keepAlive"})
        code = 1008
        try:
            while (await opened.hear()) != {"type": "keepAliveAck"}:
                pass
        except Closed as closed:
            code = closed.code
        assert code in (1003, 1008)
        await _settled(opened)
    assert not caplog.records, caplog.text


async def _settled(opened: Line) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


fuzz = settings(
    max_examples=repeats(60, 150),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)


@fuzz
@given(name=st.sampled_from([one.name for one in NAMESPACES]), frames=st.lists(_frame, max_size=6))
async def test_any_frames(name: str, frames: list, caplog: pytest.LogCaptureFixture) -> None:
    await _survives(name, [json.dumps(one) for one in frames], caplog)


@fuzz
@given(frames=st.lists(st.text(max_size=60), max_size=6))
async def test_any_text(frames: list[str], caplog: pytest.LogCaptureFixture) -> None:
    await _survives("llm", frames, caplog)


@fuzz
@given(almost=_almost())
async def test_almost_valid_calls(almost: tuple, caplog: pytest.LogCaptureFixture) -> None:
    name, said = almost
    await _survives(name, [json.dumps(said)], caplog)


@fuzz
@given(text=st.text(max_size=200))
async def test_any_greeting(text: str) -> None:
    async with line(Fake(), "llm", None) as opened:
        opened.say_raw(text=text)
        assert (await opened.hear())["success"] is False
        with pytest.raises(Closed):
            await opened.hear()
