"""CycloneDX and SPDX, judged by their own validators."""

import io
import json
from functools import cache
from typing import Any

import pytest
from dossier_samples import HOSTILE, SAMPLES, closed_api, fully_open, hostile, open_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.openness.export import cyclonedx, licences, spdx

ANY = st.text(st.characters(codec=None), max_size=60)


# -- CycloneDX -----------------------------------------------------------------------------------


@cache
def _validator() -> Any:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_7)


def _problem(document: str) -> Any:
    return _validator().validate_str(document)


def _properties(one: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in one["properties"]}


@pytest.mark.parametrize("sample", SAMPLES)
def test_cyclonedx_passes_its_strict_validator(sample):
    assert _problem(cyclonedx.render(SAMPLES[sample]())) is None


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | ANY, min_size=1, max_size=5))
def test_cyclonedx_passes_with_any_text(texts):
    assert _problem(cyclonedx.render(hostile(tuple(texts)))) is None


def test_the_validator_of_cyclonedx_refuses_what_is_not_in_its_schema():
    document = json.loads(cyclonedx.render(fully_open()))
    document["metadata"]["component"]["modelCard"]["bogus"] = 1
    assert _problem(json.dumps(document)) is not None
    document = json.loads(cyclonedx.render(fully_open()))
    document["metadata"]["component"]["licenses"][0]["license"]["id"] = "Not-A-Licence"
    assert _problem(json.dumps(document)) is not None


def test_every_listed_licence_is_on_the_list_of_the_validator():
    bom = json.loads(cyclonedx.render(fully_open()))
    listed = [{"license": {"id": id_}} for id_ in sorted(licences.LISTED)]
    bom["metadata"]["component"]["licenses"] = listed
    assert _problem(json.dumps(bom)) is None


@pytest.mark.parametrize("sample", SAMPLES)
def test_cyclonedx_names_are_unique_and_every_reference_leads_somewhere(sample):
    document = json.loads(cyclonedx.render(SAMPLES[sample]()))
    made: list[str] = []
    wanted: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, dict):
            for key, one in value.items():
                if key == "bom-ref":
                    made.append(one)
                elif key in ("ref", "target", "requirement", "assessor"):
                    wanted.append(one)
                elif key in ("claims", "counterClaims", "evidence", "counterEvidence", "dependsOn"):
                    wanted.extend(each for each in one if isinstance(each, str))
                walk(one)

    walk(document)
    assert len(made) == len(set(made))
    assert set(wanted) <= set(made)


def test_cyclonedx_has_the_claimed_licence_beside_the_one_that_is_there():
    component = json.loads(cyclonedx.render(open_weights()))["metadata"]["component"]
    declared, concluded = (one["license"] for one in component["licenses"])
    assert declared["acknowledgement"] == "declared"
    assert declared["name"] == "LicenseRef-llama-3.1-license-2024"
    assert concluded["acknowledgement"] == "concluded"
    assert concluded["name"] == "LicenseRef-llama-3.1-license-2024-altered"
    assert "public authorities" in _properties(concluded)["overt:licence:rider"]
    both = json.loads(cyclonedx.render(fully_open()))["metadata"]["component"]["licenses"]
    assert [one["license"]["id"] for one in both] == ["Apache-2.0", "Apache-2.0"]


def test_cyclonedx_says_what_speaks_for_and_against_each_component():
    declarations = json.loads(cyclonedx.render(open_weights()))["declarations"]
    claims = {one["bom-ref"]: one for one in declarations["claims"]}
    judged = {one["requirement"]: one for one in declarations["attestations"][0]["map"]}
    lie = claims["claim:metadata"]["counterEvidence"][0]
    evidence = {one["bom-ref"]: one for one in declarations["evidence"]}
    assert "6,738,415,616" in evidence[lie]["description"]
    assert judged["requirement:metadata"]["counterClaims"] == ["claim:metadata"]
    assert judged["requirement:metadata"]["conformance"]["score"] == 0
    assert judged["requirement:weights"]["conformance"]["score"] == 1
    assert claims["claim:weights"]["evidence"]
    assert declarations["assessors"][0]["thirdParty"] is True


def test_cyclonedx_has_model_card_parents_files_and_verdicts():
    document = json.loads(cyclonedx.render(open_weights()))
    component = document["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert component["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]
    assert component["modelCard"]["modelParameters"]["modelArchitecture"] == "llama"
    assert [one["name"] for one in component["pedigree"]["ancestors"]] == [
        "meta-llama/Llama-3.1-8B",
        "gpt-4o",
    ]
    assert [one["type"] for one in document["components"]] == ["file", "data"]
    found = _properties(component)
    assert found["overt:step:declared"] == found["overt:step:verified"] == "open_weights"
    assert found["overt:mof:verified"] == "none"


