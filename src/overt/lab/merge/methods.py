"""How several tensors become one. Arrays in, an array out: 32 bits, no files, no torch.

Where a sum is taken over elements (`slerp`) its order is numpy's; all else is done element by
element, so that every processor gives the same bits.

Sources: Shoemake 1985, "Animating Rotation with Quaternion Curves" (slerp); Ilharco et al. 2023,
"Editing Models with Task Arithmetic"; Yadav et al. 2023, "TIES-Merging" (trim, elect, disjoint
mean); Yu et al. 2024, "Language Models are Super Mario" (DARE: drop and rescale).
"""

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Array = "np.ndarray[Any, Any]"
METHODS = ("linear", "slerp", "task", "ties", "dare-linear", "dare-ties")
WITH_BASE = ("task", "ties", "dare-linear", "dare-ties")
WITH_DENSITY = ("ties", "dare-linear", "dare-ties")
_PARALLEL = 0.9995
_BLOCK = 1 << 20


def linear(
    tensors: "Sequence[np.ndarray[Any, Any]]", weights: Sequence[float]
) -> "np.ndarray[Any, Any]":
    """The weighted mean; the weights are divided by their sum, which is not 0."""
    import numpy as np

    total = math.fsum(weights)
    merged = np.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        merged += tensor * np.float32(weight / total)
    return merged


def slerp(
    first: "np.ndarray[Any, Any]", second: "np.ndarray[Any, Any]", t: float
) -> "np.ndarray[Any, Any]":
    """The way from `first` (t = 0) to `second` (t = 1) along the arc between their directions.

    A tensor is one vector. Where the two are almost parallel, or one is zero, it is the straight
    line, as there the arc is that.
    """
    import numpy as np

    lengths = [math.sqrt(_dot(vector, vector)) for vector in (first, second)]
    cosine = _dot(first, second) / (lengths[0] * lengths[1]) if all(lengths) else 1.0
    if abs(cosine) > _PARALLEL:
        parts = 1 - t, t
    else:
        angle = math.acos(cosine)
        parts = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return first * np.float32(parts[0]) + second * np.float32(parts[1])


def _dot(first: "np.ndarray[Any, Any]", second: "np.ndarray[Any, Any]") -> float:
    """In 64 bits, a block at a time: no second copy of a large tensor is made."""
    import numpy as np

    flat, other = first.reshape(-1), second.reshape(-1)
    return math.fsum(
        float((flat[at : at + _BLOCK].astype(np.float64) * other[at : at + _BLOCK]).sum())
        for at in range(0, flat.size, _BLOCK)
    )


def task(
    base: "np.ndarray[Any, Any]",
    deltas: "Sequence[np.ndarray[Any, Any]]",
    weights: Sequence[float],
    scale: float,
) -> "np.ndarray[Any, Any]":
    """The base plus the weighted sum of what each model changed."""
    import numpy as np

    changed = np.zeros_like(base)
    for delta, weight in zip(deltas, weights, strict=True):
        changed += delta * np.float32(weight)
    return base + changed * np.float32(scale)


def elected(
    base: "np.ndarray[Any, Any]",
    deltas: "Sequence[np.ndarray[Any, Any]]",
    weights: Sequence[float],
    scale: float,
) -> "np.ndarray[Any, Any]":
    """TIES after its trim: each element takes the sign with the larger weighted sum, and the
    weighted mean of those deltas that have this sign. A weight is not negative.
    """
    import numpy as np

    total = np.zeros_like(base)
    for delta, weight in zip(deltas, weights, strict=True):
        total += delta * np.float32(weight)
    positive = total >= 0
    summed, counted = np.zeros_like(base), np.zeros_like(base)
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = np.where(positive, delta > 0, delta < 0)
        summed += np.where(agrees, delta, 0) * np.float32(weight)
        counted += agrees * np.float32(weight)
    mean = np.divide(summed, counted, out=np.zeros_like(base), where=counted > 0)
    return base + mean * np.float32(scale)


def trim(delta: "np.ndarray[Any, Any]", density: float) -> "np.ndarray[Any, Any]":
    """`delta` with all but the largest magnitudes set to zero; of equal ones the first are kept.

    The paper trims a whole model at once. This trims each tensor, as mergekit does: a model is
    never in memory whole.
    """
    import numpy as np

    size = delta.reshape(-1)
    keep = kept_count(density, size.size)
    if keep == size.size:
        return delta
    large = np.abs(size)
    limit = np.partition(large, size.size - keep)[size.size - keep]
    chosen = large > limit
    chosen[np.flatnonzero(large == limit)[: keep - int(chosen.sum())]] = True
    return np.where(chosen, size, np.float32(0)).reshape(delta.shape)


def kept_count(density: float, elements: int) -> int:
    """How many elements a density keeps: at least one."""
    return min(elements, max(1, math.floor(density * elements + 0.5)))


def drop(
    delta: "np.ndarray[Any, Any]", density: float, seed: int, name: str, model: int
) -> "np.ndarray[Any, Any]":
    """DARE: each element is kept with the probability `density` and divided by it, or becomes zero.

    The generator (Philox) is keyed by the seed, the tensor's name and the model's place, so that
    neither the order of tensors nor another model changes what is drawn.
    """
    import numpy as np

    key = sha256(f"{seed}\n{model}\n{name}".encode()).digest()[:16]
    draw = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    flat = delta.reshape(-1)
    result = np.empty_like(flat)
    for at in range(0, flat.size, _BLOCK):
        part = flat[at : at + _BLOCK]
        stays = draw.random(part.size, dtype=np.float32) < np.float32(density)
        result[at : at + _BLOCK] = np.where(stays, part / np.float32(density), np.float32(0))
    return result.reshape(delta.shape)


def low_rank(
    a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]", scale: float
) -> "np.ndarray[Any, Any]":
    """``scale * (b @ a)`` of a (rank, in) and b (out, rank).

    Summed rank by rank and not by a matrix library, whose order of sums depends on the processor
    and on its threads.
    """
    import numpy as np

    product = np.zeros((b.shape[0], a.shape[1]), np.float32)
    rows = max(1, _BLOCK // a.shape[1])
    for at in range(0, b.shape[0], rows):
        for rank in range(a.shape[0]):
            product[at : at + rows] += b[at : at + rows, rank : rank + 1] * a[rank]
    product *= np.float32(scale)
    return product
