"""Where a fine-tune stands, on disk: all of it or nothing, and the one before it too.

A checkpoint is ``checkpoint-<step>.safetensors`` with the numbers and, written after it,
``checkpoint-<step>.json`` with the rest and both digests. Nothing draws from a generator that lives
from step to step, so that there is no more to keep.
"""

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from overt.errors import OutOfDisk

KEEP_CHECKPOINTS = 2
_MAX_STATE = 1 << 28


def save(folder: Path, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Keep where the training stands after `step`, and forget all but the newest two.

    Raises:
        OutOfDisk: the disk is full; the earlier checkpoints are whole.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"checkpoint-{step:09}.safetensors"
    part = weights.with_suffix(".part")
    try:
        save_file(dict(sorted(tensors.items())), part)
        with part.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        part.replace(weights)
        text = json.dumps(state, sort_keys=True)
        content = {"state": text, "digest": sha256(text.encode()).hexdigest(), "weights": digest}
        _write(weights.with_suffix(".json"), json.dumps(content).encode())
    except Exception as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # safetensors says in words what the system said in a number
        if getattr(error, "errno", 0) == errno.ENOSPC or "os error 28" in str(error).lower():
            raise OutOfDisk(
                f"the disk of {folder} is too full for a checkpoint of "
                f"{sum(tensor.nbytes for tensor in tensors.values()):,} bytes",
                "free some space; the same command goes on from the checkpoint before",
            ) from None
        raise
    for old in _steps(folder)[KEEP_CHECKPOINTS:]:
        for suffix in (".json", ".safetensors"):
            (folder / f"checkpoint-{old:09}{suffix}").unlink(missing_ok=True)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
    """The newest checkpoint that is whole: its tensors, its state, and what is wrong with newer."""
    wrong: list[str] = []
    for step in _steps(folder):
        try:
            return *_read(folder / f"checkpoint-{step:09}.json"), wrong
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            wrong.append(f"the checkpoint of step {step} is damaged ({str(error)[:80]})")
    return None


def forget(folder: Path) -> None:
    """Delete all checkpoints: the training is done, and its result is elsewhere."""
    for step in _steps(folder):
        for suffix in (".json", ".safetensors"):
            (folder / f"checkpoint-{step:09}{suffix}").unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors.torch import load_file

    weights = path.with_suffix(".safetensors")
    if path.stat().st_size > _MAX_STATE:
        raise ValueError(f"{path.name} is {path.stat().st_size} bytes")
    content = json.loads(path.read_bytes())
    text = content["state"]
    if sha256(text.encode()).hexdigest() != content["digest"]:
        raise ValueError("its state differs from its digest")
    with weights.open("rb") as file:
        if file_digest(file, "sha256").hexdigest() != content["weights"]:
            raise ValueError("its numbers differ from their digest")
    return load_file(weights), json.loads(text)


def _steps(folder: Path) -> list[int]:
    """Steps with a complete pair of files, newest first."""
    names = [path.stem.rpartition("-")[2] for path in folder.glob("checkpoint-*.json")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(".half")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
