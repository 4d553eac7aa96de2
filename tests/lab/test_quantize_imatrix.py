"""Files of importance matrices: written for others to read, and read from anybody."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from conftest import repeats
from overt.errors import FormatError, OvertError
from overt.formats import gguf
from overt.lab.quantize import imatrix

SUMS = {
    "blk.0.ffn_up.weight": (np.arange(64.0).reshape(2, 32), np.array([4, 0])),
    "blk.0.attn_q.weight": (np.full((1, 32), 9.0), np.array([3])),
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "imatrix.gguf"
    imatrix.write(path, SUMS, imatrix.About("a text", 7, 512))
    return path


def test_what_was_written_is_read_again(written: Path) -> None:
    found = imatrix.read(written)
    assert list(found.entries) == ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"]
    assert found.windows == 7
    np.testing.assert_array_equal(found.entries["blk.0.attn_q.weight"], np.full(32, 3, "f4"))
    up = found.entries["blk.0.ffn_up.weight"]
    np.testing.assert_array_equal(up[:32], np.arange(32) / 4)
    np.testing.assert_array_equal(up[32:], np.ones(32))  # an expert that nothing was sent to


def test_the_file_is_as_llama_imatrix_writes_it(written: Path) -> None:
    """Keys and tensors that imatrix-loader.cpp asks for, as the `gguf` package reads them."""
    import gguf as library

    reader = library.GGUFReader(written)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["a text"]
    assert reader.fields["imatrix.chunk_count"].contents() == 7
    assert reader.fields["imatrix.chunk_size"].contents() == 512
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors["blk.0.ffn_up.weight.in_sum2"].shape) == [32, 2]
    assert list(tensors["blk.0.ffn_up.weight.counts"].shape) == [1, 2]
    assert tensors["blk.0.ffn_up.weight.counts"].data.ravel().tolist() == [4.0, 0.0]
    sums = np.array(tensors["blk.0.attn_q.weight.in_sum2"].data)
    np.testing.assert_array_equal(sums, np.full((1, 32), 9, "f4"))
    del reader, tensors


def test_the_same_sums_are_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    imatrix.write(again, dict(reversed(SUMS.items())), imatrix.About("a text", 7, 512))
    assert again.read_bytes() == written.read_bytes()


def test_a_matrix_is_checked_against_its_model(tmp_path: Path) -> None:
    header = gguf.read(tiny_models.gguf(tmp_path / "model.gguf", "llama", "F16"))
    path = tmp_path / "imatrix.gguf"

    def save(**sums: "tuple[np.ndarray, np.ndarray]") -> None:
        named = {f"blk.0.{name}.weight": value for name, value in sums.items()}
        imatrix.write(path, named, imatrix.About("", 1, 1))

    save(attn_q=(np.ones((1, 32)), np.ones(1)))
    _, lacks = imatrix.check(path, header)
    assert lacks == ("the importance matrix knows 1 of 14 matrices",)
    save(attn_q=(np.ones((1, 64)), np.ones(1)))
    with pytest.raises(FormatError, match=r"64 values for .* and the model has 32"):
        imatrix.check(path, header)
    save(other=(np.ones((1, 64)), np.ones(1)))
    with pytest.raises(FormatError, match=r"knows none of the model.s 14 matrices"):
        imatrix.check(path, header)


@pytest.mark.parametrize(
    ("values", "counts", "words"),
    [
        (np.full((1, 32), np.nan), np.ones(1), "no mean of squares"),
        (np.full((1, 32), -1.0), np.ones(1), "no mean of squares"),
        (np.full((1, 32), np.inf), np.ones(1), "no mean of squares"),
        (np.ones((1, 32)), np.ones(5), "32 sums and 5 counts"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, values: np.ndarray, counts: np.ndarray, words: str
) -> None:
    path = tmp_path / "imatrix.gguf"
    if counts.size == 5:
        sums = {"blk.0.x": (values, counts[:1])}
        imatrix.write(path, sums, imatrix.About("", 1, 1))
        raw = path.read_bytes()
        at = raw.index(b"blk.0.x.counts") + len(b"blk.0.x.counts") + 4
        raw = raw[:at] + (5).to_bytes(8, "little") + raw[at + 8 :]
        path.write_bytes(raw)
    else:
        imatrix.write(path, {"blk.0.x": (values, counts)}, imatrix.About("", 1, 1))
    with pytest.raises(FormatError, match=words):
        imatrix.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    model = tiny_models.gguf(tmp_path / "model.gguf", "llama", "F16")
    with pytest.raises(FormatError, match="is no importance matrix"):
        imatrix.read(model)
    legacy = tmp_path / "imatrix.dat"
    legacy.write_bytes(b"\x01\x00\x00\x00" + bytes(60))
    with pytest.raises(FormatError, match="is no importance matrix"):
        imatrix.read(legacy)
    with pytest.raises(OvertError):
        imatrix.read(tmp_path / "none.gguf")


@settings(max_examples=repeats(60, 150))
@given(st.randoms(use_true_random=False))
def test_mutated_files_end_in_a_sentence_or_in_numbers(
    tmp_path_factory: pytest.TempPathFactory, draw: random.Random
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    imatrix.write(path, SUMS, imatrix.About("a text", 7, 512))
    raw = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 8)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    if draw.random() < 0.3:
        del raw[draw.randrange(len(raw)) :]
    path.write_bytes(raw)
    with suppress(OvertError):  # a sentence, and nothing else
        found = imatrix.read(path)
        assert all(np.isfinite(values).all() for values in found.entries.values())
