"""The same requests to several models, one after another, and what each answer took.

A model is loaded before it is timed, and what loading took is told apart. Each answer of a model on
this machine is made without a prefix that an earlier one left, so that repeats are worth comparing.
The order of the models moves on by one with every request and repeat.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from overt.chat import Event, Request, Routed, Sampling, Usage
from overt.errors import BadRef, OvertError
from overt.evaluation.prompts import PromptCase
from overt.evaluation.timing import UNCOUNTED, TimedAnswer, is_measurable, read
from overt.protocols.failure import error_of
from overt.ref import parse
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.gateway.exchange import Exchange, ModelFacts

STOPPED: Final = "stopped before the answer ended"


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What is asked of whom.

    Attributes:
        models: as named; each is asked everything.
        repeat: how often each request is asked.
        together: ask models of other servers at once; those of this machine still take turns.
        budget: US dollars; no request is begun once the known costs have reached it.
    """

    models: tuple[str, ...]
    asks: tuple[PromptCase, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    repeat: int = 1
    together: bool = False
    budget: float | None = None

    def rounds(self) -> "list[tuple[int, int, tuple[str, ...]]]":
        """(request, repeat, models in the order they are asked), in order."""
        count = len(self.models)
        turns = [(ask, again) for ask in range(len(self.asks)) for again in range(self.repeat)]
        return [
            (ask, again, tuple(self.models[(turn + offset) % count] for offset in range(count)))
            for turn, (ask, again) in enumerate(turns)
        ]


@dataclass(slots=True)
class ComparisonRow:
    """One model's answer to one request.

    Attributes:
        model: as it was named; `answered` is the ref it came from, where an alias or a route led.
        step, licence …: as in openness_summary.py.
        seconds_to_first_token: from asking, with the model loaded; loading took `load_seconds`.
        cost: US dollars; None where it is not known, which is not 0: `cost_why` says why, and
            `cost_least` is what is known to be owed all the same.
        bytes_out: bytes of the request that left this machine; None where nobody counted.
        where: where the words went, in one sentence.
        error: one sentence where it failed; what came before that is kept.
    """

    model: str
    answered: str
    prompt_index: int
    repeat: int
    step: str | None = None
    step_basis: str | None = None
    step_declared: str | None = None
    licence: str | None = None
    licence_verdict: str | None = None
    licence_missing: tuple[str, ...] = ()
    text: str = ""
    thinking: str = ""
    seconds_to_first_token: float | None = None
    seconds: float | None = None
    load_seconds: float | None = None
    tokens_per_second: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    cost: float | None = None
    cost_known: bool = False
    cost_least: float = 0.0
    cost_why: str = ""
    cost_source: str = ""
    cost_day: str = ""
    bytes_out: int | None = None
    where: str = ""
    engine: str = ""
    build: str = ""
    isolation: tuple[str, ...] = ()
    finish: str | None = None
    request_id: str = ""
    routed: dict[str, str] | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Told = Callable[[int, int, str, TimedAnswer], None]
"""Told how it goes: answers that are finished, how many there will be, the model, its answer."""


@dataclass(slots=True)
class Comparison:
    """A comparison on its way; `rows` grows as answers end, so that a stop loses none of them.

    Attributes:
        ended: why it ended early, in one sentence; "" where it did not.
    """

    exchange: "Exchange"
    plan: ComparisonPlan
    settings: Settings
    told: Told = lambda *_: None
    rows: list[ComparisonRow] = field(default_factory=list)
    ended: str = ""

    async def run(self) -> None:
        """Ask everything; a model that fails has a row that says so, and the others go on."""
        for ask, again, models in self.plan.rounds():
            local, remote = models, list[str]()
            if self.plan.together:
                remote = [model for model in models if _remote(_target(self.exchange, model))]
                local = tuple(model for model in models if model not in remote)
            if remote and not self._over():
                async with asyncio.TaskGroup() as group:
                    for model in remote:
                        group.create_task(self._one(model, ask, again))
            for model in local:
                if not self._over():
                    await self._one(model, ask, again)
            if self._over():
                return

    def _over(self) -> bool:
        """Whether the known costs have reached the budget."""
        budget = self.plan.budget
        spent = sum(row.cost_least for row in self.rows)
        if budget is not None and spent >= budget and not self.ended:
            left = len(self.plan.rounds()) * len(self.plan.models) - len(self.rows)
            if left > 0:
                self.ended = (
                    f"${spent:.4g} were spent and the budget is ${budget:.4g}: "
                    f"{left} request{'s were' if left > 1 else ' was'} not asked"
                )
        return bool(self.ended)

    async def _one(self, model: str, ask: int, again: int) -> None:
        row = ComparisonRow(model, _target(self.exchange, model), ask, again)
        timed = TimedAnswer()
        try:
            await self._ask(row, timed)
            if timed.answer.failed is not None:
                row.error = _sentence(error_of(timed.answer.failed))
        except OvertError as error:
            row.error = _sentence(error)
        except asyncio.CancelledError:
            row.error = STOPPED
            raise
        finally:
            self._fill(row, timed)
            self.rows.append(row)
            self.told(len(self.rows), self.count, model, timed)

    @property
    def count(self) -> int:
        """Answers there will be, where nothing ends it early."""
        return len(self.plan.models) * len(self.plan.asks) * self.plan.repeat

    async def _ask(self, row: ComparisonRow, timed: TimedAnswer) -> None:
        begun = time.monotonic()
        if isinstance(self.exchange.resolve(row.model), str):
            engine = await self.exchange.open(row.model)
            local = engine.capabilities.local
            row.load_seconds = round(time.monotonic() - begun, 3) if local else None
            facts = self.exchange.facts(row.model)
            row.engine, row.build, row.isolation = facts.engine, facts.build, facts.isolation
            row.where, row.bytes_out = _describe_local(facts) if local else ("", None)
        else:  # a route opens what it asks, and may ask another than its first
            local, row.engine = False, "route"
        request = Request(
            row.model,
            self.plan.asks[row.prompt_index].messages,
            sampling=self.plan.sampling,
            max_tokens=self.plan.max_tokens,
            stop=self.plan.stop,
            deterministic=local,
        )

        def see(event: Event) -> None:
            self.told(len(self.rows), self.count, row.model, timed)

        await read(self.exchange, request, timed, see)

    def _fill(self, row: ComparisonRow, timed: TimedAnswer) -> None:
        """What the events said, measured and counted."""
        answer, usage = timed.answer, timed.answer.usage
        row.text, row.thinking, row.finish = answer.text, answer.thought, answer.finish
        if (first := timed.seconds_to_first_token) is not None:
            row.seconds_to_first_token = round(first, 4)
            row.seconds = round(timed.last - timed.asked, 4)
        if usage != Usage(0, 0):
            row.tokens_in = usage.tokens_in or None  # every prompt has some
            row.tokens_out = usage.tokens_out if usage.tokens_out or not answer.text else None
            row.tokens_cached = usage.tokens_cached
            row.tokens_per_second = timed.tokens_per_second
        if answer.routed is not None:
            self._follow(row, answer.routed)
        if is_measurable(answer):
            _cost(row, usage, self.settings)
            if row.error and row.cost_known:  # it was counted until then, and may be billed whole
                row.cost, row.cost_known = None, False
                row.cost_why = "it broke off, and may have cost more than was counted"
        else:
            row.cost_why = f"it failed, and {UNCOUNTED}" if row.error else UNCOUNTED

    def _follow(self, row: ComparisonRow, routed: Routed) -> None:
        """Who answered in fact, where that was an alias, a route or a provider."""
        row.answered = routed.model or row.answered
        row.request_id = routed.request_id
        row.routed = {"model": routed.model, "why": routed.why}
        if routed.tried:
            row.routed["tried"] = ", ".join(routed.tried)
        remote = dict.fromkeys(ref for ref in (row.answered, *routed.tried) if _remote(ref))
        if remote or routed.bytes_out:
            row.bytes_out = routed.bytes_out or None
            row.where = _describe_remote(remote, row)
        elif not row.where:  # by a route, which was not looked at before it was asked
            row.where, row.bytes_out = "stayed on this machine", 0


def complete(rows: Sequence[ComparisonRow], settings: Settings) -> None:
    """Say how open each model is and what its licence says; after all timing, as it reads files."""
    from overt.evaluation import openness_summary

    known = {ref: openness_summary.of(ref, settings) for ref in {row.answered for row in rows}}
    for row in rows:
        summary = known[row.answered]
        row.step, row.step_basis, row.step_declared = summary.step, summary.basis, summary.declared
        row.licence, row.licence_verdict = summary.licence, summary.verdict
        row.licence_missing = summary.missing


def summary(models: Sequence[str], rows: Sequence[ComparisonRow]) -> list[dict[str, Any]]:
    """A line a model: medians over its answers, sums of what it used.

    `cost` adds up the known costs and is None where none is known; `cost_unknown` counts answers
    whose cost is not known.
    """
    lines = []
    for model in models:
        own = [row for row in rows if row.model == model]
        good = [row for row in own if row.error is None]
        last = own[-1] if own else None
        lines.append(
            {
                "model": model,
                "answers": len(good),
                "errors": len(own) - len(good),
                "seconds_to_first_token": _median(row.seconds_to_first_token for row in good),
                "tokens_per_second": _median(row.tokens_per_second for row in good),
                "seconds": _median(row.seconds for row in good),
                "load_seconds": next((r.load_seconds for r in own if r.load_seconds), None),
                "tokens_in": _sum(row.tokens_in for row in own),
                "tokens_out": _sum(row.tokens_out for row in own),
                "cost": _sum(row.cost for row in own),
                "cost_unknown": sum(row.cost is None for row in own),
                "bytes_out": _sum(row.bytes_out for row in own),
                "where": " / ".join(dict.fromkeys(_short(row.where) for row in own if row.where)),
                "step": last.step if last else None,
                "step_basis": last.step_basis if last else None,
                "step_declared": last.step_declared if last else None,
                "licence": last.licence if last else None,
                "licence_verdict": last.licence_verdict if last else None,
            }
        )
    return lines


def _short(where: str) -> str:
    """A row's `where` without what differs from answer to answer."""
    return where.partition("; ")[0]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 4) if known else None


