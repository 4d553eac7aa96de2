"""`overt eval`: models scored on tasks, and receipts of it."""

from collections import Counter
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import SEED, engine_options, verb
from overt.cli.output import Output, duration, pairs, table
from overt.errors import Stopped, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.evaluation.suites.run import Options, Progress
    from overt.evaluation.suites.suite import Suite


@click.command("eval", short_help="score models on tasks, yours or known ones")
@click.argument("suite", required=False)
@click.option("-m", "--model", "refs", multiple=True, metavar="REF", help="A model; repeat it.")
@click.option("--data", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="The items, in place of the suite's own file.")  # fmt: skip
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
@click.option("--concurrency", type=click.IntRange(1, 256), default=1, show_default=True,
              metavar="N", help="Requests on their way at once.")  # fmt: skip
@click.option(
    "--budget", type=click.FloatRange(0), metavar="USD", help="Stop before this is spent."
)
@click.option("--allow-unknown", is_flag=True, help="Go on where a price is not known.")
@click.option("--judge", default="", metavar="REF", help="The model that judges.")
@click.option("--against", default="", metavar="REF", help="A judge compares with this model.")
@click.option("--errors", type=click.Choice(["wrong", "leave-out"]), default="wrong",
              show_default=True, help="What a failed item counts as.")  # fmt: skip
@click.option("--most-errors", type=click.FloatRange(0, 1), default=0.2, show_default=True,
              metavar="SHARE", help="Stop where more items failed.")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Ask again what was answered before.")
@click.option("--texts", is_flag=True, help="Keep whole answers in the receipt.")
@click.option("--unsafe-code", is_flag=True, help="Run models' code without a sandbox.")
@click.option("--lm-eval", "lm_eval_tasks", metavar="TASK[,TASK]",
              help="Tasks of lm-eval on the model named in place of SUITE.")  # fmt: skip
@click.option("--include", type=click.Path(path_type=Path, exists=True, file_okay=False),
              metavar="DIR", help="lm-eval: a folder of task files.")  # fmt: skip
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
    **given: Any,
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
    if sum(one is not None for one in (suite, new, show, compare)) != 1:
        raise UsageError(
            "give one of SUITE, --new, --show and --compare", "overt eval --new NAME is a start"
        )
    if new is not None:
        return _new(out, new)
    if show is not None:
        return _show(out, show, folder)
    if compare is not None:
        return _compare(out, compare, folder)
    assert suite is not None
    if given["lm_eval_tasks"] is not None:
        from overt.cli.eval_lm import run

        return run(out, settings, (suite, *refs), given)
    return _run(out, settings, suite, refs or (settings.model,), given)


def _new(out: Output, name: str) -> int:
    from overt.evaluation.suites.suite import new

    made = new(name, Path.cwd())
    out.result(
        {"suite": str(made[0]), "data": str(made[1])},
        lambda: f"{made[0].name} and {made[1].name} are written; try overt eval {made[0].name}",
        lambda: str(made[0]),
    )
    return 0


def _run(
    out: Output, settings: Settings, name: str, models: tuple[str, ...], given: dict[str, Any]
) -> int:
    from overt.evaluation.suites import suite as task
    from overt.evaluation.suites.run import Options

    if len(set(models)) < len(models):
        raise UsageError("the same model is named twice", "name each model once")
    suite = task.load(
        name, given["data"], seed=given["seed"], shots=given["shots"],
        max_tokens=given["max_tokens"], temperature=given["temperature"],
    )  # fmt: skip
    options = Options(
        concurrency=given["concurrency"], limit=given["limit"], errors=given["errors"],
        most_errors=given["most_errors"], fresh=given["no_cache"], texts=given["texts"],
        unsafe_code=given["unsafe_code"], judge=given["judge"], against=given["against"],
        deterministic=given["deterministic"],
    )  # fmt: skip
    budget = given["budget"], given["allow_unknown"]
    try:
        found = _evaluate(out, settings, suite, models, options, budget)
    except KeyboardInterrupt:
        raise Stopped(
            "stopped; the answers so far are kept", "the same command goes on from there"
        ) from None
    from overt.evaluation.suites.receipt import compare

    compared = [
        compare(found[i], found[j], suite.seed)
        for i in range(len(found))
        for j in range(i + 1, len(found))
    ]
    rows = [_record(one) for one in found]
    value = {**rows[0], "models": rows, "pairs": compared} if len(rows) > 1 else rows[0]
    out.result(value, lambda: _report(found, compared), lambda: f"{rows[0]['score']:.4f}")
    for note in dict.fromkeys(note for one in found for note in one["notes"]):
        out.note(f"note: {note}")
    return 0


def _evaluate(
    out: Output,
    settings: Settings,
    suite: "Suite",
    models: tuple[str, ...],
    options: "Options",
    budget: tuple[float | None, bool],
) -> list[dict[str, Any]]:
    from dataclasses import replace

    from overt.cli.exchanges import each
    from overt.evaluation.suites.budget import Purse
    from overt.evaluation.suites.run import evaluate

    # A local model answers as many at once as are asked, where nobody said otherwise.
    if options.concurrency > 1 and settings.parallel == 0:
        settings = replace(settings, parallel=min(options.concurrency, 4))
    purse = Purse(settings, budget[0], budget[1])

    return each(models, settings, out, lambda model, exchange: evaluate(
        suite, model, exchange, settings, options, purse,
        lambda progress: out.status(_moving(progress)), out.note,
    ))  # fmt: skip


