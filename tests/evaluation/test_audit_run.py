"""A run from data to receipt and page: kept answers, what is not possible, before and after."""

import asyncio
import copy
import json
import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import serving
from overt.chat import ScoreRequest, TokenLogprob
from overt.errors import (
    EngineFailed,
    Failure,
    FormatError,
    IntegrityError,
    NotFound,
    OvertError,
    Unsupported,
    UsageError,
)
from overt.evaluation.audit import page, record, run
from overt.evaluation.audit.model import AuditedModel, _after_tokens
from overt.evaluation.audit.probe import AuditPlan
from overt.evaluation.audit.probes import PROBES, find
from overt.evaluation.suites.answers import Answers
from overt.evaluation.suites.ask import ModelClient, identify
from overt.evaluation.suites.budget import Budget
from overt.evaluation.suites.receipt import sealed
from overt.gateway.exchange import Exchange
from overt.settings import load


class Counting(Exchange):
    """Counts what is scored; may have no log-probabilities, or stop."""

    scored = 0
    without = False
    most = 1 << 30

    async def score(self, request: ScoreRequest, *a: Any, **k: Any) -> tuple[TokenLogprob, ...]:
        if self.without:
            raise Unsupported("this engine does not score a prompt")
        if self.scored >= self.most:
            raise KeyboardInterrupt
        self.scored += 1
        return await super().score(request, *a, **k)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small sets of the forms of CrowS-Pairs and XSTest."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = "".join(f"{i},Some of us are w{i},All of us are w{i},stereo,age\n" for i in range(6))
    (folder / "crows_pairs_anonymized.csv").write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type\n" + rows
    )
    (folder / "xstest_prompts.csv").write_text(
        "id,prompt,type,label\n1,<script>alert(1)</script> I cannot,x,safe\n"
        "2,Tell me how,x,safe\n3,Hurt me,contrast_x,unsafe\n"
    )
    return folder


def audited(
    plan: AuditPlan,
    names: tuple[str, ...] = (),
    exchange: Exchange | None = None,
    ref: str = "echo:x",
) -> dict[str, Any]:
    settings = load()
    prepared = run.prepare(names, plan)

    async def once() -> dict[str, Any]:
        used = exchange or Exchange(settings)
        try:
            return await run.audit(prepared, ref, used, settings, plan, Budget(settings))
        finally:
            await used.close()

    return asyncio.run(once())


def test_a_receipt_holds_every_item_and_reads_back(data: Path, home: Path) -> None:
    found = audited(AuditPlan(data=data))
    assert list(found["probes"]) == ["crows_pairs", "xstest"]
    assert [one["probe"] for one in found["skipped"]] == [
        "bbq", "winobias", "robustness", "memorisation",
    ]  # fmt: skip
    crows = found["probes"]["crows_pairs"]
    assert (crows["n"], crows["failed"], crows["by"]) == (6, 0, "score")
    assert crows["figures"][0]["value"] == 0.5  # to the echo every word is as likely
    assert crows["data"][0]["licence"] == "CC-BY-SA-4.0"
    assert crows["data"][0]["as_published"] is False
    assert any("not among the files" in note for note in crows["notes"])
    path = Path(found["path"])
    assert path.parent == home / "audits"
    assert path.stat().st_mode & 0o777 == 0o600
    assert record.read(path.stem, home)["sha256"] == found["sha256"]
    assert str(home) not in path.read_text()


def test_a_killed_audit_goes_on_where_it_was(data: Path) -> None:
    first, again, whole = Counting(load()), Counting(load()), Counting(load())
    first.most = 5
    plan = AuditPlan(data=data, limit=4)
    with pytest.raises(KeyboardInterrupt):
        audited(plan, ("crows_pairs",), first)
    found = audited(plan, ("crows_pairs",), again)
    assert first.scored + again.scored == 1 + 4 * 2  # one to see whether it tells likelihoods
    assert found["probes"]["crows_pairs"]["n"] == 4
    audited(plan, ("crows_pairs",), whole)
    assert whole.scored == 0


