"""A Request as the body of Anthropic's ``POST /v1/messages``.

What would change what an answer means and cannot be had is refused by name; what only tunes it is
left out, with a sentence that says so. What each family of models takes is in anthropic.toml.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from overt.chat import (
    ImagePart,
    Message,
    Part,
    Request,
    TextPart,
    ThoughtPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from overt.errors import BadRequest, Unsupported
from overt.providers.anthropic.schema import limited
from overt.providers.supported_parameters import SupportedParameters, pruned

ORIGIN = "anthropic"
OLD, NEW = "2023-06-01", "2026-10-21"
MAX_OUTPUT_TOKENS = 8192
"""``max_tokens`` where neither the request nor anthropic.toml has a number; the API wants one."""
MIN_BUDGET = 1024
_BUDGETS = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 65_536,
}
"""Tokens of thinking by effort, for models that have a budget and no effort. A choice of ours."""
_EFFORTS = tuple(_BUDGETS)
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,256}")
"""What Anthropic takes for the id of a call."""
_NOT_THERE = (
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_OFF = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}

Block = dict[str, Any]
Turn = dict[str, Any]


def answered(
    request: Request, model: str, taken: SupportedParameters
) -> tuple[dict[str, Any], list[str]]:
    """The body that asks for an answer, streamed, and a sentence for each thing left out.

    Raises:
        BadRequest, Unsupported: what Anthropic cannot carry out as asked.
    """
    request, notes = _supported_request(request, model, taken)
    most = taken.most_out or MAX_OUTPUT_TOKENS
    if request.max_tokens is not None:
        if taken.most_out and request.max_tokens > taken.most_out:
            notes.append(
                f"max_tokens {request.max_tokens} is sent as {taken.most_out}, "
                f"the most that {model} writes"
            )
        most = min(request.max_tokens, taken.most_out or request.max_tokens)
    body = _request_fields(request, model, taken, most, notes)
    body["max_tokens"], body["stream"] = most, True
    if request.stop:
        if any(not stop.strip() for stop in request.stop):
            raise BadRequest(
                "anthropic stops at no text that is white space alone",
                "leave that stop out, or cut the answer there yourself",
            )
        body["stop_sequences"] = list(request.stop)
    body.update(_sampling(request, model, taken, body, notes))
    return body, notes


def count_body(request: Request, model: str, taken: SupportedParameters) -> dict[str, Any]:
    """The body that asks how many tokens the prompt has. Raises as `answered`."""
    request, notes = _supported_request(request, model, taken)
    most = request.max_tokens or taken.most_out or MAX_OUTPUT_TOKENS
    return _request_fields(request, model, taken, most, notes)


def _supported_request(
    request: Request, model: str, taken: SupportedParameters
) -> tuple[Request, list[str]]:
    """`request` without what the family refuses; refused where there is nothing like it."""
    if request.prompt is not None or request.suffix is not None:
        raise Unsupported(
            "anthropic answers conversations and continues no bare prompt",
            "send messages, or ask a local model",
        )
    for name, what in (
        ("grammar", "takes no grammar"),
        ("logprobs", "tells no log-probabilities"),
        ("logit_bias", "takes no logit_bias"),
    ):
        if getattr(request, name) not in (None, ()):
            raise Unsupported(f"anthropic {what}", f"leave out {name}, or ask a local model")
    if request.json_schema is not None and not taken.extra.get("structured", ""):
        raise Unsupported(
            f"{model} has no structured outputs", "leave out json_schema, or choose a newer model"
        )
    sampling = request.sampling
    request, left = pruned(request, taken)
    gone = [name for name in left if getattr(sampling, name, None) != _OFF.get(name)]
    notes = [f"{', '.join(gone)} left out: {model} refuses it"] if gone else []
    return request, notes


def _request_fields(
    request: Request, model: str, taken: SupportedParameters, most: int, notes: list[str]
) -> dict[str, Any]:
    """All that the model reads."""
    system, turns = _turns(request.messages, model, taken, notes)
    body: dict[str, Any] = {"model": model, "messages": turns}
    if system:
        body["system"] = system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if choice := _choice(request):
        body["tool_choice"] = choice
    if thinking := _thinking(request, model, taken, most, turns, notes):
        body["thinking"] = thinking
    config: dict[str, Any] = {}
    budget = isinstance(thinking, dict) and thinking["type"] == "enabled"
    if effort := _effort(request, model, taken, notes, budget=budget):
        config["effort"] = effort
    if request.json_schema is not None:
        config["format"] = {
            "type": "json_schema",
            "schema": _schema(request.json_schema, model, taken, notes),
        }
    if config:
        body["output_config"] = config
    return body


# ---- messages ------------------------------------------------------------------------------


def _turns(
    messages: Sequence[Message], model: str, taken: SupportedParameters, notes: list[str]
) -> tuple[str, list[Turn]]:
    """The system prompt, and turns that take turns. Messages with nothing in them are left out."""
    speaking = [(role, blocks) for role, blocks in map(_message_blocks, messages) if blocks]
    between = taken.extra.get("system_turns", False)
    front: list[str] = []
    turns: list[Turn] = []
    moved = False
    for at, (role, blocks) in enumerate(speaking):
        if role != "system":
            _add(turns, role, blocks)
            continue
        following = speaking[at + 1][0] if at + 1 < len(speaking) else "assistant"
        here = between and turns and turns[-1]["role"] in ("user", "system")
        if here and following != "user":
            _add(turns, role, blocks)
        else:
            front.extend(block["text"] for block in blocks)
            moved = moved or bool(turns)
    if moved:
        notes.append(f"a later system message is sent before all others: {model} takes none there")
    if not turns:
        raise BadRequest("anthropic answers a user, and no message here is one", "add one")
    if turns[-1]["role"] == "assistant" and not taken.extra.get("prefill", True):
        raise BadRequest(
            f"{model} does not continue an answer that was begun",
            "end with a user's message, or choose an older model",
        )
    for turn in turns:  # Anthropic wants results before anything else that the user says
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return "\n\n".join(front), turns


def _add(turns: list[Turn], role: str, blocks: list[Block]) -> None:
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"].extend(blocks)
    else:
        turns.append({"role": role, "content": blocks})


def _message_blocks(message: Message) -> tuple[str, list[Block]]:
    role = "user" if message.role == "tool" else message.role
    return role, [block for part in message.parts for block in _blocks(part, role)]


def _blocks(part: Part, role: str) -> Iterator[Block]:
    match part:
        case TextPart(text):
            if text.strip():  # a block of white space is an error there
                yield {"type": "text", "text": text}
        case ImagePart():
            yield _image(part, role)
        case ThoughtPart() if role == "assistant":
            yield from _thought(part)
        case ToolCallPart() if role == "assistant":
            yield {
                "type": "tool_use",
                "id": _id(part.id),
                "name": part.name,
                "input": _input(part.arguments),
            }
        case ToolResultPart() if role == "user":
            result: Block = {"type": "tool_result", "tool_use_id": _id(part.id)}
            if part.content:
                result["content"] = part.content
            if part.error:
                result["is_error"] = True
            yield result
        case _:
            raise BadRequest(
                f"a {role} message holds no {type(part).__name__.removesuffix('Part')}",
                "leave it out, or send it in a message of another role",
            )


def _image(part: ImagePart, role: str) -> Block:
    if role != "user":
        raise BadRequest("anthropic looks at images of the user alone", "move it to a user message")
    if part.media_type not in _IMAGES:
        raise BadRequest(
            f"anthropic reads no {part.media_type[:40]}", f"send one of {', '.join(_IMAGES)}"
        )
    data = base64.b64encode(part.data).decode("ascii")
    source = {"type": "base64", "media_type": part.media_type, "data": data}
    return {"type": "image", "source": source}


def _thought(part: ThoughtPart) -> Iterator[Block]:
    """A thought of Anthropic's as it came; one of another provider's, or unsigned, is nothing."""
    if part.origin != ORIGIN or not part.signature:
        return
    if part.sealed:
        yield {"type": "redacted_thinking", "data": part.signature}
    else:
        yield {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _id(id: str) -> str:
    """`id` where Anthropic takes it, else one made of it: a call and its result stay together."""
    return (
        id
        if TOOL_ID.fullmatch(id)
        else f"toolu_{sha256(id.encode('utf-8', 'replace')).hexdigest()[:24]}"
    )


def _input(arguments: str) -> Any:
    """The arguments byte for byte; what is no JSON object is put into one, as a model's mistake."""
    if not arguments.strip():
        return {}
    try:
        whole = isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        whole = False
    return msgspec.Raw(arguments.encode()) if whole else {"arguments": arguments}


