"""The tensors of a subject, in whichever format they lie, each with where its bytes are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overt.openness.subject.subject import MAX_HEADERS
from overt.ref import part_of

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader as GgufHeader
    from overt.openness.subject.subject import Subject


@dataclass(frozen=True, slots=True)
class LocatedTensor:
    """One tensor. `shape` is row-major, `offset` counts from the start of `path`."""

    name: str
    shape: tuple[int, ...]
    type: str
    path: Path
    offset: int
    size: int
    file: str

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Weights:
    """The tensors of one model.

    Attributes:
        format: which names they go by.
        name: the (first) file.
        files: all files that are here, by their name in the subject.
        tensors: by name; of two of one name the first, the others in `twice`.
        header: of the (first) GGUF file.
        lacking: files that belong to it and are not here.
        headers_only: of some file only the header is here, and its numbers read as zeros.
    """

    format: Literal["gguf", "safetensors"]
    name: str
    files: tuple[str, ...]
    tensors: Mapping[str, LocatedTensor]
    header: "GgufHeader | None" = None
    lacking: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    headers_only: bool = False

    @property
    def parameters(self) -> int:
        return sum(tensor.parameters for tensor in self.tensors.values())


def of(subject: "Subject") -> tuple[Weights, ...]:
    """Every model among the files: each GGUF (all its parts as one), then the safetensors."""
    all_weights: tuple[Weights, ...] | None = subject.kept.get("tensors")
    if all_weights is None:
        sparse = {file.name for file in subject.files if file.sparse}
        all_weights = tuple(
            replace(weights, headers_only=not sparse.isdisjoint(weights.files))
            for weights in (*_ggufs(subject), *_safetensors(subject))
        )
        subject.kept["tensors"] = all_weights
    return all_weights


def _ggufs(subject: "Subject") -> list[Weights]:
    groups: dict[str, list[str]] = {}
    for name, header in subject.gguf.items():
        kind = header.text("general.type") or "model"
        part = part_of(name.rpartition("/")[2])
        first = part is None or part.total == 1 or part.number == 1
        # Later parts of a split model have no metadata but the split's own.
        if first and (kind != "model" or header.architecture in ("", "clip")):
            continue
        folder = name.rpartition("/")[0]
        key = name if part is None else f"{folder}/{part.sibling(1)}".lstrip("/")
        groups.setdefault(key, []).append(name)
    return [_gguf(subject, key, sorted(names)) for key, names in sorted(groups.items())]


def _gguf(subject: "Subject", key: str, names: list[str]) -> Weights:
    part = part_of(key.rpartition("/")[2])
    folder = key.rpartition("/")[0]
    wanted = [key]
    if part is not None:
        siblings = (part.sibling(number) for number in range(1, min(part.total, 10_000) + 1))
        wanted = [f"{folder}/{name}".lstrip("/") for name in siblings]
    located: list[LocatedTensor] = []
    for name in names:
        header = subject.gguf[name]
        located += [
            LocatedTensor(t.name, t.shape[::-1], t.type, header.path, t.offset, t.size, name)
            for t in header.tensors
        ]
    tensors, twice = _unique(located)
    lacking = tuple(name for name in wanted if name not in names)
    first = subject.gguf.get(key)
    return Weights("gguf", key, tuple(names), tensors, first, lacking, twice)


def _safetensors(subject: "Subject") -> list[Weights]:
    headers = {
        name: header
        for name, header in subject.safetensors.items()
        if not name.startswith(("adapter", "consolidated", "optimizer"))
    }
    index = index_of(subject)
    lacking: tuple[str, ...] = ()
    if index:
        named = sorted(set(index.values()))
        lacking = tuple(name for name in named if name not in headers)
        if any(name in headers for name in named):
            headers = {name: headers[name] for name in named if name in headers}
    elif headers:
        lacking = tuple(
            file.name
            for file in subject.files
            if file.suffix == ".safetensors"
            and file.path is None
            and "/" not in file.name
            and not file.name.startswith(("adapter", "consolidated", "optimizer"))
        )
    if not headers:
        return []
    located = [
        LocatedTensor(t.name, t.shape, t.type, header.path, t.offset, t.size, name)
        for name, header in sorted(headers.items())
        for t in header.tensors
    ]
    tensors, twice = _unique(located)
    names = tuple(sorted(headers))
    return [Weights("safetensors", names[0], names, tensors, None, lacking, twice)]


def index_of(subject: "Subject") -> Mapping[str, str] | None:
    """``weight_map`` of the index; None where there is none, or one that cannot be read."""
    if "index" not in subject.kept:
        content = subject.json(INDEX, MAX_HEADERS) if subject.file(INDEX) else None
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        files_by_tensor = weight_map if isinstance(weight_map, dict) and weight_map else None
        subject.kept["index"] = files_by_tensor and {
            name: file for name, file in files_by_tensor.items() if isinstance(file, str)
        }
    index: Mapping[str, str] | None = subject.kept["index"]
    return index


INDEX = "model.safetensors.index.json"


def _unique(located: list[LocatedTensor]) -> tuple[dict[str, LocatedTensor], tuple[str, ...]]:
    tensors: dict[str, LocatedTensor] = {}
    twice = []
    for tensor in located:
        if tensor.name in tensors:
            twice.append(tensor.name)
        else:
            tensors[tensor.name] = tensor
    return tensors, tuple(twice)
