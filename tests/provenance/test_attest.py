"""Receipts: read by in-toto's own package, verified by plain cryptography, and tampered with."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_step
from overt.errors import FormatError, IntegrityError, OvertError
from overt.models.recipe import Input, Recipe
from overt.models.store import File, Manifest
from overt.provenance import receipts, run_recipe, steps
from overt.security.signing import SigningKeys
from overt.settings import Settings, load

DIGEST = f"sha256:{'a' * 64}"
TOLD = Recipe(
    "tiny", "1", (Input("from", DIGEST, "hf:a/b@c"), Input("data", f"sha256:{'b' * 64}", "x")),
    {"rows": 3, "threads": 2, "rate": 0.1}, {"numpy": "2.4", "instructions": "AVX2"},
)  # fmt: skip
FILES = (
    File("weights", "w.gguf", f"sha256:{'c' * 64}", 4),
    File("recipe", "recipe.json", TOLD.digest, 9),
    File("licence", "LICENSE", f"sha256:{'d' * 64}", 5),
)
MANIFEST = Manifest(FILES, "mine", {"source": "tiny"}, "MIT")
RAN = receipts.StepRun("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", 2)


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return SigningKeys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def receipt(keys: SigningKeys, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    home = keys._folder.parent
    made = {FILES[0].digest, FILES[1].digest}
    settings = load({"OVERT_HOME": str(home)})
    return receipts.write(MANIFEST, made, TOLD, RAN, settings).read_bytes()


# ---- what others read ----------------------------------------------------------------------


def test_in_totos_own_package_reads_the_statement(receipt: bytes) -> None:
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Raw

    payload = json.loads(base64.b64decode(json.loads(receipt)["payload"]))
    raw = ParseDict(payload, Raw())
    Statement.copy_from_pb(raw).validate()
    assert raw.predicate_type == "https://slsa.dev/provenance/v1"
    assert {one.name: one.digest["sha256"] for one in raw.subject} == {
        "w.gguf": "c" * 64,
        "recipe.json": TOLD.digest.removeprefix("sha256:"),
    }
    # SLSA lets a builder add fields with its own name before them; its own message has none.
    ours = {"overt_instructions": "AVX2", "overt_threads": 2, "overt_starts": 2}
    details = payload["predicate"]["runDetails"]
    assert {name: details.pop(name) for name in ours} == ours
    provenance = ParseDict(payload["predicate"], Provenance())
    assert provenance.build_definition.build_type == "urn:overt:recipe:v1"
    assert provenance.build_definition.resolved_dependencies[0].digest["sha256"] == "a" * 64
    assert provenance.run_details.metadata.finished_on.ToJsonString() == RAN.finished
    assert provenance.run_details.builder.version["numpy"] == "2.4"


def test_the_signature_is_dsses(receipt: bytes, keys: SigningKeys) -> None:
    """Verified from the specification of DSSE alone."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    envelope = json.loads(receipt)
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    assert kind == b"application/vnd.in-toto+json"
    signed = b" ".join(
        [b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload]
    )
    public = serialization.load_pem_public_key(keys.public())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(signature, signed, ec.ECDSA(hashes.SHA256()))


def test_it_gives_the_recipe_back(receipt: bytes) -> None:
    found = receipts.read(receipt)
    assert found.recipe == TOLD
    assert found.manifest == MANIFEST.digest
    assert (found.threads, found.ran.starts, found.ran.instructions) == (2, 2, "AVX2")
    assert found.ran.started == RAN.started


# ---- who signed, and what --------------------------------------------------------------------


def test_a_receipt_of_the_model_passes(receipt: bytes, keys: SigningKeys) -> None:
    assert receipts.check(receipt, MANIFEST, TOLD, keys).manifest == MANIFEST.digest
    assert receipts.state(receipt, keys) == "verified"


def test_another_model_recipe_or_file_is_found(receipt: bytes, keys: SigningKeys) -> None:
    other = Manifest(FILES, "yours")
    with pytest.raises(IntegrityError, match=r"it is of sha256:"):
        receipts.check(receipt, other, TOLD, keys)
    with pytest.raises(IntegrityError, match="recipe"):
        receipts.check(receipt, MANIFEST, Recipe("tiny", "2"), keys)


def test_a_key_that_is_not_known_is_told_until_it_is_accepted(
    receipt: bytes, keys: SigningKeys, tmp_path: Path
) -> None:
    mine = SigningKeys(tmp_path / "mine")
    assert receipts.state(receipt, mine) == "not ours"
    mine.accept(mine.signer(keys.public()))
    assert receipts.state(receipt, mine) == "verified"


