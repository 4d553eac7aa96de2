"""Sums that an answer writes down, done again: ``3 * 4 = 13`` shows by itself that it is wrong.

What is judged is a plain sum of numbers before an equals sign with a plain number after it.
Letters, percent signs, mixed fractions and powers are passed over, not judged; where a text can be
read in two ways, one that is right is enough. Each equals sign is looked at with what stands right
around it, so that the time grows with the length of the text and no faster.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import isclose

__all__ = ["sums", "wrong_sum"]

_MAX_SUMS = 1000
_REACH = 160  # characters before an equals sign

_NUMBER = r"[0-9]{1,12}(?:,[0-9]{3}){0,4}(?:\.[0-9]{1,6})?"
_TOKEN = re.compile(
    rf"(?P<number>[$€£]?{_NUMBER})|(?P<sign>[-+*/x×÷()])|(?P<blank> )|(?P<stop>.)", re.S
)
_RESULT = re.compile(rf" {{0,3}}(-? ?[$€£]?{_NUMBER})(?![0-9]|[.,][0-9]| ?[-+*/×÷^%]|[A-Za-z_(])")
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_Token = tuple[str, str, int]  # kind, text, where it begins


def wrong_sum(text: str) -> str | None:
    """The first sum of `text` whose result is not right, as it is written there.

    A result may be rounded: it is right within 1% or half of its last digit.
    """
    for _, right, shown in sums(text):
        if not right:
            return shown
    return None


def sums(text: str) -> Iterator[tuple[float, bool, str]]:
    """Each sum of `text`: the result it claims, whether that is right, and how it is written."""
    at = text.find("=")
    for _ in range(_MAX_SUMS):
        if at < 0:
            return
        result = _RESULT.match(text, at + 1, at + 60)
        if result is not None and (readings := _readings(text, at)):
            claimed = float(re.sub(r"[$€£, ]", "", result[1]))
            _, _, digits = result[1].partition(".")
            half = 0.5001 * 10.0 ** -len(digits)
            right = any(
                isclose(value, claimed, rel_tol=0.01) or abs(value - claimed) <= half
                for value, _ in readings
            )
            shown = text[readings[0][1] : result.end()]
            yield claimed, right, " ".join(shown.split())
        at = text.find("=", at + 1)


def _readings(text: str, end: int) -> list[tuple[float, int]]:
    """What the sum that ends at `end` may come to, and where it begins; nothing for no sum."""
    begin = max(0, end - _REACH)
    begin = max(begin, text.rfind("=", begin, end))
    tokens: list[_Token] = []
    before: _Token | None = None
    for match in _TOKEN.finditer(text, begin, end):
        kind = match.lastgroup or "stop"
        if kind == "stop":
            tokens, before = [], (kind, match[0], match.start())
        elif kind != "blank":
            tokens.append((kind, match[0], match.start()))
    if not tokens or (before is None and begin > 0):
        return []  # or it begins further back than is looked
    touches = before is not None and before[2] + 1 == tokens[0][2]
    if before is not None and touches and re.match(r"[\w.,^%]", before[1]):
        return []
    fresh = before is None or before[1] == "\n"
    return [value for start in _begins(tokens, fresh) if (value := _sum(start)) is not None]


def _begins(tokens: list[_Token], fresh: bool) -> Iterator[list[_Token]]:
    """Where the sum may begin; `fresh` where a line does."""
    opened = sum(token[1] == "(" for token in tokens) - sum(token[1] == ")" for token in tokens)
    while opened > 0 and tokens and tokens[0][1] == "(":
        tokens, opened = tokens[1:], opened - 1
    if len(tokens) < 3 or opened:
        return
    first, second = tokens[0], tokens[1]
    if first[0] == "number" or first[1] == "(":
        yield tokens
    elif first[1] == "-" and second[2] == first[2] + 1:
        yield tokens  # a negative number, or after a dash
        yield tokens[1:]
    elif first[1] in "-+*" and fresh:
        yield tokens[1:]  # the mark of a list


def _sum(tokens: list[_Token]) -> tuple[float, int] | None:
    """What tokens come to, and where they begin; None where they are no sum."""
    kinds = [kind for kind, _, _ in tokens]
    adjacent = any(a == b == "number" for a, b in pairwise(kinds))
    if adjacent or not any(text in "-+*/x×÷" for _, text, _ in tokens[1:]):
        return None
    plain = "".join(re.sub(r"^[$€£]?0*(?=[0-9])|,", "", text) for _, text, _ in tokens)
    plain = plain.replace("x", "*").replace("×", "*").replace("÷", "/")
    try:
        return _value(ast.parse(plain, mode="eval").body), tokens[0][2]
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(node)
