"""Write what docs/finetune.md shows, and its plot, from a real run: SmolLM2 learns from GSM8K.

    python scripts/show_finetune.py [--home DIR] [--steps N] [--asked N] [--threads N] [--dry]

Needs smollm2 in DIR (`make test` puts it into .cache/test-home; nothing is changed there) and
GSM8K's test.jsonl in `$OVERT_TEST_DATA/eval/gsm8k`. Takes some ten minutes, half of which is the
comparison after the training.

Of GSM8K (MIT, Cobbe et al. 2021) only its 1,319 test items lie with this project. They are parted
here by a seed: 60 are held out, the rest is learnt from. So the figures say what a fine-tune does
on this machine, and nothing about GSM8K's leaderboard: a model that saw its test items has no score
there.
"""

import argparse
import json
import os
import random
from pathlib import Path

from shown import ROOT, Show, fresh, learnt, table

PAGE, PLOT = ROOT / "docs/finetune.md", ROOT / "docs/finetune.png"
HELD, SEED = 60, 7
SUITE = """\
name: maths
kind: numeric
data: held.jsonl
prompt: "{question}"
answer: "{answer}"
max_tokens: 200
public: true
licence: MIT
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".cache/test-home")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--asked", type=int, default=HELD, help="questions that are asked after")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    data = Path(os.environ["OVERT_TEST_DATA"], "eval/gsm8k/test.jsonl")
    with fresh(given.home, given.threads) as show:
        question = parted(data, show.folder)
        wrong(show)
        learn(show, given)
        compare(show, given.asked)
        for name in ("smollm2", "maths"):
            show.run("asked", "run", name, question, "--temperature", "0", "--max-tokens", "200")
        if not given.dry:
            PLOT.write_bytes((show.folder / "loss.png").read_bytes())
            show.put(PAGE)


def parted(data: Path, folder: Path) -> str:
    """Write train.jsonl and held.jsonl; the first question that is held out."""
    lines = data.read_text("utf-8").splitlines()
    random.Random(SEED).shuffle(lines)
    (folder / "held.jsonl").write_text("\n".join(lines[:HELD]) + "\n", "utf-8")
    (folder / "train.jsonl").write_text("\n".join(lines[HELD:]) + "\n", "utf-8")
    (folder / "maths.yaml").write_text(SUITE, "utf-8")
    return str(json.loads(lines[0])["question"])


def wrong(show: Show) -> None:
    """A file with a row that is none."""
    rows = [{"question": "What is 2 + 2?", "answer": "4"}, {"question": "What is 3 + 3?"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (show.folder / "wrong.jsonl").write_text(text, "utf-8")
    show.run("wrong", "finetune", "smollm2", "none", "--data", "wrong.jsonl", fails=True)


def learn(show: Show, given: argparse.Namespace) -> None:
    """The fine-tune, the lines it printed, and its table."""
    learnt(
        show,
        "finetune",
        "maths",
        "train.jsonl",
        "MIT",
        "--steps",
        str(given.steps),
        "--threads",
        str(given.threads),
        "--plot",
        "loss.png",
    )
    show.run("history", "history", "maths")


def compare(show: Show, asked: int) -> None:
    """Whether answers are right, and how long they are: what the loss does not tell."""
    show.run(
        "eval",
        "eval",
        "maths.yaml",
        "-m",
        "smollm2",
        "-m",
        "maths",
        "--deterministic",
        "--limit",
        str(asked),
    )
    rows = []
    for path in sorted((Path(show.environ["OVERT_HOME"]) / "evaluations").glob("*.json")):
        one = json.loads(path.read_text())
        mean = one["totals"]["tokens_out"] / one["n"]
        rows.append(
            (one["model"]["ref"], f"{one['score']:.2f}", f"{mean:.0f}", str(one["totals"]["cut"]))
        )
    head = ("model", "right", "tokens of an answer, mean", "cut at 200 tokens")
    show.add("answers", table(head, rows))


if __name__ == "__main__":
    main()
