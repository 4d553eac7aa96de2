"""Writes GGUF files for tests: any header, or a small random model that llama.cpp loads and runs.

Kept apart from the reader on purpose: it shares no table with `overt.formats.gguf`.
"""

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# number in the file, elements of a block, bytes of a block
TENSOR_TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18), "BF16": (30, 1, 2), "MXFP4": (39, 32, 17), "NVFP4": (40, 64, 36),
}  # fmt: skip
_CODES = {
    "u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"),
    "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"),
    "f64": (12, "d"),
}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A metadata value (or list of values) written in a type of one's choice."""

    type: str
    value: Any


@dataclass(frozen=True)
class Tensor:
    """`shape` fastest-moving dimension first. `data` None writes zeros."""

    name: str
    shape: tuple[int, ...]
    type: str = "F32"
    data: bytes | None = None

    @property
    def size(self) -> int:
        total = 1
        for extent in self.shape:
            total *= extent
        _, block, size = TENSOR_TYPES[self.type]
        return total // block * size


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """Kind and value. A bare int is u32, float f32, list an array of what its first item is."""
    if isinstance(item, Typed):
        number, code = _CODES[item.type]
        if isinstance(item.value, (list, tuple)):
            count = len(item.value)
            return struct.pack("<IIQ", 9, number, count) + struct.pack(
                f"<{count}{code}", *item.value
            )
        return struct.pack(f"<I{code}", number, item.value)
    if isinstance(item, bool):
        return value(Typed("bool", item))
    if isinstance(item, int):
        return value(Typed("u32", item))
    if isinstance(item, float):
        return value(Typed("f32", item))
    if isinstance(item, (str, bytes)):
        return struct.pack("<I", 8) + string(item)
    if item and isinstance(item[0], (str, bytes)):
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(string, item))
    kind = "bool" if item and isinstance(item[0], bool) else "i32"
    return value(Typed("f32" if item and isinstance(item[0], float) else kind, list(item)))


def header(
    metadata: Mapping[str, Any], tensors: Sequence[Tensor], *, version: int = 3, alignment: int = 32
) -> bytes:
    """Everything before the tensor data, padded."""
    out = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    out += [string(key) + value(item) for key, item in metadata.items()]
    offset = 0
    for tensor in tensors:
        out.append(string(tensor.name))
        out.append(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        out.append(struct.pack("<IQ", TENSOR_TYPES[tensor.type][0], offset))
        offset += _padded(tensor.size, alignment)
    raw = b"".join(out)
    return raw + bytes(_padded(len(raw), alignment) - len(raw))


def write(
    path: Path, metadata: Mapping[str, Any], tensors: Sequence[Tensor] = (), **options: int
) -> Path:
    """Write a whole file; returns `path`."""
    alignment = options.get("alignment", 32)
    with path.open("wb") as file:
        file.write(header(metadata, tensors, **options))
        for tensor in tensors:
            data = bytes(tensor.size) if tensor.data is None else tensor.data
            file.write(data + bytes(_padded(len(data), alignment) - len(data)))
    return path


def vocabulary(words: int) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a SentencePiece vocabulary with bytes as its fallback."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3] + [6] * 256
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,!?"]
    extra = letters + [f"w{number:06d}x" for number in range(words)]
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(1, len(extra) + 1)]
    return tokens + extra, scores, kinds + [1] * len(extra)


def write_llama(
    path: Path,
    *,
    layers: int = 2,
    embedding: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 128,
    context: int = 512,
    words: int = 0,
    type: str = "F32",
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """A llama of random weights (zeros for a quantized `type`) that llama.cpp loads and runs.

    `metadata` adds to or replaces what is written; a value of None leaves the key out. Returns the
    length of the header.
    """
    tokens, scores, kinds = vocabulary(words)
    about: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": 0,
        "llama.context_length": context,
        "llama.embedding_length": embedding,
        "llama.block_count": layers,
        "llama.feed_forward_length": feed_forward,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": embedding // heads,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **(metadata or {}),
    }
    draw = random.Random(seed)
    kv = embedding // heads * kv_heads
    shapes: list[tuple[str, tuple[int, ...]]] = [("token_embd", (embedding, len(tokens)))]
    for layer in range(layers):
        shapes += [
            (f"blk.{layer}.attn_norm", (embedding,)),
            (f"blk.{layer}.attn_q", (embedding, embedding)),
            (f"blk.{layer}.attn_k", (embedding, kv)),
            (f"blk.{layer}.attn_v", (embedding, kv)),
            (f"blk.{layer}.attn_output", (embedding, embedding)),
            (f"blk.{layer}.ffn_norm", (embedding,)),
            (f"blk.{layer}.ffn_gate", (embedding, feed_forward)),
            (f"blk.{layer}.ffn_up", (embedding, feed_forward)),
            (f"blk.{layer}.ffn_down", (feed_forward, embedding)),
        ]
    shapes.append(("output_norm", (embedding,)))
    tensors = [
        _random(f"{name}.weight", shape, "F32" if len(shape) == 1 else type, draw)
        for name, shape in shapes
    ]
    kept = {key: item for key, item in about.items() if item is not None}
    write(path, kept, tensors)
    return len(header(kept, tensors))


def _random(name: str, shape: tuple[int, ...], type: str, draw: random.Random) -> Tensor:
    if type != "F32":
        return Tensor(name, shape, type)
    if len(shape) == 1:
        return Tensor(name, shape, type, struct.pack(f"<{shape[0]}f", *[1.0] * shape[0]))
    # One random row, rotated for each next: fast for a large vocabulary and still no two alike.
    row = [draw.gauss(0, 0.05) for _ in range(shape[0])]
    raw = struct.pack(f"<{shape[0]}f", *row) * 2
    width = 4 * shape[0]
    starts = (4 * draw.randrange(shape[0]) for _ in range(shape[1]))
    return Tensor(name, shape, type, b"".join(raw[at : at + width] for at in starts))


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
