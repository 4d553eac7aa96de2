"""A dossier for the terminal: the spectrum, the verdicts, and one line a component.

The page is read in a minute: what is not known shares one line, addresses and long lists of steps
are cut, and `evidence` shows everything. It is as wide as the terminal, and 100 columns elsewhere.
"""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overt.cli.output import pairs, plain, table
from overt.openness.verdicts.components import STEPS

_MARKS = {"verified": "+", "declared": "o", "missing": "-", "contradicted": "X"}
_KINDS = {
    "osd_open": "open: use, change and pass on for any purpose",
    "data_open": "open, as licences of data and texts go",
    "use_restricted": "restricted: some uses are forbidden",
    "scale_limited": "restricted: large companies must ask",
    "non_commercial": "restricted: not for commercial use",
    "research_only": "restricted: for research only",
    "proprietary": "proprietary",
    "unknown": "not known",
}
_WIDEST = 120
_NARROWEST = 60
_MAX_STEPS = 3
_MAX_FAULTS = 6


def page(value: Mapping[str, Any], *, evidence: bool = False) -> str:
    """Everything a person asks first, of `Dossier.as_json`; with `evidence` everything there is."""
    width = columns()
    subject = value["subject"]
    parts = [
        pairs(
            {
                "model": subject["name"],
                "of": subject["source"] or None,
                "digest": subject["digest"] or None,
                "compared with": subject["base"] or None,
            }
        ),
        render(value),
        _verdicts(value, width),
    ]
    if value["contradicted"]:
        parts.append("\n".join(_contradictions(value, width, all_=evidence)))
    parts.append(_components(value, width))
    if evidence:
        parts.append("\n".join(_evidence(value, width)))
    if steps := list(_next(value, width, all_=evidence)):
        parts.append("\n".join(steps))
    return "\n\n".join(parts)


def columns() -> int:
    """Characters of a line."""
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((100, 24)).columns))


