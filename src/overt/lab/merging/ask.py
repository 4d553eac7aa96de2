"""What a person wants merged becomes a recipe: refs and files are found and named by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overt import pull
from overt.errors import FormatError, ModelNotFound
from overt.formats import gguf
from overt.lab import inputs, make
from overt.lab.merging import adapters, plan
from overt.recipe import Input, Recipe
from overt.settings import Settings
from overt.sources.base import Step

Report = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Parent:
    """Something a merge is made of, and its licence as its manifest states it; None: not stated."""

    ref: str
    role: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A recipe, with the files of it that are no models of the store."""

    recipe: Recipe
    data: Mapping[str, Path]
    parents: tuple[Parent, ...]


@dataclass(slots=True)
class _Found:
    settings: Settings
    report: Report
    inputs: list[Input] = field(default_factory=list)
    data: dict[str, Path] = field(default_factory=dict)
    parents: list[Parent] = field(default_factory=list)

    def model(self, ref: str, role: str) -> None:
        """Raises FormatError: no GGUF model; ModelNotFound: no model."""
        model = _model(ref, self.settings, self.report)
        header = gguf.read(_weights(ref, model))
        if header.text("general.type") == "adapter":
            raise FormatError(f"{ref} is an adapter", f"--adapter {ref}")
        if model.manifest is None and header.split_count > 1:
            raise FormatError(f"{ref} is cut into several files", f"overt pull {ref}")
        self._add(role, model.digest, ref, model.weights if model.manifest is None else None)
        licence = model.manifest.licence if model.manifest else header.licence
        self.parents.append(Parent(ref, role, licence))

    def adapter(self, value: str) -> str:
        """Add an adapter and say its form: ``gguf`` or ``peft``."""
        path = Path(value).expanduser()
        if (path / adapters.CONFIG).is_file():
            self._file("adapter", path / adapters.WEIGHTS, value)
            self._file("adapter-config", path / adapters.CONFIG, "")
            self.parents.append(Parent(value, "adapter", None))
            return "peft"
        if path.is_file():
            self._file("adapter", path, value)
            self.parents.append(Parent(value, "adapter", gguf.read(path).licence))
            return "gguf"
        model = _model(value, self.settings, self.report)
        file = next(iter(model.parts.get("adapter", ())), model.weights)
        self._file("adapter", file, value)
        self.parents.append(
            Parent(value, "adapter", model.manifest.licence if model.manifest else None)
        )
        return "gguf"

    def _file(self, role: str, path: Path, ref: str) -> None:
        self._add(role, inputs.digest_of(path), ref, path)

    def _add(self, role: str, digest: str, ref: str, path: Path | None) -> None:
        self.inputs.append(Input(role, digest, "" if _is_path(ref) else ref))
        if path is not None:
            self.data[digest] = path


def models(merge: Mapping[str, Any], settings: Settings, report: Report) -> Asked:
    """The recipe of a merge of models, as `plan.checked` gives it.

    Raises:
        ModelNotFound, BadRef: a model that is not to be had.
        FormatError: one that is no GGUF model.
    """
    found = _Found(settings, report)
    if "base" in merge:
        found.model(merge["base"], "base")
    for one in merge["models"]:
        found.model(one["ref"], "from")
    return _asked(found, plan.recipe_parameters(merge))


def laid(
    base: str, added: Sequence[tuple[str, float]], type: str, settings: Settings, report: Report
) -> Asked:
    """The recipe of a model with adapters laid into it; `added` are files, folders or refs, and
    how strongly each.

    Raises:
        ModelNotFound, BadRef, FormatError: as `models`.
    """
    found = _Found(settings, report)
    found.model(base, "from")
    forms = [
        {"form": found.adapter(value), "scale": plan.amount("scale", scale)}
        for value, scale in added
    ]
    return _asked(found, {"method": "adapter", "adapters": forms, "type": type})


def _asked(found: _Found, parameters: dict[str, Any]) -> Asked:
    recipe = make.recipe("merge", found.inputs, parameters, found.settings)
    return Asked(recipe, found.data, tuple(found.parents))


def _model(ref: str, settings: Settings, report: Report) -> pull.Model:
    try:
        return pull.find(ref, settings)
    except ModelNotFound:
        pull.pull(ref, settings, report)
        return pull.find(ref, settings)


def _weights(ref: str, model: pull.Model) -> Path:
    name = model.manifest.weights.path if model.manifest else model.weights.name
    if name.endswith(".safetensors"):
        raise FormatError(
            f"{ref} is safetensors, and GGUF models are merged", f"overt convert {ref} NAME"
        )
    return model.weights


def _is_path(ref: str) -> bool:
    return ref.startswith((".", "/", "~")) or Path(ref).expanduser().exists()
