"""The licences the project knows: for each a number per word, and the places that may differ.

`data/fingerprints.bin` is made by `scripts/fingerprints.py`. Behind eight bytes of magic lies zlib:
four sizes, JSON (entries and the words that are numbers), the vocabulary (a 32-bit hash per word),
the words of all entries (16-bit places in the vocabulary), and for the shortlist a sample of
five-word shingles with their entries.
"""

import json
import sys
import zlib
from array import array
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from overt.openness.packed import DATA

MAGIC: Final = b"OVLICFP1"


@dataclass(frozen=True, slots=True)
class VariableSpan:
    """Where a copy may differ.

    Attributes:
        kind: ``optional`` may be left out; ``wild`` holds any name; ``alt`` one of `wordings`.
        most: words a name may have.
        free: a name may hold words of permission (the template's own does).
        negated: a name must hold a negation (the template's own does).
    """

    first: int
    behind: int
    kind: Literal["optional", "wild", "alt"]
    wordings: tuple[tuple[int, ...], ...] = ()
    most: int = 0
    free: bool = False
    negated: bool = False


@dataclass(frozen=True)
class LicenceText:
    """One text, or one short notice that points to a text.

    Attributes:
        words: places in the vocabulary.
        sampled: how many of its shingles the shortlist knows.
        optional: for each word, whether it may be left out.
    """

    number: int
    id: str
    notice: bool
    words: tuple[int, ...]
    sampled: int
    spans: tuple[VariableSpan, ...]
    optional: bytes

    @property
    def required(self) -> int:
        return len(self.words) - sum(self.optional)


@dataclass(frozen=True)
class FingerprintIndex:
    """All entries.

    Attributes:
        vocabulary: hash of a word to its place.
        numbers: the words that are numbers, in clear, by place.
        shortlist: shingle to the numbers of the entries that hold it.
    """

    vocabulary: dict[int, int]
    numbers: dict[int, str]
    shortlist: dict[int, tuple[int, ...]]
    _heads: tuple[tuple[Any, ...], ...]
    _words: "array[int]"

    @property
    def count(self) -> int:
        return len(self._heads)

    def sampled(self, number: int) -> tuple[int, int]:
        """(words that may not be left out, sampled shingles) of an entry."""
        head = self._heads[number]
        return head[4], head[5]

    def entry(self, number: int) -> LicenceText:
        return _entry(number)


@cache
def load_index() -> FingerprintIndex:
    """All entries; the first call reads the file."""
    packed = (DATA / "fingerprints.bin").read_bytes()
    assert packed.startswith(MAGIC), "data/fingerprints.bin is of another version"
    content = zlib.decompress(packed[len(MAGIC) :])
    sizes = _array("I", content[:16])
    at = 16 + sizes[0]
    head = json.loads(content[16:at])
    parts = []
    for kind, count in (("I", sizes[1]), ("H", sizes[2]), ("I", sizes[3]), ("H", sizes[3])):
        size = count * (4 if kind == "I" else 2)
        parts.append(_array(kind, content[at : at + size]))
        at += size
    vocabulary, words, keys, owners = parts
    shortlist: dict[int, tuple[int, ...]] = {}
    for key, owner in zip(keys, owners, strict=True):
        if key in shortlist:
            shortlist[key] += (owner,)
        else:
            shortlist[key] = (owner,)
    heads = []
    start = 0
    for name, notice, length, required, sampled, spans in head["entries"]:
        heads.append((name, notice, start, length, required, sampled, spans))
        start += length
    return FingerprintIndex(
        dict(zip(vocabulary, range(len(vocabulary)), strict=True)),
        {int(place): word for place, word in head["numbers"].items()},
        shortlist,
        tuple(heads),
        words,
    )


def _array(kind: str, content: bytes) -> "array[int]":
    made: array[int] = array(kind)
    made.frombytes(content)
    if sys.byteorder == "big":
        made.byteswap()
    return made


@cache
def _entry(number: int) -> LicenceText:
    all_ = load_index()
    name, notice, start, length, _, sampled, raw = all_._heads[number]
    spans = tuple(_span(*row) for row in raw)
    optional = bytearray(length)
    for span in spans:
        if span.kind == "optional":
            optional[span.first : span.behind] = b"\x01" * (span.behind - span.first)
    words = tuple(all_._words[start : start + length])
    return LicenceText(number, name, notice, words, sampled, spans, bytes(optional))


def _span(first: int, behind: int, kind: Any, argument: Any) -> VariableSpan:
    if kind == "alt":
        return VariableSpan(
            first, behind, "alt", wordings=tuple(tuple(wording) for wording in argument)
        )
    if kind == "wild":
        most, free, negated = argument
        return VariableSpan(first, behind, "wild", most=most, free=free, negated=negated)
    return VariableSpan(first, behind, "optional")
