"""Whether two files that one recipe made are the same but for rounding, where machines differ.

Another instruction set adds in another order, so that now and then a weight falls to a neighbour in
its type's grid, or a block gets another scale. With few bits one step of the grid is as large as
the weights themselves: no bound of an element alone can tell such a step from a tensor that was
emptied. So three things are asked of a file, and all must hold: no element is off by more than a
step of its type, few elements are off at all, and no tensor is off by much of its size. An
importance matrix is asked the last alone.

The bounds are above what `python scripts/quantize_drift.py` measured on SmolLM2 135M. With
kernels of another layout under it, an importance matrix of 2048 tokens was off by 1.1 % of a
tensor's size; files quantized with the one and the other had up to 5 % of their elements off (a
block's scale moves, and all in it), none by more than 0.94 steps, and no tensor by more than 1.7 %
of its size. Without a matrix nothing but rounding can move: two implementations of the plain types
(llama.cpp's and that of the package gguf) made the same bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overt.errors import OvertError
from overt.lab import differ
from overt.lab.quantize.host import IMATRIX
from overt.lab.steps import Agreement

SHARE: Final = 0.01
"""Of all elements of a file, how many may be off."""
SHARE_OF_COMPUTED: Final = 0.15
"""The same where the importance matrix was computed on each machine: it weighs every block."""
OFF: Final = 0.05
"""By how much of its size (Frobenius' norm) a tensor may be off."""
MATRIX: Final = 0.05
"""The same of a tensor of an importance matrix."""
_STEPS: Final[Mapping[str, float]] = {
    "F32": 0.0, "F16": 0.0, "BF16": 0.0, "Q8_0": 1 / 127, "Q6_K": 1 / 32, "Q5_0": 1 / 16,
    "Q5_1": 2 / 31, "Q5_K": 2 / 31, "Q4_0": 1 / 8, "Q4_1": 2 / 15, "Q4_K": 2 / 15,
    "IQ4_NL": 24 / 127, "IQ4_XS": 24 / 127, "Q3_K": 1 / 4, "MXFP4": 1 / 3,
}  # fmt: skip
_SLACK: Final = 1.01  # the scale itself is rounded
_AT_ONCE: Final = 1 << 22  # elements in memory
_BROKEN = (
    OvertError, OSError, ValueError, TypeError, LookupError, NotImplementedError, OverflowError,
)  # fmt: skip


def step(type: str) -> float:
    """The widest step of a type's grid, as a share of a block's largest magnitude.

    Source: ggml-quants.c and the tables of ggml-common.h of llama.cpp. A type that is not known
    here, as those of three bits and fewer with a codebook, has a step as large as its weights.
    """
    return _STEPS.get(type, 1.0)


@dataclass(frozen=True, slots=True)
class Apart:
    """How far two tensors are apart.

    Attributes:
        elements: of each.
        unequal: elements that are not the same.
        steps: the largest difference, in steps of the tensor's type.
        off: Frobenius' norm of the difference over that of the recorded tensor.
    """

    elements: int
    unequal: int
    steps: float
    off: float


def of_files(files: Mapping[str, tuple[Path, Path]], *, computed: bool) -> list[Agreement]:
    """What is asked of the files of a quantization: as recorded and as made here, by their path.

    Nothing is said of files that are not GGUF.

    Args:
        computed: the importance matrix was, by the recipe.
    """
    most = SHARE_OF_COMPUTED if computed else SHARE
    found: list[Agreement] = []
    for path, (recorded, here) in files.items():
        if not path.endswith(".gguf"):
            continue
        try:
            apart = list(tensors(recorded, here))
        except _BROKEN:
            apart = [Apart(1, 1, math.inf, math.inf)]
        off = max((one.off for one in apart), default=math.inf)
        if path == IMATRIX:
            found.append(
                Agreement("a tensor of the importance matrix, of its size", off, MATRIX, (path,))
            )
            continue
        total = sum(one.elements for one in apart)
        share = sum(one.unequal for one in apart) / total if total else math.inf
        steps = max((one.steps for one in apart), default=math.inf)
        found += [
            Agreement("an element, in steps of its type", steps, 1.0, (path,)),
            Agreement("the share of elements that differ", share, most, (path,)),
            Agreement("a tensor, of its size", off, OFF, (path,)),
        ]
    return found


def tensors(recorded: Path, here: Path) -> Iterator[Apart]:
    """Each tensor of two files, held against each other.

    Raises:
        FormatError, Unsupported: a file is damaged.
        ValueError, NotImplementedError: the files have not the same tensors, or a type has no
            reader.
    """
    old, new = differ.tensors(recorded), differ.tensors(here)
    if list(old) != list(new):
        raise ValueError("the files have not the same tensors")
    for name, before in old.items():
        after = new[name]
        if (before.shape, before.type) != (after.shape, after.type):
            raise ValueError(f"{name} has another form")
        yield _apart(before, after)


def _apart(old: differ.Tensor, new: differ.Tensor) -> Apart:
    import numpy as np

    unequal, gap, size, most, largest = 0, 0.0, 0.0, 0.0, 0.0
    rows = max(1, _AT_ONCE // old.row)
    for first in range(0, old.count, rows):
        count = min(rows, old.count - first)
        a, b = (np.asarray(one.rows(first, count), np.float64) for one in (old, new))
        with np.errstate(all="ignore"):
            off = np.abs(a - b)
            unequal += int(np.count_nonzero(~(a == b)))
            gap += float((off * off).sum())
            size += float((a * a).sum())
            most = max(most, _largest(off))
            largest = max(largest, _largest(np.abs(a)))
    if not unequal:
        return Apart(max(1, math.prod(old.shape)), 0, 0.0, 0.0)
    if not (math.isfinite(gap) and 0 < size < math.inf):
        return Apart(max(1, math.prod(old.shape)), unequal, math.inf, math.inf)
    allowed = step(old.type) * _SLACK * largest
    steps = most / allowed if allowed else math.inf
    return Apart(math.prod(old.shape), unequal, steps, math.sqrt(gap / size))


def _largest(values: Any) -> float:
    """The largest of magnitudes; infinite where one is no number."""
    import numpy as np

    found = float(np.max(values, initial=0.0))
    return math.inf if math.isnan(found) else found
