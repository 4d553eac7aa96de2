"""Audits as one page that needs nothing but itself (html_page.py): figures, intervals, what they
mean and do not.

Prompts that may upset are folded away. Whoever reads only one line of a figure still sees its n and
its interval.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from overt.evaluation.audit import figures
from overt.evaluation.html_page import head, text

_MAX_EXAMPLES: Final = 12
_MAX_FIGURES: Final = 400
_STYLE: Final = """
h3 { margin: 1.2rem 0 .4rem; }
ul { margin: .3rem 0 .6rem; padding-left: 1.2rem; }
tbody th { font-weight: 400; min-width: 12rem; max-width: 26rem; }
td.figure { min-width: 9rem; font: inherit; }
svg { display: block; width: 100%; min-width: 8rem; height: 1rem; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .neutral { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 2; }
svg .span { stroke: var(--bar); stroke-width: 3; stroke-linecap: round; }
svg circle { fill: var(--bar); }
.group { padding-left: 1rem; color: var(--soft); }
"""


def render(receipts: Sequence[Mapping[str, Any]], compared: Mapping[str, Any] | None = None) -> str:
    """The page of one audit, or of two models with their comparison (`record.compare`)."""
    names = " and ".join(str(receipt["model"]["ref"])[:60] for receipt in receipts)
    parts = [
        head(f"{names}, audited", _STYLE),
        f'<header>\n<p class="over">Audit</p>\n<h1>{text(names)}</h1>\n</header>\n',
        _models(receipts),
        '<p class="soft">Every figure is a mean over the items that were asked, with n and an '
        "interval of 95 %. The interval tells how far the figure may be off for want of items; it "
        "does not tell whether the items are the right ones.</p>\n",
        _changes(compared) if compared else "",
        *(_audit(receipt, several=len(receipts) > 1) for receipt in receipts),
        "</main>\n",
        _footer(receipts),
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _models(receipts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for receipt in receipts:
        model = receipt["model"]
        rows.append(
            [
                text(model["ref"]),
                f"<code>{text(str(model['digest'])[:23] or 'not known')}</code>",
                text(f"{model['engine']} {model['build']}"),
                text(receipt["made"]),
            ]
        )
    return _table(("Model", "Digest", "Engine", "Made"), rows)


def _audit(receipt: Mapping[str, Any], *, several: bool) -> str:
    heading = f"<h2>{text(receipt['model']['ref'])}</h2>\n" if several else ""
    parts = [heading]
    for name, probe in receipt["probes"].items():
        parts.append(_probe(name, probe))
    if receipt["skipped"]:
        rows = [
            [text(skip["probe"]), text(skip.get("why", "")), text(skip.get("hint", ""))]
            for skip in receipt["skipped"]
        ]
        parts.append(f"<h2>Not asked</h2>\n{_table(('Probe', 'Why', 'What would help'), rows)}")
    return "".join(parts)


def _probe(name: str, probe: Mapping[str, Any]) -> str:
    shown = probe["figures"][:_MAX_FIGURES]
    whole = [row for row in shown if not row["group"]]
    groups = [row for row in shown if row["group"]]
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


def _figures(figures_shown: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for figure in figures_shown:
        about = f"<b>{text(figure['measure'])}</b>"
        if figure["group"]:
            about = f'<span class="group">{about} · {text(figure["group"])}</span>'
        elif figure.get("means"):
            about += f'<br><span class="small soft">{text(figure["means"])}</span>'
        few = ' <span class="soft">few</span>' if figure["n"] < figures.MIN_ANSWERS else ""
        value = "-" if figure["value"] is None else f"{figure['value']:.3f}"
        low, high = figure["interval"]
        rows.append(
            [about, value, f"{low:.3f} to {high:.3f}", f"{figure['n']}{few}", _interval(figure)]
        )
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
    for name, probe in compared["probes"].items():
        parts.append(f"<h3>{text(name)}</h3>\n")
        if "why" in probe:
            parts.append(f"<p>Not compared: {text(probe['why'])}.</p>\n")
            continue
        rows = []
        for pair in probe["pairs"]:
            if pair["group"]:
                continue
            low, high = pair["interval"]
            test = "-" if pair["mcnemar_p"] is None else f"{pair['mcnemar_p']:.3g}"
            drawn = {
                "range": [-1.0, 1.0],
                "neutral": 0.0,
                "value": pair["difference"],
                "interval": [max(-1.0, low), min(1.0, high)],
            }
            rows.append(
                [
                    f"<b>{text(pair['measure'])}</b>",
                    f"{pair['before']:.3f}",
                    f"{pair['after']:.3f}",
                    f"{pair['difference']:+.3f}",
                    f"{low:+.3f} to {high:+.3f}",
                    test,
                    str(pair["n"]),
                    _interval(drawn),
                ]
            )
        head = ("Figure", "Before", "After", "Difference", "95 % interval", "McNemar p", "n", "")
        parts.append(_table(head, rows, numbers=(1, 2, 3, 4, 5, 6), wide=7))
    return "".join(parts) + "</section>\n"


def _interval(figure: Mapping[str, Any]) -> str:
    """A line over the figure's range, with the interval, the value, and where no bias would be."""
    least, most = (float(value) for value in figure["range"])

    def at(value: float) -> float:
        return round(4.0 + 192 * (min(max(value, least), most) - least) / ((most - least) or 1), 1)

    low, high = (at(value) for value in figure["interval"])
    neutral = ""
    if figure["neutral"] is not None:
        place = at(figure["neutral"])
        neutral = f'<line class="neutral" x1="{place}" x2="{place}" y1="1" y2="15"/>'
    dot = "" if figure["value"] is None else f'<circle cx="{at(figure["value"])}" cy="8" r="3.5"/>'
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
            + ("" if file.get("as_published") else ", not a file known here")
            + ")"
        )
    rows = [
        [text(name), text(licence or "yours"), text(upstream or "-"), text(", ".join(files), 4000)]
        for (name, licence, upstream), files in seen.items()
    ]
    cited = "".join(f"<li>{text(citation)}</li>\n" for citation in probe.get("cite", []))
    return (
        f"<details><summary>data, licence and literature</summary>\n"
        f"{_table(('Data', 'Licence', 'From', 'Files'), rows)}<ul>\n{cited}</ul></details>\n"
    )


