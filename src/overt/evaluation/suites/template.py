"""``{field}`` in a text, and nothing else: no attributes, no formats, no code.

Suites and their data may come from anybody, so Python's own ``str.format`` is out of the question:
it reaches into objects.
"""

import re
from collections.abc import Mapping

from overt.errors import FormatError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}\n]{1,64})\}|[{}]")


class FieldTemplate:
    """A text with fields. ``{{`` and ``}}`` stand for braces.

    Attributes:
        text: as it was written.
        fields: names that `fill` needs, each once.

    Raises:
        FormatError: a brace that neither opens a field nor is doubled.
    """

    def __init__(self, text: str, what: str) -> None:
        self.text, self._what = text, what
        self._pieces: list[tuple[bool, str]] = []  # (is a field, name or text)
        at = 0
        for match in _PIECE.finditer(text):
            self._pieces.append((False, text[at : match.start()]))
            at = match.end()
            if match[0] in ("{{", "}}"):
                self._pieces.append((False, match[0][0]))
            elif match[1] is not None:
                self._pieces.append((True, match[1].strip()))
            else:
                raise FormatError(
                    f"{what} has a lone {match[0]!r} at character {match.start() + 1}",
                    "write {{ or }} for a brace, {column} for a field",
                )
        self._pieces.append((False, text[at:]))
        self.fields = tuple(dict.fromkeys(name for field, name in self._pieces if field))

    def fill(self, values: Mapping[str, str], where: str = "") -> str:
        """The text with `values` in it; `where` is the row, for errors.

        Raises:
            FormatError: a field has no value.
        """
        for name in self.fields:
            if name not in values:
                there = ", ".join(list(values)[:12]) or "none"
                raise FormatError(
                    f"{where + ': ' if where else ''}{self._what} needs the column {name!r}"
                    f" and the columns are {there[:300]}",
                    "name a column, or write {{ and }} for braces that are meant as such",
                )
        return "".join(values[text] if field else text for field, text in self._pieces)
