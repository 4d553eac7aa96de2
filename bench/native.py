"""Builds llama-server for this CPU from the sources Overt's engine is made of: the bench's peer.

    python bench/native.py            prints the path; builds it once, in about five minutes

The archive is the one `overt engine build` uses (same version, same SHA-256), the options are
llama.cpp's own defaults for a native release build, and the result is kept in .cache/bench.
"""

import shutil
import sys
from pathlib import Path

from overt.errors import OvertError
from overt.runtime.native_build.build import VERSION, cpu_fingerprint
from overt.runtime.native_build.compile import (
    build_tools,
    check_machine,
    environment,
    jobs,
    ninja_count,
    run_logged,
    unpacked_sources,
)
from overt.settings import Settings, load

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"
# What is off would be fetched while compiling, and a bench of a local server needs none of it.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)


def server_path() -> Path:
    """Where llama-server for this version and CPU is, or will be."""
    return CACHE / f"llama-server-{VERSION}-{cpu_fingerprint()}"


def server(settings: Settings) -> Path:
    """llama-server, built if it is not there yet.

    Raises:
        OvertError: there is no compiler, or the sources could not be had or compiled.
    """
    path = server_path()
    if path.exists():
        return path
    check_machine()
    work = CACHE / f"{path.name}.building"
    work.mkdir(parents=True, exist_ok=True)
    source = unpacked_sources(work, settings, _Shown("fetching the sources"))
    tools = build_tools(work, settings, _Shown("installing the build tools"))
    environ, log, show = environment(tools), work / "build.log", _Shown("compiling llama-server")
    tree = source / "thirdparty" / "llama.cpp"
    commands = (
        [str(tools / "cmake"), "-S", str(tree), "-B", str(work / "build"), *OPTIONS],
        [
            str(tools / "cmake"),
            "--build",
            str(work / "build"),
            "--target",
            "llama-server",
            "--parallel",
            str(jobs()),
        ],
    )
    for command in commands:
        for line in run_logged(command, work, environ, log, "compiling llama-server"):
            if count := ninja_count(line):
                show(count[0] / count[1])
    new = work / "llama-server"
    shutil.copy2(work / "build" / "bin" / "llama-server", new)
    new.rename(path)
    shutil.rmtree(work)
    return path


class _Shown:
    """Prints a phase's progress on stderr, a line for every tenth."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.tenth = -1

    def __call__(self, part: float) -> None:
        if int(part * 10) > self.tenth:
            self.tenth = int(part * 10)
            print(f"{self.what}: {self.tenth * 10} %", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(server(load()))
    except OvertError as error:
        sys.exit(f"bench: {error}")
