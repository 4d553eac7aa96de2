"""One or more types made and measured in one pass, which goes on where it was killed.

The folder is that of a job, ``<home>/jobs/<digest>``, whose digest is of the source, the text and
all that decides the figures. In its ``work``: a folder for each type, where the step runs;
``base.f16`` with ``base.json``, what the source made of the text; ``rows/<type>.json`` for each
type that is done; ``runs/<type>-<n>.json`` for each run of the clock; ``pending.json``, which types
were asked for by commands that have not ended, as the digest does not know them. The finished table
is kept in ``<home>/measurements/<digest>.json``, and later ones are added to it (record.py).
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from overt.errors import EngineFailed, FormatError, OutOfDisk, OvertError, WorkerDied
from overt.files.atomic import write
from overt.formats import gguf
from overt.formats.ggml import TYPES as TENSOR_TYPES
from overt.lab.quantize import (
    STEP,
    calibration,
    eta,
    frontier,
    host,
    imatrix,
    measure,
    parameters,
    record,
    statistics,
    texts,
    types,
    worker,
)
from overt.lab.quantize import (
    estimate as foreseen,
)
from overt.lab.quantize.pending import Pending, read
from overt.models import memory as fit
from overt.models import pull
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import Report
from overt.models.store import Manifest
from overt.models.store.manifest import hex_of
from overt.provenance import checksummed, inputs, jobs, run_recipe
from overt.settings import Settings

Tell = Callable[[Mapping[str, Any]], None]
SOURCE = "source"
"""What the rows and runs of the source itself are called."""


@dataclass(frozen=True, slots=True)
class QuantizePlan:
    """What is to be made and measured.

    Attributes:
        model: the source.
        text: measured on.
        window: tokens of a window.
        windows: the most of them.
        runs: of the clock; 0 measures no speed.
        threads: to compute with.
        parameters: of the step, beside the type.
        imatrix: a file, where one was given.
        calibrate: the text a matrix is to be computed on.
    """

    model: pull.LocalModel
    text: Path
    window: int
    windows: int
    runs: int
    threads: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    imatrix: Path | None = None
    calibrate: Path | None = None


class QuantizePass:
    """The pass; a context manager that holds the job's lock.

    Raises:
        FormatError: the source is no GGUF model.
        BadRequest: it cannot be quantized, or the text is too short.
        UsageError: an option is for what the source has not.
        Busy: another process works on the same.
    """

    def __init__(self, plan: QuantizePlan, settings: Settings, report: Report, tell: Tell) -> None:
        worker.available()
        self.plan, self.settings = plan, settings
        self._report, self._tell = report, tell
        weights = inputs.gguf_of(plan.model)
        self.header = gguf.read(weights)
        types.check(self.header)
        types.check_options(self.header, plan.parameters)
        self.window = measure.window_of(self.header, plan.window)
        self._data: dict[str, Path] = {}
        self._proved: set[Path] = set()
        if plan.model.manifest is None:
            self._data[plan.model.digest] = weights
        self.recipe = self._recipe()
        self.digest = self.recipe.digest
        self._folder = jobs.folder_of(self.recipe, settings.home)
        self._work = self._folder / "work"
        self._lock: Any = None
        self._text: measure.TextWindows | None = None
        self._base: measure.BaseLogprobs | None = None
        self._ahead: dict[str, foreseen.SizeForecast] = {}
        self._pending: Any = None

    def __enter__(self) -> "QuantizePass":
        self._lock = jobs.locked(self._folder, self.settings.home)
        self._lock.__enter__()
        noted = jobs.begin(self._folder, self.recipe, f"table of {self.plan.model.ref}")
        self._pending = Pending(self._folder, noted)
        (self._work / "rows").mkdir(exist_ok=True)
        (self._work / "runs").mkdir(exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            refused = isinstance(error, OvertError)
            if refused and not isinstance(error, WorkerDied | OutOfDisk):
                rows = self._work / "rows"
                self._pending.refused(lambda what: (rows / f"{what}.json").is_file())
            if error is not None and self._pending.idle():
                jobs.drop(self._folder)
        finally:
            self._lock.__exit__(kind, error, traceback)

    # ---- recipes -----------------------------------------------------------------------------

    def _recipe(self) -> Recipe:
        """Of the measurement: whatever decides the figures, speeds apart."""
        plan = self.plan
        inputs_ = [self._source(), Input("text", texts.digest(plan.text), plan.text.name)]
        return Recipe(
            "measure",
            STEP.version,
            (*inputs_, *self._importance()),
            {
                "window": self.window,
                "windows": plan.windows,
                "threads": plan.threads,
                **parameters(types.TYPES["f16"], **plan.parameters),
                "type": "",
            },
            run_recipe.recipe("quantize", (), {}, self.settings).environment,
        )

    def recipe_of(self, type: types.QuantType) -> Recipe:
        """The recipe of one type's file, as `make.make` takes it."""
        settings_ = dict(self.plan.parameters)
        settings_["threads"] = self.plan.threads
        if self.plan.calibrate:
            settings_ |= {"window": self.window, "windows": _CALIBRATED}
        return run_recipe.recipe(
            "quantize",
            (self._source(), *self._importance()),
            parameters(type, **settings_),
            self.settings,
        )

    def _source(self) -> Input:
        manifest = self.plan.model.manifest
        ref = manifest.ref if manifest else self.plan.model.weights.name
        return Input("from", self.plan.model.digest, ref)

    def _importance(self) -> tuple[Input, ...]:
        for role, path in (("imatrix", self.plan.imatrix), ("calibrate", self.plan.calibrate)):
            if path:
                digest = inputs.digest_of(path)
                self._data[digest] = path
                return (Input(role, digest, path.name),)
        return ()

    # ---- making ------------------------------------------------------------------------------

    def file(self, type: types.QuantType) -> Path:
        """The file of a type, made where it is not there yet."""
        place = self._work / type.name
        target = place / host.MODEL
        if target in self._proved or checksummed.intact(target):
            self._proved.add(target)
            return target
        place.mkdir(exist_ok=True)
        recipe = self.recipe_of(type)
        inputs.keep(self._data, recipe, self.settings.home)
        matrix = self._work / host.IMATRIX
        if checksummed.intact(matrix):
            _linked(matrix, place / host.IMATRIX)
        inputs_ = inputs.resolve(recipe, self.settings)
        run_recipe.run(recipe, inputs_, place, self.settings, self._report, self._tell)
        if self.plan.calibrate and not matrix.is_file():
            _linked(place / host.IMATRIX, matrix)
        self._proved.add(target)
        return target

    def files(self, wanted: Sequence[types.QuantType]) -> dict[str, str]:
        """Make the file of every type; why those could not be made that were not, by name.

        Raises:
            EngineFailed, FormatError: the only one could not, or none could.
        """
        self._pending.asked(f"{type.name}, the file" for type in wanted)
        self._room(wanted)
        failed: dict[str, OvertError] = {}
        for type in wanted:
            try:
                self.file(type)
            except WorkerDied:
                raise
            except (EngineFailed, FormatError) as error:
                failed[type.name] = error
        return _raise_if_all_failed(failed, wanted)

    def store(self, type: types.QuantType, name: str) -> Manifest:
        """Put the file of a type into the store as the model `name`."""
        recipe = self.recipe_of(type)
        folder = jobs.folder_of(recipe, self.settings.home)
        made = self.file(type)
        with jobs.locked(folder, self.settings.home):
            jobs.hand_on(self._folder, folder)
            for name_ in (host.MODEL, host.IMATRIX):
                if (made.parent / name_).is_file():
                    _linked(made.parent / name_, folder / "work" / name_)
        return run_recipe.make(recipe, name, self.settings, self._report, self._tell, self._data)

    # ---- measuring ---------------------------------------------------------------------------

    @property
    def text(self) -> measure.TextWindows:
        if self._text is None:
            plan = self.plan
            cut = texts.windows(
                plan.text, plan.model.weights, self.window, plan.windows, self.settings
            )
            self._text = measure.enough(cut, self.window, plan.text.name)
        return self._text

    @property
    def base(self) -> measure.BaseLogprobs:
        """What the source made of the text, computed once."""
        if self._base is None:
            file, noted = self._work / host.BASE, self._work / "base.json"
            cached = read(noted)
            if cached is None or not checksummed.intact(file):
                weights = self.plan.model.weights
                made = measure.source(
                    weights, self.text, file, self.plan.threads, self.settings, self._report
                )
                checksummed.seal(file)
                cached = {"nll": made.nll, "top": made.top}
                write(noted, json.dumps(cached).encode())
            self._base = measure.BaseLogprobs(file, cached["nll"], cached["top"])
        return self._base

    def ready(self) -> None:
        """Have the source read the text: what is wrong with it is told before anything is made."""
        plan = self.plan
        if plan.imatrix:
            for sentence in imatrix.check(plan.imatrix, self.header)[1]:
                self._tell({"kind": "note", "text": sentence})
        _ = self.text
        if plan.calibrate:
            weights = inputs.gguf_of(plan.model)
            calibration(plan.calibrate, weights, self.window, _CALIBRATED, self.settings)
        _ = self.base

    def _foreseen(self, wanted: Sequence[types.QuantType]) -> dict[str, foreseen.SizeForecast]:
        """What the files of these types will hold, and which cannot be made at all."""
        if missing := [type for type in wanted if type.name not in self._ahead]:
            self._ahead |= foreseen.foresee(
                inputs.gguf_of(self.plan.model),
                self.header,
                missing,
                parameters(missing[0], **self.plan.parameters),
                self.settings,
                importance=self._has_matrix,
            )
        return {type.name: self._ahead[type.name] for type in wanted}

    @property
    def _has_matrix(self) -> bool:
        return bool(self.plan.imatrix or self.plan.calibrate)

    def _room(self, wanted: Iterable[types.QuantType]) -> None:
        """Raises OutOfDisk where the files of all types, which are kept to the end, find none."""
        missing = [
            type_ for type_ in wanted if not (self._work / type_.name / host.MODEL).is_file()
        ]
        needed = sum(estimate(type_, self.header) for type_ in missing)
        free = shutil.disk_usage(self._work).free
        if needed > free:
            raise OutOfDisk(
                f"{len(missing)} types take about {needed >> 20} MiB on the disk and {free >> 20} "
                "MiB are free",
                "name fewer types, or free some space",
            )

    def judged(self, type: types.QuantType) -> dict[str, Any]:
        """The row of a type without its speeds; kept, so that it is computed once.

        Raises:
            EngineFailed: llama.cpp could not make it, or cannot compute with it.
        """
        cached = read(self._work / "rows" / f"{type.name}.json")
        if cached is not None:
            return cached
        weights = self.file(type)
        header = gguf.read(weights)
        mix = types.mix_of(header)
        row: dict[str, Any] = {
            "type": type.name,
            "bits_per_weight": mix.bits_per_weight,
            "bytes": mix.bytes,
            "mix": dict(mix.shares),
            "label_note": types.warn_fallbacks(type, header, mix)
            if not self.plan.parameters
            else "",
            "memory_need": fit.need(header, self.window).total,
        } | measure.against(
            weights,
            type.name,
            self.text,
            self.base,
            self.plan.threads,
            self.settings,
            self._report,
        )
        write(self._work / "rows" / f"{type.name}.json", json.dumps(row).encode())
        return row

    def source_row(self) -> dict[str, Any]:
        """The source in the same figures; its divergence is that of rounding to 16 bits alone."""
        cached = read(self._work / "rows" / f"{SOURCE}.json")
        if cached is None:
            mix = types.mix_of(self.header)
            cached = {
                "type": SOURCE,
                "bits_per_weight": mix.bits_per_weight,
                "bytes": mix.bytes,
                "mix": dict(mix.shares),
                "label_note": "",
                "memory_need": fit.need(self.header, self.window).total,
            } | measure.against(
                self.plan.model.weights,
                "the source itself",
                self.text,
                self.base,
                self.plan.threads,
                self.settings,
                self._report,
            )
            write(self._work / "rows" / f"{SOURCE}.json", json.dumps(cached).encode())
        return cached

    def raced(
        self, wanted: Sequence[types.QuantType | None], clock: eta.PaceEstimate | None = None
    ) -> dict[str, dict[str, Any]]:
        """Speeds and load memory, the types taking turns; None is the source.

        Returns by the type's name: `figures.speeds`, ``load_memory`` and ``load_memory_own``.
        """
        by_name: dict[str, list[Mapping[str, float]]] = {}
        turns = [(number, type) for number in range(self.plan.runs) for type in wanted]
        for number, type in turns:
            name = type.name if type else SOURCE
            path = self._work / "runs" / f"{name}-{number}.json"
            run, begun = read(path), time.monotonic()
            cached = run is not None
            if run is None:
                self._tell({"kind": "note", "text": f"timing {name}, run {number + 1}"})
                weights = self.file(type) if type else self.plan.model.weights
                run = measure.speed(weights, name, self.text, self.plan.threads, self.settings)
                write(path, json.dumps(run).encode())
            by_name.setdefault(name, []).append(run)
            if clock:
                clock.run_done(None if cached else time.monotonic() - begun)
                tenth = 10 * clock.timed // len(turns)
                if not cached and 10 * (clock.timed - 1) // len(turns) < tenth:
                    self._tell(_progress("timed", clock.timed, len(turns), "runs", clock))
        return {
            name: statistics.speeds(runs)
            | {
                "load_memory": int(max(run["resident"] for run in runs)),
                "load_memory_own": int(max(run["own"] for run in runs)),
            }
            for name, runs in by_name.items()
        }

    def rows(
        self, wanted: Iterable[types.QuantType]
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The rows of all types that can be made, and why the others cannot.

        One that llama.cpp refuses does not end the table; a worker that was killed does.
        """
        wanted = tuple(wanted)
        self._pending.asked(type.name for type in wanted)
        failed: dict[str, OvertError] = {}
        if not self._has_matrix and any(type.importance for type in wanted):
            for name, forecast in self._foreseen(wanted).items():
                if forecast.problem and not forecast.unread:
                    failed[name] = forecast.problem
            _raise_if_all_failed(failed, wanted)
        left = [type for type in wanted if type.name not in failed]
        self._room(left)
        self.ready()
        clock = eta.PaceEstimate(
            len(left), self.plan.runs * (len(left) + 1), len(self.text.windows) * self.text.window
        )
        rows = self._judged(left, failed, clock)
        problems = _raise_if_all_failed(failed, wanted)
        made = [type for type in left if type.name in rows]
        if self.plan.runs:
            clock.runs = self.plan.runs * (len(made) + 1)
            several = clock if len(wanted) > 1 else None
            for name, row in self.raced([None, *made], several).items():
                rows.setdefault(name, self.source_row() if name == SOURCE else {}).update(row)
        rows.setdefault(SOURCE, self.source_row())
        return [rows[SOURCE], *(rows[type.name] for type in made)], problems

    def _judged(
        self,
        wanted: Sequence[types.QuantType],
        failed: dict[str, OvertError],
        clock: eta.PaceEstimate,
    ) -> dict[str, dict[str, Any]]:
        """The rows of all that can be made; the others go into `failed`."""
        rows: dict[str, dict[str, Any]] = {}
        for type in wanted:
            begun = time.monotonic()
            cached = (self._work / "rows" / f"{type.name}.json").is_file()
            try:
                rows[type.name] = self.judged(type)
            except WorkerDied:
                raise
            except (EngineFailed, FormatError) as error:
                failed[type.name] = error
            clock.type_done(None if cached else time.monotonic() - begun)
            if len(wanted) > 1 and not cached:
                self._tell(_progress(type.name, clock.done, len(wanted), "types", clock))
        return rows

    def choose(self, limit: float, memory: int) -> frontier.FrontierChoice:
        """The fastest type under the limit that fits, as `frontier.search` finds it."""

        self._pending.asked([types.AUTO])
        names = [*frontier.LADDER, *(frontier.LOWER if self._has_matrix else ())]
        ahead = self._foreseen([types.TYPES[name] for name in names])

        def fits(type: types.QuantType) -> str:
            forecast = ahead[type.name]
            if forecast.header is None:
                return f"not tried: {forecast.problem.message}" if forecast.problem else "not tried"
            need = fit.need(forecast.header, self.window).total
            if need <= memory:
                return ""
            return f"not tried: it needs {need >> 20} MiB of memory and may take {memory >> 20}"

        self.ready()
        choice = frontier.search(
            fits, self.judged, self.raced, limit, importance=self._has_matrix, memory=memory
        )
        choice.memory = memory
        return choice

    # ---- the end -----------------------------------------------------------------------------

    def keep(self, value: Mapping[str, Any]) -> Path:
        """Keep the finished table, added to what is kept of the same measurement; then `end`."""
        path = self.settings.home / "measurements" / f"{hex_of(self.digest)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = record.merged(read(path) or {}, value)
        write(path, json.dumps(table, indent=1, sort_keys=True).encode())
        self.end()
        return path

    def end(self) -> None:
        """Delete what was only needed to make this, unless another command goes on with it."""
        if self._pending.ended():
            jobs.drop(self._folder)


_CALIBRATED = 128
"""The most windows of a calibration text that are read."""


def estimate(type: types.QuantType, header: gguf.GgufHeader) -> int:
    """About the bytes of a file of that type."""
    kind = next(
        tensor_type for tensor_type in TENSOR_TYPES.values() if tensor_type.name == type.tensor
    )
    bits = kind.bytes * 8 / kind.block
    return int(header.parameters * bits / 8 * 1.1)


def _raise_if_all_failed(
    failed: Mapping[str, OvertError], wanted: Sequence[types.QuantType]
) -> dict[str, str]:
    """Why types failed, in words. Raises the first error where all did."""
    if failed and len(failed) == len(wanted):
        raise next(iter(failed.values()))
    return {name: str(error) for name, error in failed.items()}


def _progress(what: str, done: int, total: int, of: str, clock: eta.PaceEstimate) -> dict[str, Any]:
    """An event for who waits; `left` is in seconds, None where nobody knows."""
    event = {"kind": "progress", "what": what, "done": done, "total": total, "of": of}
    return event | {"left": clock.left}


def _linked(source: Path, target: Path) -> None:
    """A sealed file and its seal."""
    _link(source, target)
    _link(checksummed.place(source), checksummed.place(target))


def _link(source: Path, target: Path) -> None:
    """The same bytes at another place, without a copy where the file system can."""
    if target.is_file():
        return
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        new.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, new)
    new.replace(target)
