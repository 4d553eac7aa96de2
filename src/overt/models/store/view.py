"""The path an engine is given for a stored model.

A blob is named by its digest, and llama.cpp finds the files of a split GGUF by their names. So a
split model gets a folder of relative links, ``<home>/views/<manifest>/model-00001-of-00003.gguf``,
made when it is first needed. A view holds no bytes, and anybody may delete it.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from overt.errors import Failure
from overt.models.store import Store
from overt.models.store.manifest import File, Manifest, hex_of


def weights(store: Store, manifest: Manifest) -> Path:
    """The file an engine opens: the blob itself, or the first link of a split model's view.

    Raises:
        IntegrityError: a file is missing or of another size.
        Failure: the view cannot be written.
    """
    parts = split(manifest)
    if not parts:
        return store.path(manifest.weights)
    blobs = [store.path(file) for file in parts]
    folder = store.home / "views" / hex_of(manifest.digest)
    links = [folder / f"model-{n:05}-of-{len(parts):05}.gguf" for n in range(1, len(parts) + 1)]
    try:
        if not folder.is_dir():
            _sweep(store)
            folder.mkdir(parents=True, exist_ok=True)
        for link, blob in zip(links, blobs, strict=True):
            _link(link, os.path.relpath(blob, folder))
    except OSError as error:
        raise Failure(
            f"{folder} cannot be written: {error.strerror or error}",
            "set OVERT_HOME to a folder of yours",
        ) from None
    return links[0]


def split(manifest: Manifest) -> tuple[File, ...]:
    """The GGUF files of a split model in order; empty where the weights are one file."""
    names = tuple(
        file
        for file in manifest.files
        if file.role == "weights" and file.path.lower().endswith(".gguf")
    )
    return names if len(names) > 1 else ()


def _link(link: Path, target: str) -> None:
    with suppress(OSError):
        if os.readlink(link) == target:  # noqa: PTH115 -- compared as text
            return
    new = link.with_name(f"{link.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _sweep(store: Store) -> None:
    """Delete the views of models that are gone."""
    root = store.home / "views"
    for folder in root.iterdir() if root.is_dir() else ():
        if not (store.home / "manifests" / f"{folder.name}.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
