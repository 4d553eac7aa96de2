"""Google's kind of schema (a subset of OpenAPI 3.0, types in capitals) as JSON Schema."""

from collections.abc import Iterator
from typing import Any

from overt.protocols.base import BadBody, encode
from overt.protocols.gemini.wire import Schema, read

_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_KEPT = ("title", "description", "enum", "required", "minimum", "maximum", "pattern", "default")
_COUNTS = (
    "min_items",
    "max_items",
    "min_length",
    "max_length",
    "min_properties",
    "max_properties",
)
_FORMATS = ("date", "time", "date-time", "uuid")  # those that change what is text


def to_json(schema: Schema, path: str) -> dict[str, Any]:
    """`schema`, which was written at `path`, as JSON Schema.

    Raises:
        BadBody: a type that does not exist, or a count that is no number.
    """
    out = {**_own_keywords(schema, path), **dict(_inside(schema, path))}
    return _nullable(out) if schema.nullable else out


def camel(name: str) -> str:
    """``max_items`` as ``maxItems``."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _own_keywords(schema: Schema, path: str) -> dict[str, Any]:
    """What it says of the value itself."""
    out: dict[str, Any] = {}
    kind = (schema.type or "").lower()
    if kind not in ("", "type_unspecified"):
        if kind not in _TYPES:
            raise BadBody(f"Invalid value {kind[:40]!r}", f"{path}.type")
        out["type"] = kind
    for name in _KEPT:
        if (value := getattr(schema, name)) is not None:
            out[name] = value
    for name in _COUNTS:
        if (value := getattr(schema, name)) is not None:
            out[camel(name)] = _count(value, f"{path}.{camel(name)}")
    if schema.format in _FORMATS:
        out["format"] = schema.format
    if schema.ref is not None:
        out["$ref"] = schema.ref.replace("#/defs/", "#/$defs/")
    return out


def _inside(schema: Schema, path: str) -> Iterator[tuple[str, Any]]:
    """What it says of the values within."""
    if schema.additional_properties is not None:
        yield "additionalProperties", _additional(schema.additional_properties, path)
    if schema.items is not None:
        yield "items", to_json(schema.items, f"{path}.items")
    if schema.any_of is not None:
        several = enumerate(schema.any_of)
        yield "anyOf", [to_json(branch, f"{path}.anyOf[{at}]") for at, branch in several]
    if schema.properties is not None:
        ordered = ((name, schema.properties[name]) for name in _ordered(schema))
        yield "properties", {n: to_json(branch, f"{path}.properties.{n}") for n, branch in ordered}
    if schema.defs is not None:
        named = schema.defs.items()
        yield "$defs", {name: to_json(branch, f"{path}.defs.{name}") for name, branch in named}


def _ordered(schema: Schema) -> list[str]:
    """The properties in the order the answer is to have them."""
    names = list(schema.properties or ())
    first = [name for name in schema.property_ordering or () if name in names]
    return list(dict.fromkeys((*first, *names)))


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema or "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _additional(value: Any, path: str) -> Any:
    """``additionalProperties``: a boolean, or a schema."""
    if not isinstance(value, dict):
        return bool(value)
    return to_json(read(encode(value), Schema), f"{path}.additionalProperties")


def _count(value: int | str, path: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise BadBody(f"Invalid value {str(value)[:40]!r}", path) from None
