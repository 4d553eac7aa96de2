"""A `Request` as a body of Gemini's ``:generateContent``, and what had to be left out of it.

Written from the types of the `google-genai` 3.6 package and of `google-ai-generativelanguage` 0.12,
in the camelCase of the wire. Thoughts and signatures go back only where Gemini made them.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import dropwhile, takewhile
from typing import Any

import msgspec

from overt.chat import (
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
from overt.errors import BadRequest, Unsupported
from overt.providers.supported_parameters import SupportedParameters, pruned

ENGINE = "gemini"
_MAX_STOPS = 5
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
_MAX_DEPTH = 32
"""Levels of an object that are sent as one; protobuf gives up at 100, its own among them."""

Body = dict[str, Any]


def body(request: Request, model: str, taken: SupportedParameters) -> tuple[Body, tuple[str, ...]]:
    """The body, and one sentence for each thing left out or changed.

    Raises:
        BadRequest, Unsupported: what Gemini cannot do, and what would change the answer's meaning
            if it were left out.
    """
    _check(request, model, taken)
    request, dropped = pruned(request, taken)
    notes = [f"{model} takes no {name}; it was left out" for name in dropped]
    notes += _not_of_gemini(request)
    fields: Body = {"contents": _contents(request, taken, notes)}
    if system := _system(request.messages):
        fields["systemInstruction"] = {"parts": [{"text": system}]}
    if request.tools:
        fields["tools"] = [{"functionDeclarations": [_declared(tool) for tool in request.tools]}]
        if choice := _choice(request.tool_choice):
            fields["toolConfig"] = {"functionCallingConfig": choice}
    config = {
        **_sampling(request.sampling),
        **_length(request, model, taken, notes),
        **_form(request),
    }
    if thinking := _thinking(request, model, taken, notes):
        config["thinkingConfig"] = thinking
    if config:
        fields["generationConfig"] = config
    return fields, tuple(dict.fromkeys(notes))


def _check(request: Request, model: str, taken: SupportedParameters) -> None:
    """Refuse what leaving out would turn into another request."""
    if request.prompt is not None or request.suffix is not None:
        raise Unsupported("gemini answers conversations alone", "send messages, not a prompt")
    if request.grammar is not None:
        raise Unsupported("gemini takes no grammar", "give a JSON schema, or use a local model")
    if len(request.stop) > _MAX_STOPS:
        raise BadRequest(
            f"{len(request.stop)} stop sequences, and gemini takes {_MAX_STOPS}", "leave some out"
        )
    for name, (least, most) in _RANGES.items():
        value = getattr(request.sampling, name)
        if value is not None and not least <= value <= most:
            raise BadRequest(
                f"{name} is {value:g}, and gemini takes {least:g} to {most:g}",
                f"choose one of those, or leave out {name}",
            )
    if request.tools and not taken.tools:
        raise Unsupported(f"{model} takes no tools", "leave them out, or choose another model")
    if not taken.images and any(
        isinstance(part, ImagePart) for message in request.messages for part in message.parts
    ):
        raise Unsupported(f"{model} takes no images", "leave them out, or choose another model")


_ONLY_LOCAL = ("min_p", "typical_p", "repeat_penalty", "repeat_last_n")


def _not_of_gemini(request: Request) -> Iterator[str]:
    """What of `request` has no place in Gemini's API."""
    for name in _ONLY_LOCAL:
        if getattr(request.sampling, name) is not None:
            yield f"gemini has no {name}; it was left out"
    if request.logit_bias:
        yield "gemini has no logit_bias; it was left out"
    if not request.parallel_tools and request.tools:
        yield "gemini may call several tools at once, and cannot be told not to"
    if request.deterministic:
        yield "gemini does not promise the same answer twice, whatever its seed"


# ---- contents ------------------------------------------------------------------------------


def _system(messages: tuple[Message, ...]) -> str:
    """The texts of the system messages that begin the conversation."""
    first = takewhile(_is_system, messages)
    return "\n\n".join(message.text for message in first if message.text)


def _is_system(message: Message) -> bool:
    return message.role == "system"


