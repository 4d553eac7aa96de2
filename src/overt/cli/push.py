"""`overt push`: send a model to an OCI registry."""

import time
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, duration, size
from overt.cli.pull import progress
from overt.errors import OvertError, Stopped
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.sources.base import Piece, Report
    from overt.sources.push import Pushed
    from overt.store import Manifest


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
    from overt.ref import parse
    from overt.sources.download import Network
    from overt.sources.push import push

    place = parse(target)
    manifest, pieces = _pieces(ref, settings)
    network = Network(settings.offline)
    try:
        return push(
            place,
            pieces,
            _facts(manifest, pieces[0], place.name),
            network,
            settings.home / "uploads",
            step or (lambda _: None),
        )
    finally:
        network.close()


def _pieces(ref: str, settings: Settings) -> "tuple[Manifest, list[Piece]]":
    """The files of a model of the store, or of a plain file or folder."""
    from pathlib import Path

    from overt.pull import find, pull
    from overt.ref import parse
    from overt.sources.base import Piece
    from overt.sources.folder import read
    from overt.store import Store

    wanted = parse(ref)
    if wanted.scheme == "path":
        manifest = pull(ref, settings)
        places = {local.path: local.file for local in read(Path(wanted.name))}
    else:
        manifest_ = find(ref, settings).manifest
        assert manifest_
        manifest = manifest_
        store = Store(settings.home)
        places = {file.path: store.path(file) for file in manifest.files}
    return manifest, [
        Piece(f.role, f.path, places[f.path], f.digest.removeprefix("sha256:"), f.size)
        for f in manifest.files
    ]


def _facts(manifest: "Manifest", weights: "Piece", name: str) -> dict[str, str]:
    """What the configuration of a ModelPack artefact can say about it."""
    from overt.formats.gguf import read
    from overt.ref import parse

    facts = {
        "name": name.rpartition("/")[2],
        "licence": manifest.licence or "",
        "created": manifest.created,
        "from": "" if parse(manifest.ref).scheme == "path" else manifest.ref,
    }
    try:
        header = read(weights.file)
    except OvertError:  # safetensors
        return facts
    kinds = header.type_mix()
    return {
        **facts,
        "architecture": header.architecture,
        "parameters": _scaled(header.parameters),
        "quantization": max(kinds, key=lambda kind: kinds[kind]) if kinds else "",
    }


def _scaled(count: int) -> str:
    """``134.5M``, as the paramSize of a ModelPack configuration wants it."""
    value, unit = float(count), 0
    while value >= 1000 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f}".removesuffix(".0") + ("", "K", "M", "B", "T")[unit]
