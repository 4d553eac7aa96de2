"""The architectures, one a file: found by what a config.json or a GGUF header says it is.

To add one: a file with `ARCHITECTURES`, its name in `_FILES`, a line in the tests' table.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from overt.errors import FormatError, Unsupported
from overt.formats import gguf
from overt.formats.bounded import shown
from overt.nets.architectures import ropes
from overt.nets.architectures.base import Architecture, Weight, sees_images
from overt.nets.shape import Shape

__all__ = [
    "Architecture",
    "Weight",
    "by_class",
    "known",
    "of_config",
    "of_gguf",
    "of_shape",
    "sees_images",
    "shape_of_gguf",
]

_FILES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo", "olmo2")
ROPE_FREQS = "rope_freqs.weight"
"""The tensor by which GGUF says llama3 scaling."""


@cache
def known() -> tuple[Architecture, ...]:
    """All of them."""
    return tuple(
        architecture
        for file in _FILES
        for architecture in import_module(f"overt.nets.architectures.{file}").ARCHITECTURES
    )


@cache
def by_class() -> Mapping[str, Architecture]:
    """By a name in config.json's ``architectures``."""
    return {
        name: architecture
        for architecture in known()
        for name in (architecture.release, *architecture.classes)
    }


def of_config(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a config.json.

    Raises:
        FormatError: it does not say.
        Unsupported: one that is not known.
    """
    class_names = config.get("architectures")
    names = (
        [name_ for name_ in class_names if isinstance(name_, str)]
        if isinstance(class_names, list)
        else []
    )
    if not names:
        raise FormatError("config.json does not say which architecture it is of")
    architecture = next((by_class()[name] for name in names if name in by_class()), None)
    if architecture is None:
        raise Unsupported(
            f"this is a {shown(names[0])}, which is not known here",
            f"known are {', '.join(by_class())}",
        )
    return architecture


def of_gguf(header: gguf.GgufHeader) -> Architecture:
    """The architecture of a GGUF file; of two that share its name, the one with the window.

    Raises:
        Unsupported: one that is not known.
    """
    name = header.architecture
    matches = [architecture for architecture in known() if architecture.name == name]
    if not matches:
        raise Unsupported(
            f"this is a model of the architecture {shown(name)}, which is not known here",
            f"known are {', '.join(dict.fromkeys(architecture.name for architecture in known()))}",
        )
    return matches[-1 if header.metadata.get(f"{name}.attention.sliding_window") else 0]


def of_shape(shape: Shape) -> Architecture:
    """The architecture of a shape; of two that share its name, the later one has the window."""
    matches = [architecture for architecture in known() if architecture.name == shape.architecture]
    return matches[-1 if shape.window else 0]


def shape_of_gguf(header: gguf.GgufHeader) -> Shape:
    """What a GGUF file's metadata and its table of tensors say.

    Raises:
        FormatError, Unsupported: as `Architecture.shape_of_metadata`.
    """
    shape = of_gguf(header).shape_of_metadata(header.metadata)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    embedding = shapes.get("token_embd.weight", ())
    if len(embedding) == 2 and embedding[0] == shape.width:
        shape = replace(shape, vocabulary=embedding[1])
    return replace(shape, tied="output.weight" not in shapes)


def with_divisors(shape: Shape, factors: tuple[float, ...]) -> Shape:
    """The shape of a model whose GGUF file holds `ROPE_FREQS`."""
    if all(abs(factor - 1) < 1e-6 for factor in factors):
        return shape
    if shape.rope.scaling:
        raise Unsupported("two kinds of rope scaling in one model are not known")
    return replace(shape, rope=ropes.of_divisors(shape.rope.base, shape.head, factors))
