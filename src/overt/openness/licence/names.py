"""From the many names of a licence to one id, and what is known about it beside its terms.

The id is SPDX's where SPDX has one, else one of `data/licences.tsv`.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, Literal, NamedTuple, cast

from overt.openness import packed

Kind = Literal[
    "osd_open",
    "data_open",
    "use_restricted",
    "scale_limited",
    "non_commercial",
    "research_only",
    "proprietary",
    "unknown",
]
"""The class of a licence, as it is printed beside a model's openness."""

FILE: Final = packed.DATA / "licences.tsv"
_MAX_NAME: Final = 300  # characters of a name
# Not compiled before they are needed: that takes longer than most questions.
_REFERENCE: Final = r"^(?:DocumentRef-[\w.-]+:)?LicenseRef-(?:scancode-)?"
_NOISE: Final = (
    r"(?<![a-z0-9])(?:the|an?|licen[cs]es?|agreement|version|international|unported|generic|public"
    r"|gnu|under|terms of)(?![a-z0-9])"
)


class LicenceFacts(NamedTuple):
    """What stands about a licence on lists.

    Attributes:
        osi: approved by the Open Source Initiative.
        fsf: free by the Free Software Foundation.
    """

    id: str
    title: str
    osi: bool
    fsf: bool
    kind: Kind
    url: str


class _NameTable(NamedTuple):
    """The file: lists of ids by name, rows by id, and names by their key."""

    lists: dict[str, frozenset[str]]
    rows: dict[str, tuple[str, ...]]  # kind, title, address, other names
    ids: dict[str, str]
    families: frozenset[str]


def canonical(text: str) -> str | None:
    """The id for a name: an SPDX id, a tag of the hub, a title; None where nobody knows it."""
    name = text.strip()[:_MAX_NAME]
    if "licenseref-" in name.lower():
        name = re.sub(_REFERENCE, "", name, flags=re.IGNORECASE)
    table = _table()
    plain = name.lower()  # mostly a key as it is, and no regular expression has to be compiled
    key = plain if plain in table.ids and "--" not in plain else _key(name)
    if key in table.ids:
        return table.ids[key]
    if key in table.families:
        return None
    return _by_loose_name().get(_loose(name))


def family(text: str) -> bool:
    """Whether a name is that of a family of licences and leaves the version open."""
    return canonical(text) is None and _key(text.strip()[:_MAX_NAME]) in _table().families


def facts(id: str) -> LicenceFacts | None:
    """What is known about a licence, by its id or any of its names."""
    known_id = canonical(id)
    if known_id is None:
        return None
    lists, row = _table().lists, _table().rows.get(known_id, ())
    kind, title, url = (row[i] if len(row) > i else "" for i in range(3))
    return LicenceFacts(
        id=known_id,
        title=title or known_id,
        osi=known_id in lists["osi"],
        fsf=known_id in lists["fsf"],
        kind=cast(Kind, kind) if kind else _kind(known_id),
        url=url or (f"https://spdx.org/licenses/{known_id}.html" if known_id in _spdx() else ""),
    )


def _kind(id: str) -> Kind:
    """The class of an id that has no row."""
    lists = _table().lists
    if id in lists["non_commercial"]:
        return "non_commercial"
    if id in lists["use_restricted"]:
        return "use_restricted"
    if id in lists["open_data"] or id in lists["open_fixed"]:
        return "data_open"
    return "osd_open" if id in lists["osi"] or id in lists["fsf"] else "unknown"


def is_open(id: str, *, compat: bool = False) -> bool:
    """Whether a licence is open for the Model Openness Framework.

    Args:
        id: a name; with `compat` it counts exactly as it is written.
        compat: as the framework's own tool answers, with what it misses.
    """
    lists = _table().lists
    listed = ("osi", "fsf", "open_data")
    if compat:
        known = any(id in lists[name] for name in listed) and id not in lists["compat_missing"]
        return known or id in lists["compat_only"]
    known_id = canonical(id)
    return any(known_id in lists[name] for name in (*listed, "open_fixed"))


def expression(text: str) -> tuple[str, ...]:
    """The ids in an SPDX expression, in order; a name nobody knows stays as it is written."""
    tree = _parsed(text)
    if tree is None:
        return ()
    return tuple(dict.fromkeys(canonical(symbol) or symbol for symbol in _symbols(tree)))


def open_expression(text: str) -> bool | None:
    """Whether a licence or expression is open: each part of an AND, any part of an OR.

    None where that hangs on a name nobody knows.
    """
    tree = _parsed(text)
    return None if tree is None else _open(tree)


def _open(tree: Any) -> bool | None:
    operator = str(getattr(tree, "operator", "")).strip().upper()
    if operator in ("AND", "OR"):
        answers = [_open(branch) for branch in tree.args]
        decided = operator == "OR"
        if decided in answers:
            return decided
        return None if None in answers else not decided
    known_id = canonical(_symbol(tree))
    return None if known_id is None else is_open(known_id)


