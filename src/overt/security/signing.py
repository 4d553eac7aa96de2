"""Who signed an archive, and whether that is somebody you know.

The signature is an OpenSSF model signature (https://github.com/sigstore/model-transparency): a
Sigstore bundle over an in-toto statement that lists every file with its SHA-256, made by the
package `model-signing`. Unpack an archive and `model_signing verify key` checks it without Overt.

The key (ECDSA, P-256) is made on first use, in ``<home>/keys/signing.pem``, for you alone. A
signer's fingerprint is what ``sha256sum overt/signer.pem`` prints. A key you accept is kept in
``<home>/keys/accepted/<fingerprint>.pem``; delete the file to take it back.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overt.errors import Failure, IntegrityError, NotFound

if TYPE_CHECKING:
    from model_signing import hashing

# By their own names: Overt is on no package index yet, and whoever took its name there could be had
# instead. The Python is named because that of .venv is on nobody's PATH.
INSTALL = f"{sys.executable} -m pip install 'model-signing<2' pyopenssl"
SIGNER, SIGNATURE = "overt/signer.pem", "overt/signature.json"
"""The two files of an archive that a signature does not cover: who signed, and the signature."""

_SERIALIZATION = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": [SIGNATURE, SIGNER],
}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: `sha256` is 64 hex, `size` in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Signer:
    """A public key, as PEM, by its fingerprint (64 hex).

    `known` is "own" for the key of this home, "accepted" for one that was accepted before, or "".
    """

    pem: bytes
    fingerprint: str
    known: str


class SigningKeys:
    """The key of a home, and those its owner has accepted."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "keys"
        self._private = self._folder / "signing.pem"
        self._accepted = self._folder / "accepted"
        self.signatures = self._folder / "signatures"

    def own(self) -> Path:
        """The private key, made if there is none.

        Raises:
            NotFound: `cryptography` is not installed. Failure: the folder cannot be written.
        """
        try:
            import cryptography  # noqa: F401
        except ImportError as error:
            raise NotFound(
                f"signatures need the package cryptography, which is not here ({error})", INSTALL
            ) from None
        if not self._private.exists():
            try:
                self._make()
            except OSError as error:
                raise Failure(
                    f"{self._folder} cannot be written: {error.strerror or error}",
                    "set OVERT_HOME to a folder of yours",
                ) from None
        return self._private

    def public(self) -> bytes:
        """The public half of the key, as PEM. Raises IntegrityError where it is no key."""
        from cryptography.hazmat.primitives import serialization

        try:
            key = serialization.load_pem_private_key(self.own().read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"{self._private} is no private key: {error}",
                "delete it, and a new one is made at the next export",
            ) from None
        return _pem(key.public_key())

    def signer(self, pem: bytes) -> Signer:
        """Who that public key is to us."""
        fingerprint = sha256(pem).hexdigest()
        known = ""
        if (self._accepted / f"{fingerprint}.pem").is_file():
            known = "accepted"
        elif self._private.exists() and self.public() == pem:
            known = "own"
        return Signer(pem, fingerprint, known)

    def of(self, fingerprint: str) -> Signer | None:
        """The key of that fingerprint (64 hex), where it is our own or was accepted."""
        if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            return None
        with suppress(OSError):
            pem = (self._accepted / f"{fingerprint}.pem").read_bytes()
            if sha256(pem).hexdigest() == fingerprint:
                return Signer(pem, fingerprint, "accepted")
        if self._private.exists() and sha256(pem := self.public()).hexdigest() == fingerprint:
            return Signer(pem, fingerprint, "own")
        return None

    def accept(self, signer: Signer) -> None:
        """Know this key from now on."""
        self._accepted.mkdir(parents=True, exist_ok=True)
        new = self._accepted / f".{signer.fingerprint}.{os.getpid()}"
        new.write_bytes(signer.pem)
        new.replace(self._accepted / f"{signer.fingerprint}.pem")

    def _make(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        new = self._folder / f".signing.{os.getpid()}"
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its key it is
            os.link(new, self._private)
        new.unlink()


def need() -> None:
    """Raises NotFound, with what to type, where `model-signing` is not installed."""
    try:
        import model_signing  # noqa: F401
    except ImportError as error:
        raise NotFound(
            f"signatures need the package model-signing, which is not here ({error})", INSTALL
        ) from None


def sign(members: Sequence[Member], title: str, keys: SigningKeys) -> bytes:
    """The signature of all `members`, as its file's bytes.

    An ECDSA signature is another one each time, so it is kept: the same model exported again with
    the same key is the same archive, byte for byte.
    """
    need()
    listed = "\n".join((title, *(f"{m.sha256} {m.name}" for m in members)))
    signature_file = keys.signatures / f"{sha256(listed.encode()).hexdigest()}.json"
    with suppress(OSError, IntegrityError):
        signature = signature_file.read_bytes()
        verify(members, keys.public(), signature)
        return signature
    signature = _signed(members, title, keys)
    signature_file.parent.mkdir(parents=True, exist_ok=True)
    new = signature_file.with_name(f".{signature_file.name}.{os.getpid()}")
    new.write_bytes(signature)
    new.replace(signature_file)
    return signature


def _signed(members: Sequence[Member], title: str, keys: SigningKeys) -> bytes:
    from model_signing import signing

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "signature.json"
        config = signing.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_signer(private_key=keys.own())
        config.set_hashing_config(_hashed(members, title))
        config.sign(title, target)
        return target.read_bytes()


def verify(members: Sequence[Member], pem: bytes, signature: bytes) -> None:
    """Prove that the key signed exactly these members.

    Raises:
        NotFound: `model-signing` is not installed.
        IntegrityError: it did not, or the signature cannot be read.
    """
    need()
    from model_signing import verifying

    _check_hint(pem, signature)
    with tempfile.TemporaryDirectory() as folder:
        key, file = Path(folder) / "signer.pem", Path(folder) / "signature.json"
        key.write_bytes(pem)
        file.write_bytes(signature)
        try:
            config = verifying.Config()  # type: ignore[no-untyped-call]
            config.use_elliptic_key_verifier(public_key=key)
            config.set_hashing_config(_hashed(members, ""))
            config.verify("", file)
        except Exception as error:  # noqa: BLE001 - a hostile file makes the package raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise IntegrityError(
                f"the signature of the archive is not valid: {reason}",
                "get the archive again, from whom you trust",
            ) from None


