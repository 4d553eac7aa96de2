"""The parent's half of host.py: one task, one worker in the sandbox, and what came of it.

A worker writes in its private folder and nowhere else, so it needs no hole in the sandbox: the file
is moved out when the task has ended, and looked at once the worker has gone.
"""

import asyncio
import json
import stat
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from overt.errors import EngineFailed, FormatError, OutOfDisk, lacking
from overt.formats import gguf, split
from overt.models import memory as fit
from overt.runtime.worker import crash_reason
from overt.settings import Settings

HOST = "overt.lab.quantize.host:QuantizeHost"
PYTHON_PATH: tuple[Path, ...] = ()
"""Folders a worker imports from first; tests put a host of their own there."""
_SPARE = 1 << 30  # what numpy, Python and llama.cpp take beside what is counted

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do.

    Attributes:
        kind: the call, such as ``quantize``.
        asked: its arguments.
        label: what people call it.
        parameters: for `WorkerHost.load`.
        readable: files it may read.
        memory: bytes of private memory it may take.
        made: where the file goes that it makes, by the name in its folder.
    """

    kind: str
    asked: Mapping[str, Any]
    label: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    readable: tuple[Path, ...] = ()
    memory: int = 0
    made: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What came of a task.

    Attributes:
        replies: the objects that the host sent, in order.
        info: what it said when it had loaded.
        resident, own: bytes of memory at the end, and those of them that are no file's.
        layers: the walls that were around it.
    """

    replies: tuple[Mapping[str, Any], ...]
    info: Mapping[str, Any]
    resident: int
    own: int
    layers: tuple[str, ...]


def available() -> None:
    """Raises Unsupported: a package that all of this needs is not installed."""
    for package in ("llama_cpp_py_sync", "numpy"):
        if not find_spec(package):
            raise lacking("quantizing", package.replace("_", "-"))


def computing(
    weights: Path, header: gguf.GgufHeader, window: int, threads: int, *, collect: bool = False
) -> dict[str, Any]:
    """The part of a `Task` that loads a model to compute with."""
    logits = 4 * 4 * 32 * (header.vocabulary_size or 0)
    need = fit.need(header, window, 1, 512)
    return {
        "parameters": {
            "weights": str(weights.absolute()),
            "window": window,
            "threads": threads,
            "collect": collect,
        },
        "readable": split.files(weights),
        "memory": need.total + logits + (256 << 20) + _SPARE,
    }


def carry_out(task: Task, settings: Settings, on_reply: Told | None = None) -> TaskOutcome:
    """Do it, in a worker of its own; blocks, outside of any event loop.

    Raises:
        EngineFailed: llama.cpp gave up; WorkerDied where its process ended.
        OutOfDisk: there was no room for the file.
        NoIsolation: the settings ask for walls that this machine has not.
    """
    return asyncio.run(_carried_out(task, settings, on_reply or (lambda _: None)))


async def _carried_out(task: Task, settings: Settings, on_reply: Told) -> TaskOutcome:
    from overt.runtime.worker.supervisor import Worker, WorkerSpec

    spec = WorkerSpec(
        host=HOST,
        parameters=task.parameters,
        label=task.label,
        memory=task.memory,
        readable=tuple(path.absolute() for path in task.readable),
        isolation=settings.isolation,
        python_path=PYTHON_PATH,
        environ={"OMP_NUM_THREADS": str(task.parameters.get("threads", 1))},
    )
    worker = await Worker.start(spec, settings.home / "run", timeout=600)
    try:
        replies = []
        async with aclosing(worker.call(task.kind, json.dumps(task.asked).encode())) as chunks:
            async for chunk in chunks:
                reply = _parsed(chunk)
                replies.append(reply)
                on_reply(reply)
        resident, own = worker.memory()
        folder, layers, info = worker.folder, worker.isolation.layers, worker.info
        for name, target in task.made.items():
            (folder / name).replace(target)
    except EngineFailed as error:
        raise _in_words(error) from None
    except OSError as error:
        raise EngineFailed(f"{task.label}: nothing was written: {error.strerror}") from None
    finally:
        await worker.stop()
    for name, target in task.made.items():  # it can be written to no more
        if not stat.S_ISREG(target.lstat().st_mode):
            with suppress(OSError):
                target.unlink()
            raise EngineFailed(f"{task.label}: what it made as {name} is no file")
    return TaskOutcome(tuple(replies), info, resident, own, layers)


def _parsed(chunk: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(chunk)
    except (ValueError, RecursionError) as error:
        raise EngineFailed(f"the worker broke its own protocol: {error}") from None
    if not isinstance(reply, dict):
        raise EngineFailed("the worker broke its own protocol")
    return reply


def _in_words(error: EngineFailed) -> Exception:
    message = error.message
    if "iostream error" in message or "No space left" in message:
        return OutOfDisk("the disk is full: the quantized file has no room", "free some space")
    if "requires an imatrix" in message or "importance matrix" in message:
        return lacks_importance()
    if crash_reason.short_of_memory(message):
        return EngineFailed(f"{message}: it ran out of memory", "choose a smaller model")
    return error


def lacks_importance() -> FormatError:
    """A type that cannot be made without an importance matrix was asked for without one."""
    return FormatError(
        "this type needs an importance matrix, else its weights would be noise",
        "add --imatrix auto, or --imatrix FILE",
    )


def numbers(reply: Mapping[str, Any], name: str) -> list[float]:
    """A list of numbers in a reply. Raises EngineFailed where there is none."""
    values = reply.get(name)
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise EngineFailed("the worker broke its own protocol")
    return [float(value) for value in values]
