"""A licence text as words, each with its place in the text it came from.

What does not change terms is levelled here: case, layout, punctuation, mark-up, list numbers,
typographic quotes, character width, invisible characters, British spelling. Letters of another
script that look alike stay what they are, so a word that uses them is another word.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from overt.openness.licence.pattern import Pattern

MAX_CHARACTERS: Final = 400_000
"""Characters of a text that are read; what follows is left out."""

# The marks of `scripts/fingerprints.py`; where a person's text has them they are no words.
OPEN: Final = "\ue000"
CLOSE: Final = "\ue001"

_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u2060-\u2064\ufe0f\ufeff"
INVISIBLE: Final = Pattern(f"[{_INVISIBLE}]")
_LEVEL = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
    | dict.fromkeys("\u2022\u2023\u25aa\u25cf\u25e6\u00b7\u2043", "*")
    | dict.fromkeys("\u00a0\u2007\u202f\u3000\u2028\u2029", " ")
)
_TAG = Pattern(
    "<\u200b*/?(?:a|b|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|li|ol|p|pre|section|small|span"
    r"|strong|sup|table|tbody|td|th|title|tr|tt|u|ul)(?:\s[^<>]{0,300})?/?>",
    re.IGNORECASE,
)
_ENTITY = Pattern(r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#[xX][0-9a-fA-F]{1,5});")
_HOST = r"(?:[a-z0-9-]{1,63}\.){1,6}(?:com|org|net|dev|ai|io|eu|edu|gov|int|uk|de|cn|ae|ca|info|co)"
_WORD = Pattern(
    rf"(?P<mark>[{OPEN}{CLOSE}])"
    r"|(?P<mail>[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5})"
    rf"|(?P<url>(?:https?://|www\.){_HOST}(?:[:/](?:[^\s<>\"'()\[\]{{}}|*]"
    rf"|(?<=-)\n[ \t]{{0,40}}(?=[a-z0-9]))*)?"
    rf"|\b{_HOST}(?![\w.-])(?:/[^\s<>\"'()\[\]{{}}|*]*)?)"
    rf"|(?P<sign>\([cC]\)|[\u00a9$€£¥%])"
    r"|(?P<number>\d+(?:[.,]\d+)*(?![^\W_]))"
    rf"|(?P<word>[^\W_](?:[^\W_]|\d|(?<=\w)'[{_INVISIBLE}]*(?=[^\W_])|[{_INVISIBLE}](?=[^\W_{_INVISIBLE}]))*)",
    re.IGNORECASE,
)
_ENUMERATOR = r"(?:\d{1,2}(?:\.\d{1,2}){0,3}|[a-zA-Z]|[ivxIVX]{1,5})"
_LISTS = tuple(
    Pattern(pattern, re.MULTILINE)
    for pattern in (
        # At the start of a line: "1." "2.3)" "(a)" "iv." and "2.1 Grant".
        rf"^[ \t>#*+|/\\-]*((?:\(\s?)?{_ENUMERATOR}(?:\\?[.)]){{1,2}})(?=[\s*_]|$)",
        r"^[ \t>#*+|/\\-]*(\d{1,2}(?:\.\d{1,2}){1,3})(?=\s+[\"'*(]{0,3}[A-Z])",
        # In running text.
        r"(?<=\s)(\((?:[a-zA-Z]|[ivxIVX]{1,5})\))(?=\s)",
        r"(?:(?<=[.;:,]\s)|(?<=\sand\s)|(?<=\sor\s))\s?(\(\d{1,2}\))(?=\s)",
        r"(?<=[.;:])[\"']?\s{1,9}((?:\d{1,2}(?:\.\d{1,2}){0,3}|[a-z]|[ivx]{1,5})[.)])(?=\s)",
    )
)
_SPELT = {
    "licence": "license",
    "licences": "licenses",
    "licenced": "licensed",
    "sublicence": "sublicense",
    "sublicences": "sublicenses",
    "acknowledgement": "acknowledgment",
    "acknowledgements": "acknowledgments",
    "judgement": "judgment",
    "organisation": "organization",
    "organisations": "organizations",
    "authorised": "authorized",
    "authorise": "authorize",
    "recognised": "recognized",
    "utilisation": "utilization",
    "favour": "favor",
    "behaviour": "behavior",
    "fulfil": "fulfill",
    "whilst": "while",
    "%": "percent",
}


@dataclass(frozen=True, slots=True)
class LicenceWords:
    """The words of one text.

    Attributes:
        source: the text, with as many characters as the one given.
        words: levelled. An address is its host only, with ``@`` before it.
        starts, ends: where each lies in `source`.
        listed: numbers and letters of lists, by their place: (offset, word).
    """

    source: str
    words: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    listed: tuple[tuple[int, str], ...]


def level(text: str) -> str:
    """The text without mark-up and typography, character for character in place."""
    text = text[:MAX_CHARACTERS]
    if not text.isascii():
        text = text.translate(_LEVEL)
    if "&" in text:
        text = _ENTITY.sub(_character, text)
    if "<" in text:
        text = _TAG.sub(lambda match: " " * len(match[0]), text)
    return text


def _character(match: re.Match[str]) -> str:
    meant = html.unescape(match[0]).translate(_LEVEL)
    if len(meant) != 1:
        return match[0]
    return meant + (" " if meant.isspace() else "\u200b") * (len(match[0]) - 1)


def read(text: str) -> LicenceWords:
    """The words of a text."""
    source = level(text)
    lists = _list_numbers(source)
    words: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    listed: list[tuple[int, str]] = []
    for match in _WORD.finditer(source):
        kind, start = match.lastgroup, match.start()
        word = _levelled(kind or "", match[0])
        if start in lists:
            listed.append((start, word))
        elif kind == "url" and words[-1:] == [word] and source[:start].endswith("]("):
            continue  # the address of a link that shows it
        elif word:
            words.append(word)
            starts.append(start)
            ends.append(match.end())
    return LicenceWords(source, tuple(words), tuple(starts), tuple(ends), tuple(listed))


def _list_numbers(source: str) -> set[int]:
    starts: set[int] = set()
    for pattern in _LISTS:
        for match in pattern.finditer(source):
            start = match.start(1)
            starts.add(start)
            # "(a)" is the word "a" one further on.
            starts.update(range(start, start + 3) if source[start] == "(" else ())
    return starts


def _levelled(kind: str, word: str) -> str:
    if kind == "word":
        if not word.isascii():
            word = unicodedata.normalize("NFKC", INVISIBLE.sub("", word))
        word = word.lower().replace("'", "")
        return _SPELT.get(word, word)
    if kind == "number":
        return _number(unicodedata.normalize("NFKC", word))
    if kind == "url":
        return "@" + host(word)
    if kind == "sign":
        return "" if word[-1] in ")\u00a9" else _SPELT.get(word, word)
    return word if kind == "mark" else ""


def _number(word: str) -> str:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", word):
        return word.replace(",", "")
    return word


def host(url: str) -> str:
    """The last two labels of an address's host."""
    bare = re.sub(r"^https?://", "", url.lower())
    name = re.split(r"[:/?#]", bare, maxsplit=1)[0]
    return ".".join(name.split(".")[-2:])


def hashed(word: str) -> int:
    """What fingerprints hold in a word's place."""
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=4).digest(), "big")


def shingles(words: Sequence[int]) -> list[int]:
    """A number for each five words in a row."""
    return [
        ((((a * 65599 + b) * 65599 + c) * 65599 + d) * 65599 + e) % 4294967291
        for a, b, c, d, e in zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)
    ]
