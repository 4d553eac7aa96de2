"""`overt quantize`: a model in fewer bits, and what that cost."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from overt.cli.options import THREADS, threads, verb
from overt.cli.output import Output, duration, size, table
from overt.errors import Stopped, UsageError, lacking
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.evaluation.suites.suite import Suite
    from overt.lab.quantize.frontier import FrontierChoice
    from overt.lab.quantize.table import QuantizePass, QuantizePlan
    from overt.lab.quantize.types import QuantType
    from overt.models.store import Manifest

_PATH = click.Path(path_type=Path)
_SHOWN = ("timing", "quantizing")  # notes of what the progress shows already


@click.command("quantize", short_help="make a model smaller, and measure what it cost")
@click.argument("source", metavar="REF")
@click.argument("name", required=False)
@click.option(
    "-q",
    "--type",
    "type_",
    required=True,
    metavar="TYPE",
    help="q4_k_m and the like, several with commas, all, or auto.",
)
@click.option("--imatrix", metavar="FILE|auto", help="An importance matrix; auto computes one.")
@click.option("--calibrate", type=_PATH, metavar="FILE", help="Compute it on this text.")
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="PATTERN=TYPE",
    help="Tensors whose name has PATTERN in it; repeat it.",
)
@click.option("--output-type", metavar="TYPE", help="For the output matrix.")
@click.option("--embedding-type", metavar="TYPE", help="For the embedding of tokens.")
@click.option("--keep-output", is_flag=True, help="Leave the output matrix as it is.")
@click.option("--pure", is_flag=True, help="One type for all; no mix of better ones.")
@click.option("--text", type=_PATH, metavar="FILE", help="Measure on this text.")
@click.option(
    "--windows",
    type=click.IntRange(1, 10_000),
    default=16,
    show_default=True,
    metavar="N",
    help="The most windows of it that are read.",
)
@click.option(
    "--window",
    type=click.IntRange(32, 8192),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens of a window.",
)
@click.option(
    "--runs",
    type=click.IntRange(0, 100),
    default=3,
    show_default=True,
    metavar="N",
    help="Times the speed is measured.",
)
@click.option(
    "--max-kld",
    type=click.FloatRange(0, 100),
    metavar="X",
    help="auto: the mean divergence that is good enough; 0.05 unless given.",
)
@click.option("--plot", type=_PATH, metavar="FILE", help="Draw size against divergence as PNG.")
@click.option("--task", metavar="SUITE", help="Score source and results on a suite, too.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Items of the suite.")
@click.option("--keep", is_flag=True, help="Store every type, as NAME-TYPE.")
@click.option("--no-measure", is_flag=True, help="Only quantize.")
@click.option("--memory", metavar="SIZE", help="auto: most memory the model may take: 8g, 500m.")
@click.option("--threads", type=int, metavar="N", help=f"{THREADS} 1 unless given.")
@click.option("--isolation", metavar="HOW", help="Sandbox: best, full, off.")
@verb
def command(
    out: Output, settings: Settings, source: str, name: str | None, type_: str, **options: Any
) -> int:
    """Quantize the GGUF model REF, and measure it against REF.

    \b
      overt quantize smollm2 small -q q4_k_m
      overt quantize smollm2 -q q8_0,q5_k_m,q4_0 --plot frontier.png
      overt quantize smollm2 small -q auto --max-kld 0.02

    Without NAME there is only the table. It tells the real bits per weight, the KL divergence to
    REF with its 95 % interval, how often both hold the same token for the likeliest, perplexity,
    memory and speed. What is done is kept: the same command goes on where it was stopped.
    """
    from overt.cli.pull import progress
    from overt.lab.quantize import types

    auto = type_.strip().lower() == types.AUTO
    wanted = () if auto else types.chosen(type_)
    _check(wanted, name, options, auto=auto)
    options["suite"] = _suite(options["task"])
    try:
        with progress(out) as step:
            plan = _plan(source, settings, options, step)
            value, rows = _run_pass(
                out, settings, plan, wanted, name, options, step or (lambda _: None)
            )
    except KeyboardInterrupt:
        raise Stopped("stopped; what is done is kept", "the same command goes on") from None
    out.result(value, lambda: _report(value, rows), lambda: _quiet_report(value))
    return 0


for _option in command.params:  # -q names the type here, and --quiet has its long form alone
    if _option.name == "quiet":
        _option.opts.remove("-q")


def _check(
    wanted: "Sequence[QuantType]", name: str | None, options: Mapping[str, Any], *, auto: bool
) -> None:
    """Refuse what can be refused before anything is read, pulled or computed.

    Raises:
        UsageError: options that do not go together, or would do nothing.
        BadRef: NAME is no name for a model of one's own.
        NotFound, FormatError: there is no such suite.
        Unsupported: a package that is needed at the end is not installed.
    """
    for wrong, message, hint in (
        *_of_options(options, auto=auto),
        *_of_names(wanted, name, options),
    ):
        if wrong:
            raise UsageError(message, hint)
    if name:
        from overt.models.modelfile_build import parse_name
        from overt.provenance import receipts

        receipts.need()
        for model_name in [f"{name}-{type.name}" for type in wanted] if options["keep"] else [name]:
            parse_name(model_name)
    if options["plot"]:
        from overt.files import atomic

        if not find_spec("matplotlib"):
            raise lacking("a plot", "matplotlib")
        atomic.check_file(options["plot"], "--plot")


def _of_options(options: Mapping[str, Any], *, auto: bool) -> list[tuple[bool, str, str]]:
    """Options that do not go together: whether it is so, the message, and the hint."""
    computed = options["imatrix"] == "auto" or bool(options["calibrate"])
    unmeasured = (
        [
            f"--{option}"
            for option in ("text", "windows", "window", "runs", "plot", "task", "limit")
            if _typed(option) and not (option == "window" and computed)
        ]
        if options["no_measure"]
        else []
    )
    return [
        (
            bool(unmeasured),
            f"{' and '.join(unmeasured)} would do nothing with --no-measure",
            "leave one or the other out",
        ),
        (
            options["limit"] is not None and not options["task"],
            "--limit is for the items of a --task",
            "--task SUITE --limit N",
        ),
        (
            _typed("memory") and not (auto or options["task"]),
            "--memory is for -q auto",
            "-q auto --memory 8g",
        ),
        (
            options["max_kld"] is not None and not auto,
            "--max-kld is for -q auto",
            "-q auto --max-kld 0.02",
        ),
        (
            options["imatrix"] not in (None, "auto") and bool(options["calibrate"]),
            "--imatrix FILE and --calibrate are two matrices",
            "give one of them",
        ),
        (auto and not options["runs"], "-q auto chooses by speed", "leave --runs 0 out"),
        (
            auto and options["keep"],
            "-q auto stores one model, which is called NAME",
            "leave --keep out",
        ),
        (
            options["keep_output"] and bool(options["output_type"]),
            "--keep-output leaves the output matrix as it is, and --output-type does not",
            "give one of them",
        ),
    ]


def _of_names(
    wanted: "Sequence[QuantType]", name: str | None, options: Mapping[str, Any]
) -> list[tuple[bool, str, str]]:
    """The same of the types and NAME; no types are wanted by ``auto``."""
    from overt.lab.quantize.types import PLAIN

    plain = bool(wanted) and all(type.tensor in PLAIN for type in wanted)
    return [
        (options["keep"] and not name, "--keep stores models as NAME-TYPE", "give a NAME"),
        (
            bool(name) and len(wanted) > 1 and not options["keep"],
            f"-q names {len(wanted)} types and NAME can be one model",
            "add --keep for NAME-TYPE each, or leave NAME out",
        ),
        (
            options["no_measure"] and not (wanted and name),
            "--no-measure leaves nothing to tell",
            "give types and a NAME, or measure",
        ),
        (
            bool(options["task"]) and not name,
            "a task is scored on models of the store",
            "give a NAME, with --keep",
        ),
        (
            plain and bool(options["tensors"]),
            "--tensor would do nothing: llama.cpp gives all tensors of an f16 and the like one "
            "type",
            "-q q8_0 --tensor PATTERN=f16",
        ),
    ]


def _typed(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is ParameterSource.COMMANDLINE


def _plan(source: str, settings: Settings, options: Mapping[str, Any], step: Any) -> "QuantizePlan":
    from overt.lab.quantize import texts, types
    from overt.lab.quantize.table import QuantizePlan
    from overt.provenance import inputs

    parameters: dict[str, Any] = {}
    if options["tensors"]:
        parameters["tensors"] = [list(types.override(override)) for override in options["tensors"]]
    for key, option in (("output", "output_type"), ("embedding", "embedding_type")):
        if options[option]:
            types.tensor_type(options[option])
            parameters[key] = options[option].strip().lower()
    for key in ("pure", "keep_output"):
        if options[key]:
            parameters[key] = True
    computed = options["imatrix"] == "auto" or options["calibrate"]
    model = inputs.model(source, settings, step)
    inputs.refuse_adapter(model.manifest, source)
    return QuantizePlan(
        model=model,
        text=options["text"] or texts.MEASURE,
        window=options["window"],
        windows=options["windows"],
        runs=options["runs"],
        threads=threads(settings, 1),
        parameters=parameters,
        imatrix=None if options["imatrix"] is None or computed else Path(options["imatrix"]),
        calibrate=(options["calibrate"] or texts.CALIBRATE) if computed else None,
    )


def _run_pass(
    out: Output,
    settings: Settings,
    plan: "QuantizePlan",
    wanted: "Sequence[QuantType]",
    name: str | None,
    options: Mapping[str, Any],
    step: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from overt.lab.quantize import types
    from overt.lab.quantize.table import QuantizePass

    def tell(event: Mapping[str, Any]) -> None:
        if event.get("kind") == "progress":
            out.note(_waiting(event))
        elif event.get("kind") == "note" and not str(event["text"]).startswith(_SHOWN):
            out.note(str(event["text"]))

    with QuantizePass(plan, settings, step, tell) as work:
        already = types.quantized_already(work.header)
        if already:
            out.warn(
                f"{plan.model.ref} is quantized already "
                f"({types.describe_mix(types.mix_of(work.header))}): "
                "figures tell the loss against it, not against the weights it was made from"
            )
        each = bool(options["keep"])
        if options["no_measure"]:
            failed = work.files(wanted)
            stored = _store_models(work, wanted, name, failed, each=each)
            value = _value(plan, work, [], failed, None, already) | _stored(stored)
            work.end()
            return value, []
        choice, rows, failed = _measured(work, wanted, settings, options)
        stored = _store_models(work, [choice.type] if choice else wanted, name, failed, each=each)
        value = _value(plan, work, rows, failed, choice, already) | _stored(stored)
        if options["task"]:
            value["task"] = _scored(out, settings, plan, stored, options)
        if options["plot"]:
            from overt.lab.quantize.plot import png

            title = f"{plan.model.ref}: {value['scored_tokens']} tokens of {plan.text.name}"
            limit = value["max_kld"] if choice else None
            png(options["plot"], [row for row in rows if row["type"] != "source"], title, limit)
            value["plot"] = str(options["plot"])
        value["measurement"] = str(work.keep(value))
    return value, rows


def _measured(
    work: "QuantizePass",
    wanted: "Sequence[QuantType]",
    settings: Settings,
    options: Mapping[str, Any],
) -> "tuple[FrontierChoice | None, list[dict[str, Any]], dict[str, str]]":
    """The rows, the source first; with auto, what it chose."""
    from overt.lab.quantize.frontier import MAX_KLD
    from overt.lab.quantize.types import TYPES
    from overt.models import memory

    if wanted:
        return None, *work.rows(wanted)
    limit = MAX_KLD if options["max_kld"] is None else options["max_kld"]
    choice = work.choose(limit, settings.memory or memory.free_memory())
    ordered = [type_name for type_name in TYPES if type_name in choice.rows]
    source = work.source_row() | work.raced([None]).get("source", {})
    return choice, [source, *(dict(choice.rows[type_name]) for type_name in ordered)], {}


def _store_models(
    work: "QuantizePass",
    wanted: "Sequence[QuantType]",
    name: str | None,
    failed: Mapping[str, str],
    *,
    each: bool,
) -> "dict[str, Manifest]":
    if not name:
        return {}
    return {
        (f"{name}-{type.name}" if each else name): work.store(
            type, f"{name}-{type.name}" if each else name
        )
        for type in wanted
        if type.name not in failed
    }


def _stored(stored: "Mapping[str, Manifest]") -> dict[str, Any]:
    models = [
        {"model": name, "digest": made.digest, "size": made.size, "licence": made.licence}
        for name, made in stored.items()
    ]
    return {"models": models} | ({} if len(models) != 1 else dict(models[0]))


def _value(
    plan: "QuantizePlan",
    work: "QuantizePass",
    rows: Sequence[Mapping[str, Any]],
    failed: Mapping[str, str],
    choice: "FrontierChoice | None",
    already: Sequence[str],
) -> dict[str, Any]:
    from overt.lab.quantize import record

    value: dict[str, Any] = {
        "source": plan.model.ref,
        "source_digest": plan.model.digest,
        "source_types": list(already),
        "threads": plan.threads,
        "imatrix": "file" if plan.imatrix else "computed" if plan.calibrate else "none",
        "types": [dict(row) for row in rows if row["type"] != "source"],
        "failed": dict(failed),
    }
    if rows:
        value |= {
            "text": plan.text.name,
            "window": work.window,
            "windows": len(work.text.windows),
            "scored_tokens": work.text.scored,
            "base": dict(rows[0]),
            "notes": record.notes(plan.model.ref, rows, choice.type.name if choice else ""),
        }
    if choice:
        value |= {"max_kld": choice.limit, "memory": choice.memory}
        value |= {"chosen": choice.type.name, "reasons": dict(choice.reasons)}
    return value


def _suite(name: str | None) -> "Suite | None":
    """The suite of ``--task``, read before anything is computed."""
    if not name:
        return None
    from overt.evaluation.suites import suite as task

    return task.load(name, ())


def _scored(
    out: Output,
    settings: Settings,
    plan: "QuantizePlan",
    stored: "Mapping[str, Manifest]",
    flags: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The source and what was stored, scored on a suite item by item."""
    from overt.cli.exchanges import run_each
    from overt.evaluation.suites.budget import Budget
    from overt.evaluation.suites.run import SuiteOptions, evaluate

    suite = flags["suite"]
    options, purse = SuiteOptions(limit=flags["limit"]), Budget(settings, None, False)
    refs = (plan.model.ref, *stored)
    receipts = run_each(
        refs,
        settings,
        out,
        lambda ref, exchange: evaluate(
            suite, ref, exchange, settings, options, purse, lambda _: None, out.note
        ),
    )
    return [
        {
            "model": ref,
            "suite": flags["task"],
            "score": got["score"],
            "interval": got["interval"],
            "n": got["n"],
            "receipt": got["path"],
        }
        for ref, got in zip(refs, receipts, strict=True)
    ]


