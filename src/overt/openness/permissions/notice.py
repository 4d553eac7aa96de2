"""What has to go along when a model is handed on: notices, duties and licence texts in one folder.

Texts are copied from the model's own files, byte for byte, and from nowhere else: a licence text
that does not lie with the model is named as missing, with the address where it can be had.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overt.errors import Failure, UsageError
from overt.openness.evidence import short
from overt.openness.licence import names
from overt.openness.permissions import terms
from overt.openness.permissions.chain import Chain
from overt.openness.permissions.may import AppliedClause, Decision, LicenceLink, Obligation
from overt.openness.permissions.terms import Terms
from overt.openness.subject.named_licences import is_policy, place
from overt.openness.subject.subject import Subject, SubjectFile

_MAX_TEXT = 1 << 20
_MAX_LINES = 200
_COPIED = ("", ".txt", ".md", ".rst", ".html", ".htm", ".pdf")
_WHOLE = 0.95  # of a licence's words; a page that holds so many holds its text
_COPYRIGHT = re.compile(
    r"[\s#/*]{0,40}(?P<line>(?:copyright(?! (?:act|notice|law|holder|owner|licen|statement)s?\b)\b"
    r"|©|\(c\))(?=.{0,200}\b\d{4}\b).*)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"[\[{<](?:yyyy|year|name|copyright|fullname|owner)", re.IGNORECASE)


@dataclass(frozen=True)
class MissingText:
    """A licence text that has to go along and does not lie with the model."""

    licence: str
    title: str
    url: str
    of: tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """The files of a notice folder, by their path in it, and what could not be put there."""

    files: Mapping[str, bytes]
    missing: tuple[MissingText, ...]
    prefix: tuple[str, ...]
    shown: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "files": sorted(self.files),
            "missing": [
                {"licence": m.licence, "title": m.title, "url": m.url, "of": list(m.of)}
                for m in self.missing
            ],
            "name_prefix": list(self.prefix),
            "attribution": list(self.shown),
        }


def bundle(subject: Subject, chain: Chain, decision: Decision) -> Bundle:
    """What goes along with `subject`; the same model gives the same bytes."""
    name = short(subject.record.name or subject.ref, 200)
    known = list(_known_terms(chain.links))
    texts = _copies(subject)
    missing = tuple(_missing(chain, known, _present_ids(chain, texts)))
    prefix = _distinct(terms_.name_prefix for _, terms_ in known if terms_.name_prefix)
    shown = _distinct(line for _, terms_ in known for line in terms_.attribution)
    files = {f"licences/{file}": data for file, data in texts.items()}
    files["NOTICE"] = _notice(name, known, texts).encode()
    files["OBLIGATIONS.md"] = _duties(
        name, chain, decision, known, Bundle(files, missing, prefix, shown)
    ).encode()
    return Bundle(files, missing, prefix, shown)


def write(made: Bundle, folder: Path, *, force: bool = False) -> None:
    """Write a bundle to `folder`, which is created.

    Raises:
        UsageError: it holds something already and `force` is not given, or it is a file.
        Failure: it cannot be written.
    """
    from overt.files import atomic as whole

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not force and any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty", "name a new folder, or add --force to write into it"
            )
        for path, data in sorted(made.files.items()):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            whole.write(target, data, lasting=False)
            target.chmod(0o644)
    except FileExistsError:
        raise UsageError(f"{folder} is a file", "name a folder") from None
    except OSError as error:
        raise Failure(
            f"{error.filename or folder} cannot be written: {error.strerror}", "name another folder"
        ) from None


# -- what is known ---------------------------------------------------------------------------------


def _known_terms(links: Sequence[LicenceLink]) -> Iterator[tuple[str, Terms]]:
    """The terms of each licence of the chain, once, with the link that it is of."""
    seen: set[str] = set()
    for link in links:
        if link.licence and link.licence not in seen and link.relation != "dataset":
            seen.add(link.licence)
            terms_ = terms.load(link.licence)
            if terms_ is not None:
                yield link.name, terms_


def _distinct(lines: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for line in lines if line))


def _copies(subject: Subject) -> dict[str, bytes]:
    """The licence, notice and policy files that lie with the model, under flat names."""
    wanted = [*subject.licence_texts, *(file.name for file in subject.files if _goes_along(file))]
    texts = {}
    for name in dict.fromkeys(wanted):
        data = subject.bytes(name, _MAX_TEXT)
        if data is not None:
            texts[name.replace("/", "-").lstrip(".") or "licence"] = data
    return texts


def _goes_along(file: SubjectFile) -> bool:
    """By its name: terms that somebody put beside the model, also as a saved page."""
    words = set(re.split(r"[^a-z]+", file.stem))
    named = words & {"license", "licence", "copying", "notice", "terms", "policy"}
    return bool(named) and file.suffix in _COPIED


def _present_ids(chain: Chain, texts: Mapping[str, bytes]) -> set[str]:
    """The licences whose texts are among those copied, alone or within a page."""
    from overt.openness.licence import match

    matches = list((chain.texts or {}).values())
    for name, data in texts.items():
        if name.endswith((".html", ".htm")):
            matches.append(match.match(data.decode("utf-8-sig", "replace")))
    whole = [
        text_match
        for text_match in matches
        if text_match.kind != "notice_only" and text_match.coverage >= _WHOLE
    ]
    return {id_ for text in whole for id_ in (text.id, *text.others) if id_}


def _missing(
    chain: Chain, known: Sequence[tuple[str, Terms]], here: set[str]
) -> Iterator[MissingText]:
    """Licences whose text has to go along and that no text of the model is."""
    wanted: dict[str, list[str]] = {}
    for link in chain.links:
        if link.licence and link.relation != "dataset":
            wanted.setdefault(link.licence, []).append(link.name)
    for id_, of in wanted.items():
        if id_ not in here:
            facts = names.facts(id_)
            yield MissingText(
                id_,
                facts.title if facts else id_,
                facts.url if facts else "",
                tuple(dict.fromkeys(of)),
            )
    policies = set(filter(is_policy, (part for _, terms_ in known for part in _parts(terms_))))
    for id_ in sorted(policies - here):
        facts, terms_ = names.facts(id_), terms.load(id_)
        title = facts.title if facts else terms_.title if terms_ else id_
        yield MissingText(id_, title, facts.url if facts else "", ())


def _parts(terms_: Terms) -> set[str]:
    """The texts that the clauses of a licence stand in: its own, and the policies it includes."""
    return (
        {clause.licence for clause in terms_.clauses}
        | {duty.licence for duty in terms_.obligations}
        | {ban.licence for ban in terms_.bans}
    )


# -- the texts -------------------------------------------------------------------------------------


def _notice(name: str, known: Sequence[tuple[str, Terms]], texts: Mapping[str, bytes]) -> str:
    """The lines that licences want word for word, then the copyright lines of the copied texts."""
    parts = [name]
    demanded = _distinct(line for _, terms_ in known for line in terms_.notice)
    parts += demanded
    for file, data in texts.items():
        text = data.decode("utf-8-sig", "replace")
        if file.lower().rpartition("-")[2].startswith("notice"):
            parts.append(f"From {file}:\n\n{text.strip()}")
            continue
        lines = [line for line in copyright_lines(text) if line not in demanded]
        if lines:
            parts.append("\n".join([f"From {file}:", "", *lines]))
    return "\n\n".join(parts) + "\n"


def copyright_lines(text: str) -> tuple[str, ...]:
    """The lines of a text that name a year and who holds the copyright, each once."""
    lines = []
    for line in text.split("\n")[:20_000]:
        at = _COPYRIGHT.match(line[:400].rstrip())
        if at and not _PLACEHOLDER.search(at["line"]):
            lines.append(short(at["line"], 300))
    return tuple(dict.fromkeys(lines))[:_MAX_LINES]


def _duties(
    name: str,
    chain: Chain,
    decision: Decision,
    known: Sequence[tuple[str, Terms]],
    made: Bundle,
) -> str:
    lines = [f"# {_plain(name)}: what goes along with it", ""]
    lines += [
        "Made by `overt may --notice` from the licences of the model and of what it was made from.",
        "It is a list of what is known to be asked for, and no legal advice.",
    ]
    lines += _section("Licences", _licences(chain))
    lines += _section(
        "Name",
        [f"The name of a model made from it begins with “{prefix}”." for prefix in made.prefix],
    )
    lines += _section("Shown where people see it", [f"“{_plain(line)}”" for line in made.shown])
    lines += _section("Duties", _obligations(decision))
    lines += _section("Limits", _clauses(decision))
    lines += _section("Texts that lie here", [f"`{name}`" for name in sorted(made.files)])
    lines += _section(
        "Texts that still have to be put here",
        [
            f"{_plain(text.title)} (`{text.licence}`)" + (f": {text.url}" if text.url else "")
            for text in made.missing
        ],
    )
    lines += _section("Open questions", [_plain(question) for question in _open(chain, decision)])
    if about := [f"`{terms_.id}`: {_plain(terms_.about)}" for _, terms_ in known if terms_.about]:
        lines += _section("About these licences", about)
    return "\n".join(lines) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {line}" for line in lines)] if lines else []


def _licences(chain: Chain) -> list[str]:
    lines = []
    for link in chain.links:
        facts = names.facts(link.licence) if link.licence else None
        what = f"{_plain(facts.title)} (`{link.licence}`)" if facts else link.licence or "not known"
        changed = ", its text altered" if link.altered else ""
        role = "" if link.relation == "model" else f" ({link.relation})"
        lines.append(f"{_plain(link.name)}{role}: {what}{changed}")
    return lines


def _obligations(decision: Decision) -> list[str]:
    return [
        f"{_plain(duty.text)}{_plain(f', {duty.when}') if duty.when else ''} ({_place(duty)})"
        for duty in decision.obligations
    ]


def _clauses(decision: Decision) -> list[str]:
    return [
        f"{_plain(clause.rule)}{_plain(f', {clause.when}') if clause.when else ''} "
        f"({_place(clause)})"
        for clause in decision.clauses
    ]


def _place(clause: AppliedClause | Obligation) -> str:
    return _plain(place(clause.licence, clause.section, clause.date))


def _open(chain: Chain, decision: Decision) -> list[str]:
    missing = [f"not known: {fact_}" for fact_ in decision.missing]
    return [*chain.remarks, *missing]


def _plain(text: str) -> str:
    """Text of a file in one line, so that it makes no Markdown of its own."""
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", short(text, 1000))
