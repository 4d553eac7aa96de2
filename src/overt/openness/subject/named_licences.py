"""Which licences the words of a card, a header or a manifest name."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from overt.openness.licence.match import Match
    from overt.openness.permissions.may import LicenceLink

_POLICY = r"(?:^|-)(?:use-policy|pup|aup)(?:-|$)"
_MAIN = ("license", "licence", "copying", "terms")
_NO_TEXT = (".html", ".htm", ".json", ".yaml", ".yml", ".py", ".pdf", ".gguf", ".safetensors")
_NAME = 100  # characters of a file that holds a licence's name and nothing else
_MAX_WORDS = 1000  # characters of a name or expression
_NOTHING = ("", "other", "unknown", "none", "noassertion", "see-license")


class StatedLicence(NamedTuple):
    """What one text or tag says the licence is; see `may.Link`."""

    licence: str | None
    altered: bool = False
    riders: tuple[str, ...] = ()


def link_of(
    name: str, named: StatedLicence, facts: Mapping[str, object], relation: str = "model"
) -> "LicenceLink":
    """What something says, as a link of a chain."""
    from overt.openness.permissions.may import LicenceLink

    return LicenceLink(
        name=name,
        relation=relation,
        licence=named.licence,
        known=named.licence is not None,
        altered=named.altered,
        riders=named.riders,
        facts=facts,
    )


def of_text(file: str, text: str, match: "Match") -> tuple[StatedLicence, ...]:
    """What a licence file says, one for each licence in it; empty where it says nothing."""
    if not text.strip() or (is_policy(match.id) and not match.altered):
        return ()
    others = tuple(StatedLicence(other) for other in match.others if not is_policy(other))
    if match.id is None:
        if not is_main(file):
            return ()
        named = ids_of(text.strip()) if len(text) < _NAME else ()
        return (StatedLicence(named[0] if len(named) == 1 else None), *others)
    if match.kind == "notice_only":
        return (StatedLicence(match.id), *others)
    return (StatedLicence(match.id, match.altered, tuple(match.riders)), *others)


def ids_of(words: str) -> tuple[str, ...]:
    """The licences that `words` name and that all apply; of alternatives, the freest.

    Empty where the words name one that is not known.
    """
    from overt.openness.licence import names

    words = " ".join(words[:_MAX_WORDS].split())
    if id_ := names.canonical(words):
        return (id_,)
    alternatives = re.split(r"\s+or\s+", words, flags=re.IGNORECASE)
    if len(alternatives) > 1 and not re.search(r"[()]|\sand\s", words, re.IGNORECASE):
        known = [id_ for id_ in map(names.canonical, alternatives) if id_]
        return tuple(sorted(known, key=lambda id_: not names.is_open(id_))[:1])
    ids = names.expression(words)
    return tuple(ids) if all(map(names.canonical, ids)) else ()


def says_nothing(words: str | None) -> bool:
    """Whether a field for the licence is filled with a word that names none."""
    return (words or "").strip().lower() in _NOTHING


def agree(words: str, id_: str, text: str) -> bool:
    """Whether a licence named by `words` (its id is `one`) is that of the text `text`.

    A name without a version (``gemma``) agrees with every version of the same licence.
    """
    if id_ == "openrail":  # the hub's word for all licences of this kind
        return "rail" in text
    return id_ == text or (not re.search(r"\d", words) and _stem(id_) == _stem(text))


def is_policy(id_: str | None) -> bool:
    """Whether an id is that of a list of forbidden uses, which another text makes binding."""
    return bool(id_ and re.search(_POLICY, id_))


def is_main(file: str) -> bool:
    """Whether a file's name says that it is the licence itself, as text, and nothing beside it."""
    name = file.rpartition("/")[2].lower()
    return name.startswith(_MAIN) and not name.endswith(_NO_TEXT)


def place(licence: str, section: str, date: str = "") -> str:
    """Where a clause stands, for people."""
    where = f"section {section}" if section[:1].isdigit() else section
    return ", ".join(part for part in (licence, where, date) if part)


def _stem(id_: str) -> str:
    return re.sub(r"[-.\d]+", "-", id_).strip("-").lower()
