"""Write what docs/switching.md shows, and docs/compare-example.html, from a run of the commands.

    .venv/bin/python scripts/show_switch.py [--home DIR] [--modules DIR] [--port N] [--dry]

Needs smollm2 and gemma3 in DIR (`make test` puts them into .cache/test-home) and npm's modules
(`make test` puts them into .cache/npm). The models are linked into a folder of this run's own;
nothing is changed in DIR. In place of a provider stands npm's aimock: its answers are written in
this file, and nothing leaves this machine. Each fenced block of the page that follows a line
``<!-- shown: NAME -->`` is replaced by what came out;
--dry only prints it. Takes about a minute.
"""

import argparse
import asyncio
import csv
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/clients")]

from aimock import Aimock, aimock, says  # noqa: E402

from overt.evaluation import compare_page  # noqa: E402
from serving import copy_home  # noqa: E402

PAGE = ROOT / "docs/switching.md"
REPORT = ROOT / "docs/compare-example.html"
FILES = ROOT / "scripts/switch"  # what a person would have written
LIKE = "openai:gpt-6.1-sol"  # whose list price the mock is given
PRICED = (
    LIKE,
    "openai:gpt-6-luna",
    "anthropic:claude-opus-5-5",
    "anthropic:claude-haiku-5-5",
    "gemini:gemini-3.8-flash",
)
CLIENTS, EACH = 50, 4
WIDEST = 176

ANSWERS = {
    "two days late": "I am sorry that your parcel is two days late; it is on its "
    "way and should reach you tomorrow.",
    "three things": "1. Is the plug in and the socket live?\n2. Is the bulb screwed in and whole?\n"
    "3. Is the switch on the cord on?",
    "capital of France": "Paris, says the mock.",
    "sale": "Items on sale may be sent back within 14 days, but the postage is yours.",
}


