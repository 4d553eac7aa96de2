"""A ``prompt`` and its ``completion``, or a ``question`` and its ``answer``.

Both may be lists of messages. Where the model has a chat template, texts are a question and its
answer in a chat, because that is how the model will be asked; without one the completion follows
the prompt letter for letter.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from overt.lab.finetune.formats import chat
from overt.lab.finetune.item import Bad, Item, Kind, ask, said, talk

NAME: Final = "completion"
ABOUT: Final = "prompts and completions"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = '{"prompt": "…", "completion": "…"}'
_NAMES: Final = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))


def looks(row: Mapping[str, Any]) -> bool:
    return any(one in row for names in _NAMES for one in names)


def read(row: Mapping[str, Any]) -> Item:
    first, second = next(
        (names for names in _NAMES if names[0] in row and names[1] in row),
        next(names for names in _NAMES if names[0] in row or names[1] in row),
    )
    question, answer = row.get(first), row.get(second)
    if isinstance(question, list) or isinstance(answer, list):
        if not isinstance(question, list) or not isinstance(answer, list):
            raise Bad(
                f"has a list for one of {first!r} and {second!r}", "write both as messages, or none"
            )
        return talk([*chat.turns_of(question), *chat.turns_of(answer)], chat.tools_of(row))
    question, answer = said(question, first), said(answer, second)
    between = "" if first == "prompt" else "\n"
    return replace(ask(question, answer), plain=(question + between, answer))
