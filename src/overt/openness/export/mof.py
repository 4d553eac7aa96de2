"""A record of the Model Openness Tool, to be submitted there.

The tool is https://github.com/lfai/model_openness_tool; its schema decides what a field may hold.

A component is listed where it can be had, as far as is declared or verified; what evidence
contradicts is left out. Each names its own licence, and an empty one where nobody names any: an
absent field would inherit the licence of the whole, which nobody granted for it.
"""

import re
from typing import Any, Final

from overt.formats import yamltext
from overt.openness.dossier import Dossier
from overt.openness.export import licences
from overt.openness.export.text import address, clean, day, plain, shorten
from overt.openness.verdicts import mof
from overt.openness.verdicts.components import BY_NAME
from overt.openness.verdicts.rule_input import RuleInput

# The names of the tool's schema; anything else is refused.
_ARCHITECTURES: Final = frozenset(
    {
        "transformer",
        "transformer decoder",
        "transformer encoder-decoder",
        "decoder",
        "encoder",
        "diffusion",
        "RNN",
        "CNN",
        "LSTM",
        "NeRF",
        "hybrid",
        "undisclosed",
        "other",
    }
)
_KNOWN: Final = (
    (
        re.compile(r"(t5|bart|whisper|forconditionalgeneration|encoder.?decoder)", re.I),
        "transformer encoder-decoder",
    ),
    (re.compile(r"(hybrid|jamba|zamba|bamba|granitemoehybrid)", re.I), "hybrid"),
    (re.compile(r"(rwkv|rnn)", re.I), "RNN"),
    (re.compile(r"(bert|electra|formaskedlm)", re.I), "encoder"),
    (re.compile(r"diffusion|unet", re.I), "diffusion"),
    (re.compile(r"mamba", re.I), "other"),
    (
        re.compile(
            r"(forcausallm|^(llama|gemma|qwen|mistral|mixtral|olmo|phi|gpt|falcon|granite|deepseek"
            r"|smollm|starcoder|bloom|mpt|stablelm|command|cohere|exaone|apertus|nemotron|glm))",
            re.I,
        ),
        "transformer decoder",
    ),
)
_DESCRIBED: Final = {
    "weights": "The weights of the released model",
    "checkpoints": "Weights saved while the model was trained",
    "architecture": "The code or configuration that says how the model is built",
    "training_code": "The code that trained the model",
    "preprocessing_code": "The code that collected, filtered and prepared the data",
    "inference_code": "The code that runs the model",
    "evaluation_code": "The code that evaluates the model",
    "libraries": "Libraries and tools that the rest needs",
    "training_data": "The data that the model was trained, validated and tested on",
    "evaluation_data": "The data that the model was evaluated on",
    "sample_outputs": "Examples of what the model answers",
    "metadata": "Facts about the model in a form that programs read",
    "model_card": "What the model is for, how it was made and where it fails",
    "data_card": "What is in the data and where it comes from",
    "report": "How the model was made, in detail",
    "paper": "The publication about the model",
    "evaluation_results": "How the model did in its evaluation",
}


def render(dossier: Dossier) -> str:
    record, facts = dossier.record, dossier.record.facts
    release: dict[str, Any] = {"name": shorten(clean(record.name or dossier.ref), 300) or "unnamed"}
    release["version"] = str(facts.get("revision") or "")
    if released := day(facts.get("released", "")) or day(record.date):
        release["date"] = released
    release |= {
        "type": {"text": "language", "multimodal": "multimodal"}.get(
            str(facts.get("modality")), ""
        ),
        "architecture": architecture(str(facts.get("architecture") or ""), record.kind),
        "origin": _origin(dossier),
        "producer": str(facts.get("producer") or ""),
        "contact": "",
    }
    release |= _addresses(dossier)
    release["license"] = {
        "distribution": {
            "name": dossier.licence.id or dossier.licence.declared_text,
            "path": dossier.licence.file or address(record.licence_link),
        }
    }
    release["components"] = _components(dossier)
    framework = {"name": "Model Openness Framework", "version": "1.0", "date": "2024-12-15"}
    return yamltext.dump(plain({"framework": framework, "release": release}))


def architecture(text: str, kind: str = "model") -> str:
    """The tool's word for an architecture as a file names it; "" where it has none."""
    if text in _ARCHITECTURES:
        return text
    if not text:
        return "undisclosed" if kind == "api" else ""
    return next((word for pattern, word in _KNOWN if pattern.search(text)), "")


def _origin(dossier: Dossier) -> str:
    """What it was made from."""
    names = [parent.name for parent in dossier.record.parents if parent.relation != "dataset"]
    return names[0] if names else ""


def _addresses(dossier: Dossier) -> dict[str, str]:
    weights = dossier.component("weights").claim
    code = dossier.component("training_code").claim
    addresses = {"repository": address(code.where) if code else ""}
    hub = (address(weights.where) if weights else "") or address(dossier.record.source)
    if hub.startswith("https://huggingface.co/"):
        addresses["huggingface"] = hub
    elif hub and not addresses["repository"]:
        addresses["repository"] = hub
    return {key: value for key, value in addresses.items() if value}


def _components(dossier: Dossier) -> list[dict[str, str]]:
    case = RuleInput(
        dossier.components, dossier.record, dossier.licence.id, dossier.licence.altered
    )
    entries = []
    for item in mof.items(case, "declared"):
        component = BY_NAME[item.component]
        result = dossier.component(item.component)
        entry = {"name": component.mof or "", "description": _DESCRIBED[item.component]}
        licence = item.licence or ""
        if licence == mof.ALTERED:
            licence = licences.altered(case.licence_of(item.component) or "").value
        entry["license"] = licence
        if result.claim and (where := address(result.claim.where)):
            entry["component_path"] = where
        entries.append(entry)
    return entries
