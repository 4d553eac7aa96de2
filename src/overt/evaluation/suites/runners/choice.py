"""Multiple choice by generation: which letter the answer names.

The letter is looked for in this order: the whole answer is one (``B``, ``(B)``, ``B.``); after "the
answer is" or "answer:" or "\\boxed" (the last such place); at the start (``B. because …``); alone
in bold or brackets; the text of exactly one choice; the only letter that stands alone anywhere. An
answer that names none, or two with nothing to tell them apart, is wrong.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from overt.evaluation.suites.runners import Grade, RunnerTools
from overt.evaluation.suites.runners.exact import plain
from overt.evaluation.suites.runners.extract import Extract
from overt.evaluation.suites.suite import Suite, SuiteItem

_MAX_CHARACTERS = 20_000  # characters
_SAID = re.compile(
    r"(?:answer|choice|option)\s*(?:is|:|=|would be|should be)\s*:?\s*"
    r"(?:option\s+|choice\s+|\\boxed\{)?[*_(\[\"'`]{0,4}([A-Z])(?![A-Za-z0-9'’])"
    r"|\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Z])\b",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"[\s*_(\[\"'`]*([A-Za-z])[\s*_)\]\"'`.:,]*")
_START = re.compile(r"[\s*_(\[\"'`]*([A-Z])(?:[).:\]*]|\s*$|\s*\n|\s+[-–—]\s)", re.MULTILINE)
_MARKED = re.compile(r"(?:\*\*|\(|\[)([A-Z])(?:[.:)]?)(?:\*\*|\)|\])")
_ALONE = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")


def letter(text: str, choices: Sequence[str]) -> str:
    """The letter `text` names, of as many as there are `choices`; "" for none."""
    text = text[-_MAX_CHARACTERS:]
    allowed = {chr(65 + i) for i in range(len(choices))}
    if (whole := _WHOLE.fullmatch(text)) and whole[1].upper() in allowed:
        return whole[1].upper()
    letters = [(match[1] or match[2]).upper() for match in _SAID.finditer(text)]
    if letters := [letter_ for letter_ in letters if letter_ in allowed]:
        return letters[-1]
    if (start := _START.match(text)) and start[1] in allowed:
        return start[1]
    for pattern in (_MARKED, None, _ALONE):
        named = (
            [match[1] for match in pattern.finditer(text)]
            if pattern
            else _choices_named(text, choices)
        )
        different = {letter_ for letter_ in named if letter_ in allowed}
        if len(different) == 1:
            return different.pop()
    return ""


def _choices_named(text: str, choices: Sequence[str]) -> list[str]:
    """Letters of the choices whose text stands in the answer; of nested ones the longest."""
    steps = ("space", "case", "ends")
    plain_text = plain(text, steps)
    shown = [plain(choice, steps) for choice in choices]
    positions = [
        i
        for i, choice in enumerate(shown)
        if choice and re.search(r"(?<!\w)" + re.escape(choice) + r"(?!\w)", plain_text)
    ]
    longest = [i for i in positions if not any(shown[i] in shown[j] for j in positions if i != j)]
    return [chr(65 + i) for i in longest]


class _ChoiceRunner:
    def __init__(self, suite: Suite) -> None:
        self._extract = Extract(suite)
        self.method = "the letter the answer names" + (
            ", choices shuffled by the seed" if suite.told.get("shuffle") else ""
        )

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        answer = letter(await self._extract(text), item.choices)
        return Grade(float(answer == item.answer), answer, {"right": item.answer})

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """How often each letter was right: what always answering one letter would score."""
        right = Counter(str(detail.get("right")) for detail in details)
        return {"right_letters": dict(sorted(right.items()))}


def runner(suite: Suite, tools: RunnerTools) -> _ChoiceRunner:
    return _ChoiceRunner(suite)
