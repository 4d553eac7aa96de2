"""`overt adopt`: use the models of other programs where they lie."""

from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, size, table
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.adopt import AdoptReport


@click.command("adopt", short_help="use the models of other programs where they lie")
@click.argument("what", required=False, metavar="[ollama|lmstudio|huggingface|gpt4all|FOLDER]")
@click.option("--dry-run", is_flag=True, help="Say what would be adopted; hash and write nothing.")
@verb
def command(out: Output, settings: Settings, what: str | None, dry_run: bool) -> int:
    """Use the models of another program, or of a folder, without a second copy.

    Their files are hashed, checked and linked into the store, and stay where they are; nothing of
    theirs is changed. Without an argument every program that is known is looked into, as with
    --dry-run. What cannot be used is listed with the reason.
    """
    from overt.cli.pull import progress
    from overt.models.adopt import adopt
    from overt.openness.permissions import gate

    dry_run = dry_run or what is None
    with progress(out) as step:
        looked = adopt(what, settings, step, dry_run)
    for model in looked.adopted if not dry_run else ():
        gate.prepare(str(model.name), settings)
    value = {
        "dry_run": dry_run,
        "places": [{"program": p.key, "path": str(p.path)} for p in looked.places],
        "adopted": [
            {
                "program": model.program,
                "found": model.shown,
                "model": str(model.name),
                "digest": model.digest or None,
                "size": model.size,
                "how": model.how,
            }
            for model in looked.adopted
        ],
        "skipped": [
            {"program": skip.program, "found": skip.shown, "reason": skip.reason}
            for skip in looked.skipped
        ],
    }
    out.result(
        value,
        lambda: _human(looked, dry_run, what),
        lambda: "\n".join(str(model.name) for model in looked.adopted),
    )
    return 0


def _human(looked: "AdoptReport", dry_run: bool, what: str | None) -> str:
    lines = []
    if not looked.places:
        lines.append("no program that Overt knows keeps models on this machine")
    if looked.adopted:
        rows = [
            (model.name, size(model.size), model.how, f"{model.shown} of {model.program}")
            for model in looked.adopted
        ]
        lines.append(table(("name", "size", "how", "from"), rows))
    for skip in looked.skipped:
        lines.append(f"not {skip.shown} of {skip.program}: {skip.reason}")
    if looked.places and not looked.adopted and not looked.skipped:
        lines.append(f"no models in {', '.join(str(place.path) for place in looked.places)}")
    if dry_run and looked.adopted:
        keys = dict.fromkeys(place.key for place in looked.places)
        todo = [what] if what else list(keys)
        lines.append(
            f"nothing was changed; to adopt: {', '.join(f'overt adopt {k}' for k in todo)}"
        )
    return "\n".join(lines)
