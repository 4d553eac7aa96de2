"""The official `openai` client against the real server: what is kept between requests."""

import io
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem

import serving

ECHO = "echo:any"
SMOL = "smollm2"
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(server: serving.Served) -> Iterator[OpenAI]:
    """It refuses answers that are not of the declared types."""
    with _client(server) as made:
        yield made


def _client(server: serving.Served) -> OpenAI:
    return OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    )


# ---- responses -------------------------------------------------------------------------------


@pytest.mark.client("openai", "responses: create")
@pytest.mark.model
def test_create(client: OpenAI) -> None:
    answer = client.responses.create(
        model=SMOL, input="What is gravity?", temperature=0, max_output_tokens=24
    )
    assert "physics" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert 0 < answer.usage.output_tokens <= 24


@pytest.mark.client("openai", "responses: create")
@pytest.mark.model
def test_the_limit_is_told(client: OpenAI) -> None:
    answer = client.responses.create(model=SMOL, input="Tell me a long story.", max_output_tokens=5)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 5


@pytest.mark.client("openai", "responses: stream")
@pytest.mark.model
def test_stream(client: OpenAI) -> None:
    with client.responses.stream(
        model=SMOL, input="What is gravity?", temperature=0, max_output_tokens=500
    ) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    assert "physics" in text
    assert final.output_text == text
    assert client.responses.retrieve(final.id).output_text == text


@pytest.mark.client("openai", "responses: stream")
def test_raw_stream(client: OpenAI) -> None:
    events = list(client.responses.create(model=ECHO, input="one two three", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "one two three"


@pytest.mark.client("openai", "responses: async stream")
@pytest.mark.anyio
async def test_async_stream(server: serving.Served) -> None:
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        client.responses.stream(model=ECHO, input="one two three") as stream,
    ):
        deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert deltas == ["one ", "two ", "three"]
    assert final.output_text == "one two three"


class City(pydantic.BaseModel):
    name: str
    country: str


@pytest.mark.client("openai", "responses: structured output")
@pytest.mark.model
def test_parse(client: OpenAI) -> None:
    answer = client.responses.parse(
        model=SMOL,
        input="Name a city.",
        text_format=City,
        temperature=0,
        max_output_tokens=200,
    )
    assert isinstance(answer.output_parsed, City)


@pytest.mark.client("openai", "responses: structured output")
@pytest.mark.model
def test_parse_a_stream(client: OpenAI) -> None:
    with client.responses.stream(
        model=SMOL, input="Name a city.", text_format=City, temperature=0, max_output_tokens=200
    ) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, City)


@pytest.mark.client("openai", "responses: tools")
@pytest.mark.model
@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_tool_that_must_be_called_is_called(client: OpenAI, choice: Any) -> None:
    answer = client.responses.create(
        model=SMOL,
        input="How is the weather in Rome?",
        tools=[TOOL],
        tool_choice=choice,
        temperature=0,
        max_output_tokens=100,
    )
    call = answer.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.name == "weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    back = client.responses.create(
        model=SMOL,
        previous_response_id=answer.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        temperature=0,
        max_output_tokens=30,
    )
    assert back.output_text


