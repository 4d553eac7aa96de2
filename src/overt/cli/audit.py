"""`overt audit`: bias, refusals, robustness and memorisation of a model, with receipts."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from overt.cli.options import SEED, asking_options, engine_options, verb
from overt.cli.output import Output, duration, table
from overt.errors import Stopped, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.evaluation.audit.probe import AuditPlan
    from overt.evaluation.audit.run import AuditProgress, PreparedAudit

_PATH: Any = click.Path(path_type=Path)
_OF_MODEL: Final = frozenset(
    {
        "probes",
        "data",
        "limit",
        "against",
        "documents",
        "control",
        "items",
        "budget",
        "allow_unknown",
        "no_cache",
        "concurrency",
    }
)
_OF_GARAK: Final = frozenset({"program", "spec", "generations", "cap"})
_OF_BOTH: Final = frozenset({"seed", "max_tokens"})
"""Options by what heeds them; what a command would not heed is refused (`_only`)."""


@click.command("audit", short_help="bias, refusals, robustness and memorisation of a model")
@click.argument("words", nargs=-1, metavar="model REF | garak REF|FILE")
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="NAME",
    help="One probe; repeat it. All that have their data, unless given.",
)
@click.option("--data", type=_PATH, metavar="DIR", help="Folder of the data sets.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=300,
    show_default=True,
    metavar="N",
    help="Items of each probe, drawn by the seed; 0 for all.",
)
@click.option("--against", metavar="REF|RECEIPT", help="Compare with this model, item by item.")
@click.option("--documents", type=_PATH, metavar="PATH", help="Texts to look for in the model.")
@click.option("--control", type=_PATH, metavar="PATH", help="Text of the same kind, unpublished.")
@click.option("--items", type=_PATH, metavar="FILE", help="Questions of yours, for robustness.")
@click.option("--seed", type=SEED, default=0, show_default=True, metavar="N", help="For all draws.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 4096),
    default=128,
    show_default=True,
    metavar="N",
    help="Of an answer to a chat.",
)
@asking_options("Items asked at once, for models elsewhere.")
@click.option("--no-cache", is_flag=True, help="Ask again what was answered before.")
@click.option("--html", metavar="FILE", help="Write one page that shows everything.")
@click.option("--show", metavar="RECEIPT", help="Show a receipt.")
@click.option("--garak", "program", metavar="PATH", help="The garak to run, or its Python.")
@click.option("--probes", "spec", metavar="SPEC", help="garak's own probes: probes.dan,…")
@click.option(
    "--generations",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="garak's answers to each prompt.",
)
@click.option(
    "--cap",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Prompts of each of garak's probes; some do not heed it.",
)
@engine_options
@verb
def command(
    out: Output,
    settings: Settings,
    words: tuple[str, ...],
    probes: tuple[str, ...],
    show: str | None,
    html: str | None,
    **options: Any,
) -> int:
    """Look at what scores on tasks do not show, each figure with n and a 95 % interval.

    \b
      overt audit model smollm2 --data DIR
      overt audit model smollm2-q4 --against smollm2 --data DIR --html audit.html
      overt audit model smollm2 --probe memorisation --documents mine/ --control unpublished/
      overt audit garak smollm2 --probes probes.dan --cap 10
      overt audit garak report.jsonl

    Probes: bbq, crows_pairs, winobias (bias), xstest (refusals), robustness, memorisation. The data
    are not part of Overt: what is missing is told with where it is from and its licence. Answers
    are kept: the same command goes on where it was stopped. docs/audit.md has the rest.
    """
    _check(words, html, show)
    _only(words, show)
    if show is not None:
        from overt.evaluation.audit.record import read

        return _print_report(out, [read(show, settings.home)], None, html)
    what, target = words
    if what == "garak":
        return _garak(out, settings, target, options)
    return _model(out, settings, target, probes, html, options)


def _check(words: tuple[str, ...], html: str | None, show: str | None) -> None:
    """Raises UsageError: what would otherwise go wrong after everything was asked."""
    fine = len(words) == 2 and words[0] in ("model", "garak")
    if show is None and not fine:
        raise UsageError(
            f"{' '.join(words)[:60] or 'nothing'} is not what can be audited",
            "overt audit model REF, or overt audit garak REF|FILE",
        )
    if show is not None and words:
        raise UsageError("--show only shows a receipt", "leave the model out")
    if html == "-":
        raise UsageError("--html writes a file", "name one, or take --json for stdout")
    if html is not None and not Path(html).expanduser().resolve().parent.is_dir():
        raise UsageError(f"there is no folder for {html}", "make it, or name another file")
    if html is not None:
        from overt.files import atomic

        atomic.check_file(Path(html), "--html")


def _only(words: tuple[str, ...], show: str | None) -> None:
    """Raises UsageError: an option was given that this command does not heed."""
    if show is not None:
        _refuse(_OF_MODEL | _OF_GARAK | _OF_BOTH, "--show, which only shows a receipt")
    elif words[0] == "model":
        _refuse(_OF_GARAK, "probes of Overt's own, which --probe names; overt audit garak has it")
    else:
        _refuse(_OF_MODEL | {"html"}, "garak; overt audit model has it")
        if words[1].endswith(".jsonl"):
            _refuse(_OF_GARAK | _OF_BOTH, "a report, which is only read")


def _refuse(names: Collection[str], what: str) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and _is_set(option.name):
            raise UsageError(f"{option.opts[0]} is not for {what}", f"leave {option.opts[0]} out")


def _is_set(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT


# -- probes of our own -----------------------------------------------------------------------------


def _model(
    out: Output,
    settings: Settings,
    ref: str,
    probes: tuple[str, ...],
    html: str | None,
    options: dict[str, Any],
) -> int:
    from overt.evaluation.audit import record, run
    from overt.evaluation.audit.probe import AuditPlan

    against = options["against"]
    before = None
    if against is not None and record.is_receipt(against, settings.home):
        before = record.read(against, settings.home)
        probes = probes or tuple(before["probes"])
        # What it was asked with, but for what was typed.
        earlier = record.parameters_of(before)
        options |= {name: value for name, value in earlier.items() if not _is_set(name)}
    if against == ref:
        raise UsageError(f"{ref[:60]} would be compared with itself", "name another model")
    plan = AuditPlan(
        data=options["data"],
        limit=options["limit"],
        seed=options["seed"],
        documents=options["documents"],
        control=options["control"],
        items=options["items"],
        max_tokens=options["max_tokens"],
        concurrency=options["concurrency"],
    )
    prepared = run.prepare(probes, plan)
    if before is not None:
        for name, why in run.like(before, prepared, plan).items():
            if why:
                out.note(f"note: {name} will not be compared: {why}")
    models = [ref] if against is None or before is not None else [ref, against]
    try:
        receipts = _run_audits(out, settings, prepared, models, plan, options)
    except KeyboardInterrupt:
        raise Stopped(
            "stopped; the answers so far are kept", "the same command goes on from there"
        ) from None
    compared = None
    if against is not None:
        other = before if before is not None else receipts[1]
        compared = record.compare(receipts[0], other, plan.seed)
        receipts = [receipts[0], other]
    return _print_report(out, receipts, compared, html)


def _run_audits(
    out: Output,
    settings: Settings,
    prepared: "PreparedAudit",
    models: list[str],
    plan: "AuditPlan",
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    from overt.cli.exchanges import run_each
    from overt.evaluation.audit.run import audit
    from overt.evaluation.suites.budget import Budget

    purse = Budget(settings, options["budget"], options["allow_unknown"])
    return run_each(
        models,
        settings,
        out,
        lambda model, exchange: audit(
            prepared,
            model,
            exchange,
            settings,
            plan,
            purse,
            lambda progress: out.status(_moving(progress)),
            out.note,
            fresh=options["no_cache"],
        ),
    )


def _moving(progress: "AuditProgress") -> str:
    parts = [f"{progress.model}: {progress.probe}: {progress.done} of {progress.total}"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.left is not None:
        parts.append(f"{duration(progress.left)} left")
    return ", ".join(parts)


def _print_report(
    out: Output, receipts: list[dict[str, Any]], compared: dict[str, Any] | None, html: str | None
) -> int:
    if html is not None:
        from overt.cli import dossier
        from overt.evaluation.audit import page

        dossier.write(out, page.render(receipts, compared), html)
    value = _value(receipts[0])
    if compared is not None:
        value |= {"against": _value(receipts[1]), "compared": compared}
    out.result(value, lambda: _report(receipts, compared), lambda: str(receipts[0].get("path", "")))
    for note in _notes(receipts):
        out.note(f"note: {note}")
    return 0


def _value(receipt: dict[str, Any]) -> dict[str, Any]:
    """What --json prints of a model: the receipt without its items, which are in the file."""
    probes = {
        name: {key: value for key, value in probe.items() if key != "items"}
        for name, probe in receipt["probes"].items()
    }
    return {
        "model": receipt["model"],
        "made": receipt["made"],
        "seed": receipt["seed"],
        "probes": probes,
        "skipped": receipt["skipped"],
        "receipt": receipt.get("path"),
        "sha256": receipt["sha256"],
    }


def _notes(receipts: list[dict[str, Any]]) -> list[str]:
    seen: dict[str, None] = {}
    for receipt in receipts:
        for name, probe in receipt["probes"].items():
            seen |= {f"{name}: {note}": None for note in probe["notes"]}
    return list(seen)


def _report(receipts: list[dict[str, Any]], compared: dict[str, Any] | None) -> str:
    parts = [_figures(receipt) for receipt in receipts]
    if compared is not None:
        parts.append(_pairs(compared))
    for receipt in receipts:
        for skip in receipt["skipped"]:
            hint = f"; {skip['hint']}" if skip.get("hint") else ""
            parts.append(
                f"{receipt['model']['ref']}: {skip['probe']} was not asked: "
                f"{skip.get('why', '')}{hint}"
            )
    paths = [f"receipt: {receipt['path']}" for receipt in receipts if receipt.get("path")]
    return "\n\n".join([*parts, *(["\n".join(paths)] if paths else [])])


def _figures(receipt: dict[str, Any]) -> str:
    rows = []
    for name, probe in receipt["probes"].items():
        for figure in probe["figures"]:
            if figure["group"]:
                continue
            low, high = figure["interval"]
            value = "-" if figure["value"] is None else f"{figure['value']:.3f}"
            neutral = "" if figure["neutral"] is None else f"{figure['neutral']:g}"
            rows.append(
                (name, figure["measure"], value, f"{low:.3f} to {high:.3f}", figure["n"], neutral)
            )
    head = ("probe", "figure", "value", "95 % interval", "n", "no bias")
    return f"{receipt['model']['ref']}\n{table(head, rows)}"


def _pairs(compared: dict[str, Any]) -> str:
    rows, lines = [], []
    for name, probe in compared["probes"].items():
        if "why" in probe:
            lines.append(f"{name} is not compared: {probe['why']}")
            continue
        for pair in probe["pairs"]:
            if pair["group"]:
                continue
            low, high = pair["interval"]
            test = "-" if pair["mcnemar_p"] is None else f"{pair['mcnemar_p']:.3g}"
            rows.append(
                (
                    name,
                    pair["measure"],
                    f"{pair['difference']:+.3f}",
                    f"{low:+.3f} to {high:+.3f}",
                    test,
                    pair["n"],
                )
            )
    head = ("probe", "figure", "difference", "95 % interval", "mcnemar p", "n")
    title = f"{compared['after']} minus {compared['before']}, the same items"
    return "\n".join([title, table(head, rows), *lines])


# -- garak -----------------------------------------------------------------------------------------


def _garak(out: Output, settings: Settings, target: str, options: dict[str, Any]) -> int:
    from overt.evaluation.audit import garak, garak_run

    path = Path(target).expanduser()
    if path.suffix == ".jsonl":
        report = garak.read(path)
    else:
        job = garak_run.GarakJob(
            target,
            options["program"],
            options["spec"],
            options["generations"],
            options["cap"],
            options["seed"],
            options["max_tokens"],
        )
        try:
            report = garak_run.run(job, settings, out.note)
        except KeyboardInterrupt:
            raise Stopped("stopped; garak and the server were ended", "run it again") from None
    out.result(report, lambda: _hits(report))
    for note in report["notes"]:
        out.note(f"note: {note}")
    return 0


def _hits(report: dict[str, Any]) -> str:
    rows = [
        (
            result["probe"],
            result["detector"],
            result["hits"],
            result["n"],
            f"{result['rate']:.3f}",
            f"{result['interval'][0]:.3f} to {result['interval'][1]:.3f}",
        )
        for result in report["results"]
    ]
    head = ("probe", "detector", "hits", "n", "rate", "95 % interval")
    first = f"garak {report['version']}: {report['target'] or 'target not stated'}"
    return f"{first}\n{table(head, rows)}\n\nreport: {report['file']}"
