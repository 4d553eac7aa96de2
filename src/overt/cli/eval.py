"""`overt eval`: models scored on tasks, and receipts of it."""

from collections import Counter
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import SEED, asking_options, engine_options, verb
from overt.cli.output import Output, duration, pairs, table
from overt.errors import Stopped, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.evaluation.suites.run import SuiteOptions, SuiteProgress
    from overt.evaluation.suites.suite import Suite


@click.command("eval", short_help="score models on tasks, yours or known ones")
@click.argument("suite", required=False)
@click.option("-m", "--model", "refs", multiple=True, metavar="REF", help="A model; repeat it.")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The items, in place of the suite's own file.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="N items, drawn by the seed.")
@click.option(
    "--shots",
    "--fewshot",
    "shots",
    type=click.IntRange(0, 100),
    metavar="N",
    help="Worked examples.",
)
@click.option("--seed", type=SEED, metavar="N", help="For all draws.")
@click.option("--temperature", type=click.FloatRange(0, 100), metavar="N", help="0 unless given.")
@click.option("--max-tokens", type=click.IntRange(1, 1_000_000), metavar="N", help="Per answer.")
@click.option("--deterministic", is_flag=True, help="Same text whatever else is running.")
@asking_options("Requests on their way at once.")
@click.option("--judge", default="", metavar="REF", help="The model that judges.")
@click.option("--against", default="", metavar="REF", help="A judge compares with this model.")
@click.option(
    "--errors",
    type=click.Choice(["wrong", "leave-out"]),
    default="wrong",
    show_default=True,
    help="What a failed item counts as.",
)
@click.option(
    "--most-errors",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Stop where more items failed.",
)
@click.option("--no-cache", is_flag=True, help="Ask again what was answered before.")
@click.option("--texts", is_flag=True, help="Keep whole answers in the receipt.")
@click.option("--unsafe-code", is_flag=True, help="Run models' code without a sandbox.")
@click.option(
    "--lm-eval",
    "lm_eval_tasks",
    metavar="TASK[,TASK]",
    help="Tasks of lm-eval on the model named in place of SUITE.",
)
@click.option(
    "--include",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="lm-eval: a folder of task files.",
)
@click.option("--hub", is_flag=True, help="lm-eval: it may fetch data sets.")
@click.option("--new", metavar="NAME", help="Write a small suite to start from.")
@click.option("--show", metavar="RECEIPT", help="Show a receipt.")
@click.option("--compare", nargs=2, metavar="R1 R2", help="Compare two receipts.")
@engine_options
@verb
def command(
    out: Output,
    settings: Settings,
    suite: str | None,
    refs: tuple[str, ...],
    new: str | None,
    show: str | None,
    compare: tuple[str, str] | None,
    **options: Any,
) -> int:
    """Score each model on SUITE, a YAML file or one of gsm8k, mmlu, humaneval and ifeval.

    \b
      overt eval --new capitals
      overt eval capitals.yaml -m smollm2 -m gemma3
      overt eval gsm8k --data test.jsonl --limit 100 -m smollm2
      overt eval smollm2 --lm-eval hellaswag,arc_easy --hub

    Each score has a 95 % interval; two or more models are compared item by item. Answers are kept
    as they come: the same command goes on where it was stopped. docs/eval.md has the rest.
    """
    folder = settings.home / "evaluations"
    if sum(option is not None for option in (suite, new, show, compare)) != 1:
        raise UsageError(
            "give one of SUITE, --new, --show and --compare", "overt eval --new NAME is a start"
        )
    if new is not None:
        return _create_suite(out, new)
    if show is not None:
        return _show(out, show, folder)
    if compare is not None:
        return _compare(out, compare, folder)
    assert suite is not None
    if options["lm_eval_tasks"] is not None:
        from overt.cli.eval_lm import run

        return run(out, settings, (suite, *refs), options)
    return _run(out, settings, suite, refs or (settings.model,), options)


def _create_suite(out: Output, name: str) -> int:
    from overt.evaluation.suites.suite import create_template

    made = create_template(name, Path.cwd())
    out.result(
        {"suite": str(made[0]), "data": str(made[1])},
        lambda: f"{made[0].name} and {made[1].name} are written; try overt eval {made[0].name}",
        lambda: str(made[0]),
    )
    return 0


