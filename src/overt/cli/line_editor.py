'''Reading what a person types in a chat: an editing prompt on a terminal, plain lines elsewhere.

A text that begins with """ goes on over many lines until the next """, also as a command's value
(``/system """``).
'''

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from overt.cli.output import is_terminal
from overt.errors import UsageError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

QUOTES = '"""'
_ASK, _MORE = ">>> ", "... "


class LineReader(Protocol):
    """Where the lines of a chat come from."""

    async def line(self, prompt: str) -> str | None:
        """The next line without its end; None when there are no more."""

    def remember(self, wanted: bool) -> None:
        """Keep what is typed in the history file from now on, or not."""


async def read(reader: LineReader) -> str | None:
    """The next whole input, several lines joined where they are quoted; None at the end.

    Raises:
        UsageError: the input ended inside a quoted text.
    """
    line = await reader.line(_ASK)
    if line is None or not _opens(line):
        return line
    before, _, text = line.partition(QUOTES)
    while QUOTES not in text:
        more = await reader.line(_MORE)
        if more is None:
            raise UsageError(
                f"the text that began with {QUOTES} was not closed", f"end it with {QUOTES}"
            )
        text += "\n" + more
    return before + text.partition(QUOTES)[0].strip("\n")


def _opens(line: str) -> bool:
    before = line.partition(QUOTES)[0]
    return QUOTES in line and (not before.strip() or before.startswith("/"))


class Plain:
    """Lines of stdin, for scripts and for terminals without a screen."""

    def __init__(self) -> None:
        reconfigure = getattr(sys.stdin, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")

    async def line(self, prompt: str) -> str | None:
        # Blocking on purpose: nothing else happens while a person thinks, and Ctrl-C gets through.
        if is_terminal(sys.stdin):
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None

    def remember(self, wanted: bool) -> None:
        """Plain lines leave no history."""


class Editor:
    """A line editor with history (arrow keys, Ctrl-R) and completion of commands (Tab).

    Alt-Enter puts in a line break. The history file is for its owner's eyes only.
    """

    def __init__(self, history: Path, words: list[str]) -> None:
        self._history, self._words = history, words
        self._session = self._make(remembered=True)

    async def line(self, prompt: str) -> str | None:
        try:
            return await self._session.prompt_async(prompt)
        except EOFError:
            return None

    def remember(self, wanted: bool) -> None:
        self._session = self._make(remembered=wanted)

    def _make(self, *, remembered: bool) -> "PromptSession[str]":
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        history: History = InMemoryHistory()
        if remembered:
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY, 0o600))
            history = FileHistory(str(self._history))
        return PromptSession(
            history=history,
            key_bindings=keys,
            completer=WordCompleter(self._words, sentence=True),
            complete_while_typing=False,
            enable_history_search=True,
        )


def choose(history: Path, words: list[str], *, json: bool) -> LineReader:
    """An editor where a person sits at a terminal, plain lines otherwise."""
    if json or not is_terminal(sys.stdin) or not is_terminal(sys.stdout):
        return Plain()
    return Editor(history, words)
