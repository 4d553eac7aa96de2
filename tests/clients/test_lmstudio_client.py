"""The `lmstudio` Python SDK, unmodified, against the real server over TCP."""

import base64
import time
from collections.abc import Iterator

import lmstudio as lms
import pytest
from pydantic import BaseModel

import serving

client_of = pytest.mark.client
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SHORT = {"maxTokens": 12, "temperature": 0}


@pytest.fixture
def client(server: serving.Served) -> Iterator[lms.Client]:
    with lms.Client(server.address) as opened:
        yield opened


class Book(BaseModel):
    title: str
    year: int


# ---- finding out ---------------------------------------------------------------------------


@client_of("lmstudio", "list models")
def test_models_are_listed(client: lms.Client) -> None:
    there = {model.model_key: model.info for model in client.list_downloaded_models()}
    assert {"smollm2", "gemma3"} <= set(there)
    assert there["smollm2"].type == "llm"
    assert there["smollm2"].architecture == "llama"
    assert there["smollm2"].params_string == "135M"
    assert there["smollm2"].max_context_length == 8192


@client_of("lmstudio", "errors")
def test_a_model_that_is_not_there(client: lms.Client) -> None:
    with pytest.raises(lms.LMStudioModelNotFoundError, match="no such model"):
        client.llm.model("no such model")
    with pytest.raises(lms.LMStudioModelNotFoundError):
        client.llm.unload("no such model")


@client_of("lmstudio", "errors")
def test_an_error_on_the_way(client: lms.Client) -> None:
    with pytest.raises(lms.LMStudioServerError, match="three words"):
        client.llm.model("echo:fail").respond("one two three four five")


@client_of("lmstudio", "errors")
def test_documents_are_refused_in_words(client: lms.Client) -> None:
    handle = lms.FileHandle(name="a.pdf", identifier="x", size_bytes=1, file_type="application/pdf")
    chat = lms.Chat()
    chat.add_user_message(["read", handle])
    with pytest.raises(lms.LMStudioServerError, match="only images"):
        client.llm.model("echo:x").respond(chat)


# ---- the echo engine: what can be checked to the letter ------------------------------------


@client_of("lmstudio", "respond: stream")
def test_fragments_add_up(client: lms.Client) -> None:
    reports: list[float] = []
    stream = client.llm.model("echo:x").respond_stream(
        "one two three", on_prompt_processing_progress=reports.append
    )
    assert [fragment.content for fragment in stream] == ["one ", "two ", "three"]
    result = stream.result()
    assert result.content == "one two three"
    assert result.stats.stop_reason == "eosFound"
    assert (result.stats.prompt_tokens_count, result.stats.predicted_tokens_count) == (3, 3)
    assert reports[-1] == 1.0


@client_of("lmstudio", "reasoning")
def test_reasoning_is_marked(client: lms.Client) -> None:
    stream = client.llm.model("echo:think").respond_stream("hello")
    kinds = [fragment.reasoning_type for fragment in stream]
    assert kinds == ["reasoningStartTag", "reasoning", "reasoningEndTag", "none"]


