"""LoRA adapters between their two forms: the folder that peft writes, and GGUF for llama.cpp.

A step of its own, ``adapter``, makes a model of a base and an adapter in peft's form. llama.cpp
scales by alpha / rank, so that a rank-stabilised adapter (alpha / root of rank) gets another alpha.
Of queries and keys that GGUF holds interleaved (llama, olmo) the rows of B are in that order.

Sources: llama-adapter.cpp of llama.cpp b11739 (names, shapes, scale), peft's LoraConfig and the
names of its saved tensors.
"""

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from overt.errors import BadRef, FormatError, ModelNotFound, Unsupported, UsageError
from overt.files.atomic import writing
from overt.formats import gguf, safetensors
from overt.formats.bounded import shown
from overt.lab.convert import gguf_adapter
from overt.lab.convert.export import safetensors_head
from overt.models import pull
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import Report
from overt.models.store import Manifest, Store
from overt.nets import architectures, weights
from overt.nets.adapter import CONFIG, MAX_RANK, PREFIX, WEIGHTS, Adapter, read
from overt.nets.architectures import Weight
from overt.nets.shape import Shape
from overt.nets.weights import Stored
from overt.provenance import inputs, run_recipe
from overt.provenance.steps import StepContext, StepOutput
from overt.ref import parse
from overt.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_EMBEDDING = "model.embed_tokens.weight"


class FactorPair(NamedTuple):
    """The two halves for one matrix of the base: A (rank, inputs), B (outputs, rank)."""

    weight: Weight
    a: Stored
    b: Stored


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """What an adapter is for."""

    architecture: architectures.Architecture
    shape: Shape
    wanted: tuple[Weight, ...]


def base_of(path: Path) -> AdapterBase:
    """Raises FormatError, Unsupported: no GGUF model, or one that is not known."""
    shape, wanted, _ = weights.shape_and_tensors(path)
    return AdapterBase(architectures.of_shape(shape), shape, wanted)


# ---- the step ------------------------------------------------------------------------------


class _ConvertAdapterStep:
    """Inputs: ``from``, a GGUF model; ``adapter`` and ``adapter-config``, the two files of peft.
    No parameters.
    """

    name = "adapter"
    version = "1"
    packages = ("gguf", "numpy")
    reports: tuple[str, ...] = ()

    def run(self, work: StepContext) -> list[StepOutput]:
        """Raises FormatError, Unsupported: as `to_gguf`."""
        (base,), (file,), (config,) = map(work.given, ("from", "adapter", "adapter-config"))
        target = work.place / "adapter.gguf"
        to_gguf(file.path, config.path, base.path, target)
        return [*base.weights(), StepOutput("adapter", "adapter.gguf", target)]

    def tolerance(self, recipe: Recipe) -> float:
        return 0.0


STEP = _ConvertAdapterStep()


def is_gguf(file: Path) -> bool:
    """Whether this is a GGUF file that says it is an adapter."""
    if not file.is_file() or file.suffix.lower() != ".gguf":
        return False
    return gguf.read(file).text("general.type") == "adapter"


def is_peft(folder: Path) -> bool:
    """Whether peft wrote this folder."""
    return (folder / CONFIG).is_file()


def make_model(
    folder: Path,
    name: str,
    base: str,
    settings: Settings,
    report: Report | None = None,
) -> Manifest:
    """Make the model `name` of the model `base` and the adapter in `folder`.

    Raises:
        BadRef, ModelNotFound: as `pull` and `create` do.
        FormatError, Unsupported: as `to_gguf`.
    """
    manifest = inputs.plain_model(base, settings, report)
    file, config = folder / WEIGHTS, folder / CONFIG
    digests = [inputs.digest_of(path) for path in (file, config)]
    recipe = run_recipe.recipe(
        "adapter",
        [
            Input("from", manifest.digest, manifest.ref),
            Input("adapter", digests[0]),
            Input("adapter-config", digests[1]),
        ],
        {},
        settings,
    )
    data = dict(zip(digests, (file, config), strict=True))
    return run_recipe.make(recipe, name, settings, report, data=data)


