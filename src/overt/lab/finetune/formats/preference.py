"""Preference pairs for DPO: a ``prompt``, the answer ``chosen`` and the one ``rejected``.

Each is a text or messages. Where there is no prompt, the messages that both answers begin with are
the prompt.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from overt.lab.finetune.formats import chat
from overt.lab.finetune.item import Bad, Choice, Item, Kind, Turn, said, talk, turn

NAME: Final = "preference"
ABOUT: Final = "preference pairs"
KIND: Final[Kind] = "preference"
EXAMPLE: Final = '{"prompt": "…", "chosen": "…", "rejected": "…"}'


def looks(row: Mapping[str, Any]) -> bool:
    return "chosen" in row or "rejected" in row


def read(row: Mapping[str, Any]) -> Item:
    chosen, rejected = _answer(row, "chosen"), _answer(row, "rejected")
    if chosen == rejected:
        raise Bad("has the same text as 'chosen' and 'rejected'", "a pair needs a better answer")
    prompt = row.get("prompt", row.get("question"))
    tools = chat.tools_of(row)
    if prompt is None:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        if not shared:
            raise Bad("has no 'prompt'", f"write {EXAMPLE}")
        if len(chosen) != shared + 1 or len(rejected) != shared + 1:
            raise Bad("has answers that part before their last turn", "they differ in one answer")
        return Choice(talk(chosen, tools), talk(rejected, tools))
    before = chat.turns_of(prompt) if isinstance(prompt, list) else _asked(row, prompt)
    if len(chosen) > 1 and chosen[: len(before)] == before:  # the prompt stands there again
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]
    if len(chosen) != 1 or len(rejected) != 1:
        raise Bad("has answers of several turns", "'chosen' and 'rejected' are one answer each")
    found = Choice(talk([*before, *chosen], tools), talk([*before, *rejected], tools))
    if not isinstance(prompt, str):
        return found
    plain = [(prompt, str(one[0]["content"])) for one in (chosen, rejected)]
    return Choice(replace(found.chosen, plain=plain[0]), replace(found.rejected, plain=plain[1]))


def _asked(row: Mapping[str, Any], prompt: Any) -> list[Turn]:
    system = row.get("system")
    asked = turn("user", said(prompt, "prompt"))
    return (
        [turn("system", system), asked] if isinstance(system, str) and system.strip() else [asked]
    )


def _answer(row: Mapping[str, Any], name: str) -> list[Turn]:
    value = row.get(name)
    if isinstance(value, list):
        return chat.turns_of(value)
    if isinstance(value, dict):
        return chat.turns_of([value])
    return [turn("assistant", said(value, name))]
