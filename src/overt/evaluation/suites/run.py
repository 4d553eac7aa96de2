"""Running a suite on a model: every item asked once, graded, counted, and written to a receipt.

Everything goes through one `Exchange`, so local models, providers, aliases and routes are scored
alike. Answers are kept as they come (answers.py). An item whose request failed counts as wrong,
unless the options say otherwise, and is counted apart; what would fail for every item ends the run.
Requests that are on their way then are waited for: they are paid for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from overt.errors import (
    BadRef,
    BadSetting,
    DoesNotFit,
    Failure,
    FormatError,
    NotFound,
    Offline,
    OvertError,
    Refused,
    Stopped,
    Unsupported,
)
from overt.evaluation.compare_page import dollars
from overt.evaluation.suites import intervals, receipt, runners
from overt.evaluation.suites.answers import Answers, ModelReply, NotKept, exclusive, failed
from overt.evaluation.suites.ask import ModelClient, ModelIdentity, identify
from overt.evaluation.suites.budget import Budget
from overt.evaluation.suites.concurrency import at_once
from overt.evaluation.suites.runners import Grade, RunnerTools, SuiteRunner
from overt.evaluation.suites.runners.judge import Unparsed
from overt.evaluation.suites.suite import Suite, SuiteItem
from overt.gateway.exchange import Exchange
from overt.openness.export.text import canonical
from overt.settings import Settings

_FATAL = (
    BadRef,
    BadSetting,
    DoesNotFit,
    FormatError,
    NotFound,
    NotKept,
    Offline,
    Refused,
    Stopped,
    Unsupported,
)
_MAX_FAILED_ALWAYS_ALLOWED = 3  # failed items that are never too many
_SHOWN = 200  # characters of an extracted answer in a receipt

Told = Callable[["SuiteProgress"], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """How a suite is run.

    Attributes:
        concurrency: requests on their way at once.
        limit: items, drawn by the suite's seed; None for all.
        errors: what a failed item counts as.
        most_errors: share of the items that may fail before the run ends.
        fresh: ask again what was answered before.
        texts: keep whole answers in the receipt, and not their digests alone.
        unsafe_code: run models' code without a sandbox.
        judge, against: refs of the model that judges, and of the one it compares with; "" for none.
        deterministic: ask for the same text whatever else an engine is doing (chat.Request).
    """

    concurrency: int = 1
    limit: int | None = None
    errors: Literal["wrong", "leave-out"] = "wrong"
    most_errors: float = 0.2
    fresh: bool = False
    texts: bool = False
    unsafe_code: bool = False
    judge: str = ""
    against: str = ""
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class SuiteProgress:
    """How far a run is.

    Attributes:
        done, total, errors: items.
        left: seconds that the rest will take, as the new answers went; None where none came yet.
        score: the mean so far; None before the first grade.
        spent: US dollars.
    """

    model: str
    done: int
    total: int
    errors: int
    left: float | None
    score: float | None
    spent: float


@dataclass(slots=True)
class _SuiteRow:
    item: SuiteItem
    reply: ModelReply | None = None
    grade: Grade | None = None
    error: OvertError | None = None
    owed: bool = False  # its request failed and may be billed all the same


async def evaluate(
    suite: Suite,
    model: str,
    exchange: Exchange,
    settings: Settings,
    options: SuiteOptions,
    purse: Budget,
    on_progress: Told = lambda _: None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Score `model` on `suite`; returns the receipt, and its file under `path`.

    `told` is shown how it goes, `say` gets remarks for people.

    Raises:
        FormatError, BadRequest, NoIsolation: the suite cannot be graded here; nothing was asked.
        BudgetSpent: the cap was reached; what was answered is kept.
        Failure: too many items failed.
        OutOfDisk, Failure: the home cannot be written; nothing was asked, unless it filled up.
        OvertError: what would fail for every item, such as a missing key.
    """
    sample = suite.sample(options.limit, suite.seed)
    sample = _constrained(sample)
    who = await identify(exchange, model, settings)
    identities = {"": who}
    for role in ("judge", "against"):
        if suite.kind == "judge" and (ref := getattr(options, role)):
            identities[role] = await identify(exchange, ref, settings)
    folder, assumed = settings.home / "evaluations", purse.assumed
    async with AsyncExitStack() as stack:
        # A rival's answers are those it has when it is scored itself; a judge's are its own.
        files = {
            role: _file(folder, suite, "judge " * (role == "judge") + identity.key)
            for role, identity in identities.items()
        }
        askers: dict[Path, ModelClient] = {}  # one for a model that is set beside itself
        # In one order everywhere, or two runs could wait for each other.
        for path, role in sorted({path: role for role, path in reversed(files.items())}.items()):
            await stack.enter_async_context(exclusive(path, identities[role].ref, say))
            answers = Answers(path, fresh=options.fresh)
            stack.callback(answers.close)
            askers[path] = ModelClient(
                exchange, identities[role], purse, answers, signal=role != "judge"
            )
        others = {role: askers[path] for role, path in files.items() if role}
        tools = _tools(sample, options, others)
        runner = await asyncio.to_thread(runners.make, sample, tools)
        _check_prices(purse, exchange, [model, *(getattr(options, role) for role in others)])
        run = _SuiteRun(sample, model, askers[files[""]], runner, options, purse, on_progress)
        begun = time.time()
        rows = await run.all()
    notes = _uncounted(rows, purse.assumed - assumed)
    value = _receipt(sample, suite, who, runner, rows, options, begun, notes)
    path = await asyncio.to_thread(receipt.write, folder, value)
    return value | {"path": str(path)}


