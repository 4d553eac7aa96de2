r"""Regular expressions of a JSON schema, rewritten to what llama.cpp enforces.

Of a pattern it does not know (``\d``, ``\w``, an escaped ``-``, a look-ahead, a bracket too many)
llama.cpp makes *any text*, without a word. So a pattern is read here, and written again with sets,
groups, alternatives and repetitions only, or refused. What is written matches no more than what was
given; it matches less where JSON would have to escape a letter of a set. Bounds as in
gbnf.py: llama.cpp follows every way at once in which a text can be read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from overt.runtime.llamacpp.grammar import gbnf

MAX_CHARACTERS = 1000
MAX_DEPTH = 64
MAX_REPEATS = 2000
"""llama.cpp's own bound on one repetition and what it repeats."""
MAX_EMPTY_ALTERNATIVES = 10
"""Times that something which may be empty may be repeated: ways to read it grow as n over n/2."""

_TOP = 0x10FFFF
_DIGIT = ((48, 57),)
_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE = ((9, 13), (32, 32))
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_LINE = ((10, 10), (13, 13))
_ESCAPED = ((0, 31), (34, 34), (92, 92), (127, 127), (0xD800, 0xDFFF))  # in JSON, or no letters
_LETTERS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_SHORT = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: "[\\x22]", 92: "[\\x5c]"}
_DIGITS = {"x": 2, "u": 4}

Ranges = tuple[tuple[int, int], ...]


class BadPattern(ValueError):
    """Why a pattern cannot be used; one clause."""


@dataclass(frozen=True, slots=True)
class _PatternPart:
    text: str
    empty: bool  # whether it may match nothing
    times: int = 1  # product of the bounds of repetitions within, along the worst path


