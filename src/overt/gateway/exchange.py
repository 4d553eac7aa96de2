"""One request, from the door to the engine and back. Kept short: this is the only such path.

The command line, the Python API, the server and the evaluators all come through `Exchange`. A name
of the owner's becomes what it stands for (aliases.py), a ref becomes a place (runtime/loader.py) or
a provider's engine (providers/manager.py), the scheduler gives a seat with its engine, loaded where
it was not (runtime/scheduler.py), and the engine's events pass through unread. A route (routing/)
asks several of them in turn.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from overt import ref as refs
from overt.chat import (
    Embeddings,
    EmbedRequest,
    Event,
    Failed,
    Progress,
    Ranking,
    Request,
    RerankRequest,
    Routed,
    ScoreRequest,
    TokenLogprob,
    Usage,
)
from overt.engine import Engine, Purpose
from overt.errors import OvertError, Unsupported
from overt.gateway import routing
from overt.gateway.routing import Route
from overt.models import defaults
from overt.models.memory import free_memory
from overt.openness.permissions.gate import RUNNING, LicenceGate
from overt.providers.manager import Providers, with_route_info
from overt.runtime.loader import (
    Loader,
    ModelFacts,
    ModelPlace,
    Notice,
    OpenedModel,
    PlaceCache,
    batch_size,
)
from overt.runtime.scheduler import LoadedModel, Scheduler
from overt.settings import Settings, seconds_of

__all__ = ["Exchange", "ExchangeStats", "Held", "ModelFacts", "batch_size"]

_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_BEFORE = (Progress, Routed)  # what comes before anything of an answer
_MAX_ECHOES = 256
_MAX_NAMES = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """A model that is in memory.

    Attributes:
        ref: as it was first asked for.
        memory: bytes it takes, as estimated before it was loaded.
        context: tokens of one request.
        busy: requests it is answering.
        used, expires: Unix seconds; `expires` is inf for never.
    """

    ref: str
    digest: str
    purpose: Purpose
    memory: int
    context: int
    parallel: int
    busy: int
    waiting: int
    used: float
    expires: float
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class ExchangeStats:
    """For metrics; what is by model goes by ref and purpose.

    Attributes:
        waiting, busy: requests in the queue, and being answered.
        memory, resident: bytes as estimated before loading, and as the system counts them now.
        loads, evictions: since the start; evictions for want of memory, not for want of use.
        refused: requests that found the queue full.
        restarts: workers that died and were started again.
    """

    waiting: dict[tuple[str, Purpose], int]
    busy: dict[tuple[str, Purpose], int]
    memory: dict[tuple[str, Purpose], int]
    resident: dict[tuple[str, Purpose], int]
    loads: int
    evictions: int
    refused: int
    restarts: int


class Exchange:
    """Opens engines on demand, keeps them, and passes requests on to them.

    Belongs to the event loop it is first used in. `notice` is told, in one sentence each, what a
    person should know but did not ask: a context reduced to fit, a weaker sandbox. `shared` is for
    who serves others: models take several requests at once, leave room for each other, and go when
    they have been idle for the setting `keep_alive`; else they stay until `close`. `use` is what
    the licence of a model is asked about when it is first opened (openness/permissions/gate.py).
    """

    def __init__(
        self,
        settings: Settings,
        notice: Notice | None = None,
        *,
        shared: bool = False,
        use: Mapping[str, object] = RUNNING,
    ) -> None:
        self._settings, self._shared = settings, shared
        self._told: set[str] = set()
        self._tell = notice or (lambda _: None)
        self._gate = LicenceGate(settings, use)
        self._places = PlaceCache(settings, self._admit)
        self._aliases = routing.aliases(settings.home)
        self.providers = Providers(settings, self._notice)
        self._scheduler: Scheduler[OpenedModel] = Scheduler(
            self._budget,
            keep_alive=seconds_of(settings.keep_alive) if shared else math.inf,
            queue=settings.queue,
            most=settings.models if shared else 0,
        )
        self._names: dict[str, str] = {}  # digest -> a ref of it
        self._facts: dict[str, ModelFacts] = {}
        self._echoes: dict[str, OpenedModel] = {}
        self._restarts = 0  # of workers that have gone

    # ---- one request -----------------------------------------------------------------------

    async def stream(
        self,
        request: Request,
        key: str = "",
        *,
        keep_alive: float | None = None,
        context: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answer one request.

        Args:
            request: what to do.
            key: whose request it is; callers take turns.
            keep_alive: seconds the model stays loaded once idle, from now on.
            context: least tokens of context; a model loaded with less is loaded again.

        Raises an OvertError as long as nothing of the answer has been yielded; after that an error
        ends the stream as a `Failed` event, so that what was delivered is never lost.
        """

        def ask(ref: str, request: Request) -> AsyncGenerator[Event, None]:
            model = self.first(ref)
            events = self._answer(replace(request, model=model), key, keep_alive, context)
            return (
                events if model == ref else with_route_info(events, model, f"{ref} stands for it")
            )

        target = self.resolve(request.model)
        if isinstance(target, Route):
            events = routing.answer(target, request, ask, self._route_facts(key))
        elif target == request.model:
            events = self._answer(request, key, keep_alive, context)
        else:
            events = with_route_info(
                ask(target, request), target, f"{request.model} is an alias of it"
            )
        async with aclosing(events):
            async for event in events:
                yield event
                if not isinstance(event, _BEFORE):
                    break
            try:
                async for event in events:
                    yield event
            except OvertError as error:
                yield Failed(error.code, error.message, error.hint)

    async def _answer(
        self, request: Request, key: str, keep_alive: float | None, context: int | None
    ) -> AsyncGenerator[Event, None]:
        """One model's answer; raises OvertErrors at any moment."""
        with await self._seat(request.model, "answer", key, keep_alive, context) as opened:
            async with aclosing(
                opened.engine.stream(defaults.apply(opened.overlay, request))
            ) as events:
                async for event in events:
                    yield event

    def resolve(self, name: str) -> str | Route:
        """What a name stands for: itself, the ref an alias ends at, or a route.

        Raises:
            BadRequest, Failure, Refused: an alias that leads nowhere, a damaged file of aliases, or
                one that others may write to.
        """
        return self._aliases.find(name) or name

    async def embed(
        self,
        request: EmbedRequest,
        key: str = "",
        *,
        keep_alive: float | None = None,
        context: int | None = None,
    ) -> Embeddings:
        """Vectors of texts. Arguments as for `stream`; raises OvertErrors."""
        ref = self.first(request.model, words=True)
        with await self._seat(ref, "embed", key, keep_alive, context) as opened:
            return await opened.engine.embed(replace(request, model=ref))

    async def rerank(
        self,
        request: RerankRequest,
        key: str = "",
        *,
        keep_alive: float | None = None,
        context: int | None = None,
    ) -> Ranking:
        """Scores of documents. Arguments as for `stream`; raises OvertErrors."""
        ref = self.first(request.model, words=True)
        with await self._seat(ref, "rerank", key, keep_alive, context) as opened:
            return await opened.engine.rerank(request)

    async def score(
        self,
        request: ScoreRequest,
        key: str = "",
        *,
        keep_alive: float | None = None,
        context: int | None = None,
    ) -> tuple[TokenLogprob, ...]:
        """How likely a text is. Arguments as for `stream`; raises OvertErrors."""
        ref = self.first(request.model, words=True)
        with await self._seat(ref, "score", key, keep_alive, context) as opened:
            return await opened.engine.score(request)

    async def count(self, request: Request, key: str = "") -> int:
        """Tokens of `request` as its model would read it."""
        with await self._words(request.model, key) as opened:
            return await opened.engine.count(defaults.apply(opened.overlay, request))

    async def render(self, request: Request, key: str = "") -> str:
        """The text that the model's chat template makes of `request`."""
        with await self._words(request.model, key) as opened:
            return await opened.engine.render(defaults.apply(opened.overlay, request))

    async def tokenize(
        self, model: str, text: str, *, special: bool = True, around: bool = False, key: str = ""
    ) -> tuple[int, ...]:
        """Token ids of `text`; see `Engine.tokenize`."""
        with await self._words(model, key) as opened:
            return await opened.engine.tokenize(text, special=special, around=around)

    async def detokenize(self, model: str, tokens: Sequence[int], *, key: str = "") -> str:
        """The text of token ids."""
        with await self._words(model, key) as opened:
            return await opened.engine.detokenize(tokens)

    # ---- models in memory ------------------------------------------------------------------

    async def open(self, ref: str) -> Engine:
        """The engine that answers for `ref`, started if it is not running.

        Raises:
            BadRef, ModelNotFound, FormatError: no such model here, or not one.
            BadRequest: a model that does not write text.
            OutOfMemory: it does not fit, with the numbers.
            NoIsolation, EngineFailed: the worker could not start.
            Refused: its licence does not allow the use, where that is enforced.
        """
        first_ref = self.first(ref)
        with await self._seat(first_ref, "answer", "", None, None, guest=True) as opened:
            self._facts[ref] = replace(opened.facts, ref=ref)
            return opened.engine

    def facts(self, ref: str) -> ModelFacts:
        """Facts of a model that `open` has opened."""
        return self._facts[ref]

    async def load(
        self,
        ref: str,
        key: str = "",
        *,
        keep_alive: float | None = None,
        context: int | None = None,
    ) -> Held:
        """Have a model in memory for what it is made for.

        Arguments as for `stream`; raises OvertErrors.
        """
        ref = self.first(ref)
        if there := await self._there(ref):
            can, facts = there.engine.capabilities, there.facts
            return Held(
                ref, "", "answer", 0, can.context, can.parallel, 0, 0, time.time(), math.inf, facts
            )
        place = await self._place(ref)
        resident = await self._scheduler.load(
            (place.model.digest, place.purpose),
            self._loader(place, place.purpose),
            caller=key,
            keep_alive=keep_alive,
            size=context or 0,
        )
        return self._held(resident)

    async def unload(self, ref: str) -> bool:
        """Let a model go once it is idle; False where it was not loaded.

        Raises:
            BadRef, ModelNotFound …: as `open`, where `ref` is no model here.
        """
        ref = self.first(ref)
        if await self._there(ref):
            return False
        digest = (await self._place(ref)).model.digest
        return any([await self._scheduler.unload((digest, purpose)) for purpose in _PURPOSES])

    def loaded(self) -> list[Held]:
        """The models in memory, the one used last first."""
        return [self._held(resident) for resident in self._residents()]

    def stats(self) -> ExchangeStats:
        """Figures for metrics. Reads a file of the system for each worker."""
        seen = self._scheduler.stats()
        held = [
            (self._name(resident.key), resident.memory, resident.it.worker)
            for resident in self._residents()
        ]
        return ExchangeStats(
            waiting={self._name(key): count for key, count in seen.waiting.items()},
            busy={self._name(key): count for key, count in seen.busy.items()},
            memory={name: memory for name, memory, _ in held},
            resident={name: worker.memory()[0] for name, _, worker in held if worker},
            loads=seen.loads,
            evictions=seen.evictions,
            refused=seen.refused,
            restarts=self._restarts + sum(worker.restarts for _, _, worker in held if worker),
        )

    async def close(self) -> None:
        """Stop every engine this exchange started, and refuse who comes later."""
        try:
            await self._scheduler.close()
        finally:
            await self.providers.close()

    # ---- inside ----------------------------------------------------------------------------

    async def _seat(
        self,
        ref: str,
        purpose: Purpose,
        key: str,
        keep_alive: float | None,
        context: int | None,
        *,
        guest: bool = False,
    ) -> AbstractContextManager[OpenedModel]:
        place = self._places.known(ref)
        if place is None:
            if there := await self._there(ref):
                return nullcontext(there)
            place = await self._place(ref)
        place.check(purpose)
        return await self._scheduler.take(
            (place.model.digest, purpose),
            self._loader(place, purpose),
            caller=key,
            keep_alive=keep_alive,
            size=min(context or 0, place.header.context_length or context or 0),
            guest=guest,
        )

    async def _words(self, ref: str, key: str) -> AbstractContextManager[OpenedModel]:
        """A place beside whatever engine knows the model's words; it takes nobody's seat."""
        ref = self.first(ref, words=True)
        purpose: Purpose = "answer" if await self._there(ref) else (await self._place(ref)).purpose
        return await self._seat(ref, purpose, key, None, None, guest=True)

    async def _place(self, ref: str) -> ModelPlace:
        place = self._places.known(ref)
        if place is None:
            get = self._places.get
            # Where others are served a file that has to be hashed must not stop them.
            place = await asyncio.to_thread(get, ref) if self._shared else get(ref)
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            self._names[place.model.digest] = ref
        return place

    def _loader(self, place: ModelPlace, purpose: Purpose) -> Loader:
        return Loader(place, purpose, self._settings, self._shared, self._notice, self._gone)

    def _gone(self, opened: OpenedModel) -> None:
        self._restarts += opened.worker.restarts if opened.worker else 0

    def _residents(self) -> list[LoadedModel[OpenedModel]]:
        return self._scheduler.loaded()

    def _name(self, key: Any) -> tuple[str, Purpose]:
        digest, purpose = key
        return self._names.get(digest, digest), purpose

    def _held(self, resident: LoadedModel[OpenedModel]) -> Held:
        facts = resident.it.facts
        return Held(
            ref=facts.ref,
            digest=facts.digest,
            purpose=resident.it.purpose,
            memory=resident.memory,
            context=resident.size,
            parallel=resident.seats,
            busy=resident.busy,
            waiting=resident.waiting,
            used=resident.used,
            expires=resident.expires,
            facts=facts,
        )

    def first(self, name: str, *, words: bool = False) -> str:
        """The ref that a name stands for; of a route, the first model it would ask.

        Raises:
            Unsupported: it gets `words`, which its rules might have kept on this machine.
        """
        target, ruled = self.resolve(name), False
        while isinstance(target, Route):
            ruled = ruled or bool(target.rules)
            target = self.resolve(target.first)
        if words and ruled and target.startswith(refs.ELSEWHERE):
            raise Unsupported(f"{name} has rules, and they are for answers alone", f"name {target}")
        return target

    def _route_facts(self, key: str) -> routing.RouteContext:
        """What a route goes by: where words may go, who asks, and what models cost."""
        settings = self._settings
        egress: Literal["none", "some", "any"] = "any"
        if settings.offline or settings.egress == "none":
            egress = "none"
        elif settings.egress != "any":
            egress = "some"
        return routing.RouteContext(egress, key, price=self._price)

    def _price(self, ref: str, usage: Usage) -> float | None:
        from overt import prices

        ref = self.first(ref)  # a rung may be an alias: by its name alone it would cost nothing
        # No bill comes for what is local; what it draws is the owner's to say (prices/).
        return prices.cost(ref, usage, self._settings).usd if refs.parse(ref).remote else 0.0

    def leads_away(self, name: str) -> bool:
        """Whether asking `name` may ask a model of another server; never raises."""
        try:
            target = self.resolve(name)
            if isinstance(target, Route):
                return any(self.first(ref).startswith(refs.ELSEWHERE) for ref in target.named)
            return target.startswith(refs.ELSEWHERE)
        except OvertError:
            return False

    async def _there(self, ref: str) -> OpenedModel | None:
        """The engine of what needs no seat on this machine: the echo, and models of others."""
        if ref.startswith("echo:"):
            return self._echo(ref)
        if ref.startswith(refs.ELSEWHERE):
            return await self.providers.opened(ref)
        return None

    def _echo(self, ref: str) -> OpenedModel:
        echo = self._echoes.get(ref)
        if echo is None:
            from overt.runtime.echo import Echo

            if len(self._echoes) >= _MAX_ECHOES:
                self._echoes.clear()
            engine = Echo(refs.parse(ref).name)
            echo = self._echoes[ref] = OpenedModel(engine, ModelFacts(ref, "", "echo"))
        return echo

    def _budget(self) -> int:
        """Bytes for all models together: what they hold already and what is free."""
        if self._settings.memory:
            return self._settings.memory
        workers = [resident.it.worker for resident in self._residents()]
        held = sum(worker.memory()[1] for worker in workers if worker)
        return free_memory(mapped=self._shared) + held

    def _admit(self, place: ModelPlace) -> None:
        """Raises Refused: its licence, by the policy in force."""
        if notice := self._gate(place.model, place.header):
            self._notice(notice.text)

    def _notice(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)