def test_no_signature_is_none_and_a_wrong_one_is_broken(receipt: bytes, keys: SigningKeys) -> None:
    envelope = json.loads(receipt)
    unsigned = json.dumps(envelope | {"signatures": []}).encode()
    assert receipts.state(unsigned, keys) == "none"
    envelope["signatures"][0]["sig"] = base64.b64encode(b"x" * 70).decode()
    assert receipts.state(json.dumps(envelope).encode(), keys) == "broken"


def test_a_changed_parameter_is_found_twice(receipt: bytes, keys: SigningKeys) -> None:
    """By the signature, and without it by the recipe's digest."""
    changed = _changed(receipt, ("predicate", "buildDefinition", "externalParameters",
                                 "parameters", "rows"), 4)  # fmt: skip
    assert receipts.state(changed, keys) == "broken"
    with pytest.raises(IntegrityError, match="states the recipe"):
        receipts.read(changed)


def test_a_changed_subject_is_found_without_a_known_key(receipt: bytes, tmp_path: Path) -> None:
    payload = json.loads(base64.b64decode(json.loads(receipt)["payload"]))
    subjects = payload["subject"]
    subjects[0]["digest"]["sha256"] = "e" * 64
    changed = _changed(receipt, ("subject",), subjects)
    with pytest.raises(IntegrityError, match=r"another w\.gguf"):
        receipts.check(changed, MANIFEST, TOLD, SigningKeys(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("predicateType",), "urn:other"),
        (("predicate", "buildDefinition", "buildType"), "urn:other"),
        (("subject",), []),
        (("predicate", "buildDefinition", "resolvedDependencies"), {}),
        (("predicate", "buildDefinition", "internalParameters"), []),
        (("predicate", "runDetails"), None),
    ],
)
def test_what_is_no_receipt_of_ours_is_refused(
    receipt: bytes, place: tuple[str, ...], value: Any
) -> None:
    with pytest.raises(FormatError, match="a receipt cannot be read"):
        receipts.read(_changed(receipt, place, value))


def _changed(receipt: bytes, place: tuple[str, ...], value: Any) -> bytes:
    envelope = json.loads(receipt)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    inner = payload
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(envelope).encode()


# ---- anything at all -------------------------------------------------------------------------


@given(data=st.data())
def test_mutated_bytes_raise_only_our_errors(
    data: st.DataObject, receipt: bytes, keys: SigningKeys
) -> None:
    """Of the envelope, and of the payload in it."""
    inner = data.draw(st.booleans())
    envelope = json.loads(receipt)
    original = bytearray(base64.b64decode(envelope["payload"]) if inner else receipt)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(original) - 1))
        original[at] = data.draw(st.integers(0, 255))
    if inner:
        payload = base64.b64encode(bytes(original)).decode()
        mutated = json.dumps(envelope | {"payload": payload}).encode()
    else:
        mutated = bytes(original)
    state = receipts.state(mutated, keys)
    with contextlib.suppress(OvertError):
        found = receipts.read(mutated)
        if state == "verified":  # then nothing that was signed is another
            assert (found.recipe, found.manifest) == (TOLD, MANIFEST.digest)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PLACES: tuple[tuple[str, ...], ...] = (
    ("subject",), ("predicate",), ("predicate", "buildDefinition"), ("predicate", "runDetails"),
    ("predicate", "buildDefinition", "externalParameters"),
    ("predicate", "buildDefinition", "internalParameters", "environment"),
    ("predicate", "buildDefinition", "resolvedDependencies"),
    ("predicate", "runDetails", "builder"), ("predicate", "runDetails", "metadata"),
)  # fmt: skip


@given(st.sampled_from(PLACES), values)
def test_any_json_anywhere_raises_only_our_errors(
    receipt: bytes, place: tuple[str, ...], value: Any
) -> None:
    with contextlib.suppress(OvertError):
        receipts.read(_changed(receipt, place, value))


@given(data=st.binary(max_size=60) | values.map(lambda one: json.dumps(one).encode()))
def test_anything_else_raises_only_our_errors(data: bytes, keys: SigningKeys) -> None:
    assert receipts.state(data, keys) == "broken"
    with pytest.raises(OvertError):
        receipts.read(data)


def test_what_is_made_has_times_and_instructions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    made = run_recipe.make(run_recipe.recipe("tiny", (), {"rows": 1}, settings), "mine", settings)
    found = receipts.read(receipts.of(made.digest, settings.home) or b"")
    assert found.ran.started <= found.ran.finished
    assert found.ran.instructions
    assert found.subjects["tiny.safetensors"] == made.weights.digest.removeprefix("sha256:")
