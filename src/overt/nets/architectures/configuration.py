"""What is read of a release's config.json and of GGUF metadata: nothing in either is trusted.

Names and defaults are those of transformers; a field that is missing has its class's default, one
that is null has none.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from overt.errors import FormatError, Unsupported
from overt.formats.bounded import shown

MAX_LAYERS: Final = 1000
MAX_HEADS: Final = 1 << 12
MAX_WIDTH: Final = 1 << 18
MAX_TOKENS: Final = 1 << 24
MAX_CONTEXT: Final = 1 << 30


class ModelConfig(msgspec.Struct):
    """The fields of a config.json that decide what a decoder-only transformer computes."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str | None = None
    hidden_activation: str | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool | None = False
    mlp_bias: bool | None = False
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    sliding_window: int | None = None
    sliding_window_pattern: int | None = None
    use_sliding_window: bool | None = False
    max_window_layers: int = 0
    layer_types: list[str] | None = None
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = False
    clip_qkv: float | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def local(self, every: int) -> tuple[bool, ...]:
        """Which layers see a window: as `layer_types` says, or all but each `every`th."""
        if self.layer_types is None:
            return tuple(bool((i + 1) % every) for i in range(self.num_hidden_layers))
        kinds = {"sliding_attention": True, "full_attention": False}
        if len(self.layer_types) != self.num_hidden_layers:
            raise FormatError(
                f"config.json has {len(self.layer_types)} layer_types for "
                f"{self.num_hidden_layers} layers"
            )
        for kind in self.layer_types:
            if kind not in kinds:
                raise Unsupported(f"layers of the type {shown(kind)} are not known")
        return tuple(kinds[kind] for kind in self.layer_types)


def read(document: Mapping[str, Any], defaults: Mapping[str, Any]) -> ModelConfig:
    """Check a config.json.

    Raises:
        FormatError: a field is missing, of the wrong kind, or cannot be.
    """
    try:
        config = msgspec.convert({**defaults, **document}, ModelConfig)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise FormatError(f"config.json is not what it should be: {str(error)[:160]}") from None
    limits = {
        "hidden_size": MAX_WIDTH,
        "intermediate_size": MAX_WIDTH,
        "vocab_size": MAX_TOKENS,
        "num_hidden_layers": MAX_LAYERS,
        "num_attention_heads": MAX_HEADS,
        "max_position_embeddings": MAX_CONTEXT,
    }
    for name, most in limits.items():
        _check(name, getattr(config, name), most)
    _check("num_key_value_heads", config.kv_heads, config.num_attention_heads)
    _check("head_dim", config.head, MAX_WIDTH)
    _check("heads times head_dim", config.head * config.num_attention_heads, MAX_WIDTH)
    if config.num_attention_heads % config.kv_heads or config.head % 2:
        raise FormatError(
            f"config.json says {config.num_attention_heads} heads of {config.head} elements share "
            f"{config.kv_heads} keys, which does not divide"
        )
    if not 0 < config.rms_norm_eps < 1:
        raise FormatError(f"config.json says rms_norm_eps is {config.rms_norm_eps!r}")
    if config.sliding_window is not None:
        _check("sliding_window", config.sliding_window, MAX_CONTEXT)
    return config


def _check(name: str, value: int, most: int) -> None:
    if not 0 < value <= most:
        raise FormatError(f"config.json says {name} is {value}, where 1 to {most} is possible")


def positive(name: str, value: object, most: float = 1e15) -> float:
    """A number above 0, of config.json.

    Raises:
        FormatError: it is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most:
        return float(value)
    raise FormatError(f"config.json says {name} is {shown(value)}, which is no number above 0")


class MetadataKeys:
    """GGUF metadata of one architecture, by the part of each key behind its name."""

    def __init__(self, architecture: str, metadata: Mapping[str, Any]) -> None:
        self.architecture, self.metadata = architecture, metadata

    def __contains__(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.metadata

    def get(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")

    def whole(self, key: str, most: int, default: int | None = None) -> int:
        """A count from 1 to `most`; the same for every layer where it is given for each."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, tuple) and value and len(set(value)) == 1:
            value = value[0]
        elif isinstance(value, tuple) and value:
            raise Unsupported(f"this model's {self.architecture}.{key} differs from layer to layer")
        if type(value) is not int or not 0 < value <= most:
            raise FormatError(
                f"the metadata say {self.architecture}.{key} is {shown(value)}, where a whole "
                f"number up to {most} should be"
            )
        return value

    def number(self, key: str, default: float, most: float = 1e15) -> float:
        """A number from 0 to `most`, to the seven digits that 32 bits hold."""
        value = self.get(key)
        if value is None:
            return default
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not 0 <= value <= most:
            raise FormatError(f"the metadata say {self.architecture}.{key} is {shown(value)}")
        return float(f"{value:.7g}")

    def local(self, layers: int, every: int) -> tuple[bool, ...]:
        """Which layers see a window: as the pattern says, or all but each `every`th."""
        value = self.get("attention.sliding_window_pattern")
        if isinstance(value, tuple):
            if len(value) != layers or not all(type(item) in (bool, int) for item in value):
                raise FormatError(f"the sliding window's pattern is not one of {layers} layers")
            return tuple(bool(item) for item in value)
        if value is not None:
            every = self.whole("attention.sliding_window_pattern", MAX_LAYERS)
        return tuple(i % every < every - 1 for i in range(layers))
