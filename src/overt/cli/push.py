"""`overt push`: send a model to an OCI registry."""

import time
from typing import TYPE_CHECKING

import click

from overt.cli.export import check_sending
from overt.cli.options import verb
from overt.cli.output import Output, duration, size
from overt.cli.pull import progress
from overt.errors import Stopped
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.sources.base import Report
    from overt.models.sources.oci_push import Pushed


@click.command("push", short_help="send a model to an OCI registry")
@click.argument("ref")
@click.argument("target")
@verb
def command(out: Output, settings: Settings, ref: str, target: str) -> int:
    """Send REF to TARGET, which is oci:host/name:tag.

    The files go up as they are, as a CNCF ModelPack artefact: nothing is packed or rewritten, and
    what the registry has already is not sent again. A push that was cut off goes on where it was.
    The login is the one that `docker login` or `podman login` stored.
    """
    begun = time.monotonic()
    try:
        with progress(out) as step:
            check_sending(out, ref, settings, step)
            pushed = _push(ref, target, settings, step)
    except KeyboardInterrupt:
        raise Stopped(
            "the push was stopped", f"`overt push {ref} {target}` goes on where it was"
        ) from None
    seconds = time.monotonic() - begun
    value = {
        "model": ref,
        "ref": str(pushed.ref),
        "digest": pushed.digest,
        "sent": pushed.sent,
        "blobs": pushed.blobs,
        "present": pushed.present,
        "seconds": round(seconds, 3),
    }
    out.result(
        value,
        lambda: (
            f"{ref} is at {target}: {size(pushed.sent)} sent in {duration(seconds)}, "
            f"{pushed.present} of {pushed.blobs} blobs were there before, {pushed.digest}"
        ),
        lambda: str(pushed.ref),
    )
    return 0


def _push(ref: str, target: str, settings: Settings, step: "Report | None") -> "Pushed":
    from overt.models.push import push

    return push(ref, target, settings, step)
