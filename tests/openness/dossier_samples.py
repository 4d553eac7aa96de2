"""Dossiers made by hand, for the tests of what is written from them."""

from typing import Any

from overt.openness.dossier import Dossier, LicenceFinding
from overt.openness.evidence import ComponentResult, Evidence, short
from overt.openness.licence.match import Match, TextChange
from overt.openness.subject.record import Claim, Parent, Record
from overt.openness.verdicts.components import COMPONENTS, Availability, Strength
from overt.openness.verdicts.rules import Next, VerdictPair, Verdicts

DAY = "2026-11-25"
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\u202egnp.exe\u2066 turned around \u200bunseen",
    "W" * 3000,
    "<!-- --> ]]> &amp; &#x3c; {{7*7}} ${x}",
    "a\x00b\x07c\x1b[31m\ud800\udfff\ufffe",
    "javascript:alert(1)",
    'https://a.example/x y"><script>?q=<&b=1#\u202e%zz',
    "- yaml: &a [*a]\n--- !!python/object:os.system",
    "../../etc/passwd",
    "مرحبا 你好 🦙",
    "'; DROP TABLE models; --",
)


def sha(letter: str) -> str:
    return "sha256:" + letter * 64


def proof(component: str, result: str = "pass", **more: Any) -> Evidence:
    """A piece of evidence about `component`."""
    fields: dict[str, Any] = {
        "check": "sample",
        "version": 1,
        "component": component,
        "result": result,
        "strength": Strength.CONSISTENT,
        "observed": "what is there",
        "inputs": (("model.safetensors", sha("a")),),
        "at": DAY,
    }
    return Evidence(**fields | more)


def claim(component: str, availability: Availability = Availability.FULL, **more: Any) -> Claim:
    fields: dict[str, Any] = {"source": "https://hub.example/lab/model", "date": "2026-10-01"}
    return Claim(component, availability, **fields | more)


def finished(
    states: dict[str, tuple[str, Availability]], licence: str | None, **special: ComponentResult
) -> tuple[ComponentResult, ...]:
    """All components: those in `states` with a claim and evidence to match, the others unknown."""
    found = []
    for one in COMPONENTS:
        if one.name in special:
            found.append(special[one.name])
            continue
        state, availability = states.get(one.name, ("declared", Availability.UNKNOWN))
        said = claim(one.name, availability, licence=licence) if one.name in states else None
        evidence: tuple[Evidence, ...] = ()
        if state == "verified":
            evidence = (proof(one.name),)
        elif state == "missing":
            evidence = (proof(one.name, "fail", absent=True, strength=Strength.EXISTS),)
        elif state == "contradicted":
            evidence = (proof(one.name, "fail", expected="what is claimed"),)
        found.append(
            ComponentResult(one, state, availability, licence if said else None, said, evidence)  # type: ignore[arg-type]
        )
    return tuple(found)


def verdicts(
    step: tuple[str, str], mof: tuple[str, str] = ("none", "none"), **more: Any
) -> Verdicts:
    fields: dict[str, Any] = {
        "osaid": VerdictPair("unknown", "unknown"),
        "eu_53_2": VerdictPair("unknown", "unknown"),
        "licence_kind": "unknown",
        "contradicted": (),
        "reasons": {"step": ("weights: available",), "step_verified": ("weights: verified",)},
        "next": (),
    }
    return Verdicts(step=VerdictPair(*step), mof=VerdictPair(*mof), **fields | more)


def fully_open() -> Dossier:
    """Everything there, everything verified."""
    everything = {one.name: ("verified", Availability.FULL) for one in COMPONENTS}
    record = Record(
        "Glasshouse 1B",
        claims=tuple(claim(one.name, licence="Apache-2.0") for one in COMPONENTS),
        licence="Apache-2.0",
        licence_link="https://hub.example/lab/glasshouse-1b/blob/main/LICENSE",
        parents=(Parent("lab/glass-corpus", "dataset", "ODC-By-1.0", "the model card"),),
        facts={
            "parameters": 1_234_567_890,
            "architecture": "OlmoForCausalLM",
            "modality": "text",
            "producer": "Glass Lab",
            "released": "2026-05-04",
            "training_flop": 1.5e22,
            "systemic_risk": False,
            "revision": "9f1e3b",
        },
        source="https://hub.example/lab/glasshouse-1b",
        date="2026-10-01",
        said={"class": "I"},
    )
    text = Match("Apache-2.0", "exact", False, (), (), False, 1.0, "b" * 64, ())
    return Dossier(
        ref="hf:lab/glasshouse-1b",
        record=record,
        digest=sha("1"),
        files=(
            ("LICENSE", 11_358, sha("b")),
            ("config.json", 700, sha("c")),
            ("model.safetensors", 2_469_135_780, sha("a")),
        ),
        components=finished(everything, "Apache-2.0"),
        verdicts=verdicts(
            ("fully_open", "fully_open"),
            ("I", "I"),
            osaid=VerdictPair("pass", "pass"),
            eu_53_2=VerdictPair("likely", "likely"),
            licence_kind="osd_open",
        ),
        licence=LicenceFinding(
            "Apache-2.0", "apache-2.0", "Apache-2.0", "osd_open", text, "LICENSE"
        ),
        base="",
        made_on=DAY,
        rules_version=1,
    )


