"""The receipt of what was made: a signed statement of what, of what, how, when and on what.

``<home>/receipts/<the manifest's 64 hex>.json`` is a DSSE envelope
(https://github.com/secure-systems-lab/dsse) over an in-toto statement v1 whose predicate is SLSA
provenance v1 (https://slsa.dev/spec/v1.0/provenance), signed by the key of the home. The recipe can
be put together again from it, digest and all. Receipts come from others too: nothing in one is
trusted before `read` and `check` have passed it.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from overt.errors import FormatError, IntegrityError, OvertError, lacking
from overt.files import atomic
from overt.models.archive.receipts import path
from overt.models.recipe import Input, Recipe
from overt.models.store import Manifest, Store
from overt.models.store.manifest import hex_of
from overt.openness.export.intoto import PAYLOAD_TYPE, TYPE, pre_authentication, sign
from overt.openness.export.text import canonical, overt_version
from overt.provenance import inputs
from overt.security.signing import SigningKeys
from overt.settings import Settings

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:overt:recipe:v1"
MAX_BYTES = 32 << 20
_MAX_SUBJECTS = 10_000
_HEX = re.compile(r"[0-9a-f]{64}")

__all__ = [
    "MAX_BYTES",
    "PREDICATE_TYPE",
    "Receipt",
    "State",
    "StepRun",
    "check",
    "is_own",
    "need",
    "of",
    "path",
    "read",
    "state",
    "statement",
    "take",
    "write",
]

State = Literal["verified", "not ours", "broken", "none"]
"""Of a signature: by a key that is our own or was accepted; by one that is not known here; not of
these bytes; not there."""


@dataclass(frozen=True, slots=True)
class StepRun:
    """When a step ran: ISO 8601, UTC; `starts` is above 1 where it was interrupted.

    `instructions` are those of the processor.
    """

    started: str
    finished: str
    starts: int = 1
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says.

    Attributes:
        manifest: its digest (``sha256:…``).
        recipe: with the digest that is stated.
        subjects: 64 hex of each file that was made, by its path.
        ran: when, and by which instructions.
        threads, versions: what it ran on; 0 where it does not say.
        signers: the fingerprint that each signature names.
    """

    manifest: str
    recipe: Recipe
    subjects: Mapping[str, str]
    ran: StepRun
    threads: int
    versions: Mapping[str, str]
    signers: tuple[str, ...]


