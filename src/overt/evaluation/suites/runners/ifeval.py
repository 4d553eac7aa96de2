"""IFEval: whether an answer did what it was told in ways a program can see.

The score of an item is 1 where all its instructions were followed, as they stand (prompt-level,
strict). The summary has the other three of the paper: prompt-level loose, and instruction-level
strict and loose. Instructions that are not judged are left out, and counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from overt.errors import FormatError
from overt.evaluation.suites.runners import MAX_TEXT, Grade, RunnerTools
from overt.evaluation.suites.runners.ifeval_checks import CHECKS, NOT_JUDGED, follows, loose
from overt.evaluation.suites.suite import Suite, SuiteItem

_MAX_INSTRUCTIONS = 50  # instructions of one item


class _IFEval:
    method = "all instructions of the prompt followed, strict (Zhou et al. 2023)"

    def __init__(self, suite: Suite) -> None:
        self._names = str(suite.told.get("instructions", "instruction_id_list"))
        self._given = str(suite.told.get("arguments", "kwargs"))
        for item in suite.items:
            for name, options in self._of(item):
                if name not in NOT_JUDGED:
                    try:
                        follows(name, options, "a")
                    except FormatError as error:
                        raise FormatError(
                            f"{item.row.where}: {error.message}", error.hint
                        ) from None

    def _of(self, item: SuiteItem) -> list[tuple[str, Mapping[str, Any]]]:
        names, options = item.row.raw.get(self._names), item.row.raw.get(self._given)
        good = (
            isinstance(names, list)
            and isinstance(options, list)
            and 1 <= len(names) == len(options) <= _MAX_INSTRUCTIONS
            and all(isinstance(name, str) for name in names)
            and all(isinstance(value, dict) for value in options)
        )
        if not good:
            raise FormatError(
                f"{item.row.where} has no lists {self._names!r} and {self._given!r} of one length",
                "as in IFEval's data: names of instructions, and an object of arguments for each",
            )
        for name in names or []:
            if name not in CHECKS and name not in NOT_JUDGED:
                raise FormatError(
                    f"{item.row.where} has the unknown instruction {name[:80]!r}",
                    "correct its name, or leave the item out",
                )
        return list(zip(names or [], options or [], strict=True))

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        text = text[:MAX_TEXT]
        forms = loose(text)
        strict: dict[str, bool] = {}
        easy: dict[str, bool] = {}
        left_out = 0
        for number, (name, options) in enumerate(self._of(item)):
            if name in NOT_JUDGED:
                left_out += 1
                continue
            key = f"{number} {name}"
            strict[key] = follows(name, options, text)
            easy[key] = any(follows(name, options, form) for form in forms)
        detail = {"strict": strict, "loose": easy, "not_judged": left_out}
        if not strict:
            return Grade(None, "", detail)
        return Grade(float(all(strict.values())), "", detail)

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Shares from 0 to 1, counts, and each kind of instruction as [followed, of]."""
        judged = [detail for detail in details if detail.get("strict")]
        kinds: Counter[str] = Counter()
        followed: Counter[str] = Counter()
        easy = 0
        for detail in judged:
            for key, right in detail["strict"].items():
                kinds[key.partition(" ")[2]] += 1
                followed[key.partition(" ")[2]] += right
            easy += sum(detail["loose"].values())
        count = sum(kinds.values())
        return {
            "prompt_loose": _share(
                sum(all(detail["loose"].values()) for detail in judged), len(judged)
            ),
            "instruction_strict": _share(sum(followed.values()), count),
            "instruction_loose": _share(easy, count),
            "instructions": count,
            "instructions_not_judged": sum(int(detail.get("not_judged", 0)) for detail in details),
            "kinds": {name: [followed[name], kinds[name]] for name in sorted(kinds)},
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def runner(suite: Suite, tools: RunnerTools) -> _IFEval:
    return _IFEval(suite)
