"""System calls a worker may not make, as a seccomp filter written in classic BPF.

The filter returns an error number instead of killing, so that native code sees an ordinary failure
and a probe can report it; only a foreign machine architecture kills. Numbers are those of the Linux
tables ``asm/unistd_64.h`` (x86-64) and ``asm-generic/unistd.h`` (aarch64).

`first` is installed before any native code is loaded; `second` after it, when no new socket of any
kind is needed any more, and at most connections to the one that listens are accepted. Both are
inherited by every thread and can never be taken off.

Sources: Documentation/userspace-api/seccomp_filter.rst, linux/filter.h, linux/seccomp.h.
"""

import ctypes
import errno
import os
import struct

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

# name: (x86-64, aarch64); None where that machine has no such call
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "accept": (43, 202), "accept4": (288, 242), "acct": (163, 89), "add_key": (248, 217),
    "bind": (49, 200), "bpf": (321, 280), "chroot": (161, 51), "clone": (56, 220),
    "clone3": (435, 435), "connect": (42, 203), "delete_module": (176, 106), "execve": (59, 221),
    "execveat": (322, 281), "fanotify_init": (300, 262), "finit_module": (313, 273),
    "fork": (57, None), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioctl": (16, 29),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "kill": (62, 129),
    "landlock_create_ruleset": (444, 444), "listen": (50, 201), "lookup_dcookie": (212, 18),
    "memfd_secret": (447, 447), "modify_ldt": (154, None), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "seccomp": (317, 277),
    "sendmmsg": (307, 269), "sendmsg": (46, 211), "sendto": (44, 206), "setdomainname": (171, 162),
    "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170), "socket": (41, 198),
    "socketpair": (53, 199), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "tgkill": (234, 131), "tkill": (200, 130), "truncate": (76, 45), "umount2": (166, 39),
    "unshare": (272, 97), "userfaultfd": (323, 282), "vfork": (58, None), "vhangup": (153, 58),
}  # fmt: skip

# Refused whatever the arguments.
_NEVER = (
    # New connections, and descriptors passed over a socket: an answer needs neither.
    "connect", "sendmsg", "sendmmsg",
    # io_uring opens sockets past this filter (measured), so its set-up is refused whole.
    "io_uring_setup", "io_uring_enter", "io_uring_register",
    # Other processes: looking into them, running one, making one.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    "execve", "execveat", "fork", "vfork",
    # Signals to others. glibc raises its own by tgkill, which is allowed towards this process.
    "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal",
    # Namespaces, mounts, and files reached by handle.
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at",
    "open_by_handle_at", "truncate",
    # Parts of the kernel that few programs need and many exploits used.
    "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "fanotify_init",
    "memfd_secret", "modify_ldt", "personality", "lookup_dcookie", "syslog", "quotactl", "acct",
    "swapon", "swapoff", "reboot", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "iopl", "ioperm", "settimeofday", "sethostname",
    "setdomainname", "vhangup",
)  # fmt: skip
_AFTER_LOAD = ("socket", "socketpair", "connect", "bind", "listen")
_ACCEPTING = ("accept", "accept4")

_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000  # NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# offsets in struct seccomp_data
_NR, _ARCHITECTURE = 0, 4


def _argument(index: int, high: bool = False) -> int:
    return 16 + 8 * index + (4 if high else 0)


# opcodes of classic BPF
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

Code = tuple[int, int, int, int]


def _return_errno(error: int) -> Code:
    return (_RETURN, 0, 0, _ERRNO | error)


_PERMIT: Code = (_RETURN, 0, 0, _ALLOW)


def _test(offset: int, kind: int, value: int, refuse: int, *, when: bool) -> list[Code]:
    """Refuse with errno `refuse` if the 32-bit word at `offset` passes the test (or does not)."""
    over = (0, 1) if when else (1, 0)
    return [(_LOAD, 0, 0, offset), (kind, *over, value), _return_errno(refuse)]