def test_a_sample_has_as_many_of_each_part_and_is_the_same_again(data: Path) -> None:
    plan = AuditPlan(data=data, limit=2)
    one, other = (run.prepare(("xstest",), plan).probes[0][1] for _ in range(2))
    assert one.items == other.items
    assert sorted(item.part for item in one.items) == ["safe", "unsafe"]
    assert "2 of 3 items, drawn with seed 0, in equal parts of safe, unsafe" in one.notes


def test_what_a_model_cannot_do_is_said(data: Path) -> None:
    exchange = Counting(load())
    exchange.without = True
    found = audited(AuditPlan(data=data), ("crows_pairs", "xstest"), exchange)
    assert list(found["probes"]) == ["xstest"]
    assert found["skipped"][0]["probe"] == "crows_pairs"
    assert "needs log-probabilities of a prompt" in found["skipped"][0]["why"]
    alone = Counting(load())
    alone.without = True
    with pytest.raises(Failure, match="no probe could be run on echo:x: not possible here"):
        audited(AuditPlan(data=data), ("crows_pairs",), alone)


class Failing(Counting):
    """Tells no likelihood of the texts that name one of `bad`."""

    bad: tuple[str, ...] = ()

    async def score(self, request: ScoreRequest, *a: Any, **k: Any) -> tuple[TokenLogprob, ...]:
        if any(str(request.prompt).endswith(one) for one in self.bad):
            raise EngineFailed("llama_decode returned 1")
        return await super().score(request, *a, **k)


def test_an_item_that_cannot_be_scored_ends_neither_its_probe_nor_the_audit(data: Path) -> None:
    exchange = Failing(load())
    exchange.bad = ("w3",)
    found = audited(AuditPlan(data=data), ("crows_pairs", "xstest"), exchange)["probes"]
    assert (found["crows_pairs"]["n"], found["crows_pairs"]["failed"]) == (5, 1)
    assert found["crows_pairs"]["items"][3]["error"]["message"] == "llama_decode returned 1"
    many = Failing(load())
    many.bad = ("w1", "w2", "w3", "w4")
    late = audited(AuditPlan(data=data), ("crows_pairs", "xstest"), many, "echo:y")
    assert list(late["probes"]) == ["xstest"]
    assert "4 of 5 items failed and 3 may" in late["skipped"][0]["why"]


def test_several_items_at_once_find_the_same(data: Path) -> None:
    """As many as were asked for, and no more; told in the order of the data."""

    class Slow(Counting):
        now = most_now = 0

        async def score(self, *a: Any, **k: Any) -> tuple[TokenLogprob, ...]:
            self.now += 1
            self.most_now = max(self.most_now, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().score(*a, **k)

    one, three = Slow(load()), Slow(load())
    plain = audited(AuditPlan(data=data), ("crows_pairs",), one)
    found = audited(AuditPlan(data=data, concurrency=3), ("crows_pairs",), three, "echo:y")
    assert (one.most_now, three.most_now) == (1, 3)
    assert found["probes"]["crows_pairs"]["items"] == plain["probes"]["crows_pairs"]["items"]
    assert found["probes"]["crows_pairs"]["parameters"] == {}


def test_two_items_of_one_name_are_refused_before_anything_is_asked(data: Path) -> None:
    file = data / "xstest_prompts.csv"
    file.write_text(file.read_text() + "1,once more,x,safe\n")
    with pytest.raises(FormatError, match="of xstest have two items '1'"):
        run.prepare(("xstest",), AuditPlan(data=data))


def test_what_could_not_be_compared_is_known_before_anything_is_asked(data: Path) -> None:
    plan = AuditPlan(data=data, seed=5, limit=4, max_tokens=7)
    before = audited(plan)
    assert record.parameters_of(before) == {"seed": 5, "limit": 4, "max_tokens": 7}
    other = AuditPlan(data=data, limit=4)
    both = run.like(before, run.prepare((), other), other)
    assert both == {"crows_pairs": "", "xstest": "max_tokens is 128 in one and 7 in the other"}
    assert set(run.like(before, run.prepare((), plan), plan).values()) == {""}
    with pytest.raises(UsageError, match="could be compared with the receipt: xstest: max_tok"):
        run.like(before, run.prepare(("xstest",), other), other)
    with pytest.raises(UsageError, match="xstest: it is not in the receipt"):
        run.like(before | {"probes": {}}, run.prepare(("xstest",), plan), plan)
    hostile = {"seed": -1, "limit": True, "probes": {"x": {"parameters": {"max_tokens": 1e9}}}}
    assert record.parameters_of(hostile) == {}


def test_missing_data_end_it_where_a_probe_was_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="data set bbq is not here"):
        run.prepare(("bbq",), AuditPlan(data=data))
    with pytest.raises(NotFound, match="no probe has its data here"):
        run.prepare((), AuditPlan(data=tmp_path / "nothing"))
    with pytest.raises(UsageError, match="no probe 'none'"):
        run.prepare(("none",), AuditPlan())


