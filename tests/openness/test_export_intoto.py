"""The in-toto statement and its signature, read by libraries of in-toto and the TUF project."""

import json
from hashlib import sha256

import pytest
from dossier_samples import HOSTILE, SAMPLES, closed_api, fully_open, hostile, open_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.openness.export import intoto

ANY = st.text(st.characters(codec=None), max_size=60)


def _check(text: str) -> None:
    json_format = pytest.importorskip("google.protobuf.json_format")
    pb2 = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    from in_toto_attestation.v1.statement import Statement

    Statement.copy_from_pb(json_format.Parse(text, pb2.Statement())).validate()


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_statement_is_one_for_in_toto(sample):
    _check(intoto.render(SAMPLES[sample]()))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | ANY, min_size=1, max_size=5))
def test_a_statement_is_one_with_any_text(texts):
    _check(intoto.render(hostile(tuple(texts))))


def test_in_toto_refuses_a_statement_without_subjects():
    statement = json.loads(intoto.render(fully_open()))
    statement["subject"] = []
    with pytest.raises(ValueError, match="subject"):
        _check(json.dumps(statement))


def test_the_subjects_are_the_files():
    statement = json.loads(intoto.render(fully_open()))
    assert statement["predicateType"] == "urn:overt:dossier:v1"
    assert {one["name"]: one["digest"]["sha256"][0] for one in statement["subject"]} == {
        "LICENSE": "b",
        "config.json": "c",
        "model.safetensors": "a",
    }


def test_without_files_the_subject_is_what_is_claimed():
    (subject,) = json.loads(intoto.render(closed_api()))["subject"]
    assert subject["name"] == "claims about GPT-5"
    assert len(subject["digest"]["sha256"]) == 64


def test_the_predicate_holds_the_assessment_and_all_evidence():
    predicate = json.loads(intoto.render(open_weights()))["predicate"]
    assert predicate["assessment"]["step"] == {
        "declared": "open_weights",
        "verified": "open_weights",
    }
    known = {one["id"] for one in predicate["evidence"]}
    assert {id_ for one in predicate["components"] for id_ in one["evidence"]} == known
    assert [one["relation"] for one in predicate["parents"]] == ["finetune", "dataset", "distilled"]


def test_the_statement_is_canonical():
    text = intoto.render(open_weights())
    assert (
        text
        == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        + "\n"
    )


def test_a_signed_statement_is_verified_by_another_library(tmp_path):
    pytest.importorskip("model_signing")
    dsse = pytest.importorskip("securesystemslib.dsse")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    from overt.security.signing import SigningKeys

    keys = SigningKeys(tmp_path)
    text = intoto.render(fully_open())
    content = json.loads(intoto.sign(text, keys))
    assert content["signatures"][0]["keyid"] == sha256(keys.public()).hexdigest()
    envelope = dsse.Envelope.from_dict(content)
    name = sha256(keys.public()).hexdigest()
    key = SSlibKey.from_crypto(load_pem_public_key(keys.public()), keyid=name)
    assert envelope.payload == text.encode()
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert envelope.verify([key], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([key], 1)
