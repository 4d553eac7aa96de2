"""A CycloneDX 1.7 bill of materials of the model (https://cyclonedx.org/docs/1.7/json/).

The claimed licence is acknowledged as *declared*, the one of the text in the artefact as
*concluded*. The states of the components are declarations: a claim each, with what speaks for
it and against it, judged against the components of the Model Openness Framework.
"""

from typing import Any, Final

from overt.openness.dossier import Dossier
from overt.openness.evidence import ComponentResult, Evidence
from overt.openness.export import licences, words
from overt.openness.export.text import address, hex_of, identifier, overt_version, pretty, timestamp
from overt.openness.subject.record import Parent
from overt.openness.verdicts.components import COMPONENTS, Availability, Strength

_MODEL: Final = "model"
_ASSESSOR: Final = "assessor:overt"
# Where a component is to be found → what CycloneDX calls such an address.
_REFERENCES: Final = {
    "weights": "distribution",
    "training_code": "vcs",
    "inference_code": "vcs",
    "model_card": "model-card",
    "data_card": "documentation",
    "report": "documentation",
    "paper": "documentation",
    "evaluation_results": "quality-metrics",
    "safety_policy": "risk-assessment",
    "signature": "digital-signature",
}


def render(dossier: Dossier) -> str:
    ancestors = [parent for parent in dossier.record.parents if parent.relation != "dataset"]
    datasets = [parent for parent in dossier.record.parents if parent.relation == "dataset"]
    data = [_dataset(parent, number) for number, parent in enumerate(datasets, 1)]
    files = [_file(*file, number) for number, file in enumerate(dossier.files, 1)]
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{identifier(dossier, 'cyclonedx')}",
        "version": 1,
        "metadata": {
            **({"timestamp": made} if (made := timestamp(dossier.made_on)) else {}),
            "tools": {
                "components": [{"type": "application", "name": "overt", "version": overt_version()}]
            },
            "component": _model(dossier, ancestors, data),
        },
        "components": files + data,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [component["bom-ref"] for component in files + data]}
        ],
        "declarations": _declarations(dossier),
        "definitions": {"standards": _standards()},
    }
    return pretty(document)


# -- the model -----------------------------------------------------------------------------------


def _model(
    dossier: Dossier, ancestors: list[Parent], datasets: list[dict[str, Any]]
) -> dict[str, Any]:
    record, facts = dossier.record, dossier.record.facts
    model: dict[str, Any] = {
        "type": "data" if record.kind == "dataset" else "machine-learning-model",
        "bom-ref": _MODEL,
        "name": record.name or dossier.ref,
    }
    if facts.get("producer"):
        model["supplier"] = {"name": str(facts["producer"])}
    if facts.get("revision"):
        model["version"] = str(facts["revision"])[:1024]
    model["description"] = words.headline(dossier)
    if hashes := _hashes(dossier.files[0][2] if len(dossier.files) == 1 else dossier.digest):
        model["hashes"] = hashes
    if listed := _licences(dossier):
        model["licenses"] = listed
    if ancestors:
        model["pedigree"] = {
            "ancestors": [_ancestor(parent, number) for number, parent in enumerate(ancestors, 1)]
        }
    if references := _references(dossier):
        model["externalReferences"] = references
    if record.kind != "dataset":
        model["modelCard"] = _card(dossier, datasets)
    model["properties"] = _properties(dossier)
    return model


def _hashes(text: str) -> list[dict[str, str]]:
    content = hex_of(text)
    return [{"alg": "SHA-256", "content": content}] if content else []


def _licences(dossier: Dossier) -> list[dict[str, Any]]:
    licences_ = []
    if declared := licences.declared(dossier):
        licences_.append(_licence(declared, "declared"))
    if concluded := licences.concluded(dossier):
        licences_.append(_licence(concluded, "concluded", _changes(dossier)))
    return licences_


