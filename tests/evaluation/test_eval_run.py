"""A run from suite to receipt: cache, resume, errors, budget, several at once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import Done, Event, Request, Routed, Text, Usage
from overt.errors import Busy, Failure, FormatError, IntegrityError, NeedsAccess, NotFound, Refused
from overt.evaluation.suites import receipt
from overt.evaluation.suites import suite as task
from overt.evaluation.suites.answers import Answers, ModelReply, key_of
from overt.evaluation.suites.budget import Budget, BudgetSpent
from overt.evaluation.suites.run import SuiteOptions, evaluate
from overt.gateway import routing
from overt.gateway.exchange import Exchange
from overt.settings import Settings, load


class Counting(Exchange):
    """Counts requests; `fail` maps a word of a prompt to the error to raise."""

    def __init__(self, settings: Settings, fail: dict[str, Exception] | None = None) -> None:
        super().__init__(settings)
        self.asked: list[str] = []
        self.at_once = self.most = 0
        self.fail = fail or {}
        self.usage: Usage | None = None

    async def stream(self, request: Request, *a: Any, **k: Any) -> AsyncGenerator[Event, None]:
        text = request.messages[-1].text
        self.asked.append(text)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0)
            for word, error in self.fail.items():
                if word in text:
                    raise error
            if self.usage:
                yield Routed("openai:gpt-test")
                yield Text("Paris")
                yield self.usage
                yield Done("stop")
                return
            async for event in super().stream(request, *a, **k):
                yield event
        finally:
            self.at_once -= 1


@pytest.fixture
def suite(tmp_path: Path) -> task.Suite:
    """Ten questions that echo answers: five rightly."""
    rows = "".join(f"word{i},{'word' if i % 2 else 'other'}{i}\n" for i in range(10))
    (tmp_path / "w.csv").write_text("said,wanted\n" + rows)
    path = tmp_path / "w.yaml"
    path.write_text('kind: exact\nname: words\ndata: w.csv\nprompt: "{said}"\nanswer: "{wanted}"\n')
    return task.load(str(path))


def run(
    suite: task.Suite, exchange: Exchange | None = None, purse: Budget | None = None, **options: Any
) -> dict[str, Any]:
    settings = load()

    async def once() -> dict[str, Any]:
        used = exchange or Exchange(settings)
        try:
            return await evaluate(
                suite, "echo:x", used, settings, SuiteOptions(**options), purse or Budget(settings)
            )
        finally:
            await used.close()

    return asyncio.run(once())


def test_a_receipt_holds_what_was_done(suite: task.Suite, home: Path) -> None:
    found = run(suite)
    assert (found["score"], found["n"]) == (0.5, 10)
    assert found["interval"] == pytest.approx([0.2366, 0.7634], abs=1e-4)
    path = Path(found["path"])
    assert path.parent == home / "evaluations"
    kept = receipt.read(path.name, path.parent)
    assert kept["items"][1]["id"] == "w/2"
    assert [item["score"] for item in kept["items"]] == [0, 1] * 5
    assert kept["suite"]["digest"] == suite.digest
    assert kept["data"] == [{"file": "w.csv", "sha256": suite.data[0][1]}]
    assert kept["totals"]["tokens_in"] == 10
    assert kept["totals"]["cost_known"] is False  # nobody said what this machine takes
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(home) not in path.read_text()


def test_answers_are_kept_and_asked_again_on_demand(suite: task.Suite) -> None:
    first, again, fresh = (Counting(load()) for _ in range(3))
    run(suite, first)
    found = run(suite, again)
    run(suite, fresh, fresh=True)
    assert [len(one.asked) for one in (first, again, fresh)] == [10, 0, 10]
    assert found["totals"]["cached"] == 10
    other = Counting(load())
    run(replace(suite, digest="0" * 64), other)
    run(replace(suite, seed=3), other)
    assert len(other.asked) == 20


def test_no_more_are_on_their_way_than_allowed(suite: task.Suite) -> None:
    exchange = Counting(load())
    assert run(suite, exchange, concurrency=4)["score"] == 0.5
    assert exchange.most == 4


def test_a_failed_item_is_wrong_or_left_out_and_asked_again(suite: task.Suite) -> None:
    wrong = run(suite, Counting(load(), {"word3": Busy("no room")}))
    assert (wrong["score"], wrong["n"], wrong["totals"]["errors"]) == (0.4, 10, 1)
    assert wrong["items"][3]["error"] == {"code": "busy", "message": "no room"}
    out = run(suite, Counting(load(), {"word3": Busy("no room")}), errors="leave-out")
    assert (out["score"], out["n"], out["totals"]["errors"]) == (4 / 9, 9, 1)
    assert run(suite)["totals"]["cached"] == 9


def test_too_many_failures_end_the_run(suite: task.Suite) -> None:
    exchange = Counting(load(), {"word": Busy("no room")})
    with pytest.raises(Failure, match="4 of 4 items failed so far and 3 may"):
        run(suite, exchange)
    assert len(exchange.asked) == 4


def test_what_would_fail_for_all_ends_the_run_at_once(suite: task.Suite) -> None:
    exchange = Counting(load(), {"word1": NeedsAccess("no key")})
    with pytest.raises(NeedsAccess):
        run(suite, exchange, concurrency=3)
    assert len(exchange.asked) <= 5


def test_a_budget_is_kept(suite: task.Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token costs a cent; the ten answers cost 20 cents each."""
    monkeypatch.setattr(
        Budget, "price", lambda self, ref, usage: 0.01 * (usage.tokens_in + usage.tokens_out)
    )
    small = replace(suite, max_tokens=4)
    exchange = Counting(load())
    exchange.usage = Usage(10, 10)
    purse = Budget(load(), cap=1.0)
    with pytest.raises(BudgetSpent, match=r"\$0.80 is spent|budget of \$1 is used up"):
        run(small, exchange, purse)
    assert purse.spent <= 1.0
    assert purse.held == pytest.approx(0)
    spent = len(exchange.asked)
    assert 3 <= spent <= 5
    rest = Counting(load())
    rest.usage = Usage(10, 10)
    found = run(small, rest, Budget(load(), cap=5.0))
    assert len(rest.asked) == 10 - spent
    assert found["totals"]["cost"] == pytest.approx(2.0)