def _contents(request: Request, taken: SupportedParameters, notes: list[str]) -> list[Body]:
    """The conversation; what the model says in a row is one content, and so are results."""
    signs = bool(taken.extra.get("signs"))
    names: dict[str, str] = {}  # of functions, by the id of their call
    contents: list[Body] = []
    before = ""  # the role of the last message that has a content
    for message in dropwhile(_is_system, request.messages):
        role = message.role
        if role == "system" and message.text:
            notes.append("gemini has no system message after the first; it was sent as a user's")
        parts = _model(message, names, signs) if role == "assistant" else _user(message, names)
        if not parts:
            continue
        if role == before and role in ("assistant", "tool"):
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
        before = role
    if not contents:
        raise BadRequest("there is no message with anything in it", "send one of the user")
    return contents


def _user(message: Message, names: Mapping[str, str]) -> list[Body]:
    parts: list[Body] = []
    for part in message.parts:
        if isinstance(part, TextPart) and part.text:
            parts.append({"text": part.text})
        elif isinstance(part, ImagePart):
            data = base64.b64encode(part.data).decode()
            parts.append({"inlineData": {"mimeType": part.media_type, "data": data}})
        elif isinstance(part, ToolResultPart):
            parts.append({"functionResponse": _result(part, names)})
    return parts


_FROM_ELSEWHERE = "skip_thought_signature_validator"
"""Google's own word for a call that another model made, or whose signature was lost on the way:
ai.google.dev/gemini-api/docs/thought-signatures. Without it Gemini 3 refuses the request."""


def _model(message: Message, names: dict[str, str], signs: bool) -> list[Body]:
    parts: list[Body] = []
    first = True
    for part in message.parts:
        if isinstance(part, TextPart) and part.text:
            parts.append({"text": part.text})
        elif isinstance(part, ThoughtPart) and part.origin == ENGINE:
            parts += _thought(part)
        elif isinstance(part, ToolCallPart):
            names[part.id] = part.name
            call: Body = {"name": part.name, "args": _arguments(part.arguments)}
            if part.id:
                call["id"] = part.id
            made: Body = {"functionCall": call}
            if signature := _signature(part):
                made["thoughtSignature"] = signature
            elif signs and first:  # of calls at once Gemini signs the first
                made["thoughtSignature"] = _FROM_ELSEWHERE
            parts.append(made)
            first = False
    return parts


def _thought(part: ThoughtPart) -> list[Body]:
    """A thought of Gemini's own; a sealed one is the signature that stood beside the answer."""
    signature = _signature(part)
    if part.sealed:
        return [{"text": part.text, "thoughtSignature": signature}] if signature else []
    fields: Body = {"text": part.text, "thought": True}
    if signature:
        fields["thoughtSignature"] = signature
    return [fields] if part.text or signature else []


_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def _signature(part: ThoughtPart | ToolCallPart) -> str | None:
    """Its signature if Gemini made it. One that is no base64 was not, and would end the request."""
    if part.origin != ENGINE or not part.signature or not _BASE64.fullmatch(part.signature):
        return None
    length = len(part.signature.rstrip("="))
    return part.signature if length % 4 != 1 else None


def _result(part: ToolResultPart, names: Mapping[str, str]) -> Body:
    """The result of a call, whose function Gemini wants named.

    Raises:
        BadRequest: it belongs to no call.
    """
    if part.id not in names:
        raise BadRequest(
            f"the result {part.id[:80]!r} belongs to no tool call before it",
            "send the assistant's message with the call too",
        )
    result = _object(part.content)
    if part.error:
        result = {"error": part.content if result is None else result}
    elif result is None:
        result = {"output": part.content}
    return {"id": part.id, "name": names[part.id], "response": result}


def _arguments(text: str) -> Body:
    """Arguments as the object that Gemini has them as; what is none is told as it was written."""
    if not text.strip():
        return {}
    value = _object(text)
    return {"arguments": text} if value is None else value