def rewritten(pattern: str) -> str:
    """`pattern` as llama.cpp enforces it.

    Raises:
        BadPattern: it is no regular expression, too long or too deep, or uses what has no equal.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise BadPattern(f"is {len(pattern)} characters long, {MAX_CHARACTERS} is the most")
    return _PatternReader(pattern).whole()


class _PatternReader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def whole(self) -> str:
        begins = self._take("^")
        inside = self._alternatives(0)
        ends = self._take("$")
        if self._at < len(self._text):
            raise BadPattern(f"has {self._text[self._at]!r} out of place at {self._at + 1}")
        try:  # it is all but GBNF already; words of letters stand for rules nobody knows
            gbnf.check("root ::= " + inside.text.replace("(?:", "("))
        except gbnf.BadGrammar as error:
            raise BadPattern(str(error)) from None
        any_text = _set(_without(((0, _TOP),), _LINE)) + "*"
        return f"^{'' if begins else any_text}(?:{inside.text}){'' if ends else any_text}$"

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, letters: str) -> bool:
        if self._text.startswith(letters, self._at):
            self._at += len(letters)
            return True
        return False

    def _alternatives(self, depth: int) -> _PatternPart:
        if depth > MAX_DEPTH:
            raise BadPattern(f"has groups more than {MAX_DEPTH} deep")
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        return _PatternPart(
            "|".join(part.text for part in parts),
            any(part.empty for part in parts),
            max(part.times for part in parts),
        )

    def _sequence(self, depth: int) -> _PatternPart:
        parts: list[_PatternPart] = []
        while (letter := self._peek()) not in ("", "|", ")"):
            if letter == "$" and self._at + 1 == len(self._text):
                break
            parts.append(self._repeated(self._atom(letter, depth)))
        return _PatternPart(
            "".join(part.text for part in parts),
            all(part.empty for part in parts),
            max((part.times for part in parts), default=1),
        )

    def _atom(self, letter: str, depth: int) -> _PatternPart:
        self._at += 1
        if letter == "(":
            if self._take("?") and not self._take(":"):
                raise BadPattern("looks ahead or behind, or names a group")
            inside = self._alternatives(depth + 1)
            if not self._take(")"):
                raise BadPattern("has an opening bracket that is not closed")
            return _PatternPart(f"(?:{inside.text})", inside.empty, inside.times)
        if letter == "[":
            return _PatternPart(self._set(), empty=False)
        if letter == ".":
            return _PatternPart(_set(_without(((0, _TOP),), _LINE)), empty=False)
        if letter == "\\":
            return _PatternPart(self._escape(), empty=False)
        if letter in "^$":
            raise BadPattern(f"has {letter!r} in the middle")
        if letter in "*+?{":
            raise BadPattern(f"has {letter!r} with nothing before it to repeat")
        return _PatternPart(_letter(ord(letter)), empty=False)

    # ---- repetitions -----------------------------------------------------------------------

    def _repeated(self, part: _PatternPart) -> _PatternPart:
        letter = self._peek()
        if letter not in ("*", "+", "?", "{") or not letter:
            return part
        self._at += 1
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(letter) or self._bounds()
        if self._peek() == "+":
            raise BadPattern("repeats without giving back")
        self._take("?")  # as few as possible: the same texts
        if self._peek() in ("*", "?", "{") and self._peek():
            raise BadPattern("repeats a repetition")
        most = max(low, high or 0, 1)
        times = part.times * most
        if times > MAX_REPEATS:
            raise BadPattern(f"repeats {times} times in all, {MAX_REPEATS} is the most")
        if part.empty and most > 1 and times > MAX_EMPTY_ALTERNATIVES:
            raise BadPattern(
                f"repeats what may be empty {times} times in all, {MAX_EMPTY_ALTERNATIVES} is "
                "the most"
            )
        mark = letter
        if letter == "{":
            mark = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
        # A group: llama.cpp would repeat only the last of several sets.
        text = part.text if part.text.startswith("(?:") else f"(?:{part.text})"
        return _PatternPart(text + mark, part.empty or low == 0, times)

    def _bounds(self) -> tuple[int, int | None]:
        inside, closed, _ = self._text[self._at :].partition("}")
        low, comma, high = inside.partition(",")
        if not (closed and _number(low) and (_number(high) or not high)):
            raise BadPattern("has curly brackets without numbers")
        self._at += len(inside) + 1
        least = int(low)
        most = least if not comma else int(high) if high else None
        if most is not None and most < least:
            raise BadPattern(f"repeats from {least} to {most} times")
        return least, most

    # ---- letters and sets ------------------------------------------------------------------

    def _escape(self) -> str:
        letter = self._peek()
        if letter.lower() in _CLASSES and letter:
            self._at += 1
            ranges = _CLASSES[letter.lower()]
            return _set(ranges if letter.islower() else _without(((0, _TOP),), ranges))
        return _letter(self._escaped())

    def _escaped(self) -> int:
        """The letter that stands after a backslash."""
        letter = self._peek()
        self._at += 1
        if letter in _LETTERS:
            return _LETTERS[letter]
        if letter in _DIGITS:
            digits = self._text[self._at : self._at + _DIGITS[letter]]
            self._at += len(digits)
            if len(digits) == _DIGITS[letter] and all(
                d in "0123456789abcdefABCDEF" for d in digits
            ):
                return int(digits, 16)
        if not letter or letter.isalnum():
            raise BadPattern(f"has \\{letter}, which has no equal in a grammar")
        return ord(letter)

    def _set(self) -> str:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            letter = self._peek()
            if letter == "\\" and (kind := self._text[self._at + 1 : self._at + 2]).isalpha():
                class_ranges = _CLASSES.get(kind)
                if class_ranges:
                    self._at += 2
                    ranges += class_ranges
                    continue
            low = self._member()
            high = low
            after = self._text[self._at + 1 : self._at + 2]
            if self._peek() == "-" and after and after != "]":
                self._at += 1
                high = self._member()
            if high < low:
                raise BadPattern(f"has a set from {chr(low)!r} to {chr(high)!r}")
            ranges.append((low, high))
        return _set(_without(((0, _TOP),), ranges) if negated else ranges)

    def _member(self) -> int:
        letter = self._peek()
        if not letter:
            raise BadPattern("has a set that is not closed")
        self._at += 1
        return self._escaped() if letter == "\\" else ord(letter)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _letter(code: int) -> str:
    """One letter as it stands in JSON."""
    if code in (34, 92):
        return f"(?:[\\x5c]{_SHORT[code]})"
    if code in _SHORT:
        return f"(?:[\\x5c]{_SHORT[code]})"
    if any(low <= code <= high for low, high in _ESCAPED):
        raise BadPattern(f"has the control character {code}")
    letter = chr(code)
    return letter if letter.isascii() and letter.isalnum() else f"[{_code(code)}]"


def _set(ranges: Iterable[tuple[int, int]]) -> str:
    left = _without(ranges, _ESCAPED)
    if not left:
        raise BadPattern("has a set that no letter of a JSON text is in")
    return f"[{''.join(_code(a) if a == b else f'{_code(a)}-{_code(b)}' for a, b in left)}]"


def _code(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _without(ranges: Iterable[tuple[int, int]], taken: Iterable[tuple[int, int]]) -> Ranges:
    """`ranges`, in order and joined, less `taken`."""
    left: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if left and low <= left[-1][1] + 1:
            left[-1] = left[-1][0], max(high, left[-1][1])
        else:
            left.append((low, high))
    for first, last in taken:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if piece[0] <= piece[1]
        ]
    return tuple(left)
