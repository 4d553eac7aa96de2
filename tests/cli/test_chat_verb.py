"""`overt chat` with its lines piped in: turns, commands, saved chats, and what a failure leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import OvertCli
from overt.cli.options import RANGES
from overt.cli.slash import COMMANDS, HELP, SETTERS, number_of
from overt.errors import BadSetting


def test_each_line_is_a_question(overt_cli: OvertCli) -> None:
    ran = overt_cli("chat", "echo:x", stdin='one\n\n"""two\nlines"""\n three\n')
    assert ran.code == 0
    assert ran.stdout == "one\ntwo\nlines\n three\n"
    assert ran.stderr == ""


def test_json_is_one_object_an_answer(overt_cli: OvertCli) -> None:
    ran = overt_cli(
        "chat", "echo:x", "--json", "--system", "be brief", stdin="a b\nc\n/show system\n"
    )
    first, second, system = map(json.loads, ran.stdout.splitlines())
    assert (first["text"], first["tokens_in"], first["engine"]) == ("a b", 4, "echo")
    assert (second["text"], second["tokens_in"]) == ("c", 7)  # 2 of system, a b twice, c
    assert system == {"about": "system", "text": "be brief"}


def test_what_is_undone_cleared_and_loaded_is_what_the_engine_sees(overt_cli: OvertCli) -> None:
    """The echo engine counts the words of every message, so the count shows the conversation."""
    lines = [
        "a b",  # 2
        "c",  # 2 + 2 + 1
        "/save one",
        "/undo",
        "d e",  # 2 + 2 + 2
        "/retry",  # the same again
        "/clear",
        "f",  # 1
        "/load one",
        "g",  # 2 + 2 + 1 + 1 + 1
        "/system s",
        "/retry",  # one more
        "/bye",
        "never",
    ]
    ran = overt_cli("chat", "echo:x", "--json", stdin="\n".join(lines))
    assert ran.code == 0
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(one["text"], one["tokens_in"]) for one in found] == [
        ("a b", 2), ("c", 5), ("d e", 6), ("d e", 6), ("f", 1), ("g", 7), ("g", 8),
    ]  # fmt: skip


def test_parameters_reach_the_engine_and_default_takes_them_back(overt_cli: OvertCli) -> None:
    lines = ["/set max_tokens 2", "a b c d", "/set parameter max-tokens default", "a b c d",
             '/set stop "c"', "a b c d", "/set stop none", "a b c d"]  # fmt: skip
    ran = overt_cli("chat", "echo:x", stdin="\n".join(lines))
    assert ran.stdout == "a b \na b c d\na b \na b c d\n"
    assert "(max_tokens is 2)" in ran.stderr
    assert "(max_tokens is the default)" in ran.stderr
    assert "(ended by max_tokens or a full context)" in ran.stderr


def test_an_error_is_said_and_the_chat_goes_on(overt_cli: OvertCli) -> None:
    lines = ["/nosuch", "/set heat 1", "/set top_p 7", "/show all", "/load none", "/retry",
             "/image none.png", "/model ./none.gguf", "/set threads x", "still here"]  # fmt: skip
    ran = overt_cli("chat", "echo:x", stdin="\n".join(lines))
    assert ran.stdout == "still here\n"
    said = ran.stderr.splitlines()
    assert len(said) == 9
    assert said[0] == "overt: there is no command '/nosuch'; did you mean /show?"
    assert said[1].startswith("overt: there is no parameter 'heat'; /set takes: seed, temperature")
    assert said[2] == "overt: top_p is '7'; it is a number from 0 to 1"
    assert said[3].startswith("overt: there is nothing to show under 'all'; /show takes: info")
    assert said[4] == "overt: there is no saved chat 'none'; nothing is saved yet: /save NAME"
    assert said[5] == "overt: nothing has been asked yet; type a question"
    assert ran.code == 2, "the status of the first error, as nobody was there to see it"


def test_a_question_that_failed_is_asked_again_or_forgotten(overt_cli: OvertCli) -> None:
    lines = ["/model echo:fail", "a b c d", "/model echo:x", "/retry", "/undo", "e"]
    ran = overt_cli("chat", "echo:x", "--json", stdin="\n".join(lines))
    error, again, last = map(json.loads, ran.stdout.splitlines())
    assert error["error"]["code"] == "engine_failed"
    assert (again["text"], again["tokens_in"]) == ("a b c d", 4)
    assert (last["text"], last["tokens_in"]) == ("e", 1)
    forgotten = ["/model echo:fail", "a b c d", "/undo", "/model echo:x", "e"]
    ran = overt_cli("chat", "echo:x", "--json", stdin="\n".join(forgotten))
    assert json.loads(ran.stdout.splitlines()[-1])["tokens_in"] == 1


def test_saved_chats_keep_their_parameters_and_say_whose_they_are(
    overt_cli: OvertCli, home: Path
) -> None:
    overt_cli("chat", "echo:x", "--temperature", "0.5", "--stop", "#", stdin="a\n/save one\n")
    ran = overt_cli("chat", "echo:y", stdin="/load\n/load one\n/show parameters\n")
    assert ran.stdout == "one\ntemperature  0.5\nstop         '#'\n"
    assert "(2 messages of one are back)" in ran.stderr
    assert "(they were with echo:x: /model echo:x goes on with it)" in ran.stderr
    assert [path.name for path in home.iterdir()] == ["chats"]


def test_help_names_every_command_and_parameter(overt_cli: OvertCli) -> None:
    assert overt_cli("chat", "echo:x", stdin="/help\n").stdout == HELP + "\n"
    for name in (*COMMANDS, *RANGES, *SETTERS):
        assert name in HELP or name in ("/?", "/exit", "/quit")
    assert max(map(len, HELP.splitlines())) <= 79


def test_show_info_of_the_built_in_engine(overt_cli: OvertCli) -> None:
    ran = overt_cli("chat", "echo:x", stdin="hi\n/show info\n/show template\n/show model\n")
    assert ran.stdout == ("hi\nmodel     echo:x\nengine    echo\nmessages  2\necho:x\n")
    assert ran.stderr == (
        "overt: echo is built in and has no file; choose a model: /model smollm2\n"
    )


def test_figures_after_every_answer(overt_cli: OvertCli) -> None:
    ran = overt_cli("chat", "echo:x", "--stats", stdin="a\n/set quiet\nb\n/set verbose\nc\n")
    assert ran.stderr.count(" in all\n") == 2


def test_an_end_inside_quotes_is_an_error(overt_cli: OvertCli) -> None:
    ran = overt_cli("chat", "echo:x", stdin='"""never\nclosed\n')
    assert (ran.code, ran.stdout) == (2, "")
    assert 'overt: the text that began with """ was not closed' in ran.stderr


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.7", 0.7), ("temperature", "0", 0.0), ("seed", "12", 12),
        ("seed", "default", None), ("top_k", "", None), ("presence_penalty", "-1.5", -1.5),
    ],
)  # fmt: skip
def test_numbers_as_typed(name: str, text: str, value: float | None) -> None:
    assert number_of(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("seed", "1.5"), ("seed", "-1"), ("top_p", "nan"), ("temperature", "inf"), ("min_p", "x")],
)
def test_numbers_out_of_range_are_refused(name: str, text: str) -> None:
    with pytest.raises(BadSetting, match=f"{name} is '{text}'; it is a"):
        number_of(name, text)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_stops_an_answer_and_leaves_only_between_answers() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", "chat", "echo:slow"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(" ".join(map(str, range(10, 500))) + "\nnext\n")
        process.stdin.flush()
        assert process.stdout.read(9) == "10 11 12 "
        process.send_signal(signal.SIGINT)
        cut = process.stdout.readline()
        assert len(cut.split()) < 40
        assert process.stdout.readline() == "next\n"
        time.sleep(0.2)  # now it waits for a line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "(stopped; what was said is kept, /undo forgets it, /retry asks again)\n" in err
    assert err.endswith("overt: stopped\n")
    assert "Traceback" not in err


