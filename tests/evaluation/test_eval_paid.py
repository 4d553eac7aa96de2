"""What an evaluation costs where that is hard to tell, two at once, and homes that take nothing."""

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from overt.chat import Done, Event, Failed, Request, Routed, Text, Usage
from overt.errors import Failure, OutOfDisk, OvertError, ProviderFailed
from overt.evaluation.suites import answers, receipt
from overt.evaluation.suites import suite as task
from overt.evaluation.suites.budget import Budget, BudgetSpent
from overt.evaluation.suites.run import SuiteOptions, evaluate
from overt.gateway.exchange import Exchange
from overt.settings import load

_RIGHT: list[Event] = [Routed("openai:x"), Text("yes"), Usage(10, 10), Done("stop")]


class Paid(Exchange):
    """Says `said` to everything; `busy` is how many times it lets others go on meanwhile."""

    def __init__(self, said: list[Event | OvertError], busy: int = 0) -> None:
        super().__init__(load())
        self.said, self.busy = said, busy
        self.asked = self.answered = self.cancelled = 0

    async def stream(self, request: Request, *_: Any, **__: Any) -> AsyncGenerator[Event, None]:
        self.asked += 1
        try:
            for _i in range(self.busy):
                await asyncio.sleep(0)
            for event in self.said:
                if isinstance(event, OvertError):
                    raise event
                yield event
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.answered += 1


class Cents(Budget):
    """A token costs a cent, and each request may take 20: 16 and more of prompt, 4 of answer."""

    def price(self, ref: str, usage: Usage) -> float | None:
        return 0.01 * (usage.tokens_in + usage.tokens_out)

    _listed = price


@pytest.fixture
def suite(tmp_path: Path) -> task.Suite:
    (tmp_path / "q.csv").write_text("q\n" + "".join(f"{i}\n" for i in range(10)))
    path = tmp_path / "q.yaml"
    path.write_text(
        'kind: exact\nname: ten\ndata: q.csv\nprompt: "{q}"\nanswer: "yes"\nmax_tokens: 4\n'
    )
    return task.load(str(path))


def run(
    suite: task.Suite, exchange: Exchange, purse: Budget | None = None, **options: Any
) -> dict[str, Any]:
    purse = purse or Cents(load())
    return asyncio.run(evaluate(suite, "echo:x", exchange, load(), SuiteOptions(**options), purse))


# ---- what nobody tells ---------------------------------------------------------------------


@pytest.mark.parametrize("told", [[], [Usage(0, 0)], [Usage(0, 3)], [Usage(7, 0)]])
def test_what_was_not_told_is_not_nothing(suite: task.Suite, told: list[Event]) -> None:
    purse = Cents(load(), cap=100.0)
    found = run(suite, Paid([Routed("openai:x"), Text("yes"), *told, Done("stop")]), purse)
    totals = found["totals"]
    assert (totals["cost"], totals["cost_known"], totals["cost_unknown"]) == (None, False, 10)
    assert found["items"][0]["cost"] is found["items"][0]["tokens_in"] is None
    assert totals["uncounted"] == 10
    assert purse.spent == pytest.approx(10 * 0.2)  # what was held for each
    assert purse.assumed == pytest.approx(10 * 0.2 - 10 * (purse.price("", told[0]) if told else 0))  # type: ignore[operator, arg-type]
    assert purse.held == pytest.approx(0)
    assert found["notes"][0].startswith("what 10 of 10 answers took was not told")
    assert "of the budget was taken for such" in found["notes"][0]
    again = run(suite, Paid([]), Cents(load()))
    assert (again["totals"]["cached"], again["totals"]["cost_known"]) == (10, False)


def test_a_budget_bites_where_nothing_is_told(suite: task.Suite) -> None:
    exchange = Paid([Routed("openai:x"), Text("yes"), Done("stop")])
    with pytest.raises(BudgetSpent, match=r"\$0.60 is spent \(\$0.60 of it assumed, for answers"):
        run(suite, exchange, Cents(load(), cap=0.61))
    assert exchange.asked == 3


