"""What a GGUF file says of where its model comes from: the ``general.*`` keys of its header.

All of it follows from the inputs of a recipe: their manifests, which their digests prove, their
headers and their cards. The name that a person gives to what is made is no part of it.

The keys are those of the GGUF specification and of gguf-py's ``Keys.General``, and names are made
of hub ids as its ``Metadata`` makes them. One is our own: ``general.base_model.N.license``, without
which nobody could tell from the file alone whether a parent's licence is among those it names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from overt.errors import BadRef, FormatError
from overt.formats import gguf
from overt.models.recipe import Input
from overt.openness.subject import card as cards
from overt.openness.subject.named_licences import says_nothing
from overt.provenance.steps import StepInput
from overt.ref import parse

Pair = tuple[str, str | int]
"""A key of GGUF and its value: text, or a whole number of 32 bits."""

MODELS = ("base", "from", "adapter")
"""Roles of inputs that are parents of what is made."""
_MAX_CHARACTERS = 200  # characters of what a file or a card says
_STORED = re.compile(r"(?:[-_. ](?:i?q\d\w*|b?fp?(?:8|16|32)|gguf|safetensors|hf))+", re.IGNORECASE)
"""How a release's file is stored, at the end of its name: the new file is stored otherwise."""


class ParentModel(NamedTuple):
    """A model that another is made of; what is not known is ""."""

    name: str
    organization: str = ""
    repo_url: str = ""
    licence: str = ""


def combined(licences: Sequence[str | None]) -> str | None:
    """The licence of what is made of parents with these: all of them hold, as an SPDX expression.

    None as soon as one of them states none, or where there is none.
    """
    different: dict[str, str] = {}
    for licence in licences:
        if not licence:
            return None
        different.setdefault(licence.lower(), licence)
    if len(different) == 1:
        return next(iter(different.values()))
    return (
        " AND ".join(
            f"({licence})" if " " in licence else licence for licence in different.values()
        )
        or None
    )


# ---- what is made of other models ----------------------------------------------------------


def derived(inputs: Sequence[Input], sources: Sequence[StepInput]) -> list[Pair]:
    """The keys of a model that is made of others: the licence of all, and each parent once.

    Args:
        inputs, given: of a recipe, in its order; those with a role of `MODELS` are the parents.

    Raises:
        FormatError: a GGUF parent that cannot be read.
    """
    parents: dict[str, ParentModel] = {}
    for input, source in zip(inputs, sources, strict=True):
        if input.role in MODELS and input.digest not in parents:
            parents[input.digest] = parent(input, source)
    licence = combined([parent_.licence for parent_ in parents.values()])
    pairs: list[Pair] = [("general.license", licence)] if licence else []
    return [*pairs, *_listed(list(parents.values()))]


def parent(input: Input, source: StepInput) -> ParentModel:
    """What is known of one input: by the hub's repository it comes from, by its own header, by
    the name that its manifest has for it; by its digest where it has none.
    """
    manifest = source.manifest
    # what lies at the path of a stored model with an adapter is its base, whose name is another
    header = None if manifest and input.role == "adapter" else _header(source)
    parent_ = _of_ref(manifest.ref) if manifest else ParentModel("")
    if header is not None and not parent_.repo_url:
        parent_ = ParentModel(
            _text(header, "name") or parent_.name,
            _text(header, "organization") or parent_.organization,
            _text(header, "source.repo_url") or _text(header, "repo_url"),
        )
    own = manifest.ref if manifest and parse(manifest.ref).scheme == "name" else ""
    licence = _stated(manifest.licence if manifest else None)
    if not licence and header is not None:
        licence = _stated(header.licence) or _stated(header.licence_name)
    return parent_._replace(name=parent_.name or own or input.digest, licence=licence)


def _header(source: StepInput) -> gguf.GgufHeader | None:
    """Of what is GGUF: an adapter of peft is not."""
    with source.path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return None
    return gguf.read(source.path)


