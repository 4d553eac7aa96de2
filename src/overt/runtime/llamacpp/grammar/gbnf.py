"""What a GBNF grammar costs llama.cpp, judged before it sees it.

llama.cpp follows every way at once in which a text can be read, once for each letter of each token
of the vocabulary, and is not to be interrupted while it does. So what is counted here is not only
size but ways: how often one and the same piece could come next. Reads the notation of llama.cpp's
grammars/README.md; what does not follow it is left for llama.cpp to refuse.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CHARACTERS = 64 << 10
MAX_DEPTH = 64
"""Brackets and rules within each other."""
MAX_ALTERNATIVES = 2000
MAX_REPEATS = 2000
MAX_PATHS = 10
_MAX_WORK = 200_000

_TOKEN = re.compile(
    r"""(?P<gap>\s+|\#[^\n]*)
    |(?P<rule>[A-Za-z0-9-]+)(?=\s*::=)
    |(?P<name>[A-Za-z0-9-]+)
    |(?P<piece>"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|!?<[^>\n]*>|\.)
    |(?P<times>\{[^}\n]*\})
    |(?P<mark>::=|[()|*+?])""",
    re.VERBOSE | re.DOTALL,
)
_TIMES = re.compile(r"\{\s*(\d{1,18})?\s*(,)?\s*(\d{1,18})?\s*\}")


class BadGrammar(ValueError):
    """Which bound a grammar is beyond; one clause."""


@dataclass(slots=True)
class _GrammarItem:
    """A piece, the name of a rule, or a group, and how often it stands."""

    piece: str = ""
    name: str = ""
    group: "list[list[_GrammarItem]]" = field(default_factory=list)
    low: int = 1
    high: int | None = 1


class _SequenceFacts(NamedTuple):
    empty: bool
    firsts: Counter[str]  # pieces that may come first, and in how many ways
    times: int


_NOTHING = _SequenceFacts(False, Counter(), 1)


def check(grammar: str) -> None:
    """Refuse a grammar that would hold llama.cpp up.

    Raises:
        BadGrammar: a bound, with both numbers.
    """
    size = len(grammar.encode("utf-8", "replace"))
    if size > MAX_CHARACTERS:
        raise BadGrammar(f"is {size} bytes, {MAX_CHARACTERS} is the most")
    rules = _rules(grammar)
    _GrammarJudge(rules).all()


def _rules(grammar: str) -> dict[str, list[list[_GrammarItem]]]:
    rules: dict[str, list[list[_GrammarItem]]] = {}
    groups: list[list[list[_GrammarItem]]] = [[[]]]  # those open now, the rule first
    alternatives = 0
    for kind, text in _tokens(grammar):
        here = groups[-1][-1]
        alternatives += kind == "rule" or text == "|"
        if alternatives > MAX_ALTERNATIVES:
            raise BadGrammar(f"has more than {MAX_ALTERNATIVES} rules and alternatives")
        if kind == "rule":
            groups = [rules.setdefault(text, [])]
            groups[0].append([])
        elif kind == "name":
            here.append(_GrammarItem(name=text))
        elif kind == "piece":
            here.append(_GrammarItem(piece=text))
        elif text == "(":
            here.append(_GrammarItem(group=[[]]))
            groups.append(here[-1].group)
            if len(groups) > MAX_DEPTH + 1:
                raise BadGrammar(f"has brackets more than {MAX_DEPTH} deep")
        elif text == ")":
            del groups[max(1, len(groups) - 1) :]
        elif text == "|":
            groups[-1].append([])
        elif here:
            _repeat(here[-1], text)
    return rules


def _tokens(grammar: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(grammar):
        token = _TOKEN.match(grammar, at)
        if token is None:
            if grammar[at] in '"[<{':  # each would be searched for its end anew
                raise BadGrammar(f"has a {grammar[at]} that is not closed")
            at += 1  # not GBNF, and llama.cpp says so
            continue
        at = token.end()
        if token.lastgroup and token.lastgroup != "gap":
            yield token.lastgroup, token[0]


def _repeat(item: _GrammarItem, mark: str) -> None:
    if mark in ("*", "+", "?"):
        low, high = int(mark == "+"), 1 if mark == "?" else None
    elif match := _TIMES.fullmatch(mark):
        low = int(match[1] or 0)
        high = (int(match[3]) if match[3] else None) if match[2] else low
    else:
        return
    if item.low != 1 or item.high != 1:  # a repetition of a repetition: a group of its own
        inner = _GrammarItem(item.piece, item.name, item.group, item.low, item.high)
        item.piece, item.name, item.group = "", "", [[inner]]
    item.low, item.high = low, high


class _GrammarJudge:
    """What each rule may begin with, in how many ways, and how often its worst part is repeated."""

    def __init__(self, rules: dict[str, list[list[_GrammarItem]]]) -> None:
        self._rules = rules
        self._known: dict[str, _SequenceFacts] = {}
        self._work = 0

    def all(self) -> None:
        for name in self._rules:
            self._rule(name, 0)

    def _rule(self, name: str, depth: int) -> _SequenceFacts:
        if name not in self._known:
            self._known[name] = _NOTHING  # while it is being looked at: a rule may name itself
            self._known[name] = self._alternatives(self._rules.get(name, []), depth + 1)
        return self._known[name]

    def _alternatives(self, alternatives: list[list[_GrammarItem]], depth: int) -> _SequenceFacts:
        if depth > 2 * MAX_DEPTH:
            raise BadGrammar(f"has rules and brackets more than {2 * MAX_DEPTH} deep")
        empty, firsts, times = False, Counter[str](), 1
        for items in alternatives:
            sequence = self._sequence(items, depth)
            empty, times = empty or sequence.empty, max(times, sequence.times)
            # The same piece in two alternatives leads to one state, unless both go on differently.
            self._spend(len(sequence.firsts))
            for piece, ways in sequence.firsts.items():
                firsts[piece] = max(firsts[piece], ways)
        return _SequenceFacts(empty, firsts, times)

    def _sequence(self, items: list[_GrammarItem], depth: int) -> _SequenceFacts:
        empty, firsts, times = True, Counter[str](), 1
        for item in reversed(items):
            result = self._item(item, depth)
            times = max(times, result.times)
            if result.empty:
                firsts = firsts + result.firsts
                self._spend(len(firsts))
                self._check_ways(firsts)
            else:
                firsts, empty = result.firsts, False
        return _SequenceFacts(empty, firsts, times)

    def _item(self, item: _GrammarItem, depth: int) -> _SequenceFacts:
        if item.piece:
            result = _SequenceFacts(item.piece == '""', Counter([item.piece]), 1)
        elif item.name:
            result = self._rule(item.name, depth)
        else:
            result = self._alternatives(item.group, depth + 1)
        most = max(item.low, item.high or 0, 1)
        times, firsts = result.times * most, result.firsts
        if times > MAX_REPEATS:
            raise BadGrammar(f"repeats {times} times in all, {MAX_REPEATS} is the most")
        if result.empty and most > 1:
            if times > MAX_PATHS:
                raise BadGrammar(
                    f"repeats what may be empty {times} times in all, {MAX_PATHS} is the most"
                )
            firsts = Counter({piece: ways * most for piece, ways in firsts.items()})
            self._spend(len(firsts))
            self._check_ways(firsts)
        return _SequenceFacts(result.empty or item.low == 0, firsts, times)

    def _check_ways(self, firsts: Counter[str]) -> None:
        worst = max(firsts.values(), default=0)
        if worst > MAX_PATHS:
            raise BadGrammar(
                f"can read one text in {worst} ways at once, {MAX_PATHS} is the most: what may be "
                "empty follows itself"
            )

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            raise BadGrammar("has too many alternatives within each other")
