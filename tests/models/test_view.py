"""The files of a stored split model have the names by which llama.cpp finds them."""

from pathlib import Path

import pytest

from overt.errors import IntegrityError
from overt.models.sources.base import sha256_of
from overt.models.store import File, Manifest, Store, view
from overt.ref import parse


def stored(store: Store, tmp_path: Path, names: list[str], ref: str = "split") -> Manifest:
    files, moved = [], {}
    for name in names:
        path = tmp_path / name
        path.write_bytes(f"bytes of {name} for {ref}".encode())
        digest = f"sha256:{sha256_of(path)}"
        files.append(File("weights", name, digest, path.stat().st_size))
        moved[digest] = path
    return store.commit(Manifest(tuple(files), f"hf:org/{ref}"), moved, [parse(ref)])


NAMES = ["Big-Q4_K_M-00001-of-00002.GGUF", "Big-Q4_K_M-00002-of-00002.GGUF"]


def test_a_whole_file_is_the_blob_itself(home: Path, tmp_path: Path) -> None:
    store = Store(home)
    manifest = stored(store, tmp_path, ["m.gguf"])
    assert view.weights(store, manifest) == store.path(manifest.weights)
    sharded = stored(store, tmp_path, ["a.safetensors", "b.safetensors"], "tensors")
    assert view.weights(store, sharded) == store.path(sharded.weights)
    assert not (home / "views").exists()


def test_a_split_model_gets_links_with_the_right_names(home: Path, tmp_path: Path) -> None:
    store = Store(home)
    manifest = stored(store, tmp_path, NAMES)
    first = view.weights(store, manifest)
    assert first.name == "model-00001-of-00002.gguf"
    assert sorted(path.name for path in first.parent.iterdir()) == [
        "model-00001-of-00002.gguf",
        "model-00002-of-00002.gguf",
    ]
    for file, link in zip(manifest.files, sorted(first.parent.iterdir()), strict=True):
        assert link.read_bytes() == store.path(file).read_bytes()
        assert not link.readlink().is_absolute()  # the store can be moved
    assert view.weights(store, manifest) == first


def test_a_damaged_view_is_mended_and_a_missing_file_is_said(home: Path, tmp_path: Path) -> None:
    store = Store(home)
    manifest = stored(store, tmp_path, NAMES)
    first = view.weights(store, manifest)
    first.unlink()
    first.write_text("something else")
    assert view.weights(store, manifest).read_bytes() == store.path(manifest.weights).read_bytes()
    store.path(manifest.files[1]).unlink()
    with pytest.raises(IntegrityError, match="missing from the store"):
        view.weights(store, manifest)


def test_the_views_of_models_that_are_gone_are_swept(home: Path, tmp_path: Path) -> None:
    store = Store(home)
    old = view.weights(store, stored(store, tmp_path, NAMES))
    store.remove(parse("split"))
    assert not old.exists()  # a dangling link: it kept no bytes
    new = view.weights(store, stored(store, tmp_path, NAMES, "other"))
    assert [path.name for path in (home / "views").iterdir()] == [new.parent.name]
    assert store.verify() == []