# ---- what people read --------------------------------------------------------------------------


def _waiting(event: Mapping[str, Any]) -> str:
    """How far a table is: ``q6_k: 3 of 34 types, about 12 min 5 s left``."""
    left = f", about {duration(event['left'])} left" if event["left"] else ""
    return f"{event['what']}: {event['done']} of {event['total']} {event['of']}{left}"


def _report(value: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    from overt.lab.quantize.frontier import plot

    lines = []
    if rows:
        lines.append(_table(rows))
        shown = [row for row in rows if row["type"] != "source"]
        if len(shown) > 1:
            lines += ["", plot(shown)]
        lines += ["", _about(value)]
        lines += [row["label_note"] for row in rows if row.get("label_note")]
        lines += value["notes"]
    lines += [f"{name} was not made: {why}" for name, why in value["failed"].items()]
    if "chosen" in value:
        lines += ["", f"chosen: {value['chosen']}"]
        lines += [f"  {name}: {why}" for name, why in value["reasons"].items()]
    for task in value.get("task", ()):
        low, high = task["interval"]
        lines.append(
            f"{task['suite']}: {task['model']} {task['score']:.3f} ({low:.3f} to {high:.3f}), "
            f"n {task['n']}"
        )
    lines += [
        f"{model['model']} is in the store: {size(model['size'])}, {model['digest']}"
        for model in value["models"]
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "type",
        "bits",
        "size",
        "memory",
        "kld",
        "95 %",
        "p99",
        "top-1",
        "perplexity",
        "prompt/s",
        "decode/s",
    )
    body = []
    for row in rows:
        low, high = row["kld_mean_interval"]
        body.append(
            (
                row["type"],
                f"{row['bits_per_weight']:.2f}",
                size(row["bytes"]),
                size(row["load_memory"]) if row.get("load_memory") else "-",
                f"{row['kld_mean']:.5f}",
                f"{low:.5f}..{high:.5f}",
                f"{row['kld_p99']:.4f}",
                f"{100 * row['top1']:.1f} %",
                f"{row['perplexity']:.2f}",
                f"{row['prompt_tps']:.0f}" if "prompt_tps" in row else "-",
                f"{row['decode_tps']:.1f}" if "decode_tps" in row else "-",
            )
        )
    return table(head, body)


def _about(value: Mapping[str, Any]) -> str:
    return (
        f"{value['scored_tokens']} tokens of {value['text']}, the second half of each of "
        f"{value['windows']} windows of {value['window']}; KL divergence of the source from the "
        f"type in nats a token; speed: the median of runs in turns on {value['threads']} "
        f"{'thread' if value['threads'] == 1 else 'threads'}; memory: resident after a prompt"
    )


def _quiet_report(value: Mapping[str, Any]) -> str:
    if value["models"]:
        return "\n".join(model["digest"] for model in value["models"])
    return "\n".join(f"{row['type']} {row['kld_mean']:.6f}" for row in value["types"])
