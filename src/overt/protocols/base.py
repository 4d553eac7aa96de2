"""What every wire protocol is made of: routes whose handlers answer a `HttpCall`.

A protocol is a module (or package) with a `PROTOCOL`: its routes and its form of an error. A
handler reads its body into msgspec structs, makes a chat.Request of them once, asks
`ServicesInterface`, and writes the events back in its own words, as a `HttpReply` or a `Stream`. It
never sees a socket, a key or an engine. What goes wrong is raised as an OvertError; the server
answers with `Protocol.refuse`.
"""

import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from typing import Protocol as Interface

import msgspec

from overt.chat import (
    Embeddings,
    EmbedRequest,
    Event,
    Ranking,
    Request,
    RerankRequest,
    ScoreRequest,
    TokenLogprob,
)
from overt.errors import BadRequest, OvertError

T = TypeVar("T")

# ---- who asks, and what the server can do for them -----------------------------------------


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key` is the id of their key, "" where the server needs none."""

    key: str = ""
    name: str = ""


NOBODY = Caller()


@dataclass(frozen=True, slots=True)
class ModelHold:
    """How a model is to be held for a request.

    `keep_alive` is seconds it stays loaded after its last request: 0 unloads it at once,
    `math.inf` never, None as the server does by default. `context` asks for at least so many
    tokens, None for what the server chose.
    """

    keep_alive: float | None = None
    context: int | None = None


AS_EVER = ModelHold()
FOR_EVER = ModelHold(keep_alive=math.inf)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of one model in the store, from its files alone; unknown is None or empty.

    `id` is the shortest ref that names it, what clients are shown and send back. `kind` is
    ``llm``, ``vlm``, ``embedding`` or ``rerank``. `modified` and `created` are Unix seconds.
    `capabilities` are Ollama's words: completion, tools, insert, vision, embedding, thinking.
    """

    id: str
    digest: str
    size: int
    modified: float
    kind: str = "llm"
    format: str = "gguf"
    architecture: str = ""
    families: tuple[str, ...] = ()
    parameters: int | None = None  # how many
    quantization: str = ""
    context: int | None = None  # the most tokens the model was made for
    embedding: int | None = None  # length of its vectors
    capabilities: tuple[str, ...] = ()
    publisher: str = ""
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedModelInfo:
    """A model that is in memory. `expires` is Unix seconds, `math.inf` for never."""

    card: ModelCard
    memory: int  # bytes it takes, as estimated before it was loaded
    context: int  # tokens of one request
    parallel: int
    expires: float
    busy: int  # requests it is answering
    used: float  # Unix seconds of its last request


class RecordsInterface(Interface):
    """What is kept between requests for the caller who made it: responses, files, batches.

    `kind` is a word such as ``response``; ids are unique within a kind. Nobody sees what belongs to
    another key.
    """

    async def put(
        self, kind: str, id: str, owner: Caller, body: bytes, *, expires: float | None = None
    ) -> None: ...

    async def get(self, kind: str, id: str, owner: Caller) -> bytes | None: ...

    async def delete(self, kind: str, id: str, owner: Caller) -> bool: ...

    async def list(
        self,
        kind: str,
        owner: Caller,
        *,
        limit: int = 100,
        after: str | None = None,
        before: str | None = None,
        newest_first: bool = True,
    ) -> Sequence[bytes]: ...


class ServicesInterface(Interface):
    """Everything a protocol may ask of the server. Each call raises OvertErrors."""

    records: RecordsInterface
    files: Path  # a folder for what is too large for `records`; made by whoever writes into it
    library: Any  # server/library.py: pull, push, create, copy, delete, blobs, show
    version: str

    def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        """Events as chat.Event says. Only the first step raises; later errors are `Failed`."""
        ...

    async def embed(
        self, caller: Caller, request: EmbedRequest, hold: ModelHold = AS_EVER
    ) -> Embeddings: ...

    async def rerank(
        self, caller: Caller, request: RerankRequest, hold: ModelHold = AS_EVER
    ) -> Ranking: ...

    async def score(
        self, caller: Caller, request: ScoreRequest, hold: ModelHold = AS_EVER
    ) -> tuple[TokenLogprob, ...]: ...

    async def count(self, caller: Caller, request: Request) -> int:
        """Tokens that `request` would be for its model, the chat template included."""
        ...

    async def render(self, caller: Caller, request: Request) -> str:
        """The text that the chat template makes of `request`."""
        ...

    async def tokenize(
        self, caller: Caller, model: str, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        """Token ids of `text`; see `Engine.tokenize`."""
        ...

    async def detokenize(self, caller: Caller, model: str, tokens: Sequence[int]) -> str: ...

    async def models(self, caller: Caller) -> Sequence[ModelCard]:
        """Every model of the store, newest first."""
        ...

    async def model(self, caller: Caller, ref: str) -> ModelCard:
        """One of them; ModelNotFound. Never downloads."""
        ...

    def loaded(self) -> Sequence[LoadedModelInfo]: ...

    async def load(self, caller: Caller, ref: str, hold: ModelHold = AS_EVER) -> LoadedModelInfo:
        """Have a model in memory, whether or not it was."""
        ...

    async def unload(self, caller: Caller, ref: str) -> bool:
        """Let a model go once it is idle; False where it was not loaded."""
        ...

    def identify(self, secret: str | None) -> Caller:
        """For protocols that carry their key inside (LM Studio's socket). Raises NoKey."""
        ...

    def elsewhere(self, model: str) -> bool:
        """Whether asking `model` may ask a provider, who bills for it; never raises."""
        ...

    async def dispatch(
        self, caller: Caller, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """What this server would answer to a request, without the wire: for batches."""
        ...

    def background(self, work: Awaitable[None]) -> None:
        """Run something that outlives its request; cancelled when the server ends."""
        ...


# ---- a request -----------------------------------------------------------------------------


class BadBody(BadRequest):
    """A body that is not what the protocol takes.

    Attributes:
        path: where, such as ``messages[0].content``; "" for the whole.
        unknown: the field that the protocol does not have, where that is what is wrong.
    """

    def __init__(self, message: str, path: str = "", unknown: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.unknown = unknown

    @property
    def code(self) -> str:
        return "bad_request"


@dataclass(slots=True)
class HttpCall:
    """One HTTP request, read whole. `id` names it in logs, headers and errors.

    `chunks` reads the body of a route with `HttpRoute.upload`; `body` is empty there.
    """

    services: ServicesInterface
    caller: Caller
    id: str
    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: AsyncIterator[bytes] | None = None

    def read(self, kind: type[T], *, empty: bytes = b"") -> T:
        """The body as a struct; `empty` stands for a body of no bytes.

        Raises:
            BadBody: not JSON, not of that shape, or a field the struct forbids.
        """
        return decode(self.body or empty, kind)


def decode(data: bytes, kind: type[T]) -> T:
    """`data` (JSON) as `kind`.

    Raises:
        BadBody: see `HttpCall.read`.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise bad_body(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the body is not valid JSON: {error}") from None


def object_of(text: str) -> dict[str, Any] | None:
    """The arguments of a tool call, which many protocols have as an object; None for no object."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def bad_body(error: msgspec.ValidationError, at: str = "") -> BadBody:
    """What msgspec found wrong; `at` is where in the body the value lies that it looked at."""
    what, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`")
    path = f"{at}{path}" if at else path.lstrip(".")
    unknown = None
    if what.startswith("Object contains unknown field `"):
        unknown = what.partition("`")[2].rstrip("`")
        what = f"unknown field {unknown!r}"
    return BadBody(f"{what} at {path}" if path else what, path, unknown)


