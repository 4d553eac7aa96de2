"""OpenAI's other addresses: vectors, rankings, models, tokens; and every error in its form."""

import base64
import struct
from typing import Any

import openai_rig as rig
import pytest
from openai.types import CreateEmbeddingResponse, Model

from overt import errors
from overt.chat import EmbedRequest, RerankRequest
from overt.errors import OvertError
from overt.protocols.base import BadBody
from overt.protocols.openai import PROTOCOL
from overt.protocols.openai.wire import failed_problem, refuse

pytestmark = pytest.mark.anyio


# ---- embeddings ----------------------------------------------------------------------------


async def embed(services: rig.Services | None = None, **fields: Any) -> rig.Answered:
    body = {"model": "embed", "input": "abc", **fields}
    return await rig.ask(services or rig.Services(), "/v1/embeddings", body)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("abc", ("abc",)),
        (["a", "bc"], ("a", "bc")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
async def test_inputs_of_every_kind(given: Any, wanted: Any) -> None:
    services = rig.Services()
    answered = await embed(services, input=given)
    assert services.asked == [EmbedRequest("embed", wanted)]
    CreateEmbeddingResponse.model_validate(answered.body)
    assert [item["index"] for item in answered.body["data"]] == list(range(len(wanted)))
    assert answered.body["data"][0]["embedding"] == [0.1, 0.1, 0.1]
    length = sum(map(len, wanted))
    assert answered.body["usage"] == {"prompt_tokens": length, "total_tokens": length}


async def test_base64_is_float32_in_little_endian_order() -> None:
    answered = await embed(encoding_format="base64", dimensions=4)
    raw = base64.b64decode(answered.body["data"][0]["embedding"])
    assert struct.unpack("<4f", raw) == pytest.approx((0.1,) * 4)


async def test_embedding_fields_arrive() -> None:
    services = rig.Services()
    await embed(services, dimensions=2, truncate=True, user="u", keep_alive="5m")
    assert services.asked == [EmbedRequest("embed", ("abc",), 2, True)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": None}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"unknown": 0}, "unknown"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_wrong_with_embeddings_is_named(fields: dict[str, Any], param: str) -> None:
    answered = await embed(**fields)
    assert (answered.status, answered.body["error"]["param"]) == (400, param)


# ---- rerank --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/v2/rerank"])
async def test_rerank_tells_the_best_first(path: str) -> None:
    services = rig.Services()
    body = {"model": "r", "query": "q", "documents": ["a", {"text": "ccc"}, "bb"], "top_n": 2}
    answered = await rig.ask(services, path, body)
    assert services.asked == [RerankRequest("r", "q", ("a", "ccc", "bb"))]
    assert answered.body["results"] == [
        {"index": 1, "relevance_score": 3.0, "document": {"text": "ccc"}},
        {"index": 2, "relevance_score": 2.0, "document": {"text": "bb"}},
    ]
    assert answered.body["usage"]["total_tokens"] == 7
    answered = await rig.ask(services, path, {**body, "return_documents": False})
    assert answered.body["results"][0] == {"index": 1, "relevance_score": 3.0}


async def test_rerank_needs_documents() -> None:
    body = {"model": "r", "query": "q", "documents": []}
    answered = await rig.ask(rig.Services(), "/v1/rerank", body)
    assert (answered.status, answered.body["error"]["param"]) == (400, "documents")


# ---- models --------------------------------------------------------------------------------

ONE = "/v1/models/{id:path}"


async def test_models() -> None:
    answered = await rig.ask(rig.Services(), "/v1/models", method="GET")
    assert answered.body["object"] == "list"
    assert answered.body["data"][0] == {
        "id": "smollm2",
        "created": 1_700_000_000,
        "object": "model",
        "owned_by": "HuggingFaceTB",
    }
    for item in answered.body["data"]:
        Model.model_validate(item)
    one = await rig.ask(rig.Services(), ONE, method="GET", id="smollm2")
    assert one.body == answered.body["data"][0]
    gone = await rig.ask(rig.Services(), ONE, method="GET", id="gone")
    assert (gone.status, gone.body["error"]["code"]) == (404, "model_not_found")
    assert gone.body["error"]["param"] == "model"


async def test_a_model_is_deleted() -> None:
    services = rig.Services()
    answered = await rig.ask(services, ONE, method="DELETE", id="smollm2")
    assert answered.body == {"id": "smollm2", "deleted": True, "object": "model"}
    assert services.deleted == ["smollm2"]
    assert (await rig.ask(services, ONE, method="DELETE", id="gone")).status == 404


async def test_moderations_say_what_is_missing() -> None:
    answered = await rig.ask(rig.Services(), "/v1/moderations", {"input": "x"})
    assert answered.status == 501
    assert "guard model" in answered.body["error"]["message"]
    assert answered.headers["x-should-retry"] == "false"  # else the client asks three times


# ---- tokens --------------------------------------------------------------------------------


async def test_tokens_as_vllm_and_llama_cpp_ask() -> None:
    of = "/of/{model:path}"
    services = rig.Services()
    body = {"prompt": "ab", "add_special_tokens": False}
    answered = await rig.ask(services, f"{of}/tokenize", body, model="smollm2")
    assert answered.body == {"count": 2, "tokens": [97, 98]}
    assert services.asked == [("smollm2", "ab", True)]
    answered = await rig.ask(
        services, "/tokenize", {"content": "ab", "model": "x", "parse_special": False}
    )
    assert answered.body["tokens"] == [97, 98]
    assert services.asked[-1] == ("x", "ab", False)
    begun = rig.Services(begin=True)
    for fields, tokens in (
        ({}, [97]), ({"add_special_tokens": False}, [97]), ({"add_special_tokens": True}, [9, 97]),
        ({"add_special": True}, [9, 97]),
    ):  # fmt: skip
        answered = await rig.ask(begun, "/tokenize", {"prompt": "a", "model": "x", **fields})
        assert answered.body["tokens"] == tokens
    answered = await rig.ask(services, f"{of}/detokenize", {"tokens": [1, 2]}, model="smollm2")
    assert answered.body == {"prompt": " a b", "content": " a b"}
    answered = await rig.ask(services, f"{of}/tokenizer_info", method="GET", model="smollm2")
    assert answered.body == {
        "model": "smollm2", "eos_token": "<s>", "bos_token": "?", "chat_template": "{{}}",
        "add_bos_token": False,
    }  # fmt: skip
    answered = await rig.ask(begun, f"{of}/tokenizer_info", method="GET", model="smollm2")
    assert answered.body["add_bos_token"] is True


async def test_the_only_model_need_not_be_named() -> None:
    assert (await rig.ask(rig.Services(), "/tokenize", {"prompt": "a"})).status == 200
    two = rig.Services()
    two.cards = (*two.cards, rig.ModelCard("other", "2" * 64, 1, 0))
    answered = await rig.ask(two, "/tokenize", {"prompt": "a"})
    assert (answered.status, answered.body["error"]["param"]) == (400, "model")
    answered = await rig.ask(
        two, "/of/{model:path}/tokenize", {"prompt": "a", "model": "b"}, model="c"
    )
    assert (answered.status, answered.body["error"]["param"]) == (400, "model")


# ---- errors --------------------------------------------------------------------------------


def every_error() -> list[OvertError]:
    made: list[OvertError] = []
    waiting = [OvertError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == errors.__name__:
            made.append(kind(9, 4) if kind is errors.ContextExceeded else kind("it broke", "mend"))
    return made


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
async def test_every_error_has_openais_form(error: OvertError) -> None:
    reply = refuse(error, "req_1")
    told = reply.content.error
    assert reply.status == error.status
    assert told.message == str(error)
    wanted = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
    codes = {"context_exceeded": "context_length_exceeded"}
    assert told.code == wanted.get(error.status, codes.get(error.code, error.code))
    if error.status == 429:
        assert told.type == "requests"
    elif error.status >= 500 and error.status != 501:
        assert told.type == "server_error"
    else:
        assert told.type == "invalid_request_error"
    if error.status >= 500 or error.status == 429:
        again = isinstance(error, errors.Busy | errors.WorkerDied)
        assert reply.headers["x-should-retry"] == ("true" if again else "false")
    assert ("www-authenticate" in reply.headers) == (error.status == 401)


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
async def test_a_failure_is_told_like_the_error_it_stands_for(error: OvertError) -> None:
    failed = errors_as_event(error)
    told, wanted = failed_problem(failed), refuse(error, "").content.error
    assert (told.message, told.type, told.code) == (wanted.message, wanted.type, wanted.code)


def errors_as_event(error: OvertError) -> Any:
    from overt.chat import Failed

    return Failed(error.code, error.message, error.hint)


@pytest.mark.parametrize(("after", "told"), [(None, None), (0.2, "1"), (7.1, "8")])
async def test_retry_after_is_whole_seconds(after: float | None, told: str | None) -> None:
    reply = refuse(errors.TooMany("full", None, after), "")
    assert reply.headers.get("retry-after") == told


async def test_a_field_that_is_not_there_is_told_as_openai_does() -> None:
    told = refuse(BadBody("unknown field 'x' at a[0]", "a[0]", "x"), "").content.error
    assert told.message == "Unknown parameter: 'a[0].x'."
    assert (told.param, told.code) == ("a[0].x", "unknown_parameter")


async def test_no_two_routes_are_the_same() -> None:
    found = [(route.method, route.path) for route in PROTOCOL.routes]
    assert len(found) == len(set(found))