@dataclass
class Show:
    """A run: its folder, its environment, and what it has shown so far, block by block."""

    folder: Path
    environ: dict[str, str]
    port: int
    blocks: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    def run(self, *commands: str, **environ: str) -> str:
        """What a person sees who types these; each must succeed."""
        said = ""
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=400,
            )
            print(f"$ {command}\n{done.stdout}", flush=True)
            if done.returncode:
                raise SystemExit(f"`{command}` ended with {done.returncode}")
            said += f"$ {command}\n{self.short(done.stdout)}"
        return said

    def json(self, command: str) -> Any:
        """What a command prints with --json."""
        done = subprocess.run(
            ["bash", "-c", f"{command} --json"],
            cwd=self.folder,
            env=self.environ,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=400,
        )
        return json.loads(done.stdout)

    def short(self, text: str) -> str:
        """Without this run's folder, and no line wider than the page."""
        text = text.replace(f"{self.folder}/", "").rstrip("\n")
        lines = (
            line if len(line) <= WIDEST else f"{line[: WIDEST - 1]}…" for line in text.splitlines()
        )
        return "".join(f"{line}\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".cache/test-home")
    parser.add_argument("--modules", type=Path, default=ROOT / ".cache/npm")
    parser.add_argument("--port", type=int, default=11435)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    if not (given.home / "names/gemma3.json").is_file():
        return _missing(f"{given.home} has no gemma3", "make test")
    if not (given.modules / "node_modules/@copilotkit/aimock").is_dir():
        return _missing(f"{given.modules} has no aimock", "make test, or npm ci there")
    with tempfile.TemporaryDirectory(prefix="switch-") as name:
        folder = Path(name).resolve()
        home = copy_home(given.home, folder / "home")
        for name in ("evaluations", "compares", "chats"):  # answers of other days would be reused
            shutil.rmtree(home / name, ignore_errors=True)
        for name in ("aliases.json", "prices.toml"):
            (home / name).unlink(missing_ok=True)
        with aimock(given.modules, _fixtures(), chunk=12, latency=15) as closed:
            show = Show(folder, _environ(home, closed), given.port)
            _write_files(folder, home)
            _everything(show)
        _put(show, dry=given.dry)
    return 0


def _missing(what: str, hint: str) -> int:
    print(f"{what}: {hint}", file=sys.stderr)
    return 1


def _everything(show: Show) -> None:
    for step in (compare, evaluate, decide, price, conversations):
        step(show)
    with serving(show):
        for served in (programs, swap, lost):
            served(show)


# -- what stands in for a provider -----------------------------------------------------------------


def _fixtures() -> list[dict[str, Any]]:
    """The mock's answers. Its token counts are characters by four, as it has no tokenizer."""
    rows = list(csv.DictReader(io.StringIO(_file("orders.csv"))))
    found = [says(row["order"], row["mail"]) for row in rows]
    found += [says(text, to) for to, text in ANSWERS.items()]
    found.append(says("I am a mock and know no answer to this."))
    for one in found:
        said = len(one["response"]["content"])
        asked = 360 if re.fullmatch(r"[A-D]-\d{4}", one["response"]["content"]) else 80
        one["response"]["usage"] = {"input_tokens": asked // 4, "output_tokens": -(-said // 4)}
    return found


def _environ(home: Path, closed: Aimock) -> dict[str, str]:
    """Without any key or address of a provider but the mock's."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"(OPENAI|ANTHROPIC|GEMINI|GOOGLE|OVERT)_", name)
    }
    return {
        **ours,
        "PATH": f"{Path(sys.executable).parent}:{ours['PATH']}",
        "OVERT_HOME": str(home),
        "OVERT_KEYRING": "off",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_API_KEY": "none",
        "GEMINI_API_KEY": "none",
        "OPENAI_BASE_URL": closed.base("openai"),
        "ANTHROPIC_BASE_URL": closed.base("anthropic"),
        "GOOGLE_GEMINI_BASE_URL": closed.base("gemini"),
        "COLUMNS": "110",
    }


def _file(name: str) -> str:
    return (FILES / name).read_text()


def _write_files(folder: Path, home: Path) -> None:
    for path in FILES.iterdir():
        (folder / path.name).write_text(_file(path.name).replace("/home/me", str(folder)))
    (folder / "check.py").chmod(stat.S_IRWXU)
    from overt import chat, prices, settings

    million = prices.cost(LIKE, chat.Usage(1000, 1000), settings.load())
    price = {part.name: part.price for part in million.parts}
    (home / "prices.toml").write_text(f"""\
[[price]]
models = ["openai:mock", "anthropic:mock", "gemini:mock"]
from = {datetime.now(UTC):%Y-%m-%d}
input = {price["input"]}
output = {price["output"]}
source = "a mock; the list price of {LIKE} ({million.source})"

[local]
watts = 65
price_per_kwh = 0.30
hardware = 2400
hours = 20000
source = "made up for docs/switching.md"
""")


# -- the steps -------------------------------------------------------------------------------------


def compare(show: Show) -> None:
    for model in ("smollm2", "gemma3"):
        show.run(f"overt dossier {model} --quiet")  # so that openness is by evidence
    said = show.run(
        "overt compare requests.csv -m smollm2 -m gemma3 -m openai:mock --repeat 3 --temperature 0"
        " --max-tokens 60 --html compare-example.html"
    )
    command, _, rest = said.partition("\n")
    figures = rest[rest.index("MODEL ") :]
    first = rest[: rest.index("2 of 3:")].rstrip()
    show.blocks["compare"] = f"{command}\n{first}\n…\n{figures}"
    page = (show.folder / "compare-example.html").read_text()
    told = (
        '<p class="alarm">An example of docs/switching.md. <b>openai:mock is no model of '
        "OpenAI</b>: it is a mock (npm’s aimock) on the same machine, and its answers, its "
        "token counts and its speed were written by hand. Its price is a list price of another "
        "model, and what a model of this machine costs rests on made-up numbers. No provider was "
        "asked.</p>\n"
    )
    (show.folder / "compare-example.html").write_text(
        page.replace("</header>\n", f"</header>\n{told}", 1)
    )


def evaluate(show: Show) -> None:
    show.blocks["suite"] = _file("orders.yaml")
    items = _file("orders.csv").splitlines()[:5]
    show.blocks["items"] = "".join(f"{line}\n" for line in items) + "…\n"
    show.blocks["eval"] = show.run(
        "overt eval orders.yaml -m smollm2 -m gemma3 -m openai:mock --budget 1"
    )
    show.blocks["check"] = _file("check.py")
    show.blocks["route"] = _file("route.yaml")
    show.blocks["eval-route"] = show.run(
        "overt alias set orders --route route.yaml",
        "overt eval orders.yaml -m smollm2 -m orders -m openai:mock",
    )


def decide(show: Show) -> None:
    """One table of what was measured: a question, the command, and each model's value."""
    (kept,) = (show.folder / "home/compares").glob("*.json")
    lines = json.loads(kept.read_text())["summary"]
    models = [one["model"] for one in lines]
    receipts = [json.loads(_receipt(show, model).read_text()) for model in models]
    rows = [
        ("question", "measured by", *models),
        ("right answers", "`overt eval`, `score`", *(f"{one['score']:.2f}" for one in receipts)),
        ("… 95 % interval", "`interval`", *(_span(one["interval"]) for one in receipts)),
        (
            "cost of the 20 mails",
            "`overt eval`, `totals.cost`",
            *(compare_page.dollars(one["totals"]["cost"]) for one in receipts),
        ),
        (
            "first token",
            "`overt compare`, `seconds_to_first_token`",
            *(compare_page.seconds(one["seconds_to_first_token"]) for one in lines),
        ),
        (
            "tokens a second",
            "`overt compare`, `tokens_per_second`",
            *(f"{one['tokens_per_second']:.0f}" for one in lines),
        ),
        (
            "bytes that left this program",
            "`overt compare`, `bytes_out`",
            *(f"{one['bytes_out']:,}" for one in lines),
        ),
        ("openness", "`overt dossier`, `step`", *(compare_page.step(one["step"]) for one in lines)),
        ("licence, for running it", "`overt may`", *(compare_page.licence(one) for one in lines)),
    ]
    show.blocks["decide"] = _table(rows)


def _receipt(show: Show, model: str) -> Path:
    """The first receipt of a model."""
    found = (show.folder / "home/evaluations").glob(f"*-orders-{model.replace(':', '-')}-*.json")
    return min(found)


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"


def price(show: Show) -> None:
    os.link(_receipt(show, "smollm2"), show.folder / "receipt.json")
    show.blocks["price.py"] = _file("price.py")
    show.blocks["price"] = show.run(f"python price.py receipt.json {' '.join(PRICED)}")


def conversations(show: Show) -> None:
    with zipfile.ZipFile(show.folder / "export.zip", "w") as file:
        file.write(show.folder / "conversations.json", "conversations.json")
    show.blocks["chats"] = show.run(
        "overt chats import export.zip --model smollm2",
        "overt chats list",
        "printf '/load sending-things-back\\nAnd what about things on sale?\\n'"
        " | overt chat --max-tokens 40 smollm2",
        "overt chats export --to openai -o all.jsonl && cat all.jsonl",
    )


# -- steps that need the server --------------------------------------------------------------------


@contextmanager
def serving(show: Show) -> Iterator[None]:
    with show.log.open("w") as log:
        process = subprocess.Popen(
            ["overt", "serve", "--port", str(show.port)],
            env=show.environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout
        if not process.stdout.readline():
            raise SystemExit(f"overt serve did not start: {show.log.read_text()}")
        yield
    finally:
        process.terminate()
        process.wait(40)


def programs(show: Show) -> None:
    here = {
        "OPENAI_BASE_URL": f"{show.url}/v1",
        "ANTHROPIC_BASE_URL": show.url,
        "GOOGLE_GEMINI_BASE_URL": show.url,
    }
    show.blocks["program"] = _file("ask_openai.py")
    first = show.run("overt alias set gpt-6.1-sol openai:mock")
    first += f"$ export OPENAI_BASE_URL={show.url}/v1\n"
    first += show.run(
        "python ask_openai.py",
        "cat Modelfile",
        "overt create steady -f Modelfile",
        "overt alias set gpt-6.1-sol steady",
        "python ask_openai.py",
        "overt alias undo gpt-6.1-sol",
        "python ask_openai.py",
        **here,
    )
    show.blocks["programs"] = first
    show.blocks["others"] = show.run(
        "overt alias set claude-opus-5-5 steady",
        f"ANTHROPIC_BASE_URL={show.url} python ask_anthropic.py",
        "overt alias set gemini-3.8-flash steady",
        f"GOOGLE_GEMINI_BASE_URL={show.url} python ask_gemini.py",
    )


def swap(show: Show) -> None:
    """Clients that stream from one name, while another command changes what it stands for."""
    show.run("overt alias set writer openai:mock")
    show.blocks["swap"] = asyncio.run(_swapped(show))


async def _swapped(show: Show) -> str:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{show.url}/v1", api_key="none", max_retries=0, timeout=120)
    ended: Counter[str] = Counter()
    swaps, over = 0, asyncio.Event()

    async def one(number: int) -> None:
        for turn in range(EACH):
            try:
                answer = await client.chat.completions.create(
                    model="writer",
                    stream=True,
                    max_tokens=16,
                    messages=[{"role": "user", "content": f"Write line {turn} of poem {number}."}],
                )
                whole = ""
                async for piece in answer:
                    if piece.choices and piece.choices[0].finish_reason:
                        whole = "whole, from " + answer.response.headers["x-overt-model"]
                ended[whole or "cut off"] += 1
            except Exception as error:  # noqa: BLE001 - each is counted, whatever it is
                ended[f"failed: {type(error).__name__}"] += 1

    async def swapper() -> None:
        nonlocal swaps
        while not over.is_set():
            for target in ("smollm2", "openai:mock"):
                process = await asyncio.create_subprocess_exec(
                    "overt",
                    "alias",
                    "set",
                    "writer",
                    target,
                    env=show.environ,
                    stdout=asyncio.subprocess.DEVNULL,
                )
                swaps += await process.wait() == 0

    begun = time.monotonic()
    task = asyncio.create_task(swapper())
    await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    took = time.monotonic() - begun
    over.set()
    await task
    lines = [f"{count:4} {what}" for what, count in sorted(ended.items(), reverse=True)]
    head = (
        f"{CLIENTS} clients, {EACH} answers each, streamed; meanwhile the name was set "
        f"{swaps} times, in {took:.0f} s\n"
    )
    print(head + "\n".join(lines))
    return head + "\n".join(lines) + "\n"


# -- what is lost ----------------------------------------------------------------------------------

_SAY = [{"role": "user", "content": "Say A, B, C."}]
_PART = [{"role": "user", "parts": [{"text": "Say A, B, C."}]}]
ASKED: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("stop sequences", "openai", "chat/completions", {"messages": _SAY, "stop": ["C"]}),
    ("log-probabilities", "openai", "chat/completions", {"messages": _SAY, "logprobs": True}),
    (
        "seed, penalties",
        "openai",
        "chat/completions",
        {"messages": _SAY, "seed": 1, "presence_penalty": 0.5},
    ),
    (
        "a stored response",
        "openai",
        "responses",
        {"input": "Go on.", "previous_response_id": "resp_kept_by_the_provider"},
    ),
    ("web search", "openai", "responses", {"input": "News?", "tools": [{"type": "web_search"}]}),
    (
        "an uploaded file",
        "openai",
        "responses",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
    ),
    ("stop sequences", "anthropic", "messages", {"messages": _SAY, "stop_sequences": ["C"]}),
    (
        "marks for the cache",
        "anthropic",
        "messages",
        {
            "messages": _SAY,
            "system": [
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
            ],
        },
    ),
    (
        "signed thoughts",
        "anthropic",
        "messages",
        {
            "messages": [
                *_SAY,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Letters.", "signature": "c2lnbmVk"},
                        {"type": "text", "text": "A, B"},
                    ],
                },
                {"role": "user", "content": "Go on."},
            ]
        },
    ),
    (
        "web search",
        "anthropic",
        "messages",
        {"messages": _SAY, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ),
    (
        "a cached prompt",
        "gemini",
        "generateContent",
        {"contents": _PART, "cachedContent": "cachedContents/1"},
    ),
    (
        "Google Search",
        "gemini",
        "generateContent",
        {"contents": _PART, "tools": [{"googleSearch": {}}]},
    ),
)


def lost(show: Show) -> None:
    """What each protocol's features get from an open model, and from another provider's."""
    rows = [("asked for", "by a client of", "smollm2", "another provider")]
    for what, protocol, path, body in ASKED:
        other = "anthropic:mock" if protocol == "openai" else "openai:mock"
        here, there = (_outcome(show, protocol, path, body, one) for one in ("smollm2", other))
        rows.append((what, protocol, here, "the same" if there == here != "answered" else there))
    show.blocks["lost"] = _table(rows)
    print(show.blocks["lost"])


def _outcome(show: Show, protocol: str, path: str, body: dict[str, Any], model: str) -> str:
    if protocol == "gemini":
        path = f"/v1beta/models/{model}:{path}"
    else:
        most = "max_output_tokens" if path == "responses" else "max_tokens"
        path, body = f"/v1/{path}", {**body, "model": model, most: 16}
    headers = {"Content-Type": "application/json", "anthropic-version": "2023-06-01"}
    asked = urllib.request.Request(show.url + path, json.dumps(body).encode(), headers)
    before = len(show.log.read_text())
    try:
        with urllib.request.urlopen(asked, timeout=120):
            told = [
                line
                for line in show.log.read_text()[before:].splitlines()
                if not line.startswith("POST ")
            ]
            return "; ".join(["answered", *(f"the log: {line}" for line in told)])
    except urllib.error.HTTPError as error:
        told = json.loads(error.read())["error"]["message"]
        return f"{error.code}: {told}"


# -- the page --------------------------------------------------------------------------------------


def _put(show: Show, *, dry: bool) -> None:
    """Write the blocks into the page and the report beside it."""
    if dry:
        return
    page, used = PAGE.read_text(), set()

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        used.add(name)
        return f"{match['mark']}{show.blocks[name]}{match['end']}"

    fenced = r"(?P<mark><!-- shown: (?P<name>\S+) -->\n```\w*\n).*?(?P<end>```\n)"
    table = r"(?P<mark><!-- shown: (?P<name>\S+) -->\n\n)\|.*?\n(?P<end>\n+(?=[^\n|]))"
    for pattern in (fenced, table):
        page = re.sub(pattern, replaced, page, flags=re.DOTALL)
    if unused := show.blocks.keys() - used:
        raise SystemExit(f"the page has no place for {', '.join(sorted(unused))}")
    PAGE.write_text(page)
    REPORT.write_bytes((show.folder / "compare-example.html").read_bytes())


if __name__ == "__main__":
    sys.exit(main())
