"""What `overt may` decides about: a model's own licence and those of all it was made from.

A licence text that lies with the model outweighs what its card or header names. Where the two are
different licences both are applied, so that the strictest wins, and a remark says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.openness.permissions import terms
from overt.openness.permissions.conditions import mentions
from overt.openness.permissions.may import LicenceLink
from overt.openness.subject import families
from overt.openness.subject.named_licences import (
    StatedLicence,
    agree,
    ids_of,
    is_main,
    link_of,
    of_text,
    says_nothing,
)
from overt.openness.subject.record import Parent, Record
from overt.openness.subject.subject import Subject
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.openness.licence.match import Match

_MAX_LINKS = 64
_DEPTH = 8
_MAX_TEXTS = 16
_RELATIONS = {"distilled": "teacher"}
"""What may.py calls a parent that a record calls otherwise."""


@dataclass(frozen=True)
class Chain:
    """A model and what it was made from.

    Attributes:
        links: the model's own licences first, then its parents, nearest first.
        remarks: what a person should know about how they were found, a sentence each.
        texts: the licence files that lie with the model and what each is.
    """

    links: tuple[LicenceLink, ...]
    remarks: tuple[str, ...] = ()
    texts: "Mapping[str, Match] | None" = None


@dataclass(frozen=True)
class ClaimedLicence:
    """A licence as somebody names it, and who does."""

    words: str
    source: str


def of(subject: Subject, settings: Settings) -> Chain:
    """The chain of one subject; asks the catalogue and the store, never a network."""
    remarks: list[str] = []
    texts = _texts(subject)
    links = list(_own_licences(subject, texts, remarks))
    seen = {subject.record.name.lower(), subject.ref.lower().removeprefix("hf:")}
    for link in _above(subject.record, replace(settings, offline=True), seen, 1):
        links.append(link)
        if len(links) >= _MAX_LINKS:
            remarks.append(f"it was made from more than {_MAX_LINKS} things, and not all were seen")
            break
    return Chain(tuple(links), tuple(remarks), {name: match for name, (_, match) in texts.items()})


def strictest(missing: Sequence[str], links: Sequence[LicenceLink]) -> tuple[str, ...]:
    """The names of facts, those first that decide whether the use is denied."""
    clauses = [
        clause
        for link in links
        if link.licence and (terms_ := terms.load(link.licence)) is not None
        for clause in terms_.clauses
    ]

    def mild(name: str) -> bool:
        return not any(
            clause.effect == "deny" and mentions(clause.when, name) for clause in clauses
        )

    return tuple(sorted(missing, key=mild))


# -- the model itself ------------------------------------------------------------------------------


def _texts(subject: Subject) -> "dict[str, tuple[str, Match]]":
    """The licence files nearest to the top, and what each is."""
    texts = subject.licence_texts or _deeper(subject)
    if not texts:
        return {}
    top = min(name.count("/") for name in texts)
    chosen = [name for name in sorted(texts) if name.count("/") == top][:_MAX_TEXTS]
    return {name: (texts[name], subject.licence_match(name)) for name in chosen}


def _deeper(subject: Subject) -> Mapping[str, str]:
    """Licence texts further down, of a model whose files were chosen when it was stored."""
    if subject.place:
        return {}
    texts = {file.name: subject.text(file.name) for file in subject.files if is_main(file.name)}
    return {name: text for name, text in texts.items() if text is not None}


def _own_licences(
    subject: Subject, texts: "Mapping[str, tuple[str, Match]]", remarks: list[str]
) -> Iterator[LicenceLink]:
    name, facts = subject.record.name or subject.ref, _facts(subject.record)
    held = [
        (file, licence_)
        for file, (text, match) in texts.items()
        for licence_ in of_text(file, text, match)
    ]
    for file, licence in held:
        match = texts[file][1]
        if match.missing_version:
            remarks.append(f"{file} does not say which version of {match.id} it is")
        if licence.licence is None:
            remarks.append(f"{file} is no licence text that is known here: it has to be read")
        yield link_of(f"{name} ({file})", licence, facts)
    concluded = [licence_.licence for _, licence_ in held if licence_.licence]
    taken, unheard = list(concluded), False
    for named in _declared(subject):
        ids = ids_of(named.words)
        if not ids:
            unheard = True
            remarks.append(f"{named.source} names a licence not known here: {named.words[:80]!r}")
        for id_ in ids:
            if any(agree(named.words, id_, other) for other in taken):
                continue
            if concluded:
                remarks.append(
                    f"{named.source} names {id_} and the text that lies with it is "
                    f"{' and '.join(concluded)}: both are applied"
                )
            title = f"{name} ({named.source})" if taken else name
            taken.append(id_)
            yield link_of(title, StatedLicence(id_), facts)
    if not taken and not held:
        remarks += [] if unheard else ["nothing says what its licence is"]
        yield link_of(name, StatedLicence(None), facts)


def _declared(subject: Subject) -> Iterator[ClaimedLicence]:
    """Every licence that is named: as merged, by the card and by a header, each words once."""
    heard: set[str] = set()
    for named in _claimed_licences(subject):
        if not says_nothing(named.words) and named.words.lower() not in heard:
            heard.add(named.words.lower())
            yield named


def _claimed_licences(subject: Subject) -> Iterator[ClaimedLicence]:
    record, card, header = subject.record, subject.card, subject.model
    if card is not None:
        words = card.words("license")
        if all(says_nothing(word) for word in words):
            words = card.words("license_name")
        yield from (ClaimedLicence(word, card.name) for word in words[:8])
    if header is not None:
        licence = header.licence
        if says_nothing(licence):
            licence = header.licence_name
        yield ClaimedLicence(licence or "", "its header")
    yield ClaimedLicence(record.licence or "", record.source or "its record")


# -- what it was made from -------------------------------------------------------------------------


def _above(record: Record, settings: Settings, seen: set[str], depth: int) -> Iterator[LicenceLink]:
    further: list[Record] = []
    for parent in record.parents:
        key = parent.name.lower()
        if key in seen or len(seen) > _MAX_LINKS:
            continue
        seen.add(key)
        known = families.find(parent.name)
        stored = None if known or parent.relation == "dataset" else _stored(parent.name, settings)
        if stored is not None:
            yield from (link._replace(relation=_relation(parent)) for link in _own_of(stored))
            known = stored.record
        else:
            yield from _parent(parent, known)
        if known is not None and parent.relation != "dataset" and depth < _DEPTH:
            further.append(known)
    for stored_parent in further:
        yield from _above(stored_parent, settings, seen, depth + 1)


def _own_of(subject: Subject) -> Iterator[LicenceLink]:
    return _own_licences(subject, _texts(subject), [])


def _parent(parent: Parent, known: Record | None) -> Iterator[LicenceLink]:
    words = [parent.licence, known.licence if known else None]
    facts, relation = _facts(known), _relation(parent)
    ids: list[str] = []
    for licence_text in words:
        if licence_text and not says_nothing(licence_text):
            ids += [id_ for id_ in ids_of(licence_text) if id_ not in ids]
    for id_ in ids:
        yield LicenceLink(name=parent.name, relation=relation, licence=id_, known=True, facts=facts)
    if not ids:
        yield LicenceLink(
            name=parent.name, relation=relation, licence=None, known=False, facts=facts
        )


def _relation(parent: Parent) -> str:
    return _RELATIONS.get(parent.relation, parent.relation)


def _facts(record: Record | None) -> Mapping[str, str]:
    """What a licence may ask about the model itself."""
    modality = record.facts.get("modality") if record else None
    return {"modality": modality} if modality in ("text", "multimodal") else {}


def _stored(name: str, settings: Settings) -> Subject | None:
    """A parent that is in the store, under its own name or that of the repository it came from."""
    from overt.models.store import Store
    from overt.openness.subject import gather

    wanted = name.lower()
    for entry in Store(settings.home).names():
        origin = entry.manifest.origin.get("repository", "").lower()
        if wanted in (origin, str(entry.ref).lower(), str(entry.ref).lower().removeprefix("hf:")):
            try:
                return gather.subject(str(entry.ref), settings)
            except OvertError:
                return None
    return None
