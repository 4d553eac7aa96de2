"""How answers are graded: one file for each kind of suite, each with `runner(suite, tools)`.

A runner gets the item and the model's answer, and gives a `Grade`. Only what it says in `method`
decides; receipts carry that text.
"""

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from overt.chat import Answer, Request
from overt.evaluation.suites.suite import Suite, SuiteItem

MAX_TEXT = 200_000
"""Characters of an answer that are looked at."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What a runner makes of one answer.

    Attributes:
        score: from 0 to 1; None where the item cannot be judged, which leaves it out of the mean.
        answer: what was taken for the answer, in short.
        detail: more of it, for the receipt; JSON values.
    """

    score: float | None
    answer: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunnerTools:
    """What a runner may need beside the answer.

    Attributes:
        ask: the judge's whole answer to a request; the model of the request is set by it.
        judge: its ref, "" for none.
        rival: the answer of the model to compare with, for an item; None for no such model.
        against: the ref of that model.
        unsafe_code: run code without walls where this machine has none.
    """

    ask: Callable[[Request], Awaitable[Answer]] | None = None
    judge: str = ""
    rival: Callable[[SuiteItem], Awaitable[str]] | None = None
    against: str = ""
    unsafe_code: bool = False


class SuiteRunner(Protocol):
    """Grades the answers of one suite."""

    @property
    def method(self) -> str:
        """How, in one sentence, for receipts."""
        ...

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        """The grade of the answer `text`. Raises OvertErrors where grading itself fails."""
        ...

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Further figures of all items' details; {} for none."""
        ...


def make(suite: Suite, tools: RunnerTools) -> SuiteRunner:
    """The runner of a suite's kind.

    Raises:
        FormatError, BadRequest, NoIsolation: the suite, or this machine, cannot be graded so.
    """
    module = importlib.import_module(f"overt.evaluation.suites.runners.{suite.kind}")
    return cast("SuiteRunner", module.runner(suite, tools))
