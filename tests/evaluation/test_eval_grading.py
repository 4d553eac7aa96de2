"""What each kind takes for right."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import Answer, Request
from overt.errors import BadRequest, FormatError, OvertError
from overt.evaluation.suites import runners
from overt.evaluation.suites import suite as task
from overt.evaluation.suites.runners import Grade, RunnerTools
from overt.evaluation.suites.runners.choice import letter
from overt.evaluation.suites.runners.exact import plain
from overt.evaluation.suites.runners.judge import Unparsed, combine, verdict
from overt.evaluation.suites.runners.numeric import number


def made(
    tmp_path: Path, told: dict[str, Any], row: dict[str, Any], tools: RunnerTools | None = None
) -> Any:
    """A runner and its only item."""
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps({"prompt": "?", "data": "d.jsonl", **told}))
    suite = task.load(str(path))
    return runners.make(suite, tools or RunnerTools()), suite.items[0]


def grade(tmp_path: Path, told: dict[str, Any], row: dict[str, Any], text: str) -> Grade:
    runner, item = made(tmp_path, told, row)
    found: Grade = asyncio.run(runner.grade(item, text))
    return found


# ---- exact ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "text", "right"),
    [
        ({}, " **paris.**\n", True),
        ({}, "It is Paris", False),
        ({"normalise": []}, "paris", False),
        ({"normalise": []}, "Paris", True),
        ({"match": "contains"}, "It is Paris, of course", True),
        ({"match": "contains"}, "It is Parisian", False),
        ({"match": "begins"}, "Paris, of course", True),
        ({"match": "begins"}, "Parisian", False),
        ({"match": "line"}, "\n\nParis\nbecause", True),
        ({"also": ["{other}"]}, "Lutetia", True),
        ({"extract": "city is (\\w+)"}, "The city is Rome. No, the city is Paris.", True),
        ({"extract": "city is (\\w+)"}, "Paris", False),
        ({"normalise": ["space", "case", "accents"]}, "pàrïs", True),
    ],
)
def test_exact(tmp_path: Path, more: dict[str, Any], text: str, right: bool) -> None:
    told = {"kind": "exact", "answer": "{a}", **more}
    assert grade(tmp_path, told, {"a": "Paris", "other": "Lutetia"}, text).score == right


def test_texts_are_made_plain() -> None:
    assert plain(" The  Straße! ", ("space", "case", "punctuation", "articles")) == "strasse"
    assert plain("e\u0301", ()) == "é"


def test_an_expression_cannot_hold_the_run_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overt.evaluation.suites.runners.extract.SECONDS", 1)
    told = {"kind": "exact", "answer": "x", "extract": "^(a+)+$"}
    with pytest.raises(OvertError, match="more than 1 s"):
        grade(tmp_path, told, {"a": 1}, "a" * 60 + "b")


# ---- numeric -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 3 + 4 = 7.", 7), ("It costs $1,234.50 in all", 1234.5), ("#### -12\nmore 99", -12),
        ("The answer is 18. I used 20 numbers", 18), ("\\boxed{42} of 50", 42), ("3/4", 0.75),
        ("1e3 metres", 1000), ("about .5", 0.5), ("$-3", -3), ("-$3", -3), ("20%", 20),
        ("\u22127", -7), ("none", None), ("v2", None), ("", None), ("1,2,3", 3), ("12,34", 34),
        ("1.2.3", 1.2), ("9" * 60, int("9" * 60)), ("9" * 5000, None),
        ("answer is not known: 5", 5),
        ("1e9", 10**9), ("10-3", 3), ("5 - 3", -3),
    ],
)  # fmt: skip
def test_numbers_are_found(text: str, value: float | None) -> None:
    found = number(text)
    assert (None if found is None else float(found)) == (None if value is None else float(value))


@pytest.mark.parametrize(
    ("more", "text", "right"),
    [
        ({}, "It is 18", True), ({}, "It is 18.0", True), ({}, "It is 18.1", False),
        ({"tolerance": 0.2}, "18.1", True), ({"relative": 0.01}, "18.1", True),
        ({"relative": 0.001}, "18.1", False), ({"extract": "x=(\\d+)"}, "x=18, y=3", True),
        ({}, "no number", False),
    ],
)  # fmt: skip
def test_numeric(tmp_path: Path, more: dict[str, Any], text: str, right: bool) -> None:
    told = {"kind": "numeric", "answer": "{a}", **more}
    assert grade(tmp_path, told, {"a": "9 * 2 = <<9*2=18>>18\n#### 18"}, text).score == right


def test_a_wanted_number_is_one(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"line 1 of .* has the answer 'none'"):
        made(tmp_path, {"kind": "numeric", "answer": "none"}, {"a": 1})


# ---- choice --------------------------------------------------------------------------------

_CITIES = ("Paris", "New York", "York", "Rome")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("B", "B"), ("b", "B"), (" (C). ", "C"), ("**D**", "D"), ("B. New York", "B"),
        ("The answer is C.", "C"), ("The answer is (c)", "C"), ("Answer: B\nI think", "B"),
        ("The correct option is D because A is wrong", "D"), ("\\boxed{A}", "A"),
        ("First I thought the answer is A, but the answer is B.", "B"),
        ("A city. The answer is B", "B"), ("A good question! It is C", ""), ("Paris", "A"),
        ("It is New York of course", "B"), ("York, not New Yorkshire", "C"),
        ("I choose **C**.", "C"),
        ("E", ""), ("", ""), ("Paris or Rome", ""), ("I cannot say", ""), ("A or B", ""),
        ("Of these, D fits best", "D"), ("B) because of A", "B"), ("The answer isn't clear", ""),
        ("\n\nC\nExplanation: A is wrong", "C"),
    ],
)  # fmt: skip
def test_a_letter_is_found(text: str, said: str) -> None:
    assert letter(text, _CITIES) == said


@given(st.text(max_size=200))
def test_any_text_names_a_letter_or_none(text: str) -> None:
    assert letter(text, _CITIES) in ("", "A", "B", "C", "D")
    number(text)


def test_choice_counts_right_letters(tmp_path: Path) -> None:
    told = {"kind": "choice", "choices": ["{x}", "{y}"], "answer": "{right}"}
    runner, item = made(tmp_path, told, {"x": "yes", "y": "no", "right": "no"})
    found = asyncio.run(runner.grade(item, "The answer is B"))
    assert found.score == 1
    assert runner.summary([found.detail]) == {"right_letters": {"B": 1}}


# ---- schema --------------------------------------------------------------------------------

_SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "right", "why"),
    [
        ('{"n": 1}', True, ""), ('Here:\n```json\n{"n": 1}\n```\nDone', True, ""),
        ('{"n": "1"}', False, "$.n: "), ('{"n": 1', False, "not JSON"), ("NaN", False, "not JSON"),
        ("[" * 100_000, False, "not JSON"), ("{}", False, "'n' is a required"),
    ],
)  # fmt: skip
def test_schema(tmp_path: Path, text: str, right: bool, why: str) -> None:
    found = grade(tmp_path, {"kind": "schema", "schema": _SCHEMA}, {"a": 1}, text)
    assert found.score == right
    assert why in found.detail["why"]


@pytest.mark.parametrize(
    "schema", [{"$ref": "https://example.org/x.json"}, {"type": "objekt"}, {"pattern": "("}]
)
def test_a_schema_that_leads_elsewhere_is_refused(tmp_path: Path, schema: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="does not hold"):
        made(tmp_path, {"kind": "schema", "schema": schema}, {"a": 1})


def test_a_schema_cannot_hold_the_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overt.evaluation.suites.runners.schema.SECONDS", 1)
    schema = {"type": "string", "pattern": "^(a+)+$"}
    with pytest.raises(OvertError, match="more than 1 s"):
        grade(tmp_path, {"kind": "schema", "schema": schema}, {"a": 1}, json.dumps("a" * 60 + "b"))


# ---- judge ---------------------------------------------------------------------------------


class Judge:
    """Answers by a list; keeps what it was asked."""

    def __init__(self, *said: str) -> None:
        self.said, self.asked = list(said), list[str]()

    async def __call__(self, request: Request) -> Answer:
        self.asked.append(request.messages[-1].text)
        answer = Answer()
        answer.text = self.said.pop(0)
        return answer


def judge(tmp_path: Path, more: dict[str, Any], *said: str) -> tuple[Any, Grade, Judge]:
    model = Judge(*said)
    told = {"kind": "judge", "rubric": "Be kind.", **more}
    runner, item = made(tmp_path, told, {"a": "reference"}, RunnerTools(model, "echo:judge"))
    return runner, asyncio.run(runner.grade(item, "an answer")), model


def test_a_judge_gives_a_mark(tmp_path: Path) -> None:
    assert judge(tmp_path, {}, "Good.\nVERDICT: 4\n")[1].score == 0.75
    assert judge(tmp_path, {"scale": 2}, "**VERDICT: 1**")[1].score == 0
    with pytest.raises(Unparsed, match="no verdict"):
        judge(tmp_path, {}, "VERDICT: 4\nor so")
    with pytest.raises(BadRequest, match="--judge REF"):
        made(tmp_path, {"kind": "judge", "rubric": "x"}, {"a": 1})


@pytest.mark.parametrize(
    ("first", "second", "score", "agree"),
    [("A", "B", 1, True), ("B", "A", 0, True), ("TIE", "TIE", 0.5, True), ("A", "A", 0.5, False),
     ("B", "B", 0.5, False), ("A", "TIE", 0.5, False)],
)  # fmt: skip
def test_places_are_swapped(
    tmp_path: Path, first: str, second: str, score: float, agree: bool
) -> None:
    assert combine(first, second).score == score
    runner, found, model = judge(
        tmp_path, {"against": "{a}"}, f"VERDICT: {first}", f"VERDICT: {second}"
    )
    assert (found.score, found.detail["agree"]) == (score, agree)
    a, b = ("an answer", "reference")
    for text, (one, other) in zip(model.asked, ((a, b), (b, a)), strict=True):
        assert text.index(f"\n{one}\n") < text.index(f"\n{other}\n")
    summary = runner.summary([found.detail])
    assert summary["swap_disagreement_rate"] == (0 if agree else 1)
    assert summary["ties"] == (first == second == "TIE")


@pytest.mark.parametrize(
    ("text", "pair", "found"),
    [
        ("VERDICT: A", True, "A"), ("VERDICT: A", False, None), ("VERDICT: 3", True, None),
        ("VERDICT: 9", False, None), ("VERDICT: 0", False, None), ("verdict: A", True, None),
        ("VERDICT: A or B", True, None), ("", True, None), ("The VERDICT: A", True, None),
        ("x\nVERDICT: TIE.", True, "TIE"),
    ],
)  # fmt: skip
def test_verdicts_are_read_strictly(text: str, pair: bool, found: str | None) -> None:
    assert verdict(text, pair=pair, scale=5) == found
