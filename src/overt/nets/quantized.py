"""Frozen matrices that stay in the blocks of their GGUF file, and are unpacked when they are used.

A layer is unpacked in the forward pass and again in the backward pass, so that what is in memory is
the file's bytes and one layer's numbers (the idea of QLoRA, Dettmers et al. 2023). The numbers are
bit for bit those of ``gguf.quants.dequantize``: an adapter learns on the weights it is served with.
The layouts of the blocks are those of ggml-quants.c.
"""

# ruff: noqa: TID253 - whoever imports this module wants torch
# mypy: disallow-subclassing-any=False
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from overt.errors import FormatError, Unsupported

_AT_ONCE = 1 << 18  # numbers unpacked together: they stay in a core's cache


def _half(part: Tensor) -> Tensor:
    """Two bytes each, as float32."""
    return part.contiguous().view(torch.float16).float()


def _shifted(bytes: Tensor, width: int, *shifts: int) -> Tensor:
    """(n, m) bytes as (n, m / width, shifts, width), each shifted right."""
    by = torch.tensor(shifts, dtype=torch.uint8, device=bytes.device).view(1, 1, -1, 1)
    return bytes.reshape(bytes.shape[0], -1, 1, width) >> by


def _nibbles(part: Tensor, width: int = 16) -> Tensor:
    return (_shifted(part, width, 0, 4) & 15).reshape(part.shape[0], -1)


def _fifth(part: Tensor) -> Tensor:
    """The highest bits of 32 numbers, from four bytes, as 16 or 0."""
    eight = torch.arange(8, dtype=torch.uint8, device=part.device)
    bits = (part[:, :, None] >> eight) & 1
    return bits.reshape(part.shape[0], 32) << 4


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * (_nibbles(blocks[:, 2:]).to(torch.int8) - 8).float()


def _q4_1(blocks: Tensor) -> Tensor:
    scale, least = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    return scale * _nibbles(blocks[:, 4:]).float() + least


def _q5_0(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 6:]) | _fifth(blocks[:, 2:6])
    return _half(blocks[:, :2]) * (numbers.to(torch.int8) - 16).float()


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 8:]) | _fifth(blocks[:, 4:8])
    return _half(blocks[:, :2]) * numbers.float() + _half(blocks[:, 2:4])


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks[:, :2])


def _scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum (n, 8, 1) of the eight parts of a Q4_K or Q5_K block."""
    low, least, high = blocks[:, 4:16].reshape(-1, 3, 4).unbind(1)
    scale = torch.cat([low & 63, (high & 15) | ((low >> 2) & 48)], 1)
    minimum = torch.cat([least & 63, (high >> 4) | ((least >> 2) & 48)], 1)
    scale = (_half(blocks[:, :2]) * scale.float())[:, :, None]
    return scale, (_half(blocks[:, 2:4]) * minimum.float())[:, :, None]


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    scale = (_half(blocks[:, 80:82]) * (scales & 15).float())[:, :, None]
    least = (_half(blocks[:, 82:84]) * (scales >> 4).float())[:, :, None]
    numbers = (_shifted(blocks[:, 16:80], 32, 0, 2, 4, 6) & 3).reshape(-1, 16, 16)
    return (scale * numbers.float() - least).reshape(-1, 256)


def _q3_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, 96:108]
    low = _shifted(packed[:, :8], 8, 0, 4).reshape(-1, 16) & 15
    high = _shifted(packed[:, 8:], 4, 0, 2, 4, 6).reshape(-1, 16) & 3
    scales = ((low | (high << 4)).to(torch.int8) - 32).float()
    scale = (_half(blocks[:, 108:110]) * scales)[:, :, None]
    numbers = (_shifted(blocks[:, 32:96], 32, 0, 2, 4, 6) & 3).reshape(-1, 16, 16)
    absent = (_shifted(blocks[:, :32], 32, *range(8)) & 1).reshape(-1, 16, 16) ^ 1
    signed = numbers.to(torch.int8) - (absent << 2).to(torch.int8)
    return (scale * signed.float()).reshape(-1, 256)


def _q4_k(blocks: Tensor) -> Tensor:
    scale, least = _scales(blocks)
    numbers = _nibbles(blocks[:, 16:], 32).reshape(-1, 8, 32)
    return (scale * numbers.float() - least).reshape(-1, 256)


def _q5_k(blocks: Tensor) -> Tensor:
    scale, least = _scales(blocks)
    high = (_shifted(blocks[:, 16:48], 32, *range(8)) & 1) << 4
    numbers = _nibbles(blocks[:, 48:], 32).reshape(-1, 8, 32) | high.reshape(-1, 8, 32)
    return (scale * numbers.float() - least).reshape(-1, 256)


def _q6_k(blocks: Tensor) -> Tensor:
    low = (_shifted(blocks[:, :128], 64, 0, 4) & 15).reshape(-1, 8, 32)
    high = (_shifted(blocks[:, 128:192], 32, 0, 2, 4, 6) & 3).reshape(-1, 8, 32)
    signed = ((low | (high << 4)).to(torch.int8) - 32).reshape(-1, 16, 16)
    scales = blocks[:, 192:208].view(torch.int8).float()
    scale = (_half(blocks[:, 208:210]) * scales)[:, :, None]
    return (scale * signed.float()).reshape(-1, 256)


def _by_gguf(kind: str) -> Callable[[Tensor], Tensor]:
    """Types of tables and thirds, unpacked by the library itself: right, and slower."""

    def numbers(blocks: Tensor) -> Tensor:
        import numpy as np
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        with np.errstate(all="ignore"):  # infinite numbers are a matter of the loss, as elsewhere
            values = dequantize(blocks.cpu().numpy(), GGMLQuantizationType[kind])
        return torch.from_numpy(values).to(blocks.device)

    return numbers


_OTHERS = {
    "IQ1_S": (256, 50),
    "IQ1_M": (256, 56),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "TQ1_0": (256, 54),
    "TQ2_0": (256, 66),
    "MXFP4": (32, 17),
    "NVFP4": (64, 36),
}

KINDS: Mapping[str, tuple[int, int, Callable[[Tensor], Tensor]]] = {
    "F32": (1, 4, lambda blocks: blocks.contiguous().view(torch.float32)),
    "F16": (1, 2, _half),
    "BF16": (1, 2, lambda blocks: blocks.contiguous().view(torch.bfloat16).float()),
    "Q4_0": (32, 18, _q4_0),
    "Q4_1": (32, 20, _q4_1),
    "Q5_0": (32, 22, _q5_0),
    "Q5_1": (32, 24, _q5_1),
    "Q8_0": (32, 34, _q8_0),
    "Q2_K": (256, 84, _q2_k),
    "Q3_K": (256, 110, _q3_k),
    "Q4_K": (256, 144, _q4_k),
    "Q5_K": (256, 176, _q5_k),
    "Q6_K": (256, 210, _q6_k),
    **{kind: (*sizes, _by_gguf(kind)) for kind, sizes in _OTHERS.items()},
}
"""GGUF's name of a type: numbers and bytes of a block, and how (blocks, bytes) become float32."""


