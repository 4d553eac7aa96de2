"""A provider's model as an engine: a `Dialect` knows the wire, `HttpClient` the network.

A dialect turns a `Request` into one POST and what comes back into `Event`s; it is pure, so it can
be judged without a network. This engine sends the one and feeds the other.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol

from overt.chat import Embeddings, EmbedRequest, Event, Request, Routed
from overt.engine import Capabilities, Partial
from overt.errors import OvertError, Unsupported
from overt.providers.http.redact import cleaned

HOPS: ContextVar[int] = ContextVar("hops", default=0)
"""How many servers like this one the request being answered has come through."""
HOPS_HEADER = "x-overt-hops"
MAX_HOPS = 4


@dataclass(frozen=True, slots=True)
class PostRequest:
    """One request as it leaves: `path` is below the provider's base URL, ``/messages``.

    `headers` are those of the dialect's own; the key's are `Dialect.headers`.
    """

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class ResponseBegun:
    """The provider took the request: the first thing that `HttpClient.stream` yields.

    `bytes_out` is head and body of every try, as HTTP writes them.
    """

    request_id: str
    bytes_out: int


@dataclass(frozen=True, slots=True)
class PassedResponse:
    """The beginning of an answer that is handed on as it is; its body follows in pieces.

    `headers` have names in lower case; those of the connection, cookies and whatever repeats the
    key are left out. `bytes_out` as in `ResponseBegun`.
    """

    status: int
    headers: Mapping[str, str]
    request_id: str
    bytes_out: int


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event: its name ("" where it has none) and its data."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Destination:
    """Where requests go, and with whose key.

    Attributes:
        base: the URL that paths are put behind, without a slash at its end.
        headers: what proves who asks, and what every request carries; never shown.
        secret: the key itself, "" for none: whatever is told of an error is searched for it.
        label: how people are told of it, such as ``anthropic`` or ``127.0.0.1:8000``.
        add_key: the command that gives it a key.
    """

    base: str
    headers: Mapping[str, str] = field(repr=False)
    secret: str = field(repr=False)
    label: str
    add_key: str


class EventReader(Protocol):
    """Turns what comes back of one request into events."""

    @property
    def done(self) -> bool:
        """Nothing more is to come: reading can end although the connection stays open."""
        ...

    def feed(self, server_event: ServerEvent) -> Iterable[Event]:
        """The events that one server-sent event makes.

        Raises:
            ProviderFailed, BadRequest, Busy …: the provider says that it failed, or says what it
                may not.
        """
        ...

    def end(self) -> Iterable[Event]:
        """What is left: at least `Done`.

        Raises:
            ProviderFailed: the stream ended before the answer did.
        """
        ...


class Dialect(Protocol):
    """One provider's wire. Pure: no clock, no network, no disk."""

    name: str
    """The engine's."""
    protocol: str
    """The protocol of overt.protocols that speaks the same, for passing requests through."""
    listing: PostRequest
    """Asks which models there are. Costs nothing, and takes a key where the provider wants one."""

    def capabilities(self, model: str) -> Capabilities: ...

    def headers(self, secret: str) -> dict[str, str]:
        """What every request carries, the key among it; `secret` "" is no key."""
        ...

    def post(self, request: Request, model: str) -> tuple[PostRequest, tuple[str, ...]]:
        """The POST (its answer streamed), and one sentence for each thing that was left out.

        Raises:
            BadRequest, Unsupported: what this provider cannot carry out as asked.
        """
        ...

    def reader(self, request: Request) -> EventReader: ...

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
        """The error of an answer that is not 200. Never raises, whatever the body holds."""
        ...

    def embed(self, request: EmbedRequest, model: str) -> PostRequest:
        """Raises Unsupported: it makes no embeddings."""
        ...

    def embedded(self, body: bytes, request: EmbedRequest) -> Embeddings:
        """Raises ProviderFailed: not what was asked for."""
        ...

    def counting(self, request: Request, model: str) -> PostRequest:
        """Raises Unsupported: it does not count ahead."""
        ...

    def counted(self, body: bytes) -> int:
        """Raises ProviderFailed."""
        ...


Failure = Callable[[int, Mapping[str, str], bytes], OvertError]


class HttpClientInterface(Protocol):
    """What an engine needs of the network: providers/http/client.py."""

    def stream(
        self, to: Destination, post: PostRequest, failure: Failure
    ) -> AsyncGenerator[ResponseBegun | ServerEvent, None]: ...

    async def ask(self, to: Destination, post: PostRequest, failure: Failure) -> bytes: ...

    def forward(
        self, to: Destination, post: PostRequest
    ) -> AsyncGenerator[PassedResponse | bytes, None]: ...


class Provider(Partial):
    """One model of one provider."""

    def __init__(
        self,
        dialect: Dialect,
        model: str,
        to: Destination,
        wire: HttpClientInterface,
        notice: Callable[[str], None] = lambda _: None,
        ref: str = "",
    ) -> None:
        self.name = dialect.name
        self.dialect, self.model, self.to = dialect, model, to
        self._wire, self._notice = wire, notice
        self.ref = ref or f"{dialect.name}:{model}"
        self.capabilities = replace(dialect.capabilities(model), local=False)

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer `request`. First says `Routed` with the provider's id of the request.

        Raises:
            BadRequest, Unsupported: what the provider cannot do, without anything having left.
            Offline, NoEgress, NeedsAccess: nothing left this machine, and why.
            ProviderFailed, TimedOut, Busy …: what the provider answered, or that it did not.
        """
        post, left_out = self.dialect.post(request, self.model)
        for sentence in left_out:
            self._notice(sentence)
        reader = self.dialect.reader(request)
        try:
            async with aclosing(self._wire.stream(self.to, post, self.dialect.failure)) as answer:
                async for item in answer:
                    if isinstance(item, ResponseBegun):
                        yield Routed(self.ref, request_id=item.request_id, bytes_out=item.bytes_out)
                        continue
                    for event in reader.feed(item):
                        yield event
                    if reader.done:
                        break
            for event in reader.end():
                yield event
        except OvertError as error:  # a provider may repeat the key within an answer too
            raise cleaned(error, self.to.secret) from None

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of texts. Raises as `stream`."""
        post = self.dialect.embed(request, self.model)
        body = await self._wire.ask(self.to, post, self.dialect.failure)
        try:
            return self.dialect.embedded(body, request)
        except OvertError as error:
            raise cleaned(error, self.to.secret) from None

    async def count(self, request: Request) -> int:
        """Tokens of `request`, counted by the provider. Raises as `stream`."""
        if request.prompt is not None:
            raise Unsupported(f"{self.name} counts conversations alone", "send messages")
        post = self.dialect.counting(request, self.model)
        body = await self._wire.ask(self.to, post, self.dialect.failure)
        try:
            return self.dialect.counted(body)
        except OvertError as error:
            raise cleaned(error, self.to.secret) from None

    def forward(
        self, post: PostRequest, left_out: Iterable[str] = ()
    ) -> AsyncGenerator["PassedResponse | bytes", None]:
        """The provider's own answer to a request that is already in its words.

        `left_out` is told as `Dialect.post` has it.
        """
        for sentence in left_out:
            self._notice(sentence)
        return self._wire.forward(self.to, post)

    async def close(self) -> None:
        """Nothing to stop: the connections belong to `HttpClient`."""
