"""`overt show`: everything a model's file says about itself, and whether it fits here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from overt.cli import risks
from overt.cli.options import engine_options, verb
from overt.cli.output import Output, number, pairs, size, table
from overt.errors import NotFound, OutOfMemory, UsageError
from overt.ref import parse
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader
    from overt.models.pull import LocalModel

_CLIP = 100  # characters of a metadata value in the human view
_MAX_LICENCE_BYTES = 1 << 20


@click.command("show", short_help="what is known of a model")
@click.argument("ref")
@click.option("--template", is_flag=True, help="Only the chat template.")
@click.option("--licence", "--license", is_flag=True, help="Only the licence.")
@click.option("--modelfile", is_flag=True, help="The Modelfile that makes it again.")
@click.option("--tensors", is_flag=True, help="Every tensor too.")
@engine_options
@verb
def command(
    out: Output,
    settings: Settings,
    ref: str,
    template: bool,
    licence: bool,
    modelfile: bool,
    tensors: bool,
) -> int:
    """Show what the header of REF's file says, what its tensors really are, and whether it fits.

    Types and bits per weight are counted from the tensors, not taken from the file's name. Of a
    model that runs elsewhere (openai:gpt-…): its server, key, context, price, openness and licence.
    Of an alias: what it stands for.
    """
    from overt.models.pull import find

    resolved = _file_of(ref, out, settings, needed=template or licence or modelfile or tensors)
    if resolved is None:
        return 0
    ref, alias = resolved
    _check(ref)
    model = find(ref, settings)
    if licence:
        text = licence_text(ref, settings)
        out.result({"model": ref, "licence": text}, lambda: text, lambda: text)
        return 0
    if modelfile:
        from overt.models.modelfile_build import modelfile_of

        text = modelfile_of(ref, settings).rstrip()
        out.result({"model": ref, "modelfile": text}, lambda: text, lambda: text)
        return 0
    header = None
    if _is_safetensors(model):
        facts: dict[str, Any] = _safetensors(model, tensors=tensors)
    else:
        from overt.formats import gguf

        header = gguf.read(model.weights)
        if template:
            from overt.models import defaults

            text = defaults.read(model).template or header.chat_template or ""
            if not text:
                raise NotFound(f"{ref} has no chat template", "it can continue text: run --raw")
            out.result({"model": ref, "template": text}, lambda: text, lambda: text)
            return 0
        facts = _gguf(header, tensors=tensors) | {"fits": _fits(model, header, settings)}
    value = {"alias": alias} | _origin(ref, model) | facts
    value["templates"] = risks.templates(model, header, settings)
    value["code"] = risks.code(model, settings)
    out.result(value, lambda: _human(value), lambda: str(value["digest"]))
    return 0


def licence_text(ref: str, settings: Settings) -> str:
    """The licence a model came with: its text where there is one, else what is stated.

    Raises:
        ModelNotFound, FormatError: no such model, or not one.
    """
    from overt.models.pull import find
    from overt.models.store import Store

    _check(ref)
    model = find(ref, settings)
    manifest = model.manifest
    lines = [f"stated by its origin: {(manifest and manifest.licence) or 'nothing'}"]
    if not _is_safetensors(model):
        from overt.formats import gguf

        header = gguf.read(model.weights)
        own = (header.licence, header.licence_name, header.licence_link)
        lines.append(f"stated in its file: {' '.join(filter(None, own)) or 'nothing'}")
    for file in manifest.files if manifest else ():
        if file.role == "licence":
            with Store(settings.home).path(file).open("rb") as opened:
                text = opened.read(_MAX_LICENCE_BYTES).decode("utf-8", "replace")
            lines += ["", f"{file.path}:", "", text]
    return "\n".join(lines)


def _file_of(
    name: str, out: Output, settings: Settings, *, needed: bool
) -> tuple[str, str | None] | None:
    """The ref whose file is shown, and the alias it was named by.

    None where there is no file and what is known of it has been shown: a model that runs elsewhere,
    a route. Raises UsageError where something of a file is `asked` for.
    """
    from overt.cli import show_remote
    from overt.gateway import routing

    target = routing.aliases(settings.home).find(name)
    if isinstance(target, routing.Route):
        if needed:
            raise UsageError(f"{name} is a route and has no file", f"overt alias show {name}")
        show_remote.route(name, target, out, settings)
        return None
    ref, alias = (name, None) if target is None else (target, name)
    if not parse(ref).remote:
        return ref, alias
    if needed:
        raise show_remote.refuse(ref)
    show_remote.show(ref, alias, out, settings)
    return None


def _check(ref: str) -> None:
    parsed = parse(ref)
    if parsed.scheme == "echo":
        raise UsageError("echo is built in and has no file", "show a model of `overt list`")


def _origin(ref: str, model: "LocalModel") -> dict[str, Any]:
    from overt.formats import split

    manifest, entry = model.manifest, model.catalogue
    return {
        "model": ref,
        "about": entry.about if entry else None,
        "note": entry.note if entry else None,
        "digest": model.digest,
        "path": str(model.weights),
        "parts": [str(path) for path in split.files(model.weights)],
        "ref": manifest.ref if manifest else str(model.weights),
        "origin": dict(manifest.origin) if manifest else {},
        "licence": manifest.licence if manifest else None,
        "projector": str(model.projector) if model.projector else None,
        "files": [
            {"role": file.role, "path": file.path, "digest": file.digest, "size": file.size}
            for file in (manifest.files if manifest else ())
        ],
        "size": manifest.size if manifest else model.weights.stat().st_size,
    }


def _gguf(header: "GgufHeader", *, tensors: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": f"GGUF {header.version}",
        "architecture": header.architecture,
        "name": header.name,
        "licence_in_file": header.licence,
        "quantized_by": header.quantized_by,
        "file_type": header.file_type,
        **_mix(header),
        "context_length": header.context_length,
        "blocks": header.block_count,
        "embedding_length": header.embedding_length,
        "heads": max(header.head_counts, default=None),
        "kv_heads": max(header.kv_head_counts, default=None),
        "sliding_window": header.sliding_window,
        "experts": header.expert_count,
        "tokenizer": header.tokenizer,
        "vocabulary": header.vocabulary_size,
        "special_tokens": header.special_tokens,
        "template": header.chat_template,
        "metadata": {key: _plain(value) for key, value in header.metadata.items()},
    }
    return facts | _tensors(header, tensors=tensors)


def _is_safetensors(model: "LocalModel") -> bool:
    """By the name it came with: a blob of the store is named by its digest."""
    name = model.manifest.weights.path if model.manifest else model.weights.name
    return name.lower().endswith(".safetensors")


def _safetensors(model: "LocalModel", *, tensors: bool) -> dict[str, Any]:
    from overt.formats import safetensors

    header = safetensors.read(model.weights)
    facts = {"format": "safetensors", **_mix(header), "metadata": dict(header.metadata)}
    return facts | _tensors(header, tensors=tensors)


def _mix(header: Any) -> dict[str, Any]:
    """What the tensors really are, whatever the file calls itself."""
    return {
        "parameters": header.parameters,
        "bits_per_weight": round(header.bits_per_weight, 3),
        "tensor_types": {
            kind: {"tensors": share.tensors, "parameters": share.parameters, "bytes": share.bytes}
            for kind, share in header.type_mix().items()
        },
    }


def _tensors(header: Any, *, tensors: bool) -> dict[str, Any]:
    if not tensors:
        return {}
    return {
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "type": tensor.type,
                "offset": tensor.offset,
                "size": tensor.size,
            }
            for tensor in header.tensors
        ]
    }


def _plain(value: Any) -> Any:
    """Metadata as JSON: a long array is named by its length, a short one given whole."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return list(value) if len(value) <= 64 else {"length": len(value)}
    return {"length": value.length, "type": value.type}


