"""Gemma 1."""

from typing import Any, ClassVar

from overt.nets.architectures.base import Architecture


class Gemma(Architecture):
    """Gemma Team 2024: scaled embeddings, norms around 1, the output is the embedding."""

    name = "gemma"
    release = "GemmaForCausalLM"
    model_type = "gemma"
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
    activation = "gelu_tanh"
    unit = True
    tied_only = True


ARCHITECTURES = (Gemma(),)
