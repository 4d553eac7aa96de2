"""Lists of files with their digests, as data sets come with them: Croissant, SHA256SUMS, tables.

Croissant is JSON-LD (https://docs.mlcommons.org/croissant): ``distribution`` holds FileObjects
with ``contentUrl`` and ``sha256``. The rest is read by the usual names of keys and columns, whether
it is JSON, JSON lines, CSV or TSV.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from overt.errors import FormatError
from overt.openness.subject.subject import Subject, SubjectFile

MAX_ENTRIES: Final = 100_000
_MAX_TEXT: Final = 32 << 20
_PATHS: Final = (
    "path",
    "file",
    "filename",
    "file_name",
    "name",
    "shard",
    "contenturl",
    "content_url",
    "url",
    "uri",
    "relative_path",
    "key",
)
_DIGESTS: Final = ("sha256", "sha256sum", "sha-256", "digest", "hash", "checksum", "oid")
_TOKENS: Final = ("tokens", "num_tokens", "n_tokens", "token_count", "ntokens")
_ROWS: Final = (
    "rows",
    "num_rows",
    "records",
    "num_examples",
    "examples",
    "documents",
    "docs",
    "num_documents",
    "lines",
    "num_lines",
)
_SIZES: Final = ("size", "bytes", "num_bytes", "size_bytes", "contentsize", "content_size")
_SUMS: Final = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *]|  |\t)(.{1,1000})")
_BSD: Final = re.compile(r"SHA256 \((.{1,1000})\) = ([0-9a-fA-F]{64})")
_SHA: Final = re.compile(r"(?:sha-?256[:=])?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a list.

    Attributes:
        path: relative to the list, or an address.
        sha256: 64 hex, or "" where the list has none.
        tokens, rows, size: as stated; None where they are not.
        licence: the words used, or "".
        dtype: of the token ids a file holds, or "".
    """

    path: str
    sha256: str = ""
    tokens: int | None = None
    rows: int | None = None
    size: int | None = None
    licence: str = ""
    dtype: str = ""

    @property
    def elsewhere(self) -> bool:
        return "://" in self.path


@dataclass(frozen=True)
class DataManifest:
    """A list of files.

    Attributes:
        name: the file it is.
        kind: croissant, sums or table.
        entries: in its order.
        tokens: of all, where it states a total.
        licence: of all, in its words, or "".
    """

    name: str
    kind: str
    entries: tuple[ListedFile, ...]
    tokens: int | None = None
    licence: str = ""

    def place(self, entry: ListedFile) -> str:
        """The file's name in the subject; "" where it leads out of the release."""
        parts: list[str] = list(self.name.split("/")[:-1])
        for part in entry.path.replace("\\", "/").split("/"):
            if part == ".." and parts:
                parts.pop()
            elif part == "..":
                return ""
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)


def is_manifest(file: SubjectFile) -> bool:
    """Whether a file is called like a list of files."""
    stem = file.stem
    if stem.endswith((".index.json", ".md", ".py")):
        return False
    return bool(
        re.fullmatch(
            r"(?:.*[-_.])?(?:manifest|checksums?)(?:[-_.].*)?\.(?:json|jsonl|csv|tsv|txt|jsonld|ya?ml)",
            stem,
        )
        or re.fullmatch(r".*croissant.*\.json(?:ld)?", stem)
        or re.fullmatch(r"(?:.*[-_.])?sha256(?:sums?)?(?:\.(?:txt|json))?|.*\.sha256", stem)
    )


def read(subject: Subject, file: SubjectFile) -> DataManifest | None:
    """Read one; None where its bytes are not here.

    Raises:
        FormatError: not a list of files in any of the forms.
    """
    text = subject.text(file.name, _MAX_TEXT)
    if text is None:
        return None
    try:
        manifest = _read(file.name, text, file.suffix)
    except (ValueError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())[:120]
        raise FormatError(f"{file.name} cannot be read as a list of files: {reason}") from None
    if not manifest.entries:
        raise FormatError(f"{file.name} lists no file")
    return manifest


