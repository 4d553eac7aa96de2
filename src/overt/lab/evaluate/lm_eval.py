"""lm-eval's tasks on models of ours: it asks our server, and what it found becomes a receipt.

lm-eval (EleutherAI's lm-evaluation-harness) is a program of others in a process of its own. It is
started with an environment of what it needs and no more, and what it writes is read as any file of
a stranger's. Models on this machine are scored through ``/v1/completions`` with echoed
log-probabilities; models elsewhere answer through ``/v1/chat/completions``, where a task lets them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from overt.errors import Failure, Refused, Unsupported, UsageError
from overt.lab import foreign
from overt.lab.evaluate import lm_eval_output, receipt
from overt.settings import Settings

INSTALL: Final = "pip install 'overt[lm-eval]', or set OVERT_LM_EVAL to its command"
_PASSED: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SYSTEMROOT",
    "HF_HOME",
    "XDG_CACHE_HOME",
)
_ONLINE: Final = ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy",
                  "all_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HF_ENDPOINT")  # fmt: skip
_NO_LOGPROBS: Final = "is not supported for chat completions"
_REASONS: Final = (
    re.compile(r".*API request failed with error message: "),
    re.compile(r"[\w.]*(?:Error|Exception)\b"),
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How lm-eval is run.

    Attributes:
        include: a folder of task files beside its own.
        limit: the first so many items of each task.
        shots: worked examples; None is the task's own number.
        hub: lm-eval may fetch data sets.
        seed: of the bootstrap that makes the interval.
    """

    include: Path | None = None
    limit: int | None = None
    shots: int | None = None
    hub: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Who:
    """The model that is scored. `context` is the most tokens it holds; 0 is not known."""

    ref: str
    resolved: str
    digest: str
    engine: str
    build: str
    away: bool
    context: int


def command(settings: Settings) -> list[str]:
    """How lm-eval is started on this machine.

    Raises:
        Unsupported: it is not here; with what to install.
    """
    if settings.lm_eval:
        found = shutil.which(str(Path(settings.lm_eval).expanduser()))
        if found is None:
            raise Unsupported(f"lm_eval is {settings.lm_eval!r}, which is no program", INSTALL)
        return [found]
    if found := shutil.which("lm_eval") or shutil.which("lm-eval"):
        return [found]
    if find_spec("lm_eval"):
        return [sys.executable, "-m", "lm_eval"]
    raise Unsupported("these tasks need lm-eval, which is not here", INSTALL)


def identify(ref: str, settings: Settings) -> Who:
    """What `ref` is, without loading it.

    Raises:
        BadRef, ModelNotFound, FormatError: no such model, or none that runs here.
        Unsupported: a route, whose answers are not one model's.
    """
    from overt import routes
    from overt.placement import Places

    target = routes.aliases(settings.home).find(ref) or ref
    if isinstance(target, routes.Route):
        raise Unsupported(f"{ref} is a route, and a task is scored on one model", "name a model")
    if target.startswith(_away()):
        return Who(ref, target, "", target.partition(":")[0], "", away=True, context=0)
    place = Places(settings).get(target)
    place.check("score")
    is_torch = settings.engine == "torch"
    return Who(
        ref, target, place.model.digest, "torch" if is_torch else "llamacpp",
        _build("torch" if is_torch else "llama-cpp-py-sync"), away=False,
        context=place.header.context_length or 0,
    )  # fmt: skip


def _away() -> tuple[str, ...]:
    from overt import ref as refs

    return tuple(refs.ELSEWHERE)


def _build(package: str) -> str:
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def evaluate(
    who: Who, tasks: list[str], options: Options, settings: Settings, say: Say
) -> list[dict[str, Any]]:
    """Score a model on each task; one receipt each, written, with its file under ``path``.

    Raises:
        Unsupported: lm-eval is not here, or a model elsewhere is asked for log-probabilities.
        Failure: lm-eval failed, with the last it said.
        FormatError: it wrote what cannot be read.
    """
    program = command(settings)
    for name in (who.ref, *tasks):
        if not name or set(name) & set(", \n\"'{}") or name.startswith("-"):
            raise UsageError(
                f"{name[:60]!r} cannot be handed to lm-eval: it has a blank, comma or quote",
                "overt alias set NAME REF gives a model another name",
            )
    for task in tasks:  # lm-eval opens what is a path, and runs the Python that it names
        if set(task) & set("/\\") or task.endswith((".yaml", ".yml")):
            raise UsageError(
                f"{task!r} is a file, and tasks are named", "--include DIR has task files"
            )
    if who.ref.startswith(("http://", "https://")):
        raise UsageError(
            f"{who.ref} is a server's address, and programs are given names alone",
            f"overt alias set NAME {who.ref}",
        )
    if options.hub and settings.offline:
        raise UsageError(
            "lm-eval may fetch data sets, and the network is off", "leave out --hub or --offline"
        )
    found = []
    with foreign.server(settings) as url:
        for task in tasks:
            say(f"lm-eval: {task} on {who.ref}")
            begun = time.time()
            with tempfile.TemporaryDirectory(prefix="overt-lm-eval-") as folder:
                _run([*program, *_arguments(who, task, options, url)], Path(folder), who, options)
                output = lm_eval_output.read(Path(folder) / "out")
            value = lm_eval_output.receipt_of(
                output, task, _model(who), _parameters(who, options), options.seed,
                begun, time.time() - begun,
            )  # fmt: skip
            path = receipt.write(settings.home / "evaluations", value)
            found.append(value | {"path": str(path)})
    return found


def _model(who: Who) -> dict[str, Any]:
    return {
        "ref": who.ref, "resolved": who.resolved, "digest": who.digest, "engine": who.engine,
        "build": who.build, "away": who.away,
    }  # fmt: skip


def _parameters(who: Who, options: Options) -> dict[str, Any]:
    return {
        "limit": options.limit, "shots": options.shots, "seed": options.seed,
        "through": "local-chat-completions" if who.away else "local-completions",
    }  # fmt: skip


def _arguments(who: Who, task: str, options: Options, url: str) -> list[str]:
    from urllib.parse import quote

    if who.away:
        kind, path, more = "local-chat-completions", "/v1/chat/completions", ""
    else:
        kind, path = "local-completions", f"/of/{quote(who.ref, safe=':/@')}/v1/completions"
        more = ",tokenizer_backend=remote,tokenized_requests=True"
        more += f",max_length={who.context}" if who.context else ""
    given = [
        "run", "--model", kind, "--tasks", task, "--log_samples", "--output_path", "out",
        "--model_args", f"model={who.ref},base_url={url}{path},max_retries=1{more}",
    ]  # fmt: skip
    if who.away:
        given.append("--apply_chat_template")
    for flag, value in (
        ("--include_path", options.include.absolute() if options.include else None),
        ("--limit", options.limit),
        ("--num_fewshot", options.shots),
    ):
        if value is not None:
            given += [flag, str(value)]
    return given


def _run(command: list[str], folder: Path, who: Who, options: Options) -> None:
    """Raises Failure, Unsupported: it did not end well."""
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        done = subprocess.run(
            command, cwd=folder, env=_environ(folder, options), stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, check=False,
            preexec_fn=foreign.dying_with_us(),
        )  # fmt: skip
        if not done.returncode:
            return
        log.seek(max(0, log.tell() - 20_000))
        said = log.read()
    if who.away and _NO_LOGPROBS in said:
        raise Refused(
            f"this task goes by the log-probabilities of a prompt, and {who.resolved} tells none: "
            f"closed chat APIs do not",
            "choose a task whose answers are written (generate_until), or a model that runs here",
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing"]
    reasons = [line for pattern in _REASONS for line in lines if pattern.match(line)]
    last = (reasons or lines[-1:])[0].rpartition("error message: ")[2]
    if any(word in said for word in ("OfflineModeIsEnabled", "offline mode", "LocalEntryNotFound")):
        raise Failure(
            f"lm-eval lacks a data set: {last[:300]}", "--hub lets it fetch what it needs"
        )
    raise Failure(
        f"lm-eval ended with {done.returncode}: {last[:400]}", "the same command starts it again"
    )


def _environ(folder: Path, options: Options) -> dict[str, str]:
    """What lm-eval sees of this process: no keys of providers, and no network but our server."""
    kept = (*_PASSED, *(_ONLINE if options.hub else ()))
    found = {name: os.environ[name] for name in kept if name in os.environ}
    found |= {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false"}
    if not options.hub:
        offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE",
                   "TRANSFORMERS_OFFLINE")  # fmt: skip
        found |= dict.fromkeys(offline, "1")
    return found
