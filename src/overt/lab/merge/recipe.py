"""What a person wants merged becomes a recipe: refs and files are found and named by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overt.errors import FormatError
from overt.formats import gguf
from overt.lab.merge import plan
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import FetchProgress
from overt.nets.adapter import CONFIG, WEIGHTS
from overt.provenance import inputs, run_recipe
from overt.settings import Settings

Report = Callable[[FetchProgress], None]


@dataclass(frozen=True, slots=True)
class MergeParent:
    """Something a merge is made of, and its licence as its manifest states it; None: not stated."""

    ref: str
    role: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A recipe, with the files of it that are no models of the store."""

    recipe: Recipe
    data: Mapping[str, Path]
    parents: tuple[MergeParent, ...]


@dataclass(slots=True)
class _MergeBuilder:
    settings: Settings
    report: Report
    read: list[Input] = field(default_factory=list)
    data: dict[str, Path] = field(default_factory=dict)
    parents: list[MergeParent] = field(default_factory=list)

    def model(self, ref: str, role: str, adapters: Sequence[str] = ()) -> None:
        """Add a model; its own adapter has to be among `adapters`, which are added to its weights.

        Raises:
            FormatError: no GGUF model. ModelNotFound: no model.
            Unsupported: a model with an adapter that would be left out.
        """
        model = inputs.model(ref, self.settings, self.report)
        if ref not in adapters:
            inputs.refuse_adapter(model.manifest, ref)
        header = gguf.read(inputs.gguf_of(model))
        if header.text("general.type") == "adapter":
            raise FormatError(f"{ref} is an adapter", f"--adapter {ref}")
        if model.manifest is None and header.split_count > 1:
            raise FormatError(f"{ref} is cut into several files", f"overt pull {ref}")
        self._add(role, model.digest, ref, model.weights if model.manifest is None else None)
        licence = model.manifest.licence if model.manifest else header.licence
        self.parents.append(MergeParent(ref, role, licence))

    def adapter(self, value: str) -> str:
        """Add an adapter and say its form: ``gguf`` or ``peft``."""
        path = Path(value).expanduser()
        if (path / CONFIG).is_file():
            self._file("adapter", path / WEIGHTS, value)
            self._file("adapter-config", path / CONFIG, "")
            self.parents.append(MergeParent(value, "adapter", None))
            return "peft"
        if path.is_file():
            self._file("adapter", path, value)
            self.parents.append(MergeParent(value, "adapter", gguf.read(path).licence))
            return "gguf"
        model = inputs.model(value, self.settings, self.report)
        if model.parts.get("adapter"):  # the whole model is the input: its history goes on
            self._add("adapter", model.digest, value, None)
        else:
            self._file("adapter", model.weights, value)
        self.parents.append(
            MergeParent(value, "adapter", model.manifest.licence if model.manifest else None)
        )
        return "gguf"

    def _file(self, role: str, path: Path, ref: str) -> None:
        self._add(role, inputs.digest_of(path), ref, path)

    def _add(self, role: str, digest: str, ref: str, path: Path | None) -> None:
        self.read.append(Input(role, digest, "" if _is_path(ref) else ref))
        if path is not None:
            self.data[digest] = path


def models(merge: Mapping[str, Any], settings: Settings, report: Report) -> MergePlan:
    """The recipe of a merge of models, as `plan.checked` gives it.

    Raises:
        ModelNotFound, BadRef: a model that is not to be had.
        FormatError: one that is no GGUF model.
    """
    builder = _MergeBuilder(settings, report)
    if "base" in merge:
        builder.model(merge["base"], "base")
    for model in merge["models"]:
        builder.model(model["ref"], "from")
    return _merge_plan(builder, plan.recipe_parameters(merge))


def adapter_plan(
    base: str, added: Sequence[tuple[str, float]], type: str, settings: Settings, report: Report
) -> MergePlan:
    """The recipe of a model with adapters laid into it; `added` are files, folders or refs, and
    how strongly each.

    Raises:
        ModelNotFound, BadRef, FormatError: as `models`.
    """
    builder = _MergeBuilder(settings, report)
    builder.model(base, "from", [value for value, _ in added])
    forms = [
        {"form": builder.adapter(value), "scale": plan.amount("scale", scale)}
        for value, scale in added
    ]
    return _merge_plan(builder, {"method": "adapter", "adapters": forms, "type": type})


def _merge_plan(builder: _MergeBuilder, parameters: dict[str, Any]) -> MergePlan:
    recipe = run_recipe.recipe("merge", builder.read, parameters, builder.settings)
    return MergePlan(recipe, builder.data, tuple(builder.parents))


def _is_path(ref: str) -> bool:
    return ref.startswith((".", "/", "~")) or Path(ref).expanduser().exists()
