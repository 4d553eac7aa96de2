"""Short notices that name a licence and do not hold its text: tags, addresses, one sentence."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overt.openness.licence.names import canonical, expression, family
from overt.openness.licence.pattern import Pattern
from overt.openness.licence.remarks import explained

_TAG = Pattern(r"SPDX-License-Identifier\s?:\s*([\w.+() -]{2,200})", re.IGNORECASE)
_FIELD = Pattern(
    r"^\W*licen[cs]e(?:[_ -](?:name|id))?\s?:\s*(\S[^\n]{0,120})$", re.IGNORECASE | re.MULTILINE
)
_CC = Pattern(
    r"creativecommons\.org/(?:licen[cs]es|publicdomain)/(zero|by(?:-nc)?(?:-sa|-nd)?)(?:/(\d\.\d))?",
    re.IGNORECASE,
)
_ADDRESSES: Final = (
    (Pattern(r"apache\.org/licenses/license-(\d\.\d)", re.IGNORECASE), "Apache-{}"),
    (Pattern(r"opensource\.org/licen[cs]es?/([\w.-]+)", re.IGNORECASE), "{}"),
    (Pattern(r"spdx\.org/licenses/([\w+-]+(?:\.\d+)*)", re.IGNORECASE), "{}"),
    (Pattern(r"gnu\.org/licenses/(?:old-licenses/)?((?:a|l)?gpl-\d\.\d)", re.IGNORECASE), "{}"),
    (Pattern(r"ai\.google\.dev/gemma/(terms)\b", re.IGNORECASE), "gemma"),
    (Pattern(r"llama-models/blob/main/models/llama(\d)/license", re.IGNORECASE), "llama{}"),
    (Pattern(r"llama-models/blob/main/models/llama(3_[123])/license", re.IGNORECASE), "llama{}"),
    (Pattern(r"llama\.com/llama(3_[123]|[234])/license", re.IGNORECASE), "llama{}"),
    (Pattern(r"mozilla\.org/(?:en-us/)?mpl/(\d\.\d)", re.IGNORECASE), "MPL-{}"),
)
_NAME = (
    r"([A-Z0-9][\w.+/&\[\]-]*(?:[ \t]*\n?[ \t]*(?:[A-Z0-9(][\w.+/&()\[\]-]*"
    r"|of|by|for|and|v\d[\d.]*|-|,(?= [Vv]ersion)|license|licence|version)){0,9})"
)
_PHRASES: Final = (
    Pattern(
        r"\b(?:under|by|with) (?:and subject to )?(?:the (?:terms|conditions) of )?(?:the |an? )?"
        + _NAME
    ),
    Pattern(r"(?:^|\blicen[cs]e(?:d)? is |[Ll]icen[cs]e:? +)(?:[Tt]he )?" + _NAME, re.MULTILINE),
)
_SUBJECT: Final = r"(?:(?:and )?(?:subject to|governed by) (?:the terms of )?(?:the )?)?"
_SHORT: Final = 4000  # characters of a notice


@dataclass(frozen=True, slots=True)
class NamedIds:
    """The ids a notice names, in order; `family`: it names one whose version it leaves open."""

    ids: tuple[str, ...]
    family: bool


def named_ids(text: str) -> NamedIds:
    """The licences a short text names."""
    if len(text) > _SHORT:
        return NamedIds((), family=False)
    ids: dict[str, None] = {}
    families = False
    for name in _names(text):
        if known_id := canonical(name):
            ids.setdefault(known_id)
        else:
            families = families or family(name)
    for tag in _TAG.finditer(text):
        ids.update(dict.fromkeys(id_ for id_ in expression(tag[1].strip()) if canonical(id_)))
    return NamedIds(tuple(ids), family=families)


def explains(sentence: str) -> bool:
    """Whether a sentence only points to a licence: without the licence's name it binds nobody."""
    if len(sentence) > _SHORT:
        return False
    plain = sentence
    for name in sorted(set(_names(sentence)), key=len, reverse=True):
        if canonical(name) or family(name):
            plain = re.sub(_SUBJECT + re.escape(name), " ", plain)
    return plain != sentence and explained(plain)


def _names(text: str) -> Iterator[str]:
    for match in _FIELD.finditer(text):
        yield match[1].strip(" .*\"'`")
    for match in _CC.finditer(text):
        what, version = match[1].lower(), match[2]
        kind = "CC0" if what == "zero" else f"CC-{what}"
        yield f"{kind}-{version}" if version else kind
    for pattern, form in _ADDRESSES:
        for match in pattern.finditer(text):
            yield form.format(match[1].replace("_", "."))
    for pattern in _PHRASES:
        for match in pattern.finditer(text):
            yield from _shortened(match[1])


def _shortened(name: str) -> Iterator[str]:
    """A name and its beginnings, longest first, until one is known."""
    words = name.split()
    for n in range(len(words), 0, -1):
        candidate = " ".join(words[:n]).strip(" .,;:()\"'")
        if canonical(candidate) or family(candidate):
            yield name[: name.find(words[n - 1]) + len(words[n - 1])] if n < len(words) else name
            yield candidate
            return