def _read(name: str, text: str, suffix: str) -> DataManifest:
    start = text.lstrip()[:1]
    if suffix == ".jsonl":
        lines = (line for line in text.splitlines() if line.strip())
        return DataManifest(name, "table", tuple(_entries(map(json.loads, lines))))
    if start in ("{", "["):
        return _from_json(name, json.loads(text))
    if suffix in (".yaml", ".yml"):
        from overt.formats import yamltext

        return _from_json(name, yamltext.load(text, name))
    if suffix in (".csv", ".tsv"):
        reader = csv.DictReader(text.splitlines(), delimiter="\t" if suffix == ".tsv" else ",")
        return DataManifest(name, "table", tuple(_entries(reader)))
    return DataManifest(name, "sums", tuple(_sums(text))[:MAX_ENTRIES])


def _sums(text: str) -> Iterator[ListedFile]:
    for line in text.splitlines():
        if match := _SUMS.fullmatch(line.rstrip()):
            yield ListedFile(match[2].strip(), match[1].lower())
        elif match := _BSD.fullmatch(line.rstrip()):
            yield ListedFile(match[1], match[2].lower())


def _from_json(name: str, content: Any) -> DataManifest:
    if isinstance(content, list):
        return DataManifest(name, "table", tuple(_entries(content)))
    if not isinstance(content, dict):
        return DataManifest(name, "table", ())
    licence = _licence(content.get("license") or content.get("licence"))
    if isinstance(content.get("distribution"), list):
        rows = [_croissant(row) for row in content["distribution"] if _is_file_object(row)]
        return DataManifest(name, "croissant", tuple(_entries(rows)), None, licence)
    tokens = next(
        (_count(content.get(key)) for key in ("total_tokens", *_TOKENS) if key in content), None
    )
    for key in ("files", "shards", "entries", "data", "manifest", "splits", "documents"):
        held = content.get(key)
        if isinstance(held, list):
            return DataManifest(name, "table", tuple(_entries(held)), tokens, licence)
        if isinstance(held, dict):
            return DataManifest(name, "table", tuple(_entries(_keyed(held))), tokens, licence)
    return DataManifest(name, "table", tuple(_entries(_keyed(content))), tokens, licence)


def _is_file_object(row: Any) -> bool:
    return isinstance(row, dict) and "FileObject" in str(row.get("@type", ""))


def _croissant(row: Mapping[str, Any]) -> dict[str, Any]:
    """A FileObject without its id, so that its ``contentUrl`` is what counts as its path."""
    fields_ = {key: value for key, value in row.items() if key not in ("name", "@id")}
    return fields_ if "contentUrl" in fields_ else dict(row)


def _keyed(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """``{"path": "sha256"}`` and ``{"path": {…}}`` as rows."""
    for key, value in content.items():
        if isinstance(value, str) and _SHA.fullmatch(value.lower()):
            yield {"path": key, "sha256": value}
        elif isinstance(value, dict) and _first(value, _DIGESTS) is not None:
            yield {"path": key, **value}


def _entries(rows: Iterable[Any]) -> Iterator[ListedFile]:
    for number, row in enumerate(rows):
        if number == MAX_ENTRIES:
            return
        if not isinstance(row, dict):
            continue
        lower = {str(key).strip().lower(): value for key, value in row.items()}
        path = _first(lower, _PATHS)
        if not isinstance(path, str) or not 0 < len(path.strip()) <= 2000:
            continue
        digest = _first(lower, _DIGESTS)
        match = _SHA.fullmatch(digest.strip().lower()) if isinstance(digest, str) else None
        yield ListedFile(
            path=path.strip(),
            sha256=match[1] if match else "",
            tokens=_count(_first(lower, _TOKENS)),
            rows=_count(_first(lower, _ROWS)),
            size=_count(_first(lower, _SIZES)),
            licence=_licence(lower.get("license") or lower.get("licence")),
            dtype=str(lower.get("dtype") or "")[:20].lower(),
        )


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)


def _count(value: Any) -> int | None:
    """A whole number, also as text with thousands apart; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < 1 << 62 else None
    if isinstance(value, str) and re.fullmatch(
        r"\d{1,3}(?:[,_]\d{3}){1,6}|\d{1,18}", value.strip()
    ):
        return int(re.sub(r"\D", "", value))
    return None


def _licence(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, dict):
        value = value.get("@id") or value.get("url") or value.get("name")
    if not isinstance(value, str):
        return ""
    match = re.fullmatch(r"https?://spdx\.org/licenses/([\w.+-]+?)(?:\.html)?/?", value.strip())
    return match[1] if match else value.strip()[:200]
