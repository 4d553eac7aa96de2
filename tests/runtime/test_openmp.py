"""A system without libgomp: hidden from a real process in a mount namespace of its own."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from overt.runtime.native_build import openmp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems' wheels carry it")

ASK = """
import os, sys
from pathlib import Path
from overt.runtime.native_build import openmp
from overt.errors import EngineFailed
try:
    print("environ", openmp.environ(Path(sys.argv[1])))
except EngineFailed as error:
    print("refused", error)
"""


def _library() -> Path:
    maps = f"import ctypes; ctypes.CDLL({openmp.NAME!r}); print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", maps], capture_output=True, text=True)
    paths = {line.split()[-1] for line in done.stdout.splitlines() if "libgomp" in line}
    if not paths:
        pytest.skip(f"this system has no {openmp.NAME} to hide")
    return Path(paths.pop())


def _without_it(*command: str, environ: str = "") -> str:
    """The output of a process that finds an empty file where the library was."""
    hide = f"mount --bind /dev/null {shlex.quote(str(_library()))}"
    inner = f"{hide} && exec env {environ} {shlex.join(command)}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", inner],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    return done.stdout + done.stderr


def test_where_the_system_has_it_nothing_is_set() -> None:
    _library()
    assert openmp.environ() == {}


def test_without_it_the_engine_is_refused_with_what_to_install(tmp_path: Path) -> None:
    said = _without_it(sys.executable, "-c", ASK, str(tmp_path))
    assert said.startswith("refused this system has no libgomp.so.1")
    assert "libgomp1" in said
    assert "pip install cmeel-libomp" in said


def test_a_package_that_carries_it_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "cmeel.prefix/lib"
    folder.mkdir(parents=True)
    shutil.copy(_library(), folder / openmp.NAME)
    said = _without_it(sys.executable, "-c", ASK, str(tmp_path))
    assert said.strip() == f"environ {{'LD_LIBRARY_PATH': '{folder}'}}"
    importing = (sys.executable, "-c", "import xllamacpp; print('it loads')")
    assert "ImportError" in _without_it(*importing)
    assert _without_it(*importing, environ=f"LD_LIBRARY_PATH={folder}") == "it loads\n"
