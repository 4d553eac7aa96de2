"""Questions a careful person asks of each family, and what the texts answer.

Each row is a chain as ``relation=licence`` (the model itself without a relation), the facts that
were given, the verdict and all that is missing. What must be done is looked at below.
"""

from typing import Any

import pytest

from overt.openness.permissions.facts import fact
from overt.openness.permissions.may import Decision, LicenceLink, decide

L2, L3, L31 = "llama-2-license-2023", "llama-3-license-2024", "llama-3.1-license-2024"
L32, L4 = "llama-3.2-license-2024", "llama-4-cla-2025"
GEMMA = "gemma-tou-2025-03-24"
STABLE, EXAONE = "stability-ai-community-2024", "exaone-ai-model-1.1-nc"
KIMI = "moonshot-ai-modified-mit-2025"
MAU, TRAINS, END = "mau_at_version_release", "trains_other_model", "received_in_end_product"
ALLOW, DUTIES, ASK, DENY, UNKNOWN = (
    "allow",
    "allow_with_obligations",
    "needs_permission",
    "deny",
    "unknown",
)


def _decide(chain: str, given: str) -> Decision:
    links = []
    for number, one in enumerate(chain.split()):
        relation, _, licence = one.rpartition("=")
        links.append(
            LicenceLink(f"m{number}", relation or "self", licence if licence != "?" else None)
        )
    facts: dict[str, object] = {}
    for pair in given.split():
        name, _, value = pair.partition("=")
        found = fact(name)
        assert found is not None
        facts[found.name] = value.replace("_", " ") if found.name == "fields_of_use" else value
    return decide(links, facts)


