"""Voting on answers without knowing whose they are."""

import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from secrets import SystemRandom
from string import ascii_uppercase
from typing import Final

from overt.cli import compare_view
from overt.cli.output import Output, is_terminal
from overt.errors import BadRequest, UsageError
from overt.evaluation import votes
from overt.evaluation.compare import ComparisonRow
from overt.evaluation.prompts import PromptCase
from overt.evaluation.votes import Outcome, Vote
from overt.settings import Settings

MAX_MODELS: Final = len(ascii_uppercase)
_MAX_PIPED_BYTES: Final = 1 << 20
_TIE = ("tie", "t", "=")
_BAD = ("both bad", "bad", "x")
_SKIP = ("skip", "s", "")
_STOP = ("q", "quit")


class Ballot:
    """Asks for votes, one pair at a time, and writes each down as soon as it is given.

    Votes are typed at a terminal, or piped in, a line a vote in the order of the questions; then
    all lines are read before anything is asked of a model.
    """

    def __init__(self, out: Output, settings: Settings, models: Sequence[str]) -> None:
        if len(models) < 2:
            raise UsageError("a vote needs two models", "name another: -m MODEL")
        if len(models) > MAX_MODELS:
            raise UsageError(f"{len(models)} models are too many to vote on", "name fewer")
        self._out, self._settings = out, settings
        self._typed = is_terminal(sys.stdin) and not out.json
        self._lines = iter(()) if self._typed else _piped()
        self._number = 0
        self.given: list[Vote] = []
        self.names: list[dict[str, str]] = []  # of each request: which letter was which model
        self._failed: list[str] = []  # told afterwards: who failed is a part of who wrote what

    def vote(self, asks: Sequence[PromptCase], rows: Sequence[ComparisonRow]) -> None:
        """Show the answers to each request and ask about every pair of them.

        Raises:
            BadRequest: a piped line is no vote.
            Failure: the votes cannot be written.
        """
        try:
            for number, ask in enumerate(asks):
                own = [
                    row
                    for row in rows
                    if row.prompt_index == number and row.repeat == 0 and row.error is None
                ]
                self._failed += [
                    f"{row.model} failed: {row.error}"
                    for row in rows
                    if row.prompt_index == number and row.repeat == 0 and row.error is not None
                ]
                self._on(number, len(asks), ask, own)
        except EOFError:
            self._note("voting ended here")

    def revealed(self) -> str:
        """Which letter was which model, a line a request, and who failed and why."""
        lines = []
        for number, names in enumerate(self.names, 1):
            reveal = ", ".join(f"{letter} was {model}" for letter, model in names.items())
            lines.append(f"{number}: {reveal}" if len(self.names) > 1 else reveal)
        return "\n".join([*lines, *dict.fromkeys(self._failed)]) if lines else ""

    def _on(self, number: int, count: int, ask: PromptCase, rows: list[ComparisonRow]) -> None:
        if len(rows) < 2:
            which = f" to question {number + 1}" if count > 1 else ""
            self._note(f"fewer than two models answered{which}: there is nothing to vote on")
            return
        SystemRandom().shuffle(rows)
        letters = dict(zip(ascii_uppercase, rows, strict=False))
        self.names.append({letter: row.model for letter, row in letters.items()})
        if not self._out.json:
            shown = [
                (letter, compare_view.answer_text(row.as_json())) for letter, row in letters.items()
            ]
            self._out.line(compare_view.heading(number, count, ask.prompt))
            self._out.line("\n" + compare_view.side_by_side(shown) + "\n")
        for (left, first), (two, second) in combinations(letters.items(), 2):
            if first.answered == second.answered:
                continue
            if first.text == second.text:
                self._note(f"{left} and {two} wrote the same")
                continue
            outcome = self._ask(left, two)
            if outcome is not None:
                vote = Vote(votes.now(), ask.digest, (first.answered, second.answered), outcome)
                votes.add(self._settings.home, vote)
                self.given.append(vote)

    def _ask(self, left: str, two: str) -> Outcome | None:
        """One vote; None for none. Raises EOFError: no more are wanted."""
        question = f"Which is better: {left}, {two}, tie, both bad, skip? (q ends)"
        while True:
            self._note(question)
            line = sys.stdin.readline() if self._typed else next(self._lines, "")
            self._number += 1
            if not line or (word := " ".join(line.split()).lower()) in _STOP:
                raise EOFError
            if word in _SKIP:
                return None
            if word in _TIE:
                return "tie"
            if word in _BAD:
                return "both_bad"
            if word in (left.lower(), two.lower()):
                return "first" if word == left.lower() else "second"
            if not self._typed:
                raise BadRequest(
                    f"line {self._number} of the votes is {line.strip()[:40]!r}",
                    f"write {left}, {two}, tie, both bad or skip",
                )

    def _note(self, text: str) -> None:
        if not self._out.json:
            self._out.note(text)


def _piped() -> Iterator[str]:
    """The lines piped in. Raises UsageError: there are none."""
    hint = "vote at a terminal, or pipe in a line a vote: A, B, tie, both bad or skip"
    if is_terminal(sys.stdin):
        raise UsageError("--json with --blind takes piped votes only", hint)
    text = sys.stdin.read(_MAX_PIPED_BYTES + 1) if sys.stdin else ""
    if len(text) > _MAX_PIPED_BYTES:
        raise UsageError(f"more than {_MAX_PIPED_BYTES} characters of votes were piped in", hint)
    if not text.strip():
        raise UsageError("there is nobody to vote: stdin is no terminal", hint)
    return iter(text.splitlines(keepends=True))
