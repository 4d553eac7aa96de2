"""The head of an archive, and the tar it is written in.

Of tar only what is needed is written and read: plain files with an ustar header (a size of 8 GiB or
more in base 256, as GNU tar writes it), in exactly the order the head states. A link, a device, a
folder, an extended header, a name that was not stated, a second file of a name: none of them can be
what is expected next, so each is refused before it means anything.
"""

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from overt.errors import BadRef, FormatError, IntegrityError, UnsafeFile
from overt.models.archive import receipts
from overt.models.store import Manifest
from overt.models.store.manifest import hex_of
from overt.ref import Ref, parse, safe_member
from overt.security.signing import SIGNATURE, SIGNER, Member

BLOCK = 512
ARCHIVE = "overt/archive.json"
MANIFEST, DOSSIER = "overt/manifest.json", "overt/dossier.json"
CHAIN, MODEL = "overt/chain/", "model/"
MAX_MEMBER_BYTES = {
    ARCHIVE: 8 << 20,
    SIGNER: 4 << 10,
    SIGNATURE: 16 << 20,
}  # bytes of the head's files

_FORMAT = "overt-archive-1"
_MEMBERS = 20_000
_NAMES = 32
_SMALL = 8 << 20  # a file below overt/
_WIDE = 4 << 40  # no file of a model is larger
_NAME_BYTES = 100  # of an ustar header without a prefix
NAMED = ("name", "hf", "ollama", "pypi", "oci")  # schemes a stored model can be called by


@dataclass(frozen=True, slots=True)
class ArchiveIndex:
    """What an archive says is inside it.

    Attributes:
        manifest: digest of the model's manifest.
        names: what the model is called where it came from.
        members: every file after the head, in order.
        receipts: of models in it, by the 64 hex of their manifests.
    """

    manifest: str
    names: tuple[Ref, ...]
    members: tuple[Member, ...]
    receipts: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members)

    def encode(self) -> bytes:
        """Canonical JSON."""
        content = {
            "format": _FORMAT,
            "manifest": self.manifest,
            "names": [str(name) for name in self.names],
            "members": [{"name": m.name, "size": m.size, "sha256": m.sha256} for m in self.members],
            **({"receipts": dict(self.receipts)} if self.receipts else {}),
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    @classmethod
    def decode(cls, data: bytes) -> "ArchiveIndex":
        """Read a head; nothing in it is trusted.

        Raises:
            FormatError: not the head of an archive, or of a later version.
            UnsafeFile: a name in it would leave its folder or comes twice, or a size is too large.
        """
        try:
            content = json.loads(data)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {str(content['format'])[:40]!r}")
            members = tuple(_member(item) for item in _listed(content["members"], _MEMBERS))
            names = tuple(_name(item) for item in _listed(content["names"], _NAMES))
            signed_receipts = receipts.stated(content.get("receipts", {}))
            archive = cls("sha256:" + hex_of(content["manifest"]), names, members, signed_receipts)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"the head of the archive cannot be read: {error}") from None
        except (BadRef, IntegrityError) as error:
            raise UnsafeFile(f"the archive is refused: {error.message}") from None
        if len({member.name for member in members}) != len(members):
            raise UnsafeFile("the archive is refused: it lists a file twice")
        if not members or members[0].name != MANIFEST:
            raise FormatError(f"the archive does not begin with {MANIFEST}")
        return archive

    def check(self, manifest: Manifest) -> None:
        """Prove that the members are the files of this manifest, all of them and no others.

        Raises:
            UnsafeFile: they are not.
        """
        if manifest.digest != self.manifest:
            raise UnsafeFile("the archive is refused: it holds another manifest than it states")
        wanted = {(hex_of(file.digest), file.size) for file in manifest.files}
        held = {(m.sha256, m.size) for m in self.members if m.name.startswith(MODEL)}
        if missing := wanted - held:
            raise UnsafeFile(f"the archive is refused: it lacks {len(missing)} files of its model")
        if more := held - wanted:
            raise UnsafeFile(f"the archive is refused: {len(more)} of its files are no model's")


def member_names(paths: Mapping[str, str]) -> dict[str, str]:
    """Where each file goes: digest (64 hex) to the name of its member, for digest to path."""
    taken: set[str] = set()
    names = {}
    for hexes, path in paths.items():
        name = MODEL + path
        if len(name.encode()) > _NAME_BYTES or name.lower() in taken:
            name = f"{MODEL}by-digest/{hexes}"
        taken.add(name.lower())
        names[hexes] = name
    return names


def header(member: Member) -> bytes:
    """The 512 bytes before a file: no owner, no time, so that the same model is the same bytes."""
    info = tarfile.TarInfo(member.name)
    info.size = member.size
    info.mode = 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def expect(block: bytes, name: str, most: int) -> int:
    """The size a header states, if it is that of the plain file `name`.

    Raises:
        FormatError: not a tar header. UnsafeFile: of something else, or larger than `most`.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise FormatError(f"where {name} should begin, the archive holds something else") from None
    if info.type != tarfile.REGTYPE or info.name != name:
        raise UnsafeFile(
            f"the archive is refused: where {name} should be it has {info.name[:80]!r} "
            f"(kind {info.type.decode('latin-1')!r})"
        )
    if not 0 <= info.size <= most:
        raise UnsafeFile(
            f"the archive is refused: {name} would be {info.size} bytes, where {most} are allowed"
        )
    return info.size


def padding(size: int) -> int:
    """Zero bytes after a file of `size` bytes."""
    return -size % BLOCK


def extent(sizes: Sequence[int]) -> int:
    """Bytes of a tar of files of these sizes, its end included."""
    return sum(BLOCK + size + padding(size) for size in sizes) + 2 * BLOCK


def member_of(name: str, data: bytes) -> Member:
    """The member that holds `data`."""
    return Member(name, len(data), sha256(data).hexdigest())


def _listed(value: object, most: int) -> list[object]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"a list in it is none, or longer than {most}")
    return value


def _member(item: object) -> Member:
    if not isinstance(item, dict):
        raise TypeError("a file in it is not described")
    name, size, digest = item["name"], item["size"], item["sha256"]
    if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool):
        raise TypeError("a file in it has no proper name or size")
    if safe_member(name) != name or len(name.encode()) > _NAME_BYTES:
        raise BadRef(f"{name[:80]!r} is no plain name of a file")
    known = name in (MANIFEST, DOSSIER) or name.startswith((CHAIN, MODEL))
    if not known:
        raise BadRef(f"{name[:80]!r} is no file of an archive")
    most = _WIDE if name.startswith(MODEL) else _SMALL
    if not 0 <= size <= most:
        raise BadRef(f"{name} would be {size} bytes, where {most} are allowed")
    return Member(name, size, hex_of(f"sha256:{digest}"))


def _name(item: object) -> Ref:
    if not isinstance(item, str):
        raise TypeError("a name in it is no text")
    ref = parse(item)
    if ref.scheme not in NAMED:
        raise BadRef(f"{item[:80]!r} is no name of a stored model")
    return ref
