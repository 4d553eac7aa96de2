"""The shapes computed from the configuration against those in the headers of the weights.

``config.json`` against safetensors, and a GGUF header's own numbers against its tensor table. The
first tensor that differs is named with both shapes. Of an architecture whose tensors are not known
nothing is said but that.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from overt.openness.evidence import Finding
from overt.openness.shapes import general, plan
from overt.openness.shapes.plan import PlanDifference, TensorPlan
from overt.openness.subject import tensors
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

VERSION = 2
TTL = 0


@dataclass(frozen=True)
class ShapeComparison:
    """One model of a subject with its plan and how it differs."""

    weights: tensors.Weights
    plan: TensorPlan
    difference: PlanDifference
    paths: tuple[str, ...]


def compared(subject: Subject) -> Iterator[ShapeComparison | Finding]:
    """Each model whose tensors can be told; a Finding on the architecture where they cannot."""
    for weights in tensors.of(subject):
        paths = weights.files
        try:
            if weights.format == "gguf":
                if weights.header is None or not weights.tensors:
                    raise plan.UnknownLayout(f"{weights.name} holds no header, or no tensors")
                wanted, form = plan.of_gguf(weights.header, weights.tensors), "gguf"
            elif subject.config is None:
                continue
            else:
                wanted, form = plan.of_config(subject.config), "hf"
                paths = ("config.json", *paths)
        except plan.UnknownLayout as reason:
            yield _unknown(subject, weights, paths) or _not_run(str(reason), paths)
            continue
        shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
        yield ShapeComparison(weights, wanted, plan.compare(wanted, shapes, form), paths)


def _unknown(subject: Subject, weights: tensors.Weights, paths: tuple[str, ...]) -> Finding | None:
    """A contradiction that needs no layout."""
    config = plan.text_config(subject.config or {})
    if weights.lacking or config.get("quantization_config") or not weights.tensors:
        return None
    if weights.format != "gguf":
        if not isinstance(config.get("model_type"), str):
            return None  # not as the transformers library writes it: keys may mean anything
        stated = general.of_config(config)
    elif weights.header is not None and weights.header.architecture != "wavtokenizer-dec":
        stated = general.of_header(weights.header)
    else:
        return None
    trouble = general.contradiction(stated, weights.tensors)
    if trouble is None:
        return None
    return Finding("architecture", "fail", Strength.CONSISTENT, *trouble, paths=paths)


def check(subject: Subject) -> Iterable[Finding]:
    if subject.config is not None and not tensors.of(subject):
        remote = any(f.suffix in (".safetensors", ".gguf") for f in subject.files if not f.path)
        if remote:
            yield _not_run("the weights are not here; overt pull gets them", ("config.json",))
        return
    for comparison in compared(subject):
        yield (
            comparison
            if isinstance(comparison, Finding)
            else _finding(comparison, subject.config or {})
        )


def _finding(comparison: ShapeComparison, config: Mapping[str, Any]) -> Finding:
    difference, wanted = comparison.difference, comparison.plan
    source = "the header" if comparison.weights.format == "gguf" else "config.json"
    trouble = (
        _header(comparison.weights)
        or _biases(config, comparison.weights)
        or _class(config, comparison.weights)
    )
    if trouble:
        return Finding(
            "architecture", "fail", Strength.CONSISTENT, *trouble, paths=comparison.paths
        )
    if difference.wrong:
        name, there, expected = difference.wrong[0]
        more = f" and {len(difference.wrong) - 1} more" if len(difference.wrong) > 1 else ""
        return Finding(
            "architecture",
            "fail",
            Strength.CONSISTENT,
            f"{name} has the shape {list(there)}{more}",
            f"{list(expected)} by {source}",
            paths=comparison.paths,
        )
    if difference.beyond:
        return Finding(
            "architecture",
            "fail",
            Strength.CONSISTENT,
            f"{len(difference.beyond)} tensors beyond the last block, the first "
            f"{difference.beyond[0]}",
            f"{wanted.blocks} blocks by {source}",
            paths=comparison.paths,
        )
    whole = [name for name in difference.missing if not comparison.weights.lacking]
    if whole:
        return Finding(
            "architecture",
            "fail",
            Strength.CONSISTENT,
            f"{len(whole)} tensors are missing, the first {whole[0]}",
            f"{len(wanted.required)} tensors in {wanted.blocks} blocks by {source}",
            paths=comparison.paths,
        )
    if difference.unknown:
        return Finding(
            "architecture",
            "inconclusive",
            Strength.CONSISTENT,
            f"{len(difference.unknown)} tensors that {wanted.architecture} does not have, the "
            "first "
            f"{difference.unknown[0]}",
            reason="a variant of the architecture, or tensors that nobody describes",
            paths=comparison.paths,
        )
    if difference.missing:
        return _not_run(
            f"{len(comparison.weights.lacking)} files of the weights are not here", comparison.paths
        )
    return Finding(
        "architecture",
        "pass",
        Strength.CONSISTENT,
        f"{len(comparison.weights.tensors)} tensors, {comparison.weights.parameters} "
        "parameters, have the shapes "
        f"of {wanted.architecture} with {wanted.blocks} blocks",
        f"what {source} asks for",
        paths=comparison.paths,
    )


def _not_run(reason: str, paths: tuple[str, ...]) -> Finding:
    return Finding("architecture", "not_run", Strength.CONSISTENT, reason=reason, paths=paths)


def _header(weights: tensors.Weights) -> tuple[str, str] | None:
    """What a GGUF header says beside the numbers that the shapes follow from."""
    header = weights.header
    if header is None:
        return None
    own = header.architecture
    stated, table = header.number(f"{own}.vocab_size"), weights.tensors.get("token_embd.weight")
    if stated and table is not None and len(table.shape) == 2 and table.shape[0] != stated:
        return f"token_embd.weight has {table.shape[0]} rows", f"{stated} by {own}.vocab_size"
    rotated, head = header.number(f"{own}.rope.dimension_count"), header.key_length
    if rotated and head and rotated > head:
        return f"heads of {head} numbers", f"{rotated} of them rotated, by {own}.rope"
    return None


def _biases(config: Mapping[str, Any], weights: tensors.Weights) -> tuple[str, str] | None:
    """``attention_bias`` and ``mlp_bias`` say that there are tensors which a plan only allows."""
    if weights.format == "gguf":
        return None
    text = plan.text_config(config)
    for key, part in (("attention_bias", "att"), ("mlp_bias", "mlp")):
        if text.get(key) is True and not any(
            part in name and name.endswith(".bias") for name in weights.tensors
        ):
            return f"none of {len(weights.tensors)} tensors is such a bias", f"{key} by config.json"
    return None


_CLASSES: Final = {
    "Llama": "llama",
    "Mistral": "mistral",
    "Mixtral": "mixtral",
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Gemma": "gemma",
    "Gemma2": "gemma2",
    "GPT2": "gpt2",
    "Olmo": "olmo",
    "Olmo2": "olmo2",
    "Phi3": "phi3",
    "GPTNeoX": "gpt_neox",
    "Granite": "granite",
    "Qwen3Moe": "qwen3_moe",
    "Qwen2Moe": "qwen2_moe",
    "DeepseekV2": "deepseek_v2",
    "DeepseekV3": "deepseek_v3",
}
"""The model_type of the classes that the transformers library has for them."""


def _class(config: Mapping[str, Any], weights: tensors.Weights) -> tuple[str, str] | None:
    class_names, kind = config.get("architectures"), config.get("model_type")
    if weights.format == "gguf" or not isinstance(class_names, list) or config.get("auto_map"):
        return None
    kinds = [
        _CLASSES.get(str(class_name).removesuffix("ForCausalLM").removesuffix("LMHeadModel"))
        for class_name in class_names
    ]
    if kinds and all(kinds) and kind in _CLASSES.values() and kind not in kinds:
        return f"the class {class_names[0]}", f"one of {kind}, by model_type"
    return None