QUESTIONS: list[tuple[str, str, str, str]] = [
    # Llama 2 and 3.0: no other model from weights or outputs, and no end product changes that
    (L2, "mau=5 trains=outputs", DENY, ""),
    (L2, "mau=5 trains=weights", DENY, ""),
    (L2, "mau=5 trains=outputs end_product=yes", DENY, ""),
    (L2, "mau=5 trains=none commercial=yes distributes=product", DUTIES, ""),
    (L2, "mau=5", UNKNOWN, TRAINS),
    (L3, "mau=5 trains=both", DENY, ""),
    # 3.1 on: allowed with a name, and nothing but the users is asked
    (L31, "mau=5", DUTIES, ""),
    (L31, "mau=5 trains=outputs distributes=weights", DUTIES, ""),
    (L31, "", UNKNOWN, MAU),
    (L31, "commercial=yes distributes=hosted_api", UNKNOWN, MAU),
    (L31, "mau=700M", DUTIES, ""),
    (L31, "mau=800M", ASK, END),
    (L31, "mau=800M end_product=no", ASK, ""),
    (L31, "mau=800M end_product=yes", DUTIES, ""),
    (L31, "mau=800M fields=military", DENY, ""),
    # 3.2 and 4, multimodal: a company outside the EU, one inside, a user of a product inside
    (L32, "mau=5 eu=no modality=multimodal", DUTIES, ""),
    (L32, "mau=5 eu=yes modality=text", DUTIES, ""),
    (L32, "mau=5 eu=yes modality=multimodal", DENY, END),
    (L32, "mau=5 eu=yes modality=multimodal end_product=yes", DUTIES, ""),
    (L32, "eu=no", UNKNOWN, MAU),
    (L32, "mau=800M eu=no", ASK, END),
    (L4, "mau=800M", ASK, f"domicile_eu modality {END}"),
    (L4, "mau=800M eu=yes modality=multimodal", DENY, END),
    (L4, "modality=text", UNKNOWN, MAU),
    # Gemma: a model distilled from it is a derivative of it, and may be
    (GEMMA, "trains=outputs distributes=weights commercial=yes", DUTIES, ""),
    (GEMMA, "", DUTIES, ""),
    (f"MIT teacher={GEMMA}", "fields=adult_content", DENY, ""),
    # Qwen: over 100 million, and only where it is commercial
    ("qwen-2024", "commercial=yes mau=100M", DUTIES, ""),
    ("qwen-2024", "commercial=yes mau=100000001", ASK, ""),
    ("qwen-2024", "commercial=no mau=200M", DUTIES, ""),
    ("qwen-2024", "commercial=yes", UNKNOWN, MAU),
    ("qwen-research", "commercial=yes", ASK, ""),
    # DeepSeek, OpenRAIL
    ("deepseek-la-1.0", "commercial=yes mau=2bn", DUTIES, ""),
    ("deepseek-la-1.0", "fields=military", DENY, ""),
    ("bigscience-rail-1.0", "fields=medical", DENY, ""),
    ("bigscience-rail-1.0", "fields=coding commercial=yes", DUTIES, ""),
    ("bigcode-open-rail-m-v1", "fields=phishing", DENY, ""),
    # Stability at one million, which the text leaves open: the stricter reading
    (STABLE, "commercial=yes revenue=1M trains=none", ASK, END),
    (STABLE, "commercial=yes revenue=999999 trains=none", DUTIES, ""),
    (STABLE, "commercial=no revenue=5M trains=none", DUTIES, ""),
    (STABLE, "commercial=yes revenue=1M", ASK, f"{TRAINS} {END}"),
    (STABLE, "trains=outputs", DENY, ""),
    (STABLE, "trains=none", UNKNOWN, "commercial annual_revenue_usd"),
    # EXAONE, Falcon, Kimi, Mistral, NVIDIA
    (EXAONE, "commercial=no production=no trains=none distributes=nothing", DUTIES, ""),
    (EXAONE, "commercial=no production=no trains=none distributes=product", ASK, ""),
    (EXAONE, "commercial=no", UNKNOWN, f"production {TRAINS} distributes"),
    ("falcon-2-11b-1.0", "commercial=yes distributes=hosted_api", DUTIES, ""),
    ("falcon-180b", "commercial=yes", UNKNOWN, "distributes"),
    (KIMI, "commercial=yes mau=900M", DUTIES, ""),
    (KIMI, "", DUTIES, ""),
    ("mrl-0.1", "commercial=no production=no trains=outputs", DUTIES, ""),
    ("mrl-0.1", "commercial=yes", DENY, ""),
    ("MIT teacher=mnpl-0.1", "commercial=yes production=yes", DUTIES, ""),
    ("MIT teacher=mrl-0.1", "", UNKNOWN, "commercial production"),
    ("nvidia-open-model-2025-04-28", "commercial=yes trains=outputs", DUTIES, ""),
    # free licences and data
    ("CC-BY-NC-4.0", "", UNKNOWN, "commercial"),
    ("CC-BY-NC-4.0", "commercial=yes", DENY, ""),
    ("GPL-3.0-only", "commercial=yes distributes=product,weights", DUTIES, ""),
    ("GPL-3.0-only", "distributes=nothing", ALLOW, ""),
    ("AGPL-3.0-only", "distributes=hosted_api", DUTIES, ""),
    ("Apache-2.0", "", DUTIES, ""),
    ("Apache-2.0 dataset=ODC-By-1.0", "commercial=yes distributes=data", DUTIES, ""),
    ("Apache-2.0 dataset=?", "commercial=yes distributes=nothing", ALLOW, ""),
    # chains
    (f"MIT finetune={L31} teacher=MIT", "distributes=weights", UNKNOWN, MAU),
    (f"MIT finetune={L31} teacher=MIT", "mau=5 distributes=weights", DUTIES, ""),
    (f"{GEMMA} base={GEMMA} dataset=CC-BY-NC-4.0", "", UNKNOWN, "commercial"),
    (f"{GEMMA} base={GEMMA} dataset=CC-BY-NC-4.0", "commercial=yes", DENY, ""),
    (f"{GEMMA} base={GEMMA} dataset=CC-BY-NC-4.0", "commercial=no", DUTIES, ""),
    (f"MIT teacher={L2}", "", DENY, ""),
    ("MIT adapter=qwen-2024 base=mrl-0.1", "commercial=yes mau=5", DENY, ""),
    # services: weights that nobody has are not asked about, and not allowed either
    ("openai-terms-of-use", "", UNKNOWN, f"{TRAINS} is_competitor_product"),
    ("openai-terms-of-use", "trains=outputs", UNKNOWN, "is_competitor_product"),
    ("openai-terms-of-use", "trains=outputs competes=yes", DENY, ""),
    ("openai-terms-of-use", "trains=outputs competes=no", DUTIES, ""),
    ("openai-terms-of-use", "trains=none distributes=weights", DENY, ""),
    ("openai-terms-of-use", "trains=weights", DENY, ""),
    ("gemini-api-terms", "trains=outputs competes=yes", DENY, ""),
    ("anthropic-commercial-terms", "competes=yes", DENY, ""),
    ("anthropic-commercial-terms", "competes=no commercial=no", DUTIES, ""),
    ("anthropic-commercial-terms", "competes=no", UNKNOWN, "commercial distributes"),
    ("MIT teacher=openai-terms-of-use", "", UNKNOWN, "is_competitor_product"),
]


