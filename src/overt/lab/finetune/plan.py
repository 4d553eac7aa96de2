"""What a fine-tune takes, before it starts: memory at its peak and room on the disk, and what to
change where it is more than there is.

An estimate by the shape, of what `nets.transformer` and `nets.lora` keep: the weights in their
type, and of those that stay in the file's blocks the bytes; per learnt parameter its gradient,
AdamW's two moments and the best so far in 32 bits; per token and layer what the backward pass
needs; logits of the tokens of one piece of the loss. The tests hold it against the peak of real
runs, within `MARGIN`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from overt.errors import OutOfDisk, OutOfMemory
from overt.lab.finetune import checkpoint, data
from overt.models.memory import human
from overt.nets.shape import Shape

if TYPE_CHECKING:
    from overt.lab.finetune.config import FinetuneConfig
    from overt.lab.finetune.prepare import PreparedFinetune

MARGIN: Final = 0.3
"""How far the estimate may be from the peak of a run."""
_PROGRAM: Final = 330 << 20
"""Python, torch, and the pages of both that are used."""
_LOGITS: Final = 1 << 24
"""Logits that exist at once, as `loss.py` has it; of several such tables."""
_LEARNT: Final = 16
"""Bytes of a parameter that learns: itself, gradient, two moments, in 32 bits."""
_BEST: Final = 4
"""And its value in the best weights so far, where something is held out."""


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """What decides the memory.

    Attributes:
        method: ``lora``, ``qlora``, ``full`` or ``dpo``.
        rank, targets: of the adapter.
        rows, length: of a batch.
        checkpointing: keep only what goes into each layer.
        bytes: of a number of the frozen weights and of what flows: 4 or 2.
        file: bytes of the layers' matrices as they lie on the disk.
        kept: preferences, with the frozen weights as the file has them; with ``qlora`` they are.
        embedding, output: bytes of those two tables as they lie on the disk; 0: in 32 bits.
        sight: tokens of the longest sequence of a row; 0: `length`.
        best: whether the best weights so far are kept.
    """

    method: str
    rank: int
    targets: tuple[str, ...]
    rows: int
    length: int
    checkpointing: bool
    bytes: int
    file: int
    kept: bool = False
    embedding: int = 0
    output: int = 0
    sight: int = 0
    best: bool = False

    @property
    def packed(self) -> bool:
        """Whether the frozen weights stay in the blocks of their file."""
        return self.method == "qlora" or self.kept


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


def estimate(shape: Shape, wanted: MemoryRequest) -> Estimate:
    """The memory of a fine-tune at its peak."""
    tokens = wanted.rows * wanted.length * (2 if wanted.method == "dpo" else 1)
    each = _LEARNT + (_BEST if wanted.best else 0)
    if wanted.method == "full":
        weights, learning = _copies(shape, wanted), _parameters(shape) * each
    else:
        weights, learning = _frozen(shape, wanted), _adapter(shape, wanted) * each
    tables = 4 if shape.final_cap else 3
    return Estimate(
        weights,
        learning,
        tokens * _activation_bytes(shape, wanted),
        min(tokens * shape.vocabulary, _LOGITS) * 4 * tables,
    )


def _frozen(shape: Shape, wanted: MemoryRequest) -> int:
    """Bytes of what does not learn, with what is made of it for a moment."""
    table, norms = shape.vocabulary * shape.width, shape.layers * 4 * shape.width * 4
    largest = max(inputs * outputs for _, inputs, outputs in _matrices(shape)) * wanted.bytes
    embedding = wanted.embedding or table * 4
    if wanted.packed:  # a matrix is unpacked, and in 16 bits laid beside its adapter
        output = 0 if shape.tied else wanted.output or table * 4
        return wanted.file + embedding + output + norms + 2 * largest
    matrices = _linear(shape) + table
    if shape.tied and wanted.bytes == 4:
        return matrices * 4 + norms
    return matrices * wanted.bytes + embedding + norms + (largest if wanted.bytes == 2 else 0)


def _copies(shape: Shape, wanted: MemoryRequest) -> int:
    """Bytes of what is made of weights that learn: in 16 bits; and a tied table's second gradient.

    The first is kept from the forward pass for the backward pass.
    """
    table = shape.vocabulary * shape.width
    low = (_linear(shape) + table) * 2 if wanted.bytes == 2 else 0
    return low + (table * 4 if shape.tied else 0)


def memory_request(prepared: "PreparedFinetune", config: "FinetuneConfig") -> MemoryRequest:
    """What decides the memory of a fine-tune whose data are read."""
    job = config.training
    number = 2 if job.precision == "bfloat16" else 4
    sizes = {"token_embd.weight": 0, "output.weight": 0, "": 0}
    for tensor in prepared.base.header.tensors:
        name = tensor.name if tensor.name in sizes else ""
        if name or len(tensor.shape) > 1:
            plain = tensor.type == "F32" and not name  # those are converted as they are loaded
            sizes[name] += tensor.parameters * number if plain else tensor.size
    return MemoryRequest(
        config.method,
        job.adapter.rank,
        job.adapter.targets,
        prepared.rows,
        prepared.longest,
        job.checkpointing,
        number,
        sizes[""],
        config.keep_quantized,
        sizes["token_embd.weight"],
        sizes["output.weight"],
        min(prepared.longest, max(data.words(prepared.train_examples))),
        bool(prepared.held),
    )


def check(shape: Shape, wanted: MemoryRequest, free: int) -> Estimate:
    """The estimate, where it is no more than what is `free`.

    Raises:
        OutOfMemory: with both numbers, and the first change that would make it fit.
    """
    result = estimate(shape, wanted)
    if result.total <= free:
        return result
    fits = [how for how, other in _smaller(wanted) if estimate(shape, other).total <= free]
    hint = f"type {fits[0]}" if fits else "choose a smaller model"
    raise OutOfMemory(
        f"the fine-tune takes {human(result.total)} ({_largest(result)}), and {human(free)} is "
        "free",
        hint,
    )


def disk(shape: Shape, wanted: MemoryRequest, *, best: bool, whole: int) -> int:
    """Bytes on the disk at the most: its checkpoints, one of them being written, and what it makes.

    Args:
        best: whether the best weights are kept beside the newest.
        whole: bytes of a number of whole weights; 0: an adapter is made.
    """
    everything = _parameters(shape)
    learnt = everything if wanted.method == "full" else _adapter(shape, wanted)
    made = everything * whole if whole else 2 * 4 * learnt
    return (checkpoint.KEEP_CHECKPOINTS + 1) * learnt * 4 * (4 if best else 3) + made


def check_disk(needed: int, free: int) -> None:
    """Raises OutOfDisk where more is needed than is `free`."""
    if needed > free:
        raise OutOfDisk(
            f"the fine-tune takes {human(needed)} on the disk for checkpoints and the new model, "
            f"and {human(free)} is free",
            "free some space, or set OVERT_HOME to a folder on a larger disk",
        )


def _linear(shape: Shape) -> int:
    """Numbers of the layers' matrices."""
    return sum(inputs * outputs for _, inputs, outputs in _matrices(shape)) * shape.layers


