"""Llama 1 to 3 and what is built like it (SmolLM 2, …), and Mistral: ``llama`` in GGUF."""

from typing import Any, ClassVar

from overt.nets.architectures.base import Architecture
from overt.nets.architectures.configuration import ModelConfig
from overt.nets.shape import Shape


class Llama(Architecture):
    """Touvron et al. 2023."""

    name = "llama"
    release = "LlamaForCausalLM"
    model_type = "llama"
    classes: ClassVar[tuple[str, ...]] = ("LLaMAForCausalLM",)
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    interleaved = True
    scalings = ("linear", "llama3", "yarn")


class Mistral(Llama):
    """Jiang et al. 2023: a Llama whose every layer may see a window, which llama.cpp leaves out."""

    release = "MistralForCausalLM"
    model_type = "mistral"
    classes: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict[str, Any]] = {
        **Llama.defaults,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    }

    def _windows(self, config: ModelConfig) -> tuple[bool, ...]:
        window, context = config.sliding_window, config.max_position_embeddings
        return (window is not None and window < context,) * config.num_hidden_layers

    def config(self, shape: Shape) -> dict[str, Any]:
        return {**super().config(shape), "sliding_window": shape.window or None}


ARCHITECTURES = (Llama(), Mistral())
