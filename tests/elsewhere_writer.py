"""Lays out model folders as Ollama and huggingface_hub do, for tests."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGE = "application/vnd.ollama.image."


def ollama(models: Path, name: str, layers: list[tuple[str, bytes]], config: bytes = b"{}") -> Path:
    """Put the model ``host/namespace/name/tag`` where Ollama does. Returns its manifest."""

    def blob(kind: str, body: bytes) -> dict[str, object]:
        hexes = hashlib.sha256(body).hexdigest()
        path = models / "blobs" / f"sha256-{hexes}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return {"mediaType": kind, "digest": f"sha256:{hexes}", "size": len(body)}

    manifest = models / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    content = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": blob("application/vnd.docker.container.image.v1+json", config),
        "layers": [blob(IMAGE + kind, body) for kind, body in layers],
    }
    manifest.write_text(json.dumps(content))
    return manifest


def hub_cache(cache: Path, repo: str, files: Mapping[str, bytes], commit: str = COMMIT) -> Path:
    """A snapshot as huggingface_hub keeps it; large files by SHA-256, small ones by git id."""
    top = cache / f"models--{repo.replace('/', '--')}"
    (top / "refs").mkdir(parents=True, exist_ok=True)
    (top / "refs/main").write_text(commit)
    for path, body in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
        name = hashlib.sha256(body).hexdigest() if path.endswith((".gguf", "tensors")) else git
        (top / "blobs").mkdir(exist_ok=True)
        (top / "blobs" / name).write_bytes(body)
        link = top / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + path.count("/")), "blobs", name))
    return top / "snapshots" / commit
