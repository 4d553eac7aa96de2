"""What a pickle would run is named in its refusal; nothing is ever unpickled."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from overt.errors import UnsafeFile
from overt.formats import scan
from overt.models.pull import find, pull
from overt.settings import load
from servers import Hub, serving


class Evil:
    """Unpickling this would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def torch_zip(path: Path, body: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/data/0", bytes(64))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_says_what_it_would_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "mark"), protocol))
    assert scan.runs(path) == ("posix.system",)
    assert not (tmp_path / "mark").exists()


def test_a_checkpoint_in_a_zip_says_what_it_would_run(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "model.pt", pickle.dumps(Evil(tmp_path / "mark"), 2))
    assert scan.runs(path) == ("posix.system",)


def test_plain_weights_and_what_cannot_be_scanned_name_nothing(tmp_path: Path) -> None:
    plain = torch_zip(tmp_path / "plain.pt", pickle.dumps({"a": [1.0, 2.0]}, 2))
    assert scan.runs(plain) == ()
    for name, body in (("x.pkl", b"\x80\x04cut"), ("y.pt", b""), ("z.pt", b"PK\x03\x04" * 50)):
        (tmp_path / name).write_bytes(body)
        assert scan.runs(tmp_path / name) == ()
    with tarfile.open(tmp_path / "t.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    assert scan.runs(tmp_path / "t.pt") == ()
    assert scan.runs(tmp_path / "missing.pt") == ()


def test_a_scan_that_would_take_all_memory_ends(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    path.write_bytes(b"\x80\x02" + b"]" * (48 << 20) + b".")  # an opcode a byte: gigabytes of them
    assert scan.runs(path) == ()


def test_the_refusal_names_it(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    torch_zip(folder / "model.pt", pickle.dumps(Evil(tmp_path / "mark"), 2))
    says = r"pickled checkpoint, which would run posix\.system when"
    for place in (folder, folder / "model.pt"):
        with pytest.raises(UnsafeFile, match=says):
            find(str(place), load())
        with pytest.raises(UnsafeFile, match=says):
            pull(str(place), load())
    assert not (tmp_path / "mark").exists()


def test_a_pickle_that_calls_itself_gguf_is_refused_with_what_it_would_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    evil = torch_zip(tmp_path / "m.gguf", pickle.dumps(Evil(tmp_path / "mark"), 2))
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Hub(server, server, "org/m", {"m.gguf": evil.read_bytes()}, frozenset({"m.gguf"}))
        with pytest.raises(UnsafeFile, match=r"m\.gguf of .* would run posix\.system when"):
            pull("hf:org/m", load())
    assert not (tmp_path / "mark").exists()
    assert not (home / "blobs").exists()
