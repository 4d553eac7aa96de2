"""Conditions on facts, with three values: true, false, and open while a fact is missing.

`residual` is what is left of a condition once some facts are known. `outlook` answers two questions
exactly, over all values that the missing facts may have: how strict the answer is at least and at
most, and which of the missing facts can change it. It holds the truth of a condition for every
combination of values in the bits of one integer, so that a chain of licences costs microseconds.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, Literal, NamedTuple

from overt.openness.permissions import uses
from overt.openness.permissions.facts import FACTS, LicenceFact, Value, fact

_COMPARE: Mapping[str, Callable[[Any, Any], object]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
}
_HOW = sorted(_COMPARE, key=len, reverse=True)
_MAX_BITS = 1 << 22


class FactTest(NamedTuple):
    """One fact against what it must be.

    Attributes:
        how: ``is`` (yes_no, one_of), ``in`` (several_of, trains_other_model), or a comparison.
        wanted: what it is compared with.
    """

    fact: str
    how: str
    wanted: bool | int | tuple[str, ...]

    def accepts(self, value: Value) -> bool:
        if isinstance(self.wanted, tuple):
            return any(word in self.wanted for word in _words(value))
        if self.how == "is" or not isinstance(value, int | float):
            return value == self.wanted
        return bool(_COMPARE[self.how](value, self.wanted))


FactTest.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


# Tuples are equal by what is in them: `kind` keeps an All from being an AnyOf of the same parts.
class AllOf(NamedTuple):
    of: tuple["Condition", ...]
    kind: Literal["all"] = "all"


class AnyOf(NamedTuple):
    of: tuple["Condition", ...]
    kind: Literal["any"] = "any"


class Negation(NamedTuple):
    of: "Condition"
    kind: Literal["not"] = "not"


Condition = FactTest | AllOf | AnyOf | Negation
ALWAYS = AllOf(())
NEVER = AnyOf(())


def _words(value: Value) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return tuple(word for word in value if word != "nothing")
    if value == "both":
        return ("weights", "outputs")
    return (value,) if isinstance(value, str) and value != "none" else ()


def parse(table: Mapping[str, Any]) -> Condition:
    """A condition from its table. Raises ValueError: a fact or a value nobody knows."""
    parts: list[Condition] = []
    for key, value in table.items():
        if key == "all":
            parts += [parse(item) for item in value]
        elif key == "any":
            parts.append(AnyOf(tuple(parse(item) for item in value)))
        elif key == "not":
            parts.append(Negation(parse(value)))
        else:
            parts.append(_test(key, value))
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _test(name: str, value: object) -> FactTest:
    fact_ = fact(name)
    if fact_ is None or fact_.name != name:
        raise ValueError(f"{name} is no fact")
    if fact_.kind == "yes_no" and isinstance(value, bool):
        return FactTest(name, "is", value)
    if fact_.kind == "number" and isinstance(value, str):
        how = next((sign for sign in _HOW if value.startswith(sign)), "")
        number = value[len(how) :].lstrip()
        if how and number.isascii() and number.isdigit():
            return FactTest(name, how, int(number))
    words = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    possible = _possible(fact_)
    if words == ("any",):
        words = possible
    if words and fact_.kind not in ("yes_no", "number") and set(words) <= set(possible):
        return FactTest(name, "in", words)
    raise ValueError(f"{name} cannot be {value!r}")


def _possible(fact_: LicenceFact) -> tuple[str, ...]:
    if fact_.name == "fields_of_use":
        return tuple(uses.FIELDS)
    return tuple(value for value in fact_.values if value not in ("none", "nothing", "both"))


def residual(condition: Condition, known: Mapping[str, Value]) -> bool | Condition:
    """True or False where the known facts settle it, else the condition on the others."""
    if isinstance(condition, FactTest):
        value = known.get(condition.fact)
        return condition if value is None else condition.accepts(value)
    if isinstance(condition, Negation):
        inner = residual(condition.of, known)
        return not inner if isinstance(inner, bool) else Negation(inner)
    settles = isinstance(condition, AnyOf)  # the value of one part that settles the whole
    left: list[Condition] = []
    for part in condition.of:
        rest = residual(part, known)
        if isinstance(rest, bool):
            if rest is settles:
                return settles
        else:
            left.append(rest)
    if not left:
        return not settles
    if settles:
        left = _joined(left)
    if len(left) == 1:
        return left[0]
    return AnyOf(tuple(left)) if settles else AllOf(tuple(left))


def _joined(parts: list[Condition]) -> list[Condition]:
    """Tests of one fact for some words or others are one test for all these words."""
    joined: dict[object, Condition] = {}
    for part in parts:
        key: object = part
        if isinstance(part, FactTest) and isinstance(part.wanted, tuple):
            key = part.fact
            before = joined.get(key)
            if isinstance(before, FactTest) and isinstance(before.wanted, tuple):
                part = FactTest(
                    part.fact, "in", tuple(dict.fromkeys((*before.wanted, *part.wanted)))
                )
        joined[key] = part
    return list(joined.values())


def tests(condition: Condition) -> Iterable[FactTest]:
    """All tests within a condition."""
    if isinstance(condition, FactTest):
        return (condition,)
    if isinstance(condition, Negation):
        return tests(condition.of)
    return chain.from_iterable(tests(part) for part in condition.of)


def mentions(condition: Condition, name: str) -> bool:
    return any(test.fact == name for test in tests(condition))


def replace(condition: Condition, name: str, words: Mapping[str, tuple[str, ...]]) -> Condition:
    """The condition with each word that it wants of a fact taken for the words it stands for."""
    if isinstance(condition, FactTest):
        if condition.fact != name or not isinstance(condition.wanted, tuple):
            return condition
        wanted = tuple(
            dict.fromkeys(x for word in condition.wanted for x in words.get(word, (word,)))
        )
        return FactTest(name, "in", wanted) if wanted else NEVER
    if isinstance(condition, Negation):
        return Negation(replace(condition.of, name, words))
    parts = tuple(replace(part, name, words) for part in condition.of)
    return AnyOf(parts) if isinstance(condition, AnyOf) else AllOf(parts)


class Outlook(NamedTuple):
    """How strict the answer is at least and at most, and the facts that decide between."""

    least: int
    most: int
    matter: tuple[str, ...]


def outlook(rules: Sequence[tuple[int, Condition]], floor: int = 0) -> Outlook:
    """What rules of (level, condition) come to over all values of the facts they mention.

    The answer is the highest level whose condition holds, and at least the floor.
    """
    rules = [rule for rule in rules if rule[0] > floor]
    if not rules:
        return Outlook(floor, floor, ())
    grid = _Grid(rules)
    if grid.size > _MAX_BITS:  # too many facts at once: say that all of them matter
        return Outlook(floor, max(level for level, _ in rules), tuple(grid.axes))
    least, most, matter = floor, floor, set[str]()
    table = 0
    for level in sorted({level for level, _ in rules}, reverse=True):
        for rule_level, condition in rules:
            if rule_level == level:
                table |= grid.truth(condition)
        if table:
            most = max(most, level)
        if table == grid.full:
            least = max(least, level)
        matter |= {name for name in grid.axes if grid.varies(table, name)}
    return Outlook(least, most, tuple(fact_.name for fact_ in FACTS if fact_.name in matter))


class _Grid:
    """All combinations of the values that the tests of some rules can tell apart."""

    def __init__(self, rules: Sequence[tuple[int, Condition]]) -> None:
        by_fact: dict[str, list[FactTest]] = {}
        for _, condition in rules:
            for test in tests(condition):
                if test not in by_fact.setdefault(test.fact, []):
                    by_fact[test.fact].append(test)
        self.axes: dict[str, tuple[int, tuple[Value, ...]]] = {}  # name: stride, values
        self.size = 1
        for name, all_of_it in by_fact.items():
            values = _distinct_values(name, all_of_it)
            self.axes[name] = (self.size, values)
            self.size *= len(values)
        self.full = (1 << self.size) - 1 if self.size <= _MAX_BITS else 0
        self._known: dict[FactTest, int] = {}

    def truth(self, condition: Condition) -> int:
        if isinstance(condition, FactTest):
            if condition not in self._known:
                _, values = self.axes[condition.fact]
                self._known[condition] = self._where(
                    condition.fact, [condition.accepts(value) for value in values]
                )
            return self._known[condition]
        if isinstance(condition, Negation):
            return self.full & ~self.truth(condition.of)
        if isinstance(condition, AllOf):
            table = self.full
            for part in condition.of:
                table &= self.truth(part)
            return table
        table = 0
        for part in condition.of:
            table |= self.truth(part)
        return table

    def varies(self, table: int, name: str) -> bool:
        """Whether the table differs anywhere between two values of one fact."""
        stride, values = self.axes[name]
        rest = [True] * (len(values) - 1) + [False]
        return bool((table ^ (table >> stride)) & self._where(name, rest))

    def _where(self, name: str, accepted: Sequence[bool]) -> int:
        """The bits of the combinations where the fact has one of its accepted values."""
        stride, values = self.axes[name]
        block = 0
        for place, yes in enumerate(accepted):
            if yes:
                block |= ((1 << stride) - 1) << (place * stride)
        width = stride * len(values)
        while width < self.size:
            block |= block << width
            width *= 2
        return block & self.full


def _distinct_values(name: str, tests_: Sequence[FactTest]) -> tuple[Value, ...]:
    """One value of a fact for each way in which the tests can come out."""
    distinct: dict[tuple[bool, ...], Value] = {}
    for value in _candidates(name, tests_):
        distinct.setdefault(tuple(test.accepts(value) for test in tests_), value)
    return tuple(distinct.values())


def _candidates(name: str, tests_: Sequence[FactTest]) -> Iterable[Value]:
    known = fact(name)
    if known is None or known.kind == "yes_no":
        return (False, True)
    if known.kind == "number":
        edges = sorted({test.wanted for test in tests_ if isinstance(test.wanted, int)})
        near = {max(0, edge + step) for edge in edges for step in (-1, 0, 1)}
        return sorted(near)
    if known.kind == "one_of":
        return known.values
    words = sorted(
        {word for test in tests_ if isinstance(test.wanted, tuple) for word in test.wanted}
    )
    return [
        some
        for size in range(len(words) + 1)
        for some in combinations(words, size)
        if size <= 5 or size == len(words)
    ]
