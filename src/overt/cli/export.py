"""`overt export`: one file that carries a model to another machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, size
from overt.errors import UsageError
from overt.ref import parse
from overt.settings import Settings, bytes_of

if TYPE_CHECKING:
    from overt.models.sources.base import FetchProgress


@click.command("export", short_help="write a model to one signed file, to carry elsewhere")
@click.argument("ref")
@click.argument("target", metavar="FILE")
@click.option("--split", metavar="SIZE", help="Write parts of at most SIZE (4g): FILE.001 …")
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@verb
def command(
    out: Output, settings: Settings, ref: str, target: str, split: str | None, force: bool
) -> int:
    """Write REF to FILE (- is stdout): its files, manifest, recipes and licences, signed.

    The file is a plain tar with an OpenSSF model signature, made with a key of yours that is
    created on first use. `overt import FILE` reads it on a machine without a network, and so does
    any tar. The fingerprint that is printed lets the other side know that it comes from you.
    """
    from overt.cli.pull import progress
    from overt.models.archive import export

    piped = target == "-"
    if piped and (split or out.json):
        raise UsageError("stdout takes the archive, and nothing else", "name a file")
    with progress(out) as step:
        if parse(ref).scheme != "path":
            check_sending(out, ref, settings, step)
        done = export(
            ref,
            None if piped else Path(target).expanduser(),
            settings,
            split=bytes_of(split) if split else 0,
            force=force,
            progress=step,
        )
    what = f"{ref}: {size(done.size)}, signed by sha256:{done.fingerprint}"
    if piped:
        out.note(what)
        return 0
    value = {
        "model": ref,
        "digest": done.manifest.digest,
        "licence": done.manifest.licence,
        "files": [str(path) for path in done.paths],
        "size": done.size,
        "signer": f"sha256:{done.fingerprint}",
    }
    names = [str(path) for path in done.paths]
    shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1][-3:]}"
    out.result(value, lambda: f"{shown}\n{what}", lambda: "\n".join(names))
    return 0


def check_sending(
    out: Output, ref: str, settings: Settings, step: "Callable[[FetchProgress], None] | None"
) -> None:
    """Ask the licence whether REF may be handed on: a remark, or Refused where it is enforced."""
    from overt.models.pull import find
    from overt.openness.permissions import gate

    if settings.licence == "off":
        return
    if warning := gate.consult(find(ref, settings, step), ref, settings, gate.SENDING):
        out.warn(warning.text)
