"""Where two files that should be the same are not, by tensor where they hold tensors.

GGUF and safetensors are compared header by header, then tensor by tensor, a few rows at a time; a
quantized tensor by the numbers it stands for. JSON is compared number by number. Of anything else
the first byte that differs is told.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import OvertError
from overt.formats import gguf, safetensors
from overt.models.sources.base import CHUNK

if TYPE_CHECKING:
    import numpy as np

_AT_ONCE = 1 << 22  # elements in memory
_MAX_JSON = 64 << 20
_PLAIN = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "<u1",
}


@dataclass(frozen=True, slots=True)
class FileDifference:
    """Where two files differ first, and by how much in all.

    Attributes:
        file: its path in the model.
        tensor: its name, or "".
        index: of the element, in row-major order.
        field: of a header or of JSON, or "".
        byte: its position, where only bytes can be compared.
        recorded, here: both values.
        max_difference: the largest |difference| of an element of this tensor.
        relative: the same over the tensor's largest magnitude.
        largest: the largest `relative` of all tensors; infinite where no number tells.
        tensors: how many differ.
    """

    file: str
    tensor: str = ""
    index: tuple[int, ...] = ()
    field: str = ""
    byte: int | None = None
    recorded: Any = None
    here: Any = None
    max_difference: float | None = None
    relative: float | None = None
    largest: float = math.inf
    tensors: int = 0

    def as_json(self) -> dict[str, Any]:
        fields_ = {
            name: value for name, value in asdict(self).items() if value not in (None, "", ())
        }
        return {name: _shown_value(value) for name, value in fields_.items()}

    @property
    def sentence(self) -> str:
        """Where, in words."""
        if self.tensor:
            at = f"[{', '.join(map(str, self.index))}]" if self.index else ""
            by = (
                f", by at most {self.max_difference:.3g}" if self.max_difference is not None else ""
            )
            return f"{self.tensor}{at} of {self.file}: {self.recorded} and here {self.here}{by}"
        if self.field:
            return f"{self.field} of {self.file}: {self.recorded!r} and here {self.here!r}"
        if self.byte is not None:
            return f"byte {self.byte} of {self.file}"
        return f"{self.file}: {self.recorded} and here {self.here}"


def differ(name: str, recorded: Path, here: Path) -> FileDifference | None:
    """Where the file `here` differs first from `recorded`; None where it does not.

    Args:
        name: what to call the file.
    """
    byte = _first_byte(recorded, here)
    if byte is None:
        return None
    for compare in (_gguf, _safetensors, _json):
        try:
            difference = compare(name, recorded, here)
        except (
            OvertError,
            ValueError,
            KeyError,
            TypeError,
            NotImplementedError,
            RecursionError,
            OverflowError,
        ):
            continue  # not of this format, or of a type that nobody here reads
        # The same numbers in other bytes: a zero's sign, or the order of the file.
        return difference or _at_byte(name, recorded, here, byte, largest=0.0)
    return _at_byte(name, recorded, here, byte)


# ---- tensors -------------------------------------------------------------------------------


def tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a GGUF or safetensors file.

    Raises:
        FormatError, Unsupported: it is neither, or damaged.
    """
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    return _of_gguf(gguf.read(path)) if is_gguf else _of_safetensors(safetensors.read(path))


@dataclass(frozen=True, slots=True)
class Tensor:
    """`rows` gives that many rows from a first one, as float32 or wider of shape (rows, row)."""

    shape: tuple[int, ...]
    type: str
    rows: "Callable[[int, int], np.ndarray[Any, Any]]"

    @property
    def row(self) -> int:
        return max(1, self.shape[-1]) if self.shape else 1

    @property
    def count(self) -> int:
        return math.prod(self.shape) // self.row if math.prod(self.shape) else 0


