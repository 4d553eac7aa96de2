"""The machine a bench ran on, and how much of it others were using."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

from overt.runtime.native_build.build import VERSION


def cores_busy(seconds: float = 1.0) -> float:
    """Cores that other processes keep busy, over a moment in which this one sleeps."""
    return psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1)


def about() -> dict[str, Any]:
    """What a reader needs to judge figures by."""
    text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    name = next((line for line in text.splitlines() if line.startswith("model name")), "")
    return {
        "cpu": name.partition(":")[2].strip() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "xllamacpp": VERSION,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def sentence(machine: dict[str, Any]) -> str:
    """``AMD EPYC, 2 cores, 25.3 GB; xllamacpp 2026.10.11549``."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; "
        f"xllamacpp {machine['xllamacpp']}"
    )
