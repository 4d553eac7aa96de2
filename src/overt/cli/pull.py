"""`overt pull`, its progress, and the pull that other verbs do on the way."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, duration, is_terminal, plain, size, table
from overt.errors import ModelNotFound, Offline, Stopped
from overt.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from overt.models.pull import FetchProgress
    from overt.models.quant_selection import Offer
    from overt.models.store import Manifest

_EVERY = 5.0  # seconds between two plain lines of progress
_SMALL = 1 << 20  # bytes below which a part is there before a bar could be read


@click.command("pull", short_help="fetch a model into the store")
@click.argument("ref")
@click.option("--list", "listing", is_flag=True, help="Only show what a hub repository offers.")
@click.option("--bandwidth", metavar="SIZE", help="Bytes a second at most: 5m.")
@click.option("--downloads", type=int, metavar="N", help="Files that come at once.")
@click.option("--context", type=int, metavar="N", help="Tokens the model should have room for.")
@click.option("--memory", metavar="SIZE", help="Most memory the model may take: 8g, 500m.")
@verb
def command(out: Output, settings: Settings, ref: str, listing: bool) -> int:
    """Fetch REF into the store, or finish a pull that was cut off.

    What is already there is hashed and kept. Every file is checked against the digest its origin
    states. `overt help refs` shows the forms of REF. Of a hub repository that holds a model in
    several quantizations comes the best that fits this machine; --list shows them all, and
    hf:owner/repo#Q4_K_M names one.
    """
    if listing:
        return _list(ref, settings, out)
    from overt.openness.permissions import gate

    begun = time.monotonic()
    manifest = _pull(ref, settings, out)
    seconds = time.monotonic() - begun
    gate.prepare(ref, settings)
    value = {
        "model": ref,
        "digest": manifest.digest,
        "ref": manifest.ref,
        "size": manifest.size,
        "licence": manifest.licence,
        "origin": dict(manifest.origin),
        "files": [
            {"role": file.role, "path": file.path, "digest": file.digest, "size": file.size}
            for file in manifest.files
        ],
        "seconds": round(seconds, 3),
    }
    out.result(
        value,
        lambda: (
            f"{ref} is in the store: {size(manifest.size)}, licence "
            f"{manifest.licence or 'not stated'}, {manifest.digest}"
        ),
        lambda: manifest.digest,
    )
    return 0


def _list(ref: str, settings: Settings, out: Output) -> int:
    from overt.models.quant_selection import list_variants

    offer = list_variants(ref, settings)
    value = {
        "ref": str(offer.ref),
        "free": offer.free,
        "context": offer.context,
        "best": offer.best.name if offer.best else None,
        "models": [asdict(model) for model in offer.models],
        "code": list(offer.code),
    }
    out.result(value, lambda: _offered(offer), lambda: "\n".join(m.name for m in offer.models))
    return 0


def _offered(offer: "Offer") -> str:
    rows = [
        (
            "*" if offer.best and model.name == offer.best.name else "",
            model.quantization or "-",
            size(model.size),
            f"{model.bits:.2f}" if model.bits else "?",
            f"{'' if model.exact else 'about '}{size(model.need)}" if model.need else "?",
            {True: "fits", False: "does not fit", None: "?"}[model.fits],
            model.name + (f" and {model.files - 1} more" if model.files > 1 else ""),
        )
        for model in offer.models
    ]
    lines = []
    if rows:
        head = ("", "type", "size", "bits", "memory", "here", "file")
        room = f"{size(offer.free)} of memory is free, for a context of {offer.context} tokens"
        lines += [table(head, rows), "", f"{room}; * is what `overt pull` takes"]
    else:
        lines.append("no GGUF; the safetensors weights come as they are")
    if offer.code:
        lines.append(f"code in it, never fetched and never run: {', '.join(offer.code[:8])}")
    return "\n".join(lines)


def fetch(
    ref: str, settings: Settings, out: Output, missing: ModelNotFound, *, allowed: bool
) -> float:
    """Pull a model that a verb needs now; returns the seconds it took.

    Raises:
        ModelNotFound: `missing` itself, where a pull could not help or is not `allowed`.
        Offline: the network is switched off.
    """
    from overt.gateway import routing
    from overt.models.sources.catalogue import lookup
    from overt.ref import parse

    target = routing.aliases(settings.home).find(ref)
    if isinstance(target, str):
        ref = target
    parsed = parse(ref)
    entry = lookup(parsed)
    unknown = parsed.scheme == "name" and entry is None
    if unknown or parsed.remote or parsed.scheme in ("path", "sha256", "echo"):
        raise missing
    if not allowed:
        raise ModelNotFound(f"{ref} is not in the store", f"get it first: overt pull {ref}")
    if settings.offline:
        raise Offline(
            f"{ref} is not in the store and the network is switched off",
            f"run `overt pull {ref}` once with the network on (--offline and OVERT_OFFLINE unset)",
        )
    begun = time.monotonic()
    about = f" ({size(entry.size)}, {entry.licence})" if entry and entry.size else ""
    out.note(f"{ref} is not in the store yet: pulling it{about}")
    _pull(ref, settings, out)
    return time.monotonic() - begun


def _pull(ref: str, settings: Settings, out: Output) -> "Manifest":
    from overt.models.pull import pull

    try:
        with progress(out) as step:
            return pull(ref, settings, step)
    except KeyboardInterrupt:
        raise Stopped("the pull was stopped", f"`overt pull {ref}` goes on where it was") from None


@contextmanager
def progress(out: Output) -> Iterator["Callable[[FetchProgress], None] | None"]:
    """Shows the steps of a pull: a bar on a terminal, a line now and then otherwise."""
    if not out.remarks or (out.json and not is_terminal(sys.stderr)):
        yield None
    elif is_terminal(sys.stderr):
        with _bar() as show:
            yield show
    else:
        yield _PullLines(out)


@contextmanager
def _bar() -> Iterator["Callable[[FetchProgress], None]"]:
    """A moving bar for each part, with its percent, size, speed and time left beside it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[said]}", markup=False),
        console=Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}
    speeds = _Speeds()

    def show(step: "FetchProgress") -> None:
        if step.total is None and not step.done:  # a word, and not a part on its way
            bar.console.print(plain(step.what), markup=False, highlight=False)
            return
        if step.total is not None and step.total < _SMALL:
            return
        speed = speeds.line(step)
        if step.what not in tasks:
            tasks[step.what] = bar.add_task(plain(step.what)[:48], total=step.total, said=speed)
        bar.update(tasks[step.what], completed=step.done, total=step.total, said=speed)

    with bar:
        yield show


class _Speeds:
    """How fast each part comes, averaged since it was first seen in this run."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int]] = {}  # when, and at which byte

    def line(self, step: "FetchProgress") -> str:
        now = time.monotonic()
        since, at = self._first.setdefault(step.what, (now, step.done))
        if step.total is None:
            return size(step.done) if step.done else ""
        percent = 100 * step.done / step.total if step.total else 100
        text = f"{percent:.0f} % of {size(step.total)}"
        if step.done > at and now - since > 0.5:
            speed = (step.done - at) / (now - since)
            text += f", {size(speed)}/s"
            if step.done < step.total:
                text += f", {duration((step.total - step.done) / speed)} left"
        return text


class _PullLines:
    """A plain line when a part begins, when it ends, and every few seconds between."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._speeds = _Speeds()
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._said = 0.0

    def __call__(self, step: "FetchProgress") -> None:
        text, now = self._speeds.line(step), time.monotonic()
        ends = step.total is not None and step.done >= step.total
        if step.what in self._ended:
            return
        if ends or step.what not in self._begun or now - self._said >= _EVERY:
            self._said = now
            self._out.note(f"{step.what}: {text}" if text else step.what)
        self._begun.add(step.what)
        if ends:
            self._ended.add(step.what)