def unpack(rows: Tensor, kind: str, dtype: Any = torch.float32) -> Tensor:
    """The numbers of rows of blocks: (n, bytes of a row) uint8 to (n, numbers of a row)."""
    numbers, size, function = KINDS[kind]
    count, width = rows.shape[0], rows.shape[1] // size * numbers
    result = torch.empty(count, width, dtype=dtype, device=rows.device)
    step = max(1, _AT_ONCE // max(width, 1))
    for first in range(0, count, step):
        some = rows[first : first + step]
        result[first : first + step] = function(some.reshape(-1, size)).view(some.shape[0], width)
    return result


class Quantized(nn.Module):
    """A matrix (outputs, inputs) in its blocks: a linear layer, or an embedding of its rows.

    Attributes:
        blocks: (outputs, bytes of a row) uint8.
        kind: its name in `KINDS`.
        product: the type that products are computed in.
    """

    def __init__(
        self, blocks: Tensor, kind: str, bias: Tensor | None = None, product: Any = torch.float32
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise Unsupported(
                f"weights of the type {kind[:20]} cannot be learnt on",
                f"quantize the model to one of {', '.join(KINDS)}",
            )
        numbers, size, _ = KINDS[kind]
        if blocks.dtype != torch.uint8 or blocks.dim() != 2 or blocks.shape[1] % size:
            raise FormatError(f"rows of {blocks.shape[-1]} bytes are no rows of {kind}")
        self.kind, self.product = kind, product
        self.out_features, self.in_features = blocks.shape[0], blocks.shape[1] // size * numbers
        self.register_buffer("blocks", blocks)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def matrix(self, dtype: Any) -> Tensor:
        """All of it, unpacked."""
        return unpack(cast("Tensor", self.blocks), self.kind, dtype)

    def part(self, first: int, last: int, dtype: Any) -> Tensor:
        """Some rows of it."""
        return unpack(cast("Tensor", self.blocks)[first:last], self.kind, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The product with (..., inputs); of whole numbers (..., T), their rows."""
        if not x.is_floating_point():
            ids, where = x.unique(return_inverse=True)
            return unpack(cast("Tensor", self.blocks)[ids], self.kind, self.product)[where]
        y = cast("Tensor", _Product.apply(x.to(self.product), self))
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """The product, for an embedding that is the output matrix too."""
        return functional.linear(hidden, self.matrix(hidden.dtype))


class _Product(torch.autograd.Function):
    """x W', which unpacks W again for the backward pass instead of keeping it."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: Quantized) -> Tensor:
        context.layer = layer
        return x @ layer.matrix(x.dtype).t()

    @staticmethod
    def backward(context: Any, *up: Tensor) -> tuple[Tensor, None]:
        return up[0] @ context.layer.matrix(up[0].dtype), None
