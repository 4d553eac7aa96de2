"""Whether two files that one recipe made are the same but for rounding, where machines differ.

Another instruction set adds in another order, so that now and then a weight falls to a neighbour in
its type's grid, or a block gets another scale. So four things are asked of a file, and all must
hold: no element is off by much of its own block, few elements are off at all, no tensor has many of
them, and none is off by much of its size. Blocks and tensors are asked each for itself: an outlier
elsewhere, or a large tensor beside a small one, makes no room. An importance matrix is asked the
last alone.

The bounds for a computed matrix are above what `python scripts/quantize_drift.py` measured on
SmolLM2 135M: docs/recipes.md has the table. Without one nothing is summed over a text, and two
implementations of the plain types (llama.cpp's and that of the package gguf) made the same bytes;
next to nothing may move.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from overt.errors import OvertError
from overt.lab.quantize.host import IMATRIX
from overt.provenance import diff
from overt.provenance.steps import Agreement


class QuantizeTolerance(NamedTuple):
    """What another instruction set may cause.

    Attributes:
        steps: of its type, an element; see `room`.
        share: of all elements of a file, how many may be off.
        many: the same of one tensor, a block left out.
        off: of its size, a tensor.
        matrix: the same of an importance matrix.
    """

    steps: float
    share: float
    many: float
    off: float
    matrix: float


GIVEN: Final = QuantizeTolerance(1, 1e-4, 1e-4, 1e-3, 0.0)
"""Without an importance matrix, or with one that was given."""
COMPUTED: Final = QuantizeTolerance(6, 0.15, 0.3, 0.05, 0.05)
"""Where the importance matrix was computed on each machine: it weighs every block."""
_MAX_DIFFERENCE: Final = 0.6
"""Of the largest of its block, what an element of a coarse type may be off: 1 would empty it."""
_STEPS: Final[Mapping[str, float]] = {
    "F32": 0.0,
    "F16": 0.0,
    "BF16": 0.0,
    "Q8_0": 1 / 127,
    "Q6_K": 1 / 32,
    "Q5_0": 1 / 16,
    "Q5_1": 2 / 31,
    "Q5_K": 2 / 31,
    "Q4_0": 1 / 8,
    "Q4_1": 2 / 15,
    "Q4_K": 2 / 15,
    "IQ4_NL": 24 / 127,
    "IQ4_XS": 24 / 127,
    "Q3_K": 1 / 4,
    "MXFP4": 1 / 3,
}
_SLACK: Final = 1.01  # the scale itself is rounded
_AT_ONCE: Final = 1 << 22  # elements in memory
_BROKEN = (
    OvertError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    NotImplementedError,
    OverflowError,
)


def step(type: str) -> float:
    """The widest step of a type's grid, as a share of a block's largest magnitude.

    Source: ggml-quants.c and the tables of ggml-common.h of llama.cpp. A type that is not known
    here, as those of three bits and fewer with a codebook, has a step as large as its weights.
    """
    return _STEPS.get(type, 1.0)


def room(type: str, bounds: QuantizeTolerance) -> float:
    """By how much of its block's largest magnitude an element may be off."""
    unit = step(type)
    return max(unit, min(bounds.steps * unit, _MAX_DIFFERENCE)) * _SLACK


@dataclass(frozen=True, slots=True)
class TensorDeviation:
    """How far two tensors are apart.

    Attributes:
        elements: of each.
        unequal: elements that are not the same.
        many: their share, one block left out: another scale moves all of a block.
        most: the largest difference of an element, of its `room`.
        off: Frobenius' norm of the difference over that of the recorded tensor.
    """

    elements: int
    unequal: int
    many: float
    most: float
    off: float


_NOT = TensorDeviation(1, 1, math.inf, math.inf, math.inf)


def of_files(files: Mapping[str, tuple[Path, Path]], *, computed: bool) -> list[Agreement]:
    """What is asked of the files of a quantization: as recorded and as made here, by their path.

    Nothing is said of files that are not GGUF.

    Args:
        computed: the importance matrix was, by the recipe.
    """
    allowed = COMPUTED if computed else GIVEN
    agreements: list[Agreement] = []
    for path, (recorded, here) in files.items():
        if not path.endswith(".gguf"):
            continue
        try:
            apart = list(tensors(recorded, here, allowed))
        except _BROKEN:
            apart = []
        apart = apart or [_NOT]
        off = max(tensor.off for tensor in apart)
        if path == IMATRIX:
            what = "a tensor of the importance matrix, of its size"
            agreements.append(Agreement(what, off, allowed.matrix, (path,)))
            continue
        share = sum(tensor.unequal for tensor in apart) / max(
            1, sum(tensor.elements for tensor in apart)
        )
        most, many = max(tensor.most for tensor in apart), max(tensor.many for tensor in apart)
        agreements += [
            Agreement("an element, of what its block allows", most, 1.0, (path,)),
            Agreement("the share of elements that differ", share, allowed.share, (path,)),
            Agreement("the same, of one tensor", many, allowed.many, (path,)),
            Agreement("a tensor, of its size", off, allowed.off, (path,)),
        ]
    return agreements


def tensors(recorded: Path, here: Path, bounds: QuantizeTolerance) -> Iterator[TensorDeviation]:
    """Each tensor of two files, held against each other.

    Raises:
        FormatError, Unsupported: a file is damaged.
        ValueError, NotImplementedError: the files have not the same tensors, or a type has no
            reader.
    """
    old, new = diff.tensors(recorded), diff.tensors(here)
    if list(old) != list(new):
        raise ValueError("the files have not the same tensors")
    for name, before in old.items():
        after = new[name]
        if (before.shape, before.type) != (after.shape, after.type):
            raise ValueError(f"{name} has another form")
        yield _deviation(before, after, room(before.type, bounds))


def _deviation(old: diff.Tensor, new: diff.Tensor, room: float) -> TensorDeviation:
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block = GGML_QUANT_SIZES[GGMLQuantizationType[old.type]][0]
    unequal, gap, size, most = 0, 0.0, 0.0, 0.0
    rows = max(1, _AT_ONCE // old.row)
    for first in range(0, old.count, rows):
        count = min(rows, old.count - first)
        a, b = (np.asarray(side.rows(first, count), np.float64) for side in (old, new))
        with np.errstate(all="ignore"):  # numbers of strangers; what is none is told below
            unequal += int(np.count_nonzero(~(a == b)))
            gap += float(((a - b) ** 2).sum())
            size += float((a * a).sum())
            most = max(most, _most(a.reshape(-1, block), b.reshape(-1, block), room))
    elements = math.prod(old.shape)
    if not unequal:
        return TensorDeviation(elements, 0, 0.0, 0.0, 0.0)
    if not (math.isfinite(gap) and 0 < size < math.inf):
        return _NOT
    many = max(0, unequal - block) / elements
    return TensorDeviation(elements, unequal, many, most, math.sqrt(gap / size))


def _most(old: Any, new: Any, room: float) -> float:
    """The largest difference of rows, each a block, of `room` times the block's largest magnitude.

    Infinite where one is no number, or where blocks differ that may not.
    """
    import numpy as np

    off = np.abs(old - new).max(1)
    largest = np.maximum(np.abs(old).max(1), np.abs(new).max(1))
    ratios = off[off != 0] / (room * largest[off != 0])
    most = float(np.max(ratios, initial=0.0))
    return math.inf if math.isnan(most) else most
