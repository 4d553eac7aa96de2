"""`overt merge`: several models of one architecture become one, or adapters go into their base."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import verb
from overt.cli.output import Output, size
from overt.errors import Stopped, UsageError
from overt.lab.merge.methods import METHODS
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.lab.merge.recipe import MergePlan


@click.command("merge", short_help="make one model of several, or of a base and adapters")
@click.argument("refs", nargs=-1, required=True, metavar="REF... NAME")
@click.option("--method", type=click.Choice(METHODS), help="linear unless given.")
@click.option("--base", metavar="REF", help="What the models were made from; for task, ties, dare.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="FILE",
    help="A GGUF LoRA, a folder of peft, or a ref; repeat it.",
)
@click.option("--weights", metavar="N,N", help="How much of each model; 1 each unless given.")
@click.option("--density", metavar="N[,N]", help="Share of a model's changes that is kept: 0.5.")
@click.option(
    "--t", "t", type=click.FloatRange(0, 1), metavar="N", help="slerp: 0 first, 1 second."
)
@click.option("--scale", type=float, metavar="N", help="Of what is added to the base, or adapters.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="dare: of its draws.")
@click.option(
    "--type",
    "type_",
    type=click.Choice(["f32", "f16", "bf16"]),
    help="What matrices are stored as; f16 unless given.",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A merge file: YAML, amounts by layer.",
)
@verb
def command(out: Output, settings: Settings, refs: tuple[str, ...], **options: Any) -> int:
    """Make the model NAME of the models REF…, or of one REF and its adapters.

    \b
      overt merge my-poet my-clerk both --weights 0.7,0.3
      overt merge my-poet my-clerk both --method ties --base smollm2 --density 0.4
      overt merge smollm2 my-smollm --adapter ./adapter
      overt merge both --file merge.yaml

    The models have one architecture, one shape and one vocabulary. A merge file can give amounts by
    layer and by kind of tensor (docs/merge.md). The new model is not quantized; `overt quantize`
    does that. It carries its recipe, and the licences of all it is made of hold for it.
    """
    from overt.cli.pull import progress
    from overt.openness.permissions import gate
    from overt.provenance import run_recipe

    *models, name = refs
    try:
        with progress(out) as step:
            report = step or (lambda _: None)
            plan = _merge_plan(tuple(models), options, settings, report)
            made = run_recipe.make(plan.recipe, name, settings, report, _teller(out), plan.data)
    except KeyboardInterrupt:
        raise Stopped("stopped; what is done is kept", "the same command goes on") from None
    gate.prepare(name, settings)
    parents = [{"ref": p.ref, "role": p.role, "licence": p.licence} for p in plan.parents]
    for parent in plan.parents:
        out.note(f"{parent.role} {parent.ref}: {parent.licence or 'it states no licence'}")
    value = {
        "model": name,
        "digest": made.digest,
        "size": made.size,
        "licence": made.licence,
        "parents": parents,
        "parameters": dict(plan.recipe.parameters),
    }
    out.result(
        value,
        lambda: f"{name} is in the store: {size(made.size)}, {made.digest}",
        lambda: made.digest,
    )
    return 0


def _merge_plan(
    models: tuple[str, ...], options: dict[str, Any], settings: Settings, report: Any
) -> "MergePlan":
    """The recipe that the options mean.

    Raises:
        UsageError: options that do not go together.
    """
    from overt.lab.merge import plan, recipe

    if options["adapters"]:
        clash = [
            f"--{k}"
            for k in ("method", "base", "weights", "density", "t", "file", "seed")
            if options[k] is not None
        ]
        if len(models) != 1 or clash:
            what = f"{len(models)} models" if len(models) != 1 else clash[0]
            raise UsageError(
                f"--adapter goes with one model, and not with {what}",
                "overt merge REF NAME --adapter FILE",
            )
        scale = 1.0 if options["scale"] is None else options["scale"]
        added = [(adapter, scale) for adapter in options["adapters"]]
        return recipe.adapter_plan(models[0], added, options["type_"] or "f16", settings, report)
    if options["file"] is not None:
        used = [
            f"--{key}"
            for key in ("method", "base", "weights", "density", "t", "scale", "seed", "type_")
            if options[key] is not None
        ]
        if models or used:
            what = models[0] if models else used[0].rstrip("_")
            raise UsageError(
                f"the merge file names models and amounts, and {what} stands beside it",
                "overt merge NAME --file FILE, and the rest into the file",
            )
        merge = plan.read(options["file"])
    else:
        merge = plan.checked(_options(models, options))
    return recipe.models(merge, settings, report)


def _options(models: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The options as a merge file would say them."""
    if len(models) < (1 if options["base"] else 2):
        raise UsageError(
            f"{len(models)} models are named to be merged", "overt merge REF REF NAME takes two"
        )
    listed: list[dict[str, Any]] = [{"ref": ref} for ref in models]
    for option, key in (("weights", "weight"), ("density", "density")):
        numbers = _numbers(option, options[option], len(models))
        for entry, number in zip(listed, numbers, strict=False):
            entry[key] = number
    merge: dict[str, Any] = {"method": options["method"] or "linear", "models": listed}
    names = {"base": "base", "t": "t", "scale": "scale", "seed": "seed", "type_": "type"}
    return merge | {names[key]: options[key] for key in names if options[key] is not None}


def _numbers(option: str, text: str | None, count: int) -> list[float]:
    if text is None:
        return []
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--{option} is {text[:60]!r}", "numbers with commas: 0.7,0.3") from None
    if len(numbers) == 1 and option == "density":
        numbers *= count
    if len(numbers) != count:
        raise UsageError(
            f"--{option} has {len(numbers)} numbers for {count} models", "one for each, with commas"
        )
    return numbers


def _teller(out: Output) -> Any:
    def tell(event: Any) -> None:
        if event.get("kind") == "note":
            out.note(str(event.get("text")))

    return tell
