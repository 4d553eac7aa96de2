"""One task of lm-eval on llama.cpp and on torch, item by item: the table of docs/eval.md.

    OVERT_LM_EVAL=.cache/lm-eval-0.4.13/bin/lm_eval python scripts/show_lm_eval.py smollm2 \\
        --task overt_tiny --include DIR --limit 20

Runs `overt eval` twice and prints Markdown: score with interval on each engine, items on which the
two agree, and the largest and mean |difference| of a choice's log-probability.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def evaluated(asked: argparse.Namespace, engine: str) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "overt", "eval", asked.ref, "--lm-eval", asked.task,
        "--engine", engine, "--threads", str(asked.threads), "--json",
    ]  # fmt: skip
    for flag in ("include", "limit"):
        if (value := getattr(asked, flag)) is not None:
            command += [f"--{flag}", str(value)]
    if asked.hub:
        command.append("--hub")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    found: dict[str, Any] = json.loads(Path(json.loads(done.stdout)["receipt"]).read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("ref")
    parser.add_argument("--task", required=True)
    parser.add_argument("--include", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hub", action="store_true")
    asked = parser.parse_args()
    runs = [evaluated(asked, engine) for engine in ("wheel", "torch")]
    print("| engine | score | 95 % interval | items |\n|---|---|---|---|")
    for one in runs:
        low, high = one["interval"]
        model = one["model"]
        print(f"| {model['engine']} ({model['build']}) | {one['score']:.3f} | "
              f"{low:.3f} to {high:.3f} | {one['n']} |")  # fmt: skip
    fast, exact = ({item["id"]: item for item in one["items"]} for one in runs)
    same = sum(fast[id]["score"] == exact[id]["score"] for id in fast)
    chosen = sum(fast[id]["answer"] == exact[id]["answer"] for id in fast)
    apart = [
        abs(a - b)
        for id in fast
        for a, b in zip(
            fast[id]["detail"].get("logprobs", ()), exact[id]["detail"].get("logprobs", ()),
            strict=True,
        )
    ]  # fmt: skip
    print(f"\nSame score in {same} of {len(fast)} items, same choice in {chosen}.")
    if apart:
        print(f"Log-probabilities of {len(apart)} choices: |difference| at most {max(apart):.4f}, "
              f"{sum(apart) / len(apart):.4f} on average.")  # fmt: skip


if __name__ == "__main__":
    main()
