"""Verdicts from components: each rule, both bases, and the fewest steps to the next grade."""

import itertools
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.openness.evidence import ComponentResult, Evidence, finish
from overt.openness.subject.record import Claim, Record
from overt.openness.verdicts import components, mof
from overt.openness.verdicts.components import BY_NAME, COMPONENTS, Availability, Strength
from overt.openness.verdicts.rules import VerdictPair, Verdicts, judge

A = Availability
TODAY = date(2026, 11, 25)
OPEN = {one.name: A.FULL for one in COMPONENTS if one.mof}


def proof(name: str, **more: Any) -> Evidence:
    fields: dict[str, Any] = {"result": "pass", "strength": Strength.CONSISTENT, "at": "2026-11-25"}
    return Evidence("sample", 1, name, **fields | more)


def parts(
    claims: Mapping[str, Availability],
    *,
    licence: str | None = "Apache-2.0",
    licences: Mapping[str, str | None] | None = None,
    evidence: Mapping[str, Evidence] | None = None,
) -> tuple[ComponentResult, ...]:
    found = []
    for one in COMPONENTS:
        claim = None
        if one.name in claims:
            claim = Claim(one.name, claims[one.name], (licences or {}).get(one.name, licence))
        pieces = [evidence[one.name]] if evidence and one.name in evidence else []
        found.append(finish(one, claim, pieces, TODAY))
    return tuple(found)


def verdicts(
    claims: Mapping[str, Availability],
    *,
    licence: str | None = "Apache-2.0",
    altered: bool = False,
    record: Record | None = None,
    **more: Any,
) -> Verdicts:
    found = parts(claims, licence=licence, **more)
    return judge(found, record or Record("m"), licence=licence, altered=altered)


def verified(*names: str) -> dict[str, Evidence]:
    return {
        name: proof(name, strength=max(BY_NAME[name].bar, Strength.CONSISTENT)) for name in names
    }


# -- the step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "code", "data", "step"),
    [
        (A.FULL, A.FULL, A.FULL, "fully_open"),
        (A.FULL, A.FULL, A.RECONSTRUCTIBLE, "fully_open"),
        (A.FULL, A.FULL, A.GATED, "open_weights"),
        (A.FULL, A.FULL, A.PARTIAL, "open_weights"),
        (A.FULL, A.FULL, A.INDEXED, "open_weights"),
        (A.FULL, A.PARTIAL, A.FULL, "open_weights"),
        (A.GATED, A.FULL, A.FULL, "fully_open"),
        (A.GATED, A.FULL, A.GATED, "open_weights"),
        (A.FULL, A.ABSENT, A.ABSENT, "open_weights"),
        (A.GATED, A.UNKNOWN, A.UNKNOWN, "open_weights"),
        (A.PARTIAL, A.ABSENT, A.ABSENT, "partially_open"),
        (A.ABSENT, A.FULL, A.FULL, "partially_open"),
        (A.ABSENT, A.PARTIAL, A.ABSENT, "partially_open"),
        (A.ABSENT, A.ABSENT, A.PARTIAL, "partially_open"),
        (A.ABSENT, A.DESCRIBED, A.INDEXED, "fully_closed"),
        (A.DESCRIBED, A.DESCRIBED, A.DESCRIBED, "fully_closed"),
        (A.UNKNOWN, A.UNKNOWN, A.UNKNOWN, "fully_closed"),
        (A.ABSENT, A.ABSENT, A.ABSENT, "fully_closed"),
    ],
)
def test_steps(weights: A, code: A, data: A, step: str) -> None:
    claims = {"weights": weights, "training_code": code, "training_data": data}
    assert verdicts(claims).step == VerdictPair(step, "fully_closed")


@pytest.mark.parametrize(
    ("claims", "step"),
    [
        ({"report": A.FULL}, "partially_open"),
        ({"paper": A.FULL}, "partially_open"),
        ({"report": A.PARTIAL}, "fully_closed"),
        ({"report": A.DESCRIBED}, "fully_closed"),
        ({"architecture": A.PARTIAL}, "partially_open"),
        ({"inference_code": A.PARTIAL}, "partially_open"),
        ({"preprocessing_code": A.PARTIAL}, "partially_open"),
        ({"checkpoints": A.FULL}, "partially_open"),
        ({"model_card": A.FULL, "safety_policy": A.FULL}, "fully_closed"),
        ({"evaluation_code": A.FULL, "evaluation_data": A.FULL}, "fully_closed"),
        ({"libraries": A.FULL, "tokenizer": A.FULL, "sample_outputs": A.FULL}, "fully_closed"),
    ],
)
def test_without_weights(claims: Mapping[str, A], step: str) -> None:
    assert verdicts({"weights": A.ABSENT, **claims}).step.declared == step


