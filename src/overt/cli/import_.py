"""`overt import`: take a model from an archive that `overt export` wrote."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, is_terminal, size
from overt.errors import NeedsAccess, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from overt.models.archive import Signer
    from overt.models.archive.format import ArchiveIndex


@click.command("import", short_help="take a model from a file that `overt export` wrote")
@click.argument("source", metavar="FILE")
@click.option("--trust", metavar="FINGERPRINT", help="Accept the signer with this fingerprint.")
@click.option("-y", "--yes", is_flag=True, help="Accept whoever signed it.")
@click.option("--as", "name", metavar="NAME", help="What to call the model here.")
@click.option("--replace", is_flag=True, help="Let a name that is taken be this model's.")
@verb
def command(
    out: Output,
    settings: Settings,
    source: str,
    trust: str | None,
    yes: bool,
    name: str | None,
    replace: bool,
) -> int:
    """Take a model from FILE, from its first part FILE.001, or from stdin (-).

    The signature and the digest of every file are checked before anything enters the store. A
    signer you have not met is shown by fingerprint and must be accepted once: at the question, with
    --trust and the fingerprint its sender told you, or blindly with --yes. An import that was cut
    off goes on where it was.
    """
    from overt.cli.pull import progress
    from overt.models.archive import bring
    from overt.openness.permissions import gate

    with progress(out) as step:
        done = bring(
            None if source == "-" else Path(source),
            settings,
            _accept(out, trust, yes, asks=source != "-"),
            name=name,
            replace=replace,
            progress=step,
        )
    if done.receipts:
        from overt.provenance import receipts  # what is no made model does without

        left = receipts.take(done.receipts, settings)
        for warning in left:
            out.warn(warning)
    for ref in done.names:
        gate.prepare(str(ref), settings)
    manifest = done.manifest
    value = {
        "models": [str(ref) for ref in done.names],
        "digest": manifest.digest,
        "ref": manifest.ref,
        "size": manifest.size,
        "licence": manifest.licence,
        "signer": {"fingerprint": f"sha256:{done.signer.fingerprint}", "known": done.signer.known},
        "resumed": done.resumed,
    }
    out.result(
        value,
        lambda: (
            f"{', '.join(map(str, done.names))} is in the store: {size(manifest.size)}, licence "
            f"{manifest.licence or 'not stated'}, {manifest.digest}"
        ),
        lambda: manifest.digest,
    )
    return 0


def _accept(
    out: Output, trust: str | None, yes: bool, asks: bool
) -> "Callable[[Signer, ArchiveIndex], bool]":
    """Whether to accept a signer who is not known; one given with --trust and no other, if any."""
    from overt.security.signing import fingerprint_of

    wanted = fingerprint_of(trust) if trust else ""
    if trust and not wanted:
        raise UsageError(
            "--trust takes a fingerprint, at least the first 32 of its 64 hex digits",
            "copy it whole from what `overt export` printed",
        )

    def accept(signer: "Signer", archive: "ArchiveIndex") -> bool:
        if wanted:
            if signer.fingerprint.startswith(wanted):
                return True
            raise NeedsAccess(
                f"the archive is signed by sha256:{signer.fingerprint}, not by the key of --trust",
                "ask its sender which is right",
            )
        if yes:
            out.warn(f"accepting the signer sha256:{signer.fingerprint}")
            return True
        if out.json or not asks or not is_terminal(sys.stdin):
            return False
        names = ", ".join(map(str, archive.names)) or archive.manifest
        out.note(f"{names}: {size(archive.size)}, signed by a key you have not met")
        out.note(f"sha256:{signer.fingerprint}")
        sys.stderr.write("compare it with what the sender says; accept this signer? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return accept
