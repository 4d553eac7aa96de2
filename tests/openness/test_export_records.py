"""Records for other indexes, read back by our own readers and judged as before."""

import itertools
import json
from datetime import date, datetime
from typing import Any

import pytest
from dossier_samples import HOSTILE, SAMPLES, claim, fully_open, hostile, open_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.formats import yamltext
from overt.openness import records
from overt.openness.dossier import Dossier, LicenceFinding
from overt.openness.evidence import ComponentResult, finish
from overt.openness.export import mof, osai
from overt.openness.licence import names
from overt.openness.subject.record import Record
from overt.openness.verdicts import components, rules
from overt.openness.verdicts.components import BY_MOF, COMPONENTS, Availability

ANY = st.text(st.characters(codec=None), max_size=60)
LICENCES = (
    "Apache-2.0",
    "MIT",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "llama-3.1-license-2024",
    "own terms",
    None,
)


def _judged(dossier: Dossier) -> rules.Verdicts:
    return rules.judge(
        dossier.components,
        dossier.record,
        licence=dossier.licence.id,
        altered=dossier.licence.altered,
    )


def _again(text: str) -> rules.Verdicts:
    """What the rules say of a record that was written by us and is read as anybody's."""
    record = records.read(text, "again")
    assert record is not None
    parts = [finish(one, record.claim(one.name), (), date(2026, 1, 1)) for one in COMPONENTS]
    licence = names.canonical(record.licence) if record.licence else None
    return rules.judge(parts, record, licence=licence, altered=False)


@st.composite
def dossiers(draw: Any) -> Dossier:
    """Any states, availabilities and licences."""
    licence = draw(st.sampled_from(LICENCES))
    components = []
    for one in COMPONENTS:
        availability = draw(st.sampled_from(Availability))
        own = draw(st.sampled_from(LICENCES)) if one.name != "weights" else licence
        components.append(
            ComponentResult(
                one,
                draw(
                    st.sampled_from(("verified", "declared", "declared", "missing", "contradicted"))
                ),
                availability,
                own,
                claim(one.name, availability, licence=own),
            )
        )
    record = Record("m", claims=tuple(c.claim for c in components if c.claim), licence=licence)
    parts = tuple(components)
    finding = LicenceFinding(names.canonical(licence) if licence else None, licence or "")
    verdicts = rules.judge(parts, record, licence=finding.id, altered=False)
    return Dossier("m", record, "", (), parts, verdicts, finding, "", "", 1)


# -- the Model Openness Tool ---------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_mof_record_has_the_class_of_its_dossier(sample):
    dossier = SAMPLES[sample]()
    assert _again(mof.render(dossier)).mof.declared == _judged(dossier).mof.declared


@settings(max_examples=40, deadline=None)
@given(dossiers())
def test_any_mof_record_has_the_class_of_its_dossier(dossier):
    assert _again(mof.render(dossier)).mof.declared == dossier.verdicts.mof.declared


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_mof_record_is_one_the_tool_accepts(sample, shared_data):
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    schema = json.loads(shared_data("openness/schemas/mof_schema.json").read_text())
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    content = yamltext.load(mof.render(SAMPLES[sample]()), "again")
    assert [str(one) for one in validator.iter_errors(content)] == []


def test_a_mof_record_lists_what_is_there_by_the_names_of_the_framework():
    release = yamltext.load(mof.render(open_weights()), "again")["release"]
    listed = {one["name"]: one for one in release["components"]}
    assert set(listed) <= set(BY_MOF)
    assert "Model parameters (Final)" in listed
    assert "Model card" not in listed  # contradicted
    assert "Datasets" not in listed  # missing
    assert release["architecture"] == "transformer decoder"
    assert release["origin"] == "meta-llama/Llama-3.1-8B"
    everything = yamltext.load(mof.render(fully_open()), "again")["release"]["components"]
    assert [one["name"] for one in everything] == list(BY_MOF)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("LlamaForCausalLM", "transformer decoder"),
        ("qwen2", "transformer decoder"),
        ("T5ForConditionalGeneration", "transformer encoder-decoder"),
        ("BertForMaskedLM", "encoder"),
        ("OlmoHybridForCausalLM", "hybrid"),
        ("rwkv6", "RNN"),
        ("transformer", "transformer"),
        ("something new", ""),
        ("", ""),
    ],
)
def test_an_architecture_becomes_the_word_of_the_tool(said, word):
    assert mof.architecture(said) == word


# -- the European index --------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES)
def test_an_osai_record_has_the_step_of_its_dossier(sample):
    dossier = SAMPLES[sample]()
    assert _again(osai.render(dossier)).step.declared == _judged(dossier).step.declared


def _told(dossier: Dossier) -> bool:
    """Whether the index has a cell for what makes the model open."""
    case = rules.RuleInput(dossier.components, dossier.record, None, False)
    counted = {name: case.counts(name, "declared") for name in rules.PARTS}
    if counted["weights"] in (Availability.PARTIAL, Availability.RECONSTRUCTIBLE):
        return False
    cells = ("weights", "training_data", "training_code", "preprocessing_code", "report", "paper")
    return not any(
        counted[name] >= least for name, least in rules.PARTS.items() if name not in cells
    )


@settings(max_examples=40, deadline=None)
@given(dossiers())
def test_an_osai_record_never_has_a_better_step_and_the_same_where_it_has_a_cell(dossier):
    found, step = _again(osai.render(dossier)).step.declared, dossier.verdicts.step.declared
    assert components.STEPS.index(found) <= components.STEPS.index(step)
    if _told(dossier):
        assert found == step


def test_an_osai_record_has_the_fields_of_the_form(shared_data):
    form = yamltext.load(
        shared_data("openness/osai_meta/a_submission_template.yaml").read_text(), "the form"
    )
    content = yamltext.load(osai.render(open_weights()), "again")
    assert list(content) == list(form)
    for name, fields in form.items():
        assert list(content[name]) == list(fields)
    assert {content[name]["class"] for name in list(form)[2:]} <= {"open", "partial", "closed"}


def test_osai_calls_a_project_open_only_where_all_of_it_has_open_licences():
    assert yamltext.load(osai.render(fully_open()), "x")["licenses"]["class"] == "open"
    assert yamltext.load(osai.render(open_weights()), "x")["licenses"]["class"] == "closed"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | ANY, min_size=1, max_size=5))
def test_any_text_survives_as_yaml(texts):
    for module, kind in itertools.product((mof, osai), ("record",)):
        record = records.read(module.render(hostile(tuple(texts))), "again")
        assert record is not None
        assert record.kind == kind


def test_dates_of_a_record_are_days_or_left_out():
    release = yamltext.load(mof.render(fully_open()), "x")["release"]
    assert datetime.fromisoformat(release["date"])
    assert "date" not in yamltext.load(mof.render(hostile()), "x")["release"]
