"""LoRA adapters (Hu et al. 2021), as GGUF files and as the folders that peft writes.

An adapter holds for some matrices W of a model two thin ones, and W becomes
``W + scale * alpha / rank * B @ A``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from overt.errors import FormatError, Unsupported
from overt.formats import safetensors
from overt.lab.merging.methods import low_rank
from overt.lab.merging.weights import Tensors
from overt.nets import architectures
from overt.nets.architectures import Weight

if TYPE_CHECKING:
    import numpy as np

    from overt.lab.steps import Work

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MOST_RANK: Final = 4096
_MOST_CONFIG = 1 << 20
_EMBEDDING = "token_embd.weight"


class Adapter:
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
                    f"{name} is {_by(own.shape[::-1])} in {base.name} and {_by(shape)} in "
                    f"{self.name}",
                    "name the model the adapter was trained on",
                )


class GgufAdapter(Adapter):
    """A file as llama.cpp's convert_lora_to_gguf.py writes it."""

    def __init__(self, path: Path, name: str, scale: float, base: Tensors) -> None:
        """Raises FormatError: not an adapter, or for another architecture."""
        super().__init__(name, scale)
        self._tensors = Tensors(path, name)
        header = self._tensors.header
        kind = header.metadata.get("adapter.type")
        if header.text("general.type") != "adapter" or kind != "lora":
            raise FormatError(f"{name} is no LoRA adapter", "name one with --adapter")
        if header.architecture != base.header.architecture:
            raise FormatError(
                f"{name} is for a {header.architecture} and {base.name} is a "
                f"{base.header.architecture}",
                "name the model the adapter was trained on",
            )
        alpha = header.metadata.get("adapter.lora.alpha", 0.0)
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not math.isfinite(alpha)
        ):
            raise FormatError(f"alpha of {name} is {str(alpha)[:40]}, and no number")
        self._alpha = float(alpha)
        for found in self._tensors.by_name:
            stem, _, end = found.rpartition(".lora_")
            if end not in ("a", "b"):
                raise FormatError(f"{name} holds {found}, which is no part of a LoRA")
            self.shapes[stem] = self._shape(stem)
        self.fits(base)

    def _shape(self, stem: str) -> tuple[int, int]:
        pair = [self._tensors.by_name.get(f"{stem}.lora_{end}") for end in "ab"]
        if not pair[0] or not pair[1]:
            raise FormatError(f"{self.name} has only one half of {stem}")
        (a_inner, *a_outer), (b_inner, *b_outer) = pair[0].shape, pair[1].shape
        if len(a_outer) != 1 or len(b_outer) != 1:
            raise FormatError(f"{stem} of {self.name} is no pair of matrices")
        if stem == _EMBEDDING:  # A has a row for each token there
            rank, shape = a_inner, (a_outer[0], b_outer[0])
        else:
            rank, shape = a_outer[0], (b_outer[0], a_inner)
        if rank != b_inner or rank > MOST_RANK:
            raise FormatError(
                f"the halves of {stem} in {self.name} have ranks {rank} and {b_inner}"
            )
        return shape

    def delta(self, name: str) -> "np.ndarray[Any, Any]":
        a = self._tensors.read(f"{name}.lora_a")
        b = self._tensors.read(f"{name}.lora_b")
        scale = self.scale * (self._alpha / b.shape[1] if self._alpha else 1.0)
        # The embedding is looked up and not multiplied: its two halves stand the other way round.
        return low_rank(b.T, a, scale) if name == _EMBEDDING else low_rank(a, b, scale)


