"""The official `google-genai` client, unmodified, against the real server and the real models."""

from collections.abc import Iterator
from typing import Any

import pydantic
import pytest
from google import genai
from google.genai import errors, types

from serving import Served

pytestmark = pytest.mark.model

SAY = "Name three colours."
GREEDY = {"temperature": 0.0, "max_output_tokens": 16}
WEATHER = types.FunctionDeclaration(
    name="get_weather",
    description="Tells the weather of a city",
    parameters=types.Schema(
        type=types.Type.OBJECT,
        properties={"city": types.Schema(type=types.Type.STRING)},
        required=["city"],
    ),
)


def connect(server: Served, version: str) -> genai.Client:
    options = types.HttpOptions(base_url=server.url, api_version=version)
    return genai.Client(api_key="any", http_options=options)


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[genai.Client]:
    with connect(server, "v1") as client:
        yield client


def config(**fields: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**{**GREEDY, **fields})


@pytest.mark.client("google-genai", "generate: whole")
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_an_answer(server: Served, version: str) -> None:
    with connect(server, version) as client:
        answer = client.models.generate_content(
            model="smollm2", contents=SAY, config=config(system_instruction="Be brief.")
        )
    assert answer.text
    assert answer.response_id
    assert answer.model_version == "smollm2"
    (candidate,) = answer.candidates or ()
    assert candidate.finish_reason in (types.FinishReason.STOP, types.FinishReason.MAX_TOKENS)
    usage = answer.usage_metadata
    assert usage is not None
    assert usage.prompt_token_count is not None
    assert usage.candidates_token_count is not None
    assert 0 < usage.candidates_token_count <= 16
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count


@pytest.mark.client("google-genai", "generate: stream")
def test_a_stream(client: genai.Client) -> None:
    chunks = list(
        client.models.generate_content_stream(model="smollm2", contents=SAY, config=config())
    )
    assert len(chunks) > 3
    whole = client.models.generate_content(model="smollm2", contents=SAY, config=config())
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert chunks[-1].usage_metadata is not None
    assert whole.usage_metadata is not None
    assert chunks[-1].usage_metadata.total_token_count == whole.usage_metadata.total_token_count


@pytest.mark.client("google-genai", "generate: stream")
@pytest.mark.anyio
async def test_an_asynchronous_stream(server: Served) -> None:
    async with connect(server, "v1beta").aio as client:
        stream = await client.models.generate_content_stream(model="echo:x", contents="a b c")
        assert [chunk.text async for chunk in stream] == ["a ", "b ", "c", ""]


@pytest.mark.client("google-genai", "generate: sampling")
def test_sampling_is_taken(client: genai.Client) -> None:
    answer = client.models.generate_content(
        model="smollm2",
        contents=SAY,
        config=config(
            temperature=0.7, top_p=0.9, top_k=20, seed=3, presence_penalty=0.1,
            frequency_penalty=0.1, stop_sequences=["."],
            safety_settings=[types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                threshold=types.HarmBlockThreshold.BLOCK_NONE)],
        ),
    )  # fmt: skip
    assert "." not in (answer.text or "")


@pytest.mark.client("google-genai", "generate: candidates")
def test_several_candidates(client: genai.Client) -> None:
    answer = client.models.generate_content(
        model="smollm2", contents=SAY, config=config(candidate_count=2, temperature=1.0, seed=1)
    )
    texts = [one.content.parts[0].text for one in answer.candidates or ()]  # type: ignore[union-attr,index]
    assert len(texts) == 2
    assert texts[0] != texts[1]


@pytest.mark.client("google-genai", "generate: log-probabilities")
def test_log_probabilities(client: genai.Client) -> None:
    answer = client.models.generate_content(
        model="smollm2", contents=SAY, config=config(response_logprobs=True, logprobs=3)
    )
    (candidate,) = answer.candidates or ()
    result = candidate.logprobs_result
    assert result is not None
    chosen = result.chosen_candidates or []
    assert "".join(token.token or "" for token in chosen) == answer.text
    assert all(token.log_probability is not None for token in chosen)
    assert all(len(top.candidates or ()) == 3 for top in result.top_candidates or ())
    mean = sum(token.log_probability or 0 for token in chosen) / len(chosen)
    assert candidate.avg_logprobs == pytest.approx(mean)


@pytest.mark.client("google-genai", "chats")
def test_a_chat(client: genai.Client) -> None:
    chat = client.chats.create(model="smollm2", config=config())
    assert chat.send_message("My name is Ada.").text
    assert "".join(chunk.text or "" for chunk in chat.send_message_stream("Who am I?"))
    history = chat.get_history()
    assert [content.role for content in history[:3]] == ["user", "model", "user"]
    third = chat.send_message("Thank you.")
    assert third.usage_metadata is not None
    assert (third.usage_metadata.prompt_token_count or 0) > 40


