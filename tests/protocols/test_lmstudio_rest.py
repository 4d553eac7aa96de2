"""REST `/api/v0` and `/api/v1` of LM Studio: models, downloads, errors."""

import asyncio
import json
import math

import pytest
from lmstudio_fake import OWNER, Fake, client

from overt import errors
from overt.protocols.base import NOBODY, ModelCard, ModelHold
from overt.protocols.lmstudio import downloads, model_info
from overt.protocols.lmstudio.errors import refuse

pytestmark = pytest.mark.anyio


async def test_the_greeting() -> None:
    async with client(Fake()) as api:
        answer = await api.get("/lmstudio-greeting")
    assert (answer.status_code, answer.json()) == (200, {"lmstudio": True})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/v1/nothing"), ("POST", "/api/v0/chat"), ("DELETE", "/api/v1/models"),
     ("GET", "/api/v1/chat"), ("GET", "/api/v1/models/load")],
)  # fmt: skip
async def test_what_is_not_there_is_told_with_200(method: str, path: str) -> None:
    async with client(Fake()) as api:
        answer = await api.request(method, path)
    assert answer.status_code == 200
    assert answer.json() == {"error": f"Unexpected endpoint or method. ({method} {path})"}


# ---- v0 ------------------------------------------------------------------------------------


async def test_v0_lists_models() -> None:
    fake = Fake()
    await fake.load(NOBODY, "smollm2", ModelHold(None, 4096))
    async with client(fake) as api:
        listed = (await api.get("/api/v0/models")).json()
        one = (await api.get("/api/v0/models/smollm2")).json()
        with_slash = (await api.get("/api/v0/models/nomic-ai/nomic-embed-text-v1.5")).json()
        missing = await api.get("/api/v0/models/nothing")
    assert listed["object"] == "list"
    assert [row["type"] for row in listed["data"]] == ["llm", "embeddings", "vlm"]
    assert one == listed["data"][0] == {
        "id": "smollm2", "object": "model", "type": "llm", "publisher": "HuggingFaceTB",
        "arch": "llama", "compatibility_type": "gguf", "quantization": "Q4_1", "state": "loaded",
        "max_context_length": 8192, "loaded_context_length": 4096,
    }  # fmt: skip
    assert with_slash["state"] == "not-loaded"
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "model_not_found"


async def test_v0_chat_has_statistics() -> None:
    fake = Fake()
    await fake.load(NOBODY, "smollm2", ModelHold(None, 4096))
    messages = [{"role": "user", "content": "one two"}]
    body = {"model": "HuggingFaceTB/smollm2", "messages": messages, "max_tokens": -1, "ttl": 9}
    async with client(fake) as api:
        answer = await api.post("/api/v0/chat/completions", json=body)
    told = answer.json()
    assert told["choices"][0]["message"]["content"] == "one two"
    assert told["usage"]["completion_tokens"] == 2
    assert told["stats"]["stop_reason"] == "eosFound"
    assert told["stats"]["time_to_first_token"] >= 0
    assert told["model_info"] == {
        "arch": "llama", "quant": "Q4_1", "format": "gguf", "context_length": 4096,
    }  # fmt: skip
    assert told["runtime"]["name"] == "overt"
    _, request, hold = fake.asked[0]
    assert (request.model, request.max_tokens, hold) == ("smollm2", None, ModelHold(9.0))


