"""`overt may`: what the licences of a model allow you to do, and what they ask for it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import read_bytes, read_text, verb
from overt.cli.output import Output, is_terminal, plain
from overt.cli.spectrum import columns, wrapped
from overt.errors import BadRequest, Failure, UsageError
from overt.openness.permissions.facts import FACTS, LicenceFact
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.openness.permissions.chain import Chain
    from overt.openness.permissions.may import Decision
    from overt.openness.subject.subject import Subject

CANNOT_SAY = 6
_CODES = {"allow": 0, "allow_with_obligations": 0, "deny": 5, "needs_permission": 5}
_MAX_PROFILE_BYTES = 1 << 16
_MAX_TEXT_BYTES = 4 << 20
_TRIES = 3
_METAVARS = {"yes_no": "YES|NO", "number": "N", "one_of": "WHICH", "several_of": "WHAT,…"}
_SAID = {
    "allow": "Allowed",
    "allow_with_obligations": "Allowed, under the conditions below",
    "needs_permission": "Needs permission first",
    "deny": "Not allowed",
    "unknown": "Cannot say yet",
}
_SAY = {"yes_no": "yes/no", "number": "N", "one_of": "WHICH", "several_of": "WHAT"}
_WIDTH = 96
_SHORT = 18  # characters of a fact's name that is typed in full


class _Command(click.Command):
    """Facts may be written with underscores too, as they stand in JSON and in profiles."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_hyphened(arg) for arg in args])


def _hyphened(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else arg


def _fact_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """One option a fact, with its aliases."""
    for fact in reversed(FACTS):
        flags = [f"--{name.replace('_', '-')}" for name in (fact.name, *fact.aliases)]
        function = click.option(
            *flags,
            fact.name,
            multiple=fact.kind == "several_of",
            metavar=_METAVARS[fact.kind],
            help=fact.question,
        )(function)
    return function


@dataclass(frozen=True, slots=True)
class LicenceQuestion:
    """What was asked for besides facts."""

    licence_file: Path | None
    profile: Path | None
    save: bool
    notice: Path | None
    force: bool
    ask: bool


@click.command("may", cls=_Command, short_help="how you may use a model, by its licence")
@click.argument("ref", required=False)
@_fact_options
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Facts from a TOML file: commercial = true.",
)
@click.option("--save", is_flag=True, help="Keep these facts for later questions, and for run.")
@click.option("--facts", "show", is_flag=True, help="Only list the facts and what is kept.")
@click.option(
    "--licence-file",
    "--license-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask about a bare licence text instead.",
)
@click.option(
    "--notice",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write what has to go along when it is handed on.",
)
@click.option("--force", is_flag=True, help="With --notice: into a folder that is not empty.")
@click.option("--ask/--no-ask", default=True, help="On a terminal: ask for what is missing.")
@verb
def command(out: Output, settings: Settings, ref: str | None, show: bool, **options: Any) -> int:
    """Say whether REF may be used as the facts tell, by its licence and those of all it is made of.

    \b
      overt may llama3.1 --commercial yes --mau 50k --distributes product
      overt may ./model.gguf --distributes weights --notice to-send/
      overt may --licence-file LICENSE

    REF is anything: a name, a file or folder, hf:owner/repo, openai:model. What is not said is not
    guessed: where it could matter it is asked for, or named under `missing`. Only that you got the
    model inside a finished product is taken to be no. This is a reading of licences and no legal
    advice.

    Exit codes: 0 allowed (with obligations, where there are some), 5 denied or needs permission,
    6 cannot say because a fact is missing.
    """
    from overt.openness.permissions import gate

    known = gate.saved(settings.home) | _facts(options)
    request = LicenceQuestion(**{name: options[name] for name in LicenceQuestion.__slots__})
    if show or (ref is None and request.licence_file is None):
        if request.save:
            _save(settings, known, out)
        elif not show:
            raise UsageError("no model is named", "write one: overt may llama3.1")
        return _listed(out, settings, known)
    if ref is not None and request.licence_file is not None:
        raise UsageError("a model and a bare text were both named", "ask about one of them")
    return _answer(out, settings, ref, known, request)


