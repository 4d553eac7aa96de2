"""lm-eval, unmodified, scores a task through `/v1/completions`; all is computed again here.

It cannot be among the project's locked packages (its dependency rouge-score has no wheel), so it
has an environment of its own in .cache: 763 MB and one or two minutes, once. Nothing is asked of a
hub: the task is beside this file, and the tokens come from the server itself.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from serving import ROOT, Served

VERSION = "0.4.13"
TASK = Path(__file__).resolve().parent / "lm_eval_task"
pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture
def lm_eval(pip_environment: dict[str, str]) -> Path:
    """The `lm_eval` command, in a virtual environment that is kept."""
    folder = ROOT / f".cache/lm-eval-{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "whole").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=60)
            subprocess.run(
                [folder / "bin/python", "-m", "pip", "install", "--quiet",
                 f"lm-eval[api]=={VERSION}"],
                check=True, env=pip_environment, timeout=240,
            )  # fmt: skip
            (folder / "whole").touch()  # last: an install that was cut short is made again
    return folder / "bin/lm_eval"


@pytest.mark.parametrize(
    ("model", "form", "more"),
    [
        # trained with a begin token, which lm-eval does not send
        ("gemma3", "tokenized_requests=True", ("--batch_size", "4")),
        ("smollm2", "tokenized_requests=False,num_concurrent=2", ()),
    ],
    ids=["tokens", "text"],
)
@pytest.mark.client("lm-eval", "local-completions: loglikelihood")
def test_a_task_is_scored(
    model: str, form: str, more: tuple[str, ...], server: Served, lm_eval: Path, tmp_path: Path
) -> None:
    task = tmp_path / "task"
    task.mkdir()
    recipe = (TASK / "overt_tiny.yaml").read_text("utf-8")
    (task / "overt_tiny.yaml").write_text(recipe.replace("ITEMS", str(TASK / "items.jsonl")))
    done = subprocess.run(
        [
            lm_eval, "run", "--model", "local-completions", "--model_args",
            f"model={model},base_url={server.url}/of/{model}/v1/completions,"
            f"tokenizer_backend=remote,max_retries=1,{form}",
            "--tasks", "overt_tiny", "--include_path", task, "--output_path", tmp_path / "out",
            "--log_samples", *more,
        ],
        env={
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1",
        },
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    accuracy = json.loads(results.read_text())["results"]["overt_tiny"]["acc,none"]
    lines = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    assert len(lines) == 20
    right = 0
    for line in lines:
        doc = line["doc"]
        wanted = [_score(server, model, doc["question"], choice) for choice in doc["choices"]]
        told = [(float(p), str(greedy) == "True") for ((p, greedy),) in line["resps"]]
        assert [p for p, _ in told] == pytest.approx([p for p, _ in wanted], abs=1e-3)
        assert [greedy for _, greedy in told] == [greedy for _, greedy in wanted]
        right += max(range(len(wanted)), key=lambda i: wanted[i][0]) == doc["answer"]
    assert accuracy == pytest.approx(right / 20)
    assert accuracy >= 0.7  # the model is small, the questions are not hard


def _score(server: Served, model: str, question: str, choice: str) -> tuple[float, bool]:
    """How likely `choice` follows `question`, and whether it is what the model would say."""
    before = len(_post(server, f"/of/{model}/tokenize", prompt=question)["tokens"])
    told = _post(
        server, "/v1/completions", model=model, prompt=question + choice, echo=True, logprobs=1,
        max_tokens=1, temperature=0,
    )["choices"][0]["logprobs"]  # fmt: skip
    # As many tokens at once as for lm-eval: llama.cpp rounds Q4_K otherwise in another batch.
    own = told["token_logprobs"][before:-1]
    likely = [max(top.values()) for top in told["top_logprobs"][before:-1]]
    return sum(own), own == likely


def _post(server: Served, path: str, **body: Any) -> Any:
    asked = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)
