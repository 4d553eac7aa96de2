"""Preference pairs for DPO: a ``prompt``, the answer ``chosen`` and the one ``rejected``.

Each answer is a text, a turn, or messages. The prompt is a text or messages, Alpaca's instruction,
or the ``conversations`` of LLaMA-Factory. Where answers of several turns begin alike, as TRL has
it, those turns belong to the prompt. OpenAI calls the three ``input``, ``preferred_output`` and
``non_preferred_output``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from overt.lab.finetune.formats import alpaca, turns
from overt.lab.finetune.row import (
    BadRow,
    Dialogue,
    DialogueTurn,
    Item,
    Kind,
    PreferencePair,
    TrackedRow,
    talk,
    text_of,
    turn,
)

NAME: Final = "preference"
ABOUT: Final = "preference pairs"
KIND: Final[Kind] = "preference"
EXAMPLE: Final = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
_ANSWERS: Final = (("chosen", "preferred_output"), ("rejected", "non_preferred_output"))
_LISTS: Final = ("conversations", "conversation", "messages")


def looks(row: Mapping[str, Any]) -> bool:
    return any(name in row for names in _ANSWERS for name in names)


def read(row: TrackedRow) -> Item:
    chosen, rejected = (_answer(row, *names) for names in _ANSWERS)
    if _turns(chosen) == _turns(rejected):
        raise BadRow("has the same text as 'chosen' and 'rejected'", "a pair needs a better answer")
    before, plain, tools = _prompt_of(row)
    shared, chosen, rejected = _parted(chosen, rejected)
    if not before and not shared:
        raise BadRow("has no 'prompt'", f"write {EXAMPLE}")
    before = turns.with_system(row, _joined(before, shared))
    tools = tools or turns.tools_of(row)
    talks = [_talk([*before, *answer], tools) for answer in (chosen, rejected)]
    if plain and not shared and len(before) <= 2:
        system = before[0].turn["content"] + "\n\n" if before[0].role == "system" else ""
        talks = [
            replace(talk_, plain=(system + plain, talk_.turns[-1]["content"])) for talk_ in talks
        ]
    return PreferencePair(*talks)


def _talk(turns_: Sequence[DialogueTurn], tools: Sequence[Mapping[str, Any]]) -> Dialogue:
    """Of a pair the last answer alone is compared."""
    if not turns_[-1].learnt:
        raise BadRow("has an answer that is not to be learnt", "take out its 'weight' or 'train'")
    result = talk(turns_, tools)
    return replace(result, skipped=frozenset(result.learnt[:-1]) | result.skipped)


def _prompt_of(row: TrackedRow) -> tuple[list[DialogueTurn], str, Sequence[Mapping[str, Any]]]:
    """The prompt that stands beside the answers, the same as plain text, and tools beside it."""
    for name in ("prompt", "question"):
        value = row.get(name) if name in row else None
        if isinstance(value, list):
            return turns.turns_of(value), "", ()
        if value is not None:
            return [turn("user", text_of(value, name))], value, ()
    if "instruction" in row:
        question, plain = alpaca.question_of(row)
        before = alpaca.history(row)
        return [*before, turn("user", question)], "" if before else plain, ()
    for name in _LISTS:
        turns_ = turns.turns_of(row.raw[name], name) if row.raw.get(name) else []
        if turns_ and turns_[-1].role != "assistant":  # else a copy of what was chosen
            row.get(name)
            return turns_, "", ()
    value = row.get("input") if "input" in row else None
    if isinstance(value, dict):
        inner = TrackedRow(value)
        return turns.turns_of(inner.get("messages")), "", turns.tools_of(inner)
    return (
        ([turn("user", text_of(value, "input"))], value, ()) if value is not None else ([], "", ())
    )


def _answer(row: Mapping[str, Any], *names: str) -> list[DialogueTurn]:
    name = next((name_ for name_ in names if name_ in row), names[0])
    value = row.get(name)
    if isinstance(value, list):
        turns_ = turns.turns_of(value)
    elif isinstance(value, dict):
        turns_ = turns.turns_of([value])
    else:
        return [turn("assistant", text_of(value, name))]
    if not turns_:
        raise BadRow(f"has an empty {name!r}", "fill it in, or leave the row out")
    return turns_


def _parted(
    chosen: list[DialogueTurn], rejected: list[DialogueTurn]
) -> tuple[list[DialogueTurn], list[DialogueTurn], list[DialogueTurn]]:
    """The turns that both begin with, and the one in which each of them ends."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and (
        chosen[shared].turn == rejected[shared].turn
    ):
        shared += 1
    if len(chosen) != shared + 1 or len(rejected) != shared + 1:
        raise BadRow("has answers that part before their last turn", "they differ in one answer")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _joined(before: list[DialogueTurn], shared: list[DialogueTurn]) -> list[DialogueTurn]:
    """One prompt of what stands beside the answers and of what they begin with.

    Raises:
        Bad: they are two.
    """
    if not before or not shared:
        return before or shared
    first, second = _stripped(before), _stripped(shared)
    if first[-len(second) :] == second:
        return before
    if second[-len(first) :] == first:
        return shared
    if shared[0].role == "assistant":
        return [*before, *shared]
    raise BadRow("has answers that begin with another prompt than its own", "keep one of the two")


def _turns(turns_: Sequence[DialogueTurn]) -> list[Mapping[str, Any]]:
    return [spoken.turn for spoken in turns_]


def _stripped(turns_: Sequence[DialogueTurn]) -> list[Mapping[str, Any]]:
    return [{**spoken.turn, "content": spoken.turn["content"].strip()} for spoken in turns_]