def test_what_a_route_asked_before_is_paid_for() -> None:
    """A dollar a token, but nobody knows what openai:dear takes."""

    class Dear(Budget):
        def price(self, ref: str, usage: Usage) -> float | None:
            assert not usage.before
            return None if ref == "openai:dear" else float(usage.tokens_in)

    purse = Dear(load())
    inner = Usage(3, 0, before=(("openai:b", Usage(5, 0)),))
    assert purse.pay(0, "openai:a", Usage(1, 0, before=(("openai:c", inner),))) == 9
    assert purse.pay(0, "openai:a", Usage(1, 0, before=(("openai:dear", Usage(1, 0)),))) is None
    assert (purse.spent, purse.unknown) == (10, 1)  # what is known of the second is counted


def test_real_prices_are_asked_for_and_local_ones_are_nothing() -> None:
    purse = Budget(load())
    assert purse.price("openai:gpt-4o-mini", Usage(1_000_000, 0)) == pytest.approx(0.15)
    assert purse.price("openai:no-such-model", Usage(1, 1)) is None
    assert purse.price("smollm2", Usage(1, 1)) == 0
    assert purse.price("http://127.0.0.1:8000/v1#x", Usage(1, 1)) == 0
    assert purse.price("https://example.org/v1#x", Usage(1, 1)) is None
    assert purse.pay(0, "smollm2", Usage(1, 1)) is None
    assert purse.spent == 0


def test_an_unknown_price_is_no_price(suite: task.Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "price", lambda self, ref, usage: None)
    with pytest.raises(Refused, match="is not known"):
        run(suite, purse=Budget(load(), cap=1.0))
    found = run(suite, purse=Budget(load(), cap=1.0, allow_unknown=True))
    assert found["totals"]["cost_known"] is False
    assert found["items"][0]["cost"] is None
    assert found["totals"]["cost"] is None
    assert found["totals"]["cost_known"] is False