def _parameters(shape: Shape) -> int:
    tables = shape.vocabulary * shape.width * (1 if shape.tied else 2)
    return _linear(shape) + tables + shape.layers * 4 * shape.width


def _smaller(wanted: MemoryRequest) -> Iterator[tuple[str, MemoryRequest]]:
    """Changes that save memory, the one that costs least first."""
    flags: list[str] = []
    if not wanted.checkpointing:
        wanted = replace(wanted, checkpointing=True)
        flags.append("--checkpointing")
        yield " ".join(flags), wanted
    while wanted.rows > 1:
        wanted = replace(wanted, rows=wanted.rows // 2)
        yield " ".join([*flags, f"--batch {wanted.rows}"]), wanted
        if wanted.rows == 1:
            flags.append("--batch 1")
    if wanted.method == "lora":
        wanted = replace(wanted, method="qlora")
        flags.append("--method qlora")
        yield " ".join(flags), wanted
    if wanted.method == "dpo" and not wanted.kept:
        wanted = replace(wanted, kept=True)
        flags.append("--keep-quantized")
        yield " ".join(flags), wanted
    if wanted.method == "full":
        lora = replace(wanted, method="lora")
        yield " ".join([*flags, "--method lora"]), lora
        wanted = replace(wanted, method="qlora")
        flags.append("--method qlora")
        yield " ".join(flags), wanted
    while wanted.length > 128:
        length = wanted.length // 2
        wanted = replace(wanted, length=length, sight=min(wanted.sight, length))
        yield " ".join([*flags, f"--length {wanted.length}"]), wanted


def _largest(estimate_: Estimate) -> str:
    parts = {
        "the weights": estimate_.weights,
        "what learns": estimate_.learning,
        "what a batch leaves for the backward pass": estimate_.activations,
        "the logits": estimate_.logits,
    }
    name = max(parts, key=lambda part: parts[part])
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


def _adapter(shape: Shape, wanted: MemoryRequest) -> int:
    """Parameters of the adapter."""
    return shape.layers * sum(
        wanted.rank * (inputs + outputs)
        for name, inputs, outputs in _matrices(shape)
        if name in wanted.targets
    )


def _activation_bytes(shape: Shape, wanted: MemoryRequest) -> int:
    """Bytes kept for the backward pass, of one token."""
    layer, sight = _layer(shape, wanted), wanted.sight or wanted.length
    scores = 0
    if shape.attention_cap:  # both sides of the soft maximum, which no fused kernel saves
        scores = 8 * shape.heads * sight
    local = sum(shape.local) if shape.window and sight > shape.window else 0
    masks = 4 * sight * local
    worked = 2 * layer + 2 * scores  # of the layer whose gradient is being computed
    if wanted.checkpointing:  # what goes into each layer, and one that is computed again
        return 4 * shape.layers * shape.width + layer + scores + masks // max(local, 1) + worked
    return shape.layers * (layer + scores) + masks + worked


def _layer(shape: Shape, wanted: MemoryRequest) -> int:
    """Bytes that one layer keeps of one token, but for scores."""
    learns, number, width = wanted.method == "full", wanted.bytes, shape.width
    queries, pairs = shape.heads * shape.head, shape.kv_heads * shape.head
    norms = 4 if shape.norms == "both" else 2
    # what goes into a norm, which is the stream in 32 bits or what is added to it; and what
    # comes out of it, or what was made of that
    bytes_kept = 2 * 4 * width + (norms - 2) * number * width + 2 * number * width
    if learns:  # and that before the weight, and the stream again in 16 bits
        bytes_kept += norms * 4 * width + (3 * number * width if number == 2 else 0)
    # attention's three inputs and its result in 32 bits, which is laid out anew
    bytes_kept += (number if learns else 4) * 2 * (queries + pairs) + number * queries
    if shape.qk_norm:
        bytes_kept += (4 if learns else number) * (queries + pairs)
    if shape.clip:
        bytes_kept += number * (queries + 2 * pairs)
    # the gate before its activation, the other half, the product
    bytes_kept += 3 * number * shape.inner
    return bytes_kept if learns else bytes_kept + 7 * number * wanted.rank
