"""A GGUF model in several files reads as one, or one sentence says what is wrong with its files."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_split import cut
from gguf_writer import Tensor, Typed, write, write_llama
from overt.errors import FormatError, OvertError
from overt.formats import gguf, split
from overt.ref import MAX_PARTS, part_of


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.gguf"
    write_llama(path, type="F32")
    return path


def test_the_files_of_a_split_model_read_as_one(whole: Path, tmp_path: Path) -> None:
    files = cut(whole, tmp_path / "cut", 3)
    expected, found = gguf.read(whole), gguf.read(files[0])
    assert found.parts == tuple(files)
    assert found.split_count == 3
    assert {t.part for t in found.tensors} == {0, 1, 2}
    assert [(t.name, t.shape, t.type, t.size) for t in found.tensors] == [
        (t.name, t.shape, t.type, t.size) for t in expected.tensors
    ]
    assert (found.parameters, found.bits_per_weight) == (
        expected.parameters,
        expected.bits_per_weight,
    )
    assert found.file_size == sum(path.stat().st_size for path in files)
    assert found.file_size - found.data_offset == expected.file_size - expected.data_offset
    own = {key: v for key, v in found.metadata.items() if not key.startswith("split.")}
    assert own == dict(expected.metadata)
    for tensor, before in zip(found.tensors, expected.tensors, strict=True):
        with found.parts[tensor.part].open("rb") as part, whole.open("rb") as file:
            part.seek(tensor.offset)
            file.seek(before.offset)
            assert part.read(tensor.size) == file.read(before.size)


def test_one_file_alone_can_be_read_too(whole: Path, tmp_path: Path) -> None:
    files = cut(whole, tmp_path / "cut", 3)
    alone = [gguf.read(path, whole=False) for path in files]
    assert [header.number("split.no") for header in alone] == [0, 1, 2]
    assert sum(len(header.tensors) for header in alone) == len(gguf.read(whole).tensors)


def test_what_an_engine_opens_follows_from_the_name() -> None:
    assert split.files(Path("/m/a.gguf")) == (Path("/m/a.gguf"),)
    assert split.files(Path("/m/a-00001-of-00001.gguf")) == (Path("/m/a-00001-of-00001.gguf"),)
    assert split.files(Path("/m/a-00002-of-00002.gguf")) == (
        Path("/m/a-00001-of-00002.gguf"),
        Path("/m/a-00002-of-00002.gguf"),
    )


def test_a_missing_file_is_named(whole: Path, tmp_path: Path) -> None:
    files = cut(whole, tmp_path / "cut", 3)
    files[1].unlink()
    with pytest.raises(FormatError, match=r"one of 3 files and 1 .*; put 'model-00002-of-00003"):
        gguf.read(files[0])


def test_another_file_than_the_first_is_refused_with_its_name(whole: Path, tmp_path: Path) -> None:
    files = cut(whole, tmp_path / "cut", 3)
    with pytest.raises(FormatError, match=r"file 2 of 3 .*; name the first: model-00001-of-00003"):
        gguf.read(files[1])


def test_a_renamed_file_is_refused(whole: Path, tmp_path: Path) -> None:
    files = cut(whole, tmp_path / "cut", 3)
    plain = files[0].rename(tmp_path / "cut/plain.gguf")
    with pytest.raises(FormatError, match="its name does not say so"):
        gguf.read(plain)
    plain.rename(files[0])
    files[1].rename(tmp_path / "x")
    files[2].rename(files[1])
    (tmp_path / "x").rename(files[2])
    with pytest.raises(FormatError, match="says it is file 3 of 3, and its name says 2 of 3"):
        gguf.read(files[0])


def test_files_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    def part(number: int, stated: int, name: str) -> None:
        about = {
            "general.architecture": "llama",
            "split.no": Typed("u16", number),
            "split.count": Typed("u16", 2),
            "split.tensors.count": Typed("i32", stated),
        }
        write(tmp_path / f"m-{number + 1:05}-of-00002.gguf", about, [Tensor(name, (32,))])

    part(0, 3, "a")
    part(1, 3, "b")
    with pytest.raises(FormatError, match="hold 2 tensors where 3 are stated"):
        gguf.read(tmp_path / "m-00001-of-00002.gguf")
    part(0, 2, "a")
    part(1, 2, "a")
    with pytest.raises(FormatError, match="hold the same tensor"):
        gguf.read(tmp_path / "m-00001-of-00002.gguf")


def test_no_damage_of_a_part_does_worse_than_an_error(whole: Path, tmp_path: Path) -> None:
    files = cut(whole, tmp_path / "cut", 2)
    chance = random.Random(3)
    kept = [path.read_bytes() for path in files]
    for _ in range(300):
        for path, body in zip(files, kept, strict=True):
            changed = bytearray(body)
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(min(len(body), 12_000))] = chance.randrange(256)
            path.write_bytes(changed)
        try:
            header = gguf.read(files[0])
        except OvertError:
            continue
        assert len(header.parts) in (0, 2)


@given(st.text(max_size=30), st.integers(0, 2000), st.integers(0, 2000))
def test_a_part_and_its_siblings_name_each_other(stem: str, number: int, count: int) -> None:
    found = part_of(f"{stem}-{number:05}-of-{count:05}.gguf")
    if not 1 <= number <= count <= MAX_PARTS:
        assert found is None
        return
    assert found is not None
    assert (found.stem, found.number, found.total) == (stem, number, count)
    for other in (1, count):
        assert part_of(found.sibling(other)) == found._replace(number=other)


@pytest.mark.parametrize("name", ["m.gguf", "m-1-of-2.gguf", "m-0000\u0661-of-00002.gguf", ""])
def test_other_names_are_no_part(name: str) -> None:
    assert part_of(name) is None
