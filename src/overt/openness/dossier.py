"""Everything known about how open one model is: claims, evidence, states, verdicts.

A dossier is a value. The same files, claims and evidence give the same dossier, and it is written
in the same bytes; the days in it are those of the evidence.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from overt.openness.evidence import ComponentResult
from overt.openness.subject.record import Claim, Record

if TYPE_CHECKING:
    from overt.openness.licence.match import Match
    from overt.openness.verdicts.rules import Verdicts


@dataclass(frozen=True)
class LicenceFinding:
    """The licence of the weights: what is claimed beside what the text in the artefact is.

    Attributes:
        declared: its canonical id; None where nothing, or nothing known, is claimed.
        declared_text: the claim as it was written.
        concluded: the id of the text that lies with the model; None where none was recognised.
        kind: osd_open, use_restricted, scale_limited … of `concluded`, else of `declared`.
        match: what was found in the text; None where no text lies with the model.
        file: the file it is in, or "".
    """

    declared: str | None = None
    declared_text: str = ""
    concluded: str | None = None
    kind: str = "unknown"
    match: "Match | None" = None
    file: str = ""

    @property
    def id(self) -> str | None:
        return self.concluded or self.declared

    @property
    def altered(self) -> bool:
        return bool(self.match and self.match.altered)

    def as_json(self) -> dict[str, Any]:
        return {
            "declared": self.declared,
            "declared_text": self.declared_text,
            "concluded": self.concluded,
            "kind": self.kind,
            "file": self.file,
            "match": match_json(self.match) if self.match else None,
        }


@dataclass(frozen=True)
class Dossier:
    """One model.

    Attributes:
        ref: as it was asked for.
        record: what is claimed.
        digest: of the files looked at; "" where there were none (an index's record, an API).
        files: (name, bytes, ``sha256:…`` or "").
        components: all of components.py, in its order.
        base: what it was compared with, or "".
        made_on: the day of the newest evidence, or the record's own (ISO 8601).
    """

    ref: str
    record: Record
    digest: str
    files: tuple[tuple[str, int, str], ...]
    components: tuple[ComponentResult, ...]
    verdicts: "Verdicts"
    licence: LicenceFinding
    base: str
    made_on: str
    rules_version: int

    def component(self, name: str) -> ComponentResult:
        return next(component for component in self.components if component.component.name == name)

    def as_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "subject": {
                "ref": self.ref,
                "name": record.name,
                "kind": record.kind,
                "digest": self.digest,
                "base": self.base,
                "source": record.source,
                "date": record.date,
            },
            **self.verdicts.as_json(),
            "licence": self.licence.as_json(),
            "components": [_component(component) for component in self.components],
            "parents": [asdict(parent) for parent in record.parents],
            "facts": dict(sorted(record.facts.items())),
            "said": dict(sorted(record.said.items())),
            "files": [
                {"name": name, "size": size, "digest": digest} for name, size, digest in self.files
            ],
            "made_on": self.made_on,
            "rules_version": self.rules_version,
        }


def _component(result: ComponentResult) -> dict[str, Any]:
    return {
        "name": result.component.name,
        "title": result.component.title,
        "mof": result.component.mof,
        "state": result.state,
        "availability": result.availability.word,
        "licence": result.licence,
        "claim": _claim(result.claim) if result.claim else None,
        "evidence": [piece.as_json(with_id=True) for piece in result.evidence],
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "availability": claim.availability.word,
        "licence": claim.licence,
        "source": claim.source,
        "date": claim.date,
        "where": claim.where,
        "note": claim.note,
    }


def match_json(match: "Match") -> Mapping[str, Any]:
    """A match as `overt may --licence-file --json` prints it too."""
    return {
        "id": match.id,
        "kind": match.kind,
        "altered": match.altered,
        "riders": list(match.riders),
        "changes": [asdict(change) for change in match.changes],
        "missing_version": match.missing_version,
        "coverage": round(match.coverage, 4),
        "others": list(match.others),
        "sha256": match.sha256,
    }
