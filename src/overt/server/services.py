"""What protocols may ask of this server: `protocols.base.Services` over the exchange."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from overt import ref as refs
from overt.chat import (
    Done,
    Embeddings,
    EmbedRequest,
    Event,
    Ranking,
    Request,
    RerankRequest,
    ScoreRequest,
    TokenLogprob,
)
from overt.errors import (
    BadRef,
    BadRequest,
    FormatError,
    IntegrityError,
    OvertError,
    Refused,
    Unsupported,
)
from overt.gateway.exchange import Exchange, Held
from overt.protocols.base import (
    AS_EVER,
    NOBODY,
    Caller,
    LoadedModelInfo,
    ModelCard,
    ModelHold,
    RecordsInterface,
)
from overt.protocols.failure import failed_of
from overt.providers.base import Provider
from overt.providers.manager import has_no_model
from overt.server.library import is_latest
from overt.server.request_log import GenerationRecord, generation

_MAX_PARTS = 50_000  # messages and their parts; more would cost an engine gigabytes
_MAX_TOOLS = 1024
_YIELD_EVERY = 64  # events of one stream that may come without the others having their turn


@lru_cache(1024)
def _may_name(model: str, elsewhere: bool) -> None:
    """Refuse what names a file of this machine, or a server: a client has no business there.

    `elsewhere` is whether clients may name the models of providers, which the owner pays for.
    """
    scheme = refs.parse(model).scheme
    if scheme == "path":
        raise BadRef(
            f"{model[:100]!r} names a file, and this server answers for the models of its store",
            "see GET /v1/models",
        )
    if scheme == "http":
        raise BadRef(
            f"{model[:100]!r} names a server, and this one asks only those its owner gave a name",
            "the owner types: overt alias set NAME http://…",
        )
    if scheme in refs.PROVIDERS and not elsewhere:
        raise Refused(
            f"{model[:100]!r} is another company's model, and clients may not ask for those here",
            "the owner types: overt alias set NAME REF, or overt serve --providers",
        )


def _check_limits(request: Request, elsewhere: bool) -> None:
    _may_name(request.model, elsewhere)
    parts = sum(len(message.parts) + 1 for message in request.messages)
    if parts > _MAX_PARTS:
        raise BadRequest(
            f"the request has {parts} messages and parts of messages", f"send {_MAX_PARTS} at most"
        )
    if len(request.tools) > _MAX_TOOLS:
        raise BadRequest(
            f"the request has {len(request.tools)} tools", f"send {_MAX_TOOLS} at most"
        )


Asked = TypeVar("Asked", Request, EmbedRequest, RerankRequest, ScoreRequest)
Dispatch = Callable[[Caller, str, str, bytes], Awaitable[tuple[int, bytes]]]


class Services:
    """One for the server.

    Args:
        files: a folder for what is too large for `records`.
        identify: says whose a secret is, for protocols that carry it inside.
        providers: whether clients may name models of providers themselves.
    """

    def __init__(
        self,
        exchange: Exchange,
        library: Any,
        records: RecordsInterface,
        files: Path,
        version: str,
        identify: Callable[[str | None], Caller] | None = None,
        *,
        providers: bool = True,
    ) -> None:
        self._exchange = exchange
        self.library = library
        self.records = records
        self.files = files
        self.version = version
        self._identify = identify
        self._providers = providers
        self._dispatch: Dispatch | None = None
        self._tasks: set[asyncio.Future[None]] = set()

    # ---- models that answer ----------------------------------------------------------------

    async def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        _check_limits(request, self._providers)
        request = await self._meant(request)
        work = generation("chat" if request.prompt is None else "text_completion", request.model)
        noted = work.event
        begun, code, since = False, "cancelled", 0
        async with aclosing(
            self._exchange.stream(
                request, key=caller.key, keep_alive=hold.keep_alive, context=hold.context
            )
        ) as events:
            try:
                async for event in events:
                    begun = True
                    since += 1
                    if since >= _YIELD_EVERY:  # an engine that never waits would stop all others
                        since = 0
                        await asyncio.sleep(0)
                    noted(event)
                    if isinstance(event, Done):
                        code = ""  # whoever reads no further than this has all of it
                    yield event
            except OvertError as error:
                code = error.code
                if not begun:
                    raise
                failed = failed_of(error)
                noted(failed)
                yield failed
            finally:
                work.end(code)

    async def embed(
        self, caller: Caller, request: EmbedRequest, hold: ModelHold = AS_EVER
    ) -> Embeddings:
        _may_name(request.model, self._providers)
        request = await self._meant(request)
        with _record_generation("embeddings", request.model) as work:
            embeddings = await self._exchange.embed(
                request, key=caller.key, keep_alive=hold.keep_alive, context=hold.context
            )
            work.count(embeddings.tokens)
            return embeddings

    async def rerank(
        self, caller: Caller, request: RerankRequest, hold: ModelHold = AS_EVER
    ) -> Ranking:
        _may_name(request.model, self._providers)
        request = await self._meant(request)
        with _record_generation("rerank", request.model) as work:
            ranking = await self._exchange.rerank(
                request, key=caller.key, keep_alive=hold.keep_alive, context=hold.context
            )
            work.count(ranking.tokens)
            return ranking

    async def score(
        self, caller: Caller, request: ScoreRequest, hold: ModelHold = AS_EVER
    ) -> tuple[TokenLogprob, ...]:
        _may_name(request.model, self._providers)
        request = await self._meant(request)
        with _record_generation("score", request.model) as work:
            tokens = await self._exchange.score(
                request, key=caller.key, keep_alive=hold.keep_alive, context=hold.context
            )
            work.count(len(tokens))
            return tokens

    async def count(self, caller: Caller, request: Request) -> int:
        _check_limits(request, self._providers)
        return await self._exchange.count(await self._meant(request))

    async def render(self, caller: Caller, request: Request) -> str:
        _check_limits(request, self._providers)
        return await self._exchange.render(await self._meant(request))

    async def tokenize(
        self, caller: Caller, model: str, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        _may_name(model, self._providers)
        model = await self._name(model)
        return await self._exchange.tokenize(model, text, special=special, around=around)

    async def detokenize(self, caller: Caller, model: str, tokens: Sequence[int]) -> str:
        _may_name(model, self._providers)
        return await self._exchange.detokenize(await self._name(model), tokens)

    def passes(self, model: str, engines: Container[str]) -> Provider | None:
        """The engine that a request for `model` can be handed on to, if it is one of `engines`.

        Raises:
            BadRef, Refused: it may not be named. NeedsAccess …: as Exchange.open.
        """
        if not self._exchange.leads_away(model):
            return None
        _may_name(model, self._providers)
        ref = self._exchange.resolve(model)
        if not isinstance(ref, str) or has_no_model(ref):
            return None  # a route looks at the answer; a server is asked for its only model
        engine = self._exchange.providers.engine(ref)
        return engine if engine.name in engines else None

    # ---- models that are there -------------------------------------------------------------

    async def models(self, caller: Caller) -> Sequence[ModelCard]:
        cards: Sequence[ModelCard] = await self.library.cards()
        return cards

    async def model(self, caller: Caller, ref: str) -> ModelCard:
        card: ModelCard = await self.library.card(ref)
        return card

    def loaded(self) -> Sequence[LoadedModelInfo]:
        return [self._loaded(held) for held in self._exchange.loaded()]

    async def load(self, caller: Caller, ref: str, hold: ModelHold = AS_EVER) -> LoadedModelInfo:
        _may_name(ref, self._providers)
        ref = await self._name(ref)
        held = await self._exchange.load(ref, keep_alive=hold.keep_alive, context=hold.context)
        return self._loaded(held)

    async def unload(self, caller: Caller, ref: str) -> bool:
        _may_name(ref, self._providers)
        try:
            return await self._exchange.unload(await self._name(ref))
        except (FormatError, IntegrityError):  # what cannot be read is not in memory
            return False

    async def _meant(self, request: Asked) -> Asked:
        name = await self._name(request.model)
        return request if name == request.model else replace(request, model=name)

    async def _name(self, model: str) -> str:
        """The store's name where one is asked for by `:latest`, as Ollama's clients write it."""
        if not model.endswith(":latest") or not is_latest(refs.parse(model)):
            return model
        try:
            card: ModelCard = await self.library.card(model)
        except OvertError:  # whoever is to answer says why it cannot
            return model
        return card.id

    def _loaded(self, held: Held) -> LoadedModelInfo:
        card = self.library.card_now(held.ref, held.digest)
        return LoadedModelInfo(
            card, held.memory, held.context, held.parallel, held.expires, held.busy, held.used
        )

    # ---- the rest --------------------------------------------------------------------------

    def identify(self, secret: str | None) -> Caller:
        return self._identify(secret) if self._identify else NOBODY

    def elsewhere(self, model: str) -> bool:
        return self._exchange.leads_away(model)

    async def dispatch(
        self, caller: Caller, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        if self._dispatch is None:
            raise Unsupported("this server runs no batches")
        return await self._dispatch(caller, method, path, body)

    def dispatch_with(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what runs in the background and stop every engine."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._exchange.close()


@contextmanager
def _record_generation(operation: str, model: str) -> Iterator[GenerationRecord]:
    """Notes one call that has no events."""
    work = generation(operation, model)
    code = "cancelled"
    try:
        yield work
        code = ""
    except OvertError as error:
        code = error.code
        raise
    finally:
        work.end(code)
