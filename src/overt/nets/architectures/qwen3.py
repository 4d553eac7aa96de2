"""Qwen 3, dense."""

from typing import Any, ClassVar

from overt.nets.architectures.qwen2 import Qwen2


class Qwen3(Qwen2):
    """Yang et al. 2025: Qwen 2 with norms of each head's queries and keys in place of biases."""

    name = "qwen3"
    release = "Qwen3ForCausalLM"
    model_type = "qwen3"
    defaults: ClassVar[dict[str, Any]] = {**Qwen2.defaults, "head_dim": 128}
    bias = False
    qk_norm = "head"
    square = False


ARCHITECTURES = (Qwen3(),)
