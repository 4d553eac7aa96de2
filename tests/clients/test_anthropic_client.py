"""The official `anthropic` client, unmodified, against the real server and the real small model."""

import base64
import time
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pydantic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from serving import Served

pytestmark = pytest.mark.model

SAID: list[Any] = [{"role": "user", "content": "Name three colours."}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Tells the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Anthropic]:
    with Anthropic(
        base_url=server.url, api_key="any", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.mark.client("anthropic", "messages: whole")
def test_a_message(client: Anthropic) -> None:
    message = client.messages.create(
        model="smollm2", max_tokens=12, messages=SAID, system="Be brief."
    )
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.stop_reason in ("max_tokens", "end_turn")
    assert 0 < message.usage.output_tokens <= 12
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10
    assert message._request_id


@pytest.mark.client("anthropic", "messages: whole")
def test_cached_tokens_are_told_apart(client: Anthropic) -> None:
    said: list[Any] = [{"role": "user", "content": "Count slowly: " + "one two three " * 40}]
    first = client.messages.create(model="smollm2", max_tokens=1, messages=said).usage
    again = client.messages.create(model="smollm2", max_tokens=1, messages=said).usage
    assert again.cache_read_input_tokens
    assert again.cache_read_input_tokens > 100
    total = first.input_tokens + (first.cache_read_input_tokens or 0)
    assert again.input_tokens + again.cache_read_input_tokens == total


@pytest.mark.client("anthropic", "messages: stream")
def test_a_stream(client: Anthropic) -> None:
    with client.messages.stream(
        model="smollm2", max_tokens=16, messages=SAID, extra_body={"temperature": 0}
    ) as stream:
        names = []
        texts = []
        for event in stream:
            names.append(event.type)
            if event.type == "text":
                texts.append(event.text)
        final = stream.get_final_message()
    assert len(texts) > 3
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"
    assert final.content[0].text == "".join(texts)  # type: ignore[union-attr]
    whole = client.messages.create(
        model="smollm2", max_tokens=16, messages=SAID, extra_body={"temperature": 0}
    )
    assert whole.content[0].text == final.content[0].text  # type: ignore[union-attr]
    assert whole.usage.output_tokens == final.usage.output_tokens


@pytest.mark.client("anthropic", "messages: stream")
@pytest.mark.anyio
async def test_an_asynchronous_stream(server: Served) -> None:
    async with (
        AsyncAnthropic(base_url=server.url, api_key="any", max_retries=0) as client,
        client.messages.stream(
            model="echo:x", max_tokens=16, messages=[{"role": "user", "content": "a b c"}]
        ) as stream,
    ):
        assert [text async for text in stream.text_stream] == ["a ", "b ", "c"]


@pytest.mark.client("anthropic", "messages: stop sequences")
def test_stop_sequences(client: Anthropic) -> None:
    message = client.messages.create(
        model="smollm2",
        max_tokens=60,
        messages=[{"role": "user", "content": "Count from 1 to 20, with commas."}],
        stop_sequences=[","],
    )
    if message.stop_reason == "stop_sequence":
        assert message.stop_sequence == ","
    assert "," not in message.content[0].text  # type: ignore[union-attr]


@pytest.mark.client("anthropic", "messages: sampling")
def test_sampling_is_taken(client: Anthropic) -> None:
    for version in ("2023-06-01", "2026-10-21"):
        message = client.messages.create(
            model="smollm2",
            max_tokens=4,
            messages=SAID,
            extra_body={"temperature": 0.1, "top_p": 0.5, "top_k": 3},
            extra_headers={"anthropic-version": version},
        )
        assert message.content


@pytest.mark.client("anthropic", "messages: prefill")
def test_a_begun_answer_goes_on(client: Anthropic) -> None:
    message = client.messages.create(
        model="smollm2",
        max_tokens=8,
        messages=[*SAID, {"role": "assistant", "content": "1. Red\n2. Green\n3."}],
        extra_body={"temperature": 0},
    )
    assert not message.content[0].text.startswith("1.")  # type: ignore[union-attr]


@pytest.mark.client("anthropic", "images")
def test_images(client: Anthropic) -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 8).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    shown = [{"type": "image", "source": source}, {"type": "text", "text": "a b"}]
    said: list[Any] = [{"role": "user", "content": shown}]
    message = client.messages.create(model="echo:x", max_tokens=9, messages=said)
    assert message.content[0].text == "a b"  # type: ignore[union-attr]
    with pytest.raises(anthropic.BadRequestError, match="cannot see images"):
        client.messages.create(model="smollm2", max_tokens=9, messages=said)


