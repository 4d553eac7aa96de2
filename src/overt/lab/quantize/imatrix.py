"""Importance matrices as GGUF files, as llama.cpp's llama-imatrix writes and llama-quantize reads.

For each matrix there are ``<name>.in_sum2``, the sums of squared activations of each channel (one
row for each matrix of a stack, such as experts), and ``<name>.counts``, how many rows were summed.
Source: tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp of llama.cpp. A file from elsewhere
is read as what it is: bytes that nobody vouches for.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import FormatError
from overt.formats import gguf
from overt.formats.bounded import shown

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_BYTES = 4 << 30
_SUMS, _COUNTS = ".in_sum2", ".counts"
_ALIGNED = 32
_STRING, _ARRAY, _U32 = 8, 9, 4


@dataclass(frozen=True, slots=True)
class About:
    """What a matrix is of: the text's name, how many windows were read, and their length."""

    text: str
    windows: int
    window: int


@dataclass(frozen=True, slots=True)
class Importance:
    """What was read: for each tensor the means of squares, its matrices after each other."""

    entries: "Mapping[str, Array]"
    windows: int


def write(path: Path, sums: "Mapping[str, tuple[Array, Array]]", about: About) -> None:
    """Write a matrix; the same sums give the same bytes.

    Args:
        path: where to.
        sums: by a tensor's name, the sums (matrices, channels) and the counts (matrices).
        about: kept in the file.
    """
    tensors: list[tuple[str, tuple[int, int], bytes]] = []
    for name in sorted(sums):
        values, counts = sums[name]
        width, rows = values.shape[1], values.shape[0]
        tensors.append((name + _SUMS, (width, rows), values.astype("<f4").tobytes()))
        tensors.append((name + _COUNTS, (1, rows), counts.astype("<f4").tobytes()))
    head = [
        _text("general.type") + struct.pack("<I", _STRING) + _text("imatrix"),
        _text("imatrix.datasets") + struct.pack("<IIQ", _ARRAY, _STRING, 1) + _text(about.text),
        _text("imatrix.chunk_count") + struct.pack("<II", _U32, about.windows),
        _text("imatrix.chunk_size") + struct.pack("<II", _U32, about.window),
    ]
    data, infos, at = [], [], 0
    for name, shape, raw in tensors:
        infos.append(_text(name) + struct.pack("<IQQIQ", 2, *shape, 0, at))
        data.append(raw + bytes(-len(raw) % _ALIGNED))
        at += len(data[-1])
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(head)) + b"".join(head + infos)
    path.write_bytes(start + bytes(-len(start) % _ALIGNED) + b"".join(data))


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def read(path: Path) -> Importance:
    """Read a matrix from anywhere.

    Raises:
        FormatError: not such a file, or its numbers cannot be what they are said to be.
        ModelNotFound: there is no such file.
    """
    import numpy as np

    try:
        header = gguf.read(path, whole=False)
    except FormatError as error:
        raise FormatError(
            f"{path.name} is no importance matrix: {error.message}",
            "give the GGUF file that llama-imatrix or `overt quantize --imatrix auto` wrote",
        ) from None
    if header.file_size > MAX_BYTES:
        raise _bad(path, f"it has {header.file_size} bytes and {MAX_BYTES} is the most")
    if header.text("general.type") not in ("imatrix", None):
        raise _bad(path, f"it is of the kind {header.text('general.type')!r}")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = sorted(name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS))
    if not names:
        raise _bad(path, f"none of its {len(tensors)} tensors ends with {_SUMS}")
    entries: dict[str, Array] = {}
    with path.open("rb") as file:
        for name in names:
            counted = tensors.get(name + _COUNTS)
            if counted is None:
                raise _bad(path, f"it has sums for {shown(name)} and no counts")
            sums, counts = (
                _values(path, file, tensor) for tensor in (tensors[name + _SUMS], counted)
            )
            if counts.size == 0 or sums.size == 0 or sums.size % counts.size:
                raise _bad(path, f"{shown(name)} has {sums.size} sums and {counts.size} counts")
            with np.errstate(all="ignore"):
                sums = sums.reshape(counts.size, -1)
                used = counts[:, None] > 0
                means = np.where(used, sums / np.where(used, counts[:, None], 1), 1)
            means = np.ascontiguousarray(means.reshape(-1), np.float32)
            if not np.isfinite(means).all() or (means < 0).any():
                raise _bad(path, f"{shown(name)} holds what is no mean of squares")
            entries[name] = means
    return Importance(entries, header.number("imatrix.chunk_count") or 0)


def _values(path: Path, file: Any, tensor: Any) -> "Array":
    import numpy as np

    if tensor.type != "F32":
        raise _bad(path, f"{shown(tensor.name)} is {tensor.type} and not F32")
    file.seek(tensor.offset)
    return np.frombuffer(file.read(tensor.size), "<f4")


def _bad(path: Path, why: str) -> FormatError:
    return FormatError(f"{path.name} is no importance matrix: {why}", "make it with --imatrix auto")


def check(path: Path, header: gguf.GgufHeader) -> tuple[Importance, tuple[str, ...]]:
    """A matrix for a model: what it holds, and sentences about what it lacks.

    Raises:
        FormatError: not a matrix, or one of another model.
    """
    matrix = read(path)
    widths = {
        tensor.name: tensor.shape[0] * math.prod(tensor.shape[2:])
        for tensor in header.tensors
        if len(tensor.shape) > 1
    }
    for name, values in matrix.entries.items():
        if name in widths and values.size != widths[name]:
            raise FormatError(
                f"{path.name} has {values.size} values for {name} and the model has {widths[name]}",
                "it is of another model: make one with --imatrix auto",
            )
    inner = [name for name in widths if name.startswith("blk.")]
    known = sum(name in matrix.entries for name in inner)
    if inner and not known:
        raise FormatError(
            f"{path.name} knows none of the model's {len(inner)} matrices",
            "it is of another model: make one with --imatrix auto",
        )
    if known < len(inner):
        return matrix, (f"the importance matrix knows {known} of {len(inner)} matrices",)
    return matrix, ()
