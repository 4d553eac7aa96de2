"""Write the table of docs/audit.md and docs/audit-example.html: an audit before and after.

    python scripts/show_audit.py [--home DIR] [--limit N] [--probes LIST] [--folder DIR] [--dry]

Quantizes smollm2 (of DIR, `make test` puts it into .cache/test-home; nothing is changed there) to
q2_k and audits both on the data sets in `$OVERT_TEST_DATA`. Takes some ten minutes on one core;
with --folder what is done is kept there, and the same command goes on. The page is written without
the items of XSTest. No figure of it is a verdict on either model.
"""

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shown import ROOT, Show, linked, table

from overt.evaluation.audit import page, record

PAGE, EXAMPLE = ROOT / "docs/audit.md", ROOT / "docs/audit-example.html"
PROBES = ("bbq", "crows_pairs", "winobias", "xstest", "robustness")
AFTER, BEFORE = "smollm2-q2_k", "smollm2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".cache/test-home")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--probes", default=",".join(PROBES))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.folder
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=ROOT / ".cache")))
        linked(given.home, folder / "home")
        audited(Show(folder, folder / "home"), folder / "home", given)


def audited(show: Show, home: Path, given: argparse.Namespace) -> None:
    """Ask both models, and write the table and the page."""
    show.run("unused", "quantize", BEFORE, AFTER, "-q", "q2_k", "--no-measure")
    words = [
        "audit",
        "model",
        AFTER,
        "--against",
        BEFORE,
        "--data",
        os.environ["OVERT_TEST_DATA"],
        "--limit",
        str(given.limit),
        "--max-tokens",
        "64",
        "--json",
    ]
    for name in given.probes.split(","):
        words += ["--probe", name]
    show.run("unused", *words)
    del show.blocks["unused"]
    after, before = (receipt_of(home, ref) for ref in (AFTER, BEFORE))
    compared = record.compare(after, before, after["seed"])
    show.add("compared", changes(compared))
    print(show.blocks["compared"])
    if not given.dry:
        EXAMPLE.write_text(page.render([bare(after), bare(before)], compared), "utf-8")
        show.put(PAGE)


def receipt_of(home: Path, ref: str) -> dict[str, Any]:
    for path in sorted((home / "audits").glob("*.json"), reverse=True):
        if json.loads(path.read_text())["model"]["ref"] == ref:
            return record.read(str(path), home)
    raise SystemExit(f"no receipt of {ref}")


def bare(one: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt without what was asked and answered."""
    probes = {name: {**probe, "items": []} for name, probe in one["probes"].items()}
    return {**one, "probes": probes}


def changes(compared: Mapping[str, Any]) -> str:
    """Every figure of the whole, before and after."""
    rows = []
    for name, one in compared["probes"].items():
        for pair in one["pairs"]:
            if pair["group"] or pair["measure"].endswith("_sum"):
                continue
            low, high = pair["interval"]
            off = low > 0 or high < 0
            test = "" if pair["mcnemar_p"] is None else f"{pair['mcnemar_p']:.2g}"
            rows.append(
                (
                    name,
                    f"`{pair['measure']}`",
                    f"{pair['before']:.3f}",
                    f"{pair['after']:.3f}",
                    f"{pair['difference']:+.3f} ({low:+.3f} to {high:+.3f})" + " *" * off,
                    test,
                    str(pair["n"]),
                )
            )
    head = ("probe", "figure", BEFORE, AFTER, "difference (95 %)", "McNemar p", "n")
    return table(head, rows)


if __name__ == "__main__":
    main()
