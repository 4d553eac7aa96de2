"""Landlock by its three system calls: which files a process may still reach.

Source: Documentation/userspace-api/landlock.rst; the numbers are the same on every machine.
"""

import ctypes
import errno
import os
import stat

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PATH_BENEATH = 1
_O_PATH = 0x200000

READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_IOCTL_DEVICE = 1 << 15
# What a private folder allows: all but running programs, device files, and ioctl on devices.
_MAKE_CHARACTER, _MAKE_BLOCK, _EXECUTE = 1 << 6, 1 << 11, 1 << 0
_OF_A_FILE = _EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | _IOCTL_DEVICE

# by version of the interface: rights over files, TCP, and what is scoped to the process
_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = {4: 0b11}  # bind, connect
_SCOPED = {6: 0b11}  # abstract UNIX sockets of others, signals to others


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of landlock this kernel speaks, 0 for none."""
    library = ctypes.CDLL(None, use_errno=True)
    abi: int = library.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(abi, 0)


def restrict(readable: tuple[str, ...], writable: tuple[str, ...], devices: tuple[str, ...]) -> int:
    """Leave this thread, and all it starts, only the paths named. Returns the version in force.

    A path is a file or everything below a folder; one that does not exist is passed over. Running
    programs is allowed nowhere. `devices` are files that may be read and written.

    Raises:
        OSError: the kernel has no landlock (ENOSYS, EOPNOTSUPP) or refused.
    """
    speaks = version()
    if not speaks:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    files = _best(_FILES, speaks)
    rules = _Ruleset(files, _best(_TCP, speaks), _best(_SCOPED, speaks))
    size = 8 if speaks < 4 else 16 if speaks < 6 else 24
    ruleset = _call(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    private = files & ~(_EXECUTE | _MAKE_CHARACTER | _MAKE_BLOCK | _IOCTL_DEVICE)
    try:
        for path in readable:
            _allow(ruleset, path, READ_FILE | READ_DIR)
        for path in writable:
            _allow(ruleset, path, private)
        for path in devices:
            _allow(ruleset, path, files & (READ_FILE | WRITE_FILE | _IOCTL_DEVICE))
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return speaks


def _best(table: dict[int, int], speaks: int) -> int:
    return max((value for since, value in table.items() if since <= speaks), default=0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_A_FILE
        rule = _PathBeneath(rights, opened)
        _call(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(opened)


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    result: int = library.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
