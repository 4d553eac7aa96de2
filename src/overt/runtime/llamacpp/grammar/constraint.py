"""What may bind an answer: JSON schemas and grammars that llama.cpp enforces, and soon.

llama.cpp compiles a schema, and follows a grammar, on the one thread that answers everybody, where
nothing can be interrupted. So both are judged here first, in time linear in their length, by bounds
under which compiling and each token stay below a second (docs/engine.md has what was measured).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overt.chat import Tool
from overt.errors import BadRequest
from overt.runtime.llamacpp.grammar import gbnf, pattern

MAX_BYTES = 256 << 10
MAX_NODES = 10_000
MAX_DEPTH = 64
MAX_CONCURRENT_STATES = 400
"""Alternatives in one place: values of an enum, branches of an anyOf with those within them."""
MAX_ALTERNATIVES = 1000
MAX_OPTIONAL = 200_000
"""Sum over all objects of optional properties squared: each is followed by any later one."""
MAX_COUNT = 2000
"""llama.cpp's own bound on one repetition; beyond it it refuses or forgets it."""
MAX_COUNTED_STATES = 50_000

_UNIONS = ("anyOf", "oneOf")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")  # name -> schema
_VALUES = ("enum", "const", "default", "examples", "required", "type")
_MAX_INTEGER = 2**63


def schema(schema_: Mapping[str, Any], what: str = "the JSON schema") -> dict[str, Any]:
    """`given` with patterns that llama.cpp enforces.

    Raises:
        BadRequest: a bound, with both numbers, or a pattern that cannot be enforced.
    """
    return _SchemaJudge(what, strict=True).whole(schema_)


def parameters(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The same for the parameters of `tools`, where a pattern without an equal is left out.

    A tool's schema describes more than it binds, and its author is often not who asks. All tools
    together may have four times what one schema may.
    """
    if len(tools) > MAX_CONCURRENT_STATES:
        raise BadRequest(
            f"{len(tools)} tools were given, {MAX_CONCURRENT_STATES} is the most", "give fewer"
        )
    judge = _SchemaJudge("", strict=False, share=4)
    out = []
    for tool in tools:
        judge.what = f"the schema of the tool {tool.name[:64]}"
        out.append(judge.whole(tool.parameters))
    return out


def grammar(text: str) -> str:
    """`given`, a GBNF grammar.

    Raises:
        BadRequest: a bound, with both numbers.
    """
    try:
        gbnf.check(text)
    except gbnf.BadGrammar as error:
        raise BadRequest(f"the grammar {error}", "simplify it") from None
    return text


class _SchemaJudge:
    def __init__(self, what: str, *, strict: bool, share: int = 1) -> None:
        self.what, self._strict, self._share = what, strict, share
        self._nodes = self._alternatives = self._optional = self._counted = 0

    def whole(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        out = self._schema(schema, 0)[0]
        size = len(json.dumps(out))
        if size > MAX_BYTES:
            raise self._over(f"is {size} bytes long", MAX_BYTES)
        assert isinstance(out, dict)
        return out

    def _over(self, clause: str, most: int) -> BadRequest:
        return BadRequest(f"{self.what} {clause}, {most} is the most", "simplify it")

    def _node(self, depth: int) -> None:
        self._nodes += 1
        if self._nodes > (most := MAX_NODES * self._share):
            raise self._over(f"has over {most} parts", most)
        if depth > MAX_DEPTH:
            raise self._over(f"is over {MAX_DEPTH} deep", MAX_DEPTH)

    def _schema(self, schema: Any, depth: int) -> tuple[Any, int]:
        """A schema as it is given to llama.cpp, and its alternatives in this place."""
        self._node(depth)
        if not isinstance(schema, Mapping):
            if isinstance(schema, list):
                return [self._schema(item, depth + 1)[0] for item in schema], 1
            return schema, 1
        out: dict[str, Any] = {}
        here = 0
        for key, value in schema.items():
            if key in _UNIONS and isinstance(value, list):
                branches = [self._schema(item, depth + 1) for item in value]
                out[key] = [branch for branch, _ in branches]
                here += sum(alternatives for _, alternatives in branches)
                self._alternatives += len(branches)
            elif key in _NAMED and isinstance(value, Mapping):
                self._node(depth + 1)
                out[key] = {name: self._schema(item, depth + 2)[0] for name, item in value.items()}
            elif key in _VALUES:
                self._value(value, depth + 1)
                out[key] = value
                if key in ("enum", "type") and isinstance(value, list):
                    here += len(value)
                    self._alternatives += len(value)
            else:
                out |= self._keyword(key, value, depth + 1)
        self._check(schema, here)
        return out, max(here, 1)

    def _keyword(self, key: str, value: Any, depth: int) -> dict[str, Any]:
        if key == "pattern":
            return self._pattern(value)
        if key in _COUNTS:
            return {key: self._count(key, value)}
        if key in _LIMITS and (not _number(value) or abs(value) >= _MAX_INTEGER):
            raise BadRequest(
                f"{self.what} has {key} {_short(value)}", "give less than 64 bits hold"
            )
        return {key: self._schema(value, depth)[0]}

    def _pattern(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, str):
            raise BadRequest(f"{self.what} has a pattern that is no text", "correct it")
        try:
            return {"pattern": pattern.rewritten(value)}
        except pattern.BadPattern as error:
            if not self._strict:
                return {}
            raise BadRequest(
                f"{self.what} has a pattern that cannot be enforced: {_short(value)} {error}",
                "write it otherwise, or leave it out",
            ) from None

    def _count(self, key: str, value: Any) -> int:
        if not _number(value) or value != int(value) or value < 0:
            raise BadRequest(f"{self.what} has {key} {_short(value)}", "give a number from 0")
        if value > MAX_COUNT:
            raise self._over(f"has {key} {_short(value)}", MAX_COUNT)
        self._counted += int(value)
        if self._counted > (most := MAX_COUNTED_STATES * self._share):
            raise self._over(f"asks for over {most} items and letters", most)
        return int(value)

    def _value(self, value: Any, depth: int) -> None:
        self._node(depth)
        for item in _within(value):
            self._value(item, depth + 1)

    def _check(self, schema: Mapping[str, Any], here: int) -> None:
        if here > MAX_CONCURRENT_STATES:
            raise self._over(f"has {here} alternatives in one place", MAX_CONCURRENT_STATES)
        if self._alternatives > (most := MAX_ALTERNATIVES * self._share):
            raise self._over(f"has over {most} alternatives", most)
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, Mapping):
            known = set(filter(_text, required)) if isinstance(required, list) else set()
            optional = len(properties.keys() - known)
            self._optional += optional * optional
            if self._optional > (most := MAX_OPTIONAL * self._share):
                raise self._over(
                    f"has {optional} optional properties in one object or as much in several",
                    int(most**0.5),
                )


def _within(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        return "of over 64 bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