def _run(
    out: Output, settings: Settings, name: str, models: tuple[str, ...], flags: dict[str, Any]
) -> int:
    from overt.evaluation.suites import suite as task
    from overt.evaluation.suites.run import SuiteOptions

    if len(set(models)) < len(models):
        raise UsageError("the same model is named twice", "name each model once")
    suite = task.load(
        name,
        flags["data"],
        seed=flags["seed"],
        shots=flags["shots"],
        max_tokens=flags["max_tokens"],
        temperature=flags["temperature"],
    )
    options = SuiteOptions(
        concurrency=flags["concurrency"],
        limit=flags["limit"],
        errors=flags["errors"],
        most_errors=flags["most_errors"],
        fresh=flags["no_cache"],
        texts=flags["texts"],
        unsafe_code=flags["unsafe_code"],
        judge=flags["judge"],
        against=flags["against"],
        deterministic=flags["deterministic"],
    )
    budget = flags["budget"], flags["allow_unknown"]
    try:
        receipts = _evaluate(out, settings, suite, models, options, budget)
    except KeyboardInterrupt:
        raise Stopped(
            "stopped; the answers so far are kept", "the same command goes on from there"
        ) from None
    from overt.evaluation.suites.receipt import compare

    compared = [
        compare(receipts[i], receipts[j], suite.seed)
        for i in range(len(receipts))
        for j in range(i + 1, len(receipts))
    ]
    rows = [_record(receipt) for receipt in receipts]
    value = {**rows[0], "models": rows, "pairs": compared} if len(rows) > 1 else rows[0]
    out.result(value, lambda: _report(receipts, compared), lambda: f"{rows[0]['score']:.4f}")
    for note in dict.fromkeys(note for receipt in receipts for note in receipt["notes"]):
        out.note(f"note: {note}")
    return 0


def _evaluate(
    out: Output,
    settings: Settings,
    suite: "Suite",
    models: tuple[str, ...],
    options: "SuiteOptions",
    budget: tuple[float | None, bool],
) -> list[dict[str, Any]]:
    from dataclasses import replace

    from overt.cli.exchanges import run_each
    from overt.evaluation.suites.budget import Budget
    from overt.evaluation.suites.run import evaluate

    # A local model answers as many at once as are asked, where nobody said otherwise.
    if options.concurrency > 1 and settings.parallel == 0:
        settings = replace(settings, parallel=min(options.concurrency, 4))
    purse = Budget(settings, budget[0], budget[1])

    return run_each(
        models,
        settings,
        out,
        lambda model, exchange: evaluate(
            suite,
            model,
            exchange,
            settings,
            options,
            purse,
            lambda progress: out.status(_moving(progress)),
            out.note,
        ),
    )


def _moving(progress: "SuiteProgress") -> str:
    from overt.evaluation.compare_page import dollars

    parts = [f"{progress.model}: {progress.done} of {progress.total}"]
    if progress.score is not None:
        parts.append(f"score so far {progress.score:.3f}")
    if progress.errors:
        parts.append(f"{progress.errors} failed")
    if progress.left is not None:
        parts.append(f"{duration(progress.left)} left")
    if progress.spent:
        parts.append(f"{dollars(progress.spent)} spent")
    return ", ".join(parts)


def _record(receipt: dict[str, Any]) -> dict[str, Any]:
    """What --json prints of a model. The first four keys are a contract."""
    return {
        "score": receipt["score"],
        "interval": receipt["interval"],
        "n": receipt["n"],
        "receipt": receipt["path"],
        "model": receipt["model"]["ref"],
        "digest": receipt["model"]["digest"],
        "suite": receipt["suite"]["name"],
        "method": receipt["suite"]["method"],
        "interval_method": receipt["interval_method"],
        "summary": receipt["summary"],
        "totals": receipt["totals"],
        "notes": receipt["notes"],
    }