def _licence(
    licence: licences.ExportedLicence,
    acknowledgement: str,
    properties: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    more: dict[str, Any] = {"acknowledgement": acknowledgement}
    if properties:
        more["properties"] = properties
    if licence.form == "expression":
        return {"expression": licence.value, **more}
    key = "id" if licence.form == "id" else "name"
    url = {"url": url_text} if (url_text := address(licence.url)) else {}
    return {"license": {key: licence.value, **url, **more}}


def _changes(dossier: Dossier) -> list[dict[str, str]]:
    """How the text in the artefact differs, in its own words."""
    match = dossier.licence.match
    if match is None:
        return []
    properties = [("overt:licence:match", match.kind), ("overt:licence:sha256", match.sha256)]
    properties += [("overt:licence:rider", rider) for rider in match.riders]
    properties += [
        (
            "overt:licence:change",
            f"expected {change.expected or '…'}, found {change.found}: {change.sentence}",
        )
        for change in match.changes
    ]
    if dossier.licence.file:
        properties.append(("overt:licence:file", dossier.licence.file))
    return [{"name": name, "value": value} for name, value in properties]


def _ancestor(parent: Parent, number: int) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"ancestor:{number}",
        "name": parent.name,
    }
    if parent.licence and parent.licence.strip():
        value["licenses"] = [_licence(licences.exported(parent.licence), "declared")]
    value["properties"] = [{"name": "overt:relation", "value": parent.relation}]
    if parent.source:
        value["properties"].append({"name": "overt:source", "value": parent.source})
    return value


def _references(dossier: Dossier) -> list[dict[str, str]]:
    references: dict[tuple[str, str], str] = {}
    if url := address(dossier.record.source):
        references[("website", url)] = "where the claims about this model come from"
    if url := address(dossier.record.licence_link):
        references[("license", url)] = "where the licence text is said to be"
    for component in dossier.components:
        if component.claim and (url := address(component.claim.where)):
            kind = _REFERENCES.get(component.component.name, "other")
            references.setdefault((kind, url), component.component.title)
    return [
        {"type": kind, "url": url, "comment": comment}
        for (kind, url), comment in references.items()
    ]


def _card(dossier: Dossier, datasets: list[dict[str, Any]]) -> dict[str, Any]:
    facts = dossier.record.facts
    parameters: dict[str, Any] = {}
    if facts.get("architecture"):
        parameters["modelArchitecture"] = str(facts["architecture"])
    if datasets:
        parameters["datasets"] = [{"ref": dataset["bom-ref"]} for dataset in datasets]
    if facts.get("modality") in ("text", "multimodal"):
        parameters["inputs"] = [{"format": str(facts["modality"])}]
        parameters["outputs"] = [{"format": "text"}]
    limits = [
        f"{title}: found {piece.observed or 'otherwise'}; expected {piece.expected or 'as claimed'}"
        for title, piece in words.contradictions(dossier)
    ]
    limits += [
        words.finished_sentence(dossier.component(name))
        for name in ("training_data", "training_code", "evaluation_results")
        if dossier.component(name).state != "verified"
    ]
    considerations: dict[str, Any] = {"technicalLimitations": limits} if limits else {}
    if facts.get("systemic_risk") is True:
        considerations["ethicalConsiderations"] = [
            {"name": "a general-purpose model with systemic risk, by European law"}
        ]
    card: dict[str, Any] = {"bom-ref": "model-card"}
    if parameters:
        card["modelParameters"] = parameters
    if considerations:
        card["considerations"] = considerations
    card["properties"] = [
        {"name": f"overt:fact:{key}", "value": _value(value)}
        for key, value in sorted(facts.items())
    ]
    return card


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _properties(dossier: Dossier) -> list[dict[str, str]]:
    properties = [("overt:ref", dossier.ref), ("overt:kind", dossier.record.kind)]
    if dossier.digest:
        properties.append(("overt:digest", dossier.digest))
    if dossier.base:
        properties.append(("overt:compared-with", dossier.base))
    verdicts = dossier.verdicts
    for name, pair in (
        ("step", verdicts.step),
        ("mof", verdicts.mof),
        ("osaid", verdicts.osaid),
        ("eu-53-2", verdicts.eu_53_2),
    ):
        properties += [
            (f"overt:{name}:declared", pair.declared),
            (f"overt:{name}:verified", pair.verified),
        ]
    properties.append(("overt:licence-kind", verdicts.licence_kind))
    properties += [("overt:contradicted", name) for name in verdicts.contradicted]
    properties.append(("overt:rules-version", str(dossier.rules_version)))
    return [{"name": name, "value": value} for name, value in properties]


# -- what it is made of --------------------------------------------------------------------------


