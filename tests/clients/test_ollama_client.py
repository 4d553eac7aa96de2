"""The official `ollama` Python client, unmodified, against the real server over TCP."""

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

import projector_writer
import registries
import serving
from gguf_writer import write_llama

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1}
SHORT = {**GREEDY, "num_predict": 8}
ECHO = [{"role": "user", "content": "one two three"}]
HELLO = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}},
    "required": ["city", "size"],
}


@pytest.fixture(scope="module")
def client(server: serving.Served) -> Iterator[ollama.Client]:
    made = ollama.Client(server.url, trust_env=False, timeout=120)
    yield made
    made._client.close()


def feature(name: str) -> pytest.MarkDecorator:
    return pytest.mark.client("ollama", name)


# ---- chat ----------------------------------------------------------------------------------


@feature("chat")
def test_chat(client: ollama.Client) -> None:
    answer = client.chat("smollm2", HELLO, options=SHORT)
    assert answer.message.role == "assistant"
    assert answer.message.content
    assert answer.done
    assert answer.done_reason == "length"
    assert answer.eval_count == 8
    assert answer.prompt_eval_count
    assert answer.prompt_eval_count > 20
    assert answer.total_duration
    assert answer.eval_duration
    assert answer.prompt_eval_duration
    assert answer.load_duration is not None
    known = answer.load_duration + answer.prompt_eval_duration + answer.eval_duration
    assert known <= answer.total_duration * 1.05


