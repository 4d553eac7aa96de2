"""`overt verify`: hash everything again."""

import click

from overt.cli.options import verb
from overt.cli.output import Output, size
from overt.settings import Settings


@click.command("verify", short_help="hash everything in the store again")
@click.argument("ref", required=False)
@verb
def command(out: Output, settings: Settings, ref: str | None) -> int:
    """Hash every file of the store (or of REF) again and compare it with the digest that names it.

    Prints {"ok", "problems"} with --json. Exit code 1 where there is a problem. Nothing is changed.
    """
    from overt.models.store import Store
    from overt.ref import parse

    seen: dict[str, int] = {}

    def progress(path: str, done: int, total: int) -> None:
        seen[path] = total
        out.status(f"hashing {path[-20:]}: {size(done)} of {size(total)}")

    problems = Store(settings.home).verify(parse(ref) if ref else None, progress)
    out.clear()
    value = {
        "ok": not problems,
        "problems": [
            {
                "code": problem.code,
                "message": problem.message,
                "hint": problem.hint,
                "path": problem.path,
                "refs": list(problem.refs),
            }
            for problem in problems
        ],
        "files": len(seen),
        "bytes": sum(seen.values()),
    }

    def human() -> str:
        checked = f"{len(seen)} files, {size(sum(seen.values()))}"
        if not problems:
            return f"ok: {checked} match their digests"
        lines = [f"{problem.message}; {problem.hint}" for problem in problems]
        return "\n".join([*lines, f"{len(problems)} problems ({checked} hashed)"])

    def quiet() -> str:
        return "\n".join(problem.path for problem in problems)

    out.result(value, human, quiet)
    return 1 if problems else 0
