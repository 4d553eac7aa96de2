"""`overt run`: prompts from all sides, the contract's object, and what a request is made of."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import OvertCli
from overt.chat import Done, Event, Failed, ImagePart, Routed, Sampling, Text, Usage
from overt.cli.answer import figures, image_part, record, since_start
from overt.cli.options import read_schema
from overt.cli.run import build_request
from overt.cli.usage_report import account
from overt.errors import BadRequest, ContextExceeded, EngineFailed, WorkerDied
from overt.evaluation.timing import TimedAnswer
from overt.gateway.exchange import ModelFacts
from overt.protocols.failure import error_of
from overt.settings import load
from servers import gguf

CONTRACT = [
    "model", "digest", "text", "tokens_in", "tokens_out", "seconds_to_first_token",
    "tokens_per_second", "finish", "engine",
]  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def _given(**changed: Any) -> dict[str, Any]:
    """The flags of a request as click gives them, none set."""
    from overt.cli.options import RANGES

    nothing = dict.fromkeys([*RANGES, "schema", "grammar", "think", "logprobs", "system"])
    return nothing | {"stop": (), "deterministic": False} | changed


# ---- prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "piped", "answer"),
    [
        (["one two"], "", "one two\n"),
        (["one", "two"], "", "one two\n"),
        ([], "from a pipe\n", "from a pipe\n"),
        (["summarise"], "a text\n", "a text\n\nsummarise\n"),
        ([], "\ufeffmarked", "marked\n"),
        (["-1 + 1"], "", None),
        (["--", "-1 + 1"], "", "-1 + 1\n"),
    ],
)
def test_the_prompt_comes_from_the_line_the_pipe_or_both(
    words: list[str], piped: str, answer: str | None, overt_cli: OvertCli
) -> None:
    ran = overt_cli("run", "echo:x", *words, stdin=piped)
    if answer is None:
        assert ran.code == 2
    else:
        assert (ran.code, ran.stdout, ran.stderr) == (0, answer, "")


@pytest.mark.parametrize("piped", ["", "\n\n"])
def test_no_prompt_is_a_usage_error(piped: str, overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:x", stdin=piped)
    assert ran.code == 2
    assert ran.stderr == 'overt: the prompt is empty; write one: overt run smollm2 "Hello"\n'


@pytest.mark.skipif(os.name != "posix", reason="pipes are watched by select")
def test_a_pipe_that_stays_open_is_waited_for_but_not_in_silence() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", "run", "echo:x", "hi"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for the text piped in on stdin")
        out, _ = process.communicate("late", timeout=20)
    assert out == "late\n\nhi\n"


def test_piped_bytes_that_are_no_text_are_refused(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:x", stdin=b"ok \xff\xfe")
    assert ran.code == 2
    assert "is not UTF-8 text (byte 3)" in ran.stderr


# ---- answers -------------------------------------------------------------------------------


def test_json_is_one_object_with_the_keys_of_the_contract(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:hello", "one two three", "--json", "--seed", "1",
                    "--temperature", "0", "--max-tokens", "2")  # fmt: skip
    found = json.loads(ran.stdout)
    assert list(found)[:9] == CONTRACT
    assert 0 < found.pop("seconds_to_first_token") < 30
    found.pop("tokens_per_second")
    assert {key: found[key] for key in CONTRACT if key in found} == {
        "model": "echo:hello", "digest": "", "text": "one two ", "tokens_in": 3, "tokens_out": 2,
        "finish": "length", "engine": "echo",
    }  # fmt: skip
    assert ran.stderr == ""


def test_the_first_token_is_timed_from_the_start_of_the_process(overt_cli: OvertCli) -> None:
    begun = time.monotonic()
    found = json.loads(overt_cli("run", "echo:slow", "a b c", "--json").stdout)
    took = time.monotonic() - begun
    assert 0.02 < found["seconds_to_first_token"] < took
    assert 5 < found["tokens_per_second"] < 25  # 20 words a second, as echo:slow promises


def test_tokens_that_no_provider_told_are_null_and_not_0() -> None:
    def said(*events: Event) -> tuple[dict[str, object], str]:
        timed = TimedAnswer()
        for event in (Routed("openai:x"), Text("yes"), *events, Done("stop")):
            timed.answer.add(event)
        told, facts = account("openai:x", timed, load()), ModelFacts("openai:x", "", "openai")
        return record(facts, timed, None, told), figures(facts, timed, None, told)

    for events in ((), (Usage(0, 0),), (Usage(0, 4),)):
        found, line = said(*events)
        assert list(found)[:9] == CONTRACT
        assert (found["tokens_in"], found["tokens_out"], found["cost"]) == (None, None, None)
        assert found["cost_why"] == "the tokens were not counted"
        assert line.startswith("the tokens were not counted (stop); ")
    found, line = said(Usage(3, 2))
    assert (found["tokens_in"], found["tokens_out"]) == (3, 2)
    assert line.startswith("3 tokens in; 2 out (stop)")


def test_since_start_is_the_age_of_this_process() -> None:
    code = "import time; time.sleep(0.3); from overt.cli.answer import since_start as s; print(s())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 0.3 < float(done.stdout) < 5
    assert since_start() > 0.5


def test_thinking_is_kept_apart(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:think", "hi")
    assert (ran.stdout, ran.stderr) == ("hi\n", "The message has 2 characters.\n")
    hidden = overt_cli("run", "echo:think", "hi", "--hide-thinking")
    assert (hidden.stdout, hidden.stderr) == ("hi\n", "")
    found = json.loads(overt_cli("run", "echo:think", "hi", "--json").stdout)
    assert (found["text"], found["thinking"]) == ("hi", "The message has 2 characters.")


def test_logprobs_and_stats(overt_cli: OvertCli) -> None:
    found = json.loads(overt_cli("run", "echo:x", "a b", "--logprobs", "2", "--json").stdout)
    assert found["logprobs"][0] == {
        "token": "a ", "logprob": 0.0, "top": [{"token": "a ", "logprob": 0.0}]
    }  # fmt: skip
    ran = overt_cli("run", "echo:x", "a b", "--logprobs", "2", "--stats")
    assert ran.stdout == "a b\n"
    assert "'a '    0.0000  'a ' 0.0000\n" in ran.stderr
    assert "2 tokens in; 2 out (stop); first token after " in ran.stderr
    quiet = overt_cli("run", "echo:x", "a b", "--logprobs", "2", "--stats", "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("a b\n", "")


def test_a_failure_half_way_keeps_what_was_said(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "echo:fail", "a b c d e")
    assert ran.code == 1
    assert ran.stdout == "a b c \n"
    assert ran.stderr == "overt: echo:fail fails after three words, as its name says\n"
    error = json.loads(overt_cli("run", "echo:fail", "a b c d", "--json").stdout)["error"]
    assert (error["code"], error["exit_code"]) == ("engine_failed", 1)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_interrupt_stops_the_answer_with_130(flags: list[str]) -> None:
    words = " ".join(map(str, range(500)))
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", "run", "echo:slow", words, *flags],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        if flags:
            time.sleep(1.5)
        else:
            assert process.stdout.read(1) == "0"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 1.5
    assert process.returncode == 130
    assert err.strip() == "overt: stopped"
    if flags:
        assert json.loads(out)["error"]["code"] == "stopped"


def test_a_word_that_names_no_flag_is_not_a_model_that_is_pulled(overt_cli: OvertCli) -> None:
    for arguments in (["smol"], ["./no.gguf"], ["sha256:" + "0" * 64]):
        ran = overt_cli("run", *arguments, "hi", stdin="")
        assert ran.code == 3, ran
        assert "pulling" not in ran.stderr


def test_a_missing_model_is_refused_where_pulling_is_not_wanted(overt_cli: OvertCli) -> None:
    ran = overt_cli("run", "smollm2", "hi", "--no-pull")
    assert ran.code == 3
    assert ran.stderr == "overt: smollm2 is not in the store; get it first: overt pull smollm2\n"
    ran = overt_cli("run", "smollm2", "hi", "--offline")
    assert ran.code == 1
    assert "the network is switched off; run `overt pull smollm2` once" in ran.stderr


def test_a_file_that_is_no_model_is_one_sentence(overt_cli: OvertCli, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(gguf())
    ran = overt_cli("run", file, "hi")
    assert (ran.code, ran.stderr.count("\n")) == (1, 1)
    assert "broken.gguf" in ran.stderr


# ---- what the flags become -----------------------------------------------------------------


def test_flags_become_the_request(tmp_path: Path) -> None:
    grammar = tmp_path / "yes.gbnf"
    grammar.write_text('root ::= "yes"')
    request = build_request(
        "m",
        (),
        _given(seed=3, temperature=0.0, top_k=4, stop=("a", "b"), max_tokens=9, think=False,
               grammar=str(grammar), deterministic=True, logprobs=2),
        prompt="go",
    )  # fmt: skip
    assert request.sampling == Sampling(temperature=0.0, top_k=4, seed=3)
    assert (request.max_tokens, request.stop, request.thinking) == (9, ("a", "b"), False)
    assert (request.grammar, request.deterministic, request.logprobs) == ('root ::= "yes"', True, 2)
    assert request.prompt == "go"


def test_a_schema_is_a_file_or_json(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "string"}')
    assert read_schema(str(file)) == read_schema(' {"type": "string"}') == {"type": "string"}
    for text, reason in {
        "{oops": "the schema is not JSON",
        str(tmp_path / "none.json"): "cannot be read: No such file",
        str(tmp_path): "cannot be read: Is a directory",
    }.items():
        with pytest.raises(BadRequest, match=reason):
            read_schema(text)
    file.write_text("[1]")
    with pytest.raises(BadRequest, match="the schema is a JSON list"):
        read_schema(str(file))
    file.write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(BadRequest, match="is larger than 1048576 bytes"):
        read_schema(str(file))
    file.write_text("[" * 500_000)
    with pytest.raises(BadRequest, match="the schema is not JSON"):
        read_schema(str(file))


def test_options_that_exclude_each_other(overt_cli: OvertCli) -> None:
    for flags in (["--schema", "{}", "--grammar", "x"], ["--raw", "--system", "be"]):
        assert overt_cli("run", "echo:x", "hi", *flags).code == 2


def test_raw_text_and_system_text_reach_the_engine(overt_cli: OvertCli) -> None:
    assert overt_cli("run", "echo:x", "go on", "--raw").stdout == "go on\n"
    found = json.loads(overt_cli("run", "echo:x", "a b", "--system", "c d e", "--json").stdout)
    assert (found["text"], found["tokens_in"]) == ("a b", 5)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
    ],
)  # fmt: skip
def test_an_image_is_told_by_its_bytes(data: bytes, kind: str) -> None:
    assert image_part(data, "x") == ImagePart(data, kind)


def test_images_of_other_kinds_are_refused(overt_cli: OvertCli, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"<svg/>")
    ran = overt_cli("run", "echo:x", "what is this?", "--image", file)
    assert ran.code == 2
    assert "is not an image this can read; give PNG, JPEG, WebP or GIF" in ran.stderr
    file.write_bytes(PNG)
    assert overt_cli("run", "echo:x", "hi", "--image", file).stdout == "hi\n"


def test_a_failed_event_is_its_own_error_again() -> None:
    for kind in (WorkerDied, BadRequest, ContextExceeded):
        error = kind.__new__(kind)
        code = error.code
        found = error_of(Failed(code, "it broke", "mend it"))
        assert type(found) is kind
        assert str(found) == "it broke; mend it"
    assert type(error_of(Failed("unheard_of", "it broke"))) is EngineFailed


# ---- a real model --------------------------------------------------------------------------


@pytest.mark.model
def test_the_same_seed_gives_the_same_text(model_home: Path, overt_cli: OvertCli) -> None:
    arguments = ("run", "smollm2", "Name a colour.", "--json", "--seed", "7", "--max-tokens", "12",
                 "--home", str(model_home), "--offline")  # fmt: skip
    for temperature in ("0", "1.2"):
        texts = set()
        for _ in range(2):
            found = json.loads(overt_cli(*arguments, "--temperature", temperature).stdout)
            texts.add(found["text"])
            assert found["digest"].startswith("sha256:")
            assert found["engine"] == "llamacpp"
            assert 0 < found["tokens_out"] <= 12
            assert found["tokens_per_second"] > 0
        assert len(texts) == 1


@pytest.mark.model
def test_a_schema_holds_and_a_long_prompt_is_refused(model_home: Path, overt_cli: OvertCli) -> None:
    home = ("--home", str(model_home), "--offline")
    schema = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'
    ran = overt_cli("run", "smollm2", "How many legs has a dog?", "--schema", schema,
                    "--max-tokens", "40", "--temperature", "0", *home)  # fmt: skip
    assert isinstance(json.loads(ran.stdout)["n"], int)
    long = overt_cli("run", "smollm2", *home, "--context", "512", stdin="word " * 2000)
    assert long.code == 2
    assert long.stdout == ""
    assert "tokens and the context holds 512; shorten it, or raise the context" in long.stderr


@pytest.mark.model
def test_a_model_that_does_not_fit_is_refused_with_the_numbers(
    model_home: Path, overt_cli: OvertCli
) -> None:
    ran = overt_cli("run", "smollm2", "hi", "--home", model_home, "--memory", "100m")
    assert ran.code == 4
    assert "MiB" in ran.stderr
    assert ran.stderr.count("\n") == 1