def test_two_receipts_are_compared_item_by_item(suite: task.Suite, home: Path) -> None:
    first = run(suite)
    second = run(suite, Counting(load(), {"word3": Busy("x")}))  # kept, so answered all the same
    fresh = run(suite, Counting(load(), {"word3": Busy("x")}), fresh=True)
    assert receipt.compare(first, second)["difference"] == 0
    found = receipt.compare(first, fresh)
    assert found["difference"] == pytest.approx(0.1)
    assert (found["n"], found["first_only"], found["second_only"]) == (10, 1, 0)
    assert (found["mcnemar_p"], found["same_suite"]) == (1.0, True)
    assert found["interval"][0] == 0 < found["interval"][1]
    other = {**fresh, "data": [{"sha256": "0"}]}
    with pytest.raises(FormatError, match="of different items"):
        receipt.compare(first, other)


def test_a_changed_receipt_is_found_out(suite: task.Suite, home: Path) -> None:
    path = Path(run(suite)["path"])
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told, indent=1))
    assert receipt.read(str(path), home)["n"] == 10  # laid out anew, not changed
    told["items"][0]["score"] = 1.0
    path.write_text(json.dumps(told))
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        receipt.read(str(path), home)
    with pytest.raises(NotFound):
        receipt.read("nowhere", home)


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5), st.just(receipt.FORM)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    ["form", "sha256", "suite", "model", "totals", "score", "n", "interval",
                     "items", "id"]
                ),
                inner,
            ),
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_json_is_a_receipt_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "r.json"
    path.write_text(json.dumps(value))
    with pytest.raises((FormatError, IntegrityError)):
        receipt.read(str(path), path.parent)


def test_known_data_sets_are_noted(suite: task.Suite) -> None:
    known = next(iter(receipt.known_sets()))
    assert "GSM8K test is public" in receipt.contamination({known: "x"}, False)[0]
    assert receipt.contamination({"0": "x"}, False) == []
    assert run(replace(suite, public=True))["notes"]


# ---- answers on the disk -------------------------------------------------------------------

