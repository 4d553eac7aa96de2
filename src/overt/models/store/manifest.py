"""What the store writes about a model: the manifest, and the name that points to one.

Everything here is read back from a disk that others can write, so every field is checked before it
becomes a path (`hex_of`, `ref.safe_member`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import cast, get_args

from overt.errors import BadRef, IntegrityError
from overt.models.sources.base import Role
from overt.ref import Ref, parse, safe_member

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ROLES = get_args(Role)
_FILES = 10_000  # files in one manifest, at most


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model: `digest` is ``sha256:`` and 64 hex, `size` is in bytes."""

    role: Role
    path: str
    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The immutable list of a model's files, and where they came from.

    Two machines that pull the same pinned ref get the same manifest and so the same digest: the
    time of the pull is kept with the name, not here.

    Attributes:
        files: at least one; the first with role ``weights`` is what an engine loads.
        ref: the pinned ref the files came from.
        origin: facts about the origin.
        licence: an SPDX id, ``LicenseRef-…``, or what the origin says; None if it says nothing.
        created: when the origin published it (ISO 8601, UTC), or "".
    """

    files: tuple[File, ...]
    ref: str
    origin: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    created: str = ""

    @property
    def digest(self) -> str:
        return "sha256:" + sha256(self.encode()).hexdigest()

    @property
    def weights(self) -> File:
        """The first file with role ``weights``. Raises IntegrityError where there is none."""
        for file in self.files:
            if file.role == "weights":
                return file
        raise IntegrityError(f"{self.ref} has no weights", f"type `overt pull {self.ref}`")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        content = {
            "files": [
                {"role": f.role, "path": f.path, "digest": f.digest, "size": f.size}
                for f in self.files
            ],
            "ref": self.ref,
            "origin": dict(self.origin),
            "licence": self.licence,
            "created": self.created,
        }
        return json.dumps(
            content, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Read a manifest; nothing in it is trusted.

        Raises:
            IntegrityError: not a manifest, or one whose paths or digests could leave the store.
        """
        try:
            content = json.loads(data)
            files = content["files"]
            if not isinstance(files, list) or not 0 < len(files) <= _FILES:
                raise ValueError("its list of files is empty or too long")
            parse(content["ref"])
            return cls(
                files=tuple(_file(item) for item in files),
                ref=content["ref"],
                origin={str(k): str(v) for k, v in content["origin"].items()},
                licence=None if content["licence"] is None else str(content["licence"]),
                created=str(content["created"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadRef) as error:
            raise IntegrityError(f"a manifest cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Pointer:
    ref: str
    manifest: str
    time: str

    def encode(self) -> bytes:
        content = {"ref": self.ref, "manifest": self.manifest, "time": self.time}
        return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Pointer":
        try:
            content = json.loads(data)
            pointer = cls(
                str(content["ref"]), "sha256:" + hex_of(content["manifest"]), str(content["time"])
            )
            parse(pointer.ref)
        except (ValueError, KeyError, TypeError, RecursionError, BadRef):
            raise IntegrityError(
                "a name in the store cannot be read", "type `overt verify`"
            ) from None
        return pointer


def _file(item: Mapping[str, object]) -> File:
    role, path, size = item["role"], item["path"], item["size"]
    if role not in _ROLES:
        raise ValueError(f"a file has the role {role!r}")
    if not isinstance(path, str) or safe_member(path) != path:
        raise ValueError(f"a file has the path {path!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"a file has the size {size!r}")
    return File(cast(Role, role), path, "sha256:" + hex_of(item["digest"]), size)


def hex_of(digest: object) -> str:
    """The 64 hex digits, proved to be nothing else before they become part of a path."""
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if not match:
        raise IntegrityError(f"{str(digest)[:80]!r} is not a digest", "type `overt verify`")
    return match[1]


def file_name(ref: Ref) -> str:
    """A file name for a ref: percent-encoded, a tail that is too long replaced by a hash."""
    text = str(ref)
    encoded = "".join(
        chr(byte) if byte < 128 and (chr(byte).isalnum() or byte in b"-_.") else f"%{byte:02X}"
        for byte in text.encode()
    )
    if len(encoded) > 200:
        encoded = f"{encoded[:130]}~{sha256(text.encode()).hexdigest()}"
    return f"{encoded}.json"


def ref_text(path: Path) -> str:
    return re.sub(
        r"((?:%[0-9A-F]{2})+)",
        lambda match: bytes.fromhex(match[1].replace("%", "")).decode("utf-8", "replace"),
        path.name.removesuffix(".json"),
    )