# ---- tools ---------------------------------------------------------------------------------


@pytest.mark.client("google-genai", "tools: AUTO, ANY, NONE")
@pytest.mark.parametrize("mode", ["AUTO", "ANY", "NONE", "VALIDATED"])
def test_modes(client: genai.Client, mode: str) -> None:
    calling = types.FunctionCallingConfig(mode=mode)  # type: ignore[arg-type]
    answer = client.models.generate_content(
        model="smollm2",
        contents="What is the weather in Paris?",
        config=config(
            max_output_tokens=80,
            tools=[types.Tool(function_declarations=[WEATHER])],
            tool_config=types.ToolConfig(function_calling_config=calling),
        ),
    )
    calls = answer.function_calls or []
    if mode == "ANY":
        assert [call.name for call in calls] == ["get_weather"]
        assert isinstance(calls[0].args["city"], str)  # type: ignore[index]
    if mode == "NONE":
        assert not calls


@pytest.mark.client("google-genai", "tools: stream")
def test_tools_in_a_stream(client: genai.Client) -> None:
    calling = types.FunctionCallingConfig(
        mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["get_weather"]
    )
    chunks = client.models.generate_content_stream(
        model="smollm2",
        contents="What is the weather in Paris?",
        config=config(
            max_output_tokens=80,
            tools=[types.Tool(function_declarations=[WEATHER])],
            tool_config=types.ToolConfig(function_calling_config=calling),
        ),
    )
    calls = [call for chunk in chunks for call in chunk.function_calls or ()]
    assert [call.name for call in calls] == ["get_weather"]


@pytest.mark.client("google-genai", "tools: automatic function calling")
def test_the_client_calls_functions_itself(client: genai.Client) -> None:
    asked: list[str] = []

    def shout(text: str) -> str:
        """Says it loudly."""
        asked.append(text)
        return text.upper()

    answer = client.models.generate_content(
        model="echo:tool",
        contents="hello",
        config=types.GenerateContentConfig(
            tools=[shout],
            automatic_function_calling=types.AutomaticFunctionCallingConfig(maximum_remote_calls=2),
        ),
    )
    assert asked[0] == "hello"
    history = answer.automatic_function_calling_history or []
    assert [content.role for content in history[:3]] == ["user", "model", "user"]
    result = history[2].parts[0].function_response  # type: ignore[index]
    assert result is not None
    assert result.response == {"result": "HELLO"}


@pytest.mark.client("google-genai", "tools: results")
def test_a_result_reaches_the_model(client: genai.Client) -> None:
    call = types.Part.from_function_call(name="get_weather", args={"city": "Paris"})
    result = types.Part.from_function_response(
        name="get_weather", response={"output": "25 degrees and sunny"}
    )
    answer = client.models.generate_content(
        model="smollm2",
        contents=[
            types.Content(role="user", parts=[types.Part(text="Is it warm in Paris?")]),
            types.Content(role="model", parts=[call]),
            types.Content(role="user", parts=[result]),
        ],
        config=config(max_output_tokens=30, tools=[types.Tool(function_declarations=[WEATHER])]),
    )
    assert answer.candidates


@pytest.mark.client("google-genai", "images")
def test_images(client: genai.Client) -> None:
    image = types.Part.from_bytes(data=b"\x89PNG\r\n\x1a\n" + b"\0" * 8, mime_type="image/png")
    answer = client.models.generate_content(model="echo:x", contents=[image, "a b"])
    assert answer.text == "a b"
    with pytest.raises(errors.ClientError, match="cannot see images"):
        client.models.generate_content(model="smollm2", contents=[image, "a b"])


# ---- structured output, thinking -----------------------------------------------------------


class Colour(pydantic.BaseModel):
    name: str
    bright: bool