def write_file(
    folder: Path,
    target: Path,
    base: str,
    settings: Settings,
    report: Report | None = None,
) -> None:
    """Write the adapter in `folder` as the new GGUF file `target`: whole, or not at all.

    Raises:
        UsageError: there is something at `target`.
        And what `make_model` raises.
    """
    if target.exists():
        raise UsageError(f"{target} is there already", "name a new file: --output FILE.gguf")
    weights_of_base = inputs.model(base, settings, report).weights
    new = target.with_name(f".{target.name}.{os.getpid()}")
    with writing(target):
        try:
            to_gguf(folder / WEIGHTS, folder / CONFIG, weights_of_base, new)
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)


def write_folder(
    file: Path,
    target: Path,
    base: str,
    settings: Settings,
    report: Report | None = None,
) -> None:
    """Write the GGUF adapter `file` as the new folder `target`, in peft's form.

    Raises:
        UsageError: there is something at `target`.
        And what `to_peft` raises.
    """
    to_peft(file, inputs.model(base, settings, report).weights, target, base)


def stored(ref: str, settings: Settings) -> Manifest | None:
    """The model of the store by that name, where it has an adapter beside its weights."""
    try:
        manifest = None if parse(ref).scheme == "path" else pull.find(ref, settings).manifest
    except (BadRef, ModelNotFound):
        return None
    roles = {file.role for file in manifest.files} if manifest else set()
    return manifest if "adapter" in roles else None


def write_folder_of(manifest: Manifest, target: Path, base: str | None, settings: Settings) -> None:
    """Write the adapter of a model of the store as the new folder `target`, in peft's form: the
    files that peft has of it as they are, where the model has them.

    Args:
        base: what peft is to call the model it is for; None: as its recipe does.

    Raises:
        UsageError: there is something at `target`, or `base` has other weights.
        And what `to_peft` raises.
    """
    if base:
        other = inputs.model(base, settings).manifest
        if other and other.weights.digest != manifest.weights.digest:
            raise UsageError(
                f"the adapter of {manifest.ref} is for other weights than those of {base}",
                "leave --base out",
            )
    store = Store(settings.home)
    paths = {file.path: store.path(file) for file in manifest.files}
    if {f"peft/{CONFIG}", f"peft/{WEIGHTS}"} <= paths.keys():
        with _new_folder(target) as place:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(paths[f"peft/{name}"], place / name)
        return
    file = next(file for file in manifest.files if file.role == "adapter")
    made = next(iter(inputs.recipes(manifest, store)), None)
    known = next((entry.ref for entry in made.inputs if entry.role == "from"), "") if made else ""
    to_peft(paths[file.path], paths[manifest.weights.path], target, base or known)


# ---- peft to GGUF --------------------------------------------------------------------------


