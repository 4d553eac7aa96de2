"""`overt dossier`: how open a model is, as claimed and as found, with the evidence."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli import spectrum
from overt.cli.options import read_bytes, verb
from overt.cli.output import Output, as_json
from overt.errors import BadRequest, Failure, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.openness.diff import Change
    from overt.openness.dossier import Dossier

_MOST_SAVED = 64 << 20
_FORMATS = ("html", "markdown", "cyclonedx", "spdx", "mof", "osai", "intoto", "badge")


@click.command("dossier", short_help="how open a model is, by evidence")
@click.argument("words", nargs=-1, required=True, metavar="REF | diff A B | check [REF…]")
@click.option("--base", metavar="REF", help="Compare the weights with this model.")
@click.option("--html", is_flag=True, help="One page for people; the same as --format html.")
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="Write it in another form.")
@click.option("--sign", is_flag=True, help="With --format intoto: sign it with this home's key.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")
@click.option("--fresh", is_flag=True, help="Look at everything again.")
@click.option("--evidence", is_flag=True, help="Show every piece of evidence.")
@click.option("--against", metavar="FILE", help="check: compare with this saved dossier.")
@verb
def command(
    out: Output,
    settings: Settings,
    words: tuple[str, ...],
    base: str | None,
    html: bool,
    kind: str | None,
    sign: bool,
    output: str | None,
    fresh: bool,
    evidence: bool,
    against: str | None,
) -> int:
    """Grade the openness of REF twice: by what is claimed, and by what was checked on its files.

    REF is a file or folder, a stored model, a hub's repository, a name of the catalogue, a model
    behind an API (openai:gpt-5), or a record of another index (a YAML file of MOF, OSAI or
    os-ai-map). Evidence is kept, so that a second look at the same files only shows it.

    \b
    overt dossier diff A B     what differs; A and B are REFs or dossiers saved with --json
    overt dossier check [REF…] look again at what has expired or changed since the last dossier
                               of REF (without REF: of all); exit code 1 on a step back
    """
    kind = "html" if html else kind
    if kind and out.json:
        raise UsageError("--json and another format exclude each other", "leave one of them out")
    if sign and kind != "intoto":
        raise UsageError("only an in-toto statement is signed", "add --format intoto")
    first, rest = words[0], words[1:]
    if first == "diff" and len(rest) == 2:
        return _diff(out, settings, *rest)
    if first == "check":
        return _check(out, settings, rest, base, against)
    if rest:
        raise UsageError(
            f"{len(words)} names are too many", "name one, or type `overt dossier diff A B`"
        )
    dossier = _make(out, settings, first, base, fresh=fresh)
    _save(settings, dossier)
    if kind:
        from overt.openness import export

        text = export.render(dossier, kind)
        _write(out, _signed(text, settings) if sign else text, output)
    elif output:
        _write(out, as_json(dossier.as_json(), indent=2) + "\n", output)
    else:
        value = dossier.as_json()
        out.result(
            value,
            lambda: spectrum.page(value, evidence=evidence),
            lambda: str(value["step"]["verified"]),
        )
    return 0


def _make(
    out: Output, settings: Settings, ref: str, base: str | None, *, fresh: bool = False
) -> "Dossier":
    from overt.openness import assemble, gather

    subject = gather.subject(
        ref,
        settings,
        base=base,
        progress=lambda step: out.status(f"{step.what}: {step.done >> 20} MiB"),
    )
    dossier = assemble.assemble(
        subject,
        settings.home,
        assemble.today(),
        fresh=fresh,
        report=lambda name: out.status(f"checking: {name.replace('_', ' ')}"),
    )
    out.clear()
    return dossier


def _signed(statement: str, settings: Settings) -> str:
    from overt.carry import signing
    from overt.openness.export import intoto

    signing.need()
    return intoto.sign(statement, signing.Keys(settings.home))


def _write(out: Output, text: str, output: str | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    from overt import whole

    path = Path(output).expanduser()
    try:
        whole.write(path, text.encode())
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", "name another file") from None
    out.note(f"wrote {path}")


# -- what was seen the last time -----------------------------------------------------------------


def _last(settings: Settings, ref: str) -> Path:
    from hashlib import sha256

    from overt.ref import parse

    parsed = parse(ref)
    name = str(Path(parsed.name).expanduser().absolute()) if parsed.scheme == "path" else ref
    return settings.home / "dossiers" / f"{sha256(name.encode()).hexdigest()}.last.json"


def _save(settings: Settings, dossier: "Dossier") -> None:
    """Keep it for `check`. A home that cannot be written keeps none, and the dossier stands."""
    import json

    from overt import whole

    path = _last(settings, dossier.ref)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.write(path, json.dumps(dossier.as_json(), ensure_ascii=False).encode(), lasting=False)
    except OSError:
        return


def _saved(path: Path) -> Mapping[str, Any]:
    import json

    data = read_bytes(path, "--against", _MOST_SAVED)
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or "components" not in found or "step" not in found:
            raise ValueError("it is no dossier")
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"{path} is no saved dossier: {str(error)[:100]}",
            "save one: overt dossier REF --json > FILE",
        ) from None
    return found


# -- diff and check ------------------------------------------------------------------------------


def _diff(out: Output, settings: Settings, one: str, two: str) -> int:
    from overt.openness import diff

    changes = _compared(diff.compare, _either(out, settings, one), _either(out, settings, two))
    value = {"before": one, "after": two, "changes": [change.as_json() for change in changes]}
    out.result(value, lambda: _human(changes), lambda: "\n".join(c.what for c in changes))
    return 0


def _either(out: Output, settings: Settings, name: str) -> Mapping[str, Any]:
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        return _saved(path)
    return _make(out, settings, name, None).as_json()


def _compared(compare: Any, one: Mapping[str, Any], two: Mapping[str, Any]) -> "tuple[Change, ...]":
    try:
        found: tuple[Change, ...] = compare(one, two)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"a saved dossier lacks {str(error)[:80]}", "save it again: overt dossier REF --json"
        ) from None
    return found


def _human(changes: "tuple[Change, ...]") -> str:
    from overt.cli.output import table

    if not changes:
        return "no difference"
    rows = [
        (change.what, change.before, change.after, change.way, change.why) for change in changes
    ]
    return table(("what", "before", "after", "", "why"), rows)


def _check(
    out: Output, settings: Settings, refs: tuple[str, ...], base: str | None, against: str | None
) -> int:
    if against and len(refs) != 1:
        raise UsageError("--against belongs to one model", "name it: overt dossier check REF")
    found = [_checked(out, settings, ref, base, against) for ref in refs or _known(settings)]
    worse = [line for one in found for line in one["regressions"]]
    value = {"ok": not worse, "checked": found}

    def human() -> str:
        lines = []
        for one in found:
            said = f"{len(one['regressions'])} steps back" if one["regressions"] else "no step back"
            lines.append(f"{one['ref']}: {said}, {len(one['changes'])} changes")
            lines += [
                f"  {line['what']}: {line['before']} -> {line['after']}"
                + (f" ({line['why']})" if line["why"] else "")
                for line in one["regressions"]
            ]
        return "\n".join(lines) or "there is no dossier yet; type `overt dossier REF`"

    out.result(value, human, lambda: "\n".join(line["what"] for line in worse))
    return 1 if worse else 0


def _checked(
    out: Output, settings: Settings, ref: str, base: str | None, against: str | None
) -> dict[str, Any]:
    from overt.openness import diff

    last = Path(against).expanduser() if against else _last(settings, ref)
    if not against and not last.is_file():
        raise BadRequest(
            f"there is no earlier dossier of {ref}",
            "make one: overt dossier REF, or --against FILE",
        )
    before = _saved(last)
    dossier = _make(out, settings, ref, base or before["subject"].get("base") or None)
    changes = _compared(diff.compare, before, dossier.as_json())
    worse = diff.regressions(changes)
    if not worse and not against:
        _save(settings, dossier)  # a step back stays one until a new dossier is made
    return {
        "ref": ref,
        "changes": [change.as_json() for change in changes],
        "regressions": [change.as_json() for change in worse],
    }


def _known(settings: Settings) -> list[str]:
    """Refs of all dossiers that were made here."""
    found = set()
    for path in sorted((settings.home / "dossiers").glob("*.last.json")):
        try:
            found.add(str(_saved(path)["subject"]["ref"]))
        except (BadRequest, KeyError, TypeError):
            continue
    return sorted(found)
