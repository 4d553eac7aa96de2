"""Comparisons and votes on a terminal: answers side by side, figures in a table under them."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from overt.cli.output import is_terminal, plain, table
from overt.evaluation.compare_page import column, licence, seconds, speed, step, where, with_unknown

_WIDE: Final = 100  # columns from which answers stand side by side
_MIN_COLUMNS: Final = 30  # columns of one answer
_MAX_PROMPT: Final = 400  # characters of a question that are repeated


def columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def page(document: Mapping[str, Any], *, answers: bool = True) -> str:
    """Everything for people: the answers to each request, then the figures."""
    parts = []
    if answers:
        for number, ask in enumerate(document["prompts"]):
            if len(document["prompts"]) > 1:
                parts.append(heading(number, len(document["prompts"]), ask["prompt"]))
            parts.append(side_by_side(_answers(document, number)))
    parts.append(figures(document["summary"]))
    if document["ended"]:
        parts.append(f"Ended early: {document['ended']}.")
    return "\n\n".join(parts)


def heading(number: int, count: int, prompt: str) -> str:
    text = " ".join(prompt.split())
    text = text if len(text) <= _MAX_PROMPT else text[: _MAX_PROMPT - 1] + "…"
    return f"{number + 1} of {count}: {text}"


def _answers(document: Mapping[str, Any], number: int) -> list[tuple[str, str]]:
    """(model, its first answer) to one request."""
    answers = []
    for model in document["models"]:
        rows = (
            row
            for row in document["rows"]
            if row["model"] == model and row["prompt_index"] == number
        )
        row = next(rows, None)
        answers.append((model, "(not asked)" if row is None else answer_text(row)))
    return answers


def answer_text(row: Mapping[str, Any]) -> str:
    """What a row's answer shows: its text, and why there is no more of it."""
    parts = [str(row["text"]).strip("\n")]
    if row["error"]:
        parts.append(f"[failed: {row['error']}]")
    elif not row["text"].strip():
        parts.append("(nothing)")
    elif row["finish"] == "length":
        parts.append("[ended by the limit]")
    return "\n".join(part for part in parts if part)


def side_by_side(answers: Sequence[tuple[str, str]]) -> str:
    """Answers in columns where the terminal is wide enough for all, else below each other."""
    width = columns()
    across = is_terminal(sys.stdout) and width >= max(_WIDE, _MIN_COLUMNS * len(answers))
    if not across or len(answers) < 2:
        return "\n\n".join(f"── {name} ──\n{_safe(text)}" for name, text in answers)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, expand=True, padding=(0, 2, 0, 0), show_edge=False)
    for name, _ in answers:
        drawn.add_column(Text(plain(name)), ratio=1, overflow="fold")
    drawn.add_row(*(Text(_safe(text)) for _, text in answers))
    console = Console(width=width, color_system=None, force_terminal=False, markup=False)
    with console.capture() as caught:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in caught.get().rstrip("\n").split("\n"))


def _safe(text: str) -> str:
    return plain(text) if is_terminal(sys.stdout) else text


def figures(lines: Sequence[Mapping[str, Any]]) -> str:
    """The figures of each model, and under them where its words went."""
    rows = [
        (
            line["model"],
            seconds(line["seconds_to_first_token"]),
            speed(line["tokens_per_second"]).removesuffix(" tokens/s"),
            with_unknown(line["tokens_in"]),
            with_unknown(line["tokens_out"]),
            cost,
            _openness(line),
            licence(line),
        )
        for line, cost in zip(lines, column(lines), strict=True)
    ]
    head = ("model", "first token", "tokens/s", "in", "out", "cost", "openness", "licence")
    gone = [
        f"{plain(line['model'])}: {plain(where(line))}"
        + (f", {line['bytes_out']} bytes" if line["bytes_out"] else "")
        for line in lines
    ]
    return "\n".join([table(head, rows), "", *gone])


def _openness(row: Mapping[str, Any]) -> str:
    return f"{step(row['step'])} ({row['step_basis']})" if row["step"] else "not known"


# -- votes -----------------------------------------------------------------------------------------


def votes(value: Mapping[str, Any]) -> str:
    """The table of `VoteTable.as_json`."""
    models = value["models"]
    if not models:
        return "there are no votes yet; type `overt compare … -m A -m B --blind`"
    rows = [
        (
            model["model"],
            f"{model['elo']:.0f}",
            "{:.0f} to {:.0f}".format(*model["interval"]),
            model["votes"],
            model["wins"],
            model["losses"],
            model["ties"],
        )
        for model in models
    ]
    head = ("model", "elo", "95 %", "votes", "wins", "losses", "ties")
    parts = [table(head, rows), _matrix(value)]
    if value["groups"] > 1:
        groups: dict[int, list[str]] = {}
        for model in models:
            groups.setdefault(model["group"], []).append(plain(model["model"]))
        named = "; ".join(", ".join(own) for own in groups.values())
        parts.append(f"No votes connect these, so their Elo cannot be compared: {named}")
    count = value["votes"]
    parts.append(f"{count} vote{'' if count == 1 else 's'}. “Both bad” counts as a tie.")
    return "\n\n".join(parts)


def _matrix(value: Mapping[str, Any]) -> str:
    """How often the model of the row was preferred to that of the column, ties as half."""
    names = [model["model"] for model in value["models"]]
    short = [str(number) for number in range(1, len(names) + 1)]
    rows = [
        (
            f"{number} {first}",
            *("-" if first == two else f"{value['matrix'][first][two]:g}" for two in names),
        )
        for number, first in zip(short, names, strict=True)
    ]
    return table(("preferred to", *short), rows)
