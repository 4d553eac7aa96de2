"""Running probes on one model: every item looked at once, kept, counted, and written to a receipt.

What a model cannot do is not left out in silence: the probe is listed under `skipped` with the
reason. An item whose request failed has no outcome, is counted, and leaves the figures.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final

from overt.errors import (
    BadRef,
    BadRequest,
    ContextExceeded,
    EngineFailed,
    Failure,
    FormatError,
    NotFound,
    ProviderFailed,
    Unsupported,
    UsageError,
)
from overt.evaluation.audit import figures, record
from overt.evaluation.audit.model import AuditedModel, failed
from overt.evaluation.audit.probe import AuditPlan, AuditProbe, ProbeItem, ProbeMaterial
from overt.evaluation.audit.probes import PROBES, find
from overt.evaluation.suites import receipt
from overt.evaluation.suites.answers import Answers, exclusive
from overt.evaluation.suites.ask import ModelClient, identify
from overt.evaluation.suites.budget import Budget
from overt.evaluation.suites.concurrency import at_once
from overt.gateway.exchange import Exchange
from overt.openness.export.text import canonical
from overt.settings import Settings

_OF_ONE_ITEM: Final = (BadRequest, ContextExceeded, EngineFailed, ProviderFailed)
_MAX_FAILED_ALWAYS_ALLOWED: Final = 3  # failed items that are never too many
_MAX_ERRORS: Final = 0.2


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """How far an audit is; `left` is in seconds, None where no new answer came yet."""

    model: str
    probe: str
    done: int
    total: int
    failed: int
    left: float | None


Told = Callable[[AuditProgress], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PreparedAudit:
    """Probes with their items, read before any model is asked; and those that cannot be."""

    probes: tuple[tuple[AuditProbe, ProbeMaterial], ...]
    skipped: tuple[dict[str, str], ...]


def prepare(names: Sequence[str], plan: AuditPlan) -> PreparedAudit:
    """Read the data of the probes named; of all, where none is, those without data are skipped.

    Raises:
        UsageError: there is no such probe.
        NotFound, BadRequest: a probe was named and its data are not here.
        FormatError: a data file is not what it should be.
    """
    usable, skipped = [], []
    for name in names or PROBES:
        probe = find(name)
        try:
            material = probe.material(plan)
        except (NotFound, BadRequest) as error:
            if names:
                raise
            skipped.append({"probe": name, "why": error.message, "hint": error.hint or ""})
            continue
        _check(probe, material)
        usable.append((probe, _sample(material, plan)))
    if not usable:
        raise NotFound(
            "no probe has its data here: " + "; ".join(skip["why"] for skip in skipped)[:600],
            "give --data DIR, or --documents for memorisation (docs/audit.md)",
        )
    return PreparedAudit(tuple(usable), tuple(skipped))


def _check(probe: AuditProbe, material: ProbeMaterial) -> None:
    """Raises FormatError: two items could not be told apart, and no receipt of them be read."""
    seen: set[str] = set()
    for item in material.items:
        if item.id in seen:
            raise FormatError(
                f"the data of {probe.name} have two items {item.id[:60]!r}", "give each file once"
            )
        seen.add(item.id)


async def audit(
    prepared: PreparedAudit,
    ref: str,
    exchange: Exchange,
    settings: Settings,
    plan: AuditPlan,
    purse: Budget,
    on_progress: Told = lambda _: None,
    say: Say = lambda _: None,
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """Ask `ref` everything that was prepared; returns the receipt, and its file under `path`.

    Raises:
        BudgetSpent: the cap was reached; what was answered is kept.
        Failure: not one probe could be run.
        OutOfDisk, Failure: the home cannot be written.
        OvertError: what would fail for every item, such as a missing key.
    """
    who = await identify(exchange, ref, settings)
    resolved = exchange.resolve(ref)
    if not isinstance(resolved, str):
        raise BadRef(f"{ref} is a route to several models", "audit one model: name it itself")
    purse.check(resolved)
    key = sha256(canonical(["audit", who.key]).encode()).hexdigest()[:32]
    path = settings.home / "evaluations" / "answers" / f"{key}.jsonl"
    begun, probes, skipped = time.time(), {}, [dict(skip) for skip in prepared.skipped]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(exclusive(path, who.ref, say))
        answers = Answers(path, fresh=fresh)
        stack.callback(answers.close)
        model = AuditedModel(
            exchange,
            who,
            ModelClient(exchange, who, purse, answers, signal=False),
            answers,
            plan.seed,
        )
        await model.look_around()
        for probe, material in prepared.probes:
            why = _impossible(probe, model)
            if not why:
                entries, why = await _AuditRun(probe, material, model, plan, on_progress).all(
                    purse.end
                )
                if not why:
                    probes[probe.name] = _probe_record(probe, material, model, plan, entries)
            if why:
                skipped.append({"probe": probe.name, "why": why, "hint": ""})
    if not probes:
        raise Failure(
            f"no probe could be run on {ref}: {'; '.join(skip['why'] for skip in skipped)[:600]}",
            "see docs/audit.md for what each needs",
        )
    value = _receipt(who, probes, skipped, plan, begun)
    written = await asyncio.to_thread(receipt.write, record.folder(settings.home), value)
    return receipt.sealed(value) | {"path": str(written)}


def _impossible(probe: AuditProbe, model: AuditedModel) -> str:
    if probe.need == "score" and not model.scores:
        return f"not possible here: it needs log-probabilities of a prompt, and {model.why_not}"
    return ""


class _AuditRun:
    """One probe on one model."""

    def __init__(
        self,
        probe: AuditProbe,
        material: ProbeMaterial,
        model: AuditedModel,
        plan: AuditPlan,
        on_progress: Told,
    ) -> None:
        self._probe, self._items, self._model = probe, material.items, model
        self._plan, self._told = plan, on_progress
        self._entries: list[dict[str, Any]] = [
            {"id": item.id, "groups": list(item.groups), "outcome": None} for item in self._items
        ]
        self._done = self._errors = 0
        self._most = max(_MAX_FAILED_ALWAYS_ALLOWED, int(_MAX_ERRORS * len(self._items)))
        self._begun, self._new = time.monotonic(), model.new
        self._why = ""

    async def all(self, ended: Callable[[], None]) -> tuple[list[dict[str, Any]], str]:
        """What was found of each item; and why the probe cannot be run, "" where it was.

        Args:
            ended: called where an error ends more than this probe.
        """
        self._tell()
        await at_once(self._waiting(), self._one, self._plan.concurrency, ended)
        return self._entries, self._why

    def _waiting(self) -> Iterator[int]:
        """The places of the items, until it is known that the probe cannot be run."""
        return (at for at in range(len(self._items)) if not self._why)

    async def _one(self, at: int) -> None:
        entry = self._entries[at]
        try:
            entry["outcome"] = await self._probe.look(self._items[at], self._model, self._plan)
        except Unsupported as error:
            self._why = f"not possible here: {error.message}"
        except _OF_ONE_ITEM as error:
            entry["error"] = failed(error)
            self._errors += 1
            if self._errors > self._most:
                self._why = (
                    f"{self._errors} of {self._done + 1} items failed and {self._most} may; the "
                    f"last: {error.message[:200]}"
                )
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        left, total = None, len(self._items)
        if self._done and self._model.new > self._new:
            left = (time.monotonic() - self._begun) / self._done * (total - self._done)
        self._told(
            AuditProgress(
                self._model.who.ref, self._probe.name, self._done, total, self._errors, left
            )
        )


def _probe_record(
    probe: AuditProbe,
    material: ProbeMaterial,
    model: AuditedModel,
    plan: AuditPlan,
    entries: list[dict[str, Any]],
) -> dict[str, Any]:
    by = "score" if probe.need != "answer" and model.scores else "chat"
    counted = [entry for entry in entries if entry["outcome"] is not None]
    notes = list(material.notes)
    if probe.sets and any(data["set"] in probe.sets for data in material.data):
        notes.append("the set is public: a model may have been trained on it")
    if 0 < len(counted) < figures.MIN_ANSWERS:
        notes.append(f"{len(counted)} items: too few to conclude anything from")
    return {
        "title": probe.title,
        "version": probe.version,
        "method": probe.method,
        "by": by,
        "limits": list(probe.limits),
        "cite": list(probe.cite),
        "data": [dict(data) for data in material.data],
        "parameters": parameters(probe, plan),
        "n": len(counted),
        "failed": len(entries) - len(counted),
        "notes": notes,
        "figures": figures.of_probe(probe, entries, plan.seed),
        "items": entries,
    }


def parameters(probe: AuditProbe, plan: AuditPlan) -> dict[str, Any]:
    """What of the plan changes an item's outcome: two results are compared only where it agrees."""
    return {name: getattr(plan, name) for name in probe.uses}