def _sum(values: Iterable[Any]) -> Any:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _sentence(error: OvertError) -> str:
    return " ".join(str(error).split())


# -- who answers, where, at what price -------------------------------------------------------------


def _target(exchange: "Exchange", model: str) -> str:
    """The ref that a name stands for, as far as that is known before asking."""
    try:
        return exchange.first(model)
    except OvertError:
        return model


def _remote(ref: str) -> bool:
    try:
        return parse(ref).remote
    except BadRef:
        return False


def _describe_local(facts: "ModelFacts") -> tuple[str, int]:
    """Where the words of a model of this machine went: nowhere, and what holds it to that."""
    if facts.engine == "echo":
        return "stayed in this process", 0
    if not facts.isolation:
        return "stayed on this machine (no sandbox)", 0
    # The first layer by name: a process without a network has nowhere to send anything.
    apart = any("network" in limit for limit in facts.isolation)
    place = "no network: " if apart else "sandbox: "
    return f"stayed on this machine ({place}{', '.join(facts.isolation)})", 0


def _describe_remote(remote: Iterable[str], row: ComparisonRow) -> str:
    """Where the words went that left this process for the models `asked`."""
    servers = dict(_server(ref) for ref in remote) or {"another server": False}
    here = all(servers.values())
    text = "went to " + " and ".join(servers)
    counted = "" if row.bytes_out is None else f"; {row.bytes_out} bytes"
    number = f"; request {row.request_id}" if row.request_id else ""
    return text + " (on this machine)" * here + counted + number


