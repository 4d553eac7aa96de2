"""What all formats share: clean texts, safe addresses, and names that follow from the content.

Text in a dossier comes from files and pages of anybody. `clean` makes it something every encoder
takes; escaping for HTML, XML, YAML or JSON is left to the format.
"""

import json
import math
import re
from datetime import date
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from overt.openness.dossier import Dossier

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_MAX_URL = 2000
# Characters of a path or query that stay as they are; whatever else there is gets percent-encoded.
_SAFE = "/:@!$&'()*+,;=-._~%"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# They change the order in which what follows is shown, or are not seen at all. A joiner between two
# emoji is seen: it makes one of them.
_EMOJI = "\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_UNSEEN = re.compile(
    f"(?<![{_EMOJI}\ufe0f])\u200d|\u200d(?![{_EMOJI}])|"
    "[\u00ad\u061c\u115f\u1160\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
# Not allowed in XML 1.0, and nothing that should reach a page: controls but tab and newline.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")

UNDATED: Final = "1970-01-01"


@cache
def overt_version() -> str:
    from importlib import metadata

    return metadata.version("overt")


def clean(text: str) -> str:
    """`text` as it can be written in UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def plain(value: Any) -> Any:
    """`value` with clean texts, of types that JSON and YAML have and with finite numbers."""
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {clean(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return clean(str(value))


def visible(text: str) -> str:
    """`text` for people: what would be unseen or turn the line around is shown by its number."""
    text = _CONTROL.sub("\ufffd", clean(text))
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text)


def shorten(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def pretty(value: Any) -> str:
    """JSON for people and tools, keys in their own order."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def canonical(value: Any) -> str:
    """JSON without a choice left: sorted keys and no spaces."""
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


@lru_cache(maxsize=8)
def digest(dossier_json: str) -> str:
    return sha256(dossier_json.encode()).hexdigest()


def content_digest(dossier: Dossier) -> str:
    """64 hex: the same for the same dossier."""
    return digest(canonical(dossier.as_json()))


def identifier(dossier: Dossier, form: str) -> UUID:
    """The number of one document: it follows from the content."""
    return uuid5(NAMESPACE_URL, f"urn:overt:{form}:{content_digest(dossier)}")


def hex_of(text: str) -> str:
    """The 64 hex of a ``sha256:…``, or ""."""
    match = _DIGEST.fullmatch(text)
    return match.group(1) if match else ""


def day(text: object) -> str:
    """`text` if it is a day (ISO 8601), else ""."""
    try:
        return date.fromisoformat(str(text)).isoformat()
    except ValueError:
        return ""


def timestamp(text: object) -> str:
    """The first second of that day, or "" where it is no day."""
    date = day(text)
    return f"{date}T00:00:00Z" if date else ""


def address(text: str) -> str:
    """A web address that every reader accepts, or "" where `text` is none."""
    if len(text) > _MAX_URL or not text.startswith(("https://", "http://")):
        return ""
    try:
        parts = urlsplit(clean(text))
    except ValueError:
        return ""
    if not _HOST.fullmatch(parts.netloc):
        return ""
    url_ = f"{parts.scheme}://{parts.netloc}{_quoted(parts.path)}"
    if parts.query:
        url_ += f"?{_quoted(parts.query, '?')}"
    if parts.fragment:
        url_ += f"#{_quoted(parts.fragment, '?')}"
    return url_


def _quoted(text: str, more: str = "") -> str:
    return quote(_BARE_PERCENT.sub("%25", text), safe=_SAFE + more)
