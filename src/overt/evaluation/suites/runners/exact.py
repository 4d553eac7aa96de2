"""Exact match, after both texts were made plain in ways the suite names.

``normalise`` (by default ``[space, case, ends]``) may hold:

- ``space``: runs of white space are one blank, none at the ends;
- ``case``: letters are compared without case (Unicode case folding);
- ``ends``: quotes, brackets, asterisks and ``.,;:!?`` at the ends do not count;
- ``punctuation``: no punctuation counts (Unicode categories P and S);
- ``articles``: a, an and the do not count (as SQuAD's script does);
- ``accents``: é is e.

``match`` is ``whole`` (the default), ``line`` (the first line that is not empty), ``begins`` or
``contains``. Further right answers are templates in ``also``.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

from overt.errors import FormatError
from overt.evaluation.suites.runners import MAX_TEXT, Grade, RunnerTools
from overt.evaluation.suites.runners.extract import Extract
from overt.evaluation.suites.suite import Suite, SuiteItem
from overt.evaluation.suites.template import FieldTemplate

STEPS: Final = ("space", "case", "ends", "punctuation", "articles", "accents")
_MATCHES = ("whole", "line", "begins", "contains")
_ENDS = " \t\n\r\"'`*_“”‘’«»()[]{}<>.,;:!?"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


def plain(text: str, steps: Sequence[str]) -> str:
    """`text` as it is compared."""
    if "accents" in steps:
        apart = unicodedata.normalize("NFD", text)
        text = "".join(c for c in apart if unicodedata.category(c) != "Mn")
    text = unicodedata.normalize("NFC", text)
    if "case" in steps:
        text = text.casefold()
    if "punctuation" in steps:
        text = "".join(c for c in text if unicodedata.category(c)[0] not in "PS")
    if "articles" in steps:
        text = _ARTICLES.sub(" ", text)
    if "ends" in steps:
        text = text.strip(_ENDS)
    return " ".join(text.split()) if "space" in steps else text


class _Exact:
    def __init__(self, suite: Suite) -> None:
        self._steps = tuple(suite.told.get("normalise", ("space", "case", "ends")))
        self._how = str(suite.told.get("match", "whole"))
        self._extract = Extract(suite)
        for step in self._steps:
            if step not in STEPS:
                raise FormatError(
                    f"`normalise:` of {suite.name} has {step[:40]!r}",
                    f"it knows {', '.join(STEPS)}",
                )
        if self._how not in _MATCHES:
            raise FormatError(
                f"`match:` of {suite.name} is {self._how[:40]!r}", f"it is {', '.join(_MATCHES)}"
            )
        self._also = [FieldTemplate(template, "`also:`") for template in suite.told.get("also", ())]
        for item in suite.items:
            if not all(self._wanted(item)):
                raise FormatError(
                    f"{item.row.where} has an answer of which nothing is left",
                    "correct it, or take steps out of `normalise:`",
                )
        steps = ", ".join(self._steps) or "nothing"
        self.method = f"exact match ({self._how}) after normalising {steps}"

    def _wanted(self, item: SuiteItem) -> list[str]:
        more = [template.fill(item.row.text, item.row.where) for template in self._also]
        answers = [item.answer, *(answer for answer in more if answer.strip())]
        return [plain(answer, self._steps) for answer in answers]

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        answer = (await self._extract(text[:MAX_TEXT])).strip()
        if self._how == "line":
            answer = answer.split("\n", 1)[0]
        given_answer = plain(answer, self._steps)
        right = any(self._same(given_answer, wanted) for wanted in self._wanted(item))
        return Grade(float(right), given_answer)

    def _same(self, answer: str, wanted: str) -> bool:
        if self._how == "begins":
            return re.match(re.escape(wanted) + r"(?!\w)", answer) is not None
        if self._how == "contains":
            return re.search(r"(?<!\w)" + re.escape(wanted) + r"(?!\w)", answer) is not None
        return answer == wanted

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {}


def runner(suite: Suite, tools: RunnerTools) -> _Exact:
    return _Exact(suite)
