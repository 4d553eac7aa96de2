"""lm-eval, unmodified, and `overt eval` score the same items on the same model: the same score.

lm-eval asks our server; `overt eval` asks in a process of its own. Both make the prompts from the
data by themselves, so that the prompts are compared as well as what was taken from each answer.
"""

import csv
import json
import os
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from test_lm_eval import lm_eval  # noqa: F401

from conftest import OvertCli
from overt.evaluation.suites.suite import load
from serving import Served, copy_home

MODEL = "smollm2"
TOPIC = "abstract_algebra"
NUMBER = r"(-?[0-9][0-9,]*(?:\.[0-9]+)?)"
LETTER = r"\b([ABCD])\b"

pytestmark = [pytest.mark.slow, pytest.mark.model]

_THEIRS = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files: {files}
test_split: test
{more}output_type: generate_until
doc_to_text: {text}
doc_to_target: {target}
generation_kwargs:
  until: {until}
  max_gen_toks: {tokens}
  do_sample: false
  temperature: 0.0
filter_list:
  - name: last
    filter:
      - function: regex
        regex_pattern: {pattern}
        group_select: -1
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    regexes_to_ignore: [","]
metadata:
  version: 1
"""
_SHOTS = """\
fewshot_split: dev
fewshot_config:
  sampler: first_n
