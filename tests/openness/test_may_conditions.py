"""Conditions: three values, what is left of them, and what they say in English."""

from collections.abc import Mapping
from typing import Any

import pytest

from overt.openness.permissions import phrases
from overt.openness.permissions.conditions import ALWAYS, Outlook, outlook, parse, replace, residual
from overt.openness.permissions.facts import known_values

MAU = {"mau_at_version_release": ">700000000"}


@pytest.mark.parametrize(
    ("table", "facts", "holds"),
    [
        ({"commercial": True}, {"commercial": True}, True),
        ({"commercial": False}, {"commercial": True}, False),
        ({"commercial": True}, {}, None),
        (MAU, {"mau_at_version_release": 700_000_000}, False),
        (MAU, {"mau_at_version_release": 700_000_001}, True),
        ({"annual_revenue_usd": ">=1000000"}, {"annual_revenue_usd": 1_000_000}, True),
        ({"annual_revenue_usd": "<1000000"}, {"annual_revenue_usd": 999_999.5}, True),
        ({"annual_revenue_usd": "<=5"}, {"annual_revenue_usd": 6}, False),
        ({"annual_revenue_usd": "=5"}, {"annual_revenue_usd": 5}, True),
        ({"trains_other_model": "any"}, {"trains_other_model": "none"}, False),
        ({"trains_other_model": "any"}, {"trains_other_model": "both"}, True),
        ({"trains_other_model": "outputs"}, {"trains_other_model": "both"}, True),
        ({"trains_other_model": "weights"}, {"trains_other_model": "outputs"}, False),
        ({"distributes": ["weights", "data"]}, {"distributes": ("data", "product")}, True),
        ({"distributes": "any"}, {"distributes": ("nothing",)}, False),
        ({"modality": "multimodal"}, {"modality": "text"}, False),
        ({"fields_of_use": "military"}, {"fields_of_use": ()}, False),
        ({"all": [{"commercial": True}, MAU]}, {"commercial": False}, False),
        ({"all": [{"commercial": True}, MAU]}, {"commercial": True}, None),
        ({"any": [{"commercial": True}, MAU]}, {"commercial": True}, True),
        ({"any": [{"commercial": True}, MAU]}, {"commercial": False}, None),
        ({"not": {"commercial": True}}, {"commercial": False}, True),
        ({"not": {"commercial": True}}, {}, None),
        ({"commercial": True, "production": True}, {"production": False}, False),
        ({}, {}, True),
    ],
)
def test_three_values(table: Mapping[str, Any], facts: Mapping[str, Any], holds: object) -> None:
    left = residual(parse(table), known_values(facts))
    assert (left if isinstance(left, bool) else None) is holds


@pytest.mark.parametrize(
    "table",
    [
        {"colour": "red"},
        {"mau": ">5"},
        {"commercial": "yes"},
        {"mau_at_version_release": "700000000"},
        {"mau_at_version_release": 7},
        {"mau_at_version_release": ">7M"},
        {"trains_other_model": "none"},
        {"distributes": []},
        {"distributes": ["nothing"]},
        {"modality": "smell"},
        {"fields_of_use": "gardening"},
    ],
)
def test_a_condition_nobody_can_meet_is_no_condition(table: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is no fact|cannot be"):
        parse(table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, ""),
        ({"commercial": True}, "if the use is commercial"),
        ({"not": {"commercial": True}}, "if the use is not commercial"),
        (MAU, "if monthly active users are more than 700,000,000"),
        ({"not": MAU}, "if monthly active users are 700,000,000 or less"),
        (
            {"distributes": ["weights", "derivative", "data"]},
            "if you distribute the weights, a derivative model or the data",
        ),
        (
            {"domicile_eu": True, "modality": "multimodal"},
            "if you are domiciled in the EU and the model is multimodal",
        ),
        (
            {"commercial": True, "any": [MAU, {"monthly_revenue_usd": ">20000000"}]},
            "if the use is commercial and (monthly active users are more than 700,000,000 or"
            " monthly revenue is more than 20,000,000 US dollars)",
        ),
        ({"not": {"all": [{"commercial": True}, {"production": True}]}}, "if it is not so that"),
        ({"not": {"distributes": "data"}}, "if you do not distribute the data"),
        ({"not": {"trains_other_model": "any"}}, "if you do not train or improve another model"),
        ({"fields_of_use": "military"}, "if it is used for military or warfare"),
    ],
)
def test_conditions_in_english(table: Mapping[str, Any], said: str) -> None:
    assert phrases.when(parse(table)).startswith(said)


def test_words_of_one_fact_are_joined_in_what_is_left() -> None:
    condition = parse({"any": [{"distributes": "derivative"}, {"distributes": ["weights"]}]})
    assert phrases.when(_open(condition)) == "if you distribute a derivative model or the weights"


def _open(condition: Any) -> Any:
    left = residual(condition, {})
    assert not isinstance(left, bool)
    return left


def test_words_may_stand_for_others_or_for_nothing() -> None:
    condition = parse({"distributes": ["weights", "data"]})
    data = replace(condition, "distributes", {"weights": ()})
    assert phrases.when(data) == "if you distribute the data"
    nothing = replace(parse({"distributes": "weights"}), "distributes", {"weights": ()})
    assert residual(nothing, {}) is False
    assert residual(parse({"not": {"distributes": "weights"}}), {}) is not True


@pytest.mark.parametrize(
    ("rules", "floor", "seen"),
    [
        ([], 0, Outlook(0, 0, ())),
        ([(2, {})], 0, Outlook(2, 2, ())),
        ([(2, {"commercial": True})], 0, Outlook(0, 2, ("commercial",))),
        ([(2, {"commercial": True})], 1, Outlook(1, 2, ("commercial",))),
        ([(1, {"commercial": True})], 1, Outlook(1, 1, ())),
        # Whatever the fact is, one of the two forbids it: not a question.
        ([(2, {"commercial": True}), (2, {"commercial": False})], 0, Outlook(2, 2, ())),
        # The users matter only where the use is commercial, and then it is forbidden anyway.
        (
            [(2, {"commercial": True}), (1, {"commercial": True, **MAU})],
            0,
            Outlook(0, 2, ("commercial",)),
        ),
        (
            [(2, {"production": True}), (1, {"commercial": True, **MAU})],
            0,
            Outlook(0, 2, ("commercial", "production", "mau_at_version_release")),
        ),
        (
            [(1, {"any": [MAU, {"not": MAU}]}), (2, {"distributes": "hosted_api"})],
            0,
            Outlook(1, 2, ("distributes",)),
        ),
    ],
)
def test_outlook_is_exact(rules: Any, floor: int, seen: Outlook) -> None:
    assert outlook([(level, parse(one)) for level, one in rules], floor) == seen


def test_always_holds() -> None:
    assert residual(ALWAYS, {}) is True
