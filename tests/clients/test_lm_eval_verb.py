"""`overt eval REF --lm-eval TASK`: a task of log-probabilities, on llama.cpp and on torch."""

import json
from pathlib import Path

import pytest
from test_lm_eval import TASK, lm_eval  # noqa: F401

from conftest import OvertCli
from serving import copy_home

pytestmark = [pytest.mark.slow, pytest.mark.model]


def test_both_engines_find_the_same_item_by_item(
    model_home: Path,
    lm_eval: Path,  # noqa: F811
    overt_cli: OvertCli,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    home = copy_home(model_home, tmp_path / "home")
    task = tmp_path / "task"
    task.mkdir()
    recipe = (TASK / "overt_tiny.yaml").read_text("utf-8")
    (task / "overt_tiny.yaml").write_text(recipe.replace("ITEMS", str(TASK / "items.jsonl")))
    env = {"OVERT_HOME": str(home), "OVERT_LM_EVAL": str(lm_eval), "OVERT_THREADS": "1"}
    told = []
    for engine in ("auto", "torch"):
        done = overt_cli(
            "eval", "smollm2", "--lm-eval", "overt_tiny", "--include", task, "--limit", "8",
            "--engine", engine, "--json", env=env, timeout=240,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert [one["n"] for one in told] == [8, 8]
    paths = [one["receipt"] for one in told]
    fast, exact = (json.loads(Path(path).read_text()) for path in paths)
    assert [fast["model"]["engine"], exact["model"]["engine"]] == ["llamacpp", "torch"]
    for one, other in zip(fast["items"], exact["items"], strict=True):
        assert one["id"] == other["id"]
        assert one["score"] == other["score"]
        # the file is Q4_1, whose prompts llama.cpp rounds to 8 bits
        assert one["detail"]["logprobs"] == pytest.approx(other["detail"]["logprobs"], abs=1.5)
    compared = overt_cli("eval", "--compare", *paths, "--json", env=env)
    found = json.loads(compared.stdout)
    assert (found["n"], found["difference"], found["same_suite"]) == (8, 0.0, True)
