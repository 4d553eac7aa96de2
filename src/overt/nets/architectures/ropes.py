"""Rotary embeddings as config.json writes them, and as GGUF does.

Sources: transformers' modeling_rope_utils (field names, defaults), llama.cpp's `llama-model.cpp`
and `llama-context.cpp` (keys, what is scaled by default).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from overt.errors import FormatError, Unsupported
from overt.formats.bounded import shown
from overt.nets.architectures.configuration import MAX_CONTEXT, MetadataKeys, ModelConfig, positive
from overt.nets.shape import Rope

_NESTED = ("full_attention", "sliding_attention")
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_FAST, _SLOW = 32.0, 1.0
_TOLERANCE: Final = 1e-4


def of_config(config: ModelConfig, theta: float) -> Rope:
    """That of the layers which see everything; `theta` where config.json does not say.

    Raises:
        FormatError, Unsupported: numbers that cannot be, or a kind that is not known.
    """
    params = config.rope_parameters or {}
    if any(name in params for name in _NESTED):
        params = _object(params.get("full_attention") or {})
    params = {**params, **(config.rope_scaling or {})}
    share = params.get("partial_rotary_factor", config.partial_rotary_factor)
    if share not in (None, 1, 1.0):
        raise Unsupported(f"rotating only {shown(share)} of each head is not known here")
    base = params.get("rope_theta")
    if base is None:
        base = theta if config.rope_theta is None else config.rope_theta
    return _scaled(params, positive("rope_theta", base), config.max_position_embeddings)


def local_of_config(config: ModelConfig, theta: float) -> Rope:
    """That of the layers which see a window: never scaled."""
    params = _object((config.rope_parameters or {}).get("sliding_attention") or {})
    if params.get("rope_type", "default") != "default":
        raise Unsupported("scaled positions in the layers with a window are not known")
    base = params.get("rope_theta")
    if base is None:
        base = theta if config.rope_local_base_freq is None else config.rope_local_base_freq
    return Rope(positive("rope_theta of the layers with a window", base))


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError("config.json has rope parameters that are no object")
    return value


def _scaled(params: Mapping[str, Any], base: float, context: int) -> Rope:
    kind = params.get("rope_type", params.get("type", "default"))
    if kind in (None, "default"):
        return Rope(base)
    if kind not in ("linear", "llama3", "yarn"):
        raise Unsupported(
            f"rope scaling of the type {shown(kind)} is not known",
            "only linear, llama3 and yarn are",
        )
    settings = dict(params)
    original = settings.get("original_max_position_embeddings") or context
    settings["original_max_position_embeddings"] = original
    if kind == "yarn" and settings.get("factor") is None:
        settings["factor"] = context / positive("original_max_position_embeddings", original)
    numbers = {"factor": positive("factor", settings.get("factor"), 1e6)}
    if numbers["factor"] < 1:
        raise FormatError(f"config.json scales positions by {numbers['factor']}, which is below 1")
    if kind == "llama3":
        numbers |= {name: positive(name, settings.get(name)) for name in _LLAMA3[1:]}
        if numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
            raise FormatError("config.json has a low_freq_factor that is not below the high one")
    if kind == "yarn":
        numbers |= _yarn(settings, numbers["factor"])
    return Rope(base, kind, tuple(sorted(numbers.items())))


def _yarn(settings: Mapping[str, Any], factor: float) -> dict[str, float]:
    """Peng et al. 2023, every number filled in."""
    original = settings["original_max_position_embeddings"]
    strength = settings.get("attention_factor")
    if strength is None:
        strength = _strength(factor)
        scale, all_dims = settings.get("mscale"), settings.get("mscale_all_dim")
        if scale and all_dims:
            strength = _strength(factor, positive("mscale", scale)) / _strength(
                factor, positive("mscale_all_dim", all_dims)
            )
    numbers = {
        "original_max_position_embeddings": positive(
            "original_max_position_embeddings", original, MAX_CONTEXT
        ),
        "attention_factor": positive("attention_factor", strength),
        "beta_fast": positive("beta_fast", settings.get("beta_fast") or _FAST),
        "beta_slow": positive("beta_slow", settings.get("beta_slow") or _SLOW),
    }
    if settings.get("truncate") is False:
        numbers["truncate"] = 0.0
    return numbers


def _strength(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1.0


# ---- GGUF ----------------------------------------------------------------------------------


def metadata(rope: Rope) -> Iterator[tuple[str, Any]]:
    """Keys behind the architecture's name, and values.

    Raises:
        Unsupported: what llama.cpp would compute otherwise.
    """
    yield "rope.freq_base", rope.base
    numbers = dict(rope.numbers)
    if rope.scaling == "linear":
        yield "rope.scaling.type", "linear"
        yield "rope.scaling.factor", numbers["factor"]
    if rope.scaling == "yarn":
        betas = numbers["beta_fast"], numbers["beta_slow"]
        if betas != (_FAST, _SLOW) or "truncate" in numbers:
            raise Unsupported(
                f"this model's yarn scaling has the betas {betas[0]:g} and {betas[1]:g}, and "
                f"llama.cpp uses {_FAST:g} and {_SLOW:g}, rounded, for every model"
            )
        yield "rope.scaling.type", "yarn"
        yield "rope.scaling.factor", numbers["factor"]
        original = numbers["original_max_position_embeddings"]
        yield "rope.scaling.original_context_length", int(original)
        share = numbers["attention_factor"] / _strength(numbers["factor"])
        if abs(share - 1) > 1e-6:
            yield "rope.scaling.attn_factor", share


def of_metadata(keys: MetadataKeys, head: int, context: int) -> Rope:
    """That of the layers which see everything.

    Raises:
        FormatError, Unsupported: numbers that cannot be, or a kind that is not known.
    """
    if keys.whole("rope.dimension_count", head, head) != head:
        raise Unsupported("rotating only a part of each head is not known here")
    base = keys.number("rope.freq_base", 10_000.0)
    kind = keys.get("rope.scaling.type")
    old = keys.number("rope.scale_linear", 1.0, 1e6)
    factor = keys.number("rope.scaling.factor", old, 1e6) or 1.0
    share = keys.number("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        original = keys.whole("rope.scaling.original_context_length", MAX_CONTEXT, context)
        numbers = {
            "factor": factor,
            "original_max_position_embeddings": float(original),
            "attention_factor": _strength(max(factor, 1.0)) * share,
            "beta_fast": _FAST,
            "beta_slow": _SLOW,
        }
        return Rope(_base(base), "yarn", tuple(sorted(numbers.items())))
    if kind not in (None, "none", "linear") or share != 1.0:
        raise Unsupported(f"rope scaling of the type {shown(kind)} is not known")
    if kind == "none" or factor == 1.0:
        return Rope(_base(base))
    return Rope(_base(base), "linear", (("factor", factor),))


def _base(base: float) -> float:
    if base <= 0:
        raise FormatError(f"the metadata have the rope base {base}")
    return base


def divisors(rope: Rope, head: int) -> list[float]:
    """What llama3 scaling divides the speed of each pair by: the tensor ``rope_freqs`` of GGUF."""
    numbers = dict(rope.numbers)
    factor, low, high, original = (numbers[name] for name in _LLAMA3)
    factors = []
    for index in range(0, head, 2):
        wave = 2 * math.pi * rope.base ** (index / head)
        share = (original / wave - low) / (high - low)
        if wave > original / low:
            factors.append(factor)
        elif wave < original / high:
            factors.append(1.0)
        else:
            factors.append(1 / ((1 - share) / factor + share))
    return factors


def of_divisors(base: float, head: int, factors: Sequence[float]) -> Rope:
    """The llama3 scaling that gives these divisors, up to what cannot be told apart.

    The share of the unscaled speed is linear in one over the wave's length, so that two pairs in
    the middle determine it. Released models scale from 8192 with 1 and 4, which is tried first.

    Raises:
        Unsupported: no such scaling gives them.
    """
    factor = float(f"{max(factors, default=0.0):.6g}")
    if len(factors) == head // 2 and 1 < factor <= 1e6 and min(factors) >= 1:
        for low, high, original in ((1.0, 4.0, 8192.0), *_middle(base, head, factors, factor)):
            numbers = dict(zip(_LLAMA3, (factor, low, high, original), strict=True))
            rope = Rope(base, "llama3", tuple(sorted(numbers.items())))
            pairs = zip(divisors(rope, head), factors, strict=True)
            if all(abs(factor - other) <= _TOLERANCE * other for factor, other in pairs):
                return rope
    raise Unsupported("this model's rope_freqs are no scaling that is known")


def _middle(
    base: float, head: int, factors: Sequence[float], factor: float
) -> Iterator[tuple[float, float, float]]:
    points = [
        (1 / (2 * math.pi * base ** (2 * i / head)), (1 / divisor - 1 / factor) / (1 - 1 / factor))
        for i, divisor in enumerate(factors)
        if 1 + _TOLERANCE < divisor < factor * (1 - _TOLERANCE)
    ]
    if len(points) >= 2 and points[0][0] != points[-1][0]:
        (x, y), (u, v) = points[0], points[-1]
        slope = (y - v) / (x - u)
        start = y - slope * x
        if slope > 0 and start < 0:
            gap = -1 / start
            yield 1.0, round(1 + gap, 4), float(round(slope * gap))
            yield 1.0, 1 + gap, slope * gap