async def test_v0_streams_end_with_statistics() -> None:
    messages = [{"role": "user", "content": "one two"}]
    body = {"model": "smollm2", "messages": messages, "max_tokens": 1, "stream": True}
    async with client(Fake()) as api:
        answer = await api.post("/api/v0/chat/completions", json=body)
    lines = [line.removeprefix("data: ") for line in answer.text.strip().split("\n\n")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["stats"]["stop_reason"] == "maxPredictedTokensReached"
    assert chunks[-1]["choices"] == []
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == "one "


async def test_v0_completions_and_embeddings() -> None:
    fake = Fake()
    async with client(fake) as api:
        body = {"model": "smollm2", "prompt": "one two", "stop": "two"}
        told = (await api.post("/api/v0/completions", json=body)).json()
        assert told["choices"][0]["text"] == "one "
        assert told["stats"]["stop_reason"] == "stopStringFound"
        body = {"model": "nomic-embed-text-v1.5", "input": ["a", "b"]}
        told = (await api.post("/api/v0/embeddings", json=body)).json()
        assert len(told["data"]) == 2
        wrong = await api.post("/api/v0/embeddings", json={**body, "model": "smollm2"})
        assert wrong.status_code == 400


@pytest.mark.parametrize(
    ("more", "message"),
    [({"ttl": -1}, "ttl"), ({"colour": 1}, "Unrecognized key(s) in object: 'colour'"),
     ({"messages": 1}, "messages"), ({"model": 1}, "model")],
)  # fmt: skip
async def test_v0_refuses_in_lm_studios_form(more: dict, message: str) -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "x"}], **more}
    async with client(Fake()) as api:
        answer = await api.post("/api/v0/chat/completions", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


# ---- v1 ------------------------------------------------------------------------------------


async def test_v1_lists_models() -> None:
    fake = Fake()
    await fake.load(NOBODY, "smollm2", ModelHold(None, 4096))
    async with client(fake) as api:
        listed = (await api.get("/api/v1/models")).json()["models"]
    assert listed[0] == {
        "type": "llm", "publisher": "HuggingFaceTB", "key": "smollm2", "display_name": "Smollm2",
        "quantization": {"name": "Q4_1", "bits_per_weight": 4}, "size_bytes": 98_362_432,
        "params_string": "135M", "max_context_length": 8192, "format": "gguf",
        "loaded_instances": [
            {"id": "smollm2", "config": {"context_length": 4096, "parallel": 4}}
        ],
        "architecture": "llama", "description": None,
        "capabilities": {"vision": False, "trained_for_tool_use": True},
    }  # fmt: skip
    assert "capabilities" not in listed[1]
    assert listed[2]["capabilities"]["reasoning"] == {
        "allowed_options": ["off", "on"], "default": "on",
    }  # fmt: skip
    assert listed[2]["params_string"] == "1.4B"


async def test_v1_loads_and_unloads() -> None:
    fake = Fake()
    async with client(fake) as api:
        body = {"model": "HuggingFaceTB/smollm2", "context_length": 2048, "echo_load_config": True}
        loaded = (await api.post("/api/v1/models/load", json=body)).json()
        assert loaded.pop("load_time_seconds") >= 0
        assert loaded == {
            "type": "llm", "instance_id": "smollm2", "status": "loaded",
            "load_config": {"context_length": 2048, "parallel": 4},
        }  # fmt: skip
        assert fake.holds == [ModelHold(math.inf, 2048)]
        again = (await api.post("/api/v1/models/load", json={"model": "smollm2"})).json()
        assert again["instance_id"] == "smollm2:2"
        for name in ("smollm2", "smollm2:2"):
            gone = await api.post("/api/v1/models/unload", json={"instance_id": name})
            assert gone.json() == {"instance_id": name}
        assert fake.memory == {}
        missing = await api.post("/api/v1/models/unload", json={"instance_id": "smollm2"})
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "model_not_found")


async def test_v1_refuses_what_it_does_not_know_in_lm_studios_words() -> None:
    async with client(Fake()) as api:
        answer = await api.post("/api/v1/models/load", json={"model": "smollm2", "gpu": "max"})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "type": "invalid_request", "message": "Unrecognized key(s) in object: 'gpu'",
        "code": "unrecognized_keys",
    }  # fmt: skip


async def test_v1_downloads_in_the_background() -> None:
    fake = Fake()
    fake.library.gate = asyncio.Event()
    async with client(fake) as api:
        body = {"model": "https://huggingface.co/owner/some-GGUF", "quantization": "Q4_K_M"}
        begun = (await api.post("/api/v1/models/download", json=body)).json()
        assert begun["status"] == "downloading"
        assert begun["job_id"].startswith("job_")
        same = (await api.post("/api/v1/models/download", json=body)).json()
        assert same["job_id"] == begun["job_id"]
        status = f"/api/v1/models/download/status/{begun['job_id']}"
        while (told := (await api.get(status)).json())["total_size_bytes"] == 0:
            await asyncio.sleep(0)
        assert told["downloaded_bytes"] == 0
        assert "estimated_completion" in told
        fake.library.gate.set()
        await asyncio.gather(*fake.tasks)
        told = (await api.get(status)).json()
        assert told["status"] == "completed"
        assert told["downloaded_bytes"] == told["total_size_bytes"] == 100
        assert told["completed_at"].endswith("Z")
        assert fake.library.pulled == ["hf:owner/some-GGUF#Q4_K_M"]
        there = (await api.post("/api/v1/models/download", json={"model": "smollm2"})).json()
        assert there == {"status": "already_downloaded"}


