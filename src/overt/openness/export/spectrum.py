"""The spectrum from fully closed to fully open, with where a model is said to be and where it is.

Two drawings of the same: across for wide pages, down for narrow ones. The page shows one.
"""

from typing import Final

from overt.openness.dossier import Dossier
from overt.openness.export import words
from overt.openness.verdicts.components import STEPS

_WIDE_AT: Final = (80, 240, 400, 560)
_TALL_AT: Final = (40, 118, 196, 274)


def draw(dossier: Dossier) -> str:
    """Both drawings. Where nothing could be verified there is no mark for it."""
    step = dossier.verdicts.step
    label = words.step_difference(dossier)
    claimed = _place(step.declared)
    verified = _place(step.verified) if words.anything_verified(dossier) else None
    return (
        f'<div class="spectrum wide">{_wide(claimed, verified, label)}</div>\n'
        f'<div class="spectrum tall">{_tall(claimed, verified, label)}</div>\n'
    )


def _place(step: str) -> int:
    return STEPS.index(step) if step in STEPS else 0


def _svg_open(size: str, label: str) -> str:
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="{label}">'


def _station(place: int, claimed: int, verified: int | None) -> str:
    if verified is not None and place <= verified:
        return "station reached"
    return "station said" if place == claimed else "station"


def _flag(x: int, y: int, word: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="104" height="30" rx="6"/>'
        f'<text x="{x + 52}" y="{y + 20}" text-anchor="middle">{word}</text>'
    )


def _wide(claimed: int, verified: int | None, label: str) -> str:
    first, last = _WIDE_AT[0], _WIDE_AT[-1]
    parts = [
        _svg_open("640 200" if verified is not None else "640 146", label),
        f'<line class="track" x1="{first}" y1="96" x2="{last}" y2="96"/>',
    ]
    if verified is not None:
        to = _WIDE_AT[verified]
        parts.append(f'<line class="track reached" x1="{first}" y1="96" x2="{to}" y2="96"/>')
    for place, step in enumerate(STEPS):
        x = _WIDE_AT[place]
        weight = ' class="here"' if place in (claimed, verified) else ""
        name = words.step_words(step)
        parts += [
            f'<circle class="{_station(place, claimed, verified)}" cx="{x}" cy="96" r="9"/>',
            f'<text{weight} x="{x}" y="132" text-anchor="middle">{name}</text>',
        ]
    x = _WIDE_AT[claimed]
    arrow = f'<path d="M{x - 8} 48 L{x} 76 L{x + 8} 48"/>'
    parts.append(f'<g class="claimed">{_flag(x - 52, 18, "claimed")}{arrow}</g>')
    if verified is not None:
        x = _WIDE_AT[verified]
        arrow = f'<path d="M{x - 9} 158 L{x} 142 L{x + 9} 158 Z"/>'
        parts.append(f'<g class="found">{arrow}{_flag(x - 52, 156, "verified")}</g>')
    return "".join([*parts, "</svg>"])


def _tall(claimed: int, verified: int | None, label: str) -> str:
    # Fully open stands on top here, as on a scale.
    at = _TALL_AT[::-1]
    parts = [
        _svg_open("300 314", label),
        f'<line class="track" x1="30" y1="{at[0]}" x2="30" y2="{at[-1]}"/>',
    ]
    if verified is not None:
        parts.append(
            f'<line class="track reached" x1="30" y1="{at[0]}" x2="30" y2="{at[verified]}"/>'
        )
    for place, step in enumerate(STEPS):
        y = at[place]
        marked = place in (claimed, verified)
        weight = ' class="here"' if marked else ""
        lower = y - 10 if marked else y + 5
        parts += [
            f'<circle class="{_station(place, claimed, verified)}" cx="30" cy="{y}" r="9"/>',
            f'<text{weight} x="54" y="{lower}">{words.step_words(step)}</text>',
        ]
    if verified is not None:
        parts.append(f'<g class="found">{_flag(54, at[verified], "verified")}</g>')
    x = 166 if claimed == verified else 54
    parts.append(f'<g class="claimed">{_flag(x, at[claimed], "claimed")}</g>')
    return "".join([*parts, "</svg>"])
