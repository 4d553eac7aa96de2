"""What every verb prints: one place for people, for machines, and for errors.

Data goes to stdout; remarks, progress and errors go to stderr. Three modes: ``human`` text that
reads well without colour, ``json`` (exactly one object on stdout), ``quiet`` (the bare data, no
remarks). Text that came from a model, a file or a registry passes through `plain` before it
reaches a terminal, so that nothing in it can drive the terminal.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, TextIO

from overt.errors import OvertError

Mode = Literal["human", "json", "quiet"]

# C0 and C1 controls except tab and newline, and the marks that reorder text (Trojan Source).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STYLES = {"bold": "1", "dim": "2"}


class Output:
    """Where a verb's results and remarks go."""

    def __init__(self, mode: Mode = "human") -> None:
        self.mode = mode
        self._transient = False
        self._open_line = False
        self._open_thought = False

    @property
    def json(self) -> bool:
        return self.mode == "json"

    @property
    def remarks(self) -> bool:
        """Whether remarks are wanted at all."""
        return self.mode != "quiet"

    @property
    def progress(self) -> bool:
        """Whether moving progress can be shown: a terminal is there to show it."""
        return self.mode == "human" and is_terminal(sys.stderr)

    def result(
        self,
        value: Mapping[str, object],
        human: Callable[[], str],
        quiet: Callable[[], str] | None = None,
    ) -> None:
        """A verb's whole result: `value` for machines, `human` for people.

        `quiet` is the bare data for --quiet; without it --quiet prints nothing.
        """
        if self.mode == "json":
            self.object(value)
        elif self.mode == "human":
            self.line(human())
        elif quiet:
            self.line(quiet())

    def object(self, value: Mapping[str, object]) -> None:
        """One JSON object on stdout: on several lines for a terminal, on one for a program."""
        print(as_json(value, indent=2 if is_terminal(sys.stdout) else None), flush=True)

    def line(self, text: str) -> None:
        """Data for people on stdout; nothing where there is nothing to say."""
        self.clear()
        if text:
            print(shown(text, sys.stdout))

    def piece(self, text: str) -> None:
        """A piece of an answer, at once and without a new line."""
        self.clear()
        self._end_thought()
        sys.stdout.write(shown(text, sys.stdout))
        sys.stdout.flush()
        self._open_line = not text.endswith("\n")

    def end_line(self) -> None:
        """Finish a line that `piece` or `thought` left open."""
        self.clear()
        self._end_thought()
        if self._open_line:
            self._open_line = False
            print(flush=True)

    def _end_thought(self) -> None:
        if self._open_thought:
            self._open_thought = False
            print(file=sys.stderr, flush=True)

    def thought(self, text: str) -> None:
        """A piece of a model's reasoning: beside the answer, so on stderr."""
        self.clear()
        sys.stderr.write(styled(shown(text, sys.stderr), "dim", sys.stderr))
        sys.stderr.flush()
        self._open_thought = not text.endswith("\n")

    def note(self, text: str) -> None:
        """A remark; --quiet leaves it out."""
        if self.remarks:
            self.end_line()
            print(plain(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A remark nobody should miss: also with --quiet."""
        self.end_line()
        print(f"overt: {plain(text)}", file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """A line on the terminal that the next output replaces."""
        if self.progress:
            sys.stderr.write(f"\r\x1b[K{plain(text)}")
            sys.stderr.flush()
            self._transient = True

    def clear(self) -> None:
        """Take the `status` line away again."""
        if self._transient:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._transient = False

    def error(self, error: OvertError) -> None:
        """``overt: <message>; <hint>`` on stderr, and with --json the object on stdout."""
        with suppress(OSError):  # stdout itself may be what failed
            self.end_line()
            sys.stdout.flush()
        print(f"overt: {plain(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
        if self.json:
            self.object(error.as_json())


def as_json(value: object, indent: int | None = None) -> str:
    """JSON that any stdout can carry and any parser reads (no NaN, no bare surrogates)."""
    import json

    wide = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=not wide, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def plain(text: str) -> str:
    """`text` with control characters written out (``\\x1b``), so it cannot drive a terminal."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def shown(text: str, stream: TextIO) -> str:
    """`text` as it may go to `stream`: made harmless for a terminal, untouched for a program."""
    return plain(text) if is_terminal(stream) else text


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` with bold or dim where `stream` is a terminal and NO_COLOR (no-color.org) is unset."""
    dull = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if dull or not is_terminal(stream):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns lined up with blanks, as plain text; numbers to the right."""
    body = [[plain(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    right = [bool(body) and all(_numeric(row[i]) for row in body) for i in range(len(head))]
    lines = []
    for row in [[title.upper() for title in head], *body]:
        cells = (
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(row, widths, right, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def pairs(values: Mapping[str, object]) -> str:
    """``name   value`` lines; a value of None is left out."""
    shown = {name: str(value) for name, value in values.items() if value is not None}
    width = max(map(len, shown), default=0) + 2
    return "\n".join(
        name.ljust(width) + plain(value).replace("\n", "\n" + " " * width)
        for name, value in shown.items()
    )


def size(count: float) -> str:
    """Bytes as people read them: ``94 MiB``, ``1.2 GiB`` (1 MiB is 2**20 bytes)."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1023.5 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.1f} {unit}" if abs(count) < 9.95 and unit != "B" else f"{count:.0f} {unit}"


def number(count: float) -> str:
    """A large count in short: ``135 M`` parameters."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.4g} T"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _numeric(cell: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9][0-9.,]*( ?(B|[KMGT]iB|[kMGT]|s|%))?|-", cell))


def _finite(value: object) -> object:
    """JSON has no infinity and no NaN: both become null."""
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value
