"""LoRA adapters in GGUF, as llama.cpp's converter writes them: what one holds, checked.

Names, shapes and scale were learnt from llama-adapter.cpp of llama.cpp b11739.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from overt.errors import FormatError, Unsupported
from overt.formats import gguf
from overt.formats.bounded import shown
from overt.nets.weights import Stored

_OTHER = "name the model the adapter was trained on"
_AGAIN = "get the file again, from whoever made it"


class Lora(NamedTuple):
    """One adapter.

    Attributes:
        alpha: as the file says; 0: the product of the halves is added as it is.
        pairs: A and B, each a matrix, by the tensor of the base that they change.
    """

    alpha: float
    pairs: Mapping[str, tuple[Stored, Stored]]


def read(file: Path, name: str, architecture: str, base: str) -> Lora:
    """The adapter in `file`; nothing in it is trusted.

    Args:
        name, base: what to call the adapter and its base in an error.
        architecture: of the base, in GGUF.

    Raises:
        FormatError: no LoRA, one for another architecture, or one that contradicts itself.
        Unsupported: one that waits for certain words.
    """
    header = gguf.read(file)
    if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
        raise FormatError(f"{name} is no LoRA adapter", "name one with --adapter")
    if header.architecture != architecture:
        raise FormatError(
            f"{name} is for a {shown(header.architecture)[1:-1]} and {base} is a {architecture}",
            _OTHER,
        )
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise Unsupported(
            f"{name} waits for certain words before it acts (aLoRA)", "name an adapter without them"
        )
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FormatError(f"alpha of {name} is {shown(alpha)}, and no number", _AGAIN)
    halves: dict[str, dict[str, Stored]] = {}
    for tensor in header.tensors:
        stem, _, half = tensor.name.rpartition(".lora_")
        if half not in ("a", "b") or len(tensor.shape) != 2:
            raise FormatError(
                f"{name} holds {shown(tensor.name)}, which is no part of a LoRA", _AGAIN
            )
        path = header.parts[tensor.part] if header.parts else header.path
        halves.setdefault(stem, {})[half] = Stored(
            path, tensor.offset, tensor.type, tensor.shape[::-1], "gguf"
        )
    if not halves:
        raise FormatError(f"{name} changes nothing: it holds no tensors", _AGAIN)
    for stem, factors in halves.items():
        if len(factors) < 2:
            raise FormatError(f"{name} has only one half of {shown(stem)}", _AGAIN)
    return Lora(
        float(alpha), {stem: (factors["a"], factors["b"]) for stem, factors in halves.items()}
    )
