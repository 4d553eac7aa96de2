"""The walls of a worker, put up from inside before any native code is loaded.

``enter`` runs in the worker, single-threaded, in this order: die with the parent; leave the network
namespace of the host; no-new-privileges; landlock; seccomp; drop every capability. ``harden`` and
``seal`` follow once the parent has looked (see host_main). What a machine cannot do is listed in
`Isolation.missing` with its reason, so that nothing is ever weaker in silence.

What is left on machines that cannot do all of it: without user namespaces (most containers),
landlock and seccomp, which together still deny every internet socket; without seccomp, the network
namespace and landlock; outside Linux, nothing.
"""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from overt.runtime.sandbox import landlock, seccomp

NETWORK = "network namespace"
PRIVILEGES = "no new privileges"
LANDLOCK = "landlock"
SECCOMP = "seccomp"
CAPABILITIES = "no capabilities"
LAYERS = (NETWORK, PRIVILEGES, LANDLOCK, SECCOMP, CAPABILITIES)

_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS, _CAPBSET_DROP, _CAP_AMBIENT = 1, 4, 38, 24, 47
_AMBIENT_CLEAR_ALL = 4
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_CAPABILITY_VERSION = 0x20080522

# Beyond Python's own folders: what the loader, the C library and the engines read.
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/self",
    "/sys/devices/system",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
)
_DEVICES = ("/dev/null",)


class Isolation(NamedTuple):
    """The walls around a worker.

    Attributes:
        layers: names of those in force, from `LAYERS`.
        missing: those that are not, each as ``"name (why)"``.
    """

    layers: tuple[str, ...]
    missing: tuple[str, ...]


class SandboxNeeds(NamedTuple):
    """What a worker keeps: paths it reads, one private folder it writes, the parent it dies with.

    `layers` are the walls to try; a test leaves some out to see what the rest still holds.
    """

    readable: tuple[str, ...]
    writable: str
    parent: int
    layers: tuple[str, ...] = LAYERS


def enter(needs: SandboxNeeds) -> Isolation:
    """Put up every wall this machine has around this process, for good."""
    if sys.platform != "linux":
        return Isolation((), tuple(f"{name} ({_PLAIN})" for name in LAYERS))
    die_with(needs.parent)
    steps: dict[str, Callable[[], str]] = {
        NETWORK: _leave_network,
        PRIVILEGES: _no_new_privileges,
        LANDLOCK: lambda: _landlock(needs),
        SECCOMP: _seccomp,
        CAPABILITIES: _drop_capabilities,
    }
    layers, missing = [], []
    for name, step in steps.items():
        try:
            why = step() if name in needs.layers else "left out"
        except OSError as error:
            why = _reason(name, error)
        if why.startswith("but "):
            layers.append(name)
            missing.append(f"{name}'s last rules ({why[4:]})")
        elif why:
            missing.append(f"{name} ({why})")
        else:
            layers.append(name)
    die_with(needs.parent)  # a change of credentials can have cleared it
    return Isolation(tuple(layers), tuple(missing))


def nothing() -> Isolation:
    """The isolation of a worker that was asked to run without any."""
    return Isolation((), tuple(f"{name} (isolation is off)" for name in LAYERS))


def die_with(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends."""
    if sys.platform == "linux":
        _prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def harden() -> None:
    """Keep other processes of this user from reading this one's memory."""
    if sys.platform == "linux":
        _prctl(_DUMPABLE, 0)


def seal(*, accepting: bool = False) -> None:
    """Deny new sockets of every family from now on; for when the engine has loaded.

    With `accepting`, whoever reaches the socket that the engine opened before is still let in.

    Raises:
        OSError: the kernel refused it.
    """
    seccomp.install(seccomp.second(seccomp.machine(), accepting=accepting))


def limit(memory: int) -> None:
    """Bound this process: no core dumps, 256 open files, `memory` bytes of writable private memory.

    0 leaves memory without a bound; so does a system other than Linux, macOS and the BSDs.
    """
    if os.name != "posix":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    if memory:
        # Not RLIMIT_AS: that counts the mapped model file as well.
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


_PLAIN = f"{'macOS' if sys.platform == 'darwin' else sys.platform} has none that Overt can use"


def _leave_network() -> str:
    """A network namespace of its own, with even loopback down."""
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if library.unshare(_NEWNET) == 0:
        return ""
    if library.unshare(_NEWUSER | _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 (pathlib costs 5 ms)
            file.write(text)
    return ""


def _no_new_privileges() -> str:
    _prctl(_NO_NEW_PRIVS, 1)
    return ""


def _landlock(needs: SandboxNeeds) -> str:
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    # Landlock that hides Python's own folders makes native imports crash (measured).
    readable = (*_SYSTEM, *prefixes, *(path for path in sys.path if path), *needs.readable)
    speaks = landlock.restrict(tuple(dict.fromkeys(readable)), (needs.writable,), _DEVICES)
    if speaks < 3:
        return f"but this kernel's landlock is version {speaks}: files outside can be emptied"
    return ""


def _seccomp() -> str:
    if not seccomp.supported():
        return f"Overt has no table of system calls for {seccomp.machine()}"
    seccomp.install(seccomp.first(seccomp.machine(), os.getpid()))
    return ""


def _drop_capabilities() -> str:
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    capability = 0
    # Ends at the first number the kernel does not know, or at once without CAP_SETPCAP: then there
    # is nothing to bound, as no-new-privileges holds already.
    while capability < 64 and library.prctl(_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if library.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ""


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_ulong
    if library.prctl(option, word(value), word(0), word(0), word(0)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _reason(name: str, error: OSError) -> str:
    if name == NETWORK and error.errno in (errno.EPERM, errno.ENOSPC, errno.EACCES):
        return "user namespaces are not allowed here, as in most containers"
    if name == LANDLOCK and error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
        return "this kernel does not have it or has it switched off"
    if name == SECCOMP and error.errno in (errno.ENOSYS, errno.EINVAL):
        return "this kernel does not have it"
    return (error.strerror or str(error)).lower()