@pytest.mark.parametrize(
    "licence", [None, "Apache-2.0", "CC-BY-NC-4.0", "llama-3.1-license-2024", "proprietary"]
)
@pytest.mark.parametrize("altered", [True, False])
def test_the_licence_never_moves_the_step(licence: str | None, altered: bool) -> None:
    for step, claims in (("fully_open", OPEN), ("open_weights", {"weights": A.FULL})):
        assert verdicts(claims, licence=licence, altered=altered).step.declared == step


def test_verified_counts_only_what_was_verified() -> None:
    found = verdicts(OPEN, evidence=verified("weights"))
    assert found.step == VerdictPair("fully_open", "open_weights")
    found = verdicts(OPEN, evidence=verified("weights", "training_code", "training_data"))
    assert found.step == VerdictPair("fully_open", "fully_open")
    found = verdicts(OPEN, evidence=verified("training_code", "training_data"))
    assert found.step == VerdictPair("fully_open", "partially_open")


def test_verified_weights_without_a_claim_are_open_weights() -> None:
    assert verdicts({}, evidence=verified("weights")).step == VerdictPair(
        "open_weights", "open_weights"
    )


def test_a_pass_below_the_bar_verifies_nothing() -> None:
    weak = {"weights": proof("weights", strength=Strength.EXISTS)}
    assert verdicts(OPEN, evidence=weak).step == VerdictPair("fully_open", "fully_closed")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("training_code", "open_weights"),
        ("training_data", "open_weights"),
        ("weights", "partially_open"),
        ("tokenizer", "fully_open"),
    ],
)
def test_what_is_contradicted_counts_as_absent(name: str, step: str) -> None:
    failed = {name: proof(name, result="fail", observed="7 tensors", expected="8 tensors")}
    found = verdicts({**OPEN, name: A.FULL}, evidence=failed)
    assert found.step.declared == step
    assert found.contradicted == (name,)
    if name != "tokenizer":
        title = BY_NAME[name].title.lower()
        assert f"{title}: contradicted by what was found" in found.reasons["step"]
        assert any(
            text.startswith(f"repair the {title}") for one in found.next for text in one.steps
        )


def test_reasons_tell_unknown_from_absent() -> None:
    found = verdicts({"weights": A.FULL, "training_data": A.ABSENT})
    assert found.reasons["step"] == (
        "final weights: full, declared",
        "training code: not known",
        "training data: absent",
    )


def test_a_component_that_was_not_found_is_absent() -> None:
    gone = {"training_code": proof("training_code", result="fail", absent=True)}
    found = verdicts({"weights": A.FULL}, evidence=gone)
    assert "training code: absent" in found.reasons["step"]
    assert found.contradicted == ()


# -- MOF -------------------------------------------------------------------------------------


def test_mof_on_both_bases() -> None:
    found = verdicts(OPEN, evidence=verified(*mof.required("III")))
    assert found.mof == VerdictPair("I", "III")
    assert found.reasons["mof"] == ()
    assert "class II: training code is missing" in found.reasons["mof_verified"]


def test_class_one_implies_fully_open_and_not_the_other_way() -> None:
    assert verdicts(OPEN).mof.declared == "I"
    assert verdicts(OPEN).step.declared == "fully_open"
    rail = verdicts(OPEN, licence="bigscience-bloom-rail-1.0")
    assert (rail.step.declared, rail.mof.declared) == ("fully_open", "none")


def test_an_altered_licence_opens_nothing_for_the_framework() -> None:
    assert verdicts(OPEN).mof.declared == "I"
    assert verdicts(OPEN, altered=True).mof.declared == "none"
    others = dict.fromkeys((name for name in OPEN if name != "weights"), "MIT")
    found = verdicts(OPEN, licences=others, altered=True)
    assert found.mof.declared == "none"
    assert found.reasons["mof"] == ("class III: final weights is under a licence that is not open",)