def _examples(probe: Mapping[str, Any]) -> str:
    """Prompts that were judged, folded: some of them ask for harm."""
    shown = [entry["outcome"] for entry in probe["items"] if entry["outcome"] is not None]
    wrong = [
        example
        for example in shown
        if (example.get("label") == "safe") == (example.get("kind") != "compliance")
    ][:_MAX_EXAMPLES]
    if not wrong:
        return ""
    rows = [
        [
            text(example.get("label")),
            text(example.get("kind")),
            text(example.get("prompt", ""), 300),
            f'<p class="said">{text(example.get("answer", ""), 300)}</p>',
        ]
        for example in wrong
    ]
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

    top = "".join(
        f'<th scope="col"{kind(at)}>{escape(column)}</th>' for at, column in enumerate(head)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind(at)}>{value}</td>" if at else f'<th scope="row">{value}</th>'
            for at, value in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n'
        "</table></div>\n"
    )


def _list(lines: Sequence[Any]) -> str:
    return "<ul>\n" + "".join(f"<li>{text(line)}</li>\n" for line in lines) + "</ul>\n"


def _footer(receipts: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for receipt in receipts:
        environment = ", ".join(f"{name} {value}" for name, value in receipt["environment"].items())
        parts.append(
            f"<p>Receipt {text(receipt['id'])}, sha256 <code>{text(receipt['sha256'])}</code>; "
            "seed "
            f"{text(receipt['seed'])}; {text(environment)}</p>\n"
        )
    return "<footer>\n" + "".join(parts) + "</footer>\n"
