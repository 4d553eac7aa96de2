"""The facts of a use that licences ask about, and how people write them.

Values, by the kind of a fact: ``yes_no`` bool, ``number`` int or float, ``one_of`` str,
``several_of`` a tuple of str in the order of the table (of categories for `fields_of_use`).
"""

import math
import re
import tomllib
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeGuard

from overt.errors import BadRequest
from overt.openness.permissions import uses

Kind = Literal["yes_no", "number", "one_of", "several_of"]
Value = bool | int | float | str | tuple[str, ...]

_MAX_WORDS = 100
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}
_NUMBER = r"[$€]?\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*(k|mn?|bn?)?"


class LicenceFact(NamedTuple):
    """One fact that may be asked for.

    Attributes:
        question: for people, ends in a question mark.
        values: what it may be, for `one_of` and `several_of`; empty for free words.
        presumed: what it is taken to be while nothing is said, and the strictest that it can be:
            another value can only make an exception apply. None: nothing is presumed.
    """

    name: str
    kind: Kind
    question: str
    aliases: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    presumed: Value | None = None


FACTS: tuple[LicenceFact, ...] = (
    LicenceFact(
        "commercial",
        "yes_no",
        "Is the use commercial: for a business, for pay, or towards revenue?",
        ("business",),
    ),
    LicenceFact(
        "production",
        "yes_no",
        "Is it used in production: by real users or for real work, not only to test or study it?",
    ),
    LicenceFact(
        "mau_at_version_release",
        "number",
        "How many monthly active users had all your and your affiliates' products and services in"
        " the month before the model version was released (now, where the licence names no day)?",
        ("mau", "monthly_active_users"),
    ),
    LicenceFact(
        "annual_revenue_usd",
        "number",
        "How much is your organisation's yearly revenue, in US dollars?",
        ("revenue", "annual_revenue"),
    ),
    LicenceFact(
        "monthly_revenue_usd",
        "number",
        "How much is the monthly revenue of your organisation or product, in US dollars?",
        ("monthly_revenue",),
    ),
    LicenceFact(
        "trains_other_model",
        "one_of",
        "Do you train or improve another model, none of its own derivatives, with its weights or"
        " with its outputs?",
        ("trains", "training"),
        ("none", "weights", "outputs", "both"),
    ),
    LicenceFact(
        "distributes",
        "several_of",
        "What do you hand to others: nothing, weights, derivative, product, hosted_api, data?",
        ("distribute", "distribution"),
        ("nothing", "weights", "derivative", "product", "hosted_api", "data"),
    ),
    LicenceFact(
        "received_in_end_product",
        "yes_no",
        "Did you get the model as a part of a finished product made by somebody else?",
        ("end_product", "end_user"),
        presumed=False,  # who names a model holds it, and did not find it inside something else
    ),
    LicenceFact(
        "domicile_eu",
        "yes_no",
        "Do you live, or does your company have its principal place of business, in the EU?",
        ("eu",),
    ),
    LicenceFact(
        "modality", "one_of", "Is the model text only, or multimodal?", (), ("text", "multimodal")
    ),
    LicenceFact(
        "fields_of_use",
        "several_of",
        "What is it used for, where that is sensitive (military, medical advice, …)?",
        ("fields", "field_of_use", "field", "use"),
    ),
    LicenceFact(
        "is_competitor_product",
        "yes_no",
        "Does what you make compete with the products or models of the licensor?",
        ("competitor", "competes"),
    ),
)
PRESUMED: dict[str, Value] = {
    fact_.name: fact_.presumed for fact_ in FACTS if fact_.presumed is not None
}
_BY_NAME: dict[str, LicenceFact] = {
    name: fact_ for fact_ in FACTS for name in (fact_.name, *fact_.aliases)
}
_YES = {"yes": True, "y": True, "true": True, "1": True, "on": True}
_NO = {"no": False, "n": False, "false": False, "0": False, "off": False}


def fact(name: str) -> LicenceFact | None:
    """The fact of a name or alias, with dashes or underscores."""
    return _BY_NAME.get(name.strip().lower().replace("-", "_"))


def parse(name: str, text: str) -> Value:
    """The value a person wrote. Raises BadRequest, naming what is expected."""
    fact_ = _known_fact(name)
    written = text.strip()
    if fact_.kind == "yes_no":
        return _yes_no(fact_, written)
    if fact_.kind == "number":
        return _number(fact_, written)
    words = [word.strip() for word in written.split(",") if word.strip()]
    return _chosen(fact_, words)


