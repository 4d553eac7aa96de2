"""`/openapi.json` and `/docs`: what this server answers, made from the routes themselves."""

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from overt.errors import BadRequest
from overt.protocols.base import HttpRoute, Protocol

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SECURITY: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "x-goog-api-key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
    "key": {"type": "apiKey", "in": "query", "name": "key"},
}
_ABOUT = """\
Protocols of OpenAI, Anthropic, Gemini, Ollama and LM Studio, answered by models of this machine. \
On this machine no key is needed; elsewhere any of the spellings below carries one."""


# ---- the document --------------------------------------------------------------------------


def document(protocols: Sequence[Protocol], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of every HTTP route. WebSockets have no place in it.

    Where several protocols share an address, the operation lists them as its tags.
    """
    routes = [
        (protocol, route)
        for protocol in protocols
        for route in protocol.routes
        if route.method != "WEBSOCKET"
    ]
    bodies = [route.body for _, route in routes if route.body is not None]
    made, parts = msgspec.json.schema_components(bodies, ref_template=_REF)
    schemas = dict(zip(map(_identity, bodies), made, strict=True))
    errors = {_error_name(protocol): _error_schema(protocol) for protocol in protocols}
    paths: dict[str, dict[str, Any]] = {}
    spelled: dict[str, str] = {}
    for protocol, route in routes:
        written = _PARAMETER.sub(r"{\1}", route.path)
        # Two paths that differ by the names of their parameters alone are one path.
        path = spelled.setdefault(_PARAMETER.sub("{}", route.path), written)
        operations = paths.setdefault(path, {})
        operation = _operation(protocol, route, path, schemas.get(_identity(route.body)))
        method = route.method.lower()
        if method in operations:
            _join(operations[method], operation)
        else:
            operations[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Overt", "version": version, "description": _ABOUT},
        "tags": [{"name": protocol.name} for protocol in protocols],
        "paths": paths,
        "components": {"schemas": {**parts, **errors}, "securitySchemes": _SECURITY},
        "security": [{}, *({name: []} for name in _SECURITY)],
    }


def _operation(
    protocol: Protocol, route: HttpRoute, path: str, schema: Mapping[str, Any] | None
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": _REF.format(name=_error_name(protocol))}}}
    operation: dict[str, Any] = {
        "tags": [protocol.name],
        "summary": route.summary,
        "operationId": _operation_id(protocol, route),
        "responses": {
            "2XX": {"description": "The answer; a stream where the request asks for one."},
            "4XX": {"description": "Refused.", "content": error},
            "5XX": {"description": "Failed.", "content": error},
        },
    }
    if names := _PARAMETER.findall(path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if schema is not None:
        kind = "multipart/form-data" if route.upload else "application/json"
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    elif route.upload:
        operation["requestBody"] = {"content": {"application/octet-stream": {"schema": {}}}}
    return operation


def _join(first: dict[str, Any], second: dict[str, Any]) -> None:
    """One operation for two protocols that share an address and a method."""
    first["tags"] += [tag for tag in second["tags"] if tag not in first["tags"]]
    if second["summary"] != first["summary"]:
        first["summary"] += f"; {second['tags'][0]}: {second['summary']}"
    for status in ("4XX", "5XX"):
        _either(first["responses"][status]["content"], second["responses"][status]["content"])
    if "requestBody" in first and "requestBody" in second:
        _either(first["requestBody"]["content"], second["requestBody"]["content"])


def _either(first: dict[str, Any], second: dict[str, Any]) -> None:
    for kind, content in second.items():
        there = first.setdefault(kind, content)["schema"]
        choices = there.get("anyOf", [there])
        if content["schema"] not in choices:
            first[kind] = {"schema": {"anyOf": [*choices, content["schema"]]}}


def _identity(body: Any) -> str:
    return repr(body)


def _error_name(protocol: Protocol) -> str:
    return f"Error.{protocol.name}"


def _error_schema(protocol: Protocol) -> dict[str, Any]:
    """The form of a protocol's errors, from one it made."""
    reply = protocol.refuse(BadRequest("what is wrong", "what to do"), "req_1")
    return _shape(msgspec.json.decode(reply.body()))


def _shape(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        inside = {name: _shape(item) for name, item in value.items()}
        return {"type": "object", "properties": inside}
    if isinstance(value, list):
        return {"type": "array"}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int | float):
        return {"type": "number"}
    return {} if value is None else {"type": ["string", "null"]}


def _operation_id(protocol: Protocol, route: HttpRoute) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", _PARAMETER.sub(r"by_\1", route.path)).strip("_")
    return f"{protocol.name}_{route.method.lower()}_{words or 'root'}"


# ---- the page ------------------------------------------------------------------------------

_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .3rem 0; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6rem .8rem; background: #8882; border-radius: .3rem; }
b { display: inline-block; min-width: 4.5rem; }
"""
PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src 'sha256-{base64.b64encode(sha256(_STYLE.encode()).digest()).decode()}'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""What `/docs` is sent with: it holds no script, and no browser is to run one."""

_HELLO = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Hello"}],
    "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
    "content": {"parts": [{"text": "Hello"}]},
    "prompt": "Hello",
    "input": "Hello",
    "max_tokens": 64,
}
_PLACES = {"model": "smollm2", "name": "smollm2"}