def wrapped(text: str, width: int, first: str, rest: str | None = None) -> list[str]:
    """`text` in lines of `width`, the first behind `first`, the others behind `rest`."""
    return textwrap.wrap(
        plain(text),
        width,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def render(value: Mapping[str, Any]) -> str:
    """The four steps in a row, with what is claimed above the line and what was found below.

    Where nothing was verified, because there were no files to look at, there is nothing below:
    claims alone are no reason to call a model closed.
    """
    step = value["step"]
    names = [name.replace("_", " ") for name in STEPS]
    places = []
    line = ""
    for name in names:
        line += "──── " if line else ""
        places.append(len(line))
        line += f"{name} "
    above = " " * places[STEPS.index(step["declared"])] + "▼ as claimed"
    below = " " * places[STEPS.index(step["verified"])] + "▲ as verified"
    if not any(
        component["state"] in ("verified", "contradicted") for component in value["components"]
    ):
        below = "nothing of it was verified: these are claims"
    return "\n".join(f"  {row.rstrip()}" for row in (above, line, below))


def _verdicts(value: Mapping[str, Any], width: int) -> str:
    licence = value["licence"]
    named = licence["concluded"] or licence["declared"] or licence["declared_text"] or "none named"
    match = licence["match"]
    if match and match["altered"]:
        about = f"ALTERED from {named}"
    else:
        about = f"{named} ({_KINDS.get(licence['kind'], licence['kind'])})"
    if licence["file"] and match:
        about += f"; {licence['file']} is {_kind_text(match['kind'])}"

    def both(name: str) -> str:
        verdict = value[name]
        words = [str(verdict[which]).replace("_", " ") for which in ("declared", "verified")]
        return f"claimed {words[0]}, verified {words[1]}"

    return pairs(
        {
            "licence": "\n".join(wrapped(about, width - 17, "")),
            "MOF class": both("mof"),
            "OSAID 1.0": both("osaid"),
            "EU AI Act 53(2)": both("eu_53_2"),
        }
    )


def _kind_text(kind: str) -> str:
    return {
        "exact": "its text",
        "near": "its text, but for layout and names",
        "altered": "its text with changes",
        "notice_only": "a pointer to it and not its text",
        "unknown": "a text that is not known",
    }[kind]


def _contradictions(value: Mapping[str, Any], width: int, *, all_: bool) -> Iterator[str]:
    yield "CONTRADICTED"
    faults = [
        f"{component['title']}: {piece['observed']}"
        + (f" (expected: {piece['expected']})" if piece["expected"] else "")
        for component in value["components"]
        if component["state"] == "contradicted"
        for piece in component["evidence"]
        if piece["result"] == "fail"
    ]
    shown = faults if all_ else faults[:_MAX_FAULTS]
    for fault in shown:
        yield from wrapped(fault, width, "  ", "    ")
    if len(faults) > len(shown):
        yield f"  and {len(faults) - len(shown)} more; --evidence shows them"


def _unknown(component: Mapping[str, Any]) -> bool:
    return bool(component["state"] == "declared" and component["availability"] == "unknown")


def _components(value: Mapping[str, Any], width: int) -> str:
    """One line each of what is known, and one for all of what is not."""
    rows = [
        (
            f"{_MARKS[component['state']]} {component['title']}",
            component["state"],
            "" if component["availability"] == "unknown" else component["availability"],
            plain(component["licence"] or ""),
            _by(component),
        )
        for component in value["components"]
        if not _unknown(component)
    ]
    head = ("component", "state", "available", "licence", "by")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(5)]
    left = max(12, width - sum(widths[:3]) - 8)  # for the last two columns
    licence = min(widths[3], max(left // 2, left - widths[4]))
    shown = [(*row[:3], _cut(row[3], licence), _cut(row[4], left - licence)) for row in rows]
    lines = [table(head, shown)] if rows else []
    lacking = [
        component["title"].lower() for component in value["components"] if _unknown(component)
    ]
    if lacking:
        lines += wrapped(f"not known: {', '.join(lacking)}", width, "  ", "    ")
    return "\n".join(lines)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _by(component: Mapping[str, Any]) -> str:
    """The checks that settle the state, else who claims it."""
    wanted = {"verified": "pass", "contradicted": "fail", "missing": "fail"}.get(component["state"])
    names = [p["check"].replace("_", " ") for p in component["evidence"] if p["result"] == wanted]
    if names:
        return ", ".join(dict.fromkeys(names))
    claim = component["claim"]
    return re.sub(r"^https?://(?:www\.)?", "", plain(str(claim["source"]))) if claim else ""


def _evidence(value: Mapping[str, Any], width: int) -> Iterator[str]:
    """What is claimed of each component, and every piece of evidence."""
    yield "EVIDENCE"
    for component in value["components"]:
        if _unknown(component) and not component["evidence"]:
            continue
        yield component["title"]
        if claim := component["claim"]:
            words = (claim["availability"], claim["licence"], claim["where"], claim["note"])
            claim_text = "; ".join(word for word in words if word)
            by = ", ".join(word for word in (claim["source"], claim["date"]) if word)
            yield from wrapped(f"claimed: {claim_text} (by {by})", width, "  ", "    ")
        for piece in component["evidence"]:
            expected = f" (expected: {piece['expected']})" if piece["expected"] else ""
            text = (
                f"{piece['result'].replace('_', ' ')}: {piece['check'].replace('_', ' ')}, "
                f"{piece['strength']}, {piece['at']}: {piece['observed'] or piece['reason']}"
            )
            yield from wrapped(text + expected, width, "  ", "    ")


_SCHEMES = {"step": "", "mof": "MOF class ", "osaid": "OSAID: ", "eu_53_2": "EU AI Act 53(2): "}
_BASES = {"declared": "as claimed", "verified": "as verified"}


def _next(value: Mapping[str, Any], width: int, *, all_: bool) -> Iterator[str]:
    """The cheapest steps to the next grades; of claims alone only what can be claimed."""
    goals = [
        step
        for step in value["next"]
        if step["steps"]
        and (all_ or step["scheme"] in ("step", "mof"))
        and (all_ or step["basis"] == "declared" or value["files"])
    ]
    if goals:
        yield "the cheapest next steps"
    for step in goals:
        steps: Sequence[str] = step["steps"] if all_ else step["steps"][:_MAX_STEPS]
        more = len(step["steps"]) - len(steps)
        text = "; ".join(steps) + (f"; and {more} more" if more else "")
        goal = f"{_SCHEMES[step['scheme']]}{step['to'].replace('_', ' ')}, {_BASES[step['basis']]}"
        yield from wrapped(f"{goal}: {text}", width, "  ", "    ")
