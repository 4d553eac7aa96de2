"""The owner's own check: a program that reads an answer and says whether it is good.

The answer is on its stdin; ``OVERT_PROMPT`` is the last thing the person said (at most 64 KiB) and
``OVERT_MODEL`` the ref that answered. Exit status 0 is good, any other is not, and the first line
it prints is the reason. It runs without a shell, in a process group of its own that is killed when
its time is up, and with none of the environment's keys. It runs only where nobody but its owner or
root could have written it.
"""

import asyncio
import os
import signal
import stat
from contextlib import suppress
from pathlib import Path

from overt.chat import Request
from overt.errors import Refused
from overt.gateway.routing.route import CheckCommand

__all__ = ["check_owner", "judge", "last_user_message"]

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "SYSTEMROOT")
_MAX_PROMPT = 64 << 10  # bytes; Linux takes 128 KiB in one variable
_MAX_BYTES_READ = 64 << 10  # bytes of what it prints


async def judge(check: CheckCommand, request: Request, model: str, text: str) -> str | None:
    """Why the owner's command finds `text` not good; None where it does find it good.

    Never raises for what the command does: one that cannot run judges nothing to be good.
    """
    try:
        check_owner(Path(check.command[0]))
        process = await asyncio.create_subprocess_exec(
            *check.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(request, model),
            start_new_session=True,
        )
    except Refused as error:
        return error.message
    except (OSError, ValueError) as error:
        return f"the check could not run: {getattr(error, 'strerror', None) or error}"
    try:
        async with asyncio.timeout(check.timeout):
            output = await _talk(process, text.encode("utf-8", "replace"))
            status = await process.wait()
    except TimeoutError:
        return f"the check took longer than {check.timeout:g} s"
    finally:
        await _end(process)
    if status == 0:
        return None
    line = " ".join(output.decode("utf-8", "replace").strip().partition("\n")[0].split())
    return f"the check says: {line[:120]}" if line else f"the check ended with status {status}"


def check_owner(path: Path) -> None:
    """See that others cannot have written a program or file.

    Raises:
        Refused: it belongs to somebody else, or others may write to it.
        OSError: it is not there.
    """
    about = path.stat()
    if os.name != "posix":
        return
    if about.st_uid not in (0, os.getuid()):
        raise Refused(f"{path} belongs to another user", "use a file of your own")
    if stat.S_IMODE(about.st_mode) & 0o022:
        raise Refused(f"others may write to {path}", f"chmod go-w {path}")


async def _talk(process: asyncio.subprocess.Process, stdin: bytes) -> bytes:
    """Give it the answer and take the beginning of what it prints; the rest is read and dropped."""

    async def write() -> None:
        assert process.stdin is not None
        with suppress(ConnectionError, BrokenPipeError):  # it need not read all, or any
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()

    async def read() -> bytes:
        assert process.stdout is not None
        collected = b""
        while piece := await process.stdout.read(1 << 16):
            collected = (collected + piece)[:_MAX_BYTES_READ]
        return collected

    _, output = await asyncio.gather(write(), read())
    return output


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing of the check is left, also where it started others, or was cancelled."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode is None:
            process.kill()
    if process.stdin is not None and process.stdin.transport.get_write_buffer_size():
        process.stdin.transport.abort()  # what it never read is not waited for
    transport = getattr(process, "_transport", None)
    if transport is not None:
        # Its pipes as well: one that is full and read by nobody would be waited for below.
        transport.close()
    waiting = asyncio.ensure_future(process.wait())
    while not waiting.done():
        # Cancelled or not: a process that was killed is waited for, or it would stay as a zombie.
        with suppress(asyncio.CancelledError):
            await asyncio.shield(waiting)
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # the pipes close in the next round of the loop


def last_user_message(request: Request) -> str:
    """The last thing the person said, or the prompt; "" for token ids."""
    user_texts = [message.text for message in request.messages if message.role == "user"]
    if user_texts:
        return user_texts[-1]
    return request.prompt if isinstance(request.prompt, str) else ""


def _environment(request: Request, model: str) -> dict[str, str]:
    prompt = last_user_message(request).replace("\0", "\ufffd")
    clipped = prompt.encode("utf-8", "replace")[:_MAX_PROMPT].decode("utf-8", "ignore")
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed, "OVERT_PROMPT": clipped, "OVERT_MODEL": model}