def _file(name: str, size: int, digest: str, number: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "file", "bom-ref": f"file:{number}", "name": name}
    if hashes := _hashes(digest):
        value["hashes"] = hashes
    value["properties"] = [{"name": "overt:bytes", "value": str(size)}]
    return value


def _dataset(parent: Parent, number: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "data", "bom-ref": f"data:{number}", "name": parent.name}
    if parent.licence and parent.licence.strip():
        value["licenses"] = [_licence(licences.exported(parent.licence), "declared")]
    value["data"] = [{"type": "dataset", "name": parent.name}]
    if parent.source:
        value["properties"] = [{"name": "overt:source", "value": parent.source}]
    return value


# -- what is claimed, and what speaks for and against it -----------------------------------------


def _standards() -> list[dict[str, Any]]:
    return [
        {
            "bom-ref": f"standard:{ref}",
            "name": name,
            "version": version,
            "requirements": [
                {
                    "bom-ref": f"requirement:{component.name}",
                    "identifier": component.name,
                    "title": component.mof or component.title,
                }
                for component in COMPONENTS
                if (component.mof is not None) == in_mof
            ],
        }
        for ref, name, version, in_mof in (
            ("mof", "Model Openness Framework", "1.0", True),
            ("overt", "Overt: components beside the framework", "1", False),
        )
    ]


def _declarations(dossier: Dossier) -> dict[str, Any]:
    pieces: dict[str, Evidence] = {}
    for component in dossier.components:
        for piece in component.evidence:
            pieces.setdefault(piece.id, piece)
    claimed = [component for component in dossier.components if _has_claim(component)]
    value: dict[str, Any] = {
        "assessors": [
            {"bom-ref": _ASSESSOR, "thirdParty": True, "organization": {"name": "Overt"}}
        ],
        "attestations": [
            {
                "summary": words.step_difference(dossier),
                "assessor": _ASSESSOR,
                "map": [_assessment(component) for component in dossier.components],
            }
        ],
        "claims": [_claim(component) for component in claimed],
    }
    if pieces:
        value["evidence"] = [_piece(piece) for piece in pieces.values()]
    return value


def _has_claim(component: ComponentResult) -> bool:
    return component.claim is not None or bool(component.evidence)


def _assessment(component: ComponentResult) -> dict[str, Any]:
    name = component.component.name
    claims = [f"claim:{name}"] if _has_claim(component) else []
    counter = component.state in ("missing", "contradicted")
    held = 0.0 if counter else component.availability / Availability.FULL
    best = max(
        (piece.strength for piece in component.evidence if piece.result == "pass"),
        default=Strength.ASSERTED,
    )
    return {
        "requirement": f"requirement:{name}",
        "claims": [] if counter else claims,
        "counterClaims": claims if counter else [],
        "conformance": {"score": round(held, 2), "rationale": words.finished_sentence(component)},
        "confidence": {
            "score": round(best / Strength.REPLAYED, 2),
            "rationale": f"the best evidence for it: {best.word}",
        },
    }


def _claim(component: ComponentResult) -> dict[str, Any]:
    claimed = words.AVAILABILITY_WORDS[
        component.claim.availability if component.claim else component.availability
    ]
    value: dict[str, Any] = {
        "bom-ref": f"claim:{component.component.name}",
        "target": _MODEL,
        "predicate": f"{component.component.title}: {claimed}",
        "reasoning": words.STATE_MEANING[words.state_of(component)],
    }
    for key, results in (("evidence", ("pass",)), ("counterEvidence", ("fail",))):
        refs = dict.fromkeys(_ref(p) for p in component.evidence if p.result in results)
        if refs:
            value[key] = list(refs)
    if component.claim and (url := address(component.claim.source)):
        value["externalReferences"] = [{"type": "evidence", "url": url}]
    return value


def _ref(piece: Evidence) -> str:
    return f"evidence:{piece.id}"


def _piece(piece: Evidence) -> dict[str, Any]:
    value: dict[str, Any] = {
        "bom-ref": _ref(piece),
        "propertyName": f"overt:check:{piece.check}",
        "description": words.evidence_sentence(piece),
        "data": [{"name": f"{name} {digest}".strip()} for name, digest in piece.inputs],
    }
    if made := timestamp(piece.at):
        value["created"] = made
    if not value["data"]:
        del value["data"]
    return value
