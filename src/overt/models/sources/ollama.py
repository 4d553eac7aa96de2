"""``ollama:[host/][namespace/]name[:tag]``: an Ollama registry.

It speaks the distribution specification with its own media types, one a part of a model. A tag is
pinned to the digest of its manifest. The default host is registry.ollama.ai, the default namespace
``library``, the default tag ``latest``, as Ollama has them.
"""

import json
from collections.abc import Mapping
from functools import partial

from overt.errors import FormatError, ModelNotFound
from overt.models.sources.base import Collected, FetchedFile, FetchPlan, Role
from overt.models.sources.download import Network
from overt.models.sources.registry import (
    Descriptor,
    Document,
    RepositoryClient,
    check_pins,
    collect,
    pinned,
)
from overt.models.sources.staging import Staging
from overt.ref import Ref

HOST = "registry.ollama.ai"
NAMESPACE = "library"

_TYPE = "application/vnd.ollama.image."
# Media type (without its beginning) -> role and path; the paths are those of elsewhere/ollama.py.
KINDS: Mapping[str, tuple[Role, str]] = {
    "model": ("weights", "model.gguf"),
    "projector": ("projector", "projector.gguf"),
    "adapter": ("adapter", "adapter.gguf"),
    "draft": ("draft", "draft.gguf"),
    "template": ("template", "template"),
    "prompt": ("template", "template"),  # the old name of the same
    "system": ("system", "system"),
    "params": ("parameters", "params.json"),
    "messages": ("messages", "messages.json"),
    "license": ("licence", "LICENSE"),
}
CONFIG = "config.json"
_CONFIG_BYTES = 1 << 20
_HEAD = 4096  # bytes of a licence that are looked at


def plan(ref: Ref, network: Network, pins: Mapping[str, str]) -> FetchPlan:
    """As base.Planner. `pins` holds digests of files by the paths of `KINDS`.

    Raises:
        ModelNotFound: no such model or tag, or one without weights.
        FormatError: a manifest that is refused, or a model in a form only Ollama reads.
        NeedsAccess, Refused, SourceFailed, Offline: as registry.py says.
    """
    host = ref.host or HOST
    name = ref.name if "/" in ref.name else f"{NAMESPACE}/{ref.name}"
    registry = RepositoryClient(network, host, name)
    document = registry.manifest(ref.tag or "latest", index=False)
    wanted, left_out = parts(document, str(ref))
    check_pins(wanted, pins)
    origin = {
        "source": "ollama",
        "registry": host,
        "repository": name,
        "manifest": document.digest,
    }
    if left_out:
        origin["left_out"] = ", ".join(left_out)
    short = name.removeprefix(f"{NAMESPACE}/") if host == HOST else name
    return FetchPlan(
        pinned(ref, None if host == HOST else host, short, document.digest),
        origin,
        partial(_collect, registry, wanted),
    )


def parts(
    document: Document, place: str
) -> tuple[tuple[tuple[Role, str, Descriptor], ...], tuple[str, ...]]:
    """What to keep of an Ollama manifest, weights first, and the media types that are left out.

    Raises:
        ModelNotFound: it has no weights.
        FormatError: it is stored tensor by tensor, or has two models.
    """
    parts_found: list[tuple[Role, str, Descriptor]] = []
    left_out: set[str] = set()
    for layer in document.layers:
        kind = layer.media_type.removeprefix(_TYPE)
        if layer.media_type == kind or kind not in KINDS:
            left_out.add(layer.media_type)
            continue
        role, path = KINDS[kind]
        count = sum(path in (other, _unnumbered(other)) for _, other, _ in parts_found)
        parts_found.append((role, numbered(path, count + 1), layer))
    if f"{_TYPE}tensor" in left_out:
        raise FormatError(
            f"{place} is stored tensor by tensor, which only Ollama's MLX engine reads",
            "choose a tag of the same model that is GGUF",
        )
    models = [item for item in parts_found if item[0] == "weights"]
    if not models:
        raise ModelNotFound(
            f"{place} has no weights", "a model that runs in Ollama's cloud cannot be pulled"
        )
    if len(models) > 1:
        raise FormatError(f"{place} holds {len(models)} models where one is expected", None)
    if document.config:
        parts_found.append(("config", CONFIG, document.config))
    parts_found.sort(key=lambda item: item[0] != "weights")
    return tuple(parts_found), tuple(sorted(left_out))


def _collect(
    registry: RepositoryClient, wanted: tuple[tuple[Role, str, Descriptor], ...], desk: Staging
) -> Collected:
    pieces = collect(registry, desk, wanted)
    return Collected(pieces, licence_of(pieces), origin=config_facts(pieces))


def config_facts(pieces: tuple[FetchedFile, ...]) -> dict[str, str]:
    """What the configuration names that is not in the weights (types/model/config.go there)."""
    for piece in pieces:
        if piece.path == CONFIG and piece.size <= _CONFIG_BYTES:
            try:
                document = json.loads(piece.file.read_bytes())
            except (ValueError, RecursionError):
                return {}
            if isinstance(document, dict):
                parser_facts = {
                    key: document.get(key) for key in ("renderer", "parser", "requires")
                }
                return {
                    k: v for k, v in parser_facts.items() if isinstance(v, str) and 0 < len(v) <= 64
                }
    return {}


def licence_of(pieces: tuple[FetchedFile, ...]) -> str | None:
    """The first licence by the title its text begins with: an SPDX id where that is certain."""
    for piece in pieces:
        if piece.role == "licence":
            with piece.file.open("rb") as file:
                head = file.read(_HEAD).decode("utf-8", "replace")
            lines = [line.strip() for line in head.splitlines() if line.strip()]
            if lines[:1] == ["Apache License"] and lines[1:2] and "Version 2.0" in lines[1]:
                return "Apache-2.0"
            if lines[:1] == ["MIT License"]:
                return "MIT"
            return lines[0][:64] if lines and lines[0].isprintable() else None
    return None


def numbered(path: str, number: int) -> str:
    """``LICENSE`` is the first, ``LICENSE-2`` the second; likewise ``adapter-2.gguf``."""
    stem, dot, end = path.partition(".")
    return path if number == 1 else f"{stem}-{number}{dot}{end}"


def _unnumbered(path: str) -> str:
    stem, dot, end = path.partition(".")
    base, dash, number = stem.rpartition("-")
    return f"{base}{dot}{end}" if dash and number.isdigit() else path
