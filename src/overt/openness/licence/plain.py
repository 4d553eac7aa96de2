"""The closed list of what a licence file may say beside the licence and bind nobody.

A sentence is plain where every word of it is a word of this list, a name, an address, a path or a
number. There is no list of what binds that could be complete, in one language or in all; so what
has one other word is told, and a person judges it.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from overt.openness.licence.fingerprints import load_index
from overt.openness.licence.pattern import Pattern
from overt.openness.licence.text import INVISIBLE, hashed
from overt.openness.packed import DATA

ADDRESS: Final = Pattern(
    r"<?(?:https?://|ftp://|git://|www\.)[^\s<>]+>?|<?[^\s<>@]+@[^\s<>@]+\.\w+>?"
    r"|\b(?:[a-z0-9-]+\.)+(?:com|org|net|dev|ai|io|edu|gov|de|cn|fr|uk|eu)\b(?:/\S*)?",
    re.IGNORECASE,
)
# Words that would pass for a name and tell who may use it, or how.
_HOLD: Final = Pattern(
    r"^(?:accounts?|adults?|affiliates? only|alpha|amateurs?|army|bans?|banned|beta|betas?|buyers?"
    r"|children|citizens?|clients?|competitors?|confidential|consumers?|contractors?|customers?"
    r"|deadline|defen[cs]e|demos?|deprecated|donations?|donors?|employees?|enterprises?|eval\w*"
    r"|expir\w+|fees?|freelancers?|free|freeware|gambling|gratis|hobby\w*|home|hospitals?|internal|invoices?"
    r"|journalists?|kids|learners?|lawyers?|leas\w+|minors?|military|ngos?|non\w+|noncomm\w+|only"
    r"|paid|partners?|patients?|payments?|payware|pilot|police|pre-?release|previews?|prices|pricing|private"
    r"|pro bono|producers?|professionals?|professors?|prohibit\w*|pupils?|purchas\w+|registered"
    r"|renters?|residents?|resell\w*|restrict\w*|revenue|royalt\w+|samples?|scholars?|schools?|secret"
    r"|shareware|staff|startups?|students?|subscribers?|subscriptions?|teachers?|teenagers?"
    r"|tests?ers?|trials?|unlicensed|veterans?|visitors?|verboten|vietato|interdit|prohibido|nicht\w*|\w*kommer\w+|privat\w*|volunteers?|warfare|weapons?|workers?)$"
)
_OWNED = Pattern(
    r"\b(?!non)[a-z][\w.-]*(?=,? (?:contributors|developers|authors|committers|maintainers"
    r"|project|team|inc|llc|ltd|gmbh)\b)|(?<=\()(?!non)[a-z]+(?:-[a-z]+)+(?=\))",
    re.IGNORECASE,
)
_SUBJECT = Pattern(
    r"(?<![\w/.-])([a-z][\w-]*)(?=,? (?:(?:is|are|was|were|has been) )?"
    r"(?:dual-)?(?:licensed|distributed|released|derived|based|copyright))"
    r"|(?:derived|taken|copied|adapted|ported) from (?:the )?([a-z][\w-]*)"
    r"|(?:based on|fork of|part of|towards|contributions to|copy of) (?:the )?([a-z][\w-]*)"
    r"|(?<![\w/.-])([a-z][\w-]*)"
    r"(?= (?:project|library|module|package|source|code|repository|team)\b)"
    r"|^\W*licen[cs]e of ([a-z][\w-]*)\W*$"
    r"|(?:portions|parts) of ([a-z][\w-]*)(?: and ([a-z][\w-]*))?"
    r"|([a-z][\w-]*)(?= (?:--?|\u2013|\u2014) )"
    r"|[\"`']([a-z][\w.-]*(?: [a-z][\w.-]*)?)[\"`']",
    re.IGNORECASE,
)
_TERMS = Pattern(
    r"\b((?:[A-Z\d][\w.+-]*\s+){1,6}(?:Policy|POLICY|Addendum|ADDENDUM|Agreement|AGREEMENT"
    r"|Terms(?! of\b)|Terms of \w+|TERMS OF \w+|Rider|RIDER|Guidelines))\b"
    r"|\b(?:under|by|with|and) (?:the )?((?:[A-Z][\w.+-]*\s+){1,6}Licen[cs]e)\b"
)
_ENCODED = Pattern(r"[\w+/=-]{24,}", re.ASCII)
_DIGEST = Pattern(r"[0-9a-f]{32,128}|[0-9a-f-]{36}")
_MADE = Pattern(r"^\W*(?:built|powered|improved|made) (?:with|by) (?!our\b|the\b)", re.IGNORECASE)
_SUMMARY = Pattern(r"^\W*[\w.]+ +(?:--?|\u2013|\u2014) +\S")
_COMMENT = Pattern(r"^#.*$", re.MULTILINE)
_TOKEN = Pattern(r"\S+")
_EDGES = "\"'`*_()[]{}<>,;:.!?|\u2026=~#+-/\\&\u00ae\u2122\u00a9"
_EDGES += "\u3002\uff0c\u3001\uff1a\u300a\u300b\u00a7\u2192\u25cf\f"
_PATH = Pattern(r"[\w.+-]*[/\\][\w./\\*+<>{}-]*|\*?[\w*+-]*\.[\w.*+-]+|\w+\(\)|\w*_\w+", re.ASCII)
_NUMBER = Pattern(r"[#v]?\d+(?:[.,:/-]\d+)*(?:[.-]?(?:x|a|b|rc|st|nd|rd|th|bit|s|post|dev)\d*)?\+?")
_MIXED = Pattern(r"(?=.*\d)(?=.*[A-Za-z])[\w.+-]+|[A-Z]?[a-z]+[A-Z]\w*", re.ASCII)
_SMALL: Final = 6


@cache
def _lists() -> dict[str, frozenset[str]]:
    parts = (DATA / "plain_words.txt").read_text(encoding="utf-8").split("\n@")[1:]
    pairs = (part.partition("\n") for part in parts)
    return {name: frozenset(_COMMENT.sub("", words).split()) for name, _, words in pairs}


@cache
def _list(name: str) -> frozenset[str]:
    """The words of a part of `data/plain_words.txt`."""
    return _lists()[name]


def plain(sentence: str) -> bool:
    """Whether a sentence tells only what stands where, from whom and under which licence."""
    words = list(_words(_SUBJECT.sub(_unnamed, sentence)))
    if not words:
        return True
    if not all(_neutral(word) for word in words):
        lower_word = words[0].lower()
        if len(words) > 1 or not lower_word.isascii() or _ENCODED.fullmatch(words[0]):
            return False
        return not (_is_known_word(lower_word) or _HOLD.match(lower_word))
    if elsewhere(sentence) or _spaced(words):
        return False
    lower = {word.lower() for word in words}
    if "version" in lower and not any(word[-1:].isdigit() for word in words):
        lower.discard("version")
    if "for" in lower and lower & _list("groups"):
        return False
    if lower & _list("verbs") or lower & _list("titles"):
        return True
    if _MADE.match(sentence):
        return len(words) <= 5
    return all(_light(word) for word in words) or project(words) or bool(_SUMMARY.match(sentence))


def elsewhere(sentence: str) -> bool:
    """Whether a sentence names terms that nobody here knows, which then are a part of it."""
    from overt.openness.licence.names import canonical, family

    for match in _TERMS.finditer(sentence):
        name = " ".join((match[1] or match[2]).split())
        if not (canonical(name) or family(name)):
            return True
    return False


def _spaced(words: list[str]) -> bool:
    """Whether letters stand apart, so that no word is read."""
    row = 0
    for word in words:
        row = row + 1 if len(word) == 1 and word.isalpha() else 0
        if row > 4:
            return True
    return False


def _unnamed(match: re.Match[str]) -> str:
    """A phrase without the name in it, if that is one as far as the words of licences tell."""
    name = next((group for group in match.groups() if group), "")
    parts = [part for part in re.split(r"[\s.-]+", name.lower()) if part]
    if any(_HOLD.match(part) for part in parts) or all(_is_known_word(part) for part in parts):
        return match[0]
    return match[0].replace(name, " X ")


def neutral(text: str) -> bool:
    """Whether every word of a text is of the closed list, a name, an address or a number."""
    return all(_neutral(word) for word in _words(text))


def project(words: list[str]) -> bool:
    """Whether words are no more than the name of a project, a section or a file."""
    if len(words) > _SMALL:
        return False
    if (
        len(words) > 2
        and words[-2].lower() == "for"
        and (
            _MIXED.fullmatch(words[-1])
            or words[-1] in ("Python", "Linux", "Java", "Windows", "Ruby")
        )
    ):
        words = words[:-2]
    joined = {"for", "to", "by", "in", "with", "on", "under", "from", "if", "when", "until", "our"}
    return not joined & {word.lower() for word in words}


def identifiers(text: str) -> bool:
    """Whether a text is the names of a few files or packages."""
    words = ADDRESS.sub(" ", text).split()
    fit = all(re.fullmatch(r"[\w.*+/@~-]+,?", word, re.ASCII) for word in words)
    return fit and len(words) <= 3 and not any(_HOLD.match(word.lower()) for word in _words(text))


def is_licence_name(text: str, *, most: int = 40) -> bool:
    """Whether a text is names, years and addresses and nothing else: whose copyright it is."""
    bare, addresses = ADDRESS.subn(" ", _SUBJECT.sub(_unnamed, text))
    # What stands before "contributors" or "Inc." is a name, whatever its letters.
    bare = _OWNED.sub(" ", bare)
    words = [word for word in _words(bare) if not _NUMBER.fullmatch(word)]
    if len(words) > most * 3:
        return False
    small = [
        word
        for i, word in enumerate(words)
        if not (_neutral(word) or _between(words[i - 1 : i] + words[i + 1 : i + 2], word))
    ]
    if any(_HOLD.match(word.lower()) or _script(word) is not None for word in small):
        return False
    # Some names are words too, like Young and Little.
    titled = all(word[:1].isupper() for word in small)
    if titled and len(small) <= 3 and len(words) <= 8:
        return True
    if any(_is_known_word(word) for word in small):
        return False
    # A few people write their names without capitals.
    return len(small) <= 2 and (len(words) == len(small) or bool(addresses) or not small)


def _between(beside: list[str], word: str) -> bool:
    """Whether a small word is inside a name: between two words with a capital, or behind "der"."""
    if len(beside) < 2 or not beside[1][:1].isupper() or word.lower() in _list("foreign_words"):
        return False
    if _is_known_word(word) or _HOLD.match(word.lower()) or _script(word) is not None:
        return False
    return beside[0][:1].isupper() or beside[0] in ("der", "des", "den", "de", "di", "du", "la")


def _words(text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(ADDRESS.sub(" ", INVISIBLE.sub("", text))):
        word = match[0].strip(_EDGES)
        if not word:
            continue
        if _PATH.fullmatch(word) or _MIXED.fullmatch(word) or _NUMBER.fullmatch(word.lower()):
            yield word
            continue
        for part in re.split(
            r"[/&,;:+=|()<>\u2013\u2014\uff0c\u3002\u3001\uff08\uff09-]+|'s\b|\u2019s\b|\.\.+", word
        ):
            if part := part.strip(_EDGES):
                yield part


def _light(word: str) -> bool:
    return bool(_NUMBER.fullmatch(word.lower()) or _PATH.fullmatch(word) or len(word) == 1)


def _neutral(word: str) -> bool:
    low = word.lower()
    if (
        low in _list("said")
        or low in _list("named")
        or low in _list("who")
        or low in _list("titles")
        or low in _list("verbs")
    ):
        return True
    if _ENCODED.fullmatch(word) and not (_DIGEST.fullmatch(word) or _PATH.fullmatch(word)):
        return False
    if _light(word) and word.isascii():
        return True
    return _name(word)


def _name(word: str) -> bool:
    """Whether a word is somebody's or something's name, as far as its shape tells."""
    low = word.lower()
    if low in _list("who") or low in _list("named"):
        return True
    if _HOLD.match(low):
        return False
    if not word.isascii() and (script := _script(word)) is not None:
        return script
    if _PATH.fullmatch(word) or _MIXED.fullmatch(word) or _NUMBER.fullmatch(low):
        return True
    return word[:1].isupper() and not _is_known_word(low)


@cache
def _is_known_word(word: str) -> bool:
    """Whether a word is one of licence texts: those are no names, but for a few."""
    return hashed(word.lower()) in load_index().vocabulary


_FOREIGN: Final = (
    # Shapes of names in other scripts, and what no name of a person or company is written with.
    (
        r"[\u3400-\u9fff\u30a0-\u30ff\u306e\u30fb]{1,24}",
        "\u7981|\u4e0d\u5f97|\u4e0d\u53ef|\u4ec5|\u50c5|\u52ff|\u987b|\u9808|\u53ea|\u4ed8|\u8d39|\u8cbb|\u975e|\u5546\u7528|\u4f7f\u7528|\u5229\u7528|\u5141\u8bb8|\u9650\u4e8e|\u7528\u9014",
    ),
    (r"[\uac00-\ud7af]{1,8}", "\uae08\uc9c0|\uc6a9|\ub9cc|\uc5c6"),
    (
        r"[\u0400-\u04ff.]+",
        "(?i)^(?:\u0442\u043e\u043b\u044c\u043a\u043e|\u043d\u0435|\u0434\u043b\u044f|\u0431\u0435\u0437)$|\u0437\u0430\u043f\u0440\u0435\u0449|\u0438\u0441\u043f\u043e\u043b\u044c\u0437|\u043a\u043e\u043c\u043c\u0435\u0440\u0447",
    ),
    (r"[\u0370-\u03ff]+", "(?i)^(?:\u03bc\u03cc\u03bd\u03bf|\u03b3\u03b9\u03b1)$"),
)


def _script(word: str) -> bool | None:
    """Whether a word of another script may be a name; None: it is of the Latin script."""
    for shape, holds in _FOREIGN:
        if re.fullmatch(shape, word):
            return not re.search(holds, word)
    latin = word[0] < "\u0250" or "\u1e00" <= word[0] <= "\u1eff"
    return None if latin and word[0].isalpha() else False
