"""`overt replay`: make it again, and compare."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, plain
from overt.errors import OvertError, Stopped, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from overt.models.sources.base import FetchProgress
    from overt.provenance.replay import ReplayReport, ReplayTarget
    from overt.provenance.steps import Agreement

_SIGNED = {
    "not ours": "its receipt is signed by a key that is not known here ({})",
    "broken": "its receipt is damaged, or of other files: only the recipe in the model is used",
}


@click.command("replay", short_help="make a model again, and compare every tensor")
@click.argument("what", metavar="REF|RECEIPT|RECIPE")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A file that the recipe reads and that is not kept here.",
)
@click.option("--chain", is_flag=True, help="Replay what it was made of too, oldest first.")
@click.option("--keep", metavar="NAME", default="", help="Keep what is made, under NAME.")
@verb
def command(
    out: Output, settings: Settings, what: str, data: tuple[Path, ...], chain: bool, keep: str
) -> int:
    """Carry out the recipe of REF again and compare every file with what came out then.

    \b
      overt replay mine
      overt replay mine --chain
      overt replay recipe.json --data answers.jsonl --keep mine

    A recipe (`overt history REF --recipe`) or a receipt may come from somebody else. Of a recipe
    whose outcome is not known here there is nothing to compare with; --keep stores what it makes.

    The verdict is `identical`, `within_tolerance` (instructions or versions are not those that were
    recorded, and every tolerance of the step holds) or `different` (exit code 1). That of --chain
    is none as soon as a link could not be repeated.
    """
    from overt.cli.pull import progress
    from overt.provenance import replay

    if chain and keep:
        raise UsageError("--chain and --keep do not go together", "leave one out")
    target = replay.target(what, settings)
    try:
        with progress(out) as step:
            if chain:
                return _chain(replay.line(target, settings), settings, out, step, data)
            result = replay.replay(target, settings, step, data=data, keep=keep)
    except KeyboardInterrupt:
        raise Stopped("the replay was stopped", "the same command begins it again") from None
    _say_receipt(target, out)
    out.result(result.as_json(), lambda: _report(result), lambda: result.verdict or "")
    return 1 if result.verdict == "different" else 0


def _chain(
    targets: "list[ReplayTarget]",
    settings: Settings,
    out: Output,
    step: "Callable[[FetchProgress], None] | None",
    data: tuple[Path, ...],
) -> int:
    """Each of `targets` in turn; one that cannot be repeated is told, and the others are."""
    from overt.provenance import replay

    links: list[dict[str, object]] = []
    lines: list[str] = []
    results: list[ReplayReport] = []
    failed: list[OvertError] = []
    for target in targets:
        _say_receipt(target, out)
        if target.recipe.step == "create" and len(targets) > 1:
            links.append({"replayed": target.name, "step": "create", "verdict": None})
            lines.append(f"{target.name}: put together by `overt create`, which computes nothing")
            continue
        try:
            result = replay.replay(target, settings, step, data=_only(data, target))
        except OvertError as error:
            failed.append(error)
            links.append({"replayed": target.name, "verdict": None, **error.as_json()})
            lines.append(f"{target.name}: not repeated: {error}")
            continue
        results.append(result)
        links.append(result.as_json())
        lines.append(_report(result))
    verdict = replay.worst([*(result.verdict for result in results), *(None for _ in failed)])
    if failed:
        count = len(results) + len(failed)
        lines.append(f"{len(failed)} of {count} not repeated: of the whole line nothing is proved")
    first = next((result for result in results if result.verdict == verdict), None)
    value = {
        "replayed": targets[-1].name,
        "verdict": verdict,
        "first_difference": first.first.as_json() if first and first.first else None,
        "environment": first.as_json()["environment"] if first else {},
        "not_repeated": len(failed),
        "chain": links,
    }
    out.result(value, lambda: "\n".join(lines), lambda: verdict or "")
    if verdict == "different" or not results:
        return 1
    return failed[0].exit_code if failed else 0


def _only(data: "tuple[Path, ...]", target: "ReplayTarget") -> list[Path]:
    """Those of the files that this link of the chain reads."""
    from overt.provenance.inputs import digest_of

    wanted = {entry.digest for entry in target.recipe.inputs}
    return [file for file in data if digest_of(file) in wanted]


def _say_receipt(target: "ReplayTarget", out: Output) -> None:
    if target.receipt == "none" and target.subjects:
        out.warn(f"{target.name}: the receipt is not signed")
    if warning := _SIGNED.get(target.receipt):
        who = ", ".join(signer[:16] for signer in target.signers)
        out.warn(f"{target.name}: {warning.format(who)}")


def _measured(agreement: "Agreement") -> str:
    """One tolerance: how far off it is, and how far it may be."""
    files = f" ({', '.join(agreement.files)})" if agreement.files else ""
    how = "holds" if agreement.holds else "does NOT hold"
    off = f"off by {agreement.largest:.3g}, {agreement.allowed:.3g} allowed"
    return plain(f"{how}: {agreement.what}: {off}{files}")


def _report(result: "ReplayReport") -> str:
    name, step = result.target.name, result.target.recipe.step
    count = sum(1 for _, old, _ in result.files if old)
    lines = []
    if result.verdict is None:
        lines.append(f"{name}: {step} was carried out; what it made elsewhere is not known here")
        lines += [f"  {path}  {new[:19]}" for path, _, new in result.files]
    elif result.verdict == "identical":
        lines.append(f"{name}: identical: {step} made the same bytes again, {count} files")
    elif result.verdict == "within_tolerance":
        lines.append(f"{name}: within tolerance of {step}: {count} files were compared")
    else:
        other = result.first is None or result.first.field != "licence"
        what = "other bytes" if other else "the same bytes, under another licence"
        lines.append(f"{name}: different: {step} made {what}")
    lines += [f"  {_measured(agreement)}" for agreement in result.measures]
    if result.first:
        lines.append(f"  first difference: {plain(result.first.sentence)}")
    for key, (was, now) in result.differences.items():
        lines.append(f"  {key} was {was or 'not there'}, and here is {now or 'not there'}")
    if result.verdict == "different" and not result.differences:
        lines.append("  versions and instructions are those that were recorded")
    if result.kept:
        lines.append(f"  kept: {result.kept}")
    return "\n".join(lines)
