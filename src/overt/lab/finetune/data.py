"""A file of training data, read whole and judged row by row before anything is computed.

The file is anybody's. A row that is not what the format asks for ends it all, with its line and
what was expected there.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from overt.errors import FormatError
from overt.evaluation.suites import rows
from overt.lab.finetune import formats
from overt.lab.finetune.example import Example, PreferenceExample
from overt.lab.finetune.formats import DataFormat
from overt.lab.finetune.row import BadRow, Item, Kind, PreferencePair, Prose, TrackedRow

E = TypeVar("E", Example, PreferenceExample)
_KINDS: Final = "write rows such as " + " or ".join(
    format.EXAMPLE for format in formats.all_formats()
)
_MAX_HELD: Final = 256
"""Held-out examples, at most: more cost time at every look and narrow the interval little."""


@dataclass(frozen=True, slots=True)
class DataLine:
    """One row.

    Attributes:
        line: of the file; of a list, the number of the item. where: the same in words.
        item: what it means.
        size: characters of it as JSON, 0 of a text file.
    """

    line: int
    where: str
    item: Item
    size: int = 0


@dataclass(frozen=True, slots=True)
class Data:
    """A file that can be learnt from.

    Attributes:
        digest: ``sha256:`` and 64 hex, of the file as it lies there.
        format: of every row; about: the same in a few words.
        lines: in the order of the file.
        doubled: rows that are the same as an earlier one.
        name: of the file, for people.
        unread: columns, and fields of turns, that say nothing here, and how many rows have each.
    """

    digest: str
    format: str
    about: str
    kind: Kind
    lines: tuple[DataLine, ...]
    doubled: int
    name: str = "the file"
    unread: Mapping[str, int] = field(default_factory=dict)


def read(path: Path, format: str = "", name: str = "") -> Data:
    """Read a file of training data: ``.jsonl``, ``.json``, ``.csv`` or ``.txt``, and ``.gz`` of it.

    A ``.json`` whose first line is an object of its own holds JSON lines. Line ends of Windows in a
    ``.txt`` become those of everybody else.

    Args:
        path: the file.
        format: of its rows, from `formats.FORMATS`; "" finds out.
        name: what the file is called, where `path` is a copy without its name.

    Raises:
        NotFound: no such file.
        FormatError: it, or one of its rows, is not what it should be; says where, and what is
            expected.
    """
    text, called, digest = rows.read_text(path, name)
    shown = Path(name) if name else path
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise FormatError(f"line {line} of {shown} has a NUL character", "is it a text file?")
    if called.endswith(".txt"):
        objects = iter([rows.RawObject(1, f"{shown}", {"text": text.replace("\r\n", "\n")})])
    else:
        hint = f"write {formats.find(format).EXAMPLE}" if format else _KINDS
        called = f"{called}l" if called.endswith(".json") and _is_lines(text) else called
        objects = rows.objects(text, called, shown, hint=hint)
    lines: list[DataLine] = []
    unread: Counter[str] = Counter()
    wanted, doubled = _lines(objects, formats.find(format) if format else None, lines, unread)
    if wanted is None or not lines:
        raise FormatError(f"{shown} has no rows", "give a file with examples in it")
    return Data(
        f"sha256:{digest}",
        wanted.NAME,
        wanted.ABOUT,
        wanted.KIND,
        tuple(lines),
        doubled,
        f"{shown}",
        dict(sorted(unread.items())),
    )


def _is_lines(text: str) -> bool:
    """Whether a text of JSON holds a row in its first line alone."""
    rest = text.lstrip()
    end = rest.find("\n")
    line = rest[:end].rstrip() if end >= 0 else rest.rstrip()
    return line.startswith("{") and line.endswith("}")


def _lines(
    objects: Iterable[rows.RawObject],
    wanted: DataFormat | None,
    lines: list[DataLine],
    unread: Counter[str],
) -> tuple[DataFormat | None, int]:
    """Judge the rows into `lines`; the format, and how many are the same as an earlier one."""
    seen: set[bytes] = set()
    try:
        for line, where, raw in objects:
            if wanted is None:
                wanted = _first(raw, where)
            item, unread_columns = _item(raw, where, wanted, lines)
            packed = json.dumps(raw, sort_keys=True, ensure_ascii=False)
            seen.add(sha256(packed.encode("utf-8", "surrogatepass")).digest())
            size = 0 if isinstance(item, Prose) else len(packed)
            lines.append(DataLine(line, where, item, size))
            unread.update(unread_columns)
    except FormatError as error:
        if wanted is None or error.hint != _KINDS:
            raise
        raise FormatError(error.message, f"write {wanted.EXAMPLE}") from None
    return wanted, len(lines) - len(seen)


def split(examples: Sequence[E], share: float, seed: int) -> tuple[list[E], list[E]]:
    """Part `examples` into those to learn from and those held out, drawn from `seed`.

    Examples with the same tokens stay together, so that none that is held out is learnt as well.
    """
    groups: dict[tuple[int, ...], list[E]] = {}
    for example in examples:
        groups.setdefault(_tokens(example), []).append(example)
    order = list(groups.values())
    Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    count = min(_MAX_HELD, round(share * len(order)))
    if share > 0 and len(order) > 1:
        count = min(max(1, count), len(order) - 1)
    held = [example for group in order[:count] for example in group[:1]]
    train = [example for group in order[count:] for example in group]
    return sorted(train, key=_line), sorted(held, key=_line)


def without_held_out(train: Sequence[E], held: Sequence[E]) -> tuple[list[E], int]:
    """What of `train` is not in `held` too, and how many were."""
    out = {_tokens(example) for example in held}
    remaining = [example for example in train if _tokens(example) not in out]
    return remaining, len(train) - len(remaining)


def _tokens(example: Example | PreferenceExample) -> tuple[int, ...]:
    if isinstance(example, Example):
        return tuple(example.ids)
    return (*example.prompt, -1, *example.chosen, -1, *example.rejected)


def _line(example: Example | PreferenceExample) -> int:
    return example.line


def _first(raw: Mapping[str, Any], where: str) -> DataFormat:
    """The format of the first row. Raises FormatError: it looks like none."""
    format_ = formats.of(raw)
    if format_ is None:
        named = ", ".join(sorted(raw))[:200] or "nothing"
        raise FormatError(f"{where} has the columns {named}, which are of no format", _KINDS)
    return format_


def _item(
    raw: Mapping[str, Any], where: str, wanted: DataFormat, before: Sequence[DataLine]
) -> tuple[Item, list[str]]:
    """What a row means, and what of it was not read."""
    if not wanted.looks(raw):
        other = formats.of(raw)
        named = other.ABOUT if other else f"columns {', '.join(sorted(raw))[:200] or 'none'}"
        first = f", and the rows before it are {wanted.ABOUT}" if before else ""
        raise FormatError(f"{where} has {named}{first}", f"write {wanted.EXAMPLE}")
    row = TrackedRow(raw)
    try:
        item = wanted.read(row)
        if wanted.KIND == "answers":
            _refuse_unknown_row(row)
    except BadRow as bad:
        raise FormatError(f"{where} {bad.what}", bad.hint) from None
    except RecursionError:
        raise FormatError(f"{where} is nested too deeply", f"write {wanted.EXAMPLE}") from None
    return item, [
        *(f"the column {name[:60]!r}" for name in row.unread()),
        *(f"the field {name[:60]!r} of turns" for name in sorted(_unread(item))),
    ]


def _refuse_unknown_row(row: TrackedRow) -> None:
    """Some sets mark each answer as good or bad (TRL's KTO). Raises Bad: it is bad."""
    for name in ("label", "kto_tag"):
        if row.raw.get(name) is False:
            raise BadRow(
                f"has an answer that is not wanted ({name!r} is false)",
                "leave such rows out: what they say would be learnt",
            )
        if row.raw.get(name) is True:
            row.get(name)


def _unread(item: Item) -> frozenset[str]:
    if isinstance(item, PreferencePair):
        return item.chosen.unread | item.rejected.unread
    return frozenset() if isinstance(item, Prose) else item.unread


def words(examples: Sequence[Example | PreferenceExample]) -> Iterator[int]:
    """Tokens of each example."""
    for example in examples:
        yield len(example) if isinstance(example, PreferenceExample) else len(example.ids)
