"""The dossier as an in-toto statement (https://github.com/in-toto/attestation), to be signed.

The subjects are the files, by their SHA-256; where there are none (an API, a record of another
index), the one subject is the claims themselves, in canonical JSON. The statement is written in
canonical JSON too, so that its own digest follows from the dossier.
"""

import base64
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from overt.errors import NotFound
from overt.openness.dossier import Dossier
from overt.openness.export.text import canonical, content_digest, hex_of, overt_version

if TYPE_CHECKING:
    from overt.security.signing import SigningKeys

TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:overt:dossier:v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"


def render(dossier: Dossier) -> str:
    content = dossier.as_json()
    statement = {
        "_type": TYPE,
        "subject": _subjects(dossier, content),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "assessor": {"name": "overt", "version": overt_version()},
            "rules_version": dossier.rules_version,
            "made_on": dossier.made_on,
            "dossier": {"digest": {"sha256": content_digest(dossier)}},
            "model": content["subject"],
            "assessment": dossier.verdicts.as_json(),
            "licence": content["licence"],
            "components": [
                {
                    "name": component.component.name,
                    "state": component.state,
                    "availability": component.availability.word,
                    "licence": component.licence,
                    "evidence": [piece.id for piece in component.evidence],
                }
                for component in dossier.components
            ],
            "evidence": _evidence(dossier),
            "parents": content["parents"],
        },
    }
    return canonical(statement) + "\n"


def _subjects(dossier: Dossier, content: dict[str, Any]) -> list[dict[str, Any]]:
    subjects: list[dict[str, Any]] = [
        {"name": name or f"file {number}", "digest": {"sha256": value}}
        for number, (name, _, digest) in enumerate(dossier.files, 1)
        if (value := hex_of(digest))
    ]
    if subjects:
        return subjects
    claims = canonical(
        [
            content["subject"],
            [component["claim"] for component in content["components"]],
            content["facts"],
        ]
    )
    return [
        {
            "name": f"claims about {dossier.record.name or dossier.ref}",
            "digest": {"sha256": sha256(claims.encode()).hexdigest()},
        }
    ]


def _evidence(dossier: Dossier) -> list[dict[str, Any]]:
    pieces = {piece.id: piece for component in dossier.components for piece in component.evidence}
    return [pieces[id_].as_json(with_id=True) for id_ in sorted(pieces)]


def sign(statement: str, keys: "SigningKeys") -> str:
    """`statement` in a DSSE envelope (https://github.com/secure-systems-lab/dsse), signed.

    The signature (ECDSA, P-256, SHA-256) follows from key and statement alone (RFC 6979), where the
    OpenSSL here can do that.

    Raises:
        NotFound: cryptography or model-signing is not installed. Failure: no key can be made.
        IntegrityError: the key is broken.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise NotFound(
            f"signatures need the package cryptography, which is not here ({error})",
            "install overt with its extra `carry`",
        ) from None
    public = keys.public()  # makes the key where there is none, and refuses one that is broken
    key: Any = serialization.load_pem_private_key(keys.own().read_bytes(), None)
    payload = statement.encode()
    try:
        signature = key.sign(
            pre_authentication(payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        )
    except UnsupportedAlgorithm:
        signature = key.sign(pre_authentication(payload), ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {
                "keyid": sha256(public).hexdigest(),
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }
    return json.dumps(envelope, separators=(",", ":")) + "\n"


def pre_authentication(payload: bytes) -> bytes:
    """What is signed: the payload with its type, each after its length."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
