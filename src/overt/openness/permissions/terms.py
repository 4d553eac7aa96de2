"""The clauses of one licence: data in `data/terms/ID.toml`, in the project's own words.

A use policy has a file of its own, which the licence names in `policies`. A duty may quote what
the licence wants shown as ``{notice}``, ``{attribution}`` and ``{prefix}``.

A condition is a table of facts, all of which must hold; ``all`` and ``any`` hold lists of
conditions and ``not`` holds one. What a fact must be is written by its kind::

    commercial = true                       yes_no
    mau_at_version_release = ">700000000"   number, with > >= < <= =
    trains_other_model = "outputs"          "outputs" is also true of both, "any" of all but none
    distributes = ["weights", "data"]       several_of: at least one of these, "any" for anything
    modality = "multimodal"                 one_of
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from overt.openness import packed
from overt.openness.permissions.conditions import ALWAYS, Condition, parse

Effect = Literal["deny", "needs_permission", "note"]
_ID: Final = r"[A-Za-z0-9][A-Za-z0-9.+-]{0,80}"


class Clause(NamedTuple):
    """A rule of a licence that forbids, asks for permission, or is worth knowing.

    Attributes:
        licence: the id of the text the clause stands in (a use policy has its own).
        rule: what it says, in the project's words.
        when: the condition under which it has its effect.
        outputs: it also binds what was made with the outputs, such as a model trained on them.
        asked: False where it is about something hardly anybody can do (the weights of a model
            behind an API): it counts where a person says so, and nobody is asked.
    """

    licence: str
    section: str
    effect: Effect
    rule: str
    when: Condition
    date: str
    source: str
    outputs: bool = False
    asked: bool = True


class Duty(NamedTuple):
    """What must be done, and when."""

    licence: str
    section: str
    text: str
    when: Condition
    date: str
    source: str


class Ban(NamedTuple):
    """A category of `fields.FIELDS` that a use policy forbids, or allows only on a condition.

    Attributes:
        only: what the use needs (a professional licence, consent …); empty where it is forbidden.
    """

    licence: str
    section: str
    category: str
    only: str
    date: str
    source: str


class Terms(NamedTuple):
    """One licence, with the use policies it includes.

    Attributes:
        date: ISO day (or month) of the text; empty where it has none.
        source: the key of the text that was read (shared data's index), or an address.
        sha256: of that text; empty where it was not to be had.
        read: False where the clauses are only reported by others.
        notice: lines that the licence wants word for word in a NOTICE file.
        attribution: words that it wants shown with a product or model.
        name_prefix: what the name of a derived model must begin with.
        reaches_outputs: a model trained on its outputs falls under the licence as a derivative.
        about: what is left open or was only reported.
    """

    id: str
    title: str
    version: str
    date: str
    source: str
    sha256: str
    read: bool
    clauses: tuple[Clause, ...]
    obligations: tuple[Duty, ...]
    bans: tuple[Ban, ...]
    notice: tuple[str, ...]
    attribution: tuple[str, ...]
    name_prefix: str
    reaches_outputs: bool
    about: str


@lru_cache(maxsize=256)
def load(licence_id: str) -> Terms | None:
    """The terms of a licence by its canonical id; None where its clauses are not known.

    A licence without a file that a list names as open, or as non-commercial, gets the little that
    its kind says for sure.
    """
    if not re.fullmatch(_ID, licence_id):
        return None
    try:
        content = packed.toml(f"terms/{licence_id}")
    except OSError:
        return _by_kind(licence_id)
    return read(content)


_ANY_COPY = {"distributes": ["weights", "derivative", "product", "data"]}
# What the kind of a licence rules out for sure.
_RULED_OUT: dict[str, tuple[str, ...]] = {
    "osd_open": (),
    "data_open": (),
    "non_commercial": ("commercial",),
    "research_only": ("commercial", "production"),
}


def _by_kind(licence_id: str) -> Terms | None:
    from overt.openness.licence import names

    listed = names.facts(licence_id)
    if listed is None or listed.kind not in _RULED_OUT:
        return None
    what = listed.kind.replace("_", " ")
    unread = "its own conditions are not in the table"
    keep = f"Keep the text of {listed.id} and all notices with it, and read what else it asks for"
    return read(
        {
            "id": licence_id,
            "title": listed.title,
            "source": listed.url or "its kind",
            "read": False,
            "about": f"Only its kind is known ({what}): {unread}.",
            "clauses": [
                {
                    "section": "all",
                    "effect": "deny",
                    "rule": f"No {fact} use: it is a {what} licence; {unread}",
                    "when": {fact: True},
                }
                for fact in _RULED_OUT[listed.kind]
            ],
            "obligations": [{"section": "all", "text": f"{keep}: {unread}", "when": _ANY_COPY}],
        }
    )


def ids() -> tuple[str, ...]:
    """All licences whose clauses are known, sorted."""
    names = (entry.name for entry in (packed.DATA / "terms").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def read(content: Mapping[str, Any]) -> Terms:
    """Terms from the content of a file. Raises KeyError, TypeError or ValueError: not terms."""
    licence, day, source = content["id"], str(content.get("date", "")), content["source"]
    where = (day, source)
    clauses = [
        Clause(
            licence,
            clause["section"],
            clause["effect"],
            clause["rule"],
            _when(clause),
            *where,
            outputs=clause.get("outputs", False),
            asked=clause.get("asked", True),
        )
        for clause in content.get("clauses", ())
    ]
    duties = [
        Duty(licence, duty["section"], _fill_text(duty["text"], content), _when(duty), *where)
        for duty in content.get("obligations", ())
    ]
    bans = [
        Ban(licence, section, category, "", *where)
        for category, section in content.get("bans", {}).items()
    ]
    bans += [
        Ban(licence, limit["section"], category, limit["only"], *where)
        for category, limit in content.get("limits", {}).items()
    ]
    for name in content.get("policies", ()):
        policy = load(name)
        if policy is None:
            raise ValueError(f"{licence} includes {name}, which is not there")
        clauses += policy.clauses
        duties += policy.obligations
        bans += policy.bans
    return Terms(
        id=licence,
        title=content["title"],
        version=content.get("version", ""),
        date=day,
        source=source,
        sha256=content.get("sha256", ""),
        read=content.get("read", True),
        clauses=tuple(clauses),
        obligations=tuple(duties),
        bans=tuple(bans),
        notice=tuple(content.get("notice", ())),
        attribution=tuple(content.get("attribution", ())),
        name_prefix=content.get("name_prefix", ""),
        reaches_outputs=content.get("reaches_outputs", False),
        about=content.get("about", ""),
    )


def _fill_text(text: str, content: Mapping[str, Any]) -> str:
    """The text of a duty with the words that the licence demands put in."""
    for name, words in (
        ("{notice}", " ".join(content.get("notice", ()))),
        ("{attribution}", " ".join(content.get("attribution", ()))),
        ("{prefix}", content.get("name_prefix", "")),
    ):
        text = text.replace(name, words)
    return text


def _when(entry: Mapping[str, Any]) -> Condition:
    return parse(entry["when"]) if "when" in entry else ALWAYS
