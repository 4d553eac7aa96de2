"""Pieces of the page: escaped text, icons, and the tables of components with their evidence."""

from collections.abc import Sequence
from html import escape
from typing import Final

from overt.openness.dossier import Dossier
from overt.openness.evidence import ComponentResult, Evidence
from overt.openness.export import licences, words
from overt.openness.export.text import address, shorten, visible

_DRAWN: Final = {
    "verified": '<circle class="icon-solid" cx="12" cy="12" r="11"/>'
    '<path class="icon-cut" d="M6.5 12.5l4 4 7-8.5"/>',
    "declared": '<path d="M3 4h18v12h-9l-5 5v-5H3z"/>',
    "missing": '<circle cx="12" cy="12" r="10"/><path d="M7 12h10"/>',
    "contradicted": '<path class="icon-solid" d="M12 1l11.5 21H.5z"/>'
    '<path class="icon-cut" d="M12 9v6M12 17.5v2"/>',
    "unknown": '<circle cx="12" cy="12" r="10" stroke-dasharray="3 3"/>'
    '<path d="M9 9.5a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 16.5v2"/>',
}
ICONS: Final = "".join(
    f'<symbol id="icon-{name}" viewBox="0 0 24 24">{drawn}</symbol>'
    for name, drawn in _DRAWN.items()
)
_MAX_EVIDENCE: Final = 40
_MAX_INPUTS: Final = 12
_MAX_TEXT: Final = 600


def text(content: str, *, tag: bool = True) -> str:
    """Text of the dossier, escaped; with `tag` in an element that isolates its direction."""
    safe = escape(visible(shorten(content, _MAX_TEXT)))
    return f"<bdi>{safe}</bdi>" if tag else safe


def code(content: str) -> str:
    return f'<code dir="ltr">{text(content)}</code>'


def link(url: str, label: str) -> str:
    """A link where `url` is a web address, else only the label."""
    href = address(url)
    if not href:
        return text(label)
    return f'<a href="{escape(href)}" rel="noopener noreferrer nofollow">{text(label)}</a>'


def icon(state: str) -> str:
    return (
        f'<svg class="icon" aria-hidden="true" focusable="false"><use href="#icon-{state}"/></svg>'
    )


def section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{body}</section>\n'


def table(
    columns: Sequence[str], rows: Sequence[str], *, caption: str = "", style: str = "stack"
) -> str:
    """A table that says what it is even where the style lays its cells below each other."""
    head = "".join(f'<th role="columnheader" scope="col">{column}</th>' for column in columns)
    above = f"<caption>{caption}</caption>\n" if caption else ""
    return (
        f'<table role="table" class="{style}">\n{above}'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{"".join(rows)}</tbody>\n</table>\n'
    )


def row(header: str, *cells: tuple[str, str]) -> str:
    """A row: its header, then each cell after the name of its column."""
    listed = "".join(f'<td role="cell" data-label="{name}">{cell}</td>' for name, cell in cells)
    return f'<tr role="row"><th role="rowheader" scope="row">{header}</th>{listed}</tr>\n'


def tables(dossier: Dossier) -> str:
    """All components, grouped."""
    licence = dossier.licence.id
    usual = licences.exported(licence).value if licence else ""
    return "".join(
        _table(title, [dossier.component(name) for name in names], usual)
        for title, names in words.GROUPS
    )


def _table(title: str, parts: list[ComponentResult], usual: str) -> str:
    verified = sum(component.state == "verified" for component in parts)
    return table(
        ("Part", "State", "What is said, and what was found"),
        [_row(component, usual) for component in parts],
        caption=f'{title} <span class="soft">({verified} of {len(parts)} verified)</span>',
        style="stack parts",
    )


def _row(component: ComponentResult, usual: str) -> str:
    state = words.state_of(component)
    meaning = words.COMPONENT_MEANING[component.component.name]
    return row(
        f'{component.component.title}<span class="small soft">{meaning}</span>',
        ("State", f'<span class="state {state}">{icon(state)} {words.STATE_WORDS[state]}</span>'),
        (
            "Said and found",
            f"{_claim_text(component)}{_licence(component, usual)}{_evidence(component)}",
        ),
    )


def _claim_text(component: ComponentResult) -> str:
    claim = component.claim
    holds = {"verified": "Overt found it.", "contradicted": "That does not hold."}
    if claim is None:
        verified = holds["verified"] if component.state == "verified" else ""
        return f"Nobody says anything about it. {verified}".rstrip()
    sentence = f"{words.CLAIMED[claim.availability]} {holds.get(component.state, '')}".rstrip()
    if claim.where:
        sentence += f"<br>Where: {link(claim.where, shorten(claim.where, 90))}"
    if claim.note:
        sentence += f'<br><span class="soft">{text(claim.note[0].upper() + claim.note[1:])}</span>'
    return sentence


def _licence(component: ComponentResult, usual: str) -> str:
    """The licence of one part, where it is not that of the model."""
    if not component.licence or not component.licence.strip():
        return ""
    named = licences.exported(component.licence)
    if named.value == usual:
        return ""
    return f'<br><span class="soft">Licence of its own: {text(named.title)}</span>'


def _evidence(component: ComponentResult) -> str:
    claim = component.claim
    rows = [_piece(piece) for piece in component.evidence[:_MAX_EVIDENCE]]
    if len(component.evidence) > _MAX_EVIDENCE:
        rows.append(f"<li>and {len(component.evidence) - _MAX_EVIDENCE} more</li>")
    if claim and claim.source:
        dated = f", {text(claim.date)}" if claim.date else ""
        rows.append(
            f"<li>The claim is from {link(claim.source, shorten(claim.source, 120))}{dated}.</li>"
        )
    if not rows:
        return ""
    return (
        f"<details><summary>{_summary(component)}"
        f'<span class="unseen"> on: {component.component.title.lower()}</span></summary>'
        f'<ul class="evidence">{"".join(rows)}</ul></details>'
    )


def _summary(component: ComponentResult) -> str:
    results = [words.result_words(piece) for piece in component.evidence]
    counts = [
        f"{results.count(word)} {'check' if results.count(word) == 1 else 'checks'} {word}"
        for word in dict.fromkeys(results)
    ]
    return ", ".join(counts) if counts else "where the claim is from"


def _piece(piece: Evidence) -> str:
    lines = [
        f"<p><strong>{text(piece.check.replace('_', ' '))}</strong>: {words.result_words(piece)} "
        f'<span class="soft">(strength: {piece.strength.word}'
        f"{f', {text(piece.at)}' if piece.at else ''})</span></p>"
    ]
    lines += [
        f"<p>{label}: {text(value)}</p>"
        for label, value in (
            ("Found", piece.observed),
            ("Expected", piece.expected),
            ("Why", piece.reason),
        )
        if value
    ]
    for name, digest in piece.inputs[:_MAX_INPUTS]:
        lines.append(f'<p class="soft">Looked at {code(name)} {code(digest) if digest else ""}</p>')
    if len(piece.inputs) > _MAX_INPUTS:
        lines.append(f'<p class="soft">and {len(piece.inputs) - _MAX_INPUTS} more files</p>')
    lines.append(f'<p class="soft">Evidence {code(piece.id)}</p>')
    kind = ' class="contradicted"' if piece.result == "fail" and not piece.absent else ""
    return f"<li{kind}>{''.join(lines)}</li>"
