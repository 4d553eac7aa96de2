"""Safetensors weights become a GGUF file that the local engine loads: the step ``convert``.

The same model, type and versions of `gguf` and numpy give the same bytes. Decoders are known by the
files of `nets/architectures`, encoders for embeddings by bert.py. Tensors are read, changed and
written in blocks of rows, so that the memory it takes does not grow with the model.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from overt.errors import FormatError, ModelNotFound
from overt.formats import safetensors
from overt.formats.bounded import shown
from overt.lab.convert import bert
from overt.models import pull
from overt.models.modelfile_build import parse_name
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import FetchProgress
from overt.models.store import FileLink, Manifest, Store
from overt.nets import architectures, weights
from overt.nets.architectures import Weight, ropes
from overt.provenance import gguf_keys
from overt.provenance.steps import StepContext, StepInput, StepOutput
from overt.ref import parse
from overt.settings import Settings

Type = Literal["f32", "f16", "bf16", "q8_0"]
VERSION = "3"
_FILE_TYPES: Mapping[str, int] = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""``general.file_type``, as llama.h numbers it."""
_MAX_TEXT = 64 << 20
_BESIDE = (
    "tokenizer.model",
    "chat_template.jinja",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.json",
    "model.safetensors.index.json",
    "README.md",
)
"""The small files that say something: others are not read."""
_ALIGNMENT = 32
_PRE = re.compile(r"[a-z0-9._-]{0,64}")


def convert(
    source: str,
    name: str,
    settings: Settings,
    type: Type = "f16",
    progress: Callable[[FetchProgress], None] | None = None,
    *,
    pre: str = "",
    tell: Callable[[Mapping[str, Any]], None] | None = None,
) -> Manifest:
    """Make the model `name` of the safetensors model `source`, pulled where it is not here.

    A folder is noted in the store under ``NAME-safetensors``, so that the conversion can be
    repeated; its files stay where they are.

    Args:
        pre: llama.cpp's name of the pre-tokenizer, where a person knows it; "": it is recognised.
        tell: is told what of the source is left out, as `StepContext.tell`.

    Raises:
        BadRef, ModelNotFound: as `pull` and `create` do.
        FormatError: not safetensors, or files that contradict themselves.
        Unsupported: an architecture, or a choice of it, that is not known; missing packages.
    """
    from overt.provenance import run_recipe

    parse_name(name)
    report = progress or (lambda _: None)
    manifest = _stored(source, name, settings, report)
    came = Input("from", manifest.digest, manifest.ref)
    recipe = run_recipe.recipe(
        "convert", [came], {"type": type} | ({"pre": pre} if pre else {}), settings
    )
    return run_recipe.make(recipe, name, settings, report, tell)


def _stored(
    source: str, name: str, settings: Settings, report: Callable[[FetchProgress], None]
) -> Manifest:
    """The manifest of `source`, in the store."""
    try:
        own_name = parse(source).scheme == "name"
        model = pull.find(source, settings, report) if own_name else None
    except ModelNotFound:
        model = None
    came = pull.pull(source, settings, report) if model is None else None
    model = model or pull.find(source, settings, report)
    manifest = model.manifest or came
    assert manifest is not None  # a plain folder was pulled
    if not manifest.weights.path.endswith(".safetensors"):
        raise FormatError(f"{source} is not a safetensors model", "it needs no converting")
    if model.manifest is not None:
        return manifest
    own = parse_name(f"{name}-safetensors")
    place = Path(source).expanduser().absolute()
    base = place if place.is_dir() else place.parent
    links = {file.digest: FileLink.of(base / file.path, str(base)) for file in manifest.files}
    manifest = replace(manifest, ref=str(own), origin={"source": "folder"})
    return Store(settings.home).commit(manifest, {}, [own], links)


