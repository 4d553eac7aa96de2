"""The instructions of IFEval, each as a check of one answer.

Written from the descriptions of Zhou et al. 2023 (arXiv 2311.07911, table 1) and the arguments in
its data. Two differ from the authors' program: sentences are split by rules of our own and not by
NLTK's model, and which language an answer is in is not judged.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from overt.errors import FormatError

Check = Callable[[str, Mapping[str, Any]], bool]

NOT_JUDGED: Final = ("language:response_language",)
"""Would need a detector of languages."""

_MAX_COUNT = 10_000  # of a count in the data
_ABBREVIATIONS = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|e\.g|i\.e|Inc|Ltd|Co|No|Fig|approx|[A-Z])\.$"
)
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]*]*(?=\s|$)")


def _existence(text: str, options: Mapping[str, Any]) -> bool:
    return all(word.lower() in text.lower() for word in _words(options, "keywords"))


def _forbidden(text: str, options: Mapping[str, Any]) -> bool:
    return not any(
        re.search(r"\b" + re.escape(word) + r"\b", text, re.IGNORECASE)
        for word in _words(options, "forbidden_words")
    )


def _frequency(text: str, options: Mapping[str, Any]) -> bool:
    count = text.lower().count(_text(options, "keyword").lower())
    return _related(count, options, "relation", "frequency")


def _letters(text: str, options: Mapping[str, Any]) -> bool:
    count = text.lower().count(_text(options, "letter").lower())
    return _related(count, options, "let_relation", "let_frequency")


def _sentences(text: str, options: Mapping[str, Any]) -> bool:
    return _related(sentences(text), options, "relation", "num_sentences")


def _word_count(text: str, options: Mapping[str, Any]) -> bool:
    return _related(len(re.findall(r"\w+", text)), options, "relation", "num_words")


def _paragraphs(text: str, options: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in text.split("***")]
    inside = parts[1:-1]
    count = len(parts) - (not parts[0]) - (len(parts) > 1 and not parts[-1])
    return all(inside) and count == _number(options, "num_paragraphs")


def _first_word(text: str, options: Mapping[str, Any]) -> bool:
    parts = re.split(r"\n\n", text)
    full = sum(bool(part.strip()) for part in parts)
    nth = _number(options, "nth_paragraph")
    if not 1 <= nth <= min(full, len(parts)) or full != _number(options, "num_paragraphs"):
        return False
    words = parts[nth - 1].split()
    if not words:
        return False
    first = re.match(r"[^.,?!'\"]*", words[0].lstrip("'\""))
    wanted = _text(options, "first_word").lower()
    return first is not None and first[0].lower() == wanted


def _placeholders(text: str, options: Mapping[str, Any]) -> bool:
    return len(re.findall(r"\[[^\]\n]*\]", text)) >= _number(options, "num_placeholders")


def _postscript(text: str, options: Mapping[str, Any]) -> bool:
    marker = _text(options, "postscript_marker").strip()
    letters = {"P.S.": r"\bp\.\s?s\.", "P.P.S": r"\bp\.\s?p\.\s?s"}.get(marker)
    return re.search(letters or re.escape(marker), text, re.IGNORECASE) is not None


def _bullets(text: str, options: Mapping[str, Any]) -> bool:
    count = len(re.findall(r"^[ \t]*(?:\*[^*\n]|-)", text, re.MULTILINE))
    return count == _number(options, "num_bullets")


def _one_of_three(text: str, options: Mapping[str, Any]) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _highlights(text: str, options: Mapping[str, Any]) -> bool:
    single = re.findall(r"\*([^\n*]*)\*", text)
    double = re.findall(r"\*\*([^\n*]*)\*\*", text)
    count = sum(bool(highlight.strip()) for highlight in (*single, *double))
    return count >= _number(options, "num_highlights")


def _sections(text: str, options: Mapping[str, Any]) -> bool:
    name = re.escape(_text(options, "section_spliter").strip())
    count = len(re.findall(rf"{name}[ \t]?\d+", text))
    return count >= _number(options, "num_sections")


def _json(text: str, options: Mapping[str, Any]) -> bool:
    inner = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, options: Mapping[str, Any]) -> bool:
    return any(title.strip(" <>") for title in re.findall(r"<<([^\n]+?)>>", text))


def _two_responses(text: str, options: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if any(not part for part in parts[1:-1]):
        return False
    full = [part for part in parts if part]
    return len(full) == 2 and full[0] != full[1]


def _repeats(text: str, options: Mapping[str, Any]) -> bool:
    return text.strip().lower().startswith(_text(options, "prompt_to_repeat").strip().lower())


def _ends(text: str, options: Mapping[str, Any]) -> bool:
    stripped = text.strip().strip('"').lower()
    return stripped.endswith(_text(options, "end_phrase").strip().lower())


def _quoted(text: str, options: Mapping[str, Any]) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def _capital_words(text: str, options: Mapping[str, Any]) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'’-]+", text))
    return _related(count, options, "capital_relation", "capital_frequency")


CHECKS: Final[Mapping[str, Check]] = {
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _word_count,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _one_of_three,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    # The case alone: whether it is English is not judged.
    "change_case:english_capital": lambda text, options: text.isupper(),
    "change_case:english_lowercase": lambda text, options: text.islower(),
    "punctuation:no_comma": lambda text, options: "," not in text,
}


def sentences(text: str) -> int:
    """How many sentences: ends of ``.!?`` before white space, but for common abbreviations."""
    count, at = 0, 0
    for end in _SENTENCE_END.finditer(text):
        piece = text[max(at, end.end() - 40) : end.end()].rstrip("\"'”’)]* ")
        if _ABBREVIATIONS.search(piece) and end.end() < len(text.rstrip()):
            continue
        if re.search(r"\w", text[at : end.start()]):
            count, at = count + 1, end.end()
    return count + bool(re.search(r"\w", text[at:]))


def loose(text: str) -> list[str]:
    """The eight forms of an answer of which one has to pass when judged loosely (section 3.2).

    Without its first line, its last, or both (an opening or a closing remark); each also without
    asterisks.
    """
    lines = text.split("\n")
    cut = [text] + ["\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1])]
    return [*cut, *(variant.replace("*", "") for variant in cut)]


def follows(name: str, options: Mapping[str, Any], text: str) -> bool:
    """Whether `text` does what the instruction `name` asks.

    Raises:
        FormatError: `given` lacks what the instruction needs, or `name` is none.
    """
    check = CHECKS.get(name)
    if check is None:
        raise FormatError(f"there is no instruction {name[:80]!r}")
    return bool(text.strip()) and check(text, options)


def _related(count: int, options: Mapping[str, Any], relation: str, wanted: str) -> bool:
    word, number = _text(options, relation), _number(options, wanted)
    if word not in ("less than", "at least"):
        raise FormatError(f"{relation} is {word[:40]!r}", "it is 'less than' or 'at least'")
    return count < number if word == "less than" else count >= number


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    if not isinstance(value, str) or not value:
        raise FormatError(f"{name} is {value!r:.60}", "it is a text")
    return value


def _number(options: Mapping[str, Any], name: str) -> int:
    value = options.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
        raise FormatError(f"{name} is {value!r:.60}", f"it is a whole number up to {_MAX_COUNT}")
    return value


def _words(options: Mapping[str, Any], name: str) -> list[str]:
    value = options.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise FormatError(f"{name} is {value!r:.60}", "it is a list of texts")
    return value