@pytest.mark.parametrize(("chain", "given", "verdict", "missing"), QUESTIONS)
def test_what_the_texts_answer(chain: str, given: str, verdict: str, missing: str) -> None:
    found = _decide(chain, given)
    assert (found.verdict, found.missing) == (verdict, tuple(missing.split())), found.reasons


@pytest.mark.parametrize(
    ("chain", "given", "licence", "section"),
    [
        (L31, "mau=5 trains=outputs distributes=weights", L31, "1.b.i"),
        (f"MIT finetune={L31} teacher=MIT", "distributes=weights", L31, "1.b.i"),
        (f"MIT finetune={L31} teacher=MIT", "distributes=weights", L31, "1.b.iii"),
        (f"MIT teacher={GEMMA}", "distributes=weights", GEMMA, "3.1(1)"),
        (f"MIT teacher={GEMMA}", "distributes=hosted_api", GEMMA, "3.1(2)"),
        (KIMI, "commercial=yes mau=100000001", KIMI, "last paragraph"),
        (KIMI, "commercial=yes mau=5 monthly_revenue=20000001", KIMI, "last paragraph"),
        (STABLE, "commercial=yes revenue=5 trains=none", STABLE, "III"),
        ("GPL-2.0-only", "distributes=weights", "GPL-2.0-only", "3"),
        ("GPL-3.0-or-later", "distributes=product", "GPL-3.0-or-later", "5(c)"),
        ("LGPL-3.0-only", "distributes=weights", "LGPL-3.0-only", "GPL 3.0, section 4"),
        ("LGPL-2.1-only", "distributes=product", "LGPL-2.1-only", "6"),
        ("Artistic-2.0", "distributes=derivative", "Artistic-2.0", "4"),
        ("MPL-2.0", "distributes=weights", "MPL-2.0", "3.2"),
        ("CC-BY-SA-3.0", "distributes=derivative", "CC-BY-SA-3.0", "4(b)"),
        ("CC-BY-3.0", "distributes=data", "CC-BY-3.0", "4(b)"),
        ("Apache-2.0 dataset=ODC-By-1.0", "distributes=data", "ODC-By-1.0", "4.3"),
        ("qwen-2024", "trains=outputs distributes=weights", "qwen-2024", "5.b"),
    ],
)
def test_what_must_be_done(chain: str, given: str, licence: str, section: str) -> None:
    found = _decide(chain, given)
    settled = {(one.licence, one.section) for one in found.obligations if not one.when}
    assert (licence, section) in settled


@pytest.mark.parametrize(
    ("chain", "given", "licence", "section"),
    [
        (KIMI, "commercial=yes mau=100M monthly_revenue=20M", KIMI, "last paragraph"),
        ("Artistic-2.0", "distributes=product", "Artistic-2.0", "4"),
        ("LGPL-3.0-only", "distributes=weights", "LGPL-3.0-only", "4"),
        ("GPL-2.0-only", "distributes=hosted_api", "GPL-2.0-only", "2.b"),
        ("MIT teacher=mnpl-0.1", "distributes=weights", "mnpl-0.1", "2.2"),
        (STABLE, "commercial=yes end_product=yes", STABLE, "III"),
    ],
)
def test_what_need_not_be_done(chain: str, given: str, licence: str, section: str) -> None:
    found = _decide(chain, given)
    assert (licence, section) not in {(one.licence, one.section) for one in found.obligations}


def test_an_answer_that_rests_on_a_presumption_says_so() -> None:
    found = _decide(L31, "mau=800M")
    assert found.reasons[-1] == (
        "it is presumed that you did not get the model inside a finished product: "
        "where that is not so the answer may be milder"
    )
    clause = next(one for one in found.clauses if one.effect == "needs_permission")
    assert clause.when == ""
    assert found.per_link[0].missing == (END,)
    told = _decide(L31, "mau=800M end_product=no")
    assert not any("presumed" in one for one in told.reasons)


def test_what_nobody_is_asked_about_is_a_note_until_it_is_said() -> None:
    silent: Any = _decide("openai-terms-of-use", "")
    service = [one for one in silent.clauses if one.section == "service"]
    assert {one.effect for one in service} == {"note"}
    said = _decide("openai-terms-of-use", "distributes=weights")
    assert [one.effect for one in said.clauses if one.section == "service" and not one.when] == [
        "deny"
    ]