def _parsed(text: str) -> Any:
    """The tree of an expression, or a single name; None for neither."""
    if canonical(text):
        return text
    from license_expression import ExpressionError, Licensing

    try:
        return Licensing().parse(text[: 4 * _MAX_NAME], validate=False)
    except (ExpressionError, RecursionError, ValueError, TypeError, AttributeError, IndexError):
        return None


def _symbols(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    arguments = getattr(tree, "args", ())
    if arguments:
        for branch in arguments:
            yield from _symbols(branch)
    else:
        yield _symbol(tree)


def _symbol(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    inner = getattr(tree, "license_symbol", tree)  # of "X WITH exception"
    return str(getattr(inner, "key", inner))


@cache
def _spdx() -> frozenset[str]:
    lists = _table().lists
    return lists["osi"] | lists["fsf"] | lists["others"]


@cache
def _table() -> _NameTable:
    data = FILE.read_bytes()
    lists, rows, families = _lines(data.decode("utf-8"))
    ids, open_ = packed.cached("licences/keys", data) or _keyed(lists, rows, families)
    return _NameTable(lists, rows, ids, frozenset(open_))


def _lines(text: str) -> tuple[dict[str, frozenset[str]], dict[str, tuple[str, ...]], list[str]]:
    """The lists by name, the rows by id, and the names of families."""
    lists: dict[str, frozenset[str]] = {}
    rows: dict[str, tuple[str, ...]] = {}
    families: list[str] = []
    for line in text.splitlines():
        name, _, rest = line.partition("\t")
        if name == "@family":
            families += rest.split("|")
        elif name.startswith("@"):
            lists[name[1:]] = frozenset(rest.split())
        elif not name.startswith("#"):
            rows[name] = tuple(rest.split("\t"))
    return lists, rows, families


def _keyed(
    lists: Mapping[str, frozenset[str]], rows: Mapping[str, tuple[str, ...]], families: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Ids by the keys of their names, an id's own before another's further names; families."""
    named = [(id_, id_) for name in ("osi", "fsf", "others") for id_ in sorted(lists[name])]
    named += [(id_, id_) for id_ in rows]
    renamed = (pair.partition("=") for pair in sorted(lists["renamed"]))
    named += [(old, new) for old, _, new in renamed]
    own = len(named)
    named += [(name, id_) for id_, row in rows.items() for name in _names(row)]
    keys = _keys([name for name, _ in named])
    table = {key: id_ for key, (_, id_) in zip(keys[:own], named[:own], strict=True)}
    for key, (_, id_) in zip(keys[own:], named[own:], strict=True):
        table.setdefault(key, id_)
    return table, sorted(set(_keys(families)) - table.keys())


@cache
def _by_loose_name() -> Mapping[str, str | None]:
    """Ids by what `_loose` leaves of their names; None where several are left with the same."""
    packed_value: dict[str, str | None] | None = packed.cached("licences/alike", FILE.read_bytes())
    return _loosely(_table().rows) if packed_value is None else packed_value


def _loosely(rows: Mapping[str, tuple[str, ...]]) -> dict[str, str | None]:
    short_names: dict[str, str | None] = {}
    for id_, row in rows.items():
        for name in _names(row):
            short = _loose(name)
            short_names[short] = id_ if short_names.get(short, id_) == id_ else None
        short_names.setdefault(_loose(id_), id_)
    return {short: id_ for short, id_ in short_names.items() if len(short) > 2}


def to_pack() -> dict[str, Any]:
    """What is long in the making, anew from the file: for scripts/pack_data.py."""
    lists, rows, families = _lines(FILE.read_text(encoding="utf-8"))
    return {"licences/keys": _keyed(lists, rows, families), "licences/alike": _loosely(rows)}


def _names(row: tuple[str, ...]) -> tuple[str, ...]:
    return (row[1], *(row[3].split("|") if len(row) > 3 else ()))


def _key(text: str) -> str:
    """A name without case, spaces and punctuation; ``+`` and the dots of versions stay."""
    return re.sub(r"[^a-z0-9.+]+|\.(?!\d)", "-", text.lower()).strip("-.")


def _keys(names: list[str]) -> list[str]:
    """`_key` of many names, none of which has a line break: one pass instead of thousands."""
    joined = re.sub(r"[^a-z0-9.+\n]+|\.(?!\d)", "-", "\n".join(names).lower())
    return [key.strip("-.") for key in joined.split("\n")]


def _loose(text: str) -> str:
    """A name without the words that come and go in it, and without the dots of ``3.0``."""
    plain = re.sub(r"\bv\.?\s?(?=\d)", " ", text.lower())
    plain = plain.replace("noncommercial", "non commercial").replace("sharealike", "share alike")
    plain = plain.replace("noderivatives", "no derivatives").replace("openrail", "open rail")
    plain = re.sub(_NOISE, " ", plain)
    return re.sub(r"[^a-z0-9.+]+|\.(?!\d)|\.0(?!\d)", "", plain)