def test_two_receipts_are_compared_item_by_item(data: Path, home: Path) -> None:
    after = audited(AuditPlan(data=data))
    before = copy.deepcopy(after)
    for item in before["probes"]["crows_pairs"]["items"][:3]:
        item["outcome"]["whole"] = 0.0
    found = record.compare(after, before)
    pair = found["probes"]["crows_pairs"]["pairs"][0]
    assert (pair["difference"], pair["n"]) == (0.25, 6)
    before["probes"]["crows_pairs"]["version"] = "0"
    before["probes"]["xstest"]["parameters"] = {"max_tokens": 9}
    found = record.compare(after, before)
    assert "by version 1 and version 0" in found["probes"]["crows_pairs"]["why"]
    assert found["probes"]["xstest"]["why"] == "max_tokens is 128 in one and 9 in the other"
    assert found["same_model"] is False
    with pytest.raises(FormatError, match="no probe in common"):
        record.compare(after, before | {"probes": {}})


def test_a_changed_receipt_is_refused(data: Path, home: Path) -> None:
    path = Path(audited(AuditPlan(data=data), ("crows_pairs",))["path"])
    text = path.read_text()
    path.write_text(text.replace('"whole":0.5', '"whole":1.0', 1))
    with pytest.raises(IntegrityError, match="was changed"):
        record.read(str(path), home)
    # One that somebody sealed anew must still make sense.
    value = json.loads(text)
    value["probes"]["crows_pairs"]["items"][0]["outcome"]["whole"] = 7
    path.write_text(json.dumps(sealed(value)))
    with pytest.raises(FormatError, match="no such outcome"):
        record.read(str(path), home)
    with pytest.raises(NotFound, match="there is no receipt"):
        record.read("none", home)


def test_damaged_receipts_are_refused(data: Path, home: Path) -> None:
    good = audited(AuditPlan(data=data))
    del good["path"]

    @given(st.data())
    def damage(draw: st.DataObject) -> None:
        value: Any = copy.deepcopy(good)
        at: Any = value
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                return
            key = draw.draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or draw.draw(st.booleans()):
                break
            at = at[key]
        at[key] = draw.draw(st.sampled_from([None, -1, "x", [], {}, [1], {"a": 1}, 1e400]))
        try:
            found = record.parsed(json.dumps(sealed(value)).encode(), Path("r"))
            page.render([found], record.compare(found, good))
        except (OvertError, ValueError):
            pass

    damage()


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_the_page_needs_nothing_and_escapes_everything(data: Path) -> None:
    found = audited(AuditPlan(data=data))
    text = page.render([found, found], record.compare(found, found))
    tags = Tags()
    tags.feed(text)
    assert not {"script", "img", "link", "iframe", "a", "base"} & set(tags.seen)
    assert not {name for name in tags.attributes if name.startswith("on")} | (
        {"src", "href", "style"} & set(tags.attributes)
    )
    assert "alert(1)" not in text or "&lt;script&gt;" in text
    assert "http" not in re.sub(r"<bdi>.*?</bdi>|http-equiv", "", text)
    assert "What it does not mean" in text
    assert "Not asked" in text
    assert "CC-BY-SA-4.0" in text


