"""Which words of a licence stand where in a person's text.

Rows of words that are unique on both sides are anchors, the longest rising chain of them is kept,
and what lies between is compared word by word. The time grows with the length of the texts, not
with its square.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

Block = tuple[int, int, int]
"""(place in the licence, place in the text, words that are equal)."""

_ROWS = (8, 4)
_CELLS = 90_000  # of a gap that is compared word by word


def blocks(left: Sequence[int], right: Sequence[int]) -> list[Block]:
    """The equal runs, rising on both sides."""
    runs = list(_blocks(left, right, 0, len(left), 0, len(right), 0))
    joined: list[Block] = []
    for i, j, n in runs:
        if joined and joined[-1][0] + joined[-1][2] == i and joined[-1][1] + joined[-1][2] == j:
            joined[-1] = (joined[-1][0], joined[-1][1], joined[-1][2] + n)
        else:
            joined.append((i, j, n))
    return joined


def _blocks(
    left: Sequence[int], right: Sequence[int], a: int, b: int, c: int, d: int, level: int
) -> Iterator[Block]:
    """Equal runs of left[a:b] and right[c:d]."""
    n = 0
    while a + n < b and c + n < d and left[a + n] == right[c + n]:
        n += 1
    if n:
        yield a, c, n
        a, c = a + n, c + n
    n = 0
    while a < b - n and c < d - n and left[b - n - 1] == right[d - n - 1]:
        n += 1
    b, d = b - n, d - n
    if a < b and c < d:
        yield from _between(left, right, a, b, c, d, level)
    if n:
        yield b, d, n


def _between(
    left: Sequence[int], right: Sequence[int], a: int, b: int, c: int, d: int, level: int
) -> Iterator[Block]:
    if (b - a) * (d - c) <= _CELLS or level == len(_ROWS):
        if (b - a) * (d - c) <= 4 * _CELLS:
            from difflib import SequenceMatcher

            matcher = SequenceMatcher(None, left[a:b], right[c:d], autojunk=False)
            yield from ((a + i, c + j, n) for i, j, n in matcher.get_matching_blocks() if n)
        return
    row = _ROWS[level]
    at = (a, c)
    for i, j in _chain(_unique(left, a, b, row), _unique(right, c, d, row)):
        if i < at[0] or j < at[1]:
            continue
        yield from _blocks(left, right, at[0], i, at[1], j, level + 1)
        yield i, j, row
        at = (i + row, j + row)
    yield from _blocks(left, right, at[0], b, at[1], d, level + 1)


def _unique(words: Sequence[int], first: int, behind: int, row: int) -> dict[tuple[int, ...], int]:
    positions: dict[tuple[int, ...], int] = {}
    for i in range(first, behind - row + 1):
        key = tuple(words[i : i + row])
        positions[key] = -1 if key in positions else i
    return {key: i for key, i in positions.items() if i >= 0}


def _chain(
    left: dict[tuple[int, ...], int], right: dict[tuple[int, ...], int]
) -> list[tuple[int, int]]:
    """The longest chain of common rows that rises on both sides."""
    pairs = sorted((i, right[key]) for key, i in left.items() if key in right)
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for at, (_, j) in enumerate(pairs):
        place = bisect_left(tails, j)
        before.append(ends[place - 1] if place else -1)
        if place == len(tails):
            tails.append(j)
            ends.append(at)
        else:
            tails[place] = j
            ends[place] = at
    chain = []
    at = ends[-1] if ends else -1
    while at >= 0:
        chain.append(pairs[at])
        at = before[at]
    return chain[::-1]