def test_part_of_the_data_is_not_the_data_for_the_framework() -> None:
    assert verdicts({**OPEN, "training_data": A.PARTIAL}).mof.declared == "II"
    assert verdicts({**OPEN, "training_data": A.GATED}).mof.declared == "I"


# -- OSAID -----------------------------------------------------------------------------------


def test_osaid_passes_where_everything_is_there_and_open() -> None:
    found = verdicts(OPEN)
    assert found.osaid == VerdictPair("pass", "unknown")
    assert found.reasons["osaid"] == ()
    every = verified(
        "weights", "training_code", "preprocessing_code", "inference_code", "training_data"
    )
    assert verdicts(OPEN, evidence=every).osaid == VerdictPair("pass", "pass")


@pytest.mark.parametrize(
    ("change", "outcome", "says"),
    [
        ({"training_code": A.ABSENT}, "fail", "training code: absent"),
        ({"training_code": A.PARTIAL}, "fail", "training code: partial"),
        ({"inference_code": A.UNKNOWN}, "unknown", "inference code: not known; is it published?"),
        ({"preprocessing_code": A.ABSENT}, "fail", "data preparation code: absent"),
        ({"weights": A.ABSENT}, "fail", "final weights: absent"),
        ({"weights": A.GATED}, "unknown", "does the gate ask for more"),
        ({"training_data": A.DESCRIBED}, "fail", "training data: described"),
        ({"training_data": A.INDEXED}, "unknown", "build an equivalent"),
        ({"training_data": A.PARTIAL}, "unknown", "build an equivalent"),
        ({"training_data": A.UNKNOWN}, "unknown", "where does it come from?"),
    ],
)
def test_osaid_conditions(change: Mapping[str, A], outcome: str, says: str) -> None:
    found = verdicts({**OPEN, **change})
    assert found.osaid.declared == outcome
    assert any(says in text for text in found.reasons["osaid"])
    assert [text for text in found.reasons["osaid"] if outcome == "unknown"] == [
        text for text in found.reasons["osaid"] if text.endswith("?") and outcome == "unknown"
    ]


@pytest.mark.parametrize(
    ("licence", "outcome"),
    [
        ("MIT", "pass"),
        ("CC-BY-4.0", "pass"),
        ("OpenMDW-1.0", "pass"),
        ("llama-3.1-license-2024", "fail"),
        ("gemma-tou-2024-04-01", "fail"),
        ("CC-BY-NC-4.0", "fail"),
        ("Some Licence Of Its Own", "unknown"),
        (None, "unknown"),
    ],
)
def test_osaid_and_the_licence_of_the_weights(licence: str | None, outcome: str) -> None:
    others = dict.fromkeys((name for name in OPEN if name != "weights"), "MIT")
    assert verdicts(OPEN, licence=licence, licences=others).osaid.declared == outcome


def test_osaid_asks_about_code_under_a_licence_for_data() -> None:
    found = verdicts(OPEN, licences={"training_code": "ODC-By-1.0"})
    assert found.osaid.declared == "unknown"
    assert any("made for data" in text for text in found.reasons["osaid"])


def test_osaid_of_an_altered_text_is_a_question() -> None:
    found = verdicts(OPEN, altered=True)
    assert found.osaid.declared == "unknown"
    assert found.licence_kind == "unknown"


# -- EU AI Act, Article 53(2) ----------------------------------------------------------------

CARD = {"weights": A.FULL, "model_card": A.FULL}


def test_the_exemption_is_likely_and_says_what_stays_due() -> None:
    found = verdicts(CARD)
    assert found.eu_53_2 == VerdictPair("likely", "unknown")
    assert sum("stays due" in text for text in found.reasons["eu_53_2"]) == 2
    every = verified("weights", "model_card")
    assert verdicts(CARD, evidence=every).eu_53_2 == VerdictPair("likely", "likely")


