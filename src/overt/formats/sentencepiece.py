"""A SentencePiece model: the pieces of ``tokenizer.model`` with their scores and kinds.

::

    file  = field*                      protocol buffers, message ModelProto
    field = tag:varint value            tag = number << 3 | wire type
    1 piece (repeated): 1 text, 2 score:float, 3 kind      2 trainer: 3 algorithm
    3 normalizer: 2 map of characters, 3 adds a space in front, 4 removes spaces

Nothing in the file is trusted: every length is checked against what is left, pieces are counted.

Source: sentencepiece_model.proto of SentencePiece (numbers, defaults), the protocol buffers'
page on encoding (wire types).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overt.errors import FormatError

MAX_BYTES: Final = 64 << 20
MAX_PIECES: Final = 1 << 21
MAX_TEXT: Final = 1 << 12
ALGORITHMS: Final = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""The kinds of a piece; GGUF's ``tokenizer.ggml.token_type`` has the same numbers."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Pieces:
    """What is read of a model.

    Attributes:
        texts, scores, kinds: of each piece, by its id.
        algorithm: ``unigram``, ``bpe``, ``word`` or ``char``.
        rewrites: the normalizer changes characters.
        space_first: a text gets a space in front of it.
        squeezes: runs of spaces become one.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    algorithm: str
    rewrites: bool
    space_first: bool
    squeezes: bool


def read(data: bytes) -> Pieces:
    """Read a model.

    Raises:
        FormatError: not a SentencePiece model.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is {len(data)} bytes")
        return _read(memoryview(data))
    except (ValueError, struct.error) as error:
        raise FormatError(f"tokenizer.model is no SentencePiece model: {error}") from None


def _read(data: memoryview) -> Pieces:
    texts: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    for number, value in _fields(data):
        if number == 1:
            text, score, kind = _piece(_message(value))
            texts.append(text)
            scores.append(score)
            kinds.append(kind)
            if len(texts) > MAX_PIECES:
                raise ValueError(f"it has more than {MAX_PIECES} pieces")
        elif number in (2, 3):
            message = trainer if number == 2 else normalizer
            for inner, part in _fields(_message(value)):
                message[inner] = part if isinstance(part, int) else len(part)
    if not texts:
        raise ValueError("it has no pieces")
    if (algorithm := trainer.get(3, 1)) not in ALGORITHMS:
        raise ValueError(f"its algorithm is number {algorithm}")
    return Pieces(
        tuple(texts),
        tuple(scores),
        tuple(kinds),
        ALGORITHMS[algorithm],
        bool(normalizer.get(2)),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
    )


def _piece(data: memoryview) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            raw = _message(value)
            if len(raw) > MAX_TEXT:
                raise ValueError(f"a piece has {len(raw)} bytes")
            text = str(raw, "utf-8")
        elif number == 2:
            score = struct.unpack("<f", _message(value))[0]
            if score != score or abs(score) == float("inf"):
                raise ValueError(f"a piece has the score {score}")
        elif number == 3 and isinstance(value, int):
            kind = value
    if not NORMAL <= kind <= BYTE:
        raise ValueError(f"a piece is of kind {kind}")
    return text, score, kind


def _message(value: "int | memoryview") -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes belong")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """Number and value of each field; of a fixed one its bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} has the wire type {wire}")
        if size > len(data) - position:
            raise ValueError(f"field {number} needs {size} bytes of {len(data) - position}")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than 10 bytes")
