"""The instructions of IFEval: each is met by an answer and missed by another."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import FormatError
from overt.evaluation.suites import runners
from overt.evaluation.suites import suite as task
from overt.evaluation.suites.runners.ifeval_checks import (
    CHECKS,
    NOT_JUDGED,
    follows,
    loose,
    sentences,
)

_AT_LEAST = "at least"
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["Tree", "sky"]}, "a tree in the Sky", "a tree"),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "rocket", "a Rock."),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": _AT_LEAST}, "Ha ha", "ha"),
    ("keywords:letter_frequency",
     {"letter": "#", "let_frequency": 2, "let_relation": "less than"}, "# one", "## two"),
    ("length_constraints:number_sentences",
     {"num_sentences": 2, "relation": _AT_LEAST}, "One. Two!", "Dr. Who is 3.5 m tall."),
    ("length_constraints:number_words",
     {"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***a***b***", "a******b"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"}, "a\n\n\"So, yes", "so\n\na"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a] (b)"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\nP. S. y", "PS y"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP.P.S y", "P.S. y"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n** b"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "My answer: no."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* **b**", "*a* **"),
    ("detectable_format:multiple_sections",
     {"num_sections": 2, "section_spliter": "Day"}, "Day 1 a Day 2 b", "Day 1 a Day b"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >> <title>"),
    ("combination:two_responses", {}, "a ****** b", "a ****** a"),
    ("combination:two_responses", {}, "a\n******\nb\n******", "a ****** ****** b"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Do it."}, "do it. Yes", "Yes, do it."),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'x "that is all."', "That is all. x"),
    ("startend:quotation", {}, ' "a" ', '"a'),
    ("change_case:capital_word_frequency",
     {"capital_frequency": 2, "capital_relation": _AT_LEAST}, "NO I say", "No I say"),
    ("change_case:english_capital", {}, "ALL OF 1", "ALL OF it"),
    ("change_case:english_lowercase", {}, "all of 1", "All of it"),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "good", "bad"), CASES)
def test_an_instruction_is_met_and_missed(
    name: str, given: dict[str, Any], good: str, bad: str
) -> None:
    assert follows(name, given, good)
    assert not follows(name, given, bad)
    assert not follows(name, given, " \n")


def test_every_instruction_of_the_data_is_known(shared_data: Callable[[str], Path]) -> None:
    assert {case[0] for case in CASES} == set(CHECKS)
    suite = task.load("ifeval", [shared_data("eval/ifeval/input_data.jsonl")])
    seen = {name for item in suite.items for name in item.row.raw["instruction_id_list"]}
    assert seen == {*CHECKS, *NOT_JUDGED}
    assert len(seen) == 25
    assert len(suite.items) == 541
    runners.make(suite, runners.RunnerTools())  # every argument is what its instruction needs


def test_strict_and_loose_are_told_apart(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase",
                                "language:response_language"],
        "kwargs": [{}, {}, {"language": "kn"}],
    }  # fmt: skip
    only = {"prompt": "p", "instruction_id_list": ["language:response_language"], "kwargs": [{}]}
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(only)}\n")
    (tmp_path / "s.yaml").write_text('kind: ifeval\ndata: d.jsonl\nprompt: "{prompt}"\n')
    suite = task.load(str(tmp_path / "s.yaml"))
    runner = runners.make(suite, runners.RunnerTools())
    first = asyncio.run(runner.grade(suite.items[0], "Sure, here it is:\nall is small"))
    second = asyncio.run(runner.grade(suite.items[1], "x"))
    assert (first.score, second.score) == (0, None)
    summary = runner.summary([first.detail, second.detail])
    assert summary["prompt_loose"] == 1
    assert (summary["instruction_strict"], summary["instruction_loose"]) == (0, 1)
    assert (summary["instructions"], summary["instructions_not_judged"]) == (2, 2)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
        {"instruction_id_list": ["punctuation:no_dash"], "kwargs": [{}]},
        {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "a"}]},
        {"instruction_id_list": ["keywords:frequency"],
         "kwargs": [{"keyword": "a", "frequency": 1, "relation": "about"}]},
        {"instruction_id_list": [], "kwargs": []},
        {"instruction_id_list": [3], "kwargs": [{}]},
    ],
)  # fmt: skip
def test_data_that_is_not_ifevals_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    (tmp_path / "s.yaml").write_text("kind: ifeval\ndata: d.jsonl\nprompt: x\n")
    with pytest.raises(FormatError, match="line 1 of"):
        runners.make(task.load(str(tmp_path / "s.yaml")), runners.RunnerTools())


def test_sentences_are_counted() -> None:
    assert sentences("Mr. Smith went to Washington, D.C. yesterday. He paid $3.50! Why?") == 3
    assert sentences("no end") == 1
    assert sentences("... --- ...") == 0


@given(st.text(alphabet='aA *.\n[]<>"-#,123P.S', max_size=60))
def test_any_answer_is_judged(text: str) -> None:
    for name, told, _, _ in CASES:
        strict = follows(name, told, text)
        assert strict <= any(follows(name, told, form) for form in loose(text))
