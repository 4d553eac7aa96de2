"""`overt rm`: remove models."""

import sys

import click

from overt.cli.options import verb
from overt.cli.output import Output, is_terminal, size
from overt.errors import Stopped, UsageError
from overt.models.store import Store
from overt.ref import Ref, parse
from overt.settings import Settings


@click.command("rm", short_help="remove models and free their bytes")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@verb
def command(out: Output, settings: Settings, refs: tuple[str, ...], yes: bool) -> int:
    """Remove each REF from the store and free what no other name needs.

    A model that is running keeps its file until it stops.
    """
    store = Store(settings.home)
    parsed = [parse(ref) for ref in refs]
    for ref in parsed:
        if ref.scheme == "path":
            raise UsageError(
                f"{ref} is a file of yours and not in the store", "delete it with your own tools"
            )
    if not yes:
        _confirm(store, parsed, out)
    _warn_of_running(refs, settings, out)
    removed, left = [], 0
    for ref in parsed:
        gone = store.remove(ref)
        left += gone.bytes_left
        removed.append(
            {"model": str(ref), "names": list(gone.names), "bytes_freed": gone.bytes_freed}
        )
        if not out.json:
            note = "" if gone.bytes_freed else " (another name still uses its files)"
            if gone.bytes_left:
                note = f"; {size(gone.bytes_left)} belongs to another program and stays there"
            out.note(f"removed {ref}; {size(gone.bytes_freed)} freed{note}")
    freed = sum(int(str(entry["bytes_freed"])) for entry in removed)
    out.result({"removed": removed, "bytes_freed": freed, "bytes_left": left}, str)
    return 0


def _confirm(store: Store, refs: list[Ref], out: Output) -> None:
    """Say what would go, and wait for a yes.

    Raises:
        ModelNotFound: one of them is not there.
        UsageError: nobody is there to ask. Stopped: the answer was not yes.
    """
    entries = store.names()
    for ref in refs:
        manifest = store.get(ref)
        others = [
            str(entry.ref)
            for entry in entries
            if entry.manifest.digest == manifest.digest and entry.ref not in refs
        ]
        if others and ref.scheme != "sha256":
            out.note(f"{ref}: only the name goes, {', '.join(others)} is the same model")
        else:
            out.note(f"{ref}: the last copy here, {size(manifest.size)}, from {manifest.ref}")
    if out.json or not is_terminal(sys.stdin):
        raise UsageError("removing needs a yes, and nobody is here to ask", "add --yes")
    sys.stderr.write("remove? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Stopped("nothing was removed")


def _warn_of_running(refs: tuple[str, ...], settings: Settings, out: Output) -> None:
    from overt.runtime.worker.supervisor import running

    for worker in running(settings.home / "run"):
        if worker.label in refs:
            out.note(
                f"{worker.label} is running (process {worker.pid}) and keeps its file until it "
                f"ends: overt stop {worker.pid}"
            )
