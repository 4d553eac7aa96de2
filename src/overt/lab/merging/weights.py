"""The tensors of GGUF files one at a time, and a GGUF file of new tensors with old metadata.

The metadata is copied byte for byte from the file it comes from: what this version knows nothing
of stays as it is.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from overt.errors import FormatError
from overt.formats import gguf
from overt.formats.gguf import Header, TensorInfo

if TYPE_CHECKING:
    import numpy as np

Type = Literal["f32", "f16", "bf16"]
TYPES: Final[Mapping[str, tuple[int, int, int]]] = {
    "f32": (0, 4, 0),
    "f16": (1, 2, 1),
    "bf16": (30, 2, 32),
}
"""Number of the tensor type in GGUF, bytes of an element, and the file type."""
_UINT32, _STRING, _ARRAY = 4, 8, 9
_WIDTHS = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)
_DROPPED = ("split.", "quantize.", "general.quantized_by", "general.file_type")
"""Metadata that is not true of the new file; the last is written anew."""


class Tensors:
    """The tensors of a GGUF model, whole or split, read where they lie."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises FormatError: not a GGUF file, or one that contradicts itself."""
        import numpy as np

        self.header: Header = gguf.read(path)
        self.name = name
        self.by_name = {one.name: one for one in self.header.tensors}
        files = self.header.parts or (path,)
        self._data = [np.memmap(file, np.uint8, "r") for file in files]

    def raw(self, name: str) -> bytes:
        one = self.by_name[name]
        return bytes(self._data[one.part][one.offset : one.offset + one.size])

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """One tensor in 32 bits, a copy; rows first: the shape is that of the file turned around.

        Raises:
            FormatError: a type that cannot be read, or numbers that are none.
        """
        import numpy as np
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        one = self.by_name[name]
        shape = one.shape[::-1]
        rows = one.parameters // one.shape[0]
        data = self._data[one.part][one.offset : one.offset + one.size].reshape(rows, -1)
        try:
            found = dequantize(data, GGMLQuantizationType[one.type])
        except (KeyError, NotImplementedError):
            raise FormatError(
                f"{name} of {self.name} is {one.type}, which cannot be read here"
            ) from None
        found = np.require(found, np.float32, ("C", "W")).reshape(shape)
        if not np.isfinite(found).all():
            raise FormatError(
                f"{name} of {self.name} holds numbers that are none (NaN or infinity)"
            )
        return found

    def is_float(self, name: str) -> bool:
        """Whether the tensor holds weights; others (indexes) are not mixed."""
        return self.by_name[name].type not in ("I8", "I16", "I32", "I64", "F64")


def stored(one: TensorInfo, header: Header, type: Type) -> Type:
    """What a tensor is written as: rows of numbers as `type`, single rows (norms, biases) whole.

    llama.cpp adds and multiplies by single rows in 32 bits only. What the file has in 32 bits
    beside smaller numbers has a reason, and stays so.
    """
    if len(one.shape) < 2 or not one.name.endswith(".weight"):
        return "f32"
    return "f32" if one.type == "F32" and header.number("general.file_type") else type


def encoded(array: "np.ndarray[Any, Any]", type: Type, name: str) -> bytes:
    """The bytes of a tensor.

    Raises:
        FormatError: a number that has no place in `type`.
    """
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    if not np.isfinite(array).all():
        raise FormatError(f"{name} became NaN or infinite", "choose smaller weights or --scale")
    if type == "f32":
        return array.astype("<f4").tobytes()
    if type == "bf16":
        return bytes(quantize(array, GGMLQuantizationType.BF16).tobytes())
    largest = float(np.abs(array).max(initial=0))
    if largest >= 65520:
        raise FormatError(
            f"{name} holds {largest:.6g}, and f16 ends at 65504", "--type bf16 has room for it"
        )
    return array.astype("<f2").tobytes()


def write(
    target: Path,
    first: Tensors,
    type: Type,
    make: Callable[[TensorInfo], bytes],
    done: Callable[[int, int], None],
) -> None:
    """Write the GGUF file `target` with the metadata and tensor names of `first`.

    A file that was cut off goes on after its last whole tensor, where its beginning is the same.

    Args:
        make: gives the bytes of a tensor, as `stored` says it is written.
        done: is told bytes written and bytes in all.
    """
    tensors = first.header.tensors
    head, ends = _layout(first, type)
    begun = _begun(target, head)
    with target.open("r+b" if begun else "wb") as file:
        at = len(head)
        if begun:
            whole = sum(end <= begun for end in ends)
            at = ends[whole - 1] if whole else at
            file.truncate(at)
            file.seek(at)
        else:
            whole = 0
            file.write(head)
        for one, end in zip(tensors[whole:], ends[whole:], strict=True):
            data = make(one)
            file.write(data)
            file.write(bytes(end - at - len(data)))
            file.flush()
            at = end
            done(at, ends[-1])


def _begun(target: Path, head: bytes) -> int:
    """How long a file of the same beginning is already, or 0."""
    try:
        with target.open("rb") as file:
            return target.stat().st_size if file.read(len(head)) == head else 0
    except OSError:
        return 0


def _layout(first: Tensors, type: Type) -> tuple[bytes, list[int]]:
    """Everything before the data, and where each tensor ends, its padding included."""
    header = first.header
    pad = header.alignment
    pairs = [raw for key, raw in _pairs(header) if not key.startswith(_DROPPED)]
    pairs.append(_string("general.file_type") + struct.pack("<II", _UINT32, TYPES[type][2]))
    table, offset, sizes = b"", 0, []
    for one in header.tensors:
        if first.is_float(one.name):
            kind, width, _ = TYPES[stored(one, header, type)]
            size = one.parameters * width
        else:
            kind, size = _number(one.type), one.size
        table += _string(one.name) + struct.pack("<I", len(one.shape))
        table += struct.pack(f"<{len(one.shape)}QIQ", *one.shape, kind, offset)
        offset += size + -size % pad
        sizes.append(offset)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(header.tensors), len(pairs))
    head += b"".join(pairs) + table
    head += bytes(-len(head) % pad)
    return head, [len(head) + size for size in sizes]


def _number(type: str) -> int:
    from gguf import GGMLQuantizationType

    return int(GGMLQuantizationType[type])


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pairs(header: Header) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of each pair of metadata. `gguf.read` has proved that the lengths are right."""
    import mmap

    with (
        header.path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        at = 24
        for _ in range(int.from_bytes(data[16:24], "little")):
            begun = at
            length = int.from_bytes(data[at : at + 8], "little")
            key = bytes(data[at + 8 : at + 8 + length]).decode("utf-8", "replace")
            at += 8 + length
            kind = int.from_bytes(data[at : at + 4], "little")
            at = _after(data, at + 4, kind)
            yield key, bytes(data[begun:at])


def _after(data: Any, at: int, kind: int) -> int:
    """Where a value ends that begins at `at`."""
    if kind == _STRING:
        return at + 8 + int.from_bytes(data[at : at + 8], "little")
    if kind != _ARRAY:
        return at + _WIDTHS[kind]
    inner = int.from_bytes(data[at : at + 4], "little")
    count = int.from_bytes(data[at + 4 : at + 12], "little")
    at += 12
    if inner not in (_STRING, _ARRAY):
        return at + count * _WIDTHS[inner]
    for _ in range(count):
        at = _after(data, at, inner)
    return at
