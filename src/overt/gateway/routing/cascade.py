"""Models asked one after another until an answer is good.

An answer that may yet be found not good is held back whole (at most 16 MiB) and judged; only then
is any of it delivered, so that nothing is ever withdrawn. The last model of a ladder and one that
a rule chose are delivered as they come. Whatever is running is closed when the caller leaves.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from overt import ref as refs
from overt.chat import (
    Answer,
    Done,
    Event,
    Failed,
    Logprobs,
    Progress,
    Request,
    Routed,
    Text,
    Thought,
    ToolCall,
    Usage,
)
from overt.errors import EngineFailed, OvertError, Refused, Stopped
from overt.gateway.routing import checks, command
from overt.gateway.routing.route import Egress, Escalate, Route, Stage, Threshold

__all__ = ["Ask", "Cascade", "RouteContext", "most_usd"]

Ask = Callable[[str, Request], AsyncGenerator[Event, None]]
"""Answers a request by the model of a ref, or by an alias: `Exchange.stream` without the route."""

Price = Callable[[str, Usage], float | None]
Spent = tuple[tuple[str, Usage], ...]

MAX_HELD_CHARACTERS = 16 << 20  # characters of an answer that is held back
_MAX_EVENTS = 2_000_000
_MAX_REASON = 600
_SIGNALS = {"mean_logprob": "mean log-probability", "router": "the router's surety"}
_QUICK = 16 << 10  # characters that are searched for sums in well under a millisecond
_ASSUMED_OUT = 1024  # tokens, for a request that sets no most


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What a route asks of the world around it, given by the exchange.

    Attributes:
        egress: where the text of requests may go now: ``none``, ``some`` (named hosts), ``any``.
        caller, caller_name: id and name of the key; "" for the person at this machine.
        price: USD for a usage of a ref; 0 for a model of this machine, None where nobody knows.
        count: tokens of a request; without it 3.5 bytes are a token.
        lost: told what models used whose answers were not delivered, where an error ends the
            request before any event could say so.
    """

    egress: Egress = "any"
    caller: str = ""
    caller_name: str = ""
    price: Price | None = None
    count: Callable[[Request], int] | None = None
    lost: Callable[[Spent], None] | None = None


def most_usd(model: str, request: Request, facts: RouteContext, tokens: int) -> float | None:
    """USD that a model may cost for this request, as far as can be told; None is not known.

    A request without a most of tokens is taken to be answered with 1024.
    """
    if facts.price is None:
        return None if refs.parse(model).remote else 0.0
    return facts.price(model, Usage(tokens, request.max_tokens or _ASSUMED_OUT))


@dataclass(slots=True, eq=False)
class _Held:
    """A model's answer, whole or as far as it came, that nobody has seen yet."""

    model: str
    events: list[Event] = field(default_factory=list)
    answer: Answer = field(default_factory=Answer)
    error: OvertError | None = None
    reason: str = ""  # why it is not good, where that shows already
    surety: float | None = None  # what a threshold was compared with


