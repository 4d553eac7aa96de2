"""Asking a worker's own HTTP listener: a UNIX socket in its private folder, reached from outside.

A host that is `listens = True` opens `SOCKET` in its private folder while it loads; afterwards it
can accept connections and do nothing else with sockets (seccomp.py). llama.cpp's server tells some
things over HTTP only. The worker is not trusted, and the folder is its own to write in, so:

- the name is opened without following a link, and what was opened is connected to, not the name:
  a worker cannot point the parent at another socket of this machine;
- the process that listens there must be the worker (SO_PEERCRED);
- the reply is read within a size and a time, by the few rules of HTTP that llama.cpp needs.
"""

import asyncio
import os
import socket
import stat
import struct
import sys
from pathlib import Path

from overt.errors import BadRequest, EngineFailed, Unsupported

SOCKET = "engine.sock"
LIMIT = 64 << 20
"""Longest request or reply, in bytes."""
SECONDS = 60.0
"""Longest time one question may take."""
_HEAD = 16 << 10  # bytes of status and headers
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


async def ask(folder: Path, pid: int, path: str, body: bytes, seconds: float = SECONDS) -> bytes:
    """POST `body` (JSON) to `path` of the listener in `folder`; the body of the reply.

    The status is not told: llama.cpp says in the body what went wrong.

    Raises:
        BadRequest: `body` is longer than `LIMIT`.
        Unsupported: this system has no UNIX sockets, or the worker does not listen.
        EngineFailed: what listens there is not the worker `pid`, or did not answer as HTTP does.
    """
    if len(body) > LIMIT:
        raise BadRequest(
            f"the text is {len(body) >> 20} MiB and a worker takes {LIMIT >> 20} MiB", "send less"
        )
    try:
        async with asyncio.timeout(seconds):
            return await _exchange(_connected(folder, pid), path, body)
    except TimeoutError:
        raise EngineFailed(f"the worker did not answer within {seconds:g} s", "try again") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
        raise EngineFailed(f"the worker's listener broke off: {error or 'no reply'}") from None


def _connected(folder: Path, pid: int) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise Unsupported("this system has no UNIX sockets, so the engine cannot be asked that")
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        if sys.platform == "linux":
            _connect_to_file(end, folder)
            credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            listener = _CREDENTIALS.unpack(credentials)[0]
            if listener != pid:
                raise EngineFailed(f"the worker's socket is held by process {listener}, not {pid}")
        else:
            end.connect(str(folder / SOCKET))
    except FileNotFoundError:
        end.close()
        raise Unsupported("this worker does not listen, so it cannot be asked that") from None
    except BaseException:
        end.close()
        raise
    return end


def _connect_to_file(end: socket.socket, folder: Path) -> None:
    """Connect to the very file, by its descriptor: a path may be too long, or lead elsewhere."""
    inside = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        socket_file = os.open(SOCKET, os.O_PATH | os.O_NOFOLLOW, dir_fd=inside)
    finally:
        os.close(inside)
    try:
        if not stat.S_ISSOCK(os.fstat(socket_file).st_mode):
            raise EngineFailed(f"the worker's {SOCKET} is not a socket")
        end.connect(f"/proc/self/fd/{socket_file}")
    finally:
        os.close(socket_file)


async def _exchange(end: socket.socket, path: str, body: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=_HEAD)
    try:
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode("ascii")
            + body
        )
        await writer.drain()
        length = _length(await reader.readuntil(b"\r\n\r\n"))
        return await reader.readexactly(length)
    finally:
        writer.transport.abort()


def _length(head: bytes) -> int:
    """How long the body is that follows `head`.

    Raises:
        ValueError: not a head of HTTP/1.1 that states it once, in digits, within `LIMIT`.
    """
    status, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if not status.startswith("HTTP/1.1 "):
        raise ValueError("the reply is not HTTP/1.1")
    fields = [line.partition(":") for line in lines]
    stated = [value.strip() for name, _, value in fields if name.lower() == "content-length"]
    digits = stated[0] if len(stated) == 1 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 12) or int(digits) > LIMIT:
        raise ValueError(f"the reply does not state a length within {LIMIT >> 20} MiB")
    return int(digits)
