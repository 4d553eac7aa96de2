"""What a card states in forms that leave no room: its fields, ``Key: value``, rows of two cells,
and tables of one row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_MAX_LINES: Final = 20_000
_MAX_LINE: Final = 400

_KEYS: Final[Mapping[str, str]] = {
    "parameters": r"#? ?(?:total )?(?:num(?:ber)? (?:of )?)?(?:model )?param(?:[ea]ter)?s?"
    r"(?: count)?|n params",
    "model size": r"model size",
    "parameters without embeddings": r"(?:number of )?(?:model )?param(?:[ea]ter)?s?"
    r" \(?non[- ]embeddings?\)?|non[- ]embedding param(?:[ea]ter)?s",
    "context length": r"(?:max(?:imum)? )?context (?:length|window|size)",
    "vocabulary": r"vocab(?:ulary)? size|vocab",
    "layers": r"(?:number of |num |n )?(?:hidden |transformer )?layers?",
    "hidden size": r"hidden size|d model|n embd|model dim(?:ension)?",
    "hidden dimension": r"hidden dimension(?:s|ality)?",
    "inner size": r"(?:intermediate|feed[- ]?forward|ffn|mlp) (?:hidden )?(?:size|dim(?:ension)?)",
    "attention heads": r"(?:number of |num |n )?(?:attention )?heads?",
    "key-value heads": r"(?:number of |num )?(?:key[-/ ]value|kv) heads",
    "experts": r"(?:number of |num )?(?:local |routed |total )?experts",
    "architecture": r"(?:model )?architectures?|model class",
    "model type": r"model type",
    "dtype": r"(?:torch )?dtype|tensor type|data type",
    "quantization": r"(?:gguf )?quant(?:i[sz]ation)?(?: (?:type|method|format|level))?",
    "sha256": r"sha[- ]?256(?: ?sum)?(?: (?:hash|digest))?",
    "licence": r"licen[sc]e",
}
_COMPILED: Final = {what: re.compile(rule) for what, rule in _KEYS.items()}
_NUMBER: Final = re.compile(
    r"(?:about |approx\.? |~|≈)?(\d{1,3}(?:,\d{3}){1,5}|\d{1,15}(?:\.\d{1,6})?) ?"
    r"(k|m|mio|million|b|bn|billion|t|trillion)?\+?"
    r"(?: ?(?:tokens?|param(?:eter)?s?|layers|heads))?",
    re.IGNORECASE,
)
_UNITS: Final = {
    "k": 3,
    "m": 6,
    "mio": 6,
    "million": 6,
    "b": 9,
    "bn": 9,
    "billion": 9,
    "t": 12,
    "trillion": 12,
}
_MARKS: Final = re.compile(r"(?<!\w)[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}(?!\w)")
"""What Markdown puts around words, and not the line within a name."""
_WEIGHTS: Final = re.compile(
    r"(?<![\w/.:-])([\w][\w.+-]{0,120}\.(?:gguf|safetensors|onnx))(?![\w.-])", re.IGNORECASE
)
_FILES: Final = re.compile(
    r"(?<![\w/.:-])([\w][\w.+-]{0,120}\.(?:json|model|txt|bin|pt|jinja))(?![\w.-])"
)
_TAGS: Final = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
_DIGEST: Final = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class CardStatement:
    """One statement.

    Attributes:
        words: its value as written.
        values: the numbers it may mean: 8k is 8000 and 8192; empty where it is none.
        exact: written to the last digit.
    """

    words: str
    values: tuple[int, ...] = ()
    exact: bool = False


def read(body: str, fields: Mapping[str, Any] | None = None) -> dict[str, CardStatement]:
    """The statements of a card by their canonical key; what is stated in two ways is left out."""
    statements: dict[str, list[CardStatement]] = {}
    for key, value in (*_listed(fields or {}), *_pairs(body)):
        for what, rule in _COMPILED.items():
            if rule.fullmatch(key) and value:
                statements.setdefault(what, []).append(stated(value))
    for what in _COUNTED & statements.keys():
        # Beside a number, a word is a table's head: ``| Layers | Heads |``.
        numbers = [statement for statement in statements[what] if statement.values]
        statements[what] = numbers or statements[what]
    return {
        what: several[0]
        for what, several in statements.items()
        if len({statement.values or statement.words.lower() for statement in several}) == 1
    }


_COUNTED: Final = {
    "layers",
    "hidden size",
    "hidden dimension",
    "inner size",
    "attention heads",
    "key-value heads",
    "experts",
    "vocabulary",
}
"""What is a whole number in every card."""
_SENTENCE: Final = re.compile(r"(?:the|its) ([a-z -]{4,30}) is (\d[\d,]{0,12}k?)\.?", re.IGNORECASE)
_NO_STATEMENTS: Final = ("license", "licence", "architecture", "architectures", "model_type")
"""Fields that other code reads, or that programs fill in."""


def _listed(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in list(fields.items())[:1000]:
        plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        if plain and key not in _NO_STATEMENTS:
            yield _key(key), str(value)[:_MAX_LINE]


def _pairs(body: str) -> Iterator[tuple[str, str]]:
    """Keys in lower case and values, of all lines outside of code blocks."""
    table: list[list[str]] = []
    for line in lines(body):
        plain = _MARKS.sub("", line)
        if plain.startswith("|"):
            table.append([cell.strip() for cell in plain.strip("|").split("|")])
            continue
        yield from _rows(table)
        table = []
        for sentence in re.split(r"(?<=\.)\s+", plain.lstrip("-+*• ")):
            match = _SENTENCE.fullmatch(sentence)
            if match and any(_COMPILED[pattern].fullmatch(_key(match[1])) for pattern in _COUNTED):
                yield _key(match[1]), match[2]
        # ``Layers: 32, Heads: 32`` states two things.
        for part in re.split(r"[,;] (?=[A-Za-z][^,:;]{2,40}: )", plain.lstrip("-+*• ")):
            key, colon, value = part.partition(":")
            if colon and len(key) <= 60 and value.strip():
                yield from _split(key, value.strip())
    yield from _rows(table)


def _rows(table: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Of a table with two columns each row; of a wider one with a single row its columns."""
    if not table:
        return
    if len(table[0]) == 2:
        for row in table:
            if len(row) == 2:
                yield from _split(row[0], row[1])
    ruled = len(table) == 3 and all(re.fullmatch(r":?-{1,40}:?", cell) for cell in table[1])
    if ruled and len(table[0]) == len(table[2]):
        for key, value in zip(table[0], table[2], strict=True):
            yield from _split(key, value)