def to_gguf(file: Path, config: Path, base: Path, target: Path) -> None:
    """Write an adapter of peft as the GGUF file `target`, in 32 bits.

    Args:
        file, config: its two files.
        base: the GGUF model it was trained on, or a quantization of that.

    Raises:
        FormatError: not an adapter, or not of this base.
        Unsupported: more than a LoRA of one rank, or a part that llama.cpp has no place for.
    """
    adapter, _ = read(config)
    if not adapter.alpha:
        raise Unsupported("this adapter has an alpha of 0, which changes nothing")
    to = base_of(base)
    pairs = peft_pairs(file, to, adapter.rank)
    from gguf import GGUFWriter

    writer = GGUFWriter(str(target), to.architecture.name)
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        root = math.sqrt(adapter.rank) if adapter.stabilised else 1.0
        writer.add_float32("adapter.lora.alpha", adapter.alpha * root)
        for pair in pairs:
            for half, factor in zip("ab", numbers(pair, "gguf"), strict=True):
                writer.add_tensor(f"{pair.weight.gguf}.lora_{half}", factor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def peft_pairs(file: Path, base: AdapterBase, rank: int | None = None) -> list[FactorPair]:
    """The pairs of an ``adapter_model.safetensors``, in the order of the base's tensors.

    Args:
        rank: of each; None: each has its own.

    Raises:
        FormatError, Unsupported: a tensor that is no part of a pair, or fits no matrix of the base.
    """
    places = {weight.name: weight for weight in base.wanted}
    halves: dict[str, dict[str, Stored]] = {}
    for tensor in safetensors.read(file).tensors:
        if _is_base(tensor.name, tensor.shape, base):
            continue
        name, half = _module(tensor.name, base)
        if name not in places:
            why = "whose output is its embedding" if base.shape.tied else "which has no such"
            raise FormatError(
                f"the adapter changes {shown(tensor.name)} of a model {why}",
                "name the model it was trained on",
            )
        if tensor.type not in weights.PLAIN:
            raise FormatError(f"{shown(tensor.name)} is {tensor.type}, not F32, F16 or BF16")
        half_of = halves.setdefault(name, {})
        if half in half_of:
            raise FormatError(f"the adapter has two halves {half} of {name}")
        half_of[half] = Stored(file, tensor.offset, tensor.type, tensor.shape, "release")
    pairs = []
    for name, weight in places.items():
        if name in halves:
            pairs.append(_pair(weight, halves[name], rank, base))
    if not pairs:
        raise FormatError("the adapter changes nothing: its file holds no tensors")
    return pairs


def _is_base(name: str, shape: tuple[int, ...], base: AdapterBase) -> bool:
    """Whether it is the base's own embedding or output, which peft saves beside their adapters."""
    if not name.endswith(".base_layer.weight"):
        return False
    plain = name.removeprefix(PREFIX).removesuffix(".base_layer.weight") + ".weight"
    wanted = (base.shape.vocabulary, base.shape.width)
    if base.architecture.plain(plain) not in (_EMBEDDING, "lm_head.weight"):
        return False
    if shape != wanted:
        raise FormatError(
            f"the adapter was trained on a model whose {plain} is {shape}, and this one's is "
            f"{wanted}",
            "name the model it was trained on",
        )
    return True


def _module(name: str, base: AdapterBase) -> tuple[str, str]:
    """The weight that a tensor of peft belongs to, and which half it is."""
    module = name.removeprefix(PREFIX)
    for half in "AB":
        for end in (f".lora_{half}.weight", f".lora_embedding_{half}"):
            if module.endswith(end):
                plain = base.architecture.plain(module.removesuffix(end) + ".weight")
                if plain is None or (plain == _EMBEDDING) != ("embedding" in end):
                    break
                return plain, half
    raise Unsupported(
        f"the adapter holds {shown(name)}, and only pairs of lora_A and lora_B are known",
        "give a plain LoRA",
    )


def _pair(
    weight: Weight, halves: Mapping[str, Stored], rank: int | None, base: AdapterBase
) -> FactorPair:
    if len(halves) < 2:
        raise FormatError(f"the adapter has only one half of {weight.name}")
    if len(weight.shape) != 2:
        raise Unsupported(f"the adapter changes {weight.name}, which is no matrix")
    rank = halves["B"].columns if rank is None else rank
    if not 0 < rank <= MAX_RANK:
        raise FormatError(f"the adapter's part of {weight.name} has the rank {rank}")
    rows, columns = weight.shape
    if weight.name == _EMBEDDING:
        rows, columns = columns, rows
        if base.shape.tied:
            raise Unsupported(
                "the adapter changes an embedding that is the output too, and llama.cpp would "
                "apply it to both",
                "merge it with peft",
            )
    for half, wanted in (("A", (rank, columns)), ("B", (rows, rank))):
        if half == "A" and _stands(weight, halves[half], "release"):
            wanted = wanted[::-1]
        if halves[half].shape != wanted:
            raise FormatError(
                f"{half} of {weight.name} is {halves[half].shape} in the adapter, where "
                f"{wanted} fits the model",
                "name the model it was trained on",
            )
    return FactorPair(weight, halves["A"], halves["B"])


def _stands(weight: Weight, stored: Stored, form: weights.Form) -> bool:
    """Whether A stands on its side in one form and not in the other: that of an embedding, which
    is looked up and not multiplied, has a row for each token in GGUF.
    """
    return weight.name == _EMBEDDING and (stored.form == "gguf") != (form == "gguf")


def numbers(pair: FactorPair, form: weights.Form) -> "tuple[Array, Array]":
    """Both halves, float32, with the rows of B in the order of `form`."""
    import numpy as np

    factors = []
    for half, stored, heads in (("A", pair.a, 0), ("B", pair.b, pair.weight.heads)):
        part = Weight(f"{half} of {pair.weight.name}", "", stored.shape, heads)
        blocks = [block for _, block in weights.rows(part, stored, form)]
        factors.append(np.ascontiguousarray(np.concatenate(blocks), np.float32))
    a, b = factors
    return (np.ascontiguousarray(a.T) if _stands(pair.weight, pair.a, form) else a), b


# ---- GGUF to peft --------------------------------------------------------------------------


def to_peft(file: Path, base: Path, folder: Path, base_name: str = "") -> None:
    """Write a GGUF adapter as the new folder `folder`, as peft does, in 32 bits.

    Args:
        base: the GGUF model it is for.
        base_name: what peft is to call that model.

    Raises:
        UsageError: there is something at `folder`.
        FormatError: not an adapter, or not of this base.
        Unsupported: an adapter of several ranks, or one that waits for certain words.
    """
    _refuse_existing(folder)
    to = base_of(base)
    alpha, pairs = _gguf_pairs(file, to, base_name or base.name)
    ranks = {pair.b.shape[1] for pair in pairs}
    if len(ranks) > 1:
        raise Unsupported(f"the adapter has parts of the ranks {min(ranks)} to {max(ranks)}")
    (rank,) = ranks
    plain = float(f"{alpha:.7g}") if alpha else float(rank)
    config = Adapter(rank, plain, _targets(pairs, to.wanted)).config(base_name)
    with _new_folder(folder) as place:
        (place / CONFIG).write_bytes(config)
        _write_peft(pairs, place / WEIGHTS)


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise UsageError(f"{folder} is there already", "name a new folder: --output DIR")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` when it is whole. Raises OutOfDisk, Failure: it cannot be."""
    _refuse_existing(folder)
    place = folder.with_name(f".{folder.name}.{os.getpid()}")
    with writing(folder):
        try:
            place.mkdir(parents=True)
            yield place
            place.rename(folder)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _gguf_pairs(file: Path, to: AdapterBase, base: str) -> tuple[float, list[FactorPair]]:
    adapter = gguf_adapter.read(file, file.name, to.architecture.name, base)
    places = {weight.gguf: weight for weight in to.wanted}
    if unknown := sorted(adapter.pairs.keys() - places.keys()):
        raise FormatError(
            f"the adapter changes {shown(unknown[0])}, which the model has not",
            "name the model it was trained on",
        )
    pairs = []
    for name, weight in places.items():
        if name in adapter.pairs:
            halves = dict(zip("AB", adapter.pairs[name], strict=True))
            pairs.append(_pair(weight, halves, None, to))
    return adapter.alpha, pairs


def _targets(pairs: Sequence[FactorPair], wanted: Sequence[Weight]) -> tuple[str, ...]:
    """Short names where all layers of that name are changed, whole ones else."""
    modules = {pair.weight.name.removesuffix(".weight") for pair in pairs}
    targets = set()
    for module in modules:
        short = module.rpartition(".")[2]
        alike = {
            weight.name.removesuffix(".weight")
            for weight in wanted
            if weight.name.endswith(f"{short}.weight")
        }
        targets.add(short if alike <= modules else module)
    return tuple(sorted(targets))


def _write_peft(pairs: Sequence[FactorPair], path: Path) -> None:
    """Tensors in the order of their names."""
    named: dict[str, tuple[FactorPair, int]] = {}
    for pair in pairs:
        module = PREFIX + pair.weight.name.removesuffix(".weight")
        ends = ("lora_A.weight", "lora_B.weight")
        if pair.weight.name == _EMBEDDING:
            ends = ("lora_embedding_A", "lora_embedding_B")
        named |= {f"{module}.{end}": (pair, half) for half, end in enumerate(ends)}
    shapes = {}
    for name in sorted(named):
        pair, half = named[name]
        shape = (pair.a, pair.b)[half].shape
        turned = not half and _stands(pair.weight, pair.a, "release")
        shapes[name] = shape[::-1] if turned else shape
    with path.open("wb") as file:
        file.write(safetensors_head(shapes, "f32"))
        for name in shapes:
            pair, half = named[name]
            file.write(weights.encoded(numbers(pair, "release")[half], "F32", name))