num_fewshot: 1
description: "Questions about abstract algebra, each with one right answer.\\n\\n"
"""


def _theirs(
    command: Path, recipes: dict[str, str], server: Served, folder: Path
) -> dict[str, tuple[float, list[dict[str, Any]]]]:
    """lm-eval's score of each task, and its samples in the order of the items."""
    for task, recipe in recipes.items():
        (folder / f"{task}.yaml").write_text(recipe)
    done = subprocess.run(
        [
            command, "run", "--model", "local-completions", "--model_args",
            f"model={MODEL},base_url={server.url}/v1/completions,max_length=4096,"
            "tokenizer_backend=none,tokenized_requests=False,max_retries=1",
            "--gen_kwargs", "deterministic=True",
            "--tasks", ",".join(recipes), "--include_path", folder,
            "--output_path", folder / "out", "--log_samples",
        ],
        env={
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1",
        },
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (results,) = (folder / "out").rglob("results_*.json")
    scores = json.loads(results.read_text())["results"]
    found = {}
    for task in recipes:
        (samples,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
        lines = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
        lines.sort(key=lambda line: int(line["doc_id"]))
        found[task] = (scores[task]["exact_match,last"], lines)
    return found


def _ours(overt_cli: OvertCli, suite: Path, home: Path) -> tuple[float, list[dict[str, Any]]]:
    """Our score, and the items of its receipt."""
    ran = overt_cli(
        "eval", suite, "-m", MODEL, "--json", "--deterministic", "--texts",
        env={"OVERT_HOME": str(home)}, timeout=900,
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    return found["score"], json.loads(Path(found["receipt"]).read_text())["items"]


def _same(
    theirs: tuple[float, list[dict[str, Any]]], ours: tuple[float, list[dict[str, Any]]], count: int
) -> int:
    """Compare item by item; how many are right."""
    assert len(theirs[1]) == len(ours[1]) == count
    for them, us in zip(theirs[1], ours[1], strict=True):
        assert us["text"] == them["resps"][0][0]
        assert us["answer"] == _plain(them["filtered_resps"][0])
        assert us["score"] == them["exact_match"]
    assert ours[0] == pytest.approx(theirs[0])
    return round(theirs[0] * count)


def _plain(taken: str) -> str:
    """What lm-eval took from an answer as our receipt writes it: 19.50 is 19.5."""
    if taken == "[invalid]":
        return ""
    try:
        number = Fraction(taken.replace(",", ""))
    except ValueError:
        return taken
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.12g}"


def gsm8k(data: Path, folder: Path, count: int, tokens: int) -> tuple[str, Path]:
    """The first items of GSM8K: lm-eval's recipe and our suite."""
    lines = data.read_text("utf-8").splitlines()[:count]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    until = ["Question:", "\n\n"]
    suite = folder / "gsm8k.yaml"
    suite.write_text(
        "name: gsm8k-raw\nkind: numeric\ndata: items.jsonl\nraw: true\n"
        'prompt: "Question: {question}\\nAnswer:"\nanswer: "{answer}"\n'
        f"stop: {json.dumps(until)}\nmax_tokens: {tokens}\nextract: '{NUMBER}'\n"
    )
    recipe = _THEIRS.format(
        task="overt_gsm8k", files=json.dumps({"test": str(folder / "items.jsonl")}), more="",
        text=json.dumps("Question: {{question}}\nAnswer:"),
        target=json.dumps("{{answer.split('####')[-1].strip()}}"), until=json.dumps(until),
        tokens=tokens, pattern=f"'{NUMBER}'",
    )  # fmt: skip
    return recipe, suite


def mmlu(test: Path, dev: Path, folder: Path, count: int) -> tuple[str, Path]:
    """The first items of one subject of MMLU with one example."""
    names = ("question", "a", "b", "c", "d", "right")
    for name, path, most in (("test", test, count), ("dev", dev, 1)):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[:most]
        text = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
        (folder / f"theirs_{name}.jsonl").write_text(text, "utf-8")
        with (folder / f"{TOPIC}_{name}.csv").open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows(rows)
    suite = folder / "mmlu.yaml"
    suite.write_text(
        f"name: mmlu-raw\nkind: choice\ndata: {TOPIC}_test.csv\nraw: true\n"
        f"columns: {json.dumps(names)}\n"
        "system: Questions about {topic}, each with one right answer.\n"
        'prompt: "{question}\\n{choices}\\nAnswer:"\n'
        'choices: ["{a}", "{b}", "{c}", "{d}"]\nanswer: "{right}"\n'
        'shots: {file: "{stem}_dev.csv", count: 1}\nshot_answer: " {letter}"\n'
        f"stop: [\"\\n\"]\nmax_tokens: 8\nextract: '{LETTER}'\n"
    )
    files = {name: str(folder / f"theirs_{name}.jsonl") for name in ("test", "dev")}
    recipe = _THEIRS.format(
        task="overt_mmlu", files=json.dumps(files), more=_SHOTS,
        text=json.dumps("{{question}}\nA. {{a}}\nB. {{b}}\nC. {{c}}\nD. {{d}}\nAnswer:"),
        target="right", until='["\\n"]', tokens=8, pattern=f"'{LETTER}'",
    )  # fmt: skip
    return recipe, suite


@pytest.mark.client("lm-eval", "local-completions: generate_until, as overt eval")
def test_both_score_alike(
    server: Served, lm_eval: Path, tmp_path: Path, overt_cli: OvertCli, model_home: Path,  # noqa: F811
    shared_data: Any,
) -> None:  # fmt: skip
    recipes, suites = {}, {}
    recipes["overt_gsm8k"], suites["overt_gsm8k"] = gsm8k(
        shared_data("eval/gsm8k/test.jsonl"), tmp_path, 6, 32
    )
    recipes["overt_mmlu"], suites["overt_mmlu"] = mmlu(
        shared_data(f"eval/mmlu/test/{TOPIC}_test.csv"),
        shared_data(f"eval/mmlu/dev/{TOPIC}_dev.csv"),
        tmp_path,
        24,
    )
    theirs = _theirs(lm_eval, recipes, server, tmp_path)
    with tempfile.TemporaryDirectory(prefix="eval-", dir=server.home.parent) as folder:
        home = copy_home(model_home, Path(folder) / "home")  # linked, as it is the same disk
        ours = {task: _ours(overt_cli, suite, home) for task, suite in suites.items()}
    for task, suite in suites.items():
        for sample, item in zip(theirs[task][1], load(str(suite)).items, strict=True):
            assert sample["arguments"]["gen_args_0"]["arg_0"] == item.prompt
    _same(theirs["overt_gsm8k"], ours["overt_gsm8k"], 6)
    assert _same(theirs["overt_mmlu"], ours["overt_mmlu"], 24) > 0
