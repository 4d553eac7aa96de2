"""`overt compare`: the same requests to several models, open and closed, side by side."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from overt.cli.options import THREADS, read_bytes, sampling_options, take_sampling, verb
from overt.cli.output import Output
from overt.errors import OvertError, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.cli.voting import Ballot
    from overt.evaluation.compare import Comparison, ComparisonPlan
    from overt.evaluation.prompts import PromptCase
    from overt.evaluation.timing import TimedAnswer

_FILES: Final = (".jsonl", ".csv", ".txt", ".md")
_EVERY: Final = 0.1  # seconds between two states of the progress line
_STOPPED: Final = 130


@click.command("compare", short_help="ask several models the same, side by side")
@click.argument("words", nargs=-1, metavar="PROMPT|FILE")
@click.option("-m", "--model", "named", multiple=True, metavar="REF", help="A model; repeat it.")
@click.option("--system", metavar="TEXT", help="Instructions before each request.")
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="Ask N times and show medians.",
)
@click.option("--parallel", "together", is_flag=True, help="Ask models of other servers at once.")
@click.option(
    "--budget",
    type=click.FloatRange(0),
    metavar="USD",
    help="Begin no request once the known costs reach it.",
)
@click.option("--blind", is_flag=True, help="Hide the names, and vote.")
@click.option("--votes", "show_votes", is_flag=True, help="Show what all votes add up to.")
@click.option("--html", metavar="FILE", help="Write one page that shows everything.")
@click.option("--context", type=int, metavar="N", help="Tokens of context; 0 is the model's own.")
@click.option("--threads", type=int, metavar="N", help=THREADS)
@sampling_options
@verb
def command(
    out: Output,
    settings: Settings,
    words: tuple[str, ...],
    named: tuple[str, ...],  # not `models`, which is a setting
    system: str | None,
    repeat: int,
    together: bool,
    budget: float | None,
    blind: bool,
    show_votes: bool,
    html: str | None,
    **options: Any,
) -> int:
    """Ask several models the same and set beside each other what they answer, how fast, what it
    costs, where the words went, how open each model is and whether its licence lets you run it.

    \b
      overt compare "Why is the sky blue?" -m smollm2 -m openai:gpt-5 --html report.html
      overt compare questions.jsonl -m smollm2 -m gemma3 --repeat 5 --temperature 0
      overt compare questions.csv -m smollm2 -m gemma3 --blind
      overt compare --votes

    FILE is text (one prompt), JSONL ({"prompt": …} or {"messages": […]} a line) or CSV with a
    column prompt. A model that fails says so, and the others go on. With --blind you vote on
    answers whose models are hidden; --votes shows the strengths that all votes add up to.
    """
    if show_votes:
        if words or named:
            raise UsageError("--votes only shows the table", "leave the prompt and -m out")
        return _table(out, settings)
    from overt.evaluation.compare import ComparisonPlan
    from overt.prices import file

    _check(words, named, html)
    file.load(settings.home / "prices.toml")  # a damaged one is said before anything is paid
    asks = _asks(words, system)
    plan = ComparisonPlan(
        named,
        asks,
        take_sampling(options),
        options["max_tokens"],
        tuple(options["stop"]),
        repeat,
        together,
        budget,
    )
    ballot = None
    if blind:
        from overt.cli.voting import Ballot

        ballot = Ballot(out, settings, named)
    return _compare(out, settings, plan, ballot, html)


def _check(words: tuple[str, ...], models: tuple[str, ...], html: str | None) -> None:
    """What would otherwise go wrong after everything was asked and paid. Raises UsageError."""
    if not words:
        raise UsageError(
            "there is nothing to ask", 'write it: overt compare "Hello" -m smollm2 -m gemma3'
        )
    if not models:
        raise UsageError(
            "no model is named", "name one or more: -m smollm2 (`overt list` shows what is here)"
        )
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice[:80]} is named twice", "ask a model again with --repeat N")
    if html == "-":
        raise UsageError("--html writes a file", "name one, or take --json for stdout")
    if html is not None and not Path(html).expanduser().resolve().parent.is_dir():
        raise UsageError(f"there is no folder for {html}", "make it, or name another file")


def _asks(words: tuple[str, ...], system: str | None) -> "tuple[PromptCase, ...]":
    """The requests of a prompt or a file. Raises BadRequest."""
    from overt.evaluation import prompts as asks

    text = " ".join(words)
    path = Path(text)
    named = len(words) == 1 and len(text) < 4096 and "\n" not in text
    if named and ((path.suffix.lower() in _FILES and " " not in text) or _is_file(path)):
        return asks.of_file(path, read_bytes(path, "FILE", asks.MAX_BYTES), system)
    return (asks.of_text(text, system),)


def _is_file(path: Path) -> bool:
    try:
        return path.expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # no such user
        return False


# -- asking ----------------------------------------------------------------------------------------


def _compare(
    out: Output,
    settings: Settings,
    plan: "ComparisonPlan",
    ballot: "Ballot | None",
    html: str | None,
) -> int:
    from overt.evaluation import compare

    held: list[str] = []  # remarks that would tell whose the answers are
    comparison, stopped = _run_comparison(out, settings, plan, held if ballot else None)
    out.clear()
    trouble = None
    if ballot is not None and not stopped:
        trouble = _voted(ballot, comparison)
    out.status("looking up openness and licences")
    compare.complete(comparison.rows, settings)
    out.clear()
    document = _document(comparison)
    if ballot is not None:
        document["votes"] = [vote.as_json() for vote in ballot.given]
    if stopped:
        document["ended"] = f"stopped after {len(comparison.rows)} of {comparison.count} answers"
    path = _keep(out, settings, document)
    if html is not None:
        _write(html, document, out)
    if trouble is not None:
        out.note(f"the answers are kept in {path}" if path else "the answers could not be kept")
        raise trouble
    for remark in held:
        out.note(remark)
    _show(out, document, ballot)
    unknown = sum(row.cost is None for row in comparison.rows)
    if plan.budget is not None and unknown:
        out.note(f"{unknown} of {len(comparison.rows)} costs are not known and were not counted")
    if path is not None:
        out.note(f"kept in {path}")
    if stopped:
        return _STOPPED
    return 1 if all(row.error for row in comparison.rows) else 0


def _voted(ballot: "Ballot", comparison: "Comparison") -> OvertError | None:
    """Have a person vote; what goes wrong must not lose the answers, so it is returned."""
    try:
        ballot.vote(comparison.plan.asks, comparison.rows)
    except KeyboardInterrupt:
        return None  # no more votes are wanted; those that were given count
    except OvertError as error:
        return error
    return None


def _run_comparison(
    out: Output, settings: Settings, plan: "ComparisonPlan", held: list[str] | None
) -> "tuple[Comparison, bool]":
    """The comparison with its rows, and whether a person stopped it."""
    import asyncio

    from overt.evaluation.compare import Comparison
    from overt.gateway.exchange import Exchange
    from overt.runtime import cpu  # noqa: F401 - from here it watches how busy the cores are

    exchange = Exchange(settings, out.note if held is None else held.append)
    comparison = Comparison(exchange, plan, settings, _progress(out, blind=held is not None))

    async def run() -> None:
        try:
            await comparison.run()
        finally:
            await exchange.close()

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return comparison, True
    return comparison, False


def _progress(out: Output, *, blind: bool) -> Any:
    last = 0.0

    def told(done: int, count: int, model: str, timed: "TimedAnswer") -> None:
        nonlocal last
        now = time.monotonic()
        if not out.progress or now - last < _EVERY:
            return
        last = now
        who = "a model" if blind else model
        size = len(timed.answer.text)
        state = f"{size} characters" if size else "reading the prompt"
        out.status(f"{min(done + 1, count)} of {count}: {who}: {state}")

    return told


def _document(comparison: "Comparison") -> dict[str, Any]:
    import secrets
    import shlex
    from datetime import UTC, datetime

    from overt.evaluation.compare import document
    from overt.openness.export.text import overt_version

    now = datetime.now(UTC)
    return document(
        comparison,
        identifier=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        made=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        about={
            "overt": overt_version(),
            "machine": _machine(),
            "command": shlex.join(["overt", *sys.argv[1:]]),
        },
    )


def _machine() -> dict[str, str]:
    import platform

    import psutil

    from overt.cli.doctor import processor
    from overt.cli.output import size
    from overt.runtime import cpu

    return {
        "processor": processor(),
        "cores": f"{cpu.usable()} cores",
        "memory": f"{size(psutil.virtual_memory().total)} memory",
        "system": f"{platform.system()} {platform.release()}",
    }


# -- what comes of it ------------------------------------------------------------------------------


def _show(out: Output, document: dict[str, Any], ballot: "Ballot | None") -> None:
    from overt.cli import compare_view

    def human() -> str:
        if ballot is None:
            return compare_view.page(document)
        revealed = ballot.revealed()
        page = compare_view.page(document, answers=not ballot.names)
        return f"{revealed}\n\n{page}" if revealed else page

    def quiet() -> str:
        return "\n".join(
            f"{row['model']}\t{' '.join(row['text'].split())}" for row in document["rows"]
        )

    out.result(document, human, quiet)


def _keep(out: Output, settings: Settings, document: dict[str, Any]) -> Path | None:
    """Write the comparison to the home; one that cannot be written is still shown."""
    from overt.cli.output import as_json
    from overt.files import atomic

    path = settings.home / "compares" / f"{document['id']}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, as_json(document, indent=1).encode() + b"\n", lasting=False)
    except OSError as error:
        out.warn(f"the comparison could not be kept in {path}: {error.strerror}")
        return None
    return path


def _write(html: str, document: dict[str, Any], out: Output) -> None:
    """Write the page. Raises Failure: it cannot be written."""
    from overt.cli import dossier
    from overt.evaluation import compare_page

    dossier.write(out, compare_page.render(document), html)


def _table(out: Output, settings: Settings) -> int:
    from overt.cli import compare_view
    from overt.evaluation import votes

    all_votes, damaged = votes.read(settings.home)
    for line in damaged:
        out.warn(line)
    value = votes.table(all_votes).as_json() | {"damaged": damaged}
    out.result(
        value,
        lambda: compare_view.votes(value),
        lambda: "\n".join(f"{model['elo']}\t{model['model']}" for model in value["models"]),
    )
    return 0
