"""What a fine-tune takes, before it starts: memory at its peak and room on the disk, and what to
change where it is more than there is.

An estimate by the shape alone, of what `nets.transformer` and `nets.lora` keep: the weights in
their type; per learnt parameter its gradient and AdamW's two moments in 32 bits; per token and
layer what the backward pass needs; logits of the tokens of one piece of the loss. The tests hold it
against the peak of real runs, within `MARGIN`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from overt.errors import OutOfDisk, OutOfMemory
from overt.fit import human
from overt.lab.finetune import checkpoint
from overt.nets.shape import Shape

if TYPE_CHECKING:
    from overt.lab.finetune.asked import Asked
    from overt.lab.finetune.prepare import Prepared

MARGIN: Final = 0.3
"""How far the estimate may be from the peak of a run."""
_PROGRAM: Final = 330 << 20
"""Python, torch, and the pages of both that are used."""
_LOGITS: Final = 1 << 24
"""Logits that exist at once, as `loss.py` has it; and three such tables."""
_LEARNT: Final = 16
"""Bytes of a parameter that learns: itself, gradient, two moments, in 32 bits."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What decides the memory.

    Attributes:
        method: ``lora``, ``qlora``, ``full`` or ``dpo``.
        rank, targets: of the adapter.
        rows, length: of a batch.
        checkpointing: keep only what goes into each layer.
        bytes: of a number of the frozen weights and of what flows: 4 or 2.
        file: bytes of the weights as they lie on the disk.
    """

    method: str
    rank: int
    targets: tuple[str, ...]
    rows: int
    length: int
    checkpointing: bool
    bytes: int
    file: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes at the peak, by what they are for."""

    weights: int
    learning: int
    activations: int
    logits: int
    program: int = _PROGRAM

    @property
    def total(self) -> int:
        return self.weights + self.learning + self.activations + self.logits + self.program


def estimate(shape: Shape, wanted: Wanted) -> Estimate:
    """The memory of a fine-tune at its peak."""
    linear = sum(inputs * outputs for _, inputs, outputs in _matrices(shape)) * shape.layers
    table = shape.vocabulary * shape.width
    rest = table * (1 if shape.tied else 2) + shape.layers * 4 * shape.width
    tokens = wanted.rows * wanted.length * (2 if wanted.method == "dpo" else 1)
    if wanted.method == "full":
        weights, learning = 0, (linear + rest) * _LEARNT
    else:
        learning = _adapter(shape, wanted) * _LEARNT
        weights = (linear + rest) * wanted.bytes
        if wanted.method == "qlora":
            largest = max(inputs * outputs for _, inputs, outputs in _matrices(shape))
            share = linear / (linear + table * (1 if shape.tied else 2))
            weights = int(wanted.file * share) + rest * wanted.bytes + largest * 3 * wanted.bytes
    return Estimate(
        weights,
        learning,
        tokens * _kept(shape, wanted),
        min(tokens * shape.vocabulary, _LOGITS) * 4 * 3,
    )


def wanted(prepared: "Prepared", asked: "Asked", file: int) -> Wanted:
    """What decides the memory of a fine-tune whose data are read; `file`: bytes of the weights."""
    job = asked.training
    return Wanted(
        asked.method, job.adapter.rank, job.adapter.targets, prepared.rows, prepared.longest,
        job.checkpointing, 2 if job.precision == "bfloat16" else 4, file,
    )  # fmt: skip


def check(shape: Shape, wanted: Wanted, free: int) -> Estimate:
    """The estimate, where it is no more than what is `free`.

    Raises:
        OutOfMemory: with both numbers, and the first change that would make it fit.
    """
    found = estimate(shape, wanted)
    if found.total <= free:
        return found
    fits = [how for how, other in _smaller(wanted) if estimate(shape, other).total <= free]
    hint = f"type {fits[0]}" if fits else "choose a smaller model"
    raise OutOfMemory(
        f"the fine-tune takes {human(found.total)} ({_largest(found)}), and {human(free)} is free",
        hint,
    )


