"""`overt list`: models in the store, or in the catalogue."""

import click

from overt.cli.options import verb
from overt.cli.output import Output, size, table
from overt.settings import Settings


@click.command("list", short_help="models in the store, or in the catalogue")
@click.option("--available", is_flag=True, help="The catalogue: what can be pulled by name.")
@verb
def command(out: Output, settings: Settings, available: bool) -> int:
    """List the models in the store; with --available those that can be pulled by a short name.

    --quiet prints names only, one a line.
    """
    if available:
        _catalogue(out, settings)
    else:
        _store(out, settings)
    return 0


def _store(out: Output, settings: Settings) -> None:
    from overt.store import Store

    entries = Store(settings.home).names()
    models = [
        {
            "model": str(entry.ref),
            "digest": entry.manifest.digest,
            "size": entry.manifest.size,
            "licence": entry.manifest.licence,
            "from": entry.manifest.ref,
            "pulled": entry.time,
        }
        for entry in entries
    ]

    def human() -> str:
        if not models:
            return "the store is empty; `overt pull smollm2` fetches the default model"
        rows = [
            (
                model["model"],
                size(entry.manifest.size),
                model["licence"] or "not stated",
                entry.manifest.digest.removeprefix("sha256:")[:12],
                entry.time[:16].replace("T", " "),
            )
            for model, entry in zip(models, entries, strict=True)
        ]
        return table(("name", "size", "licence", "digest", "pulled"), rows)

    out.result({"models": models}, human, lambda: "\n".join(str(m["model"]) for m in models))
