"""`overt jobs`: work that was begun and is not finished."""

from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, plain, size, table
from overt.errors import NotFound, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.provenance.jobs import LocalJob


@click.group(
    "jobs", short_help="work that was cut off, and how it goes on", invoke_without_command=True
)
@click.pass_context
@verb
def command(context: click.Context, out: Output, settings: Settings) -> int:
    """Work that was begun and is not finished: conversions, quantizations, fine-tunings.

    \b
      overt jobs              what there is, how far it came, and the command that goes on
      overt jobs rm ID        delete what one has so far
      overt jobs rm --all

    Nothing of a job is in the store before it is finished.
    """
    if context.invoked_subcommand is None:
        return _list(out, settings)
    return 0


def _list(out: Output, settings: Settings) -> int:
    from overt.provenance import jobs

    all_jobs = jobs.list_jobs(settings.home)
    if out.json:
        rows = [
            {
                "id": job.id,
                "name": job.name,
                "step": job.step,
                "command": job.command,
                "begun": job.begun,
                "starts": job.starts,
                "event": job.event,
                "size": job.size,
                "pid": job.pid,
            }
            for job in all_jobs
        ]
        out.object({"jobs": rows})
    elif not all_jobs:
        out.note("no work is unfinished")
    else:
        cells = [
            (
                job.id,
                job.name or "-",
                _step(job),
                job.begun or "-",
                size(job.size),
                "running" if job.pid is not None else "cut off",
                _event(job.event),
            )
            for job in all_jobs
        ]
        out.line(table(("id", "name", "step", "begun", "size", "state", "last"), cells))
        for job in all_jobs:
            if job.pid is None and job.step:
                out.note(f"{job.id} goes on with: {job.command}")
    return 0


@command.command("rm", short_help="delete what unfinished work has so far")
@click.argument("ids", nargs=-1, metavar="ID")
@click.option("--all", "every", is_flag=True, help="All that no process works on.")
@verb
def rm(out: Output, settings: Settings, ids: tuple[str, ...], every: bool) -> int:
    """Delete what unfinished work has so far. It begins anew then; the models it reads stay."""
    from overt.provenance import jobs

    if bool(ids) == every:
        raise UsageError("name the jobs, or --all", "`overt jobs` lists them")
    if every:
        chosen = [job for job in jobs.list_jobs(settings.home) if job.pid is None]
    else:
        chosen = [jobs.find(id, settings.home) for id in ids]
    if not chosen and every:
        raise NotFound("no work is unfinished", "there is nothing to delete")
    freed = 0
    for job in chosen:
        freed += jobs.remove(job, settings.home)
        lost = f"{job.step or 'a replay'} of {job.name or '?'}: {_event(job.event) or 'its start'}"
        out.warn(f"lost: {lost}, {size(job.size)}")
    out.result(
        {"removed": [job.id for job in chosen], "bytes_freed": freed},
        lambda: f"{len(chosen)} removed, {size(freed)} freed",
        lambda: "\n".join(job.id for job in chosen),
    )
    return 0


def _step(job: "LocalJob") -> str:
    """A replay has no recipe there; that of other work goes to the store shortly before its end."""
    return job.step or ("replay" if job.folder.name.startswith("replay-") else "storing")


def _event(event: object) -> str:
    """The last news in a few words: a step of how many, and a loss where there is one."""
    if not isinstance(event, dict):
        return ""
    parts = []
    if isinstance(event.get("step"), int):
        parts.append(
            f"step {event['step']}" + (f" of {event['steps']}" if "steps" in event else "")
        )
    if isinstance(event.get("batches"), int):  # the base of preferences, before the first step
        parts.append(f"the base: batch {event.get('done')} of {event['batches']}")
    if isinstance(event.get("loss"), int | float):
        parts.append(f"loss {event['loss']:.4g}")
    if not parts:
        text = event.get("text" if event.get("kind") == "note" else "kind")
        parts = [" ".join(str(text or "").split())]
    return plain(", ".join(parts))[:60]
