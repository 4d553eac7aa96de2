"""A hub's repository as a subject, without fetching its weights.

What comes: the list of files with the digests the hub states, small texts (card, licence,
configuration, templates, code), and the headers of GGUF and safetensors files, read by ranges into
sparse files of the right size. It is kept by commit, so that a second look asks for the list only.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.models import quant_selection
from overt.models.sources import hub
from overt.models.sources.download import Network
from overt.openness.subject.record import Record
from overt.openness.subject.subject import Subject, SubjectFile
from overt.ref import Ref
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.sources.hub import Listing

_TEXTS = (
    ".md",
    ".txt",
    ".json",
    ".jinja",
    ".yaml",
    ".yml",
    ".toml",
    ".py",
    ".sh",
    ".cff",
    ".rst",
    "",
)
_MAX_TEXT = 1 << 20
_MAX_TEXTS = 64
_MAX_BYTES = 16 << 20
_MAX_HEADERS = 64


def subject(ref: str, parsed: Ref, settings: Settings) -> Subject:
    """The repository at its newest (or the named) commit.

    Raises:
        As `hub.plan`: ModelNotFound, NeedsAccess, Offline, SourceFailed.
    """
    network = Network(settings.offline)
    try:
        listing = hub.listing(parsed, network)
        folder = settings.home / "dossiers" / "hub" / _folder_name(listing)
        folder.mkdir(parents=True, exist_ok=True)
        headers = _fetch(listing, folder)
    finally:
        network.close()
    files = tuple(
        SubjectFile(
            name,
            size,
            headers.get(name),
            stated=_stated(listing, name),
            sparse=name in headers and _has_header(name),
        )
        for name, size in sorted(listing.sizes.items())
    )
    record = Record(parsed.name, facts={"revision": listing.ref.tag or ""})
    return Subject(ref, files, record, place=True, remote=True)


def _fetch(listing: "Listing", folder: Path) -> Mapping[str, Path]:
    """What is small enough to come, by name; what fails to come is left out."""
    headers: dict[str, Path] = {}
    left = _MAX_BYTES
    for name in _files_to_fetch(listing.sizes):
        path = folder / hashlib.sha256(name.encode()).hexdigest()
        size = listing.sizes[name]
        if not path.exists():
            try:
                _text(listing, name, path) if not _has_header(name) else _header(
                    listing, name, path
                )
            except (OvertError, OSError):
                path.unlink(missing_ok=True)
                continue
        if not _has_header(name):
            left -= size
            if left < 0:
                break
        headers[name] = path
    return headers


def _files_to_fetch(sizes: Mapping[str, int]) -> list[str]:
    """Headers first, then texts, the ones nearest to the top first."""
    by_depth = sorted(sizes, key=lambda name: (name.count("/"), name))
    headers = [n for n in by_depth if _has_header(n) and 0 < sizes[n] <= quant_selection.WIDE][
        :_MAX_HEADERS
    ]
    texts = [
        name
        for name in by_depth
        if not _has_header(name)
        and 0 < sizes[name] <= _MAX_TEXT
        and Path(name).suffix.lower() in _TEXTS
    ]
    return headers + texts[:_MAX_TEXTS]


def _has_header(name: str) -> bool:
    return name.lower().endswith((".gguf", ".safetensors"))


def _text(listing: "Listing", name: str, path: Path) -> None:
    path.write_bytes(listing.some(name, 0, listing.sizes[name]))


def _header(listing: "Listing", name: str, path: Path) -> None:
    """The beginning of a file as far as its header goes, broken or not: the checks say which."""
    from overt.formats import gguf, safetensors

    part = path.with_suffix(".part")
    if name.lower().endswith(".gguf"):
        quant_selection.fetch_header(listing, name, part, gguf.read)
    else:
        quant_selection.fetch_header(listing, name, part, safetensors.read)
    part.replace(path)


def _stated(listing: "Listing", name: str) -> str:
    """``sha256:…`` of a large file, ``git-sha1:…`` of a small one, as the hub states it."""
    return listing.digests.get(name, "")


def _folder_name(listing: "Listing") -> str:
    text = json.dumps([listing.ref.name, listing.ref.tag])
    return hashlib.sha256(text.encode()).hexdigest()