def page(made: Mapping[str, Any]) -> bytes:
    """`/docs`: every operation of a `document`, by protocol, with its body and a line to try."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>Overt: addresses</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Overt {_text(made['info']['version'])}</h1>",
        f"<p>{_text(made['info']['description'])}</p>",
        "<p>The same for programs: <a href=openapi.json>openapi.json</a>. ",
        "Numbers for Prometheus: <a href=metrics>metrics</a>.</p>",
    ]
    for tag in made["tags"]:
        parts.append(f"<h2>{_text(tag['name'])}</h2>")
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_section(made, path, method, operation))
    return "".join([*parts, "</body></html>"]).encode()


def _section(made: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    kind, schema = next(((k, c["schema"]) for k, c in body.items()), ("", None))
    lines = [
        f"<details><summary><b>{method.upper()}</b><code>{_text(path)}</code> ",
        f"{_text(operation['summary'])}</summary>",
        f"<pre>{_text(_curl(made, path, method, kind, schema))}</pre>",
    ]
    if schema:
        shown = json.dumps(_resolved(made, schema), indent=2, ensure_ascii=False)
        lines.append(f"<p>Body, {_text(kind)}:</p><pre>{_text(shown)}</pre>")
    return "".join([*lines, "</details>"])


def _curl(
    made: Mapping[str, Any], path: str, method: str, kind: str, schema: Mapping[str, Any] | None
) -> str:
    where = _PARAMETER.sub(lambda match: _PLACES.get(match[1], "ID"), path)
    if path.endswith("/models/{id}"):  # Gemini's verbs stand behind the name
        where = f"{path.removesuffix('{id}')}smollm2{':generateContent' if kind else ''}"
    words = ["curl", *(["-X", method.upper()] if method not in ("get", "post") else [])]
    words.append(f"http://127.0.0.1:11435{where}")
    if kind == "application/json":
        fields = _fields(_resolved(made, schema or {}))
        example = {name: _HELLO[name] for name in _HELLO if name in fields}
        words += ["-d", json.dumps(example)]
    elif kind:
        words += ["-T", "FILE"]
    elif method == "post":
        words += ["-X", "POST"]
    return shlex.join(words)


def _fields(schema: Mapping[str, Any]) -> Iterable[str]:
    for branch in (schema, *schema.get("anyOf", ())):
        if "properties" in branch:
            names: Iterable[str] = branch["properties"]
            return names
    return ()


def _resolved(made: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with what it refers to itself put in its place; deeper references stay names."""
    ref = schema.get("$ref")
    if isinstance(ref, str):
        target: Mapping[str, Any] = made["components"]["schemas"][ref.rpartition("/")[2]]
        return target
    if "anyOf" in schema:
        return {**schema, "anyOf": [_resolved(made, branch) for branch in schema["anyOf"]]}
    return schema


def _text(value: object) -> str:
    return html.escape(str(value))
