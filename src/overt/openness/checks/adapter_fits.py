"""A LoRA adapter's own settings against its tensors, and these against the base.

Of adapters as `peft` saves them: the rank, the modules that are said to be adapted, both halves of
each pair, the shapes of the base's matrices where it is here, and numbers that were trained (the
second half of a pair begins as zeros and must have become something else).
"""

import array
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from overt.formats.safetensors import SafetensorsTensor
from overt.openness.evidence import Finding
from overt.openness.shapes import plan
from overt.openness.subject import tensors
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

VERSION = 1
TTL = 0

_FILE: Final = "adapter_model.safetensors"
_PAIR: Final = re.compile(
    r"(?:base_model\.model\.)?(.+)\.lora_(A|B|embedding_A|embedding_B)(?:\.\w+)?(?:\.weight)?"
)
_LAYER: Final = re.compile(r"\.\d+\.")
_TOGETHER: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules of which no model has one without the others."""
_MAX_BYTES_READ: Final = 16 << 10
_MASKS: Final = {"F32": ("I", 0x7F800000), "F16": ("H", 0x7C00), "BF16": ("H", 0x7F80)}


@dataclass
class _AdapterPair:
    a: SafetensorsTensor | None = None
    b: SafetensorsTensor | None = None
    embedding: bool = False


def check(subject: Subject) -> Iterator[Finding]:
    """Look at the adapter at the top, where there is one."""
    name = "adapter_config.json"
    config = subject.json(name) if subject.file(name) else None
    header = subject.safetensors.get(_FILE)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or header is None:
        return
    pairs = _pairs(header.tensors)
    paths = (name, _FILE)
    if not pairs:
        yield Finding(
            "weights",
            "inconclusive",
            Strength.CONSISTENT,
            paths=paths,
            reason=f"none of its {len(header.tensors)} tensors is called as those of a LoRA are",
        )
        return
    for trouble in (
        _halves(pairs),
        _rank(pairs, config),
        _targets(pairs, config),
        _base(subject, pairs),
        _numbers(subject, pairs),
    ):
        if trouble:
            yield Finding("weights", "fail", Strength.CONSISTENT, *trouble, paths=paths)
            return
    yield Finding(
        "weights",
        "pass",
        Strength.CONSISTENT,
        paths=paths,
        observed=f"{len(pairs)} pairs of matrices of rank {config.get('r')}, all trained",
        expected="what adapter_config.json describes",
    )


def _pairs(tensors: tuple[SafetensorsTensor, ...]) -> dict[str, _AdapterPair]:
    pairs: dict[str, _AdapterPair] = {}
    for tensor in tensors:
        match = _PAIR.fullmatch(tensor.name)
        if match and len(tensor.shape) == 2:
            pair = pairs.setdefault(match[1], _AdapterPair())
            pair.embedding = match[2].startswith("embedding")
            if match[2].endswith("A"):
                pair.a = tensor
            else:
                pair.b = tensor
    return pairs


def _halves(pairs: Mapping[str, _AdapterPair]) -> tuple[str, str] | None:
    for module, pair in pairs.items():
        if pair.a is None or pair.b is None:
            half = "B" if pair.a else "A"
            return f"{module} has no lora_{half}", "both halves of each pair"
        if pair.a.shape[0] != pair.b.shape[1]:
            return (
                f"{module} has {pair.a.shape[0]} rows in lora_A and {pair.b.shape[1]} columns in "
                "lora_B",
                "the same rank in both",
            )
    return None


def _rank(pairs: Mapping[str, _AdapterPair], config: Mapping[str, Any]) -> tuple[str, str] | None:
    rank, special = config.get("r"), config.get("rank_pattern") or {}
    if not isinstance(rank, int) or config.get("target_parameters"):
        return None
    allowed = (
        {rank, *(value for value in special.values())} if isinstance(special, dict) else {rank}
    )
    for module, pair in pairs.items():
        if pair.a is not None and pair.a.shape[0] not in allowed:
            return f"{module} has the rank {pair.a.shape[0]}", f"{rank} by adapter_config.json"
    return None


def _targets(
    pairs: Mapping[str, _AdapterPair], config: Mapping[str, Any]
) -> tuple[str, str] | None:
    targets = config.get("target_modules")
    if (
        not isinstance(targets, list)
        or not targets
        or not all(isinstance(target, str) for target in targets)
    ):
        return None
    if config.get("target_parameters"):
        return None
    for module in pairs:
        if not any(module == target or module.endswith(f".{target}") for target in targets):
            return f"{module} is adapted", f"only {', '.join(sorted(targets)[:8])}"
    there = {module.rpartition(".")[2] for module in pairs}
    for group in _TOGETHER:
        lost = [target for target in group if target in targets and target not in there]
        if lost and there & set(group):
            return f"no {lost[0]} is adapted", f"{', '.join(sorted(targets)[:8])} by target_modules"
    return None


def _base(subject: Subject, pairs: Mapping[str, _AdapterPair]) -> tuple[str, str] | None:
    models = tensors.of(subject.base) if subject.base else ()
    theirs = {
        plan.short(name): tensor.shape
        for model in models
        if model.format == "safetensors" and not model.lacking
        for name, tensor in model.tensors.items()
    }
    if not theirs or subject.base is None:
        return None
    known = {module: theirs.get(plan.short(f"{module}.weight")) for module in pairs}
    if not any(known.values()):
        return None  # other names: nothing can be said
    elsewhere = {_LAYER.sub(".", module) for module, shape in known.items() if shape}
    for module, shape in known.items():
        pair = pairs[module]
        if shape is None:
            # Experts that are one parameter have other names; a layer too many has not.
            if _LAYER.sub(".", module) in elsewhere:
                return f"{module} is adapted", f"a module of {subject.base.ref}, which has none"
            continue
        if pair.a is None or pair.b is None or len(shape) != 2 or pair.embedding:
            continue
        made = (pair.b.shape[0], pair.a.shape[1])
        if made not in (shape, shape[::-1]):
            return (
                f"{module} is adapted by a matrix of {list(made)}",
                f"{list(shape)} as in {subject.base.ref}",
            )
    return None


def _numbers(subject: Subject, pairs: Mapping[str, _AdapterPair]) -> tuple[str, str] | None:
    file = subject.file(_FILE)
    if file is None or file.path is None or file.sparse:
        return None
    trained = 0
    with file.path.open("rb") as opened:
        for pair in pairs.values():
            for tensor in (pair.a, pair.b):
                if tensor is None or tensor.type not in _MASKS:
                    return None
                opened.seek(tensor.offset)
                data = opened.read(min(tensor.size, _MAX_BYTES_READ))
                if _has_none(data, tensor.type):
                    return f"{tensor.name} holds NaN or infinity", "numbers"
                trained += tensor is pair.b and any(data)
    if not trained:
        return f"all {len(pairs)} lora_B are zeros", "an adapter that was trained"
    return None


def _has_none(data: bytes, kind: str) -> bool:
    code, mask = _MASKS[kind]
    numbers = array.array(code)
    numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
    if sys.byteorder == "big":
        numbers.byteswap()
    return any(number & mask == mask for number in numbers)
