"""The walls one by one: what native code in a worker may still do, and what it may not."""

import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_supervise import ask, spec, worker

from overt.errors import NoIsolation
from overt.runtime.sandbox import landlock, seccomp, walls
from overt.runtime.sandbox.walls import Isolation
from overt.runtime.worker.process import confirmed
from overt.runtime.worker.supervisor import Worker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
]


# ---- seen from inside and from outside -----------------------------------------------------


async def test_every_layer_is_in_force_and_the_kernel_shows_it(home: Path):
    async with worker(home, isolation="full") as one:
        assert one.isolation == Isolation(walls.LAYERS, ())
        status = Path(f"/proc/{one.pid}/status").read_text()
        assert re.search(r"^Seccomp:\t2$", status, re.M)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert re.search(rf"^{name}:\t0+$", status, re.M)
        if os.getuid() == 0:
            assert re.search(r"^CapBnd:\t0+$", status, re.M)
        devices = Path(f"/proc/{one.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        limits = Path(f"/proc/{one.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0", limits, re.M)
        assert re.search(r"^Max open files +256 +256", limits, re.M)


async def test_only_files_that_were_granted_are_read(home: Path, tmp_path: Path):
    for name in ("model", "neighbour"):
        (tmp_path / name).write_text("weights")
    paths = [
        tmp_path / "model",
        tmp_path / "neighbour",
        Path("/etc/passwd"),
        Path("/proc/1/cmdline"),
    ]
    body = "\n".join(map(str, paths)).encode()
    async with worker(home, readable=(tmp_path / "model",)) as one:
        *seen, own = await ask(one, "files", body)
        assert seen == [b"read weigh", b"PermissionError", b"PermissionError", b"PermissionError"]
        assert own == b"['mine']"
        [folder] = (home / "run").glob("*.tmp")
        assert (folder / "mine").read_text() == "x"
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


async def test_threads_still_start(home: Path):
    async with worker(home) as one:
        assert await ask(one, "threads") == [b"from a thread"] * 4


async def test_sockets_are_gone_once_loaded_unless_kept(home: Path):
    async with worker(home, host="Sockets") as one:
        assert one.info == {
            "AF_INET": "Address family not supported by protocol",
            "AF_UNIX": "opened",
        }
        assert await ask(one, "sockets", b"AF_UNIX") == [b"Operation not permitted"]
    async with worker(home, host="KeepsSockets") as one:
        assert await ask(one, "sockets", b"AF_UNIX") == [b"opened"]
        assert await ask(one, "sockets", b"AF_INET") == [
            b"Address family not supported by protocol"
        ]
    async with worker(home, host="Listens") as one:
        assert await ask(one, "sockets", b"AF_UNIX") == [b"Operation not permitted"]
        assert await ask(one, "sockets", b"AF_INET") == [b"Operation not permitted"]


async def test_a_layer_left_out_is_reported_and_full_refuses_before_anything_is_loaded(home: Path):
    layers = tuple(name for name in walls.LAYERS if name != walls.SECCOMP)
    async with worker(home, layers=layers) as one:
        assert one.isolation == Isolation(layers, ("seccomp (left out)",))
    with pytest.raises(
        NoIsolation, match=r"full isolation cannot be had here: seccomp \(left out\)"
    ):
        await Worker.start(
            spec(isolation="full", layers=layers, parameters={"load": "abort"}), home / "run"
        )


async def test_isolation_off_is_reported_as_such(home: Path):
    async with worker(home, isolation="off") as one:
        assert one.isolation.layers == ()
        assert one.isolation.missing[0] == "network namespace (isolation is off)"
        assert len(one.isolation.missing) == len(walls.LAYERS)


def test_a_layer_the_kernel_does_not_show_does_not_count():
    """This very process has none of them but claims all: what `/proc` can show is not believed."""
    seen = confirmed(os.getpid(), {"layers": list(walls.LAYERS), "missing": ["other (why)"]})
    assert walls.NETWORK not in seen.layers
    assert walls.SECCOMP not in seen.layers
    assert seen.missing[0] == "other (why)"
    assert "network namespace (the kernel does not show it)" in seen.missing
    assert "seccomp (the kernel does not show it)" in seen.missing


def test_a_process_that_is_gone_shows_nothing():
    seen = confirmed(2**22 + 1, {"layers": [*walls.LAYERS, "a moat"], "missing": []})
    assert seen.layers == ()
    assert len(seen.missing) == len(walls.LAYERS)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_have_none_and_say_so(platform: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", platform)
    found = walls.enter(walls.SandboxNeeds((), "", 0))
    assert found.layers == ()
    assert [why.split(" (")[0] for why in found.missing] == list(walls.LAYERS)


# ---- the filters, judged by a BPF machine of our own ---------------------------------------

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
OWN = 4321


def judge(program: bytes, arch: int, call: int, *arguments: int) -> int:
    """Run a filter as the kernel would (Documentation/networking/filter.rst)."""
    code = list(struct.iter_unpack("=HBBI", program))
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", call, arch, 0, *padded)
    accumulator, at = 0, 0
    while True:
        operation, when, otherwise, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += when if accumulator == value else otherwise
            case 0x35:
                at += when if accumulator >= value else otherwise
            case 0x45:
                at += when if accumulator & value else otherwise
            case 0x06:
                return value
            case _:
                raise AssertionError(f"no such operation: {operation:#x}")


EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
THREAD = 0x3D0F00  # what glibc's pthread_create asks of clone
VERDICTS: list[tuple[str, tuple[int, ...], int]] = [
    ("socket", (1, 1, 0), 0), ("socket", (2, 1, 0), EAFNOSUPPORT),
    ("socket", (10, 2, 0), EAFNOSUPPORT), ("socket", (16, 3, 0), EAFNOSUPPORT),
    ("socket", (40, 1, 0), EAFNOSUPPORT),
    ("socket", (2 | 1 << 32, 1, 0), EAFNOSUPPORT), ("socketpair", (1, 1, 0), 0),
    ("connect", (3, 1, 16), EPERM), ("sendto", (3, 1, 1, 0, 0, 0), 0),
    ("sendto", (3, 1, 1, 0, 0x7F00, 16), EPERM), ("sendto", (3, 1, 1, 0, 1 << 32, 16), EPERM),
    ("sendmsg", (3, 1, 0), EPERM), ("clone", (THREAD,), 0), ("clone", (17,), EPERM),
    ("clone", (THREAD | 0x10000000,), EPERM), ("clone", (0x40000000 | 17,), EPERM),
    ("clone3", (), ENOSYS), ("fork", (), EPERM), ("vfork", (), EPERM), ("execve", (), EPERM),
    ("kill", (OWN, 9), 0), ("kill", (1, 9), EPERM), ("kill", (0, 9), EPERM),
    ("kill", (2**64 - 1, 9), EPERM), ("tgkill", (OWN, OWN, 6), 0), ("tgkill", (1, 1, 6), EPERM),
    ("prlimit64", (0, 7, 0, 0), 0), ("prlimit64", (OWN, 7, 0, 0), 0), ("prlimit64", (1, 7), EPERM),
    ("ioctl", (0, 0x5412), EPERM), ("ioctl", (0, 0x541C), EPERM), ("ioctl", (1, 0x5401), 0),
    ("io_uring_setup", (4,), EPERM), ("io_uring_enter", (), EPERM), ("ptrace", (), EPERM),
    ("unshare", (0x10000000,), EPERM), ("setns", (), EPERM), ("bpf", (), EPERM),
    ("accept4", (), 0), ("bind", (), 0),
]  # fmt: skip


@pytest.mark.parametrize("machine", ARCH)
@pytest.mark.parametrize(("name", "arguments", "error"), VERDICTS)
def test_first_filter(machine: str, name: str, arguments: tuple[int, ...], error: int):
    number = seccomp.number(name, machine)
    if number is None:
        assert name in ("fork", "vfork")  # clone does it there
        return
    verdict = judge(seccomp.first(machine, OWN), ARCH[machine], number, *arguments)
    assert verdict == (0x00050000 | error if error else ALLOW)


@pytest.mark.parametrize("machine", ARCH)
def test_filters_allow_the_ordinary_and_kill_the_foreign(machine: str):
    ordinary = {"x86_64": (0, 1, 9, 202, 231), "aarch64": (63, 64, 222, 98, 94)}[machine]
    after = [seccomp.second(machine, accepting=accepting) for accepting in (False, True)]
    for program in (seccomp.first(machine, OWN), *after):
        for call in ordinary:
            assert judge(program, ARCH[machine], call) == ALLOW
        assert judge(program, 0x40000003, 1) == KILL  # i386
    if machine == "x86_64":
        assert (
            judge(seccomp.first(machine, OWN), ARCH[machine], 0x40000000 + 41, 1)
            == 0x50000 | ENOSYS
        )


@pytest.mark.parametrize("machine", ARCH)
def test_second_filter_denies_every_socket(machine: str):
    program = seccomp.second(machine)
    for name in ("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"):
        number = seccomp.number(name, machine)
        assert number is not None
        assert judge(program, ARCH[machine], number, 1) == 0x50000 | EPERM
        accepted = judge(seccomp.second(machine, accepting=True), ARCH[machine], number, 1)
        assert accepted == (ALLOW if name.startswith("accept") else 0x50000 | EPERM)


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


def numbers(text: str) -> Iterator[tuple[str, int]]:
    pattern = r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$"
    yield from ((name, int(number)) for name, number in re.findall(pattern, text, re.M))


@pytest.mark.parametrize("machine", ARCH)
def test_numbers_are_those_of_the_kernel_headers(machine: str):
    path = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if path is None:
        pytest.skip("the kernel's headers are not installed")
    real = dict(numbers(path.read_text()))
    ours = {name: seccomp.number(name, machine) for name in seccomp.NUMBERS}
    assert {name: real.get(name) for name in ours} == ours


# ---- landlock alone ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "files", "network", "scoped"),
    [
        (1, 13, 0, 0),
        (2, 14, 0, 0),
        (3, 15, 0, 0),
        (4, 15, 3, 0),
        (5, 16, 3, 0),
        (6, 16, 3, 3),
        (9, 16, 3, 3),
    ],
)
def test_landlock_asks_for_what_a_version_knows(
    version: int, files: int, network: int, scoped: int
):
    assert landlock._best(landlock._FILES, version) == (1 << files) - 1
    assert landlock._best(landlock._TCP, version) == network
    assert landlock._best(landlock._SCOPED, version) == scoped


async def test_an_old_landlock_is_not_called_whole(monkeypatch: pytest.MonkeyPatch):
    """Version 2 cannot keep files from being emptied: in force, and reported as less."""

    def old(*_: Any) -> int:
        return 2

    monkeypatch.setattr(landlock, "restrict", old)
    why = walls._landlock(walls.SandboxNeeds((), "/nowhere", 0))
    assert why == "but this kernel's landlock is version 2: files outside can be emptied"
