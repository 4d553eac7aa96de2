"""A record of the European Open Source AI Index (https://osai-index.eu), in the form it asks for.

Its classes are those of the step: *open* where the step counts a part as had in full, *partial*
where it counts as had in part or behind terms, *closed* below. What is only described stays closed,
with a note. The index has no cell for architecture, inference code or checkpoints, so a model whose
only open part is one of these cannot be told from a closed one.
"""

from typing import Any, Final

from overt.formats import yamltext
from overt.openness.dossier import Dossier
from overt.openness.export import licences, words
from overt.openness.export.text import address, clean, day, plain, shorten
from overt.openness.verdicts.components import Availability
from overt.openness.verdicts.rule_input import RuleInput

_A = Availability
_WHOLE: Final = {
    # From which availability on the step counts a part as had in full, where that is not FULL.
    "training_data": _A.RECONSTRUCTIBLE,
}
_CELLS: Final = (
    ("datasources_basemodel", "training_data"),
    ("datasources_endmodel", "training_data"),
    ("weights_basemodel", "weights"),
    ("weights_endmodel", "weights"),
    ("trainingcode", "training_code"),
    ("code", "training_code"),
    ("hardware_architecture", ""),
    ("preprint", "report"),
    ("paper", "paper"),
    ("modelcard", "model_card"),
    ("datasheet", "data_card"),
    ("licenses", "weights"),
)


def render(dossier: Dossier) -> str:
    record, facts = dossier.record, dossier.record.facts
    case = RuleInput(dossier.components, record, dossier.licence.id, dossier.licence.altered)
    name = shorten(clean(record.name or dossier.ref), 300) or "unnamed"
    bases = [parent.name for parent in record.parents if parent.relation != "dataset"]
    content: dict[str, Any] = {
        "system": {
            "name": name,
            "link": _link(dossier, "weights") or address(record.source) or None,
            "type": "text" if facts.get("modality") == "text" else None,
            "performanceclass": None,
            "basemodelname": bases[0] if bases else None,
            "endmodelname": name,
            "endmodellicense": _licence(dossier),
            "releasedate": day(facts.get("released", "")) or None,
            "notes": words.step_difference(dossier),
        },
        "org": {"name": str(facts.get("producer") or "") or None, "link": None, "notes": None},
    }
    for cell, component in _CELLS:
        content[cell] = {
            "class": _class(cell, component, dossier, case),
            "link": (_link(dossier, component) if component else "") or None,
            "notes": _note(cell, component, dossier),
        }
    return yamltext.dump(plain(content))


def _class(cell: str, component: str, dossier: Dossier, case: RuleInput) -> str:
    if cell == "licenses":
        return _licences(dossier, case)
    if cell == "hardware_architecture":
        return "closed"
    availability = case.counts(component, "declared")
    if cell == "code":  # it asks how well the code is documented
        return "partial" if availability >= _A.DESCRIBED else "closed"
    if component == "weights":
        # Part of the weights is not a model that somebody can run.
        return {_A.FULL: "open", _A.GATED: "partial"}.get(availability, "closed")
    if cell == "trainingcode" and case.counts("preprocessing_code", "declared") >= _A.PARTIAL:
        availability = max(availability, _A.PARTIAL)
    # Data behind a form is not had in full, though GATED stands above RECONSTRUCTIBLE.
    whole = availability in (_A.FULL, _WHOLE.get(component, _A.FULL))
    if whole:
        return "open"
    return "partial" if availability >= _A.PARTIAL else "closed"


def _licences(dossier: Dossier, case: RuleInput) -> str:
    """Open: an open licence on everything that can be had; partial: on the weights."""
    from overt.openness.licence import names

    def open_(name: str) -> bool:
        licence = case.licence_of(name)
        spoiled = case.spoiled(licence)
        return bool(licence) and not spoiled and names.open_expression(str(licence)) is True

    had = [
        component.component.name
        for component in dossier.components
        if case.counts(component.component.name, "declared") >= _A.PARTIAL
    ]
    if not open_("weights"):
        return "closed"
    return "open" if "weights" in had and all(open_(name) for name in had) else "partial"


def _licence(dossier: Dossier) -> str | None:
    licence = licences.concluded(dossier) or licences.declared(dossier)
    if licence is None:
        return None
    return licence.value if licence.form != "ref" else licence.title


def _link(dossier: Dossier, component: str) -> str:
    claim = dossier.component(component).claim
    if claim is None:
        return ""
    return address(claim.where) or address(claim.source)


def _note(cell: str, component: str, dossier: Dossier) -> str | None:
    if not component:
        return "Not assessed by Overt."
    if cell == "licenses":
        return " ".join(words.licence_lines(dossier))
    result = dossier.component(component)
    note = f"{words.finished_sentence(result)}."
    preparation = dossier.component("preprocessing_code")
    if cell == "trainingcode" and preparation.availability < _A.PARTIAL <= result.availability:
        note += " The code that prepared the data is not among it."
    return note
