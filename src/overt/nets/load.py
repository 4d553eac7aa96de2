"""Weights into a `Transformer`, or as plain arrays: from a GGUF file or a safetensors release."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import lacking
from overt.nets import architectures, weights
from overt.nets.architectures import Weight
from overt.nets.shape import Shape
from overt.nets.weights import Stored

if TYPE_CHECKING:
    import numpy as np

    from overt.nets.transformer import Transformer

    Array = np.ndarray[Any, np.dtype[Any]]

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def blocks(path: Path) -> Iterator[tuple[Weight, int, "Array"]]:
    """A GGUF model as a release holds it, in blocks of rows, in the order of the computation.

    Yields:
        The tensor, the block's first row, and float32 (rows, columns); tensors of one dimension
        are one row.

    Raises:
        FormatError, Unsupported: the file, or what it holds.
    """
    _, wanted, stored = weights.shape_and_tensors(path)
    for weight in wanted:
        for first, block in weights.rows(weight, stored[weight.name], "release"):
            yield weight, first, block


def state(path: Path) -> Iterator[tuple[str, "Array"]]:
    """A GGUF model's tensors by transformers' names, whole, float32, with a release's numbers.

    Raises:
        FormatError, Unsupported: as `blocks`.
    """
    import numpy as np

    _, wanted, stored = weights.shape_and_tensors(path)
    for weight in wanted:
        whole = np.empty(weight.shape, np.float32)
        flat = whole.reshape(stored[weight.name].rows, -1)
        for first, block in weights.rows(weight, stored[weight.name], "release"):
            flat[first : first + len(block)] = block
        yield weight.name, whole


def from_gguf(
    path: Path, *, dtype: Any = None, frozen: Any = None, keep_quantized: bool = False
) -> "Transformer":
    """The model of a GGUF file, ready to compute; float32 unless `dtype` says otherwise.

    Args:
        frozen: the type of matrices that will not learn; they are never in memory in another.
            Norms stay in `dtype`. An embedding that is not the output matrix too keeps the file's
            bytes: its rows are the same numbers, unpacked as they are looked up.
        keep_quantized: linear layers keep the file's bytes and dequantize as they are used.

    Raises:
        FormatError: the file, or a tensor that is missing or of another shape.
        Unsupported: an architecture or a choice that is not computed here; torch is missing.
    """
    shape, wanted, stored = weights.shape_and_tensors(path)
    return _filled(shape, wanted, stored, dtype, frozen, keep_quantized)


def from_safetensors(
    files: Sequence[Path], config: Mapping[str, Any], *, dtype: Any = None
) -> "Transformer":
    """The model of a release: its safetensors files, and the content of its config.json.

    Raises:
        FormatError, Unsupported: as `from_gguf`.
    """
    known = architectures.of_config(config)
    shape = known.shape_of_config(config)
    wanted = known.weights(shape)
    return _filled(shape, wanted, weights.of_release(files, wanted, known.placed(shape)), dtype)


def _filled(
    shape: Shape,
    wanted: Sequence[Weight],
    stored: Mapping[str, Stored],
    dtype: Any,
    frozen: Any = None,
    keep_quantized: bool = False,
) -> "Transformer":
    try:
        import torch

        from overt.nets.transformer import Transformer
    except ImportError as error:
        raise lacking("computing with a model", str(error.name)) from None
    dtype = dtype or torch.float32
    net = Transformer(shape, dtype)
    apart = frozen is not None and not keep_quantized and (not shape.tied or frozen != dtype)
    if frozen is not None:
        _freeze(net, frozen, apart)
    for weight in wanted:
        place = stored[weight.name]
        if apart and weight.name == _EMBEDDING:
            _split_experts(net, weight, place, dtype)
        elif keep_quantized and _is_packed(weight, place):
            _keep(net, weight, place, dtype)
        else:
            _fill(net, weight, place)
    missing = [name for name, parameter in net.named_parameters() if parameter.is_meta]
    assert not missing, f"nothing was loaded into {missing[0]}"
    return net


def _freeze(net: "Transformer", frozen: Any, apart: bool) -> None:
    """Make room for matrices of the type `frozen`, before there are numbers in it."""
    from torch import nn

    for layer in net.model.layers.modules():
        if isinstance(layer, nn.Linear):
            layer.to(frozen)
    if apart:
        shape = net.shape
        net.lm_head = nn.Linear(
            shape.width, shape.vocabulary, bias=False, device="meta", dtype=frozen
        )


def _split_experts(net: "Transformer", weight: Weight, stored: Stored, dtype: Any) -> None:
    """Put the embedding where it is only looked up, and a tied one as the output matrix too."""
    if net.shape.tied:
        _fill(net, weight, stored, _OUTPUT)
    if not _is_packed(weight, stored):
        _fill(net, weight, stored)
        return
    if not net.shape.tied:
        for _ in weights.rows(weight, stored, "ours"):  # which are refused where they are none
            pass
    _keep(net, weight, stored, dtype)


def _is_packed(weight: Weight, stored: Stored) -> bool:
    """Whether the tensor is a matrix in blocks that are unpacked as they are used."""
    from overt.nets.quantized import KINDS

    return len(weight.shape) == 2 and stored.type != "F32" and stored.type in KINDS


def _fill(net: "Transformer", weight: Weight, stored: Stored, into: str = "") -> None:
    """Put a tensor's numbers where the net has its name, or that of `into`."""
    import torch

    owner, _, name = (into or weight.name).rpartition(".")
    module = net.get_submodule(owner)
    dtype = getattr(module, name).dtype
    whole = torch.empty(weight.shape, dtype=dtype)
    flat = whole.view(stored.rows, -1)
    for first, block in weights.rows(weight, stored, "ours"):
        flat[first : first + len(block)] = torch.from_numpy(block)
    setattr(module, name, torch.nn.Parameter(whole))


def _keep(net: "Transformer", weight: Weight, stored: Stored, product: Any) -> None:
    """Put a tensor's blocks in the place of the layer that has its name."""
    import torch

    from overt.nets.quantized import Quantized

    owner = weight.name.rpartition(".")[0]
    parent, _, name = owner.rpartition(".")
    bias = getattr(net.get_submodule(owner), "bias", None)
    blocks = torch.from_numpy(weights.packed_rows(weight, stored))
    setattr(net.get_submodule(parent), name, Quantized(blocks, stored.type, bias, product))
