"""The values that cross every border: a `Request` goes in, `Event`s come out.

Every wire protocol is translated into a `Request` once, and every engine answers with `Event`s;
nothing between the two knows a wire format. All values are frozen and hold no handles, so they can
be hashed, logged, replayed and sent to another process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from overt.errors import EngineFailed

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls", "cancelled"]

# ---- what a message is made of -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image, still encoded (PNG, JPEG, WebP, GIF); `media_type` such as ``image/png``."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class ThoughtPart:
    """A model's earlier reasoning. `signature` goes back verbatim to the provider that sent it."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """`arguments` is the JSON text exactly as the model wrote it.

    `signature` goes back verbatim to the provider that sent it (Gemini signs calls, not thoughts).
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None


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
class Progress:
    """The prompt is being read: `done` of `total` tokens so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning the model keeps apart from its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A piece of a tool call. `id` and `name` come with the first piece of an `index` only."""

    index: int
    id: str
    name: str
    arguments: str


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
    """Counted by the engine. `tokens_cached` of `tokens_in` were reused, not read again.

    Seconds are the engine's own, without queueing and transport; 0 where it does not say.
    """

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


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


Event = Progress | Text | Thought | ToolCall | Logprobs | Usage | Done | Failed
"""A stream is any number of events, at most one `Usage`, and last one `Done` or `Failed`."""


# ---- a whole answer ------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """What a stream of events adds up to. `add` each event in order."""

    text: str = ""
    thought: str = ""
    tool_calls: list[ToolCallPart] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    usage: Usage = Usage(0, 0)
    finish: Finish | None = None
    stop: str | None = None
    failed: Failed | None = None

    def add(self, event: Event) -> None:
        match event:
            case Text(text):
                self.text += text
            case Thought(text):
                self.thought += text
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
            case Progress():
                pass

    def message(self) -> Message:
        """The answer as the assistant's message of the next request."""
        parts: list[Part] = [ThoughtPart(self.thought)] if self.thought else []
        parts += [TextPart(self.text)] if self.text or not self.tool_calls else []
        return Message("assistant", (*parts, *self.tool_calls))

    def _add_call(self, piece: ToolCall) -> None:
        if not 0 <= piece.index <= len(self.tool_calls):
            raise EngineFailed(
                f"the engine sent tool call {piece.index} before call {len(self.tool_calls)}"
            )
        if piece.index == len(self.tool_calls):
            self.tool_calls.append(ToolCallPart("", "", ""))
        so_far = self.tool_calls[piece.index]
        self.tool_calls[piece.index] = ToolCallPart(
            so_far.id or piece.id,
            so_far.name or piece.name,
            so_far.arguments + piece.arguments,
            so_far.signature,
        )
