"""`overt quantize`: a model in fewer bits, and what that cost, in numbers.

The step is the pure part: the bytes follow from the source, the importance matrix and the
parameters. llama.cpp writes them (``llama_model_quantize``), in a sandboxed worker.

==============  ==================================================================================
types.py        every type, and what a file really holds
host.py         the native half: quantizing, and computing with a model
activations.py  an importance matrix, collected in the engine
imatrix.py      its file, written and read
worker.py       one task in one worker
estimate.py     what a file of each type will hold, before it is made
texts.py        what is measured and calibrated on, cut into windows
statistics.py   means, percentiles and intervals
measure.py      a quantized model against its source
table.py        several types in one pass, resumable
pending.py      what commands have asked of it and not got yet
record.py       the finished table, to which later ones are added
eta.py          how long it will still take
frontier.py     which type is the fastest that is good enough; a plot for the terminal
plot.py         the same as PNG
agreement.py    whether two machines made the same
==============  ==================================================================================

Parameters of the recipe: ``type``, ``threads`` (the bytes do not depend on them; tested),
``tensors`` (pairs of pattern and tensor type), ``output``, ``embedding`` (tensor types or None),
``pure``, ``keep_output``, and of a matrix that is computed ``window`` and ``windows`` (tokens of a
window, and the most windows). Inputs: ``from``, and ``imatrix`` (a file) or ``calibrate`` (a text).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overt.errors import BadRequest, FormatError
from overt.formats import gguf, split
from overt.lab.quantize import host, imatrix, texts, types, worker
from overt.models.recipe import Recipe
from overt.models.sources.base import FetchProgress as Progress
from overt.provenance import checksummed, inputs
from overt.provenance.steps import Agreement, StepContext, StepInput, StepOutput
from overt.settings import Settings

_MAX_THREADS = 4096
_MAX_TOLERANCE = 0.25
"""Of elements alone: with a step of half its largest weight, a tensor could be anything."""
DEFAULTS: dict[str, Any] = {
    "threads": 1,
    "tensors": [],
    "output": None,
    "embedding": None,
    "pure": False,
    "keep_output": False,
}


class _QuantizeStep:
    """Quantizes one model to one type."""

    name = "quantize"
    version = "2"
    packages = ("llama-cpp-py-sync", "numpy")
    reports: tuple[str, ...] = ()

    def run(self, work: StepContext) -> list[StepOutput]:
        """Quantize; what is whole in the folder already is not made again.

        Raises:
            FormatError: no GGUF model, no importance matrix, or one of another model.
            Unsupported: a model with an adapter, which would be lost.
            BadRequest: the file is nothing that can be quantized.
            EngineFailed, OutOfDisk: as `worker.carry_out` says.
        """
        base = work.given("from")[0]
        inputs.refuse_adapter(base.manifest, base.manifest.ref if base.manifest else "")
        source = base.path
        type_ = types.find(str(work.recipe.parameters["type"]))
        threads = work.recipe.parameters["threads"]
        if type(threads) is not int or not 1 <= threads <= _MAX_THREADS:
            raise FormatError(
                f"the recipe asks for {str(threads)[:40]} threads",
                f"a number between 1 and {_MAX_THREADS} can be carried out",
            )
        header = gguf.read(source)
        types.check(header)
        matrix = _importance(work, source, header)
        target = work.place / host.MODEL
        if not checksummed.intact(target):
            _quantize(work, source, header, type_, matrix, target)
            gguf.read(target)
            checksummed.seal(target)
        made = [StepOutput("weights", f"{type_.name}.gguf", target)]
        if matrix and work.given("calibrate"):
            made.append(StepOutput("other", host.IMATRIX, matrix))
        return made

    def tolerance(self, recipe: Recipe) -> float:
        """One step of the coarsest type that was asked for, and never more than a quarter; of files
        that `agreement` says nothing of."""
        from overt.lab.quantize import agreement

        options = recipe.parameters
        names = [str(name) for _, name in options.get("tensors", ())]
        names += [str(options[key]) for key in ("output", "embedding") if options.get(key)]
        kinds = [types.find(str(options["type"])).tensor, *(name.upper() for name in names)]
        return min(_MAX_TOLERANCE, max(agreement.step(kind) for kind in kinds))

    def agreement(
        self, recipe: Recipe, inputs: Sequence[StepInput], files: Mapping[str, tuple[Path, Path]]
    ) -> Sequence[Agreement]:
        """Few elements may be off, none by much of its block, and no tensor by much of its size."""
        from overt.lab.quantize import agreement

        computed = any(entry.role == "calibrate" for entry in recipe.inputs)
        return agreement.of_files(files, computed=computed)


STEP = _QuantizeStep()


def parameters(type: types.QuantType, **options: Any) -> dict[str, Any]:
    """The parameters of a recipe, those not given filled in."""
    return {"type": type.name, **DEFAULTS, **options}


def _quantize(
    work: StepContext,
    source: Path,
    header: gguf.GgufHeader,
    type_: types.QuantType,
    matrix: Path | None,
    target: Path,
) -> None:
    options = work.recipe.parameters
    largest = max(tensor.parameters for tensor in header.tensors)
    what = f"quantizing to {type_.name}"
    task = worker.Task(
        "quantize",
        {
            "source": str(source.absolute()),
            "number": type_.number,
            "total": len(header.tensors),
            "threads": int(options["threads"]),
            **types.numbers(options),
            "imatrix": str(matrix.absolute()) if matrix else None,
        },
        what,
        {"threads": int(options["threads"])},
        (*split.files(source), *([matrix] if matrix else [])),
        # Beside the mapped file there are the largest tensor in 32 bits, and its result.
        12 * largest + (2 << 30),
        {host.MODEL: target},
    )
    count = max(len(header.tensors), 1)

    def told(reply: Any) -> None:
        done = reply.get("done")
        if isinstance(done, int):
            work.report(
                Progress(what, header.file_size * min(done, count) // count, header.file_size)
            )

    work.tell({"kind": "note", "text": what})
    worker.carry_out(task, work.settings, told)


def _importance(work: StepContext, source: Path, header: gguf.GgufHeader) -> Path | None:
    """The importance matrix of the recipe: a file, or one that is computed now."""
    matrices = work.given("imatrix")
    if matrices:
        _, lacks = imatrix.check(matrices[0].path, header)
        for sentence in lacks:
            work.tell({"kind": "note", "text": sentence})
        return matrices[0].path
    text: list[StepInput] = work.given("calibrate")
    if not text:
        return None
    target = work.place / host.IMATRIX
    if not checksummed.intact(target):
        collect(source, header, text[0].path, work, target)
        checksummed.seal(target)
    return target


def calibration(
    text: Path, source: Path, window: int, most: int, settings: Settings
) -> list[list[int]]:
    """The windows of tokens that an importance matrix is computed on.

    Raises:
        FormatError: the text is none.
        BadRequest: it is too short for one window.
    """
    windows = texts.windows(text, source, window, most, settings)
    if not windows:
        raise BadRequest(
            f"the calibration text has fewer than {window} tokens", "give a longer --calibrate FILE"
        )
    return windows


def collect(
    source: Path, header: gguf.GgufHeader, text: Path, work: StepContext, target: Path
) -> None:
    """Compute the importance matrix of a model on a text.

    Raises:
        FormatError: the text is none.
        BadRequest: it is too short for one window.
    """
    options = work.recipe.parameters
    window = int(options["window"])
    windows = calibration(text, source, window, int(options["windows"]), work.settings)
    tokens = sum(map(len, windows))
    if tokens < texts.FEW_TOKENS:
        work.tell(
            {
                "kind": "note",
                "text": f"the importance matrix is of {tokens} tokens only; "
                f"some {texts.FEW_TOKENS} and more are usual: --calibrate FILE",
            }
        )
    what = "reading the calibration text"
    task = worker.Task(
        "collect",
        {"windows": windows, "about": text.name[:64]},
        what,
        made={host.IMATRIX: target},
        **worker.computing(source, header, window, int(options["threads"]), collect=True),
    )

    def told(reply: Any) -> None:
        if isinstance(reply.get("done"), int):
            size = text.stat().st_size
            work.report(Progress(what, size * reply["done"] // len(windows), size))

    outcome = worker.carry_out(task, work.settings, told)
    if not outcome.replies:
        raise FormatError("no importance matrix came of the calibration text")