def _gguf(name: str, recorded: Path, here: Path) -> FileDifference | None:
    old, new = gguf.read(recorded), gguf.read(here)
    if (difference := _fields(name, _loaded(old.metadata), _loaded(new.metadata))) is not None:
        return difference
    return _tensors(name, _of_gguf(old), _of_gguf(new))


def _loaded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.load() if isinstance(value, gguf.Array) else value
        for key, value in metadata.items()
    }


def _of_gguf(header: gguf.GgufHeader) -> dict[str, Tensor]:
    import numpy as np
    from gguf import GGMLQuantizationType as Kinds
    from gguf.quants import dequantize

    data = np.memmap(header.path, np.uint8, "r")

    def reader(tensor: gguf.GgufTensor) -> Tensor:
        shape = tuple(reversed(tensor.shape))
        count = math.prod(shape[:-1])
        width = tensor.size // max(1, count)
        raw = data[tensor.offset : tensor.offset + tensor.size].reshape(count, width)

        def rows(first: int, count: int) -> "np.ndarray[Any, Any]":
            part = np.ascontiguousarray(raw[first : first + count])
            if tensor.type in _PLAIN:
                return part.view(_PLAIN[tensor.type]).astype(np.float64)
            return np.asarray(dequantize(part, Kinds[tensor.type]))

        return Tensor(shape, tensor.type, rows)

    return {tensor.name: reader(tensor) for tensor in header.tensors}


def _safetensors(name: str, recorded: Path, here: Path) -> FileDifference | None:
    old, new = safetensors.read(recorded), safetensors.read(here)
    if (difference := _fields(name, old.metadata, new.metadata)) is not None:
        return difference
    return _tensors(name, _of_safetensors(old), _of_safetensors(new))


