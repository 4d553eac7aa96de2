"""Overt beside a natively built llama-server: same files, same machine, in alternation.

    python bench/local.py                          both models, five rounds: about fifteen minutes
    python bench/local.py --busy                   instead: decoding beside a busy neighbour
    python bench/local.py --quick --models smollm2 a trial of the bench itself

Every round starts each side anew and asks it the same things, so that load on the machine and luck
at start-up fall on all sides alike. Results go to .cache/bench (JSON and Markdown); README.md in
this folder says what each row means.
"""

import argparse
import json
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import busy
import machine
from native import CACHE, server
from overt import settings
from overt.errors import ModelNotFound, OvertError
from overt.models import pull
from overt.runtime.native_build.build import native_path
from sides import LlamaServer, Overt, Setup, Side, cold_overt, cold_server, together_rate
from table import caveat, markdown

PEER = "llama-server"
WORDS = (
    "harbour",
    "lantern",
    "river",
    "copper",
    "window",
    "garden",
    "morning",
    "letter",
    "engine",
    "bridge",
    "winter",
    "market",
    "island",
    "quiet",
    "silver",
    "thunder",
    "paper",
    "bread",
    "orchard",
    "signal",
    "compass",
    "valley",
    "northern",
    "teacher",
    "careful",
    "simple",
)


@dataclass(frozen=True)
class Plan:
    """How much is asked. `prompt_words` of WORDS are about 1.2 tokens each."""

    rounds: int = 5
    prompt_words: int = 460
    decode_tokens: int = 96
    stream_tokens: int = 64
    context: int = 1024
    parallel: int = 8


@dataclass(slots=True)
class Contest:
    """One model's readings: by measure, by side, one value a round."""

    model: str
    threads: int
    readings: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    busy_before: list[float] = field(default_factory=list)

    def add(self, measure: str, side: str, value: float | None) -> None:
        self.readings.setdefault(measure, {}).setdefault(side, []).append(value)


def long_prompt(words: int, seed: int) -> str:
    """A prompt no cache has seen, of `words` words; the same `seed` gives the same."""
    chosen = random.Random(seed).choices(WORDS, k=words)
    return f"Text {seed}: {' '.join(chosen)}. What is this text about?"


def story_prompt(seed: int) -> str:
    """A prompt that is answered at length."""
    return f"Write a very long story about harbour number {seed}, in many chapters."


def measure_session(contest: Contest, name: str, side: Side, plan: Plan, seed: int) -> None:
    """Ask one running side everything, one after another, and note what it took."""
    side.ask([story_prompt(seed + 900)], 8)  # the first answer also warms what is warmed once
    long = long_prompt(plan.prompt_words, seed)
    first = side.ask([long], 4)[0]
    contest.add("prompt", name, first.prompt_rate)
    again = side.ask([f"{long} Answer in one word."], 4)[0]
    contest.add("again", name, again.first)
    one = side.ask([story_prompt(seed)], plan.decode_tokens)[0]
    contest.add("decode", name, one.decode_rate)
    for count in (4, 8):
        prompts = [story_prompt(seed + 1 + number) for number in range(count)]
        timings = side.ask(prompts, plan.stream_tokens)
        contest.add(f"streams{count}", name, together_rate(timings))
    memory = side.memory()
    contest.add("peak", name, memory.peak)
    contest.add("pss", name, memory.pss)
    asked = {
        "prompt_tokens": first.tokens_in,
        "reused_tokens": again.tokens_cached,
        "decoded_tokens": one.tokens_out,
    }
    contest.facts[name] = {**side.facts, **asked}


def run_model(ref: str, plan: Plan, threads: int, home: Path, binary: Path) -> Contest:
    """All rounds of one model."""
    file = model_file(ref, home)
    contest = Contest(ref, threads)
    setup = Setup(ref, file, home, plan.context, plan.parallel, threads)
    single = Setup(ref, file, home, plan.context, 1, threads)
    sides: dict[str, tuple[Callable[[], float], Callable[[], Side]]] = {
        PEER: (lambda: cold_server(single, binary), lambda: LlamaServer(setup, binary)),
        "Overt": (lambda: cold_overt(single, "wheel"), lambda: Overt(setup, "wheel")),
    }
    if native_path(home):
        sides["Overt native"] = (
            lambda: cold_overt(single, "native"),
            lambda: Overt(setup, "native"),
        )
    warm_page_cache(file)
    for number in range(plan.rounds):
        contest.busy_before.append(machine.cores_busy())
        names = list(sides)
        order = names if number % 2 == 0 else names[::-1]
        for name in order:
            cold, start = sides[name]
            contest.add("cold", name, cold())
            with start() as side:
                measure_session(contest, name, side, plan, seed=1000 * (number + 1))
            note(f"{ref}, threads {threads}, round {number + 1} of {plan.rounds}: {name} done")
    return contest


