"""What a route is, and how one is read from YAML, TOML or JSON.

::

    rules:                          # the first one that fits decides; no rule has to fit
      - when: {egress: none}        #   all that stands in `when` has to hold
        use: smollm2                #   this model answers, and streams
      - when: {images: true, context_over: 8000}
        use: gemini:gemini-3.8-flash
      - when: {caller: [ab12cd34]}
        refuse: interns ask smollm2 by its own name
    models:                         # the ladder: asked in this order until an answer is good
      - smollm2
      - model: qwen3:4b             #   a ref, or a mapping with a threshold of this model's own
        threshold: {signal: mean_logprob, at_least: -0.4, learnt: {…}}
      - openai:gpt-6.1-sol          #   the last one's answer is delivered as it comes
    escalate:                       # what makes an answer not good; these are the defaults
      schema: true                  #   not the JSON that the request's schema asks for
      tools: true                   #   calls a tool there is not, or with arguments that do not fit
      empty: true                   #   no text and no tool call
      refusal: true                 #   the model says by its stop reason that it refuses
      refusal_words: false          #   true, or a list: the answer begins like a refusal
      length: false                 #   cut off at the most tokens
      error: true                   #   the engine failed, before or during its answer
      arithmetic: false             #   a sum written in the answer (`3 * 4 = 12`) is wrong
      check: {command: [/home/me/check.py], timeout: 10s}
    price_cap: 0.02                 # USD: models that may cost more for one request are passed over

Conditions of `when`: `egress` (``none``, ``some``, ``any``: where text may go now), `images`,
`tools`, `schema`, `thinking` (true or false: the request has them), `context_over` (tokens of the
prompt, estimated), `caller` (ids of keys, as `overt keys list` has them), `usd_over` (the ladder's
dearest model may cost more, or nobody knows its price). A route has rules, or models, or both, and
names one model at least.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from overt import ref as refs
from overt.errors import BadRef, BadRequest, BadSetting, FormatError
from overt.formats import yamltext
from overt.gateway.routing.confidence import Router
from overt.settings import seconds_of

__all__ = ["CheckCommand", "Escalate", "Route", "Rule", "Stage", "Threshold", "When", "read"]

MAX_BYTES = 64 << 10
_MAX_RULES = 100
_MAX_MODELS = 16
_MAX_WORDS = 100  # parts of a command, callers of a rule, openings of a refusal
_MAX_TEXT = 4096

Egress = Literal["none", "some", "any"]
SIGNALS = ("mean_logprob", "router")


@dataclass(frozen=True, slots=True)
class When:
    """Conditions of a rule; those that are None do not matter."""

    egress: Egress | None = None
    images: bool | None = None
    tools: bool | None = None
    schema: bool | None = None
    thinking: bool | None = None
    context_over: int | None = None
    caller: tuple[str, ...] | None = None
    usd_over: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Either `use` (a ref) or `refuse` (a sentence) is given."""

    when: When
    use: str | None = None
    refuse: str | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """An answer is good where `signal` is at least `at_least`.

    `signal` is ``mean_logprob``, of the answer's tokens, or ``router``: how sure `router` is of the
    answer, from 0 to 1. `learnt` is how the number was found, as evaluation/conformal.py states it;
    nothing here reads it.
    """

    signal: str
    at_least: float
    learnt: Mapping[str, Any] | None = None
    router: Router | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One model of the ladder."""

    model: str
    threshold: Threshold | None = None


@dataclass(frozen=True, slots=True)
class CheckCommand:
    """A command of the owner's that judges an answer; see command.py. `timeout` in seconds."""

    command: tuple[str, ...]
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Escalate:
    """What makes an answer not good. `refusal_words` are openings, in lower case."""

    schema: bool = True
    tools: bool = True
    empty: bool = True
    refusal: bool = True
    refusal_words: tuple[str, ...] = ()
    length: bool = False
    error: bool = True
    arithmetic: bool = False
    check: CheckCommand | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """See the head of this module. `price_cap` in USD; None is no cap."""

    rules: tuple[Rule, ...] = ()
    models: tuple[Stage, ...] = ()
    escalate: Escalate = field(default_factory=Escalate)
    price_cap: float | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """Every model it may ask."""
        ruled = (rule.use for rule in self.rules if rule.use)
        return (*(rung.model for rung in self.models), *ruled)

    @property
    def first(self) -> str:
        """The model that is asked first where no rule says otherwise."""
        return next(iter(self.named), "")


