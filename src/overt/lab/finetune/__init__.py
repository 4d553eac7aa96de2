"""Fine-tuning: a model and a file of examples become a model that has learnt from them.

``STEP`` ties the parts together: `prepare` reads, renders and packs; `loop` trains; `measure`
compares before and after on what was held out; `written` makes the files.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import FormatError, Unsupported, lacking
from overt.lab.finetune import plan
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.determinism import fixed
from overt.lab.finetune.example import Example, PreferenceExample
from overt.models.memory import free_memory
from overt.models.recipe import Recipe
from overt.models.sources.base import FetchProgress as Progress
from overt.provenance import checksummed, gguf_keys
from overt.provenance.steps import Agreement, StepContext, StepInput, StepOutput

if TYPE_CHECKING:
    from overt.lab.finetune.measure import JudgedExample
    from overt.lab.finetune.prepare import PreparedFinetune
    from overt.nets.transformer import Transformer

REPORT = "finetune.json"
"""The file with the curve and the table of before and after, in the new model."""
_DIGITS = 6


class _FinetuneStep:
    """Inputs: ``from`` the model, ``data`` the file, and ``held`` where that is a file of its own.
    Parameters: as `FinetuneConfig.encode` gives them.
    """

    name = "finetune"
    version = "3"
    packages = ("gguf", "llama-cpp-py-sync", "numpy", "safetensors", "torch")
    reports: tuple[str, ...] = (REPORT,)

    def run(self, work: StepContext) -> list[StepOutput]:
        """Raises as `prepare.prepare` and `loop.train` do, and FormatError as `_base` does."""
        config = FinetuneConfig.decode(work.recipe.parameters)
        base = _base(work.recipe, work.inputs)
        prepared = _prepared(work, base, config)
        if config.device == "cpu":  # a recipe may be anybody's: the verb has looked already
            wanted = plan.memory_request(prepared, config)
            plan.check(prepared.base.shape, wanted, free_memory())
        work.tell(_example(prepared))
        with fixed(config.training.threads):
            net = load(prepared.base.weights, config)
            before = _before(work, net, prepared, config)
            trained = _trained(work, net, prepared, config, before)
            after = judge(net, prepared.held_examples, config)
        report = _report(config, prepared, trained, before, after)
        work.tell({"kind": "result", **report})
        made = _files(work, net, prepared, config, base)
        report_path = work.place / REPORT
        report_path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", "utf-8")
        return [*made, StepOutput("other", REPORT, report_path)]

    def tolerance(self, recipe: Recipe) -> float:
        """None of an element: what was learnt is judged as a whole."""
        return 0.0

    def agreement(
        self, recipe: Recipe, inputs: Sequence[StepInput], files: Mapping[str, tuple[Path, Path]]
    ) -> Sequence[Agreement]:
        """Weights by what they learnt, and the report by its losses."""
        from overt.lab.finetune import agreement

        base = _base(recipe, inputs)
        training = FinetuneConfig.decode(recipe.parameters).training
        return agreement.of_files(files, base.path, training.precision, training.loss)


STEP = _FinetuneStep()


def load(weights: Path, config: FinetuneConfig) -> "Transformer":
    """The net to train, on the device that was asked for, with its adapter.

    Raises:
        Unsupported: there is no such device, or torch is not installed.
    """
    from overt.nets.load import from_gguf

    try:
        import torch

        from overt.lab.finetune import loop
    except ImportError as error:
        raise lacking("fine-tuning", str(error.name)) from None
    if config.device == "cuda" and not torch.cuda.is_available():
        raise Unsupported("this machine has no GPU that torch can use", "type --device cpu")
    frozen = (
        getattr(torch, config.training.precision) if config.training.learn == "adapter" else None
    )
    net = from_gguf(weights, frozen=frozen, keep_quantized=config.quantized)
    net = net.to(config.device) if config.device == "cuda" else net
    loop.ready(net, config.training)
    return net


def judge(
    net: "Transformer",
    examples: Sequence[Example] | Sequence[PreferenceExample],
    config: FinetuneConfig,
) -> "list[JudgedExample]":
    """How the net does on each held-out example, in the precision that it is trained in.

    A net of which all learns is judged in 32 bits, as it is written; in 16 it is only trained.
    """
    import torch

    from overt.lab.finetune import measure

    dtype = torch.bfloat16 if config.training.precision == "bfloat16" else torch.float32
    net.eval()
    pairs = [example for example in examples if isinstance(example, PreferenceExample)]
    if pairs:
        return measure.pairs(net, pairs, dtype=dtype)
    return measure.answers(
        net, [example for example in examples if isinstance(example, Example)], dtype=dtype
    )


def _base(recipe: Recipe, inputs: Sequence[StepInput]) -> StepInput:
    """The model to learn on.

    Raises:
        FormatError: the recipe, which may be anybody's, has none or several.
    """
    bases = [
        input_ for entry, input_ in zip(recipe.inputs, inputs, strict=True) if entry.role == "from"
    ]
    if len(bases) != 1:
        raise FormatError(
            f"the recipe of the fine-tune has {len(bases)} models to learn on, not 1",
            "get a recipe that `overt finetune` wrote: overt history REF --recipe",
        )
    return bases[0]


def _prepared(work: StepContext, source: StepInput, config: FinetuneConfig) -> "PreparedFinetune":
    from overt.lab.finetune import prepare

    base = prepare.base_of(source.path, source.manifest, source.files)
    held = work.given("held")
    return prepare.prepare(
        base,
        work.given("data")[0].path,
        held[0].path if held else None,
        config,
        work.settings,
        (f"data{config.file}", f"held{config.held_file}"),
    )


def _example(prepared: "PreparedFinetune") -> Mapping[str, Any]:
    return {
        "kind": "example",
        "line": prepared.line,
        "text": "".join(token.text for token in prepared.shown),
        "learnt": [token.text for token in prepared.shown if token.learnt],
    }


def _before(
    work: StepContext, net: "Transformer", prepared: "PreparedFinetune", config: FinetuneConfig
) -> "list[JudgedExample]":
    """How the base does; looked up where an interrupted run has found out already."""
    from overt.lab.finetune.measure import JudgedExample

    if not prepared.held_examples:
        return []
    cache = work.place / "before.json"
    if checksummed.intact(cache):
        cached = [JudgedExample(*row) for row in json.loads(cache.read_bytes())]
        if len(cached) == len(prepared.held_examples):
            return cached
    work.report(Progress("measuring the base on what is held out", 0, None))
    judged = judge(net, prepared.held_examples, config)
    new = cache.with_suffix(".new")
    new.write_text(
        json.dumps([list(asdict(judged_one).values()) for judged_one in judged]), "utf-8"
    )
    new.replace(cache)
    checksummed.seal(cache)
    return judged


def _trained(
    work: StepContext,
    net: "Transformer",
    prepared: "PreparedFinetune",
    config: FinetuneConfig,
    before: "list[JudgedExample]",
) -> Any:
    from overt.lab.finetune import loop

    job = config.training
    first: float | None = None  # the loop looks itself, in 16 bits as it will look later
    if job.learn == "adapter" or job.precision == "float32":
        first = sum(judged.surprise for judged in before) / max(
            1, sum(judged.tokens for judged in before)
        )
    if job.loss == "preference":
        first = math.log(2)  # of an adapter that is still zero, whatever the pairs are
    place = work.place / "training"
    place.mkdir(exist_ok=True)
    return loop.train(net, job, prepared.train, prepared.held, place, work.tell, first=first)


def _report(
    config: FinetuneConfig,
    prepared: "PreparedFinetune",
    trained: Any,
    before: "list[JudgedExample]",
    after: "list[JudgedExample]",
) -> dict[str, Any]:
    from overt.lab.finetune import measure
    from overt.lab.finetune.prepare import counts

    report: dict[str, Any] = {
        "method": config.method,
        "data": {**counts(prepared), "format": prepared.about, "left_out": dict(prepared.left)},
        "steps": trained.steps,
        "best": trained.best,
        "stopped_early": trained.stopped,
        "curve": [
            {"step": point.step, "loss": point.loss, "held": point.held} for point in trained.curve
        ],
        "held": measure.table(before, after) if before else None,
    }
    rounded: dict[str, Any] = _rounded(report)
    return rounded


def _rounded(value: Any) -> Any:
    """Numbers to so many digits: more say nothing, and differ between machines."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _files(
    work: StepContext,
    net: "Transformer",
    prepared: "PreparedFinetune",
    config: FinetuneConfig,
    base: StepInput,
) -> list[StepOutput]:
    """What the new model is made of, beside what it takes over from its base."""
    from overt.lab.convert import adapter
    from overt.lab.finetune import save
    from overt.nets import lora

    made: list[StepOutput] = []
    if config.method == "full" or config.merge:
        target = work.place / "model.gguf"
        save.save_model(
            net,
            base.path,
            config.type,
            target,
            lambda done, total: work.report(Progress("writing", done, total)),
            gguf_keys.derived(work.recipe.inputs, work.inputs),
        )
        made.append(StepOutput("weights", f"finetuned-{config.type}.gguf", target))
    if config.method != "full":
        folder = work.place / "peft"
        lora.save(net, config.training.adapter, folder, base.manifest.ref if base.manifest else "")
        if not config.merge:
            target = work.place / "adapter.gguf"
            adapter.to_gguf(folder / lora.WEIGHTS, folder / lora.CONFIG, base.path, target)
            made += [*_of_base(base), StepOutput("adapter", "adapter.gguf", target)]
        for name in (lora.CONFIG, lora.WEIGHTS):
            made.append(StepOutput("other", f"peft/{name}", folder / name))
    if not prepared.template.own:
        template = work.place / "template"
        template.write_text(prepared.template.text, "utf-8")
        made.append(StepOutput("template", "template", template))
    return made


def _of_base(base: StepInput) -> list[StepOutput]:
    """The base's weights, which the new model lists as its own."""
    if base.manifest is None:
        raise FormatError("the base is no model of the store", "pull it, or make a model of it")
    return base.weights()
