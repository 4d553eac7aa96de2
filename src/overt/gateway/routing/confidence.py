"""What a learnt router sees of a prompt and its answer, and how sure it is that the answer is good.

The features are of prose with sums in it. A router learnt on one kind of work says little about
another. Learning one is evaluation/router.py.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from overt.gateway.routing.arithmetic import sums

__all__ = ["Router", "Sees", "features"]

Sees = Literal["prompt", "answer", "both"]

_NUMBER = re.compile(r"-?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_FINAL = re.compile(rf"####\s*({_NUMBER.pattern})")
_HEDGES = re.compile(
    r"\b(?:however|assum\w+|cannot|can't|not enough|unclear|approximately|about|maybe|perhaps|"
    r"sorry|mistake|wait|actually|rounded?)\b",
    re.IGNORECASE,
)
_HARD_WORDS = {
    "shares": r"%|percent|\b(?:half|third|quarter|fraction|twice|double|triple)\b",
    "rates": r"\b(?:per|each|every|hour|minute|week|month|year)s?\b",
    "compares": r"\b(?:more|less|fewer|than|left|remain\w*|rest|another|other)\b",
    "conditions": r"\b(?:if|but|instead|except|unless|until|then|after)\b",
}
_MAX_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class Router:
    """P(the weak answer is good), by logistic regression on standardized features."""

    sees: Sees
    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def as_json(self) -> dict[str, Any]:
        """What a route keeps of it; `Router.of` reads it back."""
        columns = (self.means, self.scales, self.weights)
        terms = {name: [*column] for name, *column in zip(self.names, *columns, strict=True)}
        return {"sees": self.sees, "bias": self.bias, "terms": terms}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Router":
        """A router from its JSON.

        Raises:
            ValueError: it is not one; one clause.
        """
        sees, bias, terms = document.get("sees"), document.get("bias"), document.get("terms")
        if sees not in ("prompt", "answer", "both") or set(document) != {"sees", "bias", "terms"}:
            raise ValueError("sees (prompt, answer or both), bias and terms")
        known = features("", "", sees).keys()
        if not isinstance(terms, Mapping) or not terms or not terms.keys() <= known:
            raise ValueError("terms named as the features of this version of Overt")
        rows = list(terms.values())
        if not all(isinstance(row, list) and len(row) == 3 for row in rows):
            raise ValueError("a mean, a scale and a weight for each term")
        if not all(map(_is_number, [bias, *(value for row in rows for value in row)])):
            raise ValueError("finite numbers")
        if not all(row[1] > 0 for row in rows):
            raise ValueError("scales above 0")
        means, scales, weights = (tuple(map(float, column)) for column in zip(*rows, strict=True))
        return cls(sees, tuple(terms), means, scales, weights, float(bias or 0))

    def score(self, prompt: str, answer: str = "") -> float:
        """0 to 1, larger is surer. `answer` is not read by a router that sees the prompt alone."""
        values = features(prompt, answer, self.sees)
        total = self.bias
        for name, mean, scale, weight in zip(
            self.names, self.means, self.scales, self.weights, strict=True
        ):
            total += weight * (values[name] - mean) / scale
        return 1 / (1 + math.exp(-min(max(total, -500.0), 500.0)))


def features(prompt: str, answer: str, sees: Sees = "both") -> dict[str, float]:
    """What a router sees of a prompt, of an answer, or of both; all finite."""
    prompt, answer = prompt[:_MAX_CHARACTERS], answer[:_MAX_CHARACTERS]
    values: dict[str, float] = {}
    if sees != "answer":
        values |= _of_prompt(prompt)
    if sees != "prompt":
        values |= _of_answer(prompt, answer)
    return values


def _of_prompt(text: str) -> dict[str, float]:
    numbers = _numbers(text)
    words = re.findall(r"[a-z']+", text.lower())
    hard = {
        name: math.log1p(len(re.findall(pattern, text, re.IGNORECASE)))
        for name, pattern in _HARD_WORDS.items()
    }
    return {
        "prompt_length": math.log1p(len(text)),
        "prompt_sentences": math.log1p(len(re.findall(r"[.?!](?:\s|$)", text))),
        "prompt_numbers": math.log1p(len(numbers)),
        "prompt_distinct": len(set(words)) / max(len(words), 1),
        "prompt_largest": math.log1p(max(map(abs, numbers), default=0.0)),
        "prompt_decimals": float(any(number != int(number) for number in numbers)),
        "prompt_word_length": sum(map(len, words)) / max(len(words), 1),
        **{f"prompt_{name}": value for name, value in hard.items()},
    }


def _of_answer(prompt: str, answer: str) -> dict[str, float]:
    done = list(sums(answer))
    final = _FINAL.search(answer)
    stated_number = _number(final[1]) if final else None
    stated = stated_number if stated_number is not None else next(iter(_numbers(answer)[-1:]), 0.0)
    prompt_numbers = set(_numbers(prompt))
    used = {number for number in _numbers(answer) if number in prompt_numbers}
    hard = len(re.findall(_HARD_WORDS["conditions"], prompt, re.IGNORECASE))
    return {
        "answer_length": math.log1p(len(answer)),
        "answer_lines": math.log1p(answer.count("\n")),
        "answer_final": float(final is not None),
        "answer_sums": math.log1p(len(done)),
        "answer_wrong_sums": math.log1p(sum(not right for _, right, _ in done)),
        "answer_agrees": float(bool(done) and math.isclose(done[-1][0], stated, rel_tol=1e-6)),
        "answer_hedges": math.log1p(len(_HEDGES.findall(answer))),
        "answer_whole": float(stated == int(stated)),
        "answer_negative": float(stated < 0),
        "answer_size": math.log1p(abs(stated)),
        "answer_uses": len(used) / max(len(prompt_numbers), 1),
        "answer_repeats_given": float(stated in prompt_numbers),
        "answer_sums_a_number": len(done) / (1 + len(prompt_numbers)),
        "answer_ends": float(bool(re.search(r"[0-9.!)]\s*$", answer))),
        "answer_conditions": hard / (1 + len(done)),
    }


def _numbers(text: str) -> list[float]:
    return [
        number
        for text_number in _NUMBER.findall(text)
        if (number := _number(text_number)) is not None
    ]


def _number(text: str) -> float | None:
    plain = re.sub(r"[$,]", "", text)
    return float(plain) if len(plain) <= 15 else None


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e12  # and so no infinity, and no NaN
