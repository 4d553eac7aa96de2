"""How a licence is named in other people's documents.

An id of the SPDX list stands as it is, an expression of such ids too; every other licence becomes a
``LicenseRef-`` with its canonical id, and words that name no licence one with a slug of them.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, Literal

from overt.openness.dossier import Dossier
from overt.openness.export.text import clean, shorten

_SLUG = re.compile(r"[^A-Za-z0-9.-]+")
_MAX_NAME = 300
REF: Final = "LicenseRef-"

LISTED: Final = frozenset(
    {
        "0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0",
        "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0",
        "C-UDA-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0",
        "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0",
        "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ECL-2.0",
        "EPL-2.0", "EUPL-1.2", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only",
        "GPL-3.0-or-later", "ISC", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only",
        "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0", "MS-PL", "NCSA", "ODC-By-1.0",
        "ODbL-1.0", "OFL-1.1", "OSL-3.0", "PDDL-1.0", "PostgreSQL", "Unlicense", "Zlib",
    }
)  # fmt: skip
"""Ids on every edition of the SPDX list that a reader may hold; newer ones go as expressions."""


@dataclass(frozen=True, slots=True)
class ExportedLicence:
    """One licence, ready to be written.

    Attributes:
        form: ``id`` (one of `LISTED`), ``expression`` (of SPDX ids), or ``ref`` (anything else).
        value: the id, the expression, or the LicenseRef.
        title: for people.
        url: where its text is, or "".
    """

    form: Literal["id", "expression", "ref"]
    value: str
    title: str
    url: str = ""


@lru_cache(maxsize=1024)
def exported(text: str) -> ExportedLicence:
    """The licence that `text` (an id, an expression or words) names."""
    text = clean(" ".join(text.split()))
    if text in LISTED:
        title, url = _facts(text)
        return ExportedLicence("id", text, title or text, url)
    if (expression := _expression(text)) is not None:
        title, url = _facts(expression)
        return ExportedLicence("expression", expression, title or expression, url)
    bare = text.removeprefix(REF)
    title, url = _facts(bare)
    return ExportedLicence(
        "ref", REF + slug(bare), title or shorten(text, _MAX_NAME) or "unnamed", url
    )


def altered(text: str) -> ExportedLicence:
    """A text that began as that licence and no longer has its terms."""
    licence = exported(text)
    bare = licence.value.removeprefix(REF)
    return ExportedLicence(
        "ref", f"{REF}{slug(bare)}-altered", f"{licence.title}, with altered terms"
    )


def slug(text: str) -> str:
    """Letters, digits, dots and hyphens: what may follow ``LicenseRef-``."""
    return _SLUG.sub("-", text)[:120].strip("-.") or "unnamed"


def declared(dossier: Dossier) -> ExportedLicence | None:
    """What is claimed to be the licence of the model."""
    text = dossier.licence.declared or dossier.licence.declared_text
    return exported(text) if text.strip() else None


def concluded(dossier: Dossier) -> ExportedLicence | None:
    """The licence whose text lies with the model; None where none was recognised."""
    concluded_id = dossier.licence.concluded
    if concluded_id is None:
        return None
    return altered(concluded_id) if dossier.licence.altered else exported(concluded_id)


def _facts(id_: str) -> tuple[str, str]:
    from overt.openness.licence import names

    facts_ = names.facts(id_)
    return (facts_.title, facts_.url) if facts_ else ("", "")


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _expression(text: str) -> str | None:
    """An expression of ids that are all on the SPDX list, as SPDX writes it."""
    from license_expression import ExpressionError, ExpressionParseError

    if not text or len(text) > _MAX_NAME or "licenseref" in text.lower():
        return None
    try:
        parsed = _licensing().parse(text, validate=True, strict=True)
    except (ExpressionError, ExpressionParseError, AttributeError, RecursionError):
        return None
    rendered = "" if parsed is None else str(parsed.render())
    return rendered if rendered and REF not in rendered else None
