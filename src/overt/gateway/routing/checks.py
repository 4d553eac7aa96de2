"""What shows, without asking anybody, that an answer is not good: each check names its reason.

Answers and schemas are not trusted. A schema refers to nothing outside itself (it is never
fetched), what is checked is bounded, and a regular expression that could take for ever is not run.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from overt.chat import Answer, Request
from overt.errors import BadRequest
from overt.gateway.routing.arithmetic import wrong_sum
from overt.gateway.routing.route import Escalate

__all__ = ["Objection", "begins_like_refusal", "check_schema", "failure"]

MAX_BYTES = 1 << 20  # of an answer that is checked
_MAX_CACHED_SCHEMA = 32 << 10  # characters of a schema whose validator is kept
_MAX_STEPS = 2_000_000  # of a regular expression of a schema, by a bound from above

_Validate = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an answer is not good, in a few words. With `soft` it is better than no answer at all."""

    reason: str
    soft: bool = False


def failure(request: Request, answer: Answer, rules: Escalate) -> Objection | None:
    """What is against a whole answer; None where no check objects.

    Works for as long as the answer and the schema are large: call it in a thread.
    """
    reason = _hard(request, answer, rules)
    if reason is not None:
        return Objection(reason)
    if rules.refusal and answer.finish == "refusal":
        return Objection("refused to answer", soft=True)
    if rules.length and answer.finish == "length":
        return Objection(f"cut off after {answer.usage.tokens_out} tokens", soft=True)
    if begins_like_refusal(answer.text, rules.refusal_words):
        return Objection("begins like a refusal", soft=True)
    return None


def _hard(request: Request, answer: Answer, rules: Escalate) -> str | None:
    text, calls = answer.text, answer.tool_calls
    if answer.finish == "refusal":
        return None if text.strip() else "refused to answer" if rules.refusal else None
    if rules.empty and not text.strip() and not calls:
        return "empty answer"
    if rules.tools and (reason := _wrong_call(request, answer)):
        return reason
    if rules.schema and request.json_schema is not None and not calls:
        if answer.finish == "length" and _json(text)[1]:
            return "cut off before its JSON ended"
        if reason := _not_the_schema(text, request.json_schema):
            return reason
    if rules.arithmetic and (shown := wrong_sum(text[:MAX_BYTES])):
        return f"wrong arithmetic: {shown}"
    return None


def check_schema(request: Request) -> None:
    """See before anybody is asked that the request's schema can be checked.

    Raises:
        BadRequest: no answer could be judged by it.
    """
    if request.json_schema is None:
        return
    try:
        _validator(request.json_schema)
    except _BadSchema as error:
        raise BadRequest(
            f"the route cannot check answers by this JSON Schema: {error}",
            "correct the schema, or set `schema: false` in the route's `escalate`",
        ) from None


def begins_like_refusal(text: str, openings: tuple[str, ...]) -> bool:
    """Whether `text` begins with one of `openings` (lower case)."""
    head = text.lstrip(" \n\t*\"'“#").lower()[:200]
    return any(head.startswith(opening) for opening in openings)


# ---- tool calls and JSON ---------------------------------------------------------------------


def _wrong_call(request: Request, answer: Answer) -> str | None:
    tools = {tool.name: tool for tool in request.tools}
    calls = answer.tool_calls
    if not calls and tools and request.tool_choice not in ("auto", "none"):
        required = "a tool" if request.tool_choice == "required" else request.tool_choice
        return f"did not call {required[:80]}, as it had to"
    for call in calls:
        if call.name not in tools:
            return f"called {call.name[:80]!r}, which is no tool it was given"
        value, wrong = _json(call.arguments or "{}")
        if wrong or not isinstance(value, dict):
            return f"arguments of {call.name[:80]} are not a JSON object"
        try:
            reason = _validator(tools[call.name].parameters)(value)
        except _BadSchema:
            continue  # many clients' tools have sloppy schemas, and engines take them
        if reason:
            return f"arguments of {call.name[:80]} not met {reason}"
    return None


def _not_the_schema(text: str, schema: Mapping[str, Any]) -> str | None:
    value, wrong = _json(text)
    if wrong:
        return wrong
    try:
        reason = _validator(schema)(value)
    except _BadSchema:
        return "its schema cannot be carried out"  # a reference that leads nowhere, say
    return f"schema not met {reason}" if reason else None


def _json(text: str) -> tuple[Any, str | None]:
    """The value of strict JSON, and why it is none."""
    if len(text) > MAX_BYTES:
        return None, f"JSON of more than {MAX_BYTES} characters"
    try:
        return json.loads(text, parse_constant=_no_constant), None
    except ValueError as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        return None, f"not JSON{place}"
    except RecursionError:
        return None, "JSON that is too deep"


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity, which Python reads and JSON does not have


