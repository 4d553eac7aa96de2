"""The header of a GGUF file: metadata and tensor table, never the weights.

::

    file      = "GGUF" version:u32 tensors:u64 pairs:u64 pair* info* padding data
    pair      = key:string kind:u32 value
    string    = length:u64 bytes (UTF-8)
    array     = kind:u32 count:u64 value*
    info      = name:string dims:u32 size:u64{dims} type:u32 offset:u64

Versions 2 and 3, little endian. Nothing in the file is trusted: each count and length is checked
against the file's size and a fixed limit before it is acted on, every tensor lies inside the file
and overlaps no other. Long arrays (tokens, merges, scores) are stepped over and read on demand.

Sources: docs/gguf.md of ggml (the layout), ggml.h and ggml-common.h of llama.cpp b11549 (types,
their block sizes), llama.h (``general.file_type``), gguf.cpp (the limits a loader keeps).
"""

import itertools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from overt.errors import FormatError
from overt.formats import split
from overt.formats.bounded import DAMAGED, Cursor, open_file, shown
from overt.formats.ggml import FILE_TYPES, TYPES, Kind
from overt.formats.mix import Share, mix

MAX_HEADER: Final = 128 << 20
"""Bytes of metadata and tensor table; the largest vocabularies known need a tenth of it."""
MAX_PAIRS: Final = 1 << 16
MAX_TENSORS: Final = 1 << 18
MAX_ELEMENTS: Final = 1 << 22
"""Elements of one array."""
MAX_DIMENSIONS: Final = 4
MAX_NAME: Final = 64
MAX_BLOCKS: Final = 1024
"""Blocks that `GgufHeader.per_block` lists at most; llama.cpp itself stops at 512."""
_EAGER = 4096  # arrays up to this long are read at once: per-layer values, tags, languages
_EAGER_BYTES = 1 << 20
_SCALARS: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct("<" + code) for number, code in enumerate("BbHhIif?")
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_KIND_NAMES = (
    "u8",
    "i8",
    "u16",
    "i16",
    "u32",
    "i32",
    "f32",
    "bool",
    "string",
    "array",
    "u64",
    "i64",
    "f64",
)
_U64 = _SCALARS[10]


