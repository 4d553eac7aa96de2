"""How open a model is and what its licence says of running it, from what is at hand."""

from dataclasses import dataclass, replace

from overt.errors import OvertError
from overt.ref import Ref, parse
from overt.settings import Settings


@dataclass(frozen=True, slots=True)
class OpennessSummary:
    """Where a model stands. None is "not known", never a guess.

    Attributes:
        step: fully_closed, partially_open, open_weights or fully_open.
        basis: ``verified`` on its files, or ``declared`` by its makers (the catalogue).
        declared: the step by what is declared alone.
        licence: of the model itself, as `overt may` names it; several are joined by " + ".
        verdict: whether it may be run, by the facts that `overt may --save` keeps: allow,
            allow_with_obligations, needs_permission, deny or unknown.
        missing: facts that decide an unknown verdict.
    """

    step: str | None = None
    basis: str | None = None
    declared: str | None = None
    licence: str | None = None
    verdict: str | None = None
    missing: tuple[str, ...] = ()


def of(ref: str, settings: Settings) -> OpennessSummary:
    """Where the model of a ref stands; reads what the home and the catalogue have.

    A model whose files `overt dossier` has looked at is graded by that evidence. Looking again
    would read all of its bytes, so one it has not looked at is graded by what is declared.
    """
    offline = replace(settings, offline=True)
    try:
        parsed = parse(ref)
        if parsed.scheme == "echo":
            return OpennessSummary()
        return _graded(ref, parsed, offline)
    except (OvertError, OSError):
        return OpennessSummary()


def _graded(ref: str, parsed: Ref, settings: Settings) -> OpennessSummary:
    from overt.openness import assemble, day
    from overt.openness.evidence_log import EvidenceLog
    from overt.openness.permissions import chain, gate, may
    from overt.openness.subject import families, gather

    subject = gather.subject(ref, settings)
    links = chain.of(subject, settings).links
    decision = may.decide(links, gate.saved(settings.home))
    own = dict.fromkeys(link.licence for link in links if link.relation == "model" and link.licence)
    licence = " + ".join(own) or None
    summary = OpennessSummary(licence=licence, verdict=decision.verdict, missing=decision.missing)
    if parsed.remote and families.lookup(parsed) is None:
        return summary  # a server of somebody's: what it runs cannot be seen, nor whose it is
    claims = assemble.assemble(replace(subject, files=()), settings.home, day.today())
    declared = claims.verdicts.step.declared
    summary = replace(summary, step=declared, basis="declared", declared=declared)
    if not subject.files or not EvidenceLog(settings.home, subject.digest_all).runs():
        return summary
    made = assemble.assemble(subject, settings.home, day.today()).verdicts.step
    return replace(summary, step=made.verified, basis="verified", declared=made.declared)
