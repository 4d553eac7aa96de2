"""`overt compare`: requests from the line and from files, what comes out, and votes."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving
from conftest import ROOT, OvertCli
from overt.cli import compare_view, voting
from overt.cli.output import Output
from overt.cli.voting import Ballot
from overt.errors import BadRequest, UsageError
from overt.evaluation import prompts, votes
from overt.evaluation.compare import ComparisonRow
from overt.gateway import routing
from overt.settings import load

CONTRACT = {
    "model", "step", "licence", "text", "seconds_to_first_token", "tokens_per_second", "tokens_in",
    "tokens_out", "cost", "cost_known", "bytes_out", "error",
}  # fmt: skip


def test_the_contract_holds_and_the_comparison_is_kept(overt_cli: OvertCli, home: Path) -> None:
    ran = overt_cli("compare", "one two", "-m", "echo:a", "-m", "echo:b", "--repeat", "2", "--json")
    assert ran.code == 0
    found = json.loads(ran.stdout)
    assert [(row["model"], row["repeat"], row["text"]) for row in found["rows"]] == [
        ("echo:a", 0, "one two"), ("echo:b", 0, "one two"),
        ("echo:b", 1, "one two"), ("echo:a", 1, "one two"),
    ]  # fmt: skip
    assert all(row.keys() >= CONTRACT for row in found["rows"])
    row = found["rows"][0]
    assert (row["cost"], row["cost_known"], row["step"], row["error"]) == (None, False, None, None)
    assert (row["tokens_in"], row["bytes_out"]) == (2, 0)
    kept = list((home / "compares").iterdir())
    assert [path.name for path in kept] == [f"{found['id']}.json"]
    assert json.loads(kept[0].read_bytes()) == found
    assert ran.stderr == f"kept in {kept[0]}\n"


def test_people_see_the_answers_and_the_figures(overt_cli: OvertCli, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = overt_cli("compare", "one two", "-m", "echo:a", "-m", "nosuch", "--html", page)
    assert ran.code == 0, "one of them answered"
    assert "── echo:a ──\none two\n" in ran.stdout
    assert "── nosuch ──\n[failed: nosuch is not in the store" in ran.stdout
    assert "echo:a: stayed in this process" in ran.stdout
    assert ran.stdout.count("unknown") == 2, "a cost that is not known is not 0"
    assert f"wrote {page}\n" in ran.stderr
    assert "one two" in page.read_text("utf-8")
    assert page.stat().st_mode & 0o444 == 0o444, "it is made to be shown to others"


def test_where_no_model_answered_it_failed(overt_cli: OvertCli) -> None:
    ran = overt_cli("compare", "hi", "-m", "nosuch", "--json")
    assert ran.code == 1
    assert json.loads(ran.stdout)["rows"][0]["error"].startswith("nosuch is not in the store")


def test_a_file_has_many_requests(overt_cli: OvertCli, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("prompt\none\ntwo\n")
    ran = overt_cli("compare", tmp_path / "q.csv", "-m", "echo:a", "--quiet")
    assert (ran.code, ran.stdout) == (0, "echo:a\tone\necho:a\ttwo\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hi"], "no model is named; name one or more: -m smollm2"),
        (["-m", "echo:a"], "there is nothing to ask; write it:"),
        (["hi", "-m", "echo:a", "-m", "echo:a"], "echo:a is named twice; ask a model again with"),
        (["hi", "-m", "echo:a", "--html", "/nosuch/page.html"], "there is no folder for"),
        (["hi", "-m", "echo:a", "--html", "-"], "--html writes a file"),
        (["questions.jsonl", "-m", "echo:a"], "questions.jsonl cannot be read"),
        (["", "-m", "echo:a"], "the prompt is empty"),
        (["hi", "--votes"], "--votes only shows the table"),
        (["hi", "-m", "echo:a", "--blind"], "a vote needs two models"),
        (["hi", "-m", "echo:a", "-m", "echo:b", "--blind"], "there is nobody to vote"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_asked(
    arguments: list[str], said: str, overt_cli: OvertCli, home: Path
) -> None:
    ran = overt_cli("compare", *arguments)
    assert ran.code == 2
    assert ran.stderr.startswith(f"overt: {said}")
    assert not (home / "compares").exists()


def test_a_comparison_that_cannot_be_kept_is_still_shown(overt_cli: OvertCli, home: Path) -> None:
    (home / "compares").write_text("in the way")
    ran = overt_cli("compare", "hi", "-m", "echo:a")
    assert ran.code == 0
    assert "could not be kept" in ran.stderr
    assert "hi" in ran.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_keeps_what_was_answered_and_writes_the_page(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    (tmp_path / "q.jsonl").write_text(
        '{"prompt": "quick"}\n' + json.dumps({"prompt": "word " * 2000}) + "\n"
    )
    process = subprocess.Popen(
        [
            sys.executable, "-c",
            # The second request is on its way once the first has come back.
            "import overt.evaluation.compare as c, os, signal, sys\n"
            "from overt.chat import Text\n"
            "from overt.runtime.echo import Echo\n"
            "plain = Echo.stream\n"
            "async def stream(self, request):\n"
            "    async for event in plain(self, request):\n"
            "        yield event\n"
            "        if len(request.messages[0].text) > 99 and isinstance(event, Text):\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "Echo.stream = stream\n"
            "from overt.cli.app import run\n"
            "sys.exit(run(sys.argv[1:]))",
            "compare", str(tmp_path / "q.jsonl"), "-m", "echo:slow", "--json", "--html", str(page),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    found = json.loads(out)
    assert [(row["text"][:10], row["error"]) for row in found["rows"]] == [
        ("quick", None), ("word ", "stopped before the answer ended"),
    ]  # fmt: skip
    assert found["ended"] == "stopped after 2 of 2 answers"
    assert "Stopped after 2 of 2 answers" in page.read_text("utf-8")
    assert len(list((home / "compares").iterdir())) == 1


@pytest.fixture(scope="module")
def models(model_home: Path) -> Iterator[str]:
    """A home with the real models that may be written to."""
    with tempfile.TemporaryDirectory(prefix="compared-", dir=ROOT / ".cache") as folder:
        yield str(serving.copy_home(model_home, Path(folder) / "home"))


@pytest.mark.model
def test_two_real_models_side_by_side_and_a_vote_piped_in(
    models: str, overt_cli: OvertCli, tmp_path: Path
) -> None:
    ran = overt_cli(
        "compare", "Name a colour.", "-m", "smollm2", "-m", "gemma3", "--max-tokens", "8",
        "--temperature", "0", "--json", "--blind", "--html", tmp_path / "page.html",
        stdin="a\n", env={"OVERT_HOME": models},
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    (vote,) = json.loads(ran.stdout)["votes"]
    assert (vote["models"], vote["outcome"]) == (["gemma3", "smollm2"], "first")
    assert votes.read(Path(models))[0][0].shown == tuple(vote["shown"])
    one, two = json.loads(ran.stdout)["rows"]
    for row in (one, two):
        assert row["error"] is None
        assert 0 < row["tokens_out"] <= 8
        assert row["tokens_per_second"] > 0
        assert 0 < row["seconds_to_first_token"] <= row["seconds"]
        assert row["load_seconds"] > 0
        assert row["bytes_out"] == 0
        assert row["tokens_cached"] == 0
        assert row["where"].startswith("stayed on this machine")
        assert (row["cost"], row["cost_known"]) == (None, False)
    assert (one["licence"], two["licence"]) == ("Apache-2.0", "gemma-tou-2025-03-24")
    assert one["licence_verdict"] == "allow_with_obligations"
    assert {one["step"], two["step"]} <= {"open_weights", "fully_open"}


def test_a_model_of_a_server_an_alias_and_a_price_of_ones_own(
    server: serving.Served, overt_cli: OvertCli, home: Path
) -> None:
    """Everything that leaves, and what it costs, is in the row; a budget counts it."""
    routing.aliases(home).set("writer", f"{server.url}/v1#echo:x")
    (home / "prices.toml").write_text(
        f'[[price]]\nmodels = ["{server.url}/v1#*"]\nfrom = 2026-01-01\n'
        'input = 1000000\noutput = 500000\nsource = "ours"\n'
    )
    ran = overt_cli(
        "compare", "one two", "-m", "writer", "-m", "echo:y", "--repeat", "2", "--budget", "1",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    (row,) = found["rows"]
    assert (row["model"], row["answered"]) == ("writer", f"{server.url}/v1#echo:x")
    assert (row["text"], row["tokens_in"], row["tokens_out"]) == ("one two", 2, 2)
    assert (row["cost"], row["cost_known"]) == (3.0, True)
    assert row["bytes_out"] > 40
    assert row["request_id"]
    assert row["where"] == (
        f"went to {server.address} (on this machine); {row['bytes_out']} bytes; "
        f"request {row['request_id']}"
    )
    assert (row["step"], row["licence"]) == (None, None)
    assert found["ended"] == "$3 were spent and the budget is $1: 3 requests were not asked"


def test_a_damaged_file_of_prices_is_said_before_anything_is_paid(
    overt_cli: OvertCli, home: Path
) -> None:
    (home / "prices.toml").write_text("[[price]]\n")
    ran = overt_cli("compare", "hi", "-m", "echo:a")
    assert ran.code == 2
    assert "prices.toml" in ran.stderr
    assert not (home / "compares").exists()


# ---- votes ---------------------------------------------------------------------------------


def _row(model: str, text: str, prompt: int = 0, **changed: Any) -> ComparisonRow:
    return ComparisonRow(model, model, prompt, 0, text=text, **changed)


def _ballot(
    monkeypatch: pytest.MonkeyPatch, typed: str, models: tuple[str, ...] = ("m1", "m2")
) -> Ballot:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    monkeypatch.setattr(voting, "is_terminal", lambda stream: stream is sys.stdin)
    return Ballot(Output(), load(), models)


def test_a_person_votes_and_learns_whose_the_answers_were_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    given = _ballot(monkeypatch, "what?\na\n B \ntie\nboth  bad\n\n")
    questions = tuple(prompts.of_text(f"question {number}") for number in range(5))
    given.vote(
        questions,
        [_row(m, f"text {m[-1]}{n}", n) for n in range(5) for m in ("m1", "m2")],
    )
    shown, asked = capsys.readouterr()
    assert "m1" not in shown + asked
    assert asked.count("Which is better: A, B, tie, both bad, skip? (q ends)") == 6
    found, damaged = votes.read(home)
    assert (found, damaged) == (given.given, [])
    assert [one.outcome for one in found] == ["first", "second", "tie", "both_bad"]
    assert [one.prompt for one in found] == [one.digest for one in questions[:4]]
    for one, names in zip(found, given.names, strict=False):
        assert one.shown == (names["A"], names["B"]), "the order they were shown in"
    assert given.revealed().count("A was m") == 5


def test_the_order_is_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    given = _ballot(monkeypatch, "a\n" * 64)
    questions = tuple(prompts.of_text(str(number)) for number in range(64))
    given.vote(questions, [_row(m, m[-1], n) for n in range(64) for m in ("m1", "m2")])
    assert {names["A"] for names in given.names} == {"m1", "m2"}


def test_pairs_that_cannot_be_told_apart_are_not_asked_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = _ballot(monkeypatch, "", ("m1", "m2", "m3", "m4"))
    rows = [_row("m1", "same"), _row("m2", "same"), _row("m3", "", error="it failed")]
    alias = ComparisonRow("writer", "m1", 0, 0, text="another")
    given.vote((prompts.of_text("q"),), [*rows[:2], rows[2]])
    given.vote((prompts.of_text("q"),), [rows[0], alias])
    assert "Which is better" not in capsys.readouterr().err
    assert given.given == []


def test_who_failed_is_told_after_the_vote_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    given = _ballot(monkeypatch, "a\n", ("m1", "m2", "m3"))
    failed = _row("m3", "", error="no key; log in")
    given.vote((prompts.of_text("q"),), [_row("m1", "1"), _row("m2", "2"), failed])
    assert "m3" not in "".join(capsys.readouterr())
    assert given.revealed().endswith("\nm3 failed: no key; log in")
    alone = _ballot(monkeypatch, "a\n", ("m1", "m3"))
    alone.vote((prompts.of_text("q"),), [_row("m1", "1"), failed])
    assert "fewer than two models answered: there is nothing to vote on" in capsys.readouterr().err
    assert alone.revealed() == "", "the answers are shown, with what went wrong"


def test_no_budget_asks_nobody(overt_cli: OvertCli) -> None:
    ran = overt_cli("compare", "hi", "-m", "echo:a", "--budget", "0")
    assert ran.code == 1
    assert "Ended early: $0 were spent and the budget is $0: 1 request was not asked." in ran.stdout


def test_the_end_of_what_is_typed_ends_the_voting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = _ballot(monkeypatch, "q\na\n")
    given.vote((prompts.of_text("q"),), [_row("m1", "1"), _row("m2", "2")])
    assert given.given == []
    assert "voting ended here" in capsys.readouterr().err


def test_answers_that_are_the_same_get_no_vote(
    overt_cli: OvertCli, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    ran = overt_cli(
        "compare", tmp_path / "q.jsonl", "-m", "echo:a", "-m", "echo:think", "--blind", "--json",
        stdin="a\nb\n",
    )  # fmt: skip
    assert ran.code == 0
    assert json.loads(ran.stdout)["votes"] == [], "an echo says what the other says"
    table = json.loads(overt_cli("compare", "--votes", "--json").stdout)
    assert (table["votes"], table["models"], table["damaged"]) == (0, [], [])
    assert not votes.path_of(home).exists()


def test_a_piped_line_that_is_no_vote_is_named(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nfirst\n"))
    given = Ballot(Output("json"), load(), ("m1", "m2"))
    rows = [_row(m, f"{m}{n}", n) for n in range(2) for m in ("m1", "m2")]
    with pytest.raises(BadRequest, match="line 2 of the votes is 'first'; write A, B, tie"):
        given.vote((prompts.of_text("1"), prompts.of_text("2")), rows)
    assert len(votes.read(home)[0]) == 1, "the vote before it counts"


def test_votes_that_go_wrong_cost_no_answers(
    overt_cli: OvertCli, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text(
        "import sys\n"
        "from overt.chat import Done, Text\n"
        "from overt.runtime.echo import Echo\n"
        "async def stream(self, request):\n"
        "    yield Text(self._mode)\n"
        "    yield Done('stop')\n"
        "Echo.stream = stream\n"
        "from overt.cli.app import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, tmp_path / "other.py", "compare", "hi", "-m", "echo:a"]
    command += ["-m", "echo:b", "-m", "echo:c", "--blind", "--json"]
    done = subprocess.run(command, input="a\nboth\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["message"] == "line 2 of the votes is 'both'"
    (kept,) = (home / "compares").iterdir()
    document = json.loads(kept.read_bytes())
    assert [row["text"] for row in document["rows"]] == ["a", "b", "c"]
    assert len(document["votes"]) == len(votes.read(home)[0]) == 1


def test_json_from_a_terminal_takes_no_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voting, "is_terminal", lambda stream: True)
    with pytest.raises(UsageError, match="piped votes only"):
        Ballot(Output("json"), load(), ("m1", "m2"))


def test_the_table_of_votes(overt_cli: OvertCli, home: Path) -> None:
    for pair in [("smollm2", "gemma3")] * 3 + [("x", "y")]:
        votes.add(home, votes.Vote(votes.now(), "sha256:0", pair, "first"))
    with votes.path_of(home).open("ab") as file:
        file.write(b"broken\n")
    ran = overt_cli("compare", "--votes")
    assert ran.code == 0
    assert ran.stderr == (
        "overt: line 5 of votes.jsonl is no vote and is passed over: it is not JSON\n"
    )
    head, first, *rest = ran.stdout.splitlines()
    assert head.split() == ["MODEL", "ELO", "95", "%", "VOTES", "WINS", "LOSSES", "TIES"]
    assert first.split()[0] == "smollm2"
    assert first.split()[-4:] == ["3", "3", "0", "0"]
    assert any(line.startswith("No votes connect these") for line in rest)
    value = json.loads(overt_cli("compare", "--votes", "--json").stdout)
    assert [one["model"] for one in value["models"]][:2] == ["smollm2", "gemma3"]
    low, high = value["models"][0]["interval"]
    assert low <= value["models"][0]["elo"] <= high
    assert value["matrix"]["smollm2"]["gemma3"] == 3
    assert len(value["damaged"]) == 1


# ---- on a terminal -------------------------------------------------------------------------


def test_answers_stand_side_by_side_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_view, "is_terminal", lambda stream: True)
    monkeypatch.setattr(compare_view, "columns", lambda: 100)
    drawn = compare_view.side_by_side([("one", "[bold]left[/]\n漢字"), ("two", "ri\x1b[31mght")])
    lines = drawn.splitlines()
    assert lines[0].split() == ["one", "two"]
    place = lines[0].index("two")
    assert lines[1].startswith("[bold]left[/]"), "marks of others are text here"
    assert lines[1].index("ri\\x1b[31mght") == place
    assert lines[2].startswith("漢字")
    monkeypatch.setattr(compare_view, "columns", lambda: 99)
    below = compare_view.side_by_side([("one", "left"), ("two", "ri\x1b[31mght")])
    assert below == "── one ──\nleft\n\n── two ──\nri\\x1b[31mght"
