"""Licence texts that were changed on purpose, and copies that only look different.

`figures(folder)` measures the matcher on all of them; test_licence_planted.py asks for a part.
"""

import json
import re
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from overt.openness.licence.match import match

SENTENCES = (
    "The Model may not be used for any commercial purpose.",
    "If your products had more than 100 million monthly active users, display the word Acme.",
    "Use of this software in the field of weapons is prohibited.",
    "You agree to pay 2% of your revenue to Acme.",
    "Companies based in the European Union are excluded from this grant.",
    "This project is non-commercial.",
    "Only academic institutions get these rights.",
    "Outputs must not be used to train other language models.",
)


@dataclass(frozen=True)
class Case:
    """A changed text: which, how, and what must be quoted (a part of it; "" for nothing)."""

    licence: str
    how: str
    text: str
    said: str


def _replaced(text: str, old: str, new: str) -> tuple[str, str] | None:
    """The last half's first place of `old` replaced, with words that are found around it."""
    at = text.find(old, len(text) // 3)
    at = at if at >= 0 else text.find(old)
    if at < 0:
        return None
    changed = text[:at] + new + text[at + len(old) :]
    return changed, new.strip()


def _number(text: str) -> tuple[str, str] | None:
    units = r"(?<![\d.\w(])(\d+(?:[.,]\d+)*)(?= (?:million|days?|percent|or|of|Community))"
    found = list(re.finditer(units + r"|(?<=ersion )\d\.\d", text))
    if not found:
        found = list(re.finditer(r"(?<=ection )\d+(?:\.\d+)?(?=[ ,])", text))
    if not found:
        return None
    one = found[len(found) // 2]
    return text[: one.start()] + "77" + text[one.end() :], "77"


def _sentences(text: str) -> list[re.Match[str]]:
    return [
        one
        for one in re.finditer(r"(?<=[a-z]\. )[A-Z][^.\n]{60,400}[a-z]\.(?= )", text)
        if not re.search(r"\d", one[0])
    ]


def _dropped(text: str) -> tuple[str, str] | None:
    found = _sentences(text)
    if not found:
        return None
    one = found[len(found) // 2]
    return text[: one.start()] + text[one.end() :].lstrip(), ""


def _inside(sentence: str) -> Callable[[str], tuple[str, str] | None]:
    def change(text: str) -> tuple[str, str] | None:
        places = [one.end() for one in re.finditer(r"[a-z]{3}[.;]\s+(?=[A-Z])", text)]
        if not places:
            return None
        at = places[len(places) // 2]
        return f"{text[:at]}{sentence} {text[at:]}", sentence

    return change


def _swap(old: str, new: str) -> Callable[[str], tuple[str, str] | None]:
    return lambda text: _replaced(text, old, new)


CHANGES: dict[str, Callable[[str], tuple[str, str] | None]] = {
    "number": _number,
    "may → may not": _swap(" may ", " may not "),
    "shall not → shall": _swap("hall not ", "hall "),
    "not removed": _swap(" not ", " "),
    "and → or": _swap(" and ", " or "),
    "jurisdiction": _swap("California", "Delaware"),
    "worldwide → nationwide": _swap("worldwide", "nationwide"),
    "royalty-free → royalty-bearing": _swap("royalty-free", "royalty-bearing"),
    "any → academic": _swap(" any ", " any academic "),
    "free of charge removed": _swap(", free of charge,", ""),
    "look-alike letters": _swap(" may ", " m\u0430y not "),
    "invisible characters": _swap(" may ", " may n\u200bo\u200bt "),
    "clause dropped": _dropped,
    "version": _swap("ersion 2.0", "ersion 2.5"),
    "rider before": lambda text: (f"{SENTENCES[5]}\n\n{text}", SENTENCES[5]),
    "rider before, same paragraph": lambda text: (f"{SENTENCES[0]} {text}", SENTENCES[0]),
    "rider behind": lambda text: (f"{text}\n\n{SENTENCES[1]}\n", SENTENCES[1]),
    "rider behind, as a comment": lambda text: (f"{text}\n<!-- {SENTENCES[7]} -->\n", SENTENCES[7]),
    "rider in the middle": _inside(SENTENCES[2]),
    "rider in the middle, payment": _inside(SENTENCES[3]),
    "rider in the middle, territory": _inside(SENTENCES[4]),
    "rider as a heading": lambda text: (f"# For research use only\n\n{text}", "research use only"),
    "rider in a copyright line": lambda text: (
        f"Copyright (c) 2024 Acme. {SENTENCES[6]}\n\n{text}",
        SENTENCES[6],
    ),
    "truncated": lambda text: (
        (cut, "") if (cut := text[: text.rfind(" ", 0, int(len(text) * 0.8))]) else None
    ),
}


def planted(folder: Path) -> Iterator[Case]:
    """Every change on every licence text it can be made on."""
    for file in sorted(folder.glob("*.txt")):
        text = file.read_text(encoding="utf-8")
        for how, change in CHANGES.items():
            done = change(text)
            if done is not None and done[0] != text:
                yield Case(file.stem, how, *done)


# Texts written by somebody who had not looked at the rules (set 1) or had not changed them since he
# began to write (2 to 4), and what was found at the first run. licence_held.json keeps the texts,
# and the rules were mended on them, so only this table holds held-out figures.
HELD_OUT: list[dict[str, Any]] = [
    {"set": "1", "date": "2026-11-25", "rules": "before", "changes": 81, "missed": 5,
     "harmless": 62, "alarms": 7},
    {"set": "2", "date": "2026-11-25", "rules": "before", "changes": 42, "missed": 13,
     "harmless": 40, "alarms": 1},
    {"set": "3", "date": "2026-11-25", "rules": "before", "changes": 40, "missed": 15,
     "harmless": 37, "alarms": 0},
    {"set": "4", "date": "2026-11-25", "rules": "before", "changes": 20, "missed": 5,
     "harmless": 20, "alarms": 1},
    {"set": "2", "date": "2026-11-25", "rules": "after", "changes": 42, "missed": 3,
     "harmless": 40, "alarms": 5},
    {"set": "3", "date": "2026-11-25", "rules": "after", "changes": 40, "missed": 5,
     "harmless": 37, "alarms": 3},
    {"set": "4", "date": "2026-11-25", "rules": "after", "changes": 20, "missed": 1,
     "harmless": 20, "alarms": 3},
]  # fmt: skip
held_out_before = [one for one in HELD_OUT if one["rules"] == "before"]
held_out_after = [one for one in HELD_OUT if one["rules"] == "after"]
HEADS = {
    "MIT": "MIT License\n\nCopyright (c) 2024 Jane Roe\n\n",
    "BSD-3-Clause": (
        "BSD 3-Clause License\n\nCopyright (c) 2021, Foo Authors. All rights reserved.\n\n"
    ),
}


def held(folder: Path, kind: str) -> Iterator[Case]:
    """The cases of the sets that were once held out; `kind`: ``change`` or ``harmless``.

    A row of licence_held.json is: set, kind, licence, place in its text (below its head), how many
    characters go, what comes instead, and what must be quoted.
    """
    rows = Path(__file__).with_name("licence_held.json").read_text(encoding="utf-8")
    for number, what, key, at, gone, new, said in json.loads(rows):
        if what == kind:
            text = HEADS.get(key, "") + (folder / f"{key}.txt").read_text(encoding="utf-8")
            yield Case(
                key, f"set {number}: {new[:60]!r}", text[:at] + new + text[at + gone :], said
            )


def _paragraphs(text: str) -> list[str]:
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", text) if one.strip()]


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, 72, break_on_hyphens=False, break_long_words=False)


def _html(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace('"', "&quot;").replace("'", "&#39;")
    body = "".join(f"<p>{one}</p>\n" for one in _paragraphs(escaped))
    return f"<html>\n<body>\n{body}</body>\n</html>\n"


def _typographic(text: str) -> str:
    text = re.sub(r'"([^"\n]*)"', "\u201c\\1\u201d", text)
    return text.replace("'", "\u2019").replace(" -- ", " \u2014 ")


LAYOUTS: dict[str, Callable[[str], str]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "byte order mark": lambda text: "\ufeff" + text,
    "wrapped at 72": lambda text: "\n\n".join(_wrapped(one) for one in _paragraphs(text)),
    "one line per paragraph": lambda text: "\n\n".join(_paragraphs(text)),
    "indented": lambda text: textwrap.indent(text, "      "),
    "hash comments": lambda text: textwrap.indent(text, "# ", lambda line: True),
    "star comments": lambda text: (
        "/*\n" + textwrap.indent(text, " * ", lambda line: True) + "\n */"
    ),
    "Markdown quote": lambda text: textwrap.indent(text, "> ", lambda line: True),
    "HTML": _html,
    "typographic": _typographic,
    "no-break spaces": lambda text: text.replace(", ", ",\u00a0"),
    "upper case": lambda text: text.upper(),
    "copyright line": lambda text: f"Copyright (c) 2024 DeepSeek. All rights reserved.\n\n{text}",
    "copyright lines": lambda text: (
        "Copyright 2018- The HuggingFace Team. All rights reserved.\n"
        f"Copyright \u00a9 2020-2024 Jo\u00e3o da Silva <joao@example.org>\n\n{text}"
    ),
    "project's name": lambda text: f"Acme-7B v1.2\n============\n\n{text}",
    "what it is for": lambda text: f"The following license applies to all files here:\n\n{text}",
    "pointer": lambda text: (
        f"[For the original license, see https://example.org/license]\n\n{text}"
    ),
    "SPDX tag": lambda text: f"SPDX-License-Identifier: LicenseRef-Text\n\n{text}",
    "zero-width": lambda text: text.replace("the ", "th\u200be "),
    "licence for license": lambda text: text.replace("icense ", "icence "),
    "trailing spaces": lambda text: text.replace("\n", "  \n") + "\n\n\n",
}


def plain(folder: Path) -> Iterator[Case]:
    """Every layout of every licence text: the same terms."""
    for file in sorted(folder.glob("*.txt")):
        text = file.read_text(encoding="utf-8")
        for how, change in LAYOUTS.items():
            yield Case(file.stem, how, change(text), "")


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.replace("\u200b", "").lower()))


def found(case: Case) -> bool:
    """Whether a change was told, and quoted from the text."""
    result = match(case.text)
    told = _words(" ".join(result.riders))
    return result.altered and _words(case.said) in told


def false_alarm(case: Case) -> bool:
    result = match(case.text)
    return result.altered or result.id != case.licence or result.kind not in ("exact", "near")


def installed() -> dict[str, Any]:
    """The licence files of the Python packages that are installed: what is said of each.

    Those called altered were looked at: files of several works, with notes between the licences
    (numpy, tqdm, CPython, matplotlib, pillow, regex, kiwisolver), or with terms of their own
    (protobuf, dnspython, wcwidth). PyTorch, whose wheel has the files of some 60 C and C++ works
    that nobody looked at, is left out.
    """
    said: dict[str, list[str]] = {}
    seen: set[str] = set()
    for package in (one for one in distributions() if one.name != "torch"):
        for file in package.files or ():
            if not re.match(
                r"(?i)(?:licen[cs]e|copying)(?:\.(?:txt|md|rst|bsd|apache|mit))?$", file.name
            ):
                continue
            text = Path(str(package.locate_file(file))).read_text(
                encoding="utf-8", errors="replace"
            )
            if ".dist-info" in str(file) and text not in seen:
                seen.add(text)
                name = f"{package.name}: {file.name}"
                said.setdefault(match(text).kind, []).append(name)
    return {
        "files": len(seen),
        "counts": {kind: len(names) for kind, names in sorted(said.items())},
        "altered": sorted(said.get("altered", ())),
        "unknown": sorted(said.get("unknown", ())),
    }


def figures(folder: Path) -> dict[str, Any]:
    """What docs/openness-accuracy.md says about the licence reader.

    Args:
        folder: `licences` of the shared test data.
    """
    changed: Counter[str] = Counter()
    missed: list[str] = []
    for case in planted(folder):
        changed[case.how] += 1
        if not found(case):
            missed.append(f"{case.licence}: {case.how}")
    copies: Counter[str] = Counter()
    alarms: list[str] = []
    seconds: list[float] = []
    for case in plain(folder):
        copies[case.how] += 1
        start = time.perf_counter()
        if false_alarm(case):
            alarms.append(f"{case.licence}: {case.how}")
        seconds.append(time.perf_counter() - start)
    second = sorted((folder / "second_copies").glob("*.txt"))
    unknown = [
        file.stem for file in second
        if false_alarm(Case(file.stem, "", file.read_text(encoding="utf-8"), ""))
    ]  # fmt: skip
    return {
        "changes": dict(changed),
        "changes_missed": missed,
        "layouts": dict(copies),
        "false_alarms": alarms,
        "second_copies": len(second),
        "second_copies_missed": unknown,
        "installed": installed(),
        "held_out_before": held_out_before,
        "held_out_after": held_out_after,
        "held_missed": [
            f"{one.licence}: {one.how}" for one in held(folder, "change") if not found(one)
        ],
        "held_alarms": [
            f"{one.licence}: {one.how}" for one in held(folder, "harmless") if false_alarm(one)
        ],
        "median_ms": round(1000 * sorted(seconds)[len(seconds) // 2], 1),
        "slowest_ms": round(1000 * max(seconds), 1),
    }
