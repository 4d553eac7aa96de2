"""Receipts that travel with a model: how it was made, signed by whoever made it.

They stand in the head of an archive, by the digest of their manifest, as the texts that they are:
an Overt of before reads past them. Here they are only carried; what one proves is told by
`lab.attest`, which reads it before it is kept.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from overt.models.store import Manifest
from overt.models.store.manifest import hex_of

MAX_RECEIPTS: Final = 1001  # a model and all its ancestors
MAX_BYTES: Final = 3 << 20  # of all of them, as JSON has them: the head of an archive is small


def path(digest: str, home: Path) -> Path:
    """Where the receipt of that manifest is kept."""
    return home / "receipts" / f"{hex_of(digest)}.json"


def going_along(manifests: Iterable[Manifest], home: Path) -> dict[str, str]:
    """The receipts of `manifests` that are here, by 64 hex; the first ones, as many as there is
    room for. What is no text is none.
    """
    texts: dict[str, str] = {}
    left = MAX_BYTES
    for manifest in list(manifests)[:MAX_RECEIPTS]:
        with suppress(OSError, UnicodeDecodeError):
            with path(manifest.digest, home).open("rb") as file:
                text = file.read(left + 1).decode()
            if (size := _size(text)) <= left:
                texts[hex_of(manifest.digest)] = text
                left -= size
    return texts


def stated(value: object) -> Mapping[str, str]:
    """What the head of an archive has of them.

    Raises:
        ValueError, TypeError: it is no table of texts, or too large.
    """
    if not isinstance(value, dict) or len(value) > MAX_RECEIPTS:
        raise ValueError(f"its receipts are no table, or more than {MAX_RECEIPTS}")
    total = 0
    for digest, text in value.items():
        hex_of(f"sha256:{digest}")
        if not isinstance(text, str):
            raise TypeError("a receipt in it is no text")
        total += _size(text)
    if total > MAX_BYTES:
        raise ValueError(f"its receipts are {total} bytes, where {MAX_BYTES} are allowed")
    return value


def _size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"))
