"""`overt quantize` on the command line: tables, models, and going on after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from conftest import OvertCli
from overt.cli import quantize
from overt.errors import (
    BadRequest,
    DoesNotFit,
    EngineFailed,
    Failure,
    OutOfDisk,
    OvertError,
    UsageError,
)
from overt.formats import gguf
from overt.lab.quantize import frontier, record, table, types
from overt.models import memory, pull
from overt.models.store import Store
from overt.ref import parse
from overt.settings import Settings

QUICK = ("--window", "64", "--windows", "3", "--runs", "1")
CONTRACT = ("bits_per_weight", "kld_mean", "kld_p99", "top1", "perplexity", "prompt_tps",
            "decode_tps", "bytes")  # fmt: skip


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    return tiny_models.gguf(
        folder / "tiny.gguf", "llama", "F16", seed=4, width=256, inner=256, layers=1
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the rain in the north and the other one on a train " * 12)
    return path


def test_a_table_and_models_of_it(
    overt_cli: OvertCli, source: Path, text: Path, home: Path, tmp_path: Path
) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {source}\nSYSTEM You are brief\nLICENSE Apache License 2.0\n")
    assert overt_cli("create", "base", "-f", modelfile).code == 0
    plot = tmp_path / "plot.png"
    ran = overt_cli(
        "quantize", "base", "small", "-q", "q8_0,q4_k_m", "--keep", "--text", text, *QUICK,
        "--plot", plot, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert [row["type"] for row in found["types"]] == ["q8_0", "q4_k_m"]
    for row in found["types"]:
        assert all(isinstance(row[key], int | float) for key in CONTRACT), row
        low, high = row["kld_mean_interval"]
        assert low <= row["kld_mean"] <= high
        assert row["tokens"] == found["scored_tokens"] == 93
        assert row["load_memory"] > row["load_memory_own"] > 0
    eight, four = found["types"]
    assert eight["bytes"] > four["bytes"]
    assert eight["kld_mean"] < four["kld_mean"]
    assert found["base"]["kld_mean"] < 1e-6
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads(Path(found["measurement"]).read_bytes())["types"] == found["types"]
    store = Store(home)
    for row in found["types"]:
        manifest = store.get(parse(f"small-{row['type']}"))
        assert {"weights", "recipe", "system", "licence"} <= {one.role for one in manifest.files}
        header = gguf.read(store.path(manifest.weights))
        assert header.file_size == row["bytes"]
        assert types.mix_of(header).shares == row["mix"]
    assert not any((home / "jobs").iterdir())
    again = overt_cli("replay", "small-q4_k_m", "--json")
    assert json.loads(again.stdout)["verdict"] == "identical", again.stdout


def test_it_goes_on_where_it_was_killed(
    overt_cli: OvertCli, source: Path, text: Path, home: Path
) -> None:
    given = ["quantize", str(source), "-q", "q8_0,q4_0", "--text", str(text), *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", *given, "--home", str(home)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (rows := list((home / "jobs").glob("*/work/rows/q8_0.json"))):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = json.loads(rows[0].read_bytes())
    ran = overt_cli(*given)
    assert ran.code == 0, ran.stderr
    assert "measuring q8_0" not in ran.stderr
    assert "reading the text with the source" not in ran.stderr
    (told,) = (home / "measurements").iterdir()
    found = json.loads(told.read_bytes())
    assert {key: found["types"][0][key] for key in kept} == kept
    assert not any((home / "jobs").iterdir())
    lines = ran.stdout.splitlines()
    assert lines[0].split()[:5] == ["TYPE", "BITS", "SIZE", "MEMORY", "KLD"]
    assert [line.split()[0] for line in lines[1:4]] == ["source", "q8_0", "q4_0"]
    assert "93 tokens of text.txt, the second half of each of 3 windows of 64" in ran.stdout
    assert "quantized already" not in ran.stderr


def test_auto_stores_what_it_chose(
    source: Path, text: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontier, "LADDER", ("q8_0", "q4_0", "q2_k"))
    settings = Settings(home=home)
    plan = table.QuantizePlan(pull.find(str(source), settings), text, 64, 2, 1, 1)
    with table.QuantizePass(plan, settings, lambda _: None, lambda _: None) as work:
        free = memory.need(work.header, 64).total + (1 << 20)
        with pytest.raises(Failure, match="no type that fits is under the limit of 1e-09"):
            work.choose(1e-9, free)
        found = work.choose(0.5, free)
        assert found.rows[found.type.name]["kld_mean_interval"][1] <= 0.5
        assert list(found.reasons) == ["q8_0", "q4_0", "q2_k"]
        ahead = work._foreseen([types.find(name) for name in found.rows])
        for name, row in found.rows.items():
            need = memory.need(ahead[name].header, 64).total
            assert row["memory_need"] == pytest.approx(need, abs=4096)
            assert ahead[name].header.type_mix().keys() == row["mix"].keys()
        made = work.store(found.type, "best")
        with pytest.raises(DoesNotFit, match="no type fits the memory"):
            work.choose(0.5, 1000)
    header = gguf.read(Store(home).path(made.weights))
    assert header.file_type == found.type.label


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("-q", "q9"), 2, "there is no quantization 'q9'; it is one of f32, f16"),
        (("-q", ""), 2, "-q names no type"),
        (("-q", "q8_0,q8_0"), 2, "-q names a type twice"),
        (("name", "-q", "q8_0,q4_0"), 2, "-q names 2 types and NAME can be one model"),
        (("-q", "q8_0", "--keep"), 2, "--keep stores models as NAME-TYPE; give a NAME"),
        (("-q", "q8_0", "--tensor", "x"), 2, "'x' is no PATTERN=TYPE"),
        (("-q", "q8_0", "--max-kld", "1"), 2, "--max-kld is for -q auto"),
        (("-q", "q8_0", "--task", "gsm8k"), 2, "scored on models of the store; give a NAME"),
        (("-q", "q8_0", "--text", "no.txt"), 2, "no.txt cannot be read: No such file"),
        (("-q", "q8_0", "--imatrix", "no.gguf"), 3, "no.gguf"),
        (("-q", "q8_0", "--windows", "1", "--window", "8192"), 2, "fewer than 512 tokens"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    overt_cli: OvertCli, source: Path, text: Path, given: tuple[str, ...], code: int, words: str
) -> None:
    more = () if "--text" in given else ("--text", text)
    short = ("--runs", "0", "--windows", "1")
    ran = overt_cli("quantize", source, *given, *more, *(() if "--windows" in given else short))
    assert ran.code == code, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("hashing ")]
    assert len(lines) == 1, ran.stderr
    assert words in lines[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hf:me/x -q all --keep", "hf:me/x-f16 is not a plain name"),
        ("hf:me/x -q q8_0", "hf:me/x is not a plain name"),
        ("smollm2 -q q8_0", "smollm2 is a name of the catalogue"),
        ("x -q q8_0 --task typo.yaml", "typo.yaml"),
        ("x -q q8_0 --no-measure --text t --runs 3 --plot x.png",
         "--text and --runs and --plot would do nothing with --no-measure"),
        ("x -q q8_0 --no-measure --window 64", "--window would do nothing with --no-measure"),
        ("-q q8_0 --no-measure", "--no-measure leaves nothing to tell"),
        ("x -q auto --no-measure", "--no-measure leaves nothing to tell"),
        ("-q q8_0 --limit 3", "--limit is for the items of a --task"),
        ("-q q8_0 --memory 8g", "--memory is for -q auto"),
        ("x -q auto --keep", "-q auto stores one model, which is called NAME"),
        ("-q q8_0 --keep-output --output-type q6_k", "give one of them"),
        ("-q f16,bf16 --tensor ffn=q8_0", "all tensors of an f16 and the like one type"),
        ("-q q8_0 --plot no/folder/x.png", "no/folder"),
        ("-q q8_0 --tensor nothing=q4_0", "no matrix of the model has 'nothing' in its name"),
    ],
)  # fmt: skip
def test_what_can_be_refused_is_refused_before_anything_is_read(
    source: Path, home: Path, given: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table.QuantizePass, "__enter__", lambda _: pytest.fail("it has begun"))
    asked = ["x.gguf" if "nothing=" not in given else str(source), *given.split()]
    with pytest.raises(OvertError) as caught:
        quantize.command.main(asked, standalone_mode=False)
    assert words in str(caught.value)


def test_a_model_without_an_output_matrix_of_its_own_has_no_options_for_it(tmp_path: Path) -> None:
    header = gguf.read(tiny_models.gguf(tmp_path / "tied.gguf", "gemma", "F16"))
    types.check_options(header, {"output": "q6_k"})
    for given in ({"keep_output": True}, {"output": "q6_k", "embedding": "q4_0"}):
        with pytest.raises(UsageError, match="the embedding of tokens is both"):
            types.check_options(header, given)


def test_no_room_is_told_before_anything_is_read(
    source: Path, text: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=home)
    plan = table.QuantizePlan(pull.find(str(source), settings), text, 64, 3, 0, 1)
    usage: Any = type("usage", (), {"free": 10})
    with table.QuantizePass(plan, settings, lambda _: None, lambda _: None) as work:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(OutOfDisk, match="0 MiB are free; measure on less text"):
            work.judged(types.find("q8_0"))


def test_a_file_in_safetensors_form_is_converted_first(overt_cli: OvertCli, tmp_path: Path) -> None:
    folder = tiny_models.release(tmp_path / "release", "llama")
    ran = overt_cli("quantize", folder / "model.safetensors", "-q", "q8_0")
    assert ran.code == 1
    assert "overt convert" in ran.stderr


def test_types_that_gain_nothing_are_named() -> None:
    def row(type: str, size: int, tps: float) -> dict[str, Any]:
        return {"type": type, "bytes": size, "decode_tps": tps}

    rows = [row("source", 94 << 20, 28.0), row("q8_0", 138 << 20, 20.0), row("q4_0", 87 << 20, 30)]
    larger = "q8_0 is larger than a itself (94 MiB)"
    assert record.notes("a", rows, "q4_0") == [larger]
    found = record.notes("a", rows, "q8_0")
    assert found[0] == larger
    assert found[1].startswith("a itself is smaller and no slower than q8_0 (28.0 tokens a second)")
    assert record.notes("a", [rows[0], rows[2]], "q4_0") == []


def test_several_types_are_stored_without_being_measured(
    overt_cli: OvertCli, source: Path, home: Path
) -> None:
    ran = overt_cli(
        "quantize", source, "small", "-q", "q8_0,q4_0,iq2_xs", "--keep", "--no-measure", "--json"
    )
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert [one["model"] for one in found["models"]] == ["small-q8_0", "small-q4_0"]
    assert "needs an importance matrix" in found["failed"]["iq2_xs"]
    store = Store(home)
    for type in ("q8_0", "q4_0"):
        weights = store.get(parse(f"small-{type}")).weights
        assert gguf.read(store.path(weights)).file_type == type.upper()
    assert not any((home / "jobs").iterdir())
    assert not (home / "measurements").exists()


class _Fast:
    """Stands for the engine: files at once, figures from a table, and types that fail."""

    def __init__(self, patched: pytest.MonkeyPatch, source: Path) -> None:
        self.made: list[str] = []
        self.failing: dict[str, Exception] = {}
        patched.setattr(table.measure, "source", self._source)
        patched.setattr(table.measure, "against", self._against)
        patched.setattr(table.measure, "speed", self._speed)
        patched.setattr(table.QuantizePass, "file", self._file)
        self._path = source

    def _file(self, type: types.QuantType) -> Path:
        if type.name in self.failing:
            raise self.failing[type.name]
        return self._path

    def _source(self, weights: Path, text: Any, target: Path, *_: Any) -> Any:
        target.write_bytes(b"base")
        return table.measure.BaseLogprobs(target, [1.0], [1])

    def _against(self, weights: Path, label: str, *_: Any) -> dict[str, Any]:
        self.made.append(label)
        return {"kld_mean": 0.1, "kld_mean_interval": [0.1, 0.1]}

    def _speed(self, *_: Any) -> dict[str, float]:
        return {"prompt": 2.0, "decode": 1.0, "resident": 1, "own": 1}


@pytest.fixture
def fast(source: Path, monkeypatch: pytest.MonkeyPatch) -> _Fast:
    made = _Fast(monkeypatch, source)
    file = made._file
    monkeypatch.setattr(table.QuantizePass, "file", lambda _, type: file(type))
    return made


class _Ask:
    """A command for some types of one measurement."""

    def __init__(self, source: Path, text: Path, home: Path) -> None:
        self.settings = Settings(home=home)
        self.model = pull.find(str(source), self.settings)
        self.text, self.told = text, list[Any]()

    def __call__(self, types_: str, runs: int = 0, *, ends: bool = True) -> list[str]:
        plan = table.QuantizePlan(self.model, self.text, 64, 2, runs, 1)
        with table.QuantizePass(plan, self.settings, lambda _: None, self.told.append) as work:
            rows, failed = work.rows(types.chosen(types_))
            if not ends:
                raise KeyboardInterrupt
            path = work.keep({"types": rows[1:], "base": rows[0], "failed": failed, "models": []})
            return [row["type"] for row in json.loads(path.read_bytes())["types"]]


def test_a_small_command_leaves_what_a_large_one_has_begun(
    fast: _Fast, source: Path, text: Path, home: Path
) -> None:
    ask = _Ask(source, text, home)
    with pytest.raises(KeyboardInterrupt):
        ask("q8_0,q5_0,q4_0", ends=False)
    assert fast.made == ["q8_0", "q5_0", "q4_0", "the source itself"]
    assert ask("q4_1") == ["q4_1"]
    assert ask("q8_0") == ["q8_0", "q4_1"]
    assert any((home / "jobs").iterdir())
    fast.made.clear()
    assert ask("q8_0,q5_0,q4_0", 2) == ["q8_0", "q5_0", "q4_0", "q4_1"]
    assert fast.made == []
    assert not any((home / "jobs").iterdir())
    assert ask("q8_0") == ["q8_0", "q5_0", "q4_0", "q4_1"]
    (path,) = (home / "measurements").iterdir()
    assert json.loads(path.read_bytes())["types"][0]["runs"] == 2


def test_how_long_a_table_will_take_is_told(
    fast: _Fast, source: Path, text: Path, home: Path
) -> None:
    ask = _Ask(source, text, home)
    ask("q8_0,q5_0,q4_0", 5)
    told = [one for one in ask.told if one["kind"] == "progress"]
    assert [(one["what"], one["done"], one["total"]) for one in told[:3]] == [
        ("q8_0", 1, 3), ("q5_0", 2, 3), ("q4_0", 3, 3)
    ]  # fmt: skip
    assert [one["done"] for one in told[3:]] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert told[-1]["left"] == 0
    assert all(one["left"] >= 0 for one in told)


def test_types_that_fail_are_told_and_all_of_them_end_it(
    fast: _Fast, source: Path, text: Path, home: Path
) -> None:
    ask = _Ask(source, text, home)
    fast.failing = {"q5_0": EngineFailed("the model computes no numbers")}
    assert ask("q8_0,q5_0") == ["q8_0"]
    with pytest.raises(EngineFailed, match="no numbers"):
        ask("q5_0")
    fast.failing["q4_0"] = EngineFailed("nor this")
    with pytest.raises(EngineFailed, match="no numbers"):
        ask("q5_0,q4_0")


def test_what_is_refused_leaves_no_job(source: Path, text: Path, home: Path) -> None:
    settings = Settings(home=home)
    plan = table.QuantizePlan(
        pull.find(str(source), settings), text, 64, 2, 0, 1, calibrate=text.with_name("short.txt")
    )
    assert plan.calibrate
    plan.calibrate.write_text("short")
    told: list[Any] = []
    with (
        pytest.raises(BadRequest, match="the calibration text has fewer than 64 tokens"),
        table.QuantizePass(plan, settings, told.append, lambda _: None) as work,
    ):
        work.rows(types.chosen("q8_0,q4_0"))
    assert told == []  # the source has not read the text yet
    assert not any((home / "jobs").iterdir())
