"""Text beside a licence: what belongs to any licence file, and what changes its terms.

A copyright line, a title, a project's name, an address or "the following licence applies to …" is
none of the terms. A sentence with a word of permission or restriction is; so is any other sentence
that nothing here explains, because it is better shown once too often.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overt.openness.licence.text import INVISIBLE

_BINDING = re.compile(
    r"\b(?:may|must|shall|should|cannot|cant|not|no|non\w*|never|nor|neither|none|without"
    r"|only|solely|exclu\w*|belongs?|propert(?:y|ies)|proprietary|confidential|unless|except\w*"
    r"|however|notwithstanding|provided that"
    r"|prohibit\w*|forbid\w*|forbidden|restrict\w*|limit(?:s|ed|ation|ations)?|ban(?:ned|s)?"
    r"|permit\w*|permission\w*|allow\w*|disallow\w*|authori[sz]\w*|consent\w*|approv\w*|grant\w*"
    r"|requir\w*|need(?:s|ed)?|oblig\w*|condition\w*|subject to|comply|compliance|complies"
    r"|agree(?:s|d|ing)?|accept(?:s|ed|ing|ance)?|acknowledg\w*|commercial\w*|business\w*"
    r"|compan(?:y|ies)"
    r"|fee|fees|pay\w*|paid|royalt\w*|revenue\w*|profit\w*|dollars?|users?|monthly|annual\w*"
    r"|terminat\w*|revok\w*|revoc\w*|expire\w*|research|academic\w*|education\w*|personal\w*"
    r"|military|weapon\w*|surveillance|nuclear|harm\w*|unlawful\w*|illegal\w*|ethic\w*"
    r"|display\w*|cite|citation|attribut\w*|credit\w*|notify|inform|contact\w*|ask(?:s|ed)?"
    r"|retain|include|obtain|request\w*|purchase|buy|sell|resell|sublicen\w*"
    r"|compet\w*|train\w*|distil\w*|jurisdiction|govern\w*|liab\w*|warrant\w*|indemnif\w*"
    r"|use (?:is|in|for|by|as|at)|purposes?|evaluation|intended|reserved|customers?|individuals"
    r"|countr(?:y|ies)|territor\w+|europe\w*|embargo\w*|export\w*|entitled|rights? to"
    r"|laps\w*|ceas\w*|void|students?|closed|free for|telemetry|cc[- ]by-n[cd]\S*"
    r"|you|your|licensee\w*|everyone|anyone|nobody|any person)\b"
    r"|[$€£¥]\s?\d|\d\s?(?:%|million|billion)",
    re.IGNORECASE,
)  # fmt: skip
_NAMES_HOLD = re.compile(
    r"\b(?:Research|RESEARCH|Academ\w*|ACADEM\w*|Educat\w*|EDUCAT\w*|Business|BUSINESS"
    r"|Compan(?:y|ies)"
    r"|COMPANY|Grant(?= [A-Z])|Personal|Nuclear|Training|Users?|USERS?|You|research\w*|users)\b"
)
_RESERVED = re.compile(
    r"(?:and )?all rights?(?: (?:are|is))?(?: (?:reserved|whatsoever))?|some rights reserved"
    r"|permission(?: is)? hereby granted.{0,40}$",
    re.IGNORECASE,
)
_CLAIM = re.compile(
    r"^\W*(?:(?:portions?|parts|some|original|other|this \w+|modifications?|changes|additions|code"
    r"|the \w+|\w+ code)\W+(?:\w+\W+){0,6}?)??(?:copyright(?:ed)?|copr|\u00a9|\([cC]\))(?=\W|$)",
    re.IGNORECASE,
)
_YEARS = re.compile(r"^\W*(?:(?:19|20)\d\d\W+){1,20}(?:present\W+)?(?:by\W)?", re.IGNORECASE)
_NAMES = re.compile(
    r"^\W*(?:written by|authors?|contributors?|maintainers?|developed by|created by|originally by"
    r"|by|modified by|contributed by|ported by|based on|derived from|adapted from|taken from|from"
    r"|copied from|inspired by|thanks to)\b",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"^\W*(?:SPDX-[\w-]+|files?|filename|name|title|version|description|availability|available at"
    r"|licen[cs]es?(?:[ -](?:type|text|file|url|link|name))?|source|sources|upstream-\w+"
    r"|comment|format"
    r"|url|uri|home-?page|web ?site|repository|project|product|component|package|library|author"
    r"|authors"
    r"|maintainer|origin|path|location|directory|release date|released|date|last (?:modified"
    r"|updated"
    r"|revised)|effective(?: date)?|model(?: name)?|developer|holder|debianized-by|for the \w+"
    r"|see also)\s?:",
    re.IGNORECASE,
)
_POINTER = re.compile(
    r"\b(?:is|are|was|were|been|being|be|code|files?|software|work|model|weights|data)?\W*"
    r"(?:dual[- ]?)?(?:licen[cs]ed|distributed|released|available|covered|governed|published"
    r"|provided"
    r"|shipped|bundled|vendored|used|reproduced)\b.{0,60}"
    r"\b(?:under|by|with|from|at|in|below|above|here)\b"
    r"|\bfollowing (?:\w+ ){0,3}(?:licen[cs]es?|terms|copyright|notice|text|files?|components?)"
    r"|\blicen[cs]es? (?:\w+ ){0,4}(?:appl(?:y|ies)|follows?|below|above|reproduced|text|terms?"
    r"|is as follows)"
    r"|\bappl(?:y|ies) to\b|\bon debian systems\b|\bfull text of\b|\bcop(?:y|ies) of the\b"
    r"|\bsee (?:the )?(?:\S+ ){0,6}(?:licen[cs]e|notice|copying|authors|file|below|above|details)\b"
    r"|\b\w+ licen[cs]ed\b|\bbundle[sd]?\b|\bthird[- ]part(?:y|ies)\b|\bincorporates?\b"
    r"|\bcontains? (?:code|software|files)"
    r"|\bderived from\b|\bbased (?:up)?on\b|\bpart of\b|^\W*\[?for the \w+ (?:license|copy)",
    re.IGNORECASE,
)
_TELLS = re.compile(
    r"\b(?:code|files?|director(?:y|ies)|software|librar(?:y|ies)|package|program|module"
    r"|project|work"
    r"|implementation|algorithms?|version|source|portions?|parts?|functions?|tests?|fonts?|icons?"
    r"|licen[cs]es?|copyrights?|documentation)\b.{0,80}\b(?:is|are|was|were|comes?|contains?"
    r"|includes?|uses?"
    r"|has|have|been|from|by|with|of|for)\b"
    r"|^\W*\S+ +- +\S",
    re.IGNORECASE | re.DOTALL,
)
_TITLE = re.compile(
    r"\b(?:licen[cs]es?|licen[cs]ing|agreement|terms|copyrights?|notices?|polic(?:y|ies)"
    r"|appendix|legal|legalcode"
    r"|deed|text|exhibit|annex|attachment|preamble|disclaimer|copying|version|v\d)\b",
    re.IGNORECASE,
)
_FREED = re.compile(
    r"\b(?:subject to the terms|subject to the following|terms and conditions"
    r"|under the (?:same )?terms"
    r"|under the conditions|limited (?:liability )?company|co\.?,? limited|,? limited|ltd"
    r"|non-?profit (?:corporation|organi[sz]ation|foundation)"
    r"|unless otherwise (?:noted|stated|specified|indicated)|except (?:where|when"
    r"|as) (?:\w+ ){0,2}(?:noted|stated|specified|indicated)(?: otherwise)?"
    r"|terms? of use|research (?:center|centre|institute|laborator\w+|lab|labs|foundation"
    r"|council|group)"
    r"|(?:institute|center|centre) for \w+ research|business (?:source|machines)|user(?: "
    r"|-)?(?:guide|manual)"
    r"|permission notice|academic free|non-?infringement|attribution(?=[ -]+(?:licen[cs]e|share"
    r"|\d|no )|-|$)|will be found|can be found"
    r"|may be found|contained in|condition: \w+|include[sd]? (?:with|in|the following|code"
    r"|software|files)"
    r"|you (?:can|may) obtain a copy|if not,? (?:see|write)|(?:at|under) your (?:choice|option)"
    r"|with reserved font names?|approved by the (?:osi|fsf)|^\W*accept\W*$|contact: \S+"
    r"|educational community|end[- ]user licen[cs]e)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\w+", re.IGNORECASE)
_WORDS = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_BULLET = re.compile(
    r"^[\s>#*+|/\\=~_.-]*(?:\(?(?:\d{1,2}(?:\.\d{1,2})*|[a-z]|[ivx]{1,5})[.)]\s*)*", re.IGNORECASE
)
_SHORT: Final = 3  # words of a line that says nothing
_HEADING: Final = 9  # words of a heading or a project's name


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence that may bind, and its place in the text looked at."""

    first: int
    behind: int


