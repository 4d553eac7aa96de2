"""LM Studio's settings: stacks of layers of keys and values, and what they mean for a request.

A later layer overrides an earlier one. Keys and their defaults were read in lmstudio-js,
packages/lms-kv-config/src/schema.ts (August 2026). A setting that only says how fast to compute is
accepted and left to the engine; one that would change the answer and cannot be had is refused by
name; a key that is not known is ignored, as LM Studio does.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from overt.chat import Sampling, Tool
from overt.errors import Unsupported
from overt.protocols.base import BadBody

T = TypeVar("T")


class Field(msgspec.Struct):
    key: str
    value: Any = None


class ConfigFields(msgspec.Struct):
    fields: list[Field] = []


class ConfigLayer(msgspec.Struct, rename="camel"):
    config: ConfigFields
    layer_name: str = ""


class Stack(msgspec.Struct):
    layers: list[ConfigLayer] = []

    def collapsed(self) -> dict[str, Any]:
        return {field.key: field.value for layer in self.layers for field in layer.config.fields}


def fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The other way: a KVConfig of these values."""
    return {"fields": [{"key": key, "value": value} for key, value in values.items()]}


# ---- forms of a value ----------------------------------------------------------------------


class Checkbox(msgspec.Struct):
    checked: bool
    value: float | None = None


class Structured(msgspec.Struct, rename="camel"):
    type: Literal["none", "json", "gbnf"]
    json_schema: Any = None
    gbnf_grammar: str | None = None


class FunctionDefinition(msgspec.Struct):
    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class ToolDefinition(msgspec.Struct):
    function: FunctionDefinition
    type: Literal["function"] = "function"


class ToolUse(msgspec.Struct):
    type: Literal["none", "toolArray"]
    tools: list[ToolDefinition] = []
    force: bool = False


class ToolChoiceMode(msgspec.Struct):
    mode: Literal["none", "auto", "required"]


class Jinja(msgspec.Struct):
    template: str


class Manual(msgspec.Struct, rename="camel"):
    before_system: str
    after_system: str
    before_user: str
    after_user: str
    before_assistant: str
    after_assistant: str


class PromptTemplate(msgspec.Struct, rename="camel"):
    type: Literal["manual", "jinja"]
    stop_strings: list[str] = []
    manual_prompt_template: Manual | None = None
    jinja_prompt_template: Jinja | None = None


class Parsing(msgspec.Struct, rename="camel"):
    enabled: bool
    start_string: str = "<think>"
    end_string: str = "</think>"


# ---- what they come to ---------------------------------------------------------------------


@dataclass(slots=True)
class Prediction:
    """The settings of one prediction, in our words.

    `as_text` continues the messages' text as it stands; `manual` frames each message with fixed
    words instead of the model's template; `parsing` is how reasoning is told.
    """

    sampling: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    json_schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    logprobs: int | None = None
    thinking: bool | None = None
    system: str = ""
    as_text: bool = False
    manual: Manual | None = None
    parsing: Parsing = field(default_factory=lambda: Parsing(True))

    def drawn(self) -> Sampling:
        return Sampling(**self.sampling)


def prediction(values: Mapping[str, Any]) -> Prediction:
    """What the collapsed settings of a prediction ask for.

    Raises:
        BadBody: a value that its key does not take.
        Unsupported: a setting that would change the answer and that no engine here has.
    """
    prediction_ = Prediction()
    for key, value in values.items():
        setter = _SETTERS.get(key)
        if setter is not None:
            setter(prediction_, key, value)
    return prediction_


def context_length(values: Mapping[str, Any]) -> int | None:
    """The context a load asks for, in tokens."""
    for key in ("llm.load.contextLength", "embedding.load.contextLength"):
        if values.get(key) is not None:
            length = _integer(key, values[key])
            if not 1 <= length <= 1 << 30:
                raise BadBody(f"{length} tokens is no context length", key)
            return length
    return None


Setter = Callable[[Prediction, str, Any], None]


