"""Reading a chat's input: one line, or several between quotes."""

import asyncio

import pytest

from overt.cli.line_editor import read
from overt.errors import UsageError


class Script:
    """A reader with its lines given."""

    def __init__(self, *lines: str) -> None:
        self.left = list(lines)
        self.prompts: list[str] = []

    async def line(self, prompt: str) -> str | None:
        self.prompts.append(prompt)
        return self.left.pop(0) if self.left else None

    def remember(self, wanted: bool) -> None:
        pass


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["hello"], "hello"),
        ([""], ""),
        ([], None),
        (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""all on one line"""'], "all on one line"),
        (['/system """be', 'brief"""'], "/system be\nbrief"),
        (['he said """hi'], 'he said """hi'),
        (['  """indented', 'text"""'], "  indented\ntext"),
    ],
)
def test_texts(lines: list[str], expected: str | None) -> None:
    assert asyncio.run(read(Script(*lines))) == expected


def test_lines_after_the_first_have_another_prompt() -> None:
    script = Script('"""a', 'b"""', "next")
    asyncio.run(read(script))
    assert script.prompts == [">>> ", "... "]
    assert script.left == ["next"]


def test_an_end_inside_quotes_is_said() -> None:
    with pytest.raises(UsageError, match="was not closed"):
        asyncio.run(read(Script('"""a', "b")))
