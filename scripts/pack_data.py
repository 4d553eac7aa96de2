"""Make src/overt/openness/data/packed.tsv (overt/openness/packed.py) from the files beside it.

    python scripts/pack_data.py

To be run after a change of data/terms, data/models or data/licences.tsv, or of how names are
compared (licence/names.py); a test says so.
"""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from overt.openness import packed
from overt.openness.licence import names


def lines() -> Iterator[bytes]:
    """What the pack holds, in order."""
    yield b"# Made by scripts/pack_data.py; see overt/openness/packed.py."
    for name, content in names.to_pack().items():
        yield _line(name, names.FILE.read_bytes(), content)
    for folder in ("terms", "models"):
        for path in sorted((packed.DATA / folder).glob("*.toml")):
            data = path.read_bytes()
            yield _line(f"{folder}/{path.stem}", data, tomllib.loads(data.decode("utf-8")))


def _line(name: str, data: bytes, content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return packed.head(name, data)[1:] + text.encode("utf-8")


def whole() -> bytes:
    """All of the file."""
    return b"\n".join([*lines(), b""])


if __name__ == "__main__":
    packed.PACK.write_bytes(whole())
    print(f"wrote {packed.PACK}: {packed.PACK.stat().st_size} bytes")
