"""One known licence laid over a part of a person's text, and what does not fit."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from overt.openness.licence.align import Block, blocks
from overt.openness.licence.fingerprints import LicenceText, VariableSpan, load_index
from overt.openness.licence.pattern import Pattern
from overt.openness.licence.plain import is_licence_name
from overt.openness.licence.remarks import naming
from overt.openness.licence.text import LicenceWords, hashed, shingles

_NEGATIONS: Final = ("not", "no", "neither", "nor", "none")
_YEAR: Final = Pattern(r"(?:19|20)\d\d")
_ENUMERATOR: Final = Pattern(r"\d{1,2}(?:\.\d{1,2}){0,3}|[a-z]|[ivx]{1,5}")
_CAPITAL: Final = Pattern(r"[\s*_]+[\"'(*]{0,3}[A-Z]")
_REPEATS: Final = 4  # places of one shingle that are looked at
_FREE: Final = frozenset(
    (*_NEGATIONS, "may", "without", "the", "above", "name", "names", "of", "its", "contributors")
)
_TEMPLATE = Pattern(
    r"\b(?:not|no|neither|nor|none|may|without|above|names?|its|be)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class TextGap:
    """Where licence and text differ after everything that may differ.

    Attributes:
        missing: places in the licence whose words are not there; none is optional.
        first, behind: the words of the text that stand there instead; the same for none.
        dropped: places in the licence that may be left out, and are.
        loose: it lies in a part that may be left out.
    """

    missing: tuple[int, ...]
    first: int
    behind: int
    dropped: tuple[int, ...] = ()
    loose: bool = False


@dataclass(frozen=True)
class LicenceFit:
    """A licence over the words first … behind of a text.

    Attributes:
        equal: words of the licence that stand there, or are replaced by what may replace them.
        plain: nothing at all differs.
    """

    entry: LicenceText
    first: int
    behind: int
    equal: int
    gaps: tuple[TextGap, ...]
    plain: bool

    @property
    def score(self) -> int:
        cost = sum(len(gap.missing) + gap.behind - gap.first for gap in self.gaps)
        return self.equal - 2 * cost

    @property
    def coverage(self) -> float:
        missing = sum(len(gap.missing) for gap in self.gaps)
        required = max(1, self.entry.required)
        return max(0.0, 1 - missing / required)


@cache
def _places(number: int) -> dict[int, int]:
    """Where each shingle of an entry stands that stands there once."""
    positions: dict[int, int] = {}
    for i, shingle in enumerate(shingles(load_index().entry(number).words)):
        positions[shingle] = -1 if shingle in positions else i
    return {shingle: i for shingle, i in positions.items() if i >= 0}


class ShingleRows:
    """The shingles of a text, and where each stands."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.all = shingles(ids)
        self._at: dict[int, list[int]] = {}
        for j, row in enumerate(self.all):
            self._at.setdefault(row, []).append(j)
        shortlist = load_index().shortlist
        self._listed = [j for j, row in enumerate(self.all) if row in shortlist]

    def listed(self, first: int, behind: int) -> set[int]:
        """Those of the shortlist from first to behind."""
        start = bisect_left(self._listed, first)
        end = bisect_left(self._listed, behind, start)
        return {self.all[j] for j in self._listed[start:end]}

    def at(self, row: int, first: int, behind: int) -> list[int]:
        """Its first few places from first to behind: a text may repeat one without end."""
        every = self._at.get(row, [])
        start = bisect_left(every, first)
        return every[start : min(start + _REPEATS, bisect_left(every, behind, start))]


