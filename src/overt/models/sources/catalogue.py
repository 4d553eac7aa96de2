"""Short names, from catalogue.toml: where each model comes from and what is known about it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from overt.errors import BadRef, FormatError, ModelNotFound
from overt.ref import Ref, parse

_FILE = Path(__file__).with_name("catalogue.toml")
_FAMILY_KEYS = {"about", "default", "tags"}
_HEX = re.compile(r"[0-9a-f]{64}")
_LICENCE = re.compile(r"[A-Za-z0-9.+-]+")

Kind = Literal["chat", "base"]


@dataclass(frozen=True, slots=True)
class SourcedFact:
    """Who states something, and when that was read."""

    about: str
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model of the catalogue. None where a fact is not known.

    Attributes:
        name, tag: the short name; ``name`` alone means the family's default tag.
        about: one line.
        refs: where it comes from, best first.
        kind: ``chat`` follows instructions, ``base`` continues text.
        licence: an SPDX id or ``LicenseRef-…``.
        parameters: how many weights.
        size: bytes of the weights.
        context: tokens it was trained for.
        sha256: 64 hex of the weights, the same whichever ref they come from.
        pins: 64 hex by name of a file that an index or hub lists.
        note: what a person should know before pulling.
        default: whether ``name`` alone means this one.
    """

    name: str
    tag: str
    about: str
    refs: tuple[Ref, ...]
    kind: Kind
    licence: str
    parameters: int | None = None
    size: int | None = None
    context: int | None = None
    sha256: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    facts: tuple[SourcedFact, ...] = ()
    default: bool = False

    @property
    def ref(self) -> Ref:
        """The full short name."""
        return Ref("name", self.name, tag=self.tag)


def entries() -> tuple[CatalogueEntry, ...]:
    """All of them, families in the file's order, the default tag first."""
    return _builtin()


def lookup(ref: Ref) -> CatalogueEntry | None:
    """The entry a name means, or None. A name without a tag means the family's default."""
    if ref.scheme != "name":
        return None
    for entry in entries():
        if entry.name == ref.name and (entry.tag == ref.tag or (entry.default and not ref.tag)):
            return entry
    return None


def names_of(entry: CatalogueEntry) -> tuple[Ref, ...]:
    """Every short name that means `entry`."""
    short = (Ref("name", entry.name),) if entry.default else ()
    return (*short, entry.ref)


def need(ref: Ref) -> CatalogueEntry:
    """As `lookup`, but raises ModelNotFound with the nearest names."""
    if entry := lookup(ref):
        return entry
    raise ModelNotFound(f"there is no model called {ref}", nearest(ref))


def nearest(ref: Ref) -> str:
    """A hint: the catalogue's names that look like `ref`."""
    from difflib import get_close_matches

    known = {str(name): None for entry in entries() for name in names_of(entry)}
    same = [str(entry.ref) for entry in entries() if entry.name == ref.name]
    near = same[:3] or get_close_matches(str(ref).lower(), list(known), n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "type `overt list --available` for the names that can be pulled"


def read(text: str) -> tuple[CatalogueEntry, ...]:
    """Parse a catalogue; unknown keys and wrong kinds are refused.

    Raises:
        FormatError: it does not follow the form; the message names the entry.
    """
    try:
        families = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"the catalogue is no TOML: {error}") from None
    entries: list[CatalogueEntry] = []
    for name, family in families.items():
        if not isinstance(family, dict) or set(family) != _FAMILY_KEYS:
            raise FormatError(f"the catalogue's {name} needs exactly about, default and tags")
        tags = family["tags"]
        if not isinstance(tags, dict) or family["default"] not in tags:
            raise FormatError(f"the catalogue's {name} has no tag {family['default']!r}")
        made = [_entry(name, tag, family, fields) for tag, fields in tags.items()]
        entries += sorted(made, key=lambda entry: not entry.default)
    return tuple(entries)


@cache
def _builtin() -> tuple[CatalogueEntry, ...]:
    return read(_FILE.read_text("utf-8"))


def _entry(name: str, tag: str, family: Mapping[str, Any], fields: object) -> CatalogueEntry:
    where = f"the catalogue's {name}:{tag}"
    if not isinstance(fields, dict):
        raise FormatError(f"{where} is no table")
    kinds: dict[str, type] = {
        "refs": list,
        "kind": str,
        "licence": str,
        "parameters": int,
        "size": int,
        "context": int,
        "sha256": str,
        "pins": dict,
        "note": str,
        "facts": list,
    }
    for key, value in fields.items():
        if key not in kinds or not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise FormatError(f"{where} has {key} = {value!r}, which it should not have")
    if missing := {"refs", "kind", "licence", "facts"} - set(fields):
        raise FormatError(f"{where} lacks {', '.join(sorted(missing))}")
    pins = fields.get("pins", {})
    digests = [*pins.values(), *([fields["sha256"]] if "sha256" in fields else [])]
    numbers = [fields[key] for key in ("parameters", "size", "context") if key in fields]
    proper = (
        fields["kind"] in ("chat", "base")
        and _LICENCE.fullmatch(fields["licence"])
        and fields["refs"]
        and all(isinstance(d, str) and _HEX.fullmatch(d) for d in digests)
        and all(number > 0 for number in numbers)
    )
    if not proper:
        raise FormatError(f"{where} has a kind, licence, digest or number of the wrong form")
    try:
        parse(f"{name}:{tag}")
        refs = tuple(parse(ref) for ref in fields["refs"])
    except (BadRef, TypeError) as error:
        raise FormatError(f"{where} has a bad ref: {error}") from None
    return CatalogueEntry(
        name=name,
        tag=tag,
        about=str(family["about"]),
        refs=refs,
        kind=cast(Kind, fields["kind"]),
        licence=fields["licence"],
        parameters=fields.get("parameters"),
        size=fields.get("size"),
        context=fields.get("context"),
        sha256=fields.get("sha256"),
        pins=pins,
        note=fields.get("note"),
        facts=tuple(_fact(where, item) for item in fields["facts"]),
        default=tag == family["default"],
    )


def _fact(where: str, item: object) -> SourcedFact:
    if not isinstance(item, dict) or set(item) != {"about", "source", "date"}:
        raise FormatError(f"{where} has a fact without exactly about, source and date")
    if not isinstance(item["date"], date):
        raise FormatError(f"{where} has a fact dated {item['date']!r}")
    return SourcedFact(str(item["about"]), str(item["source"]), item["date"].isoformat())
