"""Write what docs/recipes.md shows from a real run: SmolLM2 made into others, and made again.

    python scripts/show_replay.py [--home DIR] [--dry]

Needs smollm2 in DIR (`make test` puts it into .cache/test-home; nothing is changed there) and
GSM8K's test.jsonl in `$OVERT_TEST_DATA/eval/gsm8k`, of which 60 items are learnt from. Takes some
six minutes on one core. What another processor would do is tried by telling PyTorch to use its
kernels for AVX2 (ATEN_CPU_CAPABILITY).
"""

import argparse
import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shown import ROOT, Show, linked, table

from overt.models.sources.base import sha256_of
from overt.models.store import Store
from overt.ref import parse

PAGE = ROOT / "docs/recipes.md"
LINES = 60
MADE = ("smollm2-st", "smollm2-f16", "small", "tuned", "merged")
PEFT = "peft/adapter_model.safetensors"  # says what adapter.gguf says
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "avx2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".cache/test-home")
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    data = Path(os.environ["OVERT_TEST_DATA"], "eval/gsm8k/test.jsonl")
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        home = Path(folder, "home")
        linked(given.home, home)
        show = Show(Path(folder), home)
        lines = data.read_text("utf-8").splitlines()[:LINES]
        (show.folder / "some.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        make(show)
        look(show, home)
        for name in MADE:
            show.run("again", "replay", name)
        show.run("json", "replay", "tuned", "--json", into="verdict.json")
        show.add("json", shortened(json.loads((show.folder / "verdict.json").read_text())))
        tampered(show, home)
        elsewhere(show, given.home)
        processors(show)
        if not given.dry:
            show.put(PAGE)


def make(show: Show) -> None:
    """One of every step, each of the one before."""
    show.run("made", "convert", "smollm2", "smollm2-st", "--to", "safetensors")
    show.run("made", "convert", "smollm2-st", "smollm2-f16")
    show.run("made", "quantize", "smollm2-f16", "small", "-q", "q4_0", "--no-measure")
    show.run(
        "made",
        "finetune",
        "smollm2",
        "tuned",
        "--data",
        "some.jsonl",
        "--length",
        "256",
        "--steps",
        "8",
        "--threads",
        "1",
        "--held",
        "0",
        "--quiet",
    )
    show.run("made", "merge", "smollm2", "merged", "--adapter", "tuned")


def look(show: Show, home: Path) -> None:
    """The chain, a recipe, and what is in a receipt."""
    show.run("history", "history", "merged")
    show.run("recipe", "history", "small", "--recipe", into="small.json")
    show.add("recipe", json.dumps(json.loads((show.folder / "small.json").read_text()), indent=1))
    show.run("receipt", "history", "small", "--receipt", into="small.receipt.json")
    envelope = json.loads((show.folder / "small.receipt.json").read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    shown = {**envelope, "payload": statement}
    show.add("receipt", json.dumps(cut(shown), indent=1, ensure_ascii=False))


def cut(value: Any) -> Any:
    """The same with long texts cut, for a page."""
    if isinstance(value, str):
        return value if len(value) < 60 else f"{value[:24]}…"
    if isinstance(value, Mapping):
        return {name: cut(one) for name, one in value.items()}
    return [cut(one) for one in value] if isinstance(value, list) else value


def shortened(value: Mapping[str, Any]) -> str:
    """What `overt replay --json` tells, without the files."""
    kept = {name: one for name, one in value.items() if name != "files"}
    return json.dumps(cut(kept), indent=1, ensure_ascii=False)


def tampered(show: Show, home: Path) -> None:
    """A model that says it came of a recipe, and has one number that did not."""
    store = Store(home)
    honest = store.get(parse("tuned"))
    old = next(file for file in honest.files if file.role == "adapter")
    raw = bytearray(store.path(old).read_bytes())
    raw[len(raw) // 2 + 1] ^= 0x04  # within the numbers: the header is a few kilobytes
    path = show.folder / "adapter.gguf"
    path.write_bytes(raw)
    new = replace(old, digest=f"sha256:{sha256_of(path)}")
    files = tuple(new if file == old else file for file in honest.files)
    store.commit(replace(honest, files=files), {new.digest: path}, [parse("taken")])
    show.run("tampered", "replay", "taken", fails=True)


def elsewhere(show: Show, source: Path) -> None:
    """Somebody else has the base, the data, and the recipe or the receipt."""
    other = show.folder / "other"
    linked(source, other)
    there = {"OVERT_HOME": "other"}
    show.run("elsewhere", "history", "tuned", "--recipe", into="tuned.json")
    show.run("elsewhere", "history", "tuned", "--receipt", into="tuned.receipt.json")
    show.run("elsewhere", "replay", "tuned.json", before=there, fails=True)
    show.run(
        "elsewhere", "replay", "tuned.json", "--data", "some.jsonl", "--keep", "mine", before=there
    )
    show.run("elsewhere", "replay", "tuned.receipt.json", before=there)


def processors(show: Show) -> None:
    """The kernels of another processor: the verdict, and how far off it is."""
    show.run("processor", "replay", "tuned", before=ELSEWHERE, fails=True)
    rows = [(name, *judged(show, name, ELSEWHERE)) for name in MADE]
    head = (
        "model",
        "verdict",
        "largest element",
        "tensors that differ",
        "tolerances: off by, allowed",
    )
    show.add("processors", table(head, rows))
    print(show.blocks["processors"])


def judged(show: Show, name: str, before: Mapping[str, str]) -> Iterator[str]:
    said = show.run("unused", "replay", name, "--json", before=before, fails=True)
    del show.blocks["unused"]
    found = json.loads(said)
    yield found["verdict"]
    largest = found["largest_difference"]
    yield "-" if largest is None else f"{largest:.2g}"
    first = found["first_difference"]
    yield "0" if first is None else str(first.get("tensors", "-"))
    measures = [
        f"{one['what']}: {off(one['largest'])}, {one['allowed']:g}"
        for one in found["tolerances"]
        if one["files"][:1] != [PEFT]
    ]
    yield "; ".join(measures) or "-"


def off(largest: float | None) -> str:
    return "not comparable" if largest is None else f"{largest:.2g}"


if __name__ == "__main__":
    main()
