"""The safetensors reader, on files written here byte by byte."""

import json
import random
import re
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overt.errors import FormatError, ModelNotFound
from overt.formats import safetensors
from overt.formats.safetensors import BITS

MUTATIONS = 3000


def raw(header: bytes | dict[str, Any], data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def good() -> bytes:
    about = {
        "__metadata__": {"format": "pt"},
        "b": entry("BF16", [4, 8], 32, 96),
        "a": entry("F32", [8], 0, 32),
        "empty": entry("F32", [0, 5], 96, 96),
        "scalar": entry("I64", [], 96, 104),
    }
    return raw(about, 104)


def assert_sentence(error: FormatError) -> None:
    assert error.hint
    assert not re.search(r"[\x00-\x1f\x7f]", str(error))
    assert len(str(error)) < 500


def test_reads_what_is_there(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(good())
    header = safetensors.read(path)
    start = header.data_offset
    assert header.metadata == {"format": "pt"}
    assert [(t.name, t.shape, t.type, t.offset - start, t.size) for t in header.tensors] == [
        ("b", (4, 8), "BF16", 32, 64),
        ("a", (8,), "F32", 0, 32),
        ("empty", (0, 5), "F32", 96, 0),
        ("scalar", (), "I64", 96, 8),
    ]
    assert (header.parameters, header.tensor_bytes) == (41, 104)
    assert header.bits_per_weight == pytest.approx(104 * 8 / 41)
    assert header.type_mix() == {"BF16": (1, 32, 64), "F32": (2, 8, 32), "I64": (1, 1, 8)}
    assert header.file_size == len(good())


def test_a_file_without_tensors(tmp_path: Path):
    path = tmp_path / "none.safetensors"
    path.write_bytes(raw({}))
    assert safetensors.read(path).parameters == 0
    assert safetensors.read(path).bits_per_weight == 0.0


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(
            st.sampled_from([name for name, bits in BITS.items() if bits % 8 == 0]),
            st.lists(st.integers(0, 6), max_size=4),
        ),
        max_size=8,
    ),
    about=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)
def test_what_was_written_is_read_back(
    tensors: dict[str, tuple[str, list[int]]], about: dict[str, str], tmp_path: Path
):
    table: dict[str, Any] = {"__metadata__": about}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin = end
        size = BITS[dtype] // 8
        for extent in shape:
            size *= extent
        end += size
        table[name] = entry(dtype, shape, begin, end)
    path = tmp_path / "any.safetensors"
    path.write_bytes(raw(table, end))
    header = safetensors.read(path)
    assert header.metadata == about
    assert {t.name: (t.type, list(t.shape)) for t in header.tensors} == tensors
    assert header.tensor_bytes == end