def _moving(one: "Progress") -> str:
    from overt.evaluation.compare_page import dollars

    parts = [f"{one.model}: {one.done} of {one.total}"]
    if one.score is not None:
        parts.append(f"score so far {one.score:.3f}")
    if one.errors:
        parts.append(f"{one.errors} failed")
    if one.left is not None:
        parts.append(f"{duration(one.left)} left")
    if one.spent:
        parts.append(f"{dollars(one.spent)} spent")
    return ", ".join(parts)


def _record(one: dict[str, Any]) -> dict[str, Any]:
    """What --json prints of a model. The first four keys are a contract."""
    return {
        "score": one["score"],
        "interval": one["interval"],
        "n": one["n"],
        "receipt": one["path"],
        "model": one["model"]["ref"],
        "digest": one["model"]["digest"],
        "suite": one["suite"]["name"],
        "method": one["suite"]["method"],
        "interval_method": one["interval_method"],
        "summary": one["summary"],
        "totals": one["totals"],
        "notes": one["notes"],
    }


def _report(found: list[dict[str, Any]], compared: list[dict[str, Any]]) -> str:
    from overt.evaluation.compare_page import column

    costs = column([_cost(one["totals"]) for one in found])
    rows = [
        (
            one["model"]["ref"],
            f"{one['score']:.3f}",
            f"{one['interval'][0]:.3f} to {one['interval'][1]:.3f}",
            one["n"],
            one["totals"]["errors"],
            cost,
            duration(one["totals"]["seconds"]),
        )
        for one, cost in zip(found, costs, strict=True)
    ]
    parts = [table(("model", "score", "95 % interval", "n", "failed", "cost", "time"), rows)]
    for one in found:
        if lines := _extra(one):
            parts.append("\n".join(lines))
    if compared:
        parts.append("\n".join(_sentence(one) for one in compared))
    if "path" in found[0]:
        parts.append("\n".join(f"receipt: {one['path']}" for one in found))
    return "\n\n".join(parts)


def _cost(totals: dict[str, Any]) -> dict[str, Any]:
    """What is known of the cost, and of how many answers it is not; as `column` takes it."""
    known = bool(totals.get("cost_known"))
    least = totals.get("cost" if known else "cost_least")
    if not isinstance(least, int | float) or not 0 <= least < inf or not (known or least):
        least = None  # also in a receipt that somebody wrote by hand
    return {"cost": least, "cost_unknown": 0 if known else totals.get("cost_unknown", "some")}


def _extra(one: dict[str, Any]) -> list[str]:
    """Lines on what the mean alone does not tell."""
    totals, ref = one["totals"], one["model"]["ref"]
    lines = []
    if totals.get("cut"):
        lines.append(f"{ref}: {totals['cut']} answers were cut at max_tokens")
    if totals.get("refused"):
        lines.append(f"{ref}: {totals['refused']} times it refused to answer")
    if totals.get("not_judged"):
        lines.append(f"{ref}: {totals['not_judged']} items are not judged and left out")
    if totals.get("errors"):
        how = "left out" if one["parameters"]["errors"] == "leave-out" else "counted as wrong"
        lines.append(f"{ref}: {totals['errors']} items failed and are {how}")
    if len(by := Counter(item["by"] for item in one["items"] if item.get("by"))) > 1:
        said = ", ".join(f"{model} {count}" for model, count in by.most_common())
        lines.append(f"{ref}: answered by {said}")
    for name, value in one["summary"].items():
        if isinstance(value, int | float):
            lines.append(f"{ref}: {name.replace('_', ' ')} {round(value, 4)}")
    return lines


def _sentence(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    text = (
        f"{one['first']} minus {one['second']}: {one['difference']:+.3f} ({low:+.3f} to"
        f" {high:+.3f}) over {one['n']} items"
    )
    if one["mcnemar_p"] is not None:
        text += (
            f"; only the first is right in {one['first_only']}, only the second in"
            f" {one['second_only']}, McNemar p = {one['mcnemar_p']:.3g}"
        )
    return text if one["same_suite"] else text + "; NOT asked or graded in the same way"


def _show(out: Output, where: str, folder: Path) -> int:
    from overt.evaluation.suites.receipt import read

    found = read(where, folder)

    def human() -> str:
        suite, model = found["suite"], found["model"]
        head = pairs(
            {
                "receipt": found.get("id"), "made": found.get("made"), "suite": suite.get("name"),
                "graded": suite.get("method"), "model": model.get("ref"),
                "digest": model.get("digest") or None, "sha256": found["sha256"],
                "interval": found.get("interval_method"),
            }
        )  # fmt: skip
        notes = [f"note: {note}" for note in found.get("notes", [])]
        return "\n\n".join([head, _report([found], []), *notes])

    out.result(found, human, lambda: f"{found['score']:.4f}")
    return 0


def _compare(out: Output, receipts: tuple[str, str], folder: Path) -> int:
    from overt.evaluation.suites.receipt import compare, read

    first, second = (read(one, folder) for one in receipts)
    found = compare(first, second)
    out.result(found, lambda: _sentence(found), lambda: f"{found['difference']:+.4f}")
    return 0
