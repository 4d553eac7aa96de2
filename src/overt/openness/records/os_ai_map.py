"""Scores of the Open Source AI Map: one line on the components of a product, and a class.

The line is written by people: ``weights:open(on HF);data:closed;code:partial(inference; no training
pipeline);license:MIT(OSI)``. A part is a name, a word, and free words in parentheses. The word
decides how far the thing can be had, the free words only *which* thing it is: weights that are
gated, and whether the code is the training's, the inference's or the evaluation's. A word for a
kind of code that stands behind a "no" says that this kind is not there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from overt.openness.records import fields
from overt.openness.subject.record import Claim, Record
from overt.openness.verdicts.components import Availability

INDEX: Final = "Open Source AI Map"
_LINE: Final = 10_000  # characters of the line of components
_A = Availability
_WORDS: Final[Mapping[str, Availability]] = {
    **dict.fromkeys(
        ("open", "full", "yes", "available", "released", "public", "downloadable"), _A.FULL
    ),
    **dict.fromkeys(("gated", "restricted"), _A.GATED),
    **dict.fromkeys(("partial", "partially", "mixed", "some", "limited"), _A.PARTIAL),
    **dict.fromkeys(("documented", "described", "documented_only"), _A.DESCRIBED),
    **dict.fromkeys(
        (
            "closed",
            "no",
            "none",
            "absent",
            "missing",
            "unreleased",
            "undisclosed",
            "proprietary",
            "withheld",
            "unavailable",
        ),
        _A.ABSENT,
    ),
}
_KINDS: Final[Mapping[str, re.Pattern[str]]] = {
    # Recipes and configurations are what a training is started with. "Fine-tuning" is training.
    "training_code": re.compile(
        r"\b(?:pre|post)?-?train|\brecipe|\bpipeline|\bfine-?tun|\brl\b|\bsft\b"
    ),
    "inference_code": re.compile(
        r"\binference|\bserving|\bdeploy|\busage|\butil|\bexample|\bmodel(?:ling)? (?:code|class)"
    ),
    "evaluation_code": re.compile(r"\beval"),
    "preprocessing_code": re.compile(
        r"\bdata[- ](?:prep|process|pipeline|curation|filter)|\bpreprocess"
    ),
}
_NO = re.compile(
    r"\b(?:no|not|non|without|lacks?|lacking|missing|un(?:released|available|published)"
    r"|withheld|closed|absent|never|minus|except|excluding)\b"
)
_AND = re.compile(r"[;,+&]|\band\b|\bbut\b|\bonly\b|—|–")
_GATED = re.compile(r"\bgated|\baccept|\brequest|\bregist|\bapproval|\bapplication")
_DESCRIBED = re.compile(
    r"\bdescribed|\bdocumented|\bsummar|\bdisclosed at|\bmix(?:ture)? (?:is )?listed"
)
_CODE: Final = ("training_code", "inference_code")
_CLASSES: Final[Mapping[str, Mapping[str, Availability]]] = {
    "open_source": dict.fromkeys(("weights", "training_data", *_CODE), _A.FULL),
    "open_weights": {"weights": _A.FULL},
    "restricted": {"weights": _A.FULL},
    "closed": {"weights": _A.ABSENT},
}
"""What the class of a model says where the line of components says nothing."""


def recognises(content: Mapping[str, Any]) -> bool:
    """An openness with a class or the line of components, beside a product or another score."""
    openness = content.get("openness")
    return (
        isinstance(openness, dict)
        and ("components" in openness or "class" in openness)
        and any(key in content for key in ("product", "adoption", "capability"))
    )


def record(content: Mapping[str, Any], what: str) -> Record:
    openness = fields.mapping(content, "openness", what)
    name = fields.text(content, "product", what) or what
    inside = f"openness of {what}"
    source, day = _source(openness, inside)
    parts = parse(fields.text(openness, "components", inside, _LINE))
    claims: dict[str, Claim] = {}
    for part, (word, detail) in parts.items():
        for component, availability in _components(part, word, detail):
            claims.setdefault(
                component, Claim(component, availability, None, source, day, note=detail[:300])
            )
    class_ = fields.text(openness, "class", inside)
    if not claims:
        note = f"from the class {class_}"
        for component, availability in _CLASSES.get(class_, {}).items():
            claims[component] = Claim(component, availability, None, source, day, note=note)
    licence = _licence(parts)
    if "weights" in claims and claims["weights"].availability > _A.UNKNOWN:
        claims["weights"] = replace(claims["weights"], licence=licence)
    statements = {
        key: fields.text(openness, key, inside)
        for key in ("score", "class", "confidence")
        if openness.get(key) is not None
    }
    return Record(
        name=name,
        kind="record",
        claims=tuple(claims.values()),
        licence=licence,
        source=INDEX,
        date=day,
        said={"index": INDEX, **statements},
    )


def parse(line: str) -> Mapping[str, tuple[str, str]]:
    """The parts of the line: name → (word, the words in its parentheses).

    The licence has everything behind the colon as its word.
    """
    statements: dict[str, tuple[str, str]] = {}
    for part in _split(line):
        name, colon, rest = part.partition(":")
        name = name.strip().lower()
        if not colon or not name.isidentifier() or name in statements:
            continue
        if name in ("license", "licence"):
            statements["license"] = (rest.strip(), "")
            continue
        word = re.match(r"[a-z_]*", rest.strip().lower())
        end = word.end() if word else 0
        detail = rest.strip()[end:].strip().strip("()").strip()
        statements[name] = (word.group() if word else "", detail)
    return statements


def _split(line: str) -> Iterator[str]:
    """At semicolons outside parentheses; a parenthesis that never closes ends with the line."""
    depth, start = 0, 0
    for at, char in enumerate(line):
        if char == "(":
            depth += 1
        elif char == ")":
            depth = max(depth - 1, 0)
        elif char == ";" and not depth:
            yield line[start:at]
            start = at + 1
    yield line[start:]


def _components(part: str, word: str, detail: str) -> Iterator[tuple[str, Availability]]:
    availability = _WORDS.get(word, _A.UNKNOWN)
    detail = detail.lower()
    if part == "weights":
        gated = availability == _A.FULL and any(
            _GATED.search(phrase) and not _NO.search(phrase) for phrase in _AND.split(detail)
        )
        # Weights that are there for some people only.
        yield "weights", _A.GATED if gated or availability == _A.PARTIAL else availability
    elif part == "data":
        described = availability == _A.ABSENT and _DESCRIBED.search(detail)
        yield "training_data", _A.DESCRIBED if described else availability
    elif part == "checkpoints":
        yield "checkpoints", availability
    elif part == "code":
        yield from _code(availability, detail)


def _code(availability: Availability, detail: str) -> Iterator[tuple[str, Availability]]:
    """Which code it is: what the words name is there, what they deny is not.

    Without a word on it, open code is all of it, and code that is partial is so throughout.
    """
    there: set[str] = set()
    denied: set[str] = set()
    for phrase in _AND.split(detail):
        into = denied if _NO.search(phrase) else there
        into.update(name for name, words in _KINDS.items() if words.search(phrase))
    if availability <= _A.UNKNOWN:
        for name in _CODE:
            yield name, availability
        return
    for name in sorted(there - denied):
        # Partial means that some kinds are there and others are not, where the kinds are named.
        yield name, _A.FULL if denied or name != "training_code" else availability
    for name in sorted(denied):
        yield name, _A.ABSENT
    for name in _CODE:
        if name not in there | denied:
            yield name, _A.ABSENT if there and name == "training_code" else availability


def _licence(parts: Mapping[str, tuple[str, str]]) -> str | None:
    """The name before the first parenthesis or dash."""
    whole = parts.get("license", ("", ""))[0]
    name = re.split(r"[(;]| [—–-] ", whole, maxsplit=1)[0].strip()
    return name or whole[:80] or None


def _source(openness: Mapping[str, Any], what: str) -> tuple[str, str]:
    """The first address that it cites, and the newest day on which one was read."""
    sources = fields.mappings(openness, "sources", what)
    days = [fields.day(fields.text(entry, "accessed", f"sources of {what}")) for entry in sources]
    urls = [fields.text(entry, "url", f"sources of {what}") for entry in sources]
    return next((url for url in urls if url), INDEX), max(days, default="")