F32 = entry("F32", [4], 0, 16)
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is 0 bytes long and ends inside its header"),
    "a length beyond the file": (struct.pack("<Q", 999) + b"{}", "claims 999 bytes of header"),
    "a length beyond reason": (
        struct.pack("<Q", 2**63) + b"{}",
        "claims 9223372036854775808 bytes of header",
    ),
    "no json": (raw(b"GGUF"), "has no JSON object where its header should be but b'GGUF'"),
    "json cut short": (raw(b'{"a": {'), "has a header that is not JSON"),
    "a list": (raw(b"[1, 2]"), "has no JSON object"),
    "not a number": (raw(b'{"a": NaN}'), "NaN is no JSON number"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "has a header that is not JSON"),
    "a name twice": (
        raw(b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), 16),
        "the name 'a' comes twice",
    ),
    "offsets twice": (raw(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "the name 'dtype' comes"),
    "deep nesting": (raw(b'{"a": ' + b"[" * 100_000), "nests its JSON too deeply"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}}), "that is not text by name"),
    "metadata of words": (raw({"__metadata__": "x"}), "that is not text by name"),
    "a tensor of words": (raw({"a": "x"}), "describes 'a' by 'x'"),
    "an unknown dtype": (raw({"a": entry("F128", [1], 0, 16)}, 16), "unknown dtype 'F128'"),
    "a dtype that is a list": (raw({"a": entry([], [1], 0, 4)}, 4), "unknown dtype \\[\\]"),  # type: ignore[arg-type]
    "a negative extent": (raw({"a": entry("F32", [-1], 0, 4)}, 4), r"the shape \[-1\]"),
    "a true extent": (raw({"a": entry("F32", [True], 0, 4)}, 4), r"the shape \[True\]"),
    "a broken extent": (raw({"a": entry("F32", [1.0], 0, 4)}, 4), r"the shape \[1.0\]"),
    "an overflow": (raw({"a": entry("F32", [2**40, 2**40], 0, 4)}, 4), "the shape"),
    "100 dimensions": (raw({"a": entry("F32", [1] * 100, 0, 4)}, 4), "the shape"),
    "three offsets": (
        raw({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}, 16),
        r"the offsets \[0, 8, 16\]",
    ),
    "no offsets": (raw({"a": {"dtype": "F32", "shape": [4]}}, 16), "the offsets None"),
    "a size that is not the shape's": (
        raw({"a": entry("F32", [4], 0, 12)}, 12),
        "12 bytes where its shape and dtype take 16",
    ),
    "half a byte": (raw({"a": entry("F4", [3], 0, 1)}, 1), "take 1.5"),
    "a hole before": (raw({"a": entry("F32", [1], 4, 8)}, 8), "a hole of 4 bytes before its"),
    "a hole between": (
        raw({"a": F32, "b": entry("F32", [1], 20, 24)}, 24),
        "a hole of 4 bytes before 'b'",
    ),
    "an overlap": (
        raw({"a": F32, "b": entry("F32", [2], 12, 20)}, 20),
        "an overlap of 4 bytes before 'b'",
    ),
    "bytes after": (raw({"a": F32}, 17), "where its tensors end at"),
    "bytes missing": (raw({"a": F32}, 15), "where its tensors end at"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, tmp_path: Path):
    content, sentence = REFUSED[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=sentence) as caught:
        safetensors.read(path)
    assert_sentence(caught.value)
    assert "'bad.safetensors'" in str(caught.value)


def test_what_is_no_file(tmp_path: Path):
    with pytest.raises(ModelNotFound):
        safetensors.read(tmp_path / "absent")
    with pytest.raises(FormatError, match="is not a plain file"):
        safetensors.read(tmp_path)


def test_every_mutated_header_is_read_or_refused_with_a_sentence(tmp_path: Path):
    path = tmp_path / "mutated.safetensors"
    data = good()
    read = 0
    tracemalloc.start()
    try:
        for number in range(MUTATIONS):
            pick = random.Random(number)
            out = bytearray(data)
            at = pick.randrange(len(out) - 104)
            match pick.randrange(4):
                case 0:
                    out[at] ^= 1 << pick.randrange(8)
                case 1:
                    out[at : at + 1] = pick.choice((b"9", b"-", b"[", b'"', b"{", b"e99", b"0"))
                case 2:
                    del out[pick.randrange(len(out)) :]
                case _:
                    out[0:8] = struct.pack("<Q", pick.choice((0, 1, 2**20, 2**40, 2**64 - 1)))
            path.write_bytes(out)
            start = time.process_time()
            try:
                header = safetensors.read(path)
            except FormatError as error:
                assert_sentence(error)
            else:
                read += 1
                assert all(t.offset + t.size <= len(out) for t in header.tensors)
                header.type_mix()
            assert time.process_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert 50 < read < MUTATIONS - 50


# ---- the index of a model in several files ---------------------------------------------------


def index(folder: Path, content: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_reads_an_index(tmp_path: Path):
    weights = {
        "a": "model-00002-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    about = {"metadata": {"total_size": 123}, "weight_map": weights}
    found = safetensors.read_index(index(tmp_path, about))
    assert found.files == (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    )
    assert found.weights == weights
    assert found.total_size == 123


@pytest.mark.parametrize(
    "member",
    ["../up.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "c:\\x.safetensors",
     "a\x00.safetensors", "./a.safetensors", "pytorch_model.bin", "", 7, None],
)  # fmt: skip
def test_an_index_cannot_name_what_is_not_beside_it(member: object, tmp_path: Path):
    path = index(tmp_path, {"weight_map": {"a": member}})
    with pytest.raises(FormatError) as caught:
        safetensors.read_index(path)
    assert_sentence(caught.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{" * 99_999]
)
def test_what_is_no_index_is_refused(content: str, tmp_path: Path):
    with pytest.raises(FormatError) as caught:
        safetensors.read_index(index(tmp_path, content))
    assert_sentence(caught.value)


def test_an_index_beyond_reason_is_not_read(tmp_path: Path):
    path = index(tmp_path, "{")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="has a header of more than"):
        safetensors.read_index(path)
