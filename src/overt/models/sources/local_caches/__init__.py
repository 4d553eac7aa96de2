"""Where other programs keep their models on this machine. One module a program.

A program's module has two functions::

    def places(environ: Mapping[str, str]) -> list[Path]  # folders it may use, there or not
    def look(place: Path) -> Iterator[Found | Skipped]    # what is in one of them

`look` reads names and small files only, changes nothing, and hashes nothing. What it cannot use it
yields as `UnusableModel` with the reason, so that nobody has to wonder where a model went.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from overt.models.sources.local_caches.base import ForeignFile, ForeignModel, UnusableModel

__all__ = [
    "PROGRAMS",
    "ForeignFile",
    "ForeignModel",
    "ForeignPlace",
    "UnusableModel",
    "any_folder",
    "places",
]

PROGRAMS: dict[str, tuple[str, str]] = {
    "ollama": ("Ollama", "overt.models.sources.local_caches.ollama"),
    "lmstudio": ("LM Studio", "overt.models.sources.local_caches.lmstudio"),
    "huggingface": ("the Hugging Face cache", "overt.models.sources.local_caches.huggingface"),
    "gpt4all": ("GPT4All", "overt.models.sources.local_caches.gpt4all"),
}
"""What to type, and the name for people with the module."""


@dataclass(frozen=True, slots=True)
class ForeignPlace:
    """A folder that is there: `key` is what to give `overt adopt`, `program` is for people."""

    key: str
    program: str
    path: Path
    module: str

    def look(self) -> Iterator[ForeignModel | UnusableModel]:
        """What is in it; an unreadable folder is one more `UnusableModel`."""
        try:
            yield from import_module(self.module).look(self.path)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}"
            yield UnusableModel(str(error.filename or self.path), reason)


def places(key: str, environ: Mapping[str, str]) -> list[ForeignPlace]:
    """The folders of a program that are there, each once; KeyError for an unknown one."""
    program, module = PROGRAMS[key]
    by_path: dict[Path, ForeignPlace] = {}
    for path in import_module(module).places(environ):
        try:
            there = path.is_dir()
        except OSError:  # not ours to look into: `look` says so
            there = True
        if there:
            by_path.setdefault(path.resolve(), ForeignPlace(key, program, path, module))
    return list(by_path.values())


def any_folder(path: Path) -> ForeignPlace:
    """Any folder of model files."""
    return ForeignPlace(str(path), str(path), path, "overt.models.sources.local_caches.folder")
