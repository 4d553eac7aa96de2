"""What a low-rank adapter is, and how peft's ``adapter_config.json`` says it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overt.errors import FormatError, Unsupported

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
MOST_RANK = 4096
_MOST_BYTES = 1 << 20
_OTHER_KINDS = {
    "use_dora": "weight-decomposed (DoRA)",
    "use_qalora": "quantization-aware (QALoRA)",
    "modules_to_save": "with whole layers beside it",
    "rank_pattern": "of several ranks",
    "alpha_pattern": "of several alphas",
    "fan_in_fan_out": "of transposed layers",
    "lora_bias": "with biases",
}


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
    def of_config(cls, data: bytes) -> "Adapter":
        """Read an ``adapter_config.json``; nothing in it is trusted.

        Raises:
            FormatError: it is none.
            Unsupported: an adapter of another kind.
        """
        try:
            if len(data) > _MOST_BYTES:
                raise ValueError(f"it is {len(data)} bytes")
            content = json.loads(data)
            if not isinstance(content, dict):
                raise ValueError("it is no object")
            return _read(content)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"adapter_config.json cannot be read: {str(error)[:120]}") from None


def _read(content: Mapping[str, Any]) -> Adapter:
    kind = content["peft_type"]
    if kind != "LORA":
        raise Unsupported(f"this is an adapter of the kind {str(kind)[:40]!r}", "give a LoRA")
    for name, what in _OTHER_KINDS.items():
        if content.get(name):
            raise Unsupported(f"this is an adapter {what}", "give a plain LoRA")
    if content.get("bias", "none") != "none":
        raise Unsupported("this is an adapter that changes biases", "give a plain LoRA")
    rank, alpha = content["r"], content["lora_alpha"]
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MOST_RANK:
        raise ValueError(f"the rank {str(rank)[:20]} is not between 1 and {MOST_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"alpha is {str(alpha)[:20]}")
    dropout = content.get("lora_dropout") or 0.0
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"the dropout is {str(dropout)[:20]}")
    targets = content.get("target_modules") or ()
    names = [targets] if isinstance(targets, str) else list(targets)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("target_modules are no names")
    return Adapter(
        rank=rank,
        alpha=float(alpha),
        targets=tuple(sorted(names)),
        stabilised=bool(content.get("use_rslora")),
        dropout=float(dropout),
    )
