"""States of components: what is found outweighs what is said; open questions move nothing."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.openness import evidence
from overt.openness.evidence import Evidence, finish, state_of
from overt.openness.subject.record import Claim
from overt.openness.verdicts.components import BY_NAME, COMPONENTS, Availability, Strength

DAY = date(2026, 11, 25)
WEIGHTS = BY_NAME["weights"]


def found(result, strength=Strength.CONSISTENT, **more) -> Evidence:
    return Evidence("a_check", 1, "weights", result, strength, at=DAY.isoformat(), **more)


def claimed(availability=Availability.FULL, where="") -> Claim:
    return Claim("weights", availability, where=where)


def test_the_components_are_the_seventeen_of_the_framework_and_four_more():
    assert sum(one.mof is not None for one in COMPONENTS) == 17
    assert [one.name for one in COMPONENTS if one.mof is None] == [
        "tokenizer",
        "chat_template",
        "safety_policy",
        "signature",
    ]
    needed = {cls: sum(one.classes == cls for one in COMPONENTS) for cls in ("I", "II", "III")}
    assert needed == {"III": 6, "II": 4, "I": 4}


@pytest.mark.parametrize(
    ("claim", "pieces", "state"),
    [
        (None, [], "declared"),
        (claimed(), [], "declared"),
        (claimed(Availability.ABSENT), [], "missing"),
        (claimed(), [found("pass")], "verified"),
        (None, [found("pass")], "verified"),
        (claimed(), [found("pass", Strength.EXISTS)], "declared"),
        (claimed(), [found("pass"), found("fail")], "contradicted"),
        (claimed(), [found("not_run", reason="offline")], "declared"),
        (None, [found("not_run", reason="offline")], "declared"),
        (claimed(), [found("pass"), found("not_run"), found("inconclusive")], "verified"),
        (None, [found("fail", absent=True)], "missing"),
        (claimed(), [found("fail", absent=True)], "declared"),
        (claimed(where="https://example.org/w"), [found("fail", absent=True)], "declared"),
        (claimed(where="model.safetensors"), [found("fail", absent=True)], "contradicted"),
        (claimed(Availability.ABSENT), [found("pass")], "verified"),
    ],
)
def test_the_state_of_a_component(claim, pieces, state):
    assert state_of(WEIGHTS, claim, pieces) == state


@given(
    st.lists(
        st.builds(
            found,
            st.sampled_from(["pass", "fail", "inconclusive", "not_run"]),
            st.sampled_from(list(Strength)),
            absent=st.booleans(),
        ),
        max_size=5,
    ),
    st.one_of(st.none(), st.sampled_from(list(Availability)).map(claimed)),
)
def test_a_check_that_did_not_run_never_changes_a_state(pieces, claim):
    open_ = [one for one in pieces if one.result not in ("not_run", "inconclusive")]
    assert state_of(WEIGHTS, claim, pieces) == state_of(WEIGHTS, claim, open_)


def test_expired_evidence_settles_nothing_and_is_kept():
    old = Evidence("a_check", 1, "weights", "pass", Strength.CONSISTENT, at="2026-01-01", ttl=30)
    done = finish(WEIGHTS, claimed(), [old], DAY)
    assert done.state == "declared"
    assert done.evidence == (old,)
    assert finish(WEIGHTS, claimed(), [old], date(2026, 1, 31)).state == "verified"


def test_an_id_is_of_what_was_found_and_not_of_the_day():
    one = found("pass", observed="3 tensors")
    other = Evidence(
        "a_check", 1, "weights", "pass", Strength.CONSISTENT, "3 tensors", at="2020-02-02"
    )
    assert one.id == other.id
    assert one.id != found("pass", observed="4 tensors").id


def test_evidence_comes_back_from_its_json():
    one = found("fail", observed="x", inputs=(("a", "sha256:" + "0" * 64),), licence="MIT")
    assert evidence.read(one.as_json()) == one


@pytest.mark.parametrize(
    "change", [{"result": "perhaps"}, {"strength": "sure"}, {"at": "soon"}, {"inputs": 3}]
)
def test_evidence_that_is_none_is_refused(change):
    with pytest.raises((ValueError, KeyError, TypeError)):
        evidence.read(found("pass").as_json() | change)


def test_a_text_of_many_lines_becomes_one_bounded_line():
    assert evidence.short("a\n\x1b[31mb\u202e") == "a [31mb"
    assert len(evidence.short("x" * 5000)) == 400