@feature("chat: stream")
def test_chat_streams_the_same(client: ollama.Client) -> None:
    whole = client.chat("smollm2:latest", HELLO, options=SHORT)
    parts = list(client.chat("smollm2", HELLO, options=SHORT, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert len(parts) > 4
    assert [part.done for part in parts[:-1]] == [False] * (len(parts) - 1)
    assert parts[-1].eval_count == 8
    assert all(part.created_at for part in parts)


@feature("chat: stop")
def test_stop(client: ollama.Client) -> None:
    answer = client.chat("echo:x", ECHO, options={"stop": ["two"]})
    assert answer.message.content == "one "
    assert answer.done_reason == "stop"


@feature("chat: options")
def test_a_seed_repeats_and_another_does_not(client: ollama.Client) -> None:
    def told(seed: int) -> str:
        options = {"temperature": 1.5, "seed": seed, "num_predict": 12}
        return client.chat("smollm2", HELLO, options=options).message.content or ""

    assert told(7) == told(7)
    assert len({told(seed) for seed in (1, 2, 3)}) > 1


@feature("chat: history")
def test_a_conversation(client: ollama.Client) -> None:
    messages = [
        ollama.Message(role="system", content="You are terse."),
        ollama.Message(role="user", content="Name a colour."),
        ollama.Message(role="assistant", content="Blue."),
        ollama.Message(role="user", content="Another one."),
    ]
    answer = client.chat("smollm2", messages, options=SHORT)
    alone = client.chat("smollm2", messages[-1:], options=SHORT)
    assert answer.prompt_eval_count
    assert alone.prompt_eval_count
    assert answer.prompt_eval_count != alone.prompt_eval_count


@feature("structured output")
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_kept(client: ollama.Client, stream: bool) -> None:
    asked = [{"role": "user", "content": "A city and its size, as JSON."}]
    options = {**GREEDY, "num_predict": 60}
    found: Any = client.chat("smollm2", asked, format=SCHEMA, options=options, stream=stream)
    text = "".join(p.message.content for p in found) if stream else found.message.content
    read = json.loads(text)
    assert isinstance(read["city"], str)
    assert isinstance(read["size"], int)


@feature("structured output: json")
def test_json_mode(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 200}
    prompt = 'Answer with the JSON object {"a": 1} and nothing else.'
    text = client.generate("smollm2", prompt, format="json", options=options).response
    assert text.lstrip().startswith("{")


@feature("tools")
@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: ollama.Client, stream: bool) -> None:
    def look_up(text: str) -> str:
        """Look something up.

        Args:
            text: what to look up
        """
        return text

    found: Any = client.chat("echo:tool", ECHO, tools=[look_up], stream=stream)
    parts = list(found) if stream else [found]
    (call,) = [call for part in parts for call in part.message.tool_calls or ()]
    assert call.function.name == "look_up"
    assert call.function.arguments == {"text": "one two three"}
    answer = client.chat(
        "echo:tool",
        [*ECHO, {"role": "assistant", "tool_calls": [call]},
         {"role": "tool", "content": "42", "tool_name": "look_up"}],
    )  # fmt: skip
    assert answer.message.content is not None
    assert answer.done


@feature("tools: a real model")
def test_tools_with_a_real_model(client: ollama.Client) -> None:
    """A 135M model may not call it; it answers, and what it calls is well formed."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    asked = [{"role": "user", "content": "What is 2 + 2? Use the tool add."}]
    answer = client.chat("smollm2", asked, tools=[add], options={**GREEDY, "num_predict": 60})
    for call in answer.message.tool_calls or ():
        assert isinstance(call.function.arguments, dict)
    assert answer.done


@feature("thinking")
@pytest.mark.parametrize("stream", [False, True])
def test_thinking(client: ollama.Client, stream: bool) -> None:
    found: Any = client.chat("echo:think", ECHO, think=True, stream=stream)
    parts = list(found) if stream else [found]
    assert "".join(part.message.thinking or "" for part in parts) == (
        "The message has 13 characters."
    )
    assert "".join(part.message.content or "" for part in parts) == "one two three"


@feature("thinking")
def test_a_model_that_cannot_think(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as caught:
        client.chat("smollm2", HELLO, think=True)
    assert caught.value.status_code == 400


@feature("images")
def test_a_model_that_sees_nothing_says_so(client: ollama.Client) -> None:
    png = projector_writer.png(255, 0, 0)
    with pytest.raises(ollama.ResponseError, match="cannot see images") as caught:
        client.chat("smollm2", [{"role": "user", "content": "?", "images": [png]}])
    assert caught.value.status_code == 400
    answer = client.generate("echo:x", "I see", images=[png])
    assert answer.response == "I see"


@feature("logprobs")
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: ollama.Client, stream: bool) -> None:
    found: Any = client.chat(
        "smollm2", HELLO, logprobs=True, top_logprobs=3, options=SHORT, stream=stream
    )
    parts = list(found) if stream else [found]
    told = [one for part in parts for one in part.logprobs or ()]
    assert len(told) == 8
    assert all(one.logprob <= 0 and len(one.top_logprobs) == 3 for one in told)
    text = "".join(part.message.content or "" for part in parts)
    assert "".join(one.token for one in told) == text
    assert told[0].top_logprobs[0].token == told[0].token, "greedy takes the likeliest"


# ---- generate ------------------------------------------------------------------------------


@feature("generate")
def test_generate_goes_on_from_its_context(client: ollama.Client) -> None:
    first = client.generate("smollm2", "My name is Ada.", options=SHORT)
    assert first.context
    assert first.response
    second = client.generate("smollm2", "What is my name?", context=first.context, options=SHORT)
    alone = client.generate("smollm2", "What is my name?", options=SHORT)
    assert second.prompt_eval_count
    assert alone.prompt_eval_count
    assert second.prompt_eval_count >= len(first.context)
    assert second.context
    assert list(second.context[: len(first.context)]) == list(first.context)


@feature("generate: stream")
def test_generate_streams(client: ollama.Client) -> None:
    parts = list(client.generate("smollm2", "Once", options=SHORT, stream=True))
    whole = client.generate("smollm2", "Once", options=SHORT)
    assert "".join(part.response for part in parts) == whole.response
    assert parts[-1].context == whole.context


@feature("generate: raw")
def test_raw(client: ollama.Client) -> None:
    text = "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    answer = client.generate("smollm2", text, raw=True, options=SHORT)
    assert answer.response
    assert answer.context is None
    assert answer.prompt_eval_count
    assert answer.prompt_eval_count < 20, "no system text was put before it"


@feature("generate: template")
def test_a_template_of_ones_own(client: ollama.Client) -> None:
    template = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
    own = client.generate("smollm2", "Say hello.", template=template, options=SHORT)
    text = "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    assert own.response == client.generate("smollm2", text, raw=True, options=SHORT).response
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate("smollm2", "x", template="{{ define }}")
    assert caught.value.status_code == 422


@feature("generate: system")
def test_system(client: ollama.Client) -> None:
    plain = client.generate("smollm2", "Hello", options=SHORT)
    with_system = client.generate("smollm2", "Hello", system="word " * 50, options=SHORT)
    assert with_system.prompt_eval_count
    assert plain.prompt_eval_count
    assert with_system.prompt_eval_count > plain.prompt_eval_count + 20


@feature("generate: a base model")
def test_a_model_without_a_template_goes_on(client: ollama.Client) -> None:
    answer = client.generate("gemma3", "The capital of France is", options=SHORT)
    bare = client.generate("gemma3", "The capital of France is", raw=True, options=SHORT)
    assert answer.response == bare.response
    assert answer.response


@feature("generate: suffix")
def test_a_suffix_needs_a_model_for_it(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate("gemma3", "def add(a, b):", suffix="return c", options=SHORT)
    assert caught.value.status_code in (400, 501)


# ---- embeddings ----------------------------------------------------------------------------


@pytest.fixture
def minilm(client: ollama.Client) -> str:
    if "minilm:latest" not in [model.model for model in client.list().models]:
        pytest.skip("the test home holds no minilm")
    return "minilm"


@feature("embed")
def test_embed(client: ollama.Client, minilm: str) -> None:
    found = client.embed(minilm, ["a cat", "a kitten", "the stock market"])
    cat, kitten, market = found.embeddings
    assert len(cat) == 384
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-3)

    def alike(one: Any, other: Any) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert alike(cat, kitten) > alike(cat, market) + 0.2
    assert found.prompt_eval_count
    single = client.embed(minilm, "a cat")
    assert alike(single.embeddings[0], cat) == pytest.approx(1, abs=1e-3)
    old = client.embeddings(minilm, "a cat")
    assert alike(old.embedding, cat) == pytest.approx(1, abs=1e-3)


@feature("embed: truncate")
def test_embed_truncates_unless_told_otherwise(client: ollama.Client, minilm: str) -> None:
    long = "word " * 2000
    assert len(client.embed(minilm, long).embeddings) == 1
    with pytest.raises(ollama.ResponseError) as caught:
        client.embed(minilm, long, truncate=False)
    assert caught.value.status_code == 400


@feature("embed: dimensions")
def test_embed_dimensions(client: ollama.Client, minilm: str) -> None:
    found = client.embed(minilm, "a cat", dimensions=64)
    assert len(found.embeddings[0]) == 64
    assert sum(x * x for x in found.embeddings[0]) == pytest.approx(1, abs=1e-3)


@feature("errors")
def test_an_embedding_model_does_not_chat(client: ollama.Client, minilm: str) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support generate") as caught:
        client.chat(minilm, HELLO)
    assert caught.value.status_code == 400


# ---- models --------------------------------------------------------------------------------


@feature("list, show")
def test_list_and_show(client: ollama.Client) -> None:
    found = {model.model: model for model in client.list().models}
    model = found["smollm2:latest"]
    assert model.details
    assert model.details.parameter_size == "134.52M"
    assert model.details.quantization_level == "Q4_1"
    assert model.size
    assert model.size > 90_000_000
    shown = client.show("smollm2:latest")
    assert shown.modelinfo
    assert shown.modelinfo["llama.block_count"] == 30
    assert shown.capabilities == ["completion"]
    assert shown.template
    assert "im_start" in shown.template
    assert shown.license
    assert shown.modelfile
    assert shown.modelfile.count("FROM ") == 1


@feature("ps, keep_alive, preload")
def test_preload_ps_and_unload(client: ollama.Client) -> None:
    loaded = client.generate("gemma3", keep_alive="10m")
    assert loaded.done_reason == "load"
    running = {model.model: model for model in client.ps().models}
    assert running["gemma3:latest"].expires_at
    left = running["gemma3:latest"].expires_at.timestamp() - time.time()
    assert 500 < left <= 601
    assert running["gemma3:latest"].context_length
    assert running["gemma3:latest"].size
    assert client.chat("gemma3", keep_alive=-1).done_reason == "load"
    (model,) = [model for model in client.ps().models if model.model == "gemma3:latest"]
    assert model.expires_at
    assert model.expires_at.year > 2200
    assert client.generate("gemma3", keep_alive=0).done_reason == "unload"
    assert "gemma3:latest" not in [model.model for model in client.ps().models]


@feature("copy, delete")
def test_copy_and_delete(client: ollama.Client) -> None:
    assert client.copy("smollm2", "my-copy:v2").status == "success"
    assert "my-copy:v2" in [model.model for model in client.list().models]
    assert client.chat("my-copy:v2", HELLO, options=SHORT).message.content
    assert client.delete("my-copy:v2").status == "success"
    for gone in (client.delete, client.show):
        with pytest.raises(ollama.ResponseError, match="model 'my-copy:v2' not found") as caught:
            gone("my-copy:v2")
        assert caught.value.status_code == 404
    assert client.chat("smollm2", HELLO, options=SHORT).message.content


@feature("create")
@pytest.mark.parametrize("stream", [False, True])
def test_create_over_a_model(client: ollama.Client, stream: bool) -> None:
    found: Any = client.create(
        "my-ada", from_="smollm2", system="You are Ada.", license=["MIT"],
        parameters={"temperature": 0.5, "stop": ["<a>", "<b>"]},
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        template="{{ .System }} {{ .Prompt }}", stream=stream,
    )  # fmt: skip
    last = list(found)[-1] if stream else found
    assert last.status == "success"
    shown = client.show("my-ada")
    assert shown.parameters
    assert shown.parameters.split() == ["stop", '"<a>"', "stop", '"<b>"', "temperature", "0.5"]
    assert shown.license
    assert "MIT" in shown.license
    assert shown.modelfile
    assert "SYSTEM You are Ada." in shown.modelfile
    client.delete("my-ada")


@feature("create: from a file")
def test_create_from_a_file_that_is_sent(client: ollama.Client, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    write_llama(file)
    digest = client.create_blob(file)
    assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    client.create_blob(file)
    statuses = [
        step.status for step in client.create("my-own:v1", files={"mine.gguf": digest}, stream=True)
    ]
    assert statuses[-1] == "success"
    assert client.generate("my-own:v1", "abc", raw=True, options=SHORT).eval_count == 8
    client.delete("my-own:v1")


@feature("create: from a file")
def test_a_file_that_is_not_what_it_says(server: serving.Served, client: ollama.Client) -> None:
    wrong = "sha256:" + "0" * 64
    with httpx.Client(base_url=server.url, trust_env=False) as raw:
        assert raw.head(f"/api/blobs/{wrong}").status_code == 404
        answer = raw.post(f"/api/blobs/{wrong}", content=b"x" * 100_000)
        assert answer.status_code == 400
        assert "digest mismatch" in answer.json()["error"]
        assert raw.post("/api/blobs/md5:1", content=b"x").status_code == 400
    with pytest.raises(ollama.ResponseError, match="has not been sent"):
        client.create("my-own", files={"m.gguf": wrong})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Real]:
    with registries.docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@feature("push, pull")
def test_push_and_pull(client: ollama.Client, registry: registries.Real, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_llama(file)
    name = f"{registry.host}/team/tiny:v1"
    client.create("my-tiny", files={"tiny.gguf": client.create_blob(file)})
    client.copy("my-tiny", name)
    sent = list(client.push(name, stream=True))
    assert sent[-1].status == "success"
    assert any(step.digest and step.completed == step.total for step in sent)
    for model in (name, "my-tiny"):
        client.delete(model)
    came = list(client.pull(name, stream=True))
    assert came[0].status == "pulling manifest"
    assert came[-1].status == "success"
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert any(step.digest == digest for step in came)
    assert name in [model.model for model in client.list().models]
    assert client.pull(name).status == "success"
    client.delete(name)


@feature("push, pull")
def test_pull_from_an_ollama_registry(
    client: ollama.Client, registry: registries.Real, tmp_path: Path
) -> None:
    write_llama(tmp_path / "m.gguf")
    weights = (tmp_path / "m.gguf").read_bytes()
    parts = (("model", weights), ("system", b"Hi."), ("params", b'{"top_k":5}'))
    registries.publish_ollama(registry, "team/theirs", "1b", parts, b"{}")
    name = f"{registry.host}/team/theirs:1b"
    assert list(client.pull(name, stream=True))[-1].status == "success"
    assert client.show(name).parameters
    client.delete(name)


@feature("cancel")
def test_a_pull_that_hears_nothing_does_not_keep_the_server(home: Path) -> None:
    """The registry begins to answer and then says nothing; the server ends all the same."""
    asked, go = threading.Event(), threading.Event()

    def silent(_: registries.Asked) -> registries.Told:
        def nothing() -> Iterator[bytes]:
            yield b"{"
            asked.set()
            go.wait(60)

        return registries.Told(200, nothing())

    with registries.scripted(silent) as registry, serving.serving(home, patience=15) as served:
        body = {"model": f"{registry.host}/team/x:v1"}
        with (
            httpx.Client(base_url=served.url, trust_env=False) as raw,
            raw.stream("POST", "/api/pull", json=body, timeout=60) as answer,
        ):
            lines = answer.iter_lines()
            assert json.loads(next(lines)) == {"status": "pulling manifest"}
            assert asked.wait(30)
        begun = time.monotonic()
        served.process.terminate()
        served.process.wait(15)
        assert time.monotonic() - begun < 8
        go.set()


@feature("errors")
def test_pulls_that_fail(client: ollama.Client, registry: registries.Real) -> None:
    name = f"{registry.host}/team/nothing"
    for pull in (client.pull, lambda name: list(client.pull(name, stream=True))):
        with pytest.raises(ollama.ResponseError, match="has no team/nothing"):
            pull(name)
    with pytest.raises(ollama.ResponseError, match="no registry to push to"):
        client.push("smollm2")


# ---- errors --------------------------------------------------------------------------------


@feature("errors")
@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: ollama.Client, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as caught:
        list(client.chat("nothing", HELLO, stream=stream))  # type: ignore[call-overload]
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="must be of type float32") as caught:
        list(client.chat("echo:x", ECHO, options={"temperature": "hot"}, stream=stream))  # type: ignore[call-overload]
    assert caught.value.status_code == 400
    long = [{"role": "user", "content": "word " * 20_000}]
    with pytest.raises(ollama.ResponseError, match="the context holds") as caught:
        list(client.chat("smollm2", long, stream=stream))  # type: ignore[call-overload]
    assert caught.value.status_code == 400


@feature("errors")
def test_an_error_in_the_midst_of_an_answer(client: ollama.Client) -> None:
    four = [{"role": "user", "content": "one two three four"}]
    with pytest.raises(ollama.ResponseError, match="fails after three words") as caught:
        client.chat("echo:fail", four)
    assert caught.value.status_code == 500
    seen = []
    parts = client.chat("echo:fail", four, stream=True)
    with pytest.raises(ollama.ResponseError, match="fails after three words"):
        seen.extend(part.message.content for part in parts)
    assert "".join(filter(None, seen)) == "one two three "


@feature("errors")
def test_nobody_asks_for_a_file_of_the_server(client: ollama.Client, tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf")
    for name in (str(tmp_path / "m.gguf"), "./m.gguf", "~/m.gguf"):
        for call in (client.show, client.generate, client.delete, client.pull):
            with pytest.raises(ollama.ResponseError, match="not found"):
                call(name)
        with pytest.raises(ollama.ResponseError):
            client.create("my-theft", from_=name)


@feature("cancel")
def test_a_client_that_leaves_frees_its_place(server: serving.Served) -> None:
    """Left after a few words, ten times in a row; then the model still answers at once."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as raw:
        body = {"model": "smollm2", "prompt": "Count to a thousand.", "options": {"num_ctx": 2048}}
        for _ in range(10):
            with raw.stream("POST", "/api/generate", json=body) as answer:
                lines = answer.iter_lines()
                assert json.loads(next(lines))["done"] is False
        begun = time.monotonic()
        body["options"] = {"num_predict": 1}
        assert raw.post("/api/generate", json={**body, "stream": False}).status_code == 200
        assert time.monotonic() - begun < 10


# ---- the other client ------------------------------------------------------------------------


@feature("async client")
@pytest.mark.anyio
async def test_the_async_client(server: serving.Served) -> None:
    client = ollama.AsyncClient(server.url, trust_env=False)
    try:
        answers = await asyncio.gather(
            *(client.chat("echo:x", [{"role": "user", "content": f"n {n}"}]) for n in range(20))
        )
        assert [one.message.content for one in answers] == [f"n {n}" for n in range(20)]
        text = ""
        async for part in await client.generate("smollm2", "Hi", options=SHORT, stream=True):
            text += part.response
        assert text
        assert (await client.list()).models
        assert (await client.show("smollm2")).modelinfo
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.show("nothing")
    finally:
        await client._client.aclose()


@feature("older addresses")
def test_what_tools_ask_first(server: serving.Served) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as raw:
        assert raw.get("/").text == "Ollama is running"
        assert raw.head("/").status_code == 200
        assert raw.head("/").content == b""
        assert raw.head("/api/tags").status_code == 200
        version = raw.get("/api/version").json()["version"]
        assert tuple(map(int, version.split("."))) >= (0, 12, 0)
        assert raw.get("/api/status").json()["cloud"]["disabled"] is True
        assert raw.post("/api/me").status_code == 403
        picture = base64.b64encode(b"no picture").decode()
        body = {"model": "echo:x", "prompt": "x", "images": [picture]}
        assert raw.post("/api/generate", json=body).status_code == 400