def read_profile(text: str, what: str) -> dict[str, Value]:
    """The facts of a TOML file: ``commercial = true``, ``mau = "1.5M"``, ``distributes = [...]``.

    Raises BadRequest: no TOML, an unknown fact, one given twice, or a value out of its kind.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as problem:
        raise BadRequest(
            f"{what} is no TOML: {' '.join(str(problem).split())[:200]}",
            "write lines like commercial = true",
        ) from None
    profile: dict[str, Value] = {}
    for name, value in content.items():
        fact_ = _known_fact(name)
        if fact_.name in profile:
            raise BadRequest(f"{what} gives {fact_.name} twice", "keep one of the two lines")
        profile[fact_.name] = _value(fact_, value)
    return profile


def known_values(facts: Mapping[str, object]) -> dict[str, Value]:
    """The facts of a mapping by their names, checked; None and names that are no fact left out.

    Raises BadRequest: a value out of its kind.
    """
    return {
        fact_.name: _value(fact_, value)
        for name, value in facts.items()
        if value is not None and (fact_ := _BY_NAME.get(name)) is not None
    }


def _known_fact(name: str) -> LicenceFact:
    fact_ = fact(name)
    if fact_ is None:
        raise BadRequest(
            f"no licence asks about {name.strip()[:60]!r}",
            "the facts are " + ", ".join(fact_.name for fact_ in FACTS),
        )
    return fact_


def _value(fact_: LicenceFact, value: object) -> Value:
    """A value that is typed already, or a text a person wrote."""
    if isinstance(value, str):
        return parse(fact_.name, value)
    if fact_.kind == "yes_no" and isinstance(value, bool):
        return value
    if fact_.kind == "number" and type(value) in (int, float) and _in_range(value):
        return value
    if fact_.kind == "several_of" and isinstance(value, list | tuple | set | frozenset):
        words = [word for word in value if isinstance(word, str)]
        if len(words) == len(value):
            return _chosen(fact_, sorted(words) if isinstance(value, set | frozenset) else words)
    raise _bad_value(fact_, value)


def _in_range(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 10**18


def _yes_no(fact_: LicenceFact, text: str) -> bool:
    answer = (_YES | _NO).get(text.lower())
    if answer is None:
        raise _bad_value(fact_, text)
    return answer


def _number(fact_: LicenceFact, text: str) -> int | float:
    from decimal import Decimal, InvalidOperation

    match = re.fullmatch(_NUMBER, text.lower(), re.ASCII) if len(text) <= 40 else None
    if match is None:
        raise _bad_value(fact_, text)
    try:
        value = Decimal(match[1].replace(",", "").replace("_", "")) * _TIMES[match[2] or ""]
    except InvalidOperation:
        raise _bad_value(fact_, text) from None
    if value > 10**18:
        raise _bad_value(fact_, text)
    return int(value) if value == value.to_integral_value() else float(value)


def _chosen(fact_: LicenceFact, words: list[str]) -> Value:
    if len(words) > _MAX_WORDS:
        raise BadRequest(
            f"{fact_.name} has {len(words)} words, more than {_MAX_WORDS}", "give fewer words"
        )
    if fact_.name == "fields_of_use":
        named = {uses.category(word) for word in words}
        return tuple(field for field in uses.FIELDS if field in named)
    chosen = {word.lower().replace("-", "_") for word in words}
    if not chosen or not chosen <= set(fact_.values):
        raise _bad_value(fact_, ", ".join(words))
    if fact_.kind == "one_of":
        if len(chosen) != 1:
            raise _bad_value(fact_, ", ".join(words))
        return next(iter(chosen))
    if "nothing" in chosen and len(chosen) > 1:
        raise BadRequest(f"{fact_.name} is nothing and something at once", "leave out nothing")
    return tuple(value for value in fact_.values if value in chosen)


def _bad_value(fact_: LicenceFact, value: object) -> BadRequest:
    shown = " ".join(str(value).split())[:60]
    expected = {
        "yes_no": "yes or no",
        "number": "a number from 0 to 10^18, such as 700M, 1.5k or 2_000_000",
        "one_of": "one of " + ", ".join(fact_.values),
        "several_of": "some of " + ", ".join(fact_.values) + ", with commas between them",
    }[fact_.kind]
    return BadRequest(f"{fact_.name} is {shown!r}", f"say {expected}")
