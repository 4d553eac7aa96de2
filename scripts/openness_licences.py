"""How often the licence reader is right, as Markdown: a part of docs/openness-accuracy.md.

    .venv/bin/python scripts/openness_licences.py

The cases are tests/openness/licence_cases.py.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/openness")]


def markdown(data: Path) -> str:
    """`data` is the folder of the third-party data, which holds ``licences``."""
    import licence_cases

    return "\n".join(_lines(licence_cases.figures(data / "licences")))


def _lines(found: dict) -> Iterator[str]:
    changes, layouts, installed = found["changes"], found["layouts"], found["installed"]
    yield "## Licence texts"
    yield ""
    yield (
        f"- {sum(changes.values())} planted changes ({len(changes)} ways on the texts of the "
        f"data): {len(found['changes_missed'])} missed. A change counts as found only where the "
        "changed sentence is quoted."
    )
    yield (
        f"- {sum(layouts.values())} harmless copies ({len(layouts)} ways of layout, copyright "
        f"lines, pointers): {len(found['false_alarms'])} called altered."
    )
    yield (
        f"- {found['second_copies']} texts by another keeper: {len(found['second_copies_missed'])} "
        "not recognised as the same."
    )
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(installed["counts"].items()))
    yield (
        f"- {installed['files']} licence files of the Python packages installed here: {counts}. "
        "Most of those called altered hold several licences with words between them, or terms of "
        "their own; see the names below."
    )
    yield (
        f"- A text takes {found['median_ms']} ms in the median, {found['slowest_ms']} ms at most "
        "on this machine."
    )
    yield ""
    yield (
        "The rules were made on these same texts and files, so these are not figures for texts "
        "never seen. Those are in the next table: riders, edits and harmless copies written to "
        "defeat the rules, at the first run over them. *Before* are rules that told a rider by its "
        "words; *after* rules that tell all that a closed list of harmless words does not explain. "
        "Sets 2 to 4 are by somebody who knew the second; what was missed has been mended since."
    )
    yield ""
    yield "| set | date | rules | changes | missed | harmless copies | called altered |"
    yield "|---|---|---|---|---|---|---|"
    for one in (*found["held_out_before"], *found["held_out_after"]):
        yield (
            f"| {one['set']} | {one['date']} | {one['rules']} | {one['changes']} | "
            f"{one['missed']} | {one['harmless']} | {one['alarms']} |"
        )
    yield ""
    yield (
        f"Of the same sets today {len(found['held_missed'])} changes are missed and "
        f"{len(found['held_alarms'])} harmless copies called altered."
    )
    yield ""
    yield "| planted change | texts | missed |"
    yield "|---|---|---|"
    for how, count in changes.items():
        missed = sum(one.endswith(f": {how}") for one in found["changes_missed"])
        yield f"| {how} | {count} | {missed} |"
    yield ""
    yield "Called altered among installed files: " + (", ".join(_names(installed)) or "none") + "."


def _names(installed: dict) -> list[str]:
    return sorted({str(one).split(":")[0] for one in installed.get("altered", [])})


if __name__ == "__main__":
    print(markdown(Path(os.environ.get("OVERT_TEST_DATA", ROOT.parent / "shared/data"))))
