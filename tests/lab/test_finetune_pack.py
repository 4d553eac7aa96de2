"""Packing: every example is in one row, whole, and rows are never longer than they may be."""

from hypothesis import given, settings
from hypothesis import strategies as st

from overt.lab.finetune import pack
from overt.lab.finetune.example import Batch, Example, PreferenceExample


def examples(sizes: list[int]) -> list[Example]:
    return [
        Example([1000 * at + i for i in range(size)], [False, *[True] * (size - 1)], at)
        for at, size in enumerate(sizes)
    ]


def unpacked(batches: list[Batch]) -> list[tuple[list[int], list[bool]]]:
    found = []
    for batch in batches:
        for ids, labels, positions, segments in zip(
            batch.ids, batch.labels, batch.positions, batch.segments, strict=True
        ):
            for number in range(max(segments) + 1):
                where = [at for at, segment in enumerate(segments) if segment == number]
                assert where == list(range(where[0], where[0] + len(where)))
                assert [positions[at] for at in where] == list(range(len(where)))
                found.append(([ids[at] for at in where], [labels[at] for at in where]))
            assert not any(
                label for label, segment in zip(labels, segments, strict=True) if segment < 0
            )
    return found


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 64), max_size=40),
    rows=st.integers(1, 4),
    together=st.booleans(),
    seed=st.integers(0, 5),
)
def test_nothing_is_lost(sizes: list[int], rows: int, together: bool, seed: int) -> None:
    given_ = examples(sizes)
    batches = pack.packed(given_, 64, rows, together=together, seed=seed)
    assert sorted(unpacked(batches)) == sorted((one.ids, one.labels) for one in given_)
    assert batches == pack.packed(given_, 64, rows, together=together, seed=seed)
    for batch in batches:
        assert 1 <= len(batch.ids) <= rows
        assert len(batch.ids[0]) <= 64
        assert batch.tokens == sum(segment >= 0 for row in batch.segments for segment in row)


def test_rows_are_filled() -> None:
    batches = pack.packed(examples([32] * 100), 64, 1)
    assert len(batches) == 50
    assert all(batch.tokens == 64 for batch in batches)


def test_pairs_keep_together() -> None:
    pairs = [PreferenceExample([1] * at, [2], [3, 4], at) for at in range(1, 8)]
    groups = pack.pairs(pairs, 3, seed=1)
    assert sorted(one.line for group in groups for one in group) == list(range(1, 8))
    assert max(map(len, groups)) == 3
