"""The top of the command line: help, verbs, flags anywhere, and how every ending is reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conftest import OvertCli
from overt.cli import VERBS
from overt.cli.app import overt, run
from overt.errors import Busy, Failure, OvertError


def _outcome(error: BaseException, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """The status of a command line whose verb raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("overt.cli.list._store", fail)
    return run(["list", *flags])


# ---- help ----------------------------------------------------------------------------------


def test_help_lists_every_verb_with_its_line_and_without_colour(overt_cli: OvertCli) -> None:
    ran = overt_cli("--help")
    assert ran.code == 0
    assert ran.stderr == ""
    for name, verb in VERBS.items():
        assert f"  {name:<10}{verb.help}\n" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert "130 stopped" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [[], ["-h"], ["help"], ["--json"]])
def test_help_is_shown_when_nothing_else_is_asked_for(
    arguments: list[str], overt_cli: OvertCli
) -> None:
    ran = overt_cli(*arguments)
    assert ran.code == 0
    assert ran.stdout == overt_cli("--help").stdout


def test_every_verb_has_help_and_takes_json() -> None:
    runner = CliRunner()
    for name in VERBS:
        found = runner.invoke(overt, [name, "--help"])
        assert found.exit_code == 0, found.output
        assert found.output.startswith("Usage: overt")
        command = overt.get_command(click.Context(overt), name)
        assert command is not None
        below = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        for one in below:
            taken = {option for parameter in one.params for option in parameter.opts}
            assert {"--json", "--quiet", "--debug", "--offline", "--home"} <= taken, one.name


def test_help_topics(overt_cli: OvertCli) -> None:
    codes = overt_cli("help", "exit-codes").stdout
    for code in (0, 1, 2, 3, 4, 5, 130):
        assert f"\n  {code:<5}" in codes
    assert "hf:owner/repo" in overt_cli("help", "refs").stdout
    assert overt_cli("help", "run").stdout.startswith("Usage: overt run ")
    assert overt_cli("help", "nothing").code == 2


def test_version(overt_cli: OvertCli) -> None:
    from importlib.metadata import version

    assert overt_cli("--version").stdout == f"overt {version('overt')}\n"


# ---- flags ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["list", "--json"], ["--json", "list"], ["--offline", "--json", "list"]]
)
def test_flags_of_every_verb_stand_before_or_after_it(
    arguments: list[str], overt_cli: OvertCli
) -> None:
    assert json.loads(overt_cli(*arguments).stdout) == {"models": [], "aliases": []}


def test_a_flag_before_the_verb_reaches_a_verb_of_verbs(overt_cli: OvertCli) -> None:
    assert "engines" in json.loads(overt_cli("--json", "engine", "list").stdout)


def test_what_follows_two_dashes_is_no_flag(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:x", "--", "--json", "is text")
    assert (ran.code, ran.stdout) == (0, "--json is text\n")
    ran = overt_cli("run", "nosuch", "--no-pull", "--", "--json")
    assert (ran.code, ran.stdout) == (3, "")


def test_home_moves_everything(overt_cli: OvertCli, tmp_path: Path, home: Path) -> None:
    other = tmp_path / "other"
    overt_cli("chat", "echo:x", "--home", other, stdin="hello\n/save one\n")
    assert (other / "chats/one.json").is_file()
    assert list(home.iterdir()) == []


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["lst"], 2, "overt: there is no verb 'lst'; did you mean `overt list`"),
        (["zzz"], 2, "overt: there is no verb 'zzz'; `overt --help` lists the verbs"),
        (["list", "--jsn"], 2, "overt: no such option '--jsn'; did you mean --json?"),
        (["--jsn", "list"], 2, "overt: no such option '--jsn'; see `overt --help`"),
        (["show"], 2, "overt: missing argument 'REF'; see `overt show --help`"),
        (
            ["run", "echo:x", "hi", "--top-k", "much"],
            2,
            "overt: invalid value for '--top-k': 'much' is not a whole number; "
            "see `overt run --help`",
        ),
        (["show", "nosuch"], 3, "overt: nosuch is not in the store or the catalogue;"),
        (["run", "gpt 5", "hi"], 2, "overt: 'gpt 5' is not a model name;"),
        (["list", "--isolation", "full"], 2, "overt: no such option '--isolation'"),
        (["settings", "--isolation", "some"], 2, "overt: isolation is 'some'; set it to best"),
    ],
)
def test_a_mistake_is_one_sentence_with_what_to_type_next(
    arguments: list[str], code: int, said: str, overt_cli: OvertCli
) -> None:
    ran = overt_cli(*arguments)
    assert ran.code == code
    assert ran.stdout == ""
    assert ran.stderr.startswith(said)
    assert ran.stderr.count("\n") == 1


