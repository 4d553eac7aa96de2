"""A dossier for the terminal: the spectrum, the verdicts, and one line a component."""

from collections.abc import Iterator, Mapping
from typing import Any

from overt.cli.output import pairs, table

STEPS = ("fully_closed", "partially_open", "open_weights", "fully_open")
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


def page(value: Mapping[str, Any], *, evidence: bool = False) -> str:
    """Everything a person asks first, of `Dossier.as_json`."""
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
        drawn(value),
        _verdicts(value),
    ]
    if value["contradicted"]:
        parts.append("\n".join(_contradictions(value)))
    parts.append(_components(value))
    if evidence:
        parts.append(_evidence(value))
    if steps := _next(value):
        parts.append(steps)
    return "\n\n".join(parts)


def drawn(value: Mapping[str, Any]) -> str:
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
    if not any(one["state"] in ("verified", "contradicted") for one in value["components"]):
        below = "nothing of it was verified: these are claims"
    return "\n".join(f"  {one.rstrip()}" for one in (above, line, below))


def _verdicts(value: Mapping[str, Any]) -> str:
    licence = value["licence"]
    named = licence["concluded"] or licence["declared"] or licence["declared_text"] or "none named"
    match = licence["match"]
    if match and match["altered"]:
        about = f"ALTERED from {named}"
    else:
        about = f"{named} ({_KINDS.get(licence['kind'], licence['kind'])})"
    if licence["file"] and match:
        about += f"; {licence['file']} is {_said(match['kind'])}"

    def both(name: str) -> str:
        found = value[name]
        words = [str(found[which]).replace("_", " ") for which in ("declared", "verified")]
        return f"claimed {words[0]}, verified {words[1]}"

    return pairs(
        {
            "licence": about,
            "MOF class": both("mof"),
            "OSAID 1.0": both("osaid"),
            "EU AI Act 53(2)": both("eu_53_2"),
        }
    )


def _said(kind: str) -> str:
    return {
        "exact": "its text",
        "near": "its text, but for layout and names",
        "altered": "its text with changes",
        "notice_only": "a pointer to it and not its text",
        "unknown": "a text that is not known",
    }[kind]


def _contradictions(value: Mapping[str, Any]) -> Iterator[str]:
    yield "CONTRADICTED"
    for one in value["components"]:
        if one["state"] != "contradicted":
            continue
        for piece in one["evidence"]:
            if piece["result"] == "fail":
                expected = f" (expected: {piece['expected']})" if piece["expected"] else ""
                yield f"  {one['title']}: {piece['observed']}{expected}"


def _components(value: Mapping[str, Any]) -> str:
    rows = []
    for one in value["components"]:
        unknown = one["state"] == "declared" and one["availability"] == "unknown"
        rows.append(
            (
                f"{' ' if unknown else _MARKS[one['state']]} {one['title']}",
                "not known" if unknown else one["state"],
                "" if one["availability"] == "unknown" else one["availability"],
                one["licence"] or "",
                _by(one),
            )
        )
    return table(("component", "state", "available", "licence", "by"), rows)


def _by(one: Mapping[str, Any]) -> str:
    """The checks that settle the state, else who claims it."""
    wanted = {"verified": "pass", "contradicted": "fail", "missing": "fail"}.get(one["state"])
    names = [p["check"].replace("_", " ") for p in one["evidence"] if p["result"] == wanted]
    if names:
        return ", ".join(dict.fromkeys(names))
    claim = one["claim"]
    return str(claim["source"])[:60] if claim else ""


def _evidence(value: Mapping[str, Any]) -> str:
    rows = [
        (
            piece["check"].replace("_", " "),
            one["name"],
            piece["result"].replace("_", " "),
            piece["strength"],
            piece["observed"] or piece["reason"],
            piece["at"],
        )
        for one in value["components"]
        for piece in one["evidence"]
    ]
    return table(("check", "component", "result", "strength", "what was found", "on"), rows)


_SCHEMES = {"step": "", "mof": "MOF class ", "osaid": "OSAID: ", "eu_53_2": "EU AI Act 53(2): "}


def _next(value: Mapping[str, Any]) -> str:
    lines = []
    for one in value["next"]:
        if one["steps"] and one["scheme"] in ("step", "mof"):  # the others are in the JSON
            goal = f"{_SCHEMES[one['scheme']]}{one['to'].replace('_', ' ')}"
            lines.append(f"  {goal}, {one['basis']}: {'; '.join(one['steps'])}")
    return "\n".join(["the cheapest next steps", *lines]) if lines else ""