@dataclass(frozen=True, slots=True)
class Array:
    """A long array left in the file: `length` elements of `type` (as in `_KIND_NAMES`)."""

    length: int
    type: str
    path: Path = field(repr=False)
    offset: int = field(repr=False)
    size: int = field(repr=False)

    def __len__(self) -> int:
        return self.length

    def load(self) -> tuple[Any, ...]:
        """Read the elements; text that is not UTF-8 has U+FFFD in place of the bad bytes.

        Raises:
            FormatError: the file has changed since its header was read.
            ModelNotFound: the file is gone.
        """
        with open_file(self.path) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise FormatError(f"{shown(self.path.name)} became shorter while in use", DAMAGED)
        kind = _KIND_NAMES.index(self.type)
        if kind != _STRING:
            return _elements(data, 0, kind, self.length)
        strings: list[str] = []
        position = 0
        for _ in range(self.length):
            start = position + 8
            length = _U64.unpack_from(data, position)[0] if start <= self.size else self.size
            position = start + length
            if position > self.size:
                raise FormatError(f"{shown(self.path.name)} changed while in use", DAMAGED)
            strings.append(data[start:position].decode("utf-8", "replace"))
        return tuple(strings)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor. `shape` has the fastest-moving dimension first, as in the file.

    `offset` counts bytes from the start of its file, `size` is in bytes; `part` is the file of a
    split model it is in, from 0.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int
    part: int = 0

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything a GGUF file says about itself.

    `metadata` holds bool, int, float and str values, a tuple for an array of up to 4096 elements,
    an `Array` for a longer one. A property is None (or empty) where the file does not say, or says
    it in the wrong type. Of a split model `parts` lists the files (formats/split.py).
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    alignment: int
    file_size: int
    parts: tuple[Path, ...] = ()

    # -- what it is --------------------------------------------------------------------------

    @property
    def architecture(self) -> str:
        """Such as ``llama`` or ``gemma3``; empty where the file does not say."""
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str | None:
        return self.text("general.name")

    @property
    def licence(self) -> str | None:
        """The licence id as the file states it, such as ``apache-2.0``."""
        return self.text("general.license")

    @property
    def licence_name(self) -> str | None:
        return self.text("general.license.name")

    @property
    def licence_link(self) -> str | None:
        return self.text("general.license.link")

    @property
    def quantized_by(self) -> str | None:
        return self.text("general.quantized_by")

    @property
    def file_type(self) -> str | None:
        """The declared quantization, such as ``Q4_K_M``, or ``unknown (n)``."""
        number = self.number("general.file_type")
        return None if number is None else FILE_TYPES.get(number, f"unknown ({number})")

    @property
    def split_count(self) -> int:
        """Files the model is cut into; 1 for a whole one."""
        return self.number("split.count") or 1

    # -- how large ---------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """Elements of all tensors in this file."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return self.tensor_bytes * 8 / self.parameters if self.tensors else 0.0

    def type_mix(self) -> dict[str, Share]:
        """Tensors, parameters and bytes of each type, the largest share of bytes first."""
        return mix(self.tensors)

    def tensor(self, name: str) -> GgufTensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    # -- its shape ---------------------------------------------------------------------------

    @property
    def context_length(self) -> int | None:
        """Tokens of context the model was trained for."""
        return self._own("context_length")

    @property
    def block_count(self) -> int | None:
        return self._own("block_count")

    @property
    def embedding_length(self) -> int | None:
        return self._own("embedding_length")

    @property
    def feed_forward_lengths(self) -> tuple[int, ...]:
        """One number for each block."""
        return self.per_block("feed_forward_length")

    @property
    def head_counts(self) -> tuple[int, ...]:
        """Query heads of each block; 0 where a block has no attention."""
        return self.per_block("attention.head_count")

    @property
    def kv_head_counts(self) -> tuple[int, ...]:
        """Key and value heads of each block; the query heads where the file does not say."""
        return self.per_block("attention.head_count_kv") or self.head_counts

    @property
    def key_length(self) -> int | None:
        """Elements of one key head."""
        return self._own("attention.key_length") or self._head_length()

    @property
    def value_length(self) -> int | None:
        """Elements of one value head."""
        return self._own("attention.value_length") or self._head_length()

    @property
    def sliding_window(self) -> int | None:
        """Tokens that a windowed layer looks back; None where all layers see everything."""
        return self._own("attention.sliding_window") or None

    @property
    def expert_count(self) -> int | None:
        return self._own("expert_count") or None

    # -- its words ---------------------------------------------------------------------------

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer's family, such as ``gpt2`` or ``llama``."""
        return self.text("tokenizer.ggml.model")

    @property
    def pre_tokenizer(self) -> str | None:
        return self.text("tokenizer.ggml.pre")

    @property
    def vocabulary_size(self) -> int | None:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, (Array, tuple)):
            return len(tokens)
        embedding = self.tensor("token_embd.weight")
        if embedding and len(embedding.shape) > 1:
            return embedding.shape[1]
        return self._own("vocab_size")

    @property
    def special_tokens(self) -> dict[str, int]:
        """Token ids by role, such as ``{"bos": 1, "eos": 2}``."""
        prefix, suffix = "tokenizer.ggml.", "_token_id"
        return {
            key.removeprefix(prefix).removesuffix(suffix): number
            for key in self.metadata
            if key.startswith(prefix)
            and key.endswith(suffix)
            and (number := self.number(key)) is not None
        }

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the default template."""
        return self.text("tokenizer.chat_template")

    @property
    def chat_templates(self) -> dict[str, str]:
        """All templates by name; the unnamed one is ``default``."""
        prefix = "tokenizer.chat_template."
        named = {
            key.removeprefix(prefix): value
            for key, value in self.metadata.items()
            if key.startswith(prefix) and isinstance(value, str)
        }
        return ({"default": self.chat_template} if self.chat_template else {}) | named

    # -- reading metadata by type ------------------------------------------------------------

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        value = self.metadata.get(key)
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return value if ok else None

    def per_block(self, key: str) -> tuple[int, ...]:
        """The architecture's `key` for each block, whether written once or as a list."""
        blocks = min(self.block_count or 0, MAX_BLOCKS)
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and len(value) >= blocks:
            ok = all(isinstance(item, int) and item >= 0 for item in value)
            return tuple(int(item) for item in value[:blocks]) if ok else ()
        single = self._own(key)
        return (single,) * blocks if single is not None else ()

    def _own(self, key: str) -> int | None:
        return self.number(f"{self.architecture}.{key}")

    def _head_length(self) -> int | None:
        heads = max(self.head_counts, default=0)
        return (self.embedding_length or 0) // heads or None if heads else None


# ---- reading -------------------------------------------------------------------------------


def read(path: Path, *, whole: bool = True) -> GgufHeader:
    """Read the header of a GGUF file, joined with those of its siblings where it is split.

    `whole` False reads this one file.

    Raises:
        FormatError: not a GGUF file of version 2 or 3, or one that contradicts itself.
        ModelNotFound: there is no such file.
    """
    with open_file(path) as file:
        header = _GgufReader(path, file, MAX_HEADER).header()
    return split.join(header) if whole and header.split_count > 1 else header


