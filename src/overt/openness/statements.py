"""What the text of a card states in forms that leave no room: two-cell rows and ``Key: value``."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_MOST_LINES: Final = 20_000
_MOST_LINE: Final = 400

_KEYS: Final[Mapping[str, str]] = {
    "parameters": r"(?:total )?(?:number of )?(?:model )?param(?:eter)?s?(?: count)?|model size",
    "context length": r"(?:max(?:imum)? )?context (?:length|window|size)",
    "vocabulary": r"vocab(?:ulary)? size|vocab",
    "layers": r"(?:number of |num )?(?:hidden |transformer )?layers|num_hidden_layers|n_layers?",
    "hidden size": r"hidden[ _]size|d_model|n_embd",
    "attention heads": r"(?:number of |num )?attention heads|num_attention_heads|n_heads?",
    "key-value heads": r"(?:number of |num )?(?:key[-/ ]value|kv) heads|num_key_value_heads",
    "architecture": r"architecture|model class|architectures",
    "model type": r"model[ _]type",
    "dtype": r"dtype|torch_dtype|tensor type|data type",
    "licence": r"licen[sc]e",
}  # fmt: skip
_COMPILED: Final = {what: re.compile(rule) for what, rule in _KEYS.items()}
_NUMBER: Final = re.compile(
    r"(?:about |approx\.? |~|≈)?(\d{1,3}(?:,\d{3}){1,5}|\d{1,15}(?:\.\d{1,6})?) ?"
    r"(k|m|mio|million|b|bn|billion|t|trillion)?\+?"
    r"(?: ?(?:tokens?|param(?:eter)?s?|layers|heads))?",
    re.IGNORECASE,
)
_UNITS: Final = {"k": 3, "m": 6, "mio": 6, "million": 6, "b": 9, "bn": 9, "billion": 9, "t": 12,
                 "trillion": 12}  # fmt: skip
_MARKS: Final = re.compile(r"(?<!\w)[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}(?!\w)")
"""What Markdown puts around words, and not the line within a name."""
_WEIGHTS: Final = re.compile(
    r"(?<![\w/.:-])([\w][\w.+-]{0,120}\.(?:gguf|safetensors|onnx))(?![\w.-])", re.IGNORECASE
)
_DIGEST: Final = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Stated:
    """One statement.

    Attributes:
        words: its value as written.
        values: the numbers it may mean: 8k is 8000 and 8192; empty where it is none.
        exact: written to the last digit.
    """

    words: str
    values: tuple[int, ...] = ()
    exact: bool = False


def read(body: str) -> dict[str, Stated]:
    """The statements of a card by their canonical key; what is stated in two ways is left out."""
    found: dict[str, list[Stated]] = {}
    for key, value in _pairs(body):
        for what, rule in _COMPILED.items():
            if rule.fullmatch(key):
                found.setdefault(what, []).append(stated(value))
    return {
        what: several[0]
        for what, several in found.items()
        if len({one.values or one.words.lower() for one in several}) == 1
    }


def _pairs(body: str) -> Iterator[tuple[str, str]]:
    """Keys in lower case and values, of all lines outside of code blocks."""
    fenced = False
    for line in body.split("\n", _MOST_LINES)[:_MOST_LINES]:
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        if fenced or len(line) > _MOST_LINE:
            continue
        plain = _MARKS.sub("", line.strip())
        if plain.startswith("|"):
            cells = [cell.strip() for cell in plain.strip("|").split("|")]
            if len(cells) == 2:
                yield _key(cells[0]), cells[1]
            continue
        key, colon, value = plain.lstrip("-+*• ").partition(":")
        if colon and len(key) <= 60 and value.strip():
            yield _key(key), value.strip()


def _key(text: str) -> str:
    return " ".join(text.strip(" *_`#:").lower().split())


def stated(value: str) -> Stated:
    """A value, with the numbers it may mean."""
    words = re.sub(r"\[([^\][]{1,100})\]\([^()]{0,300}\)", r"\1", value)
    words = words.strip().strip("*_`").rstrip(".").strip()
    found = _NUMBER.fullmatch(words)
    if not found:
        return Stated(words)
    digits, unit = found[1].replace(",", ""), (found[2] or "").lower()
    if not unit:
        return Stated(words, (round(float(digits)),), "." not in digits)
    number = round(float(digits) * 10 ** _UNITS[unit])
    binary = round(float(digits) * 2 ** (10 * _UNITS[unit] // 3))
    return Stated(words, (number, binary) if unit in ("k", "m") else (number,))


def digests(body: str) -> Iterator[tuple[str, str]]:
    """(file, sha256) of lines and rows that name one file of weights and one digest."""
    for line in body.split("\n", _MOST_LINES)[:_MOST_LINES]:
        if len(line) > _MOST_LINE:
            continue
        names, sums = set(_WEIGHTS.findall(line)), set(_DIGEST.findall(line))
        if len(names) == 1 and len(sums) == 1:
            yield names.pop(), sums.pop()


def weights(body: str) -> tuple[str, ...]:
    """Files of weights named in the first cell of a row, or alone in a line of a list."""
    found: dict[str, None] = {}
    for line in body.split("\n", _MOST_LINES)[:_MOST_LINES]:
        plain = re.sub(r"[`*]|\]\([^()]{0,300}\)|\[", "", line.strip())
        if len(line) > _MOST_LINE:
            continue
        if plain.startswith("|"):
            cell = plain.strip("|").split("|")[0].strip()
        elif plain.startswith(("- ", "+ ")):
            cell = plain[2:].strip()
        else:
            continue
        if _WEIGHTS.fullmatch(cell):
            found[cell] = None
    return tuple(found)
