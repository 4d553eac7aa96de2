"""At a real terminal: the editor of a chat, Ctrl-C, Ctrl-D, the yes of `rm`, the bar of a pull."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("a terminal is driven by pty", allow_module_level=True)

import pty

from servers import publish, serving, wheel

CURSOR_WHERE = b"\x1b[6n"
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed there is a signal here
os.execv(sys.argv[1], sys.argv[1:])
"""


class Session:
    """A program at a terminal of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self.seen = b""
        self.terminal, other = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        command = [sys.executable, "-m", "overt", *map(str, arguments)]
        # No pty.fork: beside the threads of a test's server it would be unsafe.
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *command],
            stdin=other, stdout=other, stderr=other, start_new_session=True, env=environ,
        )  # fmt: skip
        os.close(other)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Read until `pattern` shows; returns what was read since the last call, and forgets it."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern.encode(), self.seen)):
            if not self._read(until):
                pytest.fail(f"{pattern!r} did not show within {seconds} s: {self.seen!r}")
        text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return text.decode("utf-8", "replace")

    def leave(self, seconds: float = 60) -> int:
        """Read to the end; the exit status."""
        until = time.monotonic() + seconds
        while self._read(until):
            pass
        try:
            return self.process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"the program has not ended within {seconds} s: {self.seen!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self.terminal], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # the program has gone
            return False
        if CURSOR_WHERE in data:
            self.type("\x1b[1;1R")
        self.seen += data
        return bool(data)


At = Callable[..., Session]
READY = r"\?2004h[^\n]*>>> ?"  # the editor takes pasted text, and has shown its prompt
SENT = r"\?2004l"


@pytest.fixture
def at_terminal() -> Iterator[At]:
    open_ones: list[Session] = []

    def start(*arguments: str | Path) -> Session:
        open_ones.append(Session(*arguments))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


def _send(session: Session, text: str) -> None:
    session.wait_for(READY)
    session.type(text + "\r")
    session.wait_for(SENT)


def test_ctrl_c_stops_the_answer_and_not_the_program(at_terminal: At) -> None:
    session = at_terminal("chat", "echo:slow")
    session.wait_for("Ctrl-D leaves")
    _send(session, " ".join(f"w{n}" for n in range(200)))
    session.wait_for("w3 ")
    begun = time.monotonic()
    session.type("\x03")
    rest = session.wait_for(r"\(stopped; what was said is kept")
    assert time.monotonic() - begun < 1.5
    assert "w60" not in rest
    _send(session, "still here")
    session.wait_for("still here\r\n")
    session.wait_for(READY)
    session.type("\x04")
    assert session.leave() == 0


def test_ctrl_c_at_the_prompt_drops_the_line_and_ctrl_d_leaves(at_terminal: At) -> None:
    session = at_terminal("chat", "echo:x")
    session.wait_for(READY)
    session.type("half a line\x03")
    session.wait_for(r"\(Ctrl-D or /bye leaves\)")
    _send(session, "whole line")
    session.wait_for("whole line\r\n")
    _send(session, "/bye")
    assert session.leave() == 0
    assert b"half a line\r\n" not in session.seen


def test_what_is_typed_is_remembered_for_its_owner_and_found_again(
    at_terminal: At, home: Path
) -> None:
    session = at_terminal("chat", "echo:x")
    _send(session, "remember me")
    _send(session, "/set nohistory")
    _send(session, "forget me")
    _send(session, "/bye")
    assert session.leave() == 0
    history = home / "history"
    assert history.stat().st_mode & 0o077 == 0
    kept = history.read_text()
    assert "+remember me" in kept
    assert "forget me" not in kept
    session = at_terminal("chat", "echo:x")
    session.wait_for(READY)
    session.type("\x1b[A\x1b[A\r")  # up, up, enter
    session.wait_for(SENT)
    session.wait_for("remember me\r\n")


def test_a_line_break_is_typed_with_alt_enter(at_terminal: At) -> None:
    session = at_terminal("chat", "echo:x")
    _send(session, "one\x1b\rtwo")
    session.wait_for("one\r\ntwo\r\n")


def test_run_without_a_prompt_talks(at_terminal: At) -> None:
    session = at_terminal("run", "echo:x")
    _send(session, "hello there")
    session.wait_for("hello there\r\n")
    session.wait_for(READY)
    session.type("\x04")
    assert session.leave() == 0


def test_a_model_cannot_drive_the_terminal(at_terminal: At) -> None:
    session = at_terminal("run", "echo:x", "a \x1b[31mred\x07 one")
    assert session.leave() == 0
    assert b"a \\x1b[31mred\\x07 one\r\n" in session.seen


def test_a_second_thought_at_the_yes_of_rm(
    at_terminal: At, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from servers import gguf

    with serving() as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        publish(server, "m", {"1": wheel("m", "1", {"m.gguf": gguf(1, 3_000_000)})})
        session = at_terminal("pull", "pypi:m")
        assert session.leave() == 0
        assert re.search(rb"m-1-py3-none-any.whl .*100 % of 2.9 MiB", session.seen), session.seen
        assert b"pypi:m is in the store" in session.seen
    session = at_terminal("rm", "pypi:m")
    session.wait_for(r"the last copy here[^?]*remove\? \[y/N\] ")
    session.type("n\r")
    assert session.leave() == 130
    assert any((home / "names").iterdir())
    session = at_terminal("rm", "pypi:m")
    session.wait_for(r"\[y/N\] ")
    session.type("y\r")
    assert session.leave() == 0
    assert not any((home / "names").iterdir())


def test_a_person_is_told_once_that_words_leave_this_machine(
    at_terminal: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890-never-to-be-shown")
    monkeypatch.setenv("OVERT_EGRESS", "none")  # so that nothing is tried
    session = at_terminal("chat", "echo:x")
    assert "leaves this machine" not in session.wait_for("Ctrl-D leaves")
    _send(session, "/model openai:gpt-5")
    session.wait_for(r"what is said here leaves this machine, for api\.openai\.com")
    _send(session, "/model openai:gpt-4.1")
    assert "leaves this machine" not in session.wait_for("gpt-4.1 answers from now on")
    _send(session, "hello")
    session.wait_for("nothing was sent to api.openai.com")
    session.wait_for("your question is kept: /retry asks it again")
    session.wait_for(READY)
    session.type("\x04")
    assert session.leave() == 0