def _server(ref: str) -> tuple[str, bool]:
    """``host[:port]`` that a remote ref is asked at, and whether that is this machine."""
    from overt.providers.manager import server_of

    parsed = parse(ref)
    try:
        server = server_of(parsed)
    except OvertError:  # it answered, so somebody has just changed the environment's address
        return parsed.scheme, False
    return server.shown, server.loopback


def _cost(row: ComparisonRow, usage: Usage, settings: Settings) -> None:
    """What it cost, with the models that a route asked before."""
    from overt import prices

    try:
        cost = prices.cost(row.answered, usage, settings)
    except OvertError as error:
        row.cost_why = error.message
        return
    row.cost, row.cost_known, row.cost_least = cost.usd, cost.known, cost.least
    row.cost_source, row.cost_day, row.cost_why = cost.source, cost.day, cost.why


# -- what is kept ----------------------------------------------------------------------------------


def document(
    comparison: Comparison, *, identifier: str, made: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything of a comparison that its report shows, as JSON.

    Args:
        made: when (ISO 8601).
        about: of the machine, the program and the command that made it.
    """
    plan = comparison.plan
    return {
        "id": identifier,
        "made": made,
        **about,
        "models": list(plan.models),
        "prompts": [
            {"prompt": ask.prompt, "system": ask.system, "digest": ask.digest} for ask in plan.asks
        ],
        "repeat": plan.repeat,
        "sampling": {k: v for k, v in asdict(plan.sampling).items() if v is not None},
        "max_tokens": plan.max_tokens,
        "budget": plan.budget,
        "ended": comparison.ended,
        "summary": summary(plan.models, comparison.rows),
        "rows": [row.as_json() for row in comparison.rows],
    }
