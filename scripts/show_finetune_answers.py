"""Write what docs/finetune.md shows of answers that get better: SmolLM2 learns to read BBQ.

    python scripts/show_finetune_answers.py [--steps N] [--items N] [--threads N] [--dry]

Needs smollm2 in .cache/test-home (`make test` puts it there; nothing is changed) and BBQ's
files in `$OVERT_TEST_DATA/eval/bbq`.

BBQ (CC BY 4.0, Parrish et al. 2022) asks about a short text; half of its texts do not tell, and
"cannot be determined" is right then. Learnt from is its category Age; asked are items of Religion,
other texts about other people.
"""

import argparse
import json
import os
import random
from pathlib import Path

from shown import ROOT, fresh, learnt

PAGE = ROOT / "docs/finetune.md"
HELD, SEED = 48, 7
PROMPT = "{context}\n\n{question}\nAnswer with one of: {ans0}; {ans1}; {ans2}."
SUITE = """\
name: reading
kind: choice
data: religion.jsonl
prompt: {prompt}
choices: ["{{ans0}}", "{{ans1}}", "{{ans2}}"]
answer: "{{right}}"
max_tokens: 24
public: true
licence: CC-BY-4.0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--items", type=int, default=100, help="questions that are asked")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    data = Path(os.environ["OVERT_TEST_DATA"], "eval/bbq")
    with fresh(ROOT / ".cache/test-home", given.threads) as show:
        rows(items(data / "Age.jsonl"), show.folder / "age.jsonl")
        religion = items(data / "Religion.jsonl")
        rows(religion[-HELD:], show.folder / "held.jsonl")
        asked(religion[: given.items], show.folder)
        learnt(
            show,
            "reading",
            "reader",
            "age.jsonl",
            "CC-BY-4.0",
            "--steps",
            str(given.steps),
            "--threads",
            str(given.threads),
        )
        show.run(
            "read", "eval", "religion.yaml", "-m", "smollm2", "-m", "reader", "--deterministic"
        )
        if not given.dry:
            show.put(PAGE)


def items(path: Path) -> list[dict[str, str]]:
    """The items in an order drawn by the seed, each with its right answer."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    random.Random(SEED).shuffle(found)
    keys = ("context", "question", "ans0", "ans1", "ans2")
    return [{key: one[key] for key in keys} | {"right": one[f"ans{one['label']}"]} for one in found]


def rows(found: list[dict[str, str]], out: Path) -> None:
    """Prompts and completions."""
    made = [{"prompt": PROMPT.format(**one), "completion": one["right"]} for one in found]
    out.write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")


def asked(found: list[dict[str, str]], folder: Path) -> None:
    """A suite of the items."""
    data = "".join(json.dumps(row) + "\n" for row in found)
    (folder / "religion.jsonl").write_text(data, "utf-8")
    (folder / "religion.yaml").write_text(SUITE.format(prompt=json.dumps(PROMPT)), "utf-8")


if __name__ == "__main__":
    main()
