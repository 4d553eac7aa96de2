"""The sizes of a model as a card may state them, and how near a statement has to be."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from overt.openness.checks import parameters as counting
from overt.openness.subject import tensors
from overt.openness.subject.statements import CardStatement
from overt.openness.subject.subject import Subject

_CONTEXT: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_PACKED: Final = ("I32", "U8", "I8", "U32", "F8_E4M3", "F8_E5M2", "F4", "F8_E8M0")
_DENSE: Final = (
    "llama",
    "mistral",
    "gpt2",
    "gpt_neox",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "olmo2",
)


def config(subject: Subject) -> Mapping[str, Any]:
    config = subject.config or {}
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def either(config: Mapping[str, Any], keys: tuple[str, ...], other: int | None) -> list[int]:
    values = [config[key] for key in keys if is_count(config.get(key))]
    return values or ([other] if other else [])


def is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 50


def parameters(subject: Subject) -> list[int]:
    """Elements of all tensors, where all are here and none is packed."""
    headers = [
        index
        for name, index in subject.safetensors.items()
        if not name.startswith(("adapter", "optim"))
    ]
    total = sum(header.parameters for header in headers)
    index = (
        subject.json("model.safetensors.index.json")
        if subject.file("model.safetensors.index.json")
        else None
    )
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if isinstance(weights, dict) and not set(map(str, weights.values())) <= set(
        subject.safetensors
    ):
        total = 0
    if any(share in _PACKED for header in headers for share in header.type_mix()):
        total = 0
    header = subject.model
    whole = header is not None and not headers and header.split_count == 1
    if total or (whole and one_model(subject)):
        models = [model for model in tensors.of(subject) if model.tensors]
        counted = counting.counts(subject, models[0]) if models else None
        ways = (*counted.ways, counted.one_expert) if counted else ()
        return list(dict.fromkeys([total or (header.parameters if header else 0), *ways]))
    return []


def one_model(subject: Subject) -> bool:
    kinds = [h.text("general.type") or "model" for h in subject.gguf.values()]
    return kinds.count("model") == 1 or len({h.parameters for h in subject.gguf.values()}) == 1


def experts(subject: Subject, config: Mapping[str, Any]) -> list[int]:
    """Experts of a layer; [0] for a model whose layout is known to have none."""
    keys = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    header = subject.model
    values = either(
        config, keys, header.number(f"{header.architecture}.expert_count") if header else None
    )
    return values or ([0] if config.get("model_type") in _DENSE else [])


def contexts(subject: Subject, config: Mapping[str, Any], header: int | None) -> list[int]:
    """Lengths that may be stated; none where the card tells how to make it longer."""
    card = subject.card
    if card is None or re.search(r"yarn|rope.?scal|extrapolat", card.body, re.IGNORECASE):
        return []
    lengths = either(config, _CONTEXT, None) + ([header] if header else [])
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(rope, dict):
        original = rope.get("original_max_position_embeddings")
        first: list[int] = [original] if is_count(original) else []
        factor = rope.get("factor")
        if isinstance(factor, int | float) and 1 <= factor <= 1e4 and (first or lengths):
            lengths.append(round((first or lengths)[0] * factor))
        lengths += first
    return lengths


def vocabularies(subject: Subject, config: Mapping[str, Any]) -> list[int]:
    header = subject.model
    return either(config, ("vocab_size",), header.vocabulary_size if header else None)


def about(stated: CardStatement, number: int) -> bool:
    """Names of sizes are rough: 2B has been said of 2.5 billion, 7B of 7.6; a count to the last
    digit may leave out buffers or embeddings that are stored."""
    low, high = (0.88, 1.12) if stated.exact else (0.74, 1.36)
    return number > 0 and any(low <= value / number <= high for value in stated.values)


def about_or_bytes(stated: CardStatement, number: int) -> bool:
    """``Model size: 418M`` is said of 110 million parameters in 4 bytes each."""
    wide = (1, 2, 4) if stated.words[-1:] in ("M", "m") else (1,)
    return any(about(stated, number * each) for each in wide)


def roughly(stated: CardStatement, number: int) -> bool:
    return number > 0 and any(0.6 <= value / number <= 1.7 for value in stated.values)


def exactly(stated: CardStatement, number: int) -> bool:
    return number in stated.values


def same_length(stated: CardStatement, number: int) -> bool:
    return any(value in (number, number - 1, number - 2) for value in stated.values)


def same_vocabulary(stated: CardStatement, number: int) -> bool:
    """Embeddings have rows for more tokens than there are, and people write 50k."""
    return any(0 <= number - value <= 1024 for value in stated.values) or (
        not stated.exact and any(0.94 <= value / number <= 1.06 for value in stated.values)
    )