# ---- tools ---------------------------------------------------------------------------------


@pytest.mark.client("anthropic", "tools: auto, any, named, none")
@pytest.mark.parametrize("kind", ["auto", "any", "tool", "none"])
def test_tool_choice(client: Anthropic, kind: Literal["auto", "any", "tool", "none"]) -> None:
    choice: Any = {"type": kind, **({"name": "get_weather"} if kind == "tool" else {})}
    message = client.messages.create(
        model="smollm2",
        max_tokens=80,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice=choice,
        extra_body={"temperature": 0},
    )
    calls = [block for block in message.content if block.type == "tool_use"]
    if kind in ("any", "tool"):
        assert message.stop_reason == "tool_use"
        assert [call.name for call in calls] == ["get_weather"]
        assert isinstance(calls[0].input["city"], str)
    if kind == "none":
        assert not calls


@pytest.mark.client("anthropic", "tools: stream")
def test_tools_in_a_stream(client: Anthropic) -> None:
    with client.messages.stream(
        model="smollm2",
        max_tokens=80,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice={"type": "any"},
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[0].type == "tool_use"
    assert isinstance(final.content[0].input["city"], str)
    assert len(pieces) > 1


@pytest.mark.client("anthropic", "tools: results")
def test_a_whole_round_of_tools(client: Anthropic) -> None:
    said: list[Any] = [{"role": "user", "content": "Is it warm in Paris?"}]
    first = client.messages.create(model="echo:tool", max_tokens=80, messages=said, tools=[WEATHER])
    call = first.content[0]
    assert call.type == "tool_use"
    said.append({"role": "assistant", "content": first.content})
    result = {"type": "tool_result", "tool_use_id": call.id, "is_error": False,
              "content": [{"type": "text", "text": "25 degrees and sunny"}]}  # fmt: skip
    said.append({"role": "user", "content": [result]})
    message = client.messages.create(
        model="smollm2", max_tokens=30, messages=said, tools=[WEATHER], tool_choice={"type": "none"}
    )
    assert message.content[0].type == "text"


@pytest.mark.client("anthropic", "tools: tool runner")
def test_the_clients_own_tool_runner(client: Anthropic) -> None:
    asked: list[str] = []

    @anthropic.beta_tool
    def shout(text: str) -> str:
        """Says it loudly.

        Args:
            text: what to say.
        """
        asked.append(text)
        return text.upper()

    runner = client.beta.messages.tool_runner(
        model="echo:tool",
        max_tokens=50,
        max_iterations=2,
        messages=[{"role": "user", "content": "hello"}],
        tools=[shout],
    )
    assert [message.stop_reason for message in runner] == ["tool_use", "tool_use"]
    assert asked[0] == "hello"


class Colour(pydantic.BaseModel):
    name: str
    bright: bool


@pytest.mark.client("anthropic", "structured output")
def test_structured_output(client: Anthropic) -> None:
    found = client.messages.parse(
        model="smollm2",
        max_tokens=120,
        messages=[{"role": "user", "content": "Describe the colour yellow as JSON."}],
        output_format=Colour,
        extra_body={"temperature": 0},
    )
    assert isinstance(found.parsed_output, Colour)


# ---- thinking, counting, models ------------------------------------------------------------


@pytest.mark.client("anthropic", "thinking")
def test_thinking_goes_round(client: Anthropic) -> None:
    said: list[Any] = [{"role": "user", "content": "a b"}]
    with client.messages.stream(
        model="echo:think",
        max_tokens=2000,
        messages=said,
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        thoughts = "".join(e.thinking for e in stream if e.type == "thinking")
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert thoughts == message.content[0].thinking == "The message has 3 characters."  # type: ignore[union-attr]
    assert message.content[0].signature  # type: ignore[union-attr]
    said += [{"role": "assistant", "content": message.content}, {"role": "user", "content": "c"}]
    again = client.messages.create(
        model="echo:think", max_tokens=20, messages=said, thinking={"type": "disabled"}
    )
    assert [block.type for block in again.content] == ["text"]


@pytest.mark.client("anthropic", "count tokens")
def test_counting(client: Anthropic) -> None:
    said: list[Any] = [{"role": "user", "content": "Hello there, how are you?"}]
    counted = client.messages.count_tokens(model="smollm2", messages=said, system="Be brief.")
    usage = client.messages.create(
        model="smollm2", messages=said, system="Be brief.", max_tokens=1
    ).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with_tools = client.messages.count_tokens(model="smollm2", messages=said, tools=[WEATHER])
    assert with_tools.input_tokens > 0


@pytest.mark.client("anthropic", "models")
def test_models(client: Anthropic) -> None:
    listed = list(client.models.list(limit=1))  # page by page
    ids = [model.id for model in listed]
    assert {"smollm2", "gemma3"} <= set(ids)
    assert len(set(ids)) == len(ids)
    one = client.models.retrieve("smollm2")
    assert (one.id, one.lifecycle, one.type) == ("smollm2", "active", "model")
    assert one.max_input_tokens == 8192


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.client("anthropic", "errors")
@pytest.mark.parametrize(
    ("change", "kind", "type_"),
    [
        ({"model": "no-such-model"}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": -1}, anthropic.BadRequestError, "invalid_request_error"),
        ({"extra_body": {"foo": 1}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"model": "echo:fail"}, anthropic.InternalServerError, "api_error"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {
                "type": "url", "url": "https://a.example/b.png"}}]}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ],
)  # fmt: skip
def test_errors(client: Anthropic, change: Any, kind: Any, type_: str) -> None:
    asked: Any = {
        "model": "smollm2", "max_tokens": 9, "messages": [{"role": "user", "content": "a b c d e"}],
    }  # fmt: skip
    with pytest.raises(kind) as raised:
        client.messages.create(**{**asked, **change})
    assert raised.value.type == type_
    assert raised.value.request_id
    assert raised.value.request_id == raised.value.body["request_id"]


@pytest.mark.client("anthropic", "errors")
def test_a_stream_that_breaks_raises(client: Anthropic) -> None:
    texts = []
    with (
        pytest.raises(anthropic.APIStatusError) as raised,
        client.messages.stream(
            model="echo:fail", max_tokens=9, messages=[{"role": "user", "content": "a b c d e"}]
        ) as stream,
    ):
        texts.extend(stream.text_stream)
    assert raised.value.type == "api_error"
    assert "fails after three words" in str(raised.value)


@pytest.mark.client("anthropic", "cancel")
def test_a_stream_that_is_left(client: Anthropic, server: Served) -> None:
    said: list[Any] = [{"role": "user", "content": "word " * 2000}]  # 100 seconds of echo:slow
    with client.messages.stream(model="echo:slow", max_tokens=5000, messages=said) as stream:
        for count, _ in enumerate(stream.text_stream):
            if count == 2:
                break
        assert server.metric("overt_requests_in_flight") == 1
    left = time.monotonic()
    while server.metric("overt_requests_in_flight"):
        assert time.monotonic() - left < 10, "the server goes on without the client"
        time.sleep(0.02)


# ---- batches -------------------------------------------------------------------------------


@pytest.mark.client("anthropic", "batches")
def test_batches(client: Anthropic) -> None:
    def request(id: str, text: str, model: str = "echo:x") -> Any:
        said = [{"role": "user", "content": text}]
        return {"custom_id": id, "params": {"model": model, "max_tokens": 9, "messages": said}}

    made = client.messages.batches.create(
        requests=[request("one", "a b"), request("two", "c"), request("three", "d", "no-such")]
    )
    assert made.request_counts.processing == 3
    waited = 0.0
    while (batch := client.messages.batches.retrieve(made.id)).processing_status != "ended":
        time.sleep(0.05)
        waited += 0.05
        assert waited < 60
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (2, 1)
    found = {one.custom_id: one.result for one in client.messages.batches.results(made.id)}
    assert found["one"].type == "succeeded"
    assert found["one"].message.content[0].text == "a b"  # type: ignore[union-attr]
    assert found["three"].type == "errored"
    assert found["three"].error.error.type == "not_found_error"
    assert made.id in [one.id for one in client.messages.batches.list(limit=2)]
    assert client.messages.batches.delete(made.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(made.id)


@pytest.mark.client("anthropic", "batches")
def test_a_batch_is_cancelled(client: Anthropic) -> None:
    said: Any = [{"role": "user", "content": "word " * 60}]
    params: Any = {"model": "echo:slow", "max_tokens": 99, "messages": said}
    made = client.messages.batches.create(
        requests=[{"custom_id": f"n{i}", "params": params} for i in range(12)]
    )
    assert client.messages.batches.cancel(made.id).processing_status == "canceling"
    waited = 0.0
    while (batch := client.messages.batches.retrieve(made.id)).processing_status != "ended":
        time.sleep(0.1)
        waited += 0.1
        assert waited < 60
    assert batch.request_counts.canceled > 0
    assert batch.request_counts.canceled + batch.request_counts.succeeded == 12