# -- SPDX ----------------------------------------------------------------------------------------


def _read(document: str) -> Any:
    """Every object, read by SPDX's own model; it refuses what its shapes do not allow."""
    from spdx_python_model import v3_0_1 as model

    objects = model.SHACLObjectSet()
    model.JSONLDDeserializer().read(io.BytesIO(document.encode()), objects)
    assert not objects.link()  # no reference leads nowhere
    again = io.BytesIO()
    model.JSONLDSerializer().write(objects, again, force_at_graph=True)  # what is required is there
    return objects


def _elements(document: str, type_: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(document)["@graph"] if one["type"] == type_]


@pytest.mark.parametrize("sample", SAMPLES)
def test_spdx_is_read_and_written_again_by_its_own_model(sample):
    document = spdx.render(SAMPLES[sample]())
    assert len(list(_read(document).foreach())) >= len(json.loads(document)["@graph"])


@pytest.mark.parametrize("sample", SAMPLES)
def test_spdx_passes_its_json_schema(sample, shared_data):
    import jsonschema_rs

    schema = json.loads(shared_data("openness/schemas/spdx-schema-3-0-1.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    document = json.loads(spdx.render(SAMPLES[sample]()))
    assert [str(one) for one in validator.iter_errors(document)] == []
    document["@graph"][-1]["bogus"] = 1
    assert not validator.is_valid(document)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | ANY, min_size=1, max_size=5))
def test_spdx_is_read_with_any_text(texts):
    _read(spdx.render(hostile(tuple(texts))))


def test_the_model_of_spdx_refuses_what_is_no_relationship():
    document = spdx.render(open_weights()).replace('"trainedOn"', '"cookedFrom"')
    with pytest.raises(ValueError, match="cookedFrom"):
        _read(document)


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_package_of_spdx_has_one_licence_declared_and_one_concluded(sample):
    document = spdx.render(SAMPLES[sample]())
    packages = _elements(document, "ai_AIPackage") + _elements(document, "dataset_DatasetPackage")
    assert packages
    related = [
        (one["from"], one["relationshipType"]) for one in _elements(document, "Relationship")
    ]
    for package in packages:
        for kind in ("hasDeclaredLicense", "hasConcludedLicense"):
            assert related.count((package["spdxId"], kind)) == 1


def test_spdx_has_data_parents_files_and_licences():
    document = spdx.render(open_weights())
    names = {
        one["spdxId"]: one.get("name") for one in json.loads(document)["@graph"] if "spdxId" in one
    }
    found = {
        (one["relationshipType"], names.get(to, to))
        for one in _elements(document, "Relationship")
        for to in one["to"]
    }
    assert ("trainedOn", "example/chat-logs") in found
    assert ("descendantOf", "meta-llama/Llama-3.1-8B") in found
    assert ("contains", "campanile-8b-q4_k_m.gguf") in found
    expressions = {
        one["simplelicensing_licenseExpression"]: one
        for one in _elements(document, "simplelicensing_LicenseExpression")
    }
    altered = expressions["LicenseRef-llama-3.1-license-2024-altered"]
    assert (
        altered["simplelicensing_customIdToUri"][0]["key"]
        == "LicenseRef-llama-3.1-license-2024-altered"
    )
    file = _elements(document, "software_File")[0]
    assert file["verifiedUsing"] == [{"type": "Hash", "algorithm": "sha256", "hashValue": "2" * 64}]


def test_spdx_says_that_a_profile_is_met_only_where_all_it_asks_for_is_known():
    asked = _elements(spdx.render(open_weights()), "SpdxDocument")[0]["profileConformance"]
    assert "ai" not in asked  # nobody says when it was released
    assert "ai" in _elements(spdx.render(fully_open()), "SpdxDocument")[0]["profileConformance"]


def test_the_state_of_each_component_is_an_annotation_of_spdx():
    statements = [
        json.loads(one["statement"]) for one in _elements(spdx.render(open_weights()), "Annotation")
    ]
    states = {one["component"]: one["state"] for one in statements if "component" in one}
    assert states["weights"] == "verified"
    assert states["metadata"] == "contradicted"
    assert any("step" in one for one in statements)


def test_a_model_behind_an_api_has_no_files_and_a_bill_of_materials():
    assert _elements(spdx.render(closed_api()), "software_File") == []
    assert json.loads(cyclonedx.render(closed_api()))["components"] == []
