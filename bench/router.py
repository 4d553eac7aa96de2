"""What a router brings on the paired outcomes of RouteLLM's GSM8K: writes docs/router-curve.md.

    OVERT_TEST_DATA=FOLDER python bench/router.py

About 20 s. Mixtral-8x7B-Instruct is the weak model and GPT-4-1106-preview the strong one; the 12
prompts that RouteLLM calls contaminated are left out. Every score is of a router that was learnt
without the row (5 folds). Of the strong model only whether it was right is used, and only to
measure. The picture is docs/router-curve.svg.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from statistics import mean, quantiles

from overt.errors import BadRequest
from overt.evaluation import conformal
from overt.evaluation.router import Curve, RouterOutcome, apgr_samples, curve, out_of_fold
from overt.gateway.routing.arithmetic import wrong_sum

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "eval/routellm_gsm8k"
# USD per million tokens in and out, from notes/closed_and_cost.md section 3 (genai-prices 0.2.3).
STRONG, HOSTED = (2.0, 10.0), (0.20, 0.75)  # gpt-6.1-sol, gpt-6-luna
CHARACTERS_A_TOKEN = 3.5
LEVELS = (0.5, 0.8, 0.95)
NAMES = {
    "random": "random",
    "prompt": "before: the prompt alone",
    "answer": "after: the weak answer alone",
    "both": "after: prompt and weak answer",
    "known": "knows whether the weak answer is right",
    "oracle": "oracle: knows both outcomes",
}
COLOURS = {"prompt": "#b35900", "answer": "#5b8c00", "both": "#0057b8", "oracle": "#777777"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("OVERT_TEST_DATA", ""))
    options.add_argument("--out", default=str(ROOT / "docs"))
    options.add_argument("--draws", type=int, default=2000)
    given = options.parse_args()
    folder = Path(given.data) / FOLDER
    if not given.data or not folder.is_dir():
        sys.exit(f"{folder} is not there: set OVERT_TEST_DATA to the folder of test data")
    rows = read(folder)
    scores = {sees: out_of_fold(rows, sees) for sees in ("prompt", "answer", "both")}
    scores["known"] = [float(row.weak) for row in rows]
    scores["oracle"] = [float(row.weak - row.strong) for row in rows]
    text = page(rows, scores, given.draws)
    out = Path(given.out)
    (out / "router-curve.md").write_text(text, "utf-8")
    (out / "router-curve.svg").write_text(picture(rows, scores), "utf-8")
    print(text)


def read(folder: Path) -> list[RouterOutcome]:
    """The outcomes, without those prompts that RouteLLM found in training data."""
    csv.field_size_limit(1 << 24)
    with (folder / "contaminated_prompts.jsonl").open(encoding="utf-8") as file:
        left_out = {json.loads(line)["eval_prompt"] for line in file}
    with (folder / "gsm8k_responses.csv").open(encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        next(table)
        # The fifth column, GPT-4's answer, is not kept.
        found = [RouterOutcome(p, a, w == "True", s == "True") for p, w, s, a, _ in table]
    return [row for row in found if row.prompt not in left_out]


def dollars(row: RouterOutcome, price: tuple[float, float]) -> float:
    """USD of one request; the strong model is taken to write as much as the weak one did."""
    tokens = [len(text) / CHARACTERS_A_TOKEN for text in (row.prompt, row.answer)]
    return sum(count * usd for count, usd in zip(tokens, price, strict=True)) / 1e6


def interval(values: list[float]) -> str:
    cuts = quantiles(values, n=40)
    return f"{cuts[0]:.3f} to {cuts[-1]:.3f}"


def page(rows: list[RouterOutcome], scores: dict[str, list[float]], draws: int) -> str:
    weak, strong = mean(row.weak for row in rows), mean(row.strong for row in rows)
    best = mean(row.weak or row.strong for row in rows)
    samples = apgr_samples(rows, scores, draws=draws)
    lines = [
        "# The router on paired outcomes",
        "",
        "Made by `OVERT_TEST_DATA=… python bench/router.py`; what a router is stands in "
        "[routes.md](routes.md).",
        "",
        f"{len(rows)} problems of GSM8K with the answers of Mixtral-8x7B-Instruct (weak) and "
        "GPT-4-1106-preview (strong), from RouteLLM (Apache-2.0), without its 12 contaminated "
        f"prompts. Right: weak {weak:.3f}, strong {strong:.3f}, one of the two {best:.3f}. "
        "Every score is of a router learnt on the other four fifths; it sees the prompt, or the "
        "weak model's answer as well, and never a strong model's words. Intervals: 95%, "
        f"{draws} bootstrap samples of the problems (the routers are not learnt anew for each).",
        "",
        "![quality against the share of calls to the strong model](router-curve.svg)",
        "",
        "*Area* is under quality against share of strong calls. *APGR* is the average share of the "
        "gap between weak and strong that is won; 0.5 is a coin. The last columns are the least "
        "share of calls that must go to the strong model to win so much of the gap.",
        "",
        "| router | area | APGR | 95% interval | 50% of the gap | 80% | 95% |",
        "|---|---|---|---|---|---|---|",
        f"| random | {(weak + strong) / 2:.3f} | 0.500 | exact | 50.0% | 80.0% | 95.0% |",
    ]
    for name, one in scores.items():
        found = curve(rows, one)
        shares = " | ".join(f"{share(found, weak, strong, level):.1%}" for level in LEVELS)
        lines.append(
            f"| {NAMES[name]} | {found.area:.3f} | {found.apgr:.3f} | {interval(samples[name])} | "
            f"{shares} |"
        )
    gained = [a - b for a, b in zip(samples["both"], samples["prompt"], strict=True)]
    lines += [
        "",
        f"Looking at the weak answer first is worth {mean(gained):.3f} of APGR over the prompt "
        f"alone ({interval(gained)}, paired).",
        "",
        *money(rows, scores, weak, strong),
        *rules(rows, weak, strong),
        *promises(rows, scores["both"]),
        *limits(),
    ]
    return "\n".join(lines) + "\n"


def share(found: Curve, weak: float, strong: float, level: float) -> float:
    reached = found.share_for(weak + level * (strong - weak))
    assert reached is not None
    return reached


def money(
    rows: list[RouterOutcome], scores: dict[str, list[float]], weak: float, strong: float
) -> list[str]:
    closed = [dollars(row, STRONG) for row in rows]
    hosted = [dollars(row, HOSTED) for row in rows]
    per = 1000 / len(rows)
    lines = [
        "## In dollars",
        "",
        f"USD for 1000 such requests, if the strong model costs ${STRONG[0]:g} and ${STRONG[1]:g} "
        "per million tokens in and out (the price of gpt-6.1-sol in genai-prices 0.2.3, not that "
        f"of the GPT-4 of 2023), {CHARACTERS_A_TOKEN} characters are a token, and the strong model "
        "writes as much as the weak one. All to the strong model: "
        f"${sum(closed) * per:.2f}. A weak model of one's own costs nothing here: its power and "
        "hardware are not counted. A hosted weak model is taken at "
        f"${HOSTED[0]:g} and ${HOSTED[1]:g}: all to it costs ${sum(hosted) * per:.2f}, and a "
        "router that reads its answer pays for it each time.",
        "",
        "| router | own: 50% of the gap | 80% | 95% | hosted: 50% | 80% | 95% |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("prompt", "both", "oracle"):
        own = curve(rows, scores[name], closed)
        saved = hosted if name != "both" else [0.0] * len(rows)
        extra = [a - b for a, b in zip(closed, saved, strict=True)]
        theirs = curve(rows, scores[name], extra, base=sum(hosted))
        cells = [
            f"${cost(one, weak + level * (strong - weak)) * per:.2f}"
            for one in (own, theirs)
            for level in LEVELS
        ]
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    return [*lines, ""]


def cost(found: Curve, quality: float) -> float:
    before = found.points[0]
    for point in found.points[1:]:
        if point[1] >= quality > before[1]:
            part = (quality - before[1]) / (point[1] - before[1])
            return before[2] + part * (point[2] - before[2])
        before = point
    raise AssertionError(quality)


def rules(rows: list[RouterOutcome], weak: float, strong: float) -> list[str]:
    """What the checks of a route alone do, with nothing learnt."""
    lines = [
        "## With nothing learnt",
        "",
        "Escalating where a check of the route fails (`arithmetic: true` does again the sums that "
        "an answer writes down; a `check` command may ask for the final line `#### number`):",
        "",
        "| check fails | share of calls | weak right there | weak right elsewhere | quality after "
        "| of the gap |",
        "|---|---|---|---|---|---|",
    ]
    checks = {
        "a sum is wrong": [wrong_sum(row.answer) is not None for row in rows],
        "no final line": ["####" not in row.answer for row in rows],
    }
    checks["either"] = [any(pair) for pair in zip(*checks.values(), strict=True)]
    for name, fails in checks.items():
        pairs = list(zip(rows, fails, strict=True))
        there = mean(row.weak for row, failed in pairs if failed)
        elsewhere = mean(row.weak for row, failed in pairs if not failed)
        after = mean(row.strong if failed else row.weak for row, failed in pairs)
        lines.append(
            f"| {name} | {mean(fails):.1%} | {there:.3f} | {elsewhere:.3f} | {after:.3f} | "
            f"{(after - weak) / (strong - weak):.1%} |"
        )
    return [*lines, ""]


def promises(rows: list[RouterOutcome], scores: list[float]) -> list[str]:
    """Thresholds that hold with a stated confidence (evaluation/conformal.py)."""
    lines = [
        "## With a promise",
        "",
        "A threshold on the score of *after: prompt and weak answer*, learnt as `overt alias learn`"
        " does (90% confidence; the scores are out of fold):",
        "",
    ]
    pairs = [(score, row.weak) for score, row in zip(scores, rows, strict=True)]
    for most in (0.1, 0.15, 0.2, 0.25, 0.3):
        try:
            found = conformal.learn(pairs, most_wrong=most).statement
        except BadRequest as error:
            found = f"at most {most:g} wrong: {error.message}"
        lines.append(f"- {found}")
    return [*lines, ""]


def limits() -> list[str]:
    return [
        "## What this does not say",
        "",
        "- Models of 2023 and a public benchmark: both may have seen such problems.",
        "- The features are made for sums in prose, and some fit GSM8K alone: its answers are whole"
        " numbers, which `answer_whole` and `answer_final` find. On other work a router has to be "
        "learnt anew, and may find nothing.",
        "- RouteLLM's own routers are not here: their weights are not, and they see the prompt "
        "alone.",
        "- Features and penalty were chosen once, before the first run, and not tuned on these "
        "rows; how sums are read was rewritten once after it, to be quick on any text.",
        "- The likelihood of the answer under a second local model was not tried.",
        "- A route uses such a router where `overt alias learn NAME --router` put it into a "
        "threshold: of your own graded answers, half to learn from and half for the promise.",
    ]


# ---- the picture -----------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 440, 60, 20, 20, 50


def picture(rows: list[RouterOutcome], scores: dict[str, list[float]]) -> str:
    weak, strong = mean(row.weak for row in rows), mean(row.strong for row in rows)
    low, high = 0.6, 0.95

    def at(x: float, y: float) -> str:
        across = LEFT + x * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13">',
        "<title>Quality against the share of calls to the strong model</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for step in range(8):
        y = low + step * 0.05
        x, height = at(0, y).split(",")
        parts.append(f'<path d="M{at(0, y)} L{at(1, y)}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{float(x) - 8}" y="{height}" text-anchor="end">{y:.2f}</text>')
    for step in range(6):
        x, height = at(step / 5, low).split(",")
        parts.append(
            f'<text x="{x}" y="{float(height) + 18}" text-anchor="middle">{step * 20}%</text>'
        )
    parts.append(
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">share of calls to '
        "the strong model</text>"
    )
    parts.append(
        f'<path d="M{at(0, weak)} L{at(1, strong)}" stroke="#999" stroke-dasharray="5 4"/>'
    )
    for name, colour in COLOURS.items():
        line = " L".join(at(x, y) for x, y, _ in curve(rows, scores[name]).points)
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for number, (name, colour) in enumerate([*COLOURS.items(), ("random", "#999")]):
        x, y = at(0.56, 0.72 - number * 0.022).split(",")
        parts.append(f'<rect x="{x}" y="{float(y) - 9}" width="18" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{float(x) + 26}" y="{float(y) - 2}">{NAMES[name]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
