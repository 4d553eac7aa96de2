"""Programs of others that ask our models, such as garak and lm-eval: a server for them, their end.

Such a program runs in a process of its own and gets the address of `overt serve` on this machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final

from overt.errors import EngineFailed
from overt.settings import Settings

_PATIENCE: Final = 30  # seconds that a program may take to end
_SHOWN: Final = 400  # characters of what it said last
_MAX_LINE: Final = 1 << 16
_PDEATHSIG: Final = 1


@contextmanager
def server(settings: Settings) -> Iterator[str]:
    """`overt serve` with these settings on a free port, ended with the block; gives its address.

    Raises:
        EngineFailed: it did not start, with its reason.
    """
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for field in fields(settings):
        value = getattr(settings, field.name)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        environ[f"OVERT_{field.name.upper()}"] = text
    command = [
        sys.executable,
        "-m",
        "overt",
        "serve",
        "--json",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environ,
            preexec_fn=dying_with_us(),
        )
        assert process.stdout is not None
        try:
            url = _url(process.stdout.readline(_MAX_LINE))
            if url is None:
                end(process)
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4 * _SHOWN))
                raise EngineFailed(
                    f"the server for other programs did not start: {last(log.read())}",
                    "try overt serve by itself",
                )
            yield url
        finally:
            end(process)
            process.stdout.close()


def dying_with_us() -> Callable[[], None] | None:
    """For a new process to call: it ends where this thread ends, were it by kill -9 (Linux alone).

    The server has the person's keys and asks for none: it must not stay behind.
    """
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)

    return ask


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program, by force where it does not end when it is told to."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last(output: bytes) -> str:
    """The end of what a program said, on one line."""
    return " ".join(output.decode("utf-8", "replace")[-_SHOWN:].split()) or "it said nothing"


def _url(line: bytes) -> str | None:
    try:
        value: Mapping[str, Any] = json.loads(line)
        return str(value["url"])
    except (ValueError, KeyError, TypeError):
        return None
