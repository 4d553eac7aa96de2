"""What the licences say: known cases of each family, from their texts."""

from typing import Any

import pytest

from overt.openness.permissions import may, terms
from overt.openness.permissions.facts import PRESUMED
from overt.openness.permissions.may import LicenceLink, decide

LLAMA = {
    "2": "llama-2-license-2023",
    "3": "llama-3-license-2024",
    "3.1": "llama-3.1-license-2024",
    "3.2": "llama-3.2-license-2024",
    "3.3": "llama-3.3-license-2024",
    "4": "llama-4-cla-2025",
}
ND = "2(a)(1)(B) and 3(a)(2)"
SMALL = {"mau": "1M", "eu": "no", "trains": "none"}
HUGE = {"mau": "700000001", "received_in_end_product": "no", "eu": "no", "trains": "none"}
ALLOW, DUTIES, ASK, DENY, UNKNOWN = (
    "allow",
    "allow_with_obligations",
    "needs_permission",
    "deny",
    "unknown",
)


def _decide(licence: str, given: dict[str, str], **link: Any) -> may.Decision:
    from overt.openness.permissions.facts import fact

    facts = {one.name: text for name, text in given.items() if (one := fact(name))}
    assert len(facts) == len(given)
    return decide([LicenceLink("m", "self", licence, **link)], facts)


