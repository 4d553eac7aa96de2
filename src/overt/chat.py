"""The values that cross every border: a `Request` goes in, `Event`s come out.

Every wire protocol is translated into a `Request` once, and every engine answers with `Event`s;
nothing between the two knows a wire format. All values are frozen and hold no handles, so they can
be hashed, logged, replayed and sent to another process.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Literal

from overt.errors import EngineFailed

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls", "refusal", "cancelled"]

# ---- what a message is made of -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image, still encoded (PNG, JPEG, WebP, GIF); `media_type` such as ``image/png``."""

    data: bytes
    media_type: str

    @classmethod
    def of(cls, data: bytes) -> "ImagePart | None":
        """An image whose kind its first bytes tell; None where they tell none."""
        kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
        if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            kind = "image/webp"
        return None if kind is None else cls(data, kind)

    @property
    def url(self) -> str:
        """As a ``data:`` URL (RFC 2397)."""
        return f"data:{self.media_type};base64,{b64encode(self.data).decode('ascii')}"


_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


@dataclass(frozen=True, slots=True)
class ThoughtPart:
    """A model's earlier reasoning.

    `signature` goes back verbatim to the provider that sent it, which is `origin` (the name of an
    engine: ``anthropic``, ``openai``, ``gemini``), and to no other. A `sealed` thought is one that
    its provider encrypted whole: `signature` is all there is of it.
    """

    text: str
    signature: str | None = None
    sealed: bool = False
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """`arguments` is the JSON text exactly as the model wrote it.

    `signature` goes back verbatim to its `origin`, as in `ThoughtPart` (Gemini signs calls).
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    id: str
    content: str
    error: bool = False


Part = TextPart | ImagePart | ThoughtPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: Role, text: str) -> "Message":
        return cls(role, (TextPart(text),))

    @property
    def text(self) -> str:
        """The text parts joined; thoughts, images and tool traffic left out."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


# ---- what is asked -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. None leaves the engine's own default.

    `temperature` 0 is greedy. `repeat_penalty` multiplies (1 is off); `presence_penalty` and
    `frequency_penalty` subtract (0 is off), as in the OpenAI API.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None  # how far back the penalties look; 0 is not at all
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON Schema object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One thing asked of one model.

    Either `messages` (a conversation, rendered by the model's chat template) or `prompt` (text or
    token ids, continued as they stand) is given, never both. With `suffix` the model fills the gap
    between prompt and suffix, where it was made for that.

    `max_tokens` None means until the model stops or the context is full. `logprobs` asks for the
    log-probability of each token and that many alternatives (0 to 20). At most one of
    `json_schema` and `grammar` (GBNF) constrains the answer. `thinking` None leaves the model's
    default, False asks the template not to think; `effort` is how much (``low``, ``medium``,
    ``high``; any word a template knows). `logit_bias` adds to the logits of token ids; -100 and
    less bans a token. With `parallel_tools` False an answer has one tool call at most.
    `deterministic` asks for the same text whatever
    else the engine is doing: the request runs alone, without a reused prefix.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    suffix: str | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tools: bool = True
    json_schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    logprobs: int | None = None
    thinking: bool | None = None
    effort: str | None = None
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts (or token ids) to be turned into vectors.

    `dimensions` keeps the first so many and scales to length 1 again, as Matryoshka models allow
    (Kusupati et al. 2022). With `truncate` a text longer than the model reads is cut, else refused.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector of length 1 for each input, in order; `tokens` is what all inputs were."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """How well each document answers the query, by a model made for that."""

    model: str
    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """One score for each document, in the order given; larger is better."""

    scores: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """How likely a model finds each token of a text; `top` alternatives are told (0 to 20)."""

    model: str
    prompt: str | tuple[int, ...]
    top: int = 0


# ---- what is answered ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Routed:
    """Who answers; comes first, where that is not plainly the model that was named.

    Attributes:
        model: the ref that answers.
        why: the reason in a few words, where a route chose.
        request_id: what the provider calls the request; "" where there is no provider.
        bytes_out: bytes of the request that left this machine; 0 for none.
        tried: refs that answered before and were not good enough, or failed. What they cost is in
            `Usage.before`.
    """

    model: str
    why: str = ""
    request_id: str = ""
    bytes_out: int = 0
    tried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The prompt is being read: `done` of `total` tokens so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning a model keeps apart from its answer.

    A provider's signature ends the block it signs: `signature`, `sealed` and `origin` are those of
    the `ThoughtPart` that the pieces so far make.
    """

    text: str
    signature: str | None = None
    sealed: bool = False
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A piece of a tool call. `id` and `name` come with the first piece of an `index` only.

    `signature` and `origin` are those of `ToolCallPart`, with whichever piece brings them.
    """

    index: int
    id: str
    name: str
    arguments: str
    signature: str | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """`logprob` is natural; `top` holds the most likely alternatives, best first.

    The first token of a scored text has nothing before it, so its `logprob` is None. `raw` is what
    the token stands for where that is not whole UTF-8.
    """

    token: str
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()
    id: int | None = None
    raw: bytes | None = None

    @property
    def utf8(self) -> bytes:
        """Its bytes, which are those of `token` where the engine tells no others."""
        return self.token.encode("utf-8", "replace") if self.raw is None else self.raw


@dataclass(frozen=True, slots=True)
class Logprobs:
    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted by the engine, in the same way for all of them, whatever their wire says.

    `tokens_in` is the whole prompt: of it `tokens_cached` were reused and not read again, and
    `tokens_written` were put into a provider's cache (of which `tokens_written_hour` for an hour).
    `tokens_out` is everything written: of it `tokens_thought` were reasoning. Seconds are the
    engine's own, without queueing and transport; 0 where it does not say. `before` is what other
    models used that a route asked first, with their refs.
    """

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    tokens_written: int = 0
    tokens_written_hour: int = 0
    tokens_thought: int = 0
    before: "tuple[tuple[str, Usage], ...]" = ()


