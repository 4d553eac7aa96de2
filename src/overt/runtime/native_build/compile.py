"""Makes llama.cpp for this very CPU: the same sources as the wheel, with ``-march=native``.

The source archive of xllamacpp and the build tools (build_tools.txt) are pinned by SHA-256 and come
from the person's own package index. xllamacpp's own ``setup.py`` does the work; it is steered by
environment variables it documents. Everything happens in one hidden folder of
``$OVERT_HOME/engines``, which a build that was stopped finds again, and which is renamed into place
at the end.

Two options that the wheel has are off, since they fetch further sources while compiling: BoringSSL
(the worker has no network) and LLGuidance (JSON schemas go through llama.cpp's own grammars).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overt.errors import EngineFailed, FormatError, OutOfDisk
from overt.models.memory import free_memory
from overt.ref import safe_member
from overt.runtime.native_build.build import (
    RECORD,
    VERSION,
    Build,
    describe,
    digest,
    instruction_sets,
    libc,
    lock,
    module,
    native_folder,
    native_path,
    probe,
)
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.models.sources.base import FetchProgress

ARCHIVE_SHA256 = "c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"
"""Of the source archive (sdist) of xllamacpp `VERSION`."""

_DISK = 1_200_000_000  # bytes free before a build; 0.6 GB are used, measured
_MEMORY_A_JOB = 1 << 30  # bytes for one compiler; 0.6 GB are the most it takes, measured
_UNPACKED = 2_000_000_000  # bytes a source archive may hold; it holds 0.2 GB
_MODULE_FILES = 4  # C++ files of the Python module
_KEPT_BACK = re.compile(r"PYTHON|XLLAMACPP|OVERT_KEY_|.*(?:API_KEY|AUTH_TOKEN|_TOKEN)\Z")
"""Variables that a build is not to see: it runs the programs of others."""
_CMAKE = (
    "-DGGML_NATIVE=ON",
    "-DGGML_OPENMP=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_LLGUIDANCE=OFF",
    "-DLLAMA_BUILD_BORINGSSL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is: `fraction` of the whole, and the seconds left where they can be told."""

    what: str
    fraction: float
    seconds_left: float | None


Tell = Callable[[BuildProgress], None]
Part = Callable[[float], None]  # told how much of one phase is done, 0 to 1


def build(settings: Settings, tell: Tell | None = None) -> Build:
    """Compile llama.cpp for this CPU: five to ten minutes on two cores, nothing if it is there.

    Raises:
        EngineFailed: no compiler, or it failed; the log is kept and its last lines are quoted.
        OutOfDisk: too little is free.
        Busy: another process is at it.
        SourceFailed, Offline, IntegrityError: the sources or the tools could not be had as pinned.
    """
    target = native_folder(settings.home)
    if native_path(settings.home) and (there := describe(target)).problem is None:
        return there
    check_machine()
    work = target.with_name(f".{target.name}")
    meter = _Meter(tell)
    with lock(settings.home):
        work.mkdir(parents=True, exist_ok=True)
        _check_disk(work)
        source = unpacked_sources(work, settings, meter.phase("fetching the sources", 0, 0.03))
        tools = build_tools(work, settings, meter.phase("installing the build tools", 0.03, 0.06))
        made = _compile(source, tools, work, meter)
        _write_record(made, probe(made))
        _replace(made, target)
        shutil.rmtree(work)
    return describe(target)


def check_machine() -> None:
    """Is there all that compiling needs and that cannot be fetched?

    Raises:
        EngineFailed: says what to install.
    """
    if sys.platform != "linux":
        raise EngineFailed(
            "a native build is made on Linux alone",
            "keep the wheel: on macOS it is made for Apple's processors already",
        )
    if not all(_compilers().values()):
        raise EngineFailed(
            "there is no C++ compiler (c++, g++ and clang++ were looked for)",
            "install one: apt install g++, dnf install gcc-c++ or apk add g++",
        )
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.exists():
        raise EngineFailed(
            f"Python's C headers are missing ({headers})",
            "install them: apt install python3-dev or dnf install python3-devel",
        )