def _tools(suite: Suite, options: SuiteOptions, others: dict[str, ModelClient]) -> RunnerTools:
    judge, rival = others.get("judge"), others.get("against")

    async def answer(item: SuiteItem) -> str:
        assert rival is not None
        request = suite.request(item, options.against)
        if options.deterministic:
            request = replace(request, deterministic=True)
        return (await rival.ask(request)).text

    return RunnerTools(
        judge.whole if judge else None,
        options.judge,
        answer if rival else None,
        options.against,
        options.unsafe_code,
    )


class _SuiteRun:
    def __init__(
        self,
        suite: Suite,
        model: str,
        asker: ModelClient,
        runner: SuiteRunner,
        options: SuiteOptions,
        purse: Budget,
        on_progress: Told,
    ) -> None:
        self._suite, self._model, self._asker, self._runner = suite, model, asker, runner
        self._options, self._purse, self._told = options, purse, on_progress
        self._rows = [_SuiteRow(item) for item in suite.items]
        self._done = self._errors = self._new = 0
        self._sum, self._graded = 0.0, 0
        self._begun = time.monotonic()

    async def all(self) -> list[_SuiteRow]:
        """Ask and grade every item, some at once.

        Where an error ends it, the answers that are on their way are still waited for and kept.
        """
        count = min(self._options.concurrency, len(self._rows))
        await at_once(self._rows, self._one, count, self._purse.end)
        return self._rows

    async def _one(self, row: _SuiteRow) -> None:
        request = self._suite.request(row.item, self._model)
        if self._options.deterministic:
            request = replace(request, deterministic=True)
        try:
            row.reply = await self._asker.ask(request)
            row.grade = await self._runner.grade(row.item, row.reply.text)
        except _FATAL:
            raise
        except OvertError as error:
            row.error, row.owed = error, self._asker.owes(request)
            self._failed(error)
        self._done += 1
        self._new += row.reply is None or not row.reply.cached
        if row.grade is not None and row.grade.score is not None:
            self._sum += row.grade.score
            self._graded += 1
        self._told(self._progress())

    def _failed(self, error: OvertError) -> None:
        self._errors += 1
        most = max(_MAX_FAILED_ALWAYS_ALLOWED, int(self._options.most_errors * len(self._rows)))
        if self._errors > most:
            raise Failure(
                f"{self._errors} of {self._done + 1} items failed so far and {most} may; the last"
                f" of them: {error.message}",
                error.hint or "see to that and run it again: its answers are kept",
            )

    def _progress(self) -> SuiteProgress:
        total = len(self._rows)
        left = None
        if self._new:
            left = (time.monotonic() - self._begun) / self._new * (total - self._done)
        score = self._sum / self._graded if self._graded else None
        return SuiteProgress(
            self._model, self._done, total, self._errors, left, score, self._purse.spent
        )


def _constrained(suite: Suite) -> Suite:
    if suite.kind == "schema" and suite.told.get("constrain"):
        from overt.evaluation.suites.runners.schema import schema_of

        return replace(suite, json_schema=schema_of(suite))
    return suite


def _check_prices(purse: Budget, exchange: Exchange, refs: list[str]) -> None:
    for ref in refs:
        target = exchange.resolve(ref)
        if isinstance(target, str):
            purse.check(target)
        elif purse.cap is not None and not purse.allow_unknown:
            raise Refused(
                f"{ref} is a route, and what an answer of it costs at most is not known",
                "leave --budget out, or give --allow-unknown to count what is used",
            )


def _file(folder: Path, suite: Suite, who: str) -> Path:
    key = sha256(canonical([suite.digest, who]).encode()).hexdigest()[:32]
    return folder / "answers" / f"{key}.jsonl"


# ---- the receipt ---------------------------------------------------------------------------


