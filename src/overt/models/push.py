"""Send a model of the store, or a plain file or folder, to an OCI registry.

The counterpart of pull.py: it finds the files and says what they are;
models/sources/oci_push.py sends them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import OvertError
from overt.models.pull import find, pull
from overt.models.sources.base import FetchedFile, FetchProgress
from overt.models.store import Manifest, Store
from overt.ref import parse
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.sources.oci_push import Pushed

__all__ = ["push"]


def push(
    ref: str,
    target: str,
    settings: Settings,
    progress: Callable[[FetchProgress], None] | None = None,
) -> "Pushed":
    """Send `ref` to `target`, which is ``oci:host/name:tag``.

    Raises:
        BadRef: `target` is no such place.
        ModelNotFound, IntegrityError: the model is not here, or damaged.
        NeedsAccess, Refused, SourceFailed, Offline: as models/sources/oci_push.py says.
    """
    from overt.models.sources.download import Network
    from overt.models.sources.oci_push import push as send

    place = parse(target)
    manifest, pieces = _pieces(ref, settings)
    network = Network(settings.offline)
    try:
        return send(
            place,
            pieces,
            _facts(manifest, pieces[0], place.name),
            network,
            settings.home / "uploads",
            progress or (lambda _: None),
        )
    finally:
        network.close()


def _pieces(ref: str, settings: Settings) -> tuple[Manifest, list[FetchedFile]]:
    """The files of a model of the store, or of a plain file or folder."""
    from overt.models.sources.folder import read

    wanted = parse(ref)
    if wanted.scheme == "path":
        manifest = pull(ref, settings)
        places = {local.path: local.file for local in read(Path(wanted.name))}
    else:
        manifest_found = find(ref, settings).manifest
        assert manifest_found
        manifest = manifest_found
        store = Store(settings.home)
        places = {file.path: store.path(file) for file in manifest.files}
    return manifest, [
        FetchedFile(f.role, f.path, places[f.path], f.digest.removeprefix("sha256:"), f.size)
        for f in manifest.files
    ]


def _facts(manifest: Manifest, weights: FetchedFile, name: str) -> dict[str, str]:
    """What the configuration of a ModelPack artefact can say about it."""
    from overt.formats.gguf import read

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
