"""Code that is run: the answer's program with the suite's tests, behind walls (sandbox.py).

The program is the first ``` block of the answer, else all of it. It goes into `program:` in place
of ``{answer}``; an item is right where that ends without an error. A block that starts anew (not
indented) is put on a new line, so that both a whole function and the rest of one work.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from overt.errors import FormatError
from overt.evaluation.suites import sandbox
from overt.evaluation.suites.runners import MAX_TEXT, Grade, RunnerTools
from overt.evaluation.suites.suite import Suite, SuiteItem
from overt.evaluation.suites.template import FieldTemplate

_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9+_.-]*)[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


def program(text: str) -> str:
    """The code of an answer: the first block marked as Python, else the first block, else all."""
    blocks = _FENCE.findall(text[:MAX_TEXT])
    marked = [body for language, body in blocks if language.lower() in ("python", "py", "python3")]
    if marked or blocks:
        return str((marked or [body for _, body in blocks])[0])
    return text[:MAX_TEXT].rstrip()


class _Code:
    def __init__(self, suite: Suite, tools: RunnerTools) -> None:
        self._template = FieldTemplate(str(suite.told["program"]), f"`program:` of {suite.name}")
        if "answer" not in self._template.fields:
            raise FormatError(
                f"`program:` of {suite.name} has no {{answer}}", "write {answer} where it belongs"
            )
        for item in suite.items:
            self._template.fill({**item.row.text, "answer": ""}, item.row.where)
        self._limits = sandbox.SandboxLimits(
            seconds=int(suite.told.get("seconds", 10)),
            memory=int(suite.told.get("memory", 512)) << 20,
        )
        self._open = tools.unsafe_code
        layers = sandbox.check(self._open)
        self.method = "the program with its tests ends without an error, run " + (
            f"behind {' + '.join(layers)}" if layers else "WITHOUT a sandbox"
        )

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        code = program(text)
        if code.strip() and not code[0].isspace():
            code = "\n" + code
        whole = self._template.fill({**item.row.text, "answer": code}, item.row.where)
        ran = await asyncio.to_thread(sandbox.run, whole, self._limits, unsafe=self._open)
        return Grade(float(ran.passed), code, {"why": ran.why, "seconds": round(ran.seconds, 3)})

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """How many ended in which way."""
        ends: dict[str, int] = {}
        for detail in details:
            why = str(detail.get("why", "")).partition(":")[0] or "passed"
            ends[why] = ends.get(why, 0) + 1
        return {"ends": dict(sorted(ends.items()))}


def runner(suite: Suite, tools: RunnerTools) -> _Code:
    return _Code(suite, tools)
