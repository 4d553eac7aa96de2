"""Safetensors weights become a GGUF file that the local engine loads.

One step, with its recipe: the same model, type and version of the writer give the same bytes. The
architecture decides which file of this folder knows the names, shapes and vocabulary; adding one is
a file here and a line in `_KNOWN`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overt import pull
from overt.create import named
from overt.errors import FormatError, Unsupported
from overt.formats import safetensors
from overt.lab import bert
from overt.recipe import Input, Recipe
from overt.settings import Settings
from overt.sources.base import Step
from overt.store import File, Manifest, Store

if TYPE_CHECKING:
    import numpy as np

Type = Literal["f32", "f16"]
VERSION = "1"
_KNOWN = {bert.ARCHITECTURE: bert}
_MOST_JSON = 64 << 20
_KEPT = ("licence", "card")


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a model is read: the weights and the small files beside them, by name."""

    model: pull.Model
    weights: Path
    texts: dict[str, Any]


def convert(
    source: str,
    name: str,
    settings: Settings,
    type: Type = "f16",
    progress: Callable[[Step], None] | None = None,
) -> Manifest:
    """Make the model `name` of the safetensors model `source`, pulled where it is not here.

    Raises:
        BadRef, ModelNotFound: as `pull` and `create` do.
        FormatError: not safetensors, or nothing this step knows.
        Unsupported: the packages of ``overt[lab]`` are not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise Unsupported(
            f"converting needs the package {error.name}", "pip install 'overt[lab]'"
        ) from None
    ref = named(name)
    report = progress or (lambda _: None)
    parts = _parts(source, settings, report)
    manifest = parts.model.manifest
    if manifest is None:
        raise FormatError(f"{source} is not in the store", f"overt pull {source}")
    recipe = Recipe(
        "convert",
        VERSION,
        (Input("from", manifest.digest, manifest.ref),),
        {"type": type},
        {"gguf": _version("gguf"), "numpy": _version("numpy")},
    )
    store = Store(settings.home)
    with store.pulling(ref) as place:
        made = place / "model.gguf"
        _write(gguf, parts, made, type, report)
        (place / "recipe.json").write_bytes(recipe.encode())
        weights = _file("weights", f"{ref.name}-{type}.gguf", made)
        told = _file("recipe", "recipe.json", place / "recipe.json")
        kept = [file for file in manifest.files if file.role in _KEPT]
        origin = {"source": "convert", "base": manifest.ref}
        result = Manifest((weights, told, *kept), str(ref), origin, manifest.licence)
        files = {weights.digest: made, told.digest: place / "recipe.json"}
        store.commit(result, files, [ref], {})
    return result


def _parts(source: str, settings: Settings, report: Callable[[Step], None]) -> Parts:
    pull.pull(source, settings, report)
    model = pull.find(source, settings)
    if model.manifest is None or not model.manifest.weights.path.endswith(".safetensors"):
        raise FormatError(f"{source} is not a safetensors model", "it needs no converting")
    if sum(file.role == "weights" for file in model.manifest.files) > 1:
        raise FormatError(f"{source} is cut into several files, and this step takes one")
    store, texts = Store(settings.home), {}
    for file in model.manifest.files:
        if file.path.endswith(".json") and file.size <= _MOST_JSON:
            folder, _, base = file.path.rpartition("/")
            pooling = folder.endswith("1_Pooling")
            texts["pooling" if pooling else base] = _json(store.path(file), file.path)
    for needed in ("config.json", "tokenizer.json"):
        if needed not in texts:
            raise FormatError(f"{source} has no {needed}", "choose one that has it")
    return Parts(model, model.weights, texts)


def _json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not JSON: {error}") from None


def _write(
    gguf: Any, parts: Parts, target: Path, type: Type, report: Callable[[Step], None]
) -> None:
    config = parts.texts["config.json"]
    if not isinstance(config, dict) or not isinstance(parts.texts["tokenizer.json"], dict):
        raise FormatError("config.json or tokenizer.json holds no object")
    said = config.get("architectures")
    architectures = [str(one) for one in said] if isinstance(said, list) else []
    known = next((_KNOWN[name] for name in architectures if name in _KNOWN), None)
    if known is None:
        raise FormatError(
            f"this is a {', '.join(architectures) or 'model of no name'}, and `convert` "
            f"knows {', '.join(_KNOWN)}",
            "choose a GGUF version of the model",
        )
    pooling = parts.texts.get("pooling")
    writer = gguf.GGUFWriter(str(target), "bert")
    try:
        writer.add_type("model")
        writer.add_file_type(0 if type == "f32" else 1)
        for key, value in known.metadata(config, parts.texts["tokenizer.json"], pooling):
            _add(writer, key, value)
        done, total = 0, parts.weights.stat().st_size
        for name, array in _tensors(known, config, parts.weights):
            half = type == "f16" and known.is_half(name)
            writer.add_tensor(name, array.astype("float16" if half else "float32"))
            done += array.nbytes
            report(Step("converting", min(done, total), total))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _tensors(
    known: Any, config: dict[str, Any], weights: Path
) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    """Every tensor under its new name, in the order of the file, in 32 bits."""
    import numpy as np

    header = safetensors.read(weights)
    wanted: dict[str, tuple[int, ...]] = known.shapes(config)
    data = np.memmap(weights, np.uint8, "r")
    for tensor in header.tensors:
        name = known.rename(tensor.name)
        if name is None:
            continue
        if wanted.pop(name, None) != tensor.shape:
            raise FormatError(f"{tensor.name} has the shape {tensor.shape}, or comes twice")
        raw = np.asarray(data[tensor.offset : tensor.offset + tensor.size])
        yield name, _float32(raw, tensor.type, tensor.name).reshape(tensor.shape)
    if wanted:
        raise FormatError(f"the weights lack {next(iter(wanted))} and {len(wanted) - 1} more")


def _float32(raw: "np.ndarray[Any, Any]", type: str, name: str) -> "np.ndarray[Any, Any]":
    import numpy as np

    if type == "F32":
        return raw.view("<f4")
    if type == "F16":
        return raw.view("<f2").astype(np.float32)
    if type == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    raise FormatError(f"{name} is {type}, and `convert` reads F32, F16 and BF16")


def _file(role: Any, path: str, here: Path) -> File:
    with here.open("rb") as opened:
        digest = file_digest(opened, sha256).hexdigest()
    return File(role, path, f"sha256:{digest}", here.stat().st_size)


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)