def _report(receipts: list[dict[str, Any]], compared: list[dict[str, Any]]) -> str:
    from overt.evaluation.compare_page import column

    costs = column([_cost(receipt["totals"]) for receipt in receipts])
    rows = [
        (
            receipt["model"]["ref"],
            f"{receipt['score']:.3f}",
            f"{receipt['interval'][0]:.3f} to {receipt['interval'][1]:.3f}",
            receipt["n"],
            receipt["totals"]["errors"],
            cost,
            duration(receipt["totals"]["seconds"]),
        )
        for receipt, cost in zip(receipts, costs, strict=True)
    ]
    parts = [table(("model", "score", "95 % interval", "n", "failed", "cost", "time"), rows)]
    for receipt in receipts:
        if lines := _extra(receipt):
            parts.append("\n".join(lines))
    if compared:
        parts.append("\n".join(_sentence(comparison) for comparison in compared))
    if "path" in receipts[0]:
        parts.append("\n".join(f"receipt: {receipt['path']}" for receipt in receipts))
    return "\n\n".join(parts)


def _cost(totals: dict[str, Any]) -> dict[str, Any]:
    """What is known of the cost, and of how many answers it is not; as `column` takes it."""
    known = bool(totals.get("cost_known"))
    least = totals.get("cost" if known else "cost_least")
    if not isinstance(least, int | float) or not 0 <= least < inf or not (known or least):
        least = None  # also in a receipt that somebody wrote by hand
    return {"cost": least, "cost_unknown": 0 if known else totals.get("cost_unknown", "some")}


def _extra(receipt: dict[str, Any]) -> list[str]:
    """Lines on what the mean alone does not tell."""
    totals, ref = receipt["totals"], receipt["model"]["ref"]
    lines = []
    if totals.get("cut"):
        lines.append(f"{ref}: {totals['cut']} answers were cut at max_tokens")
    if totals.get("refused"):
        lines.append(f"{ref}: {totals['refused']} times it refused to answer")
    if totals.get("not_judged"):
        lines.append(f"{ref}: {totals['not_judged']} items are not judged and left out")
    if totals.get("errors"):
        how = "left out" if receipt["parameters"]["errors"] == "leave-out" else "counted as wrong"
        lines.append(f"{ref}: {totals['errors']} items failed and are {how}")
    if len(by := Counter(item["by"] for item in receipt["items"] if item.get("by"))) > 1:
        answered_by = ", ".join(f"{model} {count}" for model, count in by.most_common())
        lines.append(f"{ref}: answered by {answered_by}")
    for name, value in receipt["summary"].items():
        if isinstance(value, int | float):
            lines.append(f"{ref}: {name.replace('_', ' ')} {round(value, 4)}")
    return lines


def _sentence(comparison: dict[str, Any]) -> str:
    low, high = comparison["interval"]
    text = (
        f"{comparison['first']} minus {comparison['second']}: {comparison['difference']:+.3f} "
        f"({low:+.3f} to"
        f" {high:+.3f}) over {comparison['n']} items"
    )
    if comparison["mcnemar_p"] is not None:
        text += (
            f"; only the first is right in {comparison['first_only']}, only the second in"
            f" {comparison['second_only']}, McNemar p = {comparison['mcnemar_p']:.3g}"
        )
    return text if comparison["same_suite"] else text + "; NOT asked or graded in the same way"


def _show(out: Output, where: str, folder: Path) -> int:
    from overt.evaluation.suites.receipt import read

    receipt = read(where, folder)

    def human() -> str:
        suite, model = receipt["suite"], receipt["model"]
        head = pairs(
            {
                "receipt": receipt.get("id"),
                "made": receipt.get("made"),
                "suite": suite.get("name"),
                "graded": suite.get("method"),
                "model": model.get("ref"),
                "digest": model.get("digest") or None,
                "sha256": receipt["sha256"],
                "interval": receipt.get("interval_method"),
            }
        )
        notes = [f"note: {note}" for note in receipt.get("notes", [])]
        return "\n\n".join([head, _report([receipt], []), *notes])

    out.result(receipt, human, lambda: f"{receipt['score']:.4f}")
    return 0


def _compare(out: Output, receipts: tuple[str, str], folder: Path) -> int:
    from overt.evaluation.suites.receipt import compare, read

    first, second = (read(name, folder) for name in receipts)
    comparison = compare(first, second)
    out.result(
        comparison, lambda: _sentence(comparison), lambda: f"{comparison['difference']:+.4f}"
    )
    return 0
