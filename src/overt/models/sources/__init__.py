"""Where bytes come from. One module a source; its contract is in base.py.

The table is lazy because `overt run` of a stored model must not import a network library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from overt.ref import Scheme

if TYPE_CHECKING:
    from overt.models.sources.base import SourcePlanner

MODULES: dict[Scheme, str] = {
    "pypi": "overt.models.sources.pypi",
    "hf": "overt.models.sources.hub",
    "ollama": "overt.models.sources.ollama",
    "oci": "overt.models.sources.oci",
}


def planner(scheme: Scheme) -> "SourcePlanner":
    """The `plan` function of the source that serves `scheme`; KeyError where there is none."""
    plan: SourcePlanner = import_module(MODULES[scheme]).plan
    return plan
