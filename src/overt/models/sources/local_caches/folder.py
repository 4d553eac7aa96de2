"""Any folder of model files, such as one a person keeps: each GGUF file is a model, and so is each
folder that holds a safetensors set.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from overt.errors import OvertError
from overt.models.sources.file_selection import FileChoice, choose, is_pickled, role_of
from overt.models.sources.local_caches.base import (
    ForeignFile,
    ForeignModel,
    UnusableModel,
    files_below,
    name_of,
)
from overt.ref import part_of

_DEPTH = 6


def look(place: Path) -> Iterator[ForeignModel | UnusableModel]:
    """The models at and below `place`."""
    yield from models(place, {"source": "folder"})


def models(place: Path, origin: dict[str, str]) -> Iterator[ForeignModel | UnusableModel]:
    """The models at and below `place`, one folder after the other."""
    for chosen in in_folders(place, _DEPTH, str(place)):
        yield chosen if isinstance(chosen, UnusableModel) else _foreign_model(place, chosen, origin)


def in_folders(top: Path, depth: int, place: str) -> Iterator[FileChoice | UnusableModel]:
    """Every model at and below `top`, by paths relative to it, and what could not be looked at."""
    missed: list[UnusableModel] = []
    folders: dict[str, list[str]] = {}
    for path in files_below(top, depth, missed):
        folders.setdefault(str(PurePosixPath(path).parent), []).append(path)
    for paths in folders.values():
        yield from choices(paths, place)
    yield from missed


def choices(paths: list[str], place: str) -> Iterator[FileChoice | UnusableModel]:
    """Every model among the files of one folder; pickled checkpoints are named as refused."""
    ggufs = [p for p in paths if p.lower().endswith(".gguf") and role_of(p) == "weights"]
    tensors = [p for p in paths if p.lower().endswith(".safetensors") and role_of(p) == "weights"]
    pickled = [p for p in paths if is_pickled(p)]
    taken: set[str] = set()
    for wanted in [*ggufs, *([None] if tensors else []), *pickled]:
        if wanted in taken:
            continue
        among = paths if wanted else [p for p in paths if not p.lower().endswith(".gguf")]
        try:
            chosen = choose(among, wanted, place)
        except OvertError as error:
            yield UnusableModel(wanted or tensors[0], error.message)
        else:
            taken |= set(chosen.weights)
            yield chosen


def _foreign_model(place: Path, chosen: FileChoice, origin: dict[str, str]) -> ForeignModel:
    first = PurePosixPath(chosen.weights[0])
    alone = first.suffix.lower() == ".gguf"
    part = part_of(first.name)
    name = (part.stem if part else first.stem) if alone else (place / first).parent.name
    folder = first.parent
    parts = tuple(
        ForeignFile(role, PurePosixPath(path).relative_to(folder).as_posix(), place / path)
        for role, path in chosen.files
    )
    return ForeignModel(str(first), name_of(name), parts, {**origin, "file": str(first)})