def need() -> None:
    """Raises Unsupported where the package that signs is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise lacking("a receipt is signed, which", str(error.name)) from None


def write(
    manifest: Manifest, made: Set[str], recipe: Recipe, ran: StepRun, settings: Settings
) -> Path:
    """Write and sign the receipt of `manifest`.

    Args:
        made: digests of those of its files that the step made.

    Raises:
        Failure, IntegrityError: the key cannot be made, or is broken.
        OutOfDisk, Failure: it cannot be written.
    """
    text = sign(canonical(statement(manifest, made, recipe, ran)), SigningKeys(settings.home))
    return _write(manifest.digest, text.encode(), settings.home)


def _write(digest: str, data: bytes, home: Path) -> Path:
    target = path(digest, home)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(target, data)
    except OSError as error:
        raise atomic.unwritable(target, error) from None
    return target


def statement(manifest: Manifest, made: Set[str], recipe: Recipe, ran: StepRun) -> dict[str, Any]:
    """The in-toto statement about `manifest`."""
    environment = recipe.environment
    return {
        "_type": TYPE,
        "subject": [
            {"name": file.path, "digest": {"sha256": hex_of(file.digest)}}
            for file in manifest.files
            if file.digest in made
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "step": recipe.step,
                    "version": recipe.version,
                    "parameters": dict(recipe.parameters),
                },
                "internalParameters": {
                    "environment": dict(environment),
                    "recipe": {"digest": {"sha256": hex_of(recipe.digest)}},
                    "manifest": {"digest": {"sha256": hex_of(manifest.digest)}},
                },
                "resolvedDependencies": [
                    {
                        "name": entry.ref,
                        "digest": {"sha256": hex_of(entry.digest)},
                        "annotations": {"role": entry.role},
                    }
                    for entry in recipe.inputs
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:overt:lab",
                    "version": {"overt": overt_version(), **environment},
                },
                "metadata": {"startedOn": ran.started, "finishedOn": ran.finished},
                "overt_instructions": environment.get("instructions") or ran.instructions,
                "overt_threads": _count(recipe.parameters.get("threads")),
                "overt_starts": ran.starts,
            },
        },
    }


# ---- reading -------------------------------------------------------------------------------


def read(data: bytes) -> Receipt:
    """What the receipt says; its recipe has the digest that is stated. Nothing is signed by that.

    Raises:
        FormatError: not a receipt of ours.
        IntegrityError: the recipe in it is not the one it states.
    """
    try:
        payload, signatures = _open_envelope(data)
        content = json.loads(payload)
        if (content["_type"], content["predicateType"]) != (TYPE, PREDICATE_TYPE):
            raise ValueError("it is a statement of another kind")
        definition = content["predicate"]["buildDefinition"]
        if definition["buildType"] != BUILD_TYPE:
            raise ValueError("it was not made by a recipe")
        inner = definition["internalParameters"]
        recipe = _recipe(definition)
        receipt = Receipt(
            f"sha256:{_sha256(inner['manifest'])}",
            recipe,
            _subjects(content["subject"]),
            *_run(content["predicate"]["runDetails"]),
            tuple(keyid for keyid, _ in signatures),
        )
        stated = f"sha256:{_sha256(inner['recipe'])}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"a receipt cannot be read: {str(error)[:200]}") from None
    if recipe.digest != stated:
        raise IntegrityError(
            f"the receipt states the recipe {stated[:19]}, and the one in it is "
            f"{recipe.digest[:19]}",
            "get the receipt again, from whom you trust",
        )
    return receipt


def state(data: bytes, keys: SigningKeys) -> State:
    """Whether somebody we know signed these very bytes."""
    try:
        payload, signatures = _open_envelope(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "broken"
    result: State = "none"
    for keyid, signature in signatures:
        signer = keys.of(keyid)
        if signer is None:
            result = "not ours"
        elif not _signed(payload, signature, signer.pem):
            return "broken"
        else:
            return "verified"
    return result


def check(data: bytes, manifest: Manifest, recipe: Recipe, keys: SigningKeys) -> Receipt:
    """Prove a receipt of this home: who signed it, which model it is of, and its files.

    Raises:
        FormatError, IntegrityError: it is damaged, or of another model.
    """
    receipt = read(data)
    if state(data, keys) == "broken":
        raise _bad_receipt("its signature is not valid")
    if receipt.manifest != manifest.digest:
        raise _bad_receipt(
            f"it is of {receipt.manifest[:19]}, and the model is {manifest.digest[:19]}"
        )
    if receipt.recipe.digest != recipe.digest:
        raise _bad_receipt("its recipe is not the one of the model")
    files = {file.path: hex_of(file.digest) for file in manifest.files}
    for name, digest in receipt.subjects.items():
        if files.get(name) != digest:
            raise _bad_receipt(f"the model has another {name[:80]}")
    return receipt


def is_own(data: bytes, keys: SigningKeys) -> bool:
    """Whether the key of this home signed these very bytes: what came from others says nothing of
    what was computed here.
    """
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        payload, signatures = _open_envelope(data)
        pem = keys.public()
        return any(_signed(payload, signature, pem) for _, signature in signatures)
    return False


def take(receipts: Mapping[str, bytes], settings: Settings) -> list[str]:
    """Keep receipts that came with models which are here now; one by a key that is not known is
    kept as such. One of ours that is here stays.

    Args:
        receipts: by the digest of their manifests; nothing in them is trusted.

    Returns: of each that was left out, why.

    Raises:
        OutOfDisk, Failure: it cannot be written.
    """
    store, keys = Store(settings.home), SigningKeys(settings.home)
    left = []
    for digest, data in receipts.items():
        manifest = inputs.manifest(digest, store)
        recipes = inputs.recipes(manifest, store) if manifest else []
        new = _rank(data, manifest, recipes, keys)
        if new == 0:
            left.append(f"the receipt of {digest[:19]} is left out: it is broken, or of others")
            continue
        there = of(digest, settings.home)
        if there is None or new > _rank(there, manifest, recipes, keys):
            _write(digest, data, settings.home)
    return left


def _rank(data: bytes, manifest: Manifest | None, recipes: list[Recipe], keys: SigningKeys) -> int:
    """How far a receipt is believed: 0 not at all, 1 by nobody we know, 2 by somebody, 3 ours."""
    if manifest is None or not recipes:
        return 0
    try:
        check(data, manifest, recipes[0], keys)
    except (FormatError, IntegrityError):
        return 0
    known = {"verified": 2, "not ours": 1}.get(state(data, keys), 0)
    return 3 if known == 2 and is_own(data, keys) else known


def of(digest: str, home: Path) -> bytes | None:
    """The receipt of that manifest, where there is one of a sane size."""
    try:
        with path(digest, home).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, OvertError):
        return None
    return data if len(data) <= MAX_BYTES else None


def _bad_receipt(why: str) -> IntegrityError:
    return IntegrityError(f"the receipt cannot be trusted: {why}", "make the model again")


def _open_envelope(data: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The payload of an envelope, and its signatures by the key they name."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is {len(data)} bytes")
    envelope = json.loads(data)
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise ValueError("its payload is of another type")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) > 100:
        raise ValueError("its signatures are no list, or too many")
    return _bytes(envelope["payload"]), [
        (_text(signature.get("keyid", "")), _bytes(signature["sig"])) for signature in signatures
    ]


def _recipe(definition: Mapping[str, Any]) -> Recipe:
    outer, inner = definition["externalParameters"], definition["internalParameters"]
    dependencies = definition["resolvedDependencies"]
    if not isinstance(dependencies, list):
        raise TypeError("its dependencies are no list")
    inputs = tuple(
        Input(_text(entry["annotations"]["role"]), f"sha256:{_sha256(entry)}", _text(entry["name"]))
        for entry in dependencies
    )
    if not isinstance(outer["parameters"], dict) or not isinstance(inner["environment"], dict):
        raise TypeError("its parameters are no object")
    built = Recipe(
        _text(outer["step"]),
        _text(outer["version"]),
        inputs,
        outer["parameters"],
        inner["environment"],
    )
    try:
        return Recipe.decode(built.encode())  # which checks every field
    except OvertError as error:
        raise ValueError(error.message) from None


def _run(details: Mapping[str, Any]) -> tuple[StepRun, int, dict[str, str]]:
    when = details["metadata"]
    versions = details["builder"]["version"]
    if not isinstance(versions, dict):
        raise TypeError("its versions are no object")
    ran = StepRun(
        _text(when["startedOn"]),
        _text(when["finishedOn"]),
        _count(details.get("overt_starts")),
        _text(details.get("overt_instructions", "")),
    )
    return (
        ran,
        _count(details.get("overt_threads")),
        {_text(name): _text(value) for name, value in versions.items()},
    )


def _subjects(entries: Any) -> dict[str, str]:
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_SUBJECTS:
        raise ValueError("its subjects are no list, none, or too many")
    named = {_text(entry["name"]): _sha256(entry) for entry in entries}
    if len(named) != len(entries):
        raise ValueError("two of its subjects have one name")
    return named


def _signed(payload: bytes, signature: bytes, pem: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key: Any = serialization.load_pem_public_key(pem)
        key.verify(signature, pre_authentication(payload), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError, AttributeError):
        return False
    return True


def _sha256(entry: Mapping[str, Any]) -> str:
    value = entry["digest"]["sha256"]
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError(f"{str(value)[:80]!r} is no SHA-256")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]!r} is no text")
    return value


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