REFUSAL_WORDS = (
    "i'm sorry, but i can't",
    "i’m sorry, but i can’t",
    "i'm sorry, but i cannot",
    "i am sorry, but i cannot",
    "i can't help with",
    "i can’t help with",
    "i cannot help with",
    "i can't assist",
    "i can’t assist",
    "i cannot assist",
    "i'm unable to",
    "i’m unable to",
    "i am unable to",
    "as an ai language model",
    "as an ai, i",
)
"""How refusals of chat models in English begin; what `refusal_words: true` looks for."""


def read(text: str, what: str = "the route") -> tuple[Route, dict[str, Any]]:
    """A route from YAML, TOML or JSON text: the value, and the mapping that aliases.py keeps.

    Raises:
        BadRequest: where in the text, and what was expected there.
    """
    return read_mapping(mapping := _parsed(text, what), what), mapping


def read_mapping(document: Mapping[str, Any], what: str = "the route") -> Route:
    """A route from its mapping. Raises BadRequest as `read`."""
    node = _Node(document, what)
    node.known("version", "rules", "models", "escalate", "price_cap")
    if (version := node.get("version", 1)) != 1 or version is True:
        raise node.at("version").wrong("1, the only version there is")
    route = Route(
        tuple(map(_rule, node.list("rules", _MAX_RULES))),
        tuple(map(_rung, node.list("models", _MAX_MODELS))),
        _escalate(node.mapping("escalate")),
        node.number("price_cap", least=0.0),
    )
    if not route.models and not any(rule.use for rule in route.rules):
        raise BadRequest(f"{what} names no model", "add `models: [REF, REF]`")
    return route


def _parsed(text: str, what: str) -> dict[str, Any]:
    import tomllib

    if len(text) > MAX_BYTES:
        raise BadRequest(
            f"{what} is {len(text)} characters and the most that is read is {MAX_BYTES}",
            "make it shorter",
        )
    value: Any
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError):
        try:
            value = yamltext.load(text, what)
        except (FormatError, RecursionError) as error:
            message = error.message if isinstance(error, FormatError) else f"{what} is too deep"
            raise BadRequest(message, "write the route as YAML, TOML or JSON") from None
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is {_kind(value)}", "a route begins with `models:` or `rules:`")
    return value


def _rule(node: "_Node") -> Rule:
    node.known("when", "use", "refuse")
    when = node.mapping("when")
    when.known(*When.__slots__)
    use, refuse = node.text("use"), node.text("refuse")
    if (use is None) == (refuse is None):
        raise node.wrong("either `use: REF` or `refuse: a sentence`")
    egress = when.text("egress")
    if egress not in (None, "none", "some", "any"):
        raise when.at("egress").wrong("none, some or any")
    tokens = when.number("context_over", least=0.0)
    condition = When(
        egress,  # type: ignore[arg-type]
        when.flag("images"),
        when.flag("tools"),
        when.flag("schema"),
        when.flag("thinking"),
        None if tokens is None else int(tokens),
        when.texts("caller"),
        when.number("usd_over", least=0.0),
    )
    return Rule(condition, None if use is None else _ref(node.at("use"), use), refuse)