def warm_page_cache(file: Path) -> None:
    """Read the file once: a cold start here is a process's, not a disk's."""
    with file.open("rb") as opened:
        while opened.read(1 << 24):
            pass


def model_file(ref: str, home: Path) -> Path:
    """The weights of `ref`, pulled if they are not in the store of `home`."""
    chosen = settings.load(flags={"home": str(home)})
    try:
        return pull.find(ref, chosen).weights
    except ModelNotFound:
        note(f"pulling {ref}")
        pull.pull(ref, chosen)
        return pull.find(ref, chosen).weights


def report(contests: list[Contest], plan: Plan, about: dict[str, Any]) -> str:
    """The whole result as Markdown."""
    lines = [
        f"{machine.sentence(about)}; {plan.parallel} slots of {plan.context} tokens; medians "
        "(lowest-highest); ratios are taken within a round.",
    ]
    for contest in contests:
        lines += ["", f"### {contest.model}, {threads_text(contest)}", ""]
        if remark := caveat(plan.rounds, plan.rounds < Plan.rounds, max(contest.busy_before)):
            lines += [remark, ""]
        lines.append(markdown(contest.readings, list(contest.facts), PEER))
    return "\n".join(lines)


def threads_text(contest: Contest) -> str:
    """How many threads the sides had, or which Overt chose."""
    if contest.threads:
        return f"{contest.threads} thread{'s' if contest.threads > 1 else ''} on every side"
    chosen = busy.threads_shown(contest.facts.get("Overt", {}).get("threads"))
    return f"threads left to each side (Overt chose {chosen})"


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="smollm2,gemma3", help="refs, with commas between")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument(
        "--threads", default="1,0", help="of every side, with commas; 0 leaves it to each side"
    )
    parser.add_argument("--quick", action="store_true", help="two short rounds, to try the bench")
    parser.add_argument("--busy", action="store_true", help="only: decoding beside a busy process")
    parser.add_argument("--server", type=Path, help="a llama-server to use instead of building one")
    parser.add_argument("--home", type=Path, help="OVERT_HOME with the models")
    parser.add_argument("--out", type=Path, default=CACHE, help="folder for the results")
    return parser.parse_args()


def keep(out: Path, stem: str, text: str, data: dict[str, Any]) -> None:
    """Write the result so far; a bench that is stopped half-way keeps what it has measured."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.json").write_text(json.dumps(data, indent=1, default=str), "utf-8")
    (out / f"{stem}.md").write_text(text + "\n", "utf-8")


def main() -> None:
    # As an exception, so that whatever is running is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = arguments()
    chosen = settings.load(flags={"home": given.home})
    home = chosen.home
    binary = given.server or server(chosen)
    plan = Plan(rounds=given.rounds)
    if given.quick:
        plan = Plan(rounds=2, prompt_words=100, decode_tokens=32, stream_tokens=16)
    about = machine.about()
    data: dict[str, Any] = {"machine": about, "arguments": sys.argv[1:], "plan": asdict(plan)}
    stem = f"{'busy' if given.busy else 'local'}-{about['time'].replace(':', '')}"
    refs = given.models.split(",")
    text = ""
    if given.busy:
        files = {ref: model_file(ref, home) for ref in refs}
        text, data["busy"] = busy.busy_section(files, home, binary, plan.rounds, plan.decode_tokens)
        text = f"{machine.sentence(about)}\n\n{text}"
        keep(given.out, stem, text, data)
    else:
        contests: list[Contest] = []
        for ref in refs:
            for count in given.threads.split(","):
                contests.append(run_model(ref, plan, int(count), home, binary))
                text = report(contests, plan, about)
                data["contests"] = [asdict(contest) for contest in contests]
                keep(given.out, stem, text, data)
    print(text)
    note(f"written to {given.out / stem}.json and .md")


if __name__ == "__main__":
    try:
        main()
    except OvertError as error:
        sys.exit(f"bench: {error}")
