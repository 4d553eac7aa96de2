"""The types a model can be quantized to, and what a finished file really holds of them.

A type's name is a label: llama.cpp gives some tensors a better type, and a tensor whose rows do not
fill the blocks of a type gets another one. What counts is the mix, read from the file.

Source: ``llama_ftype`` of llama.h and src/llama-quant.cpp of llama.cpp (September 2026).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from overt.errors import BadRequest, UsageError
from overt.formats.ggml import TYPES as TENSOR_TYPES
from overt.formats.gguf import GgufHeader

ALL, AUTO = "all", "auto"


@dataclass(frozen=True, slots=True)
class QuantType:
    """One type of file.

    Attributes:
        name: as people type it, such as ``q4_k_m``.
        number: llama.cpp's ``llama_ftype``.
        tensor: the tensor type most weights are meant to get.
        importance: most of its tensors cannot be made without an importance matrix.
    """

    name: str
    number: int
    tensor: str
    importance: bool = False

    @property
    def label(self) -> str:
        return self.name.upper()


_TABLE = """
f32 0 F32; f16 1 F16; bf16 32 BF16; q8_0 7 Q8_0; q6_k 18 Q6_K; q5_1 9 Q5_1; q5_k_m 17 Q5_K;
q5_k_s 16 Q5_K; q5_0 8 Q5_0; q4_1 3 Q4_1; q4_k_m 15 Q4_K; q4_k_s 14 Q4_K; iq4_nl 25 IQ4_NL;
q4_0 2 Q4_0; iq4_xs 30 IQ4_XS; q3_k_l 13 Q3_K; q3_k_m 12 Q3_K; iq3_m 27 IQ3_S; iq3_s 26 IQ3_S;
q3_k_s 11 Q3_K; iq3_xs 22 IQ3_S !; iq3_xxs 23 IQ3_XXS !; q2_k 10 Q2_K; q2_k_s 21 Q2_K !;
iq2_m 29 IQ2_S !; iq2_s 28 IQ2_XS !; iq2_xs 20 IQ2_XS !; iq2_xxs 19 IQ2_XXS !; q2_0 41 Q2_0;
iq1_m 31 IQ1_M !; iq1_s 24 IQ1_S !; tq2_0 37 TQ2_0; tq1_0 36 TQ1_0; q1_0 40 Q1_0;
mxfp4_moe 38 MXFP4; nvfp4 39 NVFP4
"""


def _table() -> dict[str, QuantType]:
    rows = [row.split() for row in _TABLE.replace("\n", " ").split(";")]
    return {row[0]: QuantType(row[0], int(row[1]), row[2], len(row) > 3) for row in rows}


TYPES: Final[Mapping[str, QuantType]] = _table()
"""Every type by name, from most to fewest bits (the mixture of experts types last)."""
OTHER_NAMES: Final = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "mxfp4": "mxfp4_moe"}
"""Names that llama.cpp takes too."""
PLAIN: Final = ("F32", "F16", "BF16")
"""Tensor types that hold numbers as they are."""
NOT_OFFERED: Final = ("f32", "nvfp4")
"""Left out of ``all``: the first is no quantization, the second this llama.cpp cannot write."""


def find(name: str) -> QuantType:
    """The type of that name, in capitals or not.

    Raises:
        UsageError: there is none.
    """
    wanted = name.strip().lower().replace("-", "_")
    type_ = TYPES.get(OTHER_NAMES.get(wanted, wanted))
    if type_ is None:
        raise UsageError(
            f"there is no quantization {name.strip()[:40]!r}", f"it is one of {', '.join(TYPES)}"
        )
    return type_


def chosen(text: str) -> tuple[QuantType, ...]:
    """The types that ``-q`` names: one, several with commas between, or ``all``.

    Raises:
        UsageError: none, one that is not there, or one twice.
    """
    if text.strip().lower() == ALL:
        return tuple(type_ for type_ in TYPES.values() if type_.name not in NOT_OFFERED)
    types = [find(name) for name in text.split(",") if name.strip()]
    if not types:
        raise UsageError("-q names no type", "-q q4_k_m is a start; -q all makes a table")
    if len(set(types)) < len(types):
        raise UsageError("-q names a type twice", "name each once")
    return tuple(types)


def tensor_type(name: str) -> int:
    """llama.cpp's number of a tensor type.

    Raises:
        UsageError: there is none of that name.
    """
    wanted = name.strip().upper()
    for number, kind in TENSOR_TYPES.items():
        if kind.name == wanted and kind.name not in ("I8", "I16", "I32", "I64", "F64"):
            return number
    raise UsageError(
        f"there is no tensor type {name.strip()[:40]!r}", "such as q4_k, q6_k, q8_0, iq4_nl or f16"
    )


def override(text: str) -> tuple[str, str]:
    """A ``PATTERN=TYPE`` of ``--tensor``: tensors whose name the pattern is found in get the type.

    Raises:
        UsageError: no pattern, not a regular expression, or no such type.
    """
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern or len(pattern) > 200:
        raise UsageError(f"{text[:60]!r} is no PATTERN=TYPE", "such as --tensor attn_v=q8_0")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{pattern!r} is no pattern: {error}", "such as ffn_down") from None
    tensor_type(name)
    return pattern, name.strip().lower()


def numbers(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe with llama.cpp's numbers of tensor types, as the host takes them.

    Raises:
        UsageError: one names a tensor type that is not there.
    """
    options: dict[str, Any] = {
        key: None if parameters[key] is None else tensor_type(str(parameters[key]))
        for key in ("output", "embedding")
    }
    for key in ("pure", "keep_output"):
        options[key] = bool(parameters[key])
    options["tensors"] = [
        [str(pattern), tensor_type(str(name))] for pattern, name in parameters["tensors"]
    ]
    return options