def test_with_json_an_error_is_also_one_object(overt_cli: OvertCli) -> None:
    ran = overt_cli("show", "nosuch", "--json")
    error = json.loads(ran.stdout)["error"]
    assert error["code"] == "model_not_found"
    assert error["exit_code"] == ran.code == 3
    assert ran.stderr == f"overt: {error['message']}; {error['hint']}\n"
    usage = overt_cli("--json", "shwo")
    assert json.loads(usage.stdout)["error"]["code"] == "usage_error"
    assert usage.code == 2


def test_every_error_of_the_tree_ends_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds, seen = [OvertError], 0
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        error = kind.__new__(kind)
        OvertError.__init__(error, "this went wrong", "type that")
        assert _outcome(error, monkeypatch) == kind.exit_code
        assert capsys.readouterr() == ("", "overt: this went wrong; type that\n")
        seen += 1
    assert seen > 15


def test_an_error_inside_a_group_of_errors_is_the_one_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = ExceptionGroup("many", [ValueError("x"), ExceptionGroup("more", [Busy("held")])])
    assert _outcome(group, monkeypatch) == 1
    assert capsys.readouterr().err == "overt: held\n"


def test_a_fault_of_ours_is_one_sentence_and_a_traceback_only_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _outcome(KeyError("lost\nline"), monkeypatch) == 1
    assert capsys.readouterr().err == (
        "overt: something went wrong inside Overt (KeyError: 'lost\\nline'); "
        "run again with --debug to see where\n"
    )
    assert _outcome(KeyError("lost"), monkeypatch, "--debug") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "KeyError: 'lost'" in shown
    assert _outcome(Failure("known"), monkeypatch, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "overt: stopped\n"),
        (MemoryError(), 1, "overt: there was not enough memory;"),
        (PermissionError(13, "Permission denied", "/a/b"), 1, "overt: /a/b may not be used"),
    ],
)
def test_foreign_endings(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _outcome(error, monkeypatch) == code
    assert capsys.readouterr().err.lstrip("\n").startswith(said)


def test_a_message_cannot_drive_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _outcome(Failure("bad \x1b[2J\x07 name\u202e"), monkeypatch) == 1
    assert capsys.readouterr().err == "overt: bad \\x1b[2J\\x07 name\\u202e\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes that break are POSIX")
def test_a_reader_that_leaves_is_no_error_worth_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "overt", "list", "--available"],
            stdout=gone,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")  # noqa: PTH110
def test_a_full_disk_is_one_sentence() -> None:
    for arguments in (["list", "--available"], ["list", "--json"], ["run", "echo:x", "hi"]):
        with open("/dev/full", "wb") as full:  # noqa: PTH123
            done = subprocess.run(
                [sys.executable, "-m", "overt", *arguments],
                stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=60,
            )  # fmt: skip
        assert done.returncode == 4
        assert done.stderr.startswith(b"overt: the disk is full; free some space")
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments", [["run", "echo:x", "hi"], ["list", "--available"], ["settings"]]
)
def test_a_verb_loads_nothing_that_it_does_not_use(arguments: list[str]) -> None:
    code = (
        "import sys; from overt.cli.app import run; code = run(sys.argv[1:]);"
        "print('loaded:', *sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    heavy = {"rich", "prompt_toolkit", "httpx2", "huggingface_hub", "xllamacpp", "truststore"}
    assert loaded & heavy == set()


def test_a_terminal_without_utf8_still_gets_its_answer(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:x", "naïve →", env={"PYTHONIOENCODING": "ascii"})
    assert (ran.code, ran.stdout) == (0, "na?ve ?\n")
    ran = overt_cli("run", "echo:x", "naïve →", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert json.loads(ran.stdout)["text"] == "naïve →"


@pytest.mark.skipif(os.name != "posix", reason="CPU time of children is read by getrusage")
def test_help_is_there_in_150_ms() -> None:
    """The bar of the project, in CPU time: what a quiet machine waits, whatever this one does."""
    import resource

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(5):
        begun = spent()
        subprocess.run([sys.executable, "-m", "overt", "--help"], capture_output=True, check=True)
        times.append(spent() - begun)
    assert 0 < min(times) < 0.150
