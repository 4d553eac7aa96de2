"""Where a token stands, as a rotation of its queries and keys (Su et al. 2021)."""

# ruff: noqa: TID253 - whoever imports this module wants torch
# mypy: disallow-subclassing-any=False
import math
from typing import Any, cast

import torch
from torch import Tensor

from overt.nets.shape import Rope


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the two halves of (B, T, H, D) against each other; elements beyond the turns stay."""
    return cast("Tensor", _Rotated.apply(x, cosine, sine))


class _Rotated(torch.autograd.Function):
    """A rotation keeps nothing of x: its gradient is the rotation back."""

    @staticmethod
    def forward(context: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        context.turn = cosine, sine
        return _turned(x, cosine, sine)

    @staticmethod
    def backward(context: Any, *up: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = context.turn
        return _turned(up[0], cosine, -sine), None, None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = cosine.shape[-1]
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    result[..., :half] = (first * cosine).sub_(second * sine)
    result[..., half : 2 * half] = (second * cosine).add_(first * sine)
    result[..., 2 * half :] = x[..., 2 * half :]
    return result


def turns(rope: Rope, head: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, T, 1, D/2) of every position's angles, float32."""
    speeds, strength = frequencies(rope, head)
    angles = positions[..., None].float() * speeds.to(positions.device)
    cosine, sine = angles.cos() * strength, angles.sin() * strength
    return cosine[:, :, None], sine[:, :, None]


def frequencies(rope: Rope, head: int) -> tuple[Tensor, float]:
    """The speed of each pair of elements (D/2), and what cosine and sine are multiplied by.

    ``linear``: Chen et al. 2023; ``yarn``: Peng et al. 2023; ``llama3``: as Llama 3.1 does it.
    """
    width = int(head * rope.share)
    speeds = 1.0 / rope.base ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)
    numbers = dict(rope.numbers)
    if rope.scaling == "linear":
        return speeds / numbers["factor"], 1.0
    if rope.scaling == "llama3":
        return _llama3(speeds, numbers), 1.0
    if rope.scaling == "yarn":
        return _yarn(speeds, numbers, rope.base, width)
    return speeds, 1.0


def _llama3(speeds: Tensor, numbers: dict[str, float]) -> Tensor:
    """Slow the speeds whose wave is long, by degrees those of a middle length."""
    factor, original = numbers["factor"], numbers["original_max_position_embeddings"]
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    waves = 2 * math.pi / speeds
    share = (original / waves - low) / (high - low)
    between = (1 - share) * speeds / factor + share * speeds
    slowed = torch.where(waves > original / low, speeds / factor, speeds)
    middle = (waves >= original / high) & (waves <= original / low)
    return torch.where(middle, between, slowed)


def _yarn(
    speeds: Tensor, numbers: dict[str, float], base: float, width: int
) -> tuple[Tensor, float]:
    """Slow the speeds that turn seldom within the original context; a ramp lies between."""
    factor, original = numbers["factor"], numbers["original_max_position_embeddings"]

    def pair(rotations: float) -> float:
        full = math.log(original / (rotations * 2 * math.pi))
        return width * full / (2 * math.log(base))

    low, high = pair(numbers["beta_fast"]), pair(numbers["beta_slow"])
    if numbers.get("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high += 0.001 if low == high else 0
    ramp = ((torch.arange(width // 2).float() - low) / (high - low)).clamp(0, 1)
    return speeds / factor * ramp + speeds * (1 - ramp), numbers["attention_factor"]
