"""The official `openai` client, unmodified, against the real server and the real small model."""

import asyncio
import base64
import json
import struct
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from overt.server.api_keys import ApiKeys
from serving import Served, serving

MODEL = "smollm2"
HI: list[Any] = [{"role": "user", "content": "Say hi."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


@pytest.fixture
def client(server: Served) -> Iterator[OpenAI]:
    # Without retries: an error is to be seen as it was answered.
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


# ---- chat ----------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.client("openai", "chat: whole")
def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HI, max_completion_tokens=12, temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.model
@pytest.mark.client("openai", "chat: stream")
def test_a_stream_says_the_same_as_a_whole_answer(client: OpenAI) -> None:
    fixed: Any = {
        "model": MODEL,
        "messages": HI,
        "max_tokens": 16,
        "temperature": 0,
        "extra_body": {"deterministic": True},
    }
    whole = client.chat.completions.create(**fixed)
    with client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **fixed
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.client("openai", "chat: stream helper")
def test_the_stream_helper_puts_an_answer_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="echo:plain", messages=HI) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "Say hi."


@pytest.mark.model
@pytest.mark.client("openai", "chat: several answers")
def test_several_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HI, n=3, max_tokens=10, temperature=1.5, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert 3 < answer.usage.completion_tokens <= 30
    with client.chat.completions.create(
        model=MODEL, messages=HI, n=3, max_tokens=4, stream=True
    ) as stream:
        assert {chunk.choices[0].index for chunk in stream} == {0, 1, 2}


@pytest.mark.model
@pytest.mark.client("openai", "chat: logprobs")
def test_logprobs(client: OpenAI) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": HI,
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
        "extra_body": {"deterministic": True},
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.logprobs is not None
    told = choice.logprobs.content or []
    assert bytes(b for token in told for b in token.bytes or []).decode() == choice.message.content
    for token in told:  # greedy: each is the likeliest
        assert token.logprob <= 0
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )
        assert token.token == token.top_logprobs[0].token
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
    with client.chat.completions.create(stream=True, **asked) as stream:
        pieces = [
            token.token
            for chunk in stream
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content or []
        ]
    assert pieces == [token.token for token in told]


@pytest.mark.model
@pytest.mark.client("openai", "chat: sampling")
def test_sampling_is_heeded(client: OpenAI) -> None:
    def answer(**fields: Any) -> str:
        created = client.chat.completions.create(
            model=MODEL, messages=HI, max_tokens=8, extra_body={"deterministic": True}, **fields
        )
        return created.choices[0].message.content or ""

    greedy = answer(temperature=0)
    assert answer(temperature=0) == greedy
    assert answer(temperature=1.5, seed=7) == answer(temperature=1.5, seed=7)
    assert len({answer(temperature=1.5, seed=seed) for seed in range(4)}) > 1
    first = greedy.split()[0]
    url = str(client.base_url).removesuffix("/v1/")
    asked = urllib.request.Request(
        f"{url}/of/{MODEL}/tokenize", json.dumps({"prompt": first}).encode()
    )
    with urllib.request.urlopen(asked) as told:
        token = json.load(told)["tokens"][0]
    assert not answer(temperature=0, logit_bias={str(token): -100}).startswith(first)
    assert first not in answer(temperature=0, stop=first)


@pytest.mark.model
@pytest.mark.client("openai", "chat: structured output")
def test_an_answer_has_the_form_of_a_class(client: OpenAI) -> None:
    class Person(BaseModel):
        name: str
        age: int
        mood: Literal["good", "bad"]

    parsed = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Ann is 30 and well. Tell me about her in JSON."}],
        response_format=Person,
        max_tokens=200,
        temperature=0,
    )
    person = parsed.choices[0].message.parsed
    assert person is not None
    assert person.mood in ("good", "bad")


@pytest.mark.model
@pytest.mark.client("openai", "chat: JSON")
def test_json_object_is_an_object(client: OpenAI) -> None:
    def begins(**form: Any) -> str:
        answer = client.chat.completions.create(
            model=MODEL, messages=HI, max_tokens=12, temperature=0, **form
        )
        return (answer.choices[0].message.content or "").lstrip()[:1]

    assert begins(response_format={"type": "json_object"}) == "{"
    assert begins(response_format={"type": "text"}) == begins() != "{"


