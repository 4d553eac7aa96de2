"""Decisions are monotone, and `missing` is exactly what can change them: by brute force.

Facts that are presumed are judged at their presumed value; where a definite answer rests on that,
they are missing as well. Clauses nobody is asked about count only where the facts say so.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.openness.permissions import conditions, terms, uses
from overt.openness.permissions.conditions import residual
from overt.openness.permissions.facts import FACTS, PRESUMED
from overt.openness.permissions.may import LicenceLink, decide

NAMES = terms.ids()
LOAD = terms.load
LEVEL = {"allow": 0, "allow_with_obligations": 0, "needs_permission": 1, "deny": 2}
PARTS = ("weights", "derivative", "product", "hosted_api", "data")
USERS = (0, 100_000_000, 100_000_001, 700_000_000, 700_000_001)
# Every value that any clause tells from another, by fact; fields of use are never asked for.
VALUES: dict[str, tuple[Any, ...]] = {
    "commercial": (False, True),
    "production": (False, True),
    "mau_at_version_release": USERS,
    "annual_revenue_usd": (999_999, 1_000_000, 1_000_001, 10_000_000, 10_000_001),
    "monthly_revenue_usd": (0, 20_000_000, 20_000_001),
    "trains_other_model": ("none", "weights", "outputs", "both"),
    "distributes": (
        ("nothing",),
        *(some for size in range(1, 6) for some in combinations(PARTS, size)),
    ),
    "received_in_end_product": (False, True),
    "domicile_eu": (False, True),
    "modality": ("text", "multimodal"),
    "is_competitor_product": (False, True),
}
ASKED = tuple(one.name for one in FACTS if one.name in VALUES)


def _mentioned(name: str) -> list[str]:
    found = terms.load(name)
    assert found is not None
    text = str([one.when for one in found.clauses if one.effect != "note" and one.asked])
    return [fact for fact in ASKED if f"fact='{fact}'" in text]


def test_the_values_are_those_of_the_conditions() -> None:
    edges = set()
    for name in NAMES:
        found = terms.load(name)
        assert found is not None
        for one in found.clauses:
            edges |= set(re.findall(r"fact='(\w+)', how='[<>=]+', wanted=(\d+)", str(one.when)))
    for fact, edge in edges:
        assert {int(edge), int(edge) + 1} <= set(VALUES[fact]), (fact, edge)


def test_what_is_presumed_is_the_strictest() -> None:
    """So that only a person who says otherwise makes an answer milder."""
    seen = set()
    for name in NAMES:
        found = terms.load(name)
        assert found is not None
        for clause in found.clauses:
            for one in conditions.tests(clause.when) if clause.effect != "note" else ():
                if one.fact in PRESUMED:
                    assert one.accepts(PRESUMED[one.fact])
                    assert "Not(" not in str(clause.when)
                    seen.add(one.fact)
    assert seen == set(PRESUMED) == {"received_in_end_product"}


def _unasked(chain: list[LicenceLink], facts: Mapping[str, Any]) -> bool:
    """Whether the facts say something that nobody is asked about."""
    return any(
        residual(clause.when, facts) is True
        for link in chain
        if link.licence and (found := terms.load(link.licence)) is not None
        for clause in found.clauses
        if not clause.asked
    )


def _completions(names: list[str], known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    open_ = [name for name in names if name not in known]
    for values in product(*(VALUES[name] for name in open_)):
        yield {**known, **dict(zip(open_, values, strict=True))}


def _asked_only(name: str) -> terms.Terms | None:
    found = LOAD(name)
    if found is None:
        return None
    return found._replace(clauses=tuple(one for one in found.clauses if one.asked))


def _expected(
    chain: list[LicenceLink], names: list[str], known: Mapping[str, Any]
) -> tuple[int, int, set[str]]:
    """The mildest and the strictest answer over everything open, and the facts that change it."""
    full = {name: VALUES[name][0] for name in ASKED if name not in names} | dict(known)
    load = LOAD if _unasked(chain, known) else _asked_only
    levels: dict[tuple[Any, ...], int] = {}
    with patch.object(terms, "load", load):
        for facts in _completions(names, full):
            found = decide(chain, facts)
            levels[tuple(facts[name] for name in names)] = LEVEL[found.verdict]
    matter = set()
    for at, name in enumerate(names):
        if name in known:
            continue
        seen: dict[tuple[Any, ...], int] = {}
        for values, level in levels.items():
            rest = (*values[:at], *values[at + 1 :])
            if seen.setdefault(rest, level) != level:
                matter.add(name)
    return min(levels.values()), max(levels.values()), matter


def _check(chain: list[LicenceLink], names: list[str], known: Mapping[str, Any]) -> None:
    found = decide(chain, known)
    presumed = {**{name: PRESUMED[name] for name in names if name in PRESUMED}, **known}
    least, most, matter = _expected(chain, names, presumed)
    if least < 2:
        assert (found.verdict == "needs_permission") == (least == 1)
        assert (found.verdict == "unknown") == (least == 0 and most > 0)
    else:
        assert found.verdict == "deny"
        assert not matter
    if least and any(name not in known for name in presumed):
        mildest, _, any_matter = _expected(chain, names, known)
        matter |= any_matter & set(PRESUMED) if mildest < least else set()
    assert set(found.missing) == matter


@pytest.mark.parametrize("relation", ["self", "base", "dataset", "teacher"])
@pytest.mark.parametrize("name", [name for name in NAMES if _mentioned(name)])
def test_missing_is_exactly_what_can_change_the_answer(name: str, relation: str) -> None:
    chain = [LicenceLink("m", relation, name)]
    mentioned = _mentioned(name)
    _check(chain, mentioned, {})
    for fact in mentioned:  # and with each fact known in each way
        for value in VALUES[fact][:6]:
            _check(chain, mentioned, {fact: value})


licences = st.sampled_from(NAMES)
relations = st.sampled_from(["self", "base", "dataset", "teacher"])
chains = st.lists(
    st.builds(
        LicenceLink,
        st.sampled_from("abc"),
        relations,
        licences | st.none() | st.just("some-licence"),
        altered=st.sampled_from([False, False, False, True]),
        facts=st.just({}) | st.just({"modality": "text"}) | st.just({"modality": "multimodal"}),
    ),
    min_size=1,
    max_size=4,
)
some_facts = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from(values) for name, values in VALUES.items()},
        "fields_of_use": st.sampled_from([(one,) for one in uses.FIELDS]),
    },
)
everything = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in VALUES.items()}
)


@given(chains, some_facts, everything, st.sampled_from(ASKED))
@settings(max_examples=repeats(120, 400))
def test_another_fact_never_makes_an_answer_milder(
    chain: list[LicenceLink], facts: dict[str, Any], more: dict[str, Any], name: str
) -> None:
    """But for a person who says that a presumed fact is otherwise."""
    told = {name: more[name], **facts}
    assume(told.get(name) == PRESUMED[name] if name in PRESUMED else not _unasked(chain, told))
    before = decide(chain, facts)
    after = decide(chain, told)
    assert set(after.missing) - set(PRESUMED) <= set(before.missing)
    if before.verdict == "deny":
        assert after.verdict == "deny"
    elif before.verdict == "needs_permission":
        assert after.verdict in ("needs_permission", "deny")
    elif before.verdict != "unknown":
        assert LEVEL[after.verdict] == 0
    if name not in facts and name not in before.missing:
        settled = "allow" if before.verdict == "allow_with_obligations" else before.verdict
        assert after.verdict in (settled, before.verdict)


@given(chains, some_facts)
def test_a_presumed_fact_that_is_otherwise_only_makes_an_answer_milder(
    chain: list[LicenceLink], facts: dict[str, Any]
) -> None:
    order = ("allow", "allow_with_obligations", "unknown", "needs_permission", "deny")
    silent = {name: value for name, value in facts.items() if name not in PRESUMED}
    before = decide(chain, silent)
    assert before.verdict == decide(chain, {**silent, **PRESUMED}).verdict
    after = decide(chain, {**silent, "received_in_end_product": True})
    assert order.index(after.verdict) <= order.index(before.verdict)
    if after.verdict != before.verdict and before.verdict in ("deny", "needs_permission"):
        assert "received_in_end_product" in before.missing
        assert any("it is presumed that" in one for one in before.reasons)
    if before.verdict not in ("deny", "needs_permission"):
        assert "received_in_end_product" not in before.missing


@given(chains, some_facts, st.sampled_from([one for one in uses.FIELDS if one != "general"]))
def test_a_named_field_never_makes_an_answer_milder(
    chain: list[LicenceLink], facts: dict[str, Any], field: str
) -> None:
    before = decide(chain, {**facts, "fields_of_use": ()})
    after = decide(chain, {**facts, "fields_of_use": (field,)})
    assert after.verdict in (before.verdict, "deny")


@given(chains, some_facts, everything)
@settings(max_examples=repeats(100, 300))
def test_every_full_set_of_facts_lies_within_the_answer(
    chain: list[LicenceLink], facts: dict[str, Any], more: dict[str, Any]
) -> None:
    before = decide(chain, facts)
    told = {**more, **{name: facts.get(name, value) for name, value in PRESUMED.items()}, **facts}
    after = decide(chain, told)
    assert not set(after.missing) & set(ASKED)
    if not set(before.missing) - set(PRESUMED) and not _unasked(chain, told):
        assert LEVEL[after.verdict] == LEVEL[before.verdict]


@given(st.sampled_from(NAMES), relations, everything)
@settings(max_examples=repeats(100, 300))
def test_with_all_facts_no_known_licence_leaves_an_answer_open(
    name: str, relation: str, facts: dict[str, Any]
) -> None:
    found = decide([LicenceLink("m", relation, name)], facts)
    assert found.verdict != "unknown"
    assert found.missing == ()


@given(chains, some_facts)
def test_a_longer_chain_is_never_milder(chain: list[LicenceLink], facts: dict[str, Any]) -> None:
    order = ("allow", "allow_with_obligations", "unknown", "needs_permission", "deny")
    whole = decide(chain, facts)
    # A teacher is judged by what else is in the chain, so the last link that is none is left out.
    plain = [one for one in chain if one.relation != "teacher"]
    if plain:
        assert order.index(whole.verdict) >= order.index(decide(plain, facts).verdict)


@pytest.mark.parametrize(
    "names",
    [
        ("qwen-2024", "mnpl-0.1"),
        ("llama-2-license-2023", "exaone-1.2-nc"),
        ("stability-ai-community-2024", "qwen-research"),
        ("openai-terms-of-use", "CC-BY-NC-ND-4.0"),
        ("llama-4-cla-2025", "glm-4-9b"),
    ],
)
def test_missing_is_exact_for_chains(names: tuple[str, ...]) -> None:
    chain = [LicenceLink(name, "base", name) for name in names]
    mentioned = [one for one in ASKED if any(one in _mentioned(name) for name in names)]
    _check(chain, mentioned, {})
