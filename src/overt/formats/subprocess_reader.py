"""Reading what nobody vouches for in a short-lived process of its own, with limits.

For content whose reader can be made to take all time or memory there is: a chat template, a pickle.
`run` starts ``python -I -m MODULE`` with an empty environment; the module's `main` calls `serve`,
which limits its own process before it reads the question. Question and answer are JSON.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from overt.errors import Failure

ANSWER: Final = 4 << 20
"""Bytes of an answer, at most."""
MEMORY: Final = 768 << 20
"""Bytes of address space of the process, at most."""


class Exceeded(Failure):
    """The content took more than it may, or ended the process that read it."""


def run(module: str, question: object, seconds: int) -> Any:
    """What `module` answers to `question`.

    Args:
        module: its ``__main__`` calls `serve`.
        question: anything JSON can carry.
        seconds: of processor time; of real time a few more.

    Raises:
        Exceeded: too much time, memory or text, or the process died; says which.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", module, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
        cwd="/",
    )
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(4 * seconds + 6, kill)
    clock.start()
    with process:
        try:
            answer = _exchange(process, json.dumps(question).encode())
        finally:
            process.kill()
            clock.cancel()
    return _answer(answer, process.returncode, seconds, late.is_set())


def _exchange(process: "subprocess.Popen[bytes]", question: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(question)
    with suppress(BrokenPipeError):
        process.stdin.close()
    answer = process.stdout.read(ANSWER + 1)
    if len(answer) > ANSWER:
        raise Exceeded(f"it gave more than {ANSWER >> 20} MiB")
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)  # so that its own end is seen, and not the one below
    return answer


def _answer(answer: bytes, code: int, seconds: int, late: bool) -> Any:
    try:
        reply = json.loads(answer)
    except (ValueError, RecursionError):
        reply = None
    if isinstance(reply, dict) and "answer" in reply:
        return reply["answer"]
    if isinstance(reply, dict) and reply.get("memory"):
        raise Exceeded(f"it took more than {MEMORY >> 20} MiB of memory")
    if late or (not answer and code in (-24, -9)):  # SIGXCPU, or SIGKILL behind it
        raise Exceeded(f"it took more than {seconds} s")
    raise Exceeded(f"the process that read it ended with {code}")


def serve(reply: Callable[[Any], Any], files: int = 0) -> None:
    """Limit this process, then answer the one question on stdin.

    `files` is how many files or sockets `reply` may have open; with none it can reach nothing, so
    it has to have imported what it needs.
    """
    import resource

    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 + files, 3 + files))
    try:
        answer: dict[str, Any] = {"answer": reply(json.loads(sys.stdin.buffer.read()))}
    except MemoryError:
        answer = {"memory": True}
    sys.stdout.write(json.dumps(answer))
