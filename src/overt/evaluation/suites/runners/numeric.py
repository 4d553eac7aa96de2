"""A number: the one after ``####`` or "the answer is", else the last in the text.

Read are ``1,234.5`` (a comma between three digits each; a decimal comma is not known), ``-3``,
``.5``, ``1e6``, ``3/4``, ``$18.00``, and ``20%`` as 20. The tolerance is ``tolerance`` (absolute,
0) or ``relative`` (of the right answer, 1e-6), whichever allows more.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from overt.errors import FormatError
from overt.evaluation.suites.runners import MAX_TEXT, Grade, RunnerTools
from overt.evaluation.suites.runners.extract import Extract
from overt.evaluation.suites.suite import Suite, SuiteItem

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,100}(?![0-9])|[0-9]{1,400})"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-\u2212+]?)\s?[$€£]?(?P<minus>-?)"
    rf"(?P<digits>{_DIGITS}(?:\.[0-9]{{1,400}})?|\.[0-9]{{1,400}})(?![0-9])"
    rf"(?P<exponent>[eE][-+]?[0-9]{{1,3}}(?![0-9]))?(?:/(?P<under>[1-9][0-9]{{0,20}}))?"
)
_MARKS = re.compile(r"####|(?:answer|result)\s+is|answer\s*:|\\boxed", re.IGNORECASE)


def number(text: str) -> Fraction | None:
    """The number a text ends in, as the module says; None for none."""
    marks = list(_MARKS.finditer(text))
    if marks:
        after = text[marks[-1].end() :]
        if match := _NUMBER.search(after[:200]):
            return _value(match)
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return _value(last) if last else None


def _value(match: re.Match[str]) -> Fraction:
    digits = match["digits"].replace(",", "")
    value = Fraction(
        ("0" + digits if digits.startswith(".") else digits) + (match["exponent"] or "")
    )
    negative = match["sign"] in ("-", "\u2212") or match["minus"] == "-"
    value = -value if negative else value
    return value / int(match["under"]) if match["under"] else value


class _Numeric:
    def __init__(self, suite: Suite) -> None:
        self._extract = Extract(suite)
        self._absolute = Fraction(suite.told.get("tolerance", 0))
        self._relative = Fraction(suite.told.get("relative", 1e-6))
        self._right: dict[str, Fraction] = {}
        for item in suite.items:
            right = number(item.answer)
            if right is None:
                raise FormatError(
                    f"{item.row.where} has the answer {item.answer[:60]!r}", "it holds a number"
                )
            self._right[item.id] = right
        self.method = (
            "the number after #### or 'the answer is', else the last one, within"
            f" {float(self._absolute):g} or {float(self._relative):g} of the answer"
        )

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        answer = number(await self._extract(text[-MAX_TEXT:]))
        if answer is None:
            return Grade(0.0)
        right = self._right[item.id]
        allowed = max(self._absolute, self._relative * abs(right))
        return Grade(float(abs(answer - right) <= allowed), _format_number(answer))

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {}


def _format_number(value: Fraction) -> str:
    if value.denominator == 1 and abs(value) < 10**400:
        return str(value.numerator)
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "-inf" if value < 0 else "inf"


def runner(suite: Suite, tools: RunnerTools) -> _Numeric:
    return _Numeric(suite)
