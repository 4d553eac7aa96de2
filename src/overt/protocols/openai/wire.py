"""What OpenAI's endpoints have in common: errors, tools, schemas, sampling and usage.

Written from the types of the `openai` 3.57 package and from error bodies its users report. Fields
that OpenAI documents and that change nothing here (``user``, ``metadata`` …) are accepted; those
that would change what an answer means and cannot be honoured are refused by name.
"""

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from overt.chat import Event, Failed, Finish, Sampling, Tool, Usage
from overt.errors import BadSetting, ContextExceeded, ModelNotFound, OvertError
from overt.protocols.base import AS_EVER, BadBody, HttpReply, ModelHold, encode
from overt.protocols.failure import advice, error_of
from overt.settings import seconds_of

# ---- errors --------------------------------------------------------------------------------

_CODES = {"no_key": "invalid_api_key", "context_exceeded": "context_length_exceeded"}
_BODY_CODES = (  # msgspec's words to OpenAI's codes
    (re.compile(r"unknown field "), "unknown_parameter"),
    (re.compile(r"Object missing required field "), "missing_required_parameter"),
    (re.compile(r"Expected `[a-z |]+`(?!.*[<>=])"), "invalid_type"),
    (re.compile(r"the body is not valid JSON"), None),
)


class OpenAIProblem(msgspec.Struct):
    """OpenAI's form of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorBody(msgspec.Struct):
    error: OpenAIProblem


def refuse(error: OvertError, id: str) -> HttpReply:
    """The answer to a request that failed; `id` is told in a header by the server."""
    return HttpReply(OpenAIErrorBody(problem(error)), error.status, advice(error))


def problem(error: OvertError) -> OpenAIProblem:
    """`error` in OpenAI's words.

    A wrong key is an ``invalid_request_error`` with code ``invalid_api_key``, an unknown model one
    with ``model_not_found``: so answers the real API.
    """
    if isinstance(error, BadBody):
        return _body_problem(error)
    problem_ = _problem(error.code, error.status, str(error))
    if isinstance(error, ModelNotFound):
        problem_.param = "model"
    if isinstance(error, ContextExceeded):
        problem_.param = "messages"
    return problem_


def failed_problem(failed: Failed) -> OpenAIProblem:
    """A `Failed` event in OpenAI's words, for the middle of a stream."""
    return problem(error_of(failed))


def _problem(code: str, status: int, message: str) -> OpenAIProblem:
    name = "invalid_request_error"
    if status == 429:
        return OpenAIProblem(message, "requests", code="rate_limit_exceeded")
    if status >= 500 and status != 501:
        name = "server_error"
    return OpenAIProblem(message, name, code=_CODES.get(code, code))


def _body_problem(error: BadBody) -> OpenAIProblem:
    if error.unknown is not None:
        where = f"{error.path}.{error.unknown}" if error.path else error.unknown
        message = f"Unknown parameter: '{where}'."
        return OpenAIProblem(message, "invalid_request_error", where, "unknown_parameter")
    code = next(
        (code for words, code in _BODY_CODES if words.match(error.message)), "invalid_value"
    )
    where = error.path
    if code == "missing_required_parameter":
        missing = error.message.partition("`")[2].partition("`")[0]
        where = f"{where}.{missing}" if where else missing
    return OpenAIProblem(str(error), "invalid_request_error", where or None, code)


# ---- the stream of a chat or a completion --------------------------------------------------

DONE = b"data: [DONE]\n\n"


async def pieces(
    events: AsyncGenerator[tuple[int, Event], None],
    write: Callable[[int, Event], bytes],
    last: Callable[[], bytes],
    *,
    begun: bool = False,
) -> AsyncGenerator[bytes, None]:
    """What `write` makes of each event of each choice, then `last`, then `DONE`.

    A failure ends it: as an error before the first piece (`begun` says that there were some
    already), as a chunk after it.
    """
    try:
        async with aclosing(events):
            async for index, event in events:
                if type(event) is Failed:
                    raise error_of(event)
                if piece := write(index, event):
                    begun = True
                    yield piece
    except OvertError as error:
        if not begun:
            raise
        yield b"data: " + encode(OpenAIErrorBody(problem(error))) + b"\n\n"
        return
    if piece := last():
        yield piece
    yield DONE


