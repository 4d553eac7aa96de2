"""What a low-rank adapter is, and how peft's ``adapter_config.json`` says it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from overt.errors import FormatError, Unsupported
from overt.formats.bounded import shown

T = TypeVar("T")

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."
"""What stands before the name of a layer in peft's names of tensors."""

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
MAX_RANK = 4096
_MAX_BYTES = 1 << 20
_OTHER_KINDS = {
    "use_dora": "weight-decomposed (DoRA)",
    "use_qalora": "quantization-aware (QALoRA)",
    "modules_to_save": "with whole layers beside it",
    "fan_in_fan_out": "of transposed layers",
    "lora_bias": "with biases",
}
_PATTERNS = {"rank_pattern": "of several ranks", "alpha_pattern": "of several alphas"}
_MOVES_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin an adapter that change the base's weights too, so that it fits no other base."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """W + s B A, where only A and B learn (Hu et al. 2021).

    Attributes:
        rank: rows of A and columns of B.
        alpha: s is alpha / rank, or alpha / root of rank if `stabilised` (Kalajdzievski 2023).
        targets: names of the linear layers that get one.
        dropout: share of A's inputs that are left out at random while learning.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = (*ATTENTION, *MLP)
    stabilised: bool = False
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)

    def config(self, base: str) -> bytes:
        """The ``adapter_config.json`` that peft reads; `base` is what it calls the model."""
        content = {
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": sorted(self.targets),
            "task_type": "CAUSAL_LM",
            "use_rslora": self.stabilised,
        }
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def of_config(cls, data: bytes, *, patterns: bool = False) -> "Adapter":
        """Read an ``adapter_config.json``; nothing in it is trusted.

        Args:
            patterns: its rank and alpha may differ by layer; `alphas` gives what is said of them.

        Raises:
            FormatError: it is none.
            Unsupported: an adapter of another kind, or one that began by changing its base.
        """
        return _checked(_read, data, patterns)


def read(path: Path, *, patterns: bool = False) -> tuple[Adapter, Mapping[str, float]]:
    """An ``adapter_config.json`` as `Adapter.of_config` reads it, and the alphas of some layers by
    the ends of their names.

    Raises:
        FormatError, Unsupported: as `Adapter.of_config`, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{CONFIG} cannot be read: {error.strerror or error}") from None
    return Adapter.of_config(data, patterns=patterns), _checked(_alphas, data)


def _checked(use: Callable[..., T], data: bytes, *more: Any) -> T:
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it is {len(data)} bytes")
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        return use(content, *more)
    except KeyError as error:
        raise FormatError(f"{CONFIG} has no {error}", "it is what peft wrote") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError(
            f"{CONFIG} cannot be read: {str(error)[:120]}", "it is what peft wrote"
        ) from None


def _read(content: Mapping[str, Any], patterns: bool) -> Adapter:
    kind = content["peft_type"]
    if kind != "LORA":
        raise Unsupported(f"this is an adapter of the kind {str(kind)[:40]!r}", "give a LoRA")
    for name, what in (_OTHER_KINDS if patterns else _OTHER_KINDS | _PATTERNS).items():
        if content.get(name):
            raise Unsupported(f"this is an adapter {what}", "give a plain LoRA")
    if content.get("bias", "none") != "none":
        raise Unsupported("this is an adapter that changes biases", "give a plain LoRA")
    began = content.get("init_lora_weights")
    if isinstance(began, str) and began.lower().startswith(_MOVES_BASE):
        raise Unsupported(
            f"this adapter began as {shown(began)}, which changed its base too",
            "save it with peft's path_initial_model_for_weight_conversion",
        )
    rank, dropout = content["r"], content.get("lora_dropout") or 0.0
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"the rank {str(rank)[:20]} is not between 1 and {MAX_RANK}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"the dropout is {str(dropout)[:20]}")
    targets = content.get("target_modules") or ()
    names = [targets] if isinstance(targets, str) else list(targets)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("target_modules are no names")
    return Adapter(
        rank=rank,
        alpha=_alpha(content["lora_alpha"]),
        targets=tuple(sorted(names)),
        stabilised=bool(content.get("use_rslora")),
        dropout=float(dropout),
    )


def _alphas(content: Mapping[str, Any]) -> dict[str, float]:
    """Of peft's ``alpha_pattern``. Its keys may be regular expressions: those are refused."""
    pattern = content.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise TypeError("alpha_pattern is no object")
    for key in pattern:
        if not all(letter.isalnum() or letter in "._^" for letter in key):
            raise Unsupported(
                f"alpha_pattern has the expression {shown(key)}", "merge it with peft"
            )
    return {key: _alpha(value) for key, value in pattern.items()}


def _alpha(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"alpha is {str(value)[:20]}, and no number")
    return float(value)