def check_options(header: GgufHeader, parameters: Mapping[str, Any]) -> None:
    """Whether the options of a recipe do anything to a model.

    Raises:
        UsageError: one is for a tensor that the model has not.
    """
    names = [tensor.name for tensor in header.tensors if len(tensor.shape) > 1]
    for pattern, _ in parameters.get("tensors", ()):
        if not any(re.search(pattern, name) for name in names):
            raise UsageError(
                f"no matrix of the model has {pattern!r} in its name",
                f"such as {next(iter(names), 'blk.0.attn_v.weight')}",
            )
    if header.tensor("output.weight"):
        return
    shared = "the model has no output matrix of its own: the embedding of tokens is both"
    if parameters.get("keep_output"):
        raise UsageError(shared, "leave --keep-output out, or name an --embedding-type")
    if parameters.get("output") and parameters.get("embedding"):
        raise UsageError(shared, "leave --output-type out")


# ---- what a file holds -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mix:
    """What a file's weights are stored as.

    Attributes:
        bits_per_weight: of all tensors, by their bytes and elements.
        shares: each tensor type's share of the weights, the largest first.
        bytes: of the file, all parts.
    """

    bits_per_weight: float
    shares: Mapping[str, float]
    bytes: int


def mix_of(header: GgufHeader) -> Mix:
    """The mix of a file, from its header."""
    total = header.parameters or 1
    shares = {kind: share.parameters / total for kind, share in header.type_mix().items()}
    ordered = dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
    return Mix(header.bits_per_weight, ordered, header.file_size)


def describe_mix(mix: Mix, most: int = 4) -> str:
    """The mix in words: ``58 % Q5_0, 22 % Q8_0``."""
    parts = [f"{100 * share:.0f} % {kind}" for kind, share in mix.shares.items() if share >= 0.005]
    return ", ".join(parts[:most]) + (", …" if len(parts) > most else "")


def warn_fallbacks(type: QuantType, header: GgufHeader, mix: Mix) -> str:
    """A sentence where a file's label is not what most of its weights are; else ""."""
    own = mix.shares.get(type.tensor, 0.0)
    if own > 0.5:
        return ""
    block = next((kind.block for kind in TENSOR_TYPES.values() if kind.name == type.tensor), 1)
    rows = sorted(
        {
            tensor.shape[0]
            for tensor in header.tensors
            if len(tensor.shape) > 1 and tensor.shape[0] % block
        }
    )
    why = ""
    if rows:
        shown = " and ".join(str(row) for row in rows[:2])
        why = f": rows of {shown} elements do not fill its blocks of {block}"
    return (
        f"{type.label} is the label, and {100 * own:.0f} % of the weights are {type.tensor} "
        f"({describe_mix(mix)}){why}"
    )


def quantized_already(header: GgufHeader) -> tuple[str, ...]:
    """The quantized tensor types of a source, the largest share first; none of a plain one."""
    return tuple(kind for kind in mix_of(header).shares if kind not in PLAIN)


def check(header: GgufHeader) -> None:
    """Whether a file can be quantized at all.

    Raises:
        BadRequest: it has no matrices, or is not a model.
    """
    kind = header.text("general.type") or "model"
    if kind != "model":
        raise BadRequest(f"{header.path.name} is of the kind {kind!r}", "quantize the model itself")
    if not header.architecture or all(len(tensor.shape) < 2 for tensor in header.tensors):
        raise BadRequest(f"{header.path.name} holds no matrix to quantize", "name a whole model")
