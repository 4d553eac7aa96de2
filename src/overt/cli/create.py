"""`overt create`: a model of one's own from a Modelfile."""

import sys
from pathlib import Path

import click

from overt.cli.options import read_bytes, verb
from overt.cli.output import Output, size
from overt.errors import Stopped
from overt.settings import Settings


@click.command("create", short_help="make a model from a Modelfile")
@click.argument("name")
@click.option(
    "-f", "--file", "file", default="Modelfile", metavar="FILE", help="The Modelfile; - is stdin."
)
@verb
def command(out: Output, settings: Settings, name: str, file: str) -> int:
    """Make the model NAME as a Modelfile says.

    Every command of Ollama's grammar is read: FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, LICENSE,
    MESSAGE, DRAFT, RENDERER, PARSER, REQUIRES. The weights are used as they are and never written
    again; a model that FROM names and the store lacks is pulled. `overt show NAME --modelfile`
    writes it back.
    """
    from overt.cli.pull import progress
    from overt.formats.modelfile import MAX_BYTES, read
    from overt.models.modelfile_build import create
    from overt.openness.permissions import gate

    if file == "-":
        data, folder = sys.stdin.buffer.read(MAX_BYTES + 1), Path.cwd()
    else:
        path = Path(file).expanduser()
        data, folder = read_bytes(path, "--file", MAX_BYTES), path.absolute().parent
    modelfile = read(data, "stdin" if file == "-" else file)
    try:
        with progress(out) as step:
            created = create(name, modelfile, folder, settings, step)
    except KeyboardInterrupt:
        raise Stopped("nothing was made", f"`overt create {name}` starts again") from None
    gate.prepare(name, settings)
    manifest = created.manifest
    for notice in created.notices:
        out.note(notice)
    value = {
        "model": name,
        "digest": manifest.digest,
        "origin": dict(manifest.origin),
        "licence": manifest.licence,
        "size": manifest.size,
        "files": [
            {"role": file.role, "path": file.path, "digest": file.digest, "size": file.size}
            for file in manifest.files
        ],
        "notices": list(created.notices),
    }
    out.result(
        value,
        lambda: f"{name} is in the store: {size(manifest.size)}, {manifest.digest}",
        lambda: manifest.digest,
    )
    return 0
