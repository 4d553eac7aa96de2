"""A signature over the model: every listed digest compared, then the signature itself.

Read are OpenSSF model signatures (https://github.com/sigstore/model-transparency): a Sigstore
bundle over an in-toto statement that lists each file with its SHA-256. The digests are compared
without any library; the signature needs `model-signing` and the signer's public key beside it. Who
holds that key is for a person to know: its fingerprint is told.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from overt.errors import IntegrityError, NotFound
from overt.openness.evidence import Finding
from overt.openness.subject import places
from overt.openness.subject.subject import Subject, SubjectFile
from overt.openness.verdicts.components import Strength

VERSION = 1
TTL = 0

_MAX_BYTES: Final = 16 << 20
_MAX_FILES: Final = 8
_MAX_PATHS: Final = 64
_WEIGHTS: Final = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx")
_PREDICATE: Final = "https://model_signing/signature/"


@dataclass(frozen=True)
class SignedFiles:
    """What one signature says: (name, sha256) of each file, and the hint at its key, or ""."""

    files: tuple[tuple[str, str], ...]
    hint: str
    certificate: bool


def check(subject: Subject) -> Iterator[Finding]:
    """Check every signature that lies with the model."""
    if not subject.files:
        return
    files = _files(subject)
    if not files:
        if places.searched(subject):
            yield Finding(
                "signature",
                "fail",
                Strength.EXISTS,
                absent=True,
                observed=f"none of the {len(subject.files)} files here is a signature",
            )
        return
    for file in files[:_MAX_FILES]:
        yield _check_signature(subject, file)


def _files(subject: Subject) -> list[SubjectFile]:
    named = list(places.of(subject, "signature"))
    named += [f for f in subject.files if f.name.endswith("overt/signature.json")]
    keys = (".pem", ".pub", ".crt", ".cer")
    return [file for file in dict.fromkeys(named) if file.suffix not in keys]


def _check_signature(subject: Subject, file: SubjectFile) -> Finding:
    raw = subject.bytes(file.name, _MAX_BYTES)
    if raw is None:
        return _open(file, "its bytes are not on this disk", "not_run")
    signed = _read(raw)
    if isinstance(signed, str):
        return _open(file, signed, "inconclusive")
    wrong, lost, same = _compare(subject, file, signed)
    paths = (file.name, *(name for name, _ in signed.files[:_MAX_PATHS]))
    if wrong:
        name, actual, wanted = wrong[0]
        more = f", and {len(wrong) - 1} more files differ" if len(wrong) > 1 else ""
        return Finding(
            "signature",
            "fail",
            Strength.PINNED,
            paths=(file.name, name),
            observed=f"{name} has sha256 {actual}{more}",
            expected=f"{wanted}, as {file.name} signs",
        )
    unsigned = _unsigned(subject, signed)
    if unsigned:
        return Finding(
            "signature",
            "fail",
            Strength.PINNED,
            paths=(file.name, *unsigned[:8]),
            observed=f"{len(unsigned)} files of weights are not signed: {', '.join(unsigned[:3])}",
            expected=f"all weights among the {len(signed.files)} files {file.name} signs",
        )
    if lost:
        if places.searched(subject):
            return Finding(
                "signature",
                "fail",
                Strength.PINNED,
                paths=(file.name,),
                observed=f"{lost[0]}, which {file.name} signs, is not here",
                expected=f"{len(signed.files)} files",
            )
        return _open(
            file, f"{len(lost)} of {len(signed.files)} signed files are not here", "inconclusive"
        )
    return _cryptography(subject, file, signed, raw, same, paths)


def _open(file: SubjectFile, reason: str, result: Any) -> Finding:
    return Finding(
        "signature", result, Strength.PINNED, reason=f"{file.name}: {reason}", paths=(file.name,)
    )


# -- what it says --------------------------------------------------------------------------------


def _read(raw: bytes) -> SignedFiles | str:
    """The statement of a bundle, or why it is none."""
    try:
        bundle = json.loads(raw)
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        material = bundle["verificationMaterial"]
        predicate = payload["predicate"]
        if not str(payload["predicateType"]).startswith(_PREDICATE):
            return f"it signs {str(payload['predicateType'])[:80]!r}, no list of a model's files"
        rows = predicate["resources"]
        if any(str(row["algorithm"]) not in ("sha256", "sha-256") for row in rows):
            return "it lists digests that are not SHA-256 of whole files"
        files = tuple((str(row["name"]), str(row["digest"]).lower()) for row in rows)
        if not files:
            return "it lists no file"
        key = material.get("publicKey") or {}
        return SignedFiles(files, str(key.get("hint") or ""), not key)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "it is no signature of the form this project can read (an OpenSSF model signature)"


def _compare(
    subject: Subject, file: SubjectFile, signed: SignedFiles
) -> tuple[list[tuple[str, str, str]], list[str], int]:
    """(name, found, signed) of files that differ, files that are not here, and how many agree."""
    folder = file.name.rpartition("/")[0]
    roots = [f"{folder}/", ""] if folder else [""]
    wrong, lost, same = [], [], 0
    for name, wanted in signed.files:
        file_ = next(
            (candidate for root in roots if (candidate := subject.file(root + name))), None
        )
        if file_ is None:
            lost.append(name)
            continue
        digest = "" if file_.sparse and not file_.stated else subject.digest(file_.name)
        if not digest.startswith("sha256:"):
            lost.append(name)
        elif digest.removeprefix("sha256:") != wanted:
            wrong.append((file_.name, digest.removeprefix("sha256:"), wanted))
        else:
            same += 1
    return wrong, lost, same


def _unsigned(subject: Subject, signed: SignedFiles) -> list[str]:
    names = {name.rpartition("/")[2] for name, _ in signed.files}
    return [
        file.name
        for file in subject.files
        if file.suffix in _WEIGHTS
        and "/" not in file.name
        and file.stem not in {name.lower() for name in names}
    ]


# -- whether it holds ----------------------------------------------------------------------------


def _cryptography(
    subject: Subject,
    file: SubjectFile,
    signed: SignedFiles,
    raw: bytes,
    same: int,
    paths: tuple[str, ...],
) -> Finding:
    if signed.certificate:
        return _open(
            file,
            f"its {same} digests agree; its certificate was not checked: that takes "
            "its issuer's log",
            "not_run",
        )
    key = _key(subject, signed)
    if key is None:
        return _open(
            file, f"its {same} digests agree; no public key of its signer lies with it", "not_run"
        )
    name, pem = key
    from overt.security import signing
    from overt.security.signing import Member

    members = [Member(path, 0, digest) for path, digest in signed.files]
    try:
        signing.verify(members, pem, raw)
    except NotFound as error:
        return _open(file, f"its {same} digests agree; {error.message}", "not_run")
    except IntegrityError as error:
        return Finding(
            "signature",
            "fail",
            Strength.PINNED,
            paths=(file.name, name),
            observed=error.message.replace("of the archive ", ""),
            expected=f"a signature by the key {name}",
        )
    return Finding(
        "signature",
        "pass",
        Strength.PINNED,
        paths=(*paths, name),
        observed=f"{file.name} signs {same} files as they are here, by the key {name} with the "
        f"fingerprint {sha256(pem).hexdigest()}",
    )


def _key(subject: Subject, signed: SignedFiles) -> tuple[str, bytes] | None:
    """The public key the bundle names, else the only one that is here."""
    keys = []
    for file in subject.files:
        if file.suffix in (".pem", ".pub") and file.size <= 1 << 16:
            pem = subject.bytes(file.name, 1 << 16)
            if pem is None or b"PUBLIC KEY" not in pem:
                continue
            if sha256(pem).hexdigest() == signed.hint:
                return file.name, pem
            keys.append((file.name, pem))
    return keys[0] if len(keys) == 1 else None