def open_weights() -> Dossier:
    """Weights to be had, a licence with edited terms, and claims that do not hold."""
    full, part = Availability.FULL, Availability.PARTIAL
    states = {
        "weights": ("verified", full),
        "architecture": ("verified", full),
        "inference_code": ("declared", full),
        "training_data": ("missing", Availability.ABSENT),
        "training_code": ("declared", part),
        "report": ("declared", full),
        "tokenizer": ("verified", full),
        "chat_template": ("verified", full),
        "evaluation_results": ("declared", Availability.DESCRIBED),
    }
    licence = "llama-3.1-license-2024"
    lie = proof(
        "metadata", "fail", check="parameter_count",
        observed="6,738,415,616 parameters in the header",
        expected="8 billion parameters, by the name and the card",
    )  # fmt: skip
    stale = proof(
        "model_card", "fail", check="card_fields", observed="context length 8192 in the card",
        expected="131072 in the file", strength=Strength.EXISTS,
    )  # fmt: skip
    by_name = {one.name: one for one in COMPONENTS}
    components = finished(
        states,
        licence,
        metadata=ComponentResult(
            by_name["metadata"], "contradicted", full, licence, claim("metadata"), (lie,)
        ),
        model_card=ComponentResult(
            by_name["model_card"], "contradicted", full, None, claim("model_card"), (stale,)
        ),
        signature=ComponentResult(
            by_name["signature"], "declared", Availability.UNKNOWN, None, None,
            (proof("signature", "not_run", reason="model-signing is not installed", observed=""),),
        ),
    )  # fmt: skip
    rider = (
        "The model shall not be used by public authorities without a contract with Example Corp."
    )
    text = Match(
        licence, "altered", True, (rider,),
        (
            TextChange(
                "700", "7", "greater than 7 million monthly active users in the preceding month"
            ),
        ),
        False, 0.98, "d" * 64, ("llama-3.2-license-2024",),
    )  # fmt: skip
    record = Record(
        "Campanile 8B Instruct",
        claims=tuple(one.claim for one in components if one.claim),
        licence="llama3.1",
        parents=(
            Parent("meta-llama/Llama-3.1-8B", "finetune", licence, "the model card"),
            Parent("example/chat-logs", "dataset", None, "the model card"),
            Parent("gpt-4o", "distilled", "openai-terms-of-use", "the report"),
        ),
        facts={
            "parameters": 6_738_415_616, "architecture": "llama", "quantization": "Q4_K_M",
            "context_length": 131072, "modality": "text", "producer": "Example Corp",
        },
        source="https://hub.example/example/campanile-8b",
        date="2026-09-09",
    )  # fmt: skip
    return Dossier(
        ref="./campanile-8b-q4_k_m.gguf",
        record=record,
        digest=sha("2"),
        files=(("campanile-8b-q4_k_m.gguf", 4_920_000_000, sha("2")),),
        components=components,
        verdicts=verdicts(
            ("open_weights", "open_weights"),
            ("III", "none"),
            osaid=VerdictPair("fail", "fail"),
            eu_53_2=VerdictPair("no", "no"),
            licence_kind="scale_limited",
            contradicted=("metadata", "model_card"),
            next=(
                Next("step", "declared", "fully_open", ("publish the training data",)),
                Next("mof", "verified", "III", ("write a data card", "repair the model card")),
            ),
        ),
        licence=LicenceFinding(
            licence, "llama3.1", licence, "scale_limited", text, "LICENSE.txt"
        ),
        base="./llama-3.1-8b-f16.gguf",
        made_on=DAY,
        rules_version=1,
    )  # fmt: skip


