"""Examples become rows of one length, several in a row where they fit, and rows become batches."""

from collections.abc import Sequence
from random import Random

from overt.lab.finetune.example import Batch, Example, PreferenceExample


def packed(
    examples: Sequence[Example], length: int, rows: int, *, together: bool = True, seed: int = 0
) -> list[Batch]:
    """Batches of at most `rows` rows of at most `length` tokens; every example is in one of them.

    The order is drawn from `seed`. With `together` the examples are put, the longest first, each
    into the first row with room (first fit decreasing, Johnson 1973); otherwise each has a row of
    its own, and rows of like length come together so that little is filled up.

    Raises:
        ValueError: an example is longer than `length`; whoever calls has sorted those out.
    """
    order = list(range(len(examples)))
    Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    order.sort(key=lambda at: -len(examples[at].ids))
    if order and len(examples[order[0]].ids) > length:
        raise ValueError(f"an example has {len(examples[order[0]].ids)} tokens, over {length}")
    bins = _first_fit(examples, order, length) if together else [[at] for at in order]
    batches = [bins[start : start + rows] for start in range(0, len(bins), rows)]
    Random(seed + 1).shuffle(batches)  # noqa: S311
    return [_batch([[examples[at] for at in row] for row in batch]) for batch in batches]


def pairs(
    examples: Sequence[PreferenceExample], rows: int, *, seed: int = 0
) -> list[list[PreferenceExample]]:
    """The same of preference pairs, which are not packed: those of like length together."""
    order = list(range(len(examples)))
    Random(seed).shuffle(order)  # noqa: S311
    order.sort(key=lambda at: -len(examples[at]))
    groups = [[examples[at] for at in order[i : i + rows]] for i in range(0, len(order), rows)]
    Random(seed + 1).shuffle(groups)  # noqa: S311
    return groups


def _first_fit(examples: Sequence[Example], order: Sequence[int], length: int) -> list[list[int]]:
    """Rows of examples. A tree over the rows' room finds the first that fits in log time."""
    size = 1
    while size < max(1, len(order)):
        size *= 2
    room = [length] * (2 * size)
    bins: list[list[int]] = [[] for _ in order]
    for at in order:
        need, node = len(examples[at].ids), 1
        while node < size:
            node = 2 * node if room[2 * node] >= need else 2 * node + 1
        bins[node - size].append(at)
        room[node] -= need
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return [row for row in bins if row]


def _batch(rows: Sequence[Sequence[Example]]) -> Batch:
    longest = max(sum(len(example.ids) for example in row) for row in rows)
    ids, labels, positions, segments = [], [], [], []
    for row in rows:
        empty = longest - sum(len(example.ids) for example in row)
        ids.append([id for example in row for id in example.ids] + [0] * empty)
        labels.append([label for example in row for label in example.labels] + [False] * empty)
        positions.append([at for example in row for at in range(len(example.ids))] + [0] * empty)
        segments.append([n for n, example in enumerate(row) for _ in example.ids] + [-1] * empty)
    return Batch(ids, labels, positions, segments)