# ---- how the next token is drawn -----------------------------------------------------------

Temperature = Annotated[float, Meta(ge=0, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Name = Annotated[str, Meta(min_length=1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class OpenAIWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what clients send: a field it does not have is refused."""


class TemplateOptions(OpenAIWire):
    """``chat_template_kwargs`` of llama.cpp, vLLM and SGLang; only these change an answer here."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: str | None = None


class SamplingBody(OpenAIWire, kw_only=True):
    """Sampling, with what local servers take beyond OpenAI's own fields.

    ``keep_alive`` is Ollama's: seconds, or a duration such as ``"5m"``; negative is for ever.
    """

    model: Name
    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    # not OpenAI's
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    repeat_penalty: Annotated[float, Meta(gt=0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1)] | None = None
    grammar: str | None = None
    chat_template_kwargs: TemplateOptions | None = None
    keep_alive: float | str | None = None
    deterministic: bool | None = None
    cache_prompt: bool | None = None


_MAX_BIASES = 300_000
_SEEDS = 2**32 - 1  # llama.cpp takes one below this; the last is its word for "choose one"


def sampling(body: SamplingBody, choice: int = 0) -> Sampling:
    """Sampling of the `choice`-th answer of ``n``: each has a seed of its own."""
    repeat = body.repeat_penalty if body.repeat_penalty is not None else body.repetition_penalty
    return Sampling(
        temperature=body.temperature,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        top_p=body.top_p,
        min_p=body.min_p,
        typical_p=body.typical_p,
        repeat_penalty=repeat,
        repeat_last_n=body.repeat_last_n,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if body.seed is None else (body.seed + choice) % _SEEDS,
    )


def reasoning(
    effort: str | None, options: TemplateOptions | None = None
) -> tuple[bool | None, str | None]:
    """`Request.thinking` and `Request.effort` of a ``reasoning_effort``.

    ``minimal`` asks templates that can to leave thinking out, and the others for little of it.
    """
    options = options or TemplateOptions()
    thinking = options.enable_thinking if options.enable_thinking is not None else options.thinking
    effort = effort or options.reasoning_effort
    if effort == "none":
        return False, None
    if effort == "minimal":
        return (False if thinking is None else thinking), "low"
    return thinking, effort


def stops(stop: str | Sequence[str] | None, path: str = "stop") -> tuple[str, ...]:
    """Stop sequences; more than OpenAI's four are taken.

    Raises:
        BadBody: an empty one, which would end every answer at once.
    """
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if any(not text for text in texts):
        raise BadBody("a stop sequence is empty", path)
    return texts


def biases(bias: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """``logit_bias``: token ids (as JSON keys, so text) to what is added to their logits.

    Raises:
        BadBody: a key that is no token id, a bias beyond ±100, or more of them than there are
            tokens in any vocabulary.
    """
    pairs = []
    if bias and len(bias) > _MAX_BIASES:
        raise BadBody(f"{len(bias)} tokens have a bias; {_MAX_BIASES} is the most", "logit_bias")
    for key, value in (bias or {}).items():
        if not key.isascii() or not key.isdigit() or len(key) > 9:
            raise BadBody(f"{key[:40]!r} is not a token id", "logit_bias")
        if not -100 <= value <= 100:
            raise BadBody(
                f"the bias of token {key} is {value:g}; it goes from -100 to 100", "logit_bias"
            )
        pairs.append((int(key), float(value)))
    return tuple(pairs)


def hold(keep_alive: float | str | None) -> ModelHold:
    """How long the model stays loaded.

    Raises:
        BadBody: text that is no duration such as ``5m`` or ``1h30m``.
    """
    if keep_alive is None:
        return AS_EVER
    if isinstance(keep_alive, str):
        try:
            keep_alive = seconds_of(keep_alive)
        except BadSetting as error:
            raise BadBody(str(error), "keep_alive") from None
    return ModelHold(keep_alive=math.inf if keep_alive < 0 else keep_alive)


# ---- tools and schemas ---------------------------------------------------------------------

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MODES = ("auto", "none", "required")


def tool(
    name: str, description: str | None, parameters: Mapping[str, Any] | None, path: str
) -> Tool:
    """A function the model may call; `path` is where its name was written.

    Raises:
        BadBody: a name that is not letters, digits, ``_``, ``-``, ``.`` and ``:``, at most 128.
    """
    if not _TOOL_NAME.fullmatch(name):
        raise BadBody(
            f"a tool is named {name[:140]!r}; letters, digits, '_', '-', '.' and ':' make a name, "
            "128 at most",
            path,
        )
    return Tool(name, description or "", parameters or {})


def choose(
    tools: Sequence[Tool],
    choice: str | None,
    *,
    named: bool = False,
    allowed: Sequence[str] | None = None,
    path: str = "tool_choice",
) -> tuple[tuple[Tool, ...], str]:
    """The tools that count, and `Request.tool_choice`.

    `choice` is a mode, or with `named` the name of a tool. `allowed` narrows the tools.

    Raises:
        BadBody: a mode that is none, a tool that is not there, or two of the same name.
    """
    names = [tool.name for tool in tools]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise BadBody(f"two tools are named {min(twice)!r}", "tools")
    if allowed is not None:
        wanted, present = dict.fromkeys(allowed), set(names)
        if missing := [name for name in wanted if name not in present]:
            raise BadBody(f"the allowed tool {missing[0]!r} is none of the tools given", path)
        tools = [tool for tool in tools if tool.name in wanted]
        names = [tool.name for tool in tools]
    choice = choice or "auto"
    if named:
        return _named_choice(tools, names, choice, path)
    if choice not in _MODES:
        raise BadBody(f"tool choice is {choice[:60]!r}; it is auto, none, required or a tool", path)
    if choice == "required" and not tools:
        raise BadBody("tool choice is required, and no tools are given", path)
    return tuple(tools), choice


def _named_choice(
    tools: Sequence[Tool], names: Sequence[str], choice: str, path: str
) -> tuple[tuple[Tool, ...], str]:
    if choice not in names:
        raise BadBody(f"tool choice {choice[:140]!r} is none of the tools given", path)
    if choice in _MODES:  # its name cannot be told from the mode, so it is the only one there is
        return tuple(tool for tool in tools if tool.name == choice), "required"
    return tuple(tools), choice


ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of ``json_object``: any object, nothing but an object."""


def schema(value: Mapping[str, Any] | bool | None, path: str) -> Mapping[str, Any]:
    """The JSON Schema of a ``json_schema`` format; without one, any object."""
    if value is None or value is True:
        return ANY_OBJECT
    if value is False:
        raise BadBody("the schema is false, which no answer can satisfy", path)
    return value


# ---- usage and the end ---------------------------------------------------------------------


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class OpenAIUsage(msgspec.Struct):
    """``usage`` of a chat or a completion; `prompt_tokens` includes the cached ones."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_body(usages: Sequence[Usage], thoughts: int = 0) -> OpenAIUsage:
    """Usage of all choices of one prompt: it is read once, whatever ``n`` is.

    `thoughts` is how many events of reasoning there were, one a token in local engines; what the
    engine counted itself goes before.
    """
    first = usages[0] if usages else Usage(0, 0)
    out = sum(usage.tokens_out for usage in usages)
    thoughts = sum(usage.tokens_thought for usage in usages) or thoughts
    return OpenAIUsage(
        first.tokens_in,
        out,
        first.tokens_in + out,
        PromptDetails(first.tokens_cached),
        CompletionDetails(min(thoughts, out)),
    )


def finish(reason: Finish | None) -> str:
    """``finish_reason``; OpenAI has no word for a cancelled answer.

    A refusal is ``content_filter``: what the model said of it stays the content.
    """
    if reason == "refusal":
        return "content_filter"
    return "stop" if reason is None or reason == "cancelled" else reason


def fingerprint(version: str) -> str:
    """``system_fingerprint``: which build answered."""
    return f"fp_overt_{version.replace('.', '_')}"
