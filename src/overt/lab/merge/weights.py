"""The tensors of GGUF files one at a time, and a GGUF file of new tensors with old metadata.

The metadata is copied byte for byte from the file it comes from: what this version knows nothing
of stays as it is. Only what names that very model gives way to where the new one comes from.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from overt.errors import FormatError, Unsupported
from overt.formats import gguf
from overt.formats.bounded import DAMAGED
from overt.formats.gguf import GgufHeader, GgufTensor
from overt.nets import weights as numbers
from overt.nets.weights import Stored
from overt.provenance.gguf_keys import Pair

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
_DROPPED = (
    "split.",
    "quantize.",
    "general.quantized_by",
    "general.file_type",
    "general.name",
    "general.author",
    "general.version",
    "general.organization",
    "general.finetune",
    "general.description",
    "general.license",
    "general.url",
    "general.doi",
    "general.uuid",
    "general.repo_url",
    "general.source.",
    "general.base_model.",
)
"""Metadata that is not true of the new file: it is another model, stored otherwise, and what is
known of where it comes from is written anew.
"""


class Tensors:
    """The tensors of a GGUF model, whole or split, read where they lie."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises FormatError: not a GGUF file, or one that contradicts itself."""
        self.header: GgufHeader = gguf.read(path)
        self.name = name
        self.by_name = {tensor.name: tensor for tensor in self.header.tensors}
        self._files = self.header.parts or (path,)

    def raw(self, name: str) -> bytes:
        """The bytes of a tensor. Raises FormatError: the file became shorter."""
        tensor = self.by_name[name]
        with self._files[tensor.part].open("rb") as file:
            file.seek(tensor.offset)
            data = file.read(tensor.size)
        if len(data) != tensor.size:
            raise FormatError(f"{self.name} became shorter while in use", DAMAGED)
        return data

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """One tensor in 32 bits, a copy; rows first: the shape is that of the file turned around.

        Raises:
            FormatError: a type that cannot be read, or numbers that are none.
        """
        import numpy as np

        tensor = self.by_name[name]
        stored = Stored(
            self._files[tensor.part], tensor.offset, tensor.type, tensor.shape[::-1], "gguf"
        )
        try:
            read = stored.read(0, tensor.parameters // tensor.shape[0])
        except Unsupported as error:
            raise FormatError(f"{name} of {self.name}: {error.message}") from None
        values = np.require(read, np.float32, ("C", "W")).reshape(stored.shape)
        if not np.isfinite(values).all():
            raise FormatError(
                f"{name} of {self.name} holds numbers that are none (NaN or infinity)"
            )
        return values

    def is_float(self, name: str) -> bool:
        """Whether the tensor holds weights; others (indexes) are not mixed."""
        return self.by_name[name].type not in ("I8", "I16", "I32", "I64", "F64")


def stored(tensor: GgufTensor, header: GgufHeader, type: Type) -> Type:
    """What a tensor is written as: rows of numbers as `type`, single rows (norms, biases) whole.

    llama.cpp adds and multiplies by single rows in 32 bits only. What the file has in 32 bits
    beside smaller numbers has a reason, and stays so.
    """
    if len(tensor.shape) < 2 or not tensor.name.endswith(".weight"):
        return "f32"
    return "f32" if tensor.type == "F32" and header.number("general.file_type") else type


def encoded(array: "np.ndarray[Any, Any]", type: Type, name: str) -> bytes:
    """The bytes of a tensor.

    Raises:
        FormatError: a number that has no place in `type`.
    """
    import numpy as np

    if not np.isfinite(array).all():
        raise FormatError(f"{name} became NaN or infinite", "choose smaller weights or --scale")
    return numbers.encoded(array, type.upper(), name)


def by(shape: tuple[int, ...]) -> str:
    """A shape in words: ``32 x 64``."""
    return " x ".join(map(str, shape))


def write(
    target: Path,
    first: Tensors,
    type: Type,
    make: Callable[[GgufTensor], bytes],
    done: Callable[[int, int], None],
    metadata: Sequence[Pair] = (),
) -> None:
    """Write the GGUF file `target` with the tensor names of `first`, and its metadata but for what
    says which model that is.

    A file that was cut off goes on after its last whole tensor, where its beginning is the same
    and each tensor has the bytes that ``<target>.sums`` beside it says: a power cut may leave a
    file longer than what was written of it.

    Args:
        make: gives the bytes of a tensor, as `stored` says it is written.
        done: is told bytes written and bytes in all.
        told: what is known of where the new model comes from, as `provenance` gives it.
    """
    tensors = first.header.tensors
    head, ends = _layout(first, type, metadata)
    noted = target.with_name(f"{target.name}.sums")
    sums = _intact_digests(target, noted, head, ends)
    at = ends[len(sums) - 1] if sums else len(head)
    with target.open("r+b" if sums else "wb") as file, noted.open("w", encoding="ascii") as notes:
        if sums:
            file.truncate(at)
            file.seek(at)
        else:
            file.write(head)
        notes.writelines(f"{digest}\n" for digest in sums)
        for tensor, end in zip(tensors[len(sums) :], ends[len(sums) :], strict=True):
            data = make(tensor)
            data += bytes(end - at - len(data))
            file.write(data)
            file.flush()
            notes.write(f"{sha256(data).hexdigest()}\n")
            notes.flush()
            at = end
            done(at, ends[-1])


def _intact_digests(target: Path, noted: Path, head: bytes, ends: list[int]) -> list[str]:
    """The sums of the tensors that a file of the same beginning holds as they were written."""
    digests: list[str] = []
    try:
        sums = noted.read_text("ascii").split()
        with target.open("rb") as file:
            if file.read(len(head)) != head:
                return []
            at = len(head)
            for end, digest in zip(ends, sums, strict=False):
                if sha256(file.read(end - at)).hexdigest() != digest:
                    break
                digests.append(digest)
                at = end
    except (OSError, UnicodeDecodeError):
        return []
    return digests


def _layout(first: Tensors, type: Type, metadata: Sequence[Pair]) -> tuple[bytes, list[int]]:
    """Everything before the data, and where each tensor ends, its padding included."""
    header = first.header
    pad = header.alignment
    pairs = [raw for key, raw in _pairs(header) if not key.startswith(_DROPPED)]
    pairs += [
        _pair(key, value) for key, value in (*metadata, ("general.file_type", TYPES[type][2]))
    ]
    table, offset, sizes = b"", 0, []
    for tensor in header.tensors:
        if first.is_float(tensor.name):
            kind, width, _ = TYPES[stored(tensor, header, type)]
            size = tensor.parameters * width
        else:
            kind, size = _number(tensor.type), tensor.size
        table += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        table += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, kind, offset)
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


def _pair(key: str, value: str | int) -> bytes:
    if isinstance(value, int):
        return _string(key) + struct.pack("<II", _UINT32, value)
    return _string(key) + struct.pack("<I", _STRING) + _string(value)


def _pairs(header: GgufHeader) -> Iterator[tuple[str, bytes]]:
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
