"""ShareGPT: ``conversations`` of turns with ``from`` and ``value``.

Speakers are those of `overt.conversations.sharegpt`; a field ``system`` beside the conversation is
its system prompt. ``function_call`` is a call of a tool as JSON, ``observation`` its result.
"""

from collections.abc import Mapping
from typing import Any, Final

from overt.lab.finetune.formats import turns
from overt.lab.finetune.row import Item, Kind, TrackedRow, talk

NAME: Final = "sharegpt"
ABOUT: Final = "ShareGPT"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = turns.SHAREGPT


def looks(row: Mapping[str, Any]) -> bool:
    return "conversations" in row or "conversation" in row


def read(row: TrackedRow) -> Item:
    name = "conversations" if "conversations" in row else "conversation"
    turns_ = turns.turns_of(row.get(name), name)
    return talk(turns.with_system(row, turns_), turns.tools_of(row))