class _ConvertStep:
    name = "convert"
    version = VERSION
    packages = ("gguf", "numpy")
    reports: tuple[str, ...] = ()

    def run(self, work: StepContext) -> list[StepOutput]:
        """The GGUF file of the input ``from``, with matrices of the parameter ``type``."""
        type = work.recipe.parameters.get("type", "f16")
        if type not in get_args(Type):
            raise FormatError(f"the type {shown(type)} is none of {', '.join(get_args(Type))}")
        pre = work.recipe.parameters.get("pre", "")
        if not isinstance(pre, str) or not _PRE.fullmatch(pre):
            raise FormatError(
                f"{shown(pre)} is no name of a pre-tokenizer", "llama.cpp's are such as llama-bpe"
            )
        made = work.place / "model.gguf"
        source = work.given("from")[0]
        source_parts = parts(source)
        if count := _images(source_parts):
            work.tell(
                {
                    "kind": "note",
                    "text": f"what sees images is left out ({count} tensors): the new model reads "
                    "text alone",
                }
            )
        metadata = gguf_keys.release(source, source_parts.texts.get("README.md", ""))
        write(source_parts, made, type, work.report, pre, metadata)
        return [StepOutput("weights", f"model-{type}.gguf", made)]

    def tolerance(self, recipe: Recipe) -> float:
        """None: the bytes follow from the inputs."""
        return 0.0


STEP = _ConvertStep()


# ---- what is read --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a release is read.

    Attributes:
        files: the safetensors files.
        texts: the small files beside them by base name: JSON parsed, ``chat_template.jinja`` and
            ``README.md`` as text, ``tokenizer.model`` as bytes; ``pooling`` is that of an embedder.
    """

    files: tuple[Path, ...]
    texts: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        config = self.texts.get("config.json")
        if not isinstance(config, dict):
            what = "has no config.json" if config is None else "has a config.json that is no object"
            raise FormatError(f"this model {what}", "choose one that has it")
        return config


def parts(source: StepInput) -> Parts:
    """The files of a release that decide what it computes.

    Raises:
        FormatError: no weights, weights that are missing, or text that is no JSON.
    """
    names = sorted(name for name in source.files if name.endswith(".safetensors"))
    if source.manifest is not None:
        roles = {file.path: file.role for file in source.manifest.files}
        names = [name for name in names if roles.get(name) == "weights"]
    if not names:
        raise FormatError("this model has no safetensors weights", "it needs no converting")
    folder = min(
        (name.rpartition("/")[0] for name in names), key=lambda folder_name: folder_name.count("/")
    )
    base = f"{folder}/" if folder else ""
    texts: dict[str, Any] = {}
    for name, path in source.files.items():
        inner = name.removeprefix(base)
        if not name.startswith(base) or path.stat().st_size > _MAX_TEXT:
            continue
        if inner.endswith("1_Pooling/config.json"):
            texts["pooling"] = _json(path, name)
        elif inner in _BESIDE:
            texts[inner] = _text(path, inner)
    if "model.safetensors.index.json" in texts:
        index = safetensors.read_index(source.files[f"{base}model.safetensors.index.json"])
        names = [f"{base}{member}" for member in index.files]
        missing = [name for name in names if name not in source.files]
        if missing:
            raise FormatError(f"the weights lack the file {missing[0]}", "pull the model again")
    return Parts(tuple(source.files[name] for name in names), texts)


def _text(path: Path, name: str) -> Any:
    if name.endswith(".json"):
        return _json(path, name)
    data = path.read_bytes()
    return data.decode("utf-8", "replace") if name.endswith((".jinja", ".md")) else data


def _images(source_parts: Parts) -> int:
    """How many tensors are of another part than the language model."""
    tensors = (tensor for file in source_parts.files for tensor in safetensors.read(file).tensors)
    return sum(architectures.sees_images(tensor.name) for tensor in tensors)


def _json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is not JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What is written.

    Attributes:
        architecture: in GGUF.
        keys: of the header, besides what ``general.*`` says of the file's type.
        weights: in the order of the file.
        place: the name in `weights` of a release's tensor; None for one that is left out.
        halves: whether a tensor loses little in fewer bits.
        divisors: of the rotary speeds, which GGUF holds as a tensor; empty for none.
    """

    architecture: str
    keys: Sequence[tuple[str, Any]]
    weights: Sequence[Weight]
    place: Callable[[str], str | None]
    halves: Callable[[Weight], bool]
    divisors: Sequence[float] = ()


