"""Running garak, a program of others, against our own server on this machine.

garak pins versions of its own and is large, so it lives in an environment of its own and never
beside Overt. Here it is a child process that gets the address of a server on loopback, no key of
anybody, and a folder to write to; what it leaves is read like a stranger's file (garak.py).
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overt.errors import Failure, NotFound, UsageError
from overt.evaluation import external_tool
from overt.evaluation.audit import garak
from overt.settings import Settings

_KEPT: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "OMP_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class GarakJob:
    """What a person asked for.

    Attributes:
        ref: the model, as the server names it.
        program: the garak to run, or the Python of its environment; None looks on PATH.
        spec: garak's selection of probes, such as ``probes.dan,probes.encoding``.
        generations: answers to each prompt.
        cap: prompts of each probe at most, where the probe heeds it; None for garak's own.
    """

    ref: str
    program: str | None
    spec: str | None
    generations: int
    cap: int | None
    seed: int
    max_tokens: int = 128


def run(job: GarakJob, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Run garak on a model of this machine and read its report.

    Raises:
        NotFound: no garak here; says how to get one.
        UsageError: no probes were named.
        EngineFailed, Failure: the server or garak failed.
    """
    command = find(job.program)
    if not job.spec:
        raise UsageError(
            "no probes of garak were named", "name some: --probes probes.dan,probes.encoding"
        )
    name = secrets.token_hex(4)
    place = settings.home / "audits" / "garak" / name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with external_tool.server(settings) as url:
        say(f"garak asks {job.ref} at {url}; its report comes to {place}")
        _run_garak(command, job, url, place)
    reports = sorted(place.glob("*.report.jsonl"))
    if not reports:
        raise Failure("garak left no report", f"see {place / 'garak.log'}")
    return garak.read(reports[0]) | {"file": str(reports[0])}


def find(program: str | None) -> list[str]:
    """The command of garak: what was named, else what is on PATH.

    Raises:
        NotFound: none of them is there.
    """
    named = program or shutil.which("garak")
    path = Path(named).expanduser() if named else None
    if path is None or not path.is_file():
        raise NotFound(
            f"garak is not {named}" if named else "garak is not on PATH",
            "put it into an environment of its own: python -m venv garak && garak/bin/pip install "
            "garak, then --garak garak/bin/garak",
        )
    executable = str(path.absolute())
    return [executable, "-m", "garak"] if path.name.startswith("python") else [executable]


def arguments(job: GarakJob, url: str, place: Path) -> list[str]:
    """What garak is called with; its options of the model are in a file beside its report."""
    generator = place / "generator.json"
    # temperature 0, no stop: its own default stops at # and ;
    options = {"uri": f"{url}/v1/", "temperature": 0.0, "stop": [], "max_tokens": job.max_tokens}
    generator.write_text(json.dumps({"openai": {"OpenAICompatible": options}}))
    args = [
        "--target_type",
        "openai.OpenAICompatible",
        "--target_name",
        job.ref,
        "--generator_option_file",
        str(generator),
        "--spec",
        str(job.spec),
        "--generations",
        str(job.generations),
        "--seed",
        str(job.seed),
        "--report_prefix",
        str(place / "overt"),
        "--narrow_output",
    ]
    if job.cap is not None:
        config = place / "run.json"
        config.write_text(json.dumps({"run": {"soft_probe_prompt_cap": job.cap}}))
        args += ["--config", str(config)]
    return args


def _run_garak(command: list[str], job: GarakJob, url: str, place: Path) -> None:
    environ = {key: os.environ[key] for key in _KEPT if key in os.environ}
    environ |= {"OPENAICOMPATIBLE_API_KEY": "none", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    log = place / "garak.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments(job, url, place)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=place,
            preexec_fn=external_tool.dying_with_us(),
        )
        try:
            code = process.wait()
        except BaseException:
            external_tool.end(process)
            raise
    if code:
        last_words = external_tool.last(log.read_bytes())
        raise Failure(f"garak ended with {code}: {last_words}", f"its output is in {log}")
