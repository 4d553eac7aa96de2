"""Ollama: ``manifests/<host>/<namespace>/<name>/<tag>`` and ``blobs/sha256-<hex>``.

Its models are in ``~/.ollama/models``, for its service on Linux in ``/usr/share/ollama``, or where
OLLAMA_MODELS says. A manifest is a list of layers with media types, as its registry serves it
(server/manifest.go and types/model/name.go of Ollama 0.33).
"""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from overt.models.sources.base import FetchedFile
from overt.models.sources.local_caches.base import (
    ForeignFile,
    ForeignModel,
    UnusableModel,
    files_below,
    ref_of,
)
from overt.models.sources.ollama import CONFIG, KINDS, config_facts, licence_of, numbered

_PREFIX = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_LAYERS = 1000
_MANIFEST_BYTES = 1 << 20
_DEPTH = 4  # host, namespace, name, tag


def places(environ: Mapping[str, str]) -> list[Path]:
    """Where it may keep models."""
    if named := environ.get("OLLAMA_MODELS"):
        return [Path(named).expanduser()]
    person = Path(environ.get("HOME") or "~").expanduser()
    return [
        person / ".ollama/models",
        Path("/usr/share/ollama/.ollama/models"),
        Path("/var/lib/ollama/.ollama/models"),
        Path("/var/lib/ollama/models"),
    ]


def look(place: Path) -> Iterator[ForeignModel | UnusableModel]:
    """Each manifest."""
    top = place / "manifests"
    missed: list[UnusableModel] = []
    for path in files_below(top, _DEPTH, missed) if top.is_dir() else ():
        inside = path.split("/")
        if len(inside) != _DEPTH:
            continue
        host, namespace, name, tag = inside
        shown = name if namespace == _NAMESPACE else f"{namespace}/{name}"
        shown = f"{shown if host == _HOST else f'{host}/{namespace}/{name}'}:{tag}"
        try:
            yield _model(place, top / path, shown)
        except OSError as error:
            yield UnusableModel(shown, f"it cannot be read: {error.strerror or error}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield UnusableModel(shown, f"its manifest cannot be read: {error}")
    yield from missed


def _model(place: Path, path: Path, shown: str) -> ForeignModel | UnusableModel:
    with path.open("rb") as file:
        data = file.read(_MANIFEST_BYTES)
    content = json.loads(data)
    layers = content["layers"] or []
    if len(layers) > _LAYERS:
        return UnusableModel(shown, f"its manifest lists {len(layers)} layers")
    parts: list[ForeignFile] = []
    for layer in [*layers, content.get("config") or {}]:
        kind = str(layer.get("mediaType")).removeprefix(_PREFIX)
        if kind == "tensor":
            return UnusableModel(
                shown, "it is stored as single tensors, which only Ollama itself reads"
            )
        role, name = KINDS.get(kind, ("config", CONFIG))
        if kind not in KINDS and layer is not content.get("config"):
            continue  # such as an embedding cache: not part of what makes the model
        digest = _DIGEST.fullmatch(str(layer.get("digest")))
        if not digest:
            return UnusableModel(
                shown, f"its manifest has the digest {str(layer.get('digest'))[:80]!r}"
            )
        blob = place / "blobs" / f"sha256-{digest[1]}"
        if not blob.is_file():
            return UnusableModel(
                shown, f"its {name} (sha256-{digest[1][:12]}) is not among its files"
            )
        count = sum(part.role == role for part in parts)
        parts.append(ForeignFile(role, numbered(name, count + 1), blob, digest[1]))
    models = sum(part.role == "weights" for part in parts)
    if models != 1:
        why = "it has no weights here: it runs on a server of Ollama"
        return UnusableModel(
            shown, f"it holds {models} models where one is expected" if models else why
        )
    ref = ref_of(f"ollama:{shown}")
    if ref is None:
        return UnusableModel(shown, "its name is none that can be written here")
    parts.sort(key=lambda part: part.role != "weights")
    pieces = tuple(
        FetchedFile(part.role, part.path, part.file, part.sha256 or "", part.file.stat().st_size)
        for part in parts
    )
    origin = {"source": "ollama", "manifest": f"sha256:{sha256(data).hexdigest()}"}
    return ForeignModel(
        shown, ref, tuple(parts), {**origin, **config_facts(pieces)}, licence_of(pieces)
    )
