"""A recipe is carried out again, and what comes out is compared with what came out then.

On the same instruction set and versions every byte must be the same. Elsewhere a step states how
far its numbers may drift (`RecipeStep.tolerance`), and the largest difference is measured
against that; of some files it may say more (`AgreementJudge.agreement`), and then all it says must
hold.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

from overt.errors import BadRef, FormatError, NotFound, OvertError
from overt.models import pull
from overt.models.modelfile_build import parse_name
from overt.models.recipe import MAX_BYTES, Recipe
from overt.models.sources.base import FetchProgress, sha256_of
from overt.models.store import File, Manifest, Store
from overt.provenance import diff, environment, inputs, jobs, receipts, run_recipe
from overt.provenance.steps import Agreement, StepInput, find, judging
from overt.ref import parse
from overt.security.signing import SigningKeys
from overt.settings import Settings

Verdict = Literal["identical", "within_tolerance", "different"]
_MAX_BYTES = max(MAX_BYTES, receipts.MAX_BYTES)
_ELEMENT = "an element, relative to the largest of its tensor"
_WORST: tuple[Verdict, ...] = ("different", "within_tolerance", "identical")


@dataclass(frozen=True, slots=True)
class ReplayTarget:
    """What is to be repeated.

    Attributes:
        name: as it was asked for.
        recipe: how it was made.
        manifest: what came of it, where that is known here.
        subjects: 64 hex of each file by its path, where only a receipt tells; else empty.
        receipt: the state of its receipt's signature.
        signers: the keys that the receipt names.
    """

    name: str
    recipe: Recipe
    manifest: Manifest | None = None
    subjects: Mapping[str, str] = field(default_factory=dict)
    receipt: receipts.State = "none"
    signers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """How a replay came out.

    Attributes:
        target: what was repeated.
        verdict: None where nothing is known to compare with.
        first: where the first difference is.
        largest: the largest difference of an element relative to its tensor's largest magnitude;
            infinite where no numbers could be compared.
        tolerance: what the step allows of `largest` where instruction set or versions differ; 0
            where they do not, None where other things were asked of what differs.
        measures: all that was asked of what differs there, `tolerance` among it where it was.
        environment: of this machine.
        differences: of it from the recorded one, as ``[recorded, here]``.
        files: path, digest recorded (or "") and digest here.
        kept: the digest of what was stored, or "".
    """

    target: ReplayTarget
    verdict: Verdict | None
    first: diff.FileDifference | None
    largest: float
    tolerance: float | None
    environment: Mapping[str, str]
    differences: Mapping[str, Sequence[str | None]]
    files: tuple[tuple[str, str, str], ...]
    measures: tuple[Agreement, ...] = ()
    kept: str = ""

    def as_json(self) -> dict[str, Any]:
        recipe = self.target.recipe
        return {
            "replayed": self.target.name,
            "step": recipe.step,
            "verdict": self.verdict,
            "first_difference": self.first.as_json() if self.first else None,
            "largest_difference": self.largest if isfinite(self.largest) else None,
            "tolerance": self.tolerance,
            "tolerances": [
                {
                    "what": measure.what,
                    "largest": measure.largest if isfinite(measure.largest) else None,
                    "allowed": measure.allowed,
                    "holds": measure.holds,
                    "files": list(measure.files),
                }
                for measure in self.measures
            ],
            "environment": {
                "recorded": dict(recipe.environment),
                "here": dict(self.environment),
                "differences": {name: list(two) for name, two in self.differences.items()},
            },
            "recipe": recipe.digest,
            "digest": self.target.manifest.digest if self.target.manifest else None,
            "files": [
                {"path": path, "recorded": old or None, "here": new}
                for path, old, new in self.files
            ],
            "receipt": {"signature": self.target.receipt, "signers": list(self.target.signers)},
            "kept": self.kept or None,
        }


def target(what: str, settings: Settings) -> ReplayTarget:
    """What a person means by `what`: a receipt's or a recipe's file, or a model of the store.

    Raises:
        NotFound: there is no such model, or it was not made by a recipe.
        FormatError, IntegrityError: the file is neither receipt nor recipe, or contradicts itself.
    """
    file = Path(what)
    if not file.is_file():
        return _of_model(what, settings)
    with file.open("rb") as opened:
        data = opened.read(_MAX_BYTES + 1)
    store = Store(settings.home)
    if b'"payloadType"' in data[:_MAX_BYTES] and b'"signatures"' in data:
        return _of_receipt(what, data, store)
    try:
        recipe = Recipe.decode(data)
    except FormatError as error:
        raise FormatError(
            f"{what} is neither a receipt nor a recipe ({error.message})",
            "`overt history REF --recipe` writes one",
        ) from None
    return ReplayTarget(what, recipe, next(run_recipe.made_by(recipe, store), None))


def line(target: ReplayTarget, settings: Settings) -> list[ReplayTarget]:
    """What was made on the way to `one`, oldest first, and `one` at the end."""
    store = Store(settings.home)
    targets: dict[str, ReplayTarget] = {}

    def walk(recipe: Recipe, depth: int) -> None:
        for entry in recipe.inputs if depth < 100 else ():
            base = inputs.manifest(entry.digest, store)
            if base is None or base.digest in targets:
                continue
            if recipes := inputs.recipes(base, store):
                walk(recipes[0], depth + 1)
                targets[base.digest] = _target_of(base.ref, recipes[0], base, settings)

    walk(target.recipe, 0)
    return [*targets.values(), target]


def replay(
    target: ReplayTarget,
    settings: Settings,
    report: Callable[[FetchProgress], None] | None = None,
    tell: Callable[[Mapping[str, Any]], None] | None = None,
    data: Sequence[Path] = (),
    keep: str = "",
) -> ReplayReport:
    """Make it again in a folder of its own, and compare every file.

    Args:
        data: files that the recipe reads and that are not kept here.
        keep: a name for what was made; "" keeps nothing.

    Raises:
        Unsupported: this Overt has not the step, or not in that version.
        NotFound: an input is not here; it says which, and what to type.
        UsageError: a file of `data` is not an input, or `keep` is no name.
        And whatever the step raises.
    """
    recipe, store = target.recipe, Store(settings.home)
    if recipe.step == "create":
        raise NotFound(
            f"{target.name} was put together by `overt create`, which computes nothing",
            f"replay what it was made of: overt history {target.name}",
        )
    ref = parse_name(keep) if keep else None
    now = run_recipe.with_current_environment(recipe, settings)
    given_data = _data(recipe, data)
    report = report or (lambda _: None)
    if ref and target.manifest is None:  # somebody else's recipe: made here as anything is
        with _fitting(recipe):
            made = run_recipe.make(recipe, keep, settings, report, tell, given_data, again=True)
        files = {file.path: store.path(file) for file in made.files}
        ours = _output_paths(made, recipe, store)
        sources = inputs.resolve(recipe, settings, given_data)
        return _with_copy(_compared(target, now, sources, made, files, store, ours), made.digest)
    sources = inputs.resolve(recipe, settings, given_data)
    with _folder(settings.home) as place:
        (place / "work").mkdir()
        with _fitting(recipe):
            outcome = run_recipe.run(recipe, sources, place / "work", settings, report, tell)
        name = target.manifest.ref if target.manifest else "replayed"
        result = run_recipe.listed(recipe, sources, outcome, name)
        files = {
            file.path: result.files[file.digest]
            for file in result.manifest.files
            if file.digest in result.files
        }
        ours = set(result.files)
        replayed = _compared(target, now, sources, result.manifest, files, store, ours)
        if ref is None:
            return replayed
        inputs.keep(given_data, recipe, settings.home)
        if replayed.verdict == "identical" and target.manifest and store.whole(target.manifest):
            store.name(ref, target.manifest)
            return _with_copy(replayed, target.manifest.digest)
        begun = jobs.now()
        result = run_recipe.ready(run_recipe.listed(now, sources, outcome, str(ref)), now, place)
        ran = receipts.StepRun(begun, result.finished, 1, environment.instructions(torch=False))
        run_recipe.keep(result, now, ref, ran, settings)
        return _with_copy(replayed, result.manifest.digest)


def worst(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """The verdict on a whole chain: None as soon as one link has none, unless one is different."""
    known = (*_WORST[:1], None, *_WORST[1:]) if verdicts else ()
    return next((verdict for verdict in known if verdict in verdicts), None)


# ---- what is meant -------------------------------------------------------------------------


def _of_model(what: str, settings: Settings) -> ReplayTarget:
    try:
        path = parse(what).scheme == "path"
    except BadRef:
        path = True
    if path and not Path(what).exists():
        raise NotFound(f"there is no file {what}", "name a receipt, a recipe or a model")
    manifest = pull.find(what, settings).manifest
    if manifest is None:
        raise NotFound(f"{what} is a plain file, which has no recipe", "name a model of the store")
    recipes = inputs.recipes(manifest, Store(settings.home))
    if not recipes:
        raise NotFound(
            f"{what} was not made by a recipe", f"`overt history {what}` shows where it came from"
        )
    return _target_of(what, recipes[0], manifest, settings)


def _target_of(name: str, recipe: Recipe, manifest: Manifest, settings: Settings) -> ReplayTarget:
    data = receipts.of(manifest.digest, settings.home)
    if data is None:
        return ReplayTarget(name, recipe, manifest)
    keys = SigningKeys(settings.home)
    try:
        receipt = receipts.check(data, manifest, recipe, keys)
    except OvertError:
        return ReplayTarget(name, recipe, manifest, receipt="broken")
    state = receipts.state(data, keys)
    return ReplayTarget(name, recipe, manifest, receipt=state, signers=receipt.signers)


def _of_receipt(what: str, data: bytes, store: Store) -> ReplayTarget:
    receipt = receipts.read(data)
    keys = SigningKeys(store.home)
    state = receipts.state(data, keys)
    manifest = inputs.manifest(receipt.manifest, store)
    if manifest is not None:
        receipts.check(data, manifest, receipt.recipe, keys)
    elif state == "broken":
        raise FormatError(f"the signature of {what} is not valid", "get the receipt again")
    return ReplayTarget(what, receipt.recipe, manifest, receipt.subjects, state, receipt.signers)


def _data(recipe: Recipe, files: Sequence[Path]) -> dict[str, Path]:
    wanted = {entry.digest for entry in recipe.inputs}
    by_digest = {}
    for file in files:
        digest = inputs.digest_of(file)
        if digest not in wanted:
            needed = ", ".join(entry.digest[:19] for entry in recipe.inputs if entry.role == "data")
            raise NotFound(
                f"{file} ({digest[:19]}) is no input of the recipe",
                f"it reads {needed}" if needed else "it reads no files",
            )
        by_digest[digest] = file.absolute()
    return by_digest


# ---- comparing -----------------------------------------------------------------------------


def _compared(
    target: ReplayTarget,
    now: Recipe,
    sources: Sequence[StepInput],
    made: Manifest,
    files: Mapping[str, Path],
    store: Store,
    ours: Set[str],
) -> ReplayReport:
    """`files` are those made now, by path; `ours` the digests of those that the step made."""
    differences = environment.differences(target.recipe.environment, now.environment)
    recorded = _recorded(target, made)
    differences_found = _differences(target, recorded, made, files, store, ours)
    measures = (
        _measures(target, sources, differences_found, recorded, files, store) if differences else ()
    )
    verdict: Verdict | None = "identical"
    if not recorded:
        verdict = None
    elif differences_found:
        within = differences and all(measure.holds for measure in measures)
        verdict = "within_tolerance" if within else "different"
    tolerance: float | None = find(now.step).tolerance(target.recipe) if differences else 0.0
    if any(measure.what != _ELEMENT for measure in measures):
        tolerance = None
    news = {file.path: file.digest for file in made.files}
    known = {path for path, _, _ in recorded}
    pairs = [(path, digest, news.get(path, "")) for path, digest, _ in recorded]
    own = (
        made.files
        if not recorded
        else [file for file in made.files if file.path in differences_found]
    )
    pairs += [(file.path, "", file.digest) for file in own if file.path not in known]
    return ReplayReport(
        target,
        verdict,
        next(iter(differences_found.values()), None),
        max((each.largest for each in differences_found.values()), default=0.0),
        tolerance,
        now.environment,
        differences,
        tuple(pairs),
        measures,
    )


def _differences(
    target: ReplayTarget,
    recorded: Sequence[tuple[str, str, File | None]],
    made: Manifest,
    files: Mapping[str, Path],
    store: Store,
    ours: Set[str],
) -> dict[str, diff.FileDifference]:
    """Where each file differs, by its path; of none where nothing is known to compare with."""
    differences = {}
    for path, digest, old in recorded:
        new = next((file for file in made.files if file.path == path), None)
        if difference := _difference(path, digest, old, new, files, store):
            differences[path] = difference
    known = {path for path, _, _ in recorded}
    # A receipt lists what the step made, a manifest what the model has of its base too.
    own = made.files if target.manifest else [file for file in made.files if file.digest in ours]
    for file in own if recorded else ():
        if file.path not in known and file.role != "recipe":
            differences[file.path] = diff.FileDifference(
                file.path, recorded="nothing", here="a file"
            )
    if target.manifest and target.manifest.licence != made.licence:
        differences[""] = diff.FileDifference(
            "the model", field="licence", recorded=target.manifest.licence, here=made.licence
        )
    return differences


def _measures(
    target: ReplayTarget,
    sources: Sequence[StepInput],
    differences_found: Mapping[str, diff.FileDifference],
    recorded: Sequence[tuple[str, str, File | None]],
    files: Mapping[str, Path],
    store: Store,
) -> tuple[Agreement, ...]:
    """What the step asks of all that differs, where it ran on something else."""
    if not differences_found:
        return ()
    step = find(target.recipe.step)
    measures: tuple[Agreement, ...] = ()
    before = {path: _before(digest, old, store) for path, digest, old in recorded}
    pairs = {
        path: (there, files[path])
        for path in differences_found
        if path in files and (there := before.get(path))
    }
    judges = judging(step)
    if judges:
        with _fitting(target.recipe):
            measures = tuple(judges.agreement(target.recipe, sources, pairs)) if pairs else ()
    judged = {path for measure in measures for path in measure.files}
    # A report may tell something else, and must be there: twice, whole and in the same role.
    reports = {
        path
        for path, digest, _ in recorded
        if path in step.reports
        and path in pairs
        and differences_found[path].field != "role"
        and f"sha256:{sha256_of(pairs[path][0])}" == digest
    }
    rest = []
    for path, difference in differences_found.items():
        form = difference.largest == inf  # another tensor, header or text: no matter of numbers
        if path in reports and (path in judged or not judges):
            continue
        if path not in judged or form:
            rest.append((path, difference.largest))
    if not rest and measures:
        return measures
    largest = max((largest for _, largest in rest), default=0.0)
    elements = Agreement(
        _ELEMENT, largest, step.tolerance(target.recipe), tuple(path for path, _ in rest)
    )
    return (elements, *measures)


def _output_paths(made: Manifest, recipe: Recipe, store: Store) -> set[str]:
    """The digests of what the step itself made: what none of its inputs has."""
    bases = (inputs.manifest(entry.digest, store) for entry in recipe.inputs)
    taken = {file.digest for base in bases if base for file in base.files}
    return {file.digest for file in made.files} - taken


def _recorded(target: ReplayTarget, made: Manifest) -> list[tuple[str, str, File | None]]:
    """Path, digest and file of all that came out then; recipes tell of the environment itself."""
    if target.manifest:
        return [
            (file.path, file.digest, file)
            for file in target.manifest.files
            if file.role != "recipe"
        ]
    recipes = {file.path for file in made.files if file.role == "recipe"}
    return [
        (path, f"sha256:{hexes}", None)
        for path, hexes in target.subjects.items()
        if path not in recipes
    ]


def _difference(
    path: str,
    digest: str,
    old: File | None,
    new: File | None,
    files: Mapping[str, Path],
    store: Store,
) -> diff.FileDifference | None:
    if new is not None and old is not None and new.role != old.role:
        return diff.FileDifference(path, field="role", recorded=old.role, here=new.role)
    if new is not None and new.digest == digest:
        return _damage(path, old, files, store) if old else None
    if new is None or path not in files:
        return diff.FileDifference(
            path, recorded="a file", here="nothing" if new is None else "other"
        )
    before = _before(digest, old, store)
    if before is not None and (difference := diff.differ(path, before, files[path])):
        return difference
    return diff.FileDifference(path, recorded=digest, here=new.digest)


def _before(digest: str, old: File | None, store: Store) -> Path | None:
    """The file that was recorded, where it is here."""
    try:
        return store.path(old) if old else store.blob(digest)
    except OvertError:
        return None


def _damage(
    path: str, old: File, files: Mapping[str, Path], store: Store
) -> diff.FileDifference | None:
    """Where the disk has other bytes than the manifest says, which are those that came out now."""
    try:
        stored = store.path(old)
        if f"sha256:{sha256_of(stored)}" == old.digest:
            return None
    except (OvertError, OSError):
        return None  # gone: what was made is the same
    if path in files and (difference := diff.differ(path, stored, files[path])):
        return replace(difference, largest=inf)
    return diff.FileDifference(path, recorded="damaged in the store", here=old.digest)


def _with_copy(report: ReplayReport, digest: str) -> ReplayReport:
    return replace(report, kept=digest)


@contextmanager
def _fitting(recipe: Recipe) -> Iterator[None]:
    """A step believes its recipe, and this one may be anybody's.

    Raises:
        FormatError: it lacks an input or a parameter, or has one of another kind.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FormatError(
            f"the recipe cannot be carried out by {recipe.step} ({why})",
            "its inputs or parameters are not those of the step",
        ) from error


@contextmanager
def _folder(home: Path) -> Iterator[Path]:
    """A folder of its own under ``<home>/jobs``, gone at the end; what died before goes now."""
    for job in jobs.list_jobs(home):
        if job.folder.name.startswith("replay-") and job.pid is None:
            with suppress(OvertError, OSError):  # another replay is at it: this one goes its way
                jobs.remove(job, home)
    place = home / "jobs" / f"replay-{secrets.token_hex(8)}"
    with jobs.locked(place, home):
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
