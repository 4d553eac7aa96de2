"""A host that tries to get out of its worker, for `airgap.prove`. Runs inside the worker.

Every attempt is the plain way native code would go: a system call. It is *denied* only when the
kernel refuses; a peer that does not answer, or refuses, was reached and counts as let through.
"""

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from overt.runtime.sandbox import seccomp

_WAIT = 1.5  # seconds for a peer outside to answer
_QUESTION = bytes.fromhex("0000010000010000000000000765786d61706c6503636f6d0000010001")
_MISSING_POINTER = ctypes.c_void_p(1)


class Bait(NamedTuple):
    """What the parent has put out to be caught with.

    Attributes:
        parent: its process number.
        tcp, tcp6, udp: ports it listens on at 127.0.0.1 and ::1 (0: not there).
        address: its own outward address, with `tcp_outward` listening there; "" where it has none.
        abstract, stream, datagram: UNIX sockets it listens on (a name, and two paths).
        secret: a file of the user's. elsewhere: where a file could be made.
        memory, size: where in the parent's memory a secret lies.
        outside: an address beyond this machine.
    """

    parent: int
    tcp: int
    tcp6: int
    udp: int
    address: str
    tcp_outward: int
    abstract: str
    stream: str
    datagram: str
    secret: str
    elsewhere: str
    memory: int
    size: int
    outside: str = ""


class AirgapProbe:
    """Tries everything and reports each attempt as ``{"what", "denied", "how"}``."""

    # What holds with UNIX sockets still usable holds all the more after the last filter.
    sockets = True

    def __init__(self) -> None:
        self._bait: Bait | None = None

    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self._bait = Bait(**parameters)
        return {}

    def handle(self, kind: str, body: bytes, emit: Callable[[bytes], bool]) -> None:
        assert self._bait
        for what, attempt in attempts(self._bait):
            denied, how = classify(attempt)
            emit(json.dumps({"what": what, "denied": denied, "how": how}).encode())


def classify(attempt: Callable[[], str]) -> tuple[bool, str]:
    """Run one attempt. Returns whether it was denied, and how: the error, or what it achieved."""
    try:
        return False, attempt()
    except TimeoutError:
        return False, "let through, and nothing answered"
    except socket.gaierror as error:
        return True, str(error.strerror)
    except OSError as error:
        return True, _error_name(error)


def attempts(bait: Bait) -> list[tuple[str, Callable[[], str]]]:
    """Every attempt this system knows, with what it is in plain words."""
    inet, inet6 = socket.AF_INET, socket.AF_INET6
    all_attempts: list[tuple[str, Callable[[], str]]] = [
        ("TCP to 127.0.0.1", lambda: _connect(inet, ("127.0.0.1", bait.tcp))),
        ("UDP to 127.0.0.1", lambda: _datagram(("127.0.0.1", bait.udp), b"out")),
    ]
    if bait.tcp6:
        all_attempts.append(("TCP to ::1", lambda: _connect(inet6, ("::1", bait.tcp6))))
    if bait.address:
        here = (bait.address, bait.tcp_outward)
        all_attempts.append(
            (f"TCP to this machine as {bait.address}", lambda: _connect(inet, here))
        )
    all_attempts += [
        (f"TCP to {bait.outside} port 443", lambda: _connect(inet, (bait.outside, 443))),
        (f"UDP to {bait.outside} port 53 (DNS)", lambda: _datagram((bait.outside, 53), _QUESTION)),
        ("look up example.com", _look_up),
        ("an internet socket inherited from the parent", _inherited),
    ]
    if bait.abstract:
        all_attempts += [
            ("UNIX socket by name", lambda: _connect(socket.AF_UNIX, f"\0{bait.abstract}")),
            ("UNIX socket by path", lambda: _connect(socket.AF_UNIX, bait.stream)),
            ("message to a UNIX socket by path", lambda: _message(bait.datagram)),
        ]
    all_attempts += [
        ("read a file of yours", lambda: _read(bait.secret)),
        ("write a file outside its own folder", lambda: _write(bait.elsewhere)),
    ]
    if os.name == "posix":
        all_attempts += [
            ("read /etc/shadow", lambda: _read("/etc/shadow")),
            ("run /bin/sh", _run_shell),
            ("signal the parent", lambda: _signal(bait.parent)),
        ]
    return all_attempts + (_linux(bait) if sys.platform == "linux" else [])


