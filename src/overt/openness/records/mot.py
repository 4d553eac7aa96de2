"""Records of the Model Openness Tool: what is listed is what its author says is released.

The tool has no field for availability: a component is listed or it is not, each with a licence of
its own or one inherited from its kind (code, data, document) or the whole distribution. Two things
in a record say that a listed component cannot be had after all:

- its licence field says that it is not included;
- it is code or data, nothing grants any use of it (no licence, ``Undisclosed``, ``Proprietary``),
  and neither the component nor the release has an address. A name without a place and without
  terms is no claim that somebody can have it. Documents are exempt: they are read, not used.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from overt.errors import FormatError
from overt.openness.records import fields
from overt.openness.subject.record import Claim, Parent, Record
from overt.openness.verdicts.components import BY_MOF, COMPONENTS, Availability, Component

INDEX: Final = "Model Openness Tool"
_ABSENT = re.compile(r"\bnot (?:been )?(?:include|provide|release)", re.IGNORECASE)
_NO_TERMS = re.compile(r"(?:unlicensed|undisclosed|unknown|none|n/?a|proprietary)?", re.IGNORECASE)


def recognises(content: Mapping[str, Any]) -> bool:
    """A release with components, or one that names the framework."""
    release = content.get("release")
    if not isinstance(release, dict):
        return False
    framework = content.get("framework")
    named = isinstance(framework, dict) and "openness" in str(framework.get("name", "")).lower()
    return named or "components" in release


def record(content: Mapping[str, Any], what: str) -> Record:
    release = fields.mapping(content, "release", what)
    licences = _licences(release, what)
    address = fields.text(release, "huggingface", what) or fields.text(release, "repository", what)
    claims: dict[str, Claim] = {}
    seen = []
    for entry in fields.mappings(release, "components", what):
        name = fields.text(entry, "name", what)
        if not name:
            raise FormatError(f"a component of {what} has no name")
        component = BY_MOF.get(name)
        if component is None:
            seen.append(name)
            continue
        claims[component.name] = _claim(component, entry, licences, address, what)
    for component in COMPONENTS:
        if component.mof and component.name not in claims:
            claims[component.name] = Claim(
                component.name, Availability.ABSENT, source=INDEX, note="not listed"
            )
    weights = claims["weights"]
    extra = {"index": INDEX}
    if seen:
        extra["not a component of the framework"] = ", ".join(seen[:20])
    return Record(
        name=fields.text(release, "name", what) or what,
        kind="record",
        claims=tuple(
            claims[component.name] for component in COMPONENTS if component.name in claims
        ),
        licence=weights.licence or licences.get("distribution"),
        licence_link=_path(release, what),
        parents=_parents(release, what),
        facts=_facts(release, what),
        source=INDEX,
        date=fields.day(fields.text(release, "date", what)),
        said=extra,
    )


def _licences(release: Mapping[str, Any], what: str) -> Mapping[str, str]:
    """The licences of the whole and of each kind of component, without those left empty."""
    licence = fields.mapping(release, "license", what)
    licences = {}
    for kind in ("distribution", "code", "data", "document"):
        name = fields.text(fields.mapping(licence, kind, f"license of {what}"), "name", what)
        if name:
            licences[kind] = name
    return licences


def _path(release: Mapping[str, Any], what: str) -> str:
    licence = fields.mapping(release, "license", what)
    return fields.text(fields.mapping(licence, "distribution", f"license of {what}"), "path", what)


def _claim(
    component: Component,
    entry: Mapping[str, Any],
    licences: Mapping[str, str],
    address: str,
    what: str,
) -> Claim:
    inherited = licences.get(component.kind) or licences.get("distribution", "")
    own = fields.text(entry, "license", what)
    # An empty field is a component without a licence; an absent one inherits.
    licence = own if entry.get("license") is not None else inherited
    where = fields.text(entry, "component_path", what)
    if _ABSENT.search(licence):
        return Claim(
            component.name, Availability.ABSENT, source=INDEX, note=f"listed, and says: {licence}"
        )
    if (
        component.kind != "document"
        and not where
        and not address
        and _NO_TERMS.fullmatch(licence.strip())
    ):
        note = "listed, with no address and no licence that grants anything"
        return Claim(component.name, Availability.UNKNOWN, licence or None, INDEX, note=note)
    return Claim(
        component.name,
        Availability.FULL,
        None if licence in ("", "unlicensed") else licence,
        source=INDEX,
        where=where or (address if component.name == "weights" else ""),
    )


def _parents(release: Mapping[str, Any], what: str) -> tuple[Parent, ...]:
    origin = fields.text(release, "origin", what)
    if not origin or origin == fields.text(release, "name", what):
        return ()
    return (Parent(origin, "base", source=INDEX),)


def _facts(release: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    facts: dict[str, Any] = {}
    producer = fields.text(release, "producer", what)
    architecture = fields.text(release, "architecture", what)
    kind = fields.text(release, "type", what)
    if producer:
        facts["producer"] = producer
    if architecture and architecture != "undisclosed":
        facts["architecture"] = architecture
    if kind in ("language", "code"):
        facts["modality"] = "text"
    elif kind == "multimodal":
        facts["modality"] = "multimodal"
    return facts
