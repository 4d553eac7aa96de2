"""`/openapi.json` and `/docs`: valid for other people's tools, whole, and nothing that runs."""

import base64
import re
import shlex
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
import schemathesis

from overt.errors import OvertError
from overt.protocols.base import HttpCall, HttpReply, HttpRoute, Protocol
from overt.server import assembly, openapi


class Part(msgspec.Struct):
    text: str = ""


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked."""

    model: str
    messages: list[Part]
    max_tokens: int | None = None


class Other(msgspec.Struct):
    prompt: str
    model: str = "<script>alert(1)</script>"


async def nothing(call: HttpCall) -> HttpReply:
    return HttpReply({})


def flat(error: OvertError, id: str) -> HttpReply:
    return HttpReply({"error": error.message}, error.status)


def deep(error: OvertError, id: str) -> HttpReply:
    return HttpReply({"error": {"code": 400, "details": [], "param": None}, "id": id}, error.status)


ONE = Protocol(
    "one",
    (
        HttpRoute("POST", "/v1/chat", nothing, "chat & <b>talk</b>", Body),
        HttpRoute("GET", "/v1/models", nothing, "models"),
        HttpRoute("GET", "/v1/models/{id:path}", nothing, "a model"),
        HttpRoute("PUT", "/v1/blobs/{digest}", nothing, "keep bytes", upload=True),
        HttpRoute("WEBSOCKET", "/socket", nothing, "a socket"),
        HttpRoute("DELETE", "/", nothing, "nothing"),
    ),
    flat,
)
TWO = Protocol(
    "two",
    (
        HttpRoute("GET", "/v1/models", nothing, "models of two"),
        HttpRoute("GET", "/v1/models/{name}", nothing, "a model"),
        HttpRoute("POST", "/v1/models/{name}:generate", nothing, "generate", Other),
        HttpRoute("POST", "/v1/chat", nothing, "chat of two", Other),
    ),
    deep,
)


def test_the_document_is_what_the_routes_are() -> None:
    made = openapi.document((ONE, TWO), "1.2.3")
    schemathesis.openapi.from_dict(made).validate()
    assert {
        f"{method} {path}": operation["tags"]
        for path, operations in made["paths"].items()
        for method, operation in operations.items()
    } == {
        "post /v1/chat": ["one", "two"], "get /v1/models": ["one", "two"],
        "get /v1/models/{id}": ["one", "two"], "put /v1/blobs/{digest}": ["one"],
        "delete /": ["one"], "post /v1/models/{name}:generate": ["two"],
    }  # fmt: skip
    chat = made["paths"]["/v1/chat"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {
        "anyOf": [{"$ref": "#/components/schemas/Body"}, {"$ref": "#/components/schemas/Other"}]
    }
    assert made["components"]["schemas"]["Body"]["required"] == ["model", "messages"]
    assert chat["responses"]["4XX"]["content"]["application/json"]["schema"]["anyOf"] == [
        {"$ref": "#/components/schemas/Error.one"}, {"$ref": "#/components/schemas/Error.two"},
    ]  # fmt: skip
    assert made["components"]["schemas"]["Error.two"]["properties"]["error"]["properties"] == {
        "code": {"type": "number"}, "details": {"type": "array"}, "param": {},
    }  # fmt: skip
    parameters = made["paths"]["/v1/models/{name}:generate"]["post"]["parameters"]
    assert [(one["name"], one["in"]) for one in parameters] == [("name", "path")]
    assert list(made["paths"]["/v1/blobs/{digest}"]["put"]["requestBody"]["content"]) == [
        "application/octet-stream"
    ]


def test_the_document_of_this_server_is_valid_and_whole() -> None:
    protocols = assembly.PROTOCOLS
    made = openapi.document(protocols, "1")
    schema = schemathesis.openapi.from_dict(made)
    schema.validate()
    found = [one.ok() for one in schema.get_all_operations()]
    routes = [one for p in protocols for one in p.routes if one.method != "WEBSOCKET"]
    assert 20 < len(found) <= len(routes)
    ids = [o["operationId"] for operations in made["paths"].values() for o in operations.values()]
    assert len(set(ids)) == len(ids) == len(found)
    listed = {tag for ops in made["paths"].values() for o in ops.values() for tag in o["tags"]}
    assert listed == {protocol.name for protocol in protocols}
    names = set(made["components"]["schemas"])
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    assert set(re.findall(r"'#/components/schemas/([^']+)'", repr(made))) <= names


def test_security_is_every_spelling_the_gate_reads() -> None:
    made = openapi.document((ONE,), "1")
    schemes = made["components"]["securitySchemes"]
    assert {(one.get("scheme") or one["in"], one.get("name")) for one in schemes.values()} == {
        ("bearer", None), ("basic", None), ("header", "x-api-key"), ("header", "x-goog-api-key"),
        ("query", "key"),
    }  # fmt: skip
    assert {} in made["security"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.style = ""
        self.pre: list[str] = []
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "pre":
            self.pre.append("")

    def handle_data(self, data: str) -> None:
        if self._in == "style":
            self.style += data
        elif self._in == "pre":
            self.pre[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


@pytest.mark.parametrize("protocols", [(ONE, TWO), assembly.PROTOCOLS])
def test_the_page_lists_every_route_and_runs_nothing(protocols: tuple[Protocol, ...]) -> None:
    made = openapi.document(protocols, "1")
    body = openapi.page(made)
    page = Page()
    page.feed(body.decode())
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "iframe", "img", "link", "form", "object", "b>talk"} & set(tags)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag != "a" or ":" not in (attributes["href"] or "")
    digest = base64.b64encode(sha256(page.style.encode()).digest()).decode()
    policy = openapi.PAGE_HEADERS["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    listed = sum(len(o["tags"]) for ops in made["paths"].values() for o in ops.values())
    assert tags.count("summary") == listed
    assert tags.count("h2") == len(protocols)


def test_the_line_to_try_is_one_a_shell_can_run() -> None:
    made = openapi.document((ONE, TWO), "1")
    page = Page()
    page.feed(openapi.page(made).decode())
    lines = [shlex.split(text) for text in page.pre if text.startswith("curl ")]
    assert [
        "curl", "http://127.0.0.1:11435/v1/chat", "-d",
        '{"model": "smollm2", "messages": [{"role": "user", "content": "Hello"}], '
        '"max_tokens": 64}',
    ] in lines  # fmt: skip
    assert ["curl", "-X", "DELETE", "http://127.0.0.1:11435/"] in lines
    assert ["curl", "-X", "PUT", "http://127.0.0.1:11435/v1/blobs/ID", "-T", "FILE"] in lines
