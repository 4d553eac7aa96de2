"""`overt list`: models in the store, or in the catalogue."""

from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import verb
from overt.cli.output import Output, number, size, table
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.sources.catalogue import CatalogueEntry


@click.command("list", short_help="models and aliases here, or the catalogue")
@click.option("--available", is_flag=True, help="The catalogue: what can be pulled by name.")
@verb
def command(out: Output, settings: Settings, available: bool) -> int:
    """List the models in the store, and your aliases; with --available those that can be pulled by
    a short name.

    Models that run elsewhere (openai:gpt-…) are in no store and need no entry. --quiet prints names
    only, one a line.
    """
    if available:
        _catalogue(out, settings)
    else:
        _store(out, settings)
    return 0


def _store(out: Output, settings: Settings) -> None:
    from overt.models.store import Store

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

    names = _aliases(settings)

    def human() -> str:
        sections = [_models()] + ([_names(names)] if names else [])
        return "\n\n".join(sections)

    def _models() -> str:
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

    def quiet() -> str:
        return "\n".join(str(name) for name in (*(m["model"] for m in models), *names))

    out.result({"models": models, "aliases": list(names.values())}, human, quiet)


def _aliases(settings: Settings) -> dict[str, dict[str, Any]]:
    """The owner's own names, by name, and what each stands for; "route" for several models."""
    if not (settings.home / "aliases.json").exists():
        return {}
    from overt.gateway.aliases import Aliases, referenced_models

    rows: dict[str, dict[str, Any]] = {}
    for alias in Aliases(settings.home, dict).all():
        is_route = not isinstance(alias.target, str)
        rows[alias.name] = {
            "name": alias.name,
            "target": "route" if is_route else alias.target,
            "models": list(dict.fromkeys(referenced_models(alias.target))),
            "time": alias.time,
        }
    return rows


def _names(names: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            row["name"],
            f"a route: {', '.join(row['models'])}" if row["target"] == "route" else row["target"],
            row["time"][:10],
        )
        for row in names.values()
    ]
    return table(("alias", "stands for", "since"), rows)


def _catalogue(out: Output, settings: Settings) -> None:
    from overt.models.sources import catalogue
    from overt.models.store import Store

    here = {str(entry.ref) for entry in Store(settings.home).names()}
    entries = catalogue.entries()

    def stored(entry: "CatalogueEntry") -> bool:
        return any(str(name) in here for name in catalogue.names_of(entry))

    models = [
        {
            "model": entry.name if entry.default else str(entry.ref),
            "ref": str(entry.ref),
            "about": entry.about,
            "kind": entry.kind,
            "licence": entry.licence,
            "parameters": entry.parameters,
            "size": entry.size,
            "context": entry.context,
            "refs": [str(ref) for ref in entry.refs],
            "sha256": entry.sha256,
            "note": entry.note,
            "facts": [
                {"about": fact.about, "source": fact.source, "date": fact.date}
                for fact in entry.facts
            ],
            "stored": stored(entry),
        }
        for entry in entries
    ]

    def human() -> str:
        rows = [
            (
                entry.name if entry.default else entry.ref,
                size(entry.size) if entry.size else "?",
                number(entry.parameters) if entry.parameters else "?",
                entry.context or "?",
                entry.kind,
                entry.licence,
                "yes" if stored(entry) else "",
            )
            for entry in entries
        ]
        head = ("name", "size", "parameters", "context", "kind", "licence", "here")
        return f"{table(head, rows)}\n\novert pull NAME fetches one; ? is not known"

    out.result({"models": models}, human, lambda: "\n".join(str(m["model"]) for m in models))
