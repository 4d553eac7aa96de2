"""A CycloneDX 1.7 bill of materials of the model (https://cyclonedx.org/docs/1.7/json/).

The claimed licence is acknowledged as *declared*, the one of the text in the artefact as
*concluded*. The states of the components are declarations: a claim each, with what speaks for
it and against it, judged against the components of the Model Openness Framework.
"""

from typing import Any, Final

from overt.openness.dossier import Dossier
from overt.openness.evidence import Evidence, Finished
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
    ancestors = [one for one in dossier.record.parents if one.relation != "dataset"]
    datasets = [one for one in dossier.record.parents if one.relation == "dataset"]
    data = [_dataset(one, number) for number, one in enumerate(datasets, 1)]
    files = [_file(*one, number) for number, one in enumerate(dossier.files, 1)]
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
        "dependencies": [{"ref": _MODEL, "dependsOn": [one["bom-ref"] for one in files + data]}],
        "declarations": _declarations(dossier),
        "definitions": {"standards": _standards()},
    }
    return pretty(document)


# -- the model -----------------------------------------------------------------------------------


def _model(
    dossier: Dossier, ancestors: list[Parent], datasets: list[dict[str, Any]]
) -> dict[str, Any]:
    record, facts = dossier.record, dossier.record.facts
    found: dict[str, Any] = {
        "type": "data" if record.kind == "dataset" else "machine-learning-model",
        "bom-ref": _MODEL,
        "name": record.name or dossier.ref,
    }
    if facts.get("producer"):
        found["supplier"] = {"name": str(facts["producer"])}
    if facts.get("revision"):
        found["version"] = str(facts["revision"])[:1024]
    found["description"] = words.headline(dossier)
    if hashes := _hashes(dossier.files[0][2] if len(dossier.files) == 1 else dossier.digest):
        found["hashes"] = hashes
    if listed := _licences(dossier):
        found["licenses"] = listed
    if ancestors:
        found["pedigree"] = {
            "ancestors": [_ancestor(one, number) for number, one in enumerate(ancestors, 1)]
        }
    if references := _references(dossier):
        found["externalReferences"] = references
    if record.kind != "dataset":
        found["modelCard"] = _card(dossier, datasets)
    found["properties"] = _properties(dossier)
    return found


def _hashes(text: str) -> list[dict[str, str]]:
    content = hex_of(text)
    return [{"alg": "SHA-256", "content": content}] if content else []


def _licences(dossier: Dossier) -> list[dict[str, Any]]:
    found = []
    if declared := licences.declared(dossier):
        found.append(_licence(declared, "declared"))
    if concluded := licences.concluded(dossier):
        found.append(_licence(concluded, "concluded", _changes(dossier)))
    return found