def plan(source_parts: Parts, pre: str = "") -> ConversionPlan:
    """What a release becomes; `pre` names its pre-tokenizer, where that is not to be recognised.

    Raises:
        FormatError, Unsupported: as the architecture's file and `vocabulary` do.
    """
    config = source_parts.config
    names = config.get("architectures")
    if isinstance(names, list) and bert.ARCHITECTURE in names:
        return _encoder(source_parts)
    from overt.lab.convert import vocabulary

    known = architectures.of_config(config)
    shape = known.shape_of_config(config)
    keys = known.metadata(shape)
    inner = config.get("text_config")
    merged = {**(inner if isinstance(inner, dict) else {}), **config}
    merged["vocab_size"] = shape.vocabulary
    keys += vocabulary.metadata(source_parts.texts, merged, known.name, pre)
    wanted = list(known.weights(shape))
    if shape.tied and known.own_output:
        wanted.append(Weight(wanted[0].name, "output.weight", wanted[0].shape))
    divisors = ropes.divisors(shape.rope, shape.head) if shape.rope.scaling == "llama3" else ()
    halves = lambda weight: len(weight.shape) == 2  # noqa: E731
    return ConversionPlan(known.name, keys, wanted, known.placed(shape), halves, divisors)


def _encoder(source_parts: Parts) -> ConversionPlan:
    tokenizer = source_parts.texts.get("tokenizer.json")
    if not isinstance(tokenizer, dict):
        raise FormatError("this model has no tokenizer.json", "choose one that has it")
    keys = list(bert.metadata(source_parts.config, tokenizer, source_parts.texts.get("pooling")))
    wanted = [Weight(name, name, shape) for name, shape in bert.shapes(source_parts.config).items()]
    return ConversionPlan(
        "bert", keys, wanted, bert.rename, lambda weight: bert.is_half(weight.gguf)
    )


# ---- what is written -----------------------------------------------------------------------


def write(
    source_parts: Parts,
    target: Path,
    type: Type,
    report: Callable[[FetchProgress], None],
    pre: str = "",
    metadata: Sequence[gguf_keys.Pair] = (),
) -> None:
    """Write the GGUF file of a release; `pre` as in `plan`, `told` as `provenance` gives it.

    Raises:
        FormatError: the release contradicts itself, or a number does not fit into `type`.
        Unsupported: an architecture or a choice that is not known.
    """
    what = plan(source_parts, pre)
    stored = weights.of_release(source_parts.files, what.weights, what.place)
    kinds = {weight.gguf: _kind(weight, what, type) for weight in what.weights}
    _write_header(replace(what, keys=[*metadata, *what.keys]), kinds, target, type)
    done, total = 0, sum(tensor.rows * tensor.row_bytes for tensor in stored.values())
    with target.open("ab") as file:
        if what.divisors:
            import numpy as np

            _align(file)
            file.write(np.asarray(what.divisors, "<f4").tobytes())
        for weight in what.weights:
            _align(file)
            for _, block in weights.rows(weight, stored[weight.name], "gguf"):
                file.write(weights.encoded(block, kinds[weight.gguf], weight.name))
                done += len(block) * stored[weight.name].row_bytes
                report(FetchProgress("converting", min(done, total), total))
        _align(file)


def _kind(weight: Weight, what: ConversionPlan, type: Type) -> str:
    """The type a tensor is stored as: norms and biases keep 32 bits."""
    if not what.halves(weight):
        return "F32"
    whole = weight.shape[-1] % weights.ROWS[type.upper()][0] == 0
    return type.upper() if whole else "F16"


def _write_header(what: ConversionPlan, kinds: Mapping[str, str], target: Path, type: Type) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(str(target), what.architecture)
    try:
        writer.add_type("model")
        writer.add_file_type(_FILE_TYPES[type])
        if type == "q8_0":
            writer.add_quantization_version(2)
        for key, value in what.keys:
            _add(writer, key, value)
        float32 = np.dtype(np.float32)
        if what.divisors:
            count = len(what.divisors)
            writer.add_tensor_info(architectures.ROPE_FREQS, (count,), float32, 4 * count)
        for weight in what.weights:
            block, size = weights.ROWS[kinds[weight.gguf]]
            elements = 1
            for extent in weight.shape:
                elements *= extent
            writer.add_tensor_info(
                weight.gguf,
                weight.shape,
                float32,
                elements // block * size,
                GGMLQuantizationType[kinds[weight.gguf]],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
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


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))