def _rung(node: "_Node") -> Stage:
    if isinstance(node.value, str):
        return Stage(_ref(node, node.value))
    node.known("model", "threshold")
    model = node.text("model")
    if model is None:
        raise node.wrong("a ref, or a mapping with `model: REF`")
    if node.get("threshold") is None:
        return Stage(_ref(node.at("model"), model))
    at = node.mapping("threshold")
    at.known("signal", "at_least", "learnt", "router")
    if (signal := at.text("signal")) not in SIGNALS:
        raise at.at("signal").wrong(" or ".join(SIGNALS))
    least = at.number("at_least")
    if least is None:
        raise at.at("at_least").wrong("a number")
    learnt = at.mapping("learnt").value if at.get("learnt") is not None else None
    try:
        json.dumps(learnt, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # a date of TOML, an infinity
        raise at.at("learnt").wrong("what JSON can hold") from None
    router = _router(at) if signal == "router" else None
    return Stage(_ref(node.at("model"), model), Threshold(signal or "", least, learnt, router))


def _router(at: "_Node") -> Router:
    try:
        return Router.of(at.mapping("router").value)
    except ValueError as error:
        raise at.at("router").wrong(str(error)) from None


def _escalate(node: "_Node") -> Escalate:
    flags = ("schema", "tools", "empty", "refusal", "length", "error", "arithmetic")
    node.known(*flags, "refusal_words", "check")
    words: tuple[str, ...] | None = None
    if isinstance(chosen := node.get("refusal_words"), bool):
        words = REFUSAL_WORDS if chosen else ()
    else:
        words = node.texts("refusal_words")
    flags_set = {name: value for name in flags if (value := node.flag(name)) is not None}
    lower = tuple(word.lower() for word in words or ())
    return Escalate(**flags_set, refusal_words=lower, check=_check(node))


def _check(node: "_Node") -> CheckCommand | None:
    if node.get("check") is None:
        return None
    at = node.mapping("check")
    at.known("command", "timeout")
    command = at.texts("command")
    if not command or not command[0] or any("\0" in part for part in command):
        raise at.at("command").wrong("a list: the program, and what it is given")
    if not re.match(r"/|[A-Za-z]:[\\/]", command[0]):
        raise at.at("command").wrong("a program by its whole path, such as /home/me/check.py")
    if at.get("timeout") is None:
        return CheckCommand(command)
    try:
        seconds = seconds_of(str(at.get("timeout")))
    except BadSetting:
        seconds = 0.0
    if not 0 < seconds <= 600:
        raise at.at("timeout").wrong("a time from 1ms to 10m, such as 10s")
    return CheckCommand(command, seconds)


def _ref(node: "_Node", text: str) -> str:
    try:
        ref = refs.parse(text)
    except BadRef as error:
        raise BadRequest(f"{node.where}: {error.message}", error.hint) from None
    if ref.scheme == "path" and not re.match(r"/|[A-Za-z]:[\\/]", text):
        raise node.wrong("a whole path: a server may be started in another folder")
    return text


# ---- reading with the path of keys in every error --------------------------------------------


class _Node:
    """A value of the document and where it stands."""

    def __init__(self, value: Any, what: str, path: str = "") -> None:
        self.value, self._what, self._path = value, what, path

    @property
    def where(self) -> str:
        return f"{self._path} of {self._what}" if self._path else self._what

    def wrong(self, expected: str) -> BadRequest:
        return BadRequest(f"{self.where} is {_kind(self.value)}", f"it should be {expected}")

    def at(self, key: str) -> "_Node":
        return _Node(self.get(key), self._what, f"{self._path}.{key}" if self._path else key)

    def get(self, key: str, default: Any = None) -> Any:
        if not isinstance(self.value, Mapping):
            raise self.wrong("a mapping")
        return self.value.get(key, default)

    def known(self, *keys: str) -> None:
        if not isinstance(self.value, Mapping):
            raise self.wrong("a mapping")
        for key in self.value:
            if key not in keys:
                raise BadRequest(
                    f"{self.where} has the unknown key {str(key)[:60]!r}",
                    f"known keys: {', '.join(keys)}",
                )

    def mapping(self, key: str) -> "_Node":
        node = self.at(key)
        if node.value is None:
            node.value = {}
        if not isinstance(node.value, Mapping):
            raise node.wrong("a mapping")
        return node

    def list(self, key: str, most: int) -> "list[_Node]":
        node = self.at(key)
        if node.value is None:
            return []
        if not isinstance(node.value, list) or len(node.value) > most:
            raise node.wrong(f"a list of at most {most}")
        path = node._path
        return [_Node(item, self._what, f"{path}[{i}]") for i, item in enumerate(node.value)]

    def text(self, key: str) -> str | None:
        string = self._of(key, lambda value: _is_text(value) and value != "", "text")
        return string if isinstance(string, str) else None

    def flag(self, key: str) -> bool | None:
        boolean = self._of(key, lambda value: isinstance(value, bool), "true or false")
        return boolean if isinstance(boolean, bool) else None

    def texts(self, key: str) -> tuple[str, ...] | None:
        node = self.at(key)
        if node.value is None:
            return None
        value = [node.value] if isinstance(node.value, str) else node.value
        fits = isinstance(value, list) and 0 < len(value) <= _MAX_WORDS
        if not fits or not all(map(_is_text, value)):
            raise node.wrong(f"a list of 1 to {_MAX_WORDS} texts")
        return tuple(value)

    def number(self, key: str, least: float | None = None) -> float | None:
        def fits(value: Any) -> bool:
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            return (
                plain
                and abs(value) < 1e18
                and isfinite(value)
                and value >= (-1e18 if least is None else least)
            )

        number_value = self._of(
            key, fits, "a number" if least is None else f"a number from {least:g}"
        )
        return None if number_value is None else float(number_value)

    def _of(self, key: str, fits: Callable[[Any], bool], expected: str) -> Any:
        node = self.at(key)
        if node.value is not None and not fits(node.value):
            raise node.wrong(expected)
        return node.value


def _is_text(value: Any) -> bool:
    """Text of a bounded length that UTF-8 can write."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _kind(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "a very large number"
    if isinstance(value, str | int | float):
        return ascii(value)[:80]
    return "a list" if isinstance(value, list) else "a mapping"
