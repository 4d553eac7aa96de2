"""Data files that were read before: TOML takes milliseconds, and JSON a tenth of that.

`data/packed.tsv` is made by `scripts/pack_data.py`. A line of it is a name, the SHA-256 of the file
it was made from, and what was read, as JSON. A file with another digest is read itself, so that the
pack may be behind, which costs time, and is never believed where it is.
"""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

# Not importlib.resources: its first use costs 3 ms, and this is on the way of `overt run`.
DATA: Final = Path(__file__).with_name("data")
PACK: Final = DATA / "packed.tsv"


def toml(name: str) -> dict[str, Any]:
    """The content of `data/NAME.toml`. Raises OSError: there is no such file."""
    data = (DATA / f"{name}.toml").read_bytes()
    document = cached(name, data)
    if isinstance(document, dict):
        return document
    import tomllib

    return tomllib.loads(data.decode("utf-8"))


def cached(name: str, data: bytes) -> Any:
    """What was read from a file with these bytes; None where the pack has them not."""
    start = head(name, data)
    at = _pack().find(start)
    if at < 0:
        return None
    end = _pack().find(b"\n", at + 1)
    return json.loads(_pack()[at + len(start) : end])


def head(name: str, data: bytes) -> bytes:
    """How the line of a file begins, with the end of the line before it."""
    return f"\n{name}\t{sha256(data).hexdigest()}\t".encode()


@cache
def _pack() -> bytes:
    try:
        return PACK.read_bytes()
    except OSError:
        return b""
