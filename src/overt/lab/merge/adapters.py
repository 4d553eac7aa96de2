"""LoRA adapters (Hu et al. 2021), as GGUF files and as the folders that peft writes.

An adapter holds for some matrices W of a model two thin ones, and W becomes
``W + scale * alpha / rank * B @ A``.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import FormatError, Unsupported
from overt.lab.convert import gguf_adapter
from overt.lab.convert.adapter import AdapterBase, base_of, numbers, peft_pairs
from overt.lab.merge.methods import low_rank
from overt.lab.merge.weights import Tensors, by
from overt.nets import adapter as peft
from overt.nets.adapter import MAX_RANK

if TYPE_CHECKING:
    import numpy as np

    from overt.provenance.steps import StepContext, StepInput

_EMBEDDING = "token_embd.weight"


class AdapterDelta:
    """What one adapter adds to the tensors of a GGUF model."""

    def __init__(self, name: str, scale: float) -> None:
        self.name, self.scale = name, scale
        self.shapes: dict[str, tuple[int, ...]] = {}

    def has(self, name: str) -> bool:
        return name in self.shapes

    def delta(self, name: str) -> "np.ndarray[Any, Any]":
        """What is added to the tensor, in its shape, rows first."""
        raise NotImplementedError

    def fits(self, base: Tensors) -> None:
        """Raises FormatError: a tensor that the base has not, or in another shape."""
        if not self.shapes:
            raise FormatError(f"{self.name} changes no tensor")
        for name, shape in self.shapes.items():
            own = base.by_name.get(name)
            if own is None:
                raise FormatError(
                    f"{self.name} changes {name}, which {base.name} has not",
                    "name the model the adapter was trained on",
                )
            if own.shape[::-1] != shape:
                raise FormatError(
                    f"{name} is {by(own.shape[::-1])} in {base.name} and {by(shape)} in "
                    f"{self.name}",
                    "name the model the adapter was trained on",
                )


class GgufAdapter(AdapterDelta):
    """A file as llama.cpp's convert_lora_to_gguf.py writes it."""

    def __init__(self, path: Path, name: str, scale: float, base: Tensors) -> None:
        """Raises FormatError, Unsupported: as `gguf_adapter.read`, or it does not fit `base`."""
        super().__init__(name, scale)
        adapter = gguf_adapter.read(path, name, base.header.architecture, base.name)
        self._tensors, self._alpha = Tensors(path, name), adapter.alpha
        for stem, (a, b) in adapter.pairs.items():
            self.shapes[stem] = self._shape(stem, a.shape, b.shape)
        self.fits(base)

    def _shape(self, stem: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int]:
        rank, columns = a
        shape = (b[0], columns)
        if stem == _EMBEDDING:  # A has a row for each token there
            rank, shape = columns, (rank, b[0])
        if rank != b[1] or rank > MAX_RANK:
            raise FormatError(f"the halves of {stem} in {self.name} have ranks {rank} and {b[1]}")
        return shape

    def delta(self, name: str) -> "np.ndarray[Any, Any]":
        a = self._tensors.read(f"{name}.lora_a")
        b = self._tensors.read(f"{name}.lora_b")
        scale = self.scale * (self._alpha / b.shape[1] if self._alpha else 1.0)
        return _product(name, a, b, scale)


class PeftAdapter(AdapterDelta):
    """`adapter_model.safetensors` with its `adapter_config.json`."""

    def __init__(self, path: Path, config: Path, name: str, scale: float, base: Tensors) -> None:
        """Raises FormatError, Unsupported: not a LoRA, or one with parts that cannot be laid in."""
        super().__init__(name, scale)
        try:
            self._config, self._alphas = peft.read(config, patterns=True)
            pairs = peft_pairs(path, _base(base))
        except (FormatError, Unsupported) as error:
            raise type(error)(f"{name}: {error.message}", error.hint) from None
        self._pairs = {pair.weight.gguf: pair for pair in pairs}
        self.shapes = {name_: pair.weight.shape for name_, pair in self._pairs.items()}
        self.fits(base)

    def delta(self, name: str) -> "np.ndarray[Any, Any]":
        pair = self._pairs[name]
        a, b = numbers(pair, "gguf")
        rank = b.shape[1]
        module = pair.weight.name.removesuffix(".weight")
        own = replace(self._config, rank=rank, alpha=self._alpha(module))
        return _product(name, a, b, self.scale * own.scale)

    def _alpha(self, module: str) -> float:
        """By the first key of the pattern that ends the module's name, else that of all layers."""
        for key, value in self._alphas.items():
            plain = key.removeprefix("^")
            if module == plain or (module.endswith(f".{plain}") and plain == key):
                return value
        return self._config.alpha


def _product(
    name: str, a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]", scale: float
) -> "np.ndarray[Any, Any]":
    """The embedding is looked up and not multiplied: its two halves stand the other way round."""
    return low_rank(b.T, a, scale) if name == _EMBEDDING else low_rank(a, b, scale)


def _base(base: Tensors) -> AdapterBase:
    """Raises Unsupported: an architecture whose names are not known here."""
    try:
        return base_of(base.header.path)
    except Unsupported as error:
        raise Unsupported(
            error.message, "give the adapter as GGUF, or merge it with peft"
        ) from None


def read(work: "StepContext", base: Tensors) -> list[AdapterDelta]:
    """The adapters of a recipe: an ``adapter`` input each, and after one of peft its
    ``adapter-config``.

    Raises:
        FormatError, Unsupported: one that cannot be laid into `base`.
    """
    files, configs = work.given("adapter"), iter(work.given("adapter-config"))
    entries = [entry for entry in work.recipe.inputs if entry.role == "adapter"]
    adapters: list[AdapterDelta] = []
    for file, input, entry in zip(files, entries, work.recipe.parameters["adapters"], strict=True):
        name = input.ref or "the adapter"
        if entry["form"] == "peft":
            config = next(configs).path
            adapters.append(PeftAdapter(file.path, config, name, entry["scale"], base))
        else:
            adapters.append(GgufAdapter(_file(file), name, entry["scale"], base))
    return adapters


def _file(source: "StepInput") -> Path:
    """The adapter's own file; of a model of the store, the one beside its weights."""
    listed = source.manifest.files if source.manifest else ()
    return next((source.files[file.path] for file in listed if file.role == "adapter"), source.path)
