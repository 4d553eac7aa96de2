"""Text beside a licence: what belongs to any licence file, and what changes its terms.

A copyright line, a title, a project's name, an address or "the following licence applies to …" is
none of the terms. A sentence with a word of permission or restriction is; so is any other sentence
that nothing here explains, because it is better shown once too often.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overt.openness.licence.pattern import Pattern
from overt.openness.licence.plain import ADDRESS, elsewhere, identifiers, is_licence_name, plain
from overt.openness.licence.text import INVISIBLE

_BINDING = Pattern(
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
)
_NAMES_HOLD = Pattern(
    r"\b(?:Research|RESEARCH|Academ\w*|ACADEM\w*|Educat\w*|EDUCAT\w*|Business|BUSINESS"
    r"|Compan(?:y|ies)"
    r"|COMPANY|Grant(?= [A-Z])|Personal|Nuclear|Training|Users?|USERS?|You|research\w*|users)\b"
)
_RESERVED = Pattern(
    r"(?:and )?all rights?(?: (?:are|is))?(?: (?:reserved|whatsoever))?|some rights reserved"
    r"|permission(?: is)? hereby granted.{0,40}$",
    re.IGNORECASE,
)
_CLAIM = Pattern(
    r"^\W*(?:(?:portions?|parts|some|original|other|this \w+|modifications?|changes|additions|code"
    r"|the \w+|\w+ code)\W+(?:\w+\W+){0,6}?)??(?:copyright(?:ed)?|copr|\u00a9|\([cC]\))(?=\W|$)",
    re.IGNORECASE,
)
_SIGN = Pattern(r"\b(?:copyright(?:ed)?|copr)\b|\u00a9|\([cC]\)", re.IGNORECASE)
_YEARS = Pattern(r"^\W*(?:(?:19|20)\d\d\W+){1,20}(?:present\W+)?(?:by\W)?", re.IGNORECASE)
_NAMES = Pattern(
    r"^\W*(?:written by|authors?|contributors?|maintainers?|developed by|created by|originally by"
    r"|by|modified by|contributed by|ported by|based on|derived from|adapted from|taken from|from"
    r"|copied from|inspired by|thanks to)\b",
    re.IGNORECASE,
)
_FIELD = Pattern(
    r"^\W*(?:SPDX-[\w-]+|files?|filename|name|title|version|description|availability|available at"
    r"|licen[cs]es?(?:[ -](?:type|text|file|url|link|name))?|source|sources|upstream-\w+"
    r"|comment|format"
    r"|url|uri|home-?page|web ?site|repository|project|product|component|package|library|author"
    r"|authors"
    r"|maintainer|origin|path|location|directory|release date|released|date|last (?:modified"
    r"|updated"
    r"|revised)|effective(?: date)?|model(?: name)?|developer|holder|debianized-by|for the \w+"
    r"|see also|layout|permalink|tags?|slug)\s?:",
    re.IGNORECASE,
)
_FREED = Pattern(
    r"\b(?:you may not use th(?:is|ese) (?:file|work|model|software|repositor)\w{0,3} except in"
    r" compliance with the licen[sc]e"
    r"|subject to the terms|subject to the following|terms and conditions"
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
    r"|see (?:the )?(?:file )?acknowledge?ments|acknowledge?ments (?:file|section|below)"
    r"|you (?:can|may) obtain a copy|you should have received a copy|if not,? (?:see|write)"
    r"|(?:at|under) your (?:choice|option)"
    r"|with reserved font names?|approved by the (?:osi|fsf)|^\W*accept\W*$|contact: \S+"
    r"|educational community|end[- ]user licen[cs]e)",
    re.IGNORECASE,
)
_FILES = Pattern(
    r"^\W*(?:upstream-name|files?|file ?name|name|project|package|source|slug)\s?:", re.I
)
_CONTACT = Pattern(r"^\W*(?:contacts?|e-?mail|mail)\W+", re.IGNORECASE)
_LEADER = Pattern(r"^\W*(\S.{2,120}?)[\s.\u2026\u00b7_-]*(?:[.\u2026\u00b7_]\s?){3,}\W*\d{1,3}\W*$")
_LINKED = Pattern(r"^\W*\[([^\]]{3,120})\]\(#\S*\)\W*$")
_NUMBERED = Pattern(r"^\W*\d{1,2}(?:\.\d{1,2})*[.)]?\s+(\S.{2,120}?)\W*\d{0,3}\W*$")
_LOOKED: Final = 60_000  # characters that are searched for headings
_CITATION = Pattern(
    r"^\s*@(?:article|misc|inproceedings|software|techreport|book|online)\s?\{", re.I
)
WORDS: Final = Pattern(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_BULLET = Pattern(
    r"^[\s>#*+|/\\=~_.-]*(?:\(?(?:\d{1,2}(?:\.\d{1,2})*|[a-z]|[ivx]{1,5})[.)]\s*)*", re.IGNORECASE
)
_HEADING: Final = 12  # words of a heading or a project's name


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence that may bind, and its place in the text looked at."""

    first: int
    behind: int


def binding(text: str) -> tuple[str, ...]:
    """The words of permission or restriction in a text."""
    plain = _FREED.sub(" ", _RESERVED.sub(" ", ADDRESS.sub(" ", text)))
    return tuple(match[0].lower() for match in _BINDING.finditer(plain))