def _object(text: str) -> Body | None:
    """The object that `text` is, if it is one that protobuf reads."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    return value if isinstance(value, dict) and not _deeper(value, _MAX_DEPTH) else None


def _deeper(value: Any, than: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return than <= 0 or any(_deeper(item, than - 1) for item in value)


# ---- tools ---------------------------------------------------------------------------------


def _declared(tool: Tool) -> Body:
    fields: Body = {"name": tool.name}
    if tool.description:
        fields["description"] = tool.description
    if tool.parameters:
        fields["parametersJsonSchema"] = tool.parameters
    return fields


def _choice(choice: str) -> Body | None:
    if choice == "auto":
        return None
    if choice in ("none", "required"):
        return {"mode": "NONE" if choice == "none" else "ANY"}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


# ---- generationConfig ----------------------------------------------------------------------


def _sampling(sampling: Sampling) -> Body:
    fields: Body = {
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "topK": sampling.top_k or None,  # 0 is off, as without it
        "presencePenalty": sampling.presence_penalty,
        "frequencyPenalty": sampling.frequency_penalty,
    }
    if sampling.top_k is not None and sampling.top_k < 0:
        fields["topK"] = None
    if sampling.seed is not None:  # an int32 there
        fields["seed"] = (sampling.seed + 2**31) % 2**32 - 2**31
    return {name: value for name, value in fields.items() if value is not None}


def _length(request: Request, model: str, taken: SupportedParameters, notes: list[str]) -> Body:
    fields: Body = {}
    if request.max_tokens is not None:
        fields["maxOutputTokens"] = request.max_tokens
        if 0 < taken.most_out < request.max_tokens:
            notes.append(f"{model} writes {taken.most_out} tokens at most")
            fields["maxOutputTokens"] = taken.most_out
    if request.stop:
        fields["stopSequences"] = list(request.stop)
    if request.logprobs is not None:
        fields["responseLogprobs"] = True
        if request.logprobs:
            fields["logprobs"] = request.logprobs
    return fields


def _form(request: Request) -> Body:
    """The form of the answer: JSON of a schema, or any JSON."""
    if request.json_schema is None:
        return {}
    fields: Body = {"responseMimeType": "application/json"}
    if request.json_schema and request.json_schema != {"type": "object"}:
        fields["responseJsonSchema"] = request.json_schema
    return fields


_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")
_EFFORTS = {"none": 0, "minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 4}
_BUDGETS = (512, 1024, 8192, 24576, 32768)
"""Tokens by effort. Those of low, medium and high are Google's own, of its OpenAI endpoint."""


def _thinking(request: Request, model: str, taken: SupportedParameters, notes: list[str]) -> Body:
    """``thinkingConfig``: levels from Gemini 3 on, a budget of tokens before."""
    extra = taken.extra
    off = request.thinking is False or request.effort == "none"
    wants_thinking = request.thinking is not None or request.effort is not None
    if not taken.thinking:
        if wants_thinking and not off:
            notes.append(f"{model} does not think; it was asked to without that")
        return {}
    if "levels" not in extra and "budget" not in extra and not wants_thinking:
        return {}  # of a family nobody knows: its default
    wanted = None if request.effort is None else _EFFORTS.get(request.effort.lower())
    if request.effort is not None and wanted is None:
        notes.append(f"gemini knows no effort {request.effort[:40]!r}; it was left out")
    config: Body = {} if off else {"includeThoughts": True}
    if "budget" in extra:
        budget = _budget(request.thinking, off, wanted, extra, model, notes)
        return config if budget is None else {**config, "thinkingBudget": budget}
    levels = extra.get("levels", _LEVELS)
    if off or wanted is not None:
        place = 0 if off else wanted or 0
        config["thinkingLevel"] = level = _level(place, levels)
        if off:
            notes.append(f"{model} cannot be told not to think; it does so at level {level}")
        elif level != _LEVELS[place]:
            notes.append(f"{model} has no level {_LEVELS[place]}; it thinks at level {level}")
    return config


def _level(place: int, levels: Any) -> str:
    """The least level of at least `place`, or the most there is."""
    known = [str(level) for level in levels]
    return next((name for name in known if _LEVELS.index(name) >= place), known[-1])


def _budget(
    thinking: bool | None,
    off: bool,
    wanted: int | None,
    extra: Mapping[str, Any],
    model: str,
    notes: list[str],
) -> int | None:
    least, most = extra["budget"]
    if off:
        if extra.get("budget_off"):
            return 0
        notes.append(f"{model} cannot leave thinking out; it thinks for {least} tokens")
        return int(least)
    if wanted is not None:
        return int(min(max(_BUDGETS[wanted], least), most))
    return -1 if thinking else None  # as much as it likes


def for_counting(request: Request) -> Request:
    """`request` with what can change its number of tokens, and nothing else."""
    return replace(request, sampling=Sampling(), max_tokens=None, stop=(), logprobs=None)