# ---- an answer -----------------------------------------------------------------------------

encode = msgspec.json.Encoder().encode


def new_id(prefix: str) -> str:
    """An id nobody can guess: `prefix` and 24 letters and digits."""
    return f"{prefix}{secrets.token_hex(12)}"


@dataclass(slots=True)
class HttpReply:
    """A whole answer. `content` is JSON of any msgspec value, or bytes as they are."""

    content: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"

    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else encode(self.content)


SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


@dataclass(slots=True)
class Stream:
    """An answer in pieces. The headers leave with the first piece, which may be empty.

    An OvertError before the first piece is answered by `Protocol.refuse`; afterwards `chunks` must
    say in its own words what went wrong. It is closed when the client leaves.
    """

    chunks: AsyncGenerator[bytes, None]
    media_type: str = SSE
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[HttpCall], Awaitable[HttpReply | Stream]]


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One address. `path` is Starlette's (``/v1/models/{id:path}``); `body` is for the docs.

    `method` may be ``WEBSOCKET``; then `handler` takes (Services, starlette WebSocket).
    """

    method: str
    path: str
    handler: Any
    summary: str
    body: Any = None
    limit: int = 64 << 20
    upload: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """One wire protocol.

    `refuse` gives its form of an error, given the request's id. `id_header` is where it returns
    that id.
    """

    name: str
    routes: tuple[HttpRoute, ...]
    refuse: Callable[[OvertError, str], HttpReply]
    id_header: str = "x-request-id"
