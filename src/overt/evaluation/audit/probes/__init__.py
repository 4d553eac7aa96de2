"""The probes, one file each with a `PROBE` (`evaluation/audit/probe.py`)."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final, cast

from overt.errors import UsageError
from overt.evaluation.audit.probe import AuditProbe

PROBES: Final[Mapping[str, str]] = {
    "bbq": "bias in answers to questions (BBQ)",
    "crows_pairs": "stereotyping sentences (CrowS-Pairs)",
    "winobias": "pronouns and occupations (WinoBias)",
    "xstest": "refusal of safe and unsafe prompts (XSTest)",
    "robustness": "answers under typos and paraphrase",
    "memorisation": "documents of yours given back word for word",
}
"""The name of a probe, which is that of its module, and what it looks at."""


def find(name: str) -> AuditProbe:
    """The probe of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROBES:
        raise UsageError(f"there is no probe {name[:60]!r}", f"the probes are {', '.join(PROBES)}")
    return cast("AuditProbe", import_module(f"overt.evaluation.audit.probes.{name}").PROBE)
