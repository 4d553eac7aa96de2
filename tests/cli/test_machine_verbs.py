"""`overt ps`, `stop`, `doctor`, `airgap` and `settings`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import OvertCli
from gguf_writer import write_llama
from overt.cli.doctor import _advice

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def chatting(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A chat with a model that is loaded and waits; the path of the model, and the process."""
    file = tmp_path / "tiny.gguf"
    write_llama(file, metadata={"tokenizer.chat_template": TEMPLATE})
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", "chat", str(file), "--max-tokens", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("/show model\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{file}\n"
        yield str(file), process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")
def test_what_runs_is_listed_and_stopped(
    chatting: tuple[str, "subprocess.Popen[str]"], overt_cli: OvertCli
) -> None:
    model, process = chatting
    (running,) = json.loads(overt_cli("ps", "--json").stdout)["running"]
    assert (running["model"], running["parent"]) == (model, process.pid)
    assert running["memory"] > 10 << 20
    assert running["isolation"]
    head, row = overt_cli("ps").stdout.splitlines()
    assert head.split() == ["PID", "MODEL", "MEMORY", "SINCE", "FOR", "ISOLATION"]
    assert row.split()[0] == overt_cli("ps", "--quiet").stdout.strip() == str(running["pid"])

    wrong = overt_cli("stop", "other")
    assert wrong.code == 3
    assert wrong.stderr == f"overt: no worker of 'other' is running; running: {model}\n"
    assert overt_cli("stop", str(os.getpid())).code == 3, "never a process that is no worker"
    stopped = json.loads(overt_cli("stop", model, "--json").stdout)
    assert stopped == {"stopped": [{"pid": running["pid"], "model": model}]}
    assert json.loads(overt_cli("ps", "--json").stdout) == {"running": []}
    assert overt_cli("stop", "--all").stdout == "nothing was running\n"
    assert overt_cli("stop").code == 2
    assert overt_cli("stop", model, "--all").code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")
def test_a_chat_survives_the_end_of_its_worker(
    chatting: tuple[str, "subprocess.Popen[str]"], overt_cli: OvertCli
) -> None:
    _, process = chatting
    overt_cli("stop", "--all")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("hi\n/set temperature 0\nhi\n/show model\n/bye\n")
    process.stdin.flush()
    assert process.wait(timeout=60) in (0, 1)
    assert "tiny.gguf" in process.stdout.read()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")
def test_no_worker_outlives_its_program(
    chatting: tuple[str, "subprocess.Popen[str]"], overt_cli: OvertCli
) -> None:
    _, process = chatting
    pid = int(overt_cli("ps", "--quiet").stdout)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert json.loads(overt_cli("ps", "--json").stdout) == {"running": []}


def test_nothing_runs(overt_cli: OvertCli) -> None:
    assert overt_cli("ps").stdout == "no model is running\n"
    assert overt_cli("stop", "--all").code == 0
    ran = overt_cli("stop", "smollm2")
    assert (ran.code, ran.stderr) == (
        3, "overt: no worker of 'smollm2' is running; nothing is running\n"
    )  # fmt: skip


# ---- airgap --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the sandbox is weaker, and says so")
def test_the_proof_is_the_object_of_the_contract(overt_cli: OvertCli) -> None:
    ran = overt_cli("airgap", "--prove", "--json")
    found = json.loads(ran.stdout)
    assert list(found)[:2] == ["ok", "attempts"]
    assert found["ok"] is all(one["denied"] for one in found["attempts"])
    assert ran.code == (0 if found["ok"] else 1)
    what = " ".join(one["what"] for one in found["attempts"])
    assert all(word in what for word in ("TCP", "UDP", "DNS", "127.0.0.1", "look up"))
    assert all(set(one) == {"what", "denied", "how"} and one["how"] for one in found["attempts"])
    text = overt_cli("airgap", "--prove").stdout
    assert all(one["what"] in text for one in found["attempts"])
    assert "walls in force: " in text


def test_without_walls_something_gets_through_and_the_exit_code_says_so(
    overt_cli: OvertCli,
) -> None:
    ran = overt_cli("airgap", "--prove", "--isolation", "off")
    assert ran.code == 1
    assert "GOT THROUGH  TCP to 127.0.0.1" in ran.stdout
    assert "NOT shut in: " in ran.stdout
    seen = overt_cli("airgap", "--isolation", "off")
    assert seen.code == 0
    assert seen.stdout.startswith("walls in force: none\n")


