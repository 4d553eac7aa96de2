"""Messages as OpenAI writes them, calls of tools included (`turns.py` reads them).

A ``system`` beside the messages goes before them.
"""

from collections.abc import Mapping
from typing import Any, Final

from overt.lab.finetune.formats import turns
from overt.lab.finetune.row import Item, Kind, TrackedRow, talk

NAME: Final = "chat"
ABOUT: Final = "messages as OpenAI writes them"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = turns.OPENAI


def looks(row: Mapping[str, Any]) -> bool:
    return "messages" in row


def read(row: TrackedRow) -> Item:
    turns_ = turns.turns_of(row.get("messages"))
    return talk(turns.with_system(row, turns_), turns.tools_of(row))
