"""Write docs/compatibility.md from what the tests of third-party clients came to.

usage: python scripts/compatibility.py [--check]

The outcomes are those of the last run of `make test` (tests/compat.py keeps them). With --check
nothing is written, and the exit status is 1 where the page is not what the tests found.
"""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".cache/compatibility.json"
TARGET = ROOT / "docs/compatibility.md"
CLIENTS = ROOT / "tests/clients"
PINS = ROOT / "requirements/dev.txt"

HEAD = """\
<!-- Written by scripts/compatibility.py from the outcomes of the tests: change those. -->

# What works with which client

Every row is a test that drives an unmodified third-party client over TCP against the real
`overt serve`, most with a real small model. `make test` runs them all. Of the tests that the
clients bring themselves (in their source distributions), those that cannot pass are listed below
with the reason.
"""
WORDS = {"passed": "pass", "failed": "**fail**", "skipped": "not tried"}


def page() -> str:
    """The whole page."""
    outcomes: dict[str, dict[str, str]] = json.loads(KEPT.read_text("utf-8"))
    lines, versions = [HEAD], _versions()
    for client, features in sorted(outcomes.items(), key=lambda item: item[0].lower()):
        title = f"{client} {versions.get(client, '')}".rstrip()
        lines += [f"## {title}", "", "| feature | outcome |", "|---|---|"]
        lines += [
            f"| {feature} | {WORDS[outcome]} |" for feature, outcome in sorted(features.items())
        ]
        lines.append("")
    for path in sorted(CLIENTS.glob("*_deselected.tsv")):
        lines += _deselected(path)
    return "\n".join(lines).rstrip() + "\n"


def _versions() -> dict[str, str]:
    """The version of each client, as the locks pin it."""
    pins = re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", PINS.read_text("utf-8"), re.MULTILINE)
    npm = json.loads((CLIENTS / "npm/package.json").read_text("utf-8"))["dependencies"]
    return {**dict(pins), **{f"npm {name}": version for name, version in npm.items()}}


def _deselected(path: Path) -> Iterator[str]:
    name = path.name.removesuffix("_deselected.tsv").replace("_", " ")
    with path.open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.reader(table, delimiter="\t") if row and row[0][:1] != "#"]
    rows = [row for row in rows if row[0] not in ("test", "id")]
    yield f"## Tests of the {name} distribution that are left out ({len(rows)})"
    yield ""
    yield "| test | reason |"
    yield "|---|---|"
    for test, reason, *_ in rows:
        yield "| `{}` | {} |".format(test, reason.replace("|", "\\|"))
    yield ""


def main(arguments: list[str]) -> int:
    if not KEPT.is_file():
        print(f"{KEPT.relative_to(ROOT)} is not there; run: make test", file=sys.stderr)
        return 1
    text = page()
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text("utf-8") == text:
            return 0
        print("docs/compatibility.md is not what the tests found; run: make docs", file=sys.stderr)
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