@pytest.mark.model
def test_a_real_conversation(model_home: Path, overt_cli: OvertCli, home: Path) -> None:
    flags = ("--temperature", "0", "--max-tokens", "8", "--offline", "--json", "--home", model_home)
    lines = ["My name is Ada.", "/set context 512", "What is my name?", "word " * 2000, "Thanks."]
    ran = overt_cli("chat", "smollm2", *flags, stdin="\n".join(lines), timeout=240)
    first, second, refused, last = map(json.loads, ran.stdout.splitlines())
    assert second["tokens_in"] > first["tokens_in"] + first["tokens_out"]
    assert second["context"] == 512
    assert refused["error"]["code"] == "context_exceeded"
    assert refused["error"]["message"].endswith("tokens and the context holds 512")
    assert "/undo or /clear forgets messages, /set context" in refused["error"]["hint"]
    assert last["tokens_in"] < 200, "the question that was refused is not part of the conversation"
    alone = overt_cli("run", "smollm2", "My name is Ada.", *flags)
    assert json.loads(alone.stdout)["text"] == first["text"], "one-shot and chat say the same"


@pytest.mark.model
def test_a_model_that_sees_nothing_goes_on_without_the_images(
    model_home: Path, overt_cli: OvertCli, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(
        bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
    )
    lines = [f"/image {tmp_path / 'a.png'}", "What is it?", "/image none", "/retry", "/image none"]
    flags = ("--temperature", "0", "--max-tokens", "2", "--offline", "--json", "--home", model_home)
    ran = overt_cli("chat", "smollm2", *flags, stdin="\n".join(lines), timeout=240)
    refused, answered = map(json.loads, ran.stdout.splitlines())
    assert refused["error"]["hint"].startswith("/image none leaves the images out, then /retry; or")
    assert answered["tokens_out"] == 2
    assert "(1 image is left out from now on)" in ran.stderr
    assert "(0 images are left out from now on)" in ran.stderr