# ---- tools ---------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.client("openai", "tools: required")
def test_a_required_tool_is_called(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=80,
        temperature=0,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


@pytest.mark.model
@pytest.mark.client("openai", "tools: named")
def test_a_named_tool_is_called_in_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What time is it?"}],
        tools=[TIME, WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=80,
        temperature=0,
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.model
@pytest.mark.client("openai", "tools: none")
def test_no_tool_is_called_where_none_may_be(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HI, tools=[WEATHER], tool_choice="none", max_tokens=10
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content


@pytest.mark.client("openai", "tools: auto, and their results")
def test_a_tool_call_and_its_result_go_round(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "look"}]
    message = client.chat.completions.create(
        model="echo:tool", messages=messages, tools=[WEATHER]
    ).choices[0].message  # fmt: skip
    (call,) = message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"text": "look"}
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    messages += [{"role": "user", "content": "thanks"}]
    answer = client.chat.completions.create(model="echo:plain", messages=messages)
    assert answer.choices[0].message.content == "thanks"


@pytest.mark.client("openai", "chat: reasoning")
def test_reasoning_comes_apart(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo:think", messages=HI, reasoning_effort="high"
    )
    message: Any = answer.choices[0].message
    assert message.reasoning_content == "The message has 7 characters."
    assert message.content == "Say hi."


# ---- the rest ------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.client("openai", "completions")
def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["1 2 3 4", "a b c d"], max_tokens=4, temperature=0, n=1, echo=True
    )
    assert [choice.text[:7] for choice in answer.choices] == ["1 2 3 4", "a b c d"]
    with client.completions.create(
        model=MODEL, prompt="1 2 3 4", max_tokens=4, temperature=0, stream=True
    ) as stream:
        text = "".join(chunk.choices[0].text for chunk in stream)
    assert answer.choices[0].text == f"1 2 3 4{text}"


@pytest.mark.model
@pytest.mark.client("openai", "completions: scores of a prompt")
def test_a_prompt_is_scored(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "echo": True, "logprobs": 5, "temperature": 0}
    prompt = "The capital of France is"
    (choice,) = client.completions.create(prompt=prompt, max_tokens=0, **asked).choices
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert "".join(told.tokens) == choice.text == prompt
    assert told.text_offset == [prompt.find(token.strip(), 0) - (token[0] == " ")
                                for token in told.tokens]  # fmt: skip
    assert told.token_logprobs[0] is None
    assert all(p < 0 for p in told.token_logprobs[1:])
    # One token more, told by the scorer, is what the engine that answers says.
    scored = client.completions.create(prompt=prompt, max_tokens=1, **asked).choices[0]
    assert scored.text == prompt + client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=1, temperature=0
    ).choices[0].text  # fmt: skip


@pytest.mark.model
@pytest.mark.client("openai", "embeddings")
def test_embeddings_in_both_formats(client: OpenAI) -> None:
    floats = client.embeddings.create(
        model="minilm", input=["a cat", "a kitten", "tax law"], encoding_format="float"
    )
    cat, kitten, law = (item.embedding for item in floats.data)
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-4)
    assert _dot(cat, kitten) > _dot(cat, law) + 0.2
    unpacked = client.embeddings.create(model="minilm", input=["a cat", "a kitten", "tax law"])
    assert unpacked.data[0].embedding == pytest.approx(cat, abs=1e-6)
    packed: Any = client.embeddings.create(
        model="minilm", input="a cat", encoding_format="base64"
    )  # as text: the client unpacks only where nothing was asked for
    raw = base64.b64decode(packed.data[0].embedding)
    assert list(struct.unpack(f"<{len(cat)}f", raw)) == pytest.approx(cat, abs=1e-2)
    assert floats.usage.prompt_tokens > 3


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.client("openai", "models")
def test_models(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"smollm2", "gemma3"} <= set(listed)
    assert client.models.retrieve("smollm2") == listed["smollm2"]


