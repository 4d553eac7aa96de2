"""Which workers run: one small file each in ``$OVERT_HOME/run``, for `overt ps` and `overt stop`.

A process is known by its number *and* the moment it started, as numbers are used again; a file
whose process is gone is removed by whoever looks next.
"""

import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overt.errors import NotFound
from overt.runtime.sandbox.walls import Isolation
from overt.runtime.worker.process import Process


@dataclass(frozen=True, slots=True)
class Running:
    """One worker that runs now.

    Attributes:
        pid, parent: process numbers of the worker and of the program that started it.
        label, digest: the model.
        started: seconds since 1970.
        memory: resident bytes now.
        isolation: the walls in force.
    """

    pid: int
    label: str
    digest: str
    started: float
    memory: int
    isolation: Isolation
    parent: int


def running(run: Path) -> list[Running]:
    """The workers recorded in `run` that are alive, oldest first."""
    workers = []
    for path in run.glob("*.json"):
        worker_record = _read(path)
        if worker_record is None or not _is_alive(worker_record):
            with suppress(OSError):  # in a folder that may only be read
                path.unlink()
            continue
        workers.append(
            Running(
                pid=worker_record["pid"],
                label=worker_record["label"],
                digest=worker_record["digest"],
                started=worker_record["started"],
                memory=_memory(worker_record["pid"], "VmRSS"),
                isolation=Isolation(
                    tuple(worker_record["layers"]), tuple(worker_record["missing"])
                ),
                parent=worker_record["parent"],
            )
        )
    return sorted(workers, key=lambda worker: worker.started)


def stop(run: Path, pid: int, patience: float = 2.0) -> None:
    """End a recorded worker: ask, and after `patience` seconds insist. Blocks until it has gone.

    Raises:
        NotFound: no worker of that number runs (another process of that number is left alone).
    """
    path = run / f"{pid}.json"
    worker_record = _read(path)
    if worker_record is None or not _is_alive(worker_record):
        path.unlink(missing_ok=True)
        raise NotFound(f"no worker runs as process {pid}", "type `overt ps` to see those that do")
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        _signal(worker_record, number)
        if _wait_until_gone(worker_record, patience):
            break
    path.unlink(missing_ok=True)


def record(run: Path, process: Process) -> None:
    """Write a worker's file, whole or not at all."""
    worker_record = {
        "pid": process.pid,
        "born": _born(process.pid),
        "label": process.spec.label,
        "digest": process.spec.digest,
        "parent": os.getpid(),
        "started": time.time(),
        "layers": process.isolation.layers,
        "missing": process.isolation.missing,
    }
    path = run / f"{process.pid}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(worker_record), "utf-8")
    new.replace(path)


def forget(run: Path, pid: int) -> None:
    (run / f"{pid}.json").unlink(missing_ok=True)


def sweep(run: Path) -> None:
    """Remove what parents that were killed left behind: files of dead workers, private folders."""
    running(run)
    for path in run.glob("*.tmp"):
        owner = re.fullmatch(r"([0-9]+)-[0-9a-f]+\.tmp", path.name)
        if owner and not _born(int(owner[1])):
            import shutil

            shutil.rmtree(path, ignore_errors=True)


def peak_memory(pid: int) -> int:
    """Most resident memory process `pid` has had, in bytes; 0 where that cannot be read."""
    return _memory(pid, "VmHWM")


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of process `pid`, and those of them that are nobody else's and no file's.

    The second is as large as the first where the system does not tell them apart.
    """
    return _memory(pid, "VmRSS"), _memory(pid, "RssAnon")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        worker_record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds: dict[str, type | tuple[type, ...]] = {
        "pid": int,
        "born": str,
        "label": str,
        "digest": str,
        "parent": int,
        "started": (int, float),
        "layers": list,
        "missing": list,
    }
    whole = isinstance(worker_record, dict) and all(
        isinstance(worker_record.get(name), kind) for name, kind in kinds.items()
    )
    return worker_record if whole and path.name == f"{worker_record['pid']}.json" else None


def _is_alive(worker_record: dict[str, Any]) -> bool:
    return bool(worker_record["born"]) and _born(worker_record["pid"]) == worker_record["born"]


def _born(pid: int) -> str:
    """When process `pid` started, in a form that is compared only; "" if there is no such process.

    On Linux the ticks since the machine started, with that start's own id; a zombie does not count.
    """
    if sys.platform == "linux":
        try:
            # The command's name, in brackets, may itself hold spaces and brackets.
            rest = (
                Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            )
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (OSError, ValueError):
            return ""
        return "" if rest[0] in "ZX" else f"{boot}/{rest[19]}"
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _signal(worker_record: dict[str, Any], number: int) -> None:
    with suppress(OSError):
        if not hasattr(os, "pidfd_open"):
            os.kill(worker_record["pid"], number)
            return
        # Held by descriptor, then looked at again: a number used anew in between is not hit.
        held = os.pidfd_open(worker_record["pid"])
        try:
            if _is_alive(worker_record):
                signal.pidfd_send_signal(held, number)
        finally:
            os.close(held)


def _wait_until_gone(worker_record: dict[str, Any], patience: float) -> bool:
    until = time.monotonic() + patience
    while _is_alive(worker_record):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _memory(pid: int, which: str) -> int:
    if sys.platform == "linux":
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(f"{which}:"):
                    return int(line.split()[1]) << 10
        return 0
    import psutil

    try:
        seen = psutil.Process(pid).memory_info()
        return int(getattr(seen, "peak_wset", seen.rss) if which == "VmHWM" else seen.rss)
    except psutil.Error:
        return 0
