"""How far two fine-tunes are apart: on another instruction set, and where something else was done.

    python scripts/show_agreement.py [--home DIR] [--only lora-bf16,full-f32] [--dry]

SmolLM2 learns 8 steps of 60 items of GSM8K, again with the kernels of another instruction set
(ATEN_CPU_CAPABILITY and MKL_ENABLE_INSTRUCTIONS), and again with one thing changed that nobody may
pass off as the same: a learning rate 10 % higher, a step fewer, the data in another order, another
seed. Both are measured as `overt replay` does, and the table goes into docs/recipes.md.

Needs smollm2 in DIR and GSM8K's test.jsonl in `$OVERT_TEST_DATA/eval/gsm8k`. A fine-tune takes half
a minute to two minutes on one core, and there are 36. What is made stays in `.cache/agreement`, and
is not made again.
"""

import argparse
import filecmp
import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from shown import ROOT, Show, linked, table

from overt.lab.finetune import agreement
from overt.models.store import Store
from overt.ref import parse

PAGE = ROOT / "docs/recipes.md"
PLACE = ROOT / ".cache/agreement"
ITEMS, STEPS = 60, 8
RATES = {"lora": 2e-4, "full": 2e-5, "dpo": 5e-5}
HELD = {"lora": "0.2", "full": "0.05", "dpo": "0"}  # so few pairs held out would end it at once
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CHANGES = {
    "avx2": "nothing; kernels for AVX2",
    "rate": "a learning rate 10 % higher",
    "steps": "a step fewer",
    "data": "the data in another order",
    "seed": "another seed",
}
KEPT = ("finetune.json", "adapter.gguf", "peft/adapter_model.safetensors", "finetuned-f16.gguf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".cache/test-home")
    parser.add_argument("--only", default="", help="methods and products, such as lora-bf16")
    parser.add_argument("--made", action="store_true", help="only of what was made already")
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    home = PLACE / "home"
    linked(given.home, home)
    show = Show(PLACE, home)
    written()
    kinds = [f"{method}-{dtype}" for method in RATES for dtype in ("bf16", "f32")]
    chosen = [one for one in kinds if not given.only or one in given.only.split(",")]
    for kind in chosen if not given.made else ():
        for change in ("here", *CHANGES):
            learn(show, kind, change)
    head = (
        "method, products",
        "changed",
        "losses",
        "shares",
        "learnt",
        "of a tensor",
        "size",
        "verdict",
    )
    rows = [row for kind in chosen for row in judged(kind, home)]
    show.blocks = {"agreement": table(head, rows)}
    print(show.blocks["agreement"])
    if not given.dry:
        show.put(PAGE)


def written() -> None:
    """The data, in two orders; of pairs, the rejected answer is that of the next question."""
    lines = Path(os.environ["OVERT_TEST_DATA"], "eval/gsm8k/test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:ITEMS]]
    pairs = [
        json.dumps(
            {"prompt": row["question"], "chosen": row["answer"], "rejected": other["answer"]}
        )
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    for name, found in (("some", lines[:ITEMS]), ("pairs", pairs)):
        other = list(found)
        random.Random(1).shuffle(other)
        (PLACE / f"{name}.jsonl").write_text("\n".join(found) + "\n")
        (PLACE / f"{name}-shuffled.jsonl").write_text("\n".join(other) + "\n")


def learn(show: Show, kind: str, change: str) -> None:
    """One fine-tune; its files are kept, and whole weights go from the store."""
    target = PLACE / f"{kind}-{change}"
    if (target / "finetune.json").is_file():
        return
    method, dtype = kind.split("-")
    rate = RATES[method] * (1.1 if change == "rate" else 1)
    data = ("pairs" if method == "dpo" else "some") + ("-shuffled" if change == "data" else "")
    show.run(
        "unused",
        "finetune",
        "smollm2",
        target.name,
        "--data",
        f"{data}.jsonl",
        "--method",
        method,
        "--dtype",
        dtype,
        "--lr",
        f"{rate:g}",
        "--steps",
        str(STEPS - (change == "steps")),
        "--seed",
        str(int(change == "seed")),
        "--length",
        "256",
        "--held",
        HELD[method],
        "--threads",
        "1",
        "--quiet",
        "--yes",
        before=ELSEWHERE if change == "avx2" else None,
    )
    store = Store(PLACE / "home")
    for file in sorted(store.get(parse(target.name)).files, key=lambda one: one.path == KEPT[0]):
        if file.path in KEPT:
            (target / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.path(file), target / file.path)
    show.run("unused", "rm", target.name, "--yes")


def judged(kind: str, home: Path) -> Iterator[tuple[str, ...]]:
    """A row for each change."""
    store = Store(home)
    base = store.path(store.get(parse("smollm2")).weights)
    recorded = PLACE / f"{kind}-here"
    for change, said in CHANGES.items():
        here = PLACE / f"{kind}-{change}"
        if not (here / "finetune.json").is_file():
            continue  # asked for with --made
        pairs = {
            name: (recorded / name, here / name)
            for name in KEPT
            if (recorded / name).is_file() and not name.startswith("peft/")
        }
        pairs = {name: two for name, two in pairs.items() if not filecmp.cmp(*two, shallow=False)}
        found = agreement.of_files(pairs, base, precision(kind), loss(kind))
        numbers = [
            f"{one.largest:.2g}" if math.isfinite(one.largest) else "not comparable"
            for one in found
        ]
        verdict = "within" if all(one.holds for one in found) else "different"
        yield (kind.replace("-", ", "), said, *numbers, verdict)


def precision(kind: str) -> str:
    return "bfloat16" if kind.endswith("bf16") else "float32"


def loss(kind: str) -> str:
    return "preference" if kind.startswith("dpo") else "answers"


if __name__ == "__main__":
    main()
