"""Qwen 2 and 2.5."""

from typing import Any, ClassVar

from overt.nets.architectures.base import Architecture
from overt.nets.architectures.configuration import ModelConfig
from overt.nets.shape import Shape


class Qwen2(Architecture):
    """Yang et al. 2024: biases of queries, keys and values; a window, where it is switched on."""

    name = "qwen2"
    release = "Qwen2ForCausalLM"
    model_type = "qwen2"
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
    bias = True
    square = True

    def _windows(self, config: ModelConfig) -> tuple[bool, ...]:
        if not config.use_sliding_window or config.sliding_window is None:
            return ()
        if config.layer_types is not None:
            return config.local(1)
        return tuple(i >= config.max_window_layers for i in range(config.num_hidden_layers))

    def config(self, shape: Shape) -> dict[str, Any]:
        document = super().config(shape)
        del document["attention_bias"]  # not a field of its class
        if shape.window:
            document |= {"use_sliding_window": True, "sliding_window": shape.window}
            document["layer_types"] = self._layer_types(shape)
        return document


ARCHITECTURES = (Qwen2(),)
