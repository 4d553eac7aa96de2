"""Gemma 3: the language model, alone or inside of the one that sees images."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from overt.errors import FormatError, Unsupported
from overt.nets.architectures import ropes
from overt.nets.architectures.configuration import MetadataKeys, ModelConfig
from overt.nets.architectures.gemma import Gemma
from overt.nets.architectures.gemma2 import Gemma2
from overt.nets.shape import Rope, Shape


class Gemma3(Gemma2):
    """Gemma Team 2025: five layers with a window for each without, two bases, norms of heads."""

    name = "gemma3"
    release = "Gemma3ForCausalLM"
    model_type = "gemma3_text"
    classes = ("Gemma3ForConditionalGeneration", "Gemma3TextModel")
    defaults: ClassVar[dict[str, Any]] = {
        **Gemma2.defaults,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    theta = 1_000_000.0
    qk_norm = "head"
    window_every = 6
    large_layers = 62
    scalings = ("linear",)

    def shape_of_config(self, document: Mapping[str, Any]) -> Shape:
        inside = document.get("text_config")
        if inside is None:
            return super().shape_of_config(document)
        if not isinstance(inside, Mapping):
            raise FormatError("config.json has a text_config that is no object")
        # the outer file decides whether the output is the embedding
        tied = document.get("tie_word_embeddings", inside.get("tie_word_embeddings", True))
        return super().shape_of_config({**inside, "tie_word_embeddings": tied})

    def _choices(self, config: ModelConfig) -> dict[str, Any]:
        local = ropes.local_of_config(config, 10_000.0) if any(self._windows(config)) else None
        return {**super()._choices(config), "local_rope": local}

    def _window_keys(self, keys: MetadataKeys, layers: int) -> tuple[int, tuple[bool, ...]]:
        return Gemma._window_keys(self, keys, layers)  # where none is said, there is none

    def _chosen(self, keys: MetadataKeys, head: int, layers: int) -> dict[str, Any]:
        windows = keys.get("attention.sliding_window")
        return {
            "final_cap": keys.number("final_logit_softcapping", 0.0, 1e9),
            "attention_scale": self._scale(keys, head, layers),
            "local_rope": Rope(keys.number("rope.freq_base_swa", 10_000.0)) if windows else None,
        }

    def _caps(self, shape: Shape) -> Iterator[tuple[str, Any]]:
        if shape.attention_cap:
            raise Unsupported("llama.cpp caps no scores of a gemma3")
        if shape.final_cap:
            yield "final_logit_softcapping", shape.final_cap
        if shape.local_rope:
            yield "rope.freq_base_swa", shape.local_rope.base

    def config(self, shape: Shape) -> dict[str, Any]:
        local = shape.local_rope or Rope()
        return {**super().config(shape), "rope_local_base_freq": local.base}


ARCHITECTURES = (Gemma3(),)