@pytest.mark.client("google-genai", "structured output")
@pytest.mark.parametrize("kind", ["pydantic", "schema", "json schema", "none", "enum"])
def test_structured_output(client: genai.Client, kind: str) -> None:
    shape: dict[str, Any] = {
        "pydantic": {"response_schema": Colour},
        "schema": {"response_schema": {
            "type": "OBJECT", "required": ["name", "bright"], "propertyOrdering": ["bright"],
            "properties": {"name": {"type": "STRING"}, "bright": {"type": "BOOLEAN"}}}},
        "json schema": {"response_json_schema": Colour.model_json_schema()},
        "none": {},
        "enum": {"response_schema": {"type": "STRING", "enum": ["red", "yellow"]}},
    }[kind]  # fmt: skip
    mime = "text/x.enum" if kind == "enum" else "application/json"
    answer = client.models.generate_content(
        model="smollm2",
        contents="Describe the colour yellow as a small JSON object.",
        config=config(max_output_tokens=200, response_mime_type=mime, **shape),
    )
    if kind == "enum":
        assert answer.text in ("red", "yellow")
    elif kind == "none":
        assert (answer.text or "").lstrip()[:1] in ("{", "[")
    else:
        Colour.model_validate_json(answer.text or "")
    if kind == "pydantic":
        assert isinstance(answer.parsed, Colour)


@pytest.mark.client("google-genai", "thinking")
@pytest.mark.parametrize("include", [True, False])
def test_thinking(client: genai.Client, include: bool) -> None:
    thinking = types.ThinkingConfig(include_thoughts=include, thinking_budget=99)
    answer = client.models.generate_content(
        model="echo:think",
        contents="a b",
        config=types.GenerateContentConfig(thinking_config=thinking),
    )
    parts = answer.candidates[0].content.parts  # type: ignore[index,union-attr]
    assert [bool(part.thought) for part in parts or ()] == ([True, False] if include else [False])
    assert answer.text == "a b"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.thoughts_token_count


# ---- counting, embedding, models -----------------------------------------------------------


@pytest.mark.client("google-genai", "count tokens")
def test_counting(client: genai.Client) -> None:
    counted = client.models.count_tokens(model="smollm2", contents=SAY)
    answer = client.models.generate_content(model="smollm2", contents=SAY, config=config())
    assert answer.usage_metadata is not None
    assert counted.total_tokens == answer.usage_metadata.prompt_token_count


@pytest.mark.client("google-genai", "embeddings")
def test_embeddings(client: genai.Client) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stock markets fell today."]
    found = client.models.embed_content(model="minilm", contents=texts)  # type: ignore[arg-type]
    vectors = [one.values or [] for one in found.embeddings or ()]
    assert [len(vector) for vector in vectors] == [384] * 3

    def alike(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert alike(0, 0) == pytest.approx(1, abs=1e-3)
    assert alike(0, 1) > alike(0, 2) + 0.2
    short = client.models.embed_content(
        model="minilm",
        contents="A cat.",
        config=types.EmbedContentConfig(output_dimensionality=64, task_type="RETRIEVAL_QUERY"),
    )
    assert len(short.embeddings[0].values or ()) == 64  # type: ignore[index]


@pytest.mark.client("google-genai", "models")
def test_models(client: genai.Client) -> None:
    listed = list(client.models.list(config={"page_size": 1}))
    names = [model.name for model in listed]
    assert {"models/smollm2", "models/gemma3"} <= set(names)
    assert len(set(names)) == len(names)
    one = client.models.get(model="smollm2")
    assert one.input_token_limit == 8192
    assert "generateContent" in (one.supported_actions or ())


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.client("google-genai", "errors")
@pytest.mark.parametrize(
    ("model", "fields", "kind", "status"),
    [
        ("no-such-model", {}, errors.ClientError, "NOT_FOUND"),
        ("smollm2", {"top_p": 3.0}, errors.ClientError, "INVALID_ARGUMENT"),
        (
            "smollm2",
            {"tools": [types.Tool(google_search=types.GoogleSearch())]},
            errors.ClientError,
            "INVALID_ARGUMENT",
        ),
        ("echo:fail", {}, errors.ServerError, "INTERNAL"),
    ],
)
def test_errors(
    client: genai.Client, model: str, fields: Any, kind: type[errors.APIError], status: str
) -> None:
    with pytest.raises(kind) as raised:
        client.models.generate_content(model=model, contents="a b c d e", config=config(**fields))
    assert raised.value.status == status
    assert raised.value.message


@pytest.mark.client("google-genai", "errors")
def test_a_prompt_that_is_too_long(client: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as raised:
        client.models.generate_content(model="smollm2", contents="word " * 20_000)
    assert (raised.value.code, raised.value.status) == (400, "INVALID_ARGUMENT")
    assert "8192" in (raised.value.message or "")


@pytest.mark.client("google-genai", "errors")
def test_a_stream_that_breaks_raises(client: genai.Client) -> None:
    texts: list[Any] = []
    stream = client.models.generate_content_stream(model="echo:fail", contents="a b c d e")
    with pytest.raises(errors.ServerError) as raised:
        texts.extend(chunk.text for chunk in stream)
    assert texts == ["a ", "b ", "c "]
    assert raised.value.status == "INTERNAL"
