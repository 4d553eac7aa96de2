"""OLMo 1."""

from collections.abc import Iterator
from typing import Any, ClassVar

from overt.nets.architectures.base import Architecture
from overt.nets.architectures.configuration import MetadataKeys, ModelConfig, positive
from overt.nets.shape import Shape


class Olmo(Architecture):
    """Groeneveld et al. 2024: norms by mean and variance without a weight; clipped projections."""

    name = "olmo"
    release = "OlmoForCausalLM"
    model_type = "olmo"
    classes = ("OLMoForCausalLM",)
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
    norm = "layer"
    interleaved = True
    square = True

    def _choices(self, config: ModelConfig) -> dict[str, Any]:
        clip = config.clip_qkv
        limit = positive("clip_qkv", clip) if clip is not None else 0.0
        return {"clip": limit, "eps": 1e-5}

    def _chosen(self, keys: MetadataKeys, head: int, layers: int) -> dict[str, Any]:
        return {"clip": keys.number("attention.clamp_kqv", 0.0)}

    def _pairs(self, shape: Shape) -> Iterator[tuple[str, Any]]:
        yield from super()._pairs(shape)
        if shape.clip:
            yield "attention.clamp_kqv", shape.clip

    def config(self, shape: Shape) -> dict[str, Any]:
        document = super().config(shape)
        del document["rms_norm_eps"], document["head_dim"]  # not fields of its class
        return document | {"clip_qkv": shape.clip or None}


ARCHITECTURES = (Olmo(),)
