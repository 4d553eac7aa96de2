"""The same few places of the same few tensors, out of weights of any size."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from overt.formats.safetensors import SafetensorsTensor
from overt.openness.subject.subject import SubjectFile

_TENSORS: Final = 6
_NUMBERS: Final = 512
"""Numbers from each of two places of a tensor."""
_CODES: Final = {"F32": ("f", 4), "F16": ("e", 2), "BF16": ("", 2), "F64": ("d", 8)}


@dataclass(frozen=True, slots=True)
class SampledNumbers:
    """Some numbers of a tensor, as they lie there and as floats."""

    data: bytes
    numbers: tuple[float, ...]


Tensors = Mapping[str, tuple[SubjectFile, SafetensorsTensor]]


def choose(several: Sequence[Tensors]) -> tuple[str, ...]:
    """Names of matrices that all of `several` have in types that can be read, spread over them."""
    common: set[str] | None = None
    for tensors in several:
        names = {
            name
            for name, (_, info) in tensors.items()
            if len(info.shape) > 1 and info.type in _CODES
        }
        common = names if common is None else common & names
    ordered = sorted(common or ())
    step = max(1, len(ordered) // _TENSORS)
    return tuple(ordered[::step][:_TENSORS])


def take(tensors: Tensors, names: Sequence[str]) -> dict[str, SampledNumbers]:
    """Samples of those of `names` that are there."""
    samples = {}
    for name in names:
        if name not in tensors:
            continue
        file, info = tensors[name]
        if (data := _bytes(file, info)) is not None:
            samples[name] = SampledNumbers(data, _floats(data, info.type))
    return samples


def _bytes(file: SubjectFile, info: SafetensorsTensor) -> bytes | None:
    if file.path is None:
        return None
    width = _CODES[info.type][1]
    most = min(_NUMBERS, info.parameters)
    starts = (0, (info.parameters - most) // 2)
    try:
        with file.path.open("rb") as opened:
            data = b""
            for start in starts:
                opened.seek(info.offset + start * width)
                data += opened.read(most * width)
    except OSError:
        return None
    return data if len(data) == 2 * most * width else None


def _floats(data: bytes, kind: str) -> tuple[float, ...]:
    code, width = _CODES[kind]
    if not code:  # BF16: the upper half of an F32
        wide = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
        return struct.unpack(f"<{len(data) // 2}f", wide)
    return struct.unpack(f"<{len(data) // width}{code}", data)
