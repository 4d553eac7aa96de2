"""A recipe is carried out: its step runs in a folder that survives a kill, its files are stored.

The folder is ``<home>/jobs/<the recipe's digest>`` (jobs.py): the same command after a kill has the
same recipe, finds the same folder, and goes on. Nothing is in the store before all of it is. The
manifest follows from the recipe and from what the step made; when and on what it was made is told
by the receipt alone (receipts.py).
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import IO, Any

from overt.errors import FormatError, IntegrityError, OutOfDisk, Unsupported
from overt.files.atomic import write
from overt.models.modelfile_build import parse_name
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import FetchProgress, Role, sha256_of
from overt.models.store import File, Manifest, Store
from overt.provenance import environment, gguf_keys, inputs, jobs, receipts
from overt.provenance.steps import StepContext, StepInput, StepOutput, find
from overt.ref import Ref
from overt.security.signing import SigningKeys
from overt.settings import Settings

CARRIED_ROLES: tuple[Role, ...] = (
    "licence",
    "card",
    "template",
    "parameters",
    "system",
    "messages",
)
"""Roles of a base's files that what is made of it has too, unless the step makes its own."""

Report = Callable[[FetchProgress], None]
Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made, as the store will list it.

    Attributes:
        manifest: of all files.
        files: digest to file, of those that the step made and the store has not.
        finished: when (ISO 8601, UTC), or "".
    """

    manifest: Manifest
    files: Mapping[str, Path]
    finished: str = ""


def recipe(
    step: str, inputs: Sequence[Input], parameters: Mapping[str, Any], settings: Settings
) -> Recipe:
    """The recipe of a step on this machine: its version, and the versions it depends on.

    Raises:
        Unsupported: there is no such step, or a package that it needs is not installed.
        FormatError: the parameters are no JSON values.
    """
    known = find(step)
    device = str(parameters.get("device", "cpu"))
    recipe_ = Recipe(
        step,
        known.version,
        tuple(inputs),
        dict(parameters),
        environment.current(known, settings, device),
    )
    try:
        return Recipe.decode(recipe_.encode())
    except (TypeError, ValueError) as error:
        raise FormatError(f"the parameters of {step} are no JSON: {error}") from None


def make(
    recipe: Recipe,
    name: str,
    settings: Settings,
    report: Report | None = None,
    tell: Tell | None = None,
    data: Mapping[str, Path] | None = None,
    *,
    again: bool = False,
) -> Manifest:
    """Make the model `name` by `recipe`, or go on making it.

    What is recorded is what ran: the environment of the recipe becomes that of this machine. What
    is made already, with its receipt, only gets the name.

    Args:
        data: files that inputs mean, by digest, that are no models of the store. They are kept in
            ``<home>/data/<digest>`` so that the recipe can be replayed; never in the model.
        again: carry it out also where it was made already.

    Raises:
        BadRef: `name` is no name for a model of one's own.
        Unsupported: this Overt has no such step, or another version of it.
        NotFound: an input is not on this machine; the hint says what to type.
        Busy: another process is making it.
        OutOfDisk: what is there stays, and the same call goes on.
        And whatever the step raises.
    """
    ref = parse_name(name)
    report = report or (lambda _: None)
    recipe = with_current_environment(recipe, settings)
    store = Store(settings.home)
    receipts.need()
    folder = jobs.folder_of(recipe, settings.home)
    if not again and not folder.exists() and (made := finished(recipe, store)):
        report(FetchProgress(f"made already: {made.digest}", 0, None))
        store.name(ref, made)
        return made
    with jobs.locked(folder, settings.home), _disk(settings.home):
        noted = jobs.begin(folder, recipe, str(ref))
        try:
            result = _finished_result(folder, store) or _done(
                recipe, str(ref), folder, settings, report, tell, data or {}
            )
            instructions = environment.instructions(torch=False)
            ran = receipts.StepRun(noted["begun"], result.finished, noted["starts"], instructions)
            keep(result, recipe, ref, ran, settings)
        except Exception:
            if jobs.idle(folder):  # refused before it began: there is nothing to go on from
                jobs.drop(folder)
            raise
        jobs.drop(folder)
    return result.manifest


def keep(
    result: StepResult, recipe: Recipe, ref: Ref, ran: receipts.StepRun, settings: Settings
) -> None:
    """Store what was made, all of it at once, under the name `ref`; then its receipt."""
    Store(settings.home).commit(result.manifest, result.files, [ref])
    receipts.write(result.manifest, set(result.files), recipe, ran, settings)


def with_current_environment(recipe: Recipe, settings: Settings) -> Recipe:
    """The same recipe with the environment of this machine.

    Raises:
        Unsupported: this Overt has no such step, or another version of it.
    """
    step = find(recipe.step)
    if step.version != recipe.version:
        raise Unsupported(
            f"the recipe is for version {recipe.version[:40]!r} of {recipe.step}, and this Overt "
            f"has {step.version!r}",
            "use the Overt that wrote it",
        )
    device = str(recipe.parameters.get("device", "cpu"))
    return replace(recipe, environment=environment.current(step, settings, device))


def finished(recipe: Recipe, store: Store) -> Manifest | None:
    """What this very recipe made here, where it is whole and has the receipt that we signed."""
    for made in made_by(recipe, store):
        data = receipts.of(made.digest, store.home)
        if data is None or not store.whole(made):
            continue
        with suppress(FormatError, IntegrityError):  # damaged: making it again writes it again
            receipts.check(data, made, recipe, SigningKeys(store.home))
            if receipts.is_own(
                data, SigningKeys(store.home)
            ):  # one that was brought in may say anything
                return made
    return None


def made_by(recipe: Recipe, store: Store) -> Iterator[Manifest]:
    """What this very recipe made, by the manifests that can be read."""
    with suppress(OSError):
        for path in sorted((store.home / "manifests").glob("*.json")):
            manifest = inputs.manifest(f"sha256:{path.stem}", store)
            if manifest is None:
                continue
            newest = next((file for file in manifest.files if file.role == "recipe"), None)
            if newest and newest.digest == recipe.digest:
                yield manifest


# ---- the step ------------------------------------------------------------------------------


def run(
    recipe: Recipe,
    sources: Sequence[StepInput],
    place: Path,
    settings: Settings,
    report: Report,
    tell: Tell | None,
) -> list[StepOutput]:
    """Run the step of `recipe` in `place`; what it tells is kept in ``events.jsonl`` there.

    Raises:
        FormatError: it made nothing, or a file is not there.
    """
    with (place / "events.jsonl").open("a", encoding="utf-8") as events:
        telling = _telling(events, tell)
        made = find(recipe.step).run(
            StepContext(recipe, tuple(sources), place, report, settings, telling)
        )
    if not made or not all(output.file.is_file() for output in made):
        raise FormatError(f"the step {recipe.step} did not make its files", "run it again")
    return made


def listed(
    recipe: Recipe, sources: Sequence[StepInput], made: Sequence[StepOutput], ref: str
) -> StepResult:
    """The manifest of what was made, with the recipes and texts of what it was made of.

    It follows from its arguments alone: the same files by the same recipe are the same model.
    """
    stored = {
        path: (source.manifest, name)
        for source in sources
        if source.manifest
        for name, path in source.files.items()
    }
    files: list[File] = []
    outside: dict[str, Path] = {}
    for output in made:
        base, name = stored.get(output.file, (None, ""))
        if base:  # a file of an input, as it is
            old = next(file for file in base.files if file.path == name)
            file = replace(old, role=output.role, path=output.path)
        else:
            file = File(
                output.role,
                output.path,
                f"sha256:{sha256_of(output.file)}",
                output.file.stat().st_size,
            )
            outside[file.digest] = output.file
        _add(files, file)
    own = {file.role for file in files}
    recipe_bytes = recipe.encode()
    _add(files, File("recipe", "recipe.json", recipe.digest, len(recipe_bytes)))
    bases = [source.manifest for source in sources if source.manifest]
    for base in bases:
        for file in base.files:
            if file.role == "recipe":
                _add(files, replace(file, path="recipe.json"))
    for base in bases:
        for file in base.files:
            if file.role in CARRIED_ROLES and file.role not in own:
                _add(files, file)
        own |= {file.role for file in files if file.role not in ("licence", "card")}
    origin = {"source": recipe.step}
    if bases:
        origin["base"] = bases[0].ref
    return StepResult(Manifest(tuple(files), ref, origin, _licence(bases)), outside)


def ready(result: StepResult, recipe: Recipe, folder: Path) -> StepResult:
    """The same with its recipe as a file in `folder`, and everything on the disk to last."""
    recipe_file = folder / "recipe.json"
    write(recipe_file, recipe.encode())
    files = {**result.files, recipe.digest: recipe_file}
    for path in files.values():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return replace(result, files=files, finished=jobs.now())


def _done(
    recipe: Recipe,
    ref: str,
    folder: Path,
    settings: Settings,
    report: Report,
    tell: Tell | None,
    data: Mapping[str, Path],
) -> StepResult:
    """Run the step, and note in the folder that it is done before anything is moved."""
    inputs.keep(data, recipe, settings.home)
    sources = inputs.resolve(recipe, settings)
    made = run(recipe, sources, folder / "work", settings, report, tell)
    result = ready(listed(recipe, sources, made, ref), recipe, folder)
    noted: dict[str, Any] = {
        "manifest": result.manifest.encode().decode(),
        "files": {digest: os.path.relpath(path, folder) for digest, path in result.files.items()},
        "finished": result.finished,
    }
    write(folder / "result.json", json.dumps(noted).encode())
    return result


def _finished_result(folder: Path, store: Store) -> StepResult | None:
    """What a run noted that was killed while its files were moved into the store."""
    try:
        noted = json.loads((folder / "result.json").read_bytes())
        manifest = Manifest.decode(noted["manifest"].encode())
        files = {str(digest): folder / path for digest, path in noted["files"].items()}
        for file in manifest.files:
            if file.digest not in files or not files[file.digest].is_file():
                store.path(file)
            elif f"sha256:{sha256_of(files[file.digest])}" != file.digest:
                raise ValueError(f"{file.path} was damaged")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IntegrityError):
        with suppress(OSError):  # the store was tidied meanwhile: the step makes them again
            (folder / "result.json").unlink()
        return None
    return StepResult(manifest, files, str(noted["finished"]))


def _telling(events: IO[str], tell: Tell | None) -> Tell:
    def telling(event: Mapping[str, Any]) -> None:
        events.write(json.dumps(dict(event), ensure_ascii=False) + "\n")
        events.flush()
        if tell:
            tell(event)

    return telling


def _add(files: list[File], file: File) -> None:
    """List one more file, under a path that is free; the same one for the same role only once."""
    if any((file.role, file.digest) == (other.role, other.digest) for other in files):
        return
    taken = {other.path for other in files}
    path, number = file.path, 1
    while path in taken:
        number += 1
        stem, dot, end = file.path.partition(".")
        path = f"{stem}-{number}{dot}{end}"
    files.append(replace(file, path=path))


def _licence(bases: Sequence[Manifest]) -> str | None:
    """The licence of what is made of all `bases`: None as soon as one of them states none."""
    return gguf_keys.combined([base.licence for base in bases])


@contextmanager
def _disk(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        raise OutOfDisk(
            f"the disk of {home} is full",
            "free some space, and the same command goes on; `overt jobs` shows what is there",
        ) from None