def binding(text: str) -> tuple[str, ...]:
    """The words of permission or restriction in a text."""
    plain = _FREED.sub(" ", _RESERVED.sub(" ", _ADDRESS.sub(" ", text)))
    return tuple(found[0].lower() for found in _BINDING.finditer(plain))


def naming(text: str) -> tuple[str, ...]:
    """The words of permission or restriction in a text that should be somebody's name."""
    return binding(_NAMES_HOLD.sub(" ", text))


def claims(line: str) -> bool:
    """Whether a line is a copyright notice, a name or an address and no more."""
    if naming(line):
        return False
    return bool(
        _CLAIM.search(line) or _YEARS.search(line) or _NAMES.search(line) or _ADDRESS.search(line)
    )


def remarks(text: str, first: int, behind: int) -> Iterator[Remark]:
    """The sentences between two places that nothing explains."""
    for start, end in _paragraphs(text, first, behind):
        for begin, stop in _sentences(text, start, end):
            if not _explained(text[begin:stop]):
                yield Remark(begin, stop)


def _paragraphs(text: str, first: int, behind: int) -> Iterator[tuple[int, int]]:
    """Lines put together, without those that are neutral by themselves."""
    start: int | None = None
    end = at = first
    claimed = False
    for line in text[first:behind].splitlines(keepends=True):
        bare = line.strip()
        blank = not _WORDS.search(bare)
        neutral = blank or _neutral_line(bare, inside=start is not None)
        # The rest of a copyright notice that was wrapped.
        neutral = neutral or (claimed and start is None and _short(bare, 8) and not binding(bare))
        if neutral:
            if start is not None:
                yield start, end
                start = None
            claimed = not blank and (claimed or claims(bare))
        else:
            start = at if start is None else start
            end = at + len(line)
            claimed = False
        at += len(line)
    if start is not None:
        yield start, end