def _licence(
    one: licences.Named, acknowledgement: str, properties: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    more: dict[str, Any] = {"acknowledgement": acknowledgement}
    if properties:
        more["properties"] = properties
    if one.form == "expression":
        return {"expression": one.value, **more}
    key = "id" if one.form == "id" else "name"
    url = {"url": found} if (found := address(one.url)) else {}
    return {"license": {key: one.value, **url, **more}}


def _changes(dossier: Dossier) -> list[dict[str, str]]:
    """How the text in the artefact differs, in its own words."""
    match = dossier.licence.match
    if match is None:
        return []
    found = [("overt:licence:match", match.kind), ("overt:licence:sha256", match.sha256)]
    found += [("overt:licence:rider", rider) for rider in match.riders]
    found += [
        (
            "overt:licence:change",
            f"expected {one.expected or '…'}, found {one.found}: {one.sentence}",
        )
        for one in match.changes
    ]
    if dossier.licence.file:
        found.append(("overt:licence:file", dossier.licence.file))
    return [{"name": name, "value": value} for name, value in found]


def _ancestor(one: Parent, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"ancestor:{number}",
        "name": one.name,
    }
    if one.licence and one.licence.strip():
        found["licenses"] = [_licence(licences.named(one.licence), "declared")]
    found["properties"] = [{"name": "overt:relation", "value": one.relation}]
    if one.source:
        found["properties"].append({"name": "overt:source", "value": one.source})
    return found


def _references(dossier: Dossier) -> list[dict[str, str]]:
    found: dict[tuple[str, str], str] = {}
    if url := address(dossier.record.source):
        found[("website", url)] = "where the claims about this model come from"
    if url := address(dossier.record.licence_link):
        found[("license", url)] = "where the licence text is said to be"
    for one in dossier.components:
        if one.claim and (url := address(one.claim.where)):
            kind = _REFERENCES.get(one.component.name, "other")
            found.setdefault((kind, url), one.component.title)
    return [{"type": kind, "url": url, "comment": said} for (kind, url), said in found.items()]


def _card(dossier: Dossier, datasets: list[dict[str, Any]]) -> dict[str, Any]:
    facts = dossier.record.facts
    parameters: dict[str, Any] = {}
    if facts.get("architecture"):
        parameters["modelArchitecture"] = str(facts["architecture"])
    if datasets:
        parameters["datasets"] = [{"ref": one["bom-ref"]} for one in datasets]
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
    found: dict[str, Any] = {"bom-ref": "model-card"}
    if parameters:
        found["modelParameters"] = parameters
    if considerations:
        found["considerations"] = considerations
    found["properties"] = [
        {"name": f"overt:fact:{key}", "value": _value(value)}
        for key, value in sorted(facts.items())
    ]
    return found


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _properties(dossier: Dossier) -> list[dict[str, str]]:
    found = [("overt:ref", dossier.ref), ("overt:kind", dossier.record.kind)]
    if dossier.digest:
        found.append(("overt:digest", dossier.digest))
    if dossier.base:
        found.append(("overt:compared-with", dossier.base))
    verdicts = dossier.verdicts
    for name, pair in (
        ("step", verdicts.step),
        ("mof", verdicts.mof),
        ("osaid", verdicts.osaid),
        ("eu-53-2", verdicts.eu_53_2),
    ):
        found += [
            (f"overt:{name}:declared", pair.declared),
            (f"overt:{name}:verified", pair.verified),
        ]
    found.append(("overt:licence-kind", verdicts.licence_kind))
    found += [("overt:contradicted", name) for name in verdicts.contradicted]
    found.append(("overt:rules-version", str(dossier.rules_version)))
    return [{"name": name, "value": value} for name, value in found]


# -- what it is made of --------------------------------------------------------------------------


def _file(name: str, size: int, digest: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "bom-ref": f"file:{number}", "name": name}
    if hashes := _hashes(digest):
        found["hashes"] = hashes
    found["properties"] = [{"name": "overt:bytes", "value": str(size)}]
    return found


def _dataset(one: Parent, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "data", "bom-ref": f"data:{number}", "name": one.name}
    if one.licence and one.licence.strip():
        found["licenses"] = [_licence(licences.named(one.licence), "declared")]
    found["data"] = [{"type": "dataset", "name": one.name}]
    if one.source:
        found["properties"] = [{"name": "overt:source", "value": one.source}]
    return found


# -- what is claimed, and what speaks for and against it -----------------------------------------


def _standards() -> list[dict[str, Any]]:
    return [
        {
            "bom-ref": f"standard:{ref}",
            "name": name,
            "version": version,
            "requirements": [
                {
                    "bom-ref": f"requirement:{one.name}",
                    "identifier": one.name,
                    "title": one.mof or one.title,
                }
                for one in COMPONENTS
                if (one.mof is not None) == in_mof
            ],
        }
        for ref, name, version, in_mof in (
            ("mof", "Model Openness Framework", "1.0", True),
            ("overt", "Overt: components beside the framework", "1", False),
        )
    ]


def _declarations(dossier: Dossier) -> dict[str, Any]:
    pieces: dict[str, Evidence] = {}
    for one in dossier.components:
        for piece in one.evidence:
            pieces.setdefault(piece.id, piece)
    told = [one for one in dossier.components if _told(one)]
    found: dict[str, Any] = {
        "assessors": [
            {"bom-ref": _ASSESSOR, "thirdParty": True, "organization": {"name": "Overt"}}
        ],
        "attestations": [
            {
                "summary": words.step_difference(dossier),
                "assessor": _ASSESSOR,
                "map": [_judged(one) for one in dossier.components],
            }
        ],
        "claims": [_claim(one) for one in told],
    }
    if pieces:
        found["evidence"] = [_piece(piece) for piece in pieces.values()]
    return found


def _told(one: Finished) -> bool:
    return one.claim is not None or bool(one.evidence)


def _judged(one: Finished) -> dict[str, Any]:
    name = one.component.name
    told = [f"claim:{name}"] if _told(one) else []
    counter = one.state in ("missing", "contradicted")
    held = 0.0 if counter else one.availability / Availability.FULL
    best = max(
        (piece.strength for piece in one.evidence if piece.result == "pass"),
        default=Strength.ASSERTED,
    )
    return {
        "requirement": f"requirement:{name}",
        "claims": [] if counter else told,
        "counterClaims": told if counter else [],
        "conformance": {"score": round(held, 2), "rationale": words.finished_sentence(one)},
        "confidence": {
            "score": round(best / Strength.REPLAYED, 2),
            "rationale": f"the best evidence for it: {best.word}",
        },
    }


def _claim(one: Finished) -> dict[str, Any]:
    claimed = words.AVAILABILITY_WORDS[one.claim.availability if one.claim else one.availability]
    found: dict[str, Any] = {
        "bom-ref": f"claim:{one.component.name}",
        "target": _MODEL,
        "predicate": f"{one.component.title}: {claimed}",
        "reasoning": words.STATE_MEANING[words.state_of(one)],
    }
    for key, results in (("evidence", ("pass",)), ("counterEvidence", ("fail",))):
        refs = dict.fromkeys(_ref(p) for p in one.evidence if p.result in results)
        if refs:
            found[key] = list(refs)
    if one.claim and (url := address(one.claim.source)):
        found["externalReferences"] = [{"type": "evidence", "url": url}]
    return found


def _ref(piece: Evidence) -> str:
    return f"evidence:{piece.id}"


def _piece(piece: Evidence) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bom-ref": _ref(piece),
        "propertyName": f"overt:check:{piece.check}",
        "description": words.evidence_sentence(piece),
        "data": [{"name": f"{name} {digest}".strip()} for name, digest in piece.inputs],
    }
    if made := timestamp(piece.at):
        found["created"] = made
    if not found["data"]:
        del found["data"]
    return found