def _listed(parents: Sequence[ParentModel]) -> Iterator[Pair]:
    if parents:
        yield "general.base_model.count", len(parents)
    for number, parent_ in enumerate(parents):
        for key, value in (
            ("name", parent_.name),
            ("organization", parent_.organization),
            ("repo_url", parent_.repo_url),
            ("license", parent_.licence),
        ):
            if value:
                yield f"general.base_model.{number}.{key}", value


# ---- the same model in another form --------------------------------------------------------


def release(source: StepInput, card: str) -> list[Pair]:
    """The keys of a release that becomes GGUF: its name, its licence, and what its card says it
    was made from.

    Args:
        card: the text of its README.md, or "".
    """
    manifest = source.manifest
    release_ = _of_ref(manifest.ref) if manifest else ParentModel("")
    fields: Mapping[str, Any] = {}
    bases: tuple[str, ...] = ()
    with suppress(FormatError):  # a card that cannot be read says nothing
        read = cards.read("README.md", card)
        fields, bases = read.fields, read.words("base_model")
    pairs: list[Pair] = []
    if release_.name:
        pairs.append(("general.name", release_.name))
        if manifest and (basename := _basename(parse(manifest.ref).name)):
            pairs.append(("general.basename", basename))
    if release_.organization:
        pairs.append(("general.organization", release_.organization))
    licence = _stated(manifest.licence if manifest else None) or _of_card(fields)
    if licence:
        pairs.append(("general.license", licence))
    if release_.repo_url:
        pairs.append(("general.source.repo_url", release_.repo_url))
    return [*pairs, *_listed([_of_id(id_) for id_ in bases[:16] if _is_stated(id_)])]


def _of_card(fields: Mapping[str, Any]) -> str:
    """The licence that a card states; several hold together."""
    licence = fields.get("license")
    several = licence if isinstance(licence, list) else [licence]
    words = [_stated(licence_) or _stated(fields.get("license_name")) for licence_ in several[:8]]
    return combined(words) or ""


def _is_stated(text: str) -> bool:
    return 0 < len(text.strip()) <= _MAX_CHARACTERS and text.isprintable()


# ---- names ---------------------------------------------------------------------------------


def _of_ref(ref: str) -> ParentModel:
    """What a pinned ref tells; nothing, where it is a name of a person's own, or a place."""
    try:
        parsed = parse(ref)
    except BadRef:
        return ParentModel("")
    if parsed.scheme == "hf":
        return _of_id(parsed.name)
    if parsed.scheme in ("pypi", "ollama", "oci"):
        return ParentModel(_title(parsed.name.rpartition("/")[2]))
    return ParentModel("")


def _of_id(id: str) -> ParentModel:
    """A hub's ``owner/repository``, or plain words."""
    owner, slash, name = id.removeprefix("https://huggingface.co/").strip().partition("/")
    if not slash or "/" in name or not owner or not name or "://" in id[8:]:
        return ParentModel(id.strip())
    return ParentModel(_title(name), _title(owner), f"https://huggingface.co/{owner}/{name}")


def _title(name: str) -> str:
    from gguf.metadata import Metadata

    title: Any = Metadata.id_to_title
    return str(title(_plain(name)))


def _basename(name: str) -> str:
    from gguf.metadata import Metadata

    return Metadata.get_model_id_components(_plain(name.rpartition("/")[2]))[2] or ""


def _plain(name: str) -> str:
    stored = next((match for match in _STORED.finditer(name) if match.end() == len(name)), None)
    return name[: stored.start()] if stored and stored.start() else name


def _text(header: gguf.GgufHeader, key: str) -> str:
    text = header.text(f"general.{key}") or ""
    return text if _is_stated(text) else ""


def _stated(words: object) -> str:
    """A licence's name, or "" for words that name none."""
    if not isinstance(words, str) or says_nothing(words) or not _is_stated(words):
        return ""
    return words.strip()
