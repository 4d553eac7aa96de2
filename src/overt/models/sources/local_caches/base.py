"""What a look into another program's folder finds, and what all of them read alike."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overt.errors import BadRef
from overt.models.sources.base import Role
from overt.ref import Ref, parse

MAX_FILES = 100_000  # looked at in one folder; more is not a folder of models
_SMALL = 1 << 20


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """One file of a model.

    Attributes:
        role: what it is for.
        path: its path inside the model.
        file: where it lies; may be a symbolic link.
        sha256: 64 hex, where the program states it.
        git_sha1: 40 hex of the git blob, where the program states that.
    """

    role: Role
    path: str
    file: Path
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model of another program.

    Attributes:
        shown: what that program calls it.
        ref: what it will be called here: where it came from, if the program knows that exactly,
            else a plain name.
        parts: its files, weights first.
        origin: facts about where it came from; no path of this machine.
        licence: as the program's files state it.
        name: a shorter name that is as good, if there is one.
    """

    shown: str
    ref: Ref
    parts: tuple[ForeignFile, ...]
    origin: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    name: Ref | None = None


@dataclass(frozen=True, slots=True)
class UnusableModel:
    """What could not be used; `reason` goes on from `shown` as a sentence: ``it is …``."""

    shown: str
    reason: str


def read_json(path: Path) -> Any:
    """A small JSON file.

    Raises:
        OSError: it cannot be read. ValueError: it is no JSON, or longer than 1 MiB.
    """
    with path.open("rb") as file:
        data = file.read(_SMALL + 1)
    if len(data) > _SMALL:
        raise ValueError("it is longer than 1 MiB")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_text(path: Path) -> str:
    """The beginning of a small text file, "" where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_SMALL).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def files_below(top: Path, depth: int, missed: list[UnusableModel]) -> Iterator[str]:
    """Relative paths of all files, folder by folder; hidden ones and what lies deeper left out.

    Symbolic links to files are given, those to folders are not followed. Folders that cannot be
    read and links to nothing go to `missed`.
    """
    left = MAX_FILES
    waiting = [top]
    while waiting:
        here = waiting.pop()
        inside = here.relative_to(top)
        try:
            paths = sorted(path for path in here.iterdir() if not path.name.startswith("."))
        except OSError as error:
            missed.append(UnusableModel(str(here), f"it cannot be read: {error.strerror or error}"))
            continue
        left -= len(paths)
        if left < 0:
            missed.append(
                UnusableModel(str(here), f"there are more than {MAX_FILES} files in {top}")
            )
            return
        inner = []
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                inner.append(path)
            elif path.is_file():
                yield (inside / path.name).as_posix()
            elif path.is_symlink() and not path.exists():
                missed.append(UnusableModel(str(path), "it is a link to a file that is gone"))
        if len(inside.parts) < depth:
            waiting += reversed(inner)


def name_of(text: str) -> Ref:
    """A plain name as near to `text` as the grammar allows."""
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:120] or "model"
    return Ref("name", word)


def ref_of(text: str) -> Ref | None:
    """The ref `text` writes, or None where the grammar has no such ref."""
    try:
        return parse(text)
    except BadRef:
        return None
