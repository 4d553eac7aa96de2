"""What Ollama's clients send and read, as far as several of its addresses share it.

Unknown fields and options are ignored, as Ollama does. Times are RFC 3339 with nanoseconds,
durations are nanoseconds. Source: api/types.go and server/routes.go of Ollama 0.33.
"""

import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar, cast
from typing import Protocol as Interface

import msgspec

from overt.chat import Request, Sampling, TokenLogprob, Usage
from overt.errors import BadRef, BadRequest, ModelNotFound, OvertError
from overt.protocols.base import BadBody, HttpCall, HttpReply, ModelCard, ModelHold, encode
from overt.protocols.failure import headers
from overt.protocols.ollama.names import candidates, not_found
from overt.ref import parse

VERSION = "0.33.0"
"""The Ollama whose API this is; clients compare it."""

# ---- what the server offers beside `Services` ------------------------------------------------


class ProgressInterface(Interface):
    """How far a long job is; `total` None is a word and no part on its way."""

    @property
    def what(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def digest(self) -> str: ...


class ModelDetailsInterface(Interface):
    """As server/cards.py."""

    @property
    def card(self) -> ModelCard: ...
    @property
    def modelfile(self) -> str: ...
    @property
    def template(self) -> str: ...
    @property
    def system(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def messages(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def licence(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def projector(self) -> Mapping[str, Any]: ...
    @property
    def tensors(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]: ...
    @property
    def said(self) -> Mapping[str, str]: ...


class LibraryInterface(Interface):
    """As server/library.py."""

    async def card(self, *refs: str) -> ModelCard: ...

    async def show(self, ref: str, *, verbose: bool = False) -> ModelDetailsInterface: ...

    def pull(self, *refs: str) -> AsyncGenerator[ProgressInterface, None]: ...

    def push(self, ref: str, target: str = "") -> AsyncGenerator[ProgressInterface, None]: ...

    def create(
        self,
        name: str,
        *,
        base: str = "",
        files: Mapping[str, str] | None = None,
        adapters: Mapping[str, str] | None = None,
        drafts: Mapping[str, str] | None = None,
        commands: Sequence[tuple[str, str, str]] = (),
    ) -> AsyncGenerator[ProgressInterface, None]: ...

    async def fill(self, template: str, messages: Sequence[Mapping[str, object]]) -> str: ...

    async def copy(self, source: str, destination: str) -> None: ...

    async def delete(self, ref: str) -> None: ...

    async def has_blob(self, digest: str) -> bool: ...

    async def put_blob(self, digest: str, chunks: AsyncIterator[bytes]) -> None: ...


def library(call: HttpCall) -> LibraryInterface:
    """The server's library, of which protocols/base.py knows no more than that it is there."""
    return cast(LibraryInterface, call.services.library)


# ---- models --------------------------------------------------------------------------------


class OllamaModel(msgspec.Struct, frozen=True):
    """A model that is here: its ref, and its card where it is one of the store."""

    ref: str
    card: ModelCard | None = None

    def can(self, what: str) -> bool:
        """Whether its files say so. Where they say nothing, the engine has the last word."""
        card = self.card
        if card is None or (card.kind == "llm" and not card.capabilities):
            return True
        return what in card.capabilities


async def find(call: HttpCall, name: str) -> OllamaModel:
    """The model that a client means.

    Raises:
        ModelNotFound: none here, in Ollama's words.
    """
    refs = candidates(name)
    if len(refs) == 1:
        parsed = parse(refs[0])
        if parsed.remote or parsed.scheme == "echo":
            return OllamaModel(refs[0])
    try:
        card = await library(call).card(*refs)
    except (ModelNotFound, BadRef):
        raise not_found(name) from None
    return OllamaModel(card.id, card)


def require(model: OllamaModel, name: str, *, thinking: bool | None) -> None:
    """Refuse what a model cannot do, as Ollama does.

    Raises:
        BadRequest: in Ollama's words, which clients look for.
    """
    if not model.can("completion"):
        raise BadRequest(f'"{name}" does not support generate')
    if thinking and not model.can("thinking"):
        raise BadRequest(f'"{name}" does not support thinking')


async def loaded(call: HttpCall, model: OllamaModel, hold: ModelHold) -> dict[str, Any]:
    """What a request without a question does: have the model in memory, or let it go."""
    if hold.keep_alive == 0:
        await call.services.unload(call.caller, model.ref)
        return {"done": True, "done_reason": "unload"}
    await call.services.load(call.caller, model.ref, hold)
    return {"done": True, "done_reason": "load"}


T = TypeVar("T")


def body(call: HttpCall, kind: type[T]) -> T:
    """The body as a struct. Raises BadBody."""
    if not call.body:
        raise BadBody("missing request body")
    return call.read(kind)


# ---- options -------------------------------------------------------------------------------

_INTEGERS = ("top_k", "repeat_last_n", "seed", "num_predict", "num_ctx")
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_NO_SEED = 2**32 - 1  # llama.cpp's word for another one each time


class OllamaOptions(msgspec.Struct, frozen=True):
    """The options that change something here; the others are the engine's own business."""

    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    context: int | None = None


def options(values: Mapping[str, Any] | None) -> OllamaOptions:
    """Ollama's `options`; unknown ones are ignored.

    Raises:
        BadBody: one of another type, in Ollama's words.
    """
    if not values:
        return OllamaOptions()
    read: dict[str, Any] = {}
    for name in _INTEGERS:
        if (value := values.get(name)) is not None:
            read[name] = int(_number(name, value, "integer"))
    for name in _FLOATS:
        if (value := values.get(name)) is not None:
            read[name] = float(_number(name, value, "float32"))
    predict, context = read.pop("num_predict", -1), read.pop("num_ctx", 0)
    if "seed" in read:
        read["seed"] %= 2**32
        if read["seed"] == _NO_SEED:
            del read["seed"]
    if read.get("top_k", 0) < 0:
        read["top_k"] = 0
    return OllamaOptions(
        Sampling(**read),
        _stop(values.get("stop")),
        predict if predict > 0 else None,  # -1 is without end, -2 until the context is full
        context if context > 0 else None,
    )


def _number(name: str, value: Any, kind: str) -> int | float:
    whole = kind == "integer"
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or (whole and abs(value) >= 2**63):
        raise BadBody(f'option "{name}" must be of type {kind}', f"options.{name}")
    return cast(float, value)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise BadBody('option "stop" must be of type array', "options.stop")
    return tuple(item for item in items if item)


# ---- keep_alive ----------------------------------------------------------------------------

KeepAlive = str | int | float | None
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MAX_DURATION = 2**63 / 1e9  # seconds that a duration of Go can be


def keep_alive(value: KeepAlive) -> float | None:
    """Seconds; `math.inf` for less than none at all, as Ollama has it.

    Raises:
        BadBody: neither a number of seconds nor a duration such as ``5m`` or ``1h30m``.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _duration(value)
    if isinstance(value, bool) or math.isnan(value):
        raise BadBody(f"invalid keep_alive: {value}", "keep_alive")
    return math.inf if value < 0 or value > _MAX_DURATION else float(value)


def _duration(text: str) -> float:
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    parts = list(_PART.finditer(rest)) if len(rest) <= 64 else []
    if not parts or "".join(part[0] for part in parts) != rest:
        raise BadBody(f'time: invalid duration "{text[:64]}"', "keep_alive")
    return sign * sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def hold(alive: KeepAlive, chosen: OllamaOptions) -> ModelHold:
    """``keep_alive`` and ``num_ctx`` as the server takes them."""
    return ModelHold(keep_alive(alive), chosen.context)


# ---- format and think ------------------------------------------------------------------------


def schema(format: Any) -> Mapping[str, Any] | None:
    """Ollama's `format`: "json", a JSON schema, or nothing.

    Raises:
        BadBody: something else.
    """
    if format is None or format == "":
        return None
    if format == "json":
        return {"type": "object"}
    if isinstance(format, dict):
        return format
    raise BadBody(
        f'invalid format: {str(format)[:80]!r}; expected "json" or a valid JSON Schema object',
        "format",
    )


def thinking(think: Any) -> tuple[bool | None, str | None]:
    """Ollama's `think`: whether, and how much.

    Raises:
        BadBody: neither a boolean nor a level.
    """
    if think is None or think == "":
        return None, None
    if isinstance(think, bool):
        return think, None
    if think in ("low", "medium", "high", "max"):
        return True, str(think)
    raise BadBody(
        f"invalid think value: {str(think)[:40]!r} "
        '(must be "high", "medium", "low", "max", true, or false)',
        "think",
    )


def logprobs(wanted: bool | None, top: int | None) -> int | None:
    """How many alternatives to ask for; None where no log-probabilities are wanted.

    Raises:
        BadBody: more than 20, or fewer than none.
    """
    if top is not None and not 0 <= top <= 20:
        raise BadBody("top_logprobs must be between 0 and 20", "top_logprobs")
    return (top or 0) if wanted else None


def logprob_bodies(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities as Ollama writes them."""
    return [
        {
            **_token(token.token, token.logprob or 0.0, token.utf8),
            "top_logprobs": [
                _token(text, value, text.encode("utf-8", "replace")) for text, value in token.top
            ],
        }
        for token in tokens
    ]


def _token(token: str, logprob: float, data: bytes) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(data)}


# ---- a question ------------------------------------------------------------------------------


class GenerationBody(msgspec.Struct):
    """What generate and chat have in common."""

    model: str = ""
    format: Any = None
    options: dict[str, Any] | None = None
    keep_alive: KeepAlive = None
    stream: bool | None = None
    think: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: bool | None = None  # never: what is too long is an error here
    shift: bool | None = None
    only_render: bool | None = msgspec.field(default=None, name="_debug_render_only")


def request(body: GenerationBody, model: OllamaModel, chosen: OllamaOptions) -> Request:
    """That part of the question as a chat.Request.

    Raises:
        BadRequest: something the model cannot do, or that makes no sense.
    """
    think, effort = thinking(body.think)
    require(model, body.model, thinking=think)
    return Request(
        model=model.ref,
        sampling=chosen.sampling,
        max_tokens=chosen.max_tokens,
        stop=chosen.stop,
        json_schema=schema(body.format),
        logprobs=logprobs(body.logprobs, body.top_logprobs),
        thinking=think,
        effort=effort,
    )


# ---- time ----------------------------------------------------------------------------------

_second = (0, "")


def now() -> str:
    """This moment, RFC 3339 with nanoseconds, UTC."""
    global _second
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    known, text = _second
    if known != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}.{rest:09d}Z"


def moment(seconds: float) -> str:
    """A Unix time; what lies further ahead than Go's longest duration is as far as that."""
    seconds = max(0.0, min(seconds, time.time() + _MAX_DURATION))
    whole = int(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{int((seconds - whole) * 1e9):09d}Z"


def nanos(seconds: float) -> int:
    """Seconds as a duration on the wire; never less than none."""
    return max(0, int(seconds * 1e9))


class RequestClock:
    """Measures one request: begun, first token, end."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.first = 0.0

    def elapsed(self) -> int:
        """Nanoseconds so far."""
        return nanos(time.perf_counter() - self.begun)

    def metrics(self, usage: Usage) -> dict[str, int]:
        """Ollama's durations and counts.

        What the engine says of itself counts; where it says nothing, what was seen from here. The
        load is all that passed before the prompt was read: loading, and waiting for a turn.
        """
        end = time.perf_counter()
        first = self.first or end
        decode = usage.decode_seconds or end - first
        prompt = usage.prompt_seconds
        metrics = {
            "total_duration": nanos(end - self.begun),
            "load_duration": nanos(first - self.begun - prompt),
            "prompt_eval_count": usage.tokens_in,
            "prompt_eval_duration": max(1, nanos(prompt)),
            "eval_count": usage.tokens_out,
            "eval_duration": max(1, nanos(decode)),
        }
        if usage.tokens_cached:
            metrics["prompt_eval_cached_count"] = usage.tokens_cached
        return metrics


# ---- errors --------------------------------------------------------------------------------


def refuse(error: OvertError, id: str) -> HttpReply:
    """Ollama's form of an error: one sentence, and the status."""
    return HttpReply({"error": str(error)}, error.status, headers(error))


def failure(error: OvertError) -> bytes:
    """The last line of a stream that went wrong after it had begun."""
    return line({"error": str(error)})


def line(value: Any) -> bytes:
    """One line of a stream."""
    return encode(value) + b"\n"
