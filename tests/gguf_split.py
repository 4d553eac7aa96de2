"""Cuts a GGUF file into a split model, as llama.cpp's gguf-split does.

The first file has the metadata of the whole and the keys of a split, the others only those keys.
"""

import struct
from pathlib import Path

from gguf_writer import TENSOR_TYPES, Tensor, Typed, string, value
from overt.formats import gguf


def cut(source: Path, folder: Path, count: int, stem: str = "model") -> list[Path]:
    """Write `count` files into `folder`; each holds about as many tensors."""
    whole = gguf.read(source)
    first = whole.tensors[0]
    with source.open("rb") as file:
        head = file.read(whole.data_offset)
    start = head.rindex(string(first.name) + struct.pack("<I", len(first.shape)))
    pairs = struct.unpack_from("<Q", head, 16)[0]
    folder.mkdir(parents=True, exist_ok=True)
    each = -(-len(whole.tensors) // count)
    files = []
    for number in range(count):
        chosen = whole.tensors[number * each : (number + 1) * each]
        about = {
            "split.no": Typed("u16", number),
            "split.count": Typed("u16", count),
            "split.tensors.count": Typed("i32", len(whole.tensors)),
        }
        own = b"".join(string(key) + value(item) for key, item in about.items())
        kept, kept_pairs = (head[24:start], pairs) if number == 0 else (b"", 0)
        path = folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf"
        _write(path, kept + own, kept_pairs + len(about), chosen, source, whole.alignment)
        files.append(path)
    return files


def _write(
    path: Path,
    metadata: bytes,
    pairs: int,
    tensors: tuple[gguf.GgufTensor, ...],
    source: Path,
    alignment: int,
) -> None:
    # The others have no general.alignment of their own, so 32 is what a reader takes.
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), pairs), metadata]
    offset = 0
    for tensor in tensors:
        out.append(string(tensor.name) + struct.pack("<I", len(tensor.shape)))
        out.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape))
        out.append(struct.pack("<IQ", TENSOR_TYPES[tensor.type][0], offset))
        assert Tensor(tensor.name, tensor.shape, tensor.type).size == tensor.size
        offset += -(-tensor.size // alignment) * alignment
    header = b"".join(out)
    with path.open("wb") as file, source.open("rb") as whole:
        file.write(header + bytes(-len(header) % alignment))
        for tensor in tensors:
            whole.seek(tensor.offset)
            file.write(whole.read(tensor.size) + bytes(-tensor.size % alignment))