def _receipt(
    suite: Suite,
    whole: Suite,
    who: ModelIdentity,
    runner: SuiteRunner,
    rows: list[_SuiteRow],
    options: SuiteOptions,
    begun: float,
    notes: list[str],
) -> dict[str, Any]:
    items = [_entry(row, options) for row in rows]
    scores = [float(item["score"]) for item in items if item["score"] is not None]
    if not scores:
        raise Failure(
            f"none of {len(rows)} items could be judged", "see docs/eval.md for what is not judged"
        )
    interval, method = intervals.of_scores(scores, suite.seed)
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun))
    digests = {digest: Path(name).name for name, digest in suite.data}
    grades = [dict(row.grade.detail) for row in rows if row.grade is not None]
    value: dict[str, Any] = {
        "form": receipt.FORM,
        "made": made,
        "suite": _suite(suite, whole, runner),
        "data": [{"file": Path(n).name, "sha256": digest} for n, digest in suite.data],
        "model": who.told(),
        "judge": options.judge if suite.kind == "judge" else None,
        "against": options.against or None if suite.kind == "judge" else None,
        "parameters": {
            "temperature": suite.temperature,
            "seed": suite.seed,
            "max_tokens": suite.max_tokens,
            "stop": list(suite.stop),
            "think": suite.think,
            "shots": suite.shots,
            "limit": options.limit,
            "concurrency": options.concurrency,
            "errors": options.errors,
            "deterministic": options.deterministic,
        },
        "environment": receipt.environment(),
        "score": intervals.mean(scores),
        "interval": list(interval),
        "interval_method": method,
        "n": len(scores),
        "summary": runner.summary(grades),
        "totals": _totals(rows, time.time() - begun),
        "notes": [*receipt.contamination(digests, suite.public), *notes],
        "items": items,
    }
    return value | {"id": receipt.name_of(made, suite.name, who.ref, f"{begun} {canonical(value)}")}


def _suite(suite: Suite, whole: Suite, runner: SuiteRunner) -> dict[str, Any]:
    return {
        "name": suite.name,
        "kind": suite.kind,
        "digest": suite.digest,
        "version": str(suite.told.get("version", "")),
        "method": runner.method,
        "items": len(whole.items),
        "asked": len(suite.items),
        "public": suite.public,
        "licence": suite.licence,
    }


def _entry(row: _SuiteRow, options: SuiteOptions) -> dict[str, Any]:
    reply, grade = row.reply, row.grade
    score = grade.score if grade else 0.0 if options.errors == "wrong" else None
    entry: dict[str, Any] = {
        "id": row.item.id,
        "score": score,
        "answer": (grade.answer[:_SHOWN] if grade else ""),
        "answer_sha256": sha256(reply.text.encode("utf-8", "replace")).hexdigest() if reply else "",
        "signal": reply.signal if reply else None,
        "finish": reply.finish if reply else "",
        "tokens_in": reply.tokens_in if reply else None if row.owed else 0,
        "tokens_out": reply.tokens_out if reply else None if row.owed else 0,
        "seconds": reply.seconds if reply else 0.0,
        "cost": reply.cost if reply else None,
        "error": failed(row.error) if row.error else None,
        "detail": dict(grade.detail) if grade else {},
    }
    if options.texts and reply:
        entry["text"] = reply.text
    if reply and reply.model:
        entry["by"] = reply.model
    return entry


def _totals(rows: list[_SuiteRow], seconds: float) -> dict[str, Any]:
    replies = [row.reply for row in rows if row.reply is not None]
    known = [reply.cost for reply in replies if reply.cost is not None]
    unknown = len(replies) - len(known) + sum(row.owed for row in rows)
    return {
        "errors": sum(row.error is not None for row in rows),
        "judge_unparsed": sum(isinstance(row.error, Unparsed) for row in rows),
        "not_judged": sum(row.grade is not None and row.grade.score is None for row in rows),
        "cut": sum(reply.finish == "length" for reply in replies),
        "refused": sum(reply.finish == "refusal" for reply in replies),
        "cached": sum(reply.cached for reply in replies),
        "tokens_in": sum(reply.tokens_in or 0 for reply in replies),  # as far as it was told
        "tokens_out": sum(reply.tokens_out or 0 for reply in replies),
        "uncounted": len(_unreported(rows)),
        "seconds": round(seconds, 3),
        "cost": None if unknown else sum(known),  # never 0 for what is unknown
        "cost_known": not unknown,
        "cost_unknown": unknown,
        "cost_least": sum(known),
    }


def _unreported(rows: list[_SuiteRow]) -> list[_SuiteRow]:
    """Those of which nobody told what they took, failed ones that may be billed among them."""
    return [row for row in rows if row.owed or (row.reply and row.reply.tokens_in is None)]


def _uncounted(rows: list[_SuiteRow], assumed: float) -> list[str]:
    """A note on what was not told; `assumed` US dollars were taken from the budget for it."""
    if not (count := len(_unreported(rows))):
        return []
    note = f"what {count} of {len(rows)} answers took was not told: their cost is not known"
    if assumed > 0:
        note += f", and {dollars(assumed)} of the budget was taken for such, the most they may cost"
    return [note]
