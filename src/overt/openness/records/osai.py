"""Records of the European Open Source AI Index: twelve cells, each open, partial or closed.

By the index's own questions (``_parameters-descriptions.yml``): data sources are *documented and
made available*; weights are *made freely available*, and its notes use ``partial`` for weights
behind a gate; training code is that of *dataset processing, training and tuning*, so it speaks for
both of our components; the code cell asks for documentation and moves neither.

The index has two columns for data and for weights. A system is the model that its users meet: its
weights are the end model's, or the base's where no end model's are given; its data is that of both,
so the less open of the two counts.
"""

from collections.abc import Mapping
from typing import Any, Final

from overt.openness.records import fields
from overt.openness.subject.record import Claim, Parent, Record
from overt.openness.verdicts.components import Availability

INDEX: Final = "European Open Source AI Index"
CELLS: Final = (
    "datasources_basemodel",
    "datasources_endmodel",
    "weights_basemodel",
    "weights_endmodel",
    "trainingcode",
    "code",
    "hardware_architecture",
    "preprint",
    "paper",
    "modelcard",
    "datasheet",
    "licenses",
)
_FEWEST = 3
_A = Availability
_WORDS: Final[Mapping[str, Availability]] = {
    "open": _A.FULL,
    "partial": _A.PARTIAL,
    "closed": _A.ABSENT,
}
"""Any other word, and none, is unknown."""


def recognises(content: Mapping[str, Any]) -> bool:
    """A system with at least a few of the cells."""
    return isinstance(content.get("system"), dict) and (
        sum(isinstance(content.get(cell), dict) for cell in CELLS) >= _FEWEST
    )


def record(content: Mapping[str, Any], what: str) -> Record:
    system = _plain(fields.mapping(content, "system", what))
    cells = {cell: _Cell(content, cell, what) for cell in CELLS}
    licence = fields.text(system, "endmodellicense", what) or None
    # An open licence cell says that approved licences cover everything, code and data included.
    everywhere = licence if cells["licenses"].word == "open" else None
    claims = (
        _weights(cells["weights_endmodel"], cells["weights_basemodel"], licence),
        _data(cells["datasources_basemodel"], cells["datasources_endmodel"], everywhere),
        _code("training_code", cells["trainingcode"], cells["code"], everywhere),
        _code("preprocessing_code", cells["trainingcode"], cells["code"], everywhere),
        *(
            _claim(name, cells[cell], cells[cell].availability, everywhere)
            for name, cell in (
                ("report", "preprint"),
                ("paper", "paper"),
                ("model_card", "modelcard"),
                ("data_card", "datasheet"),
            )
        ),
    )
    return Record(
        name=fields.text(system, "name", what) or what,
        kind="record",
        claims=claims,
        licence=licence,
        licence_link=cells["licenses"].link,
        parents=_parents(system, what),
        facts=_facts(system, fields.mapping(content, "org", what), what),
        source=INDEX,
        said={"index": INDEX, **{cell: entry.word or "not given" for cell, entry in cells.items()}},
    )


class _Cell:
    """One of the twelve: its word, how far that says the thing can be had, and where."""

    def __init__(self, content: Mapping[str, Any], name: str, what: str) -> None:
        cell = fields.mapping(content, name, what)
        inside = f"{name} of {what}"
        self.word = fields.text(cell, "class", inside).lower()
        self.availability = _WORDS.get(self.word, _A.UNKNOWN)
        self.link = fields.address(cell, "link", inside)
        self.note = fields.text(cell, "notes", inside)


def _weights(end: _Cell, base: _Cell, licence: str | None) -> Claim:
    """The end model's; the base's where the end model's are closed or not given."""
    cell = base if end.availability <= _A.UNKNOWN < base.availability else end
    gated = cell.availability == _A.PARTIAL
    return _claim("weights", cell, _A.GATED if gated else cell.availability, licence)


def _data(base: _Cell, end: _Cell, licence: str | None) -> Claim:
    """The less open of the two; where only one is given, that one."""
    known_cells = [cell for cell in (base, end) if cell.availability != _A.UNKNOWN]
    cell = min(known_cells or [base], key=lambda candidate: candidate.availability)
    return _claim("training_data", cell, cell.availability, licence)


def _code(name: str, source: _Cell, documentation: _Cell, licence: str | None) -> Claim:
    """Code that is closed and yet documented is described."""
    availability = source.availability
    if availability == _A.ABSENT and documentation.availability >= _A.PARTIAL:
        availability = _A.DESCRIBED
    return _claim(name, source, availability, licence)


def _claim(name: str, cell: _Cell, availability: Availability, licence: str | None) -> Claim:
    note = cell.note
    if cell.word and cell.word not in _WORDS:
        note = f"the index says {cell.word[:40]!r}; {note}".rstrip("; ")
    return Claim(
        name,
        availability,
        licence if availability > _A.UNKNOWN else None,
        source=INDEX,
        where=cell.link,
        note=note,
    )


def _plain(system: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the system, whatever spaces and underscores their names have."""
    return {str(key).lower().replace(" ", "").replace("_", ""): system[key] for key in system}


def _parents(system: Mapping[str, Any], what: str) -> tuple[Parent, ...]:
    base = fields.text(system, "basemodelname", what)
    if not base or base == fields.text(system, "endmodelname", what):
        return ()
    return (Parent(base, "base", source=INDEX),)


def _facts(system: Mapping[str, Any], org: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    facts: dict[str, Any] = {}
    producer = fields.text(org, "name", what)
    released = fields.day(fields.text(system, "releasedate", what))
    kinds = {word.strip().lower() for word in fields.words(system, "type", what)}
    if producer:
        facts["producer"] = producer
    if released:
        facts["released"] = released
    if kinds and kinds <= {"text", "code"}:
        facts["modality"] = "text"
    elif len(kinds) > 1:
        facts["modality"] = "multimodal"
    return facts
