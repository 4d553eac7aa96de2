"""`overt pull`, its progress, and the pull that other verbs do on the way."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, duration, is_terminal, size
from overt.errors import ModelNotFound, Offline
from overt.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from overt.pull import Step

_EVERY = 5.0  # seconds between two plain lines of progress


@click.command("pull", short_help="fetch a model into the store")
@click.argument("ref")
@verb
def command(out: Output, settings: Settings, ref: str) -> int:
    """Fetch REF into the store, or finish a pull that was cut off.

    What is already there is hashed and kept. Every file is checked against the digest its origin
    states. `overt help refs` shows the forms of REF.
    """
    from overt.pull import pull

    begun = time.monotonic()
    with progress(out) as step:
        manifest = pull(ref, settings, step)
    seconds = time.monotonic() - begun
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


def fetch(
    ref: str, settings: Settings, out: Output, missing: ModelNotFound, *, allowed: bool
) -> float:
    """Pull a model that a verb needs now; returns the seconds it took.

    Raises:
        ModelNotFound: `missing` itself, where a pull could not help or is not `allowed`.
        Offline: the network is switched off.
    """
    from overt.pull import pull
    from overt.ref import parse
    from overt.sources.catalogue import lookup

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
    with progress(out) as step:
        pull(ref, settings, step)
    return time.monotonic() - begun


@contextmanager
def progress(out: Output) -> Iterator["Callable[[Step], None] | None"]:
    """Shows the steps of a pull: a bar on a terminal, a line now and then otherwise."""
    if not out.remarks or (out.json and not is_terminal(sys.stderr)):
        yield None
    elif is_terminal(sys.stderr):
        with _bar() as show:
            yield show
    else:
        yield _Lines(out)


@contextmanager
def _bar() -> Iterator["Callable[[Step], None]"]:
    """Percent, bytes, speed and time left on one moving line."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )
    tasks: dict[str, TaskID] = {}

    def show(step: "Step") -> None:
        if step.what not in tasks:
            tasks[step.what] = bar.add_task(step.what[:40], total=step.total, completed=step.done)
        bar.update(tasks[step.what], completed=step.done, total=step.total)

    with bar:
        yield show


class _Lines:
    """A plain line when a part begins, when it ends, and every few seconds between."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._first: dict[str, tuple[float, int]] = {}  # when, and at which byte, a part was seen
        self._ended: set[str] = set()
        self._said = 0.0

    def __call__(self, step: "Step") -> None:
        now = time.monotonic()
        new = step.what not in self._first
        since, at = self._first.setdefault(step.what, (now, step.done))
        ends = step.total is not None and step.done >= step.total
        if ends and step.what in self._ended:
            return
        if new or ends or now - self._said >= _EVERY:
            self._said = now
            self._out.note(_line(step, now - since, step.done - at))
        if ends:
            self._ended.add(step.what)


def _line(step: "Step", seconds: float, received: int) -> str:
    if step.total is None:
        return f"{step.what}: {size(step.done)}" if step.done else step.what
    percent = 100 * step.done / step.total if step.total else 100
    text = f"{step.what}: {percent:.0f} % of {size(step.total)}"
    if received > 0 and seconds > 0.5:
        speed = received / seconds
        text += f", {size(speed)}/s, {duration((step.total - step.done) / speed)} left"
    return text