def overstated() -> Dossier:
    """Said to be fully open; no more than the weights could be verified."""
    full = Availability.FULL
    states = {one.name: ("declared", full) for one in COMPONENTS if one.mof}
    states |= {"weights": ("verified", full), "training_data": ("contradicted", full)}
    record = Record("Openish 3B", licence="mit", facts={"producer": "Openish"}, date="2026-01-02")
    return Dossier(
        "openish:3b", record, sha("3"), (("model.gguf", 10, sha("3")),), finished(states, "MIT"),
        verdicts(("fully_open", "open_weights"), ("I", "none"), licence_kind="osd_open",
                 contradicted=("training_data",)),
        LicenceFinding("MIT", "mit", None, "osd_open", None, ""), "", DAY, 1,
    )  # fmt: skip


def closed_api() -> Dossier:
    """Behind somebody's server: nothing to look at."""
    absent = Availability.ABSENT
    states = {
        "weights": ("missing", absent),
        "training_data": ("missing", absent),
        "training_code": ("missing", absent),
        "safety_policy": ("declared", Availability.FULL),
        "model_card": ("declared", Availability.DESCRIBED),
    }
    components = tuple(
        ComponentResult(one.component, one.state, one.availability, None, one.claim, ())
        for one in finished(states, None)
    )
    record = Record(
        "GPT-5",
        kind="api",
        claims=tuple(one.claim for one in components if one.claim),
        licence="openai-terms-of-use",
        licence_link="https://openai.example/policies/terms-of-use",
        facts={"producer": "OpenAI", "modality": "multimodal", "systemic_risk": True},
        source="the catalogue of Overt",
        date="2026-11-01",
    )
    return Dossier(
        "openai:gpt-5", record, "", (), components,
        verdicts(("fully_closed", "fully_closed"), licence_kind="proprietary",
                 osaid=VerdictPair("fail", "fail"), eu_53_2=VerdictPair("no", "no")),
        LicenceFinding("openai-terms-of-use", "terms of use", None, "proprietary", None, ""),
        "", "2026-11-01", 1,
    )  # fmt: skip


def empty() -> Dossier:
    """Nothing is known but a name."""
    return Dossier(
        "x", Record("", kind="record"), "", (), finished({}, None),
        verdicts(("fully_closed", "fully_closed"), reasons={}), LicenceFinding(), "", "", 1,
    )  # fmt: skip


def hostile(texts: tuple[str, ...] = HOSTILE) -> Dossier:
    """`texts`, in turn, wherever a file, a card or a record decides what stands there."""
    place = iter(range(1_000_000))

    def text() -> str:
        return texts[next(place) % len(texts)]

    def line() -> str:  # as `evidence.short` leaves it
        return short(text().replace("\ud800", "").replace("\udfff", ""), 400)

    components = tuple(
        ComponentResult(
            one,
            ("verified", "declared", "missing", "contradicted")[number % 4],  # type: ignore[arg-type]
            Availability(number % 8),
            text(),
            Claim(one.name, Availability.FULL, text(), text(), text(), text(), text()),
            tuple(
                proof(one.name, result, observed=line(), expected=line(), reason=line(),
                      licence=line(), inputs=((line(), sha("e")), (line(), line())), at="")
                for result in ("pass", "fail", "inconclusive", "not_run")
            ),
        )
        for number, one in enumerate(COMPONENTS)
    )  # fmt: skip
    parents = tuple(
        Parent(text(), relation, text(), text())  # type: ignore[arg-type]
        for relation in (
            "finetune",
            "quantized",
            "merge",
            "adapter",
            "distilled",
            "dataset",
            "base",
        )
    )
    record = Record(
        text(), claims=tuple(one.claim for one in components if one.claim), licence=text(),
        licence_link=text(), parents=parents,
        facts={
            "architecture": text(), "producer": text(), "revision": text(), "released": text(),
            "modality": text(), "training_flop": float("inf"), text(): [text(), {text(): text()}],
            "parameters": text(),
        },
        source=text(), date=text(), said={text(): text()},
    )  # fmt: skip
    text_match = Match(
        text(), "altered", True, (text(), text()), (TextChange(text(), text(), text()),), True, 0.5,
        text(), (text(),),
    )  # fmt: skip
    return Dossier(
        ref=text(),
        record=record,
        digest=text(),
        files=((text(), 1, text()), (text(), 2, sha("f")), (text(), 3, "")),
        components=components,
        verdicts=verdicts(
            ("open_weights", "fully_closed"), contradicted=("weights",),
            reasons={"step": (text(),), text(): (text(),)},
            next=(Next("mof", "declared", "III", (text(), text())),),
        ),
        licence=LicenceFinding(text(), text(), text(), text(), text_match, text()),
        base=text(),
        made_on=text(),
        rules_version=1,
    )  # fmt: skip


SAMPLES = {
    "fully_open": fully_open,
    "open_weights": open_weights,
    "overstated": overstated,
    "closed_api": closed_api,
    "empty": empty,
    "hostile": hostile,
}
