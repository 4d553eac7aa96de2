"""The frames between worker and parent: exact bytes, and any bytes at all."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from overt.runtime.worker.frames import LIMIT, BadFrame, FrameSplitter, WorkerFrame, pack, unpack

ids = st.integers(0, 2**32 - 1)
kinds = st.text("abcdefghijklmnopqrstuvwxyz/", min_size=1, max_size=31)


def test_a_frame_is_its_length_and_msgpack():
    data = pack(7, "chunk", b"abc")
    assert data[:4] == (len(data) - 4).to_bytes(4, "little")
    assert msgpack.decode(data[4:]) == [7, "chunk", b"abc"]


@given(st.lists(st.tuples(ids, kinds, st.binary(max_size=300))), st.integers(1, 50))
def test_frames_survive_any_cut(frames: list[tuple[int, str, bytes]], step: int):
    stream = b"".join(pack(*frame) for frame in frames)
    splitter = FrameSplitter()
    got = [f for at in range(0, len(stream), step) for f in splitter.feed(stream[at : at + step])]
    assert got == [WorkerFrame(*frame) for frame in frames]


@given(st.binary(max_size=200))
def test_any_bytes_end_in_frames_or_in_bad_frame(data: bytes):
    try:
        frame = unpack(data)
    except BadFrame:
        return
    assert pack(*frame)[4:] == data  # one encoding only


def test_mutated_streams_never_raise_anything_else():
    pick = random.Random(2)
    good = b"".join(pack(n, "chunk", pick.randbytes(pick.randrange(40))) for n in range(20))
    broken = 0
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(pick.randrange(1, 6)):
            data[pick.randrange(len(data))] = pick.randrange(256)
        cut = pick.randrange(len(data))
        splitter = FrameSplitter()
        try:
            splitter.feed(bytes(data[:cut]))
            splitter.feed(bytes(data[cut:]))
        except BadFrame:
            broken += 1
    assert 2000 < broken < 5000


def test_a_long_length_is_refused_before_anything_is_kept():
    tracemalloc.start()
    with pytest.raises(BadFrame, match="longer than"):
        FrameSplitter().feed((LIMIT + 1).to_bytes(4, "little"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("id", "kind", "body"),
    [(-1, "x", b""), (1 << 32, "x", b""), (1, "", b""), (1, "x" * 32, b""), (1, "x", bytes(LIMIT))],
)
def test_what_cannot_be_sent_is_refused(id: int, kind: str, body: bytes):
    with pytest.raises(ValueError, match="out of bounds"):
        pack(id, kind, body)
