"""Scores of evaluations: in files as evaluation harnesses write them, and as a card states them.

Read are the results of EleutherAI's lm-evaluation-harness (``results: {task: {"acc,none": …}}``),
plain ``{task: score}`` and ``{task: {metric: score}}``, tables with a column for the task, and the
hub's ``model-index``.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from overt.openness.subject import places
from overt.openness.subject.card import Card
from overt.openness.subject.subject import Subject

_MAX_FILES: Final = 16
_MAX_SCORES: Final = 5000
_MAX_LINES: Final = 20_000


_KEPT_BOOK: Final = re.compile(
    r"epoch|step|seed|samples|runtime|per_second|flos|loss", re.IGNORECASE
)
"""What trainers write among their results, of the run's last moment and not of the model."""


@dataclass
class MeasuredScores:
    """Scores by task and metric, both in letters and digits alone, and the files they are from."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def measured(subject: Subject) -> MeasuredScores:
    """All scores in the files of results that lie with a model."""
    measured_ = MeasuredScores()
    for file in places.of(subject, "evaluation_results")[:_MAX_FILES]:
        if file.suffix == ".json":
            content = subject.json(file.name)
        elif file.suffix in (".csv", ".tsv"):
            content = _table(subject.text(file.name) or "", file.suffix)
        else:
            continue
        before = len(measured_.scores)
        for task, metric, score in _scores(content):
            if len(measured_.scores) < _MAX_SCORES and not _KEPT_BOOK.search(task):
                measured_.scores.setdefault(_plain(task), {})[_plain(metric)] = score
        if len(measured_.scores) > before:
            measured_.files.append(file.name)
    return measured_


def _scores(content: Any) -> Iterator[tuple[str, str, float]]:
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        content = content["results"]
    if not isinstance(content, dict):
        return
    for task, value in content.items():
        if _is_score(value):
            yield task, "", float(value)
        elif isinstance(value, dict):
            for metric, score in value.items():
                name = str(metric).split(",")[0]
                if _is_score(score) and not name.endswith("stderr"):
                    yield task, name, float(score)


def _table(text: str, suffix: str) -> dict[str, dict[str, float]]:
    """A table of scores: of a first column with names, and numbers in others."""
    scores: dict[str, dict[str, float]] = {}
    try:
        rows = csv.DictReader(text.splitlines(), delimiter="\t" if suffix == ".tsv" else ",")
        for _, row in zip(range(_MAX_SCORES), rows, strict=False):
            names = [cell for cell in row if cell and cell.strip().lower() in _TASKS]
            task = str(row[names[0]]) if names else ""
            for metric, value in row.items():
                if task and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
                    scores.setdefault(task, {})[str(metric)] = float(value)
    except csv.Error:
        return {}
    return scores


_TASKS: Final = ("task", "benchmark", "dataset", "name", "eval", "test")
_NUMBER: Final = re.compile(r"\d{1,3}(?:\.\d{1,8})?")


def _is_score(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 53


def _plain(text: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(text)[:200].lower())


# -- a card beside them --------------------------------------------------------------------------


def compared(card: Card, measured_: MeasuredScores) -> tuple[int, list[tuple[str, str]]]:
    """How many scores of the card are those measured, and (observed, expected) of those not."""
    same, wrong = 0, []
    for task, metric, claimed in _claimed(card):
        measured = _of(measured_.scores, task, metric)
        if not measured:
            continue
        words = " and ".join(claimed)
        if any(_rounds_to(float(score), score, value) for value in measured for score in claimed):
            same += 1
        else:
            measured_text = ", ".join(f"{value:g}" for value in measured[:3])
            files = ", ".join(measured_.files[:2])
            name = f"{task} {metric}".strip()
            wrong.append((f"{files}: {name} is {measured_text}", f"{words}, as {card.name} says"))
    return same, wrong


def _of(scores: Mapping[str, Mapping[str, float]], task: str, metric: str) -> list[float]:
    """Scores of a task, those of the metric first: people name metrics in many ways."""
    held = scores.get(_plain(task))
    if not held:
        return []
    wanted = {"accuracy": "acc", "normalizedaccuracy": "accnorm"}.get(
        _plain(metric), _plain(metric)
    )
    exact = [score for name, score in held.items() if name in (wanted, _plain(metric))]
    return [*exact, *(score for score in held.values() if score not in exact)]


def _rounds_to(score: float, words: str, measured: float) -> bool:
    """Equal as far as the card's digits go, as a share or in percent."""
    decimals = len(words.partition(".")[2].rstrip("% "))
    half = 0.51 * 10.0**-decimals
    return any(abs(score - measured * scale) <= half for scale in (1, 100)) or (
        abs(score * 100 - measured) <= half * 100
    )


def _claimed(card: Card) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(task, metric, words that may be its score) of the card's ``model-index`` and its text."""
    yield from _indexed(card.fields.get("model-index"))
    for line in card.body.split("\n", _MAX_LINES)[:_MAX_LINES]:
        if len(line) > 400:
            continue
        plain = line.strip()
        if plain.startswith("|"):
            cells = [cell.strip(" *`_") for cell in plain.strip("|").split("|")]
        elif plain.startswith(("- ", "* ")):
            cells = [cell.strip(" *`_") for cell in plain[2:].split(":")]
        else:
            continue
        # Other columns hold other models' scores, or how it was measured.
        scores = [c for c in cells[1:] if re.fullmatch(r"\d{1,3}(?:\.\d{1,8})? ?%?", c)]
        if scores:
            yield cells[0], "", tuple(score.rstrip("% ") for score in scores)


def _indexed(index: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for model in _list(index):
        for result in _list(model.get("results")):
            dataset = result.get("dataset")
            task = dataset if isinstance(dataset, dict) else {}
            names = [task.get(key) for key in ("config", "type", "name")]
            for metric in _list(result.get("metrics")):
                value: Any = metric.get("value")
                kind = str(metric.get("type") or metric.get("name") or "")
                if not _is_score(value):
                    continue
                for name in dict.fromkeys(n for n in names if isinstance(n, str) and n):
                    yield name, kind, (f"{value}",)


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [item for item in value[:1000] if isinstance(item, dict)]