@pytest.mark.parametrize(
    ("said", "owed"),
    [
        ([ProviderFailed("it hung up", billed=True)], True),
        ([Routed("openai:x"), Text("y"), Failed("provider_failed", "it broke off")], True),
        ([Routed("openai:x"), Text("y"), Usage(5, 1), ProviderFailed("it broke off")], True),
        ([ProviderFailed("it refused", billed=False)], False),
    ],
)
def test_what_broke_off_may_be_billed(
    suite: task.Suite, said: list[Event | OvertError], owed: bool
) -> None:
    purse = Cents(load(), cap=100.0)
    found = run(suite, Paid(said), purse, most_errors=1.0)
    assert found["totals"]["errors"] == 10
    assert found["totals"]["cost_known"] is not owed
    assert found["totals"]["cost_unknown"] == 10 * owed
    assert found["items"][0]["tokens_in"] == (None if owed else 0)
    assert purse.spent == pytest.approx(2.0 * owed)
    assert (purse.held, bool(found["notes"])) == (pytest.approx(0), owed)


# ---- a cap and several at once --------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4, 10])
def test_a_budget_cancels_nothing_and_counts_all(suite: task.Suite, concurrency: int) -> None:
    purse = Cents(load(), cap=1.0)
    exchange = Paid(_RIGHT, busy=5)
    with pytest.raises(BudgetSpent, match=r"\$1.00 is spent"):
        run(suite, exchange, purse, concurrency=concurrency)
    assert (exchange.asked, exchange.answered, exchange.cancelled) == (5, 5, 0)
    assert (purse.spent, purse.held) == (pytest.approx(1.0), pytest.approx(0))
    rest = Paid(_RIGHT)
    assert run(suite, rest)["totals"]["cached"] == 5
    assert rest.asked == 5


def test_as_many_are_sent_as_fit(suite: task.Suite) -> None:
    """Two fit beside each other; as they cost a tenth of what they may, all ten fit in the end."""
    small: list[Event | OvertError] = [
        Routed("openai:x"), Text("yes"), Usage(1, 1), Done("stop"),
    ]  # fmt: skip
    purse = Cents(load(), cap=0.45)
    found = run(suite, Paid(small, busy=3), purse, concurrency=8)
    assert found["n"] == 10
    assert purse.spent == pytest.approx(0.2)
    none = Paid(small)
    with pytest.raises(BudgetSpent, match=r"\$0.00 is spent and the next request may cost \$0.20"):
        run(suite, none, Cents(load(), cap=0.1), concurrency=8, fresh=True)
    assert none.asked == 0


def test_an_error_for_all_sends_none_of_those_that_wait(suite: task.Suite) -> None:
    exchange = Paid([OutOfDisk("no room")], busy=3)
    with pytest.raises(OutOfDisk):
        run(suite, exchange, Cents(load(), cap=0.45), concurrency=8)
    assert exchange.asked == 2


# ---- two at once ---------------------------------------------------------------------------


def test_two_at_once_pay_once(suite: task.Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_POLL", 0.005)
    said: list[str] = []

    async def both() -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(
                evaluate(
                    suite, "echo:x", one, load(), SuiteOptions(), Cents(load()), say=said.append
                )
                for one in (first, second)
            )
        )  # fmt: skip

    first, second = Paid(_RIGHT, busy=5), Paid(_RIGHT, busy=5)
    found = asyncio.run(both())
    assert first.asked + second.asked == 10
    assert sorted(one["totals"]["cached"] for one in found) == [0, 10]
    assert said == ["another process is asking echo:x the same: waiting for its answers"]
    assert found[0]["items"][0]["score"] == found[1]["items"][0]["score"] == 1


# ---- homes that take nothing ----------------------------------------------------------------


def test_a_home_that_cannot_be_written_is_said_before_anything_is_asked(
    suite: task.Suite, home: Path
) -> None:
    (home / "evaluations").write_text("in the way")
    exchange = Paid(_RIGHT)
    with pytest.raises(Failure, match="cannot be written") as caught:
        run(suite, exchange)
    assert (caught.value.hint, exchange.asked) == ("check OVERT_HOME", 0)


def _refusing(number: int) -> Callable[..., int]:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, OutOfDisk), (errno.EIO, answers.NotKept)]
)
def test_an_answer_that_cannot_be_kept_ends_it(
    suite: task.Suite, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[OvertError]
) -> None:
    exchange = Paid(_RIGHT)
    with monkeypatch.context() as patch:
        patch.setattr(answers.os, "fsync", _refusing(number))
        with pytest.raises(kind) as caught:
            run(suite, exchange)
    assert caught.value.hint
    assert exchange.asked == 1, "more would be paid for and lost"
    assert run(suite, exchange)["n"] == 10


def test_a_receipt_that_cannot_be_written(
    suite: task.Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt.atomic, "write", _refusing(errno.ENOSPC))
    with pytest.raises(OutOfDisk, match="is full"):
        run(suite, Paid(_RIGHT))
