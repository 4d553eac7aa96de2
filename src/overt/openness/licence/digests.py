"""Unaltered licence texts by the digest of their words: what need not be laid over anything.

`data/texts.tsv` is made by `scripts/licence_digests.py` from published copies that `match.py` finds
to be the licence and nothing else. That saves a run some 30 ms; other texts go to `match.py`.
"""

from hashlib import sha256
from typing import Final

from overt.openness.packed import DATA

FILE: Final = DATA / "texts.tsv"


def id_of(text: str) -> str | None:
    """The id of the one licence a text is, where it is a copy that is known; else None."""
    start = f"\n{digest(text)}\t"
    content = FILE.read_text(encoding="utf-8")
    at = content.find(start)
    if at < 0:
        return None
    return content[at + len(start) : content.find("\n", at + 1)]


def digest(text: str) -> str:
    """SHA-256 of the words, whatever lies between them."""
    return sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()