@dataclass(frozen=True, slots=True)
class Done:
    """`stop` is the one of `Request.stop` that ended the answer, where one did."""

    finish: Finish
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a request that went wrong after it had begun. `code` as in errors.py."""

    code: str
    message: str
    hint: str | None = None


Event = Routed | Progress | Text | Thought | ToolCall | Logprobs | Usage | Done | Failed
"""A stream is any number of events, at most one `Usage`, and last one `Done` or `Failed`."""


# ---- a whole answer ------------------------------------------------------------------------


class Answer:
    """What a stream of events adds up to. `add` each event in order.

    Time and memory grow with the length of the answer alone.
    """

    def __init__(self) -> None:
        self.logprobs: list[TokenLogprob] = []
        self.usage = Usage(0, 0)
        self.finish: Finish | None = None
        self.stop: str | None = None
        self.failed: Failed | None = None
        self.routed: Routed | None = None
        self._open: list[_AnswerPart] = []  # what the answer is made of, in the order it came
        self._calls: list[_AnswerPart] = []

    def add(self, event: Event) -> None:
        match event:
            case Text(text):
                self._last("text").pieces.append(text)
            case Thought():
                self._add_thought(event)
            case ToolCall():
                self._add_call(event)
            case Logprobs(tokens):
                self.logprobs.extend(tokens)
            case Usage():
                self.usage = event
            case Done(finish, stop):
                self.finish, self.stop = finish, stop
            case Failed():
                self.failed = event
            case Routed():
                self.routed = event
            case Progress():
                pass

    @property
    def mean_logprob(self) -> float | None:
        """Natural; None where none is told, or no number. Receipts keep it, routes go by it."""
        logprobs = [token.logprob for token in self.logprobs if token.logprob is not None]
        if not logprobs or any(map(isnan, logprobs)):
            return None
        return sum(logprobs) / len(logprobs)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self._open if part.kind == "text")

    @text.setter
    def text(self, text: str) -> None:
        self._open = [part for part in self._open if part.kind != "text"]
        self._last("text").pieces.append(text)

    @property
    def thought(self) -> str:
        """All reasoning, blocks joined."""
        return "".join(part.text for part in self._open if part.kind == "thought")

    @property
    def tool_calls(self) -> list[ToolCallPart]:
        return [call.call() for call in self._calls]

    def message(self) -> Message:
        """The answer as the assistant's message of the next request, in the order it came."""
        parts: list[Part] = []
        for span in self._open:
            if span.kind == "thought":
                parts.append(ThoughtPart(span.text, span.signature, span.sealed, span.origin))
            elif span.kind == "call":
                parts.append(span.call())
            elif span.text:
                parts.append(TextPart(span.text))
        if not any(isinstance(part, TextPart | ToolCallPart) for part in parts):
            parts.append(TextPart(""))
        return Message("assistant", tuple(parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self._all() == other._all()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Answer({self.message()}, {self.usage}, {self.finish!r}, {self.failed})"

    def _all(self) -> tuple[object, ...]:
        return (
            self.message(),
            self.logprobs,
            self.usage,
            self.finish,
            self.stop,
            self.failed,
            self.routed,
        )

    def _last(self, kind: str) -> "_AnswerPart":
        """The piece that is being written, a new one where that is of another kind or closed."""
        if not self._open or self._open[-1].kind != kind or self._open[-1].closed:
            self._open.append(_AnswerPart(kind))
        return self._open[-1]

    def _add_thought(self, event: Thought) -> None:
        if event.sealed:
            self._open.append(_AnswerPart("thought", closed=True))
            last = self._open[-1]
        else:
            last = self._last("thought")
        last.pieces.append(event.text)
        last.origin = event.origin or last.origin
        if event.signature is not None:
            last.signature, last.sealed, last.closed = event.signature, event.sealed, True

    def _add_call(self, piece: ToolCall) -> None:
        if not 0 <= piece.index <= len(self._calls):
            raise EngineFailed(
                f"the engine sent tool call {piece.index} before call {len(self._calls)}"
            )
        if piece.index == len(self._calls):
            self._calls.append(_AnswerPart("call"))
            self._open.append(self._calls[-1])
        call = self._calls[piece.index]
        call.id, call.name = call.id or piece.id, call.name or piece.name
        call.pieces.append(piece.arguments)
        call.signature = piece.signature or call.signature
        call.origin = piece.origin or call.origin


@dataclass(slots=True)
class _AnswerPart:
    """A text, a thought or a call on its way."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    id: str = ""
    name: str = ""
    signature: str | None = None
    sealed: bool = False
    origin: str | None = None
    closed: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def call(self) -> ToolCallPart:
        return ToolCallPart(self.id, self.name, self.text, self.signature, self.origin)
