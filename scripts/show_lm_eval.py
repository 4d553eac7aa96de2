"""Write the tables of docs/eval.md on one task of lm-eval, by llama.cpp and by torch, item by item.

    python scripts/show_lm_eval.py [--home DIR] [--limit N] [--dry]

Needs smollm2 in DIR and lm-eval in .cache/lm-eval-0.4.13 (`make test` puts both there; nothing is
changed in DIR), or its command in OVERT_LM_EVAL, and MMLU in `$OVERT_TEST_DATA/eval/mmlu` (MIT).
The task is MMLU's marketing with the choices' texts as continuations, so that each is some tokens
long. smollm2 is asked as it is (Q4_1), and with its weights as 16-bit floats. Takes some three
minutes on one core.
"""

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shown import ROOT, Show, linked, table

PAGE = ROOT / "docs/eval.md"
PROGRAM = ROOT / ".cache/lm-eval-0.4.13/bin/lm_eval"
TASK = """\
task: marketing_texts
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".cache/test-home")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        home = Path(folder, "home")
        linked(given.home, home)
        show = Show(Path(folder), home)
        show.environ["OVERT_LM_EVAL"] = os.environ.get("OVERT_LM_EVAL", str(PROGRAM))
        show.environ["HF_HOME"] = str(show.folder / "hf")
        task(show.folder)
        show.run("unused", "convert", "smollm2", "smollm2-st", "--to", "safetensors")
        show.run("unused", "convert", "smollm2-st", "smollm2-f16")
        scores, agreement = [], []
        for ref in ("smollm2", "smollm2-f16"):
            runs = [evaluated(show, ref, engine, given.limit) for engine in ("wheel", "torch")]
            scores += [score(one) for one in runs]
            agreement.append(agreed(ref, *runs))
        del show.blocks["unused"]
        head = ("model", "engine", "score", "95 % interval", "items")
        show.add("engines", table(head, scores))
        head = (
            "model",
            "same score",
            "same choice",
            "choices",
            "largest difference of a log-probability",
            "mean",
        )
        show.add("agreement", table(head, agreement))
        print(show.blocks["engines"], show.blocks["agreement"], sep="\n")
        if not given.dry:
            show.put(PAGE)


def task(folder: Path) -> None:
    """The task's file, and its items, in a folder `tasks`."""
    place = folder / "tasks"
    place.mkdir()
    source = Path(os.environ["OVERT_TEST_DATA"], "eval/mmlu/test/marketing_test.csv")
    with source.open(encoding="utf-8", newline="") as file:
        rows = [
            {"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])}
            for row in csv.reader(file)
        ]
    items = place / "items.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (place / "marketing_texts.yaml").write_text(TASK.format(items=items), "utf-8")


def evaluated(show: Show, ref: str, engine: str, limit: int) -> dict[str, Any]:
    """The receipt of the task on one engine."""
    said = show.run(
        "unused",
        "eval",
        ref,
        "--lm-eval",
        "marketing_texts",
        "--include",
        "tasks",
        "--limit",
        str(limit),
        "--engine",
        engine,
        "--threads",
        "1",
        "--json",
    )
    found: dict[str, Any] = json.loads(Path(json.loads(said)["receipt"]).read_text())
    return found


def score(one: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = one["interval"]
    model = one["model"]
    return (
        model["ref"],
        model["build"] or model["engine"],
        f"{one['score']:.3f}",
        f"{low:.3f} to {high:.3f}",
        str(one["n"]),
    )


def agreed(ref: str, fast: Mapping[str, Any], exact: Mapping[str, Any]) -> tuple[str, ...]:
    """How far two receipts of one task agree, item by item."""
    one, other = ({item["id"]: item for item in each["items"]} for each in (fast, exact))
    same = sum(one[id]["score"] == other[id]["score"] for id in one)
    chosen = sum(one[id]["answer"] == other[id]["answer"] for id in one)
    apart = [
        abs(a - b)
        for id in one
        for a, b in zip(one[id]["detail"]["logprobs"], other[id]["detail"]["logprobs"], strict=True)
    ]
    of = len(one)
    return (
        ref,
        f"{same} of {of}",
        f"{chosen} of {of}",
        str(len(apart)),
        f"{max(apart):.3f}",
        f"{sum(apart) / len(apart):.3f}",
    )


if __name__ == "__main__":
    main()
