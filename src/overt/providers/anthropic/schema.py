"""A JSON Schema in the part of it that Claude's structured outputs enforce.

There every object is closed, and numbers, lengths and patterns have no bounds (platform.claude.com,
structured outputs, read 2026-11-25; the `anthropic` package's own ``transform_schema`` does the
same). What is not enforced is told to the model in the description, where it may heed it.
"""

from collections.abc import Mapping
from typing import Any

from overt.errors import BadRequest

_KEPT = ("type", "enum", "const", "title", "description")
_SEVERAL = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_NAMED = ("$defs", "definitions")
_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
)
_NOTES = ("$schema", "$id", "$comment", "examples", "default", "deprecated")  # they bind nothing
_MAX_DEPTH = 64


def limited(schema: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`schema` as Claude takes it, and the keywords that nothing enforces there.

    An object that was open is closed: what fits the result fits `schema`.

    Raises:
        BadRequest: nested more than 64 deep.
    """
    loose: set[str] = set()
    return _limited(schema, loose, 0), tuple(sorted(loose))


def _limited(schema: Any, loose: set[str], depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    if depth > _MAX_DEPTH:
        raise BadRequest(
            f"the JSON schema is nested more than {_MAX_DEPTH} deep", "make it flatter"
        )
    out: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            out[key] = {name: _limited(item, loose, depth + 1) for name, item in value.items()}
        elif key in _SEVERAL and isinstance(value, list | tuple):
            out[_SEVERAL[key]] = [_limited(item, loose, depth + 1) for item in value]
        elif key == "properties" and isinstance(value, Mapping):
            out[key] = {name: _limited(item, loose, depth + 1) for name, item in value.items()}
        elif key == "items" and isinstance(value, Mapping):
            out[key] = _limited(value, loose, depth + 1)
        elif key in _KEPT or key in ("$ref", "required") or _fits(key, value):
            out[key] = value
        elif key != "additionalProperties" and key not in _NOTES:
            left[key] = value
    if _is_object(schema):
        out.setdefault("properties", {})
        out["additionalProperties"] = False
        _open(schema, loose)
    if left:
        loose.update(left)
        dropped = "{" + ", ".join(f"{key}: {value}" for key, value in left.items()) + "}"
        before = out.get("description")
        out["description"] = f"{before}\n\n{dropped}" if isinstance(before, str) else dropped
    return out


def _fits(key: str, value: Any) -> bool:
    """Whether a keyword is enforced with this value."""
    if key == "format":
        return isinstance(value, str) and value in _FORMATS
    return key == "minItems" and value in (0, 1) and not isinstance(value, bool)


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list | tuple) and "object" in kind)


def _open(schema: Mapping[str, Any], loose: set[str]) -> None:
    """An object made to hold any names holds none any more: that is worth a word."""
    if schema.get("additionalProperties", False) is not False:
        loose.add("additionalProperties")
