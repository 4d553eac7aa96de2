"""Every request that the OpenAI and HTTP dialects send, judged by OpenAI's own OpenAPI document.

There are two judges. `steady` (npm `@stdy/cli`), the mock server that OpenAI's SDKs are tested
against, says of each request whether the document allows it; its answers are random and are not
looked at. What it only doubts it says in a header, which counts as well, but for E3012: it loses
itself in unions within unions, and doubts any message whose content is a list. `jsonschema` holds
each body against the same document, unions included.
"""

import gzip
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import msgspec
import pytest
import referencing
from referencing.jsonschema import DRAFT202012
from test_npm_clients import modules  # noqa: F401 (a fixture)

from overt.chat import (
    EmbedRequest,
    ImagePart,
    Message,
    Request,
    Sampling,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.providers.base import Dialect, PostRequest
from overt.providers.openai.compatible import CompatibleServer
from overt.providers.openai.dialect import OpenAI

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")


@dataclass
class Judge:
    """The mock server, started by whoever asks first."""

    process: subprocess.Popen[bytes] | None = None
    base: str = ""
    schemas: dict[str, jsonschema.Draft202012Validator] = field(default_factory=dict)

    def start(self, modules: Path, document: Path) -> None:  # noqa: F811
        self._schemas(json.loads(document.read_bytes(), object_hook=_union))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        script = modules / "node_modules/@stdy/cli/steady.js"
        self.process = subprocess.Popen(
            ["node", script, "--host", "127.0.0.1", "-p", str(port), "-q", document],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert self.process.poll() is None, "steady did not start"
            time.sleep(0.05)
        raise AssertionError("steady does not answer")

    def _schemas(self, document: Any) -> None:
        registry = referencing.Registry().with_resource(
            "urn:openai", DRAFT202012.create_resource(document)
        )
        for path, methods in document["paths"].items():
            content = methods.get("post", {}).get("requestBody", {}).get("content", {})
            if schema := content.get("application/json", {}).get("schema", {}).get("$ref"):
                self.schemas[path] = jsonschema.Draft202012Validator(
                    {"$ref": f"urn:openai{schema}"}, registry=registry
                )


def _union(found: dict[str, Any]) -> dict[str, Any]:
    """The document says `oneOf` where two of a union's members fit the same message."""
    if "oneOf" in found:
        found.setdefault("anyOf", found.pop("oneOf"))
    return found


@pytest.fixture(scope="module")
def starting() -> Iterator[Judge]:
    judge = Judge()
    yield judge
    if judge.process is not None:
        judge.process.terminate()
        judge.process.wait(10)


@pytest.fixture
def judge(starting: Judge, modules: Path, shared_data: Any, tmp_path: Path) -> Judge:  # noqa: F811
    if starting.process is None:
        document = tmp_path / "openapi.json"
        packed = shared_data("protocol/openai/openapi.json.gz")
        document.write_bytes(gzip.decompress(packed.read_bytes()))
        starting.start(modules, document)
    return starting


_LOST = "E3012"


def faults(judge: Judge, post: PostRequest, dialect: Dialect) -> list[str]:
    """What the judges have against it."""
    answer = httpx2.post(
        judge.base + post.path,
        content=post.body,
        headers={**dialect.headers("sk-none"), **post.headers},
        timeout=30,
    )
    found = []
    doubt = answer.headers.get("x-steady-error-1-code", _LOST)
    if answer.headers.get("x-steady-request-valid") != "true" or doubt != _LOST:
        found.append(f"{dict(answer.headers)} {answer.text[:2000]}")
    body = json.loads(post.body)
    return found + [error.message[:2000] for error in judge.schemas[post.path].iter_errors(body)]


# ---- requests ------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
HELLO = Request("m", (Message.of("system", "Be brief."), Message.of("user", "Hello")))
CLOSED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOL = Tool("look", "Look it up.", {"type": "object", "properties": {"q": {"type": "string"}}})
BARE = Tool("now")
ITEM = (
    '{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"Hm."}],'
    '"encrypted_content":"gAAAAA=="}'
)
TURNS = Request(
    "m",
    (
        Message("user", (TextPart("What is this?"), ImagePart(PNG, "image/png"))),
        Message(
            "assistant",
            (
                ThoughtPart("Hm.", ITEM, origin="openai"),
                TextPart("Let me look."),
                ToolCallPart("call_1", "look", '{"q":"it"}'),
                ToolCallPart("x" * 80, "now", "{}"),
            ),
        ),
        Message("tool", (ToolResultPart("call_1", "a cat"),)),
        Message("tool", (ToolResultPart("x" * 80, "failed", error=True),)),
        Message.of("user", "So?"),
    ),
    tools=(TOOL, BARE),
)

REQUESTS = {
    "plain": HELLO,
    "sampling": replace(HELLO, sampling=Sampling(temperature=0.5, top_p=0.9), max_tokens=64),
    "few tokens": replace(HELLO, max_tokens=1),
    "tools": replace(HELLO, tools=(TOOL, BARE), parallel_tools=False),
    "tool named": replace(HELLO, tools=(TOOL, BARE), tool_choice="now"),
    "tool required": replace(HELLO, tools=(TOOL,), tool_choice="required"),
    "tool none": replace(HELLO, tools=(TOOL,), tool_choice="none"),
    "turns": TURNS,
    "turns in chat": replace(TURNS, stop=("\n",)),
    "schema": replace(HELLO, json_schema=CLOSED),
    "loose schema": replace(HELLO, json_schema={"type": "object"}),
    "schema in chat": replace(HELLO, json_schema=CLOSED, stop=("x",)),
    "stop": replace(HELLO, stop=("a", "b", "c", "d")),
    "seed": replace(HELLO, sampling=Sampling(seed=7)),
    "penalties": replace(
        HELLO, sampling=Sampling(presence_penalty=0.5, frequency_penalty=-0.5, temperature=0)
    ),
    "bias": replace(HELLO, logit_bias=((5, -100.0), (6, 1.5), (7, -1e9))),
    "logprobs": replace(HELLO, logprobs=3),
    "logprobs in chat": replace(HELLO, logprobs=0, sampling=Sampling(seed=1)),
    "effort": replace(HELLO, effort="low", thinking=True),
    "effort in chat": replace(HELLO, effort="high", max_tokens=5),
    "not thinking": replace(HELLO, thinking=False),
}
MODELS = ("gpt-4o", "gpt-5", "gpt-5.4", "o3", "gpt-7-unheard-of")


@pytest.mark.parametrize("kind", REQUESTS)
def test_openai_sends_what_the_document_allows(judge: Judge, kind: str) -> None:
    dialect = OpenAI()
    for model in MODELS:
        post, _ = dialect.post(REQUESTS[kind], model)
        assert not faults(judge, post, dialect)


def test_openai_of_one_interface(judge: Judge) -> None:
    dialect = OpenAI()
    for model, path in (("o3-pro", "/responses"), ("gpt-4o-audio-preview", "/chat/completions")):
        post, _ = dialect.post(HELLO, model)
        assert post.path == path
        assert not faults(judge, post, dialect)


@pytest.mark.parametrize(
    "request_",
    [
        Request("m", prompt="Once", max_tokens=5, stop=("\n",), logprobs=2),
        Request("m", prompt=(1, 2, 3), sampling=Sampling(seed=4, temperature=1)),
        Request("m", prompt="def f(", suffix=")", logit_bias=((9, 4.0),)),
    ],
)
def test_completions(judge: Judge, request_: Request) -> None:
    for dialect, model in ((OpenAI(), "gpt-3.5-turbo-instruct"), (CompatibleServer(), "m")):
        post, _ = dialect.post(request_, model)
        assert post.path == "/completions"
        assert not faults(judge, post, dialect)


@pytest.mark.parametrize(
    "asked",
    [
        EmbedRequest("m", ("a", "b")),
        EmbedRequest("m", ((1, 2), (3,)), dimensions=256),
    ],
)
def test_embeddings(judge: Judge, asked: EmbedRequest) -> None:
    for dialect in (OpenAI(), CompatibleServer()):
        assert not faults(judge, dialect.embed(asked, "text-embedding-3-small"), dialect)


def test_counting(judge: Judge) -> None:
    dialect = OpenAI()
    for asked in (HELLO, TURNS, replace(HELLO, json_schema=CLOSED, thinking=False)):
        assert not faults(judge, dialect.counting(asked, "gpt-5"), dialect)


@pytest.mark.parametrize("kind", REQUESTS)
def test_http_sends_what_the_document_allows(judge: Judge, kind: str) -> None:
    dialect = CompatibleServer()
    post, _ = dialect.post(REQUESTS[kind], "some/model")
    assert post.path == "/chat/completions"
    assert not faults(judge, post, dialect)


WRONG = [
    {"input": 5},
    {"input": [{"role": "nobody", "content": "x"}]},
    {"include": ["all"]},
    {"tools": [{"type": "function"}]},
    {"reasoning": {"effort": "much"}},
    {"max_output_tokens": 3},
    {"text": {"format": {"type": "json_schema", "schema": {}}}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda one: next(iter(one)))
def test_the_judges_find_faults(judge: Judge, wrong: dict[str, Any]) -> None:
    """What would pass anything proves nothing."""
    post, _ = OpenAI().post(HELLO, "gpt-5")
    body = msgspec.json.encode(msgspec.json.decode(post.body) | wrong)
    assert faults(judge, replace(post, body=body), OpenAI())


def test_steady_finds_faults(judge: Judge) -> None:
    judge = replace(judge, schemas={"/chat/completions": jsonschema.Draft202012Validator({})})
    post, _ = OpenAI().post(replace(HELLO, stop=("x",)), "gpt-4o")
    assert not faults(judge, post, OpenAI())
    some: list[dict[str, Any]] = [{"messages": []}, {"seed": "x"}]
    for wrong in some:
        body = msgspec.json.encode(msgspec.json.decode(post.body) | wrong)
        assert faults(judge, replace(post, body=body), OpenAI())