@pytest.mark.parametrize(
    ("licence", "outcome"),
    [
        ("MIT", "likely"),
        ("CC-BY-4.0", "likely"),
        ("CC-BY-NC-4.0", "no"),
        ("llama-3.1-license-2024", "no"),
        ("gemma-tou-2024-04-01", "no"),
        ("mrl-0.1", "no"),
        ("proprietary", "no"),
        ("Some Licence Of Its Own", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_exemption_and_the_licence(licence: str | None, outcome: str) -> None:
    assert verdicts(CARD, licence=licence).eu_53_2.declared == outcome


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        ({"training_flop": 1e25}, "no"),
        ({"training_flop": 3.8e25}, "no"),
        ({"training_flop": 9.9e24}, "likely"),
        ({"systemic_risk": True}, "no"),
        ({"systemic_risk": False}, "likely"),
        ({"training_flop": "much"}, "likely"),
        ({}, "likely"),
    ],
)
def test_the_exemption_ends_with_systemic_risk(facts: Mapping[str, Any], outcome: str) -> None:
    found = verdicts(CARD, record=Record("m", facts=facts))
    assert found.eu_53_2.declared == outcome
    if outcome == "no":
        assert not [one for one in found.next if one.scheme == "eu_53_2"]


@pytest.mark.parametrize("kind", ["api", "dataset"])
def test_no_exemption_for_a_service_or_a_data_set(kind: Any) -> None:
    found = verdicts({**CARD, "weights": A.ABSENT}, record=Record("m", kind=kind))
    assert found.eu_53_2 == VerdictPair("no", "no")


@pytest.mark.parametrize(
    ("claims", "outcome"),
    [
        ({"weights": A.FULL}, "unknown"),
        ({"weights": A.GATED, "model_card": A.FULL}, "unknown"),
        ({"weights": A.ABSENT, "model_card": A.FULL}, "no"),
        ({"model_card": A.FULL}, "unknown"),
        ({"weights": A.FULL, "report": A.FULL}, "likely"),
        ({"weights": A.FULL, "paper": A.FULL, "model_card": A.ABSENT, "report": A.ABSENT}, "no"),
    ],
)
def test_what_must_be_public_for_the_exemption(claims: Mapping[str, A], outcome: str) -> None:
    assert verdicts(claims).eu_53_2.declared == outcome


def test_an_altered_text_leaves_the_exemption_open() -> None:
    assert verdicts(CARD, altered=True).eu_53_2.declared == "unknown"


# -- next steps ------------------------------------------------------------------------------


def steps_to(found: Verdicts, scheme: str, basis: str = "declared") -> tuple[str, tuple[str, ...]]:
    for one in found.next:
        if (one.scheme, one.basis) == (scheme, basis):
            return one.to, one.steps
    return "", ()


def test_steps_to_the_next_step() -> None:
    assert steps_to(verdicts({"weights": A.ABSENT}), "step")[0] == "partially_open"
    assert steps_to(verdicts({"report": A.FULL}), "step") == (
        "open_weights",
        ("publish the final weights",),
    )
    to, steps = steps_to(verdicts({"weights": A.GATED, "training_code": A.FULL}), "step")
    assert to == "fully_open"
    assert steps == (
        "publish the training data (the data, or scripts and sources that rebuild it)",
    )
    assert steps_to(verdicts(OPEN), "step") == ("", ())


def test_steps_of_the_verified_grade_are_looks() -> None:
    to, steps = steps_to(verdicts(OPEN), "step", "verified")
    assert to == "open_weights"
    assert len(steps) == 1
    assert steps[0].startswith("verify the final weights by ")
    to, steps = steps_to(verdicts(OPEN, evidence=verified("weights")), "step", "verified")
    assert to == "fully_open"
    assert [text.split(" by ")[0] for text in steps] == [
        "verify the training code",
        "verify the training data",
    ]


def test_steps_of_mof_are_the_fewest() -> None:
    claims = {name: A.FULL for name in mof.required("III") if name not in ("data_card", "report")}
    to, steps = steps_to(verdicts(claims, licences={"evaluation_results": None}), "mof")
    assert to == "III"
    assert steps == (
        "add the data card under an open licence",
        "add the technical report under an open licence",
        "say under which open licence the evaluation results is",
    )


def test_a_paper_at_hand_is_cheaper_than_a_report_to_be_written() -> None:
    claims = {name: A.FULL for name in mof.required("III") if name != "report"} | {"paper": A.FULL}
    to, steps = steps_to(verdicts(claims, licences={"paper": "CC-BY-NC-4.0"}), "mof")
    assert to == "III"
    assert steps == ("put the research paper under an open licence instead of CC-BY-NC-4.0",)


def test_class_one_asks_for_the_paper_and_then_not_for_the_report() -> None:
    claims = {name: A.FULL for name in mof.required("II") if name != "report"} | {"paper": A.FULL}
    to, steps = steps_to(verdicts(claims), "mof")
    assert to == "I"
    assert len(steps) == 3
    assert not any("report" in text for text in steps)


_RANDOM = st.fixed_dictionaries(
    {
        one.name: st.tuples(
            st.sampled_from(list(A)), st.sampled_from(["MIT", "CC-BY-NC-4.0", None, "CC-BY-4.0"])
        )
        for one in COMPONENTS
        if one.mof
    }
)


@given(_RANDOM)
def test_the_steps_of_mof_reach_the_class_and_nothing_smaller_does(
    random: Mapping[str, tuple[A, str | None]],
) -> None:
    claims = {name: found for name, (found, _) in random.items()}
    licences = {name: licence for name, (_, licence) in random.items()}
    found = judge(parts(claims, licences=licences), Record("m"), licence=None, altered=False)
    to, steps = steps_to(found, "mof")
    if found.mof.declared == "I":
        assert steps == ()
        return
    assert to == {"none": "III", "III": "II", "II": "I"}[found.mof.declared]
    assert _fewest(claims, licences, to) == len(steps)


def _fewest(claims: Mapping[str, A], licences: Mapping[str, str | None], to: str) -> int:
    """By trying all of the few sets that can differ: those with and without report and paper."""
    best = 99
    required = set(mof.required(to)) - {"report", "paper"}
    for extra in itertools.chain.from_iterable(
        itertools.combinations(("report", "paper"), size) for size in range(3)
    ):
        good = {name for name in claims if claims[name] >= mof.least(name)} & {
            name for name, licence in licences.items() if licence in ("MIT", "CC-BY-4.0")
        }
        changed = (required | set(extra)) - good
        items = [mof.ComponentItem(name, "MIT") for name in good | changed]
        if mof.classify(items).share[to] == 100:
            best = min(best, len(changed))
    return best


# -- the whole -------------------------------------------------------------------------------

_CLAIMS = st.dictionaries(
    st.sampled_from([one.name for one in COMPONENTS]), st.sampled_from(list(A))
)
_ORDER = list(components.STEPS)


@given(_CLAIMS, st.sets(st.sampled_from([one.name for one in COMPONENTS])), st.booleans())
def test_verdicts_hold_together(claims: Mapping[str, A], proved: set[str], altered: bool) -> None:
    found = verdicts(claims, altered=altered, evidence=verified(*proved))
    assert _ORDER.index(found.step.verified) <= _ORDER.index(found.step.declared)
    rank = ("none", "III", "II", "I")
    assert rank.index(found.mof.verified) <= rank.index(found.mof.declared)
    if found.mof.declared in ("I", "II", "III"):
        assert found.step.declared in ("open_weights", "fully_open")
    if found.osaid.verified == "pass":
        assert found.osaid.declared == "pass"
    if found.eu_53_2.verified == "likely":
        assert found.eu_53_2.declared == "likely"
    for one in found.next:
        assert one.steps
        assert one.to != getattr(found, one.scheme).__getattribute__(one.basis)
        assert len(one.steps) == len(set(one.steps))
    again = verdicts(claims, altered=altered, evidence=verified(*proved))
    assert again.as_json() == found.as_json()


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("MIT", "osd_open"),
        ("MIT OR Apache-2.0", "osd_open"),
        ("ODC-By-1.0", "data_open"),
        ("MIT AND CC-BY-NC-4.0", "non_commercial"),
        ("MIT OR CC-BY-NC-4.0", "osd_open"),
        ("llama-3.1-license-2024", "scale_limited"),
        ("llama-3.1-license-2024 AND CC-BY-NC-4.0", "unknown"),
        ("Words Nobody Knows", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_class_of_the_licence(licence: str | None, kind: str) -> None:
    assert verdicts(OPEN, licence=licence).licence_kind == kind
    assert verdicts(OPEN, licence=licence, altered=True).licence_kind == "unknown"


def test_the_shape_of_the_json() -> None:
    content = verdicts(OPEN).as_json()
    assert content["step"] == {"declared": "fully_open", "verified": "fully_closed"}
    assert content["mof"] == {"declared": "I", "verified": "none"}
    assert content["licence_kind"] == "osd_open"
    assert set(content["reasons"]) == {
        f"{scheme}{basis}"
        for scheme in ("step", "mof", "osaid", "eu_53_2")
        for basis in ("", "_verified")
    }
    assert all(set(one) == {"scheme", "basis", "to", "steps"} for one in content["next"])
