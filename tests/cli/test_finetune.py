"""`overt finetune`: what is refused before anything is computed, the plan, and a run."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tuning
from overt.cli import finetune_view as view
from overt.lab import history, jobs, replay
from overt.settings import load


@pytest.fixture(scope="module")
def tiny_home(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    settings = load(environ={}, flags={"home": str(folder / "home")})
    tuning.stored(tuning.once(smollm2_gguf, tmp_path_factory.getbasetemp()), settings)
    return folder / "home"


@pytest.fixture
def finetune(overt_cli: Any, tiny_home: Path) -> Any:
    def run(*words: str) -> Any:
        return overt_cli("finetune", "tiny", *words, "--threads", "1", "--home", str(tiny_home))

    return run


def written(folder: Path, *rows: object) -> str:
    path = folder / "my.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return str(path)


def rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"Say {at}.", "completion": f"It is {at}."} for at in range(count)]


def test_a_bad_row_is_refused_before_anything_is_made(
    finetune: Any, tiny_home: Path, tmp_path: Path
) -> None:
    data = written(tmp_path, *rows(2), {"prompt": "Say."})
    said = finetune("mine", "--data", data)
    assert said.code == 1
    assert "line 3 of" in said.stderr
    assert "has no 'completion'" in said.stderr
    assert not (tiny_home / "jobs").exists()
    assert not (tiny_home / "data").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("mine", "--data", "none.jsonl"), "none.jsonl is not there"),
        (("mine", "--data", "x.parquet"), "its name says no format"),
        (("smollm2", "--data", "x.jsonl"), "is a name of the catalogue"),
        (("mine", "--data", "x.jsonl", "--data-licence", "my-own"), "no licence known here"),
    ],
)
def test_what_makes_no_sense(finetune: Any, words: tuple[str, ...], sentence: str) -> None:
    said = finetune(*words)
    assert said.code in (1, 2, 3)
    assert sentence in said.stderr


def test_settings_out_of_range(finetune: Any, tmp_path: Path) -> None:
    said = finetune("mine", "--data", written(tmp_path, *rows(3)), "--rank", "0")
    assert said.code == 2
    assert "--rank is 0" in said.stderr
    said = finetune("mine", "--data", written(tmp_path, *rows(3)), "--lr", "nan")
    assert "--lr is nan, and it is between 0 and 10; give another --lr" in said.stderr


def test_a_place_that_cannot_be_written_is_told_before(finetune: Any, tmp_path: Path) -> None:
    data = written(tmp_path, *rows(3))
    said = finetune("mine", "--data", data, "-o", f"{data}/peft")
    assert "peft cannot be written: Not a directory; name another --output" in said.stderr
    said = finetune("mine", "--data", data, "--plot", str(tmp_path / "none" / "loss.png"))
    assert f"there is no folder {tmp_path / 'none'}" in said.stderr


def test_a_run_and_what_it_says(
    finetune: Any, tiny_home: Path, tmp_path: Path, overt_cli: Any
) -> None:
    data = written(tmp_path, *rows(40))
    plot, folder = tmp_path / "loss.png", tmp_path / "peft"
    said = finetune(
        "mine", "--data", data, "--steps", "2", "--json", "--data-licence", "cc-by-4.0",
        "--length", "128", "--plot", str(plot), "--output", str(folder),
    )  # fmt: skip
    assert said.code == 0, said.stderr
    value = json.loads(said.stdout)
    assert value["model"] == "mine"
    assert value["held"]["examples"] == 4
    assert set(value["held"]["before"]) == {"loss", "perplexity", "accuracy"}
    assert value["licence"]["data_licence"] == "CC-BY-4.0"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert {one.name for one in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    again = overt_cli(
        "convert", "mine", "--to", "safetensors", "--output", tmp_path / "again",
        "--home", tiny_home,
    )  # fmt: skip
    assert again.code == 0, again.stderr
    for one in folder.iterdir():
        assert (tmp_path / "again" / one.name).read_bytes() == one.read_bytes()
    events = [json.loads(line) for line in said.stderr.splitlines() if line.startswith("{")]
    assert [one["kind"] for one in events][:1] == ["example"]
    assert [one["step"] for one in events if one["kind"] == "loss"] == [1, 2]
    assert not list((tiny_home / "jobs").glob("*"))


def test_a_dry_run_makes_nothing(finetune: Any, tiny_home: Path, tmp_path: Path) -> None:
    data = written(tmp_path, *rows(10))
    said = finetune("dry", "--data", data, "--dry-run")
    assert said.code == 0, said.stderr
    assert "It is 0.<|im_end|>»" in said.stderr
    assert "nothing was made" in said.stdout
    assert not list((tiny_home / "jobs").glob("*"))


def test_a_curve_in_bars() -> None:
    assert view.sparkline([3.0, 2.0, 1.0], 3) == "█▅▁"
    assert view.sparkline([1.0] * 5, 3) == "▁▁▁"
    assert view.sparkline([], 3) == ""
    assert len(view.sparkline(list(range(100)), 12)) == 12


def test_what_was_stopped_goes_on_to_the_same_bytes(
    finetune: Any, tiny_home: Path, tmp_path: Path
) -> None:
    data = written(tmp_path, *rows(30))
    words = ["--data", data, "--steps", "120", "--patience", "0", "--length", "64", "--no-pack"]
    command = [sys.executable, "-m", "overt", "finetune", "tiny", "stopped", *words, "--json"]
    with subprocess.Popen(
        [*command, "--threads", "1", "--home", str(tiny_home)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stderr is not None
        for line in run.stderr:
            if '"loss"' in line and json.loads(line)["step"] >= 2:
                break
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "the same command goes on" in json.loads(said)["error"]["hint"]
    (job,) = (tiny_home / "jobs").glob("*")
    assert len(list(job.glob("work/training/checkpoint-*.json"))) == 1
    settings = load(environ={}, flags={"home": str(tiny_home)})
    assert [one.name for one in jobs.every(tiny_home)] == ["stopped"]
    out = finetune("stopped", *words, "--json")
    assert out.code == 0, out.stderr
    told = [json.loads(line) for line in out.stderr.splitlines() if line.startswith("{")]
    first = next(one["text"] for one in told if one["kind"] == "note")
    assert first.startswith("going on after")
    assert len([one for one in told if one["kind"] == "loss"]) < 120
    assert replay.replay(replay.target("stopped", settings), settings).verdict == "identical"
    made_of = history.history("stopped", settings).inputs
    assert [(one.role, one.name) for one in made_of] == [("from", "tiny"), ("data", "my.jsonl")]