def window(
    entry: LicenceText, rows: ShingleRows, first: int, behind: int
) -> tuple[int, int] | None:
    """The part of the words first … behind that may be a copy of an entry; None: there is none."""
    places = _places(entry.number)
    hits = sorted((j - i, j) for row, i in places.items() for j in rows.at(row, first, behind))
    if not hits:
        return None
    size = len(entry.words)
    width = max(60, size // 2)
    best, low, span = 0, 0, (0, 0)
    for high in range(len(hits)):
        while hits[high][0] - hits[low][0] > width:
            low += 1
        if high - low >= best:
            best, span = high - low + 1, (low, high)
    aligned = sorted(j for _, j in hits[span[0] : span[1] + 1])
    slack = 30 + size // 10
    start = aligned[0] - places[rows.all[aligned[0]]] - slack
    end = aligned[-1] + size - places[rows.all[aligned[-1]]] + slack
    return max(first, min(start, aligned[0])), min(behind, max(end, aligned[-1] + 5))


def fit(
    entry: LicenceText, words: LicenceWords, ids: Sequence[int], first: int, behind: int
) -> LicenceFit | None:
    """Lay an entry over the words first … behind; None: too little of it is there."""
    runs = _trimmed(blocks(entry.words, ids[first:behind]))
    if not runs:
        return None
    runs = [(i, j + first, n) for i, j, n in runs]
    start, end = runs[0][1], runs[-1][1] + runs[-1][2]
    where = [-1] * len(entry.words)
    taken = bytearray(behind + 1)
    for i, j, n in runs:
        where[i : i + n] = range(j, j + n)
        taken[j : j + n] = b"\x01" * n
    excused = bytearray(len(entry.words))
    for span in entry.spans:
        if span.kind != "optional":
            _fill(span, entry, words, ids, where, taken, excused, (start, end))
    gaps = tuple(_gaps(entry, words, runs, where, taken, excused, (start, end)))
    matched = sum(n for _, _, n in runs)
    equal = matched + sum(1 for i, is_excused in enumerate(excused) if is_excused and where[i] < 0)
    return LicenceFit(entry, start, end, equal, gaps, matched == len(entry.words) == end - start)


def _trimmed(runs: list[Block]) -> list[Block]:
    """Without short runs at the ends that stand far from the rest: those are chance."""
    while len(runs) > 1 and runs[0][2] < 5 and _is_far(runs[0], runs[1]):
        runs = runs[1:]
    while len(runs) > 1 and runs[-1][2] < 5 and _is_far(runs[-2], runs[-1], last=True):
        runs = runs[:-1]
    return runs


def _is_far(block: Block, other: Block, *, last: bool = False) -> bool:
    apart = other[1] - block[1] - block[2]
    return apart > 3 * (other if last else block)[2] + 8


def _fill(
    span: VariableSpan,
    entry: LicenceText,
    words: LicenceWords,
    ids: Sequence[int],
    where: list[int],
    taken: bytearray,
    excused: bytearray,
    bounds: tuple[int, int],
) -> None:
    """Excuse what stands in a place where a name or another wording may stand."""
    left, right = span.first - 1, span.behind
    while left >= 0 and where[left] < 0 and (entry.optional[left] or excused[left]):
        left -= 1
    while right < len(where) and where[right] < 0 and (entry.optional[right] or excused[right]):
        right += 1
    if (left >= 0 and where[left] < 0) or (right < len(where) and where[right] < 0):
        return
    begin = where[left] + 1 if left >= 0 else bounds[0]
    end = where[right] if right < len(where) else bounds[1]
    if begin > end or not _accepted(span, words, ids, begin, end):
        return
    excused[span.first : span.behind] = b"\x01" * (span.behind - span.first)
    taken[begin:end] = b"\x01" * (end - begin)


def _accepted(
    span: VariableSpan, words: LicenceWords, ids: Sequence[int], begin: int, end: int
) -> bool:
    if span.kind == "alt":
        return tuple(ids[begin:end]) in span.wordings
    if end - begin > span.most:
        return False
    if begin == end:
        return not span.negated
    held = set(words.words[begin:end])
    if span.free:
        names_found = naming(words.source[words.starts[begin] : words.ends[end - 1]])
        negations = [word for word in words.words[begin:end] if word in _NEGATIONS]
        once = negations in (["not"], ["neither", "nor"], ["none"], ["neither", "nor", "nor"])
        if once != span.negated or not ("may" in held or not span.negated):
            return False
        rest = _TEMPLATE.sub(" ", words.source[words.starts[begin] : words.ends[end - 1]])
        kept_words = [word for word in rest.split() if word.lower() not in _FREE]
        return set(names_found) <= _FREE and (len(kept_words) <= 1 or is_licence_name(rest))
    source = words.source[words.starts[begin] : words.ends[end - 1]]
    return not naming(source) and is_licence_name(source)


def _gaps(
    entry: LicenceText,
    words: LicenceWords,
    runs: Sequence[Block],
    where: list[int],
    taken: bytearray,
    excused: bytearray,
    bounds: tuple[int, int],
) -> Iterator[TextGap]:
    numbers = load_index().numbers
    ends = [(0, bounds[0], 0), *runs, (len(entry.words), bounds[1], 0)]
    for (i, j, n), (i2, j2, n2) in pairwise(ends):
        lost = [k for k in range(i + n, i2) if where[k] < 0 and not excused[k]]
        missing = tuple(k for k in lost if not entry.optional[k])
        dropped = tuple(k for k in lost if entry.optional[k])
        extra = [k for k in range(j + n, j2) if not taken[k]]
        first, behind = (extra[0], extra[-1] + 1) if extra else (j2, j2)
        if missing and _same(entry, words, missing, first, behind):
            continue
        numbered = any(entry.words[k] in numbers for k in dropped)
        if extra and not (missing or numbered) and all(_lettered(words, k) for k in extra):
            continue
        if _address(entry, words, missing, extra):
            continue
        if _years(entry, words, missing, first, behind):
            continue
        if extra and not (missing or numbered):
            first, behind = _whole_line(entry, words, (first, behind), (i, j, n), (i2, j2, n2))
        if missing or extra or dropped:
            sides = (entry.optional[i + n - 1 : i + n], entry.optional[i2 : i2 + 1])
            yield TextGap(missing, first, behind, dropped, all(side == b"\x01" for side in sides))


def _lettered(words: LicenceWords, k: int) -> bool:
    """Whether a word is the number or letter of a list in running text: ``(a)``, ``2.``."""
    if not _ENUMERATOR.fullmatch(words.words[k]):
        return False
    rest = words.source[words.ends[k] : words.ends[k] + 12]
    return bool(re.match(r"\\?[.)]", rest) or ("." in words.words[k] and _CAPITAL.match(rest)))


def _address(
    entry: LicenceText, words: LicenceWords, missing: tuple[int, ...], extra: list[int]
) -> bool:
    """Whether a postal address of the licence's keeper is left out or became one on the web."""
    numbers = [load_index().numbers.get(entry.words[k], "") for k in missing]
    return (
        any(re.fullmatch(r"0\d{4}", number) for number in numbers)
        and len(missing) <= 16
        and all(words.words[k].startswith("@") for k in extra)
    )


def _whole_line(
    entry: LicenceText, words: LicenceWords, place: tuple[int, int], before: Block, after: Block
) -> tuple[int, int]:
    """Inserted words with the words of their line that the licence may do without."""
    first, behind = place
    i, j, n = before
    k = j + n - 1
    while first == k + 1 and k >= j and entry.optional[i + k - j]:
        if "\n" in words.source[words.ends[k] : words.starts[first]]:
            break
        first, k = k, k - 1
    i, j, n = after
    k = j
    while behind == k and k < j + n and entry.optional[i + k - j]:
        if "\n" in words.source[words.ends[behind - 1] : words.starts[k]]:
            break
        behind = k = k + 1
    return first, behind


def _years(
    entry: LicenceText, words: LicenceWords, missing: tuple[int, ...], first: int, behind: int
) -> bool:
    """Whether only the years of a copyright notice differ."""
    numbers = load_index().numbers
    lost = [numbers.get(entry.words[k], "") for k in missing]
    if not (lost or first < behind):
        return False
    if not all(_YEAR.fullmatch(number) for number in (*lost, *words.words[first:behind])):
        return False
    return "copyright" in words.words[max(0, first - 30) : first]


def _same(
    entry: LicenceText, words: LicenceWords, missing: tuple[int, ...], first: int, behind: int
) -> bool:
    """Whether only spaces and hyphens differ ("non-commercial"), or a number stood in a list."""
    vocabulary = load_index().vocabulary
    wanted = [entry.words[k] for k in missing]
    inserted = words.words[first:behind]
    if not inserted:
        low = words.ends[first - 1] if first else 0
        high = words.starts[behind] if behind < len(words.starts) else len(words.source)
        listed = [vocabulary.get(hashed(w), -1) for at, w in words.listed if low <= at < high]
        return listed == wanted
    if len(wanted) == 1:
        if inserted == ("any",) and words.words[behind : behind + 1] == ("contributors",):
            return wanted[0] == vocabulary.get(hashed("its"))
        return len(inserted) <= 3 and vocabulary.get(hashed("".join(inserted)), -1) == wanted[0]
    if len(wanted) == 2 and len(inserted) == 1:
        word = inserted[0]
        halves = [
            (vocabulary.get(hashed(word[:k]), -1), vocabulary.get(hashed(word[k:]), -1))
            for k in range(1, len(word))
        ]
        return tuple(wanted) in halves
    return False