CASES: list[tuple[str, dict[str, str], str, str]] = [
    # Llama 1: research only
    ("llama-license-2023", {"commercial": "yes"}, DENY, "2.a(i)"),
    ("llama-license-2023", {"production": "yes"}, DENY, "2.a(i)"),
    ("llama-license-2023", {"commercial": "no", "production": "no"}, DUTIES, ""),
    ("llama-license-2023", {"fields": "surveillance"}, DENY, "2.a(iii)"),
    ("llama-license-2023", {"fields": "biometrics"}, DENY, "2.a(iv)"),
    ("llama-license-2023", {"fields": "military"}, DENY, "2.a(ii)"),
    # Llama 2 to 4: 700 million at the release, not now; not in an end product
    *[(one, HUGE, ASK, "2") for one in LLAMA.values()],
    *[(one, {**HUGE, "mau": "700M"}, DUTIES, "") for one in LLAMA.values()],
    *[(one, {**HUGE, "received_in_end_product": "yes"}, DUTIES, "") for one in LLAMA.values()],
    *[(one, {**SMALL, "fields": "military"}, DENY, "") for one in LLAMA.values()],
    *[(one, {**SMALL, "fields": "education"}, DUTIES, "") for one in LLAMA.values()],
    (LLAMA["2"], {"fields": "military"}, DENY, "2.1"),
    (LLAMA["3.2"], {"fields": "military"}, DENY, "2.8"),
    (LLAMA["4"], {"fields": "weapons"}, DENY, "3.2"),
    (LLAMA["3.1"], {"fields": "critical infrastructure"}, DENY, "2.4"),
    (LLAMA["3.3"], {"fields": "jailbreaking"}, DENY, "1.8"),
    (LLAMA["3.1"], {**SMALL, "fields": "jailbreaking"}, DUTIES, ""),
    (LLAMA["3.1"], {**SMALL, "fields": "legal advice"}, DUTIES, ""),
    # the clause on training other models, which became a duty at 3.1
    *[(LLAMA[n], {"trains": how}, DENY, "1.b.v") for n in "23" for how in ("weights", "outputs")],
    *[(LLAMA[n], {**SMALL, "trains": "outputs"}, DUTIES, "") for n in ("3.1", "3.2", "3.3", "4")],
    # multimodal in the EU, from 3.2 on, but for end users
    *[
        (LLAMA[n], {**SMALL, "eu": "yes", "modality": "multimodal", **got}, verdict, section)
        for n in ("3.2", "3.3", "4")
        for got, verdict, section in (
            ({"end_product": "no"}, DENY, "paragraph on the European Union"),
            ({"end_product": "yes"}, DUTIES, ""),
        )
    ],
    (LLAMA["3.1"], {**SMALL, "eu": "yes", "modality": "multimodal"}, DUTIES, ""),
    (LLAMA["4"], {**SMALL, "eu": "yes", "modality": "text"}, DUTIES, ""),
    (LLAMA["4"], {**SMALL, "eu": "no", "modality": "multimodal"}, DUTIES, ""),
    # Gemma
    ("gemma-tou-2025-03-24", {}, DUTIES, ""),
    ("gemma-tou-2024-04-01", {"commercial": "yes", "mau": "2bn"}, DUTIES, ""),
    ("gemma-tou-2024-02-21", {"fields": "adult content"}, DENY, "item 4"),
    ("gemma-tou-2025-03-24", {"fields": "credit scoring"}, DENY, "item 3.4"),
    ("gemma-tou-2025-03-24", {"trains": "outputs"}, DUTIES, "1.1(e)"),
    ("gemma-tou-2025-03-24", {"fields": "military"}, DUTIES, ""),
    # Mistral
    ("mrl-0.1", {"commercial": "yes"}, DENY, "3.2"),
    ("mrl-0.1", {"production": "yes"}, DENY, "9"),
    ("mrl-0.1", {"commercial": "no", "production": "no"}, DUTIES, ""),
    ("mnpl-0.1", {"commercial": "yes", "production": "no"}, DENY, "3.2"),
    ("mnpl-0.1", {"production": "yes"}, DENY, "3.2"),
    ("mnpl-0.1", {"commercial": "no", "production": "no", "trains": "outputs"}, DUTIES, ""),
    # OpenRAIL
    ("bigscience-rail-1.0", {}, DUTIES, ""),
    ("bigscience-rail-1.0", {"commercial": "yes"}, DUTIES, ""),
    ("bigscience-rail-1.0", {"fields": "medical advice"}, DENY, "Attachment A, 12"),
    ("bigscience-open-rail-m", {"fields": "law enforcement"}, DENY, "Attachment A(m)"),
    ("bigscience-open-rail-m2", {"fields": "asylum"}, DENY, "Attachment A, item 11"),
    ("bigscience-open-rail-m2", {"fields": "impersonation"}, DUTIES, ""),
    ("creativeml-open-rail-plus-plus-m-2023-07-26", {"fields": "minors"}, DENY, ""),
    ("bigcode-open-rail-m-v1", {"fields": "malware"}, DENY, "Attachment A(c)"),
    ("bigcode-open-rail-m-v1", {"fields": "medical advice"}, DENY, "Attachment A(m)"),
    ("bigcode-open-rail-m-v1", {"fields": "courts"}, DUTIES, ""),
    ("deepseek-la-1.0", {"fields": "military"}, DENY, "Attachment A, item 2"),
    ("deepseek-la-1.0", {"commercial": "yes", "fields": "medical advice"}, DUTIES, ""),
    # Qwen
    ("qwen-2024", {"commercial": "yes", "mau": "100000001"}, ASK, "4"),
    ("qwen-2024", {"commercial": "yes", "mau": "100M"}, DUTIES, ""),
    ("qwen-2024", {"commercial": "no"}, DUTIES, ""),
    ("qwen-2024", {"mau": "3M", "trains": "outputs", "distributes": "weights"}, DUTIES, ""),
    ("qwen-research", {"commercial": "yes"}, ASK, "2.b"),
    ("qwen-research", {"commercial": "no"}, DUTIES, ""),
    ("tongyi-qianwen-2023", {"trains": "outputs"}, DENY, "5.b"),
    ("tongyi-qianwen-2023", {"commercial": "yes", "mau": "101M", "trains": "none"}, ASK, "4"),
    ("tongyi-qianwen-research", {"trains": "weights"}, DENY, "4.b"),
    ("tongyi-qianwen-research", {"commercial": "yes", "trains": "none"}, ASK, "2.b"),
    # Stability
    (
        "stability-ai-community-2024",
        {"commercial": "yes", "revenue": "$1M", "end_product": "no", "trains": "none"},
        ASK,
        "III",
    ),
    ("stability-ai-community-2024", {"revenue": "$999999", "trains": "none"}, DUTIES, ""),
    ("stability-ai-community-2024", {"trains": "outputs"}, DENY, "IV.b"),
    ("stability-ai-nc-2023-12-06", {"distributes": "hosted_api"}, DENY, "1.b"),
    ("stability-ai-nc-2023-12-06", {"commercial": "yes"}, DENY, "1.a"),
    # NVIDIA, Falcon
    ("nvidia-open-model-2025-04-28", {"commercial": "yes", "mau": "1bn"}, DUTIES, ""),
    ("nvidia-open-model-2025-04-28", {"fields": "jailbreak"}, DENY, "2.1"),
    ("nvidia-open-model-agreement", {}, DUTIES, ""),
    ("nvidia-open-model-agreement", {"distributes": "nothing"}, ALLOW, ""),
    ("falcon-2-11b-1.0", {"fields": "disinformation"}, DENY, "3"),
    ("falcon-3-2024-12", {"commercial": "yes"}, DUTIES, ""),
    ("falcon-180b", {"distributes": "hosted_api"}, ASK, "9"),
    # DBRX, Hunyuan, LFM
    ("databricks-open-model", HUGE, ASK, "3"),
    ("databricks-open-model", {"trains": "outputs"}, DENY, "2.3"),
    ("tencent-hunyuan-community", {"mau": "100000001", "eu": "no", "trains": "none"}, ASK, "4"),
    ("tencent-hunyuan-community", {"mau": "100M", "eu": "no", "trains": "none"}, DUTIES, ""),
    ("tencent-hunyuan-community", {"eu": "yes"}, DENY, "territory"),
    ("tencent-hunyuan-community", {"fields": "military"}, DENY, "Exhibit A, 18"),
    ("lfm-1.0", {"commercial": "yes", "revenue": "10M"}, ASK, "commercial use"),
    ("lfm-1.0", {"commercial": "yes", "revenue": "9.9M"}, DUTIES, ""),
    # EXAONE, GLM, Grok, Kimi
    ("exaone-ai-model-1.1-nc", {"commercial": "yes"}, DENY, "3.1"),
    ("exaone-ai-model-1.1-nc", {"trains": "outputs"}, DENY, "3.1"),
    (
        "exaone-ai-model-1.1-nc",
        {"commercial": "no", "production": "no", "trains": "none", "distributes": "weights"},
        DUTIES,
        "",
    ),
    ("exaone-1.2-nc", {"commercial": "yes"}, DENY, "3.1"),
    ("glm-4-9b", {"commercial": "yes"}, ASK, "2"),
    ("glm-4-9b", {"fields": "military"}, DENY, "3"),
    ("grok-2-community-2025", {"trains": "outputs"}, DENY, "2.b"),
    ("grok-2-community-2025", {"commercial": "yes", "trains": "none"}, DUTIES, ""),
    ("moonshot-ai-modified-mit-2025", {"commercial": "yes", "mau": "500M"}, DUTIES, ""),
    ("moonshot-ai-modified-mit-2025", {"commercial": "no", "distributes": "nothing"}, ALLOW, ""),
    # free licences
    ("openmdw-1.0", {"distributes": "nothing"}, ALLOW, ""),
    ("openmdw-1.1", {"commercial": "yes", "distributes": "weights"}, DUTIES, ""),
    ("Apache-2.0", {}, DUTIES, ""),
    ("Apache-2.0", {"distributes": "nothing"}, ALLOW, ""),
    ("Apache-2.0", {"fields": "military", "distributes": "hosted_api"}, ALLOW, ""),
    ("MIT", {"distributes": "weights", "commercial": "yes", "trains": "both"}, DUTIES, ""),
    ("AGPL-3.0-only", {"distributes": "hosted_api"}, DUTIES, ""),
    ("GPL-3.0-or-later", {"distributes": "hosted_api"}, ALLOW, ""),
    ("Unlicense", {}, ALLOW, ""),
    ("CC0-1.0", {"commercial": "yes"}, ALLOW, ""),
    # data and documents
    ("CC-BY-4.0", {"commercial": "yes"}, DUTIES, ""),
    ("CC-BY-NC-4.0", {"commercial": "yes"}, DENY, "2(a)(1)"),
    ("CC-BY-NC-SA-4.0", {"commercial": "no"}, DUTIES, ""),
    ("CC-BY-NC-ND-4.0", {"commercial": "no", "distributes": "derivative"}, DENY, ND),
    ("CC-BY-ND-4.0", {"distributes": "weights"}, DUTIES, ""),
    ("CC-BY-NC-3.0", {"commercial": "yes"}, DENY, "4(b)"),
    ("ODC-By-1.0", {"distributes": "data"}, DUTIES, "4.2"),
    ("ODbL-1.0", {"distributes": "data"}, DUTIES, "4.4"),
    ("CDLA-Permissive-2.0", {"distributes": "weights"}, ALLOW, ""),
    ("PDDL-1.0", {}, ALLOW, ""),
    # closed services
    ("openai-terms-of-use", {"trains": "outputs", "competes": "yes"}, DENY, ""),
    ("openai-terms-of-use", {"trains": "outputs", "competes": "no"}, DUTIES, ""),
    ("openai-terms-of-use", {"trains": "none", "distributes": "product"}, DUTIES, ""),
    ("anthropic-commercial-terms", {"competes": "yes"}, DENY, "D.4"),
    ("gemini-api-terms", {"trains": "outputs", "competes": "yes"}, DENY, "Use Restrictions"),
    ("gemini-api-terms", {"fields": "medical advice"}, DENY, "Use Restrictions"),
    ("proprietary", {"distributes": "nothing"}, ASK, ""),
    ("proprietary", {"distributes": "weights"}, DENY, ""),
]