def _as(key: str, value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise BadBody(f"{error} in the setting {key}", key) from None


def _number(key: str, value: Any) -> float:
    number = _as(key, value, float)
    if not math.isfinite(number):
        raise BadBody(f"{key} is not a number", key)
    return number


def _integer(key: str, value: Any) -> int:
    number = _number(key, value)
    if number != int(number):
        raise BadBody(f"{number} of the setting {key} is not a whole number", key)
    return int(number)


def _checked(key: str, value: Any) -> float | None:
    """A checkbox's number, None where it is not ticked. A bare number is taken as ticked."""
    if value is None or value is False:
        return None
    if isinstance(value, int | float):
        return _number(key, value)
    box = _as(key, value, Checkbox)
    if not box.checked or box.value is None:
        return None
    return _number(key, box.value)


def _draw(name: str, off: float | None = None, *, whole: bool = False) -> Setter:
    """A number of `Sampling`, from a checkbox; `off` is what unticked means there."""

    def set_to(prediction: Prediction, key: str, value: Any) -> None:
        number = _checked(key, value)
        if number is None:
            number = off
        if number is not None:
            prediction.sampling[name] = _integer(key, number) if whole else number

    return set_to


def _temperature(prediction: Prediction, key: str, value: Any) -> None:
    if value is None:
        return
    prediction.sampling["temperature"] = _number(key, value)
    if prediction.sampling["temperature"] < 0:
        raise BadBody(f"a temperature of {value} is below 0", key)


def _top_k(prediction: Prediction, key: str, value: Any) -> None:
    if value is not None:
        prediction.sampling["top_k"] = max(0, _integer(key, value))  # -1 and 0 both switch it off


def _seed(prediction: Prediction, key: str, value: Any) -> None:
    number = _checked(key, value)
    if number is not None and number >= 0:
        prediction.sampling["seed"] = _integer(key, number)


def _max_tokens(prediction: Prediction, key: str, value: Any) -> None:
    number = _checked(key, value)
    prediction.max_tokens = None if number is None or number < 0 else _integer(key, number)


def _stop(prediction: Prediction, key: str, value: Any) -> None:
    prediction.stop = (*prediction.stop, *_as(key, value or [], tuple[str, ...]))


def _logprobs(prediction: Prediction, key: str, value: Any) -> None:
    number = _checked(key, value)
    if number is None:
        return
    if not 0 <= number <= 20:
        raise BadBody(f"{number:g} alternatives were asked for, and there are 20 at most", key)
    prediction.logprobs = _integer(key, number)


def _structured(prediction: Prediction, key: str, value: Any) -> None:
    wanted = _as(key, value, Structured)
    prediction.json_schema = prediction.grammar = None
    if wanted.type == "json":
        schema = {"type": "object"} if wanted.json_schema is None else wanted.json_schema
        if not isinstance(schema, dict):
            raise BadBody("jsonSchema is not an object", key)
        prediction.json_schema = schema
    elif wanted.type == "gbnf":
        if not wanted.gbnf_grammar:
            raise BadBody("gbnfGrammar is missing", key)
        prediction.grammar = wanted.gbnf_grammar


def _tools(prediction: Prediction, key: str, value: Any) -> None:
    use = _as(key, value, ToolUse)
    prediction.tools = tuple(
        Tool(tool.function.name, tool.function.description, tool.function.parameters)
        for tool in (use.tools if use.type == "toolArray" else ())
    )
    if use.force and prediction.tools:
        prediction.tool_choice = "required"


def _tool_choice(prediction: Prediction, key: str, value: Any) -> None:
    prediction.tool_choice = _as(key, value, ToolChoiceMode).mode


def _thinking(prediction: Prediction, key: str, value: Any) -> None:
    prediction.thinking = _as(key, value, bool | None)  # type: ignore[arg-type]


def _parsing(prediction: Prediction, key: str, value: Any) -> None:
    prediction.parsing = _as(key, value, Parsing)


def _system(prediction: Prediction, key: str, value: Any) -> None:
    prediction.system = _as(key, value or "", str)


_JOINED = re.compile(
    r"\{%-?\s*for (\w+) in messages\s*-?%\}\{\{-?\s*\1(?:\.content|\[(['\"])content\2\])\s*-?\}\}"
    r"\{%-?\s*endfor\s*-?%\}"
)
"""The template by which SDKs ask for a completion: the messages' text and nothing else."""


def _template(prediction: Prediction, key: str, value: Any) -> None:
    template = _as(key, value, PromptTemplate)
    prediction.stop = (*prediction.stop, *template.stop_strings)
    if template.type == "manual" and template.manual_prompt_template is not None:
        prediction.manual = template.manual_prompt_template
        return
    jinja = template.jinja_prompt_template
    if jinja is None or not _JOINED.fullmatch(jinja.template.strip()):
        raise Unsupported(
            "a chat template cannot be sent with a request",
            "leave promptTemplate out: the model's own is used",
        )
    prediction.as_text = True


def _refused(what: str, allowed: Callable[[Any], bool]) -> Setter:
    def set_to(prediction: Prediction, key: str, value: Any) -> None:
        if not allowed(value):
            raise Unsupported(f"{what} ({key}) is not to be had here", "leave it out")

    return set_to


def _unchecked(value: Any) -> bool:
    return _checked("", value) is None if isinstance(value, dict | int | float) else not value


def _bias(prediction: Prediction, key: str, value: Any) -> None:
    pairs = _as(key, value or [], list[tuple[int, float | Literal["-inf"]]])
    prediction.logit_bias = tuple((id, -100.0 if by == "-inf" else float(by)) for id, by in pairs)


_P = "llm.prediction."
_SETTERS: dict[str, Setter] = {
    _P + "temperature": _temperature,
    _P + "topKSampling": _top_k,
    _P + "topPSampling": _draw("top_p", 1.0),
    _P + "minPSampling": _draw("min_p", 0.0),
    _P + "repeatPenalty": _draw("repeat_penalty", 1.0),
    _P + "llama.presencePenalty": _draw("presence_penalty"),
    _P + "llama.frequencyPenalty": _draw("frequency_penalty"),
    _P + "llama.locallyTypicalSampling": _draw("typical_p"),
    _P + "llama.logitBias": _bias,
    _P + "seed": _seed,
    _P + "maxPredictedTokens": _max_tokens,
    _P + "stopStrings": _stop,
    _P + "logProbs": _logprobs,
    _P + "structured": _structured,
    _P + "tools": _tools,
    _P + "toolChoice": _tool_choice,
    _P + "reasoning.enableThinking": _thinking,
    _P + "reasoning.parsing": _parsing,
    _P + "systemPrompt": _system,
    _P + "promptTemplate": _template,
    _P + "contextPrefill": _refused("text before the conversation", lambda value: not value),
    _P + "llama.tailFreeSampling": _refused("tail-free sampling", _unchecked),
    _P + "llama.xtcProbability": _refused("XTC sampling", _unchecked),
    _P + "llama.mirostatSampling": _refused(
        "Mirostat", lambda value: not (isinstance(value, dict) and value.get("version"))
    ),
}