def naming(text: str) -> tuple[str, ...]:
    """The words of permission or restriction in a text that should be somebody's name."""
    return binding(_NAMES_HOLD.sub(" ", text))


def claims(line: str) -> bool:
    """Whether a line is a copyright notice, a name or an address and no more."""
    if naming(line):
        return False
    if not (_CLAIM.search(line) or _YEARS.search(line) or _NAMES.search(line)):
        return (
            bool(ADDRESS.search(line))
            and is_licence_name(line)
            and _short(line, 8)
            and not elsewhere(line)
        )
    rest = _RESERVED.sub(" ", _SIGN.sub(" ", line))
    return is_licence_name(rest)


def remarks(text: str, first: int, behind: int) -> Iterator[Remark]:
    """The sentences between two places that nothing explains."""
    for start, end in _paragraphs(text, first, behind):
        for begin, stop in _sentences(text, start, end):
            if not explained(text[begin:stop]):
                yield Remark(begin, stop)


def _paragraphs(text: str, first: int, behind: int) -> Iterator[tuple[int, int]]:
    """Lines put together, without those that are neutral by themselves."""
    start: int | None = None
    end = at = first
    claimed = cited = False
    for line in text[first:behind].splitlines(keepends=True):
        bare = line.strip()
        blank = not WORDS.search(bare)
        cited = (cited and not (blank or bare == "}")) or bool(_CITATION.match(bare))
        neutral_ = blank or cited or _neutral_line(bare, inside=start is not None)
        # The rest of a copyright notice that was wrapped.
        neutral_ = neutral_ or (claimed and start is None and claims("by " + bare))
        neutral_ = neutral_ or _listed(bare, text[:first][:_LOOKED], text[behind:][:_LOOKED])
        if neutral_:
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


def _listed(line: str, *parts: str) -> bool:
    """Whether a line is of a table of contents: it repeats a heading that stands elsewhere."""
    match = _LEADER.match(line) or _LINKED.match(line) or _NUMBERED.match(line)
    if not match:
        return False
    heading = r"\s+".join(re.escape(word) for word in _BULLET.sub("", match[1]).split())
    wanted = re.compile(rf"^[\s>#*_\d.()\\-]*(?:section\s+\w+\W+)?{heading}", re.I | re.M)
    return bool(heading) and any(wanted.search(part) for part in parts)


def _neutral_line(line: str, *, inside: bool) -> bool:
    body = _BULLET.sub("", line)
    breaks = bool(_CLAIM.search(body) or _FIELD.search(body))
    if inside and not breaks:
        return False
    if claims(body) or _field(body):
        return True
    if inside or binding(line):
        return False
    ended = body.rstrip("\"')*_ ").endswith((".", ";"))
    return plain(body) and (len(WORDS.findall(body)) <= 1 or (_short(body, _HEADING) and not ended))


def _field(line: str) -> bool:
    """Whether a line is a field of a file's head, and its value binds nobody."""
    if match := _CONTACT.match(line):
        return bool(ADDRESS.search(line)) and is_licence_name(line[match.end() :])
    match = _FIELD.search(line)
    if not match or binding(line):
        return False
    value = line[match.end() :]
    return is_licence_name(value) or bool(_FILES.match(line) and identifiers(value))


def _short(line: str, most: int) -> bool:
    return len(WORDS.findall(ADDRESS.sub(" ", line))) <= most


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for match in re.finditer(r"[.;!?:][\"')\]*_]*(?=\s)|\n\s*[-*+\u2022](?=\s)", text[start:end]):
        stop = start + match.end()
        if WORDS.search(text[begin:stop]) and not _abbreviated(text[begin:stop]):
            yield begin, stop
            begin = stop
    if WORDS.search(text[begin:end]):
        yield begin, end


def _abbreviated(text: str) -> bool:
    return bool(
        re.search(
            r"\b(?:inc|ltd|corp|co|e\.g|i\.e|etc|vs|no|dr|mr|st|v|[A-Z])\.$", text, re.IGNORECASE
        )
    )


def explained(sentence: str) -> bool:
    """Whether a sentence belongs to any licence file."""
    if claims(sentence) or _field(sentence):
        return True
    return not binding(sentence) and plain(_FREED.sub(" ", _RESERVED.sub(" ", sentence)))


def quoted(text: str, first: int, behind: int, most: int = 300) -> str:
    """The sentence or sentences around a place, in the text's own spelling, on one line."""
    begin = _sentence_start(text, first)
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
    head = left[-(room // 2) :] if len(left) > room // 2 else left
    after = _one_line(text[behind:stop])
    tail = after[: room - len(head) - 2]
    joined = " ".join(part for part in (head, changed, tail) if part)
    return ("…" if len(head) < len(left) else "") + joined + ("…" if len(tail) < len(after) else "")


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in INVISIBLE.sub("", text))
    return " ".join(shown.split())


_BREAK = Pattern(r"[.;!?][\"')\]*_]*\s+(?=[\W\d_]*[A-Z(\"'])|\n\s*\n|\n\s*(?=[-*#\u2022(]|\d+[.)])")


def _sentence_start(text: str, at: int) -> int:
    start = max(0, at - 1500)
    best = start
    for match in _BREAK.finditer(text, start, at + 1):
        if match.end() <= at:
            best = match.end()
    return best


def _forth(text: str, at: int) -> int:
    match = _BREAK.search(text, max(0, at - 1), at + 1500)
    return match.start() + 1 if match else min(len(text), at + 1500)