def _split(key: str, value: str) -> Iterator[tuple[str, str]]:
    both = re.fullmatch(
        r"(\d{1,5}) (?:for )?\(?q\)?(?: and|,| /) (\d{1,5}) (?:for )?\(?kv\)?", value.lower()
    )
    if both:
        yield "attention heads", both[1]
        yield "key-value heads", both[2]
    elif _key(key) == "size" and "param" in value.lower():
        yield "parameters", value
    else:
        yield _key(key), value


def lines(body: str) -> Iterator[str]:
    """Lines outside of code blocks, without the tags of HTML."""
    fenced = False
    for line in body.split("\n", _MAX_LINES)[:_MAX_LINES]:
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and len(line) <= _MAX_LINE:
            yield _TAGS.sub("", line).strip()


def _key(text: str) -> str:
    plain = " ".join(text.strip(" *_`#:").replace("_", " ").lower().split())
    return plain if "embedding" in plain else re.sub(r" ?\([^()]{0,60}\)$", "", plain)


def stated(value: str) -> CardStatement:
    """A value, with the numbers it may mean."""
    words = re.sub(r"\[([^\][]{1,100})\]\([^()]{0,300}\)", r"\1", value)
    words = words.strip().strip("*_`").rstrip(".").strip()
    match = _NUMBER.fullmatch(words)
    if not match:
        return CardStatement(words)
    digits, unit = match[1].replace(",", ""), (match[2] or "").lower()
    if not unit:
        return CardStatement(words, (round(float(digits)),), "." not in digits)
    number = round(float(digits) * 10 ** _UNITS[unit])
    binary = round(float(digits) * 2 ** (10 * _UNITS[unit] // 3))
    return CardStatement(words, (number, binary) if unit in ("k", "m") else (number,))


def digests(body: str) -> Iterator[tuple[str, str]]:
    """(file, sha256) of lines and rows that name one file and one digest."""
    for line in body.split("\n", _MAX_LINES)[:_MAX_LINES]:
        if len(line) > _MAX_LINE:
            continue
        sums = set(_DIGEST.findall(line))
        names = set(_WEIGHTS.findall(line)) or set(_FILES.findall(line))
        if len(names) == 1 and len(sums) == 1:
            yield names.pop(), sums.pop()


def weights(body: str) -> tuple[str, ...]:
    """Files of weights named in the first cell of a row, or alone in a line of a list."""
    names: dict[str, None] = {}
    for line in body.split("\n", _MAX_LINES)[:_MAX_LINES]:
        plain = re.sub(r"[`*]|\]\([^()]{0,300}\)|\[", "", line.strip())
        if len(line) > _MAX_LINE:
            continue
        if plain.startswith("|"):
            cell = plain.strip("|").split("|")[0].strip()
        elif plain.startswith(("- ", "+ ")):
            cell = plain[2:].strip()
        else:
            continue
        if _WEIGHTS.fullmatch(cell):
            names[cell] = None
    return tuple(names)
