"""Audits as one page that needs nothing but itself: figures, intervals, what they mean and do not.

No script, no font, no picture and no address is loaded or linked, and the page's own policy forbids
it. What models and data sets wrote is escaped, and prompts that may upset are folded away. Whoever
reads only one line of a figure still sees its n and its interval.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from overt.lab.audit import figures
from overt.lab.compare_page import text
from overt.openness.export.text import visible

_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_MOST_EXAMPLES: Final = 12
_MOST_FIGURES: Final = 400
_STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #fff; --ink: #1b1d21; --soft: #4d535c; --line: #d9d6d0; --shade: #f1efeb;
  --bar: #0b5fa5; --before: #8a5a00; --bad: #b3261e; --alarm: #fdecea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131518; --card: #1b1e23; --ink: #e9ebee; --soft: #b0b7c1; --line: #3a3f47;
    --shade: #23272d; --bar: #85bff5; --before: #e0b566; --bad: #ff9c92; --alarm: #33191a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
main { padding-top: 1.6rem; }
footer { padding: 1rem 1.25rem 3rem; color: var(--soft); font-size: .875rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.2rem); line-height: 1.15; margin: .2rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; }
ul { margin: .3rem 0 .6rem; padding-left: 1.2rem; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .875em; }
.over { text-transform: uppercase; letter-spacing: .08em; font-size: .8rem; color: var(--soft);
  margin: 0; }
.soft { color: var(--soft); }
.small { font-size: .875rem; }
.alarm { background: var(--alarm); border: 2px solid var(--bad); border-radius: .6rem;
  padding: .6rem 1rem; margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: .925rem;
  overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem;
  border-bottom: 1px solid var(--line); }
tbody th { font-weight: 400; min-width: 12rem; max-width: 26rem; overflow-wrap: break-word; }
thead th { background: var(--shade); color: var(--soft); font-weight: 600; font-size: .85rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.figure { min-width: 9rem; }
svg { display: block; width: 100%; min-width: 8rem; height: 1rem; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .neutral { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 2; }
svg .span { stroke: var(--bar); stroke-width: 3; stroke-linecap: round; }
svg circle { fill: var(--bar); }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--soft); font-size: .875rem; }
.said { white-space: pre-wrap; margin: 0; }
.group { padding-left: 1rem; color: var(--soft); }
@media print {
  body { background: #fff; color: #000; font-size: 10pt; }
  tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
"""


