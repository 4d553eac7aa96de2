"""A ``prompt`` and its ``completion``, or a ``question`` and its ``answer``.

Both may be lists of messages. OpenOrca's ``system_prompt``, ``question`` and ``response`` are the
same with a system's text. Where the model has a chat template, texts are a question and its answer
in a chat, because that is how the model will be asked; without one the completion follows the
prompt letter for letter.
"""

from collections.abc import Mapping
from typing import Any, Final

from overt.lab.finetune.formats import turns
from overt.lab.finetune.row import BadRow, Item, Kind, TrackedRow, question_answer, talk, text_of

NAME: Final = "completion"
ABOUT: Final = "prompts and completions"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = '{"prompt": "…", "completion": "…"}'
_NAMES: Final = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
)
_ALONE: Final = ("prompt", "completion", "question", "answer", "response")
"""Names that mean this format even where the other half is missing."""


def looks(row: Mapping[str, Any]) -> bool:
    whole = any(first in row and second in row for first, second in _NAMES)
    return whole or any(name in row for name in _ALONE)


def read(row: TrackedRow) -> Item:
    first, second = next(
        (names for names in _NAMES if names[0] in row and names[1] in row),
        next(names for names in _NAMES if names[0] in row or names[1] in row),
    )
    question, answer = row.get(first), row.get(second)
    if isinstance(question, list) or isinstance(answer, list):
        if not isinstance(question, list) or not isinstance(answer, list):
            raise BadRow(
                f"has a list for one of {first!r} and {second!r}", "write both as messages, or none"
            )
        spoken = [*turns.turns_of(question), *turns.turns_of(answer)]
        return talk(turns.with_system(row, spoken), turns.tools_of(row))
    question, answer = text_of(question, first), text_of(answer, second)
    between = "" if first == "prompt" else "\n"
    return question_answer(question, answer, turns.system_of(row), question + between)
