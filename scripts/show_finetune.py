"""The real run of docs/finetune.md: SmolLM2 learns from GSM8K, and is compared before and after.

    python scripts/show_finetune.py gsm8k/test.jsonl        about ten minutes on two cores

Of GSM8K (MIT, Cobbe et al. 2021) only its 1,319 test items lie with this project. They are parted
here by a seed: 200 are held out, the rest is learnt from. So the figures say what a fine-tune does
on this machine, and nothing about GSM8K's leaderboard: a model that saw its test items has no score
there. Prints the command, the table, and one question answered before and after.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HELD, SEED = 200, 7
STEPS = 120


def main() -> None:
    """Part the file, run the verb, ask before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="GSM8K's test.jsonl")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/finetune.png"))
    given = parser.parse_args()
    lines = given.data.read_text("utf-8").splitlines()
    random.Random(SEED).shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        train, held = Path(folder, "train.jsonl"), Path(folder, "held.jsonl")
        train.write_text("\n".join(lines[HELD:]), "utf-8")
        held.write_text("\n".join(lines[:HELD]), "utf-8")
        question = json.loads(lines[0])["question"]
        ask(question, "smollm2")
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        overt(
            "finetune", "smollm2", "maths", "--data", str(train), "--held-file", str(held),
            "--data-licence", "MIT", "--length", "512", "--steps", str(given.steps),
            "--plot", str(given.plot),
        )  # fmt: skip
        ask(question, "maths")
    overt("history", "maths")


def ask(question: str, model: str) -> None:
    overt("run", model, question, "--temperature", "0", "--max-tokens", "200")


def overt(*words: str) -> None:
    """Run the program, and show the command as it is typed."""
    shown = " ".join(f'"{word}"' if " " in word else _short(word) for word in words)
    print(f"$ overt {shown}", flush=True)
    subprocess.run([sys.executable, "-m", "overt", *words], check=True)
    print(flush=True)


def _short(word: str) -> str:
    return Path(word).name if word.startswith("/") else word


if __name__ == "__main__":
    main()
