"""The one place that prints: modes, tables, numbers for people, and text that stays text."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.cli.output import (
    Output,
    as_json,
    duration,
    number,
    pairs,
    plain,
    shown,
    size,
    styled,
    table,
)
from overt.errors import Busy


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Both streams on one terminal."""
    both = Terminal()
    monkeypatch.setattr("sys.stdout", both)
    monkeypatch.setattr("sys.stderr", both)
    monkeypatch.setenv("TERM", "xterm")
    return both


def test_a_result_in_each_mode(capsys: pytest.CaptureFixture[str]) -> None:
    for mode, expected in {
        "human": "for people\n",
        "json": '{"a": 1}\n',
        "quiet": "bare\n",
    }.items():
        Output(mode).result({"a": 1}, lambda: "for people", lambda: "bare")  # type: ignore[arg-type]
        assert capsys.readouterr() == (expected, "")
    Output("quiet").result({"a": 1}, lambda: "for people")
    assert capsys.readouterr() == ("", "")


def test_remarks_go_to_stderr_and_quiet_leaves_them_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for mode, expected in {"human": "by the way\n", "json": "by the way\n", "quiet": ""}.items():
        Output(mode).note("by the way")  # type: ignore[arg-type]
        assert capsys.readouterr() == ("", expected)
    Output("quiet").warn("look out")
    assert capsys.readouterr() == ("", "overt: look out\n")


def test_an_error_ends_an_open_answer_first(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.piece("half an ans")
    out.error(Busy("no"))
    assert capsys.readouterr() == ("half an ans\n", "overt: no\n")


def test_thoughts_stay_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.thought("let me see")
    out.piece("42")
    out.end_line()
    assert capsys.readouterr() == ("42\n", "let me see\n")


def test_status_only_moves_on_a_terminal(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    Output().status("working")
    assert capsys.readouterr() == ("", "")
    terminal = request.getfixturevalue("terminal")
    out = Output()
    out.status("working")
    out.line("done")
    assert terminal.getvalue() == "\r\x1b[Kworking\r\x1b[Kdone\n"


def test_colour_is_for_terminals_that_want_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert styled("x", "dim", terminal) == "\x1b[2mx\x1b[0m"
    assert styled("x", "dim", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", "dim", terminal) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert styled("x", "dim", terminal) == "x"


@given(st.text())
def test_nothing_a_model_says_drives_the_terminal(text: str) -> None:
    safe = shown(text, Terminal())
    assert not [c for c in safe if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"]
    assert shown(text, io.StringIO()) == text
    assert plain(safe) == safe


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_json_is_json_whatever_is_in_it(value: object) -> None:
    text = as_json(value)
    text.encode("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_table_lines_up_and_numbers_stand_right() -> None:
    rows = [("smollm2", "94 MiB", 3), ("a\nb\x1b", "-", 12)]
    assert table(("name", "size", "n"), rows) == (
        "NAME       SIZE   N\nsmollm2  94 MiB   3\na b\\x1b       -  12"
    )
    assert table(("name",), []) == "NAME"


def test_pairs_leave_out_what_is_not_known() -> None:
    assert pairs({"one": 1, "nothing": None, "lines": "a\nb"}) == "one    1\nlines  a\n       b"
    assert pairs({}) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (98_362_432, "94 MiB"),
        (1024**2 - 1, "1.0 MiB"), (1.2 * 2**30, "1.2 GiB"), (5 * 2**50, "5120 TiB"),
    ],
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_counts_and_durations() -> None:
    assert [number(n) for n in (7, 134_515_008, 7.3e9, 1.5e12)] == ["7", "135 M", "7.3 G", "1.5 T"]
    assert [duration(s) for s in (0.04, 9.96, 75, 100, 3700)] == [
        "0.0 s", "10.0 s", "75 s", "1 min 40 s", "1 h 1 min",
    ]  # fmt: skip