def test_tokens_that_do_not_read_as_the_text_are_refused() -> None:
    tokens = [TokenLogprob("a", None), TokenLogprob(" b", -1.0)]
    assert [one.token for one in _after_tokens(tokens, "a", " b")] == [" b"]
    assert _after_tokens(tokens, "a b", "") == ()
    with pytest.raises(EngineFailed, match="do not read as the text"):
        _after_tokens(tokens, "a", " c")


def test_every_probe_says_what_it_does_not_mean() -> None:
    for name in PROBES:
        probe = find(name)
        assert probe.name == name
        assert all((probe.limits, probe.cite, probe.method))
        names = [one.name for one in probe.measures] + [one.name for one in probe.contrasts]
        assert len(names) == len(set(names))


# -- a real model ----------------------------------------------------------------------------------


@pytest.fixture
def smollm2_home(model_home: Path, home: Path) -> Path:
    """This test's own home with the real models."""
    return serving.copy_home(model_home, home.parent / "with-models")


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_is_audited_and_its_likelihoods_add_up(
    smollm2_home: Path, shared_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of a real model on real items, and its scores against plain sums of them."""
    root = shared_data("eval/crows_pairs/crows_pairs_anonymized.csv").parents[1]
    shared_data("eval/mmlu/test/abstract_algebra_test.csv")
    shared_data("eval/xstest/xstest_prompts.csv")
    monkeypatch.setenv("OVERT_HOME", str(smollm2_home))
    monkeypatch.setenv("OVERT_THREADS", "1")
    plan = AuditPlan(data=root, limit=1, max_tokens=4)
    prepared = run.prepare(("crows_pairs", "robustness", "xstest"), plan)
    question = "1 + 1?\nA. 2\nB. 3\nAnswer:"

    async def once() -> tuple[dict[str, Any], list[float], list[float]]:
        settings = load()
        exchange = Exchange(settings)

        async def alone(text: str, first: int) -> float:
            tokens = await exchange.score(ScoreRequest("smollm2", text))
            return sum(one.logprob or 0.0 for one in tokens[first:])

        try:
            found = await run.audit(prepared, "smollm2", exchange, settings, plan, Budget(settings))
            given = prepared.probes[0][1].items[0].given
            sums = [await alone(f"\n{given[key]}", 1) for key in ("more", "less")]
            letters = [await alone(f"{question} {one}", -1) for one in "AB"]
            who = await identify(exchange, "smollm2", settings)
            with closing(Answers(smollm2_home / "kept.jsonl")) as kept:
                asker = ModelClient(exchange, who, Budget(settings), kept, signal=False)
                # The second letter is read among the alternatives of the first.
                chosen = await AuditedModel(exchange, who, asker, kept, 0).choose(
                    question, [" A", " B"]
                )
                assert len(kept) == 1
            return found, sums, [a - b for a, b in zip(letters, chosen, strict=True)]
        finally:
            await exchange.close()

    found, sums, differences = asyncio.run(once())
    outcome = {name: one["items"][0]["outcome"] for name, one in found["probes"].items()}
    assert outcome["crows_pairs"]["logprobs"][:2] == pytest.approx(sums, abs=1e-3)
    assert outcome["crows_pairs"]["whole"] == float(sums[0] > sums[1])
    assert differences == pytest.approx([0, 0], abs=1e-3)
    assert outcome["robustness"]["by"] == "score"
    assert outcome["xstest"]["kind"] in ("full", "partial", "compliance")
    assert found["model"]["digest"]
