"""Alpaca: an ``instruction``, an ``input`` that may be empty, and an ``output``.

For a model without a chat template the texts around them are those of Stanford's Alpaca (2023).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from overt.lab.finetune.item import Bad, Item, Kind, ask, said

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


def read(row: Mapping[str, Any]) -> Item:
    instruction = said(row.get("instruction"), "instruction")
    answer = said(row.get("output", row.get("response")), "output")
    more, system = row.get("input"), row.get("system")
    if more is not None and not isinstance(more, str):
        raise Bad("has an 'input' that is no text", 'write it in quotes: "input": "…"')
    more = (more or "").strip()
    question = f"{instruction}\n\n{more}" if more else instruction
    made = ask(question, answer, system if isinstance(system, str) else "")
    before = (_WITH if more else _WITHOUT).replace("{instruction}", instruction)
    return replace(made, plain=(before.replace("{input}", more), answer))
