"""A dossier in the formats of others: bills of materials, records of indexes, a page, a badge.

Each module has ``render(dossier) -> str``: the same dossier gives the same text, without a
clock and without chance, and the text ends in one newline. Nothing in a dossier is trusted: it may
hold whatever a file, a card or a record holds.
"""

import importlib
from typing import TYPE_CHECKING, Final

from overt.errors import UsageError

if TYPE_CHECKING:
    from overt.openness.dossier import Dossier

FORMATS: Final = {
    "html": "html",
    "markdown": "markdown",
    "cyclonedx": "cyclonedx",
    "spdx": "spdx",
    "mof": "mof",
    "osai": "osai",
    "intoto": "intoto",
    "badge": "badge",
}
"""What a person names → the module that writes it."""

SUFFIXES: Final = {
    "html": ".html",
    "markdown": ".md",
    "cyclonedx": ".cdx.json",
    "spdx": ".spdx.json",
    "mof": ".mof.yaml",
    "osai": ".osai.yaml",
    "intoto": ".intoto.json",
    "badge": ".svg",
}
"""How a file of each is named by custom."""


def render(dossier: "Dossier", form: str) -> str:
    """`dossier` in the format `form`. Raises UsageError where there is no such format."""
    if form not in FORMATS:
        raise UsageError(f"there is no format {form[:60]!r}", f"use one of {', '.join(FORMATS)}")
    module = importlib.import_module(f"{__name__}.{FORMATS[form]}")
    text: str = module.render(dossier)
    return text
