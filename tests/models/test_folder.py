"""Files and folders that stay where they are."""

import os
from pathlib import Path

import pytest

from overt.errors import FormatError, ModelNotFound, UnsafeFile
from overt.models.pull import find, pull
from overt.models.sources import folder
from overt.models.sources.base import sha256_of
from overt.settings import Settings, load
from servers import gguf


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def test_a_file_is_found_where_it_is_and_not_copied(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(1))
    model = find(str(path), settings)
    assert model.weights == path
    assert model.digest == f"sha256:{sha256_of(path)}"
    assert (model.manifest, model.projector, model.catalogue) == (None, None, None)
    assert pull(str(path), settings).weights.digest == model.digest
    assert not (settings.home / "blobs").exists()


def test_the_digest_is_kept_until_the_file_changes(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(1))
    hashed: list[Path] = []

    def counted(file: Path, report: object = None) -> str:
        hashed.append(file)
        return sha256_of(file)

    monkeypatch.setattr(folder, "sha256_of", counted)
    first = find(str(path), settings).digest
    assert find(str(path), settings).digest == first
    assert len(hashed) == 1
    facts = path.stat()
    path.write_bytes(gguf(2))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert find(str(path), settings).digest == f"sha256:{sha256_of(path)}" != first
    note = next((settings.home / "digests").iterdir())
    note.write_text('{"file": 5')
    assert find(str(path), settings).digest == f"sha256:{sha256_of(path)}"


def test_a_folder_with_gguf_projector_and_licence(tmp_path: Path, settings: Settings) -> None:
    for name, body in {
        "a-Q8_0.gguf": gguf(1),
        "a-Q4_K_M.gguf": gguf(2),
        "mmproj-f16.gguf": gguf(3),
        "LICENSE": b"x",
        ".git/b.gguf": gguf(4),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    model = find(str(tmp_path), settings)
    assert model.weights == tmp_path / "a-Q4_K_M.gguf"
    assert model.projector == tmp_path / "mmproj-f16.gguf"


def test_a_folder_s_digest_is_of_its_files_not_of_its_name(
    tmp_path: Path, settings: Settings
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        header = b'{"t":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
        tensors = len(header).to_bytes(8, "little") + header + b"12345678"
        (tmp_path / name / "model.safetensors").write_bytes(tensors)
        (tmp_path / name / "config.json").write_bytes(b"{}")
    one, two = (find(str(tmp_path / name), settings) for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.weights.name == "model.safetensors"


@pytest.mark.parametrize(
    ("name", "body", "error", "message"),
    [
        ("m.gguf", b"<html>", FormatError, "m.gguf begins with b'<htm' where a GGUF file begins"),
        ("m.gguf", b"", FormatError, "begins with b''"),
        ("m.gguf", b"\x80\x04\x95" + b"x" * 50, (UnsafeFile, FormatError), "pickle|begins"),
        ("m.pt", b"x", UnsafeFile, "pickled checkpoint"),
        ("pytorch_model.bin", gguf(), UnsafeFile, "pickled checkpoint"),
        ("m.safetensors", b"\xff" * 20, FormatError, "no safetensors file"),
        ("m.safetensors", b"\x08\0\0\0\0\0\0\0{}", FormatError, "its header would be 8 of 10"),
        ("m.txt", b"hello", FormatError, "begins with b'hell'"),
    ],
)
def test_what_is_not_what_it_says_is_refused(
    tmp_path: Path,
    settings: Settings,
    name: str,
    body: bytes,
    error: type[Exception],
    message: str,
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(error, match=message):
        find(str(tmp_path / name), settings)


def test_what_is_not_there_gets_near_names(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf())
    with pytest.raises(ModelNotFound, match=r"does not exist; did you mean .*/model.gguf\?"):
        find(str(tmp_path / "modle.gguf"), settings)
    with pytest.raises(ModelNotFound, match=r"there is no folder .*/nowhere either"):
        find(str(tmp_path / "nowhere/m.gguf"), settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="holds no GGUF or safetensors weights"):
        find(str(tmp_path / "empty"), settings)
