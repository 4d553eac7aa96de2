"""llama.cpp's wheel for Linux needs the system's libgomp.so.1, and a bare Debian has none.

The package cmeel-libomp carries LLVM's OpenMP under that name, with the same symbol versions. The
loader reads LD_LIBRARY_PATH only when a process starts, so this is settled before the worker does.
"""

import ctypes
import os
import sys
import sysconfig
from pathlib import Path

from overt.errors import EngineFailed

NAME = "libgomp.so.1"


def environ(packages: Path | None = None) -> dict[str, str]:
    """What a worker's environment needs so that the loader finds OpenMP; nothing where it does.

    `packages` is the site-packages folder to look in, by default this Python's own.

    Raises:
        EngineFailed: neither the system nor a package has it.
    """
    if sys.platform != "linux" or _has_openmp():
        return {}
    folder = (packages or Path(sysconfig.get_path("platlib"))) / "cmeel.prefix/lib"
    if not (folder / NAME).is_file():
        raise EngineFailed(
            f"this system has no {NAME}, which llama.cpp computes with",
            "install it (Debian: libgomp1, Fedora: libgomp), or type `pip install cmeel-libomp`",
        )
    before = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{folder}:{before}" if before else str(folder)}


def _has_openmp() -> bool:
    try:
        ctypes.CDLL(NAME)
    except OSError:
        return False
    return True
