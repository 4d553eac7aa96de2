"""The facts of a use: what people may type, and what they get."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import BadRequest, OvertError
from overt.openness.permissions import uses
from overt.openness.permissions.facts import FACTS, fact, known_values, parse, read_profile


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("commercial", "yes", True),
        ("commercial", "Y", True),
        ("commercial", "TRUE", True),
        ("commercial", "no", False),
        ("business", "false", False),
        ("eu", "yes", True),
        ("domicile-eu", "no", False),
        ("mau", "700M", 700_000_000),
        ("mau", "700 m", 700_000_000),
        ("mau", "1.5k", 1500),
        ("mau", "2_000_000", 2_000_000),
        ("mau", "2,000,000", 2_000_000),
        ("mau", "0", 0),
        ("mau_at_version_release", "0.7bn", 700_000_000),
        ("revenue", "$1m", 1_000_000),
        ("annual-revenue-usd", "$ 999,999.99", 999_999.99),
        ("monthly_revenue", "20000000", 20_000_000),
        ("trains", "outputs", "outputs"),
        ("trains_other_model", "Both", "both"),
        ("modality", "multimodal", "multimodal"),
        ("distributes", "product, weights", ("weights", "product")),
        ("distributes", "hosted-api", ("hosted_api",)),
        ("distributes", "nothing", ("nothing",)),
        ("fields", "Military, medical advice", ("medical advice", "military")),
        ("field", "guns,bots", ("weapons", "undisclosed machine text")),
        ("fields_of_use", "", ()),
        ("fields_of_use", "self-harm", ("self harm",)),
        ("fields_of_use", "predictive_policing", ("law enforcement",)),
    ],
)
def test_what_people_type(name: str, text: str, value: object) -> None:
    assert parse(name, text) == value
    found = fact(name)
    assert found is not None
    assert known_values({found.name: text}) == {found.name: value}
    assert known_values({found.name: value}) == {found.name: value}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("commercial", "perhaps", "yes or no"),
        ("commercial", "", "yes or no"),
        ("mau", "many", "a number"),
        ("mau", "-5", "a number"),
        ("mau", "1e9", "a number"),
        ("mau", "nan", "a number"),
        ("mau", "9" * 30, "a number"),
        ("mau", "9" * 5000, "a number"),
        ("mau", "١٢", "a number"),
        ("trains", "everything", "none, weights, outputs, both"),
        ("trains", "weights,outputs", "none, weights, outputs, both"),
        ("distributes", "", "nothing, weights"),
        ("distributes", "copies", "nothing, weights"),
        ("distributes", "nothing,weights", "leave out nothing"),
        ("fields", "gardening", "military"),
        ("fields", ",".join(["military"] * 200), "fewer"),
        ("colour", "red", "mau_at_version_release"),
    ],
)
def test_what_cannot_be_understood_says_what_can(name: str, text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse(name, text)


def test_an_unknown_field_lists_all_known_ones() -> None:
    with pytest.raises(BadRequest) as raised:
        parse("fields_of_use", "gardening")
    assert all(one in str(raised.value) for one in uses.FIELDS)


def test_names_and_words_are_unambiguous() -> None:
    names = [name for one in FACTS for name in (one.name, *one.aliases)]
    assert len(names) == len(set(names))
    words = [word for one, said in uses.FIELDS.items() for word in {one, *said}]
    assert sorted(words) == sorted(set(words))
    assert all(uses.category(word) in uses.FIELDS for word in words)
    assert all(one.question.endswith("?") for one in FACTS)


def test_a_profile_takes_toml_values_and_what_people_type() -> None:
    text = """
    commercial = true
    mau = "1.5M"
    annual_revenue_usd = 2_000_000
    distributes = ["weights", "product"]
    trains-other-model = "none"
    fields = "military"
    """
    assert read_profile(text, "me.toml") == {
        "commercial": True,
        "mau_at_version_release": 1_500_000,
        "annual_revenue_usd": 2_000_000,
        "distributes": ("weights", "product"),
        "trains_other_model": "none",
        "fields_of_use": ("military",),
    }
    assert read_profile("", "me.toml") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("commercial", "me.toml is no TOML"),
        ("colour = 1", "no licence asks about 'colour'"),
        ("mau = 1\nmau_at_version_release = 2", "gives mau_at_version_release twice"),
        ("mau = true", "a number"),
        ("mau = inf", "a number"),
        ("mau = -1", "a number"),
        ("commercial = 1", "yes or no"),
        ("commercial = 1979-05-27", "yes or no"),
        ("distributes = [1]", "nothing, weights"),
        ("distributes = { a = 1 }", "nothing, weights"),
        ("[commercial]", "yes or no"),
        ("a = " + "[" * 5000, "me.toml is no TOML"),
    ],
)
def test_a_broken_profile_says_where(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        read_profile(text, "me.toml")


def test_what_is_no_fact_is_left_out_of_known_facts() -> None:
    assert known_values({"parameters": 7_000_000_000, "commercial": None, "modality": "text"}) == {
        "modality": "text"
    }
    with pytest.raises(BadRequest, match="text, multimodal"):
        known_values({"modality": "smell"})


@given(st.sampled_from([one.name for one in FACTS]), st.text(max_size=60))
def test_any_text_is_a_value_or_an_error_of_ours(name: str, text: str) -> None:
    try:
        value = parse(name, text)
    except OvertError:
        return
    assert known_values({name: value}) == {name: value}


@given(st.text(max_size=200))
def test_any_profile_is_facts_or_an_error_of_ours(text: str) -> None:
    try:
        read_profile(text, "me.toml")
    except OvertError:
        return