def _fits(model: "LocalModel", header: "GgufHeader", settings: Settings) -> dict[str, Any]:
    """What `Exchange.open` would need here and now."""
    from overt.gateway.exchange import batch_size
    from overt.models.memory import choose, free_memory
    from overt.runtime.native_build.build import native_path

    free = settings.memory or free_memory()
    try:
        fit = choose(
            header,
            context=settings.context,
            parallel=settings.parallel or 1,
            free=free,
            batch=batch_size(header),
            projector=model.projector.stat().st_size if model.projector else 0,
            native=settings.engine != "wheel" and native_path(settings.home) is not None,
            label=model.ref,
        )
    except OutOfMemory as error:
        return {"ok": False, "free": free, "message": error.message, "hint": error.hint}
    return {
        "ok": True,
        "free": free,
        "need": fit.need.total,
        "context": fit.context,
        "reduced_from": fit.reduced_from,
    }


def _human(value: Mapping[str, Any]) -> str:
    parts = [
        pairs(
            {
                "model": value["model"],
                "alias": value["alias"],
                "about": value["about"],
                "note": value["note"],
                "from": value["ref"],
                "digest": value["digest"],
                "size": size(value["size"]),
                "licence": value["licence"] or value.get("licence_in_file") or "not stated",
                "architecture": value.get("architecture"),
                "name": value.get("name"),
                "parameters": number(value["parameters"]),
                "bits per weight": f"{value['bits_per_weight']:.2f}",
                "declared type": value.get("file_type"),
                "context": value.get("context_length"),
                "vocabulary": value.get("vocabulary"),
                "images": "yes" if value["projector"] else None,
                "template": _about_template(value),
                "template check": risks.about_templates(value["templates"]),
                "code": risks.about_code(value["code"]),
                "fits here": _about_fit(value["fits"]) if "fits" in value else None,
                "file": value["path"],
            }
        ),
        table(
            ("tensors of type", "count", "parameters", "bytes", "share"),
            [
                (
                    kind,
                    share["tensors"],
                    number(share["parameters"]),
                    size(share["bytes"]),
                    f"{100 * share['parameters'] / max(value['parameters'], 1):.1f} %",
                )
                for kind, share in value["tensor_types"].items()
            ],
        ),
        "header\n" + pairs({f"  {key}": _clipped(key, v) for key, v in value["metadata"].items()}),
    ]
    if "tensors" in value:
        rows = [
            (t["name"], t["type"], "x".join(map(str, t["shape"])), size(t["size"]))
            for t in value["tensors"]
        ]
        parts.append(table(("tensor", "type", "shape", "bytes"), rows))
    return "\n\n".join(parts)


def _about_template(value: Mapping[str, Any]) -> str | None:
    if "template" not in value:
        return None
    text = value["template"]
    return f"{len(text)} characters (--template shows it)" if text else "none: use run --raw"


def _about_fit(fits: Mapping[str, Any]) -> str:
    if not fits["ok"]:
        return f"no: {fits['message']}; {fits['hint']}"
    text = (
        f"yes: {size(fits['need'])} for a context of {fits['context']}, {size(fits['free'])} free"
    )
    if fits["reduced_from"]:
        text += f" (its own {fits['reduced_from']} would not fit)"
    return text


def _clipped(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['length']} values"
    text = str(value).replace("\n", "\\n")
    if key.startswith("tokenizer.chat_template"):
        return f"{len(str(value))} characters"
    return text if len(text) <= _CLIP else f"{text[:_CLIP]}… ({len(text)} characters)"
