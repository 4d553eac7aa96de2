"""The two sides of the comparison, behind one face: Overt, and llama.cpp's own server.

Both are started as programs, asked the same things with the same sampling, and timed by the clock
of whoever asks: for llama-server an HTTP client here, for Overt the process that holds its exchange
(session.py), which is what a user of Overt runs. Tokens are counted by the engine.
"""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

START_LIMIT = 120.0  # seconds to load a model
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Setup:
    """What both sides are given. `context` is in tokens and for each of `parallel` slots.

    `threads` 0 leaves the number to the side itself. `environ` is added to the environment.
    """

    ref: str
    file: Path
    home: Path
    context: int
    parallel: int
    threads: int
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer: seconds from the question to the first piece of text and to the end."""

    first: float | None
    total: float
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    failed: str | None = None

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first one; 0 where there was none."""
        if self.first is None or self.tokens_out < 2 or self.total <= self.first:
            return 0.0
        return (self.tokens_out - 1) / (self.total - self.first)

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens read (those reused left out) for each second to the first piece of text."""
        return (self.tokens_in - self.tokens_cached) / self.first if self.first else 0.0


def together_rate(timings: list[Timing]) -> float:
    """Tokens a second of all streams together, from the common start to the last one's end."""
    return sum(timing.tokens_out for timing in timings) / max(timing.total for timing in timings)


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB (10**6 bytes), summed over a side's processes.

    `peak`: VmHWM, the most that was ever resident; a page two processes share counts twice.
    `pss`: at this moment, a shared page counted once; None where the kernel will not say.
    """

    peak: float
    pss: float | None


class Side(ABC):
    """A running engine. Use as a context manager."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    @abstractmethod
    def ask(self, prompts: list[str], max_tokens: int, limit: float = 120.0) -> list[Timing]:
        """Ask all `prompts` at once, each cut off after `limit` seconds."""

    def memory(self) -> Memory:
        import psutil

        top = psutil.Process(self.process.pid)
        pids = [top.pid, *(child.pid for child in top.children(recursive=True))]
        parts = [_pss(pid) for pid in pids]
        pss = None if None in parts else sum(part for part in parts if part is not None)
        return Memory(sum(_status(pid, "VmHWM") for pid in pids), pss)

    def close(self) -> None:
        stop(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Overt(Side):
    """Overt's exchange in a process of its own (session.py), and its sandboxed worker."""

    def __init__(self, setup: Setup, engine: str) -> None:
        flags = {
            "home": str(setup.home),
            "context": setup.context,
            "parallel": setup.parallel,
            "threads": setup.threads,
            "engine": engine,
            "offline": True,
        }
        command = [sys.executable, str(HERE / "session.py"), setup.ref, json.dumps(flags)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | setup.environ,
            start_new_session=True,
        )
        self.chose_threads = setup.threads == 0
        self.facts = self._line(START_LIMIT)

    def ask(self, prompts: list[str], max_tokens: int, limit: float = 120.0) -> list[Timing]:
        job = {"prompts": prompts, "max_tokens": max_tokens, "limit": limit}
        _pipe(self.process.stdin).write(json.dumps(job) + "\n")
        _pipe(self.process.stdin).flush()
        return [Timing(**fields) for fields in self._line(limit + 30)]

    def _line(self, limit: float) -> Any:
        out = _pipe(self.process.stdout)
        ready = select.select([out], [], [], limit)[0]
        line = out.readline() if ready else ""
        if not line:
            self.close()
            raise RuntimeError(f"Overt gave no answer within {limit:.0f} s, or ended")
        return json.loads(line)


class LlamaServer(Side):
    """llama-server as its own users run it: its defaults, apart from what `Setup` makes equal."""

    def __init__(self, setup: Setup, server: Path) -> None:
        self.port = free_port()
        command = server_command(setup, server, self.port)
        self.facts = {"command": " ".join([server.name, *command[1:]])}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | setup.environ,
            start_new_session=True,
        )
        self._wait()

    def ask(self, prompts: list[str], max_tokens: int, limit: float = 120.0) -> list[Timing]:
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self._one(prompt, max_tokens, limit), prompts))

    def _wait(self) -> None:
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.002)
        self.close()
        raise RuntimeError("llama-server did not start")

    def _one(self, prompt: str, max_tokens: int, limit: float) -> Timing:
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "seed": 1,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begin = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        first, pieces, usage, failed = None, 0, None, None
        try:
            for line in connection.getresponse():
                chunk = server_event(line)
                if text_of(chunk):
                    first = first or time.perf_counter() - begin
                    pieces += 1
                usage = chunk.get("usage") or usage
                if time.perf_counter() - begin > limit:
                    failed = f"cut off after {limit} s"
                    break
        except TimeoutError:
            failed = f"cut off after {limit} s"
        finally:
            connection.close()
        return Timing(
            first,
            time.perf_counter() - begin,
            usage["prompt_tokens"] if usage else 0,
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) if usage else 0,
            usage["completion_tokens"] if usage else pieces,
            failed,
        )


