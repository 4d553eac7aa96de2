"""The dossier as Markdown: for a README, an issue, or the summary of a CI run.

Markdown has no escape that all its dialects honour, so texts of the dossier stand in code spans or
have every character that means something replaced by its number.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from overt.openness.dossier import Dossier
from overt.openness.export import licences, words
from overt.openness.export.text import shorten, visible

if TYPE_CHECKING:
    from overt.openness.verdicts.rules import VerdictPair

_MEANS = re.compile(r"[&<>\\`*_{}\[\]()#+!|~$@:^=\"'-]")
_SIGNS = {
    "verified": "✔",
    "declared": "○",
    "missing": "–",
    "contradicted": "✘",
    "unknown": "?",
}
_MAX_CHARACTERS = 300


def render(dossier: Dossier) -> str:
    name = text(dossier.record.name or dossier.ref)
    step = dossier.verdicts.step
    lines = [
        f"# How open is {name}?",
        "",
        words.headline(dossier),
        "",
        "| | claimed | verified |",
        "|---|---|---|",
        f"| step | {words.step_words(step.declared)} | {words.step_words(step.verified)} |",
        _row("Model Openness Framework", dossier.verdicts.mof, words.MOF_WORDS),
        _row("Open Source AI Definition", dossier.verdicts.osaid, words.OSAID_WORDS),
        _row("EU AI Act, Article 53(2)", dossier.verdicts.eu_53_2, words.EXEMPTION_WORDS),
        "",
        f"**Licence**: {_licence(dossier)}",
        "",
    ]
    pieces = words.contradictions(dossier)
    if pieces:
        lines += ["## What does not hold", ""]
        lines += [
            f"- **{title}**: expected {text(piece.expected or 'what is claimed')}; "
            f"found {text(piece.observed or 'otherwise')}"
            for title, piece in pieces
        ]
        lines.append("")
    for group, names in words.GROUPS:
        lines += [f"## {group}", "", "| part | state | what is said |", "|---|---|---|"]
        for component in (dossier.component(name) for name in names):
            state = words.state_of(component)
            claimed = words.CLAIMED[component.claim.availability] if component.claim else ""
            lines.append(
                f"| {component.component.title} | {_SIGNS[state]} {words.STATE_WORDS[state]} | "
                f"{claimed} |"
            )
        lines.append("")
    dated = f" Newest evidence: {text(dossier.made_on)}." if dossier.made_on else ""
    lines.append(f"Written by Overt, rules of version {dossier.rules_version}.{dated}")
    return "\n".join(lines) + "\n"


def text(content: str) -> str:
    """Text of the dossier, on one line and without a meaning in Markdown."""
    line = visible(shorten(content, _MAX_CHARACTERS))
    return _MEANS.sub(lambda match: f"&#{ord(match.group())};", line)


def _row(title: str, pair: "VerdictPair", names: Mapping[str, str]) -> str:
    declared = names.get(pair.declared, text(pair.declared))
    verified = names.get(pair.verified, text(pair.verified))
    return f"| {title} | {declared} | {verified} |"


def _licence(dossier: Dossier) -> str:
    licence = licences.concluded(dossier) or licences.declared(dossier)
    named = f"{text(licence.title)}. " if licence else ""
    return named + " ".join(words.licence_lines(dossier))
