"""Plain text: a ``.txt`` file, or rows with a ``text``. All of it is learnt."""

from collections.abc import Mapping
from typing import Any, Final

from overt.lab.finetune.row import Item, Kind, Prose, TrackedRow, text_of

NAME: Final = "text"
ABOUT: Final = "plain text"
KIND: Final[Kind] = "text"
EXAMPLE: Final = '{"text": "…"}'


def looks(row: Mapping[str, Any]) -> bool:
    return "text" in row


def read(row: TrackedRow) -> Item:
    return Prose(text_of(row.get("text"), "text"))
