"""Asking one model: kept answers first, new ones paid for and kept."""

import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from overt.chat import Answer, Request, Usage
from overt.errors import OvertError, ProviderFailed
from overt.evaluation.suites.answers import Answers, ModelReply, key_of
from overt.evaluation.suites.budget import Budget, is_remote
from overt.evaluation.timing import is_measurable
from overt.gateway import routing
from overt.gateway.exchange import Exchange
from overt.openness.export.text import canonical
from overt.protocols.failure import error_of
from overt.providers.base import Provider
from overt.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model as answers are kept for it and receipts name it."""

    ref: str
    resolved: str
    digest: str
    engine: str
    build: str
    logprobs: bool

    @property
    def key(self) -> str:
        return canonical([self.digest or self.resolved, self.engine, self.build])

    def told(self) -> dict[str, Any]:
        """The model as receipts have it."""
        return {
            "ref": self.ref,
            "resolved": self.resolved,
            "digest": self.digest,
            "engine": self.engine,
            "build": self.build,
            "away": is_remote(self.resolved),
        }


class ModelClient:
    """Asks one model, and keeps what it answered."""

    def __init__(
        self,
        exchange: Exchange,
        who: ModelIdentity,
        purse: Budget,
        answers: Answers,
        *,
        signal: bool,
    ) -> None:
        self._exchange, self._who, self._purse, self._kept = exchange, who, purse, answers
        self._signal = signal and who.logprobs
        self._owed: set[str] = set()  # keys of requests that failed and may be billed

    def owes(self, request: Request) -> bool:
        """Whether `request` failed in this run and may be billed all the same."""
        return key_of(self._full(request)) in self._owed

    async def ask(self, request: Request) -> ModelReply:
        """The answer, kept or new. Raises OvertErrors, also for one that broke off."""
        request = self._full(request)
        key = key_of(request)
        if (known := self._kept.get(key)) is not None:
            return known
        ref = self._who.resolved if self._who.engine != "route" else self._who.ref
        held = await self._purse.hold(ref, request)
        answer, begun, billed, whole = Answer(), time.monotonic(), True, False
        cost: float | None = None
        try:
            async with aclosing(self._exchange.stream(request)) as events:
                async for event in events:
                    answer.add(event)
            whole = answer.failed is None
        except OvertError as error:
            billed = _may_be_billed(error, answer)
            raise
        finally:
            by = answer.routed.model if answer.routed else ref
            counted = whole and is_measurable(answer)
            if not billed:
                self._purse.release(held)
            else:
                cost = self._purse.pay(held, by, answer.usage, counted=counted)
                self._owed |= set() if whole else {key}  # of a stopped one as well
        if answer.failed is not None:
            raise error_of(answer.failed)
        signal = answer.mean_logprob
        reply = ModelReply(
            text=answer.text,
            finish=answer.finish or "",
            tokens_in=answer.usage.tokens_in if counted else None,
            tokens_out=answer.usage.tokens_out if counted else None,
            seconds=round(time.monotonic() - begun, 4),
            cost=cost,
            model=by,
            signal=None if signal is None else round(signal, 6),
        )
        self._kept.put(key, reply)
        return reply

    def _full(self, request: Request) -> Request:
        if self._signal and request.logprobs is None:
            return replace(request, logprobs=0)
        return request

    async def whole(self, request: Request) -> Answer:
        """As `ask`, for a judge."""
        reply = await self.ask(request)
        answer = Answer()
        answer.text = reply.text
        return answer


def _may_be_billed(error: OvertError, answer: Answer) -> bool:
    """Whether a provider may bill what ended in `error`, after as much as `answer`."""
    if isinstance(error, ProviderFailed) and error.billed:
        return True
    some = answer.text or answer.thought or answer.tool_calls
    return bool(some) or answer.usage != Usage(0, 0)


async def identify(exchange: Exchange, ref: str, settings: Settings) -> ModelIdentity:
    """What `ref` is today; opens it. Raises OvertErrors where it cannot be used."""
    target = exchange.resolve(ref)
    if isinstance(target, routing.Route):
        digest = sha256(repr(target).encode()).hexdigest()
        return ModelIdentity(
            ref, exchange.first(ref), f"route:{digest}", "route", "", logprobs=False
        )
    engine = await exchange.open(ref)
    facts = exchange.facts(ref)
    if isinstance(engine, Provider):
        target = engine.ref  # with the model, where only its server was named
    can = engine.capabilities
    # The echo's say nothing, and a provider's may cost or change the answer.
    tells = can.logprobs and can.local and facts.engine != "echo"
    return ModelIdentity(ref, target, facts.digest, facts.engine, facts.build, tells)
