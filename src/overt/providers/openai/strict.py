"""Whether a JSON Schema is of the kind that OpenAI promises to keep (``strict: true``).

With `strict` the answer always follows the schema, but only a subset of JSON Schema is taken and
anything else is an error: every object closed, every property required, no composition but `anyOf`,
the root an object. Without `strict` any schema is taken and is a strong hint. So `strict` is set
exactly where the schema qualifies; nobody's schema is rewritten to make it qualify, because that
would change what may be answered.

Source: OpenAI's guide to structured outputs as read in 2025, reported by its SDK
(openai/lib/_pydantic.py closes and requires in the same way); unchecked against the API itself.
"""

from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 10
_MAX_PROPERTIES = 5000
_MAX_ENUM = 1000
_MAX_NODES = 20_000

_PLAIN = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description",
        "enum", "items", "properties", "required", "title", "type", "pattern", "multipleOf",
        "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "minItems", "maxItems",
        "format",
    }
)  # fmt: skip
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)


def strict(schema: Mapping[str, Any]) -> bool:
    """Whether `schema` qualifies. Bounded time, whatever it holds; never raises."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    left = [_MAX_NODES, _MAX_PROPERTIES, _MAX_ENUM]
    return _qualifies(schema, 0, left)


def _qualifies(schema: Any, depth: int, left: list[int]) -> bool:
    left[0] -= 1
    # Each level of an object is two of ours, its properties being one.
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or left[0] < 0:
        return False
    if not schema.keys() <= _PLAIN or not _closed(schema, left):
        return False
    reference = schema.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return False
    inside: list[Any] = []
    for name in ("properties", "$defs", "definitions"):
        group = schema.get(name, {})
        if not isinstance(group, Mapping):
            return False
        inside += group.values()
    if "items" in schema:
        inside.append(schema["items"])
    choices = schema.get("anyOf", [])
    if not isinstance(choices, list):
        return False
    inside += choices
    return all(_qualifies(item, depth + 1, left) for item in inside)


def _closed(schema: Mapping[str, Any], left: list[int]) -> bool:
    """Whether it allows no property but its own, each of them required, and few enough values."""
    enum = schema.get("enum", [])
    if not isinstance(enum, list):
        return False
    left[2] -= len(enum)
    if left[2] < 0 or ("format" in schema and schema["format"] not in _FORMATS):
        return False
    kind = schema.get("type")
    if (
        kind != "object"
        and "properties" not in schema
        and not (isinstance(kind, list) and "object" in kind)
    ):
        return "additionalProperties" not in schema
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return False
    left[1] -= len(properties)
    if left[1] < 0 or not all(isinstance(name, str) for name in required):
        return False
    return schema.get("additionalProperties") is False and set(properties) == set(required)