def _rules(own: int) -> dict[str, list[Code]]:
    """Calls judged by their arguments. `own` is this process's id, the only one it may signal."""
    unix = _test(_argument(0), _EQUAL, 1, errno.EAFNOSUPPORT, when=False)
    to_others = _test(_argument(0), _EQUAL, own, errno.EPERM, when=False)
    return {
        "socket": unix,
        "socketpair": unix,
        # A destination would let a datagram reach a UNIX socket of the host.
        "sendto": [
            *_test(_argument(4), _EQUAL, 0, errno.EPERM, when=False),
            *_test(_argument(4, high=True), _EQUAL, 0, errno.EPERM, when=False),
        ],
        # Threads, yes; processes and namespaces, no. clone3 hides its flags behind a pointer:
        # ENOSYS makes the C library fall back to clone.
        "clone": [
            *_test(_argument(0), _ANY_BIT, _NEW_NAMESPACES, errno.EPERM, when=True),
            *_test(_argument(0), _ANY_BIT, _CLONE_THREAD, errno.EPERM, when=False),
        ],
        "clone3": [_return_errno(errno.ENOSYS)],
        "kill": to_others,
        "tgkill": to_others,
        "prlimit64": [
            (_LOAD, 0, 0, _argument(0)),
            (_EQUAL, 2, 0, 0),
            (_EQUAL, 1, 0, own),
            _return_errno(errno.EPERM),
        ],
        # Typing into the terminal Overt was started from.
        "ioctl": [
            *_test(_argument(1), _EQUAL, _TIOCSTI, errno.EPERM, when=True),
            *_test(_argument(1), _EQUAL, _TIOCLINUX, errno.EPERM, when=True),
        ],
    }


def number(name: str, kind: str) -> int | None:
    """The number of system call `name` on a machine `kind`, None where it has none."""
    return NUMBERS[name][list(_ARCH).index(kind)]


def first(kind: str, own: int) -> bytes:
    """The filter for before native code is loaded, for the process with id `own`."""
    rules = {name: [_return_errno(errno.EPERM)] for name in _NEVER} | _rules(own)
    return _assemble(kind, rules)


def second(kind: str, *, accepting: bool = False) -> bytes:
    """The filter for after the load: no new socket of any family, and none to listen on.

    With `accepting`, a socket that listens already may take connections.
    """
    names = _AFTER_LOAD if accepting else (*_AFTER_LOAD, *_ACCEPTING)
    return _assemble(kind, {name: [_return_errno(errno.EPERM)] for name in names})


def denying(kind: str, names: tuple[str, ...], error: int) -> bytes:
    """A filter that answers the calls `names` with errno `error` and allows the rest."""
    return _assemble(kind, {name: [_return_errno(error)] for name in names})


def _assemble(kind: str, rules: dict[str, list[Code]]) -> bytes:
    code: list[Code] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCH[kind]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
    ]
    if kind == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), _return_errno(errno.ENOSYS)]
    for name, body in rules.items():
        called = number(name, kind)
        if called is not None:
            # The body changes the accumulator, so it always ends by allowing.
            code += [(_EQUAL, 0, len(body) + 1, called), *body, _PERMIT]
    code.append(_PERMIT)
    return b"".join(struct.pack("=HBBI", *line) for line in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def supported() -> bool:
    """Whether this machine's system call numbers are known here."""
    return machine() in _ARCH and struct.calcsize("P") == 8


def machine() -> str:
    """The kernel's name for this machine, such as ``x86_64``."""
    return os.uname().machine


def install(program: bytes) -> None:
    """Put `program` in force on every thread of this process. Needs no-new-privileges set.

    Raises:
        OSError: the kernel refused it.
    """
    library = ctypes.CDLL(None, use_errno=True)
    header = _Program(len(program) // 8, program)
    if (
        library.syscall(number("seccomp", machine()), 1, 1, ctypes.byref(header)) != 0
    ):  # SET_MODE_FILTER, TSYNC
        failed = ctypes.get_errno() or errno.ESRCH  # a thread id: that thread could not follow
        raise OSError(failed, os.strerror(failed))