@pytest.mark.parametrize(("licence", "given", "verdict", "section"), CASES)
def test_known_cases(licence: str, given: dict[str, str], verdict: str, section: str) -> None:
    found = _decide(licence, given)
    assert found.verdict == verdict, found.reasons
    cited = [one.section for one in found.clauses]
    cited += [one.section for one in found.obligations]
    assert not section or section in cited
    if verdict in (ASK, DENY) and section:
        effect = "deny" if verdict == DENY else "needs_permission"
        assert (section, "") in [
            (one.section, one.when) for one in found.clauses if one.effect == effect
        ]
    assert (verdict == UNKNOWN) <= bool(found.missing)
    assert verdict != DENY or set(found.missing) <= set(PRESUMED)


@pytest.mark.parametrize(
    ("licence", "given", "missing"),
    [
        (LLAMA["2"], {}, "mau_at_version_release trains_other_model"),
        (LLAMA["2"], SMALL, ""),
        (LLAMA["3.1"], {}, "mau_at_version_release"),
        (LLAMA["3.1"], {"end_product": "yes"}, ""),
        (LLAMA["3.1"], {"mau": "800M"}, "received_in_end_product"),
        (LLAMA["3.1"], {"mau": "800M", "end_product": "no"}, ""),
        (LLAMA["3.2"], {"mau": "5"}, "domicile_eu modality"),
        (LLAMA["3.2"], {"eu": "yes", "modality": "multimodal"}, "received_in_end_product"),
        # permission in any case, a refusal for a trainer, neither inside a product
        (LLAMA["3"], {"mau": "1bn"}, "trains_other_model received_in_end_product"),
        (LLAMA["4"], {"mau": "5", "eu": "no"}, ""),
        (LLAMA["4"], {"mau": "5", "eu": "yes"}, "modality"),
        ("mrl-0.1", {}, "commercial production"),
        ("mrl-0.1", {"commercial": "no"}, "production"),
        ("qwen-2024", {}, "commercial mau_at_version_release"),
        ("qwen-2024", {"mau": "200M"}, "commercial"),
        ("qwen-research", {}, "commercial"),
        # permission is needed in any case; training would make it a refusal
        ("tongyi-qianwen-research", {"commercial": "yes"}, "trains_other_model"),
        (
            "stability-ai-community-2024",
            {"revenue": "5M", "trains": "none", "end_product": "no"},
            "commercial",
        ),
        ("openai-terms-of-use", {}, "trains_other_model is_competitor_product"),
        ("Apache-2.0", {}, ""),
        ("bigscience-rail-1.0", {}, ""),
        ("proprietary", {}, "distributes"),
    ],
)
def test_only_what_matters_is_asked(licence: str, given: dict[str, str], missing: str) -> None:
    assert _decide(licence, given).missing == tuple(missing.split())


