"""Each tensor of a model beside the same tensor of the one it is said to come from.

A base may lie in another format: between transformers' names and llama.cpp's stand the tables of
`shapes.layouts`, the pairing of rows of q and k, stacked experts, and norms that llama.cpp keeps
plus one. Rows are read in chunks, never a whole model; from large models only some rows of every
tensor, at places that depend on nothing but its size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overt.errors import INSTALL_LAB, FormatError
from overt.openness.shapes import plan
from overt.openness.shapes.layouts import BY_MODEL_TYPE, GGUF_NAMES, Layout
from overt.openness.subject import tensors

if TYPE_CHECKING:
    import numpy as np

    from overt.openness.subject.subject import Subject
    from overt.openness.subject.tensors import LocatedTensor, Weights

    Array = np.ndarray[Any, Any]

CHUNK = 1 << 21
"""Elements that are looked at together."""
_PLACES = 4  # chunks of a tensor that is not read whole
_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
VOCABULARY = ("token_embd.weight", "output.weight")
"""What may have fewer rows than in the base: llama.cpp leaves out those of no token."""
Rows = Callable[[int, int], "Array"]


@dataclass(frozen=True)
class TensorPair:
    """`rows(a, b)` are those rows of the base as the subject would store them, in 32 bits; `theirs`
    is the type the base has them in, where the two have one format."""

    mine: "LocatedTensor"
    rows: Rows
    base: str
    theirs: str = ""

    @property
    def width(self) -> int:
        return self.mine.shape[-1] if self.mine.shape else 1

    @property
    def height(self) -> int:
        return math.prod(self.mine.shape[:-1])

    def places(self, most: int) -> Iterator[tuple[int, int]]:
        """Ranges of rows of at most `most` elements in all, each of at most CHUNK."""
        step = max(1, CHUNK // self.width)
        if self.mine.parameters <= most:
            for start in range(0, self.height, step):
                yield start, min(self.height, start + step)
            return
        part = max(1, min(step, most // self.width // _PLACES))
        for number in range(_PLACES):
            start = (self.height - part) * number // (_PLACES - 1)
            yield start, start + part


@dataclass(frozen=True)
class PairedTensors:
    """What two models have in common.

    Attributes:
        apart: tensors of one name and of different shapes: name, mine, the base's.
        alone: tensors that only the subject has.
    """

    pairs: tuple[TensorPair, ...]
    apart: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    alone: tuple[str, ...] = ()


def missing() -> str | None:
    """Why nothing can be compared here: a package of the extra `lab` is missing."""
    try:
        import gguf  # noqa: F401
        import numpy  # noqa: F401
    except ImportError as error:
        return f"comparing needs the package {error.name}; {INSTALL_LAB}"
    return None


def of(weights: "Weights", subject: "Subject", base: "Subject") -> PairedTensors | str:
    """Pairs in the order of the subject's file; a reason where the two do not come together."""
    models = [model for model in tensors.of(base) if model.tensors and not model.lacking]
    if not models or weights.headers_only or any(model.headers_only for model in models):
        return (
            "the base has no weights here" if not models else "only the weights' headers are here"
        )
    same = [model for model in models if model.format == weights.format]
    # Of several GGUF files the one with the most bits is the base.
    chosen = max(same or models, key=lambda model: sum(t.size for t in model.tensors.values()))
    if weights.format == chosen.format:
        if weights.header and chosen.header:
            mine, theirs = weights.header.architecture, chosen.header.architecture
            if mine != theirs:
                return f"the architectures are {mine[:40]} and {theirs[:40]}"
        return _same(weights, chosen)
    if weights.format == "gguf":
        return _converted(weights, chosen, base)
    return "the base is a GGUF file and the model is not"


def _ordered(weights: "Weights") -> "list[LocatedTensor]":
    return sorted(weights.tensors.values(), key=lambda tensor: (tensor.file, tensor.offset))


def _same(weights: "Weights", base: "Weights") -> PairedTensors:
    hf = weights.format == "safetensors"
    theirs = {plan.short(n) if hf else n: t for n, t in base.tensors.items()}
    pairs, apart, alone = [], [], []
    for mine in _ordered(weights):
        other = theirs.get(plan.short(mine.name) if hf else mine.name)
        if other is None:
            alone.append(mine.name)
        elif other.shape != mine.shape:
            apart.append((mine.name, mine.shape, other.shape))
        else:
            pairs.append(TensorPair(mine, _plain(other), other.name, other.type))
    return PairedTensors(tuple(pairs), tuple(apart), tuple(alone))


