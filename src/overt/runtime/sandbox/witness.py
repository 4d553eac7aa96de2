"""What the kernel itself shows of a worker's sandbox, beside what the worker says of it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overt.runtime.sandbox import walls
from overt.runtime.sandbox.walls import Isolation
from overt.runtime.worker import crash_reason


def confirmed(pid: int, claimed: Mapping[str, Any]) -> Isolation:
    """What a worker says of its sandbox, less what the kernel does not show of it.

    Read from ``/proc``, which the worker cannot write: so a layer counts only if it is there.
    Landlock leaves no trace in ``/proc``; that one is the worker's word, given before it has loaded
    anything that is not Overt's own.
    """
    layers = tuple(name for name in walls.LAYERS if name in claimed.get("layers", ()))
    missing = tuple(crash_reason.clean(str(why)) for why in claimed.get("missing", ()))
    if sys.platform != "linux" or not layers:
        return Isolation(layers, missing)
    shown = _process_status(pid)
    absent = tuple(name for name in layers if not shown.get(name, True))
    return Isolation(
        tuple(name for name in layers if name not in absent),
        (*missing, *(f"{name} (the kernel does not show it)" for name in absent)),
    )


def _process_status(pid: int) -> dict[str, bool]:
    try:
        theirs, ours = _status(pid), _status(os.getpid())
        elsewhere = Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except (OSError, ValueError):
        return dict.fromkeys(walls.LAYERS, False)
    sets = ("CapEff", "CapPrm", "CapInh", "CapAmb")
    # In a container everything is filtered already, so ours is there only if there is one more.
    more = int(theirs.get("Seccomp_filters", "1")) > int(ours.get("Seccomp_filters", "0"))
    return {
        walls.NETWORK: elsewhere,
        walls.PRIVILEGES: theirs.get("NoNewPrivs") == "1",
        walls.SECCOMP: theirs.get("Seccomp") == "2" and more,
        walls.CAPABILITIES: not any(int(theirs.get(name, "1"), 16) for name in sets),
    }


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