def _facts(options: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the flags over those of the profile. Raises BadRequest."""
    from overt.openness.permissions import facts

    known: dict[str, Any] = {}
    profile = options["profile"]
    if profile is not None:
        text = read_text(profile, "--profile", _MAX_PROFILE_BYTES)
        known |= facts.read_profile(text, str(profile))
    for fact in FACTS:
        typed = options[fact.name]
        if typed:
            known[fact.name] = facts.parse(
                fact.name, ",".join(typed) if isinstance(typed, tuple) else typed
            )
    return known


# -- the question and its answer -------------------------------------------------------------------


def _answer(
    out: Output,
    settings: Settings,
    ref: str | None,
    known: dict[str, Any],
    request: LicenceQuestion,
) -> int:
    from overt.openness.permissions import chain, gate, may

    subject: Subject | None = None
    more: dict[str, object] = {}
    if request.licence_file is not None:
        name = str(request.licence_file)
        links, match = _of_text(request.licence_file)
        more["match"] = match
    else:
        from overt.openness.subject import gather

        assert ref is not None
        name = ref
        out.status(f"looking at {ref}")
        subject = gather.subject(ref, settings)
        links = chain.of(subject, settings)
        out.clear()
    decision = may.decide(links.links, known)
    if request.ask and _is_interactive(out):
        decision = _interview(out, decision, known, links)
    if request.save:
        _save(settings, known, out)
        gate.prepare(name, settings)
    if request.notice is not None:
        more["notice"] = _bundle(out, subject, links, decision, request)
    value = {
        "model": name,
        **decision.as_json(),
        "chain": [
            {
                "name": link.name,
                "relation": link.relation,
                "licence": link.licence,
                "known": link.known,
                "altered": link.altered,
            }
            for link in links.links
        ],
        "facts": {key: list(v) if isinstance(v, tuple) else v for key, v in sorted(known.items())},
        "remarks": list(links.remarks),
        **more,
    }
    out.result(value, lambda: _human(name, value), lambda: decision.verdict)
    return _CODES.get(decision.verdict, CANNOT_SAY)


def _of_text(path: Path) -> "tuple[Chain, Mapping[str, Any]]":
    """The chain of a bare licence text, and what was recognised in it."""
    from overt.openness.dossier import match_json
    from overt.openness.licence import match
    from overt.openness.permissions.chain import Chain
    from overt.openness.subject.named_licences import StatedLicence, link_of

    text = read_bytes(path, "--licence-file", _MAX_TEXT_BYTES).decode("utf-8-sig", "replace")
    match_result = match.match(text)
    remarks = []
    if match_result.missing_version:
        remarks.append(f"{path.name} does not say which version of {match_result.id} it is")
    if match_result.kind == "notice_only":
        remarks.append(f"{path.name} only names {match_result.id} and is not its text")
    licences = (
        StatedLicence(match_result.id, match_result.altered, tuple(match_result.riders)),
        *map(StatedLicence, match_result.others),
    )
    links = tuple(link_of(path.name, licence, {}) for licence in licences)
    return Chain(links, tuple(remarks), {path.name: match_result}), match_json(match_result)


def _is_interactive(out: Output) -> bool:
    return out.mode == "human" and is_terminal(sys.stdin) and is_terminal(sys.stdout)


def _interview(
    out: Output, decision: "Decision", known: dict[str, Any], links: "Chain"
) -> "Decision":
    """Ask for the facts that matter, one at a time, and decide again after each answer."""
    from overt.openness.permissions import chain, may

    seen: set[str] = set()
    while True:
        lacking = map(_fact, chain.strictest(decision.missing, links.links))
        next_fact = next((fact for fact in lacking if fact and fact.name not in seen), None)
        if next_fact is None:
            return decision
        if not seen:
            out.note("A few facts decide. Enter alone means: I do not know.")
        seen.add(next_fact.name)
        answer = _one_answer(out, next_fact)
        if answer is None:
            return decision
        if answer != "":
            known[next_fact.name] = answer
            decision = may.decide(links.links, known)


def _one_answer(out: Output, fact: LicenceFact) -> Any:
    """What a person answers; "" where they do not know, None where they want no more questions."""
    from overt.openness.permissions import facts

    for _ in range(_TRIES):
        out.note(f"{fact.question} ({_choices(fact)})")
        line = sys.stdin.readline()
        if not line:
            return None
        if not line.strip():
            return ""
        try:
            return facts.parse(fact.name, line.strip())
        except BadRequest as error:
            out.note(str(error))
    return ""


def _choices(fact: LicenceFact) -> str:
    if fact.kind == "yes_no":
        return "yes or no"
    if fact.kind == "number":
        return "a number, such as 50k or 2M"
    return ", ".join(fact.values) or "words with commas between them"


def _fact(name: str) -> LicenceFact | None:
    return next((fact for fact in FACTS if fact.name == name), None)


def _bundle(
    out: Output,
    subject: "Subject | None",
    links: "Chain",
    decision: "Decision",
    request: LicenceQuestion,
) -> Mapping[str, object]:
    from overt.openness.permissions import notice

    if subject is None or request.notice is None:
        raise UsageError("--notice is for a model, and a bare text was named", "name the model")
    made = notice.bundle(subject, links, decision)
    notice.write(made, request.notice.expanduser(), force=request.force)
    return {"folder": str(request.notice), **made.as_json()}


# -- facts that are kept ---------------------------------------------------------------------------


def _save(settings: Settings, known: Mapping[str, Any], out: Output) -> None:
    """Write ``use.toml`` of the home. Raises Failure: it cannot be written."""
    from overt.files import atomic

    path = settings.home / "use.toml"
    lines = ["# Kept by `overt may --save`: what you use models for."]
    lines += [f"{name} = {_toml(value)}" for name, value in sorted(known.items())]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, ("\n".join(lines) + "\n").encode(), lasting=False)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", "check the folder") from None
    out.note(f"kept in {path}")


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def _listed(out: Output, settings: Settings, known: Mapping[str, Any]) -> int:
    """Every fact, and what is known of it."""
    rows = [
        {
            "name": fact.name,
            "aliases": list(fact.aliases),
            "kind": fact.kind,
            "values": list(fact.values),
            "question": fact.question,
            "value": list(v) if isinstance(v := known.get(fact.name), tuple) else v,
            "presumed": fact.presumed,
        }
        for fact in FACTS
    ]

    def human() -> str:
        lines = []
        for row in rows:
            lines.append(f"{row['name']}: {_profile_row(row)}")
            lines += wrapped(str(row["question"]), columns(), "    ")
        return "\n".join(lines)

    out.result({"file": str(settings.home / "use.toml"), "facts": rows}, human)
    return 0


def _profile_row(row: Mapping[str, Any]) -> str:
    if row["value"] is None and row["presumed"] is not None:
        return f"({_value_text(row['presumed'])})"
    return _value_text(row["value"])


def _value_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) or "none" if isinstance(value, list | tuple) else str(value)


# -- for people ------------------------------------------------------------------------------------


def _human(name: str, value: Mapping[str, Any]) -> str:
    lines = [f"{_SAID[value['verdict']]}: {plain(name)}"]
    lines += _block("Why", _reasons(value))
    if value["verdict"] != "deny":  # nobody can earn a denied use by doing what is asked
        asks = [_item(obligation["text"], obligation) for obligation in value["obligations"]]
        lines += _block("What it asks of you", asks)
    lines += _block("Licences", _licences(value))
    lines += _block("To know", _notes(value))
    if "match" in value:
        lines += _block("The text", _text(value["match"]))
    if "notice" in value:
        lines += _block("Written", _notice_lines(value["notice"]))
    lines += _block("Not known", [_question(question) for question in value["missing"]])
    what = plain(f"--licence-file {name}" if "match" in value else name)
    if flags := _flags(value["missing"], presumed=False):
        lines += ["", f"To go on: overt may {what} {flags}"]
    if flags := _flags(value["missing"], presumed=True):
        lines += ["", f"If it is otherwise: overt may {what} {flags}"]
    return "\n".join(lines)


def _block(title: str, items: Sequence[str]) -> list[str]:
    """A heading and its items, each wrapped by itself; a tab begins a line of its own."""
    if not items:
        return []
    width = min(columns(), _WIDTH)
    lines = ["", title]
    for item in items:
        for number, part in enumerate(plain(item).split("\t")):
            first = "    " if number else "  - "
            lines += wrapped(part, width, first, "    ")
    return lines


def _item(text: str, clause: Mapping[str, Any]) -> str:
    """A clause or duty: what it says, and where that stands."""
    from overt.openness.subject.named_licences import place

    when = f", {clause['when']}" if clause["when"] else ""
    return f"{text}{when}\t{place(clause['licence'], clause['section'], clause['date'])}"


def _reasons(value: Mapping[str, Any]) -> list[str]:
    """The clauses that decide, those that hold first; else why none does."""
    deciding = [clause for clause in value["clauses"] if clause["effect"] != "note"]
    if value["verdict"] == "deny":
        deciding = [clause for clause in deciding if not clause["when"]]
    deciding.sort(key=lambda clause: bool(clause["when"]))
    items = [
        _item(f"“{clause['rule']}”" if clause["section"] == "rider" else clause["rule"], clause)
        for clause in deciding
    ]
    licences = [clause["licence"] for clause in deciding]
    return items + [
        reason for reason in value["reasons"] if not any(f"({k}, " in reason for k in licences)
    ]


def _notes(value: Mapping[str, Any]) -> list[str]:
    noted = [
        _item(clause["rule"], clause) for clause in value["clauses"] if clause["effect"] == "note"
    ]
    unread = [f"the licence of the data set {dataset} is not known" for dataset in value["unread"]]
    return [*value["remarks"], *noted, *unread]


def _licences(value: Mapping[str, Any]) -> list[str]:
    return [
        link["name"]
        + (f" ({link['relation']})" if link["relation"] != "model" else "")
        + f": {link['licence'] or 'not known'}"
        + (", its text altered" if link["altered"] else "")
        for link in value["chain"]
    ]


def _text(match: Mapping[str, Any]) -> list[str]:
    texts = {
        "exact": f"is {match['id']}, word for word",
        "near": f"is {match['id']}, laid out differently",
        "altered": f"is {match['id']} with altered terms",
        "notice_only": f"only names {match['id']}",
    }
    return [texts.get(match["kind"], "is no licence that is known here")]


def _notice_lines(notice: Mapping[str, Any]) -> list[str]:
    lines = [f"{notice['folder']}/{file}" for file in notice["files"]]
    for licence in notice["missing"]:
        where = f", see {licence['url']}" if licence["url"] else ""
        lines.append(f"missing: the text of {licence['title']}{where}")
    return lines


def _question(missing: str) -> str:
    fact = _fact(missing)
    if fact is None:
        return missing
    taken = "" if fact.presumed is None else f" (taken to be {_value_text(fact.presumed)})"
    return f"{missing}{taken}: {fact.question}"


def _flags(missing: Sequence[str], *, presumed: bool) -> str:
    """The options that would say what is missing, short where a name is long.

    With `presumed` those that would say the opposite of what was taken to be so.
    """
    flags = []
    for name_of_fact in missing:
        fact = _fact(name_of_fact)
        if fact is not None and (fact.presumed is not None) is presumed:
            name = (
                name_of_fact if len(name_of_fact) <= _SHORT or not fact.aliases else fact.aliases[0]
            )
            say = _value_text(not fact.presumed) if presumed else _SAY[fact.kind]
            flags.append(f"--{name.replace('_', '-')} {say}")
    return " ".join(flags)
