"""Signatures of model-signing, and what a changed, added or removed file makes of them."""

import base64
import json
from hashlib import sha256

import hypothesis.strategies as st
import pytest
from check_files_case import only, results, subject, write
from hypothesis import given

import tiny_models as tiny
from overt.openness.checks import signature
from overt.security import signing
from overt.security.signing import Member

CHECK = "signature"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    pytest.importorskip("model_signing")
    return signing.SigningKeys(tmp_path_factory.mktemp("home"))


@pytest.fixture
def signed(tmp_path, keys):
    """A release with its signature and the signer's public key beside it."""
    folder = tiny.release(tmp_path / "model")
    members = [
        Member(path.name, path.stat().st_size, sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    ]
    write(folder, {"model.sig": signing.sign(members, "model", keys), "signer.pem": keys.public()})
    return folder


def test_a_true_signature_names_its_signer(signed, keys):
    one = only(CHECK, subject(signed))
    assert (one.result, one.strength.word) == ("pass", "pinned")
    assert sha256(keys.public()).hexdigest() in one.observed
    assert "signs 6 files" in one.observed


def test_a_changed_file_is_named(signed):
    path = signed / "config.json"
    path.write_text(path.read_text() + " ")
    one = only(CHECK, subject(signed))
    assert one.result == "fail"
    assert one.observed.startswith("config.json has sha256 ")


def test_a_file_less_and_weights_more(signed):
    (signed / "config.json").rename(signed.parent / "config.json")
    assert (
        "config.json, which model.sig signs, is not here" in only(CHECK, subject(signed)).observed
    )
    assert results(CHECK, subject(signed, place=False)) == ["inconclusive"]
    (signed.parent / "config.json").rename(signed / "config.json")
    write(signed, {"NOTES.md": "unsigned words\n"})
    assert results(CHECK, subject(signed)) == ["pass"]
    write(signed, {"more.safetensors": b"x"})
    assert "1 files of weights are not signed" in only(CHECK, subject(signed)).observed


def test_digests_rewritten_by_somebody_without_the_key(signed):
    path = signed / "config.json"
    before = sha256(path.read_bytes()).hexdigest()
    path.write_text(path.read_text() + " ")
    bundle = json.loads((signed / "model.sig").read_bytes())
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).decode()
    changed = payload.replace(before, sha256(path.read_bytes()).hexdigest())
    assert changed != payload
    envelope["payload"] = base64.b64encode(changed.encode()).decode()
    write(signed, {"model.sig": json.dumps(bundle)})
    one = only(CHECK, subject(signed))
    assert one.result == "fail"
    assert "not valid" in one.observed


def test_another_key_or_none(signed, tmp_path):
    key = (signed / "signer.pem").read_bytes()
    (signed / "signer.pem").unlink()
    one = only(CHECK, subject(signed))
    assert (one.result, "no public key" in one.reason) == ("not_run", True)
    stranger = signing.SigningKeys(tmp_path / "other")
    stranger.own()
    write(signed, {"signer.pem": stranger.public()})
    assert results(CHECK, subject(signed)) == ["fail"]
    write(signed, {"a.pem": key})
    assert results(CHECK, subject(signed)) == ["pass"]


def test_what_is_no_signature(tmp_path):
    for number, data in enumerate((b"", b"{}", b"-----BEGIN PGP SIGNATURE-----", b"[" * 5000)):
        folder = tiny.release(tmp_path / str(number), files={"model.sig": data})
        one = only(CHECK, subject(folder))
        assert one.result == "inconclusive"
        assert "model.sig" in one.reason
    one = only(CHECK, subject(tiny.release(tmp_path / "none")))
    assert (one.result, one.absent) == ("fail", True)
    assert results(CHECK, subject(tmp_path / "none", place=False)) == []


def test_without_the_library_nothing_is_said_of_the_signature(signed, monkeypatch):
    def missing():
        raise signing.NotFound("signatures need the package model-signing, which is not here")

    monkeypatch.setattr(signing, "need", missing)
    one = only(CHECK, subject(signed))
    assert (one.result, "6 digests agree" in one.reason) == ("not_run", True)


VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(
        ["dsseEnvelope", "payload", "verificationMaterial", "publicKey", "predicate", "hint",
         "predicateType", "resources", "name", "digest", "algorithm"], inner)),
    max_leaves=12,
)  # fmt: skip


@given(VALUES, VALUES, VALUES)
def test_no_bundle_raises(bundle, predicate, material):
    kind = "https://model_signing/signature/v1.0"
    payload = json.dumps({"predicateType": kind, "predicate": predicate}).encode()
    made = {
        "dsseEnvelope": {"payload": base64.b64encode(payload).decode()},
        "verificationMaterial": material,
    }
    for content in (bundle, made):
        assert signature._read(json.dumps(content).encode())
