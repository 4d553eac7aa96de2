"""An SPDX 3.0.1 document of the model, with the AI and dataset profiles (https://spdx.github.io/spdx-spec/v3.0.1/).

The model is an AIPackage, what it was made from others, what it was trained on DatasetPackages.
Every package has one declared and one concluded licence, or says that nothing is asserted. The
state of each component is an annotation. A profile is only said to be met where all that it asks
for is known: SPDX has no way to write "unknown" for a day or a supplier.
"""

from typing import Any, Final

from overt.openness.dossier import Dossier
from overt.openness.evidence import ComponentResult
from overt.openness.export import licences, words
from overt.openness.export.text import (
    UNDATED,
    address,
    canonical,
    hex_of,
    identifier,
    overt_version,
    pretty,
    timestamp,
)
from overt.openness.subject.record import Parent

_CREATION: Final = "_:creation"
_NO_LICENCE: Final = "expandedlicensing_NoAssertionLicense"
# What each profile asks of its packages, beyond what the format itself asks of all.
_ASKED: Final = {
    "ai_AIPackage": (
        "suppliedBy",
        "software_downloadLocation",
        "software_packageVersion",
        "releaseTime",
    ),
    "dataset_DatasetPackage": (
        "originatedBy",
        "software_downloadLocation",
        "releaseTime",
        "builtTime",
    ),
}
_HYPERPARAMETERS: Final = (
    "parameters",
    "context_length",
    "vocabulary_size",
    "quantization",
    "dtype",
)
_PURPOSE: Final = {
    ".gguf": "model",
    ".safetensors": "model",
    ".bin": "model",
    ".pt": "model",
    ".pth": "model",
    ".onnx": "model",
    ".md": "documentation",
    ".pdf": "documentation",
    ".py": "source",
    ".json": "configuration",
    ".yaml": "configuration",
    ".yml": "configuration",
    ".toml": "configuration",
    ".jinja": "source",
    ".parquet": "data",
    ".jsonl": "data",
    ".csv": "data",
}


def render(dossier: Dossier) -> str:
    return pretty(_Document(dossier).content())