def _neutral_line(line: str, *, inside: bool) -> bool:
    body = _BULLET.sub("", line)
    if claims(body) and not _POINTER.search(body):
        return not inside or bool(_CLAIM.search(body) or _FIELD.search(body))
    if binding(line):
        return False
    if claims(body) or _FIELD.search(body):
        return not inside or bool(_CLAIM.search(body) or _FIELD.search(body))
    if inside:
        return False
    ended = body.rstrip("\"')*_ ").endswith((".", ";"))
    return _short(body, _SHORT) or (_short(body, _HEADING) and not ended)


def _short(line: str, most: int) -> bool:
    return len(_WORDS.findall(_ADDRESS.sub(" ", line))) <= most


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for found in re.finditer(r"[.;!?:][\"')\]*_]*(?=\s)|\n\s*[-*+\u2022](?=\s)", text[start:end]):
        stop = start + found.end()
        if _WORDS.search(text[begin:stop]) and not _abbreviated(text[begin:stop]):
            yield begin, stop
            begin = stop
    if _WORDS.search(text[begin:end]):
        yield begin, end


def _abbreviated(text: str) -> bool:
    return bool(
        re.search(
            r"\b(?:inc|ltd|corp|co|e\.g|i\.e|etc|vs|no|dr|mr|st|v|[A-Z])\.$", text, re.IGNORECASE
        )
    )


def _explained(sentence: str) -> bool:
    """Whether a sentence belongs to any licence file."""
    if claims(sentence):
        return True
    if binding(sentence):
        return False
    plain = _ADDRESS.sub(" ", sentence)
    if _short(plain, _SHORT):
        return True
    if _FIELD.search(sentence) or _POINTER.search(plain) or _TELLS.search(plain):
        return True
    return _short(plain, 14) and bool(_TITLE.search(plain))


def quoted(text: str, first: int, behind: int, most: int = 300) -> str:
    """The sentence or sentences around a place, in the text's own spelling, on one line."""
    begin = _back(text, first)
    stop = _forth(text, behind)
    if stop - begin > 4 * most:
        begin, stop = max(begin, first - most), min(stop, max(behind, first) + most)
    whole = _one_line(_BULLET.sub("", text[begin:stop]))
    if len(whole) <= most:
        return whole
    changed = _one_line(text[first:behind])
    if len(changed) >= most:
        return f"{changed[: most - 1]}…"
    left = _one_line(text[begin:first])
    room = most - 2 - len(changed)
    kept = left[-(room // 2) :] if len(left) > room // 2 else left
    after = _one_line(text[behind:stop])
    tail = after[: room - len(kept) - 2]
    joined = " ".join(one for one in (kept, changed, tail) if one)
    return ("…" if len(kept) < len(left) else "") + joined + ("…" if len(tail) < len(after) else "")


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in INVISIBLE.sub("", text))
    return " ".join(shown.split())


_BREAK = re.compile(
    r"[.;!?][\"')\]*_]*\s+(?=[\W\d_]*[A-Z(\"'])|\n\s*\n|\n\s*(?=[-*#\u2022(]|\d+[.)])"
)


def _back(text: str, at: int) -> int:
    start = max(0, at - 1500)
    best = start
    for found in _BREAK.finditer(text, start, at + 1):
        if found.end() <= at:
            best = found.end()
    return best


def _forth(text: str, at: int) -> int:
    found = _BREAK.search(text, max(0, at - 1), at + 1500)
    return found.start() + 1 if found else min(len(text), at + 1500)