def _check_hint(pem: bytes, signature: bytes) -> None:
    """The bundle must name its key: otherwise `model-signing` accepts an older format."""
    try:
        bundle: Any = json.loads(signature)
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError, RecursionError):
        hint = None
    if hint != sha256(pem).hexdigest():
        raise IntegrityError(
            "the signature of the archive is not valid: it does not name the key beside it",
            "get the archive again, from whom you trust",
        )


def fingerprint_of(text: str) -> str:
    """The hex digits of a fingerprint as a person writes it; "" where it is none.

    At least 32 digits: fewer could be matched by a key made for it.
    """
    digits = re.sub(r"[\s:-]", "", text.lower().removeprefix("sha256:"))
    return digits if re.fullmatch(r"[0-9a-f]{32,64}", digits) else ""


def _hashed(members: Sequence[Member], title: str) -> "hashing.Config":
    """Stands in for model-signing's hashing of a folder: the digests are known already."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    serialization = manifest.SerializationType.from_args(_SERIALIZATION)
    items = [
        serialization.new_item(member.name, Digest("sha256", bytes.fromhex(member.sha256)))
        for member in members
    ]

    class Known(hashing.Config):
        def hash(self, *_: object, **__: object) -> manifest.Manifest:
            return manifest.Manifest(title, items, serialization)

        def add_ignored_paths(self, *_: object, **__: object) -> None:
            """What the signature leaves out is not among the members."""

    return Known()  # type: ignore[no-untyped-call]


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem
