"""lm-eval's tasks on models of ours: it asks our server, and what it found becomes a receipt.

lm-eval (EleutherAI's lm-evaluation-harness) is a program of others in a process of its own. It is
started with an environment of what it needs and no more, and what it writes is read as any file of
a stranger's. Models on this machine are scored through ``/v1/completions`` with echoed
log-probabilities; models elsewhere answer through ``/v1/chat/completions``, where a task lets them.

The address is ``/of/REF`` (protocols/openai/tokens.py), which puts the begin token of a model that
was trained with one before every prompt, once. lm-eval's own `hf` backend leaves that to the
tokenizer's settings; its remote tokenizer never asks for it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from overt.errors import EngineFailed, Failure, Refused, Unsupported, UsageError
from overt.evaluation import external_tool
from overt.evaluation.suites import lm_eval_output, receipt
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
_ONLINE: Final = (
    "HF_TOKEN",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "HF_ENDPOINT",
)
_PATIENCE: Final = 86400
"""Seconds that one request may take: the first loads the model, and torch reads a prompt slowly."""
_WRITTEN: Final = "generate_until"
_NO_LOGPROBS: Final = "is not supported for chat completions"
_MAX_OUTPUT: Final = 1 << 14
_MAX_BAR: Final = 4096  # bytes of the log that hold the last progress bar
_MOMENT: Final = 0.5  # seconds
_BAR: Final = re.compile(r"Requesting API: +\d+%\|[^|\r\n]*\| (\d+)/(\d+) \[[\d:]+<([\d:]*)")
_REASONS: Final = (
    re.compile(r".*API request failed with error message: "),
    re.compile(r"[\w.]*(?:Error|Exception)\b"),
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LmEvalOptions:
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
class ScoredModel:
    """The model that is scored.

    Attributes:
        build: what scores a text.
        writes: what writes an answer: another build, with llama.cpp.
        context: the most tokens it holds; 0 is not known.
        begins: whether a begin token stands before every prompt; None where nobody tells.
    """

    ref: str
    resolved: str
    digest: str
    engine: str
    build: str
    away: bool
    context: int
    writes: str = ""
    begins: bool | None = None


def command(settings: Settings) -> list[str]:
    """How lm-eval is started on this machine.

    Raises:
        Unsupported: it is not here; with what to install.
    """
    if settings.lm_eval:
        program = shutil.which(str(Path(settings.lm_eval).expanduser()))
        if program is None:
            raise Unsupported(f"lm_eval is {settings.lm_eval!r}, which is no program", INSTALL)
        return [program]
    if program := shutil.which("lm_eval") or shutil.which("lm-eval"):
        return [program]
    if find_spec("lm_eval"):
        return [sys.executable, "-m", "lm_eval"]
    raise Unsupported("these tasks need lm-eval, which is not here", INSTALL)


def identify(ref: str, settings: Settings) -> ScoredModel:
    """What `ref` is, without loading it.

    Raises:
        BadRef, ModelNotFound, FormatError: no such model, or none that runs here.
        Unsupported: a route, whose answers are not one model's.
    """
    from overt.gateway import routing
    from overt.runtime.loader import PlaceCache

    target = routing.aliases(settings.home).find(ref) or ref
    if isinstance(target, routing.Route):
        raise Unsupported(f"{ref} is a route, and a task is scored on one model", "name a model")
    if target.startswith(_remote_arguments()):
        return ScoredModel(ref, target, "", target.partition(":")[0], "", away=True, context=0)
    from overt.runtime.native_build.build import native_path

    place = PlaceCache(settings).get(target)
    place.check("score")
    is_torch = settings.engine == "torch"
    is_native = settings.engine != "wheel" and native_path(settings.home) is not None
    answers = _build("torch" if is_torch else "xllamacpp")
    return ScoredModel(
        ref,
        target,
        place.model.digest,
        "torch" if is_torch else "llamacpp",
        _build("torch" if is_torch else "llama-cpp-py-sync"),
        away=False,
        context=place.header.context_length or 0,
        writes=f"{answers}, native" if is_native and not is_torch else answers,
    )


def _remote_arguments() -> tuple[str, ...]:
    from overt import ref as refs

    return tuple(refs.ELSEWHERE)


def _build(package: str) -> str:
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def evaluate(
    who: ScoredModel, tasks: list[str], options: LmEvalOptions, settings: Settings, say: Say
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
    paths = []
    with external_tool.server(settings) as url:
        if not who.away:
            say(f"lm-eval: loading {who.ref}")
            who = replace(who, begins=begins(url, who.ref))
        for task in tasks:
            what = f"lm-eval: {task} on {who.ref}"
            say(what)
            begun = time.time()
            with tempfile.TemporaryDirectory(prefix="overt-lm-eval-") as folder:
                _run(
                    [*program, *_arguments(who, task, options, url)],
                    Path(folder),
                    who,
                    options,
                    partial(_report_progress, say, what),
                )
                output = lm_eval_output.read(Path(folder) / "out")
            value = lm_eval_output.receipt_of(
                output,
                task,
                _model(who, output),
                _parameters(who, options),
                options.seed,
                begun,
                time.time() - begun,
            )
            path = receipt.write(settings.home / "evaluations", value)
            paths.append(value | {"path": str(path)})
    return paths


def begins(url: str, ref: str) -> bool:
    """Whether the server puts a begin token before the prompts of `ref`; loads the model.

    Raises:
        EngineFailed: it does not say, with its reason.
    """
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    why = "the answer is no JSON object with add_bos_token"
    try:
        # S310: the address is that of our own server.
        with build_opener(ProxyHandler({})).open(f"{_of(url, ref)}/tokenizer_info") as answer:
            return bool(json.load(answer)["add_bos_token"])
    except HTTPError as error:
        why = error.read(_MAX_OUTPUT).decode("utf-8", "replace")
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error)
    raise EngineFailed(
        f"{ref} does not tell how its prompts begin: {' '.join(why.split())[:300]}",
        f"try it by itself: overt run {ref} hello",
    )


def _of(url: str, ref: str) -> str:
    from urllib.parse import quote

    return f"{url}/of/{quote(ref, safe=':/@')}"


def _report_progress(say: Say, what: str, far: str) -> None:
    say(f"{what}: {far}")


def _model(who: ScoredModel, output: lm_eval_output.LmEvalOutput) -> dict[str, Any]:
    """The model as the receipt has it: `build` is what answered, both where both did."""
    kinds = {str(config.get("output_type")) == _WRITTEN for config in output.configs.values()}
    builds = {True: who.writes, False: who.build}
    return {
        "ref": who.ref,
        "resolved": who.resolved,
        "digest": who.digest,
        "engine": who.engine,
        "build": "; ".join(dict.fromkeys(builds[kind] for kind in sorted(kinds or {False}))),
        "away": who.away,
    }


def _parameters(who: ScoredModel, options: LmEvalOptions) -> dict[str, Any]:
    return {
        "limit": options.limit,
        "shots": options.shots,
        "seed": options.seed,
        "begin_token": who.begins,
        "through": "local-chat-completions" if who.away else "local-completions",
    }


def _arguments(who: ScoredModel, task: str, options: LmEvalOptions, url: str) -> list[str]:
    if who.away:
        kind, base = "local-chat-completions", f"{url}/v1/chat/completions"
        more = ",max_retries=3"
    else:
        kind, base = "local-completions", f"{_of(url, who.ref)}/v1/completions"
        more = ",max_retries=1,tokenizer_backend=remote,tokenized_requests=True"
        # lm-eval does not know of the begin token, which takes a place.
        more += f",max_length={who.context - bool(who.begins)}" if who.context else ""
    args = [
        "run",
        "--model",
        kind,
        "--tasks",
        task,
        "--log_samples",
        "--output_path",
        "out",
        "--model_args",
        f"model={who.ref},base_url={base},timeout={_PATIENCE}{more}",
    ]
    if who.away:
        args.append("--apply_chat_template")
    for flag, value in (
        ("--include_path", options.include.absolute() if options.include else None),
        ("--limit", options.limit),
        ("--num_fewshot", options.shots),
    ):
        if value is not None:
            args += [flag, str(value)]
    return args


def _run(
    command: list[str],
    folder: Path,
    who: ScoredModel,
    options: LmEvalOptions,
    say: Say = lambda _: None,
) -> None:
    """Run lm-eval to its end; `say` is told how far it is.

    Raises:
        Failure, Refused: it did not end well.
    """
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environ(folder, options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=external_tool.dying_with_us(),
        )
        try:
            while (code := _exit_code(process)) is None:
                if far := progress_of(_last(log, _MAX_BAR)):
                    say(far)
        except BaseException:
            external_tool.end(process)
            raise
    if code:
        _failed(code, _last(log, 20_000), who)


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """How it ended, or None after a moment in which it did not."""
    try:
        return process.wait(_MOMENT)
    except subprocess.TimeoutExpired:
        return None


def _last(log: Path, most: int) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read(most).decode("utf-8", "replace")


def progress_of(output: str) -> str:
    """What the last progress bar (tqdm's) in `said` tells of requests; "" for none."""
    bars = _BAR.findall(output)
    if not bars:
        return ""
    done, total, left = bars[-1]
    return f"{done} of {total} requests" + (f", {left} left" if left else "")


def _failed(code: int, output: str, who: ScoredModel) -> None:
    """Raises Failure, Refused: why it ended with `code`, by what it said last."""
    if who.away and _NO_LOGPROBS in output:
        raise Refused(
            f"this task goes by the log-probabilities of a prompt, and {who.resolved} tells none: "
            f"closed chat APIs do not",
            "choose a task whose answers are written (generate_until), or a model that runs here",
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["nothing"]
    reasons = [line for pattern in _REASONS for line in lines if pattern.match(line)]
    last = (reasons or lines[-1:])[0].rpartition("error message: ")[2]
    if any(
        word in output for word in ("OfflineModeIsEnabled", "offline mode", "LocalEntryNotFound")
    ):
        raise Failure(
            f"lm-eval lacks a data set: {last[:300]}", "--hub lets it fetch what it needs"
        )
    raise Failure(f"lm-eval ended with {code}: {last[:400]}", "the same command starts it again")


def _environ(folder: Path, options: LmEvalOptions) -> dict[str, str]:
    """What lm-eval sees of this process: no keys of providers, and no network but our server."""
    names = (*_PASSED, *(_ONLINE if options.hub else ()))
    environ = {name: os.environ[name] for name in names if name in os.environ}
    environ |= {
        "TQDM_MININTERVAL": "1",
        "OPENAI_API_KEY": "none",
        "NO_PROXY": "127.0.0.1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not options.hub:
        offline = (
            "HF_HUB_OFFLINE",
            "HF_DATASETS_OFFLINE",
            "HF_EVALUATE_OFFLINE",
            "TRANSFORMERS_OFFLINE",
        )
        environ |= dict.fromkeys(offline, "1")
    return environ