async def test_a_download_that_fails_says_why_and_is_its_owners_alone() -> None:
    fake = Fake()
    async with client(fake) as api:
        begun = (await api.post("/api/v1/models/download", json={"model": "nobody/none"})).json()
        await asyncio.gather(*fake.tasks)
        status = f"/api/v1/models/download/status/{begun['job_id']}"
        told = (await api.get(status)).json()
        assert told["status"] == "failed"
        assert "hf:nobody/none" in told["error"]["message"]
        missing = await api.get("/api/v1/models/download/status/job_other")
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "job_not_found")
    with pytest.raises(errors.NotFound):
        downloads.of(fake).get(OWNER, begun["job_id"])


async def test_one_key_has_so_many_downloads_at_once() -> None:
    fake = Fake()
    fake.library.gate = asyncio.Event()
    async with client(fake) as api:
        for number in range(8):
            body = {"model": f"owner/m{number}"}
            assert (await api.post("/api/v1/models/download", json=body)).status_code == 200
        answer = await api.post("/api/v1/models/download", json={"model": "owner/m9"})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "10"
        fake.library.gate.set()
        await asyncio.gather(*fake.tasks)


@pytest.mark.parametrize(
    ("said", "quantization", "ref"),
    [
        ("smollm2", None, "smollm2"),
        ("https://huggingface.co/a/b", None, "hf:a/b"),
        ("https://huggingface.co/a/b/", "Q8_0", "hf:a/b#Q8_0"),
        ("a/b", None, "hf:a/b"),
        ("ollama:llama3.2:1b", None, "ollama:llama3.2:1b"),
    ],
)
def test_what_a_client_downloads_is_a_ref(said: str, quantization: str | None, ref: str) -> None:
    assert downloads.ref_of(said, quantization) == ref


@pytest.mark.parametrize(
    ("said", "quantization"), [("smollm2", "Q4_0"), ("", None), ("a b", None), ("https://x/", None)]
)
def test_what_is_no_ref_is_refused(said: str, quantization: str | None) -> None:
    if said.startswith("https"):
        assert downloads.ref_of(said) == said  # a server of the OpenAI API; the store refuses it
        return
    with pytest.raises(errors.UsageError):
        downloads.ref_of(said, quantization)


# ---- every error ---------------------------------------------------------------------------


def _all(kind: type) -> list[type]:
    return [kind, *(one for below in kind.__subclasses__() for one in _all(below))]


@pytest.mark.parametrize("kind", sorted(_all(errors.OvertError), key=lambda one: one.__name__))
def test_every_error_has_a_form(kind: type[errors.OvertError]) -> None:
    error = kind.__new__(kind)
    errors.OvertError.__init__(error, "it went wrong", "mend it")
    for name in ("retry_after", "unknown"):
        if not hasattr(error, name):
            try:
                setattr(error, name, None)
            except AttributeError:
                continue
    if not hasattr(error, "path"):
        error.path = ""
    reply = refuse(error, "req_1")
    assert reply.status == kind.status
    told = reply.content.error
    assert told.type in {
        "invalid_request", "model_not_found", "job_not_found", "not_implemented", "internal_error",
    }  # fmt: skip
    assert "it went wrong" in told.message


async def test_a_wrong_body_names_the_place() -> None:
    async with client(Fake()) as api:
        answer = await api.post("/api/v1/chat", content=b'{"model": 3}')
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "model"
        answer = await api.post("/api/v1/chat", content=b"{")
        assert "JSON" in answer.json()["error"]["message"]


# ---- words for a model ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, None), (134_515_008, "135M"), (1_235_814_432, "1.2B"), (7_000_000_000, "7B"),
     (268_098_176, "268M"), (671_000_000_000, "671B"), (999, "999"), (1_000_000_000_000, "1T")],
)  # fmt: skip
def test_how_many_parameters(count: int | None, text: str | None) -> None:
    assert model_info.params_string(ModelCard("x", "", 0, 0.0, parameters=count)) == text


@pytest.mark.parametrize(
    ("name", "bits"),
    [("Q4_K_M", 4), ("IQ3_XXS", 3), ("F16", 16), ("BF16", 16), ("Q8_0", 8), ("TQ1_0", 1),
     ("MXFP4", 4), ("", None), ("mostly", None)],
)  # fmt: skip
def test_bits_of_a_weight(name: str, bits: int | None) -> None:
    assert model_info.bits(ModelCard("x", "", 0, 0.0, quantization=name)) == bits
