"""A GGUF model becomes a release: a folder of safetensors weights that transformers loads.

One step, with its recipe. Quantized weights are written as the numbers they stand for; the norms of
Gemma, which GGUF holds with 1 added, are that 1 less, rounded once to 32 bits. A Mistral without a
window is a Llama in GGUF, and comes back as one: both compute the same.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from overt.errors import Unsupported, UsageError
from overt.files.atomic import writing
from overt.formats import gguf
from overt.formats.bounded import shown
from overt.lab.convert import tokenizer_files
from overt.models import pull
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import FetchProgress
from overt.models.sources.file_selection import role_of
from overt.models.store import Manifest
from overt.nets import architectures, weights
from overt.provenance import inputs, run_recipe
from overt.provenance.steps import StepContext, StepOutput
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.nets.architectures import Weight
    from overt.nets.shape import Shape
    from overt.nets.weights import Stored

Type = Literal["f32", "f16", "bf16"]
TYPES: tuple[str, ...] = get_args(Type)
_NAMES = {
    "f32": ("F32", "float32", 4),
    "f16": ("F16", "float16", 2),
    "bf16": ("BF16", "bfloat16", 2),
}
Report = Callable[[FetchProgress], None]


class _ExportStep:
    """Input: ``from``, a GGUF model of the store. Parameter: ``type``."""

    name = "export"
    version = "1"
    packages = ("gguf", "numpy")
    reports: tuple[str, ...] = ()

    def run(self, work: StepContext) -> list[StepOutput]:
        """Raises FormatError, Unsupported: as `write`."""
        (source,) = work.given("from")
        made = write(source.path, work.place, work.recipe.parameters["type"], work.report)
        return [StepOutput(role_of(path.name) or "other", path.name, path) for path in made]

    def tolerance(self, recipe: Recipe) -> float:
        return 0.0


STEP = _ExportStep()


def export(
    source: str,
    name: str,
    settings: Settings,
    type: Type = "f32",
    report: Report | None = None,
) -> Manifest:
    """Make the safetensors model `name` of the GGUF model `source`, pulled where it is not here.

    Raises:
        BadRef, ModelNotFound: as `pull` and `create` do.
        FormatError, Unsupported: as `write`.
    """
    manifest = inputs.plain_model(source, settings, report)
    recipe = _recipe(manifest, type, settings)
    return run_recipe.make(recipe, name, settings, report)


def folder(
    source: str,
    target: Path,
    settings: Settings,
    type: Type = "f32",
    report: Report | None = None,
) -> list[Path]:
    """Write the release of the GGUF model `source` into the new folder `target`.

    It is there as a whole or not at all; its ``recipe.json`` says what it was made of.

    Raises:
        UsageError: there is something at `target`.
        OutOfDisk, Failure: it cannot be written.
        And what `export` raises.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already", "name a new folder: --output DIR")
    manifest = inputs.plain_model(source, settings, report)
    recipe = _recipe(manifest, type, settings)
    model = pull.find(source, settings)
    place = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with writing(target):
            place.mkdir(parents=True)
            made = write(model.weights, place, type, report or (lambda _: None))
            (place / "recipe.json").write_bytes(recipe.encode())
            if target.exists():
                target.rmdir()
            place.rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return [target / path.name for path in made]


def _recipe(manifest: Manifest, type: Type, settings: Settings) -> Recipe:
    came = Input("from", manifest.digest, manifest.ref)
    return run_recipe.recipe("export", [came], {"type": type}, settings)


def write(source: Path, place: Path, type: Type, report: Report) -> list[Path]:
    """Write the files of a release into the folder `place`; gives them, the weights first.

    Raises:
        FormatError: `source` is no GGUF model, or one that contradicts itself.
        Unsupported: an architecture or a tokenizer that has no such form here.
    """
    if type not in TYPES:
        raise Unsupported(f"weights of the type {shown(type)} are not written", "f32, f16 or bf16")
    header = gguf.read(source)
    shape, wanted, stored = weights.shape_and_tensors(source)
    texts = tokenizer_files.files(header)
    texts["config.json"] = _config(header, shape, type)
    made = [place / "model.safetensors", *(place / name for name in sorted(texts))]
    for name, text in texts.items():
        (place / name).write_bytes(text)
    _write_weights(made[0], wanted, stored, type, report)
    return made


def _config(header: gguf.GgufHeader, shape: "Shape", type: Type) -> bytes:
    config = architectures.of_shape(shape).config(shape)
    config["torch_dtype"] = _NAMES[type][1]
    config["use_cache"] = True
    ids = header.special_tokens
    for role, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        # null is said too: each class of transformers has another number where nothing is
        config[f"{name}_token_id"] = ids.get(role) if ids.get(role, 0) < shape.vocabulary else None
    return (json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


# ---- safetensors ---------------------------------------------------------------------------


def _write_weights(
    path: Path,
    wanted: "tuple[Weight, ...]",
    stored: "Mapping[str, Stored]",
    type: Type,
    report: Report,
) -> None:
    """Tensors in the order of their names, block by block: one block is in memory at a time."""
    ordered = sorted(wanted, key=lambda weight: weight.name)
    head = safetensors_head({weight.name: weight.shape for weight in ordered}, type)
    done, total = 0, len(head) + sum(_size(weight.shape, type) for weight in ordered)
    with path.open("wb") as file:
        file.write(head)
        for weight in ordered:
            for _, block in weights.rows(weight, stored[weight.name], "release"):
                raw = weights.encoded(block, _NAMES[type][0], weight.name)
                file.write(raw)
                done += len(raw)
                report(FetchProgress("exporting", done, total))
        file.flush()
        os.fsync(file.fileno())


def safetensors_head(shapes: Mapping[str, tuple[int, ...]], type: Type) -> bytes:
    """The head of a safetensors file whose tensors lie in the order of `shapes`."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + _size(shape, type)
        content[name] = {
            "dtype": _NAMES[type][0],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
        start = end
    raw = json.dumps(content, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _size(shape: tuple[int, ...], type: Type) -> int:
    size = _NAMES[type][2]
    for extent in shape:
        size *= extent
    return size
