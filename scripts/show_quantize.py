"""Quantize SmolLM2 and Gemma 3 to several types, and write docs/quantize.md with its two plots.

    python scripts/show_quantize.py [--windows N] [--runs N] [--types LIST] [--out FOLDER]

Needs the two models in `.cache/test-home` (`make test` gets them) and WikiText-2 in
`$OVERT_TEST_DATA/eval/wikitext2`. Of the first half of that text the beginning (--calibration) is
for the importance matrix, the second half is what is measured on. It should take some eleven
minutes on two quiet cores (reckoned, not measured), and with `--types all --windows 24` an hour or
so. It goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shown import linked

HERE = Path(__file__).resolve().parent.parent
MODELS = {"smollm2": "SmolLM2 135M Instruct", "gemma3": "Gemma 3 270M"}
SHOWN = "q8_0,q6_k,q5_k_m,q4_k_m,q4_0,q3_k_m,q2_k"
HELPED = "q4_k_m,q3_k_m"
"""Types that are made with and without an importance matrix."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--windows", type=int, default=6)
    options.add_argument("--runs", type=int, default=2)
    options.add_argument("--types", default=SHOWN)
    options.add_argument("--helped", default=HELPED)
    options.add_argument("--calibration", type=int, default=100_000, help="bytes of text")
    options.add_argument("--out", type=Path, default=HERE / "docs")
    asked = options.parse_args()
    home = HERE / ".cache" / "quantize-home"
    linked(HERE / ".cache" / "test-home", home)
    calibration, measured = parts_of(home, asked.calibration)
    parts = []
    for ref, name in MODELS.items():
        plot = asked.out / f"quantize-{ref}.png"
        table = quantized(
            home,
            ref,
            "-q",
            asked.types,
            "--imatrix",
            "auto",
            "--calibrate",
            str(calibration),
            "--text",
            str(measured),
            "--windows",
            str(asked.windows),
            "--runs",
            str(asked.runs),
            "--plot",
            str(plot),
        )
        plain = quantized(
            home,
            ref,
            "-q",
            asked.helped,
            "--text",
            str(measured),
            "--windows",
            str(asked.windows),
            "--runs",
            "0",
        )
        parts.append(section(ref, name, table, plain))
    (asked.out / "quantize.md").write_text(page(parts, asked))


