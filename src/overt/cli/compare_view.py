"""Comparisons and votes on a terminal: answers side by side, figures in a table under them."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from overt.cli.output import is_terminal, plain, table
from overt.evaluation.compare_page import column, counted, licence, seconds, speed, step, where

_WIDE: Final = 100  # columns from which answers stand side by side
_LEAST: Final = 30  # columns of one answer
_MOST_PROMPT: Final = 400  # characters of a question that are repeated


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
    said = " ".join(prompt.split())
    said = said if len(said) <= _MOST_PROMPT else said[: _MOST_PROMPT - 1] + "…"
    return f"{number + 1} of {count}: {said}"


def _answers(document: Mapping[str, Any], number: int) -> list[tuple[str, str]]:
    """(model, its first answer) to one request."""
    found = []
    for model in document["models"]:
        rows = (
            row
            for row in document["rows"]
            if row["model"] == model and row["prompt_index"] == number
        )
        row = next(rows, None)
        found.append((model, "(not asked)" if row is None else said(row)))
    return found


def said(row: Mapping[str, Any]) -> str:
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
    across = is_terminal(sys.stdout) and width >= max(_WIDE, _LEAST * len(answers))
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
            one["model"],
            seconds(one["seconds_to_first_token"]),
            speed(one["tokens_per_second"]).removesuffix(" tokens/s"),
            counted(one["tokens_in"]),
            counted(one["tokens_out"]),
            cost,
            _openness(one),
            licence(one),
        )
        for one, cost in zip(lines, column(lines), strict=True)
    ]
    head = ("model", "first token", "tokens/s", "in", "out", "cost", "openness", "licence")
    gone = [
        f"{plain(one['model'])}: {plain(where(one))}"
        + (f", {one['bytes_out']} bytes" if one["bytes_out"] else "")
        for one in lines
    ]
    return "\n".join([table(head, rows), "", *gone])


def _openness(one: Mapping[str, Any]) -> str:
    return f"{step(one['step'])} ({one['step_basis']})" if one["step"] else "not known"


# -- votes -----------------------------------------------------------------------------------------


def votes(value: Mapping[str, Any]) -> str:
    """The table of `Table.as_json`."""
    models = value["models"]
    if not models:
        return "there are no votes yet; type `overt compare … -m A -m B --blind`"
    rows = [
        (
            one["model"],
            f"{one['elo']:.0f}",
            "{:.0f} to {:.0f}".format(*one["interval"]),
            one["votes"],
            one["wins"],
            one["losses"],
            one["ties"],
        )
        for one in models
    ]
    head = ("model", "elo", "95 %", "votes", "wins", "losses", "ties")
    parts = [table(head, rows), _matrix(value)]
    if value["groups"] > 1:
        groups: dict[int, list[str]] = {}
        for one in models:
            groups.setdefault(one["group"], []).append(plain(one["model"]))
        named = "; ".join(", ".join(own) for own in groups.values())
        parts.append(f"No votes connect these, so their Elo cannot be compared: {named}")
    count = value["votes"]
    parts.append(f"{count} vote{'' if count == 1 else 's'}. “Both bad” counts as a tie.")
    return "\n\n".join(parts)


def _matrix(value: Mapping[str, Any]) -> str:
    """How often the model of the row was preferred to that of the column, ties as half."""
    names = [one["model"] for one in value["models"]]
    short = [str(number) for number in range(1, len(names) + 1)]
    rows = [
        (
            f"{number} {one}",
            *("-" if one == two else f"{value['matrix'][one][two]:g}" for two in names),
        )
        for number, one in zip(short, names, strict=True)
    ]
    return table(("preferred to", *short), rows)
