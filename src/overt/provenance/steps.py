"""The steps that make an artefact: what each is given, what it gives back, and where it is found.

A step is a pure function of its recipe: inputs by digest, parameters, and the environment the
recipe names. It never looks at a clock, and draws from a generator that the recipe seeds, so that
`make.make` and `replay.replay` run the very same code. To add one: a module with a `STEP`, a line
in `STEPS`, a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from overt.errors import Unsupported
from overt.models.recipe import Recipe
from overt.models.sources.base import FetchProgress as Progress
from overt.models.sources.base import Role
from overt.models.store import Manifest
from overt.settings import Settings

STEPS: Mapping[str, str] = {
    "convert": "overt.lab.convert.step",
    "export": "overt.lab.convert.export",
    "adapter": "overt.lab.convert.adapter",
    "quantize": "overt.lab.quantize",
    "finetune": "overt.lab.finetune",
    "merge": "overt.lab.merge.step",
}
"""The name of a step in a recipe, and the module with its `STEP`."""


@dataclass(frozen=True, slots=True)
class StepInput:
    """One input of a recipe, found on this machine.

    Attributes:
        path: the file; of a model, its weights.
        manifest: of a model; None of a file.
        files: of a model, every file by its path in the manifest.
    """

    path: Path
    manifest: Manifest | None
    files: Mapping[str, Path]

    def weights(self) -> "list[StepOutput]":
        """Of a model: its weights as they are, and what it sees images with."""
        return [
            StepOutput(file.role, file.path, self.files[file.path])
            for file in (self.manifest.files if self.manifest else ())
            if file.role in ("weights", "projector")
        ]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """A file that a step made, with its role and path in the new manifest."""

    role: Role
    path: str
    file: Path


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step runs with.

    Attributes:
        recipe: decides the outcome, with the inputs.
        inputs: in the recipe's order.
        place: a folder of its own. It is kept when the work is interrupted: what lies there is
            what the step goes on from, and it lets nothing of it change the outcome.
        report: progress of something with a length.
        settings: of this machine; nothing in them may change the outcome.
        tell: a line of live news, as a JSON object with a ``kind``; it is kept in
            ``place/events.jsonl`` and shown.
    """

    recipe: Recipe
    inputs: tuple[StepInput, ...]
    place: Path
    report: Callable[[Progress], None]
    settings: Settings
    tell: Callable[[Mapping[str, Any]], None]

    def given(self, role: str) -> list[StepInput]:
        """The inputs of that role."""
        pairs = zip(self.recipe.inputs, self.inputs, strict=True)
        return [source for input, source in pairs if input.role == role]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two makings of one recipe are from each other, by one measure.

    Attributes:
        what: is measured, in words: ``the losses``.
        largest: the difference; infinite where it cannot be told.
        allowed: how much of it another instruction set or version may cause.
        files: the paths of those it is about.
    """

    what: str
    largest: float
    allowed: float
    files: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """A difference that is no number is none that is allowed."""
        return self.largest <= self.allowed


class RecipeStep(Protocol):
    """How one kind of artefact is made."""

    name: str
    version: str
    packages: tuple[str, ...]
    """Whose versions could change the outcome: they are part of the recipe's environment."""
    reports: tuple[str, ...]
    """Files that tell of the others, such as a curve: elsewhere no tolerance is asked of them."""

    def run(self, work: StepContext) -> list[StepOutput]:
        """Make it. Interrupted at any moment, the next `run` with the same `place` goes on."""
        ...

    def tolerance(self, recipe: Recipe) -> float:
        """The largest |difference| of an element, relative to its tensor's largest magnitude, that
        another instruction set or library version may cause; 0 where none may.
        """
        ...


class AgreementJudge(RecipeStep, Protocol):
    """A step that says of some files more than how far their elements may drift."""

    def agreement(
        self, recipe: Recipe, inputs: Sequence[StepInput], files: Mapping[str, tuple[Path, Path]]
    ) -> Sequence[Agreement]:
        """How far files made elsewhere are from those made here; all measures must hold.

        Of the files that an `Agreement` names no tolerance of elements is asked. What differs in
        their form (names, shapes, headers) is different whatever is said here.

        Args:
            inputs: in the recipe's order.
            files: those that differ, by their path in the model: as recorded, and as made here.
                Nothing in them is trusted.
        """
        ...


def judging(step: RecipeStep) -> AgreementJudge | None:
    """The same step, where it judges more than elements."""
    return cast("AgreementJudge", step) if hasattr(step, "agreement") else None


def find(name: str) -> RecipeStep:
    """The step of that name.

    Raises:
        Unsupported: this Overt has none.
    """
    if name not in STEPS:
        raise Unsupported(f"this Overt knows no step {name!r}", f"it knows {', '.join(STEPS)}")
    return cast("RecipeStep", import_module(STEPS[name]).STEP)
