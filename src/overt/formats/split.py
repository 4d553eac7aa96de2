"""A GGUF model cut into several files, joined logically: nothing is copied or rewritten.

Files are called ``<name>-00001-of-00003.gguf``. Each is a GGUF file of its own with the keys
``split.no`` (from 0), ``split.count`` and ``split.tensors.count`` (of all files); the first holds
the metadata of the model. llama.cpp is given the first and finds the others by their names.

Source: gguf-split and llama-model-loader.cpp of llama.cpp b11549 (``llama_split_prefix``).
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import FormatError
from overt.formats.bounded import shown
from overt.ref import part_of

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader


def files(path: Path) -> tuple[Path, ...]:
    """The files an engine opens when it is given `path`: all parts in order, or `path` alone.

    Only the name is looked at; the parts need not exist.
    """
    part = part_of(path.name)
    if part is None or part.total == 1:
        return (path,)
    return tuple(path.with_name(part.sibling(number)) for number in range(1, part.total + 1))


def join(first: "GgufHeader") -> "GgufHeader":
    """One header for all files of a split model; `first` is the header of its first file.

    In the result `tensors` are those of all files (`GgufTensor.part` says in which, from 0),
    `file_size` and `data_offset` are the sums over the files, and `parts` lists them.

    Raises:
        FormatError: a file is missing, belongs to another model, or the parts do not add up.
    """
    from overt.formats.gguf import read  # which calls this

    count, name = first.split_count, shown(first.path.name)
    part = part_of(first.path.name)
    if part is None or part.total != count or first.number("split.no") != part.number - 1:
        raise FormatError(
            f"{name} is file {(first.number('split.no') or 0) + 1} of {count} of a split model, "
            "and its name does not say so",
            "keep the names the files came with (…-00001-of-…)",
        )
    if part.number != 1:
        raise FormatError(
            f"{name} is file {part.number} of {count} of a split model",
            f"name the first: {part.sibling(1)}",
        )
    paths = files(first.path)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FormatError(
            f"{name} is one of {count} files and {len(missing)} of the others are missing",
            f"put {shown(missing[0])} beside it",
        )
    headers = [first, *(read(path, whole=False) for path in paths[1:])]
    for number, header in enumerate(headers):
        position = (header.number("split.no"), header.split_count)
        if position != (number, count):
            raise FormatError(
                f"{shown(header.path.name)} says it is file {(position[0] or 0) + 1} of "
                f"{position[1]}, "
                f"and its name says {number + 1} of {count}",
                "get the files of this model again",
            )
    return _joined(headers, paths)


def _joined(headers: "list[GgufHeader]", paths: tuple[Path, ...]) -> "GgufHeader":
    first = headers[0]
    tensors = tuple(
        replace(tensor, part=number)
        for number, header in enumerate(headers)
        for tensor in header.tensors
    )
    stated = first.number("split.tensors.count")
    if stated is not None and stated != len(tensors):
        raise FormatError(
            f"the {len(paths)} files of {shown(first.path.name)} hold {len(tensors)} tensors "
            f"where {stated} are stated",
            "get the files of this model again",
        )
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise FormatError(
            f"two files of {shown(first.path.name)} hold the same tensor",
            "get the files of this model again",
        )
    return replace(
        first,
        tensors=tensors,
        data_offset=sum(header.data_offset for header in headers),
        file_size=sum(header.file_size for header in headers),
        parts=paths,
    )