# ---- doctor --------------------------------------------------------------------------------


def test_doctor_says_what_is_here(overt_cli: OvertCli, home: Path) -> None:
    found = json.loads(overt_cli("doctor", "--json").stdout)
    assert found["ok"] is True
    assert found["machine"]["cores_usable"] >= 1
    assert 0 < found["machine"]["memory_free"] <= found["machine"]["memory"]
    assert found["machine"]["disk_free"] > 0
    (engine,) = found["engines"]
    assert (engine["name"], engine["used"], engine["problem"]) == ("wheel", True, None)
    assert found["store"] == {"home": str(home), "models": [], "bytes": 0}
    assert {"why": "no model is here yet", "do": "overt pull smollm2"} in found["advice"]
    text = overt_cli("doctor").stdout
    assert "what would make it better" in text
    assert "    overt pull smollm2\n" in text


def test_advice_is_given_for_what_is_short_and_only_then() -> None:
    from overt.settings import load

    machine = {
        "cores_free": 4.0, "cores_usable": 4, "memory_free": 8 << 30, "disk_free": 80 << 30,
        "instructions": ["avx2", "avx512f"],
    }  # fmt: skip
    native = {"name": "native", "problem": None, "features": ["AVX2", "AVX512"]}
    wheel = {"name": "wheel", "problem": None, "features": ["AVX2"]}
    isolation = {"ok": True, "missing": [], "problem": None}
    store = {"models": ["smollm2"]}

    def commands(**changed: object) -> list[str]:
        given = {"machine": machine, "engines": [wheel, native], "isolation": isolation,
                 "store": store} | changed  # fmt: skip
        return [one["do"] for one in _advice(load(), **given)]  # type: ignore[arg-type]

    assert commands() == []
    assert commands(engines=[wheel]) == ["overt engine build"]
    assert commands(store={"models": []}) == ["overt pull smollm2"]
    assert commands(machine=machine | {"cores_free": 1.0})[0].startswith("close what keeps")
    assert commands(machine=machine | {"memory_free": 1 << 20}) == [
        "close something, or overt stop --all"
    ]
    assert commands(machine=machine | {"disk_free": 1 << 20}) == [
        "overt rm, or set OVERT_HOME elsewhere"
    ]
    assert commands(isolation=isolation | {"missing": ["seccomp (no)"]}) == ["overt airgap --prove"]
    broken = [wheel | {"problem": "does not load"}]
    assert commands(engines=broken)[0] == "pip install --force-reinstall xllamacpp"


# ---- settings ------------------------------------------------------------------------------


def test_settings_say_where_each_value_came_from(overt_cli: OvertCli, home: Path) -> None:
    (home / "overt.toml").write_text('model = "gemma3"\nthreads = 3\ncontext = 9\n')
    ran = overt_cli("settings", "--context", "77", "--json",
                    env={"OVERT_THREADS": "2", "HF_TOKEN": "hf_secret",
                         "PIP_INDEX_URL": "https://me:pw@index.example/simple"})  # fmt: skip
    found = json.loads(ran.stdout)
    rows = {row["name"]: (row["value"], row["from"]) for row in found["settings"]}
    assert rows["model"] == ("gemma3", "overt.toml")
    assert rows["threads"] == (2, "OVERT_THREADS")
    assert rows["context"] == (77, "flag")
    assert rows["engine"] == ("auto", "default")
    assert rows["home"] == (str(home), "OVERT_HOME")
    assert found["environment"]["HF_TOKEN"] == "(set)"
    assert found["environment"]["PIP_INDEX_URL"] == "https://…@index.example/simple"
    assert "hf_secret" not in ran.stdout
    assert "pw" not in ran.stdout


def test_a_wrong_setting_says_what_it_may_be(overt_cli: OvertCli, home: Path) -> None:
    (home / "overt.toml").write_text("modell = 1\n")
    ran = overt_cli("settings")
    assert ran.code == 2
    assert "has the unknown key 'modell'; known keys: model, " in ran.stderr