class _Document:
    """The graph while it is being put together."""

    def __init__(self, dossier: Dossier) -> None:
        self.dossier = dossier
        self.base = f"urn:uuid:{identifier(dossier, 'spdx')}#"
        self.elements: list[dict[str, Any]] = []
        self.licences: dict[str, str] = {}

    def content(self) -> dict[str, Any]:
        dossier = self.dossier
        agent = self.add("agent-overt", "SoftwareAgent", name="overt")
        tool = self.add("tool-overt", "Tool", name=f"overt-{overt_version()}")
        model = self.model()
        self.files(model)
        for number, parent in enumerate(dossier.record.parents, 1):
            self.parent(model, parent, number)
        for component in dossier.components:
            if component.claim or component.evidence:
                self.component(model, component)
        self.annotate("verdicts", model, canonical(dossier.verdicts.as_json()))
        sbom = self.add(
            "sbom",
            "software_Sbom",
            name=self.name,
            rootElement=[model],
            element=[element["spdxId"] for element in self.elements],
            software_sbomType=["analyzed" if dossier.files else "source"],
            profileConformance=self.profiles(),
        )
        self.add(
            "document",
            "SpdxDocument",
            name=self.name,
            rootElement=[sbom],
            element=[element["spdxId"] for element in self.elements],
            profileConformance=self.profiles(),
        )
        creation = {
            "type": "CreationInfo",
            "@id": _CREATION,
            "created": timestamp(dossier.made_on)
            or timestamp(dossier.record.date)
            or timestamp(UNDATED),
            "createdBy": [agent],
            "createdUsing": [tool],
            "specVersion": "3.0.1",
        }
        return {
            "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld",
            "@graph": [creation, *self.elements],
        }

    @property
    def name(self) -> str:
        return self.dossier.record.name or self.dossier.ref

    def add(self, local: str, type_: str, **fields: Any) -> str:
        """An element; fields that are "" or an empty list are left out."""
        id_ = self.base + local
        present = {key: value for key, value in fields.items() if value not in ("", [], None)}
        self.elements.append({"type": type_, "spdxId": id_, "creationInfo": _CREATION, **present})
        return id_

    def relate(self, kind: str, source: str, targets: list[str], comment: str = "") -> None:
        if targets:
            number = sum(element["type"] == "Relationship" for element in self.elements) + 1
            self.add(
                f"relationship-{number}",
                "Relationship",
                **{"from": source},
                relationshipType=kind,
                to=targets,
                comment=comment,
            )

    def annotate(self, local: str, subject: str, statement: str) -> None:
        self.add(
            f"annotation-{local}",
            "Annotation",
            annotationType="review",
            subject=subject,
            contentType="application/json",
            statement=statement,
        )

    def profiles(self) -> list[str]:
        profiles = ["core", "software", "simpleLicensing"]
        for profile, type_ in (("ai", "ai_AIPackage"), ("dataset", "dataset_DatasetPackage")):
            packages = [element for element in self.elements if element["type"] == type_]
            if packages and all(key in package for package in packages for key in _ASKED[type_]):
                profiles.append(profile)
        return profiles

    # -- packages --------------------------------------------------------------------------------

    def model(self) -> str:
        dossier, facts = self.dossier, self.dossier.record.facts
        producer = str(facts.get("producer") or "")
        supplier = self.add("agent-producer", "Organization", name=producer) if producer else ""
        weights = dossier.component("weights").claim
        where = (address(weights.where) if weights else "") or address(dossier.record.source)
        single = dossier.files[0][2] if len(dossier.files) == 1 else dossier.digest
        dataset = dossier.record.kind == "dataset"
        more: dict[str, Any] = {}
        if dataset:
            more = {
                "dataset_datasetType": ["noAssertion"],
                "originatedBy": [supplier] if supplier else [],
            }
        else:
            more = {
                "ai_typeOfModel": [str(facts["architecture"])] if facts.get("architecture") else [],
                "ai_hyperparameter": [
                    {"type": "DictionaryEntry", "key": key, "value": str(facts[key])}
                    for key in _HYPERPARAMETERS
                    if key in facts
                ],
                "ai_limitation": words.headline(dossier),
            }
        package = self.add(
            "model",
            "dataset_DatasetPackage" if dataset else "ai_AIPackage",
            name=self.name,
            summary=words.step_difference(dossier),
            suppliedBy=supplier,
            releaseTime=timestamp(facts.get("released", "")),
            verifiedUsing=_hashes(single),
            software_primaryPurpose="data" if dataset else "model",
            software_packageVersion=str(facts.get("revision") or ""),
            software_downloadLocation=where,
            software_homePage=address(dossier.record.source),
            **more,
        )
        self.licensed(package, licences.declared(dossier), licences.concluded(dossier))
        return package

    def parent(self, model: str, parent: Parent, number: int) -> None:
        dataset = parent.relation == "dataset"
        more = {"dataset_datasetType": ["noAssertion"]} if dataset else {}
        package = self.add(
            f"parent-{number}",
            "dataset_DatasetPackage" if dataset else "ai_AIPackage",
            name=parent.name or "unnamed",
            comment=f"named by {parent.source}" if parent.source else "",
            software_primaryPurpose="data" if dataset else "model",
            **more,
        )
        stated = parent.licence if parent.licence and parent.licence.strip() else None
        self.licensed(package, licences.exported(stated) if stated else None, None)
        if dataset:
            self.relate("trainedOn", model, [package])
        else:
            self.relate("descendantOf", model, [package], words.RELATION_WORDS[parent.relation])

    def files(self, model: str) -> None:
        made = []
        for number, (name, size, digest) in enumerate(self.dossier.files, 1):
            suffix = name[name.rfind(".") :].lower() if "." in name else ""
            made.append(
                self.add(
                    f"file-{number}",
                    "software_File",
                    name=name or "unnamed",
                    comment=f"{size} bytes",
                    verifiedUsing=_hashes(digest),
                    software_primaryPurpose=_PURPOSE.get(suffix, "file"),
                    software_fileKind="file",
                )
            )
        self.relate("contains", model, made)

    # -- licences --------------------------------------------------------------------------------

    def licensed(
        self,
        package: str,
        declared: licences.ExportedLicence | None,
        concluded: licences.ExportedLicence | None,
    ) -> None:
        for kind, licence in (("hasDeclaredLicense", declared), ("hasConcludedLicense", concluded)):
            self.relate(kind, package, [self.licence(licence) if licence else _NO_LICENCE])

    def licence(self, licence: licences.ExportedLicence) -> str:
        if licence.value in self.licences:
            return self.licences[licence.value]
        number = len(self.licences) + 1
        custom = []
        if licence.form == "ref":
            # The text itself stays with the model: it is not ours to pass on.
            where = f" Its text is at {url}." if (url := address(licence.url)) else ""
            text = self.add(
                f"licence-text-{number}",
                "simplelicensing_SimpleLicensingText",
                name=licence.title,
                simplelicensing_licenseText=(
                    f"{licence.title}. The text is not repeated here.{where}"
                ),
            )
            custom = [{"type": "DictionaryEntry", "key": licence.value, "value": text}]
        self.licences[licence.value] = self.add(
            f"licence-{number}",
            "simplelicensing_LicenseExpression",
            name=licence.title,
            simplelicensing_licenseExpression=licence.value,
            simplelicensing_customIdToUri=custom,
        )
        return self.licences[licence.value]

    # -- what was found --------------------------------------------------------------------------

    def component(self, model: str, result: ComponentResult) -> None:
        self.annotate(
            result.component.name,
            model,
            canonical(
                {
                    "component": result.component.name,
                    "mof": result.component.mof,
                    "state": result.state,
                    "availability": result.availability.word,
                    "licence": result.licence,
                    "evidence": [
                        {
                            "id": piece.id,
                            "check": piece.check,
                            "version": piece.version,
                            "result": piece.result,
                            "strength": piece.strength.word,
                            "at": piece.at,
                            "observed": piece.observed,
                            "expected": piece.expected,
                        }
                        for piece in result.evidence
                    ],
                }
            ),
        )


def _hashes(text: str) -> list[dict[str, str]]:
    value = hex_of(text)
    return [{"type": "Hash", "algorithm": "sha256", "hashValue": value}] if value else []
