"""Alpaca: an ``instruction``, an ``input`` that may be empty, and an ``output``.

Dolly's ``context`` and ``response`` are the same. LLaMA-Factory's ``history`` is a list of earlier
questions with their answers, and they are learnt too. For a model without a chat template the texts
around them are those of Stanford's Alpaca (2023).
"""

from collections.abc import Mapping
from typing import Any, Final

from overt.lab.finetune.formats import turns
from overt.lab.finetune.row import (
    BadRow,
    DialogueTurn,
    Item,
    Kind,
    TrackedRow,
    perhaps,
    question_answer,
    talk,
    text_of,
    turn,
)

NAME: Final = "alpaca"
ABOUT: Final = "Alpaca's instructions"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = '{"instruction": "…", "input": "", "output": "…"}'
_WITH: Final = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)


def looks(row: Mapping[str, Any]) -> bool:
    return "instruction" in row


def read(row: TrackedRow) -> Item:
    question, plain = question_of(row)
    name = "response" if row.get("output") is None and "response" in row else "output"
    answer = text_of(row.get(name), name)
    if before := history(row):
        after = [turn("user", question), turn("assistant", answer)]
        return talk(turns.with_system(row, [*before, *after]))
    return question_answer(question, answer, turns.system_of(row), plain)


def question_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The question of a row, and the same as a prompt without a template. Raises Bad."""
    instruction = text_of(row.get("instruction"), "instruction")
    inputs = (perhaps(row.get(name), name) for name in ("input", "context") if name in row)
    more = next(filter(None, inputs), "").strip()
    plain = (_WITH if more else _WITHOUT).replace("{instruction}", instruction)
    return f"{instruction}\n\n{more}" if more else instruction, plain.replace("{input}", more)


def history(row: Mapping[str, Any]) -> list[DialogueTurn]:
    """What was asked and answered before. Raises Bad: it is no list of both."""
    expected = 'write "history": [["a question", "its answer"], …]'
    pairs = row.get("history") or []
    if not isinstance(pairs, list):
        raise BadRow("has a 'history' that is no list", expected)
    turns: list[DialogueTurn] = []
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"has an item {number} of 'history' that is no pair", expected)
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append(turn(role, text_of(text, "history")))
    return turns