@pytest.mark.client("openai", "responses: tools")
def test_calls_stream(client: OpenAI) -> None:
    with client.responses.stream(model="echo:tool", input="Rome", tools=[TOOL]) as stream:
        deltas = [e for e in stream if e.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    call = final.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert deltas[-1].snapshot == call.arguments == '{"text": "Rome"}'


@pytest.mark.client("openai", "responses: reasoning")
def test_reasoning(client: OpenAI) -> None:
    with client.responses.stream(model="echo:think", input="hi") as stream:
        thoughts = [e.delta for e in stream if e.type == "response.reasoning_text.delta"]
        final = stream.get_final_response()
    item = final.output[0]
    assert isinstance(item, ResponseReasoningItem)
    assert item.content is not None
    assert item.content[0].text == "".join(thoughts) == "The message has 2 characters."
    assert final.output_text == "hi"


@pytest.mark.client("openai", "responses: logprobs")
@pytest.mark.model
def test_log_probabilities(client: OpenAI) -> None:
    answer = client.responses.create(
        model=SMOL,
        input="Say yes.",
        temperature=0,
        max_output_tokens=6,
        include=["message.output_text.logprobs"],
        top_logprobs=3,
    )
    part = answer.output[0].content[0]  # type: ignore[union-attr,index]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert part.text.startswith("".join(one.token for one in part.logprobs)[: len(part.text)])
    for one in part.logprobs:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        assert bytes(one.bytes).decode() == one.token


@pytest.mark.client("openai", "responses: state")
def test_a_conversation_goes_on_is_listed_and_deleted(client: OpenAI) -> None:
    first = client.responses.create(model=ECHO, input="I am Ada", instructions="Be brief.")
    second = client.responses.create(model=ECHO, input="Who?", previous_response_id=first.id)
    assert second.usage is not None
    assert second.usage.input_tokens == 3 + 3 + 1
    texts = [
        item.content[0].text  # type: ignore[union-attr]
        for item in client.responses.input_items.list(second.id, order="asc", limit=1)
    ]
    assert texts == ["I am Ada", "I am Ada", "Who?"]
    assert client.responses.retrieve(second.id).previous_response_id == first.id
    client.responses.delete(second.id)
    with pytest.raises(NotFoundError, match=second.id):
        client.responses.retrieve(second.id)


@pytest.mark.client("openai", "responses: state")
def test_output_goes_back_as_input(client: OpenAI) -> None:
    """As clients do that keep the conversation themselves."""
    said: list[Any] = [{"role": "user", "content": "Rome"}]
    answer = client.responses.create(model="echo:tool", input=said, tools=[TOOL], store=False)
    said += answer.output
    said.append(
        {
            "type": "function_call_output",
            "call_id": answer.output[0].call_id,  # type: ignore[union-attr]
            "output": [{"type": "input_text", "text": "sunny"}],
        }
    )
    answer = client.responses.create(model="echo:think", input=said, store=False)
    said += answer.output
    said.append({"role": "user", "content": "thank you"})
    assert client.responses.create(model=ECHO, input=said).output_text == "thank you"


@pytest.mark.client("openai", "responses: background")
def test_the_background_is_polled_and_cancelled(client: OpenAI) -> None:
    made = client.responses.create(model="echo:slow", input="one two", background=True)
    assert made.status == "queued"
    while made.status in ("queued", "in_progress"):
        time.sleep(0.02)
        made = client.responses.retrieve(made.id)
    assert (made.status, made.output_text) == ("completed", "one two")
    long = client.responses.create(model="echo:slow", input="w " * 1000, background=True)
    assert client.responses.cancel(long.id).status == "cancelled"
    with pytest.raises(BadRequestError, match="can no longer be cancelled"):
        client.responses.cancel(made.id)


@pytest.mark.client("openai", "responses: background")
def test_a_background_stream_is_picked_up_again(client: OpenAI) -> None:
    stream = client.responses.create(
        model="echo:slow", input="one two three four", background=True, stream=True
    )
    id, number = "", -1
    for event in stream:
        if event.type == "response.created":
            id = event.response.id
        if event.type == "response.output_text.delta":
            number = event.sequence_number
            break
    stream.close()
    rest = list(client.responses.retrieve(id, stream=True, starting_after=number))
    numbers = [found.sequence_number for found in rest]
    assert numbers == list(range(number + 1, number + 1 + len(rest)))
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == "one two three four"


@pytest.mark.client("openai", "responses: count tokens")
@pytest.mark.model
def test_count_tokens(client: OpenAI) -> None:
    asked: Any = {"model": SMOL, "input": "How many tokens am I?", "instructions": "Count."}
    counted = client.responses.input_tokens.count(**asked)
    answer = client.responses.create(**asked, max_output_tokens=1)
    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens


@pytest.mark.client("openai", "responses: every documented field")
def test_every_documented_field_is_taken(client: OpenAI) -> None:
    """As the package's own tests send them, but for those that exclude each other or mean a lot."""
    first = client.responses.create(model=ECHO, input="hello")
    answer = client.responses.create(
        model=ECHO,
        input="string",
        access_programs={"cyber": "standard"},
        background=False,
        background_options={"completion_window": "soonest", "continuation_id": "x"},
        context_management=[{"type": "compaction", "compact_threshold": 1000}],
        image={"context_compression": "auto"},
        include=["file_search_call.results"],
        instructions="instructions",
        max_output_tokens=16,
        max_tool_calls=0,
        metadata={"foo": "string"},
        parallel_tool_calls=True,
        previous_response_id=first.id,
        prompt_cache_key="prompt-cache-key-1234",
        prompt_cache_options={"mode": "implicit", "prewarm": True, "ttl": "30m"},
        prompt_cache_retention="in_memory",
        reasoning={"context": "auto", "effort": "none", "mode": "standard", "summary": "auto"},
        safety_identifier="safety-identifier-1234",
        service_tier="auto",
        store=True,
        stream=False,
        stream_options={"include_obfuscation": True},
        temperature=1,
        text={"format": {"type": "text"}, "verbosity": "low"},
        tool_choice="none",
        tools=[
            {
                "name": "name",
                "parameters": {"foo": "bar"},
                "strict": True,
                "type": "function",
                "allowed_callers": ["direct"],
                "async": True,
                "defer_loading": True,
                "description": "description",
                "output_schema": {"foo": "bar"},
            }
        ],
        top_logprobs=0,
        top_p=1,
        truncation="auto",
        user="user-1234",
    )
    assert answer.output_text == "string"
    assert (answer.user, answer.metadata) == ("user-1234", {"foo": "string"})
    assert (answer.temperature, answer.truncation, answer.tool_choice) == (1, "auto", "none")


@pytest.mark.client("openai", "responses: errors")
def test_errors(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as missing:
        client.responses.create(model="no-such-model", input="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as bad:
        client.responses.create(model=ECHO, input="x", tools=[{"type": "web_search"}])
    assert bad.value.param == "tools[0].type"
    with pytest.raises(BadRequestError) as unknown:
        client.responses.create(model=ECHO, input="x", extra_body={"nonsense": 1})
    assert (unknown.value.param, unknown.value.code) == ("nonsense", "unknown_parameter")


@pytest.mark.client("openai", "conversations")
def test_conversations(client: OpenAI) -> None:
    made = client.conversations.create(
        metadata={"a": "b"}, items=[{"role": "user", "content": "I am Ada", "type": "message"}]
    )
    client.responses.create(model=ECHO, input="Who?", conversation=made.id)
    items = list(client.conversations.items.list(made.id, order="asc", limit=1))
    assert [item.content[0].text for item in items] == ["I am Ada", "Who?", "Who?"]  # type: ignore[union-attr]
    assert client.conversations.items.retrieve(items[0].id, conversation_id=made.id) == items[0]  # type: ignore[arg-type]
    assert client.conversations.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.delete(made.id).deleted is True
    with pytest.raises(NotFoundError):
        client.conversations.retrieve(made.id)


# ---- files and batches -----------------------------------------------------------------------


@pytest.mark.client("openai", "files")
def test_files(client: OpenAI) -> None:
    made = client.files.create(
        file=("notes.txt", b"some data"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.bytes, made.filename) == (9, "notes.txt")
    assert made.expires_at == made.created_at + 3600
    assert client.files.content(made.id).read() == b"some data"
    assert client.files.retrieve(made.id) == made
    assert made.id in [file.id for file in client.files.list(limit=1)]
    assert client.files.wait_for_processing(made.id).status == "processed"
    assert client.files.delete(made.id).deleted is True
    with pytest.raises(NotFoundError):
        client.files.content(made.id)


@pytest.mark.client("openai", "files")
def test_a_large_file(client: OpenAI) -> None:
    content = bytes(range(256)) * 4 * 8192  # 8 MiB
    made = client.files.create(file=io.BytesIO(content), purpose="batch")
    assert client.files.content(made.id).read() == content
    client.files.delete(made.id)


def _requests(count: int, words: int, model: str = ECHO) -> bytes:
    lines = []
    for n in range(count):
        named = "no-such-model" if n % 10 == 9 else model
        body = {"model": named, "messages": [{"role": "user", "content": f"{n} " * words}]}
        line = {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(line).encode())
    return b"\n".join(lines)


def _batch(client: OpenAI, requests: bytes) -> str:
    file = client.files.create(file=("in.jsonl", requests), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id


def _wait(client: OpenAI, id: str) -> Any:
    while (batch := client.batches.retrieve(id)).status in (
        "validating", "in_progress", "finalizing", "cancelling",
    ):  # fmt: skip
        time.sleep(0.05)
    return batch


def _answers(client: OpenAI, id: str) -> dict[str, Any]:
    lines = map(json.loads, client.files.content(id).text.splitlines())
    return {line["custom_id"]: line["response"] for line in lines}


@pytest.mark.client("openai", "batches")
def test_a_batch(client: OpenAI) -> None:
    batch = _wait(client, _batch(client, _requests(20, 2)))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (18, 2)
    answers = _answers(client, batch.output_file_id)
    assert answers["c4"]["body"]["choices"][0]["message"]["content"] == "4 4 "
    errors = _answers(client, batch.error_file_id)
    assert {one: found["status_code"] for one, found in errors.items()} == {"c9": 404, "c19": 404}
    assert batch.id in [one.id for one in client.batches.list(limit=1)]


@pytest.mark.client("openai", "batches")
@pytest.mark.model
@pytest.mark.slow
def test_a_batch_of_a_real_model(client: OpenAI) -> None:
    lines = [
        {
            "custom_id": f"c{n}",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": SMOL, "input": f"What is {n} plus 1?", "max_output_tokens": 8},
        }
        for n in range(6)
    ]
    file = client.files.create(
        file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch"
    )
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
    )
    batch = _wait(client, made.id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 6)
    assert batch.usage.output_tokens <= 48


@pytest.mark.client("openai", "batches")
def test_a_batch_with_a_bad_line_fails_and_says_which(client: OpenAI) -> None:
    requests = _requests(19, 1).splitlines()
    requests.insert(7, b'{"custom_id": "x"')
    batch = client.batches.retrieve(_batch(client, b"\n".join(requests)))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(one.line, one.code) for one in batch.errors.data] == [(8, "invalid_json_line")]


@pytest.mark.client("openai", "batches")
def test_a_batch_is_cancelled(client: OpenAI) -> None:
    id = _batch(client, _requests(40, 20, "echo:slow"))
    assert client.batches.cancel(id).status == "cancelling"
    assert _wait(client, id).status == "cancelled"


@pytest.mark.client("openai", "batches")
def test_a_batch_outlives_kill_9(home: Path) -> None:
    """Twice. Every request has exactly one answer in the end, and what was answered stays so."""
    with serving.serving(home) as server:
        with _client(server) as client:
            id = _batch(client, _requests(40, 6, "echo:slow"))
            _some(client, id, 4)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving.serving(home) as server:
        with _client(server) as client:
            _some(client, id, 12)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving.serving(home) as server, _client(server) as client:
        batch = _wait(client, id)
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (36, 4)
        answers = _answers(client, batch.output_file_id)
        assert {
            one: found["body"]["choices"][0]["message"]["content"].split()
            for one, found in answers.items()
        } == {f"c{n}": [str(n)] * 6 for n in range(40) if n % 10 != 9}
    assert list((home / "files/jobs").iterdir()) == []


def _some(client: OpenAI, id: str, count: int) -> None:
    while True:
        counts = client.batches.retrieve(id).request_counts
        if counts is not None and counts.completed >= count:
            return
        time.sleep(0.02)


@pytest.mark.client("openai", "responses: state")
def test_responses_outlive_kill_9(home: Path) -> None:
    with serving.serving(home) as server:
        with _client(server) as client:
            kept = client.responses.create(model=ECHO, input="remember this")
            running = client.responses.create(model="echo:slow", input="w " * 1000, background=True)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving.serving(home) as server, _client(server) as client:
        assert client.responses.retrieve(kept.id) == kept
        again = client.responses.create(model=ECHO, input="go on", previous_response_id=kept.id)
        assert again.output_text == "go on"
        cut = client.responses.retrieve(running.id)
        assert cut.status == "failed"
        assert cut.error is not None
        assert cut.error.code == "server_error"