@pytest.mark.client("openai", "models: delete")
def test_a_model_is_deleted(client: OpenAI, server: Served) -> None:
    body = json.dumps({"source": "smollm2", "destination": "short-lived"}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/api/copy", body)):
        pass
    id = next(model.id for model in client.models.list() if "short-lived" in model.id)
    assert client.models.delete(id).deleted
    left = {model.id for model in client.models.list()}
    assert id not in left
    assert "smollm2" in left
    with pytest.raises(openai.NotFoundError):
        client.models.delete(id)


# ---- what goes wrong -----------------------------------------------------------------------


@pytest.mark.client("openai", "errors")
def test_errors_are_of_the_right_class(client: OpenAI) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as gone:
        create(model="no-such-model", messages=HI)
    assert (gone.value.code, gone.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as unknown:
        create(model=MODEL, messages=HI, extra_body={"nonsense": 1})
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "nonsense")
    with pytest.raises(openai.BadRequestError) as hot:
        create(model=MODEL, messages=HI, temperature=9)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.APIStatusError) as missing:
        client.moderations.create(input="x")
    assert missing.value.status_code == 501
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="a cat")
    assert gone.value.request_id is not None
    assert gone.value.request_id.startswith("req_")


@pytest.mark.model
@pytest.mark.client("openai", "errors")
def test_errors_of_the_engine_are_of_the_right_class(client: OpenAI) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as long:
        create(model=MODEL, messages=[{"role": "user", "content": "word " * 20_000}])
    assert long.value.code == "context_length_exceeded"
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with pytest.raises(openai.BadRequestError, match="cannot see images"):
        create(model=MODEL, messages=[{"role": "user", "content": [image]}])


@pytest.mark.client("openai", "keys")
def test_a_key_is_asked_for_and_known(home: Path) -> None:
    key = ApiKeys(home).add("laptop").text
    with serving(home, "--require-key") as served:
        address = f"{served.url}/v1"
        with OpenAI(base_url=address, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as wrong:
                client.models.list()
            assert wrong.value.code == "invalid_api_key"
        with OpenAI(base_url=address, api_key=key, max_retries=0) as client:
            answer = client.chat.completions.create(model="echo:plain", messages=HI)
            assert answer.choices[0].message.content == "Say hi."


@pytest.mark.client("openai", "errors in a stream")
def test_a_stream_that_fails_raises(client: OpenAI) -> None:
    words: list[Any] = [{"role": "user", "content": "one two three four"}]
    got: list[str] = []
    with (
        pytest.raises(openai.APIError, match="fails after three words"),
        client.chat.completions.create(model="echo:fail", messages=words, stream=True) as stream,
    ):
        got += [chunk.choices[0].delta.content or "" for chunk in stream]
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="echo:fail", messages=words)


@pytest.mark.model
@pytest.mark.client("openai", "cancel")
def test_leaving_a_stream_frees_the_slot(client: OpenAI, server: Served) -> None:
    story: list[Any] = [{"role": "user", "content": "Tell me a very long story about the sea."}]
    for _ in range(3):
        with client.chat.completions.create(
            model=MODEL, messages=story, stream=True, max_tokens=4000, logit_bias={"2": -100}
        ) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            assert server.metric("overt_model_busy", model=MODEL) == 1
        left = time.monotonic()
        while server.metric("overt_model_busy", model=MODEL):
            # test_load.py holds the second; here a busy machine has five. The story takes a minute.
            assert time.monotonic() - left < 5, "the slot is still taken after five seconds"
            time.sleep(0.01)


@pytest.mark.model
@pytest.mark.anyio
@pytest.mark.client("openai", "chat: many at once")
async def test_many_at_once(server: Served) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def ask(number: int) -> str:
            text = ""
            stream = await client.chat.completions.create(
                model=MODEL if number % 4 == 0 else "echo:plain",
                messages=[{"role": "user", "content": f"say {number}"}],
                stream=True,
                max_tokens=6,
            )
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            return text

        answers = await asyncio.gather(*(ask(number) for number in range(16)))
    assert all(answers)
    assert [answers[n] for n in range(16) if n % 4] == [f"say {n}" for n in range(16) if n % 4]