def _plain(other: "LocatedTensor") -> Rows:
    return lambda start, stop: read(other, start, stop)


# ---- transformers' weights as llama.cpp stores them ----------------------------------------


def _converted(weights: "Weights", base: "Weights", subject: "Subject") -> PairedTensors | str:
    config = plan.text_config(subject.config or {})
    kind = str(config.get("model_type", ""))
    layout = BY_MODEL_TYPE.get(kind)
    header = weights.header
    if layout is None or header is None:
        return f"how llama.cpp converts {kind[:40] or 'a model without config.json'} is not known"
    if GGUF_NAMES.get(kind, kind) != header.architecture:
        return f"the architectures are {header.architecture[:40]} and {kind[:40]}"
    if kind.startswith("deepseek"):
        return f"how llama.cpp rearranges {kind} is not followed"
    sources = _sources(layout, base, header.block_count or 0)
    turning = {row.gguf for row in layout.block if "T" in row.tags}
    transposed = {name for name in sources if name.split(".", 2)[-1] in turning}
    permuted = layout.permuted and _is_permuted(weights, sources, header)
    pairs, apart, alone = [], [], []
    for mine in _ordered(weights):
        parts = sources.get(mine.name)
        if not parts:
            alone.append(mine.name)
            continue
        shape = parts[0].shape if len(parts) == 1 else (len(parts), *parts[0].shape)
        turned = mine.name in transposed
        shape = shape[::-1] if turned else shape
        if len(mine.shape) == 3 and len(parts) == 1:
            shape = (1, *shape)
        if mine.name in VOCABULARY and mine.shape[1:] == shape[1:] and mine.shape[0] < shape[0]:
            shape = mine.shape
        if shape != mine.shape or len({part.shape for part in parts}) > 1:
            apart.append((mine.name, mine.shape, shape))
            continue
        heads = _heads(mine.name, header) if permuted else 0
        added = layout.added and mine.name.endswith("norm.weight")
        rows = _joined_rows(parts, heads, added=added)
        if kind == "gpt_neox" and ".attn_qkv." in mine.name:
            rows = _unmixed(parts[0], header.head_counts[0] if header.head_counts else 1)
        elif turned:
            rows = _turned(parts[0])
        pairs.append(TensorPair(mine, rows, parts[0].name))
    return PairedTensors(tuple(pairs), tuple(apart), tuple(alone))


def _sources(layout: Layout, base: "Weights", blocks: int) -> "dict[str, list[LocatedTensor]]":
    """The base's tensors by the name that llama.cpp gives them; experts in order."""
    theirs = {plan.short(name): tensor for name, tensor in base.tensors.items()}
    sources: dict[str, list[LocatedTensor]] = {}
    rows = [("", "", row) for row in layout.top]
    for number in range(min(blocks, plan.MAX_BLOCKS)):
        start = layout.place.format(number)
        rows += [(f"blk.{number}.", start, row) for row in layout.block]
    for to, start, row in rows:
        names = [start + row.hf]
        if "{e}" in row.hf:
            names = [start + row.hf.format(e=e) for e in range(plan.MAX_EXPERTS)]
        parts = []
        for name in names:
            if name not in theirs:
                break
            parts.append(theirs[name])
        bias = theirs.get(names[0].removesuffix("weight") + "bias")
        if parts:
            sources.setdefault(to + row.gguf, parts)
        if bias is not None and row.gguf.endswith(".weight"):
            sources.setdefault(to + row.gguf.removesuffix("weight") + "bias", [bias])
    return sources


def _heads(name: str, header: Any) -> int:
    """Heads whose rows are paired up in this tensor; 0 for none."""
    if not name.startswith("blk."):
        return 0
    block, _, part = name.removeprefix("blk.").partition(".")
    counts = {"attn_q": header.head_counts, "attn_k": header.kv_head_counts}.get(part.split(".")[0])
    number = int(block) if block.isdigit() else len(counts or ())
    return int(counts[number]) if counts and number < len(counts) else 0


