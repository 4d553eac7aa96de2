"""Text changed by rules, the same for a seed: typos, and a mechanical paraphrase.

Neither is what people write. Typos are neighbours on a QWERTY keyboard, two letters swapped, one
left out or doubled, at a rate of letters. The paraphrase is a polite frame, a few synonyms, and the
order of sentences or of two halves of one; it keeps numbers, names and formulas as they stand.
"""

import re
from collections.abc import Mapping
from random import Random
from typing import Final

RATE: Final = 0.03
"""Share of letters in which a typo begins."""

_NEIGHBOURS: Final[Mapping[str, str]] = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok",
    "o": "ipl", "p": "ol", "a": "qsz", "s": "adwx", "d": "sfec", "f": "dgrv", "g": "fhtb",
    "h": "gjyn", "j": "hkum", "k": "jlim", "l": "kop", "z": "xas", "x": "zcsd", "c": "xvdf",
    "v": "cbfg", "b": "vngh", "n": "bmhj", "m": "nkj",
}  # fmt: skip

_SYNONYMS: Final[Mapping[str, str]] = {
    "which": "what", "big": "large", "large": "big", "small": "little", "begin": "start",
    "begins": "starts", "often": "frequently", "usually": "mostly", "main": "chief",
    "important": "significant", "because": "since", "about": "concerning", "also": "too",
    "correct": "right", "wrong": "incorrect", "likely": "probable", "show": "display",
    "shows": "displays", "help": "assist", "helps": "assists", "need": "require",
    "needs": "requires", "use": "employ", "uses": "employs", "find": "discover", "buy": "purchase",
    "give": "provide", "gives": "provides", "following": "ones below", "primarily": "mainly",
    "known": "familiar", "called": "named", "refers": "points", "describes": "depicts",
    "quickly": "fast", "person": "individual", "people": "persons", "happens": "occurs",
}  # fmt: skip

_FRAMES: Final = (
    "Please answer this question: {}",
    "Could you tell me this: {}",
    "Here is something I would like to know. {}",
    "I have a question for you. {}",
    "Kindly consider the following. {}",
)
_WORD: Final = re.compile(r"[A-Za-z]+")
_SENTENCES: Final = re.compile(r"(?<=[.!])\s+")


def typos(text: str, seed: str, rate: float = RATE) -> str:
    """`text` with typos in that share of its letters, and in one at least.

    Letters of words with digits or underscores beside them stay, as do capitals.
    """
    draw = Random(seed)  # noqa: S311 - a sample, not a secret
    places = [
        at for at, letter in enumerate(text) if letter in _NEIGHBOURS and not _near_sign(text, at)
    ]
    if not places:
        return text
    count = max(1, round(rate * len(places)))
    letters = list(text)
    for at in sorted(draw.sample(places, min(count, len(places))), reverse=True):
        kind = draw.randrange(4)
        own = letters[at]
        following = letters[at + 1] if at + 1 < len(letters) else ""
        if kind == 0 and following in _NEIGHBOURS and following != own:
            letters[at], letters[at + 1] = following, own
        elif kind == 1:
            letters[at] = own * 2
        elif kind == 2 and following in _NEIGHBOURS:
            letters[at] = ""
        else:
            letters[at] = draw.choice(_NEIGHBOURS[own])
    return "".join(letters)


def _near_sign(text: str, at: int) -> bool:
    """Whether the letter stands beside a digit or underscore: part of a formula or a name."""
    beside = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return any(letter.isdigit() or letter == "_" for letter in beside)


def paraphrase(text: str, seed: str) -> str:
    """`text` in a polite frame, with some words replaced and its leading sentences swapped."""
    draw = Random(seed)  # noqa: S311 - a sample, not a secret
    sentences = _SENTENCES.split(text)
    if len(sentences) > 2:  # the last one is the question
        first, second = sorted(draw.sample(range(len(sentences) - 1), 2))
        sentences[first], sentences[second] = sentences[second], sentences[first]
    changed = _WORD.sub(lambda match: _synonym(match[0], draw), " ".join(sentences))
    return draw.choice(_FRAMES).format("{}").replace("{}", changed, 1)


def _synonym(word: str, draw: Random) -> str:
    other = _SYNONYMS.get(word.lower())
    if other is None or draw.random() < 0.3:
        return word
    return other.capitalize() if word[0].isupper() else other
