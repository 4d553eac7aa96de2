"""Native builds: found only where they can run, and taken away as a whole."""

import hashlib
import json
import random
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from overt.errors import Busy, EngineFailed, NotFound
from overt.runtime.native_build import build, compile
from overt.settings import load

ROOT = Path(__file__).resolve().parents[2]

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
flags\t\t: fpu vme sse sse2 avx avx2 fma avx512f avx512_vnni bmi2 rdrand clflush arat
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd aes asimddp i8mm sve
CPU implementer\t: 0x41
"""


def cpuinfo(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return path


# ---- the fingerprint


def test_only_instructions_a_compiler_emits_by_itself_count(tmp_path):
    path = cpuinfo(tmp_path, AMD)
    assert build.instruction_sets(path) == [
        "avx", "avx2", "avx512_vnni", "avx512f", "bmi2", "fma", "sse", "sse2",
    ]  # fmt: skip
    before = build.cpu_fingerprint(path)
    newer_kernel = cpuinfo(tmp_path, AMD.replace("rdrand", "rdrand user_shstk ibpb_exit"))
    assert build.cpu_fingerprint(newer_kernel) == before
    older_cpu = cpuinfo(tmp_path, AMD.replace("avx512f avx512_vnni ", ""))
    assert build.cpu_fingerprint(older_cpu) != before


def test_an_arm_processor_says_features(tmp_path):
    names = build.instruction_sets(cpuinfo(tmp_path, ARM))
    assert names == ["aes", "asimd", "asimddp", "fp", "i8mm", "sve"]


@pytest.mark.parametrize("text", ["", "flags", "\x00\xff" * 40, "flags : " + "avx" * 9000])
def test_a_strange_cpuinfo_still_gives_a_fingerprint(tmp_path, text):
    assert len(build.cpu_fingerprint(cpuinfo(tmp_path, text))) == 12
    assert len(build.cpu_fingerprint(tmp_path / "absent")) == 12


# ---- finding


def test_the_version_is_the_one_that_is_pinned_and_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"xllamacpp=={build.VERSION}" in project["dependencies"]
    assert version("xllamacpp") == build.VERSION


def make(home: Path, **changed: object) -> Path:
    """A native build as far as its record says; its module is not one."""
    folder = build.native_folder(home)
    build.module(folder).parent.mkdir(parents=True)
    build.module(folder).write_bytes(b"not a module")
    record = {
        "version": build.VERSION,
        "sha256": hashlib.sha256(b"not a module").hexdigest(),
        "features": ["AVX2", "AVX512"],
        "libc": build.libc(),
        **changed,
    }
    (folder / build.RECORD).write_text(json.dumps(record))
    return folder


def test_a_build_for_this_machine_is_found(home):
    assert build.native_path(home) is None
    folder = make(home)
    assert build.native_path(home) == folder
    _, native = build.builds(home)
    assert native.problem is None
    assert native.features == ("AVX2", "AVX512")


def test_a_build_made_with_a_newer_c_library_is_not_used(home):
    make(home, libc="glibc 99.1")
    assert build.native_path(home) is None
    assert "glibc 99.1" in (build.builds(home)[1].problem or "")


def test_a_build_for_another_cpu_or_version_is_listed_with_the_reason_and_not_used(home):
    folder = make(home)
    other = folder.with_name(f"native-{build.VERSION}-000000000000")
    folder.rename(other)
    assert build.native_path(home) is None
    assert build.builds(home)[1].problem == "made for another CPU"
    (other / build.RECORD).write_text(json.dumps({"version": "2020.1.1"}))
    assert "2020.1.1" in (build.builds(home)[1].problem or "")


def test_a_changed_module_is_reported(home):
    folder = make(home)
    build.module(folder).write_bytes(b"something else")
    assert "not the one" in (build.builds(home)[1].problem or "")
    build.module(folder).unlink()
    assert "missing" in (build.builds(home)[1].problem or "")


def test_a_damaged_record_never_stops_a_start_or_a_list(home):
    path = make(home) / build.RECORD
    whole, chance = path.read_bytes(), random.Random(7)
    values = [None, 1, [], {}, "x", [[1]], {"a": 1}]
    for _ in range(300):
        if chance.random() < 0.5:
            record = json.loads(whole)
            record[chance.choice(list(record))] = chance.choice(values)
            path.write_text(json.dumps(chance.choice([record, record, values])))
        else:
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data[: chance.randrange(len(data) + 1)])
        assert build.native_path(home) in (None, path.parent)
        assert build.describe(path.parent).name == "native"


def test_the_wheel_comes_first_with_its_instructions(home):
    (wheel,) = build.builds(home)
    assert (wheel.name, wheel.version, wheel.path, wheel.problem) == (
        "wheel", build.VERSION, None, None,
    )  # fmt: skip
    assert wheel.features


def test_a_module_that_does_not_load_is_an_error_with_its_reason(home):
    folder = make(home)
    (folder / "xllamacpp" / "__init__.py").write_text("raise ImportError('undefined symbol: x')")
    with pytest.raises(EngineFailed, match=r"native build does not load.*undefined symbol"):
        build.probe(folder)


def test_the_wheel_in_place_of_the_native_build_is_noticed(home):
    empty = home / "engines" / "native-empty"
    empty.mkdir(parents=True)
    with pytest.raises(EngineFailed, match="was not loaded"):
        build.probe(empty)


# ---- removing


def test_remove_deletes_builds_and_what_an_unfinished_one_left(home):
    with pytest.raises(NotFound, match="overt engine build"):
        build.remove(home)
    folder = make(home)
    rest = folder.with_name(f".{folder.name}")
    rest.mkdir()
    (rest / "build.log").write_bytes(b"x" * 1000)
    assert build.remove(home) > 1000
    assert not folder.exists()
    assert not rest.exists()


def test_nothing_is_removed_while_a_build_is_made(home):
    folder = make(home)
    code = (
        "import sys, pathlib\n"
        "from overt.runtime.native_build.build import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy):
            build.remove(home)
        (folder / build.RECORD).unlink()
        with pytest.raises(Busy):
            compile.build(load(flags={"home": home}))
    finally:
        holder.communicate("\n")
    assert folder.exists()
    assert build.remove(home) > 0


# ---- the verb


def test_engine_on_the_command_line(home):
    from overt.cli.engine import command

    make(home)
    run = CliRunner().invoke
    assert json.loads(run(command, ["build", "--json"]).stdout)["name"] == "native"
    listed = json.loads(run(command, ["list", "--json"]).stdout)["engines"]
    assert [(e["name"], e["used"]) for e in listed] == [("wheel", False), ("native", True)]
    chosen = json.loads(run(command, ["list", "--json"], env={"OVERT_ENGINE": "wheel"}).stdout)[
        "engines"
    ]
    assert [(e["name"], e["used"]) for e in chosen] == [("wheel", True), ("native", False)]
    assert "AVX512" in run(command, ["list"]).stdout
    assert json.loads(run(command, ["remove", "native", "--json"]).stdout)["bytes_freed"] > 0
    assert build.native_path(home) is None
