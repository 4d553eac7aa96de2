"""``oci:host/name[:tag|@digest]``: a model in any OCI registry.

Read are CNCF ModelPack artefacts (model-spec, ``application/vnd.cncf.model.*``), those of Docker's
model runner (``application/vnd.docker.ai.*``) and plain files whose layers carry a title, as ORAS
pushes them. A layer may be an archive (tar, gzip) of one file that an annotation names. `describe`
writes ModelPack: every file a raw layer with its path, so that weights keep their digest. Layers of
code and of data sets are never brought.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast, get_args

from overt.errors import BadRef, FormatError, IntegrityError, ModelNotFound
from overt.models.sources.base import Collected, FetchedFile, FetchPlan, Role
from overt.models.sources.download import Network
from overt.models.sources.file_selection import choose, is_pickled, role_of
from overt.models.sources.ollama import licence_of
from overt.models.sources.registry import (
    LARGE,
    MAX_BYTES,
    MAX_TEXT,
    OCI_MANIFEST,
    Descriptor,
    Document,
    RepositoryClient,
    check_pins,
    collect,
    pinned,
)
from overt.models.sources.staging import Staging, sync
from overt.models.sources.unpack import unpack
from overt.ref import Ref, parse

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"

_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
_CREATED = "org.opencontainers.image.created"
_ROLE = "overt.role"  # what ModelPack has no media type for: a system text, parameters …
_FROM = "overt.from"
_ROLES = get_args(Role)

_WEIGHT = re.compile(r"application/vnd\.cncf\.model\.weight\.v1\.(raw|gguf|safetensors)")
_MODELPACK = "application/vnd.cncf.model."
_NEVER = (f"{_MODELPACK}code.", f"{_MODELPACK}dataset.")
_DOCKER: Mapping[str, tuple[Role, str]] = {
    "application/vnd.docker.ai.gguf.v3": ("weights", "model.gguf"),
    "application/vnd.docker.ai.safetensors": ("weights", "model.safetensors"),
    "application/vnd.docker.ai.mmproj": ("projector", "mmproj.gguf"),
    "application/vnd.docker.ai.gguf.v3.mmproj": ("projector", "mmproj.gguf"),
    "application/vnd.docker.ai.gguf.v3.lora": ("adapter", "adapter.gguf"),
    "application/vnd.docker.ai.license": ("licence", "LICENSE"),
    "application/vnd.docker.ai.chat.template.jinja": ("template", "chat_template.jinja"),
    "application/vnd.docker.ai.model.file": ("other", "file"),
}
_UNPACKED = (".tar", ".tar+gzip")
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _LayerItem:
    role: Role
    path: str
    layer: Descriptor
    stated: bool  # whether the layer itself says its role, rather than its name


def plan(ref: Ref, network: Network, pins: Mapping[str, str]) -> FetchPlan:
    """As base.Planner. `pins` holds digests of files by their path in the artefact.

    Raises:
        ModelNotFound: no such repository or tag; no weights in it.
        UnsafeFile, FormatError: as file_selection.py and registry.py say; layers that are archives.
        NeedsAccess, Refused, SourceFailed, Offline: as registry.py says.
    """
    assert ref.host
    registry = RepositoryClient(network, ref.host, ref.name)
    document = _model_document(registry, registry.manifest(ref.tag or "latest"), ref)
    wanted, left_out, note = _parts(document, str(ref))
    check_pins([item for item in wanted if not _packing(item[2])], pins)
    origin = {
        "source": "oci",
        "registry": ref.host,
        "repository": ref.name,
        "manifest": document.digest,
    }
    if left_out:
        origin["left_out"] = ", ".join(left_out)[:1000]
    if note:
        origin["choice"] = note
    if origin_ref := _ref_in(document.annotations.get(_FROM, "")):
        origin["from"] = origin_ref
    return FetchPlan(
        pinned(ref, ref.host, ref.name, document.digest),
        origin,
        partial(_collect, registry, document, wanted, pins),
    )


def _ref_in(text: str) -> str:
    """A pinned ref that the artefact says it was made from, if it is one."""
    try:
        return str(parse(text)) if text else ""
    except BadRef:
        return ""


def describe(pieces: Sequence[FetchedFile], facts: Mapping[str, str]) -> tuple[bytes, bytes]:
    """A ModelPack manifest and its configuration, as the bytes that are pushed.

    The same pieces and facts give the same bytes.

    Args:
        facts: ``name``, ``licence``, ``created`` (ISO 8601), ``from`` (a pinned ref),
            ``architecture``, ``quantization``, ``parameters`` (such as ``135M``), where known.
    """
    config = json.dumps(_config(pieces, facts), sort_keys=True, indent=1).encode()
    layers = [_described(piece) for piece in pieces]
    annotations = {_CREATED: facts.get("created", ""), _FROM: facts.get("from", "")}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": {"mediaType": CONFIG, "digest": _digest(config), "size": len(config)},
        "layers": layers,
        "annotations": {key: value for key, value in annotations.items() if value},
    }
    return json.dumps(manifest, indent=1).encode(), config


def _described(piece: FetchedFile) -> dict[str, object]:
    kind = {
        "weights": "weight.v1.raw",
        "projector": "weight.v1.raw",
        "adapter": "weight.v1.raw",
        "draft": "weight.v1.raw",
        "licence": "doc.v1.raw",
        "card": "doc.v1.raw",
    }.get(piece.role, "weight.config.v1.raw")
    return {
        "mediaType": _MODELPACK + kind,
        "digest": f"sha256:{piece.sha256}",
        "size": piece.size,
        "annotations": {_PATH: piece.path, _TITLE: piece.path, _ROLE: piece.role},
    }


def _config(pieces: Sequence[FetchedFile], facts: Mapping[str, str]) -> dict[str, object]:
    """As config.md of the model specification has it; what is not known is left out."""
    weights = next(piece.path for piece in pieces if piece.role == "weights")
    descriptor: dict[str, object] = {
        "name": facts.get("name", ""),
        "createdAt": facts.get("created", ""),
        "licenses": [facts["licence"]] if facts.get("licence") else [],
    }
    config = {
        "format": "safetensors" if weights.lower().endswith(".safetensors") else "gguf",
        "architecture": facts.get("architecture", ""),
        "paramSize": facts.get("parameters", ""),
        "quantization": facts.get("quantization", ""),
    }
    return {
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "config": {key: value for key, value in config.items() if value},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{p.sha256}" for p in pieces]},
    }


def _model_document(registry: RepositoryClient, document: Document, ref: Ref) -> Document:
    """The manifest itself; of an index, its only one."""
    if not document.entries:
        return document
    if len(document.entries) > 1:
        listed = " or ".join(f"@{entry.digest}" for entry in document.entries[:3])
        raise ModelNotFound(
            f"{ref} is an index of {len(document.entries)} models",
            f"name one: oci:{ref.host}/{ref.name}{listed}",
        )
    only = registry.manifest(document.entries[0].digest, index=False)
    if only.entries:
        raise FormatError(f"{ref} is an index of an index", "do not use this model")
    return only


def _parts(
    document: Document, place: str
) -> tuple[tuple[tuple[Role, str, Descriptor], ...], tuple[str, ...], str | None]:
    """What to keep, weights first; the media types left out; what was chosen of how many."""
    items, left_out = _readable(document, place)
    if all(item.stated for item in items) and any(item.role == "weights" for item in items):
        ordered = sorted(items, key=lambda item: item.role != "weights")
        return tuple((i.role, i.path, i.layer) for i in ordered), left_out, None
    by_path = {item.path: item for item in items}
    choice = choose(sorted(by_path), None, place)
    kept_ = [(role, path, by_path[path].layer) for role, path in choice.files]
    taken = {path for _, path in choice.files}
    kept_ += [
        (item.role, item.path, item.layer)
        for item in items
        if item.stated and item.role != "weights" and item.path not in taken
    ]
    return tuple(kept_), left_out, choice.note


def _readable(document: Document, place: str) -> tuple[list[_LayerItem], tuple[str, ...]]:
    items: list[_LayerItem] = []
    left_out: set[str] = set()
    for layer in document.layers:
        item = _layer_item(layer)
        if item:
            items.append(item)
        else:
            left_out.add(layer.media_type)
    for kind in sorted(left_out):
        if kind.startswith(f"{_MODELPACK}weight.") and not items:
            raise FormatError(
                f"{place} has its weights as {kind}, which Overt does not unpack",
                "build it with raw layers (modctl build --raw)",
            )
    named = _with_unique_names(items)
    paths = [item.path for item in named]
    if twice := sorted(path for path in set(paths) if paths.count(path) > 1):
        raise FormatError(f"{place} has two layers for {twice[0][:120]}", "do not use this model")
    return named, tuple(sorted(left_out))


def _layer_item(layer: Descriptor) -> _LayerItem | None:
    """What one layer is; None where it is left out."""
    kind = layer.media_type
    path = layer.annotations.get(_PATH) or layer.annotations.get(_TITLE) or ""
    role = layer.annotations.get(_ROLE)
    if kind.startswith(_NEVER) or (".tar" in kind and not (path and _packing(layer))):
        return None
    if role in _ROLES and path and not is_pickled(path):
        return _LayerItem(cast(Role, role), path, layer, stated=True)
    if kind in _DOCKER:
        usual, name = _DOCKER[kind]
        inferred = role_of(path) if usual == "other" else usual
        return _LayerItem(inferred, path or name, layer, stated=True) if inferred else None
    inferred = role_of(path) if path else None
    if _WEIGHT.fullmatch(kind):
        end = ".safetensors" if kind.endswith("safetensors") else ".gguf"
        return _LayerItem(inferred or "weights", path or f"model{end}", layer, stated=False)
    if inferred or (path and is_pickled(path)):
        return _LayerItem(inferred or "weights", path, layer, stated=False)
    return None


def _with_unique_names(items: list[_LayerItem]) -> list[_LayerItem]:
    """Several layers without a name are the parts of one model in order, or more of the same."""
    counts = {item.path: sum(other.path == item.path for other in items) for item in items}
    seen: dict[str, int] = {}
    named = []
    for item in items:
        count = counts[item.path]
        own = _PATH in item.layer.annotations or _TITLE in item.layer.annotations
        if count > 1 and not own:
            number = seen[item.path] = seen.get(item.path, 0) + 1
            stem, dot, end = item.path.partition(".")
            mark = f"-{number:05}-of-{count:05}" if item.role == "weights" else f"-{number}"
            item = replace(item, path=f"{stem}{mark}{dot}{end}")
        named.append(item)
    return named


def _packing(layer: Descriptor) -> str:
    """How a layer of ModelPack is archived: ``.tar``, ``.tar+gzip``, or empty for a raw one."""
    ends = [end for end in _UNPACKED if layer.media_type.endswith(end)]
    return ends[0] if ends and layer.media_type.startswith(_MODELPACK) else ""


def _unpacked(
    piece: FetchedFile, packing: str, pins: Mapping[str, str], desk: Staging
) -> FetchedFile:
    most = MAX_BYTES if piece.role in LARGE else MAX_TEXT
    target = desk.new(f"{piece.sha256}.file")
    sha256, size = unpack(piece.file, target, packing.endswith("gzip"), most, desk.room)
    if pins.get(piece.path, sha256) != sha256:
        raise IntegrityError(
            f"{piece.path} has the digest {sha256[:12]}, where the catalogue has "
            f"{pins[piece.path][:12]}",
            "do not use this registry for models until you know why",
        )
    sync(target)
    return replace(piece, file=target, sha256=sha256, size=size)


def _collect(
    registry: RepositoryClient,
    document: Document,
    wanted: tuple[tuple[Role, str, Descriptor], ...],
    pins: Mapping[str, str],
    desk: Staging,
) -> Collected:
    pieces = tuple(
        _unpacked(piece, packing, pins, desk) if (packing := _packing(layer)) else piece
        for piece, (_, _, layer) in zip(collect(registry, desk, wanted), wanted, strict=True)
    )
    facts = _facts(registry, document)
    created = facts.get("createdAt") or document.annotations.get(_CREATED, "")
    licences = facts.get("licenses")
    named = [x for x in licences if isinstance(x, str) and x] if isinstance(licences, list) else []
    return Collected(
        pieces,
        named[0][:64] if named else licence_of(pieces),
        created[:32] if isinstance(created, str) else "",
    )


def _facts(registry: RepositoryClient, document: Document) -> Mapping[str, object]:
    """The ``descriptor`` of a ModelPack configuration; nothing where there is none to read."""
    config = document.config
    if config is None or config.media_type != CONFIG or config.size > _CONFIG_BYTES:
        return {}
    body = registry.blob(config)
    try:
        descriptor = json.loads(body)["descriptor"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return descriptor if isinstance(descriptor, dict) else {}


def _digest(data: bytes) -> str:
    from hashlib import sha256

    return "sha256:" + sha256(data).hexdigest()