def parts_of(home: Path, most: int) -> tuple[Path, Path]:
    """WikiText-2 cut in two at a line's end: to calibrate on, `most` bytes of it, and to measure
    on."""
    whole = Path(os.environ["OVERT_TEST_DATA"]) / "eval" / "wikitext2" / "wiki.test.raw"
    raw = whole.read_bytes()
    middle = raw.index(b"\n", len(raw) // 2) + 1
    calibration, measured = home / "wikitext2-first.txt", home / "wikitext2-second.txt"
    calibration.write_bytes(raw[: raw.rindex(b"\n", 0, min(most, middle)) + 1])
    measured.write_bytes(raw[middle:])
    return calibration, measured


def quantized(home: Path, *given: str) -> dict[str, Any]:
    """What `overt quantize … --json` tells."""
    command = [sys.executable, "-m", "overt", "quantize", *given, "--home", str(home), "--json"]
    print(" ".join(["overt", *command[3:-3]]), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def section(ref: str, name: str, table: dict[str, Any], plain: dict[str, Any]) -> str:
    rows = [table["base"], *table["types"]]
    lines = [
        f"## {name}",
        "",
        f"![The size of {name} against its divergence, for each type](quantize-{ref}.png)",
        "",
        f"{table['scored_tokens']} tokens in {table['windows']} windows of {table['window']}, "
        f"{table['threads']} thread, importance matrix of text from the other half. The source "
        f"is quantized already ({', '.join(table['source_types'])}), figures are the loss to it.",
        "",
        "| type | bits | MB | load MB | KLD mean (95 %) | KLD p99 | top-1 (95 %) "
        "| perplexity (95 %) | prompt/s | decode/s | mix |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in rows),
        "",
    ]
    lines += [f"- {row['label_note']}" for row in rows if row["label_note"]]
    lines += [f"- `{name}` was not made: {why}" for name, why in table["failed"].items()]
    without = {row["type"]: row for row in plain["types"]}
    both = [(row, without[row["type"]]) for row in table["types"] if row["type"] in without]
    lines += [
        "",
        "What the importance matrix did, on text it was not made from:",
        "",
        "| type | KLD without | KLD with | top-1 without | top-1 with |",
        "|---|---|---|---|---|",
        *(
            f"| {one['type']} | {_mean(other)} | {_mean(one)} | {100 * other['top1']:.1f} % "
            f"| {100 * one['top1']:.1f} % |"
            for one, other in both
        ),
        *(f"| {name} | needs one | | | |" for name in plain["failed"]),
        "",
    ]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    low, high = row["top1_interval"]
    least, most = row["perplexity_interval"]
    mix = ", ".join(
        f"{100 * share:.0f} % {kind}" for kind, share in row["mix"].items() if share > 0.005
    )
    speeds = [f"{row[key]:.0f}" if key in row else "" for key in ("prompt_tps", "decode_tps")]
    load = f"{row['load_memory'] / 1e6:.0f}" if "load_memory" in row else ""
    return (
        f"| {row['type']} | {row['bits_per_weight']:.2f} | {row['bytes'] / 1e6:.1f} | {load} "
        f"| {_mean(row)} | {row['kld_p99']:.4f} | {100 * row['top1']:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f}) "
        f"| {row['perplexity']:.2f} ({least:.2f} to {most:.2f}) "
        f"| {speeds[0]} | {speeds[1]} | {mix} |"
    )


def _mean(row: dict[str, Any]) -> str:
    low, high = row["kld_mean_interval"]
    return f"{row['kld_mean']:.4f} ({low:.4f} to {high:.4f})"


def page(parts: list[str], asked: argparse.Namespace) -> str:
    command = f"python scripts/show_quantize.py --windows {asked.windows} --runs {asked.runs}"
    command += f" --calibration {asked.calibration}"
    return "\n".join([_HEAD.format(command=command), *parts])


_HEAD = """# Quantizing, and what it costs

```
overt quantize smollm2 small -q q4_k_m                       one type, measured and stored
overt quantize smollm2 -q q8_0,q5_k_m,q4_0 --plot out.png    a table and a plot
overt quantize smollm2 -q all --imatrix auto                 every type of llama.cpp
overt quantize smollm2 small -q auto --max-kld 0.02          the fastest that is good enough
```

Every result is held against its source on the same text: the KL divergence of the next token's
distribution at each position, how often both hold the same token for the likeliest, and perplexity.
Of these the divergence tells most: it uses all of the vocabulary at each position, where perplexity
looks at one token, so that its interval is far narrower. An expected loss of that many nats a token
is what the source's own text costs more under the quantized model: at a mean of 0.05, the default
limit of `-q auto`, its perplexity on such text is 5 % higher.

- **The label can lie.** Bits per weight and the mix are counted from the finished file. Rows that
  do not fill a type's blocks of 256 get another type, and a sentence says so.
- **A source that is quantized already** can only lose more. Figures are then the loss against it,
  and not against the weights it was made from.
- **As llama-perplexity does it,** the second half of each window of 512 tokens is scored.
  Intervals are of 95 % over windows (Student's t), and for top-1 the wider of that and Wilson's.
  The source's log-probabilities are kept in 16 bits; what that alone costs is the divergence in
  the row `source`.
- **Memory** is what a fresh worker has resident after it has read a prompt. Speeds are medians of
  runs in which the types take turns, so that a machine that slows down slows all of them.
- **A divergence of zero does not mean equal answers:** it is a mean over positions, and one token
  that falls otherwise changes all that follows. Score a task as well (`--task`) where it matters.
- **Memory is reckoned before anything is made.** `-q auto --memory SIZE` asks llama.cpp what each
  tensor will be stored as, passes over what needs more, and holds the finished file to the limit
  once more.
- **What is done is kept.** The same command goes on where it was stopped. A command for fewer types
  of the same measurement uses what is there, leaves the rest to the one that was stopped, and adds
  its rows to the finished table in `<home>/measurements`; of speeds, those of more runs stay. What
  was stopped keeps its disk until it is finished, or until `overt jobs rm ID`.
- **Replayed elsewhere,** bytes may differ where an importance matrix is computed, as sums are added
  in another order. How far is bounded for each block and each tensor, and whoever knows the bounds
  may use them: see "On another processor" in [recipes.md](recipes.md).

The tables below are what `{command}` made. The text is the test part of WikiText-2 (Merity et al.
2016, CC BY-SA 3.0 and GFDL): of its first half for the importance matrix, its second half to
measure on. Without `--text` and `--calibrate`, two short texts that come with Overt are used,
written for it and given away (CC0); they are enough to see a bad type, and too short for the last
digit.
"""

if __name__ == "__main__":
    main()
