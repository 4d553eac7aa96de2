"""Gemma 2."""

from collections.abc import Iterator
from typing import Any, ClassVar

from overt.errors import Unsupported
from overt.nets.architectures.configuration import MetadataKeys, ModelConfig, positive
from overt.nets.architectures.gemma import Gemma
from overt.nets.shape import Shape

_LARGE_LAYERS = 46
"""llama.cpp takes a model of so many layers for the one that scales by width over heads."""
_WINDOW = 4096
"""Tokens of the window where a GGUF file says none: the first files lack the key, and llama.cpp
takes this for it, in the layers it would take anyhow.
"""


class Gemma2(Gemma):
    """Gemma Team 2024: norms before and after, every other layer sees a window, capped scores."""

    name = "gemma2"
    release = "Gemma2ForCausalLM"
    model_type = "gemma2"
    defaults: ClassVar[dict[str, Any]] = {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    norms = "both"
    window_every = 2
    large_layers: ClassVar[int] = _LARGE_LAYERS

    def _choices(self, config: ModelConfig) -> dict[str, Any]:
        scalar = positive("query_pre_attn_scalar", config.query_pre_attn_scalar, 1e9)
        caps = {
            "attention_cap": config.attn_logit_softcapping,
            "final_cap": config.final_logit_softcapping,
        }
        values = {
            name: positive(name, cap, 1e9) if cap is not None else 0.0 for name, cap in caps.items()
        }
        return {**values, "attention_scale": 0.0 if scalar == config.head else scalar**-0.5}

    def _chosen(self, keys: MetadataKeys, head: int, layers: int) -> dict[str, Any]:
        return {
            "attention_cap": keys.number("attn_logit_softcapping", 50.0, 1e9),
            "final_cap": keys.number("final_logit_softcapping", 30.0, 1e9),
            "attention_scale": self._scale(keys, head, layers),
        }

    def _scale(self, keys: MetadataKeys, head: int, layers: int) -> float:
        """What llama.cpp multiplies queries by; 0: one over the root of a head's elements."""
        if layers != self.large_layers:
            return 0.0
        width, heads = keys.get("embedding_length"), keys.whole("attention.head_count", 1 << 12)
        return 0.0 if width // heads in (0, head) else float((width // heads) ** -0.5)

    def _window_keys(self, keys: MetadataKeys, layers: int) -> tuple[int, tuple[bool, ...]]:
        if "attention.sliding_window" in keys:
            return super()._window_keys(keys, layers)
        local = keys.local(layers, self.window_every)
        return (_WINDOW, local) if any(local) else (0, ())

    def _pairs(self, shape: Shape) -> Iterator[tuple[str, Any]]:
        wanted = shape.attention_scale or shape.head**-0.5
        divided = shape.width // shape.heads
        if abs((divided if shape.layers == self.large_layers else shape.head) ** -0.5 - wanted) > (
            1e-7
        ):
            raise Unsupported(
                f"query_pre_attn_scalar is {wanted**-2:g}, and llama.cpp scales the "
                f"{shape.layers} layers of this model by the {shape.head} elements of a head"
            )
        yield from super()._pairs(shape)
        yield from self._caps(shape)

    def _caps(self, shape: Shape) -> Iterator[tuple[str, Any]]:
        if not shape.attention_cap or not shape.final_cap:
            raise Unsupported("llama.cpp caps the scores and logits of every gemma2")
        yield "attn_logit_softcapping", shape.attention_cap
        yield "final_logit_softcapping", shape.final_cap
        if not shape.window:  # llama.cpp has a window of its own where none is said
            yield "attention.sliding_window", shape.context
            yield "attention.sliding_window_pattern", [False] * shape.layers

    def config(self, shape: Shape) -> dict[str, Any]:
        document = super().config(shape)
        document["hidden_activation"] = document.pop("hidden_act")
        scalar = round(shape.attention_scale**-2, 4) if shape.attention_scale else shape.head
        return document | {
            "query_pre_attn_scalar": int(scalar),
            "attn_logit_softcapping": shape.attention_cap or None,
            "final_logit_softcapping": shape.final_cap or None,
            "sliding_window": shape.window or shape.context,
            "layer_types": self._layer_types(shape),
        }


ARCHITECTURES = (Gemma2(),)
