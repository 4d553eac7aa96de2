"""Running a program nobody has read, behind every wall this machine has.

The walls are those of the workers (runtime/sandbox/walls.py): its own network namespace, landlock
(it reads Python and the system's libraries, and writes one empty folder), seccomp (no other
processes, no internet sockets; after `seal` no sockets at all), no capabilities. On top come limits
of time, memory, files and output, and an empty environment.

What is told apart: a program that ended by itself with ``exit(0)`` did not pass. To say that it
passed it would have to find a word in the memory of its own process, which a program written to
cheat can; what it cannot do is get out.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from typing import Any, Final, NamedTuple

from overt.errors import NoIsolation

OUTPUT: Final = 1 << 20
"""Bytes of one file that a program may write, its output included."""
_FILES = 32
_PROCESSES = 16
_CODE = 4 << 20


class SandboxLimits(NamedTuple):
    """What a program may take.

    Attributes:
        seconds: of processor time; of real time twice that and 5 more.
        memory: bytes of address space.
    """

    seconds: int = 10
    memory: int = 512 << 20


class ProgramRun(NamedTuple):
    """How a program ended.

    Attributes:
        why: "" where it passed, else how it ended.
        output: the last 2,000 bytes of what it printed.
        seconds: of real time.
        layers: the walls it had.
    """

    passed: bool
    why: str
    output: str
    seconds: float
    layers: tuple[str, ...]


def check(unsafe: bool) -> tuple[str, ...]:
    """The walls there will be.

    Raises:
        NoIsolation: they do not keep a program from the network and from files, and `unsafe` is
            not set.
    """
    if unsafe:
        return ()
    layers, missing = _walls()
    from overt.runtime.sandbox import walls

    closed = walls.NETWORK in layers or walls.SECCOMP in layers
    if walls.LANDLOCK in layers and closed:
        return layers
    raise NoIsolation(
        f"code of a model is not run here: there is no {'; no '.join(missing)[:300]}",
        "run it on Linux with landlock, or in a machine you can lose with --unsafe-code",
    )


@cache
def _walls() -> tuple[tuple[str, ...], tuple[str, ...]]:
    if sys.platform != "linux":
        return (), ("sandbox on this system",)
    ran, report = _start("pass", SandboxLimits(), unsafe=False)
    missing = tuple(str(layer) for layer in report.get("missing", [])) or (ran.why or "sandbox",)
    return ran.layers, missing


def run(code: str, limits: SandboxLimits, *, unsafe: bool = False) -> ProgramRun:
    """Run a Python program; it passed where it came to its end. Blocks, for a thread of its own.

    Raises:
        NoIsolation: see `check`.
    """
    check(unsafe)
    return _start(code, limits, unsafe=unsafe)[0]


def _start(code: str, limits: SandboxLimits, *, unsafe: bool) -> tuple[ProgramRun, dict[str, Any]]:
    word = secrets.token_hex(16)
    reader, writer = os.pipe()
    with (
        tempfile.TemporaryDirectory(prefix="overt-code-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as printed,
        os.fdopen(reader, "rb") as report,
    ):
        task = {
            "code": code[:_CODE],
            "word": word,
            "report": writer,
            "folder": folder,
            "parent": os.getpid(),
            "seconds": limits.seconds,
            "memory": limits.memory,
            "unsafe": unsafe,
        }
        begun = time.monotonic()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                cwd=folder,
                env={},
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        late = _finish(process, json.dumps(task).encode(), 2 * limits.seconds + 5)
        seconds = time.monotonic() - begun
        os.set_blocking(report.fileno(), False)
        result = _report_of(report.read(1 << 16) or b"")
        printed.seek(0, os.SEEK_END)
        printed.seek(max(0, printed.tell() - 2000))
        output = printed.read(2000).decode("utf-8", "replace")
    layers = tuple(str(layer) for layer in result.get("layers", []))
    passed = process.returncode == 0 and not late and result.get("word") == word
    why = "" if passed else _why(process.returncode, late, result, output, limits)
    return ProgramRun(passed, why, output, seconds, layers), result


def _finish(process: "subprocess.Popen[bytes]", task: bytes, patience: float) -> bool:
    """Hand over the task and wait; True where it had to be ended."""
    late = False
    with process:
        try:
            process.communicate(task, timeout=patience)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            # Also what it left behind, where no wall kept it from starting processes.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return late


def _report_of(data: bytes) -> dict[str, Any]:
    """What the process reported, line by line; the program may have written there as well."""
    merged: dict[str, Any] = {}
    for line in data.splitlines():
        with suppress(ValueError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict):
                # What came first was written before the program ran.
                merged = {**message, **merged}
    return merged


def _why(
    code: int | None, late: bool, report: dict[str, Any], output: str, limits: SandboxLimits
) -> str:
    if "layers" not in report:
        return f"did not start: {output.strip()[-200:]}"
    if late or code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"too slow: it took more than {limits.seconds} s"
    if code == 0:
        return "left early: it ended the process before its tests had run"
    if code is not None and code < 0:
        return f"signal: ended by {signal.Signals(-code).name}"
    last = output.strip().splitlines()[-1:] or ["no message"]
    return f"error: {last[0][:200]}"


# ---- inside --------------------------------------------------------------------------------


def _limit(task: dict[str, Any]) -> None:
    import resource

    seconds, memory = int(task["seconds"]), int(task["memory"])
    for which, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, OUTPUT, OUTPUT),
        (resource.RLIMIT_NOFILE, _FILES, _FILES),
        (resource.RLIMIT_NPROC, _PROCESSES, _PROCESSES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(which, (soft, hard))


def _main() -> None:
    task = json.loads(sys.stdin.buffer.read())
    report, word = int(task["report"]), str(task["word"])
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    if not task["unsafe"]:
        from overt.runtime.sandbox import walls

        done = walls.enter(walls.SandboxNeeds((), task["folder"], int(task["parent"])))
        layers, missing = done.layers, done.missing
        if walls.SECCOMP in layers:
            walls.seal()
    _limit(task)
    os.write(report, json.dumps({"layers": layers, "missing": missing}).encode() + b"\n")
    # The program sees a module of its own, and a recursion of its own is an error like any other.
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(task.pop("code"), "<answer>", "exec"), names)  # noqa: S102 - what this is for
    sys.stdout.flush()
    os.write(report, json.dumps({"word": word}).encode() + b"\n")
    os._exit(0)  # threads and exit handlers of the program have no say any more


if __name__ == "__main__":
    _main()
