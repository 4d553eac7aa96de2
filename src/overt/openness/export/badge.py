"""A badge for a README: the step that could be verified, and the claimed one where that is another.

A drawing without fonts, scripts or addresses of its own. Colour only repeats what the words say.
"""

from typing import Final

from overt.openness.dossier import Dossier
from overt.openness.export import words
from overt.openness.verdicts.components import STEPS

_LABEL: Final = "openness"
_COLOUR: Final = {
    # Each with a contrast of at least 4.5 to white letters.
    "fully_open": "#1b6e3c",
    "open_weights": "#0b5fa5",
    "partially_open": "#8a5300",
    "fully_closed": "#5a5f66",
}
_CONTRADICTED: Final = "#b3261e"
# Widths in a sans-serif of 11 pixels; `textLength` makes them hold in whatever font there is.
_NARROW: Final = frozenset("ijl.,:;'|!ft r")
_WIDE: Final = frozenset("mwMW")
_HEIGHT: Final = 20


def render(dossier: Dossier) -> str:
    parts = [(_LABEL, "#3b4046")]
    step = dossier.verdicts.step
    parts.append((_verified(dossier), _COLOUR.get(step.verified, _COLOUR["fully_closed"])))
    if dossier.verdicts.contradicted:
        parts.append((f"{len(dossier.verdicts.contradicted)} contradicted", _CONTRADICTED))
    label = f"{_LABEL}: {', '.join(text for text, _ in parts[1:])}"
    left, boxes, letters = 0.0, [], []
    for text, colour in parts:
        wide = _width(text) + 12
        boxes.append(f'<rect x="{left:g}" width="{wide:g}" height="{_HEIGHT}" fill="{colour}"/>')
        letters.append(
            f'<text x="{left + wide / 2:g}" y="14" textLength="{wide - 12:g}" '
            f'lengthAdjust="spacingAndGlyphs">{text}</text>'
        )
        left += wide
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left:g}" height="{_HEIGHT}" '
        f'viewBox="0 0 {left:g} {_HEIGHT}" role="img" aria-label="{label}">\n'
        f"<title>{label}</title>\n"
        f"<g>{''.join(boxes)}</g>\n"
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" '
        f'font-size="11">{"".join(letters)}</g>\n'
        "</svg>\n"
    )


def _verified(dossier: Dossier) -> str:
    step = dossier.verdicts.step
    step_text = words.step_words(step.verified)
    if not words.anything_verified(dossier):
        claimed = words.step_words(step.declared)
        closed = step.declared == STEPS[0]
        return claimed if closed else f"{claimed} claimed, nothing verified"
    if step.verified == step.declared:
        return f"{step_text}, verified"
    return f"{step_text} verified, {words.step_words(step.declared)} claimed"


def _width(text: str) -> float:
    return sum(4.2 if c in _NARROW else 10 if c in _WIDE else 6.9 for c in text)