# ---- tools and form ------------------------------------------------------------------------


def _tool(tool: Tool) -> dict[str, Any]:
    schema = dict(tool.parameters)
    if schema.setdefault("type", "object") != "object":
        raise BadRequest(
            f"the parameters of the tool {tool.name[:64]} are no object",
            'describe them with a schema of "type": "object"',
        )
    value = {"name": tool.name, "input_schema": schema}
    if tool.description:
        value["description"] = tool.description
    return value


def _choice(request: Request) -> dict[str, Any]:
    """``tool_choice``; empty for what Anthropic does by itself."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in ("auto", "none"):
            raise BadRequest(f"tool_choice is {choice[:64]!r} and there are no tools", "add tools")
        return {}
    if choice == "none":
        return {"type": "none"}
    if choice == "auto":
        choice_: dict[str, Any] = {"type": "auto"}
    elif choice == "required":
        choice_ = {"type": "any"}
    else:
        if choice not in {tool.name for tool in request.tools}:
            raise BadRequest(
                f"tool_choice is {choice[:64]!r}, which no tool is called", "name one of the tools"
            )
        choice_ = {"type": "tool", "name": choice}
    if not request.parallel_tools:
        choice_["disable_parallel_tool_use"] = True
    return {} if choice_ == {"type": "auto"} else choice_


def _schema(schema: Any, model: str, taken: SupportedParameters, notes: list[str]) -> Any:
    if taken.extra.get("structured", "") != "limited":
        notes.append(f"the JSON schema is sent; whether the server of {model} holds to it is open")
        return schema
    narrowed, loose = limited(schema)
    if loose:
        notes.append(
            f"{', '.join(loose)} of the JSON schema: {model} is told of it, not held to it"
        )
    return narrowed


# ---- thinking and sampling -----------------------------------------------------------------


def _thinking(
    request: Request,
    model: str,
    taken: SupportedParameters,
    most: int,
    turns: list[Turn],
    notes: list[str],
) -> dict[str, Any] | None:
    kinds: Sequence[str] = taken.extra.get("kinds", ())
    if request.thinking is None:
        return None
    if not request.thinking:
        if "disabled" in kinds:
            return {"type": "disabled"}
        if kinds:
            notes.append(f"thinking stays on: {model} always thinks")
        return None
    if "adaptive" in kinds:
        return {"type": "adaptive", "display": "summarized"}
    if "enabled" not in kinds:
        notes.append(f"thinking left out: {model} does not think apart")
        return None
    if _unthought(turns):
        notes.append("thinking left out for this answer: the tool call before it was made without")
        return None
    if most <= MIN_BUDGET:
        raise BadRequest(
            f"thinking takes {MIN_BUDGET} of max_tokens or more, and max_tokens is {most}",
            f"raise max_tokens above {MIN_BUDGET}, or leave thinking off",
        )
    budget = min(_BUDGETS.get(request.effort or "", 8192), max(MIN_BUDGET, most // 2))
    return {"type": "enabled", "budget_tokens": budget}


def _unthought(turns: list[Turn]) -> bool:
    """Whether the answer goes on after a tool, in a turn that did not begin with a thought.

    A budget of thinking is an error there (platform.claude.com, extended thinking), and such turns
    come of other providers.
    """
    last = turns[-1]["content"][0]["type"] if turns[-1]["role"] == "user" else ""
    before = turns[-2] if len(turns) > 1 else None
    if last != "tool_result" or before is None or before["role"] != "assistant":
        return False
    return before["content"][0]["type"] not in ("thinking", "redacted_thinking")


def _effort(
    request: Request, model: str, taken: SupportedParameters, notes: list[str], *, budget: bool
) -> str | None:
    """The word of the family that is nearest to the one asked for, not above it if there is one."""
    effort = request.effort
    known: Sequence[str] = taken.extra.get("efforts", ())
    if effort is None or effort in known:
        return effort
    if not known or effort not in _EFFORTS:
        if not (budget and effort in _EFFORTS):
            notes.append(f"effort {effort[:40]!r} left out: {model} does not know it")
        return None
    place = _EFFORTS.index(effort)
    below = [word for word in known if _EFFORTS.index(word) <= place]
    nearest = below[-1] if below else known[0]
    notes.append(f"effort {effort!r} is sent as {nearest!r}, the nearest that {model} knows")
    return nearest


def _sampling(
    request: Request, model: str, taken: SupportedParameters, body: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    sampling = request.sampling
    gone = [
        name
        for name in _NOT_THERE
        if getattr(sampling, name) is not None and getattr(sampling, name) != _OFF.get(name)
    ]
    if request.deterministic:
        gone.append("deterministic")
    if gone:
        notes.append(f"{', '.join(gone)} left out: anthropic has nothing like it")
    fields: dict[str, Any] = {}
    if sampling.temperature is not None:
        fields["temperature"] = min(sampling.temperature, 1.0)
        if sampling.temperature > 1:
            notes.append(f"temperature {sampling.temperature:g} is sent as 1, the highest there is")
    if sampling.top_p is not None and sampling.top_p < 1:
        fields["top_p"] = sampling.top_p
    if sampling.top_k is not None and sampling.top_k > 0:
        fields["top_k"] = sampling.top_k
    if "temperature" in fields and "top_p" in fields and taken.extra.get("one_sampler", False):
        del fields["top_p"]
        notes.append(f"top_p left out: {model} takes it or temperature, not both")
    if body.get("thinking", {}).get("type") == "enabled":
        return _while_thinking(fields, notes)
    return fields


def _while_thinking(sampling: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """A model that thinks on a budget takes a top_p of 0.95 to 1 and nothing else."""
    remaining = {
        name: value
        for name, value in sampling.items()
        if (name == "temperature" and value == 1) or (name == "top_p" and value >= 0.95)
    }
    if gone := sorted(sampling.keys() - remaining.keys()):
        notes.append(f"{', '.join(gone)} left out while the model thinks")
    return remaining