def unpacked_sources(work: Path, settings: Settings, part: Part) -> Path:
    """The unpacked source archive of the pinned version, under `work`.

    Raises:
        SourceFailed, Offline, IntegrityError: it could not be had as pinned.
    """
    from overt.models.sources.download import Network
    from overt.models.sources.sdist import source_archive
    from overt.models.sources.staging import Staging

    folder = work / "source"
    if folder.exists():
        return folder

    most = 0.0

    def report(step: "FetchProgress") -> None:
        nonlocal most
        most = max(most, step.done / max(1, step.total or step.done))  # checking begins anew
        part(most)

    network = Network(settings.offline)
    try:
        wanted = source_archive("xllamacpp", VERSION, ARCHIVE_SHA256, network)
        archive = Staging(work, network, report).fetch(wanted).file
    finally:
        network.close()
    new = work / "unpacking"
    shutil.rmtree(new, ignore_errors=True)
    unpack(archive, new)
    new.rename(folder)
    archive.unlink()
    return folder


def unpack(archive: Path, into: Path) -> None:
    """Unpack the plain files of a source archive, without its top folder.

    Raises:
        BadRef: a member would leave `into`.
        FormatError: not a tar archive, or far too large.
    """
    room = _UNPACKED
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _, _, name = safe_member(member.name).partition("/")
                if not member.isfile() or not name:
                    continue
                room -= member.size
                if room < 0:
                    raise FormatError(f"{archive.name} unpacks to more than {_UNPACKED} bytes")
                path = into / name
                path.parent.mkdir(parents=True, exist_ok=True)
                opened = tar.extractfile(member)
                if opened is not None:
                    with opened, path.open("wb") as out:
                        shutil.copyfileobj(opened, out)
                    path.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, zlib.error, ValueError, EOFError, OSError) as error:
        raise FormatError(f"{archive.name} cannot be unpacked: {error}", "try again") from None


def build_tools(work: Path, settings: Settings, part: Part) -> Path:
    """A virtual environment with CMake, Ninja, Cython and setuptools; returns its ``bin``.

    Raises:
        EngineFailed: they could not be installed; the log says why.
    """
    folder, log = work / "tools", work / "build.log"
    finished = folder / "finished"
    if finished.exists():
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    environ = dict(os.environ)
    if index := environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL"):
        environ.setdefault("PIP_INDEX_URL", index)
    if settings.offline:
        environ["PIP_NO_INDEX"] = "1"
    part(0)
    what = "making a virtual environment (Debian and Ubuntu keep that in python3-venv)"
    _run([sys.executable, "-m", "venv", str(folder)], work, environ, log, what)
    part(0.3)
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-deps",
        "--disable-pip-version-check",
        "--require-hashes",
        "--only-binary=:all:",
        "-r",
        str(Path(__file__).with_name("build_tools.txt")),
    ]
    _run(command, work, environ, log, "installing the build tools")
    finished.touch()
    part(1)
    return folder / "bin"


def environment(tools: Path) -> dict[str, str]:
    """Environment of a native build: `tools` first, the compilers found, our options; no keys."""
    environ = {k: v for k, v in os.environ.items() if not _KEPT_BACK.match(k)}
    return {
        **environ,
        **_compilers(),
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "CMAKE_GENERATOR": "Ninja",
        "CMAKE_ARGS": " ".join(_CMAKE),
        "NPROC": str(jobs()),
    }


