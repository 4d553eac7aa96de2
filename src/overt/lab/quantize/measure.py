"""A quantized model measured against its source: on a text, in memory, and in tokens a second.

As llama-perplexity does it, the second half of each window is scored: 255 tokens of 512, each with
at least 256 before it. The source is read once: its log-probabilities of every token of the
vocabulary are kept in 16 bits on the disk, and each type is held against them a position at a time,
so that no more than a batch of logits is ever in memory, however large the vocabulary.

What differs from ``llama-perplexity --kl-divergence``: that one keeps 16 bits over a range that
ends 16 nats below the likeliest token, cuts off what is rarer, and does not make the shares add up
to 1 again, so that its divergences can be below 0. Here they are floats, and a distribution is made
of them. And the likeliest token of the source is kept apart: rounding can make a tie of two.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overt.errors import BadRequest, EngineFailed, OutOfDisk
from overt.formats import gguf
from overt.lab.quantize import host, statistics, worker
from overt.models.sources.base import FetchProgress as Progress
from overt.settings import Settings

WINDOW = 512
DECODED = 24
"""Tokens that a run of the speed writes, one at a time."""
PROMPT = 256
"""Tokens that a run of the speed reads, where a window has as many."""

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class TextWindows:
    """What is read: windows of tokens, all of one length."""

    windows: list[list[int]]

    @property
    def window(self) -> int:
        return len(self.windows[0])

    @property
    def scored(self) -> int:
        """Tokens that count."""
        return len(self.windows) * (self.window - 1 - self.window // 2)


@dataclass(frozen=True, slots=True)
class BaseLogprobs:
    """What the source made of the text: the file of its log-probabilities, and by token what the
    true one had and which was likeliest.
    """

    file: Path
    nll: list[float]
    top: list[int]


def window_of(header: gguf.GgufHeader, wanted: int) -> int:
    """The window for a model: `asked`, or what it was trained for where that is less."""
    return min(wanted, header.context_length or wanted)


def source(
    weights: Path, text: TextWindows, target: Path, threads: int, settings: Settings, report: Report
) -> BaseLogprobs:
    """Have the source read the text; its log-probabilities go to `target`.

    Raises:
        OutOfDisk: they have no room.
        EngineFailed: llama.cpp gave up.
    """
    header = gguf.read(weights)
    size = 2 * (header.vocabulary_size or 0) * text.scored
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise OutOfDisk(
            f"the source's log-probabilities take {size >> 20} MiB and {free >> 20} MiB are free",
            "measure on less text: --windows N",
        )
    what = "reading the text with the source"
    task = worker.Task(
        "base",
        {"windows": text.windows},
        what,
        made={host.BASE: target},
        **worker.computing(weights, header, text.window, threads),
    )
    outcome = worker.carry_out(task, settings, _showing(what, header.file_size, report))
    replies = [reply for reply in outcome.replies if "nll" in reply]
    nll = [value for reply in replies for value in worker.numbers(reply, "nll")]
    top = [int(value) for reply in replies for value in worker.numbers(reply, "top")]
    if not len(nll) == len(top) == text.scored:
        raise EngineFailed("the worker broke its own protocol")
    return BaseLogprobs(target, nll, top)


def against(
    weights: Path,
    label: str,
    text: TextWindows,
    base: BaseLogprobs,
    threads: int,
    settings: Settings,
    report: Report,
) -> dict[str, Any]:
    """A model held against its source; the figures of `figures.divergence`.

    Raises:
        EngineFailed: llama.cpp gave up, or the model computes no numbers.
    """
    header = gguf.read(weights)
    what = f"measuring {label}"
    about = worker.computing(weights, header, text.window, threads)
    about["readable"] = (*about["readable"], base.file)
    body = {"windows": text.windows, "base": str(base.file.absolute()), "top": base.top}
    task = worker.Task("compare", body, what, **about)
    outcome = worker.carry_out(task, settings, _showing(what, header.file_size, report))
    measured = {
        name: [value for reply in outcome.replies for value in worker.numbers(reply, name)]
        for name in ("kld", "same", "nll")
    }
    if any(len(values) != text.scored for values in measured.values()):
        raise EngineFailed("the worker broke its own protocol")
    return statistics.divergence(
        measured["kld"], measured["same"], measured["nll"], base.nll, len(text.windows)
    )


def speed(
    weights: Path, label: str, text: TextWindows, threads: int, settings: Settings
) -> dict[str, float]:
    """One run in a fresh worker: tokens a second, and the memory it had taken by its end.

    Returns ``prompt``, ``decode`` (tokens a second), ``resident`` and ``own`` (bytes; the second
    leaves out what is a file's).
    """
    ids = [id for window in text.windows for id in window][: min(text.window, PROMPT + DECODED)]
    count = min(DECODED, len(ids) // 2)
    task = worker.Task(
        "speed",
        {"ids": ids, "count": count},
        f"timing {label}",
        **worker.computing(weights, gguf.read(weights), text.window, threads),
    )
    outcome = worker.carry_out(task, settings)
    reply = outcome.replies[-1] if outcome.replies else {}
    if not all(isinstance(reply.get(name), int | float) for name in ("prompt", "decode")):
        raise EngineFailed("the worker broke its own protocol")
    return {
        "prompt": float(reply["prompt"]),
        "decode": float(reply["decode"]),
        "resident": outcome.resident,
        "own": outcome.own,
    }


def enough(windows: Sequence[Sequence[int]], window: int, name: str) -> TextWindows:
    """The text as it is measured on.

    Raises:
        BadRequest: it fills no window.
    """
    if not windows:
        raise BadRequest(
            f"{name} has fewer than {window} tokens, and one window is the least to measure on",
            "give a longer text: --text FILE",
        )
    return TextWindows([list(window) for window in windows])


def _showing(what: str, size: int, report: Report) -> worker.Told:
    def told(reply: Any) -> None:
        done, total = reply.get("done"), reply.get("total")
        if isinstance(done, int) and isinstance(total, int) and total:
            report(Progress(what, size * min(done, total) // total, size))

    return told