@client_of("lmstudio", "tools: act")
def test_a_tool_is_called_and_its_result_goes_back(client: lms.Client) -> None:
    calls: list[str] = []

    def shout(text: str) -> str:
        """Say it loud."""
        calls.append(text)
        return text.upper()

    chat = lms.Chat()
    chat.add_user_message("hello there")
    done = client.llm.model("echo:tool").act(
        chat, [shout], max_prediction_rounds=2, on_message=chat.append
    )
    assert calls == ["hello there"]
    assert done.rounds == 2
    assert [message.role for message in chat._messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


@client_of("lmstudio", "images")
def test_an_image_arrives(client: lms.Client) -> None:
    handle = client.prepare_image(PNG, "dot.png")
    assert (handle.file_type, handle.size_bytes) == ("image", len(PNG))
    chat = lms.Chat()
    chat.add_user_message("look at this", images=[handle])
    assert client.llm.model("echo:x").respond(chat).content == "look at this"


@client_of("lmstudio", "embed")
def test_embeddings(client: lms.Client) -> None:
    model = client.embedding.model("echo:x")
    one, same, other = model.embed(["a cat", "a cat", "something else"])
    assert one == same != other
    assert sum(value * value for value in one) == pytest.approx(1.0)


@client_of("lmstudio", "cancel")
def test_cancelling(client: lms.Client) -> None:
    began = time.monotonic()
    stream = client.llm.model("echo:slow").respond_stream("word " * 1000)
    for _ in stream:
        stream.cancel()
    assert stream.result().stats.stop_reason == "userStopped"
    assert time.monotonic() - began < 20  # all of it would be 50 s


@client_of("lmstudio", "async")
@pytest.mark.anyio
async def test_the_asynchronous_client(server: serving.Served) -> None:
    async with lms.AsyncClient(server.address) as client:
        model = await client.llm.model("echo:x")
        stream = await model.respond_stream("one two")
        assert [fragment.content async for fragment in stream] == ["one ", "two"]
        assert (await model.complete("as it is")).content == "as it is"
        listed = await client.list_downloaded_models()
        assert "smollm2" in [one.model_key for one in listed]
        with pytest.raises(lms.LMStudioModelNotFoundError):
            await client.llm.model("no such model")


# ---- the real model ------------------------------------------------------------------------


@pytest.mark.model
@client_of("lmstudio", "load, unload, ttl")
def test_loading_and_unloading(client: lms.Client) -> None:
    reports: list[float] = []
    model = client.llm.model("smollm2", ttl=300, on_load_progress=reports.append)
    assert reports[-1] == 1.0
    assert model in client.llm.list_loaded()
    info = model.get_info()
    assert (info.identifier, info.model_key) == ("smollm2", "smollm2")
    assert model.get_context_length() == info.context_length > 0
    assert model.get_load_config().context_length == info.context_length
    other = client.llm.load_new_instance("smollm2", "mine", ttl=None)
    assert other.identifier == "mine"
    assert {"smollm2", "mine"} <= {one.identifier for one in client.llm.list_loaded()}
    with pytest.raises(lms.LMStudioServerError, match="already exists"):
        client.llm.load_new_instance("smollm2", "mine")
    other.unload()
    model.unload()
    assert client.llm.list_loaded() == []
    with pytest.raises(lms.LMStudioModelNotFoundError):
        model.get_info()


@pytest.mark.model
@client_of("lmstudio", "respond")
def test_an_answer(client: lms.Client) -> None:
    model = client.llm.model("smollm2")
    chat = lms.Chat("You are terse.")
    chat.add_user_message("Say hello.")
    result = model.respond(chat, config=SHORT)
    assert result.content
    assert result.stats.predicted_tokens_count <= 12
    assert result.stats.prompt_tokens_count > 10
    assert result.stats.tokens_per_second > 0
    assert result.model_info.model_key == "smollm2"
    assert result.prediction_config.max_tokens == 12
    assert model.respond(chat, config=SHORT).content == result.content


@pytest.mark.model
@client_of("lmstudio", "complete")
def test_a_completion(client: lms.Client) -> None:
    model = client.llm.model("smollm2")
    result = model.complete("The capital of France is", config=SHORT)
    assert result.content
    assert result.stats.prompt_tokens_count == model.count_tokens("The capital of France is")
    stopped = model.complete("1 2 3 4", config={"stopStrings": ["6"], "temperature": 0})
    assert "6" not in stopped.content
    assert stopped.stats.stop_reason == "stopStringFound"


@pytest.mark.model
@client_of("lmstudio", "structured output")
def test_a_structured_answer(client: lms.Client) -> None:
    model = client.llm.model("smollm2")
    config = {"temperature": 0, "maxTokens": 100}
    result = model.respond("Name one book.", response_format=Book, config=config)
    assert Book.model_validate(result.parsed)
    grammar = {"type": "gbnf", "gbnfGrammar": 'root ::= "yes" | "no"'}
    assert model.respond("Is it so?", response_format=grammar).content in ("yes", "no")


@pytest.mark.model
@client_of("lmstudio", "tools: enforced")
def test_a_tool_that_must_be_called(client: lms.Client) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                "required": ["city"],
            },
        },
    }
    config = {"temperature": 0, "rawTools": {"type": "toolArray", "tools": [tool], "force": True}}
    stream = client.llm.model("smollm2").respond_stream("How is Rome?", config=config)
    asked = []
    for event in stream._iter_events():
        if isinstance(event, lms.json_api.PredictionToolCallEvent):
            asked.append(event.arg)
    assert [one.name for one in asked] == ["weather"]
    assert asked[0].arguments["city"] in ("Oslo", "Rome")
    assert stream.result().stats.stop_reason == "toolCalls"


@pytest.mark.model
@client_of("lmstudio", "tokenize, count tokens, apply template")
def test_tokens_and_template(client: lms.Client) -> None:
    model = client.llm.model("smollm2")
    tokens = model.tokenize("Hello, world!")
    assert len(tokens) == model.count_tokens("Hello, world!") == 4
    chat = lms.Chat("Be kind.")
    chat.add_user_message("Hi.")
    assert model.apply_prompt_template(chat).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"
    )


@pytest.mark.model
@client_of("lmstudio", "search and download")
def test_a_model_is_found_and_there_already(client: lms.Client) -> None:
    found = client.repository.search_models("smollm2-135m")
    options = found[0].get_download_options()
    assert options[0].info.size_bytes > 90_000_000
