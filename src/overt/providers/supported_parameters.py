"""What a provider's model families take and refuse, as dated data: ``<engine>.toml`` beside this.

::

    checked = 2026-11-24                 # the day the file was last looked over

    [[family]]
    models = ["claude-opus-5*"]          # shell patterns; the first family that fits is it
    refuses = ["temperature", "top_p"]   # fields of Request and Sampling, by name
    context = 200000                     # tokens of prompt and answer; 0 where nobody knows
    most_out = 64000                     # tokens of an answer; 0 where nobody knows
    images = true
    tools = true
    thinking = true
    source = "where it is written"
    day = 2026-11-24

A model of no family is taken to accept everything: its provider is the one to refuse.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from overt.chat import Request, Sampling


@dataclass(frozen=True, slots=True)
class SupportedParameters:
    """One family. `extra` holds what only its own adapter reads."""

    refuses: frozenset[str] = frozenset()
    context: int = 0
    most_out: int = 0
    images: bool = True
    tools: bool = True
    thinking: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


_KNOWN = (
    "models",
    "source",
    "day",
    "refuses",
    "context",
    "most_out",
    "images",
    "tools",
    "thinking",
)


@lru_cache(1024)  # clients may write any name
def accepts(engine: str, model: str) -> SupportedParameters:
    """What `model` of `engine` (``anthropic``, ``openai`` …) accepts."""
    for family in _families(engine):
        if any(fnmatchcase(model, pattern) for pattern in family["models"]):
            plain = {name: family[name] for name in _KNOWN[4:] if name in family}
            extra = {name: value for name, value in family.items() if name not in _KNOWN}
            return SupportedParameters(frozenset(family.get("refuses", ())), extra=extra, **plain)
    return SupportedParameters()


def stated(engine: str, model: str) -> tuple[str, str]:
    """Where it is written what `model` accepts, and of which day that is; "" for no family."""
    for family in _families(engine):
        if any(fnmatchcase(model, pattern) for pattern in family["models"]):
            return str(family.get("source", "")), str(family.get("day", ""))
    return "", ""


def pruned(request: Request, taken: SupportedParameters) -> tuple[Request, tuple[str, ...]]:
    """`request` without what the family refuses, and the names of what was left out."""
    sampling = {
        name: None
        for name in Sampling.__dataclass_fields__
        if name in taken.refuses and getattr(request.sampling, name) is not None
    }
    empty = Request("")
    rest = {
        name: getattr(empty, name)
        for name in taken.refuses & set(Request.__dataclass_fields__)
        if getattr(request, name) != getattr(empty, name)
    }
    if not sampling and not rest:
        return request, ()
    changed = replace(request, sampling=replace(request.sampling, **sampling), **rest)
    return changed, tuple(sorted((*sampling, *rest)))


@cache
def _families(engine: str) -> tuple[dict[str, Any], ...]:
    file = files("overt.providers") / engine / "limits.toml"
    return tuple(tomllib.loads(file.read_text("utf-8"))["family"]) if file.is_file() else ()
