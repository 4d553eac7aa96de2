"""Which builds of llama.cpp there are on this machine: the wheel's, and one made for its own CPU.

The wheel of xllamacpp runs on any CPU with AVX2 (or any 64-bit Arm), so it uses none of the newer
instructions. A native build (compile.py makes it) lies in
``$OVERT_HOME/engines/native-<version>-<cpu>/``: a folder that goes first on the worker's
``sys.path``, so that the same host code runs on it and nothing of the installed package is touched.
The folder's name carries a fingerprint of the CPU's instruction sets, because a binary with
instructions that a CPU lacks dies with SIGILL: on another CPU the build is not found, and the wheel
is used.
"""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from overt.errors import Busy, EngineFailed, NotFound

VERSION = "2026.10.11549"
"""Of xllamacpp; the same that pyproject.toml pins."""

RECORD = "build.json"
_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = re.compile(
    "pni|ssse3|sse|avx|amx|fma|f16c|bmi|abm|lzcnt|popcnt|movbe|adx|aes|vaes|pclmul|vpclmul|sha|gfni"
)


@dataclass(frozen=True, slots=True)
class Build:
    """One build of llama.cpp.

    Attributes:
        name: where it comes from.
        version: of xllamacpp.
        path: what goes on ``sys.path``; None for the wheel, which is there already.
        features: the instruction sets it uses, as llama.cpp names them.
        size: bytes on disk.
        problem: why it cannot be used here, or None.
    """

    name: Literal["wheel", "native"]
    version: str
    path: Path | None
    features: tuple[str, ...]
    size: int
    problem: str | None = None


def native_path(home: Path) -> Path | None:
    """The native build for this CPU and the pinned version, if there is one.

    Cheap enough for every start of a worker: reads two small files and imports nothing.
    """
    folder = native_folder(home)
    record = _record(folder)
    return folder if record is not None and _libc_suffices(record) else None


def native_folder(home: Path) -> Path:
    """Where the native build for this CPU and the pinned version is, or will be."""
    return home / "engines" / f"native-{VERSION}-{cpu_fingerprint()}"


def builds(home: Path) -> list[Build]:
    """The wheel, then every native build, those that cannot be used here first."""
    native = [describe(folder) for folder in sorted((home / "engines").glob("native-*"))]
    native.sort(key=lambda build: build.problem is None)
    return [_wheel(), *native]


def remove(home: Path) -> int:
    """Delete every native build and what an unfinished one left behind; returns the bytes freed.

    Raises:
        NotFound: there is none.
        Busy: one is being made.
    """
    with lock(home):
        folders = [path for path in (home / "engines").glob("*native-*") if path.is_dir()]
        if not folders:
            raise NotFound("there is no native build", "make one: overt engine build")
        freed = sum(_size(folder) for folder in folders)
        for folder in folders:
            shutil.rmtree(folder)
    return freed


def cpu_fingerprint(cpuinfo: Path = _CPUINFO) -> str:
    """Twelve hex digits that stand for this CPU's instruction sets.

    Only what a compiler may emit on its own counts, so that a new kernel, which may list further
    flags, or a sister model of the same generation keeps the build.
    """
    names = " ".join(instruction_sets(cpuinfo))
    return hashlib.sha256(f"{platform.machine()} {names}".encode()).hexdigest()[:12]


def instruction_sets(cpuinfo: Path = _CPUINFO) -> list[str]:
    """Instruction sets as the kernel names them, sorted; empty where it does not say."""
    try:
        with cpuinfo.open("rb") as file:
            text = file.read(16384).decode("ascii", "replace")  # the first processor is enough
    except OSError:
        return []
    match = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    if not match:
        return []
    names = sorted(set(match[2].split()))
    return names if match[1] == "Features" else [n for n in names if _INSTRUCTIONS.match(n)]


def describe(folder: Path) -> Build:
    """A native build in full: hashes its module, so not for every start."""
    record = _record(folder)
    if record is None:
        return Build("native", "?", folder, (), _size(folder), "its record is missing or damaged")
    version, problem = str(record.get("version")), None
    if version != VERSION:
        problem = f"made for version {version}, and {VERSION} is needed"
    elif not folder.name.endswith(cpu_fingerprint()):
        problem = "made for another CPU"
    elif not _libc_suffices(record):
        problem = f"made with {record.get('libc')}, and this machine has {libc()}"
    elif digest(module(folder)) != record.get("sha256"):
        problem = "its module is missing, or not the one that was built"
    listed = record.get("features")
    features = tuple(map(str, listed)) if isinstance(listed, list) else ()
    return Build("native", version, folder, features, _size(folder), problem)


def probe(folder: Path | None) -> tuple[str, ...]:
    """Import a build in a process of its own, and ask which instructions it uses.

    Args:
        folder: a native build, or None for the wheel.

    Raises:
        EngineFailed: it does not load, or another one was loaded in its place.
    """
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import xllamacpp\n"
        "print(xllamacpp.__file__)\n"
        "print(xllamacpp.get_system_info())"
    )
    command = [sys.executable, "-I", "-c", code, *([str(folder)] if folder else [])]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    what = "the native build" if folder else "the wheel of xllamacpp"
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        how = f"signal {-done.returncode}" if done.returncode < 0 else reason
        raise EngineFailed(f"{what} does not load: {how}")
    where, _, features = done.stdout.decode("utf-8", "replace").strip().rpartition("\n")
    if folder and not Path(where).resolve().is_relative_to(folder.resolve()):
        raise EngineFailed(f"{what} was not loaded, but {where}")
    return tuple(re.findall(r"(\w+) = 1", features))


def module(folder: Path) -> Path:
    """The native build's own binary."""
    return folder / "xllamacpp" / "xllamacpp.abi3.so"


def digest(file: Path) -> str | None:
    """SHA-256 in hex; None where there is no such file."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def libc() -> str:
    """The C library in use, such as ``glibc 2.41``."""
    return " ".join(platform.libc_ver()).strip()


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Held while native builds are made or removed.

    Raises:
        Busy: another process holds it.
    """
    from filelock import FileLock, Timeout

    file = home / "locks" / "engine-build.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(file)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise Busy("another process is making a native build", "wait until it is done") from None
    try:
        yield
    finally:
        held.release()


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _libc_suffices(record: dict[str, Any]) -> bool:
    """A home folder that two machines share may hold a build made with a newer C library."""
    return _numbers(libc()) >= _numbers(str(record.get("libc", "")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _wheel() -> Build:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution("xllamacpp")
    except PackageNotFoundError:
        return Build("wheel", "?", None, (), 0, "xllamacpp is not installed")
    size = sum(file.size or 0 for file in package.files or ())
    try:
        return Build("wheel", package.version, None, probe(None), size)
    except EngineFailed as error:
        return Build("wheel", package.version, None, (), size, str(error))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
