"""`overt dossier`: how open a model is, as claimed and as found, with the evidence."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli import spectrum
from overt.cli.options import read_bytes, verb
from overt.cli.output import Output, as_json
from overt.errors import BadRequest, Failure, NotFound, OvertError, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.openness.diff import DossierChange
    from overt.openness.dossier import Dossier

_MAX_SAVED_BYTES = 64 << 20
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
    if kind:
        from overt.openness import export

        dossier = _make(out, settings, first, base, fresh=fresh)
        _save(settings, dossier)
        text = export.render(dossier, kind)
        write(out, _signed(text, settings) if sign else text, output)
        return 0
    value = _dossier_value(out, settings, first, base, fresh=fresh)
    if output:
        write(out, as_json(value, indent=2) + "\n", output)
    else:
        out.result(
            value,
            lambda: spectrum.page(value, evidence=evidence),
            lambda: str(value["step"]["verified"]),
        )
    return 0


def _dossier_value(
    out: Output, settings: Settings, ref: str, base: str | None, *, fresh: bool
) -> Mapping[str, Any]:
    """The dossier as JSON: the one made last, where nothing that decides it has changed since."""
    from overt.openness import cache, day

    last = _last(settings, ref)
    moment = None if base else cache.moment(ref, settings, day.today())
    if moment and not fresh and (cached := cache.find(last, moment)) is not None:
        return cached
    dossier = _make(out, settings, ref, base, fresh=fresh)
    _save(settings, dossier)
    if moment and not dossier.base:
        from overt.openness.evidence_log import EvidenceLog

        cache.note(last, moment, EvidenceLog(settings.home, dossier.digest).path)
    return dossier.as_json()


def _make(
    out: Output, settings: Settings, ref: str, base: str | None, *, fresh: bool = False
) -> "Dossier":
    from overt.openness import assemble, day
    from overt.openness.subject import gather

    subject = gather.subject(
        ref,
        settings,
        base=base,
        progress=lambda step: out.status(f"{step.what}: {step.done >> 20} MiB"),
    )
    dossier = assemble.assemble(
        subject,
        settings.home,
        day.today(),
        fresh=fresh,
        report=lambda name: out.status(f"checking: {name.replace('_', ' ')}"),
    )
    out.clear()
    return dossier


def _signed(statement: str, settings: Settings) -> str:
    from overt.openness.export import intoto
    from overt.security import signing

    signing.need()
    return intoto.sign(statement, signing.SigningKeys(settings.home))


def write(out: Output, text: str, output: str | None) -> None:
    """Write a page to a file that others may read; None and ``-`` are stdout.

    Raises:
        Failure: it cannot be written.
    """
    data = text.encode("utf-8", "replace")  # a file's name may be no UTF-8
    if output in (None, "-"):
        click.echo(data, nl=False)
        return
    from overt.files import atomic

    path = Path(str(output)).expanduser()
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe
            path.write_bytes(data)
        else:
            atomic.write(path.resolve(), data)
            path.chmod(0o666 & ~_umask())  # it is made to be shown to others
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", "name another file") from None
    out.note(f"wrote {path}")


def _umask() -> int:
    import os

    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# -- what was seen the last time -----------------------------------------------------------------


def _last(settings: Settings, ref: str) -> Path:
    from hashlib import sha256

    from overt.ref import parse

    parsed = parse(ref)
    name = str(Path(parsed.name).expanduser().absolute()) if parsed.scheme == "path" else ref
    return (
        settings.home
        / "dossiers"
        / f"{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}.last.json"
    )


def _save(settings: Settings, dossier: "Dossier") -> None:
    """Keep it for `check`. A home that cannot be written keeps none, and the dossier stands."""
    import json

    from overt.files import atomic

    path = _last(settings, dossier.ref)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dossier.as_json(), ensure_ascii=False)
        atomic.write(path, text.encode("utf-8", "surrogatepass"), lasting=False)
    except OSError:
        return


def _saved(path: Path) -> Mapping[str, Any]:
    import json

    data = read_bytes(path, "--against", _MAX_SAVED_BYTES)
    try:
        value = json.loads(data)
        if not isinstance(value, dict) or "components" not in value or "step" not in value:
            raise ValueError("it is no dossier")
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"{path} is no saved dossier: {str(error)[:100]}",
            "save one: overt dossier REF --json > FILE",
        ) from None
    return value


# -- diff and check ------------------------------------------------------------------------------


def _diff(out: Output, settings: Settings, before: str, two: str) -> int:
    from overt.openness import diff

    changes = _compared(diff.compare, _either(out, settings, before), _either(out, settings, two))
    value = {"before": before, "after": two, "changes": [change.as_json() for change in changes]}
    out.result(value, lambda: _human(changes), lambda: "\n".join(c.what for c in changes))
    return 0


def _either(out: Output, settings: Settings, name: str) -> Mapping[str, Any]:
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        return _saved(path)
    return _make(out, settings, name, None).as_json()


def _compared(
    compare: Any, before: Mapping[str, Any], two: Mapping[str, Any]
) -> "tuple[DossierChange, ...]":
    try:
        changes: tuple[DossierChange, ...] = compare(before, two)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        lacks = f"lacks {str(error)[:80]}" if isinstance(error, KeyError) else "is damaged"
        raise BadRequest(
            f"a saved dossier {lacks}", "save it again: overt dossier REF --json"
        ) from None
    return changes


def _human(changes: "tuple[DossierChange, ...]") -> str:
    lines = [line for change in changes for line in _line(change.as_json(), "")]
    return "\n".join(lines) or "no difference"


def _line(change: Mapping[str, Any], indent: str) -> list[str]:
    """One change for people, wrapped."""
    reason = ": ".join(part for part in (change["way"], change["why"]) if part and part != "other")
    text = (
        f"{change['what']}: {change['before']} -> {change['after']}{f' ({reason})' * bool(reason)}"
    )
    return spectrum.wrapped(text, spectrum.columns(), indent, indent + "  ")


def _check(
    out: Output, settings: Settings, refs: tuple[str, ...], base: str | None, against: str | None
) -> int:
    if against and len(refs) != 1:
        raise UsageError("--against belongs to one model", "name it: overt dossier check REF")
    results = [_checked(out, settings, ref, base, against) for ref in refs]
    results += [] if refs else [_check_again(out, settings, ref) for ref in _saved_refs(settings)]
    worse = [line for result in results for line in result["regressions"]]
    value = {"ok": not worse, "checked": results}

    def human() -> str:
        lines = []
        for result in results:
            back, changed = len(result["regressions"]), len(result["changes"])
            summary = f"{back} step{'s' * (back > 1)} back" if back else "no step back"
            summary = f"{summary}, {changed or 'no'} change{'s' * (changed > 1)}"
            lines.append(f"{result['ref']}: {result.get('error') or summary}")
            lines += [text for line in result["regressions"] for text in _line(line, "  ")]
        return "\n".join(lines) or "there is no dossier yet; type `overt dossier REF`"

    out.result(value, human, lambda: "\n".join(line["what"] for line in worse))
    return 1 if worse else 0


def _check_again(out: Output, settings: Settings, ref: str) -> dict[str, Any]:
    """One of all: what cannot be looked at any more keeps the others from nothing."""
    try:
        if not _last(settings, ref).is_file():
            raise NotFound(f"it was named from another folder than {Path.cwd()}")
        return _checked(out, settings, ref, None, None)
    except OvertError as error:
        message = f"not looked at: {error.message}"
        return {"ref": ref, "changes": [], "regressions": [], "error": message}


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
    subject = before.get("subject")
    base_ref = subject.get("base") if isinstance(subject, dict) else None
    dossier = _make(
        out, settings, ref, base or (base_ref if isinstance(base_ref, str) else None) or None
    )
    changes = _compared(diff.compare, before, dossier.as_json())
    worse = diff.regressions(changes)
    if not worse and not against:
        _save(settings, dossier)  # a step back stays one until a new dossier is made
    return {
        "ref": ref,
        "changes": [change.as_json() for change in changes],
        "regressions": [change.as_json() for change in worse],
    }


def _saved_refs(settings: Settings) -> list[str]:
    """Refs of all dossiers that were made here."""
    refs = set()
    for path in sorted((settings.home / "dossiers").glob("*.last.json")):
        try:
            refs.add(str(_saved(path)["subject"]["ref"]))
        except (BadRequest, KeyError, TypeError):
            continue
    return sorted(refs)
