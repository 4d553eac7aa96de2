"""`overt stop`: end running models."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output
from overt.errors import NotFound, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.runtime.worker.supervisor import Running


@click.command("stop", short_help="stop running models")
@click.argument("which", required=False, metavar="[REF|PID]")
@click.option("--all", "everything", is_flag=True, help="Stop every one.")
@verb
def command(out: Output, settings: Settings, which: str | None, everything: bool) -> int:
    """Stop the workers of REF, the one whose process number is PID, or --all.

    A program that is waiting for an answer is told that its worker ended.
    """
    from overt.runtime.worker.supervisor import running

    if bool(which) == everything:
        raise UsageError("stop what?", "name a model or a process number of `overt ps`, or --all")
    folder = settings.home / "run"
    workers = running(folder)
    chosen = (
        workers if everything else [worker for worker in workers if _matches(worker, which or "")]
    )
    if not chosen and not everything:
        labels = sorted({worker.label for worker in workers})
        hint = f"running: {', '.join(labels)}" if labels else "nothing is running"
        raise NotFound(f"no worker of {which!r} is running", hint)
    stopped = [worker for worker in chosen if _end(folder, worker)]
    value = {"stopped": [{"pid": worker.pid, "model": worker.label} for worker in stopped]}

    def human() -> str:
        lines = [f"stopped {worker.label} (process {worker.pid})" for worker in stopped]
        return "\n".join(lines) or "nothing was running"

    out.result(value, human, lambda: "\n".join(str(worker.pid) for worker in stopped))
    return 0


def _matches(worker: "Running", which: str) -> bool:
    return which in (worker.label, str(worker.pid), worker.digest)


def _end(folder: Path, worker: "Running") -> bool:
    """False where it ended by itself in the meantime."""
    from overt.runtime.worker.supervisor import stop

    try:
        stop(folder, worker.pid)
    except NotFound:
        return False
    return True
