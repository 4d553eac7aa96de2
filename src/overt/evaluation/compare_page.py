"""A comparison as one page that needs nothing but itself (html_page.py).

The page reads the same from a comparison that has just ended and from one kept as JSON.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from overt.evaluation.html_page import head, text
from overt.openness.verdicts.components import STEPS

MAX_PROMPTS: Final = 200
_MAX_TITLE: Final = 80  # characters of a heading
_MAX_TEXT: Final = 100_000  # characters of one answer
_VERDICTS: Final = {
    "allow": "may be run",
    "allow_with_obligations": "may be run, with conditions",
    "needs_permission": "needs permission first",
    "deny": "may not be run",
    "unknown": "depends on facts nobody gave",
}
_STYLE: Final = """
.bad { color: var(--bad); font-weight: 600; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
  padding: .9rem 1.1rem; min-width: 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
.question { background: var(--shade); border-radius: .6rem; padding: .7rem 1rem; margin: 0 0 1rem; }
.answer { display: flex; flex-direction: column; }
.answer > * { margin: 0 0 .6rem; }
.answer > .small { border-top: 1px solid var(--line); margin: auto 0 0; padding-top: .5rem; }
td { min-width: 5rem; }
.bars { display: grid; grid-template-columns: max-content minmax(3rem, 1fr) max-content;
  gap: .3rem .7rem; align-items: center; font-size: .9rem; margin: 0; }
.bars dt { max-width: 11rem; }
.bars dd { margin: 0; font-variant-numeric: tabular-nums; }
.bars svg, .steps { display: block; width: 100%; height: .9rem; }
.bars rect { fill: var(--bar); } .bars .best rect { fill: var(--best); }
.bars .best + dd { color: var(--best); font-weight: 600; }
.bars .none { fill: none; stroke: var(--soft); stroke-dasharray: 3 3; }
.steps { display: inline-block; width: 3.6rem; vertical-align: -.1rem; margin-right: .3rem; }
.steps circle { fill: none; stroke: var(--soft); stroke-width: 1.5; }
.steps .on { fill: var(--bar); stroke: var(--bar); }
@media print {
  .card, .question { break-inside: avoid; }
  .grid { grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); }
}
"""


def render(document: Mapping[str, Any]) -> str:
    """The page of a comparison, as `compare.document` makes it."""
    prompts, models = document["prompts"], document["models"]
    title = f"{_count(len(models), 'model')}, {_count(len(prompts), 'request')}"
    names = _model_names(models)
    ended = document["ended"]
    parts = [
        head(f"{names or title}, compared", _STYLE),
        f'<header>\n<p class="over">Side by side: {title}</p>\n<h1>{text(names or title)}</h1>\n'
        f'<p class="soft small">{_about(document)}</p>\n</header>\n',
        f'<p class="alarm">{text(_capital(ended))}.</p>\n' if ended else "",
        _bars(document["summary"]),
        _table(document["summary"]),
        *(_prompt(number, document) for number in range(min(len(prompts), MAX_PROMPTS))),
        _left_out(len(prompts)),
        "</main>\n",
        _footer(document),
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _model_names(models: Sequence[str]) -> str:
    """The models as a heading; "" where that would be too long for one."""
    names = ", ".join(models[:-1]) + " and " + models[-1] if len(models) > 1 else "".join(models)
    return names if len(names) <= _MAX_TITLE else ""


def _about(document: Mapping[str, Any]) -> str:
    machine = document.get("machine") or {}
    facts = [
        str(document["made"]),
        f"Overt {document.get('overt', '')}",
        ", ".join(str(value) for value in machine.values()),
        f"{document['repeat']} times each, medians shown" if document["repeat"] > 1 else "",
    ]
    return " · ".join(text(fact) for fact in facts if fact)


# -- figures ---------------------------------------------------------------------------------------


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def speed(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} tokens/s"


def dollars(value: float | None, unknown: int = 0, places: int = 0) -> str:
    """A sum of known costs; what is not known is never shown as 0.

    Args:
        places: behind the point at least, so that costs below each other can be compared.
    """
    if value is None:
        return "unknown"
    text = f"${value:.{max(places, _places(value))}f}"
    return f"{text} + {unknown} unknown" if unknown else text


def _places(value: float) -> int:
    """Digits behind the point that show two that count, and cents."""
    return 2 if value == 0 or value >= 1 else min(12, max(2, 1 - math.floor(math.log10(value))))


def column(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cost of each line of the summary, with as many places as the smallest needs."""
    places = max((_places(line["cost"]) for line in lines if line["cost"] is not None), default=0)
    return [dollars(line["cost"], line["cost_unknown"], places) for line in lines]


def with_unknown(value: int | None, unknown: str = "-") -> str:
    return unknown if value is None else f"{value:,}"