def _of_safetensors(header: safetensors.SafetensorsHeader) -> dict[str, Tensor]:
    import numpy as np

    data = np.memmap(header.path, np.uint8, "r")

    def reader(tensor: safetensors.SafetensorsTensor) -> Tensor:
        row = max(1, tensor.shape[-1]) if tensor.shape else 1
        raw = data[tensor.offset : tensor.offset + tensor.size]

        def rows(first: int, count: int) -> "np.ndarray[Any, Any]":
            width = tensor.size // max(1, tensor.parameters) * row
            part = np.ascontiguousarray(raw[first * width : (first + count) * width])
            if tensor.type == "BF16":
                wide = (part.view("<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                wide = part.view(_PLAIN[tensor.type]).astype(np.float64)
            return wide.reshape(-1, row)

        return Tensor(tensor.shape, tensor.type, rows)

    return {tensor.name: reader(tensor) for tensor in header.tensors}


def _fields(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> FileDifference | None:
    for key in dict.fromkeys((*old, *new)):
        was, now = old.get(key), new.get(key)
        if repr(was) != repr(now):  # NaN is itself, and 1 is not 1.0
            return FileDifference(name, field=key, recorded=_short(was), here=_short(now))
    return None


def _tensors(
    name: str, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> FileDifference | None:
    first: FileDifference | None = None
    largest, count = 0.0, 0
    for key in dict.fromkeys((*old, *new)):
        was, now = old.get(key), new.get(key)
        if was is None or now is None or (was.shape, was.type) != (now.shape, now.type):
            difference = FileDifference(name, key, recorded=_form(was), here=_form(now))
        else:
            compared = _tensor(name, key, was, now)
            if compared is None:
                continue
            difference = compared
        first, count = first or difference, count + 1
        largest = max(largest, math.inf if difference.relative is None else difference.relative)
    if first is None:
        return None
    values = {field: getattr(first, field) for field in first.__slots__}
    return FileDifference(**{**values, "largest": largest, "tensors": count})


def _tensor(name: str, key: str, old: Tensor, new: Tensor) -> FileDifference | None:
    import numpy as np

    at: tuple[int, Any, Any] | None = None
    most = magnitude = 0.0
    step = max(1, _AT_ONCE // old.row)
    for first in range(0, old.count, step):
        count = min(step, old.count - first)
        a, b = (
            np.asarray(tensor.rows(first, count), np.float64).reshape(-1) for tensor in (old, new)
        )
        magnitude = max(magnitude, float(np.nanmax(np.abs(a), initial=0.0)))
        unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if not unequal.any():
            continue
        if at is None:
            here = int(np.argmax(unequal))
            at = (first * old.row + here, float(a[here]), float(b[here]))
        with np.errstate(invalid="ignore"):
            gaps = np.abs(a - b)[unequal]
        most = max(most, math.inf if np.isnan(gaps).any() else float(gaps.max()))
    if at is None:
        return None
    index = tuple(int(i) for i in np.unravel_index(at[0], old.shape)) if old.shape else ()
    # a magnitude without end would make every difference nothing of it, or no number
    sane = 0 < magnitude < math.inf and most < math.inf
    relative = most / magnitude if sane else math.inf
    return FileDifference(
        name, key, index, recorded=at[1], here=at[2], max_difference=most, relative=relative
    )


def _form(tensor: Tensor | None) -> str:
    return f"{tensor.type} {list(tensor.shape)}" if tensor else "nothing"


# ---- JSON and bytes ------------------------------------------------------------------------


def _json(name: str, recorded: Path, here: Path) -> FileDifference | None:
    """Numbers with a fraction at the same place of a list are one tensor; anything else must be
    equal: an id or a size that is one off is another.
    """
    if max(recorded.stat().st_size, here.stat().st_size) > _MAX_JSON:
        raise ValueError("too long to be compared as JSON")
    old, new = (dict(leaves(json.loads(file_.read_bytes()))) for file_ in (recorded, here))
    first: FileDifference | None = None
    gaps: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for place in dict.fromkeys((*old, *new)):
        was, now = old.get(place, "nothing"), new.get(place, "nothing")
        group = "/".join("*" if part.isdecimal() else part for part in place.split("/"))
        kinds = {type(was), type(now)}
        numbers = kinds <= {int, float} and float in kinds
        if numbers:
            sizes[group] = max(sizes.get(group, 0.0), abs(was))
        if repr(was) != repr(now):
            first = first or FileDifference(name, field=place, recorded=was, here=now)
            gap = abs(was - now) if numbers else math.inf
            gaps[group] = max(gaps.get(group, 0.0), math.inf if math.isnan(gap) else gap)
    if first is None:
        return None
    largest = max(
        gap / sizes[group] if sizes.get(group) else math.inf for group, gap in gaps.items()
    )
    return FileDifference(
        name, field=first.field, recorded=first.recorded, here=first.here, largest=largest
    )


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            # as JSON Pointer has it: a key with a slash is no two keys
            part = key.replace("~", "~0").replace("/", "~1")
            yield from leaves(item, f"{place}/{part}")
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from leaves(item, f"{place}/{number}")
    else:
        yield place, value


def _first_byte(recorded: Path, here: Path) -> int | None:
    at = 0
    with recorded.open("rb") as old, here.open("rb") as new:
        while True:
            a, b = old.read(CHUNK), new.read(CHUNK)
            if a != b:
                pairs = zip(a, b, strict=False)
                return at + next(
                    (i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b))
                )
            if not a:
                return None
            at += len(a)


def _at_byte(
    name: str, recorded: Path, here: Path, byte: int, largest: float = math.inf
) -> FileDifference:
    values = []
    for path in (recorded, here):
        with path.open("rb") as file:
            file.seek(byte)
            byte_read = file.read(1)
        values.append(byte_read[0] if byte_read else None)
    return FileDifference(name, byte=byte, recorded=values[0], here=values[1], largest=largest)


def _short(value: Any) -> Any:
    text = repr(value)
    return value if len(text) <= 200 else f"{text[:200]}…"


def _shown_value(value: Any) -> Any:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