def disk(shape: Shape, wanted: Wanted, *, best: bool, whole: int) -> int:
    """Bytes on the disk at the most: its checkpoints, one of them being written, and what it makes.

    Args:
        best: whether the best weights are kept beside the newest.
        whole: bytes of a number of whole weights; 0: an adapter is made.
    """
    everything = _parameters(shape)
    learnt = everything if wanted.method == "full" else _adapter(shape, wanted)
    made = everything * whole if whole else 2 * 4 * learnt
    return (checkpoint.KEPT + 1) * learnt * 4 * (4 if best else 3) + made


def check_disk(needed: int, free: int) -> None:
    """Raises OutOfDisk where more is needed than is `free`."""
    if needed > free:
        raise OutOfDisk(
            f"the fine-tune takes {human(needed)} on the disk for checkpoints and the new model, "
            f"and {human(free)} is free",
            "free some space, or set OVERT_HOME to a folder on a larger disk",
        )


def _parameters(shape: Shape) -> int:
    linear = sum(inputs * outputs for _, inputs, outputs in _matrices(shape)) * shape.layers
    tables = shape.vocabulary * shape.width * (1 if shape.tied else 2)
    return linear + tables + shape.layers * 4 * shape.width


def _smaller(wanted: Wanted) -> Iterator[tuple[str, Wanted]]:
    """Changes that save memory, the one that costs least first."""
    told: list[str] = []
    if not wanted.checkpointing:
        wanted = replace(wanted, checkpointing=True)
        told.append("--checkpointing")
        yield " ".join(told), wanted
    while wanted.rows > 1:
        wanted = replace(wanted, rows=wanted.rows // 2)
        yield " ".join([*told, f"--batch {wanted.rows}"]), wanted
        if wanted.rows == 1:
            told.append("--batch 1")
    if wanted.method == "lora":
        wanted = replace(wanted, method="qlora")
        told.append("--method qlora")
        yield " ".join(told), wanted
    if wanted.method == "full":
        lora = replace(wanted, method="lora")
        yield " ".join([*told, "--method lora"]), lora
        wanted = replace(wanted, method="qlora")
        told.append("--method qlora")
        yield " ".join(told), wanted
    while wanted.length > 128:
        wanted = replace(wanted, length=wanted.length // 2)
        yield " ".join([*told, f"--length {wanted.length}"]), wanted


def _largest(found: Estimate) -> str:
    parts = {
        "the weights": found.weights,
        "what learns": found.learning,
        "what a batch leaves for the backward pass": found.activations,
        "the logits": found.logits,
    }
    name = max(parts, key=lambda one: parts[one])
    return f"{human(parts[name])} of it are {name}"


def _matrices(shape: Shape) -> Iterator[tuple[str, int, int]]:
    """Name, inputs and outputs of a layer's matrices."""
    queries, pairs = shape.heads * shape.head, shape.kv_heads * shape.head
    yield "q_proj", shape.width, queries
    yield "k_proj", shape.width, pairs
    yield "v_proj", shape.width, pairs
    yield "o_proj", queries, shape.width
    yield "gate_proj", shape.width, shape.inner
    yield "up_proj", shape.width, shape.inner
    yield "down_proj", shape.inner, shape.width


def _adapter(shape: Shape, wanted: Wanted) -> int:
    """Parameters of the adapter."""
    return shape.layers * sum(
        wanted.rank * (inputs + outputs)
        for name, inputs, outputs in _matrices(shape)
        if name in wanted.targets
    )


def _kept(shape: Shape, wanted: Wanted) -> int:
    """Bytes kept for the backward pass, of one token."""
    queries, pairs = shape.heads * shape.head, shape.kv_heads * shape.head
    # Two norms keep what came in and what went on, in 32 bits; attention its three inputs and its
    # result, twice where that is laid out anew; the MLP its gate before and after, the other half,
    # the product.
    inner = 3 * queries + 2 * pairs + 4 * shape.inner
    if wanted.method != "full":
        inner += wanted.rank * 7
    layer = 4 * 4 * shape.width + wanted.bytes * inner
    if wanted.checkpointing:  # what goes into each layer, and one that is computed again
        return 4 * shape.layers * shape.width + 4 * layer
    return (shape.layers + 2) * layer
