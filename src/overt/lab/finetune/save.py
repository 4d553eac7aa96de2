"""A net that has learnt, as whole weights; adapters are written by `nets.lora`, `lab.adapter`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.formats.gguf import GgufTensor
from overt.lab.merge import weights
from overt.lab.merge.weights import Tensors
from overt.nets import architectures
from overt.nets import weights as nets_weights
from overt.nets.architectures import Weight
from overt.provenance.gguf_keys import Pair

if TYPE_CHECKING:
    import numpy as np

    from overt.nets.transformer import Transformer

    Array = np.ndarray[Any, np.dtype[Any]]


def save_model(
    net: "Transformer",
    base: Path,
    type: str,
    target: Path,
    done: Callable[[int, int], None],
    metadata: Sequence[Pair] = (),
) -> None:
    """Write the GGUF model `target`: the net's weights under the metadata of `base`.

    Args:
        type: what rows of numbers are stored as: f16, bf16 or f32.
        done: is told bytes written and bytes in all.
        told: what it is made of, as `provenance.derived` gives it.

    Raises:
        FormatError: a number that has no place in `type`.
    """
    first = Tensors(base, base.name)
    known = {weight.gguf: weight for weight in architectures.of_shape(net.shape).weights(net.shape)}
    kind: Any = type

    def tensor(tensor_info: GgufTensor) -> bytes:
        weight = known.get(tensor_info.name)
        if weight is None:  # such as the divisors of the rotary embedding
            return weights.encoded(
                first.read(tensor_info.name),
                weights.stored(tensor_info, first.header, kind),
                tensor_info.name,
            )
        return weights.encoded(
            _numbers(net, weight, first),
            weights.stored(tensor_info, first.header, kind),
            tensor_info.name,
        )

    target.unlink(missing_ok=True)  # one that was cut off may hold another net's tensors
    weights.write(target, first, kind, tensor, done, metadata)


def ordered(weight: Weight, rows: "Array") -> "Array":
    """Our rows in GGUF's order: it has the halves of some heads beside each other."""
    if not weight.heads:
        return rows
    table = rows.reshape(rows.shape[0], -1)  # a bias is a column
    head = rows.shape[0] // weight.heads
    return nets_weights.ordered(table, head, is_gguf=False, to_gguf=True).reshape(rows.shape)


def _numbers(net: "Transformer", weight: Weight, first: Tensors) -> "Array":
    """A tensor of the net in 32 bits and GGUF's order, with its adapter added.

    What did not learn is read from the file: the net may compute with a rounded copy of it.
    """
    from overt.nets.lora import Adapted

    path, _, part = weight.name.rpartition(".")
    layer = net.get_submodule(path)
    if part == "weight" and isinstance(layer, Adapted):
        low, high = layer.lora_A.detach().float(), layer.lora_B.detach().float()
        added: Array = ((high @ low) * layer.scale).cpu().numpy()
        summed: Array = first.read(weight.gguf) + ordered(weight, added)
        return summed
    held = getattr(layer, part, None)
    if held is None or not held.requires_grad:
        original: Array = first.read(weight.gguf)
        return original
    return ordered(weight, held.detach().float().cpu().numpy())