_REPLY = ModelReply("a\nb", "stop", 1, 2, 0.5, None, "echo:x")


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    kept = Answers(path)
    kept.put("one", _REPLY)
    kept.put("two", _REPLY)
    kept.close()
    data = path.read_bytes()
    half = len(data) // 2
    for cut in {0, 1, *range(half - 3, half + 3), *range(len(data) - 2, len(data) + 1)}:
        path.write_bytes(data[:cut])
        found = Answers(path)
        found.put("three", _REPLY)
        found.close()
        again = Answers(path)
        assert again.get("three") == replace(_REPLY, cached=True)
        assert len(again) == 1 + (cut >= len(data) // 2 - 1) + (cut >= len(data) - 1)


@given(st.binary(max_size=300))
def test_any_bytes_are_answers_or_passed_over(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    assert len(Answers(path)) == 0


def test_requests_are_told_apart() -> None:
    one = Request("a", prompt="x")
    assert key_of(one) == key_of(replace(one, model="b"))
    assert key_of(one) != key_of(replace(one, max_tokens=1))
    assert key_of(one) != key_of(replace(one, json_schema={"type": "object"}))


def test_a_killed_run_goes_on(tmp_path: Path, home: Path) -> None:
    """echo:slow takes a twentieth of a second a word: the run is killed when some are done."""
    (tmp_path / "w.csv").write_text("w\n" + "".join(f"a b {i}\n" for i in range(8)))
    path = tmp_path / "w.yaml"
    path.write_text('kind: exact\ndata: w.csv\nprompt: "{w}"\nanswer: "{w}"\n')
    command = [sys.executable, "-m", "overt", "eval", str(path), "-m", "echo:slow", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    answers = home / "evaluations/answers"
    done = 0
    while done < 2 and process.poll() is None:
        time.sleep(0.02)
        done = sum(one.read_bytes().count(b"\n") for one in answers.glob("*"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(home.glob("evaluations/*.json"))
    rest = subprocess.run(command, capture_output=True, check=True)
    found = json.loads(rest.stdout)
    assert (found["score"], found["n"]) == (1, 8)
    assert 2 <= found["totals"]["cached"] < 8


# ---- kinds that need more than an answer, and names that stand for others --------------------


def _suite(folder: Path, told: dict[str, Any]) -> task.Suite:
    (folder / "s.csv").write_text("said,wanted\na,a\nb,c\n")
    path = folder / "s.yaml"
    path.write_text(json.dumps({"data": "s.csv", "prompt": "{said}", **told}))
    return task.load(str(path))


class Judging(Counting):
    """Says the same verdict whatever it is asked."""

    async def stream(self, request: Request, *a: Any, **k: Any) -> AsyncGenerator[Event, None]:
        if request.model != "echo:judge":
            async for event in super().stream(request, *a, **k):
                yield event
            return
        self.asked.append("judge")
        yield Text("The first is better.\nVERDICT: A")
        yield Done("stop")


def test_a_judge_is_asked_in_both_orders_and_its_answers_are_kept(tmp_path: Path) -> None:
    suite = _suite(tmp_path, {"kind": "judge", "rubric": "Better?", "against": "{wanted}"})
    exchange, again = Judging(load()), Judging(load())
    found = run(suite, exchange, judge="echo:judge")
    # The first answer equals the one it is compared with: both orders are the same question.
    assert exchange.asked == ["a", "judge", "b", "judge", "judge"]
    assert (found["score"], found["judge"]) == (0.5, "echo:judge")
    assert found["interval_method"].startswith("all items alike")  # 0.5 twice
    assert found["summary"]["swap_disagreement_rate"] == 1
    assert run(suite, again, judge="echo:judge")["score"] == 0.5
    assert again.asked == []


def test_a_judge_compares_with_another_model(tmp_path: Path) -> None:
    suite = _suite(tmp_path, {"kind": "judge", "rubric": "Better?"})
    exchange = Judging(load())
    found = run(suite, exchange, judge="echo:judge", against="echo:y")
    assert exchange.asked.count("a") == exchange.asked.count("b") == 2
    assert (found["against"], found["summary"]["pairs"]) == ("echo:y", 2)
    assert found["score"] == 0.5  # it always says the first
    again = Judging(load())
    assert run(suite, again, judge="echo:judge", against="echo:x")["summary"]["pairs"] == 2
    assert "a" not in again.asked  # a model beside itself is not asked twice


def test_a_judge_that_says_no_verdict_is_counted(tmp_path: Path) -> None:
    suite = _suite(tmp_path, {"kind": "judge", "rubric": "Better?"})
    found = run(suite, judge="echo:other")
    assert (found["score"], found["totals"]["judge_unparsed"]) == (0, 2)


def test_a_schema_may_hold_the_answer(tmp_path: Path) -> None:
    told = {"kind": "schema", "schema": {"type": "array", "items": {}}}
    assert run(_suite(tmp_path, told))["score"] == 0
    assert run(_suite(tmp_path, {**told, "constrain": True}))["score"] == 1


def test_an_alias_that_stands_for_another_model_is_asked_anew(
    suite: task.Suite, home: Path
) -> None:
    async def once(exchange: Exchange) -> dict[str, Any]:
        settings = load()
        try:
            return await evaluate(
                suite, "writer", exchange, settings, SuiteOptions(), Budget(settings)
            )
        finally:
            await exchange.close()

    aliases = routing.aliases(home)
    aliases.set("writer", "echo:x")
    found = asyncio.run(once(Counting(load())))
    assert found["model"]["resolved"] == "echo:x"
    assert found["items"][0]["by"] == "echo:x"
    aliases.set("writer", "echo:y")
    exchange = Counting(load())
    assert asyncio.run(once(exchange))["model"]["resolved"] == "echo:y"
    assert len(exchange.asked) == 10
    aliases.set("writer", {"models": ["echo:fail", "echo:y"]})
    found = asyncio.run(once(Counting(load())))
    assert found["model"]["engine"] == "route"
    assert found["n"] == 10
    with pytest.raises(Refused, match="is a route"):
        asyncio.run(
            evaluate(
                suite, "writer", Exchange(load()), load(), SuiteOptions(), Budget(load(), cap=1.0)
            )
        )