def _linux(bait: Bait) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("netlink socket", lambda: _open(socket.AF_NETLINK, socket.SOCK_RAW)),
        ("raw socket", lambda: _open(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
        ("packet socket", lambda: _open(socket.AF_PACKET, socket.SOCK_RAW)),
        ("vsock socket", lambda: _open(socket.AF_VSOCK, socket.SOCK_STREAM)),
        ("io_uring", _io_uring),
        ("go back to the parent's network", lambda: _set_namespace(bait.parent)),
        ("make a user namespace", _new_namespace),
        ("the parent's environment", lambda: _read(f"/proc/{bait.parent}/environ")),
        ("the parent's memory", lambda: _read_memory(bait)),
        ("execve", _execve),
    ]


def _open(family: int, kind: int, protocol: int = 0) -> str:
    with socket.socket(family, kind, protocol):
        return "opened"


def _connect(family: int, to: Any) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.settimeout(_WAIT)
        try:
            end.connect(to)
        except ConnectionRefusedError:
            # Over the internet protocols the other side was asked, so the way there is open. A UNIX
            # socket that this namespace does not see is refused in the same words.
            if family in (socket.AF_INET, socket.AF_INET6):
                return "reached, and refused by the other side"
            raise
        return "connected"


def _datagram(to: tuple[str, int], data: bytes) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(data, to)
        return "sent"


def _message(path: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(b"out", path)
        return "sent"


def _look_up() -> str:
    return f"found {socket.getaddrinfo('example.com', 443)[0][4][0]}"


def _inherited() -> str:
    for number in range(3, 256):
        try:
            with socket.socket(fileno=os.dup(number)) as end:
                if end.family in (socket.AF_INET, socket.AF_INET6):
                    return f"descriptor {number}"
        except OSError:
            continue
    raise OSError(errno.EBADF, "none was handed down")


def _read(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        return f"read {len(file.read(4096))} bytes"


def _write(path: str) -> str:
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"out")
    return "written"


def _run_shell() -> str:
    shell = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    status = os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1])
    return f"ran, status {status}"


def _signal(parent: int) -> str:
    os.kill(parent, 0)
    return "could be signalled"


def _io_uring() -> str:
    parameters = (ctypes.c_uint32 * 30)()
    os.close(_call("io_uring_setup", ctypes.c_uint(4), parameters))
    return "set up"


def _set_namespace(parent: int) -> str:
    held = os.open(f"/proc/{parent}/ns/net", os.O_RDONLY)
    try:
        _call("setns", ctypes.c_int(held), ctypes.c_int(0x40000000))
    finally:
        os.close(held)
    return "went back"


def _new_namespace() -> str:
    # Refused to every process that has threads (EINVAL), which a worker has: so that error means
    # that the way there is open.
    try:
        _call("unshare", ctypes.c_int(0x10000000))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return "allowed"


def _read_memory(bait: Bait) -> str:
    into = ctypes.create_string_buffer(bait.size)
    pair = ctypes.c_size_t * 2
    ours, theirs = pair(ctypes.addressof(into), bait.size), pair(bait.memory, bait.size)
    one_vector, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    got = _call(
        "process_vm_readv", ctypes.c_int(bait.parent), ours, one_vector, theirs, one_vector, none
    )
    return f"read {got} bytes"


def _execve() -> str:
    # A bad pointer for the arguments, so that nothing runs where it is allowed.
    try:
        _call("execve", ctypes.c_char_p(b"/bin/sh"), _MISSING_POINTER, _MISSING_POINTER)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
    return "allowed"


def _call(name: str, *arguments: Any) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    number = seccomp.number(name, seccomp.machine()) or 0
    result: int = library.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _error_name(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{error.strerror or error} ({name})" if name else str(error)
