"""The rows of a CSV, JSONL or JSON file as columns of text; any of them may be gzipped.

The files are anybody's: sizes and counts are bounded, and an error names the file and the row.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from overt.errors import FormatError, NotFound

MAX_BYTES: Final = 256 << 20
MAX_ROWS: Final = 200_000
MAX_FIELD: Final = 1 << 20
MAX_PARTS: Final = 1 << 24
"""Lists, objects and commas of one JSON text: each takes some 60 bytes of memory and 3 of a file,
and next to none of one that is packed."""
_OBJECTS: Final = 'write each item as an object: {"question": "…", "answer": "…"}'
_SPLIT = re.compile(r"_(?:test|dev|val|validation|train)$")


class DataRow(NamedTuple):
    """One row of a data file.

    Attributes:
        where: file and row, for people.
        text: every column as text, what is not text as JSON; and ``stem`` and ``topic``, from the
            name of the file (``high_school_geography_test.csv``: the same without ``_test``; and
            with spaces), where no column is called so.
        raw: the columns as they were read.
    """

    where: str
    text: Mapping[str, str]
    raw: Mapping[str, Any]


class RawObject(NamedTuple):
    """A row as it was read: the number of its line (its last one; of a list, of its item), the same
    in words, and its columns."""

    line: int
    where: str
    raw: Mapping[str, Any]


def read(path: Path, columns: Sequence[str] = ()) -> tuple[list[DataRow], str]:
    """The rows of a file and the sha256 of its bytes (hex).

    Args:
        columns: names of a CSV file's columns, where it has no line of its own for them.

    Raises:
        NotFound: no such file.
        FormatError: not what its name says, too large, or a row with too few or too many columns.
    """
    text, name, digest = read_text(path)
    stem = _SPLIT.sub("", path.name.partition(".")[0])
    own = {"stem": stem, "topic": stem.replace("_", " ")}
    rows = [
        DataRow(row.where, own | {key: as_text(value) for key, value in row.raw.items()}, row.raw)
        for row in objects(text, name, path, columns)
    ]
    if not rows:
        raise FormatError(f"{path} has no rows", "give a file with items in it")
    return rows, digest


def read_text(path: Path, name: str = "") -> tuple[str, str, str]:
    """The text of a file, its name in small letters without ``.gz``, and the sha256 of its bytes.

    `name` is what it is called, where `path` is not.

    Raises:
        NotFound: no such file.
        FormatError: too large, not gzip as it says, or not UTF-8.
    """
    data = _bytes(path)
    digest = sha256(data).hexdigest()
    shown, name = name or path, (name or path.name).lower()
    if name.endswith(".gz"):
        data, name = _unzipped(data, path), name.removesuffix(".gz")
    try:
        return data.decode("utf-8-sig"), name, digest
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"line {line} of {shown} is not UTF-8 text (byte {error.start} of the file)",
            "convert it with iconv",
        ) from None


def objects(
    text: str, name: str, path: Path, columns: Sequence[str] = (), hint: str = _OBJECTS
) -> Iterator[RawObject]:
    """The rows of a text whose kind its `name` says; `hint` is for a row that is none.

    Raises:
        FormatError: not what its name says, too many rows, or one with the wrong columns.
    """
    if name.endswith(".csv"):
        rows_found = _csv(text, path, columns)
    elif name.endswith((".jsonl", ".ndjson", ".json")):
        rows_found = _json(text, path, hint, lines=not name.endswith(".json"))
    else:
        raise FormatError(f"{path} is not read", "data files end in .csv, .jsonl or .json")
    for count, row in enumerate(rows_found):
        if count >= MAX_ROWS:
            raise FormatError(f"{path} has more than {MAX_ROWS} rows", "split it")
        yield row


def as_text(value: Any) -> str:
    """What a template shows of a value: text as it is, nothing for null, JSON for the rest."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path} is not there", "name the file of the items with --data") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}", "check the file") from None
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path} is larger than {MAX_BYTES >> 20} MiB", "split it")
    return data


def _unzipped(data: bytes, path: Path) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(
            f"{path} is not gzip: {str(error)[:120]}", "get it again, or give it unpacked"
        ) from None
    if len(content) > MAX_BYTES:
        raise FormatError(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB", "split it")
    return content


def _csv(text: str, path: Path, columns: Sequence[str]) -> Iterator[RawObject]:
    csv.field_size_limit(MAX_FIELD)  # of the whole process: whoever read before set its own
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names = list(columns)
    try:
        for row in reader:
            if not row:
                continue
            if not names:
                names = _header(row, path)
                continue
            where = f"line {reader.line_num} of {path}"
            if len(row) != len(names):
                raise FormatError(
                    f"{where} has {len(row)} columns and {len(names)} are expected"
                    f" ({', '.join(names)[:200]})",
                    'put a text with commas or line breaks between "quotes"',
                )
            yield RawObject(reader.line_num, where, dict(zip(names, row, strict=True)))
    except csv.Error as error:
        raise FormatError(
            f"line {reader.line_num} of {path} is not CSV: {error}", "correct the line"
        ) from None


def _header(row: list[str], path: Path) -> list[str]:
    names = [name.strip() for name in row]
    for name in names:
        if not name or names.count(name) > 1:
            what = f"twice the column {name[:60]!r}" if name else "a column without a name"
            raise FormatError(
                f"the first line of {path} has {what}",
                "it names the columns; without such a line, list them in the suite: columns: […]",
            )
    return names


def _json(text: str, path: Path, hint: str, *, lines: bool) -> Iterator[RawObject]:
    if lines:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                where = f"line {number} of {path}"
                yield RawObject(number, where, _object(_parsed(line, where, hint), where, hint))
        return
    rows_read = _parsed(text, str(path), hint)
    if not isinstance(rows_read, list):
        raise FormatError(
            f"{path} holds a JSON {_kind(rows_read)} and a list of objects is expected", hint
        )
    for number, item in enumerate(rows_read, 1):
        where = f"item {number} of {path}"
        yield RawObject(number, where, _object(item, where, hint))


def _parsed(text: str, where: str, hint: str) -> Any:
    if len(text) > MAX_PARTS:  # else it cannot have so many
        parts = sum(map(text.count, "[{,"))
        if parts > MAX_PARTS:
            raise FormatError(
                f"{where} has {parts} lists, objects and commas, and {MAX_PARTS} are the most",
                "split it",
            )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error)
        if isinstance(error, json.JSONDecodeError) and "\n" not in text:
            why = f"{error.msg} at character {error.pos + 1}"
        raise FormatError(f"{where} is not JSON: {why[:120]}", hint) from None


def _object(value: Any, where: str, hint: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{where} is a JSON {_kind(value)} and an object is expected", hint)
    return value


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")
