"""The header of a safetensors file, and the index of a model cut into several.

::

    file   = length:u64 header padding data
    header = JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end]}, and
             "__metadata__" -> {text: text}

Nothing in the file is trusted: the header is bounded, no name comes twice, and the tensors cover
the data exactly: no holes, no overlaps, nothing beyond the end.

Source: the format section of the safetensors README, and safetensors/src/tensor.rs (the limit of
100 MB, the list of dtypes).
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from overt.errors import BadRef
from overt.formats.bounded import DAMAGED, Cursor, open_file, shown
from overt.formats.mix import Share, mix
from overt.ref import safe_member

MAX_HEADER: Final = 100_000_000
MAX_INDEX: Final = 64 << 20
MAX_DIMENSIONS: Final = 64

BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32,
    "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one element of each dtype."""


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """One tensor. `shape` is in row-major order, `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """Everything a safetensors file says about itself; `metadata` is free text by free name."""

    path: Path
    metadata: Mapping[str, str]
    tensors: tuple[SafetensorsTensor, ...] = field(repr=False)
    data_offset: int
    file_size: int

    @property
    def parameters(self) -> int:
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return self.tensor_bytes * 8 / self.parameters if self.parameters else 0.0

    def type_mix(self) -> dict[str, Share]:
        """Tensors, parameters and bytes of each dtype, the largest share of bytes first."""
        return mix(self.tensors)


@dataclass(frozen=True, slots=True)
class WeightsIndex:
    """The ``model.safetensors.index.json`` of a model in several files.

    `files` are relative paths, proved to stay inside the model's folder, in order of name;
    `weights` says which of them holds each tensor.
    """

    path: Path
    weights: Mapping[str, str]
    files: tuple[str, ...]
    total_size: int | None


def read(path: Path, most: int = MAX_HEADER) -> SafetensorsHeader:
    """Read the header of a safetensors file.

    Args:
        most: bytes of header that are read.

    Raises:
        FormatError: not a safetensors file, or one that contradicts itself.
        ModelNotFound: there is no such file.
    """
    with open_file(path) as file:
        cursor = Cursor(path, file, most + 8)
        length = cursor.u64()
        cursor.limit("bytes of header", length, min(most, cursor.size - 8))
        start = 8 + length
        header = _json(cursor.take(length), cursor)
    metadata = _metadata(header.pop("__metadata__", None), cursor)
    tensors = [_tensor(name, entry, start, cursor) for name, entry in header.items()]
    _check_cover(tensors, start, cursor)
    return SafetensorsHeader(path, metadata, tuple(tensors), start, cursor.size)


def read_index(path: Path) -> WeightsIndex:
    """Read the index of a model in several files.

    Raises:
        FormatError: not such an index, or one that names files outside its folder.
        ModelNotFound: there is no such file.
    """
    with open_file(path) as file:
        cursor = Cursor(path, file, MAX_INDEX)
        index = _json(cursor.take(cursor.size), cursor)
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise cursor.bad("has no 'weight_map'")
    for name, member in weights.items():
        if not isinstance(member, str):
            raise cursor.bad(f"gives {shown(name)} no file")
    for member in sorted(set(weights.values())):
        if _safe(member) != member or not member.endswith(".safetensors"):
            raise cursor.bad(
                f"names the file {shown(member)}, which is not a safetensors file beside it"
            )
    about = index.get("metadata")
    total = about.get("total_size") if isinstance(about, dict) else None
    return WeightsIndex(
        path, weights, tuple(sorted(set(weights.values()))), total if _is_count(total) else None
    )


def _safe(member: str) -> str | None:
    try:
        return safe_member(member)
    except BadRef:
        return None


def _json(raw: bytes, cursor: Cursor) -> dict[str, Any]:
    """An object without a name given twice.

    A parser that keeps the last of two equal names and one that keeps the first would load
    different tensors from one file.
    """
    if not raw.lstrip(b" \t\r\n").startswith(b"{"):
        raise cursor.bad(f"has no JSON object where its header should be but {shown(raw[:16])}")
    try:
        document = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError:
        raise cursor.bad("nests its JSON too deeply") from None
    except ValueError as error:
        raise cursor.bad(f"has a header that is not JSON: {_line(error)}") from None
    return dict(document)


def _line(error: ValueError) -> str:
    return " ".join(str(error).split())[:160]


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the name {shown(name)} comes twice")
        members[name] = value
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _metadata(value_in: object, cursor: Cursor) -> dict[str, str]:
    if value_in is None:
        return {}
    if not isinstance(value_in, dict) or not all(
        isinstance(value, str) for value in value_in.values()
    ):
        raise cursor.bad("has a '__metadata__' that is not text by name")
    return value_in


def _tensor(name: str, entry: object, start: int, cursor: Cursor) -> SafetensorsTensor:
    if not isinstance(entry, dict):
        raise cursor.bad(f"describes {shown(name)} by {shown(entry)}")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None or not isinstance(dtype, str):
        raise cursor.bad(f"gives {shown(name)} the unknown dtype {shown(dtype)}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(_is_count(extent) for extent in shape)
        or math.prod(shape) >= 1 << 63
    ):
        raise cursor.bad(f"gives {shown(name)} the shape {shown(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise cursor.bad(f"gives {shown(name)} the offsets {shown(offsets)}")
    size, rest = divmod(math.prod(shape) * bits, 8)
    if rest or offsets[1] - offsets[0] != size:
        raise cursor.bad(
            f"gives {shown(name)} {offsets[1] - offsets[0]} bytes where its shape and dtype "
            f"take {math.prod(shape) * bits / 8:g}"
        )
    return SafetensorsTensor(name, tuple(shape), dtype, start + offsets[0], size)


def _check_cover(tensors: list[SafetensorsTensor], start: int, cursor: Cursor) -> None:
    ordered = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size))
    if ordered and ordered[0].offset != start:
        raise cursor.bad(f"has a hole of {ordered[0].offset - start} bytes before its first tensor")
    for before, after in itertools.pairwise(ordered):
        gap = after.offset - before.offset - before.size
        if gap:
            what = f"a hole of {gap} bytes" if gap > 0 else f"an overlap of {-gap} bytes"
            raise cursor.bad(f"has {what} before {shown(after.name)}")
    end = ordered[-1].offset + ordered[-1].size if ordered else start
    if end != cursor.size:
        raise cursor.bad(f"is {cursor.size} bytes long where its tensors end at {end}", DAMAGED)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
