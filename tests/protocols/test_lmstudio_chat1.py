"""`POST /api/v1/chat`, whole and as events."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmstudio_fake import Fake, client

from conftest import repeats
from overt.chat import ImagePart, Message, TextPart
from overt.protocols.base import ModelHold

pytestmark = pytest.mark.anyio

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)


def events_of(body: str) -> list[tuple[str, dict]]:
    found = []
    for block in body.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        told = json.loads(data.removeprefix("data: "))
        assert name.removeprefix("event: ") == told["type"]
        found.append((told["type"], told))
    return found


async def ask(fake: Fake, **body: object) -> dict:
    async with client(fake) as api:
        answer = await api.post("/api/v1/chat", json={"model": "smollm2", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(fake: Fake, **body: object) -> list[tuple[str, dict]]:
    async with client(fake) as api:
        answer = await api.post("/api/v1/chat", json={"model": "smollm2", "stream": True, **body})
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


async def test_a_whole_answer() -> None:
    fake = Fake()
    told = await ask(
        fake, input="one two", system_prompt="be kind", temperature=0.2, top_p=0.9, top_k=5,
        min_p=0.1, repeat_penalty=1.1, max_output_tokens=7, context_length=999,
    )  # fmt: skip
    assert told["model_instance_id"] == "smollm2"
    assert told["output"] == [{"type": "message", "content": "one two"}]
    stats = told["stats"]
    assert (stats["input_tokens"], stats["total_output_tokens"]) == (4, 2)
    assert stats["reasoning_output_tokens"] == 0
    assert stats["model_load_time_seconds"] >= 0
    assert told["response_id"].startswith("resp_")
    _, request, hold = fake.asked[0]
    assert request.messages == (Message.of("system", "be kind"), Message.of("user", "one two"))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.2, 0.9, 5)
    assert (sampling.min_p, sampling.repeat_penalty, request.max_tokens) == (0.1, 1.1, 7)
    assert hold == ModelHold(None, 999)
    assert "model_load_time_seconds" not in (await ask(fake, input="x"))["stats"]


async def test_events_in_order() -> None:
    told = await stream(Fake(), input="one two")
    assert [name for name, _ in told] == [
        "chat.start", "model_load.start", "model_load.progress", "model_load.progress",
        "model_load.end", "prompt_processing.start", "prompt_processing.progress",
        "prompt_processing.end", "message.start", "message.delta", "message.delta", "message.end",
        "chat.end",
    ]  # fmt: skip
    assert told[0][1] == {"type": "chat.start", "model_instance_id": "smollm2"}
    assert told[9][1] == {"type": "message.delta", "content": "one "}
    assert told[-1][1]["result"]["output"] == [{"type": "message", "content": "one two"}]


async def test_reasoning_has_events_of_its_own() -> None:
    fake = Fake("think")
    model = "hf:ZiangWu/MobileVLM_V2-1.7B-GGUF"
    told = await stream(fake, model=model, input="one two", reasoning="high")
    names = [name for name, _ in told if name.partition(".")[0] in ("reasoning", "message")]
    assert names == [
        "reasoning.start", "reasoning.delta", "reasoning.end", "message.start", "message.delta",
        "message.delta", "message.end",
    ]  # fmt: skip
    output = told[-1][1]["result"]["output"]
    assert [one["type"] for one in output] == ["reasoning", "message"]
    assert told[-1][1]["result"]["stats"]["reasoning_output_tokens"] == 1
    assert (fake.asked[0][1].thinking, fake.asked[0][1].effort) == (True, "high")
    whole = await ask(fake, model=model, input="one two", reasoning="off")
    assert [one["type"] for one in whole["output"]] == ["message"]


async def test_reasoning_of_a_model_that_has_none_is_refused() -> None:
    async with client(Fake()) as api:
        body = {"model": "smollm2", "input": "x", "reasoning": "on"}
        answer = await api.post("/api/v1/chat", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning")


async def test_a_failure_on_the_way_is_an_event_and_what_came_is_told() -> None:
    told = await stream(Fake("fail"), input="a b c d e")
    names = [name for name, _ in told]
    assert names[-3:] == ["message.end", "error", "chat.end"]
    assert told[-2][1]["error"]["type"] == "internal_error"
    result = told[-1][1]["result"]
    assert result["output"] == [{"type": "message", "content": "a b c "}]
    assert "response_id" not in result
    async with client(Fake("fail")) as api:
        answer = await api.post("/api/v1/chat", json={"model": "smollm2", "input": "a b c d e"})
    assert answer.status_code == 500


async def test_a_model_that_is_not_there_is_404_before_the_stream() -> None:
    async with client(Fake()) as api:
        body = {"model": "nothing", "input": "x", "stream": True}
        answer = await api.post("/api/v1/chat", json=body)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("model_not_found", "model")


async def test_a_conversation_goes_on_from_any_response() -> None:
    fake = Fake()
    first = await ask(fake, input="one", system_prompt="be kind")
    second = await ask(fake, input="two", previous_response_id=first["response_id"])
    branch = await ask(
        fake, input="three", system_prompt="be brief", previous_response_id=first["response_id"]
    )
    assert second["response_id"] != branch["response_id"]
    turns = [[(m.role, m.text) for m in one[1].messages] for one in fake.asked]
    assert turns[1] == [
        ("system", "be kind"), ("user", "one"), ("assistant", "one"), ("user", "two"),
    ]  # fmt: skip
    assert turns[2] == [
        ("system", "be brief"), ("user", "one"), ("assistant", "one"), ("user", "three"),
    ]  # fmt: skip


async def test_what_is_not_to_be_stored_is_not() -> None:
    fake = Fake()
    told = await ask(fake, input="one", store=False)
    assert "response_id" not in told
    assert fake.records.kept == {}


async def test_a_response_is_its_owners_alone() -> None:
    fake = Fake()
    first = await ask(fake, input="one")
    body = {"model": "smollm2", "input": "x", "previous_response_id": first["response_id"]}
    fake.records.kept = {k: ("abcd1234", v[1]) for k, v in fake.records.kept.items()}
    async with client(fake) as api:
        answer = await api.post("/api/v1/chat", json=body)
        assert answer.status_code == 404
        bad = await api.post("/api/v1/chat", json={**body, "previous_response_id": "x"})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "previous_response_id")


async def test_images() -> None:
    fake = Fake()
    parts = [
        {"type": "text", "content": "look"}, {"type": "image", "data_url": PNG},
        {"type": "message", "content": "well?"},
    ]  # fmt: skip
    first = await ask(fake, input=parts)
    sent = fake.asked[0][1].messages[0].parts
    assert sent[0] == TextPart("look")
    assert isinstance(sent[1], ImagePart)
    assert sent[1].media_type == "image/png"
    await ask(fake, input="and?", previous_response_id=first["response_id"])
    assert fake.asked[1][1].messages[0].parts == sent
    async with client(fake) as api:
        part = {"type": "image", "data_url": "http://127.0.0.1/a.png"}
        answer = await api.post("/api/v1/chat", json={"model": "smollm2", "input": [part]})
    assert answer.json()["error"]["param"] == "input[0].data_url"


@pytest.mark.parametrize(
    ("more", "status", "kind"),
    [
        ({"integrations": ["mcp/playwright"]}, 501, "not_implemented"),
        ({"seed": 1}, 400, "invalid_request"),
        ({"input": []}, 400, "invalid_request"),
        ({"temperature": -1}, 400, "invalid_request"),
        ({"input": [{"type": "audio"}]}, 400, "invalid_request"),
        ({"model": "nomic-ai/nomic-embed-text-v1.5"}, 400, "invalid_request"),
    ],
)
async def test_what_is_refused(more: dict, status: int, kind: str) -> None:
    async with client(Fake()) as api:
        answer = await api.post("/api/v1/chat", json={"model": "smollm2", "input": "x", **more})
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=9), inside),
    max_leaves=8,
)
_BODY = {
    "model": "smollm2", "input": "x", "stream": True, "temperature": 0.5, "top_k": 3,
    "context_length": 99, "reasoning": "off", "store": True, "previous_response_id": "resp_1",
    "integrations": [], "ttl": 5,
}  # fmt: skip


@st.composite
def _bodies(draw: st.DrawFn) -> dict:
    """Some of the fields, most of them as they should be."""
    kept = [name for name in _BODY if draw(st.booleans())]
    return {name: _BODY[name] if draw(st.integers(0, 4)) else draw(_json) for name in kept}


@settings(max_examples=repeats(80, 200), deadline=None)
@given(body=_bodies())
async def test_any_body_is_answered(body: dict) -> None:
    async with client(Fake()) as api:
        answer = await api.post("/api/v1/chat", content=json.dumps(body).encode())
    assert answer.status_code in (200, 400, 404, 501)