class _GgufReader(Cursor):
    def header(self) -> GgufHeader:
        version = self._preamble()
        tensors, pairs = self.u64(), self.u64()
        # The smallest pair is an 8-byte key length, 1 byte of key, 4 of kind and 1 of value.
        self.limit("metadata pairs", pairs, min(MAX_PAIRS, self.size // 14))
        self.limit("tensors", tensors, min(MAX_TENSORS, self.size // 25))
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._key()
            if key in metadata:
                raise self.bad(f"has the key {shown(key)} twice")
            metadata[key] = self._value(key)
        alignment = metadata.get("general.alignment", 32)
        if not _is_alignment(alignment):
            raise self.bad(f"has the alignment {shown(alignment)}, which is no power of two")
        infos = [self._info() for _ in range(tensors)]
        start = -(-self.position // alignment) * alignment
        return GgufHeader(
            self.path,
            version,
            metadata,
            self._placed(infos, start, alignment),
            start,
            alignment,
            self.size,
        )

    def _preamble(self) -> int:
        magic = self.take(4) if self.size >= 4 else b""
        if magic in (b"lmgg", b"tjgg", b"fmgg", b"algg"):
            raise self.bad("is a GGML file from before GGUF", "get the model in GGUF form")
        if magic != b"GGUF":
            raise self.bad(f"starts with {shown(magic)} and not with 'GGUF'")
        version = self.u32()
        if version not in (2, 3):
            if version and not version & 0xFFFF:
                raise self.bad("is big endian", "get the little-endian file of this model")
            raise self.bad(f"is GGUF version {version}", "Overt reads versions 2 and 3")
        return version

    # -- metadata ----------------------------------------------------------------------------

    def _key(self) -> str:
        raw = self.string(65535, "a key")
        try:
            key = raw.decode("utf-8")
        except UnicodeDecodeError:
            key = ""
        if not key:
            raise self.bad(f"has the key {shown(raw)}")
        return key

    def _value(self, key: str) -> Any:
        kind = self.u32()
        if kind == _STRING:
            return self.string(MAX_HEADER, shown(key)).decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(key)
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self.bad(f"gives {shown(key)} the unknown value type {kind}")
        raw = self.take(scalar.size)
        if kind == _BOOL and raw[0] > 1:
            raise self.bad(f"gives the switch {shown(key)} the value {raw[0]}")
        return scalar.unpack(raw)[0]

    def _array(self, key: str) -> Array | tuple[Any, ...]:
        kind, count = self.u32(), self.u64()
        if kind != _STRING and kind not in _SCALARS:
            raise self.bad(f"gives {shown(key)} an array of the unsupported type {kind}")
        width = 8 if kind == _STRING else _SCALARS[kind].size
        self.limit(f"elements in {shown(key)}", count, min(MAX_ELEMENTS, self.size // width))
        start = self.position
        if kind == _STRING:
            self.skip_strings(count)
        else:
            self.skip(width * count)
        array = Array(count, _KIND_NAMES[kind], self.path, start, self.position - start)
        if count > _EAGER or array.size > _EAGER_BYTES:
            return array
        if kind != _STRING:
            return _elements(self.data, start, kind, count)
        self.position = start
        return tuple(
            self.string(_EAGER_BYTES, shown(key)).decode("utf-8", "replace") for _ in range(count)
        )

    # -- tensors -----------------------------------------------------------------------------

    def _info(self) -> tuple[str, tuple[int, ...], Kind, int]:
        name = self.string(MAX_NAME, "a tensor's name").decode("utf-8", "replace")
        dimensions = self.u32()
        self.limit(f"dimensions in {shown(name)}", dimensions, MAX_DIMENSIONS)
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        number, offset = self.u32(), self.u64()
        kind = TYPES.get(number)
        if kind is None:
            raise self.bad(
                f"gives {shown(name)} the unknown tensor type {number}",
                "this version of Overt does not read it: update Overt, or get another file",
            )
        if any(not 0 < extent < 1 << 63 for extent in shape) or math.prod(shape) >= 1 << 63:
            raise self.bad(f"gives {shown(name)} the shape {shape}, which no tensor can have")
        if (shape[0] if shape else 1) % kind.block:
            raise self.bad(
                f"gives {shown(name)} rows of {shape[0] if shape else 1} elements, "
                f"which {kind.name} cannot store in blocks of {kind.block}"
            )
        return name, shape, kind, offset

    def _placed(
        self, infos: list[tuple[str, tuple[int, ...], Kind, int]], start: int, alignment: int
    ) -> tuple[GgufTensor, ...]:
        """Offsets made absolute, once each tensor is known to lie inside the file and alone."""
        tensors = []
        names = set()
        for name, shape, kind, offset in infos:
            size = math.prod(shape) // kind.block * kind.bytes
            if name in names:
                raise self.bad(f"has the tensor {shown(name)} twice")
            if offset % alignment:
                raise self.bad(
                    f"puts {shown(name)} at {offset}, which is no multiple of {alignment}"
                )
            if start + offset + size > self.size:
                raise self.bad(
                    f"ends after {self.size} bytes and {shown(name)} needs bytes up to "
                    f"{start + offset + size}",
                    "the download is incomplete or damaged: get it again",
                )
            names.add(name)
            tensors.append(GgufTensor(name, shape, kind.name, start + offset, size))
        ordered = sorted(tensors, key=lambda tensor: tensor.offset)
        for before, after in itertools.pairwise(ordered):
            if before.offset + before.size > after.offset:
                raise self.bad(f"lays {shown(after.name)} over {shown(before.name)}")
        return tuple(tensors)


def _elements(
    data: bytes | bytearray, start: int, kind: int, count: int
) -> tuple[int | float | bool, ...]:
    code = _SCALARS[kind].format[1:]
    return struct.unpack_from(f"<{count}{code}", data, start)


def _is_alignment(value: object) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and 0 < value <= 1 << 20
        and not value & (value - 1)
    )
