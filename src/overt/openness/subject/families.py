"""What is publicly said about the best known families of models: dated claims with their sources.

One TOML file of `data/models/` a family. A table of a file is a *node*: the version or variant that
its name says, which takes over what the node named by ``under`` says (``base`` where it names none)
and states only what differs. A cell is ``[component, availability, licence, source, where, note]``;
a source is ``[address, day, grade]`` with the grades ``primary`` (stated by the producer, in a copy
of its page that was read on that day), ``index`` (taken over from the record of another index) and
``reported`` (stated by somebody else). What nobody states has no cell. ``facts_from`` and
``sizes_from`` name the source of facts that no cell of the node comes from. ``index.toml`` lists,
family by family, the names under which people know a node. A parent is what others licensed to the
maker, or a data set; what the maker made itself and licenses anew stands in a note, because the
terms of the older model do not bind who takes the newer one.

A name counts when all of it is understood: what is left after the neutral words (``instruct``, a
quantization, a date, a size) are taken off must be a listed name, letter for letter. So the name of
a fine-tune that only starts like a known model is not that model. The most specific reading wins:
the whole name before the name without its date, the entry of a size before that of all sizes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from overt.openness import packed
from overt.openness.subject.record import Claim, Parent, Record
from overt.openness.verdicts.components import Availability
from overt.ref import Ref

GRADES: Final[Mapping[str, str]] = {
    "primary": "",
    "index": "taken over from another index",
    "reported": "reported by others, not read at its producer",
}
"""What a grade of a source adds to the note of a cell."""

_OTHER: Final = "-"  # the node of names that look like one of a family and are another model
_MAX_NAME: Final = 200  # characters of a name that is looked up
_SIZE: Final = r"(?:\d+x)?\d+(?:\.\d+)?[bm]\d?|e\d+b"
_LEAD: Final = (
    "meta",
    "google",
    "microsoft",
    "ibm",
    "nvidia",
    "openai",
    "anthropic",
    "mistralai",
    "huggingface",
    "eleutherai",
    "allenai",
    "ai2",
)
_WORDS: Final = (
    r"instruct|chat|it|pt|base|hf|gguf|awq|gptq|mlx|latest|preview|exp|experimental|original|"
    r"text|sft|dpo|rlvr|qat|\d+k|a\d+(?:\.\d+)?b|\d+e|\d+bit|onnx|"
    r"(?:ud-)?i?q\d(?:-[01k])?(?:-(?:xl|l|m|s|xs|xxs|nl))?|fp?16|f32|bf16|fp8|mxfp4|nvfp4"
)
_DATE: Final = r"\d{4}-\d{2}-\d{2}|\d{2}-\d{4}|\d{2}-\d{2}|\d{8}|\d{6}|\d{4}|\d{3}|v0\.\d|v1"


class Source(NamedTuple):
    """Where a cell comes from."""

    address: str
    date: str
    grade: str


class FamilyNode(NamedTuple):
    """One version of a family with everything it takes over.

    Attributes:
        sources: of the family, by their short name.
        cells: ``[component, availability, licence, source, where, note]``, by component.
        facts: see `Record.facts`; ``parameters`` only where there is but one size.
        sizes: parameters by the size in a name.
    """

    title: str
    kind: str
    owners: tuple[str, ...]
    sources: Mapping[str, Source]
    cells: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]
    sizes: Mapping[str, int]
    licence: str | None
    licence_link: str
    parents: tuple[Parent, ...]
    said: Mapping[str, str]


def lookup(ref: Ref) -> Record | None:
    """What is claimed about the model that a ref names; None where nobody knows the name.

    A hub repository counts only under an owner who publishes the family: the name of a re-upload
    proves nothing.
    """
    match ref.scheme:
        case "name" | "ollama":
            if ref.host or (ref.scheme == "ollama" and "/" in ref.name.removeprefix("library/")):
                return None
            tag = ref.tag if ref.tag and not ref.tag.startswith("sha256:") else ""
            return find(ref.name.removeprefix("library/") + (f"-{tag}" if tag else ""))
        case "hf" | "openai" | "anthropic":
            return find(ref.name)
        case "gemini":
            return find(ref.name.removeprefix("models/"))
        case _:
            return None


def find(name: str) -> Record | None:
    """What is claimed about a model by its name, as cards and file headers write it."""
    text = re.sub(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", "", name.strip())
    owner, slash, rest = text.partition("/")
    plain = rest if slash else owner
    if not plain or len(text) > _MAX_NAME or "/" in plain:
        return None
    entry = _entry(_plain(plain))
    if entry is None:
        return None
    family, node, size = entry
    if slash and owner.lower() not in _node(family, node).owners:
        return None
    return _record(family, node, size)


def names() -> tuple[str, ...]:
    """``family/version`` of every record, in order."""
    return tuple(f"{family}/{node}" for family in _families() for node in _nodes(family))


def all_records() -> tuple[Record, ...]:
    """Every record of the catalogue, without a size."""
    return tuple(
        _record(family, node, "") for family, _, node in (name.partition("/") for name in names())
    )


def sources(name: str) -> Mapping[str, Source]:
    """The source of each cell of a record of `names`, by component."""
    family, _, node = name.partition("/")
    entry = _node(family, node)
    return {component: entry.sources[cell[3]] for component, cell in entry.cells.items()}


# -- names ---------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """Lower case, one hyphen between the words."""
    return re.sub(r"[-_\s:@]+", "-", name.lower()).strip("-")


def _squeezed(text: str) -> str:
    return re.sub(r"[-.]", "", text)


def _entry(text: str) -> tuple[str, str, str] | None:
    """The (family, node, size) of a plain name."""
    known = _family_index()
    first, hyphen, rest = text.partition("-")
    size = next((w for w in text.split("-") if re.fullmatch(_SIZE, w)), "")
    for candidate in (text, rest) if hyphen and first in _LEAD else (text,):
        for reading in _readings(candidate):
            for key in (f"{_squeezed(reading)}@{_squeezed(size)}", _squeezed(reading)):
                if key in known:
                    family, node = known[key]
                    return None if node == _OTHER else (family, node, size)
    return None


def _readings(text: str) -> Iterator[str]:
    """The name with less and less of what is neutral, the whole of it first."""
    yield text
    text = _without(_WORDS, text)
    yield text
    yield _without(_DATE, text)
    text = _without(_SIZE, text)
    yield text
    yield _without(_DATE, text)


def _without(words: str, text: str) -> str:
    """`text` without the words that match, except the first word."""
    return re.sub(rf"(?:-(?:{words}))+(?=-|\Z)", "", text)


@cache
def _family_index() -> Mapping[str, tuple[str, str]]:
    """(family, node) by squeezed name, which a size or nothing may follow after ``@``."""
    return {
        key: (family, node)
        for family, nodes in _read("index").items()
        for node, keys in nodes.items()
        for key in keys
    }


# -- files ---------------------------------------------------------------------------------------


@cache
def _read(name: str) -> dict[str, Any]:
    return packed.toml(f"models/{name}")


def _families() -> tuple[str, ...]:
    return tuple(_read("index"))


def _nodes(family: str) -> tuple[str, ...]:
    return tuple(node for node in _read("index")[family] if node != _OTHER)


@cache
def _node(family: str, name: str) -> FamilyNode:
    content = _read(family)
    sources = {key: Source(*value) for key, value in content["sources"].items()}
    chain = list(_line(content, name))
    cells: dict[str, Sequence[str]] = {}
    facts: dict[str, Any] = {"producer": content["producer"]}
    top: dict[str, Any] = {}
    for entry in reversed(chain):
        for component in entry.get("without", ()):
            cells.pop(component, None)
        cells |= {cell[0]: cell for cell in entry.get("cells", ())}
        facts |= entry.get("facts", {})
        top |= {
            key: entry[key]
            for key in ("kind", "sizes", "licence", "licence_link", "said")
            if key in entry
        }
        if "parents" in entry:
            top["parents"] = tuple(_parent(parent, sources) for parent in entry["parents"])
    return FamilyNode(
        title=chain[0].get("title", content["title"]),
        kind=top.get("kind", "model"),
        owners=tuple(content.get("owners", ())),
        sources=sources,
        cells=cells,
        facts=facts,
        sizes=top.get("sizes", {}),
        licence=top.get("licence"),
        licence_link=top.get("licence_link", ""),
        parents=top.get("parents", ()),
        said=top.get("said", {}),
    )


def _line(content: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """A node and what it takes over from, the nearest first."""
    while name:
        node = content[name]
        yield node
        name = node.get("under", "" if name == "base" else "base")


def _parent(row: Sequence[str], sources: Mapping[str, Source]) -> Parent:
    name, relation, licence, source = row
    return Parent(name, relation, licence or None, sources[source].address)  # type: ignore[arg-type]


@cache
def _record(family: str, name: str, size: str) -> Record:
    node = _node(family, name)
    facts = dict(node.facts)
    if size in node.sizes:
        facts["parameters"] = node.sizes[size]
    shown = size.upper() if size and size not in node.title.lower() else ""
    return Record(
        name=f"{node.title} {shown}".strip(),
        kind=node.kind,  # type: ignore[arg-type]
        claims=tuple(_claim(cell, node.sources) for cell in node.cells.values()),
        licence=node.licence,
        licence_link=node.licence_link,
        parents=node.parents,
        facts=facts,
        source=f"catalogue: {family}/{name}",
        date=max((node.sources[cell[3]].date for cell in node.cells.values()), default=""),
        said=node.said,
    )


def _claim(cell: Sequence[str], sources: Mapping[str, Source]) -> Claim:
    component, availability, licence, source, where, note = [*cell, "", ""][:6]
    origin = sources[source]
    grade = GRADES[origin.grade]
    return Claim(
        component=component,
        availability=Availability[availability.upper()],
        licence=licence or None,
        source=origin.address,
        date=origin.date,
        where=where,
        note=f"{note} ({grade})" if note and grade else note or grade,
    )
