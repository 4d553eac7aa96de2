"""GGUF files that nobody should have written: each is refused with one sentence, at little cost."""

import os
import random
import re
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

import gguf_writer as writer
from overt.errors import FormatError, ModelNotFound
from overt.formats import gguf

MUTATIONS = 3000


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer.write_llama(path)
    return path


def refused(path: Path) -> str:
    """The sentence a file is refused with."""
    with pytest.raises(FormatError) as caught:
        gguf.read(path)
    assert_sentence(caught.value)
    assert repr(path.name) in str(caught.value)
    return str(caught.value)


def assert_sentence(error: FormatError) -> None:
    assert error.hint
    assert not re.search(r"[\x00-\x1f\x7f]", str(error))
    assert len(str(error)) < 400


# ---- refusals --------------------------------------------------------------------------------


def raw(*, version: int = 3, tensors: int = 0, pairs: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def info(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        writer.string(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


def one(*infos: bytes, data: int = 4096) -> bytes:
    """A file with these tensors, `data` zero bytes for them, and no metadata."""
    head = raw(tensors=len(infos), rest=b"".join(infos))
    return head + bytes(-len(head) % 32 + data)


def pair(key: bytes, value: bytes) -> bytes:
    return raw(pairs=1, rest=writer.string(key) + value) + bytes(64)


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "starts with b'' and not with 'GGUF'"),
    "short": (b"GG", "starts with b''"),
    "another format": (b"PK\x03\x04" + bytes(60), r"starts with b'PK\\x03\\x04'"),
    "before GGUF": (b"tjgg" + bytes(60), "is a GGML file from before GGUF"),
    "only the mark": (b"GGUF", "is 4 bytes long and ends inside its header"),
    "version 1": (raw(version=1), "is GGUF version 1; Overt reads versions 2 and 3"),
    "version 4": (raw(version=4), "is GGUF version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big endian"),
    "too many pairs": (raw(pairs=2**63), "claims 9223372036854775808 metadata pairs"),
    "too many tensors": (raw(tensors=2**64 - 1), "claims 18446744073709551615 tensors"),
    "a long key": (pair(b"k" * 65536, writer.value(1)), "claims 65536 bytes in a key"),
    "an empty key": (pair(b"", writer.value(1)), "has the key b''"),
    "a key not in UTF-8": (pair(b"\xff", writer.value(1)), r"has the key b'\\xff'"),
    "a key twice": (
        raw(pairs=2, rest=2 * (writer.string("k") + writer.value(1))) + bytes(32),
        "has the key 'k' twice",
    ),
    "an unknown kind": (pair(b"k", struct.pack("<IQ", 13, 0)), "the unknown value type 13"),
    "a list of lists": (pair(b"k", struct.pack("<IIQ", 9, 9, 1)), "an array of the unsupported"),
    "a switch of 2": (pair(b"k", struct.pack("<IB", 7, 2)), "gives the switch 'k' the value 2"),
    "a long string": (pair(b"k", struct.pack("<IQ", 8, 2**40)), "claims 1099511627776 bytes"),
    "a long list": (pair(b"k", struct.pack("<IIQ", 9, 4, 2**40)), "elements in 'k'"),
    "a list of endless strings": (
        pair(b"k", struct.pack("<IIQQ", 9, 8, 2, 2**64 - 1)),
        "ends inside its header",
    ),
    "an odd alignment": (
        pair(b"general.alignment", writer.value(24)),
        "has the alignment 24, which is no power of two",
    ),
    "an alignment of 0": (pair(b"general.alignment", writer.value(0)), "has the alignment 0"),
    "an alignment in words": (
        pair(b"general.alignment", writer.value("32")),
        "has the alignment '32'",
    ),
    "a long tensor name": (one(info(b"n" * 65, (1,))), "claims 65 bytes in a tensor's name"),
    "5 dimensions": (one(info(b"a", (1, 1, 1, 1, 1))), "claims 5 dimensions in 'a'"),
    "an extent of 0": (one(info(b"a", (4, 0))), r"the shape \(4, 0\), which no tensor can have"),
    "an overflow": (one(info(b"a", (2**32, 2**32))), "which no tensor can have"),
    "a negative extent": (one(info(b"a", (2**64 - 1,))), "which no tensor can have"),
    "an unknown tensor type": (one(info(b"a", (32,), 99)), "the unknown tensor type 99"),
    "a removed tensor type": (one(info(b"a", (32,), 31)), "the unknown tensor type 31"),
    "rows between blocks": (
        one(info(b"a", (48, 2), 2)),
        "rows of 48 elements, which Q4_0 cannot store in blocks of 32",
    ),
    "a tensor past the end": (
        one(info(b"a", (32, 32)), data=4000),
        "the download is incomplete or damaged",
    ),
    "an offset past the end": (one(info(b"a", (1,), 0, 2**63)), "needs bytes up to"),
    "an offset in between": (one(info(b"a", (1,), 0, 8)), "which is no multiple of 32"),
    "an overlap": (
        one(info(b"a", (32,)), info(b"b", (4,), 0, 64)),
        "lays 'b' over 'a'",
    ),
    "a tensor twice": (one(info(b"a", (4,)), info(b"a", (4,), 0, 32)), "the tensor 'a' twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, tmp_path: Path):
    content, sentence = REFUSED[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert re.search(sentence, refused(path))


def test_each_truncation_of_a_header_is_refused(small: Path):
    content = small.read_bytes()
    length = gguf.read(small).data_offset
    for end in range(0, length, 97):
        small.write_bytes(content[:end])
        refused(small)


def test_a_name_cannot_break_the_sentence(tmp_path: Path):
    path = tmp_path / "evil\n\x1b[31m.gguf"
    path.write_bytes(one(info(b"a\nb\x1b[2J", (48,), 2)))
    assert "'a\\nb\\x1b[2J'" in refused(path)


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path):
    with pytest.raises(ModelNotFound, match="there is no file"):
        gguf.read(tmp_path / "absent.gguf")
    with pytest.raises(FormatError, match="is not a plain file"):
        gguf.read(tmp_path)
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(FormatError, match="is not a plain file"):
        gguf.read(pipe)
    with pytest.raises(FormatError, match="cannot be read"):
        gguf.read(Path("with\x00nul.gguf"))


# ---- mutations -------------------------------------------------------------------------------


def mutated(data: bytes, header: int, pick: random.Random) -> bytes:
    out = bytearray(data)
    at = pick.randrange(header)
    kind = pick.randrange(6)
    if kind == 0:
        for _ in range(pick.choice((1, 1, 2, 8, 64))):
            out[pick.randrange(header)] ^= 1 << pick.randrange(8)
    elif kind == 1:
        number = pick.choice((0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1))
        out[at : at + 8] = number.to_bytes(8, "little")
    elif kind == 2:
        out[at : at + 4] = pick.randrange(2**8).to_bytes(4, "little")
    elif kind == 3:
        del out[pick.randrange(len(out)) :]
    elif kind == 4:
        out[at:at] = pick.randbytes(pick.randrange(1, 40))
    else:
        end = pick.randrange(at, min(header, at + 200) + 1)
        out[at:end] = out[at:end] * pick.choice((0, 2, 3))
    return bytes(out)


def test_every_mutated_header_is_read_or_refused_with_a_sentence(tmp_path: Path):
    path = tmp_path / "mutated.gguf"
    length = writer.write_llama(
        path, layers=1, embedding=32, heads=2, kv_heads=1, feed_forward=32,
        metadata={"general.tags": ["a", "b"], "general.alignment": 32},
    )  # fmt: skip
    data = path.read_bytes()
    read = 0
    worst = 0.0
    tracemalloc.start()
    try:
        for seed in range(MUTATIONS):
            path.write_bytes(mutated(data, length, random.Random(seed)))
            start = time.process_time()
            try:
                header = gguf.read(path)
            except FormatError as error:
                assert_sentence(error)
            else:
                read += 1
                assert all(t.offset + t.size <= header.file_size for t in header.tensors)
                exercise(header)
            worst = max(worst, time.process_time() - start)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 100 < read < MUTATIONS - 100  # both outcomes are really met
    assert worst < 2
    assert peak < 64 << 20


def exercise(header: gguf.GgufHeader) -> None:
    """Every property holds on a header that was read, whatever is in it."""
    for name in dir(gguf.GgufHeader):
        if isinstance(getattr(gguf.GgufHeader, name), property):
            getattr(header, name)
    header.type_mix()


def test_a_huge_sparse_file_costs_neither_time_nor_memory(tmp_path: Path):
    """8 GB of zeros behind the header: 4 million empty strings at the most are stepped over."""
    path = tmp_path / "sparse.gguf"
    key = writer.string("k") + struct.pack("<IIQ", 9, 8, 1 << 22)
    with path.open("wb") as file:
        file.write(raw(pairs=1, rest=key))
        file.truncate(8 << 30)
    tracemalloc.start()
    try:
        start = time.process_time()
        header = gguf.read(path)
        assert time.process_time() - start < 10
        assert len(header.metadata["k"]) == 1 << 22
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