def _pair(into: int | None, out: int | None) -> str:
    return "-" if into is out is None else f"{with_unknown(into)} / {with_unknown(out)}"


def step(value: str | None) -> str:
    return value.replace("_", " ") if value else "not known"


def licence(row: Mapping[str, Any]) -> str:
    if not row["licence"]:
        return "not known"
    verdict = _VERDICTS.get(str(row["licence_verdict"]), "")
    return ": ".join(part for part in (row["licence"], verdict) if part)


def where(line: Mapping[str, Any]) -> str:
    """Where the words went, of a line of the summary."""
    return str(line["where"] or ("not known" if line["answers"] else "no answer came"))


def _bars(lines: Sequence[Mapping[str, Any]]) -> str:
    """Three small charts: what is best is marked, what is not known has an empty bar."""
    charts: tuple[tuple[str, str, bool, list[str]], ...] = (
        (
            "Time to first token",
            "seconds_to_first_token",
            True,
            [seconds(line["seconds_to_first_token"]) for line in lines],
        ),
        ("Speed", "tokens_per_second", False, [speed(line["tokens_per_second"]) for line in lines]),
        ("Cost", "cost", True, column(lines)),
    )
    drawn = []
    for title, key, low, words_ in charts:
        known = [line[key] for line in lines if line[key] is not None]
        best = (min if low else max)(known) if len(known) > 1 else None
        most = max(known, default=0) or 1
        rows = []
        for line, words in zip(lines, words_, strict=True):
            value = line[key]
            mark = ' class="best"' if best is not None and value == best else ""
            bar = (
                '<rect class="none" x="1" y="1" width="198" height="12"/>'
                if value is None
                else f'<rect width="{max(1.0, 200 * value / most):.1f}" height="14" rx="2"/>'
            )
            rows.append(
                f'<dt>{text(line["model"], 60)}</dt><dd{mark}><svg viewBox="0 0 200 14" '
                f'preserveAspectRatio="none" aria-hidden="true">{bar}</svg></dd>'
                f"<dd>{escape(words)}</dd>\n"
            )
        better = "less is better" if low else "more is better"
        drawn.append(
            f'<section class="card">\n<h3>{title} <span class="soft small">({better})</span></h3>\n'
            f'<dl class="bars">\n{"".join(rows)}</dl>\n</section>\n'
        )
    return f'<div class="grid">\n{"".join(drawn)}</div>\n'


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The figures, and below them what no clock measures."""
    figures = [
        (
            _pair(line["tokens_in"], line["tokens_out"]),
            seconds(line["seconds_to_first_token"]),
            speed(line["tokens_per_second"]).removesuffix(" tokens/s"),
            seconds(line["load_seconds"]),
            cost,
            str(line["errors"]),
        )
        for line, cost in zip(lines, column(lines), strict=True)
    ]
    others = [
        (
            _openness(line),
            text(licence(line)),
            text(where(line)),
            with_unknown(line["bytes_out"], "unknown"),
        )
        for line in lines
    ]
    names = [text(line["model"]) for line in lines]
    head = ("Tokens in / out, in all", "First token", "Tokens/s", "Loading", "Cost", "Errors")
    about = ("Openness", "Licence, for running it", "Where the words went", "Bytes out, in all")
    return (
        f"<h2>Figures</h2>\n{_render_table(head, names, figures, numbers=len(head))}"
        f"<h2>Openness, licence and privacy</h2>\n{_render_table(about, names, others, numbers=1)}"
    )


def _render_table(
    head: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int
) -> str:
    """A table of cells that are HTML; the last `numbers` columns are numbers."""

    def cell(kind: str, place: int, content: str) -> str:
        number = ' class="number"' if place >= len(head) - numbers else ""
        scope = ' scope="col"' if kind == "th" else ""
        return f"<{kind}{scope}{number}>{content}</{kind}>"

    top = "".join(cell("th", place, column) for place, column in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(cell("td", place, value) for place, value in enumerate(row))
        + "</tr>\n"
        for name, row in zip(names, rows, strict=True)
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr><th scope="col">Model</th>{top}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _openness(row: Mapping[str, Any]) -> str:
    value = row["step"]
    if value not in STEPS:
        return "not known"
    place = STEPS.index(value)
    dots = "".join(
        f'<circle class="{"on" if number <= place else ""}" cx="{8 + 16 * number}" cy="7" r="5.5"/>'
        for number in range(len(STEPS))
    )
    text_ = f"{step(value)} ({row['step_basis']})"
    if row["step_declared"] not in (None, value):
        text_ += f"; {step(row['step_declared'])} as declared"
    return f'<svg class="steps" viewBox="0 0 64 14" aria-hidden="true">{dots}</svg> {escape(text_)}'


# -- answers ---------------------------------------------------------------------------------------


def _prompt(number: int, document: Mapping[str, Any]) -> str:
    ask = document["prompts"][number]
    rows = [row for row in document["rows"] if row["prompt_index"] == number]
    shown = []
    for model in document["models"]:
        own = [row for row in rows if row["model"] == model]
        shown.append(_answer(model, own) if own else _unasked(model))
    title = "The request" if len(document["prompts"]) == 1 else f"Request {number + 1}"
    system = ""
    if ask["system"]:
        system = f'<p class="said soft small">{text(ask["system"], _MAX_TEXT)}</p>\n'
    return (
        f'<section>\n<h2>{title}</h2>\n<div class="question">{system}'
        f'<p class="said">{text(ask["prompt"], _MAX_TEXT)}</p></div>\n'
        f'<div class="grid">\n{"".join(shown)}</div>\n</section>\n'
    )


def _answer(model: str, rows: Sequence[Mapping[str, Any]]) -> str:
    first, more = rows[0], rows[1:]
    others = "".join(
        f"<details><summary>answer {number} of {len(rows)}</summary>{_answer_html(row)}</details>\n"
        for number, row in enumerate(more, 2)
        if (row["text"], row["error"]) != (first["text"], first["error"])
    )
    return (
        f'<article class="card answer">\n<h3>{text(model)}</h3>\n{_answer_html(first)}{others}'
        f'<p class="small soft">{_figures(first)}</p>\n</article>\n'
    )


def _answer_html(row: Mapping[str, Any]) -> str:
    parts = []
    if row["thinking"]:
        parts.append(
            f'<details><summary>its reasoning</summary><p class="said small soft">'
            f"{text(row['thinking'], _MAX_TEXT)}</p></details>\n"
        )
    if row["text"] or not row["error"]:
        plain = row["text"].strip("\r\n")
        shown = text(plain, _MAX_TEXT) if plain.strip() else '<span class="soft">nothing</span>'
        parts.append(f'<p class="said">{shown}</p>\n')
    if row["error"]:
        parts.append(f'<p class="bad">{text(row["error"])}</p>\n')
    elif row["finish"] == "length":
        parts.append('<p class="soft">[ended by the limit]</p>\n')
    return "".join(parts)


def _figures(row: Mapping[str, Any]) -> str:
    out = row["tokens_out"]
    first = row["seconds_to_first_token"]
    facts = [
        "" if first is None else f"first token {seconds(first)}",
        speed(row["tokens_per_second"]),
        "" if out is None else _count(out, "token"),
        "" if row["finish"] in (None, "stop", "length") else f"ended by {row['finish']}",
        f"cost {dollars(row['cost'])}" + (f" ({row['cost_why']})" if row["cost_why"] else ""),
        row["where"].partition(" (")[0] if row["bytes_out"] == 0 else row["where"],
    ]
    if row["routed"] and row["routed"]["model"] != row["model"]:
        facts.append(f"answered by {row['routed']['model']} {row['routed']['why']}".strip())
    return " · ".join(text(fact) for fact in facts if fact and fact != "-")


def _unasked(model: str) -> str:
    return (
        f'<article class="card answer">\n<h3>{text(model)}</h3>\n<p class="soft">not asked</p>\n'
        "</article>\n"
    )


def _left_out(count: int) -> str:
    if count <= MAX_PROMPTS:
        return ""
    return (
        f'<p class="soft">The figures are of all {count} requests; the answers to the first '
        f"{MAX_PROMPTS} are shown here, and all are in the kept file.</p>\n"
    )


def _footer(document: Mapping[str, Any]) -> str:
    settings = [f"{name.replace('_', ' ')} {v}" for name, v in document["sampling"].items()]
    if document["max_tokens"]:
        settings.append(f"at most {document['max_tokens']} tokens an answer")
    notes = [
        f"Made by <code>{text(document.get('command', ''), 4000)}</code>",
        f"Sampling: {text(', '.join(settings) or 'each model’s own')}.",
        "Time to first token counts from asking, with the model already loaded. A model of this "
        "machine read each request anew; one of a provider may have reused a prefix.",
        "A cost that is not known is shown as unknown. “Verified” openness was checked on the "
        "model’s files, “declared” is what is claimed of it. Licences were read by a program, "
        "which is no legal advice.",
        *_prices(document),
        f"Kept as {text(document['id'])}.",
    ]
    return "<footer>\n" + "".join(f"<p>{note}</p>\n" for note in notes) + "</footer>\n"


def _prices(document: Mapping[str, Any]) -> list[str]:
    """Where each price is from, and of which day."""
    sources = {
        f"{row['cost_source']}, {row['cost_day']}": None
        for row in document["rows"]
        if row["cost"] is not None and row["cost_source"]
    }
    return [f"Prices: {text('; '.join(sources))}."] if sources else []


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