def server_command(setup: Setup, server: Path, port: int) -> list[str]:
    """The whole command line of llama-server."""
    threads = ["-t", str(setup.threads), "-tb", str(setup.threads)] if setup.threads else []
    return [
        str(server),
        "-m",
        str(setup.file),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-c",
        str(setup.context * setup.parallel),
        "-np",
        str(setup.parallel),
        *threads,
        # Overt keeps no copies of old prompts beside the slots; without this the peer would.
        "--cache-ram",
        "0",
    ]


def server_event(line: bytes) -> dict[str, Any]:
    """One line of a server-sent event stream as its JSON object; {} for any other line."""
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return {}
    chunk = json.loads(line[6:])
    if "error" in chunk:
        raise RuntimeError(f"llama-server: {chunk['error']}")
    return dict(chunk)


def text_of(chunk: dict[str, Any]) -> str:
    """The text a chunk of a chat completion adds."""
    return "".join(c["delta"].get("content") or "" for c in chunk.get("choices", ()))


def cold_overt(setup: Setup, engine: str) -> float:
    """Seconds from the start of `overt run` to the first byte of the answer."""
    command = [
        str(Path(sys.executable).with_name("overt")),
        "run",
        setup.ref,
        "hi",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
        "--seed",
        "1",
        "--quiet",
        "--offline",
        "--home",
        str(setup.home),
        "--engine",
        engine,
        "--context",
        str(setup.context),
        "--threads",
        str(setup.threads),
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    first = os.read(_pipe(process.stdout).fileno(), 1)
    seconds = time.perf_counter() - begin
    _, errors = process.communicate(timeout=60)
    if not first or process.returncode:
        raise RuntimeError(f"overt run failed: {errors.decode('utf-8', 'replace')[-400:]}")
    return seconds


def cold_server(setup: Setup, server: Path) -> float:
    """Seconds from the start of llama-server to the first piece of an answer over HTTP."""
    begin = time.perf_counter()
    with LlamaServer(setup, server) as side:
        timing = side.ask(["hi"], 8)[0]
        # `total` ran on to the end of the answer; only the time up to its first piece counts.
        return time.perf_counter() - begin - (timing.total - (timing.first or timing.total))


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process and the session it leads; one that reads from us ends by itself first."""
    if process.stdin:
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout:
        process.stdout.close()


def _pipe(stream: IO[Any] | None) -> IO[Any]:
    if stream is None:
        raise RuntimeError("the process was started without this pipe")
    return stream


def _status(pid: int, name: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    found = next((line for line in text.splitlines() if line.startswith(f"{name}:")), f"{name}: 0")
    return int(found.split()[1]) * 1024 / 1e6


def _pss(pid: int) -> float | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace")
    except OSError:
        return None
    found = [line for line in text.splitlines() if line.startswith("Pss:")]
    return int(found[0].split()[1]) * 1024 / 1e6 if found else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