class _BadSchema(ValueError):
    """Why a schema cannot be used; one clause."""


def _validator(schema: Mapping[str, Any]) -> _Validate:
    """What says where a value breaks `schema`: ``at $.age``; None where it does not.

    Making it takes a millisecond or two, so that of schemas of usual size the last are kept.

    Raises:
        _BadSchema: it cannot be used; of what is made, too.
    """
    try:
        text = json.dumps(schema, default=dict)
    except (TypeError, ValueError, RecursionError):
        raise _BadSchema("it is no JSON, or too deep") from None
    return _make_validator(text) if len(text) > _MAX_CACHED_SCHEMA else _cached_validator(text)


@lru_cache(maxsize=64)
def _cached_validator(text: str) -> _Validate:
    return _make_validator(text)


def _make_validator(text: str) -> _Validate:
    from jsonschema import exceptions, validators
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        plain = json.loads(text)
        kind = _safe_kind(validators.validator_for(plain, default=validators.Draft202012Validator))
        kind.check_schema(plain)
        judge = kind(plain, registry=Registry())
    except (exceptions.SchemaError, RecursionError) as error:
        message = getattr(error, "message", "too deep")
        raise _BadSchema(" ".join(str(message).split())[:160]) from None
    for reference in _references(plain):
        if not reference.startswith("#"):
            raise _BadSchema(f"it refers to {reference[:80]!r}, which is never fetched")

    def validate(value: Any) -> str | None:
        try:
            error = exceptions.best_match(judge.iter_errors(value))
        except RecursionError:
            return "(too deep to check)"
        except (Unresolvable, exceptions.UnknownType, LookupError, ArithmeticError):
            raise _BadSchema("it cannot be carried out") from None
        except (AttributeError, TypeError, ValueError, re.error):  # refers to what is no schema
            raise _BadSchema("it cannot be carried out") from None
        return f"at {error.json_path[:120]}" if error else None

    return validate


def _safe_kind(kind: Any) -> Any:
    """A validator that runs no regular expression which could take for ever."""
    from jsonschema import exceptions, validators

    def pattern(_: Any, wanted: Any, value: Any, __: Any) -> Iterator[Any]:
        if isinstance(value, str) and _quick(wanted, value) and not re.search(wanted, value):
            yield exceptions.ValidationError(f"{value[:80]!r} does not match {wanted[:80]!r}")

    def pattern_properties(judge: Any, wanted: Any, value: Any, _: Any) -> Iterator[Any]:
        if not judge.is_type(value, "object"):
            return
        for expression, schema in wanted.items():
            for key, item in value.items():
                if _quick(expression, key) and re.search(expression, key):
                    yield from judge.descend(item, schema, path=key, schema_path=expression)

    extend: Any = validators.extend  # without types in its stubs
    checks: dict[str, Any] = {"pattern": pattern, "patternProperties": pattern_properties}
    if "additionalProperties" in kind.VALIDATORS:
        usual = kind.VALIDATORS["additionalProperties"]

        def additional(judge: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
            # jsonschema joins all patterns to one expression and searches with that.
            keys = value if isinstance(value, dict) else ()
            patterns = schema.get("patternProperties", {})
            if all(_quick(pattern, key) for pattern in patterns for key in keys):
                yield from usual(judge, wanted, value, schema) or ()

        checks["additionalProperties"] = additional
    return extend(kind, checks)


def _quick(expression: str, text: str) -> bool:
    """Whether a search ends soon: no repetition inside a repetition, and few of them at all.

    An expression that is not quick is not run, and what it forbids passes.
    """
    if len(expression) > 1000 or re.search(r"\(\?(?![:=!P<])", expression):
        return False
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", expression, flags=re.DOTALL)
    bare = re.sub(r"\(\?(?:[:=!]|<[=!]|P?<\w*>)", "(", bare)
    if re.search(r"\)(?:[*+]|\{)", bare):
        inner = [match[1] for match in re.finditer(r"\(([^()]*)\)(?:[*+]|\{)", bare)]
        nested = len(inner) < len(re.findall(r"\)(?:[*+]|\{)", bare))
        if nested or any(re.search(r"[*+?{|]", group) for group in inner):
            return False
    wide = len(re.findall(r"[*+]|\{", bare))
    narrow = bare.count("?") + bare.count("|")
    if wide > 8 or narrow > 40:
        return False
    return bool((len(text) + 1) ** (wide + 1) * 2 ** min(narrow, 40) <= _MAX_STEPS)


def _references(schema: Any) -> Iterator[str]:
    """Every `$ref` and `$dynamicRef`, wherever it stands."""
    left = [schema]
    while left:
        at = left.pop()
        if isinstance(at, dict):
            for key, value in at.items():
                if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                    yield value
                else:
                    left.append(value)
        elif isinstance(at, list):
            left.extend(at)
