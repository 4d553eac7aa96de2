"""Conditions said in English: "if you distribute the weights or a derivative model"."""

from overt.openness.permissions import uses
from overt.openness.permissions.conditions import AnyOf, Condition, FactTest, Negation
from overt.openness.permissions.facts import Value

_YES = {
    "commercial": ("the use is commercial", "the use is not commercial"),
    "production": ("it is used in production", "it is not used in production"),
    "received_in_end_product": (
        "you got the model inside a finished product",
        "you did not get the model inside a finished product",
    ),
    "domicile_eu": ("you are domiciled in the EU", "you are not domiciled in the EU"),
    "is_competitor_product": (
        "what you make competes with the licensor",
        "what you make does not compete with the licensor",
    ),
}
_NUMBERS = {
    "mau_at_version_release": "monthly active users are {}",
    "annual_revenue_usd": "yearly revenue is {} US dollars",
    "monthly_revenue_usd": "monthly revenue is {} US dollars",
}
_HOW = {
    ">": "more than {}",
    ">=": "{} or more",
    "<": "less than {}",
    "<=": "{} or less",
    "=": "exactly {}",
}
_OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}
_GIVEN = {
    "weights": "the weights",
    "derivative": "a derivative model",
    "product": "a product or service with it",
    "hosted_api": "a hosted service",
    "data": "the data",
}


def when(condition: Condition) -> str:
    """A condition as the end of a sentence, with its "if"; empty where it always holds."""
    text = _phrase(condition)
    return f"if {text}" if text else ""


def presumed(name: str, value: Value) -> str:
    """What was taken to be so because nobody said otherwise, as a sentence."""
    so = (
        _test(FactTest(name, "is", value), yes=True)
        if isinstance(value, bool)
        else f"{name} {value}"
    )
    return f"it is presumed that {so}: where that is not so the answer may be milder"


def _phrase(condition: Condition, *, inside: bool = False) -> str:
    if isinstance(condition, FactTest):
        return _test(condition, yes=True)
    if isinstance(condition, Negation):
        if isinstance(condition.of, FactTest):
            return _test(condition.of, yes=False)
        return f"it is not so that {_phrase(condition.of, inside=True)}"
    parts = [_phrase(part, inside=True) for part in condition.of]
    if not parts:
        return ""
    joined = (" or " if isinstance(condition, AnyOf) else " and ").join(parts)
    return f"({joined})" if inside and len(parts) > 1 else joined


def _test(test: FactTest, *, yes: bool) -> str:
    if isinstance(test.wanted, bool):
        return _YES[test.fact][0 if test.wanted is yes else 1]
    if isinstance(test.wanted, int):
        how = test.how if yes else _OPPOSITE.get(test.how, test.how)
        return _NUMBERS[test.fact].format(_HOW[how].format(f"{test.wanted:,}"))
    words = test.wanted
    if test.fact == "distributes":
        options = _or([_GIVEN[word] for word in words])
        return f"you distribute {options}" if yes else f"you do not distribute {options}"
    if test.fact == "trains_other_model":
        used = _or([f"its {word}" for word in words])
        return f"you {'' if yes else 'do not '}train or improve another model with {used}"
    if test.fact == "modality":
        return f"the model is {'' if yes else 'not '}{_or([_MODALITY[word] for word in words])}"
    named = _or([uses.label(word) for word in words])
    return f"it is {'' if yes else 'not '}used for {named}"


_MODALITY = {"text": "text only", "multimodal": "multimodal"}


def _or(words: list[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"