class Cascade:
    """One request on its way up."""

    def __init__(
        self, route: Route, request: Request, ask: Ask, facts: RouteContext, tokens: int
    ) -> None:
        self._route, self._request, self._ask = route, request, ask
        self._facts, self._tokens = facts, tokens
        self._attempts: list[_Held] = []  # answers that were not good
        self._reasons: list[str] = []
        self._spare: _Held | None = None  # the latest of them that is better than none

    async def climb(self) -> AsyncGenerator[Event, None]:
        """The first good answer, or the last model's. Raises as `answering.answer`."""
        *held, last = self._route.models
        for rung in held:
            if self._too_dear(rung.model):
                continue
            attempt = await self._hold(rung)
            objection = await self._object(rung, attempt)
            if objection is None:
                for event in self._deliver(attempt, self._why(self._passed(rung, attempt))):
                    yield event
                return
            if attempt.error is not None and not self._route.escalate.error:
                raise self._ended(attempt.error)
            self._attempts.append(attempt)
            self._reasons.append(f"{attempt.model}: {objection.reason}")
            if objection.soft:
                self._spare = attempt
        if self._too_dear(last.model):
            for event in self._settle(self._nothing_within_cap()):
                yield event
            return
        async with aclosing(self._last(last.model)) as events:
            async for event in events:
                yield event

    async def straight(self, model: str, why: str) -> AsyncGenerator[Event, None]:
        """Deliver a model's answer as it comes. Raises what its engine raises."""
        begun, usage_sent = False, not self._spent()
        inner: Routed | None = None
        request = replace(self._request, model=model)
        try:
            async with aclosing(self._ask(model, request)) as events:
                async for event in events:
                    if isinstance(event, Routed) and not begun:
                        # Held until there is an answer: a provider may take a request and fail.
                        inner = event
                        continue
                    if not begun:
                        begun = True
                        yield self._routed(model, inner, why)
                    for out in self._told(event, usage_sent):
                        usage_sent = usage_sent or isinstance(out, Usage)
                        yield out
        except OvertError:
            if begun and not usage_sent:
                yield self._with_before(Usage(0, 0))
            raise

    # ---- asking ----------------------------------------------------------------------------

    async def _last(self, model: str) -> AsyncGenerator[Event, None]:
        begun = False
        why = self._why(f"asked {model}" if self._reasons else "the only model")
        try:
            async with aclosing(self.straight(model, why)) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except Stopped:
            raise
        except OvertError as error:
            if begun:
                raise
            failed = error
        self._reasons.append(f"{model}: {_failed(failed)}")
        for event in self._settle(failed):
            yield event

    def _settle(self, error: OvertError) -> Iterable[Event]:
        """The answer that is better than none, else raises `error`."""
        if self._spare is None:
            raise self._ended(error)
        return self._deliver(self._spare, self._why(f"the answer of {self._spare.model} stands"))

    def _ended(self, error: OvertError) -> OvertError:
        """`error`, which is all there is to say, with what went before."""
        if self._facts.lost is not None and (spent := self._spent()):
            self._facts.lost(spent)
        objections = [reason for reason in self._reasons if not reason.endswith(_failed(error))]
        if objections and not isinstance(error, Refused):
            error.message = f"{error.message} (before it, {'; '.join(objections)[:_MAX_REASON]})"
        return error

    async def _hold(self, rung: Stage) -> _Held:
        """A model's whole answer; where it did not come to that, with the reason."""
        request = replace(self._request, model=rung.model)
        signal = rung.threshold.signal if rung.threshold else ""
        added = signal == "mean_logprob" and request.logprobs is None
        if added:
            request = replace(request, logprobs=0)
        held, size = _Held(rung.model), 0
        try:
            async with aclosing(self._ask(rung.model, request)) as events:
                async for event in events:
                    held.answer.add(event)
                    if isinstance(event, Progress | Routed):
                        continue
                    if not (added and isinstance(event, Logprobs)):
                        held.events.append(event)
                    size += _size(event)
                    if size > MAX_HELD_CHARACTERS or len(held.events) > _MAX_EVENTS:
                        held.reason = f"an answer of more than {MAX_HELD_CHARACTERS >> 20} MiB"
                        return held
        except Stopped:
            raise
        except OvertError as error:
            held.error = error
        if held.answer.failed is not None:
            held.error = EngineFailed(held.answer.failed.message, held.answer.failed.hint)
            held.reason = f"failed: {held.answer.failed.message}"[:200]
        elif held.error is not None:
            held.reason = _failed(held.error)
        elif held.answer.finish in (None, "cancelled"):
            held.reason = "the answer ended before it was whole"
        return held

    async def _object(self, rung: Stage, held: _Held) -> checks.Objection | None:
        """What there is against an answer."""
        rules = self._route.escalate
        if held.reason:
            return checks.Objection(held.reason)
        objection = await _checked(self._request, held.answer, rules)
        if objection is None and rung.threshold is not None:
            at = rung.threshold
            held.surety = (
                held.answer.mean_logprob
                if at.router is None
                else await asyncio.to_thread(
                    at.router.score, command.last_user_message(self._request), held.answer.text
                )
            )
            objection = _below(at, held.surety)
        text = held.answer.text
        if objection is None and rules.check is not None and text.strip():
            reason = await command.judge(rules.check, self._request, rung.model, text)
            objection = checks.Objection(reason) if reason is not None else None
        return objection

    def _too_dear(self, model: str) -> bool:
        """Whether a model is passed over for what it may cost, with what was spent already."""
        cap = self._route.price_cap
        if cap is None:
            return False
        most = most_usd(model, self._request, self._facts, self._tokens)
        if most == 0:
            return False
        price = self._facts.price
        spent = [price(ref, usage) if price else 0.0 for ref, usage in self._spent()]
        if most is None or None in spent:
            self._reasons.append(f"{model}: passed over, its price is not known")
            return True
        total = most + sum(cost or 0.0 for cost in spent)
        if total > cap:
            self._reasons.append(f"{model}: passed over, may come to ${total:.2g} of ${cap:g}")
        return total > cap

    def _nothing_within_cap(self) -> Refused:
        return Refused(
            f"no good answer within ${self._route.price_cap or 0:g}: {self._why('')}".rstrip("; "),
            "raise `price_cap` in the route, or name a model itself",
        )

    # ---- telling ---------------------------------------------------------------------------

    def _why(self, last: str) -> str:
        why = "; ".join([*self._reasons, last])
        return why if len(why) <= _MAX_REASON else f"{why[: _MAX_REASON - 1]}…"

    def _passed(self, rung: Stage, held: _Held) -> str:
        why = f"asked {rung.model}" if self._reasons else "asked first, and nothing against it"
        at = rung.threshold
        if at is not None and held.surety is not None:
            why += f" ({_SIGNALS[at.signal]} {held.surety:.3f}, at least {at.at_least:g})"
        return why

    def _routed(
        self, model: str, inner: Routed | None, why: str, own: _Held | None = None
    ) -> Routed:
        others = [attempt for attempt in self._attempts if attempt is not own]
        tried: list[str] = []
        out = 0
        for attempt in others:
            before = attempt.answer.routed
            tried += [*(before.tried if before else ()), attempt.model]
            out += before.bytes_out if before else 0
        if inner is None:
            return Routed(model, why, "", out, tuple(tried))
        return Routed(
            inner.model,
            f"{why}; {inner.why}"[:_MAX_REASON] if inner.why else why,
            inner.request_id,
            out + inner.bytes_out,
            (*tried, *inner.tried),
        )

    def _spent(self, own: _Held | None = None) -> Spent:
        """What the answers used that are not delivered."""
        usages: list[tuple[str, Usage]] = []
        for attempt in self._attempts:
            usage = attempt.answer.usage
            if attempt is not own and usage != Usage(0, 0):
                usages += [*usage.before, (attempt.model, replace(usage, before=()))]
        return tuple(usages)

    def _with_before(self, usage: Usage, own: _Held | None = None) -> Usage:
        spent = self._spent(own)
        return replace(usage, before=(*spent, *usage.before)) if spent else usage

    def _told(self, event: Event, usage_sent: bool, own: _Held | None = None) -> list[Event]:
        """An event with what was used before: in `Usage`, or one put before the end."""
        if isinstance(event, Usage):
            return [self._with_before(event, own)]
        if isinstance(event, Done | Failed) and not usage_sent:
            return [self._with_before(Usage(0, 0), own), event]
        return [event]

    def _deliver(self, held: _Held, why: str) -> list[Event]:
        events: list[Event] = [self._routed(held.model, held.answer.routed, why, held)]
        usage_sent = not self._spent(held)
        for event in held.events:
            events += self._told(event, usage_sent, held)
            usage_sent = usage_sent or isinstance(event, Usage)
        return events


async def _checked(request: Request, answer: Answer, rules: Escalate) -> checks.Objection | None:
    """The checks: in a thread where they may take their time, which costs 0.2 ms itself."""
    quick = request.json_schema is None and not request.tools and len(answer.text) < _QUICK
    if quick:
        return checks.failure(request, answer, rules)
    return await asyncio.to_thread(checks.failure, request, answer, rules)


def _below(threshold: Threshold, surety: float | None) -> checks.Objection | None:
    if surety is None:
        return checks.Objection("tells no log-probabilities to judge it by", soft=True)
    if surety >= threshold.at_least:
        return None
    words = _SIGNALS[threshold.signal]
    return checks.Objection(f"{words} {surety:.3f} is below {threshold.at_least:g}", soft=True)


def _failed(error: OvertError) -> str:
    return f"failed: {error.message}"[:200]


def _size(event: Event) -> int:
    """Characters of memory an event takes, roughly."""
    match event:
        case Text(text):
            return len(text)
        case Thought():
            return len(event.text) + len(event.signature or "")
        case ToolCall():
            return len(event.arguments) + len(event.signature or "") + 50
        case Logprobs(tokens):
            return sum(50 + 50 * len(token.top) for token in tokens)
        case _:
            return 50
