"""ShareGPT: ``conversations`` of turns with ``from`` and ``value``.

Speakers are those of `overt.conversations.sharegpt`; a field ``system`` beside the conversation is
its system prompt. ``function_call`` is a call of a tool as JSON, ``observation`` its result.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from overt.conversations.sharegpt import ROLES
from overt.lab.finetune.formats import chat
from overt.lab.finetune.item import Bad, Item, Kind, Turn, turn

NAME: Final = "sharegpt"
ABOUT: Final = "ShareGPT"
KIND: Final[Kind] = "answers"
EXAMPLE: Final = (
    '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}'
)
_EXPECTED: Final = f"write {EXAMPLE}"


def looks(row: Mapping[str, Any]) -> bool:
    return "conversations" in row or "conversation" in row


def read(row: Mapping[str, Any]) -> Item:
    said = row.get("conversations", row.get("conversation"))
    if not isinstance(said, list):
        raise Bad("has conversations that are no list", _EXPECTED)
    turns: list[Turn] = []
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        turns.append(turn("system", system))
    for number, one in enumerate(said, 1):
        turns.append(_turn(one, number))
    return chat.talk_of(turns, row.get("tools"))


def _turn(one: Any, number: int) -> Turn:
    if not isinstance(one, dict):
        raise Bad(f"has a turn {number} that is no object", _EXPECTED)
    speaker, value = one.get("from", one.get("role")), one.get("value", one.get("content"))
    if not isinstance(speaker, str):
        raise Bad(f"has no 'from' in turn {number}", _EXPECTED)
    if not isinstance(value, str):
        raise Bad(f"has no text 'value' in turn {number}", _EXPECTED)
    if speaker.lower() == "function_call":
        try:
            call = json.loads(value)
        except (ValueError, RecursionError):
            raise Bad(f"has a function_call in turn {number} that is not JSON", _EXPECTED) from None
        return {"role": "assistant", "tool_calls": call if isinstance(call, list) else [call]}
    role = ROLES.get(speaker.lower())
    if role is None:
        raise Bad(f"has a turn {number} of {speaker[:40]!r}", f"speakers are {', '.join(ROLES)}")
    return turn(role, value)
