"""What every runner may do first: take a part of the answer by the suite's own expression.

A regular expression can take for ever on a text that was made for it, and the text is a model's. So
it runs in a process of its own with a limit of time and memory (formats/subprocess_reader.py).
"""

import asyncio
import re
from typing import Final

from overt.errors import FormatError
from overt.evaluation.suites.suite import Suite
from overt.formats import subprocess_reader

SECONDS: Final = 2
HOST: Final = "overt.evaluation.suites.extract_host"
MAX_CHARACTERS: Final = 50_000


class Extract:
    """The part of an answer that counts: the first group of `extract:`, of its last match.

    Without a match there is none (""); without `extract:` it is the whole answer.

    Raises:
        FormatError: not an expression of Python's `re`.
    """

    def __init__(self, suite: Suite) -> None:
        self.pattern = str(suite.told.get("extract", ""))
        try:
            re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise FormatError(
                f"`extract:` of {suite.name} is not a regular expression: {error}",
                "write it as for Python's re module, between 'single quotes'",
            ) from None

    async def __call__(self, text: str) -> str:
        """Raises Exceeded: the expression took more than two seconds on it."""
        if not self.pattern:
            return text
        question = {"pattern": self.pattern, "text": text[-MAX_CHARACTERS:]}
        value = await asyncio.to_thread(subprocess_reader.run, HOST, question, SECONDS)
        return str(value)
