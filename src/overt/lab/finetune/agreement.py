"""Whether two fine-tunes of one recipe learnt the same, though sums were added in another order.

Element by element they do not agree: the first steps of AdamW are little more than the sign of each
gradient, and where one is near 0 the order of a sum decides it. So it is asked what was learnt as a
whole, from the weights themselves; the report is held to it too, and alone would prove nothing, as
anybody can write one. The bounds were measured: docs/recipes.md has the table.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from overt.errors import OvertError
from overt.formats import gguf
from overt.lab.finetune import REPORT
from overt.lab.merge import weights
from overt.nets.adapter import WEIGHTS
from overt.nets.weights import Stored
from overt.provenance import diff
from overt.provenance.steps import Agreement

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


class FinetuneTolerance(NamedTuple):
    """What another instruction set may cause.

    Attributes:
        loss: nats, of a step's loss or one of what is held out.
        share: of tokens or pairs that are right.
        off, worst: `LearningDifference.off`, `LearningDifference.worst`.
        longer: `LearningDifference.longer`. Fewer steps or another rate learn nearly the same, and
            show here.
    """

    loss: float
    share: float
    off: float
    worst: float
    longer: float


BOUNDS: Final[Mapping[str, FinetuneTolerance]] = {
    "float32": FinetuneTolerance(0.01, 0.02, 0.05, 0.25, 0.005),
    "bfloat16": FinetuneTolerance(0.05, 0.05, 0.4, 0.6, 0.01),
}
"""By the precision of the products."""
PREFERENCE: Final = 3
"""A loss of DPO compares sums over whole answers, and may be so many times further off."""
_HALF = re.compile(r"(?P<layer>.+)\.lora_(?P<half>[abAB])(?:\.weight)?")
_EXACT: Final = 1e-13  # of the sums of products, in 64 bits, over up to some thousand terms
_MAX_JSON: Final = 64 << 20
_AT_ONCE: Final = 1 << 22  # elements in memory
_BROKEN = (
    OvertError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)


class TensorChange(NamedTuple):
    """What one tensor learnt, twice: squared norms of the difference of both changes, and of each;
    and their inner product."""

    name: str
    gap: float
    recorded: float
    here: float
    both: float


class LearningDifference(NamedTuple):
    """How far apart two fine-tunes are, over all tensors.

    Attributes:
        off: |D here - D recorded| / |D recorded|, D what was added to the weights, in Frobenius'
            norm.
        longer: |D here| / |D recorded| - 1, without its sign.
        worst: the largest `off` of one tensor.
    """

    off: float
    longer: float
    worst: float


_NOT = LearningDifference(math.inf, math.inf, math.inf)


def of_files(
    files: Mapping[str, tuple[Path, Path]], base: Path, precision: str, loss: str = "answers"
) -> list[Agreement]:
    """What is asked of the files of a fine-tune: as recorded and as made here, by their path.

    Nothing is said of other files, which must be the same.

    Args:
        base: the weights that it learnt on.
        precision: of the products.
        loss: that was learnt by.
    """
    allowed = BOUNDS.get(precision, BOUNDS["float32"])
    nats = allowed.loss * (PREFERENCE if loss == "preference" else 1)
    agreements: list[Agreement] = []
    for path, (recorded, here) in files.items():
        if path == REPORT:
            differences = of_report(recorded, here)
            agreements.append(
                Agreement("the losses of the report, in nats", differences.loss, nats, (path,))
            )
            agreements.append(
                Agreement("the shares of the report", differences.share, allowed.share, (path,))
            )
            continue
        if path.startswith("finetuned-") and path.endswith(".gguf"):
            changes = of_weights(recorded, here, base)
        elif path in (f"peft/{WEIGHTS}", "adapter.gguf"):
            changes = of_adapter(recorded, here)
        else:
            continue
        off = sum_changes(changes)
        agreements.append(Agreement("what was learnt, of its size", off.off, allowed.off, (path,)))
        agreements.append(Agreement("the same, of one tensor", off.worst, allowed.worst, (path,)))
        agreements.append(
            Agreement("the size of what was learnt", off.longer, allowed.longer, (path,))
        )
    return agreements


def sum_changes(changes: Iterator[TensorChange]) -> LearningDifference:
    """Of all tensors; infinite where they cannot be compared."""
    import numpy as np

    gap = recorded = here = worst = 0.0
    try:
        with np.errstate(all="ignore"):  # numbers of strangers; what is none is told below
            for change in changes:
                gap, recorded, here = (
                    gap + change.gap,
                    recorded + change.recorded,
                    here + change.here,
                )
                if change.gap:
                    off = change.gap / change.recorded if change.recorded else math.inf
                    worst = max(worst, math.sqrt(off))
    except _BROKEN:
        return _NOT
    if not math.isfinite(gap + recorded + here) or not recorded:
        return _NOT
    return LearningDifference(math.sqrt(gap / recorded), abs(math.sqrt(here / recorded) - 1), worst)


# ---- adapters ------------------------------------------------------------------------------


def of_adapter(recorded: Path, here: Path) -> Iterator[TensorChange]:
    """The products B A of every layer, of two files of one form; their scale is one for all layers.

    Only matrices of rank x rank are computed: |B A|^2 is the trace of (B'B)(A A').

    Raises:
        FormatError, Unsupported: not an adapter's file.
        KeyError, ValueError: the files have not the same layers, or a half has another shape.
    """
    old, new = _halves(recorded), _halves(here)
    if old.keys() != new.keys():
        raise ValueError("the adapters are for other layers")
    for layer, halves in old.items():
        if any(factor.shape != new[layer][half].shape for half, factor in halves.items()):
            raise ValueError(f"the halves of {layer[:80]!r} have another shape")  # before any work
        (a, b), (c, d) = (
            (_read_all(factors["a"]), _read_all(factors["b"])) for factors in (halves, new[layer])
        )
        was, now = _trace(b, a, b, a), _trace(d, c, d, c)
        both = _trace(b, a, d, c)
        # what was rounded away counts against them: halves that nearly cancel hide nothing
        rounded = _EXACT * ((_square(a) * _square(b)) + (_square(c) * _square(d)))
        yield TensorChange(layer, max(0.0, was - 2 * both + now) + rounded, was, now, both)


def _halves(path: Path) -> dict[str, dict[str, diff.Tensor]]:
    layers: dict[str, dict[str, diff.Tensor]] = {}
    for name, tensor in diff.tensors(path).items():
        match = _HALF.fullmatch(name)
        if match is None:
            raise ValueError(f"{name[:80]!r} is no half of an adapter")
        layers.setdefault(match["layer"], {})[match["half"].lower()] = tensor
    return layers


def _read_all(tensor: diff.Tensor) -> "Array":
    import numpy as np

    return np.asarray(tensor.rows(0, tensor.count), np.float64)


def _trace(b: "Array", a: "Array", d: "Array", c: "Array") -> float:
    """The inner product of B A and D C."""
    return float(((b.T @ d) * (a @ c.T)).sum())


def _square(array: "Array") -> float:
    return float((array * array).sum())


# ---- whole weights -------------------------------------------------------------------------


def of_weights(recorded: Path, here: Path, base: Path) -> Iterator[TensorChange]:
    """What each tensor has that the base, written in the same type, has not.

    Raises:
        FormatError, Unsupported: not a GGUF file.
        KeyError, ValueError: the files have not the same tensors.
    """
    first, old, new = gguf.read(base), gguf.read(recorded), gguf.read(here)
    tensors = [{tensor.name: tensor for tensor in header.tensors} for header in (first, old, new)]
    if not tensors[0].keys() == tensors[1].keys() == tensors[2].keys():
        raise ValueError("the models have other tensors")
    for name, tensor in tensors[1].items():
        three = [
            _stored(header, known[name])
            for header, known in zip((first, old, new), tensors, strict=True)
        ]
        yield _change(name, tensor.type, *three)


def _stored(header: gguf.GgufHeader, tensor: gguf.GgufTensor) -> Stored:
    files = header.parts or (header.path,)
    return Stored(files[tensor.part], tensor.offset, tensor.type, tensor.shape[::-1], "gguf")


def _change(name: str, type: str, base: Stored, old: Stored, new: Stored) -> TensorChange:
    import numpy as np

    if not base.shape == old.shape == new.shape:
        raise ValueError(f"{name[:80]!r} has another shape")
    rows = math.prod(old.shape) // max(1, old.columns)
    step = max(1, _AT_ONCE // max(1, old.columns))
    sums = np.zeros(4)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        a, b = (np.asarray(weights.read(first, count), np.float64) for weights in (old, new))
        if np.array_equal(a, b) and old.type == base.type:
            before = np.asarray(base.read(first, count), np.float64)
        else:
            before = _as_stored(base.read(first, count), type, name)
        was, now = a - before, b - before
        sums += [_square(b - a), _square(was), _square(now), float((was * now).sum())]
    return TensorChange(name, *map(float, sums))


def _as_stored(numbers: "Array", type: str, name: str) -> "Array":
    """The numbers as they are once they are stored as `type`."""
    import numpy as np

    kinds: dict[str, Any] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
    if type not in kinds:
        return np.asarray(numbers, np.float64)
    data = weights.encoded(numbers, kinds[type], name)
    if type == "BF16":
        wide = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        wide = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[type])
    return wide.astype(np.float64).reshape(numbers.shape)


# ---- the report ----------------------------------------------------------------------------


class ReportDifference(NamedTuple):
    """The largest differences of what two reports say: of a loss in nats, and of a share."""

    loss: float
    share: float


def of_report(recorded: Path, here: Path) -> ReportDifference:
    """The losses of every step and of what was held out, and shares of tokens or pairs.

    Counts and names must be the same: infinite where they are not.
    """
    try:
        old, new = (dict(diff.leaves(_read(report))) for report in (recorded, here))
        return _compare_reports(old, new)
    except _BROKEN:
        return ReportDifference(math.inf, math.inf)


def _compare_reports(old: Mapping[str, Any], new: Mapping[str, Any]) -> ReportDifference:
    if old.keys() != new.keys():
        return ReportDifference(math.inf, math.inf)
    loss = share = 0.0
    held = old.get("/held/tokens"), old.get("/held/examples")
    tokens, examples = (value if isinstance(value, int) and value > 0 else 0 for value in held)
    for place, was in old.items():
        now = new[place]
        if repr(was) == repr(now) or place == "/best":  # judged by the weights that are kept
            continue
        parts = place.split("/")
        if not (isinstance(was, float) and isinstance(now, float)):
            return ReportDifference(math.inf, math.inf)
        gap = abs(math.log(was / now)) if "perplexity" in parts else abs(was - now)
        if not math.isfinite(gap):
            return ReportDifference(math.inf, math.inf)
        if "loss" in parts or "perplexity" in parts or parts[1] == "curve":
            loss = max(loss, gap)
        else:  # one token, or one pair, is any machine's to get otherwise
            count = examples if "preferred" in parts else tokens
            share = max(share, gap - 1 / count if count else gap)
    return ReportDifference(loss, share)


def _read(path: Path) -> Any:
    if path.stat().st_size > _MAX_JSON:
        raise ValueError(f"it is {path.stat().st_size} bytes")
    return json.loads(path.read_bytes())
