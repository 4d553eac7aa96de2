"""What lm-eval writes, and a receipt of it: nothing in its files is trusted.

``--output_path`` holds ``results_*.json`` (scores, configuration, versions) and, a file a task,
``samples_TASK_*.jsonl``: one line for each item and filter, with the item, the requests, what came
back, and the item's own value of each metric.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from overt.errors import FormatError
from overt.evaluation.suites import intervals, receipt
from overt.openness.export.text import canonical

MAX_BYTES: Final = 1 << 30
MAX_ITEMS: Final = 1_000_000
_MAX_LINE: Final = 16 << 20
_FIRST: Final = ("acc", "exact_match", "pass@1", "f1", "em")
"""Metrics that are the score where a task has several, in this order."""
_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class LmEvalItem:
    """One item of one task.

    Attributes:
        task, number: which.
        seal: sha256 of item, target and prompt, as lm-eval tells them.
        values: each metric's own value.
        logprobs: of each choice or continuation; None in an answer that was written.
        answer: what was written, or the number of the likeliest choice.
    """

    task: str
    number: str
    seal: str
    prompt: str
    values: Mapping[str, float]
    logprobs: tuple[float, ...] | None
    answer: str


@dataclass(frozen=True, slots=True)
class LmEvalOutput:
    """All of a run: `results` and `configs` by task, `versions`, and the items."""

    results: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    version: str
    items: tuple[LmEvalItem, ...] = field(repr=False)


def read(folder: Path) -> LmEvalOutput:
    """What lies in the folder of ``--output_path``.

    Raises:
        FormatError: no results, or files that are not what lm-eval writes; with the line.
    """
    results = sorted(folder.rglob("results_*.json"))
    samples = sorted(folder.rglob("samples_*.jsonl"))
    if len(results) != 1 or not samples:
        raise FormatError(f"lm-eval wrote {len(results)} results and {len(samples)} lists of items")
    return parsed(_bounded(results[0]), {path.name: _bounded(path) for path in samples})


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path.name} of lm-eval is larger than {MAX_BYTES >> 20} MiB")
    return data


def parsed(results: bytes, samples: Mapping[str, bytes]) -> LmEvalOutput:
    """The same of bytes; `samples` by the names of their files.

    Raises:
        FormatError: as `read`.
    """
    report = _json(results, "lm-eval's results")
    items: list[LmEvalItem] = []
    for name, data in sorted(samples.items()):
        task = name.removeprefix("samples_").rpartition("_")[0] or name
        items += _items(task, data, name)
        if len(items) > MAX_ITEMS:
            raise FormatError(f"lm-eval wrote more than {MAX_ITEMS} items")
    return LmEvalOutput(
        {task: _object(value) for task, value in _object(report.get("results")).items()},
        {task: _object(value) for task, value in _object(report.get("configs")).items()},
        {task: str(value)[:40] for task, value in _object(report.get("versions")).items()},
        str(report.get("lm_eval_version") or "")[:40],
        tuple(items),
    )


def _items(task: str, data: bytes, name: str) -> Iterator[LmEvalItem]:
    """One for each item; of several filters the first is what it answered and its score."""
    items: dict[str, LmEvalItem] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(line) > _MAX_LINE:
            raise FormatError(f"line {number} of {name} has {len(line)} bytes")
        item = _item(task, _json(line, f"line {number} of {name}"), f"line {number} of {name}")
        before = items.get(item.number)
        if before is not None:
            if before.seal != item.seal:
                raise FormatError(f"line {number} of {name} is item {item.number} once more")
            new = {key: value for key, value in item.values.items() if key not in before.values}
            item = replace(before, values={**before.values, **new})
        items[item.number] = item
    yield from items.values()


def _item(task: str, row: Mapping[str, Any], where: str) -> LmEvalItem:
    number = row.get("doc_id")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise FormatError(f"{where} has no doc_id", "it is what lm-eval wrote")
    names = row.get("metrics")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{where} names no metrics", "run lm-eval 0.4.8 or newer")
    which = str(row.get("filter", "none"))
    values: dict[str, float] = {}
    for metric in names:
        value = _number(row.get(metric))
        if value is not None:
            values[metric] = value
            values[f"{metric},{which}"] = value
    hashes = [str(row.get(key))[:128] for key in ("doc_hash", "target_hash")]
    answers = row.get("resps")
    logprobs = _logprobs(answers)
    return LmEvalItem(
        task,
        str(number),
        sha256(canonical(hashes).encode()).hexdigest(),
        str(row.get("prompt_hash"))[:128],
        values,
        logprobs,
        _answer(row.get("filtered_resps"), logprobs),
    )


def _logprobs(choices: Any) -> tuple[float, ...] | None:
    """Of ``[[[logprob, is_greedy]], …]``, one for each choice."""
    if not isinstance(choices, list) or not 0 < len(choices) <= 1000:
        return None
    values = []
    for entry in choices:
        while isinstance(entry, list) and len(entry) == 1:
            entry = entry[0]
        value = _number(entry[0]) if isinstance(entry, list) and len(entry) == 2 else None
        if value is None or str(entry[1]) not in ("True", "False"):
            return None
        values.append(value)
    return tuple(values)


def _answer(value: Any, logprobs: tuple[float, ...] | None) -> str:
    if logprobs is not None:
        return str(max(range(len(logprobs)), key=logprobs.__getitem__))
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


def _number(text_value: Any) -> float | None:
    """lm-eval writes numbers of its own as text; what is no finite number is None."""
    if isinstance(text_value, str) and len(text_value) <= 40:
        try:
            text_value = float(text_value)
        except ValueError:
            return None
    if isinstance(text_value, bool):
        return float(text_value)
    try:
        value = float(text_value) if isinstance(text_value, int | float) else math.nan
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no object")
    return value


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# ---- the receipt ---------------------------------------------------------------------------


def receipt_of(
    output: LmEvalOutput,
    task: str,
    model: Mapping[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    begun: float,
    seconds: float,
) -> dict[str, Any]:
    """A receipt of one task (or group of tasks), to be compared with others item by item.

    Raises:
        FormatError: the task gives no score for each item.
    """
    metric = _metric(output)
    items = [_entry(item, metric) for item in output.items]
    scores = [item["score"] for item in items if item["score"] is not None]
    if not scores:
        raise FormatError(f"none of {len(items)} items of {task} has a {metric}")
    interval, method = intervals.of_scores(scores, seed)
    score = intervals.mean(scores)
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun))
    # Receipts that do not say how prompts began may be of prompts without the begin token.
    begun_so = ["begin_token"] if parameters.get("begin_token") is not None else []
    kinds = sorted({str(config.get("output_type")) for config in output.configs.values()})
    prompts = sorted((item.task, item.number, item.prompt) for item in output.items)
    data = sorted((item.task, item.number, item.seal) for item in output.items)
    value: dict[str, Any] = {
        "form": receipt.FORM,
        "made": made,
        "suite": {
            "name": task,
            "kind": "lm-eval",
            "digest": _seal([metric, prompts, kinds, *begun_so]),
            "version": ", ".join(sorted(set(output.versions.values()))),
            "method": f"lm-eval {output.version}: {metric} of {', '.join(kinds)}",
            "items": len(items),
            "asked": len(items),
            "public": True,
            "licence": None,
        },
        "data": [{"file": task, "sha256": _seal(data)}],
        "model": dict(model),
        "judge": None,
        "against": None,
        "parameters": dict(parameters),
        "environment": receipt.environment(),
        "score": score,
        "interval": list(interval),
        "interval_method": method,
        "n": len(scores),
        "summary": _summary(output),
        "totals": _totals(len(items), seconds, away=bool(model.get("away"))),
        "notes": _notes(output, metric, score),
        "items": items,
    }
    name = receipt.name_of(made, task, str(model.get("ref")), f"{begun} {canonical(value)}")
    return value | {"id": name}


def _metric(output: LmEvalOutput) -> str:
    """The one that is the score: the best known that every item has, else the first of all."""
    shared: set[str] | None = None
    for item in output.items:
        shared = set(item.values) if shared is None else shared & set(item.values)
    plain = sorted(name for name in shared or () if "," not in name)
    if not plain:
        raise FormatError(
            "this task has no score for each item, and is not compared item by item",
            "choose one with accuracy or exact match",
        )
    return next((name for name in _FIRST if name in plain), plain[0])


def _entry(item: LmEvalItem, metric: str) -> dict[str, Any]:
    detail: dict[str, Any] = {
        name: value for name, value in item.values.items() if "," not in name and name != metric
    }
    if item.logprobs is not None:
        detail["logprobs"] = list(item.logprobs)
    return {
        "id": f"{item.task}/{item.number}",
        "score": item.values.get(metric),
        "answer": item.answer[:_SHOWN],
        "answer_sha256": sha256(item.answer.encode("utf-8", "replace")).hexdigest(),
        "signal": max(item.logprobs) if item.logprobs else None,
        "finish": "",
        "tokens_in": None,
        "tokens_out": None,
        "seconds": 0.0,
        "cost": None,
        "error": None,
        "detail": detail,
    }


def _summary(output: LmEvalOutput) -> dict[str, Any]:
    """lm-eval's own figures: those that are numbers."""
    values = {
        task: {
            name: value
            for name, value_ in figures.items()
            if "," in name and (value := _number(value_)) is not None
        }
        for task, figures in output.results.items()
    }
    return next(iter(values.values())) if len(values) == 1 else values


def _totals(count: int, seconds: float, *, away: bool) -> dict[str, Any]:
    return {
        "errors": 0,
        "judge_unparsed": 0,
        "not_judged": 0,
        "cut": 0,
        "refused": 0,
        "cached": 0,
        "tokens_in": 0,
        "tokens_out": 0,
        "uncounted": count,
        "seconds": round(seconds, 3),
        "cost": None if away else 0.0,
        "cost_known": not away,
        "cost_unknown": count if away else 0,
        "cost_least": 0.0,
    }


def _notes(output: LmEvalOutput, metric: str, score: float) -> list[str]:
    notes = ["the items of this task are public: a model may have been trained on them"]
    own = [
        value
        for figures in output.results.values()
        for name, value_ in figures.items()
        if name.partition(",")[0] == metric and (value := _number(value_)) is not None
    ]
    if len(output.results) == 1 and own and all(abs(value - score) > 1e-6 for value in own):
        notes.append(f"lm-eval gives {own[0]:.4f}, which is not the mean of its items")
    return notes


def _seal(value: Any) -> str:
    return sha256(canonical(value).encode()).hexdigest()
