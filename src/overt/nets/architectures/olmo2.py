"""OLMo 2 and 3: ``olmo2`` in GGUF, with a sliding window where it is the third."""

from typing import Any, ClassVar

from overt.errors import Unsupported
from overt.nets.architectures import ropes
from overt.nets.architectures.base import Architecture
from overt.nets.architectures.configuration import MetadataKeys, ModelConfig
from overt.nets.shape import Rope, Shape


class Olmo2(Architecture):
    """OLMo Team 2024: norms of what is added to the stream, and of all queries and keys."""

    name = "olmo2"
    release = "Olmo2ForCausalLM"
    model_type = "olmo2"
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    norms = "after"
    qk_norm = "full"
    square = True
    own_output = True

    def config(self, shape: Shape) -> dict[str, Any]:
        document = super().config(shape)
        del document["head_dim"]  # not a field of its class
        return document


class Olmo3(Olmo2):
    """OLMo Team 2025: three layers with a window, whose positions are never scaled, for each
    without.
    """

    release = "Olmo3ForCausalLM"
    model_type = "olmo3"
    defaults: ClassVar[dict[str, Any]] = {**Olmo2.defaults, "sliding_window": 4096}
    theta = 500_000.0
    window_every = 4

    def _choices(self, config: ModelConfig) -> dict[str, Any]:
        if not any(self._windows(config)):
            return {}
        rope = ropes.of_config(config, self.theta)
        local = ropes.local_of_config(config, rope.base)
        return {"local_rope": local if local != rope else None}

    def _chosen(self, keys: MetadataKeys, head: int, layers: int) -> dict[str, Any]:
        if not keys.get("attention.sliding_window"):
            return {}
        base = keys.number("rope.freq_base", 10_000.0)
        scaled = "rope.scaling.type" in keys
        return {"local_rope": Rope(base) if scaled else None}

    def metadata(self, shape: Shape) -> list[tuple[str, Any]]:
        if shape.local_rope and shape.local_rope.base != shape.rope.base:
            raise Unsupported(
                f"the layers with a window have the rope base {shape.local_rope.base:g} and the "
                f"others {shape.rope.base:g}, and llama.cpp knows one for a model"
            )
        return super().metadata(shape)

    def config(self, shape: Shape) -> dict[str, Any]:
        document = super().config(shape)
        # transformers gives an older file's rope_theta to one kind of layers only
        full = {
            "rope_type": "default",
            **document.pop("rope_scaling", {}),
            "rope_theta": shape.rope.base,
        }
        local = {"rope_type": "default", "rope_theta": (shape.local_rope or shape.rope).base}
        return document | {
            "rope_parameters": {"full_attention": full, "sliding_attention": local},
            "sliding_window": shape.window or shape.context,
            "layer_types": self._layer_types(shape),
        }


ARCHITECTURES = (Olmo2(), Olmo3())
