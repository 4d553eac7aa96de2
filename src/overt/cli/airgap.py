"""`overt airgap`: the walls around a worker, and the proof that they hold."""

from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, table
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.runtime.sandbox.airgap import AirgapProof

_CLIP = 88


@click.command("airgap", short_help="prove that a model has no network")
@click.option("--prove", is_flag=True, help="Try every way out and show each denial.")
@click.option("--isolation", metavar="HOW", help="Sandbox: best, full, off.")
@verb
def command(out: Output, settings: Settings, prove: bool) -> int:
    """Start a worker as for a model and see what is around it.

    With --prove it tries to get out from inside (TCP, UDP, DNS, other sockets, files, this
    program's memory), and each attempt is shown with the words in which the kernel denied it.
    Exit code 1 where anything got through.
    """
    import asyncio

    from overt.runtime.sandbox.airgap import prove as run_proof

    out.status("starting a worker and trying to get out of it")
    proof = asyncio.run(run_proof(settings.isolation))
    out.clear()
    out.result(
        as_value(proof),
        lambda: _attempts(proof) if prove else _walls(proof),
        lambda: "ok" if proof.ok else "not ok",
    )
    return 0 if proof.ok or not prove else 1


def as_value(proof: "AirgapProof") -> dict[str, object]:
    """The object of `overt airgap --prove --json`; ``ok`` and ``attempts`` are a contract."""
    return {
        "ok": proof.ok,
        "attempts": [dict(attempt) for attempt in proof.attempts],
        "isolation": list(proof.isolation.layers),
        "isolation_missing": list(proof.isolation.missing),
        "evidence": list(proof.evidence),
    }


def _attempts(proof: "AirgapProof") -> str:
    rows = [
        (
            "denied" if attempt["denied"] else "GOT THROUGH",
            attempt["what"],
            _clipped(attempt["how"]),
        )
        for attempt in proof.attempts
    ]
    through = sum(not attempt["denied"] for attempt in proof.attempts)
    verdict = (
        f"Nothing gets out: all {len(rows)} attempts were denied."
        if proof.ok
        else f"NOT shut in: {through} of {len(rows)} attempts got through."
    )
    evidence = "\n".join(f"seen from outside: {line}" for line in proof.evidence)
    return "\n\n".join(
        (table(("result", "attempt", "answer"), rows), evidence, _walls(proof), verdict)
    )


def _walls(proof: "AirgapProof") -> str:
    lines = [f"walls in force: {', '.join(proof.isolation.layers) or 'none'}"]
    lines += [f"not in force: {missing}" for missing in proof.isolation.missing]
    return "\n".join(lines)


def _clipped(text: str) -> str:
    return text if len(text) <= _CLIP else text[: _CLIP - 1] + "…"