def jobs() -> int:
    """Compilers to run at once: one for each core, as far as memory goes."""
    return max(1, min(len(os.sched_getaffinity(0)), free_memory() // _MEMORY_A_JOB))


def run_logged(
    command: list[str], cwd: Path, environ: dict[str, str], log: Path, what: str
) -> Iterator[str]:
    """Run a command at low priority, append its output to `log`, and yield its lines.

    Closing the iterator stops the command and all it started.

    Raises:
        EngineFailed: it failed; its last lines are quoted.
    """
    lines: list[str] = []
    with log.open("a", buffering=1, encoding="utf-8") as record:
        record.write(f"$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        try:
            for line in process.stdout or ():
                record.write(line)
                lines = [*lines[-199:], line]
                yield line
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            if process.stdout:
                process.stdout.close()
    if code:
        raise EngineFailed(
            f"{what} failed: {last_lines(lines)}",
            f"the whole log is {log}; the same command goes on from here",
        )


def ninja_count(line: str) -> tuple[int, int] | None:
    """``[12/211] Building …`` as (12, 211)."""
    match = re.match(r"\[(\d+)/(\d+)\] ", line)
    return (int(match[1]), max(1, int(match[2]))) if match else None


def last_lines(output: list[str], count: int = 3) -> str:
    """The last lines that say something, those with ``error`` before others, joined by ``|``."""
    lines = [" ".join(line.split())[:200] for line in output if line.strip()]
    telling = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    return " | ".join((telling or lines)[-count:]) or "it gave no reason"


def _run(command: list[str], cwd: Path, environ: dict[str, str], log: Path, what: str) -> None:
    for _ in run_logged(command, cwd, environ, log, what):
        pass


def _compilers() -> dict[str, str]:
    """CC and CXX: what the environment names, or else what is on the PATH; "" where none is.

    Named, because Python's own configuration may name the compiler of another machine.
    """
    compilers = {}
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        value = os.environ.get(variable)
        compilers[variable] = value or next((name for name in names if shutil.which(name)), "")
    return compilers


def _compile(source: Path, tools: Path, work: Path, meter: "_Meter") -> Path:
    """Let xllamacpp's own setup.py build its module; returns the folder for ``sys.path``."""
    made = work / "made"
    shutil.rmtree(made, ignore_errors=True)
    command = [str(tools / "python"), "setup.py", "build", "--build-lib", str(made)]
    log = work / "build.log"
    libraries = meter.phase("compiling llama.cpp", 0.06, 0.87)
    python_module = meter.phase("compiling its Python module", 0.87, 1)
    files = 0
    for line in run_logged(command, source, environment(tools), log, "compiling llama.cpp"):
        if count := ninja_count(line):
            libraries(count[0] / count[1])
        elif re.search(r" -c \S+\.cpp -o ", line):
            python_module(files / _MODULE_FILES)
            files += 1
    if not module(made).is_file():
        raise EngineFailed("the build ended without a module", f"see {log}")
    for name, licence in (("xllamacpp", "."), ("llama.cpp", "thirdparty/llama.cpp")):
        shutil.copyfile(source / licence / "LICENSE", made / f"LICENSE.{name}")
    return made


def _write_record(made: Path, features: tuple[str, ...]) -> None:
    record = {
        "version": VERSION,
        "sha256": digest(module(made)),
        "features": features,
        "libc": libc(),
        "cpu": instruction_sets(),
        "cmake": _CMAKE,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (made / RECORD).write_text(json.dumps(record, indent=1), "utf-8")


def _replace(made: Path, target: Path) -> None:
    """Put `made` at `target`; a worker that runs the old build keeps the files it has open."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _DISK:
        raise OutOfDisk(
            f"building takes {_DISK / 1e9:.1f} GB and {free / 1e9:.1f} GB are free at {folder}",
            "free some space, or set OVERT_HOME to a folder on a larger disk",
        )


class _Meter:
    """Turns the parts of phases into the fraction of the whole, and guesses the time left.

    The phases' shares are those measured on two cores; the guess goes by the pace of the present
    phase.
    """

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell or (lambda _: None)

    def phase(self, what: str, start: float, end: float) -> Part:
        """A function that is told how much of this phase is done."""
        first: tuple[float, float] | None = None  # time and fraction of the first call

        def at(part: float) -> None:
            nonlocal first
            now, fraction = time.monotonic(), start + (end - start) * min(max(part, 0.0), 1.0)
            first = first or (now, fraction)
            elapsed, gained = now - first[0], fraction - first[1]
            left = elapsed / gained * (1 - fraction) if gained > 0.01 and elapsed > 2 else None
            self._tell(BuildProgress(what, fraction, left))

        return at
