"""A net that has learnt, as whole weights; adapters are written by `nets.lora`, `lab.adapter`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.formats.gguf import TensorInfo
from overt.lab.merging import weights
from overt.lab.merging.weights import Tensors
from overt.nets import architectures
from overt.nets.architectures import Weight

if TYPE_CHECKING:
    import numpy as np

    from overt.nets.transformer import Transformer

    Array = np.ndarray[Any, np.dtype[Any]]


def whole(
    net: "Transformer", base: Path, type: str, target: Path, done: Callable[[int, int], None]
) -> None:
    """Write the GGUF model `target`: the net's weights under the metadata of `base`.

    Args:
        type: what rows of numbers are stored as: f16, bf16 or f32.
        done: is told bytes written and bytes in all.

    Raises:
        FormatError: a number that has no place in `type`.
    """
    first = Tensors(base, base.name)
    known = {one.gguf: one for one in architectures.of_shape(net.shape).weights(net.shape)}
    kind: Any = type

    def tensor(one: TensorInfo) -> bytes:
        weight = known.get(one.name)
        if weight is None:  # such as the divisors of the rotary embedding
            return weights.encoded(first.read(one.name), weights.stored(one, first.header, kind),
                                   one.name)  # fmt: skip
        return weights.encoded(
            ordered(weight, _numbers(net, weight.name)),
            weights.stored(one, first.header, kind),
            one.name,
        )

    target.unlink(missing_ok=True)  # one that was cut off may hold another net's tensors
    weights.write(target, first, kind, tensor, done)


def ordered(weight: Weight, rows: "Array") -> "Array":
    """Our rows in GGUF's order: it has the halves of some heads beside each other."""
    if not weight.heads:
        return rows
    head = rows.shape[0] // weight.heads
    cut = rows.reshape(-1, 2, head // 2, rows.shape[1])
    return cut.swapaxes(1, 2).reshape(rows.shape)


def _numbers(net: "Transformer", name: str) -> "Array":
    """A tensor of the net in 32 bits, with its adapter added."""
    import torch

    from overt.nets.lora import Adapted

    path, _, part = name.rpartition(".")
    layer = net.get_submodule(path)
    if part == "weight" and isinstance(layer, Adapted):
        with torch.no_grad():
            matrix = layer.matrix(torch.float32).clone()
            matrix.addmm_(layer.lora_B.float(), layer.lora_A.float(), alpha=layer.scale)
        summed: Array = matrix.cpu().numpy()
        return summed
    if isinstance(layer, Adapted):
        layer = layer.base
    held = getattr(layer, part, None)
    if held is None:  # a quantized layer has no such tensor, only its matrix
        held = layer.matrix(torch.float32)
    found: Array = held.detach().float().cpu().numpy()
    return found