class PeftAdapter(Adapter):
    """`adapter_model.safetensors` with its `adapter_config.json`."""

    def __init__(self, path: Path, config: Path, name: str, scale: float, base: Tensors) -> None:
        """Raises FormatError, Unsupported: not a LoRA, or one with parts that cannot be laid in."""
        super().__init__(name, scale)
        self._config = _config(config, name)
        self._header = safetensors.read(path)
        self._halves: dict[str, dict[str, safetensors.TensorInfo]] = {}
        self._modules: dict[str, str] = {}
        self._weights = _names(base)
        for tensor in self._header.tensors:
            self._add(tensor)
        for name_, halves in self._halves.items():
            self.shapes[name_] = self._shape(name_, halves)
        self.fits(base)

    def _add(self, tensor: safetensors.TensorInfo) -> None:
        stem = tensor.name.removeprefix("base_model.model.")
        for half in ("lora_A", "lora_B"):
            if stem.endswith(f".{half}.weight"):
                module = stem.removesuffix(f".{half}.weight")
                weight = self._weights.get(f"{module}.weight")
                if weight is None:
                    raise FormatError(
                        f"{self.name} changes {module}, which the model has not",
                        "name the model the adapter was trained on",
                    )
                self._halves.setdefault(weight.gguf, {})[half] = tensor
                self._modules[weight.gguf] = module
                return
        raise Unsupported(
            f"{self.name} holds {tensor.name}, and only pairs of lora_A and lora_B can be laid in"
        )

    def _shape(self, name: str, halves: Mapping[str, safetensors.TensorInfo]) -> tuple[int, int]:
        if len(halves) < 2:
            raise FormatError(f"{self.name} has only one half of {self._modules[name]}")
        a, b = halves["lora_A"].shape, halves["lora_B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] > MOST_RANK:
            raise FormatError(
                f"the halves of {self._modules[name]} in {self.name} are {_by(a)} and {_by(b)}"
            )
        return b[0], a[1]

    def delta(self, name: str) -> "np.ndarray[Any, Any]":
        halves = self._halves[name]
        a, b = (self._read(halves[half]) for half in ("lora_A", "lora_B"))
        found = low_rank(a, b, self.scale * self._strength(self._modules[name], a.shape[0]))
        return _rows(self._weights[f"{self._modules[name]}.weight"], found)

    def _strength(self, module: str, rank: int) -> float:
        config = self._config
        alpha = _pattern(config.get("alpha_pattern"), module)
        if alpha is None:
            alpha = config["lora_alpha"]
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def _read(self, tensor: safetensors.TensorInfo) -> "np.ndarray[Any, Any]":
        import numpy as np

        data = np.memmap(self._header.path, np.uint8, "r", tensor.offset, (tensor.size,))
        if tensor.type == "F32":
            found = data.view("<f4").astype(np.float32)
        elif tensor.type == "F16":
            found = data.view("<f2").astype(np.float32)
        elif tensor.type == "BF16":
            found = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            raise FormatError(
                f"{tensor.name} of {self.name} is {tensor.type}, not F32, F16 or BF16"
            )
        if not np.isfinite(found).all():
            raise FormatError(f"{tensor.name} of {self.name} holds NaN or infinity")
        return np.ascontiguousarray(found).reshape(tensor.shape)


def read(work: "Work", base: Tensors) -> list[Adapter]:
    """The adapters of a recipe: an ``adapter`` input each, and after one of peft its
    ``adapter-config``.

    Raises:
        FormatError, Unsupported: one that cannot be laid into `base`.
    """
    files, configs = work.given("adapter"), iter(work.given("adapter-config"))
    asked = [one for one in work.recipe.inputs if one.role == "adapter"]
    found: list[Adapter] = []
    for file, input, one in zip(files, asked, work.recipe.parameters["adapters"], strict=True):
        name = input.ref or "the adapter"
        if one["form"] == "peft":
            config = next(configs).path
            found.append(PeftAdapter(file.path, config, name, one["scale"], base))
        else:
            found.append(GgufAdapter(file.path, name, one["scale"], base))
    return found


# ---- what peft writes ----------------------------------------------------------------------


def _config(path: Path, name: str) -> dict[str, Any]:
    """Raises FormatError, Unsupported: not the configuration of a LoRA that can be laid in."""
    with path.open("rb") as file:
        data = file.read(_MOST_CONFIG + 1)
    try:
        found = json.loads(data) if len(data) <= _MOST_CONFIG else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FormatError(f"{CONFIG} of {name} is no JSON object", "it is what peft wrote")
    if found.get("peft_type") != "LORA":
        raise Unsupported(f"{name} is {str(found.get('peft_type'))[:40]}, and LORA can be laid in")
    for key in ("use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias", "use_qalora"):
        if found.get(key):
            raise Unsupported(
                f"{name} has {key}, which cannot be laid in here", "merge it with peft"
            )
    if found.get("bias", "none") != "none":
        raise Unsupported(f"{name} has trained biases, which cannot be laid in here")
    for value in (found.get("lora_alpha"), *_values(found.get("alpha_pattern"))):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise FormatError(f"lora_alpha of {name} is {str(value)[:40]}, and no number")
    return found


def _values(found: object) -> list[object]:
    return list(found.values()) if isinstance(found, dict) else []


def _pattern(found: object, module: str) -> float | None:
    """Of peft's ``alpha_pattern``: the first key that is the end of the module's name.

    Its keys may be regular expressions; those are refused and not run.
    """
    if not isinstance(found, dict):
        return None
    for key, value in found.items():
        if not all(letter.isalnum() or letter in "._^" for letter in str(key)):
            raise Unsupported(
                f"alpha_pattern has the expression {str(key)[:60]!r}", "merge it with peft"
            )
        plain = str(key).removeprefix("^")
        if module == plain or (module.endswith(f".{plain}") and plain == key):
            return float(value)
    return None


def _names(base: Tensors) -> dict[str, Weight]:
    """The tensors of a GGUF model by transformers' names.

    Raises:
        Unsupported: an architecture whose names are not known here.
    """
    try:
        known = architectures.of_gguf(base.header)
    except Unsupported as error:
        raise Unsupported(
            error.message, "give the adapter as GGUF, or merge it with peft"
        ) from None
    return {one.name: one for one in known.weights(architectures.shape_of_gguf(base.header))}


def _rows(weight: Weight, found: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A matrix of transformers with its rows as GGUF has them."""
    if not weight.heads:
        return found
    # llama.cpp turns neighbours against each other here, transformers the halves of a head.
    halves = found.reshape(weight.heads, 2, -1, found.shape[1])
    return halves.swapaxes(1, 2).reshape(found.shape)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