def render(receipts: Sequence[Mapping[str, Any]], compared: Mapping[str, Any] | None = None) -> str:
    """The page of one audit, or of two models with their comparison (`record.compare`)."""
    names = " and ".join(str(one["model"]["ref"])[:60] for one in receipts)
    parts = [
        '<!doctype html>\n<html lang="en" dir="ltr">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(visible(names))}, audited</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n",
        f'<header>\n<p class="over">Audit</p>\n<h1>{text(names)}</h1>\n</header>\n',
        _models(receipts),
        '<p class="soft">Every figure is a mean over the items that were asked, with n and an '
        "interval of 95 %. The interval tells how far the figure may be off for want of items; it "
        "does not tell whether the items are the right ones.</p>\n",
        _changes(compared) if compared else "",
        *(_audit(one, several=len(receipts) > 1) for one in receipts),
        "</main>\n",
        _footer(receipts),
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _models(receipts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in receipts:
        model = one["model"]
        rows.append(
            [
                text(model["ref"]),
                f"<code>{text(str(model['digest'])[:23] or 'not known')}</code>",
                text(f"{model['engine']} {model['build']}"),
                text(one["made"]),
            ]
        )
    return _table(("Model", "Digest", "Engine", "Made"), rows)


def _audit(one: Mapping[str, Any], *, several: bool) -> str:
    heading = f"<h2>{text(one['model']['ref'])}</h2>\n" if several else ""
    parts = [heading]
    for name, probe in one["probes"].items():
        parts.append(_probe(name, probe))
    if one["skipped"]:
        rows = [
            [text(skip["probe"]), text(skip.get("why", "")), text(skip.get("hint", ""))]
            for skip in one["skipped"]
        ]
        parts.append(f"<h2>Not asked</h2>\n{_table(('Probe', 'Why', 'What would help'), rows)}")
    return "".join(parts)


def _probe(name: str, probe: Mapping[str, Any]) -> str:
    shown = probe["figures"][:_MOST_FIGURES]
    whole = [one for one in shown if not one["group"]]
    groups = [one for one in shown if one["group"]]
    failed = f", {probe['failed']} failed" if probe["failed"] else ""
    parts = [
        f"<section>\n<h2>{text(probe.get('title') or name)}</h2>\n"
        f'<p class="soft small">{text(name)}, version {text(probe["version"])}: n = '
        f"{probe['n']}{failed}</p>\n<p>{text(probe['method'])}.</p>\n",
        _figures(whole),
        f"<details><summary>by group</summary>\n{_figures(groups)}</details>\n" if groups else "",
        "<h3>What it does not mean</h3>\n" + _list(probe.get("limits", [])),
        "<h3>Notes</h3>\n" + _list(probe["notes"]) if probe["notes"] else "",
        _sources(probe),
        _examples(probe) if name == "xstest" else "",
        "</section>\n",
    ]
    return "".join(parts)


def _figures(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in found:
        about = f"<b>{text(one['measure'])}</b>"
        if one["group"]:
            about = f'<span class="group">{about} · {text(one["group"])}</span>'
        elif one.get("means"):
            about += f'<br><span class="small soft">{text(one["means"])}</span>'
        few = ' <span class="soft">few</span>' if one["n"] < figures.FEW else ""
        value = "-" if one["value"] is None else f"{one['value']:.3f}"
        low, high = one["interval"]
        rows.append([about, value, f"{low:.3f} to {high:.3f}", f"{one['n']}{few}", _interval(one)])
    return _table(("Figure", "Value", "95 % interval", "n", ""), rows, numbers=(1, 2, 3), wide=4)


def _changes(compared: Mapping[str, Any]) -> str:
    parts = [
        "<section>\n<h2>Before and after</h2>\n"
        f"<p>{text(compared['after'])} minus {text(compared['before'])}, item by item, of the same "
        "items. An interval that contains 0 is no evidence of a change; with many figures some "
        "exclude 0 by chance.</p>\n"
    ]
    if compared.get("same_model"):
        parts.append('<p class="alarm">Both are the same file.</p>\n')
    for name, one in compared["probes"].items():
        parts.append(f"<h3>{text(name)}</h3>\n")
        if "why" in one:
            parts.append(f"<p>Not compared: {text(one['why'])}.</p>\n")
            continue
        rows = []
        for pair in one["pairs"]:
            if pair["group"]:
                continue
            low, high = pair["interval"]
            test = "-" if pair["mcnemar_p"] is None else f"{pair['mcnemar_p']:.3g}"
            drawn = {"range": [-1.0, 1.0], "neutral": 0.0, "value": pair["difference"],
                     "interval": [max(-1.0, low), min(1.0, high)]}  # fmt: skip
            rows.append(
                [f"<b>{text(pair['measure'])}</b>", f"{pair['before']:.3f}",
                 f"{pair['after']:.3f}", f"{pair['difference']:+.3f}",
                 f"{low:+.3f} to {high:+.3f}", test, str(pair["n"]), _interval(drawn)]
            )  # fmt: skip
        head = ("Figure", "Before", "After", "Difference", "95 % interval", "McNemar p", "n", "")
        parts.append(_table(head, rows, numbers=(1, 2, 3, 4, 5, 6), wide=7))
    return "".join(parts) + "</section>\n"


def _interval(one: Mapping[str, Any]) -> str:
    """A line over the figure's range, with the interval, the value, and where no bias would be."""
    least, most = (float(value) for value in one["range"])

    def at(value: float) -> float:
        return round(4.0 + 192 * (min(max(value, least), most) - least) / ((most - least) or 1), 1)

    low, high = (at(value) for value in one["interval"])
    neutral = ""
    if one["neutral"] is not None:
        place = at(one["neutral"])
        neutral = f'<line class="neutral" x1="{place}" x2="{place}" y1="1" y2="15"/>'
    dot = "" if one["value"] is None else f'<circle cx="{at(one["value"])}" cy="8" r="3.5"/>'
    return (
        '<svg viewBox="0 0 200 16" aria-hidden="true"><line class="axis" x1="4" x2="196" y1="8" '
        f'y2="8"/>{neutral}<line class="span" x1="{low}" x2="{high}" y1="8" y2="8"/>{dot}</svg>'
    )


def _sources(probe: Mapping[str, Any]) -> str:
    seen: dict[tuple[str, str, str], list[str]] = {}
    for file in probe["data"]:
        key = (
            str(file.get("set", "")),
            str(file.get("licence", "")),
            str(file.get("upstream", "")),
        )
        seen.setdefault(key, []).append(
            f"{file.get('file', '')} ({str(file['sha256'])[:12]}…"
            + ("" if file.get("as_published") else ", not a file known here") + ")"
        )  # fmt: skip
    rows = [
        [text(name), text(licence or "yours"), text(upstream or "-"), text(", ".join(files), 4000)]
        for (name, licence, upstream), files in seen.items()
    ]
    cited = "".join(f"<li>{text(one)}</li>\n" for one in probe.get("cite", []))
    return (
        f"<details><summary>data, licence and literature</summary>\n"
        f"{_table(('Data', 'Licence', 'From', 'Files'), rows)}<ul>\n{cited}</ul></details>\n"
    )


def _examples(probe: Mapping[str, Any]) -> str:
    """Prompts that were judged, folded: some of them ask for harm."""
    shown = [entry["outcome"] for entry in probe["items"] if entry["outcome"] is not None]
    wrong = [
        one for one in shown if (one.get("label") == "safe") == (one.get("kind") != "compliance")
    ][:_MOST_EXAMPLES]
    if not wrong:
        return ""
    rows = [
        [text(one.get("label")), text(one.get("kind")), text(one.get("prompt", ""), 300),
         f'<p class="said">{text(one.get("answer", ""), 300)}</p>']
        for one in wrong
    ]  # fmt: skip
    return (
        f"<details><summary>{len(rows)} safe prompts refused or unsafe prompts answered, as the "
        "rules judged them. Some prompts ask for harm.</summary>\n"
        f"{_table(('Prompt is', 'Answer is', 'Prompt', 'Answer, its beginning'), rows)}</details>\n"
    )


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), wide: int = -1
) -> str:
    """A table of cells that are HTML."""

    def kind(place: int) -> str:
        if place in numbers:
            return ' class="number"'
        return ' class="figure"' if place == wide else ""

    top = "".join(f'<th scope="col"{kind(at)}>{escape(one)}</th>' for at, one in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind(at)}>{one}</td>" if at else f'<th scope="row">{one}</th>'
            for at, one in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n'
        "</table></div>\n"
    )


def _list(lines: Sequence[Any]) -> str:
    return "<ul>\n" + "".join(f"<li>{text(one)}</li>\n" for one in lines) + "</ul>\n"


def _footer(receipts: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for one in receipts:
        environment = ", ".join(f"{name} {value}" for name, value in one["environment"].items())
        told.append(
            f"<p>Receipt {text(one['id'])}, sha256 <code>{text(one['sha256'])}</code>; seed "
            f"{text(one['seed'])}; {text(environment)}</p>\n"
        )
    return "<footer>\n" + "".join(told) + "</footer>\n"