def _duties(licence: str, given: dict[str, str]) -> str:
    found = _decide(licence, given)
    return "\n".join(f"{one.section}: {one.text} [{one.when}]" for one in found.obligations)


def test_duties_quote_what_the_licence_wants_shown() -> None:
    said = _duties(LLAMA["3.1"], {"distributes": "derivative"})
    assert '"Built with Llama"' in said
    assert 'with "Llama" []' in said
    assert "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright ©" in said
    said = _duties(LLAMA["3"], {"distributes": "derivative"})
    assert '"Built with Meta Llama 3"' in said
    assert 'with "Llama 3" []' in said
    assert "Gemma is provided under" in _duties("gemma-tou-2025-03-24", {"distributes": "weights"})
    assert "Powered by Stability AI" in _duties("stability-ai-community-2024", {})


@pytest.mark.parametrize(
    ("licence", "given", "part", "when"),
    [
        (LLAMA["3.1"], {}, "copy of the agreement", "if you distribute the weights, a"),
        (LLAMA["3.1"], {"distributes": "weights"}, "copy of the agreement", ""),
        (LLAMA["3.1"], {"distributes": "hosted_api"}, "copy of the agreement", None),
        (LLAMA["3.1"], {"distributes": "hosted_api"}, "Built with Llama", ""),
        (LLAMA["3.1"], {"distributes": "nothing"}, "Built with Llama", None),
        (LLAMA["3.1"], {"distributes": "weights", "trains": "outputs"}, "Begin the name", ""),
        (LLAMA["3.1"], {"distributes": "weights", "trains": "none"}, "Begin the name", None),
        # 3.0 asks for the name where the model itself was used, not its outputs
        (LLAMA["3"], {"distributes": "weights", "trains": "outputs"}, "Begin the name", None),
        ("gemma-tou-2025-03-24", {"distributes": "hosted_api"}, '"Notice" text file', None),
        ("gemma-tou-2025-03-24", {"distributes": "hosted_api"}, "copy of the terms", ""),
        ("gemma-tou-2024-02-21", {}, "newest version", ""),
        ("gemma-tou-2024-04-01", {}, "newest version", None),
        ("moonshot-ai-modified-mit-2025", {"commercial": "yes", "mau": "100000001"}, "Kimi K2", ""),
        (
            "moonshot-ai-modified-mit-2025",
            {"commercial": "yes", "mau": "100M", "monthly_revenue": "20M"},
            "Kimi K2",
            None,
        ),
        (
            "moonshot-ai-modified-mit-2025",
            {"commercial": "yes", "mau": "5", "monthly_revenue": "20000001"},
            "Kimi K2",
            "",
        ),
        ("CC-BY-SA-4.0", {"distributes": "derivative"}, "same licence", ""),
        ("Apache-2.0", {"distributes": "derivative"}, "modified files", ""),
        ("AGPL-3.0-only", {"distributes": "hosted_api"}, "over a network", ""),
        ("exaone-ai-model-1.1-nc", {"distributes": "derivative"}, '"EXAONE"', ""),
        ("bigscience-rail-1.0", {"distributes": "weights"}, "use restrictions of Attachment A", ""),
        (LLAMA["3.1"], {"fields": "legal advice"}, "Legal advice: only within the law", ""),
        (LLAMA["3.1"], {}, "Do not use it, or let others use it, for", ""),
    ],
)
def test_duties_and_when_they_hold(
    licence: str, given: dict[str, str], part: str, when: str | None
) -> None:
    found = [one for one in _decide(licence, given).obligations if part in one.text]
    if when is None:
        assert not found
        return
    assert found
    assert all(one.when == when if when == "" else one.when.startswith(when) for one in found)


def test_the_clauses_name_their_text_and_its_day() -> None:
    found = _decide(LLAMA["3.2"], {"eu": "yes", "modality": "multimodal", "end_product": "no"})
    policy = next(one for one in found.clauses if one.effect == "deny")
    assert (policy.licence, policy.source) == ("llama-3.2-use-policy", "llama-3.2-use-policy")
    license_ = next(one for one in found.clauses if one.effect == "needs_permission")
    assert (license_.licence, license_.date) == ("llama-3.2-license-2024", "2024-09-25")


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 80
    families = {licence.split("-")[0].lower() for licence, *_ in CASES}
    named = {one.split("-")[0].lower() for one in terms.ids()}
    assert len(families & named) > 25
