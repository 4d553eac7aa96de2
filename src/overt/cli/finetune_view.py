"""A fine-tune on a terminal: an example and the plan first, then the loss, at the end the table."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from overt.cli.output import (
    Output,
    as_json,
    duration,
    number,
    plain,
    size,
    styled,
    table,
)

if TYPE_CHECKING:
    from overt.lab.finetune.config import FinetuneConfig
    from overt.lab.finetune.plan import Estimate
    from overt.lab.finetune.prepare import PreparedFinetune
    from overt.models.sources.base import FetchProgress

Tell = Callable[[Mapping[str, Any]], None]
Report = Callable[["FetchProgress"], None]
_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDE: Final = 60  # bars of the curve
_EVERY: Final = 5.0  # seconds between two plain lines
_MAX_EXAMPLE: Final = 1500  # characters of the example that are shown
_REFERENCE: Final = "how likely the base holds each answer"


# ---- before --------------------------------------------------------------------------------


def before(
    out: Output, prepared: "PreparedFinetune", config: "FinetuneConfig", estimate: "Estimate"
) -> None:
    """Show one example with what is learnt, what is known of the data, and the plan."""
    if out.mode != "human":
        return
    where = f"{prepared.about}; line {prepared.line}"
    out.note(f"{where} as the model will see it, with what is learnt between « and »:")
    out.note("")
    sys.stderr.write(_example(prepared) + "\n\n")
    for sentence in prepared.told:
        out.note(f"- {sentence}")
    value = planned(prepared, config, estimate)
    data = value["data"]
    out.note(
        f"{data['examples']} examples to learn from, {data['held']} held out; "
        f"{number(data['tokens'])} tokens in {data['batches']} batches; {config.method} on "
        f"{config.device}, {config.training.precision}, about {size(estimate.total)} of memory"
    )


def _example(prepared: "PreparedFinetune") -> str:
    """Learnt pieces are bold on a terminal, and stand between « and » everywhere."""
    shown = []
    left = _MAX_EXAMPLE
    for piece in prepared.shown:
        text = piece.text if len(piece.text) <= left else piece.text[: max(0, left)] + " […]"
        left -= len(piece.text)
        marked = styled(f"«{plain(text)}»", "bold", sys.stderr) if piece.learnt else None
        shown.append(marked or styled(plain(text), "dim", sys.stderr))
        if left <= 0:
            break
    return "".join(shown)


def planned(
    prepared: "PreparedFinetune", config: "FinetuneConfig", estimate: "Estimate"
) -> dict[str, Any]:
    """The plan as JSON."""
    from overt.lab.finetune.prepare import counts

    return {
        "data": {
            **counts(prepared),
            "format": prepared.about,
            "left_out": dict(prepared.left),
            "notes": list(prepared.told),
        },
        "example": {
            "line": prepared.line,
            "text": "".join(token.text for token in prepared.shown),
            "learnt": [token.text for token in prepared.shown if token.learnt],
        },
        "memory": {
            "weights": estimate.weights,
            "learning": estimate.learning,
            "activations": estimate.activations,
            "logits": estimate.logits,
            "total": estimate.total,
        },
        "parameters": config.encode(),
    }


def dry(value: Mapping[str, Any]) -> str:
    return (
        f"{value['steps']} steps at {value['tokens_per_second']:.0f} tokens a second: about "
        f"{duration(value['seconds'])}\nnothing was made; leave out --dry-run to start"
    )


# ---- while it runs -------------------------------------------------------------------------


@contextmanager
def progress(out: Output) -> Iterator[tuple[Report, Tell]]:
    """A bar with loss and time left on a terminal, a line now and then otherwise; with --json
    every event as a JSON line on stderr."""
    if out.json:
        yield (lambda _: None), _lines
    elif out.progress:
        with _bar() as shown:
            yield shown
    elif out.remarks:
        yield _plain(out)
    else:
        yield (lambda _: None), (lambda _: None)


def _lines(event: Mapping[str, Any]) -> None:
    print(as_json(event), file=sys.stderr, flush=True)


def _plain(out: Output) -> tuple[Report, Tell]:
    last = [0.0]

    def step(progress: "FetchProgress") -> None:
        if not progress.done:
            out.note(progress.what)

    def tell(event: Mapping[str, Any]) -> None:
        if event["kind"] == "note":
            out.note(str(event["text"]))
        due = time.monotonic() - last[0] > _EVERY
        if event["kind"] == "reference" and due:
            last[0] = time.monotonic()
            out.note(
                f"{_REFERENCE}: batch {event['done']} of {event['batches']}{_time_left(event)}"
            )
        if event["kind"] == "loss" and (due or event["step"] == event["steps"]):
            last[0] = time.monotonic()
            out.note(f"step {event['step']} of {event['steps']}: {_progress_text(event)}")

    return step, tell


def _progress_text(event: Mapping[str, Any]) -> str:
    held = "" if event.get("held") is None else f", held out {event['held']:.4f}"
    speed = f"{event['tokens_per_second']:.0f} tokens/s"
    return f"loss {event['loss']:.4f}{held}, {speed}{_time_left(event)}"


def _time_left(event: Mapping[str, Any]) -> str:
    return f", {duration(event['eta'])} left" if event["eta"] else ""


@contextmanager
def _bar() -> Iterator[tuple[Report, Tell]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total} {task.fields[said]}", markup=False),
        console=Console(stderr=True),
    )
    task = bar.add_task("learning", total=None, said="", start=False)
    losses: list[float] = []

    def step(progress: "FetchProgress") -> None:
        if not progress.done:
            bar.console.print(plain(progress.what), markup=False, highlight=False)

    def show(what: str, done: int, of: int, text: str) -> None:
        bar.start_task(task)
        bar.update(task, description=what, completed=done, total=of, said=text)

    def tell(event: Mapping[str, Any]) -> None:
        if event["kind"] == "note":
            bar.console.print(plain(str(event["text"])), markup=False, highlight=False)
        if event["kind"] == "loss":
            losses.append(float(event["loss"]))
            text = f"{_progress_text(event)} {sparkline(losses, 12)}"
            show("learning", event["step"], event["steps"], text)
        if event["kind"] == "reference":
            show(_REFERENCE, event["done"], event["batches"], _time_left(event).removeprefix(", "))

    with bar:
        yield step, tell


def sparkline(values: Sequence[float], width: int) -> str:
    """Values in `width` bars; each is the mean of those that fall on it."""
    if not values:
        return ""
    width = min(width, len(values))
    means = []
    for bar in range(width):
        some = values[bar * len(values) // width : (bar + 1) * len(values) // width]
        means.append(sum(some) / len(some))
    low, high = min(means), max(means)
    spread = (high - low) or 1.0
    return "".join(_BARS[min(7, int((mean - low) / spread * 8))] for mean in means)


# ---- after ---------------------------------------------------------------------------------


def result(value: Mapping[str, Any]) -> str:
    """The curve, the table of before and after, the licence, and what to type next."""
    from overt.lab.finetune import licence

    losses = [float(entry["loss"]) for entry in value.get("curve", ())]
    lines = []
    if losses:
        lines.append(f"loss {losses[0]:.4f} {sparkline(losses, _WIDE)} {losses[-1]:.4f}")
    lines += _of_which_step(value)
    if held := value.get("held"):
        lines += ["", _table(held)]
    else:
        lines.append("nothing was held out, so nothing says whether it got better")
    lines += ["", f"licence: {licence.sentence(value['may'])}"]
    lines.append(f"{value['model']} is in the store: overt run {value['model']}")
    return "\n".join(lines)


def _of_which_step(value: Mapping[str, Any]) -> list[str]:
    """Where the weights are not those of the last step."""
    best, steps = value.get("best"), value.get("steps")
    if best is None or best == steps:
        return []
    early = "ended early: " if value.get("stopped_early") else ""
    if best:
        return [
            f"{early}the held-out loss was best after step {best} of {steps}, and these are the "
            "weights of that step"
        ]
    return [
        f"{early}in {steps} {'step' if steps == 1 else 'steps'} the held-out loss never got better "
        "than the base's: nothing of what was learnt is kept, and the new model answers as the "
        "base does; try a lower --lr, or more examples"
    ]


def _table(held: Mapping[str, Any]) -> str:
    rows = []
    for name, title in (
        ("loss", "loss"),
        ("perplexity", "perplexity"),
        ("accuracy", "tokens right"),
        ("preferred", "chosen is likelier"),
    ):
        if name not in held["before"]:
            continue
        change = held["difference"].get(name)
        rows.append(
            (title, _figure(held["before"][name]), _figure(held["after"][name]), _change(change))
        )
    head = (f"{held['examples']} held out", "before", "after", "difference, 95 %")
    return table(head, rows)


def _figure(value: float) -> str:
    return f"{value:.4f}" if value < 100 else f"{value:.4g}"


def _change(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return ""
    if change["interval"] is None:
        return f"{change['mean']:+.4f} (too few for an interval)"
    low, high = change["interval"]
    return f"{change['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"


def plot(path: Path, report: Mapping[str, Any]) -> None:
    """Draw the loss of every step, and of what is held out where it was looked at, as PNG.

    Raises:
        Unsupported, Failure: as `plots.figure` and `plots.save`.
    """
    from overt.evaluation import plots

    figure = plots.figure(4.5)
    axes = figure.add_subplot()
    curve = report.get("curve", ())
    axes.plot(
        [point["step"] for point in curve], [point["loss"] for point in curve], label="loss", lw=1
    )
    looks = [(point["step"], point["held"]) for point in curve if point["held"] is not None]
    if looks:
        axes.plot(*zip(*looks, strict=True), "o-", label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    axes.grid(alpha=0.3)
    plots.save(figure, path)
