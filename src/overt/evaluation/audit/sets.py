"""The data sets of sets.toml: found in a folder, checked, and told of where they are missing."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Final

from overt.errors import FormatError, NotFound
from overt.evaluation.audit.probe import AuditPlan, ProbeItem, ProbeMaterial

MAX_BYTES: Final = 64 << 20
MAX_FILES: Final = 500


@dataclass(frozen=True, slots=True)
class DataSet:
    """One table of sets.toml."""

    name: str
    about: str
    folder: str
    files: str
    licence: str
    upstream: str
    revision: str
    cite: str
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReadSet:
    """One file of a set: its bytes, and what a receipt says of it."""

    path: Path
    data: bytes
    told: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    def text(self) -> str:
        """Raises FormatError: not UTF-8."""
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{self.name} is not UTF-8 text (byte {error.start})", "get the file again"
            ) from None


@cache
def known_sets() -> Mapping[str, DataSet]:
    """Every set by its name."""
    import tomllib

    text = resources.files("overt.evaluation.audit").joinpath("sets.toml").read_text("utf-8")
    return {name: DataSet(name=name, **table) for name, table in tomllib.loads(text).items()}


def read(name: str, data: Path | None) -> list[ReadSet]:
    """The files of a set, sorted by name. They lie in ``data/<folder>``, ``data/eval/<folder>`` or,
    where that has such files, in `data` itself.

    Raises:
        NotFound: they are not there; says where they are from and under which licence.
        FormatError: too large.
    """
    data_set = known_sets()[name]
    for folder in _places(data_set, data):
        paths = sorted(path for path in folder.glob(data_set.files) if path.is_file())
        if paths:
            return [_read(data_set, path) for path in paths[:MAX_FILES]]
    where = f"no {data_set.files} in {data}" if data else "no folder of data was named"
    raise NotFound(
        f"the data set {name} is not here ({where}); it is {data_set.licence}, from "
        f"{data_set.upstream}",
        f"put its files into DIR/{data_set.folder} and give --data DIR",
    )


def material(
    name: str, plan: AuditPlan, items_of: Callable[[ReadSet], Iterable[ProbeItem]]
) -> ProbeMaterial:
    """All items of a set. Raises as `read`, and FormatError where there are none."""
    files = read(name, plan.data)
    items = [item for file in files for item in items_of(file)]
    if not items:
        raise FormatError(f"the files of {name} have no items", "get them again")
    return ProbeMaterial(items, [file.told for file in files], notes(files))


def beside(file: ReadSet, name: str) -> ReadSet | None:
    """A further file of the set that `file` is of, where it lies in the same folder."""
    path = file.path.with_name(name)
    return _read(known_sets()[str(file.told["set"])], path) if path.is_file() else None


def _places(data_set: DataSet, data: Path | None) -> list[Path]:
    if data is None:
        return []
    data = data.expanduser()
    return [data / data_set.folder, data / "eval" / data_set.folder, data]


def _read(data_set: DataSet, path: Path) -> ReadSet:
    data = bounded(path, MAX_BYTES)
    digest = sha256(data).hexdigest()
    facts = {
        "file": path.name,
        "sha256": digest,
        "set": data_set.name,
        "licence": data_set.licence,
        "upstream": data_set.upstream,
        "revision": data_set.revision,
        "cite": data_set.cite,
        "as_published": data_set.sha256.get(path.name) == digest,
    }
    return ReadSet(path, data, facts)


def table(file: ReadSet, columns: set[str], what: str, most: int) -> Iterator[dict[str, str]]:
    """The rows of a set's CSV file, whose first line names its columns.

    Args:
        columns: that must be there; of a row each is a text.
        what: the set, for people.
        most: rows.

    Raises:
        FormatError: not CSV, a column or a part of a row is missing, or too many rows.
    """
    csv.field_size_limit(1 << 20)
    reader = csv.DictReader(io.StringIO(file.text(), newline=""), strict=True)
    try:
        if not set(reader.fieldnames or ()) >= columns:
            raise FormatError(
                f"the first line of {file.name} lacks a column of {what}",
                f"it has {', '.join(sorted(columns))}",
            )
        for number, row in enumerate(reader, 1):
            if number > most:
                raise FormatError(f"{file.name} has more than {most} rows", "split it")
            if not all(row.get(column) for column in columns):
                raise FormatError(f"row {number} of {file.name} is cut", "get the file again")
            yield row
    except csv.Error as error:
        raise FormatError(
            f"line {reader.line_num} of {file.name} is not CSV: {error}", "get the file again"
        ) from None


def own_file_facts(file: str, digest: str, name: str) -> dict[str, Any]:
    """What a receipt says of a file of the person's own; `digest` is its sha256."""
    return {
        "file": file,
        "sha256": digest,
        "set": name,
        "licence": "",
        "upstream": "",
        "revision": "",
        "cite": "",
        "as_published": False,
    }


def bounded(path: Path, most: int) -> bytes:
    """A file's bytes. Raises NotFound, FormatError: it cannot be read, or is larger than `most`."""
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise NotFound(f"{path} is not there", "name an existing file") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}", "check the file") from None
    if len(data) > most:
        raise FormatError(f"{path} is larger than {most >> 20} MiB", "give a smaller file")
    return data


def notes(files: list[ReadSet]) -> list[str]:
    """A sentence for files that are not the published ones."""
    other = [file.name for file in files if not file.told["as_published"]]
    if not other:
        return []
    return [
        f"{', '.join(other)}: not among the files whose sha256 is known here; the figures are of"
        " what was given"
    ]
