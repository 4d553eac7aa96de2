"""The numbers of a model, from safetensors or GGUF, in blocks of rows that fit any memory.

A file's header is checked before (`formats`), and so is every shape: nothing here is read that the
table of tensors does not hold. Three forms of the same number, which `Weight` ties: a release's
(transformers), ours in `transformer.Transformer` (its norms around 1), and GGUF's (ours, with the
rows of some matrices in another order).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overt.errors import FormatError, Unsupported
from overt.formats import gguf as gguf_file
from overt.formats import safetensors
from overt.formats.bounded import DAMAGED, shown
from overt.formats.ggml import TYPES
from overt.nets import architectures
from overt.nets.architectures import Weight
from overt.nets.shape import Shape

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Form = Literal["release", "ours", "gguf"]
_BLOCK = 1 << 22
"""Elements that are in memory at once as 32-bit numbers, unless one row or head has more."""
ROWS = {kind.name: (kind.block, kind.bytes) for kind in TYPES.values()}
"""Elements and bytes of a block, by GGUF's name of a type."""
_MAX_HALF = 65504.0
PLAIN = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Types of safetensors that are read, and the bytes of an element."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file. `shape` is row-major, `form` what its file holds."""

    path: Path
    offset: int
    type: str
    shape: tuple[int, ...]
    form: Form

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        block, size = ROWS[self.type] if self.form == "gguf" else (1, PLAIN[self.type])
        return self.columns // block * size

    def raw(self, first: int, count: int) -> bytes:
        """The bytes of some rows.

        Raises:
            FormatError: the file became shorter since its header was read.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset + first * self.row_bytes)
            data = file.read(count * self.row_bytes)
        if len(data) != count * self.row_bytes:
            raise FormatError(f"{shown(self.path.name)} became shorter while in use", DAMAGED)
        return data

    def read(self, first: int, count: int) -> "Array":
        """(count, columns) float32."""
        import numpy as np

        data = np.frombuffer(self.raw(first, count), np.uint8).reshape(count, self.row_bytes)
        if self.form == "gguf":
            return _dequantized(data, self.type).reshape(count, self.columns)
        return _widened(data, self.type).reshape(count, self.columns)


def _widened(data: "Array", type: str) -> "Array":
    import numpy as np

    if type == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[type]).astype(np.float32)


def _dequantized(data: "Array", type: str) -> "Array":
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    if type in ("F32", "F16", "BF16", "F64"):
        return _widened(data, type)
    try:
        return np.asarray(dequantize(data, GGMLQuantizationType[type]), np.float32)
    except (KeyError, NotImplementedError):
        raise Unsupported(f"weights of the type {shown(type)} cannot be read as numbers") from None


# ---- which tensors -------------------------------------------------------------------------


def of_release(
    files: Sequence[Path], wanted: Sequence[Weight], plain: Callable[[str], str | None]
) -> dict[str, Stored]:
    """The tensors of a safetensors model, by the names of `wanted`: all of them, and no others.

    Args:
        files: of one model; together they hold each tensor once.
        plain: the name of a tensor in `wanted`, or None for one that is left out.

    Raises:
        FormatError: tensors are missing, unknown, there twice, or of another shape.
    """
    shapes = {weight.name: weight.shape for weight in wanted}
    by_name: dict[str, Stored] = {}
    for path in files:
        for tensor in safetensors.read(path).tensors:
            name = plain(tensor.name)
            if name is None:
                continue
            if name not in shapes or name in by_name:
                what = "is there twice" if name in by_name else "has no place in this architecture"
                raise FormatError(f"the tensor {shown(tensor.name)} {what}")
            _fits(tensor.name, tensor.shape, shapes[name])
            if tensor.type not in PLAIN:
                raise FormatError(
                    f"{shown(tensor.name)} is {tensor.type}, where {', '.join(PLAIN)} are read"
                )
            by_name[name] = Stored(path, tensor.offset, tensor.type, tensor.shape, "release")
    _complete(shapes, by_name)
    return by_name


def of_gguf(header: gguf_file.GgufHeader, wanted: Sequence[Weight]) -> dict[str, Stored]:
    """The tensors of a GGUF model, by their names in a release: all of `wanted`, and no others.

    Raises:
        FormatError: tensors are missing or of another shape.
        Unsupported: it has tensors that `wanted` knows nothing of.
    """
    names = {weight.gguf: weight for weight in wanted}
    by_name: dict[str, Stored] = {}
    for tensor in header.tensors:
        if tensor.name == architectures.ROPE_FREQS:
            continue
        weight = names.get(tensor.name)
        if weight is None:
            raise Unsupported(
                f"the tensor {shown(tensor.name)} has no place in the architecture "
                f"{header.architecture}, as it is known here"
            )
        shape = tensor.shape[::-1]
        _fits(tensor.name, shape, weight.shape)
        path = header.parts[tensor.part] if header.parts else header.path
        by_name[weight.name] = Stored(path, tensor.offset, tensor.type, shape, "gguf")
    _complete({weight.name: weight.shape for weight in wanted}, by_name)
    return by_name


def _fits(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise FormatError(f"{shown(name)} has the shape {shape}, where {wanted} is expected")


def _complete(wanted: Mapping[str, Any], by_name: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in by_name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FormatError(f"the weights lack {missing[0]}{more}")


def shape_and_tensors(path: Path) -> tuple[Shape, tuple[Weight, ...], dict[str, Stored]]:
    """A GGUF model's shape, its tensors as the architecture has them, and where they lie.

    Raises:
        FormatError, Unsupported: as `architectures.shape_of_gguf` and `of_gguf`.
    """
    header = gguf_file.read(path)
    known = architectures.of_gguf(header)
    shape = architectures.shape_of_gguf(header)
    extra = [tensor for tensor in header.tensors if tensor.name == architectures.ROPE_FREQS]
    if extra:
        _fits(extra[0].name, extra[0].shape, (shape.head // 2,))
        place = header.parts[extra[0].part] if header.parts else header.path
        stored = Stored(place, extra[0].offset, extra[0].type, extra[0].shape, "gguf")
        shape = architectures.with_divisors(shape, tuple(stored.read(0, 1)[0].tolist()))
    weights = known.weights(shape)
    return shape, weights, of_gguf(header, weights)


# ---- their numbers -------------------------------------------------------------------------


def rows(weight: Weight, stored: Stored, form: Form) -> Iterator[tuple[int, "Array"]]:
    """A tensor's numbers in blocks: the first row of each, and float32 (rows, columns).

    One-dimensional tensors are one row.

    Raises:
        FormatError: a number is infinite or none; the file changed.
    """
    import numpy as np

    head = stored.rows // weight.heads if weight.heads else 1
    step = max(_BLOCK // max(stored.columns, 1) // head, 1) * head
    for first in range(0, stored.rows, step):
        block = stored.read(first, min(step, stored.rows - first))
        if not np.isfinite(block).all():
            raise FormatError(f"{shown(weight.name)} holds numbers that are infinite or none")
        if weight.heads:
            block = ordered(block, head, stored.form == "gguf", form == "gguf")
        if weight.shift and (stored.form == "release") != (form == "release"):
            block = block + np.float32(weight.shift if stored.form == "release" else -weight.shift)
        yield first, block


def packed_rows(weight: Weight, stored: Stored) -> "Array":
    """A GGUF tensor's own bytes, (rows, bytes of a row) uint8, with the rows in our order."""
    import numpy as np

    data = np.frombuffer(stored.raw(0, stored.rows), np.uint8).reshape(stored.rows, -1)
    if weight.heads:
        return ordered(data, stored.rows // weight.heads, is_gguf=True, to_gguf=False)
    return data.copy()  # torch wants bytes that may be written


def ordered(block: "Array", head: int, is_gguf: bool, to_gguf: bool) -> "Array":
    """Rows of whole heads: the two halves of each head, or its neighbours, beside each other."""
    if is_gguf == to_gguf:
        return block
    pair = (head // 2, 2) if is_gguf else (2, head // 2)
    cut = block.reshape(-1, *pair, block.shape[1])
    return cut.swapaxes(1, 2).reshape(block.shape)


def encoded(block: "Array", type: str, name: str) -> bytes:
    """Numbers of float32 in the bytes of `type`, plain or quantized; to the nearest, ties to even.

    Raises:
        FormatError: a number that `type` cannot hold.
    """
    import numpy as np

    match type:
        case "F32":
            return block.astype("<f4", copy=False).tobytes()
        case "F16":
            if (largest := float(np.abs(block).max(initial=0.0))) > _MAX_HALF:
                raise FormatError(
                    f"{name} holds {largest:g}, and f16 ends at {_MAX_HALF:g}",
                    "--type bf16 has room for it",
                )
            return block.astype("<f2").tobytes()
        case "BF16":
            bits = np.ascontiguousarray(block, "<f4").view("<u4")
            half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
            return bytes(((bits + half) >> np.uint32(16)).astype("<u2").tobytes())
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return bytes(quantize(np.ascontiguousarray(block), GGMLQuantizationType[type]).tobytes())
