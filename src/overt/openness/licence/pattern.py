"""Regular expressions that are compiled when they are first used: a run loads many and uses few."""

import re
from collections.abc import Callable, Iterator


class Pattern:
    """What `re.compile` gives, later."""

    __slots__ = ("_flags", "_made", "_source")

    def __init__(self, source: str, flags: int = 0) -> None:
        self._source = source
        self._flags = flags
        self._made: re.Pattern[str] | None = None

    def _compiled(self) -> re.Pattern[str]:
        if self._made is None:
            self._made = re.compile(self._source, self._flags)
        return self._made

    def search(self, text: str, at: int = 0, end: int | None = None) -> re.Match[str] | None:
        return self._compiled().search(text, at, len(text) if end is None else end)

    def match(self, text: str) -> re.Match[str] | None:
        return self._compiled().match(text)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        return self._compiled().fullmatch(text)

    def finditer(self, text: str, at: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
        return self._compiled().finditer(text, at, len(text) if end is None else end)

    def findall(self, text: str) -> list[str]:
        return self._compiled().findall(text)

    def sub(self, new: str | Callable[[re.Match[str]], str], text: str) -> str:
        return self._compiled().sub(new, text)

    def subn(self, new: str, text: str) -> tuple[str, int]:
        return self._compiled().subn(new, text)
