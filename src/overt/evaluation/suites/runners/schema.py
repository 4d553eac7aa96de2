"""JSON that is valid against a schema (JSON Schema, draft 2020-12 where the schema names none).

The answer is the JSON in its first ``` block, else the whole text. The registry of schemas is
closed: a ``$ref`` to elsewhere is an error of the suite, and nothing is ever fetched. A schema may
hold expressions that take for ever, so it is tried in a process of its own (schema_host.py).
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from overt.errors import FormatError
from overt.evaluation.suites.runners import MAX_TEXT, Grade, RunnerTools
from overt.evaluation.suites.suite import Suite, SuiteItem, beside
from overt.formats import subprocess_reader

SECONDS: Final = 5
HOST: Final = "overt.evaluation.suites.schema_host"
_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_MAX_SCHEMA = 1 << 20


def schema_of(suite: Suite) -> Mapping[str, Any]:
    """The schema of a suite: a mapping in it, or a JSON file beside it.

    Raises:
        FormatError: not a JSON Schema, or one that refers to somewhere else.
    """
    schema = suite.told["schema"]
    if isinstance(schema, str):
        if suite.folder is None:
            raise FormatError(
                f"{suite.name} names a schema file and has no folder",
                "write the schema into the suite",
            )
        path = beside(suite.folder, schema, suite.name)
        try:
            with path.open("rb") as file:
                schema = json.loads(file.read(_MAX_SCHEMA))
        except (OSError, ValueError, RecursionError) as error:
            raise FormatError(
                f"{path} is no JSON Schema: {str(error)[:120]}", "correct the file"
            ) from None
    if not isinstance(schema, dict):
        raise FormatError(f"the schema of {suite.name} is not an object", "write {type: object, …}")
    problem = subprocess_reader.run(HOST, {"schema": schema, "value": None, "check": True}, SECONDS)
    if problem.startswith("schema:"):
        raise FormatError(
            f"the schema of {suite.name} does not hold: {problem[7:]}", "correct `schema:`"
        )
    return schema


class _Schema:
    method = "valid JSON that fits the schema"

    def __init__(self, suite: Suite) -> None:
        self._schema = schema_of(suite)

    async def grade(self, item: SuiteItem, text: str) -> Grade:
        fenced = _FENCE.search(text[:MAX_TEXT])
        document = (fenced[1] if fenced else text).strip()
        try:
            value = json.loads(document, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return Grade(0.0, document, {"why": f"not JSON: {str(error)[:200]}", "json": False})
        question = {"schema": self._schema, "value": value}
        why = await asyncio.to_thread(subprocess_reader.run, HOST, question, SECONDS)
        return Grade(float(not why), document, {"why": why, "json": True})

    def summary(self, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"json": sum(bool(detail.get("json")) for detail in details)}


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def runner(suite: Suite, tools: RunnerTools) -> _Schema:
    return _Schema(suite)