def like(before: Mapping[str, Any], prepared: PreparedAudit, plan: AuditPlan) -> dict[str, str]:
    """Why each probe that is prepared could not be compared with a receipt; "" where it could.

    Raises:
        UsageError: not one could be, with the first reason: nobody need be asked to know it.
    """
    sides = {}
    for probe, material in prepared.probes:
        record_ = {
            "version": probe.version,
            "data": material.data,
            "parameters": parameters(probe, plan),
        }
        other = before["probes"].get(probe.name)
        sides[probe.name] = (
            "it is not in the receipt" if other is None else record.unlike(probe, record_, other)
        )
    if all(sides.values()):
        name, why = next(iter(sides.items()))
        raise UsageError(
            f"nothing could be compared with the receipt: {name}: {why}",
            "give the same probes, data and options as it has, or leave --against out",
        )
    return sides


def _sample(material: ProbeMaterial, plan: AuditPlan) -> ProbeMaterial:
    """At most `limit` items, as many of each part as there are, in the order of the data."""
    count = len(material.items)
    if not plan.limit or plan.limit >= count:
        return material
    draw = Random(plan.seed)  # noqa: S311 - a sample, not a secret
    parts: dict[str, list[int]] = {}
    for at, item in enumerate(material.items):
        parts.setdefault(item.part, []).append(at)
    for places in parts.values():
        draw.shuffle(places)
    names = sorted(parts)
    draw.shuffle(names)  # which parts have one more, where it does not come out even
    chosen: list[int] = []
    while len(chosen) < plan.limit:
        for name in names:
            if parts[name] and len(chosen) < plan.limit:
                chosen.append(parts[name].pop())
    items: list[ProbeItem] = [material.items[at] for at in sorted(chosen)]
    how = ", in equal parts of " + ", ".join(sorted(parts))[:200] if len(parts) > 1 else ""
    note = f"{plan.limit} of {count} items, drawn with seed {plan.seed}{how}"
    return ProbeMaterial(items, material.data, [*material.notes, note])


def _receipt(
    who: Any, probes: dict[str, Any], skipped: list[dict[str, str]], plan: AuditPlan, begun: float
) -> dict[str, Any]:
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun))
    value: dict[str, Any] = {
        "form": record.FORM,
        "made": made,
        "seed": plan.seed,
        "limit": plan.limit,
        "model": who.told(),
        "environment": receipt.environment(),
        "seconds": round(time.time() - begun, 3),
        "probes": probes,
        "skipped": skipped,
    }
    id = receipt.name_of(made, "audit", who.ref, f"{begun} {canonical(value)}")
    return value | {"id": id}