def _is_permuted(
    weights: "Weights", sources: "dict[str, list[LocatedTensor]]", header: Any
) -> bool:
    """Whether the first q is nearer to the base with its rows paired up than without.

    Some converters of models that say ``llama`` leave the rows as they are.
    """
    import numpy as np

    name = "blk.0.attn_q.weight"
    mine, theirs = weights.tensors.get(name), sources.get(name)
    heads = _heads(name, header)
    if mine is None or not theirs or theirs[0].shape != mine.shape or not heads:
        return True
    stop = max(1, mine.shape[0] // heads)
    values = read(mine, 0, stop)
    with np.errstate(all="ignore"):
        paired = values - _joined_rows(theirs, heads, added=False)(0, stop)
        plain = values - read(theirs[0], 0, stop)
        return bool(np.vdot(paired, paired) <= np.vdot(plain, plain))


def _joined_rows(parts: "list[LocatedTensor]", heads: int, *, added: bool) -> Rows:
    def rows(start: int, stop: int) -> "Array":
        import numpy as np

        if len(parts) > 1:
            return _stacked(parts, start, stop)
        only = parts[0]
        if heads and len(only.shape) == 1:
            return read(only, 0, 1)[:, _paired(only.shape[0], heads, 0, only.shape[0])]
        if heads:
            wanted = _paired(only.shape[0], heads, start, stop)
            first = int(wanted.min())
            return np.ascontiguousarray(read(only, first, int(wanted.max()) + 1)[wanted - first])
        array = read(only, start, stop)
        return array + np.float32(1) if added else array

    return rows


def _paired(rows: int, heads: int, start: int, stop: int) -> "Array":
    """Where rows start to stop of q or k, as llama.cpp orders them, are for transformers."""
    import numpy as np

    head = max(2, rows // heads)
    at = np.arange(start, stop)
    inner = at % head
    return at - inner + inner // 2 + (inner % 2) * (head // 2)


def _unmixed(part: "LocatedTensor", heads: int) -> Rows:
    """GPT-NeoX keeps q, k and v of a head together; llama.cpp has all q, then all k, then all v."""

    def rows(start: int, stop: int) -> "Array":
        import numpy as np

        total = part.shape[0]
        head = max(1, total // (3 * max(1, heads)))
        at = np.arange(total).reshape(heads, 3, head).swapaxes(0, 1).ravel()
        if len(part.shape) == 1:
            return read(part, 0, 1)[:, at]
        wanted = at[start:stop]
        first = int(wanted.min())
        return np.ascontiguousarray(read(part, first, int(wanted.max()) + 1)[wanted - first])

    return rows


def _turned(part: "LocatedTensor") -> Rows:
    """GPT-2's matrices are stored with their inputs first."""

    def rows(start: int, stop: int) -> "Array":
        import numpy as np

        return np.ascontiguousarray(read(part, 0, part.shape[0])[:, start:stop].T)

    return rows


def _stacked(parts: "list[LocatedTensor]", start: int, stop: int) -> "Array":
    import numpy as np

    height = math.prod(parts[0].shape[:-1])
    blocks = []
    while start < stop:
        number, inner = divmod(start, height)
        end = min(height, inner + stop - start)
        blocks.append(read(parts[number], inner, end))
        start += end - inner
    return np.concatenate(blocks)


# ---- reading -------------------------------------------------------------------------------


def raw(tensor: "LocatedTensor", start: int, stop: int) -> bytes:
    """The bytes of some rows.

    Raises:
        FormatError: the file cannot be read, or is shorter than its header says.
    """
    height = math.prod(tensor.shape[:-1])
    width = tensor.size // max(1, height)
    try:
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset + start * width)
            data = file.read((stop - start) * width)
    except OSError as error:
        raise FormatError(f"{tensor.file} cannot be read: {error.strerror}") from None
    if len(data) != (stop - start) * width:
        raise FormatError(f"{tensor.file} became shorter while in use")
    return data


def read(tensor: "LocatedTensor", start: int, stop: int) -> "Array":
    """Some rows, in 32 bits.

    Raises:
        FormatError: as `raw`, or a type that cannot be decoded.
    """
    return decoded(raw(tensor, start, stop), tensor.type, stop - start)


def decoded(data: bytes, type: str, rows: int) -> "Array":
    """Rows of any type, in 32 bits."""
    import numpy as np

    dtype = _DTYPES.get(type)
    if dtype is not None:
        values = np.frombuffer(data, dtype=dtype).reshape(rows, -1)
        if type == "BF16":
            return (values.astype("<u4") << 16).view("<f4")
        with np.errstate(all="ignore"):
            return values.astype(np.float32)
    import gguf

    try:
        kind = gguf.GGMLQuantizationType[type]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.frombuffer(data, dtype=np.uint8).reshape(rows, -1)
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(blocks, kind)
        return np.asarray(values, dtype=np.float32).reshape(rows, len(blocks[0]) // size * block)
    except (KeyError, NotImplementedError, ValueError) as error:
        raise FormatError(f"the tensor type {type} cannot be decoded: {str(error)[:80]}") from None
