"""`overt ps`: what is running."""

import time

import click

from overt.cli.options import verb
from overt.cli.output import Output, duration, size, table
from overt.settings import Settings


@click.command("ps", short_help="models that are running now")
@verb
def command(out: Output, settings: Settings) -> int:
    """List the workers that run now, started by any program under this OVERT_HOME.

    --quiet prints process numbers only.
    """
    from overt.runtime.worker.supervisor import running

    workers = running(settings.home / "run")
    value = {
        "running": [
            {
                "pid": worker.pid,
                "model": worker.label,
                "digest": worker.digest,
                "memory": worker.memory,
                "started": worker.started,
                "parent": worker.parent,
                "isolation": list(worker.isolation.layers),
                "isolation_missing": list(worker.isolation.missing),
            }
            for worker in workers
        ]
    }

    def human() -> str:
        if not workers:
            return "no model is running"
        rows = [
            (
                worker.pid,
                worker.label,
                size(worker.memory),
                duration(max(0.0, time.time() - worker.started)),
                worker.parent,
                ", ".join(worker.isolation.layers) or "none",
            )
            for worker in workers
        ]
        return table(("pid", "model", "memory", "since", "for", "isolation"), rows)

    out.result(value, human, lambda: "\n".join(str(worker.pid) for worker in workers))
    return 0
