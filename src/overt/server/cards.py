"""What the files of a stored model say about it: `ModelCard` for lists, `ModelDetails` for one.

Everything comes from headers and small texts; weights are never read. What is damaged is told as
far as it can be read: a list of models does not fail because of one of them.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from overt.errors import OvertError
from overt.formats import gguf, safetensors
from overt.formats.gguf import Array, GgufHeader
from overt.models import defaults, pull
from overt.models.store import File, Manifest, Store, view
from overt.protocols.base import ModelCard
from overt.ref import parse
from overt.runtime.loader import kind_of
from overt.settings import Settings

_FILL = ("fim_pre", "prefix")  # the token that begins a text with a gap: its new and old name
_MAX_LICENCE = 1 << 20  # bytes of one licence


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """Everything that is told about one model.

    Attributes:
        modelfile: what would make it again; paths begin with ``$OVERT_HOME``.
        template: the chat template in force (Jinja), or "".
        parameters: the model's own, by Ollama's names.
        messages: role and text.
        metadata: of the weights' header; None stands for a long array that was not asked for.
        projector: likewise of its projector, where it has one.
        tensors: name, type and shape.
        said: what only Ollama can use: renderer, parser, requires.
    """

    card: ModelCard
    modelfile: str = ""
    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    licence: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    projector: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    said: Mapping[str, str] = field(default_factory=dict)


def card_of(id: str, manifest: Manifest, modified: float, store: Store) -> ModelCard:
    """The card of a stored model; never raises for what its files say."""
    known: dict[str, Any] = {}
    with suppress(OvertError, OSError):
        known = _card_fields(manifest, store)
    return ModelCard(
        id=id,
        digest=manifest.digest,
        size=manifest.size,
        modified=modified,
        publisher=_publisher(manifest) or known.pop("organization", ""),
        licence=manifest.licence,
        **{name: value for name, value in known.items() if name != "organization"},
    )


def details_of(
    card: ModelCard, model: pull.LocalModel, settings: Settings, *, verbose: bool
) -> ModelDetails:
    """Everything about a model; `verbose` brings long arrays and tensors too.

    Raises:
        IntegrityError, FormatError: one of its files is missing or damaged.
    """
    from overt.models.modelfile_build import modelfile_of

    manifest = model.manifest
    assert manifest is not None
    over = defaults.read(model)
    header = gguf.read(model.weights) if _is_gguf(manifest) else None
    template = over.template or (header.chat_template if header else None) or ""
    try:
        modelfile = modelfile_of(model.ref, settings).replace(str(settings.home), "$OVERT_HOME")
    except OvertError as error:
        modelfile = f"# {error.message}\n"
    texts = defaults.texts(model)
    return ModelDetails(
        card=card,
        modelfile=modelfile,
        template=template,
        system=over.system,
        parameters=json.loads(texts.get("parameters", "{}")),
        messages=tuple((message.role, message.text) for message in over.messages),
        licence=_licence(manifest, Store(settings.home)),
        metadata=_metadata(header, verbose=verbose) if header else {},
        projector=_projector(model, verbose=verbose),
        tensors=_tensors(header, model) if verbose else (),
        said={
            k: manifest.origin[k]
            for k in ("renderer", "parser", "requires")
            if k in manifest.origin
        },
    )


# ---- inside --------------------------------------------------------------------------------


def _card_fields(manifest: Manifest, store: Store) -> dict[str, Any]:
    """What the headers say, by the fields of a card."""
    weights = view.weights(store, manifest)
    if not _is_gguf(manifest):
        read = safetensors.read(weights)
        return {"format": "safetensors", "parameters": read.parameters}
    header = gguf.read(weights)
    template = _template(manifest, store, header)
    projector = any(file.role == "projector" for file in manifest.files)
    made_for = kind_of(header)
    kind = "vlm" if made_for == "llm" and projector else made_for
    families = [header.architecture, *(["clip"] if projector else [])]
    return {
        "kind": kind,
        "format": "gguf",
        "architecture": header.architecture,
        "families": tuple(family for family in families if family),
        "parameters": header.parameters,
        "quantization": _quantization(header),
        "context": header.context_length,
        "embedding": header.embedding_length,
        "capabilities": _capabilities(kind, header, template),
        "organization": header.text("general.organization") or "",
    }


def _capabilities(kind: str, header: GgufHeader, template: str) -> tuple[str, ...]:
    if kind == "embedding":
        return ("embedding",)
    if kind == "rerank":
        return ()
    special = header.special_tokens
    abilities = {
        "completion": True,
        "vision": kind == "vlm",
        "tools": "tools" in template,
        "insert": any(name in special for name in _FILL),
        "thinking": "think" in template,
    }
    return tuple(name for name, has in abilities.items() if has)


def _template(manifest: Manifest, store: Store, header: GgufHeader) -> str:
    """The chat template in force, for the words in it."""
    for file in manifest.files:
        if file.role == "template":
            text = defaults.text_of(store.path(file), "template")
            return defaults.build({"template": text}).template or header.chat_template or ""
    return header.chat_template or ""


def _quantization(header: GgufHeader) -> str:
    declared = header.file_type
    if declared and not declared.startswith("unknown"):
        return declared
    return next(iter(header.type_mix()), "")


def _publisher(manifest: Manifest) -> str:
    ref = parse(manifest.ref)
    return ref.name.partition("/")[0] if ref.scheme == "hf" else ""


def _is_gguf(manifest: Manifest) -> bool:
    return not manifest.weights.path.lower().endswith(".safetensors")


def _metadata(header: GgufHeader, *, verbose: bool) -> dict[str, Any]:
    """The pairs of a header; the chat template is told elsewhere."""
    values = {
        key: _plain(value, verbose=verbose)
        for key, value in header.metadata.items()
        if not key.startswith("tokenizer.chat_template")
    }
    return {**values, "general.parameter_count": header.parameters}


def _plain(value: Any, *, verbose: bool) -> Any:
    if isinstance(value, Array):
        return value.load() if verbose else None
    return value


def _projector(model: pull.LocalModel, *, verbose: bool) -> dict[str, Any]:
    if model.projector is None:
        return {}
    return _metadata(gguf.read(model.projector), verbose=verbose)


def _tensors(
    header: GgufHeader | None, model: pull.LocalModel
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    read = header or safetensors.read(model.weights)
    return tuple((tensor.name, tensor.type, tuple(tensor.shape)) for tensor in read.tensors)


def _licence(manifest: Manifest, store: Store) -> str:
    """The texts the model came with, else what is stated."""
    texts = [_text(store, file) for file in manifest.files if file.role == "licence"]
    return "\n\n".join(texts) or manifest.licence or ""


def _text(store: Store, file: File) -> str:
    with store.path(file).open("rb") as opened:
        return opened.read(_MAX_LICENCE).decode("utf-8", "replace")
